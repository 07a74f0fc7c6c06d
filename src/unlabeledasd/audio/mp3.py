"""mp3: a chain of frames that say how long they are; the first one may say how many there are.

Sources: ISO/IEC 11172-3 and 13818-3, layer III; the Xing (or Info) and VBRI headers of encoders.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from unlabeledasd.audio.layout import (
    FileBytes,
    Layout,
    NotAudio,
    View,
    joined,
    left_out,
    truncated,
)
from unlabeledasd.errors import InputError

KBIT_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
KBIT_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
VERSION_1, LAYER_3, MONO = 3, 1, 3  # as the header codes them
VBRI_PLACE = 36
SYNC = re.compile(rb"\xff[\xe2-\xfb]")


class Frame(NamedTuple):
    place: int
    n_bytes: int
    kind: tuple[int, int, bool]  # version, sample rate, whether it is mono
    header: int

    @property
    def end(self) -> int:
        return self.place + self.n_bytes

    @property
    def xing_place(self) -> int:
        """Of the encoder's header: behind the frame's header and the side information."""
        version, _, is_mono = self.kind
        sizes = (17, 32) if version == VERSION_1 else (9, 17)
        return self.place + 4 + sizes[not is_mono]


def parse(header: int, place: int) -> Frame | None:
    """None for four bytes that are no header of a frame of layer III with a stated bit rate."""
    version, kbit, rate = header >> 19 & 3, header >> 12 & 15, header >> 10 & 3
    if header >> 21 != 0x7FF or header >> 17 & 3 != LAYER_3:
        return None
    if version not in RATES or kbit in (0, 15) or rate == 3:
        return None
    rate = RATES[version][rate]
    factor, table = (144_000, KBIT_1) if version == VERSION_1 else (72_000, KBIT_2)
    n_bytes = factor * table[kbit] // rate + (header >> 9 & 1)
    return Frame(place, n_bytes, (version, rate, header >> 6 & 3 == MONO), header)


def chain(data: FileBytes, place: int) -> Iterator[Frame]:
    """The frames that follow each other from `place` on."""
    while (head := data.at(place, 4)) and (frame := parse(int.from_bytes(head, "big"), place)):
        yield frame
        place = frame.end


def inspect(data: FileBytes, start: int) -> Layout:
    """The layout of a file whose first frame is at `start`; one without a count of frames gets
    one.
    """
    first: Frame | None = None
    last: Frame | None = None
    declared: int | None = None
    n_frames = 0
    for frame in chain(data, start):
        count = declared_frames(data, frame)
        if first is None:
            first, declared = frame, count
        elif frame.kind != first.kind:
            raise InputError(f"its sample rate or channels change at byte {frame.place:,}")
        elif count is not None:
            raise joined()
        last, n_frames = frame, n_frames + 1
    if first is None or last is None or (n_frames == 1 and last.end < data.size):
        raise NotAudio("no mp3, or MPEG audio of another layer or of free format")
    n_frames -= declared is not None  # the frame with the count has no sound
    if place := next_frames(data, last.end, first.kind):
        if data.at(last.end, 3) in (b"ID3", b"TAG"):
            raise joined()
        raise InputError(f"damaged, {place - last.end:,} bytes at byte {last.end:,} are no frame")
    if last.end > data.size:
        raise truncated("its last frame is not whole")
    if declared and declared > n_frames:
        raise truncated(f"{n_frames:,} of the {declared:,} frames that its header declares")
    note = left_out(data, last.end)
    if declared == n_frames:
        return Layout(View(data.descriptor, b"", start, last.end) if note else None, note=note)
    if declared:
        note = f"its header declares {declared:,} frames; all {n_frames:,} are used"
    begin = start if declared is None else first.end
    return Layout(View(data.descriptor, counting(first, n_frames), begin, last.end), note=note)


def declared_frames(data: FileBytes, frame: Frame) -> int | None:
    """What the encoder's header in a frame says, 0 if nothing; None: a frame of sound."""
    head = data.at(frame.xing_place, 12).ljust(12, b"\0")
    if head[:4] in (b"Xing", b"Info"):
        return int.from_bytes(head[8:12], "big") if head[7] & 1 else 0
    if data.at(frame.place + VBRI_PLACE, 4) == b"VBRI":
        return 0  # encoders do not agree on whether this frame is counted
    return None


def counting(like: Frame, n_frames: int) -> bytes:
    """A frame without sound whose Info header says how many frames follow."""
    offset = like.xing_place - like.place
    for kbit in range(1, 15):
        header = like.header & ~(15 << 12) & ~(1 << 9) | kbit << 12 | 1 << 16  # no checksum
        frame = parse(header, 0)
        if frame is not None and frame.n_bytes >= offset + 12:
            info = b"Info" + (1).to_bytes(4, "big") + n_frames.to_bytes(4, "big")
            content = header.to_bytes(4, "big").ljust(offset, b"\0") + info
            return content.ljust(frame.n_bytes, b"\0")
    raise NotAudio("no mp3 frame has room for an Info header")


def next_frames(data: FileBytes, place: int, kind: tuple) -> int | None:
    """Where three frames of this kind follow each other again, behind `place`."""
    for block in data.blocks(place):
        for match in SYNC.finditer(block):
            found = [
                f.kind == kind
                for f, _ in zip(chain(data, place + match.start()), range(3), strict=False)
            ]
            if found == [True] * 3:
                return place + match.start()
        place += len(block)
    return None
