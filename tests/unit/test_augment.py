"""Mixup: the one-hot waves of an identity matrix show the coefficients of every row."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from unlabeledasd.augment import exchange_features, mixup


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coefficients(size: int, prob: float, seed: int) -> torch.Tensor:
    """(size, size): row i contains what row i of the output takes of each input row."""
    return mixup(torch.eye(size), torch.zeros(size, 1), prob, generator(seed))[0]


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 70), prob=st.floats(0, 1), seed=st.integers(0, 10_000))
def test_each_row_is_itself_and_one_partner(size, prob, seed):
    mix = coefficients(size, prob, seed)
    rest = mix - mix.diag().diag()
    assert (mix >= 0).all()
    torch.testing.assert_close(mix.sum(1), torch.ones(size))
    assert ((rest > 0).sum(1) <= 1).all()  # one partner a row
    assert ((rest > 0).sum(0) <= 1).all()  # nobody is the partner of two rows


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 40), prob=st.floats(0, 1), seed=st.integers(0, 10_000))
def test_wave_and_labels_are_mixed_alike(size, prob, seed):
    rng = np.random.default_rng(seed)
    wave = torch.tensor(rng.standard_normal((size, 30)), dtype=torch.float32)
    labels = torch.tensor(rng.dirichlet(np.ones(5), size), dtype=torch.float32)
    before = wave.clone(), labels.clone()
    mixed_wave, mixed_labels = mixup(wave, labels, prob, generator(seed))
    mix = coefficients(size, prob, seed)
    torch.testing.assert_close(mixed_wave, mix @ wave, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed_labels, mix @ labels, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed_labels.sum(1), torch.ones(size))
    assert torch.equal(wave, before[0])
    assert torch.equal(labels, before[1])


def test_row_by_row_without_a_second_call():
    """Wave and labels of one call: coefficient and partner in the labels rebuild the wave."""
    size = 64
    wave = torch.randn(size, 50, generator=generator(1))
    mixed_wave, mixed_labels = mixup(wave, torch.eye(size), 0.5, generator())
    for i in range(size):
        a = mixed_labels[i, i].item()
        partners = [j for j in mixed_labels[i].nonzero().flatten().tolist() if j != i]
        expected = a * wave[i] + sum((1 - a) * wave[j] for j in partners)
        torch.testing.assert_close(mixed_wave[i], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prob", [0.0, 0.25, 0.5, 1.0])
def test_fraction_of_mixed_rows(prob):
    size, draws = 64, 200
    own = torch.stack([coefficients(size, prob, seed).diag() for seed in range(draws)])
    mixed = (own < 1).double().mean().item()
    expected = prob * (1 - 1 / size)  # a row may draw itself as partner
    deviation = np.sqrt(max(prob * (1 - prob) / size, 1 / size**2) / draws)
    assert abs(mixed - expected) <= 4 * deviation


@pytest.mark.parametrize("prob", [0.5, 1.0])
def test_own_uniform_fraction_per_row(prob):
    own = torch.cat([coefficients(64, prob, seed).diag() for seed in range(100)])
    shares = own[own < 1]
    assert len(shares.unique()) > 0.999 * len(shares)
    assert kstest(shares.numpy(), "uniform").pvalue > 0.01


def test_no_place_is_preferred_as_partner():
    counts = sum((coefficients(8, 1.0, seed) > 0).double() for seed in range(2000))
    away = counts[~torch.eye(8, dtype=torch.bool)]  # each pair has 1 / 8
    assert (away - 250).abs().max() < 5 * np.sqrt(2000 / 8 * 7 / 8)


def test_probability_zero_is_the_identity():
    wave, labels = torch.randn(9, 20), torch.eye(9)
    mixed_wave, mixed_labels = mixup(wave, labels, 0.0, generator())
    assert torch.equal(mixed_wave, wave)
    assert torch.equal(mixed_labels, labels)


def test_draws_come_from_the_generator_alone():
    wave, labels = torch.randn(16, 20), torch.eye(16)
    state = torch.get_rng_state()
    first = mixup(wave, labels, 0.5, generator(3))
    torch.manual_seed(99)
    again = mixup(wave, labels, 0.5, generator(3))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], mixup(wave, labels, 0.5, generator(4))[0])
    torch.set_rng_state(state)
    mixup(wave, labels, 0.5, generator(3))
    assert torch.equal(torch.get_rng_state(), state)
    g = generator(3)
    batches = [mixup(wave, labels, 0.5, g)[0] for _ in range(2)]
    assert not torch.equal(*batches)  # the next batch has other draws


def test_float32_stays_float32():
    mixed_wave, mixed_labels = mixup(torch.randn(4, 5), torch.eye(4), 1.0, generator())
    assert mixed_wave.dtype == mixed_labels.dtype == torch.float32


def test_exchange_by_hand():
    """Exchanged clips take each branch, with its share of the label, from one clip."""
    n, C = 6, 4
    clips = torch.arange(n).float().view(n, 1).repeat(1, 2)
    branches = [clips + 100 * b for b in range(3)]  # values name clip and branch
    labels = torch.rand(n, C).softmax(1)
    seen = set()
    for seed in range(40):
        embedding, exchanged = exchange_features(branches, labels, 0.5, generator(seed))
        assert embedding.shape == (n, 6)
        assert exchanged.shape == (n, 4 * C)
        sources = embedding[:, ::2] - 100 * torch.arange(3)  # (n, 3): the clip of each branch
        for i in range(n):
            own, *shares = exchanged[i].split(C)
            if own.any():
                assert torch.equal(own, labels[i])
                assert not torch.cat(shares).any()
                assert sources[i].tolist() == [i] * 3
            else:
                for share, source in zip(shares, sources[i].long(), strict=True):
                    torch.testing.assert_close(share, labels[source] / 3)
                seen.add(len(set(sources[i].tolist())))
        assert exchanged.sum(1) == pytest.approx(torch.ones(n))
    assert seen >= {2, 3}  # the permutations of the branches are independent


@pytest.mark.parametrize("prob", [0.0, 0.5, 1.0])
def test_share_of_exchanged_clips(prob):
    labels = torch.eye(1000, 5)
    labels[5:, 0] = 1
    _, exchanged = exchange_features([torch.zeros(1000, 1)] * 2, labels, prob, generator())
    share = (exchanged[:, :5].sum(1) == 0).float().mean().item()
    assert share == pytest.approx(prob, abs=0.05)
