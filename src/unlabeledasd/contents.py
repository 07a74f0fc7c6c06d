"""Which recordings clips are, whatever they are called: hashes of their contents.

A hash is of a file's size and of three blocks of 4 kB: its first, its middle and its last one. Two
recordings that differ elsewhere alone count as equal; reading them whole would take as long as an
epoch.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

BLOCK_BYTES = 4096

# size, inode and time of change of a file, and the hash of its contents
Contents = tuple[int, int, int, str]


def content_hash(file: Path) -> str:
    """SHA-256 of the size and of three blocks of `file`; OSError where it cannot be read."""
    with file.open("rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        digest = hashlib.sha256(f"{size} ".encode())
        for start in (0, size // 2, size - BLOCK_BYTES):
            opened.seek(max(0, start))
            digest.update(opened.read(BLOCK_BYTES))
    return digest.hexdigest()


def contents_of(
    root: Path, paths: Iterable[str], known: Mapping[str, Sequence] | None = None
) -> dict[str, Contents]:
    """The contents of the clips `paths`, relative to `root`.

    known: those found earlier. A file that is still the same one by its size, inode and time of
    change is not read again.
    """
    found = {}
    for path in paths:
        status = (root / path).stat()
        key = (status.st_size, status.st_ino, status.st_ctime_ns)
        earlier = (known or {}).get(path)
        if earlier is not None and tuple(earlier[:3]) == key:
            found[path] = (*key, earlier[3])
        else:
            found[path] = (*key, content_hash(root / path))
    return found


def fingerprint(root: str | Path, paths: Iterable[str]) -> str:
    """SHA-256 of the names of clips and of their contents, in whatever order they are given."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path} {content_hash(Path(root, path))} ".encode(errors="surrogateescape"))
    return digest.hexdigest()
