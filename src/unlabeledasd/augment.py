"""Augmentation of a training batch; every draw comes from the generator given."""

import torch
from torch import Generator, Tensor


def mixup(wave: Tensor, soft_labels: Tensor, prob: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Mix each clip with probability `prob` with its partner, and the labels alike.

    wave (B, T), soft_labels (B, C) -> the same shapes: x <- a x + (1 - a) x_partner with an own a ~ U(0, 1)
    per clip, partners from one permutation of the batch (H. Zhang et al., "mixup", ICLR 2018, with alpha = 1).
    """
    size, device = len(wave), wave.device
    a = torch.rand(size, 1, generator=generator, device=device)
    mixed = torch.rand(size, 1, generator=generator, device=device) < prob
    a = torch.where(mixed, a, 1.0)
    partner = torch.randperm(size, generator=generator, device=device)
    return torch.lerp(wave[partner], wave, a), torch.lerp(soft_labels[partner], soft_labels, a)
