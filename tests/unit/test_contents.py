"""Which clips a run is made of: every change is seen, and nothing else."""

import shutil

import numpy as np
import pytest
import soundfile

from conftest import make_machine
from unlabeledasd.clips import index_clips
from unlabeledasd.errors import InputError
from unlabeledasd.runs.contents import BLOCK, keep_contents, require_same
from unlabeledasd.runs.folder import Run

TRAIN = "section_00_source_train_normal_0000_speed_1.wav"
TEST = "section_00_source_test_normal_0000_speed_1.wav"


@pytest.fixture
def kept(tmp_path):
    root = tmp_path / "raw"
    make_machine(root / "fan", 200.0)
    run = Run(tmp_path / "run")
    keep_contents(run, root, index_clips(root))
    return run, root


def replaced(at: int):
    """Change one byte of a training clip, `at` bytes from its start or end."""

    def change(root):
        content = bytearray((root / "fan/train" / TRAIN).read_bytes())
        assert len(content) > 4 * BLOCK
        content[at] ^= 1
        (root / "fan/train" / TRAIN).write_bytes(content)

    return change


CHANGES = {
    "added": lambda root: soundfile.write(
        root / "fan/train" / TRAIN.replace("0000", "0077"), np.ones(100), 16000
    ),
    "removed": lambda root: (root / "fan/train" / TRAIN).unlink(),
    "first byte of the samples": replaced(44),
    "last byte": replaced(-1),
    "renamed to another attribute": lambda root: (root / "fan/train" / TRAIN).rename(
        root / "fan/train" / TRAIN.replace("speed_1", "speed_9")
    ),
    "a test clip gets another condition": lambda root: (root / "fan/test" / TEST).rename(
        root / "fan/test" / TEST.replace("normal_0000", "anomaly_0055")
    ),
    "another machine": lambda root: make_machine(root / "pump", 900.0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_refused(kept, change):
    run, root = kept
    CHANGES[change](root)
    for compare in (require_same, keep_contents):
        with pytest.raises(InputError, match=r"clips changed: .* now, 15 when .* began"):
            compare(run, root, index_clips(root))


def test_the_same_clips_elsewhere_are_the_same(kept, tmp_path):
    run, root = kept
    shutil.copytree(root, tmp_path / "moved")
    keep_contents(run, tmp_path / "moved", index_clips(tmp_path / "moved"))


def test_ground_truth_that_comes_later(tmp_path):
    root, run = tmp_path / "raw", Run(tmp_path / "run")
    make_machine(root / "fan", 200.0, test=1)
    names = sorted(path.name for path in (root / "fan/test").iterdir())
    for number, name in enumerate(names):
        (root / "fan/test" / name).rename(root / f"fan/test/section_00_{number:04d}.wav")
    keep_contents(run, root, index_clips(root))
    for number, name in enumerate(names):
        (root / f"fan/test/section_00_{number:04d}.wav").rename(root / "fan/test" / name)
    require_same(run, root, index_clips(root))
    replaced(-1)(root)
    with pytest.raises(InputError, match="fan/train 7 with other names or contents"):
        require_same(run, root, index_clips(root))


def test_a_run_that_uses_training_clips_alone(kept, tmp_path):
    _, root = kept
    run, table = Run(tmp_path / "triplet"), index_clips(root)
    keep_contents(run, root, table[table.split == "train"])
    CHANGES["a test clip gets another condition"](root)
    require_same(run, root, index_clips(root))
    CHANGES["removed"](root)
    with pytest.raises(InputError, match=r"6 now, 7 when .*; fan/train 6 now, 7 before"):
        require_same(run, root, index_clips(root))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"folders": {"fan/train": 3}}'])
def test_a_corrupt_file_is_named(kept, text):
    run, root = kept
    run.contents.write_text(text)
    with pytest.raises(InputError, match=r"contents.json: corrupt; retrain with overwrite=true"):
        require_same(run, root, index_clips(root))
