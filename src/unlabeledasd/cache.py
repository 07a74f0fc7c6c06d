"""All training clips on a device, so that a batch needs neither the disk nor the bus."""

from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from unlabeledasd.audio import AudioFile
from unlabeledasd.audio.two_channels import Channel
from unlabeledasd.waveforms import is_16_bit, read_clip


class ClipCache:
    """16-bit samples of clips, one clip after the other on a device."""

    def __init__(self, lengths: list[int], device: torch.device):
        self.lengths = torch.tensor(lengths)
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.samples = torch.empty(sum(lengths), dtype=torch.int16, device=device)

    @classmethod
    def read(
        cls,
        root: Path,
        paths: list[str],
        channel: Channel,
        device: torch.device,
        most_bytes: float,
    ) -> "ClipCache | None":
        """The cache of all clips; None where it would take more than `most_bytes`.

        None too where it would take more than half of the free memory of a GPU, or where a clip is
        not of 16 bits.
        """
        if device.type == "cuda":
            most_bytes = min(most_bytes, torch.cuda.mem_get_info(device)[0] / 2)
        headers = [header(root / path, channel) for path in paths]
        if (
            any(not is_16_bit for _, is_16_bit in headers)
            or 2 * sum(length for length, _ in headers) > most_bytes
        ):
            return None
        cache = cls([length for length, _ in headers], device)
        places = cache.samples.split(cache.lengths.tolist())
        for path, place in zip(
            tqdm(paths, desc="clips to the device", unit="clip", leave=False), places, strict=True
        ):
            place.copy_(torch.from_numpy(read_clip(root / path, channel)))
        return cache

    def beginnings(self, index: Tensor, n_samples: int) -> Tensor:
        """The first samples (B, n_samples) of the clips `index` (B,), as scoring takes them."""
        return self.windows(index, torch.zeros(len(index), dtype=torch.float64), n_samples, False)

    def windows(self, index: Tensor, position: Tensor, n_samples: int, tiled: bool) -> Tensor:
        """Windows (B, n_samples) of the clips `index` (B,) at `position` (B,) in [0, 1).

        They are placed as waveforms.fit_length does, or tiled_window where `tiled`.
        """
        length = self.lengths[index]
        span = length * -(-n_samples // length) if tiled else length
        # in float64 on the CPU, as NumPy computes it
        first = (position * (span - n_samples + 1).clamp_min(0)).long()
        places = torch.stack([self.starts[index], first, length])
        start, first, length = places.to(self.samples.device, non_blocking=True)[:, :, None]
        steps = torch.arange(n_samples, device=self.samples.device)
        return self.samples[start + (first + steps) % length]


def header(path: Path, channel: Channel) -> tuple[int, bool]:
    """Samples per channel, and whether read_clip gives 16-bit ones."""
    with AudioFile(path) as file:
        return file.frames, is_16_bit(file, channel)
