"""All training clips on a device, so that a batch needs neither the disk nor the bus."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from unlabeledasd.waveforms import read_clip


class ClipCache:
    """16-bit samples of clips, one clip after the other on `device`."""

    def __init__(self, clips: list[np.ndarray], device: torch.device):
        self.lengths = torch.tensor([len(clip) for clip in clips])
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.samples = torch.cat([torch.from_numpy(clip) for clip in clips]).to(device)

    @classmethod
    def read(
        cls, root: Path, paths: list[str], channel: int | None, device: torch.device, most_bytes: float
    ) -> "ClipCache | None":
        """None where the clips take more than `most_bytes`, or one of them is not of 16 bits."""
        clips, size = [], 0
        for path in tqdm(paths, desc="clips to the device", unit="clip", leave=False):
            clips.append(np.ascontiguousarray(read_clip(root / path, channel)))
            size += clips[-1].nbytes
            if size > most_bytes or clips[-1].dtype != np.int16:
                return None
        return cls(clips, device)

    def windows(self, index: Tensor, position: Tensor, n_samples: int, tiled: bool) -> Tensor:
        """Windows (B, n_samples) of the clips `index` (B,) at `position` (B,) in [0, 1), as waveforms.fit_length
        places them, or tiled_window."""
        length = self.lengths[index]
        span = length * (n_samples // length + 1) if tiled else length
        first = (position * (span - n_samples + 1).clamp_min(0)).long()  # in float64, on the CPU, as in NumPy
        places = torch.stack([self.starts[index], first, length]).to(self.samples.device, non_blocking=True)
        start, first, length = places[:, :, None]
        steps = torch.arange(n_samples, device=self.samples.device)
        return self.samples[start + (first + steps) % length]
