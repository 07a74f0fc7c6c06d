"""flac: frames of compressed samples, and a header that says how many. Source: RFC 9639."""

import re

from unlabeledasd.audio.layout import (
    FileBytes,
    Layout,
    NotAudio,
    View,
    joined,
    truncated,
)

HEAD_BYTES = 42  # "fLaC", the head of STREAMINFO, STREAMINFO
START = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
SYNC = re.compile(rb"\xff[\xf8\xf9]")
TAIL_BYTES = 1 << 14
LAST_FRAME_BYTES = 1 << 20
COUNT_MASK = 2**36 - 1


def inspect(data: FileBytes, start: int) -> Layout:
    """The layout of a file whose "fLaC" is at `start`; samples are counted if the header does not.

    Whether its end is missing shows when the last sample is read.
    """
    head = data.at(start, HEAD_BYTES)
    if len(head) < HEAD_BYTES or not START.match(head):
        raise NotAudio("its header is damaged")
    block = int.from_bytes(head[10:12], "big")  # samples of a frame, at most
    most_bytes = int.from_bytes(head[15:18], "big")  # of a frame; 0: not known
    facts = int.from_bytes(head[18:26], "big")
    if block == 0:
        raise NotAudio("its header is damaged")
    n_samples = facts & COUNT_MASK
    if START.search(data.at(max(start + HEAD_BYTES, data.size - TAIL_BYTES), TAIL_BYTES)):
        raise joined()
    frames = first_frame(data, start)
    if n_samples == 0 and frames < data.size:
        n_samples = count(data, frames, block)
        patched = (facts | n_samples).to_bytes(8, "big")
        prefix = data.at(0, start) + head[:18] + patched + head[26:]
        view = View(data.descriptor, prefix, start + HEAD_BYTES, data.size)
        return Layout(
            view,
            flac_start=start,
            note=f"its header has no length; all {n_samples:,} samples are used",
        )
    if most_bytes and data.size - frames > -(-n_samples // block) * most_bytes:
        check_behind(data, start, frames)
    return Layout(flac_start=start)


def first_frame(data: FileBytes, start: int) -> int:
    """The place behind the blocks of metadata."""
    place, is_last = start + 4, False
    while not is_last:
        head = data.at(place, 4)
        if len(head) < 4:
            raise truncated("within the metadata at its beginning")
        is_last = bool(head[0] & 0x80)
        place += 4 + int.from_bytes(head[1:], "big")
    return place


def check_behind(data: FileBytes, start: int, place: int) -> None:
    """InputError where a second flac file follows the one at `start`, read up to `place`."""
    kept, place = b"", max(start + HEAD_BYTES, place - TAIL_BYTES)
    for block in data.blocks(place):
        if START.search(kept + block):
            raise joined()
        kept = block[-7:]


def count(data: FileBytes, frames: int, block: int) -> int:
    """Samples up to the end of the last frame, by its header."""
    first = max(frames, data.size - LAST_FRAME_BYTES)
    tail = data.at(first, LAST_FRAME_BYTES)
    for match in reversed(list(SYNC.finditer(tail))):
        if found := frame_end(tail[match.start() : match.start() + 16].ljust(16, b"\0"), block):
            return found
    raise truncated("no whole frame at its end")


def frame_end(head: bytes, block: int) -> int | None:
    """The number of the sample after the frame that begins with `head`; None: no frame does.

    block: samples of a frame, where the frames are of one size.
    """
    if head[3] & 1:
        return None
    ones = 8 - (head[4] ^ 0xFF).bit_length()  # bytes of the number, coded as in UTF-8
    if ones == 1 or ones > 7:
        return None
    n_bytes = max(ones, 1)
    number = head[4] & (0x7F if ones == 0 else 0xFF >> (ones + 1))
    for byte in head[5 : 4 + n_bytes]:
        number = number << 6 | byte & 0x3F
    place, code, rate_code = 4 + n_bytes, head[2] >> 4, head[2] & 15
    if code in (6, 7):  # the size is written out
        size = int.from_bytes(head[place : place + code - 5], "big") + 1
        place += code - 5
    elif code:
        size = 192 if code == 1 else 576 << (code - 2) if code < 6 else 256 << (code - 8)
    else:
        return None
    place += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if place >= len(head) or crc8(head[:place]) != head[place]:
        return None
    is_variable = head[1] & 1
    return (number if is_variable else number * block) + size


def crc8(data: bytes) -> int:
    """x^8 + x^2 + x + 1, as the headers of frames have it."""
    remainder = 0
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = (remainder << 1 ^ 0x07 * (remainder >> 7)) & 0xFF
    return remainder
