"""Sub-cluster AdaCos with the fixed scale, as used in arXiv 2409.09332.

K. Wilkinghoff, "Sub-cluster AdaCos: learning representations for anomalous sound detection",
IJCNN 2021.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlabeledasd.errors import InputError, check_range


class SubclusterAdaCos(nn.Module):
    """Cross entropy of soft labels against K sub-clusters per class on the unit sphere.

    With unit-norm embedding e and centres w_ck and s = sqrt(2) ln(C K - 1):
    p_c = sum_k softmax(s <e, w>)_ck over all C K centres; loss = -sum_c y_c ln p_c, mean over the
    batch. The embedding is normalised here, as a whole. Frozen centres (trainable=False) are a
    buffer: never trained nor decayed.
    """

    def __init__(
        self, embedding_size: int, n_classes: int, n_subclusters: int = 16, trainable: bool = False
    ):
        super().__init__()
        check_range("n_subclusters", n_subclusters, 1)
        n_centers = n_classes * n_subclusters
        if n_classes > 1 and n_centers < 3:  # the loss of a single class is 0 by any scale
            raise InputError(
                f"n_subclusters={n_subclusters}: the scale needs 3 centres, here are {n_centers}"
            )
        self.scale = math.sqrt(2) * math.log(max(n_centers - 1, 2))
        centers = uniform_centers(n_classes, n_subclusters, embedding_size)
        if trainable:
            self.centers = nn.Parameter(centers)
        else:
            self.register_buffer("centers", centers)

    def forward(self, embedding: Tensor, soft_labels: Tensor) -> Tensor:
        """embedding (B, D), soft_labels (B, C) -> scalar."""
        centers = F.normalize(self.centers, dim=-1).flatten(0, 1)  # (C K, D)
        logits = self.scale * F.normalize(embedding, dim=-1) @ centers.T  # (B, C K)
        by_class = logits.unflatten(1, self.centers.shape[:2]).logsumexp(-1)  # (B, C)
        # ln p_c in one step: softmax and then logarithm can reach ln 0 in low precision
        return -(soft_labels * F.log_softmax(by_class, dim=-1)).sum(-1).mean()


def uniform_centers(n_classes: int, n_subclusters: int, embedding_size: int) -> Tensor:
    """(n_classes, n_subclusters, embedding_size), Xavier-uniform as the matrix of all centres."""
    bound = math.sqrt(6 / (embedding_size + n_classes * n_subclusters))
    return torch.empty(n_classes, n_subclusters, embedding_size).uniform_(-bound, bound)
