"""Low-rank adaptation of a frozen encoder (E. Hu et al., "LoRA", ICLR 2022)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlabeledasd.errors import InputError


class LoraLinear(nn.Module):
    """A linear layer W x + b plus (alpha / rank) B A dropout(x), of which A and B are trained.

    A (rank, in) is drawn as nn.Linear draws its weights, B (out, rank) begins at 0, so that the
    layer begins as the one that it adapts.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float):
        super().__init__()
        self.base, self.scale, self.dropout = base, alpha / rank, nn.Dropout(dropout)
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        update = F.linear(F.linear(self.dropout(x), self.lora_a), self.lora_b)
        return self.base(x) + self.scale * update


def add_lora(
    network: nn.Module, targets: Sequence[str], rank: int, alpha: float, dropout: float
) -> None:
    """Replace the linear layers of `network` that have one of the names `targets` by LoraLinear."""
    if rank < 1:
        raise InputError(f"rank={rank}: at least 1")
    if not 0 <= dropout < 1:
        raise InputError(f"dropout={dropout}: from 0 to below 1")
    linear = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and "." in name
    }
    names = {name.rpartition(".")[2] for name in linear}
    if not targets or not set(targets) <= names:
        allowed = ", ".join(sorted(names))
        raise InputError(f"targets={list(targets)}: allowed are {allowed}, at least one")
    for name, module in linear.items():
        parent, _, child = name.rpartition(".")
        if child in targets:
            owner = network.get_submodule(parent)
            setattr(owner, child, LoraLinear(module, rank, alpha, dropout))


def freeze(network: nn.Module) -> None:
    """Make all parameters and buffers of `network` buffers that are neither trained nor saved."""
    for module in network.modules():
        for name, value in [*module._parameters.items(), *module._buffers.items()]:
            if value is not None:
                delattr(module, name)
                module.register_buffer(name, value.detach(), persistent=False)


class AttentiveStatistics(nn.Module):
    """Tokens (B, N, D) -> (B, 2 D): mean and standard deviation, weighted by learned attention.

    weights = softmax over the tokens of v . tanh(W x + b), with `hidden` rows of W (K. Okabe et
    al., "Attentive statistics pooling", Interspeech 2018).
    """

    def __init__(self, size: int, hidden: int = 128):
        super().__init__()
        self.hidden = nn.Linear(size, hidden)
        self.weight = nn.Linear(hidden, 1, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        weights = self.weight(torch.tanh(self.hidden(tokens))).softmax(1)  # (B, N, 1)
        mean = (weights * tokens).sum(1)
        variance = (weights * (tokens - mean.unsqueeze(1)).square()).sum(1)
        return torch.cat([mean, (variance + 1e-6).sqrt()], dim=1)
