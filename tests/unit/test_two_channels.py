"""W1 against its definition by torch, and on mixtures whose parts are known."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabeledasd.audio.two_channels import LEAST_SAMPLES, inverse_stft, stft, subtract_far

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
