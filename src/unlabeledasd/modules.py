"""Lightning modules, one per loss family."""

from collections.abc import Callable, Iterable, Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from unlabeledasd.augment import Transformation, exchange_features, mixup, transform
from unlabeledasd.errors import check_range
from unlabeledasd.fast.graph import GraphedExtractor
from unlabeledasd.networks import BRANCH_SIZE, MultiResolutionNet
from unlabeledasd.waveforms import to_float

Loss = Callable[..., nn.Module]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


class Untrained(nn.Module):
    """An extractor whose embeddings are used as it is: nothing is trained."""

    def __init__(self, n_classes: int, extractor: nn.Module):
        super().__init__()
        self.extractor = extractor


class DiscriminativeModule(pl.LightningModule):
    """Mixup, and sub-cluster AdaCos with frozen centres on the concatenated embedding.

    A batch is (waveforms (B, T) int16 or float, class indices (B,)). Each loss family adds its
    terms to `losses`.
    """

    def __init__(
        self,
        n_classes: int,
        extractor: nn.Module,
        loss: Loss,
        optimizer: MakeOptimizer,
        mixup_prob: float,
        seed: int,
        transformations: Sequence[Transformation] = (),
    ):
        super().__init__()
        check_range("mixup_prob", mixup_prob, 0, 1)
        self.transformations = list(transformations)
        n_classes *= 1 + len(self.transformations)
        self.n_classes = n_classes
        self.extractor = extractor
        self.graphed: GraphedExtractor | None = None  # on a GPU, how training calls it
        self.loss = loss(embedding_size=extractor.embedding_size, n_classes=n_classes)
        self.make_optimizer = optimizer
        self.mixup_prob = mixup_prob
        self.seed = seed

    @property
    def can_learn(self) -> bool:
        """Whether the loss is more than the zero of a single class."""
        return self.n_classes > 1

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.parameters())

    def on_train_epoch_start(self) -> None:
        # draws depend on seed and epoch alone, so that a resumed run repeats them
        seed = self.seed * 100_003 + self.current_epoch
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        wave, labels = batch
        classes = torch.arange(self.n_classes, device=labels.device)
        wave = to_float(wave)
        if self.transformations:
            wave, labels = transform(wave, labels, self.transformations, self.generator)
        soft_labels = (labels[:, None] == classes).float()  # F.one_hot would wait for a GPU
        wave, soft_labels = mixup(wave, soft_labels, self.mixup_prob, self.generator)
        embedding, branches = (self.graphed or self.extractor)(wave)
        with torch.autocast(wave.device.type, enabled=False):
            losses = self.losses(embedding, branches, soft_labels)
        total = torch.stack([*losses.values()]).sum()
        self.log("loss", total, on_step=True, on_epoch=True, batch_size=len(wave))
        terms = {f"loss/{name}": value for name, value in losses.items()}
        self.log_dict(terms, on_step=False, on_epoch=True, batch_size=len(wave))
        return total

    def losses(
        self, embedding: Tensor, branches: list[Tensor], soft_labels: Tensor
    ) -> dict[str, Tensor]:
        """The weighted terms of the loss by name."""
        return {"whole": self.loss(embedding, soft_labels)}


class SubspaceLossModule(DiscriminativeModule):
    """Adds the subspace loss, arXiv 2409.09332 Eq. (3), times `subspace_weight`.

    It is the sum over the branches of sub-cluster AdaCos with trainable centres on that branch's
    embedding. A weight of 0 leaves it out: the methods na_*.
    """

    def __init__(
        self,
        n_classes: int,
        extractor: MultiResolutionNet,
        loss: Loss,
        optimizer: MakeOptimizer,
        subspace_weight: float = 1.0,
        mixup_prob: float = 0.5,
        seed: int = 0,
        transformations: Sequence[Transformation] = (),
    ):
        super().__init__(n_classes, extractor, loss, optimizer, mixup_prob, seed, transformations)
        check_range("subspace_weight", subspace_weight, 0)
        self.subspace_weight = subspace_weight
        n_heads = extractor.n_branches if subspace_weight else 0
        self.branch_losses = nn.ModuleList(
            loss(embedding_size=BRANCH_SIZE, n_classes=self.n_classes, trainable=True)
            for _ in range(n_heads)
        )

    def losses(
        self, embedding: Tensor, branches: list[Tensor], soft_labels: Tensor
    ) -> dict[str, Tensor]:
        terms = super().losses(embedding, branches, soft_labels)
        if self.branch_losses:
            heads = zip(self.branch_losses, branches, strict=True)
            total = sum(head(branch, soft_labels) for head, branch in heads)
            terms["branches"] = self.subspace_weight * total
        return terms


class FeatExModule(DiscriminativeModule):
    """Adds the loss of feature exchange, times `featex_weight`.

    It is sub-cluster AdaCos with trainable centres over C (B + 1) classes, on embeddings with
    branches exchanged between clips with probability `featex_prob` (K. Wilkinghoff,
    "Self-supervised learning for anomalous sound detection", ICASSP 2024).
    """

    def __init__(
        self,
        n_classes: int,
        extractor: MultiResolutionNet,
        loss: Loss,
        optimizer: MakeOptimizer,
        featex_weight: float = 1.0,
        featex_prob: float = 0.5,
        mixup_prob: float = 0.5,
        seed: int = 0,
        transformations: Sequence[Transformation] = (),
    ):
        super().__init__(n_classes, extractor, loss, optimizer, mixup_prob, seed, transformations)
        check_range("featex_weight", featex_weight, 0)
        check_range("featex_prob", featex_prob, 0, 1)
        self.featex_weight, self.featex_prob = featex_weight, featex_prob
        n_exchanged = self.n_classes * (extractor.n_branches + 1)
        self.exchanged_loss = loss(
            embedding_size=extractor.embedding_size, n_classes=n_exchanged, trainable=True
        )

    @property
    def can_learn(self) -> bool:
        return super().can_learn or self.featex_weight * self.featex_prob > 0

    def losses(
        self, embedding: Tensor, branches: list[Tensor], soft_labels: Tensor
    ) -> dict[str, Tensor]:
        exchanged = exchange_features(branches, soft_labels, self.featex_prob, self.generator)
        terms = super().losses(embedding, branches, soft_labels)
        terms["exchanged"] = self.featex_weight * self.exchanged_loss(*exchanged)
        return terms
