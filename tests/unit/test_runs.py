import time

import numpy as np
import pytest

from unlabeledasd.errors import InputError, RunLocked
from unlabeledasd.files import read_npz, replacing, write_npz, write_text
from unlabeledasd.runs.folder import Run, version_name


def test_a_file_is_whole_or_not_there(tmp_path):
    file = tmp_path / "deep/er/a.txt"
    write_text(file, "old")
    with pytest.raises(ZeroDivisionError), replacing(file) as temporary:
        (temporary.write_text("half"), 1 / 0)
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
    with (
        run.claim(),
        pytest.raises(RunLocked, match=r"run: locked by process \d+ on host \S+ since \d{4}-"),
        run.claim(),
    ):
        pass
    with run.claim():
        pass


def test_patience_comes_from_the_environment(tmp_path, monkeypatch):
    run = Run(tmp_path)
    monkeypatch.setenv("UNLABELEDASD_WAIT", "1")
    with run.claim():
        before = time.monotonic()
        with pytest.raises(RunLocked), run.claim():
            pass
        assert 1 <= time.monotonic() - before < 5
    for wrong in ("-1", "a day", "1.5", ""):
        monkeypatch.setenv("UNLABELEDASD_WAIT", wrong)
        with (
            pytest.raises(InputError, match=f"^UNLABELEDASD_WAIT={wrong}: a whole number"),
            run.claim(),
        ):
            pass


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"), Run(tmp_path / "file").claim():
        pass


def test_require(tmp_path):
    with pytest.raises(InputError, match=r"checkpoints/epoch12\.ckpt is missing"):
        Run(tmp_path).require(Run(tmp_path).checkpoint(12))


def test_what_killed_processes_left_is_removed(tmp_path):
    for name in (
        "all/.labels.json.7.tmp",
        "all/checkpoints/.last.ckpt.7.tmp",
        "fan/infer/version_epoch1/.a.csv.7.tmp",
    ):
        write_text(tmp_path / name, "half")
    write_text(tmp_path / "all/labels.json", "{}")
    with Run(tmp_path).claim():
        pass
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {"labels.json", "lock.1"}


def test_arrays_that_cannot_be_read(tmp_path):
    write_npz(tmp_path / "a.npz", {"a": np.arange(1000.0)})
    whole = (tmp_path / "a.npz").read_bytes()
    flipped = bytearray(whole)
    flipped[2000] ^= 1
    np.savez(tmp_path / "objects.npz", a=np.array([Thing()]))
    for content in (
        b"",
        b"text",
        whole[:500],
        bytes(flipped),
        (tmp_path / "objects.npz").read_bytes(),
    ):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.npz: cannot be read as arrays"):
            read_npz(tmp_path / "a.npz")
    assert not Thing.made


class Thing:
    """Tells when it is made from a pickle."""

    made = False

    def __reduce__(self):
        return setattr, (Thing, "made", True)


def test_clear_removes_what_a_run_writes_and_nothing_else(tmp_path):
    run = Run(tmp_path)
    for name in (
        "all/done",
        "all/config.yaml",
        "all/checkpoints/epoch1.ckpt",
        "all/logs/csv/x",
        "fan/infer/version_k8/a.csv",
    ):
        write_text(tmp_path / name, "x")
    write_text(tmp_path / "notes.txt", "mine")
    write_text(tmp_path / "fan/notes.txt", "mine")
    removed = run.clear()
    assert removed == [
        "all/done",
        "fan/infer/version_k8",
        "all/checkpoints",
        "all/logs",
        "all/config.yaml",
    ]
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["notes.txt", "notes.txt"]
