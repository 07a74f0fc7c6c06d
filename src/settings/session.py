"""What a command sets up for its process: clips, precision, threads, device, trainer."""

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from settings.build import build
from settings.datasets import index_dataset
from unlabeledasd.errors import InputError, check_range

if TYPE_CHECKING:  # slow imports wait until a finished run was skipped
    import pandas as pd
    import pytorch_lightning as pl
    import torch


def load_clips(
    dataset: DictConfig, root: str | Path, required: Sequence[str] = ("train", "test")
) -> "pd.DataFrame":
    """The table of a dataset's clips below `root`; checks names and headers, prints counts."""
    from unlabeledasd.audio.clip_names import name_notes
    from unlabeledasd.clips import summary
    from unlabeledasd.waveforms import check_clips

    notes: list[str] = []
    table = index_dataset(dataset, root, required, notes)
    print(*notes, sep="\n", end="\n" * bool(notes))
    paths, conditions = table.path.tolist(), table.condition.tolist()
    check_clips(Path(root), paths, dataset.sample_rate, dataset.channel, conditions)
    print(summary(table), *name_notes(table, dataset.grammar), sep="\n")
    return table


def clip_folder(dataset: DictConfig, root: str | Path) -> Path:
    """Where a dataset's clips are read: `root`, or with resample=true their converted form."""
    root = Path(root)
    if not dataset.get("resample") or not root.is_dir():
        return root
    from unlabeledasd.detection.resampled import resample_clips

    paths = index_dataset(dataset, root, required=()).path.tolist()
    return resample_clips(root, paths, dataset.sample_rate, dataset.channel)


def use_hardware(config: DictConfig) -> None:
    """Decide precision and threads where they are `auto`, and set up the process for them."""
    from unlabeledasd.runs.hardware import (
        best_precision,
        check_precision,
        keep_memory,
        use_threads,
    )

    if config.precision == "auto":
        config.precision = best_precision(pick_device(config.trainer.accelerator))
    check_precision(config.precision)
    config.threads = use_threads(config.threads)
    keep_memory()
    print(f"precision {config.precision}, threads {config.threads}")


def seed_initialisation(seed: int) -> None:
    """Seed what a network draws when it is made."""
    from pytorch_lightning import seed_everything

    check_range("seed", seed, 0, 2**32 - 1)
    seed_everything(seed, verbose=False)


def runs_after() -> int:
    """How many runs of the same job script follow, from RUNS_AFTER."""
    text = os.environ.get("RUNS_AFTER", "0")
    if not text.isdecimal():
        raise InputError(f"RUNS_AFTER={text}: a whole number of runs, at least 0")
    return int(text)


def pick_device(accelerator: str) -> "torch.device":
    """The device that Lightning means by auto, cpu, gpu, ..."""
    return make_trainer(accelerator, 1).strategy.root_device


def make_trainer(accelerator: str, devices: int | str) -> "pl.Trainer":
    """A trainer that is only asked what it would use."""
    from pytorch_lightning.plugins.environments import LightningEnvironment

    quiet_lightning()
    trainer = {
        "_target_": "pytorch_lightning.Trainer",
        "accelerator": accelerator,
        "devices": devices,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
    }
    return build(OmegaConf.create(trainer), plugins=[LightningEnvironment()])


def quiet_lightning() -> None:
    """Keep Lightning's advertisements, device list and irrelevant hints from the terminal."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    hints = (
        "does not have many workers",
        "smaller than the logging interval",
        "treespec, LeafSpec",
        "`srun`",
    )
    for hint in hints:
        warnings.filterwarnings("ignore", message=f".*{hint}")
