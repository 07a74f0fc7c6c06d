"""Scoring of a run: embed all clips once per epoch, score every machine, write CSVs.

Training and inference both end here, so that their files have one form. Embeddings that a run has
kept are scored without torch, which takes seconds to import.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from tqdm import tqdm

from unlabeledasd.audio.two_channels import Channel
from unlabeledasd.clips import CALIBRATION
from unlabeledasd.decisions import held_out_with_parts
from unlabeledasd.errors import InputError, check_range
from unlabeledasd.files import read_npz, write_csv, write_npz
from unlabeledasd.metrics import SINCE_2022
from unlabeledasd.results import csv_path, score_table, write_band_scores, write_scores
from unlabeledasd.runs.folder import Run
from unlabeledasd.scoring import learned_arrays, one_thread, restore, scores_and_parts, unit_rows

if TYPE_CHECKING:
    import torch

    from unlabeledasd.cache import ClipCache

CACHED_BATCH = 256  # clips embedded at a time where they are on the device already


def embed(
    extractor: Any,
    root: Path,
    paths: Sequence[str],
    channel: Channel = None,
    batch_size: int = 16,
    num_workers: int = 0,
    device: "str | torch.device" = "cpu",
    description: str = "embedding",
    precision: str = "32-true",
    cache: "ClipCache | None" = None,
) -> np.ndarray:
    """Raw embeddings (N, D) float32 of the clips `root/path`, each from its first samples.

    extractor: an nn.Module with `n_samples`, extractor(wave (B, n_samples)) -> (embedding (B, D),
    ...); precision: 32-true or bf16-mixed; cache: these clips on the device, in this order, which
    are then not read from the disk.
    """
    import torch

    from unlabeledasd.fast import accelerate
    from unlabeledasd.waveforms import to_float

    check_range("num_workers", num_workers, 0)
    if cache is None:
        waves = read_waves(root, paths, extractor.n_samples, channel, batch_size, num_workers)
    else:
        parts = torch.arange(len(paths)).split(CACHED_BATCH)
        waves = (cache.beginnings(part, extractor.n_samples) for part in parts)
    # outside inference mode: weights moved within it could not be loaded again
    extractor = accelerate(extractor.to(device).eval(), device)
    embeddings = []
    bar = tqdm(total=len(paths), desc=description, unit="clip", leave=False)
    with torch.inference_mode(), bar:
        for wave in waves:
            wave = to_float(wave.to(device))
            mixed = precision == "bf16-mixed"
            with torch.autocast(wave.device.type, torch.bfloat16, enabled=mixed):
                embeddings.append(extractor(wave)[0])
            bar.update(len(wave))
    return torch.cat(embeddings).cpu().numpy()


def read_waves(
    root: Path,
    paths: Sequence[str],
    n_samples: int,
    channel: Channel,
    batch_size: int,
    num_workers: int,
) -> Iterator["torch.Tensor"]:
    """Batches (B, n_samples) of the clips' first samples, in their order."""
    from torch.utils.data import DataLoader

    from unlabeledasd.data import ClipDataset, collate, fitting_workers

    classes = np.zeros(len(paths), dtype=int)
    loader: DataLoader = DataLoader(
        ClipDataset(root, list(paths), classes, n_samples, channel),
        batch_size,
        sampler=[(i, 0.0) for i in range(len(paths))],
        collate_fn=collate,
        num_workers=fitting_workers(num_workers, batch_size, n_samples),
    )
    for wave, _ in loader:
        yield wave


def score_machines(
    run: Run,
    version: str,
    stem: str,
    table: pd.DataFrame,
    embeddings: np.ndarray,
    scorers: Sequence[BaseEstimator],
    stored: Path | None = None,
    keep: bool = True,
    n_jobs: int = -1,
    official: str = SINCE_2022,
) -> None:
    """Fit each machine's scorers on its training clips; write its score, result and map CSVs.

    table: clips, one row per row of embeddings (N, D) or (N, bands, D). A machine without training
    clips in it is scored by the arrays of `stored`, a file that this function wrote before.
    keep: write the fitted arrays of all machines to `all/scorers/`, last. n_jobs: machines scored
    at a time, -1: as many as there are CPU cores. official: the score of the dataset's year.
    """
    columns = [scorer.column for scorer in scorers]
    if twice := {column for column in columns if columns.count(column) > 1}:
        raise InputError(f"scorers: two have the score column {', '.join(sorted(twice))}")
    arrays = read_npz(stored) if stored is not None else {}
    source = f"{stored} contains no arrays of it" if stored else "none are stored"

    def score(machine: str) -> dict[str, np.ndarray]:
        rows = (table.machine == machine).to_numpy()
        return score_machine(
            run.version(machine, version),
            stem,
            table[rows],
            embeddings[rows],
            scorers,
            arrays,
            source,
            official,
        )

    # every fit takes one thread, so that its digits depend on nothing; machines run side by side
    with one_thread():
        jobs = Parallel(n_jobs, prefer="threads")
        found = jobs(delayed(score)(machine) for machine in table.machine.unique())
    if keep:
        write_npz(
            run.scorers(stem), {**arrays, **{k: v for part in found for k, v in part.items()}}
        )


def score_machine(
    folder: Path,
    stem: str,
    table: pd.DataFrame,
    embeddings: np.ndarray,
    scorers: Sequence[BaseEstimator],
    stored: dict[str, np.ndarray],
    missing: str,
    official: str,
) -> dict[str, np.ndarray]:
    """score_machines for the clips of one machine -> the fitted arrays of its scorers."""
    machine = table.machine.iloc[0]
    is_target = (table.domain == "target").to_numpy()
    train, test = ((table.split == split).to_numpy() for split in ("train", "test"))
    calibration = (table.split == CALIBRATION).to_numpy()
    aside = calibration if calibration.any() else train & ~is_target
    fitted: list[BaseEstimator] = []
    arrays: dict[str, np.ndarray] = {}
    held_out: dict[str, tuple] = {}
    for unfitted in scorers:
        name = unfitted.column
        prefix = f"{machine}/{name}/"
        if train.any():
            scorer = clone(unfitted).fit(embeddings[train], is_target[train])
            arrays |= {prefix + key: array for key, array in learned_arrays(scorer).items()}
            if calibration.any():
                held_out[name] = scores_and_parts(scorer, embeddings[calibration])
            else:
                held_out[name] = held_out_with_parts(unfitted, embeddings[train], is_target[train])
        elif any(key.startswith(prefix) for key in stored):
            scorer = restore(unfitted, stored, prefix)
        else:
            raise InputError(f"{machine}: no training clips to fit {name}, and {missing}")
        fitted.append(scorer)
    for split, rows in (("train", train), ("test", test)):
        if rows.any():
            found = {s.column: scores_and_parts(s, embeddings[rows]) for s in fitted}
            write_split(folder, stem, split, table[rows], found, official)
    if aside.sum() > 1 and held_out:
        write_split(folder, stem, "held_out", table[aside], held_out, official)
    both = train | test
    write_csv(csv_path(folder, stem, "map"), plane(table.path[both], embeddings[both]))
    return arrays


def write_split(
    folder: Path,
    stem: str,
    split: str,
    clips: pd.DataFrame,
    found: dict[str, tuple[np.ndarray, dict[str, np.ndarray]]],
    official: str,
) -> None:
    """Write the score CSVs of a split; found: score column -> (scores, scores of parts)."""
    scores = {column: whole for column, (whole, _) in found.items()}
    write_scores(folder, stem, split, score_table(clips, scores), official)
    parts = {column: parts for column, (_, parts) in found.items()}
    write_band_scores(folder, stem, split, clips.path, parts)


def plane(paths: pd.Series, embeddings: np.ndarray) -> pd.DataFrame:
    """Columns path, x, y: unit-norm embeddings (N, D) in their plane of greatest variance."""
    xy = np.zeros((len(paths), 2))
    if min(embeddings.shape) > 2:
        xy = PCA(2, svd_solver="full").fit_transform(unit_rows(embeddings))
    return pd.DataFrame({"path": paths, "x": xy[:, 0].round(4), "y": xy[:, 1].round(4)})
