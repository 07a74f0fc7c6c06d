"""Training of one run: Lightning callbacks for checkpoints and progress, and the record of what it ran on."""

import io
import os
import platform
import subprocess
import sys
import time
from collections import deque
from importlib.metadata import version
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment as LightningEnvironment
from pytorch_lightning.plugins.io import TorchCheckpointIO
from tqdm import tqdm

import unlabeledasd
from unlabeledasd.errors import InputError
from unlabeledasd.files import is_whole, replacing, write_json
from unlabeledasd.runs.folder import Run, version_name
from unlabeledasd.runs.state import duration

PACKAGES = (
    "torch",
    "torchaudio",
    "pytorch-lightning",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "soundfile",
)


class CheckpointWriter(TorchCheckpointIO):
    """Writes to the path given; Lightning's own goes by a file in the system's temporary folder, which a killed
    process leaves there."""

    def save_checkpoint(self, checkpoint: dict, path: Path, storage_options: None = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        Path(path).write_bytes(buffer.getbuffer())


class KeepEpochs(pl.Callback):
    """Keeps the weights of the epochs given, and after every epoch the state to go on from, and the one before."""

    def __init__(self, run: Run, epochs: list[int]):
        self.run, self.epochs = run, epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if epoch in self.epochs:
            with replacing(self.run.checkpoint(epoch)) as path:
                trainer.save_checkpoint(path, weights_only=True)
            self.run.scorers(version_name([epoch])).unlink(
                missing_ok=True
            )  # they were those of other weights
        with replacing(self.run.last_checkpoint) as path:
            trainer.save_checkpoint(path)
            if is_whole(self.run.last_checkpoint):
                self.run.last_checkpoint.replace(self.run.previous_checkpoint)


def finished_epochs(checkpoint: Path) -> int | None:
    """Epochs that were finished when a state was kept; None if the file is damaged or not of this program."""
    if not is_whole(checkpoint):
        return None
    try:
        return torch.load(checkpoint, map_location="cpu", weights_only=True)["epoch"] + 1
    except Exception:  # a file of another program raises whatever its bytes lead to
        return None


def resume_point(run: Run, epoch: int) -> Path | None:
    """The newest state to go on from that has `epoch` still before it; None: the start. Damage is told."""
    for path in (run.last_checkpoint, run.previous_checkpoint):
        if path.exists():
            finished = finished_epochs(path)
            if finished is None:
                print(
                    f"warning: {path}: damaged, training goes on from what is before it",
                    file=sys.stderr,
                )
            elif finished < epoch:
                return path
    return None


class RecordProgress(pl.Callback):
    """Writes after every epoch how far training is, for jobs/status.sh: goes after KeepEpochs."""

    def __init__(self, run: Run):
        self.run, self.seconds = run, []  # of each epoch that this process trained

    def on_train_start(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        self.write(trainer.current_epoch, trainer)
        self.begun = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        now = time.monotonic()
        self.seconds.append(round(now - self.begun, 3))
        self.begun = now
        self.write(trainer.current_epoch + 1, trainer)

    def write(self, epoch: int, trainer: pl.Trainer) -> None:
        write_json(
            self.run.progress,
            {"epoch": epoch, "epochs": trainer.max_epochs, "seconds": self.seconds},
        )


class StopAtNonFiniteLoss(pl.Callback):
    """Stops the run when the loss is not finite, before anything of it is saved: goes before KeepEpochs.

    A GPU is not waited for: its losses are looked at when they have arrived, a step or two later, and at the end
    of the epoch.
    """

    def __init__(self, run: Run):
        self.run = run

    def on_train_epoch_start(self, *_) -> None:
        self.pending = deque()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: dict,
        batch: object,
        index: int,
    ) -> None:
        loss, arrived = outputs["loss"].detach(), None
        if loss.is_cuda:
            loss = loss.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        learning_rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.pending.append((loss, arrived, index, trainer.global_step, learning_rate))
        while self.pending and (self.pending[0][1] is None or self.pending[0][1].query()):
            self.look(trainer, *self.pending.popleft())

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        while self.pending:
            self.pending[0][1].synchronize()
            self.look(trainer, *self.pending.popleft())
        # the last step may have spoiled the weights with a gradient that is not finite
        finite = [value.isfinite().all() for value in module.state_dict().values()]
        if not torch.stack(finite).all():
            bad = [name for name, good in zip(module.state_dict(), finite, strict=True) if not good]
            self.stop(trainer, f"{', '.join(bad[:3])} not finite after step {trainer.global_step}")

    def look(
        self,
        trainer: pl.Trainer,
        loss: torch.Tensor,
        _,
        index: int,
        step: int,
        learning_rate: float,
    ) -> None:
        if not loss.isfinite():
            clips = ", ".join(batch_clips(trainer, index))
            self.stop(
                trainer,
                f"loss {loss.item()} at step {step}, learning rate {learning_rate:g}, clips: {clips}",
            )

    def stop(self, trainer: pl.Trainer, what: str) -> None:
        kept = (
            f"the state after epoch {trainer.current_epoch} is"
            if trainer.current_epoch
            else "nothing is"
        )
        raise InputError(
            f"{self.run.folder}: epoch {trainer.current_epoch + 1}: {what}; training stopped, {kept} kept"
        )


def batch_clips(trainer: pl.Trainer, index: int) -> list[str]:
    """Paths of the clips in a batch of this epoch: what is drawn depends on seed and epoch alone, so draw it again."""
    loader = trainer.datamodule.train_dataloader()
    loader.sampler.set_epoch(trainer.current_epoch)
    batch = list(loader.batch_sampler)[index]
    return [trainer.datamodule.dataset.paths[clip] for clip, _ in batch]


class ProgressBar(pl.Callback):
    """One bar over the whole training, in steps; after the first steps a line about the runs that follow."""

    FIRST, LAST = 5, 20  # steps between which the pace for that line is measured

    def __init__(self, runs_after: int = 0):
        self.runs_after = runs_after

    def on_train_start(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        total = trainer.num_training_batches * trainer.max_epochs
        # in a log file a line twice a minute is enough
        self.bar = tqdm(
            total=total,
            initial=trainer.global_step,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 30,
        )

    def on_train_batch_end(self, trainer: pl.Trainer, *_) -> None:
        bar = self.bar
        if bar.n % trainer.log_every_n_steps == 0:
            bar.set_description(
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", refresh=False
            )
            bar.set_postfix(loss=f"{trainer.callback_metrics['loss_step']:.3f}", refresh=False)
        bar.update()
        if bar.n - bar.initial == self.FIRST:
            self.start = time.monotonic()
        elif bar.n - bar.initial == self.LAST:
            pace = (time.monotonic() - self.start) / (self.LAST - self.FIRST)
            left = (bar.total - bar.n) * pace
            text = f"about {duration(left)} of training left for this run"
            if self.runs_after:
                text += f", {duration(left + self.runs_after * bar.total * pace)} with the {self.runs_after} after it"
            bar.write(text, file=sys.stderr)

    def on_exception(self, *_) -> None:  # what is told of it begins a new line
        self.teardown()

    def teardown(self, *_, **__) -> None:
        if hasattr(self, "bar"):
            self.bar.close()


def processor() -> str:
    """Name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def write_environment(run: Run, trainer: pl.Trainer) -> None:
    """Record what the run is trained on: versions, device, precision, threads, git revision."""
    device = trainer.strategy.root_device
    try:
        revision = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        revision = None
    write_json(
        run.environment,
        {
            "unlabeledasd": unlabeledasd.__version__,
            "git_revision": revision,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": str(device),
            "device_name": torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else processor(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "precision": str(trainer.precision),
            "packages": {name: version(name) for name in PACKAGES},
        },
    )
