"""Atomic writes, arrays without pickle, hashes of files."""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlabeledasd.errors import InputError

if TYPE_CHECKING:  # 0.3 s that a job script's status does not need
    import numpy as np
    import pandas as pd


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`, which replaces `path` when the block ends.

    Readers see the old file or the complete new one. If the block fails, the temporary file is
    removed. InputError where the disk is full or the folder is not writable.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_csv(path: Path, table: "pd.DataFrame") -> None:
    write_text(path, table.to_csv(index=False))


def write_npz(path: Path, arrays: Mapping[str, "np.ndarray"]) -> None:
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # arrays by name, no allow_pickle
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def read_npz(path: Path) -> dict[str, "np.ndarray"]:
    """Arrays by name; InputError for a corrupt file, or one that contains pickled objects."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # any error a corrupt file can raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be read as arrays ({reason})") from error


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """The hexadecimal digest of the bytes of a file; algorithm: a name that hashlib knows."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
