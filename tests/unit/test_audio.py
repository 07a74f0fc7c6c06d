"""The reader of audio: what it reads is what was written, to the last sample, or it is refused."""

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unlabeledasd.audio import AudioFile
from unlabeledasd.errors import InputError

N = 5000
RATE = 16000
BOUND_SECONDS = 5  # for any file of these tests; a reader that hangs must not hang them


@dataclass(frozen=True)
class Container:
    """A lossless format as soundfile writes it; where its header says how many bytes of samples
    there are.
    """

    name: str
    format: str
    subtype: str = "PCM_16"
    endian: str = "FILE"
    marker: bytes = b"data"  # before the size
    offset: int = 4  # of the size, from the marker
    size_bytes: int = 4
    order: str = "little"
    extra: int = 0  # what the size counts beyond the samples

    def write(self, path: Path, samples: np.ndarray) -> bytes:
        options = {"format": self.format, "subtype": self.subtype, "endian": self.endian}
        if self.subtype == "FLOAT":  # integers are not scaled there
            samples = samples / np.float32(32768)
        soundfile.write(path, samples, RATE, **options)
        return path.read_bytes()

    def with_size(self, whole: bytes, size: int) -> bytes:
        place = whole.index(self.marker) + self.offset
        size = (size + self.extra if size else 0) % 256**self.size_bytes
        return (
            whole[:place]
            + size.to_bytes(self.size_bytes, self.order)
            + whole[place + self.size_bytes :]
        )


HEADED = [
    Container("wav", "WAV"),
    Container("wav24", "WAV", "PCM_24"),
    Container("wavfloat", "WAVEX", "FLOAT"),
    Container("rifx", "WAV", endian="BIG", order="big"),
    Container("rf64", "RF64", marker=b"ds64", offset=16, size_bytes=8),
    Container("w64", "W64", marker=b"data\xf3\xac", offset=16, size_bytes=8, extra=24),
    Container("aiff", "AIFF", marker=b"SSND", order="big", extra=8),
    Container("sowt", "AIFF", endian="LITTLE", marker=b"SSND", order="big", extra=8),
    Container("au", "AU", marker=b".snd", offset=8, order="big"),
    Container("caf", "CAF", size_bytes=8, order="big", extra=4),
]
headed = pytest.mark.parametrize("container", HEADED, ids=lambda c: c.name)
channels = pytest.mark.parametrize("n_channels", [1, 2])
LOSSLESS = [*HEADED, Container("flac", "FLAC")]
LOSSY = [Container("vorbis", "OGG", "VORBIS"), Container("opus", "OGG", "OPUS")]
LOSSY += [Container("mp3", "MP3", "MPEG_LAYER_III")]


def noise(n_channels: int = 1, n: int = N) -> np.ndarray:
    """(n, C) int16: no two samples in a row are alike."""
    return np.random.default_rng(n_channels).integers(-9000, 9000, (n, n_channels)).astype(np.int16)


def n_bytes(container: Container, samples: np.ndarray) -> int:
    return samples.size * {"PCM_16": 2, "PCM_24": 3, "FLOAT": 4}[container.subtype]


def read(path: Path) -> tuple[np.ndarray, list[str]]:
    """Samples as int16, and the notes."""
    start = time.monotonic()
    with AudioFile(path) as file:
        assert (file.sample_rate, file.is_float) == (RATE, file.subtype == "FLOAT")
        samples = file.read()
        assert len(samples) == file.frames
    assert time.monotonic() - start < BOUND_SECONDS
    return np.round(samples * 32768).astype(np.int16), file.notes


def refusal(path: Path) -> str:
    start = time.monotonic()
    with pytest.raises(InputError) as error:
        read(path)
    assert time.monotonic() - start < BOUND_SECONDS
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def garbage(count: int) -> bytes:
    return np.random.default_rng(0).bytes(count)


@channels
@pytest.mark.parametrize("container", LOSSLESS, ids=lambda c: c.name)
def test_whole_files(tmp_path, container, n_channels):
    for n in (1, 2, 3, N):
        samples = noise(n_channels, n)
        container.write(tmp_path / "x", samples)
        found, notes = read(tmp_path / "x")
        assert np.array_equal(found, samples)
        assert notes == []
        with AudioFile(tmp_path / "x") as file:
            blocks = list(file.blocks(7))
        assert [len(block) for block in blocks[:-1]] == [7] * (len(blocks) - 1)
        assert np.array_equal(np.round(np.concatenate(blocks) * 32768), samples)


@channels
@pytest.mark.parametrize("container", LOSSLESS + LOSSY, ids=lambda c: c.name)
def test_truncated_files_are_refused(tmp_path, container, n_channels):
    """In the header, after it, within the samples, and just before the end."""
    whole = container.write(tmp_path / "x", noise(n_channels))
    header = range(0, 120, 7) if container in HEADED else range(0, len(whole), len(whole) // 12 + 1)
    cuts = [*header, len(whole) // 2, *range(len(whole) - 4, len(whole))]
    for cut in cuts:
        (tmp_path / "x").write_bytes(whole[:cut])
        assert re.search("truncated|cannot be read as audio", refusal(tmp_path / "x")), cut


@pytest.mark.slow
@pytest.mark.parametrize("container", LOSSLESS + LOSSY, ids=lambda c: c.name)
def test_every_length_is_refused(tmp_path, container):
    whole = container.write(tmp_path / "x", noise(1, 1000 if container in LOSSLESS else N))
    for cut in range(len(whole)):
        (tmp_path / "x").write_bytes(whole[:cut])
        refusal(tmp_path / "x")


# --- headers of samples of equal size --------------------------------------------------------


@channels
@headed
def test_sizes_that_no_recorder_wrote(tmp_path, container, n_channels):
    """0 of a stopped recorder, and what is written to a pipe: all samples are used, and it is
    reported.
    """
    samples = noise(n_channels)
    whole = container.write(tmp_path / "x", samples)
    sizes = [0, 0x7F000000, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFF - 36]
    for size in [*sizes, *([2**63 - 1] if container.size_bytes == 8 else [])]:
        (tmp_path / "x").write_bytes(container.with_size(whole, size))
        found, notes = read(tmp_path / "x")
        assert np.array_equal(found, samples), hex(size)
        is_in_the_format = container.name == "au" and size == 0xFFFFFFFF
        assert len(notes) == (not is_in_the_format), hex(size)


def test_sizes_of_caf_and_au_that_mean_unknown(tmp_path):
    """-1: up to the end of the file."""
    for container in HEADED[-2:]:
        whole = container.write(tmp_path / "x", noise())
        size = -1 - container.extra
        (tmp_path / "x").write_bytes(container.with_size(whole, size))
        assert np.array_equal(read(tmp_path / "x")[0], noise())
        assert read(tmp_path / "x")[1] == []


@channels
@headed
def test_a_size_that_is_too_small(tmp_path, container, n_channels):
    samples = noise(n_channels)
    whole = container.write(tmp_path / "x", samples)
    for part in (5, 3, 2):
        size = n_bytes(container, samples[: N // part])
        (tmp_path / "x").write_bytes(container.with_size(whole, size))
        found, notes = read(tmp_path / "x")
        assert np.array_equal(found, samples)
        there = n_bytes(container, samples)
        assert notes == [
            f"its header declares {size:,} bytes of samples; {there:,} are there and used"
        ]


@headed
def test_a_size_that_is_too_large(tmp_path, container):
    whole = container.write(tmp_path / "x", noise())
    there = n_bytes(container, noise())
    for size in (there + 1, there + 2, 2 * there, 3_000_000_000):
        (tmp_path / "x").write_bytes(container.with_size(whole, size))
        assert (
            f"truncated, {there:,} of the {size:,} bytes of samples that its header declares"
            in refusal(tmp_path / "x")
        )


@headed
def test_what_lies_behind_the_samples(tmp_path, container):
    samples = noise()
    whole = container.write(tmp_path / "x", samples)
    for tail, note in [
        (b"TAG" + bytes(125), []),
        (b"APETAGEX" + garbage(100), []),
        (bytes(4096), ["4,096 zero bytes behind the samples are left out"]),
        (b"\r\n\r", ["3 bytes behind the samples are left out"]),
    ]:
        (tmp_path / "x").write_bytes(whole + tail)
        found, notes = read(tmp_path / "x")
        assert np.array_equal(found, samples)
        assert notes == note
    (tmp_path / "x").write_bytes(whole + whole)
    assert "another recording follows the first" in refusal(tmp_path / "x")


@pytest.mark.parametrize("n", [N, N - 1])  # of 24 bits: an odd number of bytes too
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_U8"])
def test_metadata_behind_the_samples(tmp_path, subtype, n):
    """Whole or cut short, after a byte that makes the size even or without: no sample and no
    fault.
    """
    container = Container("wav", "WAV", subtype)
    samples = noise(1, n) // 256 * 256  # 8 bits have it too
    whole = container.write(tmp_path / "x", samples)
    size = whole.index(b"data") + 8 + n * {"PCM_16": 2, "PCM_24": 3, "PCM_U8": 1}[subtype]
    listed = b"LIST\x1a\0\0\0INFOINAM\x0e\0\0\0another name.\0"
    for head in (whole, whole[:size]):
        for tail in (
            listed,
            listed + listed,
            listed[:20],
            b"abcd\x04\0\0\0\x01\x02\x03\x04",
            listed + bytes(100),
        ):
            (tmp_path / "x").write_bytes(head + tail)
            found, notes = read(tmp_path / "x")
            assert np.array_equal(found, samples)
            assert len(notes) == tail.endswith(bytes(100))
        (tmp_path / "x").write_bytes(head + listed + whole)
        assert "another recording follows" in refusal(tmp_path / "x")
        (tmp_path / "x").write_bytes(head + listed + b"data\x04\0\0\0\x01\x02\x03\x04")
        assert "a second chunk of samples" in refusal(tmp_path / "x")


def test_metadata_behind_samples_of_an_open_size(tmp_path):
    container, listed = HEADED[0], b"LIST\x0c\0\0\0INFOINAM\0\0\0\0"
    whole = container.write(tmp_path / "x", noise())
    for size in (0, 0xFFFFFFFF, 100):
        (tmp_path / "x").write_bytes(container.with_size(whole, size) + listed)
        assert np.array_equal(read(tmp_path / "x")[0], noise())


def test_a_file_of_zeros_is_refused_at_once(tmp_path):
    """Each eight zeros would be a chunk."""
    with (tmp_path / "x").open("wb") as file:
        file.write(b"RIFF\0\0\0\0WAVE")
        file.truncate(2**34)
    assert "no data chunk" in refusal(tmp_path / "x")


def test_a_part_of_a_sample_is_reported(tmp_path):
    whole = HEADED[0].write(tmp_path / "x", noise(2))
    (tmp_path / "x").write_bytes(HEADED[0].with_size(whole[:-3], 0))
    found, notes = read(tmp_path / "x")
    assert np.array_equal(found, noise(2)[:-1])
    assert notes[1] == "a part of a sample at its end is left out, 1 byte(s)"


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM", "GSM610"])
def test_codecs_that_pad_the_last_block_are_refused(tmp_path, subtype):
    soundfile.write(tmp_path / "x.wav", noise(), RATE, subtype=subtype)
    assert f"codec {subtype}; take what ffmpeg" in refusal(tmp_path / "x.wav")


# --- flac, ogg, mp3 --------------------------------------------------------------------------


def flac(tmp_path: Path, samples: np.ndarray, **options) -> bytes:
    soundfile.write(tmp_path / "x.flac", samples, RATE, format="FLAC", **options)
    return (tmp_path / "x.flac").read_bytes()


def without_length(whole: bytes, start: int = 0) -> bytes:
    facts = int.from_bytes(whole[start + 18 : start + 26], "big") >> 36 << 36
    return whole[: start + 18] + facts.to_bytes(8, "big") + whole[start + 26 :]


@pytest.mark.parametrize("n", [1, 4095, 4096, 4097, 100_000])
@pytest.mark.parametrize("tag", [b"", b"ID3\x03\0\0\0\0\x01\x0a" + bytes(138)])
def test_flac_without_a_length(tmp_path, n, tag):
    samples = noise(2, n)
    (tmp_path / "x.flac").write_bytes(tag + without_length(flac(tmp_path, samples)))
    found, notes = read(tmp_path / "x.flac")
    assert np.array_equal(found, samples)
    assert notes == [f"its header has no length; all {n:,} samples are used"]


def test_flac_without_a_length_that_ends_early(tmp_path):
    whole = without_length(flac(tmp_path, noise(1, 50_000)))
    for cut in (1, 100, 5_000, len(whole) // 2):
        (tmp_path / "x.flac").write_bytes(whole[:-cut])
        refusal(tmp_path / "x.flac")


@pytest.mark.parametrize("n", [100, 5_000, 100_000])
def test_joined_flac_is_refused(tmp_path, n):
    whole = flac(tmp_path, noise(1, n))
    for second in (whole, flac(tmp_path, noise(1, 77_777)), flac(tmp_path, noise(1, 10))):
        (tmp_path / "x.flac").write_bytes(whole + second)
        assert "another recording follows the first" in refusal(tmp_path / "x.flac")
    (tmp_path / "x.flac").write_bytes(whole + garbage(50_000))  # no samples
    assert np.array_equal(read(tmp_path / "x.flac")[0], noise(1, n))


def test_the_last_sample_of_flac_is_looked_at_before_training(tmp_path):
    whole = flac(tmp_path, noise(1, 50_000))
    for cut in (1, 100, 20_000):
        (tmp_path / "x.flac").write_bytes(whole[:-cut])
        with (
            AudioFile(tmp_path / "x.flac") as file,
            pytest.raises(InputError, match="truncated, the last of its 50,000"),
        ):
            file.check_last()


def pages(whole: bytes) -> list[bytes]:
    return [b"OggS" + part for part in whole.split(b"OggS")[1:]]


@pytest.mark.parametrize("container", LOSSY[:2], ids=lambda c: c.name)
def test_ogg(tmp_path, container):
    whole = container.write(tmp_path / "x", noise(1, 60_000))
    parts = pages(whole)
    assert len(parts) > 5
    for spoiled, words in [
        (whole + whole, "another recording follows the first"),
        (b"".join(parts[:-1]), "its last page is not marked as the last"),
        (b"".join(parts[:3] + parts[4:]), "page 3 is missing"),
        (b"".join([*parts[:3], b"noise", *parts[3:]]), "no page begins there"),
        (parts[0].replace(b"vorbis", b"speexx").replace(b"OpusHead", b"Speex   "), "another codec"),
    ]:
        (tmp_path / "x").write_bytes(spoiled)
        assert words in refusal(tmp_path / "x")
    page = bytearray(parts[3])
    page[-9] ^= 1
    (tmp_path / "x").write_bytes(b"".join([*parts[:3], bytes(page), *parts[4:]]))
    assert "of its 60,000 samples can be read" in refusal(tmp_path / "x")
    (tmp_path / "x").write_bytes(whole + garbage(3000))
    with AudioFile(tmp_path / "x") as file:
        assert file.notes == ["3,000 bytes behind the samples are left out"]
        assert len(file.read()) == 60_000


@pytest.mark.parametrize("container", LOSSY, ids=lambda c: c.name)
def test_lossy_formats_keep_length_and_sound(tmp_path, container):
    wave = tone(4, RATE, 1)[:, 0]
    container.write(tmp_path / "x", wave)
    with AudioFile(tmp_path / "x") as file:
        found = file.read()[:, 0]
    assert len(found) == len(wave)
    assert np.corrcoef(found, wave)[0, 1] > 0.99


def tone(seconds: float, rate: int, n_channels: int) -> np.ndarray:
    """It begins in silence, so that its first frames are small ones."""
    t = np.arange(round(seconds * rate)) / rate
    wave = 0.2 * np.sin(2 * np.pi * (300 + 40 * t) * t) * (t > 1)
    return np.stack([wave, -0.5 * wave], 1)[:, :n_channels]


def mp3_frames(whole: bytes) -> list[int]:
    """Where the frames begin: every header has the sync word, version, layer and rate of the
    first.
    """
    first = whole[:4]
    kind = (first[1], first[2] & 0x0C)
    return [
        m.start()
        for m in re.finditer(re.escape(first[:2]), whole)
        if (whole[m.start() + 1], whole[m.start() + 2] & 0x0C) == kind
    ]


@dataclass(frozen=True)
class Mp3:
    whole: bytes
    frames: list[int]
    samples: np.ndarray


@pytest.fixture(params=[(16000, 1), (44100, 2), (8000, 1)], ids=str)
def mp3(request, tmp_path) -> Mp3:
    rate, n_channels = request.param
    samples = tone(4, rate, n_channels)
    soundfile.write(tmp_path / "x.mp3", samples, rate, format="MP3", bitrate_mode="VARIABLE")
    whole = (tmp_path / "x.mp3").read_bytes()
    return Mp3(whole, mp3_frames(whole), samples)


def read_mp3(path: Path, content: bytes) -> tuple[np.ndarray, list[str]]:
    path.write_bytes(content)
    with AudioFile(path) as file:
        return file.read(), file.notes


def test_mp3_without_a_length(mp3, tmp_path):
    """No frame is left out and none made up; the encoder's delay stays, as nothing says how long
    it is.
    """
    whole, _ = read_mp3(tmp_path / "x.mp3", mp3.whole)
    assert len(whole) == len(mp3.samples)
    stripped = mp3.whole[mp3.frames[1] :]
    found, notes = read_mp3(tmp_path / "x.mp3", stripped)
    assert notes == []
    assert len(mp3.samples) <= len(found) <= len(mp3.samples) + 2 * 1152
    delay = 576  # of this encoder, in samples
    assert np.abs(found[delay : delay + len(whole)] - whole)[: len(whole) // 2].max() < 1e-6
    twice, _ = read_mp3(tmp_path / "x.mp3", stripped + stripped)
    assert len(twice) - len(found) in (
        len(found) + 529,
        len(found) + 529 - 1,
    )  # the decoder's delay
    tagged, _ = read_mp3(tmp_path / "x.mp3", b"ID3\x03\0\0\0\0\0\x0a" + bytes(10) + stripped)
    assert np.array_equal(tagged, found)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda m: m.whole[: len(m.whole) * 6 // 10], "truncated, "),
        (lambda m: m.whole[m.frames[1] : -5], "truncated, its last frame is not whole"),
        (lambda m: m.whole[: m.frames[-1]], "frames that its header declares"),
        (lambda m: m.whole + m.whole, "another recording follows the first"),
        (
            lambda m: m.whole + b"ID3\x03\0\0\0\0\0\x0a" + bytes(10) + m.whole,
            "another recording follows",
        ),
        (
            lambda m: m.whole[: m.frames[9]] + bytes(99) + m.whole[m.frames[9] :],
            "damaged, 99 bytes",
        ),
        (lambda m: m.whole[:5], "truncated"),
        (lambda m: b"\xff\xfeT\0e\0x\0t\0", "no mp3"),
        (lambda m: b"\xff\xfd" + m.whole[2:], "another layer"),
    ],
)
def test_damaged_mp3(mp3, tmp_path, spoil, words):
    (tmp_path / "x.mp3").write_bytes(spoil(mp3))
    assert words in refusal(tmp_path / "x.mp3")


def test_mp3_with_more_frames_than_declared(mp3, tmp_path):
    more = mp3.whole + mp3.whole[mp3.frames[1] :]
    found, notes = read_mp3(tmp_path / "x.mp3", more)
    assert len(found) > 2 * len(mp3.samples)
    assert re.fullmatch(r"its header declares \d+ frames; all \d+ are used", notes[0])


def test_what_lies_behind_mp3(mp3, tmp_path):
    whole, _ = read_mp3(tmp_path / "x.mp3", mp3.whole)
    for tail, n_notes in [(b"TAG" + bytes(125), 0), (garbage(9000), 1), (bytes(500), 1)]:
        found, notes = read_mp3(tmp_path / "x.mp3", mp3.whole + tail)
        assert np.array_equal(found, whole)
        assert len(notes) == n_notes


# --- what is no file of audio ----------------------------------------------------------------


def test_a_resource_fork_next_to_a_recording(tmp_path):
    """._x.mp3, which macOS leaves on sticks, has nothing to do with x.mp3."""
    soundfile.write(tmp_path / "x.mp3", tone(1, RATE, 1), RATE, format="MP3")
    fork = bytes.fromhex("0005160700020000") + bytes(16) + bytes.fromhex("0002")
    (tmp_path / "._x.mp3").write_bytes(fork.ljust(4096, b"\0"))
    with AudioFile(tmp_path / "x.mp3") as file:
        assert len(file.read()) == RATE


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (a_pipe, "no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
        (lambda path: path.symlink_to("nowhere"), "a link to nowhere, which does not exist"),
        (Path.mkdir, "Is a directory"),
        (lambda path: None, "no such file"),
        (Path.touch, "an empty file"),
        (lambda path: path.write_bytes(bytes(5000)), "none of wav, rf64"),
        (lambda path: path.write_bytes(b"RIFF\0\0\0\0AVI LIST"), "none of wav, rf64"),
        (lambda path: path.write_bytes(b"RIFF\x04\0\0\0WAVE"), "no data chunk"),
        (lambda path: path.write_bytes(b"fLaC\0\0\0\x22"), "its header is damaged"),
    ],
)
def test_what_is_no_recording(tmp_path, make: Callable, words):
    make(tmp_path / "x.wav")
    assert words in refusal(tmp_path / "x.wav")


def test_descriptors_are_closed(tmp_path):
    HEADED[0].write(tmp_path / "x.wav", noise())
    (tmp_path / "y.wav").write_bytes((tmp_path / "x.wav").read_bytes()[:-9])
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        read(tmp_path / "x.wav")
        refusal(tmp_path / "y.wav")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
