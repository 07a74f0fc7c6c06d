"""Containers: no home, no name of the user, read-only files, little shared memory."""

import os
import pwd
import subprocess
import sys

import pytest

from conftest import ROOT
from unlabeledasd import data
from unlabeledasd.runs import containers
from unlabeledasd.runs.containers import stand_alone


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """No variable of the environment says who and where the user is."""
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NUMBA_CACHE_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    monkeypatch.setattr(containers.tempfile, "gettempdir", lambda: str(tmp_path))
    return monkeypatch


def test_a_home_is_used(bare, tmp_path):
    bare.setenv("HOME", str(tmp_path / "home"))
    stand_alone()
    assert not {"NUMBA_CACHE_DIR", "MPLCONFIGDIR"} & set(os.environ)
    assert list(tmp_path.iterdir()) == []


def test_without_a_home(bare, tmp_path):
    bare.setenv("HOME", "/proc/nowhere")
    bare.setattr(containers, "is_writable", lambda folder: False)
    stand_alone()
    folder = tmp_path / f"unlabeledasd-{os.getuid()}"
    assert os.environ["NUMBA_CACHE_DIR"] == f"{folder}/numba_cache_dir"
    assert os.environ["MPLCONFIGDIR"] == f"{folder}/mplconfigdir"
    assert folder.stat().st_mode & 0o777 == 0o700
    bare.setenv("NUMBA_CACHE_DIR", "/mine")
    stand_alone()
    assert os.environ["NUMBA_CACHE_DIR"] == "/mine"


def test_packages_that_can_be_written_keep_what_numba_compiles(bare):
    bare.setenv("HOME", "/proc/nowhere")
    bare.setattr(containers, "is_writable", lambda folder: folder.name == "site-packages")
    stand_alone()
    assert "NUMBA_CACHE_DIR" not in os.environ


def test_a_user_without_a_name(bare, tmp_path):
    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    bare.setattr(pwd, "getpwuid", unknown)
    bare.setattr(containers, "is_writable", lambda folder: False)
    stand_alone()
    assert os.environ["USER"] == f"user{os.getuid()}"
    assert os.environ["NUMBA_CACHE_DIR"].startswith(str(tmp_path))


def test_a_folder_that_others_can_write_to_is_not_used(bare, tmp_path):
    """What numba finds in its cache is run."""
    open_to_all = tmp_path / f"unlabeledasd-{os.getuid()}"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    bare.setattr(containers, "is_writable", lambda folder: False)
    bare.setattr(containers.tempfile, "tempdir", str(tmp_path))
    stand_alone()
    assert not os.environ["NUMBA_CACHE_DIR"].startswith(f"{open_to_all}/")


@pytest.mark.parametrize(("mode", "expected"), [(0o755, True), (0o555, False)])
def test_is_writable(tmp_path, mode, expected):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder").chmod(mode)
    if os.geteuid() == 0:  # root may write everywhere but where a file system forbids it
        expected = True
    assert containers.is_writable(tmp_path / "folder") == expected
    assert containers.is_writable(tmp_path / "folder/not/yet") == expected


@pytest.mark.slow
def test_numba_in_a_read_only_container(tmp_path):
    """The package that says "no locator available" otherwise."""
    script = (
        "mount --bind / / && mount -o remount,ro,bind / && mount -t tmpfs tmpfs /tmp || exit 99\n"
        'exec env -i PATH=/usr/bin:/bin PYTHONPATH="$1" "$2" -c "import unlabeledasd, librosa.core"'
    )
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", script, "-", ROOT / "src", sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    if os.geteuid() or done.returncode == 99:
        pytest.skip("mounting needs root")
    assert done.returncode == 0, done.stderr


# --- shared memory ---------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it has no limit")
@pytest.mark.parametrize(
    ("free", "expected"), [(0, 0), (23_999, 0), (24_000, 1), (71_999, 2), (72_000, 3), (10**9, 3)]
)
def test_workers_that_fit_into_shared_memory(monkeypatch, capsys, free, expected):
    """3 batches of 2 clips of 1000 samples of 4 bytes: 24,000 bytes for a worker."""
    monkeypatch.setattr(data, "free_bytes", lambda folder: free)
    assert data.fitting_workers(3, 2, 1000) == expected
    assert ("note: num_workers=3: /dev/shm has" in capsys.readouterr().out) == (expected < 3)
    assert data.fitting_workers(0, 2, 1000) == 0
    assert capsys.readouterr().out == ""


def test_free_bytes(tmp_path):
    status = os.statvfs(tmp_path)
    total = status.f_blocks * status.f_frsize
    assert 0 < data.free_bytes(tmp_path) <= total
    assert data.free_bytes(tmp_path / "nowhere") == 0
