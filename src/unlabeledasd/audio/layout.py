"""What the readers of all containers share: bytes, views, what lies behind samples."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from unlabeledasd.errors import InputError

REMEDY = "copy it again, or keep what there is: ffmpeg -i IN OUT.wav"
# how the files begin that stand behind the samples of another in joined files
MAGIC = (b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b"caff", b".snd", b"dns.", b"fLaC", b"OggS")
TAGS = re.compile(rb"TAG|APETAGEX|LYRICSBEGIN|3DI|ID3")  # of mp3, put behind other formats too
BLOCK_BYTES = 1 << 16


class NotAudio(InputError):
    """A file of a format that is not read, or damaged where its format is declared."""


def truncated(reason: str) -> InputError:
    return InputError(f"truncated, {reason} ({REMEDY})")


def joined() -> InputError:
    return InputError(
        "another recording follows the first in the same file; split it, or ffmpeg -i IN OUT.wav"
    )


class FileBytes:
    """The bytes of an open file, read in blocks."""

    def __init__(self, descriptor: int, size: int):
        self.descriptor, self.size = descriptor, size
        self.first, self.block = 0, os.pread(descriptor, 4096, 0)

    def at(self, start: int, count: int) -> bytes:
        """`count` bytes from `start`, fewer at the end of the file."""
        count = max(0, min(count, self.size - start))
        offset = start - self.first
        if not 0 <= offset <= offset + count <= len(self.block):
            self.first = start
            self.block = os.pread(self.descriptor, max(count, BLOCK_BYTES), start)
            offset = 0
        return self.block[offset : offset + count]

    def number(self, start: int, count: int, order: str) -> int:
        return int.from_bytes(self.at(start, count), order)  # type: ignore[arg-type]

    def blocks(self, start: int) -> Iterator[bytes]:
        """All bytes from `start` on."""
        while block := os.pread(self.descriptor, BLOCK_BYTES, start):
            yield block
            start += len(block)


class View:
    """`prefix`, then the bytes of a file from `start` to `stop`, as a file that the audio library
    reads.
    """

    def __init__(self, descriptor: int, prefix: bytes, start: int, stop: int):
        self.descriptor, self.prefix, self.start, self.stop = descriptor, prefix, start, stop
        self.place = 0

    def __len__(self) -> int:
        return len(self.prefix) + self.stop - self.start

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: len(self)}[whence]
        self.place = max(0, origin + offset)
        return self.place

    def tell(self) -> int:
        return self.place

    def read(self, count: int = -1) -> bytes:
        stop = len(self) if count < 0 else min(len(self), self.place + count)
        found = self.prefix[self.place : stop]
        self.place += len(found)
        if self.place < stop:
            first = self.start + self.place - len(self.prefix)
            rest = os.pread(self.descriptor, stop - self.place, first)
            found, self.place = found + rest, self.place + len(rest)
        return found

    def write(self, data: bytes) -> int:  # soundfile asks for the method
        raise OSError("read only")


@dataclass(frozen=True)
class Layout:
    """How the audio library reads a file.

    view: what it is given in place of the file; None: the file as it is.
    raw: the samples of the view alone, of which the header of the view says what they are.
    order: of the bytes of a sample of `raw`, "little" or "big".
    n_bytes: of samples; None where they do not all take the same number of bytes.
    flac_start: where a flac file begins, behind tags; None for other formats.
    note: what was wrong with the file and how it is used, to be printed after its name.
    """

    view: View | None = None
    raw: View | None = None
    order: str = ""
    n_bytes: int | None = None
    flac_start: int | None = None
    note: str = ""


def remainder(data: FileBytes, place: int) -> str:
    """What follows from `place` on: "nothing", "tags", "zeros", "recording" or "bytes"."""
    head = data.at(place, 16)
    if not head:
        return "nothing"
    if TAGS.match(head):
        return "tags"
    if head[:4] in MAGIC:
        return "recording"
    if not any(head) and not any(any(block) for block in data.blocks(place)):
        return "zeros"
    return "bytes"


def left_out(data: FileBytes, place: int) -> str:
    """The note on bytes behind the samples; InputError where they are another recording."""
    what = remainder(data, place)
    if what == "recording":
        raise joined()
    if what in ("nothing", "tags"):
        return ""
    count = f"{data.size - place:,} {'zero bytes' if what == 'zeros' else 'bytes'}"
    return f"{count} behind the samples are left out"
