"""Embeddings that are kept with a run, so that another scorer needs no network and no clips.

`all/embeddings/<version>.npz` contains `embeddings` (N, D) or (N, bands, D) float32 and `clips`,
the table of these N clips as CSV (UTF-8 bytes).
"""

from pathlib import Path

import numpy as np
import pandas as pd

from unlabeledasd.errors import InputError
from unlabeledasd.files import read_npz, write_npz

COLUMNS = ["path", "machine", "split", "section", "domain", "condition", "attribute"]


def write_embeddings(file: Path, table: pd.DataFrame, embeddings: np.ndarray) -> None:
    """table: clips, with the columns of clips.index_clips; embeddings: a row for each."""
    text = table[COLUMNS].to_csv(index=False).encode(errors="surrogateescape")
    clips = np.frombuffer(text, dtype=np.uint8)
    write_npz(file, {"embeddings": embeddings.astype(np.float32), "clips": clips})


def read_embeddings(file: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """(table of the clips, embeddings (N, ...) float32) as they were written."""
    arrays = read_npz(file)
    try:
        lines = arrays["clips"].tobytes().decode(errors="surrogateescape")
        embeddings = arrays["embeddings"]
    except KeyError as error:
        raise InputError(f"{file}: no embeddings of clips ({error} is missing)") from None
    table = parse_table(lines)
    if list(table) != COLUMNS or len(table) != len(embeddings):
        raise InputError(f"{file}: {len(embeddings)} embeddings of {len(table)} clips")
    return table, embeddings


def parse_table(lines: str) -> pd.DataFrame:
    from io import StringIO

    # section 00 and attribute NA are text
    return pd.read_csv(StringIO(lines), dtype=str, keep_default_na=False)


def require_clips(file: Path, kept: pd.DataFrame, table: pd.DataFrame) -> None:
    """InputError names the first clip that differs between the kept embeddings and the data."""
    table = table[COLUMNS].reset_index(drop=True)
    if kept.equals(table.astype(str)):
        return
    old, new = set(kept.path), set(table.path)
    if gone := sorted(old - new):
        change = f"{gone[0]} is missing now ({len(gone)} such clips)"
    elif added := sorted(new - old):
        change = f"{added[0]} is new ({len(added)} such clips)"
    elif kept.path.tolist() != table.path.tolist():
        change = f"{kept.path[(kept.path != table.path).argmax()]} has another place now"
    else:
        row = (kept != table.astype(str)).any(axis=1).argmax()
        change = f"{kept.path[row]} has another machine, domain or condition now"
    raise InputError(f"{file}: embeddings of other clips: {change}")
