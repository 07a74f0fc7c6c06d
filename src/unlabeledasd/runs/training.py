"""Training of one run by Lightning: resuming, kept checkpoints, progress, losses not finite."""

import io
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import nn
from tqdm import tqdm

from unlabeledasd.errors import InputError
from unlabeledasd.fast import accelerate
from unlabeledasd.fast.graph import GraphedExtractor
from unlabeledasd.files import replacing, write_json
from unlabeledasd.runs.checkpoints import is_intact, resume_point
from unlabeledasd.runs.environment import write_environment
from unlabeledasd.runs.folder import Run, version_name
from unlabeledasd.runs.state import duration


def fit(
    run: Run,
    make_trainer: Callable[..., pl.Trainer],
    module: Any,
    data: pl.LightningDataModule,
    epochs: Sequence[int],
    keep_all: bool = False,
    runs_after: int = 0,
    graph: bool = False,
) -> pl.Trainer:
    """Train until the last of `epochs`, resuming where the run stopped -> the trainer.

    epochs: counted from 1, ascending; their weights are kept, with `keep_all` those of every
    epoch. [0] trains nothing and keeps the weights as they are. make_trainer: takes the arguments
    of pl.Trainer that are set here. runs_after: how many runs follow, for the estimate of the time
    left. module: a LightningModule with `extractor`.
    graph: of a modules.DiscriminativeModule on a GPU, see fast.graph.GraphedExtractor.
    """
    if not isinstance(graph, bool):
        raise InputError(f"graph={graph}: allowed are true and false")
    callbacks = [
        StopAtNonFiniteLoss(run),  # before anything is saved
        KeepEpochs(run, range(1, epochs[-1] + 1) if keep_all else epochs),
        RecordProgress(run),
        ProgressBar(runs_after),
    ]
    # one process, also in a job of Slurm: there Lightning would handle signals and requeueing
    plugins = [CheckpointWriter(), LightningEnvironment()]
    trainer = make_trainer(max_epochs=epochs[-1], callbacks=callbacks, plugins=plugins)
    if list(epochs) == [0]:
        keep_untrained(run, module)
        write_environment(run, trainer)
        return trainer
    lacking = [epoch for epoch in epochs if not is_intact(run.checkpoint(epoch))]
    for epoch in lacking:
        if run.checkpoint(epoch).exists():
            file = run.checkpoint(epoch)
            print(f"warning: {file}: corrupt, training this epoch again", file=sys.stderr)
    if lacking:
        write_environment(run, trainer)
        device = trainer.strategy.root_device
        # not of modules that record no graph; whether this one does leaves the results alone
        accelerate(module.extractor, device, kernels=hasattr(module, "graphed"))
        if graph and device.type == "cuda":
            module.graphed = GraphedExtractor(module.extractor)
        resume = resume_point(run, lacking[0])
        try:
            trainer.fit(module, data, ckpt_path=resume, weights_only=True)
        except SystemExit:  # Lightning's answer to Ctrl-C, with status 1
            if trainer.interrupted:
                raise KeyboardInterrupt from None  # job scripts must see that a person stopped it
            raise
        except OSError as error:  # of a logger, which does not say where
            reason = error.strerror or error
            raise InputError(f"{run.folder}: cannot be written ({reason})") from error
    return trainer


def keep_untrained(run: Run, module: nn.Module) -> None:
    """Write the weights of a module as those of epoch 0, unless an intact file has them."""
    if not is_intact(run.checkpoint(0)):
        run.scorers(version_name([0])).unlink(missing_ok=True)
        with replacing(run.checkpoint(0)) as path:
            torch.save({"state_dict": module.state_dict()}, path)


class CheckpointWriter(TorchCheckpointIO):
    """Writes a checkpoint to the path given.

    Lightning's own writer uses a file in the system's temporary folder, which a killed process
    leaves there.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        Path(path).write_bytes(buffer.getbuffer())


class KeepEpochs(pl.Callback):
    """Keeps the weights of `epochs`, and after every epoch the last two checkpoints to resume."""

    def __init__(self, run: Run, epochs: Sequence[int]):
        self.run, self.epochs = run, epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if epoch in self.epochs:
            with replacing(self.run.checkpoint(epoch)) as path:
                trainer.save_checkpoint(path, weights_only=True)
            # those of the same name were made with other weights
            self.run.embeddings(version_name([epoch])).unlink(missing_ok=True)
            self.run.scorers(version_name([epoch])).unlink(missing_ok=True)
        with replacing(self.run.last_checkpoint) as path:
            trainer.save_checkpoint(path)
            if is_intact(self.run.last_checkpoint):
                self.run.last_checkpoint.replace(self.run.previous_checkpoint)


class RecordProgress(pl.Callback):
    """Writes progress.json after every epoch, for jobs/status.sh; comes after KeepEpochs."""

    def __init__(self, run: Run):
        self.run = run
        self.seconds: list[float] = []  # of each epoch that this process trained

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.write(trainer.current_epoch, trainer)
        self.begun = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        now = time.monotonic()
        self.seconds.append(round(now - self.begun, 3))
        self.begun = now
        self.write(trainer.current_epoch + 1, trainer)

    def write(self, epoch: int, trainer: pl.Trainer) -> None:
        progress = {"epoch": epoch, "epochs": trainer.max_epochs, "seconds": self.seconds}
        write_json(self.run.progress, progress)


class StopAtNonFiniteLoss(pl.Callback):
    """Stops the run at a loss that is not finite, before anything of its epoch is saved.

    On a CPU after the step, elsewhere at the end of the epoch: no step waits for the device.
    """

    def __init__(self, run: Run):
        self.run = run
        self.steps: list[tuple] = []  # loss, index of the batch, step, learning rate

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.steps.append((outputs["loss"].detach(), index, trainer.global_step, rate))
        if outputs["loss"].device.type == "cpu":
            self.check_losses(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.check_losses(trainer)
        # a gradient that is not finite may have spoiled the weights in the last step
        values = module.state_dict()
        if bad := [name for name, value in values.items() if not value.isfinite().all()]:
            self.stop(trainer, f"{', '.join(bad[:3])} not finite after step {trainer.global_step}")

    def check_losses(self, trainer: pl.Trainer) -> None:
        for loss, index, step, rate in self.steps:
            if not loss.isfinite():
                clips = ", ".join(batch_clips(trainer, index))
                where = f"at step {step}, learning rate {rate:g}, clips: {clips}"
                self.stop(trainer, f"loss {loss.item()} {where}")
        self.steps.clear()

    def stop(self, trainer: pl.Trainer, what: str) -> None:
        epoch = trainer.current_epoch
        kept = f"the state after epoch {epoch} is kept" if epoch else "nothing is kept"
        raise InputError(f"{self.run.folder}: epoch {epoch + 1}: {what}; training stopped, {kept}")


def batch_clips(trainer: Any, index: int) -> list[str]:
    """Paths of the clips in a batch of this epoch, whose draws depend on seed and epoch alone."""
    loader = trainer.datamodule.train_dataloader()
    loader.sampler.set_epoch(trainer.current_epoch)
    batch = list(loader.batch_sampler)[index]
    return [trainer.datamodule.dataset.paths[clip] for clip, _ in batch]


class ProgressBar(pl.Callback):
    """One bar over the whole training, in steps; after the first ones an estimate of the time."""

    FIRST, LAST = 5, 20  # steps between which the pace is measured

    def __init__(self, runs_after: int = 0):
        self.runs_after = runs_after

    def on_train_start(self, trainer: Any, module: pl.LightningModule) -> None:
        self.bar = tqdm(
            total=trainer.num_training_batches * trainer.max_epochs,
            initial=trainer.global_step,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 30,  # for a log file
        )

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        bar = self.bar
        if bar.n % trainer.log_every_n_steps == 0:
            epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            bar.set_description(epoch, refresh=False)
            bar.set_postfix(loss=f"{trainer.callback_metrics['loss_step']:.3f}", refresh=False)
        bar.update()
        if bar.n - bar.initial == self.FIRST:
            self.start = time.monotonic()
        elif bar.n - bar.initial == self.LAST:
            pace = (time.monotonic() - self.start) / (self.LAST - self.FIRST)
            left = (bar.total - bar.n) * pace
            text = f"about {duration(left)} of training left for this run"
            if self.runs_after:
                every = duration(left + self.runs_after * bar.total * pace)
                text += f", {every} with the {self.runs_after} after it"
            bar.write(text, file=sys.stderr)

    def on_exception(self, *_: Any) -> None:  # its message begins a new line
        self.teardown()

    def teardown(self, *_: Any, **__: Any) -> None:
        if hasattr(self, "bar"):
            self.bar.close()
