"""Files that appear whole or not at all, and what tells whether they are whole."""

import hashlib
import io
import json
import os
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from unlabeledasd.errors import InputError

if TYPE_CHECKING:  # 0.3 s that a job script's status does not need
    import numpy as np
    import pandas as pd


@contextmanager
def replacing(path: Path):
    """A temporary path beside `path` that takes its place when the block ends, so that readers see the old file
    or the whole new one; removed if the block fails. InputError where the disk is full or must not be written."""
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


def write_json(path: Path, value) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_csv(path: Path, table: "pd.DataFrame") -> None:
    write_text(path, table.to_csv(index=False))


def write_npz(path: Path, arrays: dict[str, "np.ndarray"]) -> None:
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def read_npz(path: Path) -> dict[str, "np.ndarray"]:
    """Arrays by name; InputError for a file that is damaged, or has anything but arrays of plain numbers and text."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be read as arrays ({reason})") from error


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint is there and every byte as it was written: torch.load does not look at the checksums."""
    try:
        with zipfile.ZipFile(checkpoint) as file:
            return file.testzip() is None
    except Exception:  # a damaged file raises whatever its bytes lead to
        return False


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
