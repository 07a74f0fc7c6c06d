"""AdaProj and ArcFace against their formulas in numpy, one clip and class at a time."""

import math

import numpy as np
import pytest
import torch

from unlabeledasd.angular_losses import AdaProj, ArcFace
from unlabeledasd.errors import InputError

SHAPES = [(1, 2, 2, 3), (5, 3, 4, 8), (4, 7, 1, 5), (3, 1, 2, 6), (6, 40, 3, 12)]


def draw(B: int, C: int, D: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Embeddings, and labels that are mixed, of two classes, and hard."""
    rng = np.random.default_rng(B)
    one, other = (torch.eye(C, dtype=torch.float64)[rng.integers(C, size=B)] for _ in range(2))
    labels = [torch.tensor(rng.dirichlet(np.ones(C), B)), 0.3 * one + 0.7 * other, one]
    return torch.tensor(rng.standard_normal((B, D))), labels


def cross_entropy(logits: np.ndarray, c: int) -> float:
    return math.log(sum(math.exp(other) for other in logits)) - logits[c]


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize(("B", "C", "n", "D"), SHAPES)
def test_adaproj(B, C, n, D, trainable):
    torch.manual_seed(0)
    loss = AdaProj(D, C, n, trainable).double()
    scale = math.sqrt(2) * math.log(max(C * n - 1, 2))
    embedding, every = draw(B, C, D)
    for labels in every:
        expected = 0.0
        for e, y in zip(embedding.numpy(), labels.numpy(), strict=True):
            cosines = []
            for span in loss.centers.detach().numpy():  # least squares projects onto the span
                projection = span.T @ np.linalg.lstsq(span.T, e, rcond=None)[0]
                cosines.append(e @ projection / np.linalg.norm(e) / np.linalg.norm(projection))
            logits = scale * np.array(cosines)
            expected += sum(y[c] * cross_entropy(logits, c) for c in range(C)) / B
        assert loss(embedding, labels).item() == pytest.approx(expected, rel=1e-6)


def arcface(e, y, centers, margin: float, scale: float) -> float:
    cosines = [
        max(e @ w / np.linalg.norm(e) / np.linalg.norm(w) for w in of_class) for of_class in centers
    ]
    total = 0.0
    for c, cosine in enumerate(cosines):
        logits = scale * np.array(cosines)
        angle = math.acos(cosine)
        beyond = angle > math.pi - margin
        logits[c] = scale * (
            cosine - margin * math.sin(margin) if beyond else math.cos(angle + margin)
        )
        total += y[c] * cross_entropy(logits, c)
    return total


@pytest.mark.parametrize(("margin", "scale"), [(0.2, 30.0), (0.5, 64.0), (0.0, 5.0), (1.5, 10.0)])
@pytest.mark.parametrize(("B", "C", "K", "D"), SHAPES)
def test_arcface(B, C, K, D, margin, scale):
    torch.manual_seed(1)
    loss = ArcFace(D, C, K, margin, scale).double()
    embedding, every = draw(B, C, D)
    centers = loss.centers.numpy()
    for labels in every:
        pairs = zip(embedding.numpy(), labels.numpy(), strict=True)
        expected = sum(arcface(e, y, centers, margin, scale) for e, y in pairs) / B
        assert loss(embedding, labels).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_beyond_the_angle_where_the_margin_would_help():
    loss = ArcFace(2, 2, margin=0.5, scale=10.0).double()
    loss.centers = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=torch.float64)
    e = np.array([-1.0, 0.1])
    found = loss(torch.tensor(e)[None], torch.tensor([[1.0, 0.0]], dtype=torch.float64)).item()
    assert found == pytest.approx(arcface(e, [1, 0], loss.centers.numpy(), 0.5, 10.0))


def test_a_margin_makes_a_confident_clip_count_still():
    """In float32 as in float64, where the probability of the class is 1 but for rounding."""
    centers = torch.eye(3)[:, None]
    e, y = torch.tensor([[1.0, 1e-4, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    losses = []
    for dtype in (torch.float32, torch.float64):
        loss = ArcFace(3, 3, margin=0.5, scale=64.0)
        loss.centers = centers.to(dtype)
        losses.append(loss(e.to(dtype), y.to(dtype)).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    e, centers = e[0].numpy().astype(float), centers.numpy().astype(float)
    assert losses[1] == pytest.approx(arcface(e, [1, 0, 0], centers, 0.5, 64.0))


@pytest.mark.parametrize("make", [AdaProj, ArcFace])
@pytest.mark.parametrize("trainable", [False, True])
def test_gradients(make, trainable):
    torch.manual_seed(2)
    loss = make(6, 3, 2, trainable=trainable).double()
    embedding, (labels, *_) = draw(4, 3, 6)
    embedding.requires_grad_()
    assert torch.autograd.gradcheck(lambda e: loss(e, labels), embedding)
    assert [name for name, _ in loss.named_parameters()] == ["centers"] * trainable
    if trainable:
        centers, arguments = loss.centers, (embedding, labels)
        assert torch.autograd.gradcheck(
            lambda c: torch.func.functional_call(loss, {"centers": c}, arguments), centers
        )


def test_frozen_subspaces_are_orthonormal():
    centers = AdaProj(20, 5, 7).centers
    torch.testing.assert_close(centers @ centers.mT, torch.eye(7).expand(5, 7, 7))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdaProj(8, 2, 8), "n_dimensions=8: allowed is from 1 to 7"),
        (lambda: ArcFace(8, 2, 0), "n_subclusters=0: allowed is at least 1"),
        (lambda: ArcFace(8, 2, margin=-0.1), "margin=-0.1: allowed is from 0 to"),
        (lambda: ArcFace(8, 2, scale=0.0), "scale=0.0: allowed is at least"),
    ],
)
def test_values_out_of_range(make, message):
    with pytest.raises(InputError, match=message):
        make()
