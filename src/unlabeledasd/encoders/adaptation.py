"""Training of an adapted encoder: LoRA with sub-cluster AdaCos, as in arXiv 2507.10264."""

from functools import partial
from typing import Any

from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from unlabeledasd.errors import check_range
from unlabeledasd.modules import DiscriminativeModule, Loss, MakeOptimizer


class AdaptationModule(DiscriminativeModule):
    """Sub-cluster AdaCos with trainable centres on the embedding of an adapted encoder.

    The learning rate rises linearly over the first `warmup_steps` steps and then stays: LoRA with
    SCAC as in arXiv 2507.10264.
    """

    def __init__(
        self,
        n_classes: int,
        extractor: nn.Module,
        loss: Loss,
        optimizer: MakeOptimizer,
        warmup_steps: int = 5000,
        mixup_prob: float = 0.5,
        seed: int = 0,
    ):
        trainable = partial(loss, trainable=True)
        super().__init__(n_classes, extractor, trainable, optimizer, mixup_prob, seed)
        check_range("warmup_steps", warmup_steps, 0)
        self.warmup_steps = warmup_steps

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())

        def share(step: int) -> float:  # of the learning rate
            return min(1.0, (step + 1) / max(self.warmup_steps, 1))

        scheduler = LambdaLR(optimizer, share)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]
