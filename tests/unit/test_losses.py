"""Sub-cluster AdaCos against the formula in float64 loops, and its invariants."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabeledasd.losses import SubclusterAdaCos


def brute_force(embedding: np.ndarray, soft_labels: np.ndarray, centers: np.ndarray) -> float:
    """loss = -sum_c y_c ln p_c, p_c = sum_k softmax_ck(s <e, w_ck>), one number at a time."""
    C, K, D = centers.shape
    scale = math.sqrt(2) * math.log(C * K - 1)
    total = 0.0
    for e, y in zip(embedding, soft_labels, strict=True):
        mass = [[0.0] * K for _ in range(C)]
        for c in range(C):
            for k in range(K):
                w = centers[c, k]
                dot = sum(e[d] * w[d] for d in range(D))
                mass[c][k] = math.exp(scale * dot / math.sqrt(sum(e**2)) / math.sqrt(sum(w**2)))
        everything = sum(map(sum, mass))
        total -= sum(y[c] * math.log(sum(mass[c]) / everything) for c in range(C))
    return total / len(embedding)


def draw(B: int, C: int, D: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.standard_normal((B, D))), torch.tensor(rng.dirichlet(np.ones(C), B))


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize(
    ("B", "C", "K", "D"), [(1, 2, 2, 3), (5, 3, 16, 8), (4, 7, 1, 5), (3, 1, 4, 6)]
)
def test_formula(B, C, K, D, trainable):
    torch.manual_seed(B)
    loss = SubclusterAdaCos(D, C, K, trainable).double()
    embedding, labels = draw(B, C, D)
    for y in (labels, torch.eye(C, dtype=torch.float64)[torch.arange(B) % C]):
        expected = brute_force(embedding.numpy(), y.numpy(), loss.centers.detach().numpy())
        assert loss(embedding, y).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_hand_computed():
    """Four centres at right angles, e at one of them: exp(s) = 3^sqrt(2) against 1."""
    loss = SubclusterAdaCos(4, 2, 2).double()
    loss.centers = 3 * torch.eye(4, dtype=torch.float64).view(2, 2, 4)
    e, big = 5 * torch.eye(4, dtype=torch.float64)[:1], 3 ** math.sqrt(2)
    for y, p in [([1.0, 0.0], (big + 1) / (big + 3)), ([0.0, 1.0], 2 / (big + 3))]:
        found = loss(e, torch.tensor([y], dtype=torch.float64)).item()
        assert found == pytest.approx(-math.log(p), rel=1e-12)


@pytest.mark.parametrize(("C", "K"), [(2, 2), (14, 16), (1, 16), (300, 16)])
def test_scale_is_fixed_by_the_number_of_centers(C, K):
    loss = SubclusterAdaCos(4, C, K)
    assert loss.scale == pytest.approx(2**0.5 * np.log(C * K - 1), rel=1e-12)
    before = loss.scale
    loss(*(x.float() for x in draw(8, C, 4))).item()
    assert loss.scale == before


def test_sixteen_frozen_subclusters_by_default():
    loss = SubclusterAdaCos(128, 5)
    assert loss.centers.shape == (5, 16, 128)
    assert list(loss.parameters()) == []
    assert list(loss.state_dict()) == ["centers"]  # frozen, yet part of the checkpoint


@pytest.mark.parametrize(("D", "C", "K"), [(128, 50, 16), (384, 9, 16)])
def test_centers_are_xavier_uniform_of_the_whole_matrix(D, C, K):
    torch.manual_seed(0)
    bound = math.sqrt(6 / (D + C * K))
    centers = SubclusterAdaCos(D, C, K).centers / bound
    assert 0.999 < centers.abs().max() <= 1
    assert centers.mean().abs() < 0.02
    assert centers.std().item() == pytest.approx(1 / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize("trainable", [False, True])
def test_only_trainable_centers_move(trainable):
    torch.manual_seed(0)
    loss, layer = SubclusterAdaCos(8, 3, trainable=trainable), torch.nn.Linear(8, 8)
    before = loss.centers.detach().clone()
    embedding, labels = (x.float() for x in draw(4, 3, 8))
    trained = [*layer.parameters(), *loss.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.1)
    loss(layer(embedding), labels).backward()
    optimizer.step()
    assert loss.centers.requires_grad is trainable
    assert (loss.centers != before).all() if trainable else torch.equal(loss.centers, before)
    assert all((p.grad != 0).any() for p in layer.parameters())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(1e-6, 1e6), min_size=4, max_size=4), st.integers(0, 100))
def test_length_of_embedding_and_centers_does_not_count(factors, seed):
    torch.manual_seed(seed)
    loss = SubclusterAdaCos(6, 3, 4).double()
    embedding, labels = draw(4, 3, 6, seed)
    expected = loss(embedding, labels).item()
    factors = torch.tensor(factors, dtype=torch.float64)
    assert loss(embedding * factors[:, None], labels).item() == pytest.approx(expected, rel=1e-9)
    loss.centers = loss.centers * factors[:, None]
    assert loss(embedding, labels).item() == pytest.approx(expected, rel=1e-9)


def test_mean_over_batch_and_linear_in_labels():
    loss = SubclusterAdaCos(6, 3, 4).double()
    embedding, labels = draw(5, 3, 6)
    one_hot = torch.eye(3, dtype=torch.float64)
    single = [labels[i, c] * loss(embedding[[i]], one_hot[[c]]) for i in range(5) for c in range(3)]
    torch.testing.assert_close(loss(embedding, labels), sum(single) / 5)


@pytest.mark.parametrize("factor", [1, -1, 0, 1e15, 1e-15])
def test_finite_value_and_gradient_along_a_center(factor):
    torch.manual_seed(0)
    loss = SubclusterAdaCos(8, 2000, trainable=True)  # a scale of 14.7
    one = loss.centers[7, 3].detach()
    embedding = (factor * one).repeat(2, 1).requires_grad_()
    value = loss(embedding, torch.eye(2000)[[7, 1999]])
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(embedding.grad).all()
    assert torch.isfinite(loss.centers.grad).all()
    if factor == 0:  # all centres alike
        assert value.item() == pytest.approx(math.log(2000), rel=1e-5)


@pytest.mark.parametrize("C", [14, 150])
def test_chance_at_initialisation(C):
    torch.manual_seed(0)
    embedding = torch.randn(256, 128)
    value = SubclusterAdaCos(128, C)(embedding, torch.eye(C)[torch.arange(256) % C])
    assert value.item() == pytest.approx(math.log(C), rel=0.03)


def test_two_centers_have_no_scale():
    with pytest.raises(ValueError, match="n_subclusters=1: the scale needs 3 centres, here are 2"):
        SubclusterAdaCos(4, 2, 1)
