"""Recordings in folders: of which machine they are, when they are whole, which came before."""

import os
import shutil
import time
import unicodedata
from itertools import islice
from pathlib import Path

import pytest

from unlabeledasd.detection import inbox
from unlabeledasd.detection.inbox import Copies, Recording, look, machine_of, settled


@pytest.mark.parametrize(
    ("argument", "path", "machine"),
    [
        ("new", "new/fan/x.wav", "fan"),
        ("new", "new/fan/2024/05/x.wav", "fan"),
        ("new", "new/pump/fan/x.wav", "fan"),  # the nearest
        ("new", "new/fan/pump_house/x.wav", "fan"),
        ("fan", "fan/x.wav", "fan"),
        ("fan/test", "fan/test/x.wav", "fan"),  # the layout of a dataset
        ("fan/test/normal", "fan/test/normal/x.wav", "fan"),
        ("raw/fan/train/x.wav", "raw/fan/train/x.wav", "fan"),
        ("fan/x.wav", "fan/x.wav", "fan"),
        ("fan/inbox", "fan/inbox/x.wav", None),  # above the argument
        ("fan/inbox", "fan/inbox/pump/x.wav", "pump"),
        ("fan/inbox/x.wav", "fan/inbox/x.wav", None),
        ("fan/inbox", "fan/inbox/fans/x.wav", None),
    ],
)
@pytest.mark.parametrize("is_absolute", [False, True])
def test_the_nearest_folder_from_the_argument_downwards(
    tmp_path, monkeypatch, argument, path, machine, is_absolute
):
    home = tmp_path / "home/pump"  # as where the user pump works
    (home / path).parent.mkdir(parents=True)
    (home / path).touch()
    monkeypatch.chdir(home)
    place = home if is_absolute else Path()
    (recording,) = look([place / argument]).recordings
    assert recording == Recording(place / path, place / argument)
    assert machine_of(recording, ["fan", "pump"]) == machine
    assert machine_of(recording, ["fan"]) == "fan"  # the only one
    assert machine_of(recording, ["valve"]) == "valve"


def test_the_folder_we_are_in(tmp_path, monkeypatch):
    (tmp_path / "fan").mkdir()
    (tmp_path / "fan/x.wav").touch()
    monkeypatch.chdir(tmp_path / "fan")
    for argument, machine in ((Path(), "fan"), (Path("x.wav"), None)):
        (recording,) = look([argument]).recordings
        assert machine_of(recording, ["fan", "pump"]) == machine


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("of_run", ["NFC", "NFD"])
def test_both_unicode_forms_of_a_machine(on_disk, of_run):
    folder, name = (unicodedata.normalize(form, "Lüfter") for form in (on_disk, of_run))
    recording = Recording(Path(f"new/{folder}/x.wav"), Path("new"))
    assert machine_of(recording, [name, "pump"]) == name


def test_each_recording_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new/fan").mkdir(parents=True)
    (tmp_path / "new/fan/x.wav").touch()
    (tmp_path / "new/fan/y.wav").symlink_to("x.wav")
    arguments = ["new/fan/x.wav", "new", "new/fan", "new/../new/fan/x.wav"]
    found = look(map(Path, arguments)).recordings
    assert [str(recording.path) for recording in found] == ["new/fan/x.wav", "new/fan/y.wav"]


def test_copies(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"12345")
    (tmp_path / "b.wav").write_bytes(b"54321")
    shutil.copy(tmp_path / "a.wav", tmp_path / "a (1).wav")
    os.link(tmp_path / "b.wav", tmp_path / "c.wav")
    (tmp_path / "d.wav").symlink_to("a.wav")
    (tmp_path / "e.wav").write_bytes(b"1234")
    copies = Copies()
    names = ["a.wav", "b.wav", "a (1).wav", "c.wav", "d.wav", "e.wav", "a.wav"]
    found = [copies.earlier(tmp_path / name) for name in names]
    assert [path and path.name for path in found] == [
        *(None, None, "a.wav", "b.wav", "a.wav", None, None)
    ]


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self, monkeypatch):
        self.now, self.naps, self.at_nap = 0.0, [], {}
        monkeypatch.setattr(inbox.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(inbox.time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds
        self.at_nap.pop(len(self.naps), lambda: None)()


def test_a_recording_is_given_when_it_is_whole(tmp_path, monkeypatch):
    clock, folder = Clock(monkeypatch), tmp_path / "fan"
    folder.mkdir()
    (folder / "first.wav").write_bytes(b"whole")

    def grow():
        with (folder / "second.wav").open("ab") as file:
            file.write(b"more")

    for nap in (3, 6, 9, 12):  # every 1.5 s
        clock.at_nap[nap] = grow
    reports = []
    found = settled(tmp_path, 2, reports.append)
    assert next(found) == Recording(folder / "first.wav", tmp_path)
    assert 2 <= clock.now <= 2.5
    assert next(found).path.name == "second.wav"
    assert (folder / "second.wav").read_bytes() == b"more" * 4
    assert 12 * 0.5 + 2 <= clock.now <= 12 * 0.5 + 3
    clock.at_nap[len(clock.naps) + 3] = grow  # it is given again
    assert next(found).path.name == "second.wav"
    assert len(reports) == 1


def test_an_empty_file_and_one_that_is_taken_away(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    for name in ("empty.wav", "gone.wav", "stays.wav"):
        (tmp_path / name).write_bytes(b"" if name == "empty.wav" else b"x")
    clock.at_nap[2] = (tmp_path / "gone.wav").unlink
    found = settled(tmp_path, 2, lambda _: None)
    assert next(found).path.name == "stays.wav"
    clock.at_nap[len(clock.naps) + 2] = lambda: (tmp_path / "empty.wav").write_bytes(b"x")
    assert next(found).path.name == "empty.wav"


def test_a_folder_that_is_away_for_a_while(tmp_path, monkeypatch):
    """As a share of a file server: it is reported, and nothing is given twice."""
    clock, folder = Clock(monkeypatch), tmp_path / "share/new"
    folder.mkdir(parents=True)
    (folder / "first.wav").write_bytes(b"x")
    away = tmp_path / "away"
    reports = []
    found = settled(folder, 1, lambda found: reports.append([str(e) for e in found.unreadable]))
    assert next(found).path.name == "first.wav"
    nap = len(clock.naps)
    clock.at_nap[nap + 2] = lambda: folder.parent.rename(away)
    clock.at_nap[nap + 5] = lambda: away.rename(folder.parent)
    clock.at_nap[nap + 6] = lambda: (folder / "second.wav").write_bytes(b"y")
    assert next(found).path.name == "second.wav"
    assert reports == [[], [f"{folder}: No such file or directory"], []]


def test_a_folder_in_which_nothing_happens_takes_one_percent_of_a_core(tmp_path, monkeypatch):
    (tmp_path / "0.wav").write_bytes(b"x")
    for i in range(1, 4000):
        os.link(tmp_path / "0.wav", tmp_path / f"{i}.wav")
    clock = Clock(monkeypatch)
    found = settled(tmp_path, 1, lambda _: None)
    assert len(list(islice(found, 4000))) == 4000
    clock.naps.clear()
    begin = time.process_time()

    def stop():
        raise StopAsyncIteration

    clock.at_nap[50] = stop
    with pytest.raises(StopAsyncIteration):
        next(found)
    share = (time.process_time() - begin) / sum(clock.naps)
    assert share < 0.02, share
