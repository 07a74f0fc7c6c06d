"""Loss families: terms by the formula, what is trained, what the draws depend on."""

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch import nn

from unlabeledasd.losses import SubclusterAdaCos
from unlabeledasd.modules import FeatExModule, SubspaceLossModule
from unlabeledasd.networks import MultiResolutionNet
from unlabeledasd.waveforms import to_float


class Slices(nn.Module):
    """Stands in for the network: the wave itself, cut into branches of 128."""

    def __init__(self, n_branches: int):
        super().__init__()
        self.n_branches, self.embedding_size = n_branches, 128 * n_branches
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, wave):
        wave = self.gain * wave
        return wave, list(wave.split(128, dim=1))


def module(n_branches: int = 3, n_classes: int = 5, **options) -> SubspaceLossModule:
    torch.manual_seed(0)
    made = SubspaceLossModule(
        n_classes, Slices(n_branches), SubclusterAdaCos, torch.optim.AdamW, **options
    )
    made.log = made.log_dict = lambda *_, **__: None  # there is no trainer
    return made


def cross_entropy(embedding, centers, labels) -> float:
    """Sub-cluster AdaCos in float64: cosines x sqrt(2) ln(CK - 1), log-sum-exp over k, over all."""
    e, w = (x.detach().numpy().astype(float) for x in (embedding, centers))
    lengths = np.linalg.norm(e, axis=1)[:, None, None] * np.linalg.norm(w, axis=2)
    cosines = np.einsum("bd,ckd->bck", e, w) / lengths
    logits = math.sqrt(2) * math.log(w.shape[0] * w.shape[1] - 1) * cosines
    log_p = logsumexp(logits, axis=2) - logsumexp(logits, axis=(1, 2))[:, None]
    return -(labels.numpy() * log_p).sum(1).mean()


@pytest.mark.parametrize("weight", [1.0, 0.25])
@pytest.mark.parametrize("n_branches", [1, 2, 4])
def test_terms_are_whole_plus_weighted_sum_of_branches(n_branches, weight):
    made = module(n_branches, subspace_weight=weight)
    wave, labels = torch.randn(6, 128 * n_branches), torch.randn(6, 5).softmax(1)
    found = made.losses(*made.extractor(wave), labels)
    pieces = [wave[:, 128 * b : 128 * (b + 1)] for b in range(n_branches)]
    heads = zip(pieces, made.branch_losses, strict=True)
    branches = sum(cross_entropy(piece, head.centers, labels) for piece, head in heads)
    whole = cross_entropy(wave, made.loss.centers, labels)
    values = {name: value.item() for name, value in found.items()}
    assert values == pytest.approx({"whole": whole, "branches": weight * branches}, rel=1e-5)


def test_what_is_trained():
    made = module(3, n_classes=5)
    assert made.loss.centers.shape == (5, 16, 384)
    assert [head.centers.shape for head in made.branch_losses] == 3 * [(5, 16, 128)]
    trained = {id(p) for group in made.configure_optimizers().param_groups for p in group["params"]}
    assert trained == {id(made.extractor.gain), *(id(head.centers) for head in made.branch_losses)}
    heads = (made.loss, *made.branch_losses)
    before = [head.centers.detach().clone() for head in heads]
    made.on_train_epoch_start()
    made.training_step((torch.randn(4, 384), torch.arange(4)), 0).backward()
    made.configure_optimizers().step()
    assert torch.equal(made.loss.centers, before[0])
    for head, old in zip(made.branch_losses, before[1:], strict=True):
        assert (head.centers != old).all()


def test_weight_zero_has_no_branch_heads():
    made = module(3, subspace_weight=0.0)
    wave, labels = torch.randn(6, 384), torch.eye(5)[[0, 1, 2, 3, 4, 0]]
    found = made.losses(*made.extractor(wave), labels)
    assert list(found) == ["whole"]
    assert len(made.branch_losses) == 0
    assert [name for name, _ in made.named_parameters()] == ["extractor.gain"]
    expected = cross_entropy(wave, made.loss.centers, labels)
    assert found["whole"].item() == pytest.approx(expected, rel=1e-5)


def test_training_step_without_mixup_is_the_sum_of_the_terms():
    made = module(2, n_classes=3, mixup_prob=0.0)
    made.on_train_epoch_start()
    wave = torch.randint(-32768, 32768, (6, 256), dtype=torch.int16)
    classes = torch.tensor([0, 2, 1, 1, 0, 2])
    labels, pieces = torch.eye(3)[classes], (wave / 32768).split(128, dim=1)
    heads = zip(pieces, made.branch_losses, strict=True)
    expected = cross_entropy(wave, made.loss.centers, labels)
    expected += sum(cross_entropy(piece, head.centers, labels) for piece, head in heads)
    assert made.training_step((wave, classes), 0).item() == pytest.approx(expected, rel=1e-5)


def test_draws_depend_on_seed_and_epoch_alone(monkeypatch):
    batch = torch.randn(32, 384), torch.arange(32) % 5
    made = {seed: module(seed=seed) for seed in (1, 2)}  # the same weights

    def totals(seed: int, epoch: int) -> list[float]:
        monkeypatch.setattr(SubspaceLossModule, "current_epoch", epoch)
        made[seed].on_train_epoch_start()
        return [made[seed].training_step(batch, step).item() for step in range(2)]

    first = totals(1, 0)
    torch.manual_seed(99)
    assert totals(1, 0) == first
    assert len({first[0], first[1], *totals(1, 1), *totals(2, 0)}) == 6


def test_classes_of_transformations():
    times = [lambda wave, _, k=k: k * wave for k in (2, 3)]
    made = module(2, n_classes=5, transformations=times, mixup_prob=0.0)
    assert made.loss.centers.shape == (15, 16, 256)
    assert {head.centers.shape for head in made.branch_losses} == {(15, 16, 128)}
    assert module(n_classes=1, transformations=times).can_learn
    assert not module(n_classes=1).can_learn
    assert FeatExModule(1, Slices(2), SubclusterAdaCos, torch.optim.AdamW).can_learn
    made.on_train_epoch_start()
    seen = []
    made.losses = lambda wave, _, labels: seen.append((wave, labels)) or {"none": wave.sum()}
    made.training_step((torch.ones(9, 256), torch.arange(9) % 5), 0)
    wave, labels = seen[0]
    kinds = labels.argmax(1) % 3
    assert wave[:, 0].tolist() == (1.0 + kinds).tolist()
    assert sorted((labels.argmax(1) // 3).tolist()) == sorted((torch.arange(9) % 5).tolist())


@pytest.mark.parametrize("n_classes", [14, 60])
def test_loss_of_the_network_at_initialisation_is_that_of_chance(n_classes):
    torch.manual_seed(0)
    net = MultiResolutionNet([1024, 256], 4.4)
    made = SubspaceLossModule(n_classes, net, SubclusterAdaCos, torch.optim.AdamW)
    with torch.no_grad():
        embedding, branches = made.extractor(0.1 * torch.randn(8, 70_400))
        every_class = torch.full((8, n_classes), 1 / n_classes)
        total = sum(made.losses(embedding, branches, every_class).values())
    # (B + 1) ln C of B = 3 branches
    assert total.item() == pytest.approx(4 * math.log(n_classes), rel=0.05)


def test_to_float_is_exact_for_every_16_bit_sample():
    samples = torch.arange(-32768, 32768, dtype=torch.int16)
    found = to_float(samples)
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy().astype(np.float64), np.arange(-32768, 32768) / 32768)
    wave = torch.randn(3, 5)
    assert to_float(wave) is wave


def test_featex_terms():
    """The second head has C (B + 1) classes and trainable centres."""
    torch.manual_seed(0)
    options = {"featex_weight": 0.5, "featex_prob": 0.0}
    made = FeatExModule(5, Slices(3), SubclusterAdaCos, torch.optim.AdamW, **options)
    made.generator = torch.Generator()
    wave, labels = torch.randn(6, 384), torch.randn(6, 5).softmax(1)
    found = made.losses(*made.extractor(wave), labels)
    padded = torch.cat([labels, torch.zeros(6, 15)], 1)  # nothing is exchanged at probability 0
    assert made.exchanged_loss.centers.shape == (20, 16, 384)
    whole = cross_entropy(wave, made.loss.centers, labels)
    exchanged = cross_entropy(wave, made.exchanged_loss.centers, padded)
    values = {name: value.item() for name, value in found.items()}
    assert values == pytest.approx({"whole": whole, "exchanged": 0.5 * exchanged}, rel=1e-5)
    trained = {name for name, _ in made.named_parameters()}
    assert "exchanged_loss.centers" in trained
    assert "loss.centers" not in trained
