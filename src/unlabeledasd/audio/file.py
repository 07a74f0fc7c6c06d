"""An audio file, open for reading, each of its samples once."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile

from unlabeledasd.audio import flac
from unlabeledasd.audio.layout import FileBytes, NotAudio, truncated
from unlabeledasd.audio.structure import inspect
from unlabeledasd.errors import InputError

WIDTHS = {"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4}
WIDTHS |= {"FLOAT": 4, "DOUBLE": 8, "ULAW": 1, "ALAW": 1}
LIBRARY_ERRORS: tuple[type[Exception], ...] = (
    *(soundfile.SoundFileError, OSError, ValueError, TypeError, MemoryError),
    *(ArithmeticError, LookupError),
)


class AudioFile:
    """An audio file, open for reading: `with AudioFile(path) as file: samples = file.read()`.

    frames: samples per channel.
    channels, sample_rate (in Hz), subtype (as soundfile names it): of the samples.
    is_float: whether the samples are stored as floating point numbers.
    notes: what was wrong with the file, and how it is read.
    InputError, which names the file, where it cannot be read, or not to its end.
    """

    def __init__(self, path: Path):
        self.path, self.place = path, 0
        self.descriptor, size = open_regular(path)
        try:
            with self.explained():
                self.data = FileBytes(self.descriptor, size)
                self.layout = inspect(self.data)
                self.sound = self.open_sound()
                self.frames, self.channels = self.sound.frames, self.sound.channels
                self.sample_rate, self.subtype = self.sound.samplerate, self.sound.subtype
                self.notes = [self.layout.note] if self.layout.note else []
                self.check_count()
        except BaseException:
            os.close(self.descriptor)
            raise
        self.is_float = self.subtype in ("FLOAT", "DOUBLE")

    def __enter__(self) -> "AudioFile":
        return self

    def __exit__(self, *error) -> None:
        self.sound.close()
        os.close(self.descriptor)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """InputError with the name of the file, for any error that its bytes raise."""
        try:
            yield
        except NotAudio as error:
            raise unreadable(self.path, error) from None
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from None
        except soundfile.LibsndfileError as error:
            raise unreadable(self.path, error.error_string) from None
        except LIBRARY_ERRORS as error:
            raise unreadable(self.path, error) from None

    def open_sound(self) -> soundfile.SoundFile:
        layout = self.layout
        if layout.view is not None:
            sound = soundfile.SoundFile(layout.view)
        else:
            # by its descriptor: by its path the library would read ._x.mp3 next to x.mp3 too
            os.lseek(self.descriptor, 0, os.SEEK_SET)
            sound = soundfile.SoundFile(self.descriptor, closefd=False)
        if layout.n_bytes is not None and sound.subtype not in WIDTHS:
            raise NotAudio(f"codec {sound.subtype}; take what ffmpeg -i IN OUT.wav makes of it")
        if layout.raw is None:
            return sound
        facts = {"samplerate": sound.samplerate, "channels": sound.channels}
        facts |= {"subtype": sound.subtype, "endian": layout.order}
        return soundfile.SoundFile(layout.raw, format="RAW", **facts)

    def check_count(self) -> None:
        """InputError where the library finds another number of samples than there are by the
        layout.
        """
        if self.layout.n_bytes is None:
            return
        frames, rest = divmod(self.layout.n_bytes, WIDTHS[self.subtype] * self.channels)
        if rest:
            self.notes.append(f"a part of a sample at its end is left out, {rest} byte(s)")
        if frames != self.frames:
            raise InputError(f"damaged, {frames:,} samples in it, {self.frames:,} by its header")

    def read(self, count: int | None = None, dtype: str = "float32") -> np.ndarray:
        """The next `count` samples (T, channels), or all; fewer at the end of the file.

        dtype: "int16", or "float32" in [-1, 1] unless they are stored as floating point numbers.
        """
        left = self.frames - self.place
        count = left if count is None else min(count, left)
        with self.explained():
            block = self.sound.read(count, dtype, always_2d=True)
            self.place += len(block)
            if len(block) < count:
                raise truncated(f"{self.place:,} of its {self.frames:,} samples can be read")
            if self.place == self.frames and self.layout.flac_start is not None:
                view = self.layout.view
                place = view.tell() if view else os.lseek(self.descriptor, 0, os.SEEK_CUR)
                flac.check_behind(self.data, self.layout.flac_start, place)
        return block

    def blocks(self, count: int, dtype: str = "float32") -> Iterator[np.ndarray]:
        """All samples, `count` at a time."""
        while self.place < self.frames:
            yield self.read(count, dtype)

    def check_last(self) -> None:
        """InputError where the last sample of a flac file is missing; read nothing afterwards."""
        if self.layout.flac_start is None or not self.frames:
            return
        try:
            self.sound.seek(self.frames - 1)
            is_there = len(self.sound.read(1, "int16")) == 1
        except LIBRARY_ERRORS:
            is_there = False
        if not is_there:
            with self.explained():
                raise truncated(f"the last of its {self.frames:,} samples cannot be read")


def open_regular(path: Path) -> tuple[int, int]:
    """A file descriptor and a size in bytes; InputError for a pipe or a device, which might wait
    for a writer.
    """
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            return os.open(path, os.O_RDONLY), status.st_size
        reason = "Is a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
    except FileNotFoundError:
        reason = "no such file"
        if path.is_symlink():
            reason = f"a link to {path.readlink()}, which does not exist"
    except OSError as error:
        reason = str(error.strerror)
    raise unreadable(path, reason)


def unreadable(path: Path, reason: object) -> InputError:
    return InputError(f"{path}: cannot be read as audio ({reason})")
