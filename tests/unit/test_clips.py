import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import make_machine, write_wav
from unlabeledasd.audio.clip_names import Clip, name_notes, parse_clip
from unlabeledasd.clips import index_clips, summary
from unlabeledasd.errors import InputError

COLUMNS = ["path", "machine", "split", "section", "domain", "condition", "attribute"]


@pytest.mark.parametrize(
    ("path", "clip"),
    [
        (
            "fan/train/section_00_source_train_normal_0025_m-n_W.wav",
            Clip("fan", "00", "source", "train", "normal", "m-n_W", "0025"),
        ),
        (
            "/data/ToyCar/test/section_02_target_test_anomaly_0000_car_A1_spd_28V_mic_1.wav",
            Clip("ToyCar", "02", "target", "test", "anomaly", "car_A1_spd_28V_mic_1", "0000"),
        ),
        (
            "slider/train/section_00_target_train_normal_0009_noAttribute.wav",
            Clip("slider", "00", "target", "train", "normal", "noAttribute", "0009"),
        ),
        (
            "fan/test/section_00_source_test_normal_0001.wav",
            Clip("fan", "00", "source", "test", "normal", "noAttribute", "0001"),
        ),
        (
            "Vacuum/test/section_00_0199.wav",
            Clip("Vacuum", "00", "unknown", "test", "unknown", "unknown", "0199"),
        ),
    ],
)
def test_official_names(path, clip):
    assert parse_clip(path) == clip


words = st.text("abcXYZ019_-. ", min_size=1).filter(lambda s: s == s.strip())


@given(
    st.integers(0, 99),
    st.sampled_from(["source", "target"]),
    st.sampled_from(["train", "test"]),
    st.sampled_from(["normal", "anomaly"]),
    st.integers(0, 99999),
    words,
)
def test_name_round_trip(section, domain, split, condition, index, attribute):
    clip = Clip("fan", f"{section:02d}", domain, split, condition, attribute, f"{index:04d}")
    assert parse_clip(f"fan/{split}/{clip.name}.wav") == clip


@pytest.mark.parametrize("grammar", ["dcase", "free"])
@pytest.mark.parametrize(
    "path",
    [
        "section_00_source_train_normal_0000_a.wav",
        "fan/section_00_source_train_normal_0000_a.wav",
        "fan/test/section_00_source_train_normal_0000_a.wav",
    ],
)
def test_clip_in_the_wrong_place(path, grammar):
    with pytest.raises(InputError, match=re.escape(path)):
        parse_clip(path, grammar)


@pytest.mark.parametrize(
    "name",
    [
        "recording1",
        "section_0_source_train_normal_0000_a",
        "section_00_Source_train_normal_0000_a",
        "section_00_source_train_broken_0000_a",
        "section_00_source_train_normal_x_a",
        "section_00_0001",
    ],
)
def test_names_that_break_the_grammar(name):
    with pytest.raises(InputError, match=name):
        parse_clip(f"fan/train/{name}.wav")


@pytest.mark.parametrize(
    ("path", "condition"),
    [
        ("fan/train/anything at all.wav", "normal"),
        ("fan/test/normal/001.wav", "normal"),
        ("fan/test/anomaly/001.wav", "anomaly"),
        ("fan/test/anomaly/was_normal.wav", "anomaly"),
        ("fan/test/2024-05-01_abnormal_3.wav", "anomaly"),
        ("fan/test/Anomalous/1.wav", "anomaly"),
        ("fan/test/pump_2 normal.wav", "unknown"),
        ("pump 2/test/pump_2 normal.wav", "normal"),
        ("fan/test/fan-anomaly-3.wav", "anomaly"),
        ("fan/test/normal_id_02_00000017.wav", "normal"),
        ("fan/test/anomaly_3 (1).wav", "anomaly"),
        ("fan/test/paranormal.wav", "unknown"),
        ("fan/test/1.wav", "unknown"),
        ("fan/test/non-normal/1.wav", "unknown"),
        ("fan/test/normal_speed/x_anomaly_2.wav", "anomaly"),
        ("fan/test/normal_or_anomaly.wav", "unknown"),
        ("fan/test/train/anomaly_1.wav", "anomaly"),
        ("fan/train/before_anomaly_1.wav", "normal"),
        ("fan/train/abnormal/1.wav", "anomaly"),
        ("fan/train/anomaly_7.wav", "anomaly"),
    ],
)
def test_free_names(path, condition):
    clip = parse_clip(path, "free")
    assert clip.machine == path.split("/")[0]
    assert (clip.split, clip.condition, clip.domain) == (path.split("/")[1], condition, "source")
    assert clip.attribute == "noAttribute"


AMBIGUOUS = """without_{} no_{} not_{} non-{} un-{} ab-{} a-{} {}_free {}-free {}_removed
    {}_repaired before_{} after_{} pre_{} post-{} near_{} almost_{} {}_no {}=0 {}? ohne_{} sin_{}
    is_{}_false {}_or_not was_{} {}ish_{}"""


@pytest.mark.parametrize("form", AMBIGUOUS.split())
@pytest.mark.parametrize("word", ["anomaly", "normal", "Abnormal", "ANOMALOUS"])
def test_a_condition_is_not_guessed(form, word):
    for name in (form.replace("{}", word), form.replace("{}", word) + "_3"):
        assert parse_clip(f"fan/test/{name}.wav", "free").condition == "unknown"
        assert parse_clip(f"fan/test/{name}/1.wav", "free").condition == "unknown"
        assert parse_clip(f"fan/test/normal/{name}.wav", "free").condition == "normal"


@pytest.mark.parametrize("grammar", ["dcase", "free"])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("test/anomaly/section_00_source_test_normal_0002.wav", "the folder anomaly says anomaly"),
        ("test/normal/section_00_target_test_anomaly_0002_a.wav", "the name says anomaly"),
        ("train/abnormal/section_00_source_train_normal_0002.wav", "folder abnormal says anomaly"),
    ],
)
def test_a_folder_against_a_name(path, message, grammar):
    with pytest.raises(InputError, match=f"fan/{path}: .*{message}"):
        parse_clip(f"fan/{path}", grammar)


@pytest.mark.parametrize("path", ["test/anomaly/normal_3.wav", "test/normal/day 2/anomaly/1.wav"])
def test_free_folders_and_names_against_each_other(path):
    with pytest.raises(InputError, match=f"fan/{path}: .*; a clip has one condition"):
        parse_clip(f"fan/{path}", "free")


def test_which_folder_is_the_split():
    def place(path):
        clip = parse_clip(path, "free")
        return clip.machine, clip.split

    assert place("fan/test/train/1.wav") == ("fan", "test")
    assert place("fan/test/old/train/1.wav") == ("fan", "test")
    assert place("train/train/test/1.wav") == ("train", "train")
    assert place("/train/data/fan/test/1.wav") == ("fan", "test")
    assert place("/data/fan/test/train/1.wav") == ("fan", "test")


COPIES = [
    " (1)",
    " (12)",
    "(1)",
    " - Copy",
    " - Copy (2)",
    "_copy",
    " copy 3",
    " - Kopie",
    " (copy)",
]


@pytest.mark.parametrize("suffix", [*COPIES, " (another copy)", " (1) (1)", " Copy copy"])
def test_a_suffix_of_a_copy_is_no_attribute(suffix):
    for name in ("target_train_normal_0003_speed_2", "target_train_normal_0003"):
        path = f"fan/train/section_00_{name}"
        for grammar in ("dcase", "free"):
            assert parse_clip(f"{path}{suffix}.wav", grammar) == parse_clip(f"{path}.wav", grammar)
    bare = parse_clip(f"fan/test/section_00_0003{suffix}.wav")
    assert bare == parse_clip("fan/test/section_00_0003.wav")


@pytest.mark.parametrize("attribute", ["speed_2", "load 2", "(b)", "copy_b", "hardcopy", "a-1"])
def test_what_is_no_suffix_of_a_copy(attribute):
    path = f"fan/train/section_00_source_train_normal_0000_{attribute}.wav"
    assert parse_clip(path).attribute == attribute


def test_notes_on_names(tmp_path):
    make_machine(tmp_path / "fan", 100)
    assert name_notes(index_clips(tmp_path, ["fan"], "free")) == []
    for name in (
        "test/1.wav",
        "test/no_anomaly.wav",
        "train/ab-normal.wav",
        "train/section_0_target_train_normal_1.wav",
        "train/section_00_source_train_normal_0000_speed_1 (1).wav",
    ):
        write_wav(tmp_path / "fan" / name)
    notes = name_notes(index_clips(tmp_path, ["fan"], "free"))
    assert len(notes) == 4
    by_clip = {note.split(": ")[1]: note for note in notes}
    assert "states normal or anomaly clearly" in by_clip["fan/test/1.wav"]
    assert by_clip["fan/test/1.wav"].endswith("(2 such clips)")
    assert "used as a normal training clip" in by_clip["fan/train/ab-normal.wav"]
    assert "like a DCASE name" in by_clip["fan/train/section_0_target_train_normal_1.wav"]
    assert any("named like a copy" in note for note in notes)


def test_table(tmp_path):
    for machine, hz in (("valve", 100), ("fan", 200)):
        make_machine(tmp_path / machine, hz)
    (tmp_path / "fan/train/notes.txt").write_text("not a clip")
    table = index_clips(tmp_path, ["valve", "fan"])
    assert list(table) == COLUMNS
    assert table.machine.unique().tolist() == ["valve", "fan"]  # as asked for
    for _, machine in table.groupby("machine"):
        assert (
            machine.groupby("split").path.apply(lambda paths: paths.is_monotonic_increasing).all()
        )
        assert (machine.split == "train").sum() == 7
        assert (machine.split == "test").sum() == 8
    assert index_clips(tmp_path).machine.unique().tolist() == ["fan", "valve"]  # found, sorted
    assert "valve" in summary(table)


def test_several_sections(tmp_path):
    for section in ("00", "03"):
        write_wav(tmp_path / f"fan/train/section_{section}_source_train_normal_0000_a.wav")
        write_wav(tmp_path / f"fan/test/section_{section}_source_test_normal_0000_a.wav")
    table = index_clips(tmp_path, ["fan"])
    assert set(table.machine) == {"fan_section_00", "fan_section_03"}
    assert set(table.path.str.split("/").str[0]) == {"fan"}  # where the files lie


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_section_in_one_split_alone(tmp_path, split):
    make_machine(tmp_path / "fan", 100)
    write_wav(tmp_path / f"fan/{split}/section_01_source_{split}_normal_0000_a.wav")
    with pytest.raises(InputError, match="fan_section_01 has no clip in"):
        index_clips(tmp_path, ["fan"])


def test_linked_folders_are_followed(tmp_path):
    make_machine(tmp_path / "elsewhere/fan", 100)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/fan").symlink_to(tmp_path / "elsewhere/fan")
    write_wav(tmp_path / "elsewhere/odd/x.wav")
    (tmp_path / "raw/fan/test/normal").symlink_to(tmp_path / "elsewhere/odd")
    assert len(index_clips(tmp_path / "raw", ["fan"])) == 15
    assert len(index_clips(tmp_path / "raw", None, "free")) == 16


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda raw: (raw / "fan/test").rename(raw / "fan/other"), ["fan/test", "no such folder"]),
        (lambda raw: [p.unlink() for p in (raw / "fan/train").iterdir()], ["fan/train", "no .wav"]),
        (lambda raw: write_wav(raw / "fan/train/x.wav"), ["fan/train/x.wav", "dataset=folder"]),
        (
            lambda raw: write_wav(raw / "fan/train/section_00_source_train_anomaly_0000_a.wav"),
            ["anomalous clip"],
        ),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, spoil, words):
    make_machine(tmp_path / "fan", 100)
    spoil(tmp_path)
    with pytest.raises(InputError) as error:
        index_clips(tmp_path, ["fan"])
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["abnormal/x.wav", "anomaly_7.wav", "Anomalies/1.wav"])
def test_anomalies_in_train(tmp_path, name):
    make_machine(tmp_path / "fan", 100)
    write_wav(tmp_path / "fan/train" / name)
    with pytest.raises(InputError, match=f"fan/train/{name}: an anomalous clip in train/"):
        index_clips(tmp_path, ["fan"], "free")


def test_missing_root(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        index_clips(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no machine folder"):
        index_clips(tmp_path)
    with pytest.raises(InputError, match="grammar='any'"):
        index_clips(tmp_path, grammar="any")
