"""Scoring of a run: embed all clips once per epoch, score every machine, write CSVs and figures.

Training, inference and the ensemble all end here, so their files have one form.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize
from torch.utils.data import DataLoader
from tqdm import tqdm

from unlabeledasd.data import ClipDataset, collate
from unlabeledasd.decisions import held_out_scores
from unlabeledasd.errors import InputError
from unlabeledasd.fast import accelerate
from unlabeledasd.files import read_npz, write_csv, write_npz
from unlabeledasd.networks import MultiResolutionNet
from unlabeledasd.results import score_table, write_scores
from unlabeledasd.runs.checkpoints import load_extractor as load_extractor
from unlabeledasd.runs.folder import Run
from unlabeledasd.waveforms import to_float


def embed(
    extractor: MultiResolutionNet,
    root: Path,
    paths: list[str],
    channel: int | None = None,
    batch_size: int = 16,
    num_workers: int = 0,
    device: str | torch.device = "cpu",
    description: str = "embedding",
    precision: str = "32-true",
) -> np.ndarray:
    """Raw embeddings (N, D) float32 of clips, each from its first samples; precision: 32-true or bf16-mixed."""
    dataset = ClipDataset(
        root, paths, np.zeros(len(paths), dtype=int), extractor.n_samples, channel
    )
    items = [(i, 0.0) for i in range(len(paths))]
    loader = DataLoader(
        dataset, batch_size, sampler=items, collate_fn=collate, num_workers=num_workers
    )
    # outside inference mode, which would make these weights unloadable
    extractor = accelerate(extractor.to(device).eval(), device)
    embeddings = []
    with (
        torch.inference_mode(),
        tqdm(total=len(paths), desc=description, unit="clip", leave=False) as bar,
    ):
        for wave, _ in loader:
            wave = wave.to(device)
            with torch.autocast(
                wave.device.type, torch.bfloat16, enabled=precision == "bf16-mixed"
            ):
                embeddings.append(extractor(to_float(wave))[0])
            bar.update(len(wave))
    return torch.cat(embeddings).cpu().numpy()


def score_machines(
    run: Run,
    version: str,
    stem: str,
    table: pd.DataFrame,
    embeddings: np.ndarray,
    scorers: list[BaseEstimator],
    stored: Path | None = None,
) -> None:
    """Fit each machine's scorers on its training clips and write its score and result CSVs.

    table: clips, one row per row of embeddings (N, D). A machine without training clips in `table` is scored by
    the arrays that `stored` keeps. The fitted arrays are written last, to `all/scorers/<version>/`.
    """
    arrays = read_npz(stored) if stored is not None else {}
    for machine in table.machine.unique():
        train, test = (
            (table.machine == machine) & (table.split == split) for split in ("train", "test")
        )
        source, fitted, held_out = train & (table.domain != "target"), [], {}
        for scorer in map(clone, scorers):
            prefix = f"{machine}/{scorer.column}/"
            if train.any():
                is_target = (table.domain[train] == "target").to_numpy()
                held_out[scorer.column] = held_out_scores(scorer, embeddings[train], is_target)
                scorer.fit(embeddings[train], is_target)
                arrays |= {
                    prefix + name: value
                    for name, value in vars(scorer).items()
                    if name.endswith("_")
                }
            elif kept := {
                k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)
            }:
                vars(scorer).update(kept)
            else:
                kept_by = f"and {stored} keeps none of it" if stored else "and the run keeps none"
                raise InputError(f"{machine}: no training clips to fit {scorer.column}, {kept_by}")
            fitted.append(scorer)
        folder = run.version(machine, version)
        for split, rows in (("train", train), ("test", test)):
            if rows.any():
                columns = {scorer.column: scorer.score(embeddings[rows]) for scorer in fitted}
                write_scores(folder, stem, split, score_table(table[rows], columns))
        if source.sum() > 1:
            write_scores(folder, stem, "held_out", score_table(table[source], held_out))
        write_csv(
            folder / f"{stem}_map.csv", plane(table.path[train | test], embeddings[train | test])
        )
    write_npz(run.scorers(version if version == stem else f"{version}/{stem}"), arrays)


def plane(paths: pd.Series, embeddings: np.ndarray) -> pd.DataFrame:
    """The unit-norm embeddings (N, D) of a machine's clips in their plane of greatest variance: path, x, y."""
    xy = np.zeros((len(paths), 2))
    if min(embeddings.shape) > 2:
        xy = PCA(2, svd_solver="full").fit_transform(normalize(embeddings))
    return pd.DataFrame({"path": paths, "x": xy[:, 0].round(4), "y": xy[:, 1].round(4)})
