"""Training steps of an extractor on a GPU as CUDA graphs: a launch in place of thousands."""

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

Output = tuple[Tensor, list[Tensor]]


class GraphedExtractor:
    """Calls an extractor on a GPU; batches of one shape are replayed from CUDA graphs.

    Forward and backward pass are recorded for the shape of the first batch. Other batches, such as
    the smaller last one of an epoch, are computed layer by layer, with the same kernels. Where
    recording fails, so are all, and the reason is printed.
    """

    def __init__(self, extractor: nn.Module):
        self.extractor = extractor
        self.shape: torch.Size | None = None
        self.replay: Callable[[Tensor], Output] = extractor

    def __call__(self, wave: Tensor) -> Output:
        if self.shape is None:
            self.shape = wave.shape
            try:
                self.replay = record(self.extractor, wave)
            except RuntimeError as error:  # of the driver
                reason = str(error).strip().partition("\n")[0]
                print(f"note: no CUDA graph ({reason}); layer by layer instead", file=sys.stderr)
        same = self.extractor.training and wave.shape == self.shape
        return self.replay(wave) if same else self.extractor(wave)


class Outer(nn.Module):
    """A module in a state of autocast: recording replaces the `forward` of this one alone.

    Autocast ends with the forward pass, as in a step that is not recorded: the gradients of its
    float32 layers would be computed in bfloat16 otherwise.
    """

    def __init__(self, module: nn.Module, enabled: bool, dtype: torch.dtype):
        super().__init__()
        self.module = module
        self.enabled, self.dtype = enabled, dtype

    def forward(self, wave: Tensor) -> Output:
        # without a cache of converted weights, which would stay those of the first step
        with torch.autocast(wave.device.type, self.dtype, self.enabled, cache_enabled=False):
            return self.module(wave)


def record(module: nn.Module, wave: Tensor) -> Callable[[Tensor], Output]:
    """CUDA graphs of the module's forward and backward pass, for waveforms like `wave` (B, T).

    The forward pass takes the caller's state of autocast. Recording calls the layers some times;
    the running statistics are those of before.
    """
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    device = wave.device.type
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        outer = Outer(module, enabled, dtype)
        graphed = torch.cuda.make_graphed_callables(outer, (wave.clone(),))
    for buffer, before in buffers:
        buffer.copy_(before)
    return graphed  # type: ignore[return-value]
