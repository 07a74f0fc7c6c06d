"""The record of what a run is trained on: versions, device, precision, threads, git revision."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytorch_lightning as pl
import torch

import unlabeledasd
from unlabeledasd.files import write_json
from unlabeledasd.runs.folder import Run

PACKAGES = (
    *("torch", "torchaudio", "pytorch-lightning", "numpy", "scipy", "scikit-learn", "pandas"),
    "soundfile",
)


def write_environment(run: Run, trainer: pl.Trainer) -> None:
    device = trainer.strategy.root_device
    on_gpu = device.type == "cuda"
    environment = {
        "unlabeledasd": unlabeledasd.__version__,
        "git_revision": git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if on_gpu else processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "precision": str(trainer.precision),
        "packages": {name: version(name) for name in PACKAGES},
    }
    write_json(run.environment, environment)


def git_revision() -> str | None:
    """Of the checkout that this file is part of; None for an installed package."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def processor() -> str:
    """The name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
