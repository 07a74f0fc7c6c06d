"""Transformations of clips against closed forms, and the classes that they make."""

import numpy as np
import pytest
import torch

from unlabeledasd.augment import transform
from unlabeledasd.errors import InputError
from unlabeledasd.transformations import Filtered, Resampled, Stretched

RATE, SECONDS, HZ = 16000, 2, 1000
TIME = torch.arange(RATE * SECONDS) / RATE


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tone(hz: float) -> torch.Tensor:
    return 0.5 * torch.sin(2 * torch.pi * hz * TIME)


def peak_hz(wave: torch.Tensor) -> float:
    return float(torch.fft.rfft(wave).abs().argmax()) / SECONDS


def bursts_per_second(wave: torch.Tensor) -> float:
    envelope = wave.square() - wave.square().mean()
    found = torch.fft.rfft(envelope).abs()[: 20 * SECONDS]
    return float(found.argmax()) / SECONDS


@pytest.mark.parametrize("rate", [0.8, 1.04, 1.5])
def test_pitch_and_tempo_rise_together(rate):
    found = Resampled(rate)(tone(HZ)[None], generator())[0]
    assert len(found) == len(TIME)
    assert peak_hz(found) == pytest.approx(HZ * rate, abs=5)  # a clip has a length in hundreds
    assert found.abs().max() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("rate", [0.75, 1.2, 1.5])
def test_stretching_changes_tempo_and_not_pitch(rate):
    pulsed = tone(HZ) * (1 + torch.sin(2 * torch.pi * 4 * TIME))  # 4 bursts a second
    found = Stretched(rate)(pulsed[None], generator())[0]
    assert len(found) == len(TIME)
    assert peak_hz(found) == pytest.approx(HZ, abs=RATE / 512 / 2)  # a grain keeps its frequency
    assert bursts_per_second(found) == pytest.approx(4 * rate, abs=0.5)
    ramp = torch.arange(4000.0)[None]
    torch.testing.assert_close(Stretched(1)(ramp, generator()), ramp)


def test_a_filter_changes_levels_within_its_range_and_nothing_else():
    impulse = torch.zeros(40, RATE)
    impulse[:, 0] = 1
    response = 20 * torch.fft.rfft(Filtered(12, 8)(impulse, generator())).abs().log10()
    assert response.abs().max() <= 12.01
    assert response.std(dim=0).min() > 3  # every frequency, from clip to clip
    knots = 8000 * 2.0 ** (np.arange(8) * 6 / 7 - 6)
    middle = np.sqrt(knots[3] * knots[4])  # linear in dB over the logarithm of the frequency
    at = response[:, [round(knots[3]), round(middle), round(knots[4])]]
    torch.testing.assert_close(at[:, 1], (at[:, 0] + at[:, 2]) / 2, atol=0.05, rtol=0)
    found = Filtered(12, 8)(tone(HZ)[None], generator(3))[0]
    assert peak_hz(found) == HZ
    torch.testing.assert_close(Filtered(0)(tone(HZ)[None], generator())[0], tone(HZ))


@pytest.mark.parametrize("make", [Filtered, lambda: Resampled(1.04), lambda: Stretched(1.15)])
def test_draws_come_from_the_generator_alone(make):
    wave = torch.randn(3, 4000)
    first = make()(wave, generator(1))
    torch.manual_seed(5)
    assert torch.equal(make()(wave, generator(1)), first)
    assert first.dtype == torch.float32
    assert first.isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Filtered(n_knots=1), "n_knots=1: allowed is at least 2"),
        (lambda: Resampled(3), "rate=3: allowed is from 0.5 to 2"),
        (lambda: Stretched(0.1), "rate=0.1: allowed is from 0.5 to 2"),
    ],
)
def test_values_that_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("size", [2, 9, 64])
def test_each_part_of_a_batch_has_its_own_class(size):
    """Clip i is the constant i + 1; transformation k multiplies by 100 ** k."""
    times = [lambda wave, _, k=k: wave * 100**k for k in (1, 2)]
    wave = torch.arange(1, size + 1)[:, None].repeat(1, 4).double()
    found, classes = transform(wave, torch.arange(size), times, generator(size))
    kinds, clips = (classes % 3).tolist(), (classes // 3).tolist()
    assert sorted(clips) == list(range(size))
    assert found[:, 0].tolist() == [
        (clip + 1) * 100.0**kind for clip, kind in zip(clips, kinds, strict=True)
    ]
    counts = np.bincount(kinds, minlength=3)
    assert counts.max() - counts.min() <= 1
