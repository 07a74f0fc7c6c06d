"""The file of pseudo-labels: of which clips it must be, and the labels made from it."""

import hashlib
import json

import pandas as pd
import pytest
from test_labels import PATHS

from conftest import SHARED
from unlabeledasd.audio.clip_names import NO_ATTRIBUTE, parse_clip
from unlabeledasd.errors import InputError
from unlabeledasd.labels import Labels
from unlabeledasd.pseudo.label_file import (
    PseudoLabels,
    fingerprint,
    labels_from_file,
    true_attributes,
    unlabeled_machines,
)


@pytest.fixture
def table():
    return pd.DataFrame([{"path": path, **vars(parse_clip(path))} for path in PATHS])


PUMP = PATHS[3:5]  # the machine without attributes


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
    name = "section_00_source_train_normal_"
    names = f"{name}0009_load_5.wav,{name}0000_noAttribute.wav"
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
    reason="the official lists are only next to some checkouts",
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
