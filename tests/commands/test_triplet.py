"""The triplet extractor's batches, mixtures, stretching and training."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import train_triplet
from conftest import SECONDS, call, compose
from settings.check import check_config
from unlabeledasd.pseudo import triplet
from unlabeledasd.pseudo.triplet import TripletClips, TripletModule, TripletNet, mix_at_snr, stretch
from unlabeledasd.runs.folder import Run
from unlabeledasd.waveforms import tiled_window


@pytest.mark.parametrize(
    ("n_machine", "n_others", "sizes"),
    [(70, 200, [64, 64, 12]), (65, 200, [64, 64]), (64, 10, [64, 64]), (20, 3, [40]), (2, 1, [4])],
)
def test_batches_are_half_and_half(n_machine, n_others, sizes):
    sampler = TripletClips(n_machine, n_others, batch_size=64, seed=0)
    indices = [i for i, _ in sampler]
    assert len(indices) == len(sampler) == sum(sizes)
    drawn = []
    for start, size in zip(np.cumsum([0, *sizes[:-1]]), sizes, strict=True):
        batch = indices[start : start + size]
        assert all(i < n_machine for i in batch[: size // 2])
        assert all(n_machine <= i < n_machine + n_others for i in batch[size // 2 :])
        drawn += batch[: size // 2]
    assert len(set(drawn)) == len(drawn)  # each clip of the machine once
    others = [i for i in indices if i >= n_machine]
    counts = np.bincount(others, minlength=n_machine + n_others)[n_machine:]
    assert counts.max() - counts.min() <= 1  # the others are used evenly


def test_epochs_differ_and_repeat():
    def order(seed, epoch):
        sampler = TripletClips(10, 20, 8, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


@given(st.integers(1, 30), st.integers(1, 60), st.floats(0, 1, exclude_max=True))
def test_tiled_window(size, length, position):
    window = tiled_window(np.arange(size), length, position)
    copies = [i % size for i in range(size * math.ceil(length / size))]
    windows = [copies[start : start + length] for start in range(len(copies) - length + 1)]
    assert window.tolist() == windows[int(position * len(windows))]


@pytest.mark.parametrize(("size", "length", "starts"), [(5, 20, 1), (6, 20, 5), (11, 20, 3)])
def test_where_tiled_windows_start(size, length, starts):
    """Of ceil(length / size) copies: a clip of a whole fraction of the length has one window."""
    positions = np.linspace(0, 0.999, 60)
    found = {int(tiled_window(np.arange(size), length, p)[0]) for p in positions}
    assert found == set(range(starts))


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 3.0])
def test_snr_is_what_was_asked_for(snr_db):
    rng = torch.Generator().manual_seed(0)
    signal, noise = (scale * torch.rand(4, 30, 20, generator=rng) for scale in (1.0, 50.0))
    mixed = mix_at_snr(signal, noise, torch.full((4,), snr_db))
    added = mixed - signal
    measured = 10 * torch.log10(signal.square().sum((1, 2)) / added.square().sum((1, 2)))
    torch.testing.assert_close(measured, torch.full((4,), snr_db), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        added / noise, (added / noise)[:, :1, :1].expand_as(noise), rtol=1e-4, atol=1e-6
    )
    for loud in (signal, 1e4 * signal):  # silence stays finite
        assert torch.equal(
            mix_at_snr(loud, torch.zeros_like(noise), torch.full((4,), snr_db)), loud
        )


@pytest.mark.parametrize("ratio", [0.5, 0.66, 0.8, 1.2, 1.5])
@pytest.mark.parametrize("axis", [0, 1])
def test_stretch(ratio, axis):
    """A bump lands where the ratio says; the rest is zeros in frequency, a repetition in time."""
    x = torch.zeros(100, 80)
    position, length = 40, x.shape[axis]
    x.index_fill_(axis, torch.tensor([position]), 1.0)
    y = stretch(x, ratio, axis)
    assert y.shape == x.shape
    profile = y.mean(1 - axis)
    new = int(length * ratio)
    assert abs(int(profile[: min(new, length)].argmax()) - ((position + 0.5) * ratio - 0.5)) <= 1
    if ratio < 1 and axis == 0:
        assert not y[new:].any()
    if ratio < 1 and axis == 1:
        assert torch.equal(y[:, new : 2 * new], y[:, : min(new, length - new)])


def test_stretch_keeps_constants():
    x = torch.full((50, 40), 0.7)
    torch.testing.assert_close(stretch(x, 1.37, 0), x)
    torch.testing.assert_close(stretch(x, 0.63, 1), x)


def module(**options) -> TripletModule:
    made = TripletModule(TripletNet(clip_seconds=SECONDS), torch.optim.AdamW, **options)
    made.generator = torch.Generator().manual_seed(0)
    return made


def test_triplets():
    """Rows identify their clip: x[i] = 1 + i, noise = 0 or a pattern that shows its place."""
    made = module(noise_prob=0.5)
    size = 40
    x = (1.0 + torch.arange(size)).view(-1, 1, 1).repeat(1, 30, 30)
    checker = (torch.arange(30) % 2).float().expand(size, 30, 30)  # noise in odd frames alone
    anchor, positive, negative = made.triplet(x, checker)
    noisy = {
        name: (t[..., 1] != t[..., 0]).any(1)
        for name, t in (("anchor", anchor), ("positive", positive))
    }
    assert torch.equal(anchor[..., 0], x[..., 0])
    assert torch.equal(positive[..., 0], x[..., 0])
    assert 0.2 < noisy["anchor"].float().mean() < 0.8
    assert noisy["positive"].all()
    # stretched ones keep their constant (or are padded with zeros), others are another clip
    other = (negative[:, 0, 0] - x[:, 0, 0]).abs() > 1e-3
    assert other.sum() == size // 2
    assert set(negative[other][:, 0, 0].tolist()) <= set(x[:, 0, 0].tolist())


def test_where_the_noise_comes_from():
    """Clips are 1 in every frame, noise i sounds in frame i alone: raised frames show its index."""
    size, own = 40, torch.arange(40)
    x = torch.ones(size, 2, size)
    noise = torch.eye(size).unsqueeze(1).repeat(1, 2, 1)
    names = ("anchor", "positive", "negative")
    noisy: dict[str, list] = {"anchor": [], "negative": []}
    levels, own_positives = [], []
    for seed in range(40):
        made = module(noise_prob=0.5, stretch_ratios=[[1.0, 1.0], [1.0, 1.0]])
        made.generator.manual_seed(seed)
        raised = {n: t[:, 0] - 1 for n, t in zip(names, made.triplet(x, noise), strict=True)}
        index = {
            name: torch.where(level.amax(1) > 0.01, level.argmax(1), -1)
            for name, level in raised.items()
        }
        assert sorted(index["positive"].tolist()) == own.tolist()  # a permutation, always noisy
        own_positives.append((index["positive"] == own).float().mean())
        for name, seen in noisy.items():  # the anchor's own noise in both
            assert ((index[name] == own) | (index[name] == -1)).all()
            seen.append(index[name] >= 0)
        gains = {name: level.amax(1) for name, level in raised.items()}
        both = noisy["anchor"][-1] & noisy["negative"][-1]
        assert (gains["anchor"][both] - gains["negative"][both]).abs().max() > 0.1  # an own SNR
        # the noise has 1 / 40 of the power of x at a gain of 1
        levels += [-20 * torch.log10(gain[gain > 0.01] / size**0.5) for gain in gains.values()]
    anchor, negative = (torch.cat(seen).float() for seen in noisy.values())
    assert anchor.mean() == pytest.approx(0.5, abs=0.05)
    assert negative.mean() == pytest.approx(0.5, abs=0.05)
    assert (anchor * negative).mean() == pytest.approx(0.25, abs=0.05)  # decided independently
    assert np.mean(own_positives) < 0.1  # not its own but by chance
    levels = torch.cat(levels)
    assert -5.01 < levels.min() < -4.5
    assert 4.5 < levels.max() < 5.01


def test_batch_statistics_of_the_three_passes():
    """Anchors, positives and negatives are normalised one after the other, each by themselves."""
    made = module().double()
    made.log = lambda *_, **__: None
    parts = [2.0 * k + torch.rand(3, 500, 138, dtype=torch.float64) for k in range(3)]
    made.triplet = lambda x, noise: parts
    alone = copy.deepcopy(made.extractor.encoder)
    wave = torch.randn(6, made.extractor.n_samples, dtype=torch.float64)
    loss = made.training_step((wave, torch.zeros(6)), 0)
    embeddings = [copy.deepcopy(alone)(part) for part in parts]
    expected = nn.functional.triplet_margin_loss(*embeddings, margin=1.0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    running = torch.zeros(500, dtype=torch.float64)
    for part in parts:
        running = 0.9 * running + 0.1 * part.mean((0, 2))
    norm = made.extractor.encoder.stem.bin_norm
    assert norm.num_batches_tracked == 3
    torch.testing.assert_close(norm.running_mean, running)


def test_the_mean_over_time_is_removed_once_before_mixing(monkeypatch):
    made = module(noise_prob=1.0)
    made.log = lambda *_, **__: None
    seen = {}
    triplet = made.triplet
    monkeypatch.setattr(made, "triplet", lambda *args: seen.update(args=args) or triplet(*args))
    encoded = []
    encoder = made.extractor.encoder
    encoder.register_forward_pre_hook(lambda _, args: encoded.append(args[0]))
    wave = 0.1 * torch.randn(8, made.extractor.n_samples)
    made.training_step((wave, torch.zeros(8)), 0)
    stft = made.extractor.stft(wave)
    for removed, spectra in zip(seen["args"], stft.chunk(2), strict=True):
        torch.testing.assert_close(removed, spectra - spectra.mean(2, keepdim=True))
    anchor, positive, negative = encoded
    for mixed in (anchor, positive):
        torch.testing.assert_close(mixed.mean(2), torch.zeros(4, 500), atol=1e-6, rtol=0)
    assert negative.mean(2).abs().max() > 1e-3  # what is stretched keeps the mean that it then has


def test_how_negatives_are_stretched(monkeypatch):
    calls = []
    monkeypatch.setattr(triplet, "stretch", lambda x, ratio, axis: calls.append((ratio, axis)) or x)
    made = module()
    for _ in range(20):
        made.triplet(torch.rand(40, 4, 4), torch.rand(40, 4, 4))
    ratios, axes = np.array(calls).T
    assert len(calls) == 20 * 20  # half of the batch
    assert axes.mean() == pytest.approx(0.5, abs=0.1)
    short = ratios < 1
    assert short.mean() == pytest.approx(0.5, abs=0.1)
    for part, low, high in ((ratios[short], 0.5, 0.8), (ratios[~short], 1.2, 1.5)):
        assert low <= part.min() < low + 0.02
        assert high - 0.02 < part.max() <= high


def test_loss_by_hand():
    made = module()
    made.log = lambda *_, **__: None
    anchors, positives, negatives = [[0, 0], [1, 1]], [[3, 4], [1, 2]], [[0, 0.5], [9, 9]]
    made.triplet = lambda x, noise: map(torch.tensor, (anchors, positives, negatives))
    made.extractor.encoder = nn.Module()
    made.extractor.encoder.forward = torch.Tensor.float
    wave = torch.zeros(4, made.extractor.n_samples)
    # the distances are 5 and 0.5, 1 and 8 sqrt(2): (5 - 0.5 + 1 + 0) / 2
    assert made.training_step((wave, torch.zeros(4)), 0).item() == pytest.approx(5.5 / 2, rel=1e-4)


def test_embedding_ignores_a_constant_spectrum():
    net = TripletNet(clip_seconds=SECONDS).eval()
    assert sum(p.numel() for p in net.parameters()) == 972_536  # the 1024 branch
    stft = torch.rand(2, 500, 138)
    torch.testing.assert_close(
        net.encode(stft), net.encode(stft + torch.rand(2, 500, 1)), atol=1e-4, rtol=1e-4
    )


def settings(data_dir, results, machine):
    return [
        "dataset=folder",
        "dataset.name=tiny",
        f"dataset.clip_seconds={SECONDS}",
        "dataset.batch_size=4",
        "seed=1",
        f"machine={machine}",
        f"data_dir={data_dir}",
        f"results_dir={results}",
        "trainer.accelerator=cpu",
        "epochs=2",
    ]


def test_training(data_dir, tmp_path, monkeypatch, capsys):
    assert call(train_triplet, monkeypatch, *settings(data_dir, tmp_path, "fan")) == 0
    run = Run(tmp_path / "tiny/triplet_fan_1")
    assert run.is_done
    assert run.epochs == [2]
    assert call(train_triplet, monkeypatch, *settings(data_dir, tmp_path, "fan")) == 0
    assert "already finished, skipping" in capsys.readouterr().out
    assert call(train_triplet, monkeypatch, *settings(data_dir, tmp_path, "drill")) == 1
    assert "machine=drill: 0 training clips of it" in capsys.readouterr().err
    assert call(train_triplet, monkeypatch, *settings(data_dir, tmp_path, "pump"), "epochs=0") == 1
    assert "epochs=0: a number of epochs, at least 1" in capsys.readouterr().err
    assert not Run(tmp_path / "tiny/triplet_pump_1").is_done


def test_config():
    config = compose("triplet", ["dataset=dcase2024", "machine=gearbox", "seed=1", "data_dir=data"])
    check_config(config)
    assert config.run_dir == "results/exp/dcase2024/triplet_gearbox_1"
    assert (config.epochs, config.data.batch_size, config.model.margin) == (6, 64, 1.0)
