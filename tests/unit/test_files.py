"""Atomic writes, arrays and hashes."""

import hashlib

import numpy as np
import pytest

from unlabeledasd.errors import InputError
from unlabeledasd.files import file_hash, read_npz, replacing, write_npz, write_text


def test_a_file_is_complete_or_absent(tmp_path):
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
    """Records that it was made from a pickle."""

    made = False

    def __reduce__(self):
        return setattr, (Thing, "made", True)


def test_hashes(tmp_path):
    content = np.random.default_rng(0).bytes(3_000_001)  # more than one block
    (tmp_path / "a").write_bytes(content)
    assert file_hash(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    assert file_hash(tmp_path / "a", "md5") == hashlib.md5(content).hexdigest()
