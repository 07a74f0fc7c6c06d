"""W1 against its definition by torch, and on mixtures whose parts are known."""

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabeledasd.audio.two_channels import (
    LEAST_SAMPLES,
    inverse_stft,
    last_channel,
    stft,
    subtract_far,
    take_channel,
)
from unlabeledasd.cache import ClipCache
from unlabeledasd.detection.recordings import array_blocks, read_blocks
from unlabeledasd.errors import InputError
from unlabeledasd.waveforms import inspect_clip, read_clip

RATE = 16000


def decibel(wave: np.ndarray) -> float:
    return 10 * np.log10(np.mean(np.square(wave, dtype=np.float64)))


def by_torch(near: np.ndarray, far: np.ndarray) -> np.ndarray:
    scale = 0.9 / max(np.abs(near).max(), np.abs(far).max())
    form = {"n_fft": 1024, "hop_length": 512, "center": True}
    form["window"] = torch.hann_window(1024, dtype=torch.float64)
    c, f = (
        torch.stft(torch.from_numpy(scale * x), pad_mode="reflect", return_complex=True, **form)
        for x in (near, far)
    )
    response = (c * f.conj()).sum(1) / (f.abs().square().sum(1) + 1e-12)
    return torch.istft(c - response[:, None] * f, length=len(near), **form).numpy() / scale


@settings(max_examples=25, deadline=None)
@given(st.integers(LEAST_SAMPLES, 9000), st.integers(0, 1000), st.floats(1e-4, 1e4))
def test_definition(n_samples, seed, scale):
    near, far = scale * np.random.default_rng(seed).standard_normal((2, n_samples))
    found = subtract_far(near, far)
    assert (found.shape, found.dtype) == ((n_samples,), np.float32)
    np.testing.assert_allclose(found, by_torch(near, far), atol=1e-5 * scale)


@pytest.mark.parametrize("n_samples", [513, 1024, 1300, 16000, 16383])
def test_transform_and_inverse(n_samples):
    wave = np.random.default_rng(0).standard_normal(n_samples)
    np.testing.assert_allclose(inverse_stft(stft(wave), n_samples), wave, atol=1e-6)


def room(rng: np.random.Generator, n_taps: int = 60) -> np.ndarray:
    """A short decaying impulse response."""
    return rng.standard_normal(n_taps) * np.exp(-np.arange(n_taps) / 12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("seconds", [6, 10])
def test_noise_falls_and_the_machine_stays(seed, seconds):
    """near = machine + filtered far noise, the machine as loud as the noise."""
    rng = np.random.default_rng(seed)
    n = seconds * RATE
    time = np.arange(n) / RATE
    tones = sum(np.sin(2 * np.pi * hz * time) for hz in 90 * np.arange(1, 30))
    machine = tones / np.std(tones) * 0.03
    far = 0.1 * np.convolve(rng.standard_normal(n), room(rng), "same")
    noise = np.convolve(far, room(rng), "full")[:n]
    noise *= 0.03 / np.std(noise)
    found = subtract_far(machine + noise, far)
    assert decibel(noise) - decibel(found - machine) >= 20
    assert abs(decibel(found) - decibel(machine)) < 1


def test_int16_as_float():
    rng = np.random.default_rng(0)
    near, far = (8000 * rng.standard_normal((2, 4000))).clip(-32768, 32767).astype(np.int16)
    found = subtract_far(near, far)
    np.testing.assert_allclose(found, subtract_far(near / 1.0, far / 1.0), atol=1e-2)


def test_limits():
    wave = np.random.default_rng(0).standard_normal(5000)
    np.testing.assert_array_equal(subtract_far(0 * wave, 0 * wave), np.zeros(5000))
    np.testing.assert_allclose(subtract_far(wave, 0 * wave), wave, atol=1e-6)
    np.testing.assert_allclose(subtract_far(0 * wave, wave), 0 * wave, atol=1e-6)
    np.testing.assert_allclose(subtract_far(wave, 0.3 * wave), 0 * wave, atol=1e-6)


@pytest.fixture
def stereo(tmp_path):
    """(file of 16 bits, its samples (T, 2) int16)"""
    rng = np.random.default_rng(5)
    samples = (3000 * rng.standard_normal((3 * RATE, 2))).astype(np.int16)
    soundfile.write(tmp_path / "two.wav", samples, RATE)
    return tmp_path / "two.wav", samples


def test_every_reader_takes_the_channel_that_is_named(stereo):
    file, samples = stereo
    values = samples / np.float32(32768)
    expected = {"near": values[:, 0], "far": values[:, 1], "w1": by_torch(*values.T.astype(float))}
    for name, wave in expected.items():
        clip = read_clip(file, name)
        assert clip.dtype == (np.float32 if name == "w1" else np.int16)
        scale = 1 if name == "w1" else 32768
        np.testing.assert_allclose(clip / scale, wave, atol=1e-6)
        blocks = np.concatenate(list(read_blocks(file, RATE, name)))
        np.testing.assert_allclose(blocks, wave, atol=1e-6)
        (given,) = array_blocks(samples, RATE, RATE, name)
        np.testing.assert_allclose(given, wave, atol=1e-6)
    near, far = (inspect_clip(file, RATE, name).head for name in ("near", "far"))
    assert near != far


def test_a_cache_of_16_bits_does_not_take_w1(stereo):
    file, _ = stereo
    device = torch.device("cpu")
    assert ClipCache.read(file.parent, [file.name], "near", device, 1e9)
    assert ClipCache.read(file.parent, [file.name], "w1", device, 1e9) is None


@pytest.mark.parametrize("name", ["far", "w1"])
def test_one_channel_is_not_two(tmp_path, name):
    file = tmp_path / "one.wav"
    soundfile.write(file, np.zeros(2000), RATE)
    with pytest.raises(InputError, match=rf"1 channel\(s\), but dataset.channel={name} \(two are"):
        inspect_clip(file, RATE, name)
    with pytest.raises(InputError, match=f"channel {name} is asked for"):
        next(read_blocks(file, RATE, name))
    with pytest.raises(InputError, match=f"samples of one channel, but channel={name}"):
        next(array_blocks(np.zeros(2000), RATE, RATE, name))


@pytest.mark.parametrize(("channel", "last"), [(None, 0), (3, 3), ("near", 0), ("w1", 1)])
def test_the_channels_that_are_needed(channel, last):
    assert last_channel(channel) == last


@pytest.mark.parametrize("channel", ["left", "W1", "", -1])
def test_other_names_and_numbers(channel):
    with pytest.raises(InputError, match=f"channel={channel}: allowed "):
        last_channel(channel)


def test_a_few_samples_are_the_near_channel():
    samples = np.arange(20).reshape(10, 2)
    np.testing.assert_array_equal(take_channel(samples, "w1"), samples[:, 0])
