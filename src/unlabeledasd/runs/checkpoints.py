"""Checkpoints of a run: whether they are intact, where training resumes, their weights.

Quick to import: no Lightning.
"""

import sys
import zipfile
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from unlabeledasd.errors import InputError
from unlabeledasd.runs.folder import Run

Extractor = TypeVar("Extractor", bound=nn.Module)
PREFIX = "extractor."  # of its weights in the Lightning module


def is_intact(checkpoint: Path) -> bool:
    """Whether a checkpoint exists and its checksums hold, which torch.load does not check."""
    try:
        with zipfile.ZipFile(checkpoint) as file:
            return file.testzip() is None
    except Exception:  # any error a corrupt file can raise
        return False


def load_extractor(extractor: Extractor, checkpoint: Path) -> Extractor:
    """The extractor with the weights of a checkpoint; InputError where they do not fit."""
    if not is_intact(checkpoint):
        raise InputError(f"{checkpoint}: corrupt or not a checkpoint; retrain with overwrite=true")
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
        weights = {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}
        extractor.load_state_dict(weights)
    except Exception as error:  # any error a corrupt file can raise
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
        raise InputError(f"{checkpoint}: not a checkpoint of this extractor ({reason})") from error
    return extractor


def finished_epochs(checkpoint: Path) -> int | None:
    """How many epochs were finished when a checkpoint was written; None for a corrupt file."""
    if not is_intact(checkpoint):
        return None
    try:
        return torch.load(checkpoint, map_location="cpu", weights_only=True)["epoch"] + 1
    except Exception:  # any error a file of another program can raise
        return None


def resume_point(run: Run, epoch: int) -> Path | None:
    """The newest checkpoint from which `epoch` is still to be trained; None: the beginning.

    Corrupt checkpoints are reported and passed over.
    """
    for path in (run.last_checkpoint, run.previous_checkpoint):
        if path.exists():
            finished = finished_epochs(path)
            if finished is None:
                print(f"warning: {path}: corrupt, resuming from an earlier state", file=sys.stderr)
            elif finished < epoch:
                return path
    return None
