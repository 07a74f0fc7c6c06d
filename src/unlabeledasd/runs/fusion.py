"""Fusion of scores: of epochs, scorers, parts of an embedding, methods, seeds.

Scores of different origin have different scales. z = (score - mean) / standard deviation of the
scores of training clips that were held out from the scorer, so that the score of a clip depends on
training clips alone, never on other test clips.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from unlabeledasd.errors import InputError
from unlabeledasd.results import (
    CLIP_COLUMNS,
    ENSEMBLE,
    PREFIX,
    TRAIN_SPLITS,
    find_csv,
    read_scores,
    write_band_scores,
    write_scores,
)
from unlabeledasd.runs.folder import Run

# How the z of several sources (S, N) become one: "min" is Z-MIN; "max" follows the source in which
# a clip is the most unusual; "mean" lets all of them count.
FUSIONS: dict[str, Callable[..., np.ndarray]] = {"mean": np.mean, "min": np.min, "max": np.max}


COLUMN = f"{PREFIX}{ENSEMBLE}"


class Source(NamedTuple):
    """Scores of a finished run: of a version (an epoch, an ensemble, a name of src/infer.py)."""

    run: Run
    version: str
    column: str | None = None  # None: the first score column

    def __str__(self) -> str:
        column = f"@{self.column}" if self.column else ""
        return f"{self.run.folder}@{self.version}{column}"


def standardize(scores: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """z of scores (N,) by the mean and standard deviation of held-out scores (M,)."""
    deviation = held_out.std() if len(held_out) else 0.0
    if deviation <= 1e-12 * np.abs(held_out).max(initial=0):
        count = len(held_out)
        raise InputError(f"{count} held-out scores; needed are two or more that are not all equal")
    return (scores - held_out.mean()) / deviation


def fuse(z: Sequence[np.ndarray], how: str = "mean") -> np.ndarray:
    """One score for each clip of the z of several sources, (N,) each; how: a name of FUSIONS."""
    if how not in FUSIONS:
        raise InputError(f"how={how}: allowed are {', '.join(FUSIONS)}")
    return FUSIONS[how](np.stack(z), axis=0)


def fuse_scores(sources: Sequence[Source], how: str = "mean") -> dict[str, dict[str, pd.DataFrame]]:
    """Fused score tables: machine -> split (train, held_out, test) -> table.

    A table has the clips, the fused score, and in columns AS-ensemble/<name> the z of each source.
    Of all machines that the first source has. InputError where another source lacks a machine, has
    other clips, or where a source has no held-out scores.
    """
    first = sources[0]
    machines = first.run.machines(first.version)
    if not machines:
        raise InputError(f"{first}: no scores; versions are folders <machine>/infer/version_<name>")
    return {machine: fused_tables(sources, machine, how) for machine in machines}


def write_fused(
    tables: dict[str, dict[str, pd.DataFrame]], out: Run, version: str, official: str
) -> None:
    """Write what `fuse_scores` returns to `version` of `out`, as an ensemble's CSVs.

    official: the score of the dataset's year.
    """
    for machine, splits in tables.items():
        for split, table in splits.items():
            folder = out.version(machine, version)
            bands = [name for name in table if name.startswith(f"{COLUMN}/")]
            write_scores(folder, ENSEMBLE, split, table.drop(columns=bands), official)
            z = {name.removeprefix(f"{COLUMN}/"): table[name].to_numpy() for name in bands}
            write_band_scores(folder, ENSEMBLE, split, table.path, {COLUMN: z})


def fused_tables(sources: Sequence[Source], machine: str, how: str) -> dict[str, pd.DataFrame]:
    """The fused scores of a machine by split: train, held_out, test."""
    read: dict[str, list[pd.DataFrame]] = {split: [] for split in (*TRAIN_SPLITS, "test")}
    for source in sources:
        file, held_out = scores_of(source, machine, "held_out")
        for split, tables in read.items():
            name, table = scores_of(source, machine, split)
            try:
                table["score"] = standardize(table.score.to_numpy(), held_out.score.to_numpy())
            except InputError as error:
                raise InputError(f"{file}: {error}") from None
            if tables and not tables[0][CLIP_COLUMNS].equals(table[CLIP_COLUMNS]):
                raise InputError(f"{name}: its clips or flags differ from those of {sources[0]}")
            tables.append(table)
    names = names_of(sources)
    fused = {}
    for split, tables in read.items():
        z = [table.score.to_numpy() for table in tables]
        bands = {f"{COLUMN}/{name}": own for name, own in zip(names, z, strict=True)}
        fused[split] = tables[0][CLIP_COLUMNS].assign(**{COLUMN: fuse(z, how)}, **bands)
    return fused


def names_of(sources: Sequence[Source]) -> list[str]:
    """Short names, none of them twice: the folder's name, then version, column, number."""
    names = [source.run.folder.resolve().name for source in sources]
    longer = [f"{name}@{s.version}" for name, s in zip(names, sources, strict=True)]
    longest = [f"{name}@{s.column}" for name, s in zip(longer, sources, strict=True)]
    numbered = [f"{i} {name}" for i, name in enumerate(names)]
    return next(x for x in (names, longer, longest, numbered) if len(set(x)) == len(x))


def scores_of(source: Source, machine: str, split: str) -> tuple[Path, pd.DataFrame]:
    """File and content of a source's score CSV."""
    file = find_csv(source.run, machine, source.version, f"{split}_score")
    if file is None:
        raise InputError(f"{source}: no {split} scores of {machine}")
    return file, read_scores(file, source.column)
