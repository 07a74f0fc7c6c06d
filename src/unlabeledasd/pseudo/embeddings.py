"""The file of embeddings of one machine's clips, with what made them; pseudo-labels are clusters
of these."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unlabeledasd.errors import InputError
from unlabeledasd.files import read_npz, write_npz
from unlabeledasd.pseudo.label_file import fingerprint


def write_embeddings(
    file: Path, paths: Sequence[str], embedding: np.ndarray, made_by: dict
) -> None:
    """Write the embeddings (N, D) of the clips `paths`.

    made_by: what decides them, at least `clips`, the fingerprint of the recordings, and `weights`,
    the SHA-256 of the file that embedded them; plain JSON.
    """
    arrays = {"paths": np.array(paths), "embedding": embedding}
    write_npz(file, {**arrays, "made_by": np.array(json.dumps(made_by))})


def embeddings_made_by(file: Path) -> dict | None:
    """What the embeddings in `file` were made by; None if there are none, or if it is damaged."""
    if not file.is_file():
        return None
    try:
        return json.loads(str(read_npz(file)["made_by"]))
    except (InputError, KeyError):
        return None


def read_embeddings(file: Path, root: Path, paths: Sequence[str], remedy: str) -> np.ndarray:
    """Embeddings (N, D) of the clips `paths` below `root`.

    InputError, which ends with `remedy`, where the file lacks, is damaged, or is of other clips or
    of other recordings of the same names.
    """
    if (made_by := embeddings_made_by(file)) is None:
        raise InputError(f"{file}: no such embeddings; {remedy}")
    arrays = read_npz(file)
    if arrays["paths"].tolist() != list(paths) or made_by["clips"] != fingerprint(root, paths):
        raise InputError(f"{file}: embeddings of other clips than those in {root}; {remedy}")
    return arrays["embedding"]
