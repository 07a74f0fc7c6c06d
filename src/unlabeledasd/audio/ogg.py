"""ogg with Vorbis or Opus: a chain of pages; the last one is marked. Source: RFC 3533."""

from unlabeledasd.audio.layout import FileBytes, Layout, NotAudio, joined, left_out, truncated
from unlabeledasd.errors import InputError

HEAD_BYTES = 27
CODECS = (b"\x01vorbis", b"OpusHead")
FIRST, LAST = 2, 4  # flags of a page


def inspect(data: FileBytes) -> Layout:
    """The layout of a file of one stream whose pages are all there."""
    serial, number, place, flags = None, 0, 0, 0
    while not flags & LAST:
        head = data.at(place, HEAD_BYTES)
        if len(head) < HEAD_BYTES:
            raise truncated("its last page is not marked as the last")
        if head[:4] != b"OggS":
            raise InputError(f"damaged at byte {place:,}: no page begins there")
        flags = head[5]
        segments = data.at(place + HEAD_BYTES, head[26])
        body = place + HEAD_BYTES + head[26]
        if place == 0:
            serial = head[14:18]
            if not data.at(body, 8).startswith(CODECS):
                raise NotAudio("ogg of another codec than Vorbis or Opus")
        elif flags & FIRST or head[14:18] != serial:
            raise joined()
        if int.from_bytes(head[18:22], "little") != number:
            raise InputError(f"damaged before byte {place:,}: page {number} is missing")
        number += 1
        place = body + sum(segments)
        if len(segments) < head[26] or place > data.size:
            raise truncated("its last page is not whole")
    return Layout(note=left_out(data, place))
