"""Waveforms: reading clips, and bringing them to the one length the network takes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

from unlabeledasd.audio import AudioFile
from unlabeledasd.audio.levels import SILENT_RANGE, check_values, length_notes, level_notes
from unlabeledasd.audio.two_channels import Channel, last_channel, take_channel
from unlabeledasd.errors import InputError

if TYPE_CHECKING:  # checking a data folder needs no torch
    from torch import Tensor

HEAD_FRAMES = 1024  # enough to distinguish recordings: noise does not repeat


class ClipFacts(NamedTuple):
    """What the header and the first samples of a clip say."""

    seconds: float
    head: bytes  # a hash of the first samples; empty where there is no sound in the clip
    notes: list[str]


def read_clip(path: Path, channel: Channel = None) -> np.ndarray:
    """Samples (T,) of one channel: int16 where they are stored as 16-bit PCM, else float32.

    channel: w1 subtracts the second from the first (audio/two_channels), as float32.

    float32 is in [-1, 1], unless the samples are stored as floating point numbers: these may be
    larger but must be finite. InputError where the file cannot be read to its end.
    """
    with AudioFile(path) as file:
        if file.frames == 0:
            raise InputError(f"{path}: no samples in it")
        dtype = "int16" if is_16_bit(file, channel) else "float32"
        wave = take_channel(file.read(dtype=dtype), channel)
        if file.is_float:
            with file.explained():
                check_values(wave)
    return wave


def is_16_bit(file: AudioFile, channel: Channel) -> bool:
    """Whether read_clip gives the samples as they are stored, in 16 bits."""
    return file.subtype == "PCM_16" and channel != "w1"


def check_clip(path: Path, sample_rate: int, channel: Channel = None) -> float:
    """The duration of a clip in seconds by its header; InputError if the clip cannot be used."""
    with AudioFile(path) as file:
        check_header(file, sample_rate, channel)
        file.check_last()
        return file.frames / sample_rate


def check_header(file: AudioFile, sample_rate: int, channel: Channel) -> None:
    path = file.path
    if file.sample_rate != sample_rate:
        raise InputError(f"{path}: sample rate {file.sample_rate} Hz, expected {sample_rate} Hz")
    if file.frames == 0:
        raise InputError(f"{path}: no samples in it")
    if channel is None and file.channels > 1:
        raise InputError(
            f"{path}: {file.channels} channels, expected one (dataset.channel=0 takes the first)"
        )
    if last_channel(channel) >= file.channels:
        counted = "two are needed" if isinstance(channel, str) else "counted from 0"
        raise InputError(
            f"{path}: {file.channels} channel(s), but dataset.channel={channel} ({counted})"
        )


def inspect_clip(path: Path, sample_rate: int, channel: Channel = None) -> ClipFacts:
    """Look at the header and the first samples of a clip; InputError if the clip cannot be used.

    A clip that begins without a sound, and one of floating point samples, is read to its end.
    """
    with AudioFile(path) as file:
        check_header(file, sample_rate, channel)
        head = file.read(HEAD_FRAMES)[:, last_channel(channel)]
        notes = file.notes + length_notes(file.frames, sample_rate)
        has_sound, low, high = True, head.min(), head.max()
        if file.is_float or low * high > 0 or high - low <= SILENT_RANGE:
            wave = np.concatenate([head, file.read()[:, last_channel(channel)]])
            has_sound = wave.min() < wave.max()
            with file.explained():
                notes += level_notes(wave, file.is_float)
        file.check_last()
        digest = hashlib.blake2b(head.tobytes(), digest_size=16).digest() if has_sound else b""
        return ClipFacts(file.frames / sample_rate, digest, notes)


def check_clips(
    root: Path,
    paths: list[str],
    sample_rate: int,
    channel: Channel = None,
    conditions: Sequence[str] = (),
) -> None:
    """Look at every clip, so that a bad one is reported before training starts.

    paths: <machine>/<split>/..., relative to `root`; conditions: of each clip, if they are known.
    What a user should know of clips that are used is printed, one line for each kind.
    """
    review = ClipReview(root, channel)
    bar = tqdm(paths, desc="checking clips", unit="clip", leave=False)
    for path, condition in zip_longest(bar, conditions):
        review.add(path, inspect_clip(root / path, sample_rate, channel), condition)
    for line in review.notes():
        print(line)


class ClipReview:
    """What clips, added one by one, say together: notes of one kind, and equal recordings."""

    def __init__(self, root: Path, channel: Channel):
        self.root, self.channel = root, channel
        self.found: dict[str, list[str]] = {}  # kind of note -> notes
        self.conditions: dict[str, str | None] = {}  # of every clip
        self.first: dict[bytes, str] = {}  # hash of the first samples -> clip
        self.hashed: dict[str, bytes] = {}  # clip -> hash of all samples, where heads are equal
        self.whole: dict[bytes, list[str]] = {}  # its inverse

    def add(self, path: str, facts: ClipFacts, condition: str | None = None) -> None:
        """InputError where a clip that was added is the same recording, used for something else."""
        for text in facts.notes:
            self.note(path, text, kind=re.sub(r"\d[\w.,+-]*", "", text))
        self.conditions[path] = condition
        twins = self.twins(path, facts.head) if facts.head else []
        for twin in twins:
            if reason := self.contradiction(path, twin):
                raise InputError(f"{self.root / path}: the same recording as {twin}; {reason}")
        if twins:
            self.note(path, f"the same recording as {twins[0]}; both are used", kind="twins")

    def contradiction(self, path: str, twin: str) -> str | None:
        """Why two clips cannot be the same recording; None if they can."""
        (machine, split), (other, other_split) = ((*p.split("/"), "")[:2] for p in (path, twin))
        if machine != other:
            return "a clip belongs to one machine"
        if split != other_split:
            return "a clip is for training or for testing"
        conditions = {self.conditions[path], self.conditions[twin]}
        return "a clip is normal or anomalous" if conditions == {"normal", "anomaly"} else None

    def note(self, path: str, text: str, kind: str) -> None:
        self.found.setdefault(kind, []).append(f"note: {self.root / path}: {text}")

    def twins(self, path: str, head: bytes) -> list[str]:
        """The clips that were added before and have the samples of `path`."""
        first = self.first.setdefault(head, path)
        if first == path:
            return []
        for clip in (first, path):
            if clip not in self.hashed:
                self.hashed[clip] = self.digest(clip)
                self.whole.setdefault(self.hashed[clip], []).append(clip)
        return [clip for clip in self.whole[self.hashed[path]] if clip != path]

    def digest(self, path: str) -> bytes:
        wave = read_clip(self.root / path, self.channel)
        return hashlib.blake2b(wave.tobytes(), digest_size=16).digest()

    def notes(self) -> list[str]:
        """The first note of each kind, with their number."""
        return [
            lines[0] + (f" ({len(lines)} such clips)" if len(lines) > 1 else "")
            for lines in self.found.values()
        ]


def fit_length(wave: np.ndarray, length: int, position: float = 0.0) -> np.ndarray:
    """Bring a waveform (T,) to (length,): a shorter one is repeated from its first sample and cut.

    A longer one gives the window that starts at the fraction `position` in [0, 1) of all possible
    starts.
    """
    if len(wave) < length:
        return np.resize(wave, length)
    start = int(position * (len(wave) - length + 1))
    return wave[start : start + length]


def tiled_window(wave: np.ndarray, length: int, position: float = 0.0) -> np.ndarray:
    """Repeat a waveform (T,) ceil(length / T) times, then take the window at `position`."""
    return fit_length(np.tile(wave, -(-length // len(wave))), length, position)


def to_float(wave: Tensor) -> Tensor:
    """16-bit samples / 32768 as float32, not normalised any further; float samples as they are."""
    return wave if wave.is_floating_point() else wave / 32768
