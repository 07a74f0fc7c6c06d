"""The score and result CSVs of a run: their columns, reading, writing, averaging."""

from pathlib import Path

import numpy as np
import pandas as pd

from unlabeledasd.clips import UNKNOWN
from unlabeledasd.errors import InputError
from unlabeledasd.files import write_csv
from unlabeledasd.metrics import OFFICIAL, challenge_score, evaluate
from unlabeledasd.runs.checkpoints import load_extractor as load_extractor
from unlabeledasd.runs.folder import Run

ENSEMBLE = "ensemble"


CLIP_COLUMNS = ["path", "is_normal", "is_target"]


TRAIN_SPLITS = ("train", "held_out")


def flags(column: pd.Series, value: str) -> pd.Series:
    """1 where `column` is `value`, 0 where it is something else, empty where it is unknown."""
    return (column == value).astype("Int64").mask(column == UNKNOWN)


def score_table(clips: pd.DataFrame, columns: dict[str, np.ndarray]) -> pd.DataFrame:
    is_normal, is_target = flags(clips.condition, "normal"), flags(clips.domain, "target")
    return pd.DataFrame(
        {"path": clips.path, "is_normal": is_normal, "is_target": is_target, **columns}
    )


def write_scores(folder: Path, stem: str, split: str, scores: pd.DataFrame) -> None:
    """Write `<stem>_<split>_score.csv`, and for test clips whose flags are all known `<stem>_test_result.csv`."""
    write_csv(folder / f"{stem}_{split}_score.csv", scores)
    if split == "test" and scores[CLIP_COLUMNS].notna().all(axis=None):
        columns = [column for column in scores if column.startswith("AS-")]
        results = [
            {"post_process": c, **evaluate(scores[c], scores.is_normal, scores.is_target)}
            for c in columns
        ]
        write_csv(folder / f"{stem}_test_result.csv", pd.DataFrame(results))


def average_scores(run: Run, sources: list[tuple[str, str]], version: str, column: str) -> None:
    """Write the mean of `column` over `sources`, (version, stem) each, as column AS-ensemble of `version`.

    All machines that have the first source; InputError where another lacks it, or lists other clips.
    """
    for machine in run.machines(sources[0][0]):
        for split in (*TRAIN_SPLITS, "test"):
            files = [run.version(machine, v) / f"{stem}_{split}_score.csv" for v, stem in sources]
            if split in TRAIN_SPLITS and not files[0].is_file():
                continue  # scored without training clips
            tables = [read_scores(file, column) for file in files]
            clips = tables[0][CLIP_COLUMNS]
            for file, table in zip(files, tables, strict=True):
                if not table[CLIP_COLUMNS].equals(clips):
                    raise InputError(f"{file}: its clips or flags differ from those of {files[0]}")
            mean = np.mean([table[column] for table in tables], axis=0)
            write_scores(
                run.version(machine, version),
                ENSEMBLE,
                split,
                clips.assign(**{f"AS-{ENSEMBLE}": mean}),
            )


def read_scores(file: Path, column: str) -> pd.DataFrame:
    """A score CSV with the flags as nullable integers; InputError where the file or `column` is missing."""
    if not file.is_file():
        raise InputError(f"{file}: no such score CSV")
    try:
        table = pd.read_csv(file, dtype={"is_normal": "Int64", "is_target": "Int64"})
    except ValueError as error:
        raise InputError(f"{file}: cannot be read as a score CSV ({error})") from None
    if column not in table:
        raise InputError(
            f"{file}: no column {column}, it has {', '.join(c for c in table if c.startswith('AS-'))}"
        )
    if bad := int((~np.isfinite(pd.to_numeric(table[column], errors="coerce"))).sum()):
        raise InputError(f"{file}: {bad} scores of column {column} are no finite numbers")
    return table


def report(run: Run, version: str, stem: str, machines: list[str]) -> str:
    """The official figures of each machine and the challenge score, as text; one line for what does not exist."""
    files = {
        machine: run.version(machine, version) / f"{stem}_test_result.csv" for machine in machines
    }
    rows = {machine: pd.read_csv(file).iloc[0] for machine, file in files.items() if file.is_file()}
    unknown = ", ".join(machine for machine in files if machine not in rows)
    notes = [
        f"{unknown}: test clips of unknown condition or domain; scores were written, no figures"
    ] * bool(unknown)
    names = ["hmean_official", *OFFICIAL]

    def line(head: str, values: list) -> str:
        cells = [
            value if isinstance(value, str) else "-" if np.isnan(value) else f"{value:.4f}"
            for value in values
        ]
        return f"{head:20}" + "".join(f"{cell:>18}" for cell in cells)

    lines = [
        line("machine", names),
        *(line(machine, row[names].tolist()) for machine, row in rows.items()),
    ]
    empty = {name: [m for m, row in rows.items() if np.isnan(row[name])] for name in OFFICIAL}
    for name, lacking in empty.items():
        if lacking:
            notes.append(
                f"{name} does not exist for {', '.join(lacking)}: no such normal or anomalous test clips"
            )
    if rows:
        lines.append(
            line("challenge score", [challenge_score([dict(row) for row in rows.values()])])
        )
    where = f"CSVs: {run.folder}/<machine>/infer/version_{version}/"
    return "\n".join([*(lines if rows else []), *notes, where])
