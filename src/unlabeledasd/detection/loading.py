"""A detector from a folder: a finished run, or what src/export.py made of one."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import DictConfig

from settings.kept import build_kept, load_config, trained_extractor
from unlabeledasd.detection.detector import Detector, Extractor, Machine, restore
from unlabeledasd.detection.portable import CARD, load_portable
from unlabeledasd.errors import InputError
from unlabeledasd.files import read_npz
from unlabeledasd.runs.folder import Run, version_name


def load_detector(folder: Path, precision: str | None = None) -> Detector:
    """precision: what a run's networks compute in (32-true, bf16-mixed); None: as it trained, if this CPU is made for
    that, else 32-true."""
    try:
        if (folder / CARD).is_file():
            return load_portable(folder, lambda node: build_kept(node, "scorer", folder / CARD))
        return load_run(folder, precision)
    except InputError:
        raise
    except (KeyError, ValueError, TypeError) as error:  # of json, pandas and our own look-ups
        reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise InputError(
            f"{folder}: damaged, or not what this version writes ({reason})"
        ) from error


def load_run(folder: Path, precision: str | None) -> Detector:
    import torch

    from unlabeledasd.fast import accelerate
    from unlabeledasd.runs.hardware import best_precision

    run, config = open_run(folder)
    trained_in, best = config.get("precision", "32-true"), best_precision(torch.device("cpu"))
    precision = precision or (trained_in if trained_in == best else "32-true")
    epochs = list(config.score_epochs)
    extractors = [
        torch_extractor(accelerate(network, "cpu"), precision)
        for network in load_networks(run, config)
    ]
    dataset, extractor = config.dataset, config.model.extractor
    n_samples = round(extractor.clip_seconds * extractor.sample_rate)
    return Detector(
        extractors,
        load_machines(run, config, epochs),
        extractor.sample_rate,
        n_samples,
        dataset.channel,
    )


def open_run(folder: Path) -> tuple[Run, DictConfig]:
    """A finished run and its configuration, or InputError."""
    run = Run(folder)
    if not run.is_done:
        raise InputError(f"{folder}: no finished run there, and no {CARD} of an exported one")
    config = load_config(run)
    if not config.get("scorer"):
        raise InputError(
            f"{folder}: this run has no scorers; a model that only makes pseudo-labels cannot score clips"
        )
    return run, config


def load_networks(run: Run, config: DictConfig) -> Iterator:
    """The extractor after each scored epoch."""
    from unlabeledasd.runs.checkpoints import load_extractor

    for epoch in config.score_epochs:
        yield load_extractor(trained_extractor(run), run.require(run.checkpoint(epoch))).eval()


def torch_extractor(network, precision: str) -> Extractor:
    import torch

    def extract(waves: np.ndarray) -> np.ndarray:
        with (
            torch.inference_mode(),
            torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"),
        ):
            return network(torch.from_numpy(waves))[0].numpy()

    return extract


def load_machines(run: Run, config: DictConfig, epochs: list[int]) -> dict[str, Machine]:
    key, node = next(iter(config.scorer.items()))  # whose scores are averaged
    scorer = build_kept(node, f"scorer.{key}", run.config)
    stored = [read_npz(run.require(run.scorers(version_name([epoch])))) for epoch in epochs]
    names = [key.split("/")[0] for key in stored[0] if key.split("/")[1] == scorer.column]
    version = version_name(epochs)
    stem = "ensemble" if len(epochs) > 1 else version
    machines = {}
    for name in dict.fromkeys(names):
        fitted = [restore(scorer, arrays, f"{name}/{scorer.column}/") for arrays in stored]
        file = run.version(name, version) / f"{stem}_held_out_score.csv"
        held_out = pd.read_csv(file).iloc[:, 3].to_numpy() if file.is_file() else np.empty(0)
        machines[name] = Machine(fitted, held_out)
    return machines
