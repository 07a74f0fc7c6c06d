"""Weights that a run kept, without what training needs: quick to import."""

from pathlib import Path

import torch
from torch import nn

from unlabeledasd.errors import InputError
from unlabeledasd.files import is_whole


def load_extractor(extractor: nn.Module, checkpoint: Path) -> nn.Module:
    """Fill an extractor with the weights that a run kept."""
    prefix = "extractor."
    if not is_whole(checkpoint):
        raise InputError(
            f"{checkpoint}: damaged or not a checkpoint; overwrite=true trains its run anew"
        )
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
        extractor.load_state_dict(
            {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        )
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
        raise InputError(f"{checkpoint}: not a checkpoint of this extractor ({reason})") from error
    return extractor
