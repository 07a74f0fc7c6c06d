"""Explanations: inserted sounds are found; the search against brute force; pictures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from scipy.signal import butter, sosfilt

from unlabeledasd.detection.explanations import (
    BANDS,
    BLOCK_SECONDS,
    band_edges,
    band_levels,
    draw,
    explain,
    strongest_region,
)

RATE = 16000


def machine(rng: np.random.Generator, seconds: float = 8.0) -> np.ndarray:
    """Hum, a click four times a second and coloured noise; a loudness of its own."""
    n = round(RATE * seconds)
    time = np.arange(n) / RATE
    hum = sum(np.sin(2 * np.pi * 50 * k * time + rng.uniform(0, 6)) / k for k in range(1, 20))
    noise = sosfilt(butter(1, 1500, fs=RATE, output="sos"), rng.standard_normal(n))
    clicks = np.zeros(n)
    for start in np.arange(rng.uniform(0, 0.25), seconds - 0.05, 0.25):
        place = round(start * RATE)
        clicks[place : place + 400] += rng.standard_normal(400) * np.exp(-np.arange(400) / 60)
    return rng.uniform(0.02, 0.04) * (hum + noise + 0.5 * clicks)


def inserted(rng: np.random.Generator, kind: str, n: int) -> tuple[np.ndarray, tuple, tuple]:
    """An added sound (n,), its band in Hz and its time in s."""
    start = rng.uniform(0.5, 5.5)
    seconds = {"tone": rng.uniform(1, 2), "burst": 0.15, "noise": rng.uniform(0.6, 1.5)}[kind]
    hz = float(np.exp(rng.uniform(np.log(400), np.log(5000))))
    band = {"tone": (hz, hz), "burst": (0.0, RATE / 2), "noise": (hz, 1.5 * hz)}[kind]
    first, size = round(start * RATE), round(seconds * RATE)
    time = np.arange(size) / RATE
    if kind == "tone":
        sound = 0.05 * np.sin(2 * np.pi * hz * time)
    else:
        sound = rng.standard_normal(size)
        if kind == "noise":
            sound = sosfilt(butter(6, band, "bandpass", fs=RATE, output="sos"), sound)
        sound *= (0.2 if kind == "burst" else 0.06) / sound.std()
    whole = np.zeros(n)
    whole[first : first + size] = sound
    return whole, band, (start, start + seconds)


def band_of(hz: float) -> int:
    return int(np.clip(np.searchsorted(band_edges(RATE), hz, "right") - 1, 0, BANDS - 1))


@pytest.mark.parametrize("kind", ["tone", "burst", "noise"])
def test_inserted_sounds_are_found(kind):
    """Within one band and 0.5 s in at least 9 of 10."""
    found = 0
    for seed in range(20):
        rng = np.random.default_rng((seed, len(kind)))
        normal, clip = machine(rng), machine(rng)
        sound, (low, high), (start, end) = inserted(rng, kind, len(clip))
        region = explain(clip + sound, normal, RATE)
        first, last = band_of(region.low_hz + 1), band_of(region.high_hz - 1)
        in_band = abs(first - band_of(low)) <= 1 and abs(last - band_of(high)) <= 1
        if kind == "burst":  # of all frequencies: where it stands out depends on the machine
            in_band = last - first >= BANDS // 2
        in_time = abs(region.start_s - start) <= 0.5 and abs(region.end_s - end) <= 0.5
        found += in_band and in_time and region.difference_db > 3
    assert found >= 18


def test_a_missing_sound_is_found():
    rng = np.random.default_rng(0)
    normal, clip = machine(rng), machine(rng)
    time = np.arange(len(clip)) / RATE
    tone = 0.05 * np.sin(2 * np.pi * 3000 * time)
    region = explain(clip, normal + tone, RATE)
    assert region.low_hz - 300 <= 3000 <= region.high_hz + 300
    assert region.end_s - region.start_s > 7
    assert region.difference_db < -6


def test_loudness_is_reported_apart():
    rng = np.random.default_rng(1)
    normal, clip = machine(rng), machine(rng)
    sound, *_ = inserted(rng, "noise", len(clip))
    soft, loud = explain(clip + sound, normal, RATE), explain(4 * (clip + sound), normal, RATE)
    assert (soft.low_hz, soft.high_hz) == (loud.low_hz, loud.high_hz)
    assert (soft.start_s, soft.end_s) == (loud.start_s, loud.end_s)
    assert loud.level_db - soft.level_db == pytest.approx(20 * np.log10(4), abs=0.01)
    assert loud.difference_db - soft.difference_db == pytest.approx(20 * np.log10(4), abs=0.01)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 7), st.integers(0, 10_000))
def test_search_by_brute_force(n_rows, n_columns, seed):
    deviation = np.random.default_rng(seed).standard_normal((n_rows, n_columns))
    strengths = {
        (a, b, c, d): abs(deviation[a:b, c:d].sum()) / np.sqrt((b - a) * (d - c))
        for a in range(n_rows)
        for b in range(a + 1, n_rows + 1)
        for c in range(n_columns)
        for d in range(c + 1, n_columns + 1)
    }
    rows, columns = strongest_region(deviation)
    best = strengths[rows.start, rows.stop, columns.start, columns.stop]
    assert best == pytest.approx(max(strengths.values()))


def test_levels():
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal(4 * RATE)
    levels = band_levels(noise, RATE)
    assert levels.shape == (BANDS, 40)
    np.testing.assert_allclose(10 * np.log10((10 ** (levels / 10)).mean(1)), -20, atol=1)
    time = np.arange(4 * RATE) / RATE
    for hz in (200.0, 1000.0, 6000.0):
        tone = band_levels(np.sin(2 * np.pi * hz * time), RATE)
        assert (tone.argmax(0) == band_of(hz)).all()
    half = np.concatenate([np.zeros(RATE), noise[:RATE]])
    silent = band_levels(half, RATE)
    assert (silent[:, :9] == -100).all()
    assert (silent[:, 11:] > -40).all()
    for n_samples in (1, 100, 1023, 1600, 1601):
        assert np.isfinite(band_levels(noise[:n_samples], RATE)).all()


def test_identical_and_silent_clips():
    silence, clip = np.zeros(RATE), machine(np.random.default_rng(0), 1.0)
    for pair in ((silence, silence), (clip, clip), (silence, clip), (clip, silence)):
        region = explain(*pair, RATE)
        assert np.isfinite([region.difference_db, region.level_db]).all()
        assert 0 <= region.low_hz < region.high_hz <= RATE / 2
        assert 0 <= region.start_s < region.end_s <= 1.0 + BLOCK_SECONDS
    assert explain(silence, silence, RATE).difference_db == 0


def test_sentence_and_picture(tmp_path):
    rng = np.random.default_rng(0)
    normal, clip = machine(rng, 3.0), machine(rng, 3.0)
    time = np.arange(RATE // 2) / RATE
    clip[RATE : RATE + RATE // 2] += 0.1 * np.sin(2 * np.pi * 2000 * time)
    region = explain(clip, normal, RATE)
    text = region.sentence()
    assert text == (
        f"{region.low_hz / 1000:.2g}-{region.high_hz / 1000:.2g} kHz, "
        f"{region.start_s:.1f}-{region.end_s:.1f} s: +{region.difference_db:.0f} dB"
    )
    assert (region.start_s, region.end_s) == pytest.approx((1.0, 1.5), abs=0.11)
    draw(tmp_path / "a/x.png", clip, normal, RATE, ("clip", "normal"))
    image = imread(tmp_path / "a/x.png")[..., :3]
    lime = (image == (0, 1, 0)).all(-1)
    assert lime.any()
    rows = np.flatnonzero(lime.any(1)) / len(image)
    assert not ((rows > 0.36) & (rows < 0.64)).any()  # the normal clip has no mark
