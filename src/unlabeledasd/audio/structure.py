"""Which bytes of an audio file are samples, by the structure of its container."""

from unlabeledasd.audio import flac, mp3, ogg, uncompressed
from unlabeledasd.audio.layout import FileBytes, Layout, NotAudio

NAMES = "wav, rf64, w64, aiff, au, caf, flac, ogg, mp3"


def inspect(data: FileBytes) -> Layout:
    """How to read a file, without a look at its samples.

    InputError, without the name of the file, for one that is damaged; NotAudio for one of another
    format.
    """
    if data.size == 0:
        raise NotAudio("an empty file")
    start = after_id3(data)
    magic = data.at(start, 16)
    if magic[:4] == b"fLaC":
        return flac.inspect(data, start)
    if magic[:4] == b"OggS" and start == 0:
        return ogg.inspect(data)
    if magic[:1] == b"\xff" and magic[1:2] >= b"\xe0":  # the sync word of MPEG audio
        return mp3.inspect(data, start)
    layout = uncompressed.inspect(data, magic) if start == 0 else None
    if layout is None:
        raise NotAudio(f"none of {NAMES}")
    return layout


def after_id3(data: FileBytes) -> int:
    """The place behind ID3v2 tags at the beginning of a file."""
    place = 0
    while (head := data.at(place, 10))[:3] == b"ID3" and len(head) == 10:
        size = 0
        for byte in head[6:]:
            size = size << 7 | byte & 0x7F
        place += 10 + size
    return place
