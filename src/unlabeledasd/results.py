"""The score and result CSVs of a run: names, columns, reading, writing, averaging, a summary.

A machine's folder `infer/version_<version>/` contains, for each scored epoch and for their mean
(stem `epoch12`, ..., and `ensemble`):

    <stem>_{train,held_out,test}_score.csv   path, is_normal, is_target, a column AS-<...> a scorer
    <stem>_held_out_window_score.csv         of one window of each, by src/learn.py only
    <stem>_{held_out,test}_band_score.csv    path, a column AS-<...>/<band> a band
    <stem>_test_result.csv                   post_process (the score column), its metrics
    <stem>_map.csv                           path, x, y: a plane of the embeddings

The first score column is the default scorer's, which the metrics of reports are taken from.
Band scores are what a scorer combines that compares bands (or branches, or views) one by one.
A flag that is not known is an empty cell. Where a test clip has one, there is no result CSV.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from unlabeledasd.audio.clip_names import UNKNOWN
from unlabeledasd.errors import InputError
from unlabeledasd.files import write_csv
from unlabeledasd.metrics import (
    OFFICIAL,
    OFFICIAL_OF,
    SINCE_2022,
    challenge_score,
    evaluate,
    official_of,
)
from unlabeledasd.runs.folder import Run

ENSEMBLE = "ensemble"
PREFIX = "AS-"  # of score columns
CLIP_COLUMNS = ["path", "is_normal", "is_target"]
TRAIN_SPLITS = ("train", "held_out")
BAND_SPLITS = ("held_out", "test")  # a training clip is its own reference in every band


def csv_path(folder: Path, stem: str, kind: str) -> Path:
    """kind: {train,held_out,test}_score, {held_out,test}_band_score, test_result or map."""
    return folder / f"{stem}_{kind}.csv"


def find_csv(run: Run, machine: str, version: str, kind: str) -> Path | None:
    """The CSV of `kind` in a version: the ensemble's, else the only one; None without."""
    folder = run.version(machine, run.scored(version))
    ensemble = csv_path(folder, ENSEMBLE, kind)
    files = [ensemble] if ensemble.is_file() else sorted(folder.glob(f"*_{kind}.csv"))
    return files[0] if len(files) == 1 else None


def flags(column: pd.Series, value: str) -> pd.Series:
    """1 where `column` is `value`, 0 where it is another, empty where it is unknown."""
    return (column == value).astype("Int64").mask(column == UNKNOWN)


def score_table(clips: pd.DataFrame, scores: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """A score CSV's content; clips: the clip table (N rows); scores: column -> (N,)."""
    is_normal, is_target = flags(clips.condition, "normal"), flags(clips.domain, "target")
    table = {"path": clips.path, "is_normal": is_normal, "is_target": is_target}
    return pd.DataFrame({**table, **scores})


def score_columns(table: pd.DataFrame) -> list[str]:
    return [column for column in table if column.startswith(PREFIX)]


def write_scores(
    folder: Path, stem: str, split: str, table: pd.DataFrame, official: str = SINCE_2022
) -> None:
    """Write `<stem>_<split>_score.csv`; for test clips of known flags also their metrics.

    official: the score of the dataset's year, a key of metrics.OFFICIAL_OF.
    """
    write_csv(csv_path(folder, stem, f"{split}_score"), table)
    if split == "test" and table[CLIP_COLUMNS].notna().all(axis=None):
        rows = [
            {
                "post_process": column,
                **evaluate(table[column], table.is_normal, table.is_target, official),
            }
            for column in score_columns(table)
        ]
        write_csv(csv_path(folder, stem, "test_result"), pd.DataFrame(rows))


def write_band_scores(
    folder: Path,
    stem: str,
    split: str,
    paths: pd.Series,
    parts: Mapping[str, Mapping[str, np.ndarray]],
) -> None:
    """Write `<stem>_<split>_band_score.csv`, or remove an earlier one where there are no bands.

    paths: of the N clips; parts: score column -> band -> (N,).
    """
    if split not in BAND_SPLITS:
        return
    file = csv_path(folder, stem, f"{split}_band_score")
    scores = {f"{column}/{name}": x for column, bands in parts.items() for name, x in bands.items()}
    if scores:
        write_csv(file, pd.DataFrame({"path": paths.to_numpy(), **scores}))
    else:
        file.unlink(missing_ok=True)


def read_band_scores(file: Path, column: str | None = None) -> pd.DataFrame:
    """Band scores that a score CSV's column combines: a row a path, a column a band.

    They are in the file next to it. column: None takes the first. Without columns where there is
    no such file, or the column's scores have no bands.
    """
    bands = file.with_name(file.name.removesuffix("_score.csv") + "_band_score.csv")
    if not bands.is_file():
        return pd.DataFrame()
    try:
        if column is None:
            column = score_columns(pd.read_csv(file, nrows=0))[0]
        table = pd.read_csv(bands).set_index("path")
        own = [name for name in table if name.startswith(f"{column}/")]
        return table[own].astype(float).rename(columns=lambda name: name[len(column) + 1 :])
    except (ValueError, LookupError) as error:
        raise InputError(f"{bands}: cannot be read as a CSV of band scores ({error})") from None


def read_scores(file: Path, column: str | None = None) -> pd.DataFrame:
    """Columns path, is_normal, is_target (nullable integers) and score, of one score column.

    column: None takes the first. InputError where the file or the column is missing, or where a
    score is not finite.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such score CSV")
    try:
        table = pd.read_csv(file, dtype={"is_normal": "Int64", "is_target": "Int64"})
    except ValueError as error:
        raise InputError(f"{file}: cannot be read as a score CSV ({error})") from None
    columns = score_columns(table)
    if lacking := [name for name in CLIP_COLUMNS if name not in table]:
        raise InputError(f"{file}: no column {', '.join(lacking)}; it has {', '.join(table)}")
    column = column or next(iter(columns), f"{PREFIX}...")
    if column not in table:
        raise InputError(f"{file}: no column {column}, it has {', '.join(columns)}")
    scores = pd.to_numeric(table[column], errors="coerce")
    if bad := int((~np.isfinite(scores)).sum()):
        raise InputError(f"{file}: {bad} scores of column {column} are not finite numbers")
    return table[CLIP_COLUMNS].assign(score=scores)


def read_metrics(file: Path) -> dict[str, float]:
    """The first row of a result CSV, metrics.evaluate of the default scorer's test scores."""
    try:
        row = pd.read_csv(file).iloc[0].drop("post_process")
        metrics = {name: float(value) for name, value in row.items()}
        return {**{name: metrics[name] for name in (SINCE_2022, *OFFICIAL)}, **metrics}
    except (ValueError, LookupError) as error:
        raise InputError(f"{file}: cannot be read as a result CSV ({error})") from None


def official_in(*files: Path | None) -> str:
    """The official score of the year that result CSVs are of, by the first that exists."""
    there = [file for file in files if file and file.is_file()]
    return official_of(read_metrics(there[0])) if there else SINCE_2022


def average_scores(run: Run, sources: Sequence[tuple[str, str]], version: str, column: str) -> None:
    """Write the mean of `column` over `sources`, (version, stem) each, to `version`, AS-ensemble.

    Of all machines that have scores of the first source; InputError where another source lacks
    a machine, or lists other clips.
    """
    for machine in run.machines(sources[0][0]):
        for split in (*TRAIN_SPLITS, "test"):
            files = [
                csv_path(run.version(machine, source), stem, f"{split}_score")
                for source, stem in sources
            ]
            if split in TRAIN_SPLITS and not files[0].is_file():
                continue  # scored without training clips
            tables = [read_scores(file, column) for file in files]
            clips = tables[0][CLIP_COLUMNS]
            for file, table in zip(files, tables, strict=True):
                if not table[CLIP_COLUMNS].equals(clips):
                    raise InputError(f"{file}: its clips or flags differ from those of {files[0]}")
            mean = np.mean([table.score for table in tables], axis=0)
            averaged = clips.assign(**{f"{PREFIX}{ENSEMBLE}": mean})
            folder = run.version(machine, version)
            official = official_in(csv_path(files[0].parent, sources[0][1], "test_result"))
            write_scores(folder, ENSEMBLE, split, averaged, official)
            bands = mean_bands(files, column, clips.path)
            write_band_scores(folder, ENSEMBLE, split, clips.path, {f"{PREFIX}{ENSEMBLE}": bands})


def mean_bands(files: Sequence[Path], column: str, paths: pd.Series) -> dict[str, np.ndarray]:
    """The mean over score CSVs of the band scores next to them; empty where one lacks them."""
    tables = [read_band_scores(file, column).reindex(paths) for file in files]
    bands = [name for name in tables[0] if all(name in table for table in tables)]
    return {name: np.mean([table[name] for table in tables], axis=0) for name in bands}


def report(run: Run, version: str, machines: Sequence[str]) -> str:
    """The official metrics of each machine and the challenge score, as text to print.

    Metrics that do not exist are named, with the reason.
    """
    files = {machine: find_csv(run, machine, version, "test_result") for machine in machines}
    rows = {machine: read_metrics(file) for machine, file in files.items() if file}
    lines, names = [], [""]
    if rows:
        official = official_of(next(iter(rows.values())))
        names = [official, *OFFICIAL_OF[official]]
        widths = max(20, *(len(machine) for machine in rows)), 2 + max(map(len, names))
        lines.append(report_line("machine", names, *widths))
        for machine, row in rows.items():
            lines.append(report_line(machine, [metric_cell(row[name]) for name in names], *widths))
        score = metric_cell(challenge_score(list(rows.values())))
        lines.append(report_line("challenge score", [score], *widths))
    if unknown := [machine for machine in machines if machine not in rows]:
        reason = "test clips of unknown condition or domain; scores were written, no metrics"
        lines.append(f"{', '.join(unknown)}: {reason}")
    for name in names[1:]:
        if lacking := [machine for machine, row in rows.items() if np.isnan(row[name])]:
            reason = "no such normal or anomalous test clips"
            lines.append(f"{name} does not exist for {', '.join(lacking)}: {reason}")
    lines.append(f"CSVs: {run.folder}/<machine>/infer/version_{version}/")
    return "\n".join(lines)


def report_line(head: str, cells: Sequence[str], first: int, width: int) -> str:
    return f"{head:{first}}" + "".join(f"{cell:>{width}}" for cell in cells)


def metric_cell(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}"
