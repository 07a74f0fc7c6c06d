"""Waveforms: reading clips, and bringing them to the one length the network takes."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from tqdm import tqdm

from unlabeledasd.errors import InputError

if TYPE_CHECKING:  # checking a data folder needs no torch
    from torch import Tensor

HEAD_FRAMES = 1024  # enough to tell recordings apart: noise does not repeat


@contextmanager
def opened(path: Path) -> Iterator[soundfile.SoundFile]:
    """A clip, open for reading; InputError for whatever its bytes lead to."""
    try:
        with soundfile.SoundFile(path) as file:
            yield file
    except InputError:
        raise
    except (soundfile.SoundFileError, OSError, ValueError, TypeError, MemoryError) as error:
        raise InputError(
            f"{path}: cannot be read as audio ({why_unreadable(path) or error})"
        ) from None


def why_unreadable(path: Path) -> str:
    """What the system says, where the audio library says "System error"."""
    try:
        path.open("rb").close()
    except FileNotFoundError:
        return (
            f"a link to {path.readlink()}, which is not there"
            if path.is_symlink()
            else "no such file"
        )
    except OSError as error:
        return str(error.strerror)
    return ""


def check_clip(path: Path, sample_rate: int, channel: int | None = None) -> float:
    """Read the header alone; return the duration in seconds, or raise InputError if the clip cannot be used."""
    with opened(path) as file:
        return check_header(path, file, sample_rate, channel)


def check_header(
    path: Path, file: soundfile.SoundFile, sample_rate: int, channel: int | None
) -> float:
    if file.samplerate != sample_rate:
        raise InputError(f"{path}: sample rate {file.samplerate} Hz, expected {sample_rate} Hz")
    check_whole(path)
    if file.frames == 0:
        raise InputError(f"{path}: no samples in it")
    if channel is None and file.channels > 1:
        raise InputError(
            f"{path}: {file.channels} channels, expected one (dataset.channel=0 takes the first)"
        )
    if channel is not None and channel >= file.channels:
        raise InputError(
            f"{path}: {file.channels} channel(s), but dataset.channel={channel} (counted from 0)"
        )
    return file.frames / sample_rate


def check_whole(path: Path) -> None:
    promised, there = data_bytes(path)
    if there < promised:
        raise InputError(
            f"{path}: truncated, {there:,} of the {promised:,} bytes of samples that its header tells of"
        )


def data_bytes(path: Path) -> tuple[int, int]:
    """Bytes of samples that a wav file's header promises, and that there are; (0, 0) for other files, and where the
    header leaves the size open. The audio library takes what is there without a word."""
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return 0, 0
        while len(chunk := file.read(8)) == 8:
            size = int.from_bytes(chunk[4:], "little")
            if chunk[:4] == b"data":
                start = file.tell()
                return (0, 0) if size == 0xFFFFFFFF else (size, file.seek(0, 2) - start)
            file.seek(size + size % 2, 1)
    return 0, 0


def check_clips(root: Path, paths: list[str], sample_rate: int, channel: int | None = None) -> None:
    """Check every header, so that a bad clip is told before training starts; 0.1 ms a clip.

    Of the first samples, two more things are seen: a recording that lies under two machines is refused, and clips
    without any sound are told.
    """
    known: dict[bytes, str] = {}
    silent = []
    for path in tqdm(paths, desc="checking clips", unit="clip", leave=False):
        with opened(root / path) as file:
            check_header(root / path, file, sample_rate, channel)
            head = file.read(HEAD_FRAMES, dtype="float32", always_2d=True)[:, channel or 0]
        if is_constant(head) and is_constant(read_clip(root / path, channel)):
            silent.append(path)
            continue
        other = known.setdefault(head.tobytes(), path)
        if (
            other.split("/")[0] != path.split("/")[0]
            and (root / other).read_bytes() == (root / path).read_bytes()
        ):
            raise InputError(
                f"{root / path}: the same recording as {other}; a clip belongs to one machine"
            )
    if silent:
        print(
            f"note: {root / silent[0]}: silent, all samples are equal ({len(silent)} such clips); used as it is"
        )


def is_constant(wave: np.ndarray) -> bool:
    return wave.size > 0 and bool(wave.min() == wave.max())


def read_clip(path: Path, channel: int | None = None) -> np.ndarray:
    """Samples (T,) of one channel: int16 where they are stored as 16-bit PCM, else float32: in [-1, 1], unless they
    are stored as floating point numbers, which may be larger (told once) but must be finite."""
    with opened(path) as file:
        dtype = "int16" if file.subtype == "PCM_16" else "float32"
        wave = file.read(dtype=dtype, always_2d=True)
        if len(wave) == 0:
            raise InputError(f"{path}: no samples in it")
        if len(wave) < file.frames:
            told = f"{len(wave):,} of the {file.frames:,} samples that its header tells of"
            raise InputError(f"{path}: truncated, {told}")
        wave = wave[:, channel or 0]
        if file.subtype in ("FLOAT", "DOUBLE"):
            peak = float(np.abs(wave).max())
            if not math.isfinite(peak):
                bad = np.flatnonzero(~np.isfinite(wave))
                first = wave[bad[0]]
                raise InputError(
                    f"{path}: sample {bad[0]} is {first}, not a finite number ({len(bad)} such)"
                )
            if peak > 1:
                tell_loud(path, peak)
    return wave


@cache  # once per process
def tell_loud(path: Path, peak: float) -> None:
    tqdm.write(
        f"note: {path}: samples up to {peak:g}, beyond full scale (1.0); used as they are",
        file=sys.stderr,
    )


def fit_length(wave: np.ndarray, length: int, position: float = 0.0) -> np.ndarray:
    """Bring a waveform (T,) to (length,): a shorter one is repeated from its first sample and cut, a longer one
    gives the window that starts at the fraction `position` in [0, 1) of all possible starts."""
    if len(wave) < length:
        return np.resize(wave, length)
    start = int(position * (len(wave) - length + 1))
    return wave[start : start + length]


def tiled_window(wave: np.ndarray, length: int, position: float = 0.0) -> np.ndarray:
    """Repeat a waveform (T,) ceil(length / T) times, then take the window at `position`."""
    return fit_length(np.tile(wave, -(-length // len(wave))), length, position)


def to_float(wave: Tensor) -> Tensor:
    """16-bit samples / 32768 as float32, without further normalisation; float samples as they are."""
    return wave if wave.is_floating_point() else wave / 32768
