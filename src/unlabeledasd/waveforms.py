"""Waveforms: reading clips, and bringing them to the one length the network takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from tqdm import tqdm

from unlabeledasd.errors import InputError

if TYPE_CHECKING:  # checking a data folder needs no torch
    from torch import Tensor


def check_clip(path: Path, sample_rate: int, channel: int | None = None) -> float:
    """Read the header alone; return the duration in seconds, or raise InputError if the clip cannot be used."""
    try:
        info = soundfile.info(path)
    except (soundfile.LibsndfileError, OSError) as error:
        raise InputError(f"{path}: cannot be read as audio ({error})") from None
    if info.samplerate != sample_rate:
        raise InputError(f"{path}: sample rate {info.samplerate} Hz, expected {sample_rate} Hz")
    if info.frames == 0:
        raise InputError(f"{path}: no samples in it")
    if channel is None and info.channels > 1:
        raise InputError(f"{path}: {info.channels} channels, expected one (dataset.channel=0 takes the first)")
    if channel is not None and channel >= info.channels:
        raise InputError(f"{path}: {info.channels} channel(s), but dataset.channel={channel} (counted from 0)")
    return info.duration


def check_clips(root: Path, paths: list[str], sample_rate: int, channel: int | None = None) -> None:
    """Check every header, so that a bad clip is told before training starts; 0.1 ms a clip."""
    for path in tqdm(paths, desc="checking clips", unit="clip", leave=False):
        check_clip(root / path, sample_rate, channel)


def read_clip(path: Path, channel: int | None = None) -> np.ndarray:
    """Samples (T,) of one channel: int16 where they are stored as 16-bit PCM, else float32 in [-1, 1]."""
    try:
        with soundfile.SoundFile(path) as file:
            dtype = "int16" if file.subtype == "PCM_16" else "float32"
            wave = file.read(dtype=dtype, always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise InputError(f"{path}: cannot be read as audio ({error})") from None
    if len(wave) == 0:
        raise InputError(f"{path}: no samples in it")
    return wave[:, channel or 0]


def fit_length(wave: np.ndarray, length: int, position: float = 0.0) -> np.ndarray:
    """Bring a waveform (T,) to (length,): a shorter one is repeated from its first sample and cut, a longer one
    gives the window that starts at the fraction `position` in [0, 1) of all possible starts."""
    if len(wave) < length:
        return np.resize(wave, length)
    start = int(position * (len(wave) - length + 1))
    return wave[start : start + length]


def tiled_window(wave: np.ndarray, length: int, position: float = 0.0) -> np.ndarray:
    """Repeat a waveform (T,) past `length`, then take the window at `position`, wherever it starts in the clip."""
    return fit_length(np.tile(wave, length // len(wave) + 1), length, position)


def to_float(wave: Tensor) -> Tensor:
    """16-bit samples / 32768 as float32, without further normalisation; float samples as they are."""
    return wave if wave.is_floating_point() else wave / 32768
