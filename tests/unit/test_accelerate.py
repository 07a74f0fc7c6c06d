"""The layers with cheaper gradients against PyTorch's, in the order of the paper: values, gradients, statistics."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unlabeledasd.fast.batch_norm import channel_statistics, pooled_statistics
from unlabeledasd.fast.residual import PART_BYTES, clips_at_once
from unlabeledasd.fast.stem import (
    GROUP,
    Stem,
    column_gradients,
    gradients_by_convolution,
    gradients_by_products,
    max_pool,
    padded_width,
)
from unlabeledasd.networks import ResidualBlock


class ByLayers(nn.Module):
    """What a stem computes, by PyTorch's layers."""

    def __init__(self, width: int):
        super().__init__()
        self.columns = nn.BatchNorm1d(width)
        self.conv = nn.Conv2d(1, 16, 7, 2, bias=False)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, image):
        image = self.columns(image.flatten(0, 1)).view_as(image)
        return F.max_pool2d(F.relu(self.norm(self.conv(image.unsqueeze(1)))), 3, 2)


class WithColumns(nn.Module):
    """A stem with its columns' batch norm, under the names of the layers above."""

    def __init__(self, layers: ByLayers):
        super().__init__()
        self.columns = copy.deepcopy(layers.columns)
        self.stem = Stem(16, kernel=7).to(layers.conv.weight.dtype)
        self.stem.load_state_dict(
            {k: v for k, v in layers.state_dict().items() if not k.startswith("columns")}
        )

    def forward(self, image):
        return self.stem(image, self.columns)


def pair(width: int, negative: bool) -> tuple[WithColumns, ByLayers]:
    """A stem and the same layers by PyTorch, in float64; some batch norm weights negative."""
    torch.manual_seed(0)
    layers = ByLayers(width).double()
    for norm in (layers.columns, layers.norm):
        nn.init.uniform_(norm.weight, -1 if negative else 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    return WithColumns(layers), layers


class BlockByLayers(nn.Module):
    """What a residual block computes, by its layers."""

    def __init__(self, block: ResidualBlock):
        super().__init__()
        self.block = copy.deepcopy(block)

    def forward(self, x):
        b, stride = self.block, self.block.conv.stride[0]
        x = b.norm(x)
        out = b.inner_conv(F.relu(b.inner_norm(b.conv(F.relu(x)))))
        return b.skip(F.max_pool2d(x, 3, 2, 1) if stride == 2 else x) + b.rescale(out)


def assert_equal(mine: nn.Module, theirs: nn.Module, x: torch.Tensor, of_input: bool) -> None:
    """Values, gradients of every parameter and, if asked, of the input, running statistics; scored as trained."""
    inputs = [x.clone().requires_grad_(of_input) for _ in range(2)]
    found, expected = mine(inputs[0]), theirs(inputs[1])
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    for result in (found, expected):
        (result * weights).sum().backward()
    if of_input:
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    for (name, parameter), other in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, msg=name)
    for buffer, other in zip(mine.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(buffer, other)
    mine.eval(), theirs.eval()
    torch.testing.assert_close(mine(x), theirs(x))


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("of_input", [False, True])
@pytest.mark.parametrize("size", [(15, 15), (41, 30), (28, 47), (29, 64)])
def test_stem_equals_its_layers(negative, size, of_input):
    assert_equal(*pair(size[1], negative), 3 + torch.randn(3, *size, dtype=torch.float64), of_input)


def test_a_weight_of_zero():
    mine, theirs = pair(30, negative=True)
    for norm in (mine.stem.norm, theirs.norm):
        norm.weight.data[3], norm.bias.data[3] = 0, 0.5
    image = torch.randn(3, 21, 30, dtype=torch.float64)
    torch.testing.assert_close(mine(image), theirs(image))


def test_a_columns_weight_of_zero():
    """Its gradient is not lost with the image."""
    mine, theirs = pair(30, negative=False)
    image = torch.randn(3, 21, 30, dtype=torch.float64)
    for net in (mine, theirs):
        net.columns.weight.data[4:9] = 0
        net(image).square().sum().backward()
    torch.testing.assert_close(mine.columns.weight.grad, theirs.columns.weight.grad)
    assert mine.columns.weight.grad[4:9].abs().min() > 0


@pytest.mark.parametrize("stride", [1, 2])
def test_residual_block_equals_its_layers(stride):
    torch.manual_seed(0)
    block = (
        ResidualBlock(8, 16, stride).double()
        if stride == 2
        else ResidualBlock(16, 16, stride).double()
    )
    for norm in (block.norm, block.inner_norm):
        nn.init.uniform_(norm.weight, -1, 1), nn.init.uniform_(norm.bias, -0.5, 0.5)
    x = torch.randn(3, block.norm.num_features, 13, 10, dtype=torch.float64)
    assert_equal(block, BlockByLayers(block), x, of_input=True)


@pytest.mark.parametrize("size", [(3, 3), (4, 7), (8, 5), (21, 30)])
def test_pooling(size):
    x = torch.randn(2, 16, *size).contiguous(memory_format=torch.channels_last)
    x[0, 3, 1, 2] = torch.nan
    found, expected = max_pool(x), F.max_pool2d(x, 3, 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kernel", [3, 5, 7, 11])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("way", [gradients_by_convolution, gradients_by_products])
def test_gradients_column_by_column(kernel, dtype, way):
    """Of every column of the output alone: PyTorch's gradient where the others have none."""
    torch.manual_seed(0)
    for height, width in ((kernel, kernel + 5), (20, 21), (33, 19)):
        image = torch.randn(2, height, padded_width(width, kernel), dtype=torch.float64).to(dtype)
        weight = torch.randn(4, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
        out = torch.conv2d(image.double()[:, None, :, :width], weight, stride=2)
        grad = torch.randn_like(out).to(dtype)
        found = column_gradients(
            grad.contiguous(memory_format=torch.channels_last), image, kernel, way
        ).double()
        rtol = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
        for x in range(out.shape[3]):
            alone = torch.zeros_like(out)
            alone[..., x] = grad[..., x].double()
            (expected,) = torch.autograd.grad(out, weight, alone, retain_graph=True)
            first = 2 * (x % GROUP)
            mine = found[x // GROUP, x % GROUP]  # (C, column, tap along H)
            near = {"rtol": rtol, "atol": rtol * expected.abs().max().item()}
            torch.testing.assert_close(mine[:, first : first + kernel].mT, expected[:, 0], **near)
            torch.testing.assert_close(mine[:, -1, 0], grad[..., x].double().sum((0, 2)), **near)


def test_bfloat16_is_near():
    mine, theirs = pair(40, negative=True)
    image = torch.randn(4, 61, 40)
    with torch.autocast("cpu", torch.bfloat16):
        found = mine.float()(image)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), theirs(image.double()), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_statistics_keep_their_digits(dtype):
    """Far from zero and over a million numbers per channel, where adding up one by one in float32 goes astray."""
    torch.manual_seed(0)
    x = (3 + torch.randn(8, 16, 400, 300)).to(dtype).to(memory_format=torch.channels_last)
    parts = x.split(3)
    mean, var = pooled_statistics(parts, list(map(channel_statistics, parts)))
    assert mean.dtype == var.dtype == torch.float32
    torch.testing.assert_close(mean.double(), x.double().mean((0, 2, 3)), rtol=3e-5, atol=0)
    torch.testing.assert_close(
        var.double(), x.double().var((0, 2, 3), correction=0), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("clips", [1, 2, 7, 62, 64, 65])
@pytest.mark.parametrize("megabytes", [0.1, 0.26, 1, 5, 30])
def test_parts_are_nearly_equal(clips, megabytes):
    x = torch.empty(clips, int(megabytes * 2**18))
    parts = [len(part) for part in x.split(clips_at_once(x))]
    assert parts[0] == max(parts)
    size = parts[0] * megabytes * 2**20
    assert parts[0] == 1 or size <= 1.5 * PART_BYTES + megabytes * 2**20
    assert len(parts) == 1 or size >= 2 / 3 * PART_BYTES


def test_parts_of_a_batch_give_what_the_whole_batch_gives(monkeypatch):
    """However many clips are worked on at a time."""
    torch.manual_seed(0)
    image = torch.randn(7, 40, 31, dtype=torch.float64)
    blocks = ResidualBlock(16, 32, 2).double(), ResidualBlock(32, 32, 1).double()
    layers = nn.Sequential(WithColumns(ByLayers(31).double()), *blocks)
    found = []
    for part_bytes in (1, 50_000, 1 << 30):
        monkeypatch.setattr("unlabeledasd.fast.residual.PART_BYTES", part_bytes)
        net = copy.deepcopy(layers)
        net(image).square().sum().backward()
        found.append([*(p.grad for p in net.parameters()), *net.buffers()])
    torch.testing.assert_close(found[0], found[2])
    torch.testing.assert_close(found[1], found[2])


def assert_as_near(
    mine: nn.Module, theirs: nn.Module, x: torch.Tensor, shape: tuple, mean: float
) -> None:
    """Gradients in bfloat16 are as near to those in float32 as PyTorch's layers' under autocast."""
    weights = torch.randn(shape) + mean
    exact = copy.deepcopy(theirs)
    (exact(x.float()) * weights).sum().backward()
    for net in (mine, theirs):
        with torch.autocast("cpu", torch.bfloat16):
            (net(x) * weights).sum().backward()
    triples = zip(mine.named_parameters(), theirs.parameters(), exact.parameters(), strict=True)
    for (name, found), other, expected in triples:
        errors = [
            ((p.grad - expected.grad).norm() / expected.grad.norm()).item() for p in (found, other)
        ]
        assert errors[0] <= 1.3 * errors[1] + 0.002, (name, errors)


@pytest.mark.parametrize("mean", [0.5, 3])
def test_bfloat16_gradients_of_a_block_are_as_near_as_those_of_the_layers(mean):
    """Over many numbers per channel, where what the statistics add to a gradient is below its last digit."""
    torch.manual_seed(0)
    block = ResidualBlock(16, 16, 1).to(memory_format=torch.channels_last)
    x = torch.randn(24, 16, 280, 30).to(torch.bfloat16).to(memory_format=torch.channels_last)
    assert_as_near(block, BlockByLayers(block), x, x.shape, mean)


def test_bfloat16_gradients_of_the_stem_are_as_near_as_those_of_the_layers():
    mine, theirs = pair(61, negative=True)
    assert_as_near(
        mine.float(), theirs.float(), torch.randn(24, 401, 61).abs(), (24, 16, 98, 13), mean=0.5
    )


def test_libraries_that_convolve_in_another_layout():
    torch.manual_seed(0)
    net = nn.Sequential(WithColumns(ByLayers(47)), ResidualBlock(16, 32, 2))
    image = torch.randn(20, 47, 47)
    with torch.backends.mkldnn.flags(enabled=False):
        net(image).sum().backward()
        assert torch.isfinite(net.eval()(image)).all()
