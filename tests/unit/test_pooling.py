"""Pooling over time against loops and limits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabeledasd.encoders.lora import AttentiveStatistics
from unlabeledasd.encoders.pooling import (
    DeviationPooling,
    GeneralizedMean,
    TimeMaximum,
    TimeMean,
)
from unlabeledasd.errors import InputError

EVERY = [TimeMean(), TimeMaximum(), DeviationPooling(6.0), GeneralizedMean(3.0)]


def tokens(seed: int, frames: int = 7, bands: int = 3) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal((2, frames, bands, 5)))


def deviation_by_hand(x: np.ndarray, gamma: float) -> np.ndarray:
    distances = [np.sqrt(((row - x.mean(0)) ** 2).sum()) for row in x]
    weights = [(1 + d / max(distances)) ** gamma for d in distances]
    return sum(w * row for w, row in zip(weights, x, strict=True)) / sum(weights)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.0, 1.0, 4.0, 19.0]), st.integers(2, 9))
def test_by_hand(seed, number, frames):
    x = tokens(seed, frames)
    deviation = DeviationPooling(number)(x)
    generalized = GeneralizedMean(number + 1)(x)
    for clip in range(2):
        for band in range(3):
            one = x[clip, :, band].numpy()
            np.testing.assert_allclose(
                deviation[clip, band], deviation_by_hand(one, number), atol=1e-12
            )
            power = np.maximum(one, 0) ** (number + 1)
            np.testing.assert_allclose(
                generalized[clip, band], power.mean(0) ** (1 / (number + 1)), atol=1e-12
            )


def test_limits():
    x = tokens(0)
    torch.testing.assert_close(DeviationPooling(0.0)(x), x.mean(1))
    torch.testing.assert_close(GeneralizedMean(1.0)(x), x.clamp(min=0).mean(1))
    most = GeneralizedMean(2000.0)(x)
    torch.testing.assert_close(most, x.clamp(min=0).amax(1), rtol=2e-3, atol=1e-9)
    torch.testing.assert_close(TimeMaximum()(x), x.amax(1))
    torch.testing.assert_close(TimeMean()(x), x.mean(1))


@pytest.mark.parametrize("pooling", EVERY)
def test_every_band_by_itself_and_the_order_of_time_does_not_count(pooling):
    x = tokens(1)
    found = pooling(x)
    assert found.shape == (2, 3, 5)
    other = x.clone()
    other[:, :, 1] = tokens(2)[:, :, 1]
    np.testing.assert_array_equal(pooling(other)[:, [0, 2]], found[:, [0, 2]])
    torch.testing.assert_close(pooling(x.flip(1)), found)
    constant = x[:, :1].expand(-1, 4, -1, -1)
    expected = constant[:, 0]
    if isinstance(pooling, GeneralizedMean):
        expected = expected.clamp(min=0)
    torch.testing.assert_close(pooling(constant), expected)
    assert torch.isfinite(pooling(torch.zeros(1, 3, 2, 4))).all()
    huge = 1e12 * tokens(3).float()
    assert torch.isfinite(pooling(huge)).all()


def test_an_outlier_counts_more_with_gamma():
    x = torch.zeros(1, 10, 1, 1)
    x[0, 4] = 1.0
    shares = [float(DeviationPooling(gamma)(x)) for gamma in (0.0, 4.0, 19.0)]
    assert shares[0] == pytest.approx(0.1)
    # d = 0.9 at the outlier, 0.1 elsewhere: weights 2^g against (10 / 9)^g
    for share, gamma in zip(shares, (0.0, 4.0, 19.0), strict=True):
        assert share == pytest.approx(2**gamma / (2**gamma + 9 * (10 / 9) ** gamma), rel=1e-5)


def test_attentive_statistics_by_hand():
    torch.manual_seed(0)
    pooling, x = AttentiveStatistics(5, hidden=4).double().requires_grad_(False), tokens(4)[:, :, 0]
    found = pooling(x)
    for clip in range(2):
        scores = [
            torch.tanh(pooling.hidden.weight @ token + pooling.hidden.bias)
            @ pooling.weight.weight[0]
            for token in x[clip]
        ]
        weights = np.exp([float(score) for score in scores])
        weights /= weights.sum()
        rows = x[clip].numpy()
        mean = weights @ rows
        std = np.sqrt(weights @ (rows - mean) ** 2 + 1e-6)
        np.testing.assert_allclose(found[clip], np.concatenate([mean, std]), rtol=1e-6)


@pytest.mark.parametrize("make", [lambda: DeviationPooling(-1.0), lambda: GeneralizedMean(0.0)])
def test_wrong_settings(make):
    with pytest.raises(InputError, match=r"gamma=-1\.0: at least 0|p=0\.0: above 0"):
        make()
