import time

import pytest

from unlabeledasd.errors import InputError, RunLocked
from unlabeledasd.files import write_text
from unlabeledasd.runs.folder import Run, version_name


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
