"""Spectral embeddings against tones, noise, closed forms, and their invariances."""

import librosa
import numpy as np
import pytest
import torch

from unlabeledasd.encoders.spectral import (
    ANCHOR,
    LogMelStatistics,
    PowerSpectrum,
    interval_means,
    mel_filters,
)
from unlabeledasd.errors import InputError

RATE = 16000
SECONDS = 2.0


def noise(seed: int = 0, batch: int = 1) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    wave = 0.1 * rng.standard_normal((batch, round(RATE * SECONDS)))
    return torch.from_numpy(wave.astype(np.float32))


def tone(hz: float, amplitude: float = 0.5) -> torch.Tensor:
    time = np.arange(round(RATE * SECONDS)) / RATE
    return torch.from_numpy((amplitude * np.sin(2 * np.pi * hz * time)).astype(np.float32))[None]


def mels(statistics: list[str], **settings) -> LogMelStatistics:
    return LogMelStatistics(statistics, clip_seconds=SECONDS, **settings)


def values(extractor, wave: torch.Tensor) -> np.ndarray:
    """The embedding without anchors, (B, bands, D - 1)."""
    return extractor(wave)[0][:, :, 1:].numpy()


def test_against_librosa():
    wave = noise()
    spectrum = librosa.stft(wave[0].numpy(), n_fft=1024, hop_length=512, pad_mode="reflect")
    window = librosa.filters.get_window("hann", 1024)
    power = np.abs(spectrum) ** 2 / (window**2).sum()
    mel = librosa.filters.mel(sr=RATE, n_fft=1024, n_mels=128)
    level = 10 * np.log10(mel / mel.sum(1, keepdims=True) @ power)
    for name, of_time in (("mean", np.mean), ("std", np.std), ("max", np.max)):
        found = values(mels([name], level_removed=False), wave).ravel()
        np.testing.assert_allclose(found, of_time(level, axis=1), atol=2e-3)
    both = values(mels(["mean", "std"]), wave)
    assert both.shape == (1, 8, 32)
    free = level - level.mean()
    np.testing.assert_allclose(both[0, 2, :16], free.mean(1)[32:48], atol=2e-3)
    np.testing.assert_allclose(both[0, 2, 16:], free.std(1)[32:48], atol=2e-3)


def test_white_noise_has_the_power_of_its_samples():
    found = values(mels(["mean"], level_removed=False), noise(batch=4))
    # the mean of the logarithm of an exponential variable is 2.5 dB below that of its mean;
    # wide filters average bins before the logarithm
    assert abs(found[:, -1].mean() - 20 * np.log10(0.1)) < 2.5
    found = values(PowerSpectrum(False, clip_seconds=SECONDS), noise(batch=4))
    assert abs(found[:, :, -20:].mean() - 20 * np.log10(0.1)) < 0.2


@pytest.mark.parametrize("extractor", [mels(["mean", "std"]), PowerSpectrum(clip_seconds=SECONDS)])
def test_loudness(extractor):
    wave = noise()
    np.testing.assert_allclose(values(extractor, wave / 8), values(extractor, wave), atol=1e-3)
    extractor.level_removed = False
    found = values(extractor, wave) - values(extractor, wave / 8)
    expected = np.full_like(found, 20 * np.log10(8))
    if isinstance(extractor, LogMelStatistics):
        expected[:, :, 16:] = 0  # standard deviations
    np.testing.assert_allclose(found, expected, atol=1e-3)
    extractor.level_removed = True


@pytest.mark.parametrize("hz", [150.0, 440.0, 1000.0, 3100.0, 7000.0])
def test_a_tone_is_in_the_band_of_its_frequency(hz):
    mel = int(values(mels(["max"]), tone(hz)).ravel().argmax())
    edges = librosa.mel_frequencies(130, fmin=0, fmax=RATE / 2)
    assert edges[mel] - RATE / 1024 <= hz <= edges[mel + 2] + RATE / 1024
    assert is_within(hz, mels(["max"]).part_names[mel // 16])
    if hz < 4000:
        found = values(PowerSpectrum(clip_seconds=SECONDS), tone(hz)).ravel()
        edges = np.geomspace(10, 4000, 97)
        assert edges[found.argmax()] - 2 <= hz <= edges[found.argmax() + 1] + 2
        names = PowerSpectrum(n_bands=8, clip_seconds=SECONDS).part_names
        assert is_within(hz, names[found.argmax() // 12])


def is_within(hz: float, name: str) -> bool:
    """name: of a band, to two digits."""
    low, high = (1000 * float(edge) for edge in name.removesuffix(" kHz").split("-"))
    return 0.95 * low <= hz <= 1.05 * high


def test_a_short_event_is_seen_by_the_maximum():
    quiet, event = 0.01 * noise(), 0.01 * noise()
    event[0, 10000:10400] += tone(2000.0, 0.1)[0, :400]
    mean, most = (
        np.abs(values(mels([name]), event) - values(mels([name]), quiet)).max()
        for name in ("mean", "max")
    )
    assert most > 10 * mean


def test_intervals_have_the_mean_of_their_bins():
    edges = np.geomspace(10, 4000, 97)
    weights = interval_means(edges, 8192, RATE).double().numpy()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    step = RATE / 8192
    slope = np.arange(4097) * step  # the mean of f over an interval is its middle, to half a bin
    assert (np.abs(weights @ slope - (edges[:-1] + edges[1:]) / 2) <= step / 2).all()
    wide = interval_means(np.array([3.0, 7.0]) * 1000 / 64, 64, 1000)[0].numpy()
    np.testing.assert_allclose(wide[[2, 3, 4, 6, 7, 8]] * 4, [0, 0.5, 1, 1, 0.5, 0], atol=1e-6)


def test_angles_are_distances():
    extractor = mels(["mean", "std"])
    x, y = (extractor(noise(seed, 1))[0].flatten().double() for seed in (0, 1))
    cosine = torch.dot(x, y) / x.norm() / y.norm()
    expected = (x - y).square().sum() / (2 * 8 * ANCHOR**2)
    assert float(1 - cosine) == pytest.approx(float(expected), rel=0.02)


def test_contract_and_silence():
    for extractor in (mels(["max"]), PowerSpectrum(n_bands=8, clip_seconds=SECONDS)):
        assert extractor.n_samples == 32000
        wave = torch.cat([noise(), torch.zeros(1, 32000)])
        embedding, bands = extractor(wave)
        assert embedding.shape[1] == len(bands) == 8
        assert embedding.flatten(1).shape[1] == extractor.embedding_size
        assert torch.isfinite(embedding).all()
        torch.testing.assert_close(torch.stack(bands, 1), embedding)
        torch.testing.assert_close(extractor(wave[:1])[0], embedding[:1])  # of the clip alone
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(extractor(wave)[0], embedding)
        assert not list(extractor.parameters())
        assert not extractor.state_dict()
        with pytest.raises(InputError, match=r"shape \(1, 100\): expected \(batch, 32000\)"):
            extractor(torch.zeros(1, 100))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mels(["median"]), r"statistics=\['median'\]: allowed are mean, std, max"),
        (lambda: mels([]), r"statistics=\[\]: .*at least one"),
        (lambda: mels(["max"], n_bands=7), "n_bands=7: n_mels=128 must be a multiple"),
        (lambda: mels(["max"], n_bands=0), "n_bands=0"),
        (lambda: mel_filters(128, 256, RATE), "n_mels=128: too many .* n_fft=256"),
        (lambda: LogMelStatistics(clip_seconds=0.01), "clip_seconds=0.01: at least 0.064"),
        (lambda: PowerSpectrum(range_hz=[0, 4000]), r"range_hz=\[0, 4000\]: ascending"),
        (lambda: PowerSpectrum(range_hz=[10, 9000]), "at most 8000"),
        (lambda: PowerSpectrum(n_bands=5), "n_bands=5: n_values=96 must be a multiple"),
    ],
)
def test_wrong_settings(make, message):
    with pytest.raises(InputError, match=message):
        make()
