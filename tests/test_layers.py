"""The layers with cheaper gradients against PyTorch's, in the order of the paper: values, gradients, statistics."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unlabeledasd.batch_norm import channel_statistics, pooled_statistics
from unlabeledasd.layers import Stem, image_gradient, max_pool
from unlabeledasd.networks import ResidualBlock


def pair(negative: bool) -> tuple[Stem, nn.Sequential]:
    """A stem and the same layers by PyTorch, in float64; some batch norm weights negative."""
    torch.manual_seed(0)
    stem = Stem(16, kernel=7).double()
    nn.init.uniform_(stem.norm.weight, -1 if negative else 0.5, 1.5)
    nn.init.uniform_(stem.norm.bias, -0.5, 0.5)
    layers = nn.Sequential(nn.Conv2d(1, 16, 7, 2, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(3, 2))
    layers.double()
    layers[0].load_state_dict(stem.conv.state_dict())
    layers[1].load_state_dict(stem.norm.state_dict())
    return stem, layers


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("size", [(15, 15), (41, 30), (28, 47), (29, 64)])
def test_equals_the_layers_one_after_the_other(negative, size):
    stem, layers = pair(negative)
    image = torch.randn(3, 1, *size, dtype=torch.float64)
    images = [image.clone().requires_grad_() for _ in range(2)]
    found, expected = stem(images[0]), layers(images[1])
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    for result in (found, expected):
        (result * weights).sum().backward()
    torch.testing.assert_close(images[0].grad, images[1].grad)
    theirs = [layers[0].weight, layers[1].weight, layers[1].bias]
    for mine, other in zip([stem.conv.weight, stem.norm.weight, stem.norm.bias], theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
    for mine, other in zip(stem.norm.buffers(), layers[1].buffers(), strict=True):
        torch.testing.assert_close(mine, other)
    stem.eval(), layers.eval()
    torch.testing.assert_close(stem(image), layers(image))


def test_a_weight_of_zero():
    stem, layers = pair(negative=True)
    for norm in (stem.norm, layers[1]):
        norm.weight.data[3], norm.bias.data[3] = 0, 0.5
    image = torch.randn(3, 1, 21, 30, dtype=torch.float64)
    torch.testing.assert_close(stem(image), layers(image))


@pytest.mark.parametrize("stride", [1, 2])
def test_residual_block_equals_its_layers(stride):
    """Gradients of every parameter, running statistics; scored as trained."""
    torch.manual_seed(0)
    block = ResidualBlock(8, 16, stride).double() if stride == 2 else ResidualBlock(16, 16, stride).double()
    for norm in (block.norm, block.inner_norm):
        nn.init.uniform_(norm.weight, -1, 1), nn.init.uniform_(norm.bias, -0.5, 0.5)
    other = copy.deepcopy(block)

    def by_layers(x):
        x = other.norm(x)
        out = other.inner_conv(F.relu(other.inner_norm(other.conv(F.relu(x)))))
        return other.skip(F.max_pool2d(x, 3, 2, 1) if stride == 2 else x) + other.rescale(out)

    x = torch.randn(3, block.norm.num_features, 13, 10, dtype=torch.float64)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    found, expected = block(inputs[0]), by_layers(inputs[1])
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    for result in (found, expected):
        (result * weights).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    for (name, mine), theirs in zip(block.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, msg=name)
    for mine, theirs in zip(block.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)
    block.eval(), other.eval()
    torch.testing.assert_close(block(x), by_layers(x))


@pytest.mark.parametrize("size", [(3, 3), (4, 7), (8, 5), (21, 30)])
def test_pooling(size):
    x = torch.randn(2, 16, *size).contiguous(memory_format=torch.channels_last)
    x[0, 3, 1, 2] = torch.nan
    found, expected = max_pool(x), F.max_pool2d(x, 3, 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kernel", [2, 3, 5, 7])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gradient_of_the_image(kernel, dtype):
    torch.manual_seed(0)
    for size in ((kernel, kernel + 5), (20, 21), (33, 19)):
        image = torch.randn(2, 1, *size, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(4, 1, kernel, kernel, dtype=torch.float64)
        out = torch.conv2d(image, weight, stride=2)
        grad = torch.randn_like(out)
        (expected,) = torch.autograd.grad(out, image, grad)
        found = image_gradient(grad.to(dtype), weight.to(dtype), image.shape)
        rtol = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
        torch.testing.assert_close(found.double(), expected, rtol=rtol, atol=rtol * expected.abs().max().item())


def test_bfloat16_is_near():
    stem, layers = pair(negative=True)
    image = torch.randn(4, 1, 61, 40)
    with torch.autocast("cpu", torch.bfloat16):
        found = stem.float()(image)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), layers(image.double()), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_statistics_keep_their_digits(dtype):
    """Far from zero and over a million numbers per channel, where adding up one by one in float32 goes astray."""
    torch.manual_seed(0)
    x = (3 + torch.randn(8, 16, 400, 300)).to(dtype).to(memory_format=torch.channels_last)
    parts = x.split(3)
    mean, var = pooled_statistics(parts, list(map(channel_statistics, parts)))
    assert mean.dtype == var.dtype == torch.float32
    torch.testing.assert_close(mean.double(), x.double().mean((0, 2, 3)), rtol=3e-5, atol=0)
    torch.testing.assert_close(var.double(), x.double().var((0, 2, 3), correction=0), rtol=1e-3, atol=0)


def test_parts_of_a_batch_give_what_the_whole_batch_gives(monkeypatch):
    """However many clips are worked on at a time."""
    torch.manual_seed(0)
    image = torch.randn(7, 1, 40, 31, dtype=torch.float64)
    layers = nn.Sequential(Stem(16, kernel=7), ResidualBlock(16, 32, 2), ResidualBlock(32, 32, 1)).double()
    found = []
    for part_bytes in (1, 50_000, 1 << 30):
        monkeypatch.setattr("unlabeledasd.layers.PART_BYTES", part_bytes)
        net = copy.deepcopy(layers)
        net(image).square().sum().backward()
        found.append([*(p.grad for p in net.parameters()), *net.buffers()])
    torch.testing.assert_close(found[0], found[2])
    torch.testing.assert_close(found[1], found[2])


def relative_errors(block: nn.Module, x: torch.Tensor, weights: torch.Tensor, exact: list, forward) -> list[float]:
    block = copy.deepcopy(block)
    with torch.autocast("cpu", torch.bfloat16):
        (forward(block, x) * weights).sum().backward()
    return [((p.grad - e).norm() / e.norm()).item() for p, e in zip(block.parameters(), exact, strict=True)]


def test_bfloat16_gradients_are_as_near_as_those_of_the_layers():
    """Over many numbers per channel, where what the statistics add to a gradient is below its last digit."""

    def layers(b, x):
        x = b.norm(x)
        return b.rescale(b.inner_conv(F.relu(b.inner_norm(b.conv(F.relu(x)))))) + x

    torch.manual_seed(0)
    block = ResidualBlock(16, 16, 1).to(memory_format=torch.channels_last)
    x = torch.randn(24, 16, 280, 30).to(torch.bfloat16).to(memory_format=torch.channels_last)
    weights = torch.randn(24, 16, 280, 30) + 0.5
    reference = copy.deepcopy(block)
    (layers(reference, x.float()) * weights).sum().backward()
    exact = [p.grad for p in reference.parameters()]
    ours = relative_errors(block, x, weights, exact, lambda b, x: b(x))
    theirs = relative_errors(block, x, weights, exact, layers)
    for (name, _), mine, other in zip(block.named_parameters(), ours, theirs, strict=True):
        assert mine <= 1.3 * other + 0.002, (name, mine, other)


def test_libraries_that_convolve_in_another_layout():
    torch.manual_seed(0)
    net = nn.Sequential(Stem(16, kernel=7), ResidualBlock(16, 32, 2))
    image = torch.randn(20, 1, 47, 47)
    with torch.backends.mkldnn.flags(enabled=False):
        net(image).sum().backward()
        assert torch.isfinite(net.eval()(image)).all()
