"""Augmentation of a training batch; every draw comes from the given generator."""

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


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


def mix_at_snr(signal: Tensor, noise: Tensor, snr_db: Tensor) -> Tensor:
    """signal + g noise with a power ratio of snr_db (B,), magnitude spectrograms (B, F, frames)."""
    power, noise_power = (x.square().mean((1, 2)) for x in (signal, noise))
    # the least power: far below one bit of one sample, but silence gets a finite gain
    gain = (power / noise_power.clamp_min(1e-20) / 10 ** (snr_db / 10)).sqrt()
    return signal + gain[:, None, None] * noise


def stretch(spectrogram: Tensor, ratio: float, axis: int) -> Tensor:
    """Stretch a spectrogram (F, frames) by `ratio` in frequency (axis 0) or time (axis 1).

    The result has the same shape. Bilinear with antialiasing, to int(length x ratio) positions.
    What gets longer is cropped; what gets shorter is repeated from its start in time, and padded
    with zeros above in frequency.
    """
    size = list(spectrogram.shape)
    length = size[axis]
    size[axis] = int(length * ratio)
    stretched = F.interpolate(spectrogram[None, None], size, mode="bilinear", antialias=True)[0, 0]
    if axis == 1:
        return stretched.repeat(1, -(-length // size[1]))[:, :length]
    return F.pad(stretched, (0, 0, 0, max(0, length - size[0])))[:length]
