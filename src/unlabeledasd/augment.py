"""Augmentation of a training batch; every draw comes from the given generator."""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

Transformation = Callable[[Tensor, Generator], Tensor]


def mixup(
    wave: Tensor, soft_labels: Tensor, prob: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Mix each clip and its label with a partner's, with probability `prob`.

    wave (B, T), soft_labels (B, C) -> the same shapes: x <- a x + (1 - a) x_partner, a ~ U(0, 1)
    drawn per clip, partners from one permutation of the batch (H. Zhang et al., "mixup", ICLR 2018,
    with alpha = 1).
    """
    size, device = len(wave), wave.device
    a = torch.rand(size, 1, generator=generator, device=device)
    mixed = torch.rand(size, 1, generator=generator, device=device) < prob
    a = torch.where(mixed, a, 1.0)
    partner = torch.randperm(size, generator=generator, device=device)
    return torch.lerp(wave[partner], wave, a), torch.lerp(soft_labels[partner], soft_labels, a)


def exchange_features(
    branches: list[Tensor], soft_labels: Tensor, prob: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Feature exchange: with probability `prob` a clip takes each branch from another clip.

    branches: B tensors (N, D); soft_labels (N, C) -> embedding (N, B D), labels (N, C (B + 1)).
    An exchanged clip takes every branch from an independent permutation of the batch and has the
    label [0, y_perm1 / B, ..., y_permB / B]; another keeps its own, with the label [y, 0, ..., 0].
    """
    n_clips, n_branches, device = len(soft_labels), len(branches), soft_labels.device
    exchanged = torch.rand(n_clips, 1, generator=generator, device=device) < prob
    own = torch.arange(n_clips, device=device)
    taken, labels = [], [torch.where(exchanged, 0.0, soft_labels)]
    for branch in branches:
        permuted = torch.randperm(n_clips, generator=generator, device=device)
        partner = torch.where(exchanged.squeeze(1), permuted, own)
        taken.append(branch[partner])
        labels.append(torch.where(exchanged, soft_labels[partner] / n_branches, 0.0))
    return torch.cat(taken, dim=1), torch.cat(labels, dim=1)


def transform(
    wave: Tensor, classes: Tensor, transformations: Sequence[Transformation], generator: Generator
) -> tuple[Tensor, Tensor]:
    """Change equal parts of a batch, each by one transformation; one part stays as it is.

    wave (B, T), classes (B,) -> the same shapes, in another order: clips of class c that the k-th
    transformation changed have the class c (V + 1) + k of V transformations, k = 0 the others.
    """
    order = torch.randperm(len(wave), generator=generator, device=wave.device)
    parts = order.tensor_split(len(transformations) + 1)
    changes: list[Transformation] = [lambda same, _: same, *transformations]
    pairs = zip(changes, parts, strict=True)
    waves = [change(wave[part], generator) if len(part) else wave[part] for change, part in pairs]
    kinds = torch.cat([torch.full_like(part, k) for k, part in enumerate(parts)])
    return torch.cat(waves), classes[order] * len(changes) + kinds
