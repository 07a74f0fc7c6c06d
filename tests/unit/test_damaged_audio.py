"""Thousands of mutated audio files: the reader raises InputError alone, and what it accepts can be
used.
"""

import time

import numpy as np
import pytest
import soundfile

from unlabeledasd.errors import InputError
from unlabeledasd.waveforms import check_clip, check_clips, read_clip

N_FILES = 250
BOUND_SECONDS = 60  # far more than needed; a reader that hangs must not hang the tests
FORMATS = [
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "PCM_U8"),
    ("WAV", "FLOAT"),
    ("WAV", "DOUBLE"),
    ("WAVEX", "PCM_16"),
    ("RF64", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("W64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
    ("CAF", "PCM_16"),
    ("OGG", "VORBIS"),
    ("MP3", "MPEG_LAYER_III"),
]


def mutate(whole: bytes, rng: np.random.Generator) -> bytes:
    """A few changes, most of them in the header."""
    data = bytearray(whole)
    for _ in range(rng.integers(1, 5)):
        kind, place = (
            rng.integers(6),
            int(rng.integers(min(len(data), 100) if rng.random() < 0.8 else len(data))),
        )
        if kind == 0:
            data[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[place : place + 4] = rng.bytes(4)
        elif kind == 2:  # a size at its limits
            size = rng.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
            data[place : place + 4] = int(size).to_bytes(4, "little")
        elif kind == 3:
            del data[place : place + int(rng.integers(1, 40))]
        elif kind == 4:
            data[place:place] = data[: int(rng.integers(1, 60))]
        else:
            del data[place:]
        if not data:
            break
    return bytes(data)


@pytest.mark.parametrize(("container", "subtype"), FORMATS)
def test_mutated_files(tmp_path, container, subtype):
    rng = np.random.default_rng(FORMATS.index((container, subtype)))
    whole, file = tmp_path / "whole", tmp_path / "clip.wav"
    soundfile.write(whole, rng.uniform(-0.5, 0.5, 600), 16000, format=container, subtype=subtype)
    whole, refused, end = whole.read_bytes(), 0, time.monotonic() + BOUND_SECONDS
    for _ in range(N_FILES):
        file.write_bytes(mutate(whole, rng))
        try:
            check_clips(tmp_path, [file.name], 16000)
            assert check_clip(file, 16000) > 0
            wave = read_clip(file)
        except InputError as error:
            refused += str(file) in str(error)
        else:  # what is accepted can be used
            assert wave.dtype in (np.int16, np.float32)
            assert wave.ndim == 1
            assert len(wave) > 0
            assert np.isfinite(wave).all()
        assert time.monotonic() < end
    # neither all nor none, so the mutations reach the reader; ogg has a checksum of every page
    assert N_FILES // 10 < refused < N_FILES + (container == "OGG")


@pytest.mark.parametrize("size", range(60))
def test_every_length_of_a_header(tmp_path, size):
    file = tmp_path / "clip.wav"
    soundfile.write(file, np.zeros(100), 16000)
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(InputError, match=r"clip\.wav"):
        check_clip(file, 16000)
