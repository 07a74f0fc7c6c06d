import numpy as np
import pytest

from unlabeledasd.errors import InputError, RunHeld
from unlabeledasd.runs import Run, replacing, version_name, write_npz, write_text


def test_a_file_is_whole_or_not_there(tmp_path):
    file = tmp_path / "deep/er/a.txt"
    write_text(file, "old")
    with pytest.raises(IsADirectoryError), replacing(file) as temporary:
        (temporary.write_text("half"), tmp_path.read_text())
    assert file.read_text() == "old"
    write_text(file, "new")
    assert file.read_text() == "new"
    assert [p.name for p in file.parent.iterdir()] == ["a.txt"]


def test_npz(tmp_path):
    arrays = {"fan/AS-x/centers_": np.arange(6.0).reshape(2, 3), "b": np.zeros((0, 3))}
    write_npz(tmp_path / "a.npz", arrays)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert set(file) == set(arrays)
        assert all(np.array_equal(file[name], array) for name, array in arrays.items())


def test_version_names():
    assert version_name([12]) == "epoch12"
    assert version_name([12, 14, 16]) == "epoch_12_14_16"


def test_one_writer(tmp_path):
    run = Run(tmp_path / "run")
    with run.claim(), pytest.raises(RunHeld, match=r"run: held by host \S+, process \d+, since \d{4}-"), run.claim():
        pass
    with run.claim():
        pass


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"), Run(tmp_path / "file").claim():
        pass


def test_require(tmp_path):
    with pytest.raises(InputError, match=r"checkpoints/epoch12\.ckpt is missing"):
        Run(tmp_path).require(Run(tmp_path).checkpoint(12))
