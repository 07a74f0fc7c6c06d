"""Scoring of a run: embed all clips once per epoch, score every machine, write CSVs.

Training and inference both end here, so that their files have one form.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from unlabeledasd.cache import ClipCache
from unlabeledasd.data import ClipDataset, collate
from unlabeledasd.decisions import held_out_scores
from unlabeledasd.errors import InputError, check_range
from unlabeledasd.fast import accelerate
from unlabeledasd.files import read_npz, write_csv, write_npz
from unlabeledasd.results import csv_path, score_table, write_scores
from unlabeledasd.runs.folder import Run
from unlabeledasd.scoring import learned_arrays, one_thread, restore
from unlabeledasd.waveforms import to_float

CACHED_BATCH = 64  # clips embedded at a time where they are on the device already


def embed(
    extractor: Any,
    root: Path,
    paths: Sequence[str],
    channel: int | None = None,
    batch_size: int = 16,
    num_workers: int = 0,
    device: str | torch.device = "cpu",
    description: str = "embedding",
    precision: str = "32-true",
    cache: ClipCache | None = None,
) -> np.ndarray:
    """Raw embeddings (N, D) float32 of the clips `root/path`, each from its first samples.

    extractor: an nn.Module with `n_samples`, extractor(wave (B, n_samples)) -> (embedding (B, D),
    ...); precision: 32-true or bf16-mixed; cache: these clips on the device, in this order, which
    are then not read from the disk.
    """
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
    channel: int | None,
    batch_size: int,
    num_workers: int,
) -> Iterator[Tensor]:
    """Batches (B, n_samples) of the clips' first samples, in their order."""
    classes = np.zeros(len(paths), dtype=int)
    loader: DataLoader = DataLoader(
        ClipDataset(root, list(paths), classes, n_samples, channel),
        batch_size,
        sampler=[(i, 0.0) for i in range(len(paths))],
        collate_fn=collate,
        num_workers=num_workers,
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
) -> None:
    """Fit each machine's scorers on its training clips; write its score, result and map CSVs.

    table: clips, one row per row of embeddings (N, D). A machine without training clips in it is
    scored by the arrays of `stored`, a file that this function wrote before. The fitted arrays
    of all machines are written last, to `all/scorers/`.
    """
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
        )

    # every fit takes one thread, so that its digits depend on nothing; machines run side by side
    with one_thread():
        jobs = Parallel(torch.get_num_threads(), prefer="threads")
        found = jobs(delayed(score)(machine) for machine in table.machine.unique())
    for fitted in found:
        arrays |= fitted
    write_npz(run.scorers(version if version == stem else f"{version}/{stem}"), arrays)


def score_machine(
    folder: Path,
    stem: str,
    table: pd.DataFrame,
    embeddings: np.ndarray,
    scorers: Sequence[BaseEstimator],
    stored: dict[str, np.ndarray],
    missing: str,
) -> dict[str, np.ndarray]:
    """score_machines for the clips of one machine -> the fitted arrays of its scorers."""
    machine = table.machine.iloc[0]
    is_target = (table.domain == "target").to_numpy()
    train, test = ((table.split == split).to_numpy() for split in ("train", "test"))
    source = train & ~is_target
    fitted, arrays, held_out = [], {}, {}
    for unfitted in scorers:
        name = unfitted.column
        prefix = f"{machine}/{name}/"
        if train.any():
            scorer = clone(unfitted).fit(embeddings[train], is_target[train])
            arrays |= {prefix + key: array for key, array in learned_arrays(scorer).items()}
            held_out[name] = held_out_scores(unfitted, embeddings[train], is_target[train])
        elif any(key.startswith(prefix) for key in stored):
            scorer = restore(unfitted, stored, prefix)
        else:
            raise InputError(f"{machine}: no training clips to fit {name}, and {missing}")
        fitted.append(scorer)
    for split, rows in (("train", train), ("test", test)):
        if rows.any():
            scores = {scorer.column: scorer.score(embeddings[rows]) for scorer in fitted}
            write_scores(folder, stem, split, score_table(table[rows], scores))
    if source.sum() > 1:
        write_scores(folder, stem, "held_out", score_table(table[source], held_out))
    both = train | test
    write_csv(csv_path(folder, stem, "map"), plane(table.path[both], embeddings[both]))
    return arrays


def plane(paths: pd.Series, embeddings: np.ndarray) -> pd.DataFrame:
    """Columns path, x, y: unit-norm embeddings (N, D) in their plane of greatest variance."""
    xy = np.zeros((len(paths), 2))
    if min(embeddings.shape) > 2:
        xy = PCA(2, svd_solver="full").fit_transform(normalize(embeddings))
    return pd.DataFrame({"path": paths, "x": xy[:, 0].round(4), "y": xy[:, 1].round(4)})
