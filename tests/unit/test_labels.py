import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlabeledasd.audio.clip_names import parse_clip
from unlabeledasd.errors import InputError
from unlabeledasd.labels import Labels, class_names, labels_from_fields

PATHS = [
    "fan/train/section_00_source_train_normal_0000_speed_1.wav",
    "fan/train/section_00_source_train_normal_0001_speed_2.wav",
    "fan/train/section_00_target_train_normal_0002_speed_1.wav",
    "pump/train/section_00_source_train_normal_0000_noAttribute.wav",
    "pump/train/section_00_source_train_normal_0001_noAttribute.wav",
    "fan/test/section_00_source_test_anomaly_0000_speed_9.wav",
]


@pytest.fixture
def table():
    return pd.DataFrame([{"path": path, **vars(parse_clip(path))} for path in PATHS])


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        (
            ["machine", "attribute", "domain"],
            [
                "fan-speed_1-source",
                "fan-speed_2-source",
                "fan-speed_1-target",
                *["pump-noAttribute-source"] * 2,
            ],
        ),
        (["machine", "domain"], ["fan-source"] * 2 + ["fan-target"] + ["pump-source"] * 2),
        (["machine"], ["fan"] * 3 + ["pump"] * 2),
    ],
)
def test_classes(table, fields, names):
    labels = labels_from_fields(table, fields)
    assert labels.classes == sorted(set(names))
    assert [labels.classes[i] for i in labels.of(PATHS[:5])] == names
    assert set(labels.clips) == set(PATHS[:5])  # training clips only
    shuffled = labels_from_fields(table.sample(frac=1, random_state=0), fields)
    assert shuffled.classes == labels.classes
    assert shuffled.clips == labels.clips


words = st.text("abX0_ é-%2D", min_size=1, max_size=4)
kinds = st.tuples(words, words, st.sampled_from(["source", "target"]))


@given(st.lists(kinds, min_size=1, max_size=20), st.randoms())
def test_clips_share_a_class_if_and_only_if_their_fields_are_equal(clips, random):
    rows = [(f"{i}.wav", "train", *kind) for i, kind in enumerate(clips)]
    random.shuffle(rows)
    table = pd.DataFrame(rows, columns=["path", "split", "machine", "attribute", "domain"])
    labels = labels_from_fields(table, ["machine", "attribute", "domain"])
    index = labels.of([f"{i}.wav" for i in range(len(clips))])
    assert all(
        (index[i] == index[j]) == (clips[i] == clips[j])
        for i in range(len(clips))
        for j in range(i)
    )
    assert set(index) == set(range(len(set(clips)))) == set(range(len(labels.classes)))
    assert labels.classes == sorted(labels.classes)


def test_names_of_classes_that_would_read_alike():
    official = [("fan", "m-n_W", "source"), ("fan", "noAttribute", "source")]
    assert class_names(official) == ["fan-m-n_W-source", "fan-noAttribute-source"]
    alike = [("pump", "A-1"), ("pump-A", "1"), ("pump", "A-1"), ("50%", "b")]
    assert class_names(alike) == ["pump-A%2D1", "pump%2DA-1", "pump-A%2D1", "50%25-b"]
    assert class_names([("a", "b"), ("a-b",)]) == ["a-b", "a%2Db"]


def test_round_trip(table, tmp_path):
    labels = labels_from_fields(table, ["machine", "attribute"])
    labels.save(tmp_path / "labels.json")
    assert Labels.load(tmp_path / "labels.json") == labels


def test_errors(table):
    with pytest.raises(InputError, match="section_00_source_test_anomaly_0000"):
        labels_from_fields(table, ["machine"]).of(PATHS)
    for fields in ([], ["colour"], ["machine", "path"]):
        with pytest.raises(InputError, match=r"^fields="):
            labels_from_fields(table, fields)
