"""Losses beyond the paper on the unit sphere, with the interface of losses.SubclusterAdaCos.

AdaProj: K. Wilkinghoff, "AdaProj: adaptively scaled angular margin subspace projections for
anomalous sound detection with auxiliary classification tasks", DCASE Workshop 2024.
ArcFace: J. Deng et al., "ArcFace: additive angular margin loss for deep face recognition", CVPR
2019; with sub-centres "Sub-center ArcFace", ECCV 2020.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlabeledasd.errors import InputError, check_range
from unlabeledasd.losses import uniform_centers


class AdaProj(nn.Module):
    """Cross entropy of soft labels against the subspaces of classes, with the fixed AdaCos scale.

    Class c has a subspace of `n_dimensions`, spanned by the rows of `centers[c]`. Its logit is the
    cosine of a unit-norm embedding e and its projection P_c e onto the subspace, |P_c e|, times
    s = sqrt(2) ln(C n_dimensions - 1). Frozen centres are a buffer, orthonormal from the start;
    trained ones are made orthonormal by QR in every step.
    """

    def __init__(
        self, embedding_size: int, n_classes: int, n_dimensions: int = 32, trainable: bool = False
    ):
        super().__init__()
        if not 1 <= n_dimensions < embedding_size:
            raise InputError(
                f"n_dimensions={n_dimensions}: allowed is from 1 to {embedding_size - 1}, fewer "
                "than the dimensions of the embedding"
            )
        self.trainable = trainable
        self.scale = math.sqrt(2) * math.log(max(n_classes * n_dimensions - 1, 2))
        centers = uniform_centers(n_classes, n_dimensions, embedding_size)
        if trainable:
            self.centers = nn.Parameter(centers)
        else:
            self.register_buffer("centers", orthonormal(centers))

    def forward(self, embedding: Tensor, soft_labels: Tensor) -> Tensor:
        """embedding (B, D), soft_labels (B, C) -> scalar."""
        bases = orthonormal(self.centers) if self.trainable else self.centers  # (C, n, D)
        inside = torch.einsum("bd,cnd->bcn", F.normalize(embedding, dim=-1), bases)
        # the square root has no finite gradient at 0, where an embedding is orthogonal to a class
        logits = self.scale * inside.square().sum(-1).clamp_min(1e-12).sqrt()  # (B, C)
        return -(soft_labels * F.log_softmax(logits, dim=-1)).sum(-1).mean()


def orthonormal(centers: Tensor) -> Tensor:
    """(C, n, D) -> an orthonormal basis of the same span for each class, (C, n, D)."""
    return torch.linalg.qr(centers.mT).Q.mT


class ArcFace(nn.Module):
    """Cross entropy with an additive angular margin, the largest of K sub-centres for each class.

    cos(theta_c) is the largest cosine of the embedding with the `n_subclusters` centres of class c.
    For a hard label c the logits are s cos(theta_j) for j != c and s cos(theta_c + margin); beyond
    theta_c = pi - margin, where that would rise again, s (cos(theta_c) - margin sin(margin)) as in
    the authors' code. Soft labels weight the losses of their classes: sum_c y_c loss_c.
    """

    def __init__(
        self,
        embedding_size: int,
        n_classes: int,
        n_subclusters: int = 1,
        margin: float = 0.2,
        scale: float = 30.0,
        trainable: bool = False,
    ):
        super().__init__()
        check_range("n_subclusters", n_subclusters, 1)
        check_range("margin", margin, 0, math.pi / 2)
        check_range("scale", scale, 1e-3)
        self.margin, self.scale = margin, scale
        centers = uniform_centers(n_classes, n_subclusters, embedding_size)
        if trainable:
            self.centers = nn.Parameter(centers)
        else:
            self.register_buffer("centers", centers)

    def forward(self, embedding: Tensor, soft_labels: Tensor) -> Tensor:
        """embedding (B, D), soft_labels (B, C) -> scalar."""
        centers = F.normalize(self.centers, dim=-1)  # (C, K, D)
        unit = F.normalize(embedding, dim=-1)
        cosine = torch.einsum("bd,ckd->bck", unit, centers).amax(-1)  # (B, C)
        logits = self.scale * cosine
        lowered = self.scale * self.with_margin(cosine)
        lost = torch.logaddexp(lowered, log_sum_of_others(logits)) - lowered
        return (soft_labels * lost).sum(-1).mean()

    def with_margin(self, cosine: Tensor) -> Tensor:
        sine = (1 - cosine.square()).clamp_min(1e-12).sqrt()
        shifted = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        beyond = cosine - self.margin * math.sin(self.margin)
        return torch.where(cosine > -math.cos(self.margin), shifted, beyond)


def log_sum_of_others(logits: Tensor) -> Tensor:
    """(B, C) -> (B, C): ln of the sum of e^l over all classes but this one.

    From the sum over all classes, which is accurate but for the largest: that one is left out.
    """
    classes = torch.arange(logits.shape[-1], device=logits.device)
    largest = logits.argmax(-1, keepdim=True) == classes  # F.one_hot would wait for a GPU
    without_largest = logits.masked_fill(largest, -1e9).logsumexp(-1, keepdim=True)
    share = logits.softmax(-1).masked_fill(largest, 0)
    others = logits.logsumexp(-1, keepdim=True) + torch.log1p(-share)
    return torch.where(largest, without_largest, others)
