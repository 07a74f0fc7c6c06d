"""Training steps of an extractor on a GPU as CUDA graphs: a launch in place of thousands."""

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from unlabeledasd.networks import MultiResolutionNet
from unlabeledasd.spectra import spectrum_magnitude

Output = tuple[Tensor, list[Tensor]]


class GraphedExtractor:
    """Calls an extractor on a GPU; batches of one shape are replayed from CUDA graphs.

    Forward and backward pass are recorded for the shape of the first batch. Other batches, such as
    the smaller last one of an epoch, are computed layer by layer, with the same results. Where
    recording fails, so are all, and the reason is printed.
    compile: record what torch.compile makes of the layers behind the spectra (its digits differ).
    """

    def __init__(self, extractor: nn.Module, compile: bool = False):
        self.extractor, self.compile = extractor, compile
        self.shape: torch.Size | None = None
        self.replay: Callable[[Tensor], Output] = extractor

    def __call__(self, wave: Tensor) -> Output:
        if self.shape is None:
            self.shape = wave.shape
            self.record(wave)
        same = self.extractor.training and wave.shape == self.shape
        return self.replay(wave) if same else self.extractor(wave)

    def record(self, wave: Tensor) -> None:
        module = self.extractor
        try:
            if self.compile and isinstance(module, MultiResolutionNet):
                print("compiling the network: about a minute, once per machine and method")
                module = Compiled(module)
            self.replay = record(Outer(module), wave)
        except Exception as error:  # any error of a compiler or a driver
            reason = str(error).strip().partition("\n")[0]
            print(f"note: no CUDA graph ({reason}); layer by layer instead", file=sys.stderr)


class Compiled(nn.Module):
    """A network with everything behind its spectra compiled."""

    def __init__(self, network: MultiResolutionNet):
        super().__init__()
        self.network = network
        self.encode = torch.compile(network.encode, dynamic=False)

    def forward(self, wave: Tensor) -> Output:
        stfts = [branch.stft(wave) for branch in self.network.stfts]
        branches = self.encode(spectrum_magnitude(wave), stfts)
        return torch.cat(branches, dim=1), branches


class Outer(nn.Module):
    """A module around another one: recording replaces the `forward` of the outer one alone."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, wave: Tensor) -> Output:
        return self.module(wave)


def record(module: nn.Module, wave: Tensor) -> Callable[[Tensor], Output]:
    """CUDA graphs of the module's forward and backward pass, for waveforms like `wave` (B, T).

    In the autocast state of the caller. Recording calls the layers some times; the running
    statistics are those of before.
    """
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    device = wave.device.type
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    # without a cache of converted weights, which would stay those of the first step
    with torch.autocast(device, dtype, enabled=enabled, cache_enabled=False):
        graphed = torch.cuda.make_graphed_callables(module, (wave.clone(),))
    for buffer, before in buffers:
        buffer.copy_(before)
    return graphed
