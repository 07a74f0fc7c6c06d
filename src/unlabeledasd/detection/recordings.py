"""Recordings of any sample rate, length and number of channels, as windows that an extractor takes.

Read and resampled block by block, so that memory does not grow with the length of a recording.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import soxr

from unlabeledasd.audio import AudioFile
from unlabeledasd.audio.levels import Levels, check_values, length_notes
from unlabeledasd.audio.two_channels import Channel, last_channel, take_channel
from unlabeledasd.errors import InputError
from unlabeledasd.waveforms import fit_length

BLOCK_SECONDS = 10
W1_SECONDS = 60  # a clip is one block, as in training; a longer recording has a filter for each
RATES = (1_000, 1_000_000)  # Hz


def read_blocks(
    path: Path, sample_rate: int, channel: Channel = None, notes: list[str] | None = None
) -> Iterator[np.ndarray]:
    """Blocks (T,) float32, full scale 1.0, at `sample_rate`, resampled by soxr: the recording.

    channel: counted from 0; None: the mean of all. A recording of one channel is taken as it is.
    notes: gets what a user should know of the score, when the last block was read.
    """
    with AudioFile(path) as file:
        named = isinstance(channel, str)
        last = channel if isinstance(channel, int) else last_channel(channel)
        if not 0 <= last < file.channels and (named or file.channels > 1):
            counted = "two are needed" if named else "from 0"
            raise InputError(
                f"{path}: {file.channels} channels, but channel {channel} is asked for ({counted})"
            )
        if not RATES[0] <= file.sample_rate <= RATES[1]:
            allowed = f"allowed are {RATES[0]:,} to {RATES[1]:,}"
            raise InputError(f"{path}: sample rate {file.sample_rate:,} Hz, {allowed}")
        is_mean = channel is None and file.channels > 1
        levels, place = Levels(), 0
        resampler = soxr.ResampleStream(file.sample_rate, sample_rate, 1, dtype="float32")
        seconds = W1_SECONDS if channel == "w1" else BLOCK_SECONDS
        for block in file.blocks(seconds * file.sample_rate):
            one = channel if file.channels > 1 else 0
            wave = block.mean(axis=1) if is_mean else np.ascontiguousarray(take_channel(block, one))
            with file.explained():
                check_values(wave, place)
            place += len(wave)
            levels.add(wave, block if is_mean else None)
            yield wave if file.sample_rate == sample_rate else resampler.resample_chunk(wave)
        if file.sample_rate != sample_rate:
            yield resampler.resample_chunk(np.empty(0, np.float32), last=True)
        if notes is not None:
            notes += file.notes + length_notes(place, file.sample_rate)
            notes += levels.notes(file.is_float)


def array_blocks(
    samples: np.ndarray, rate: float, sample_rate: int, channel: Channel = None
) -> Iterator[np.ndarray]:
    """Samples (T,) or (T, channels) at `rate` as one block (T',) float32 at `sample_rate`.

    channel: as in read_blocks. Integers (int16, int32) are scaled to [-1, 1).
    """
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2):
        raise InputError(f"samples of shape {samples.shape}: expected (T,) or (T, channels)")
    if not rate > 0:
        raise InputError(f"sample_rate={rate}: more than 0, in Hz")
    if samples.dtype in (np.int16, np.int32):
        samples = samples / (np.iinfo(samples.dtype).max + 1.0)
    elif not np.issubdtype(samples.dtype, np.floating):
        raise InputError(f"samples of dtype {samples.dtype}: expected float, int16 or int32")
    if samples.ndim == 2:
        count = samples.shape[1]
        last = channel if isinstance(channel, int) else last_channel(channel)
        if not 0 <= last < count and (count > 1 or isinstance(channel, str)):
            raise InputError(f"samples of {count} channels, but channel={channel} (from 0)")
        one = 0 if count == 1 else channel
        samples = samples.mean(axis=1) if one is None else take_channel(samples, one)
    elif isinstance(channel, str) and last_channel(channel):
        raise InputError(f"samples of one channel, but channel={channel}")
    if not np.isfinite(samples).all():
        raise InputError("samples: not all of them are finite numbers")
    wave = np.ascontiguousarray(samples, dtype=np.float32)
    yield wave if rate == sample_rate else soxr.resample(wave, rate, sample_rate)


def windows(
    blocks: Iterable[np.ndarray], length: int, hop: int
) -> Iterator[tuple[int, np.ndarray]]:
    """(first sample, window (length,)) of a recording that comes in blocks (T,).

    Up to `length` samples: one window, repeated from its first sample as in training. Longer: one
    every `hop` samples, and a last one that ends where the recording does. Nothing for an empty
    recording.
    """
    if not 0 < hop <= length:
        raise ValueError(f"hop={hop}: at least 1 and at most {length}")
    start, ahead, last = 0, np.empty(0, np.float32), None  # ahead: samples from `start` on
    for block in blocks:
        ahead = np.concatenate([ahead, block])
        while len(ahead) >= length:
            last = ahead[:length]
            yield start, last
            start, ahead = start + hop, ahead[hop:]
    if last is None:
        if len(ahead):
            yield 0, fit_length(ahead, length)
    elif len(ahead) > length - hop:  # samples that no window holds yet
        end = np.concatenate([last[:hop], ahead])
        yield start - hop + len(end) - length, end[-length:]
