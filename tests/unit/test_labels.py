import hashlib
import json

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import SHARED
from unlabeledasd.clip_names import NO_ATTRIBUTE, parse_clip
from unlabeledasd.errors import InputError
from unlabeledasd.labels import Labels, class_names, labels_from_fields
from unlabeledasd.pseudo.label_file import (
    PseudoLabels,
    fingerprint,
    labels_from_file,
    true_attributes,
    unlabeled_machines,
)

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


# --- pseudo-labels: pump is the unlabeled machine -------------------------------------------------------------------

PUMP = PATHS[3:5]


@pytest.fixture
def root(tmp_path):
    for i, path in enumerate(PATHS):
        file = tmp_path / "raw" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes([i]) * 10000)
    return tmp_path / "raw"


@pytest.fixture
def pseudo(root, tmp_path):
    """Writes tmp_path/label/class_1/labels.json, with changes."""

    def write(clips=None, **changes):
        clips = (
            {path: f"pump-source-{i}" for i, path in enumerate(PUMP)} if clips is None else clips
        )
        content = {
            "dataset": "tiny",
            "source": "class_1",
            "settings": {},
            "clips": clips,
            "recordings": {"pump": fingerprint(root, PUMP)},
        }
        PseudoLabels(**content | changes).save(tmp_path / "label/class_1/labels.json")
        return tmp_path / "label/class_1/labels.json"

    return write


def read(table, root, **changes):
    settings = {
        "dataset": "tiny",
        "folder": root.parent / "label",
        "source": "class",
        "seed": 1,
        "command": "MAKE IT",
    }
    return labels_from_file(table, root, **settings | changes)


def test_pseudo_labels(table, root, pseudo, tmp_path):
    file = pseudo()
    labels = read(table, root)
    names = [
        "fan-source-speed_1",
        "fan-source-speed_2",
        "fan-target-speed_1",
        "pump-source-0",
        "pump-source-1",
    ]
    assert [labels.classes[i] for i in labels.of(PATHS[:5])] == names
    assert labels.made_from == {
        "file": str(file),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    labels.save(tmp_path / "labels.json")
    assert json.loads((tmp_path / "labels.json").read_text())["made_from"] == labels.made_from
    assert Labels.load(tmp_path / "labels.json") == labels
    assert read(table.sample(frac=1, random_state=0), root) == labels


def test_a_pseudo_class_and_a_class_of_names_do_not_merge(table, root, pseudo):
    table.loc[2, ["machine", "attribute"]] = "pump-source-x", "1"  # pump-source-x-target-1
    pseudo({PUMP[0]: "pump-source-x-target-1", PUMP[1]: "pump-source-1"})
    labels = read(table, root)
    assert len(labels.classes) == 5
    assert len({labels.clips[path] for path in (PATHS[2], *PUMP)}) == 3


def test_machines_to_hide(table, root, pseudo):
    assert unlabeled_machines(table) == ["pump"]
    assert unlabeled_machines(table, ["fan"]) == unlabeled_machines(table, "all") == ["fan", "pump"]
    every = dict.fromkeys(PATHS[:5], "one")
    recordings = {"fan": fingerprint(root, PATHS[:3]), "pump": fingerprint(root, PUMP)}
    pseudo(every, recordings=recordings)
    for hide in ("all", ["fan"]):
        assert read(table, root, hide=hide).classes == ["one"]
    with pytest.raises(
        InputError, match=r"dataset\.hide: no machine van; the machines are fan, pump"
    ):
        read(table, root, hide=["van"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "other"}, "says it is of class_1, dataset other; wanted class_1, tiny"),
        ({"source": "class_2"}, "says it is of class_2, dataset tiny; wanted class_1, tiny"),
        ({"recordings": {}}, "has no labels of pump; make it again: MAKE IT"),
        (
            {"recordings": {"pump": "", "fan": ""}},
            "labels fan, which is no unlabeled machine here; make",
        ),
        ({"clips": {PUMP[0]: "a"}}, rf"has no label of {PUMP[1]} \(1 such clips\); make"),
        (
            {"clips": dict.fromkeys([*PUMP, PATHS[5]], "a")},
            rf"labels {PATHS[5]}, which is no training clip .*; make",
        ),
        (
            {"recordings": {"pump": "0"}},
            "was made from other recordings of pump, of equal names; make",
        ),
    ],
)
def test_labels_that_do_not_belong_here(table, root, pseudo, changes, message):
    file = pseudo(**changes)
    with pytest.raises(InputError, match=message) as error:
        read(table, root)
    assert str(error.value).startswith(str(file))


def test_other_recordings_of_equal_names(table, root, pseudo):
    pseudo()
    (root / PUMP[0]).write_bytes(bytes([7]) * 10000)
    with pytest.raises(InputError, match="other recordings of pump"):
        read(table, root)


def test_missing_and_damaged_files(table, root, pseudo):
    with pytest.raises(
        InputError, match=r"label/class_1/labels\.json: no such .* made by: MAKE IT"
    ):
        read(table, root)
    with pytest.raises(InputError, match=r"label/panns/labels\.json: no such"):
        read(table, root, source="panns", seed=None)
    file = pseudo()
    whole = file.read_text()
    for text in (
        "{",
        "[]",
        '{"clips": {}}',
        whole[:-10],
        whole.replace('"pump-source-0"', "0"),
        json.dumps(json.loads(whole) | {"clips": [*PUMP]}),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match="not a file of pseudo-labels"):
            read(table, root)


def test_true_attributes(table, tmp_path):
    (tmp_path / "pump").mkdir()
    names = "section_00_source_train_normal_0009_load_5.wav,section_00_source_train_normal_0000_noAttribute.wav"
    text = f"source_file_name,target_file_name\r\n{names}\r\n"
    (tmp_path / "pump/attributes_00_train_correspondence.csv").write_text(text)
    true = ["speed_1", "speed_2", "speed_1", "load_5", "unknown", "speed_9"]
    assert true_attributes(table, tmp_path).tolist() == true
    assert true_attributes(table, tmp_path / "none").tolist()[3:] == [
        "unknown",
        "unknown",
        "speed_9",
    ]


@pytest.mark.skipif(
    not (SHARED / "data/ground_truth").is_dir(),
    reason="the official lists lie beside a checkout only",
)
@pytest.mark.parametrize("year", [2024, 2025])
def test_official_lists(year):
    folders = sorted((SHARED / f"data/ground_truth/attributes_dcase{year}").glob("*/*"))
    assert len(folders) == 7
    for folder in folders:
        names = pd.read_csv(folder / "attributes_00_train_correspondence.csv").target_file_name
        paths = [f"{folder.name}/train/{name}" for name in names]
        table = pd.DataFrame([{"path": path, **vars(parse_clip(path))} for path in paths])
        assert set(table.attribute) == {NO_ATTRIBUTE}
        true = true_attributes(table, folder.parent)
        assert len(true) == 1000
        assert not true.isin(["unknown", NO_ATTRIBUTE]).any()
        assert not set(true[table.domain == "source"]) & set(true[table.domain == "target"])
