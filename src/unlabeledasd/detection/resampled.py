"""Clips of another sample rate, or of several channels, converted once and kept on the disk.

Converting a clip takes longer than reading it, and every epoch reads all of them.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from unlabeledasd.audio import AudioFile
from unlabeledasd.audio.two_channels import Channel
from unlabeledasd.detection.recordings import read_blocks
from unlabeledasd.errors import InputError
from unlabeledasd.files import replacing


def resample_clips(root: Path, paths: Sequence[str], sample_rate: int, channel: Channel) -> Path:
    """A folder next to `root` with the clips `paths` under the same names, at `sample_rate`.

    channel: None takes the first of several, otherwise all are kept. Those that need it are
    converted by soxr, to 16 bits; the others become links. A clip is converted again when its file
    has changed. InputError for one that cannot be read.
    """
    folder = root.parent / f"resampled_{sample_rate}{'' if channel is None else '_channels'}"
    new = [path for path in paths if not is_current(root / path, folder / path)]
    converted = 0
    for path in tqdm(new, desc="converting clips", unit="clip", leave=False, disable=None):
        converted += convert(root / path, folder / path, sample_rate, channel)
    if converted:
        print(f"note: {converted} clips converted to {sample_rate} Hz by soxr, kept in {folder}")
    known = {folder / path for path in paths}
    for file in [file for file in folder.rglob("[!.]*") if not file.is_dir()]:
        if file not in known:  # its original is gone
            file.unlink(missing_ok=True)
    return folder


def is_current(source: Path, made: Path) -> bool:
    return made.is_file() and made.stat().st_mtime_ns == source.stat().st_mtime_ns


def convert(source: Path, made: Path, sample_rate: int, channel: Channel) -> bool:
    """Write `source` to `made` in the form that training takes; False where it has it already."""
    with AudioFile(source) as file:
        if file.frames == 0:
            raise InputError(f"{source}: no samples in it")
        channels = range(1 if channel is None else file.channels)
        fits = file.sample_rate == sample_rate and len(channels) == file.channels
    if fits:
        made.parent.mkdir(parents=True, exist_ok=True)
        made.unlink(missing_ok=True)
        with suppress(FileExistsError):  # another run makes it too
            made.symlink_to(source.resolve())
        return False
    with replacing(made) as temporary:
        waves = [np.concatenate(list(read_blocks(source, sample_rate, one))) for one in channels]
        form = "FLAC" if made.suffix.lower() == ".flac" else "WAV"
        soundfile.write(temporary, np.stack(waves, 1), sample_rate, "PCM_16", format=form)
        time = source.stat().st_mtime_ns
        os.utime(temporary, ns=(time, time))
    return True
