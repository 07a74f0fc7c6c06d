import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import write_wav
from unlabeledasd.errors import InputError
from unlabeledasd.waveforms import (
    ClipReview,
    check_clip,
    check_clips,
    fit_length,
    inspect_clip,
    read_clip,
    to_float,
)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1, exclude_max=True))
def test_fit_length(size, length, position):
    wave = np.arange(size, dtype=np.int16)
    fitted = fit_length(wave, length, position)
    assert fitted.dtype == wave.dtype
    if size < length:  # repeated from sample 0
        assert fitted.tolist() == [i % size for i in range(length)]
    else:  # a window inside the clip
        assert fitted.tolist() == list(range(fitted[0], fitted[0] + length))


def test_fit_length_reaches_every_window():
    starts = {
        int(fit_length(np.arange(10), 8, position)[0]) for position in np.linspace(0, 0.999, 50)
    }
    assert starts == {0, 1, 2}
    assert fit_length(np.arange(10), 8)[0] == 0  # scoring takes the first samples


def test_pcm16_as_stored(tmp_path):
    samples = np.array([-32768, -1, 0, 1, 32767], dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="PCM_16")
    wave = read_clip(tmp_path / "a.wav")
    assert wave.dtype == np.int16
    assert wave.tolist() == samples.tolist()
    as_float = to_float(torch.from_numpy(wave))
    assert as_float.dtype == torch.float32
    assert as_float.tolist() == [-1.0, -1 / 32768, 0.0, 1 / 32768, 32767 / 32768]
    assert to_float(as_float) is as_float


@pytest.mark.parametrize(
    ("subtype", "tolerance"), [("PCM_24", 2**-23), ("FLOAT", 2**-24), ("PCM_U8", 2**-7)]
)
def test_other_formats_are_float(tmp_path, subtype, tolerance):
    samples = np.linspace(-0.9, 0.9, 100)
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype=subtype)
    wave = read_clip(tmp_path / "a.wav")
    assert wave.dtype == np.float32
    np.testing.assert_allclose(wave, samples, atol=tolerance)


def test_channels(tmp_path):
    stereo = np.array([[1, 2], [3, 4]], dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", stereo, 16000)
    assert read_clip(tmp_path / "a.wav", channel=0).tolist() == [1, 3]
    assert read_clip(tmp_path / "a.wav", channel=1).tolist() == [2, 4]
    assert check_clip(tmp_path / "a.wav", 16000, channel=1) == 2 / 16000
    with pytest.raises(InputError, match="2 channels, expected one"):
        check_clip(tmp_path / "a.wav", 16000)
    with pytest.raises(InputError, match="channel=2"):
        check_clip(tmp_path / "a.wav", 16000, channel=2)


def test_flac(tmp_path):
    write_wav(tmp_path / "a.wav")
    soundfile.write(
        tmp_path / "a.flac", soundfile.read(tmp_path / "a.wav", dtype="int16")[0], 16000
    )
    assert (read_clip(tmp_path / "a.flac") == read_clip(tmp_path / "a.wav")).all()


def test_clips_that_cannot_be_used(tmp_path):
    write_wav(tmp_path / "rate.wav", samplerate=44100)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    (tmp_path / "text.wav").write_text("no audio")
    unreadable = "cannot be read as audio"
    for name, words in [
        ("rate.wav", "44100 Hz, expected 16000 Hz"),
        ("empty.wav", "no samples"),
        ("text.wav", unreadable),
        ("missing.wav", unreadable),
    ]:
        with pytest.raises(InputError, match=words) as error:
            check_clips(tmp_path, [name], 16000)
        assert name in str(error.value)
    for name in ("empty.wav", "text.wav", "missing.wav"):
        with pytest.raises(InputError, match=name):
            read_clip(tmp_path / name)


def test_recordings_that_are_used_twice(tmp_path):
    """Equal samples in other containers too; a note where nothing contradicts, else an error."""
    wave = (3000 * np.random.default_rng(0).standard_normal((4, 20_000))).astype(np.int16)
    wave[3, :10_000] = wave[0, :10_000]  # begins like it, and is another recording
    kinds = {
        "fan/test/1.wav": (0, "unknown"),
        "fan/test/2.flac": (0, "normal"),
        "fan/test/3.wav": (3, "anomaly"),
        "fan/test/4.wav": (0, "unknown"),
    }
    for path, (row, _) in kinds.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / path, wave[row], 16000)
    review = ClipReview(tmp_path, None)
    for path, (_, condition) in kinds.items():
        review.add(path, inspect_clip(tmp_path / path, 16000), condition)
    assert [note for note in review.notes() if "2 such clips" in note] == review.notes()
    for path, condition, reason in (
        ("fan/test/9.wav", "anomaly", "as fan/test/2.flac; a clip is normal or anomalous"),
        ("fan/train/9.wav", "normal", "as fan/test/1.wav; a clip is for training or for testing"),
        ("pump/test/9.wav", "normal", "as fan/test/1.wav; a clip belongs to one machine"),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / path, wave[0], 16000)
        with pytest.raises(InputError, match=reason):
            review.add(path, inspect_clip(tmp_path / path, 16000), condition)
