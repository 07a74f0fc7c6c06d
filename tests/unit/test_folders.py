"""The walk over a folder of recordings: what it finds, what it leaves out, where it ends."""

import os
import re
import socket
import unicodedata
from pathlib import Path

import pytest

from conftest import ROOT, make_machine, write_wav
from unlabeledasd.audio.folders import PARTIAL_SUFFIXES, SYSTEM_FOLDERS, walk
from unlabeledasd.clips import AUDIO_SUFFIXES, index_clips
from unlabeledasd.detection import inbox
from unlabeledasd.errors import InputError, printable

SUFFIXES = (".wav", ".flac")


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def test_what_is_found_and_what_is_left_out(tmp_path):
    kinds = {
        "hidden": [".x.wav", "._a.wav", ".Trash-1000/files/x.wav", ".rsync-partial/x.wav"],
        "of the system": ["@eaDir/x.wav", "__MACOSX/a/x.wav", "$RECYCLE.BIN/x.wav"],
        "partial": ["x.wav.part", "y.WAV.crdownload", "b/z.wav~", "z.tmp", "s.download/x.wav"],
        ".mp3": ["a.mp3", "b/B.MP3"],
        ".txt": ["notes.txt"],
        "without a suffix": ["README"],
    }
    recordings = ["a.wav", "b/c.FLAC", "b/d/e.wav", "part.wav", "tmp/f.wav"]
    touch(tmp_path, *recordings, *(path for paths in kinds.values() for path in paths))
    found = walk(tmp_path, SUFFIXES)
    assert found.files == sorted(recordings)
    assert found.unreadable == []
    counts = {**dict.fromkeys(kinds, 0), **found.left_out.counts}
    assert counts == {kind: len(paths) for kind, paths in kinds.items()}
    assert "2 .mp3 (a.mp3)" in str(found.left_out)
    flat = walk(tmp_path, SUFFIXES, deep=False)
    assert flat.files == ["a.wav", "part.wav"]
    assert flat.left_out.counts["folder"] == 2


@pytest.mark.parametrize("link", ["again", "b/again", "b/c/up"])
@pytest.mark.parametrize("target", [".", "..", "../..", "../../..", "b", "b/c"])
def test_circles_of_links_end(tmp_path, link, target):
    root = tmp_path / "data/fan"
    touch(root, "x.wav", "b/y.wav", "b/c/z.wav")
    (root / link).symlink_to(os.path.normpath(root / target))
    (root / "more").symlink_to(root)
    found = walk(root, SUFFIXES)
    assert found.files == ["b/c/z.wav", "b/y.wav", "x.wav"]
    assert found.left_out.counts == {"linked again": 2}


def test_links_are_followed_once(tmp_path):
    touch(tmp_path / "archive", "day/x.wav", "day/deeper/y.wav")
    root = tmp_path / "new"
    touch(root, "here.wav")
    for name in ("a", "b"):
        (root / name).symlink_to(tmp_path / "archive/day")
    (root / "there.wav").symlink_to(tmp_path / "archive/day/x.wav")
    found = walk(root, SUFFIXES)
    assert found.files == ["a/deeper/y.wav", "a/x.wav", "here.wav", "there.wav"]
    assert found.left_out.counts == {"linked again": 1}


def test_a_link_does_not_take_the_place_of_a_folder(tmp_path):
    touch(tmp_path, "z/x.wav")
    (tmp_path / "a").symlink_to(tmp_path / "z")
    assert walk(tmp_path, SUFFIXES).files == ["z/x.wav"]


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "zero.wav").symlink_to("/dev/zero")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    with socket.socket(socket.AF_UNIX) as end:
        here = Path.cwd()
        os.chdir(tmp_path)  # names of sockets are short
        end.bind("socket.wav")
        os.chdir(here)
        found = walk(tmp_path, SUFFIXES)
    assert found.files == []
    assert found.left_out.counts == {"no regular file": 3, "broken link": 2}


def test_whoever_reads_them_reports_broken_recordings(tmp_path):
    (tmp_path / "x.wav").symlink_to("nowhere")
    (tmp_path / "y.wav").mkdir()
    assert walk(tmp_path, SUFFIXES).files == ["x.wav", "y.wav"]


@pytest.fixture
def nobody():
    """Without the rights of root, which reads everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_closed_folder_is_an_error(tmp_path, request):
    for place in (tmp_path, *list(tmp_path.parents)[:-2]):
        place.chmod(0o755)
    touch(tmp_path, "a.wav", "closed/b.wav")
    (tmp_path / "closed").chmod(0)
    request.getfixturevalue("nobody")
    found = walk(tmp_path, SUFFIXES)
    assert found.files == ["a.wav"]
    assert [str(error) for error in found.unreadable] == [f"{tmp_path}/closed: Permission denied"]


def test_a_folder_that_disappears(tmp_path):
    assert str(walk(tmp_path / "gone", SUFFIXES).unreadable[0]).endswith(
        "No such file or directory"
    )


# --- the table of clips ----------------------------------------------------------------------


def test_the_table_says_what_is_left_out(tmp_path):
    make_machine(tmp_path / "fan", 100)
    touch(
        tmp_path,
        "fan/train/a.mp3",
        "fan/train/b.MP3",
        "fan/test/.x.wav",
        "loose.wav",
        "lost+found/a.wav",
        "@eaDir/b.wav",
    )
    notes: list[str] = []
    table = index_clips(tmp_path, notes=notes)
    assert len(table) == 15
    assert notes == [
        f"note: {tmp_path}: left out: 2 .mp3 (fan/train/a.mp3), 2 of the system (@eaDir), "
        "1 hidden (fan/test/.x.wav), 1 in no machine's folder (loose.wav)"
    ]
    notes.clear()
    index_clips(tmp_path, ["fan"], notes=notes)
    assert "loose" not in notes[0]


def test_a_folder_of_other_formats(tmp_path):
    touch(tmp_path, "fan/train/a.mp3", "fan/train/b.ogg")
    with pytest.raises(
        InputError, match=r"no \.wav or \.flac file in it; left out: 1 \.mp3 \(.+\), 1 \.ogg"
    ):
        index_clips(tmp_path)


def test_a_circle_in_a_split(tmp_path):
    make_machine(tmp_path / "fan", 100)
    for name, target in [("again", "."), ("more", "."), ("up", "..")]:
        (tmp_path / "fan/train" / name).symlink_to(target)
    assert len(index_clips(tmp_path, None, "free")) == 15


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("given", ["NFC", "NFD", None])
def test_both_unicode_forms_of_a_name_are_one_name(tmp_path, on_disk, given):
    """macOS writes u and two dots where others write one letter."""
    name = "Lüfter"
    make_machine(tmp_path / unicodedata.normalize(on_disk, name), 100)
    machines = [unicodedata.normalize(given, name)] if given else None
    table = index_clips(tmp_path, machines)
    assert table.machine.unique().tolist() == [unicodedata.normalize("NFC", name)]
    assert all((tmp_path / path).is_file() for path in table.path)


def test_attributes_of_both_unicode_forms_are_one(tmp_path):
    for i, form in enumerate(("NFC", "NFD")):
        name = f"section_00_source_train_normal_000{i}_öl.wav"
        write_wav(tmp_path / "fan/train" / unicodedata.normalize(form, name))
    table = index_clips(tmp_path, required=("train",))
    assert table.attribute.nunique() == 1


def test_two_folders_that_look_alike(tmp_path):
    for form in ("NFC", "NFD"):
        make_machine(tmp_path / unicodedata.normalize(form, "Lüfter"), 100)
    with pytest.raises(InputError, match=r"two folders Lu?.+ Unicode form alone"):
        index_clips(tmp_path)


def test_names_that_are_no_utf8(tmp_path):
    """In a table they would break CSV and JSON files; the message itself can be printed."""
    make_machine(tmp_path / "fan", 100)
    name = os.fsdecode(b"L\xfcfter.wav")
    write_wav(tmp_path / "fan/train/x.wav").rename(tmp_path / "fan/train" / name)
    with pytest.raises(InputError) as error:
        index_clips(tmp_path, None, "free")
    assert r"L\xfcfter.wav: its name is no UTF-8; rename it" in str(error.value)
    assert str(error.value).encode()
    assert printable(name) == r"L\xfcfter.wav"
    assert printable("Lüfter 😀") == "Lüfter 😀"


def test_the_page_lists_what_is_left_out():
    page = (ROOT / "docs/recordings.md").read_text()
    rows = dict(re.findall(r"^\| `([^|]+)` \| (.+) \|$", page, re.MULTILINE))
    assert set(re.findall(r"`([^`]+)`", rows["of the system"].lower())) == SYSTEM_FOLDERS
    suffixes = re.findall(r"\.[\w!]+", rows["partial"])
    assert {*suffixes, "~"} == set(PARTIAL_SUFFIXES)


def test_the_page_lists_the_formats():
    page = (ROOT / "docs/recordings.md").read_text()
    (trained,) = re.findall(r"^\| training.+ \| (.+) \|$", page, re.MULTILINE)
    (scored,) = re.findall(r"^\| `src/score.py` \| (.+) \|$", page, re.MULTILINE)
    assert tuple(trained.split()) == AUDIO_SUFFIXES
    assert tuple(scored.split()) == inbox.SUFFIXES
