"""wav, rf64, w64, aiff, au, caf: a header that declares bytes of samples, then these bytes.

Sources: Multimedia Programming Interface (RIFF), EBU Tech 3306 (rf64), Sony Wave64, AIFF 1.3 and
AIFF-C, the au format of Sun and NeXT, Apple Core Audio Format 1.0.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from unlabeledasd.audio.layout import (
    MAGIC,
    FileBytes,
    Layout,
    NotAudio,
    View,
    joined,
    left_out,
    remainder,
    truncated,
)
from unlabeledasd.errors import InputError

# What sox, aplay, arecord and ffmpeg write when they cannot return to the header; some write the
# number less the size of the header.
PLACEHOLDERS = (
    0x7F000000,
    0x7FFFF000,
    0x7FFFFF00,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
)
HEADER_BYTES = 128
STRAY_BYTES = 8  # fewer are neither a chunk nor the rest of a recording
TAIL_BYTES = 1 << 16
MOST_CHUNKS = 10_000
# chunks that stand behind samples
METADATA = re.compile(
    rb"LIST|id3 |ID3 |bext|iXML|axml|aXML|cue |plst|smpl|inst|acid|fact|PEAK|JUNK|junk|PAD |FLLR"
    rb"|umid|DISP|afsp|LGWV|levl|cset|strc|_PMX|guan|wamd|chna|COMM|MARK|COMT|ANNO|NAME|AUTH"
    rb"|\(c\) |APPL|INST|MIDI|free|info|mark|summ"
)
W64_GUID = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # after the four letters of a chunk


@dataclass(frozen=True)
class Form:
    """How a container writes its chunks: a name, a size, the body, and zeros up to a multiple of
    `align` bytes.
    """

    order: str
    align: int
    name_bytes: int = 4
    size_bytes: int = 4
    counts_head: bool = False  # whether the size includes name and size

    @property
    def head_bytes(self) -> int:
        return self.name_bytes + self.size_bytes

    def next(self, body: int, size: int) -> int:
        return body + size + -size % self.align


LITTLE, BIG = Form("little", 2), Form("big", 2)
CAF = Form("big", 1, size_bytes=8)
W64 = Form("little", 8, 16, 8, counts_head=True)
NO_CHUNKS = Form("big", 1)  # au: one header, then samples to the end


@dataclass(frozen=True)
class Size:
    """Bytes of samples that a header declares, by a number of `n_bytes` at `place` that is `extra`
    larger.
    """

    place: int
    declared: int
    order: str
    n_bytes: int = 4
    extra: int = 0


@dataclass(frozen=True)
class Chunk:
    name: bytes
    body: int
    size: int


def chunk_at(data: FileBytes, place: int, form: Form) -> Chunk | None:
    head = data.at(place, form.head_bytes)
    if len(head) < form.head_bytes:
        return None
    size = int.from_bytes(head[form.name_bytes :], form.order)  # type: ignore[arg-type]
    size = max(0, size - form.head_bytes) if form.counts_head else size
    return Chunk(head[: form.name_bytes], place + form.head_bytes, size)


def chunks(data: FileBytes, place: int, form: Form) -> Iterator[Chunk]:
    """The chunks that follow each other; not for hours in a file of zeros."""
    for _ in range(MOST_CHUNKS):
        chunk = chunk_at(data, place, form)
        if chunk is None:
            break
        yield chunk
        place = form.next(chunk.body, chunk.size)


def inspect(data: FileBytes, magic: bytes) -> Layout | None:
    """None for a file that is none of these."""
    kind, form = magic[:4], magic[8:12]
    if kind in (b"RIFF", b"RIFX", b"RF64") and form == b"WAVE":
        return wav(data, BIG if kind == b"RIFX" else LITTLE)
    if kind == b"FORM" and form in (b"AIFF", b"AIFC"):
        return aiff(data)
    if kind == b"riff":
        return w64(data)
    if kind == b"caff":
        return caf(data)
    if kind in (b".snd", b"dns."):
        return au(data, "big" if kind == b".snd" else "little")
    return None


def wav(data: FileBytes, form: Form) -> Layout:
    size_64 = None
    for chunk in chunks(data, 12, form):
        if chunk.name == b"ds64":
            place = chunk.body + 8
            size_64 = Size(place, data.number(place, 8, "little"), "little", 8)
        if chunk.name == b"data":
            if size_64 and chunk.size == 2**32 - 1:
                return account(data, form, chunk.body, size_64, form.order)
            size = Size(chunk.body - 4, chunk.size, form.order)
            return account(data, form, chunk.body, size, form.order)
    raise NotAudio("no data chunk in it")


def w64(data: FileBytes) -> Layout:
    for chunk in chunks(data, 40, W64):
        if chunk.name == b"data" + W64_GUID:
            size = Size(chunk.body - 8, chunk.size, "little", 8, extra=W64.head_bytes)
            return account(data, W64, chunk.body, size, "little")
    raise NotAudio("no data chunk in it")


def aiff(data: FileBytes) -> Layout:
    order = "big"
    for chunk in chunks(data, 12, BIG):
        if chunk.name == b"COMM" and data.at(chunk.body + 18, 4) == b"sowt":
            order = "little"
        if chunk.name == b"SSND":
            start = chunk.body + 8 + data.number(chunk.body, 4, "big")
            size = Size(chunk.body - 4, max(0, chunk.body + chunk.size - start), "big", extra=8)
            return account(data, BIG, start, size, order)
    raise NotAudio("no SSND chunk in it")


def caf(data: FileBytes) -> Layout:
    order = "big"
    for chunk in chunks(data, 8, CAF):
        if chunk.name == b"desc":
            order = "little" if data.number(chunk.body + 12, 4, "big") & 2 else "big"
        if chunk.name == b"data":
            start = chunk.body + 4  # after the count of edits
            size = Size(chunk.body - 8, max(0, chunk.size - 4), "big", 8, extra=4)
            if (
                chunk.size == 2**64 - 1
            ):  # "up to the end of the file"; the library takes no such file
                return raw(data, start, max(start, data.size), size, order, "")
            return account(data, CAF, start, size, order)
    raise NotAudio("no data chunk in it")


def au(data: FileBytes, order: str) -> Layout:
    start, declared = data.number(4, 4, order), data.number(8, 4, order)
    if not 24 <= start <= data.size:
        raise NotAudio("no samples behind its header")
    if declared == 2**32 - 1:  # "not known"
        return Layout(n_bytes=data.size - start)
    return account(data, NO_CHUNKS, start, Size(8, declared, order), order)


def account(data: FileBytes, form: Form, start: int, size: Size, order: str) -> Layout:
    """The layout of a file whose samples begin at `start`; order: of the bytes of a sample."""
    there, declared = max(0, data.size - start), size.declared
    if declared > there:
        if not any(p - HEADER_BYTES <= declared <= p for p in PLACEHOLDERS):
            raise truncated(
                f"{there:,} of the {declared:,} bytes of samples that its header declares"
            )
        note = f"its header has no size (0x{declared:X}), {{}} bytes of samples are used"
        return raw(data, start, metadata_at_end(data, form, start), size, order, note)
    end = start + declared
    # writers differ in what they put behind an odd number of bytes
    for begin in (end, end + declared % 2, form.next(start, declared)):
        if (place := after_metadata(data, form, begin)) > begin:
            break
    else:
        place = end
    if place >= data.size or data.size == end + declared % 2:
        return Layout(n_bytes=declared)
    note = left_out(data, place)
    if place == end and data.size - end >= STRAY_BYTES and remainder(data, end) == "bytes":
        end = metadata_at_end(data, form, start)
        note = f"its header declares {declared:,} bytes of samples; {{}} are there and used"
    return raw(data, start, end, size, order, note)


def raw(data: FileBytes, start: int, end: int, size: Size, order: str, note: str) -> Layout:
    """The bytes from `start` to `end`, by a header with their size."""
    head = bytearray(data.at(0, start))
    declared = min(end - start + size.extra, 256**size.n_bytes - 1)
    head[size.place : size.place + size.n_bytes] = declared.to_bytes(size.n_bytes, size.order)
    view = View(data.descriptor, bytes(head), start, end)
    samples = View(data.descriptor, b"", start, end)
    return Layout(view, samples, order, end - start, note=note.format(f"{end - start:,}"))


def after_metadata(data: FileBytes, form: Form, place: int) -> int:
    """The place behind the chunks that begin at `place`."""
    if form is NO_CHUNKS:
        return place
    for chunk in chunks(data, place, form):
        name = chunk.name[:4]
        if name in MAGIC:
            raise joined()
        if name in (b"data", b"SSND"):
            raise InputError("a second chunk of samples in it; ffmpeg -i IN OUT.wav")
        is_known = METADATA.fullmatch(name) is not None
        fits = chunk.body + chunk.size <= data.size
        if not (is_known or (fits and is_name(chunk.name, form))):
            break
        place = form.next(chunk.body, chunk.size)
    return place


def is_name(name: bytes, form: Form) -> bool:
    if form is W64:
        return name.endswith(W64_GUID)
    return name[:1].isalpha() and all(32 <= letter < 127 for letter in name)


def metadata_at_end(data: FileBytes, form: Form, start: int) -> int:
    """Where the chunks begin that end where the file does; the end of the file without any."""
    first = max(start, data.size - TAIL_BYTES)
    if form is not NO_CHUNKS:
        for match in METADATA.finditer(data.at(first, TAIL_BYTES)):
            place = first + match.start()
            for chunk in chunks(data, place, form):
                if not METADATA.fullmatch(chunk.name[:4]):
                    break
                if chunk.body + chunk.size == data.size:
                    return place
    return data.size
