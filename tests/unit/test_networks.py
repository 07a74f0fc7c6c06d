"""The feature extractor against the formulas of the paper, with the network's own weights."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unlabeledasd.errors import InputError
from unlabeledasd.networks import MultiResolutionNet, ResidualBlock

SETS = [[], [256], [1024], [4096], [1024, 256], [4096, 256], [4096, 1024], [4096, 1024, 256]]
SETS += [[256, 4096]]  # not the usual order
WEIGHTED, NORMS = (nn.Conv1d, nn.Conv2d, nn.Linear), (nn.BatchNorm1d, nn.BatchNorm2d)


class Reference:
    """The formulas; each takes the next layer of `net`, in the order of the paper."""

    def __init__(self, net: nn.Module):
        self.layers = [m for m in net.modules() if isinstance(m, WEIGHTED + NORMS)]

    def next(self) -> nn.Module:
        return self.layers.pop(0)

    def norm(self, x):
        m = self.next()
        values = (m.running_mean, m.running_var, m.weight, m.bias)
        mean, var, w, b = (v.view(-1, *[1] * (x.dim() - 2)) for v in values)
        return (x - mean) / (var + 1e-5).sqrt() * w + b

    def se(self, x):
        squeeze, excite = self.next().weight, self.next().weight
        gate = 1 / (1 + torch.exp(-((x.flatten(2).mean(2) @ squeeze.T).clamp(min=0) @ excite.T)))
        return torch.einsum("bc...,bc->bc...", x, gate)

    def block(self, x, stride: int):
        x = self.norm(x)
        r = F.conv2d(x.clamp(min=0), self.next().weight, stride=stride, padding=1)
        r = self.se(F.conv2d(self.norm(r).clamp(min=0), self.next().weight, padding=1))
        return r + (x if stride == 1 else F.conv2d(F.max_pool2d(x, 3, 2, 1), self.next().weight))

    def stft(self, x):
        x = self.norm(x)[:, None].transpose(2, 3)  # (B, 1, frames, F)
        x = F.conv2d(x, self.next().weight, stride=2)
        x = F.max_pool2d(self.norm(x).clamp(min=0), 3, 2)
        for stride in (1, 1, 2, 1, 2, 1, 2, 1):
            x = self.block(x, stride)
        return self.norm(x.max(dim=2).values.reshape(len(x), -1)) @ self.next().weight.T

    def spectrum(self, x):
        for stride in (64, 32, 4):
            x = self.se(F.conv1d(x, self.next().weight, stride=stride).clamp(min=0))
        for _ in range(5):
            x = self.norm(x.flatten(1) @ self.next().weight.T).clamp(min=0)
        return x @ self.next().weight.T


def trained(net: nn.Module) -> nn.Module:
    """The network in float64, ready to score, with random values in its batch norms."""
    for m in net.modules():
        if isinstance(m, NORMS):
            for values in (m.weight, m.running_var):
                values.data.uniform_(0.5, 1.1)
            for values in (m.bias, m.running_mean):
                values.data.uniform_(-0.2, 0.4)
    return net.double().eval()


@pytest.mark.parametrize(("width", "channels", "stride"), [(7, 16, 1), (6, 32, 2)])
def test_residual_block(width, channels, stride):
    torch.manual_seed(0)
    block = trained(ResidualBlock(16, channels, stride))
    x = torch.randn(2, 16, 9, width, dtype=torch.float64)
    found, reference = block(x), Reference(block)
    torch.testing.assert_close(found, reference.block(x, stride))
    assert reference.layers == []  # nothing follows


def test_whole_network_by_the_formulas():
    torch.manual_seed(0)
    net = trained(MultiResolutionNet([256, 1024], 4.4))
    wave = 0.1 * torch.randn(2, 70_400, dtype=torch.float64)
    with torch.no_grad():
        embedding, branches = net(wave)
        reference = Reference(net)
        expected = [reference.spectrum(torch.fft.rfft(wave).abs()[:, None])]
        expected += [reference.stft(branch.stft(wave)) for branch in net.stfts]
    assert reference.layers == []
    torch.testing.assert_close(branches, expected)
    torch.testing.assert_close(embedding, torch.cat(expected, dim=1))


def test_sizes_at_18_seconds():
    net, seen = MultiResolutionNet([4096, 1024, 256]), []
    branches = (net.spectrum, *net.stfts)
    parameters = [sum(p.numel() for p in branch.parameters()) for branch in branches]
    assert parameters == [1_662_208, 1_757_610, 972_536, 772_106]
    convs = net.spectrum.convs[::3]  # -> (B, 128, positions)
    blocks = [branch.encoder.blocks[-1] for branch in net.stfts]  # -> (B, 128, frames, F)
    for module in (*convs, *blocks):
        module.register_forward_hook(lambda _module, _input, output: seen.append(output.shape))
    with torch.no_grad():
        net.eval()(torch.zeros(1, 288_000))
    assert {shape[:2] for shape in seen} == {(1, 128)}
    assert [shape[-1] for shape in seen] == [2247, 69, 14, 63, 16, 4]


def test_layers_as_pytorch_makes_them():
    torch.manual_seed(0)
    net = MultiResolutionNet()  # {spectrum, 4096, 256} at 18 s
    assert sum(p.numel() for p in net.parameters()) == 4_191_924
    for m in net.modules():
        if isinstance(m, WEIGHTED):
            assert m.bias is None
            bound = 1 / math.sqrt(m.weight[0].numel())  # uniform in +-1 / sqrt(inputs)
            assert m.weight.abs().max() <= bound
            near = 3 / math.sqrt(m.weight.numel())
            assert m.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=near)
        elif isinstance(m, NORMS):
            assert (m.eps, m.momentum, m.affine, m.track_running_stats) == (1e-5, 0.1, True, True)
            assert (m.weight == 1).all()
            assert (m.bias == 0).all()


@pytest.mark.parametrize("n_ffts", SETS, ids=str)
def test_every_set_of_branches(n_ffts):
    net = MultiResolutionNet(n_ffts, 4.4)
    embedding, _ = net(0.1 * torch.randn(2, 70_400))
    assert [branch.stft.n_fft for branch in net.stfts] == n_ffts  # in the order given
    assert embedding.shape == (2, net.embedding_size) == (2, 128 * (1 + len(n_ffts)))
    embedding.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_time_mean_removed_forgets_constants():
    """A constant added to each bin of a clip changes a branch unless its mean is removed."""
    torch.manual_seed(0)
    net = trained(MultiResolutionNet([1024, 256], 4.4, time_mean_removed=[256]))
    wave = torch.randn(2, 70_400).double()
    with torch.no_grad():
        before = net(wave)[1]
        for branch in net.stfts:
            constants = torch.rand(2, branch.stft.n_bins, 1, dtype=torch.float64)
            branch.stft.register_forward_hook(
                lambda _module, _input, output, c=constants: output + c
            )
        after = net(wave)[1]
    assert (after[1] - before[1]).abs().max() > 0.01
    torch.testing.assert_close(after[::2], before[::2])  # the spectrum and 256
    with pytest.raises(InputError, match=r"time_mean_removed=\[4096\].*n_ffts=\[1024, 256\]"):
        MultiResolutionNet([1024, 256], 4.4, time_mean_removed=[4096])


def test_shortest_clip_and_other_lengths():
    net = MultiResolutionNet([4096], 70_014 / 16000)
    assert net.spectrum.head[0].in_features == 128  # one position is left
    assert net(torch.randn(2, 70_014))[0].shape == (2, 256)
    with pytest.raises(InputError, match=r"at least 70,014 samples \(4\.376 s at 16000 Hz\)"):
        MultiResolutionNet([4096], 70_013 / 16000)
    for shape in [(2, 70_013), (2, 70_015), (2, 288_000), (70_014,), (2, 1, 70_014)]:
        with pytest.raises(InputError, match=r"expected \(batch, 70014\)"):
            net(torch.zeros(shape))
