"""What a command sets up for its process: clips, threads, precision, device, trainer."""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from settings.build import build
from unlabeledasd.errors import InputError
from unlabeledasd.files import is_whole
from unlabeledasd.runs.folder import Run

if TYPE_CHECKING:  # slow imports wait until a finished run was skipped
    import pandas as pd
    import pytorch_lightning as pl
    import torch


def load_clips(
    dataset: DictConfig, root: str | Path, required: Sequence[str] = ("train", "test")
) -> "pd.DataFrame":
    """The table of a dataset's clips below `root`, names and headers checked, its counts printed."""
    from unlabeledasd.clips import index_clips, name_notes, summary
    from unlabeledasd.waveforms import check_clips

    root = Path(root)
    machines = [*dataset.machines.development, *dataset.machines.evaluation] or None
    table = index_clips(root, machines, dataset.grammar, required)
    check_clips(root, table.path.tolist(), dataset.sample_rate, dataset.channel)
    print(summary(table), *name_notes(table), sep="\n")
    return table


def use_hardware(config: DictConfig) -> None:
    """Decide what is `auto`, tell it, and use it."""
    from unlabeledasd.runs.hardware import best_precision

    if config.precision == "auto":
        config.precision = best_precision(pick_device(config.trainer.accelerator))
    check_precision(config.precision)
    config.threads = use_threads(config.threads)
    print(f"precision {config.precision}, threads {config.threads}")


def use_threads(threads: int | str) -> int:
    """Results equal to the last digit need as many threads as before; auto: as many as torch takes. -> their number.
    Memory is made fast along the way."""
    import torch

    from unlabeledasd.runs.hardware import keep_memory

    threads = torch.get_num_threads() if threads == "auto" else threads
    if type(threads) is not int or threads < 1:
        raise InputError(f"threads={threads}: allowed are auto and numbers from 1")
    torch.set_num_threads(threads)
    keep_memory()
    # deterministic=true would fill every new tensor, so that reading it by mistake is repeatable: 5 % of a step
    torch.utils.deterministic.fill_uninitialized_memory = False
    return threads


def check_precision(precision: str) -> None:
    from unlabeledasd.runs.hardware import PRECISIONS

    if precision not in PRECISIONS:
        raise InputError(
            f"precision={precision}: allowed are {', '.join(PRECISIONS)}, and auto for a new run"
        )


def fit(
    run: Run,
    config: DictConfig,
    module: "pl.LightningModule",
    data: "pl.LightningDataModule",
    epochs: list[int],
    keep_all: bool = False,
) -> "pl.Trainer":
    """Train until the last of `epochs`, from where the run stopped; keep the weights of `epochs`, or of all."""
    from unlabeledasd.fast import accelerate
    from unlabeledasd.runs import training

    kept = list(range(1, epochs[-1] + 1)) if keep_all else epochs
    callbacks = [
        training.StopAtNonFiniteLoss(run),
        training.KeepEpochs(run, kept),
        training.RecordProgress(run),
        training.ProgressBar(int(os.environ.get("RUNS_AFTER", 0))),
    ]
    # one process, also in a job of Slurm: there Lightning would take signals and requeueing into its own hands
    made = build(
        config.trainer,
        max_epochs=epochs[-1],
        callbacks=callbacks,
        precision=config.precision,
        plugins=[training.CheckpointWriter(), training.LightningEnvironment()],
    )
    if lacking := [epoch for epoch in epochs if not is_whole(run.checkpoint(epoch))]:
        for path in (run.checkpoint(epoch) for epoch in lacking):
            if path.exists():
                print(f"warning: {path}: damaged, its epoch is trained again", file=sys.stderr)
        training.write_environment(run, made)
        accelerate(module.extractor, made.strategy.root_device)
        resume = training.resume_point(run, lacking[0])
        try:
            made.fit(module, data, ckpt_path=resume, weights_only=True)
        except SystemExit:  # Lightning's answer to Ctrl-C, with status 1; job scripts must see that a person stopped it
            if made.interrupted:
                raise KeyboardInterrupt from None
            raise
        except OSError as error:  # of a logger, which does not say where
            raise InputError(
                f"{run.folder}: cannot be written ({error.strerror or error})"
            ) from error
    return made


def pick_device(accelerator: str) -> "torch.device":
    """The device that Lightning means by auto, cpu, gpu, ..."""
    return make_trainer(accelerator, 1).strategy.root_device


def make_trainer(accelerator: str, devices: int | str) -> "pl.Trainer":
    """A trainer that is only asked what it would use."""
    from pytorch_lightning.plugins.environments import LightningEnvironment

    quiet_lightning()
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = {
        "_target_": "pytorch_lightning.Trainer",
        "accelerator": accelerator,
        "devices": devices,
        **silent,
    }
    return build(OmegaConf.create(trainer), plugins=[LightningEnvironment()])


def quiet_lightning() -> None:
    """Keep Lightning's advertisements, hardware list and hints that do not apply here from the terminal."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for hint in (
        "does not have many workers",
        "smaller than the logging interval",
        "treespec, LeafSpec",
        "`srun`",
    ):
        warnings.filterwarnings("ignore", message=f".*{hint}")
