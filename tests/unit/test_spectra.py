"""Spectra against hand-written framing, closed forms of tones, and energy theorems."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabeledasd.errors import InputError
from unlabeledasd.spectra import StftMagnitude, spectrum_magnitude

RATE = 16000


def noise(n_samples: int, batch: int = 1, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((batch, n_samples))


def hann(n_fft: int) -> np.ndarray:
    """Periodic: w[n_fft] would be w[0]."""
    return np.array([0.5 - 0.5 * np.cos(2 * np.pi * n / n_fft) for n in range(n_fft)])


def frames(wave: np.ndarray, n_fft: int) -> np.ndarray:
    """(T,) -> (frames, n_fft): frame t centred on sample t n_fft / 2, both ends mirrored."""
    half = n_fft // 2
    padded = np.concatenate([wave[1 : half + 1][::-1], wave, wave[-half - 1 : -1][::-1]])
    return np.stack([padded[t * half : t * half + n_fft] for t in range(len(wave) // half + 1)])


@pytest.mark.parametrize(
    ("n_fft", "n_bins", "n_frames"), [(256, 125, 2251), (1024, 500, 563), (4096, 1997, 141)]
)
def test_stft_of_18_seconds(n_fft, n_bins, n_frames):
    wave = noise(18 * RATE)
    window = hann(n_fft)
    hz = np.arange(n_fft // 2 + 1) * RATE / n_fft
    spectra = np.abs(np.fft.rfft(frames(wave[0], n_fft) * window)) / np.sqrt((window**2).sum())
    expected = spectra[:, (hz >= 200) & (hz <= 8000)].T
    assert expected.shape == (n_bins, n_frames)
    found = StftMagnitude(n_fft)(torch.tensor(wave, dtype=torch.float32))
    assert found.dtype == torch.float32
    assert found.shape == (1, n_bins, n_frames)
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_samples", [4096, 5000, 6143, 6144])
def test_stft_of_odd_lengths_and_batches(n_samples):
    wave = noise(n_samples, batch=3)
    window = hann(1024)
    found = StftMagnitude(1024, band_hz=(0, 8000)).double()(torch.tensor(wave))
    for row in range(3):
        spectra = np.abs(np.fft.rfft(frames(wave[row], 1024) * window)).T
        expected = spectra / np.sqrt((window**2).sum())
        np.testing.assert_allclose(found[row], expected, atol=1e-6)  # the window is float32


@pytest.mark.parametrize("n_fft", [256, 1024, 4096])
@pytest.mark.parametrize("hz", [250.0, 1000.0, 4000.0, 7500.0])
def test_tone_lands_in_its_bin(n_fft, hz):
    amplitude, bin_ = 0.5, hz * n_fft / RATE
    wave = amplitude * np.cos(2 * np.pi * hz * np.arange(8 * n_fft) / RATE)
    stft = StftMagnitude(n_fft)
    middle = stft(torch.tensor(wave[None], dtype=torch.float32))[0, :, 8].numpy()
    assert stft.first == int(np.ceil(200 * n_fft / RATE))
    assert middle.argmax() == bin_ - stft.first
    # half the amplitude x sum(w) / sqrt(sum(w^2)), for a Hann window (n / 2) / sqrt(3 n / 8);
    # half of it in the next bin
    peak = amplitude / 2 * (n_fft / 2) / np.sqrt(3 * n_fft / 8)
    assert middle.max() == pytest.approx(peak, rel=1e-4)
    assert middle[middle.argmax() + 1] == pytest.approx(peak / 2, rel=1e-3)


def test_both_ends_of_the_band_belong_to_it():
    wave = torch.tensor(noise(64), dtype=torch.float32)
    every = StftMagnitude(16, band_hz=(0, 8000))(wave)  # bins at 0, 1, ..., 8 kHz
    bands = {(2000, 5000): [2, 3, 4, 5], (2000.5, 4999.5): [3, 4], (7000, 9e9): [7, 8]}
    for band, bins in bands.items():
        assert torch.equal(StftMagnitude(16, band_hz=band)(wave), every[:, bins])
    at_48_khz = StftMagnitude(16, sample_rate=48000, band_hz=(6000, 9000))  # 0, 3, 6, ... kHz
    assert torch.equal(at_48_khz(wave), every[:, [2, 3]])


@pytest.mark.parametrize("band", [(8001, 9000), (500, 200), (10, 20)])
def test_empty_band_is_an_error_that_names_it(band):
    with pytest.raises(InputError, match=rf"band_hz=\[{band[0]}, {band[1]}\].*n_fft=256"):
        StftMagnitude(256, band_hz=band)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), n_fft=st.sampled_from([16, 64, 256]))
def test_stft_keeps_the_energy_of_every_frame(seed, n_fft):
    wave = noise(1000, seed=seed)
    power = StftMagnitude(n_fft, band_hz=(0, 8000)).double()(torch.tensor(wave))[0].numpy() ** 2
    # a real wave: all bins but the first and last count twice
    both_sides = power.sum(0) + power[1:-1].sum(0)
    energy = ((frames(wave[0], n_fft) * hann(n_fft)) ** 2).sum(1) / (3 * n_fft / 8)
    np.testing.assert_allclose(both_sides, n_fft * energy, rtol=1e-5)


def test_spectrum_of_18_seconds():
    wave = noise(18 * RATE, batch=2)
    found = spectrum_magnitude(torch.tensor(wave)).numpy()
    assert found.shape == (2, 144_001)
    power = found**2
    both_sides = power.sum(1) + power[:, 1:-1].sum(1)
    np.testing.assert_allclose(both_sides, wave.shape[1] * (wave**2).sum(1))  # Parseval
    n = np.arange(wave.shape[1])
    for bin_ in (0, 1, 777, 144_000):  # unscaled, by the definition of the transform
        definition = np.abs((wave[0] * np.exp(-2j * np.pi * (bin_ * n % len(n)) / len(n))).sum())
        assert found[0, bin_] == pytest.approx(definition, abs=1e-8)


def test_spectrum_of_the_loudest_tone_stays_in_float32():
    time = torch.arange(18 * RATE, dtype=torch.float64) / RATE
    wave = torch.cos(2 * torch.pi * 1000 * time).float()
    found = spectrum_magnitude(wave[None])[0]
    assert found.dtype == torch.float32
    assert found.argmax() == 18_000
    assert found.max().item() == pytest.approx(144_000, rel=1e-5)
    assert found[:17_990].max() < 1
