"""Training of one run: Lightning callbacks for checkpoints and progress, and the record of what it ran on."""

import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytorch_lightning as pl
import torch
from tqdm import tqdm

import unlabeledasd
from unlabeledasd.runs import Run, replacing, write_json

PACKAGES = ("torch", "torchaudio", "pytorch-lightning", "numpy", "scipy", "scikit-learn", "pandas", "soundfile")


class KeepEpochs(pl.Callback):
    """Keeps the weights of the epochs that are scored, and after every epoch the state to go on from."""

    def __init__(self, run: Run, epochs: list[int]):
        self.run, self.epochs = run, epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if epoch in self.epochs:
            with replacing(self.run.checkpoint(epoch)) as path:
                trainer.save_checkpoint(path, weights_only=True)
        with replacing(self.run.last_checkpoint) as path:
            trainer.save_checkpoint(path)


class ProgressBar(pl.Callback):
    """One bar over the whole training, in steps; after the first steps a line about the runs that follow."""

    FIRST, LAST = 5, 20  # steps between which the pace for that line is measured

    def __init__(self, runs_after: int = 0):
        self.runs_after = runs_after

    def on_train_start(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        total = trainer.num_training_batches * trainer.max_epochs
        # in a log file a line twice a minute is enough
        self.bar = tqdm(total=total, initial=trainer.global_step, unit="step", dynamic_ncols=True,
                        mininterval=0.5 if sys.stderr.isatty() else 30)  # fmt: skip

    def on_train_batch_end(self, trainer: pl.Trainer, *_) -> None:
        bar = self.bar
        if bar.n % trainer.log_every_n_steps == 0:
            bar.set_description(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", refresh=False)
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

    def teardown(self, *_, **__) -> None:
        if hasattr(self, "bar"):
            self.bar.close()


def duration(seconds: float) -> str:
    """90 -> "1.5 min"."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def processor() -> str:
    """Name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def write_environment(run: Run, trainer: pl.Trainer) -> None:
    """Record what the run is trained on: versions, device, precision, threads, git revision."""
    device = trainer.strategy.root_device
    try:
        revision = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent,
                                  capture_output=True, text=True, check=True).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        revision = None
    write_json(run.environment, {
        "unlabeledasd": unlabeledasd.__version__,
        "git_revision": revision,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "precision": str(trainer.precision),
        "packages": {name: version(name) for name in PACKAGES},
    })  # fmt: skip
