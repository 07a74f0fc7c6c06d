"""Accelerated networks against the plain ones: values, gradients, statistics, names."""

import copy
import functools

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F

from conftest import NETWORKS, SECONDS, compose
from unlabeledasd.fast import BLOCKED, ON_CPU, ON_GPU, accelerate
from unlabeledasd.fast.batch_norm import channel_moments, pooled_statistics
from unlabeledasd.fast.blocked import conv1d_by_blocks, conv2d_by_blocks
from unlabeledasd.fast.convolution import PART_BYTES, clips_at_once
from unlabeledasd.fast.stem import GROUP, column_gradients, max_pool, padded_width
from unlabeledasd.networks import MultiResolutionNet, ResidualBlock, Stem

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def pair(plain: nn.Module, low: float = -1, device: str = "cpu") -> tuple[nn.Module, nn.Module]:
    """(accelerated for `device`, plain) in float64, batch-norm weights from `low` to 1.5."""
    plain = plain.double()
    for norm in plain.modules():
        if isinstance(norm, NORMS):
            nn.init.uniform_(norm.weight, low, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
    fast = accelerate(copy.deepcopy(plain), device)
    exchanged = {fast for _, fast in (ON_CPU if device == "cpu" else ON_GPU)}
    assert {type(module) for module in fast.modules()} & exchanged
    return fast, plain


def outputs(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    result = network(x)
    return result[0] if isinstance(result, tuple) else result


def assert_equal(
    fast: nn.Module, plain: nn.Module, x: torch.Tensor, of_input: bool = False
) -> None:
    """Outputs, gradients of every parameter and of x if asked, running statistics, inference."""
    assert list(fast.state_dict()) == list(plain.state_dict())
    inputs = [x.clone().requires_grad_(of_input) for _ in range(2)]
    found, expected = outputs(fast, inputs[0]), outputs(plain, inputs[1])
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    for result in (found, expected):
        (result * weights).sum().backward()
    if of_input:
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    for (name, parameter), other in zip(fast.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, msg=name)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(fast.state_dict()[name], value, msg=name)
    fast.eval()
    plain.eval()
    torch.testing.assert_close(outputs(fast, x), outputs(plain, x))


@functools.cache  # many methods share a network
def check_extractor(extractor_yaml: str, device: str) -> None:
    """In float64 on the CPU; small parts, so that a batch of three clips has several."""
    torch.manual_seed(0)
    extractor = hydra.utils.instantiate(OmegaConf.create(extractor_yaml), _convert_="all")
    wave = 0.1 * torch.randn(3, extractor.n_samples, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unlabeledasd.fast.convolution.PART_BYTES", 1 << 20)
        assert_equal(*pair(extractor, device=device), wave)


@pytest.mark.parametrize("device", ["cpu", "cuda"])  # whose layers are taken
@pytest.mark.parametrize("method", [*NETWORKS, "triplet"])
def test_every_method_is_accelerated_to_equal_results(method, device):
    """The contract: equal names of parameters, outputs, gradients and running statistics."""
    settings = ["dataset=demo", f"dataset.clip_seconds={SECONDS}", "seed=1", "data_dir=data"]
    if method == "triplet":
        config = compose("triplet", [*settings, "machine=fan"])
    else:
        config = compose("train", [*settings, f"method={method}"])
    check_extractor(OmegaConf.to_yaml(config.model.extractor, resolve=True), device)


def test_a_network_changes_for_its_device():
    network = MultiResolutionNet([256], SECONDS)
    before, parameters = list(map(type, network.modules())), list(network.parameters())
    for device, pairs in (("cpu", ON_CPU), ("cuda", ON_GPU), ("cpu", ON_CPU)):
        assert accelerate(network, torch.device(device)) is network
        assert list(map(type, network.modules())) == [
            dict(pairs).get(kind, kind) for kind in before
        ]
    accelerate(network, "cuda", kernels=False)
    assert list(map(type, network.modules())) == [dict(BLOCKED).get(k, k) for k in before]
    assert all(a is b for a, b in zip(network.parameters(), parameters, strict=True))
    kernel = network.stfts[0].encoder.blocks[0].conv1.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("columns", [1, 2, 4])
@pytest.mark.parametrize("shape", [(7, 7), (33, 47), (140, 48), (141, 49), (20, 125)])
def test_convolution_by_blocks_of_pixels(shape, columns):
    image = torch.randn(2, 1, *shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(16, 1, 7, 7, dtype=torch.float64, requires_grad=True)
    compare(
        conv2d_by_blocks(image, weight, columns), F.conv2d(image, weight, stride=2), image, weight
    )


@pytest.mark.parametrize("sizes", [(1, 256, 64, 1000), (3, 16, 4, 101), (5, 64, 32, 64)])
def test_convolution_by_blocks_of_samples(sizes):
    channels, kernel, stride, length = sizes
    x = torch.randn(2, channels, length, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, channels, kernel, dtype=torch.float64, requires_grad=True)
    compare(conv1d_by_blocks(x, weight, stride), F.conv1d(x, weight, stride=stride), x, weight)


def compare(found: torch.Tensor, expected: torch.Tensor, *inputs: torch.Tensor) -> None:
    """Values, and gradients of the inputs for the same gradient of the result."""
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    pairs = zip(*(torch.autograd.grad(y, inputs, weights) for y in (found, expected)), strict=True)
    for gradient, other in pairs:
        torch.testing.assert_close(gradient, other)


@pytest.mark.parametrize(
    "layer", [nn.Conv1d(1, 2, 5, 2), nn.Conv2d(1, 2, 7, 2, 3), nn.Conv2d(2, 2, 7, 2, bias=False)]
)
def test_other_convolutions_stay_as_they_are(layer):
    x = torch.randn(2, layer.in_channels, *[20] * (layer.weight.dim() - 2))
    blocked = copy.deepcopy(layer)
    blocked.__class__ = dict(ON_GPU)[type(layer)]
    torch.testing.assert_close(blocked(x), layer(x))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_networks_of_others_stay_as_they_are(device):
    """Their embeddings keep their bytes: neither a layer nor a memory layout changes."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3))
    before = [(type(m), [p.stride() for p in m.parameters()]) for m in network.modules()]
    accelerate(network, device)
    assert [(type(m), [p.stride() for p in m.parameters()]) for m in network.modules()] == before


@pytest.mark.parametrize("low", [-1, 0.5])
@pytest.mark.parametrize("of_input", [False, True])
@pytest.mark.parametrize("size", [(15, 15), (30, 41), (47, 28), (64, 29)])
def test_stem(low, size, of_input):
    torch.manual_seed(0)
    stft = 3 + torch.randn(3, *size, dtype=torch.float64)
    assert_equal(*pair(Stem(size[0], 16), low), stft, of_input)


def test_a_weight_of_zero():
    fast, plain = pair(Stem(30, 16))
    for stem in (fast, plain):
        stem.norm.weight.data[3] = 0
        stem.norm.bias.data[3] = 0.5
    stft = torch.randn(3, 30, 21, dtype=torch.float64)
    torch.testing.assert_close(fast(stft), plain(stft))


def test_a_weight_of_zero_of_a_frequency_bin():
    """Its gradient is not lost with the image."""
    fast, plain = pair(Stem(30, 16), low=0.5)
    stft = torch.randn(3, 30, 21, dtype=torch.float64)
    for stem in (fast, plain):
        stem.bin_norm.weight.data[4:9] = 0
        stem(stft).square().sum().backward()
    found, expected = fast.bin_norm.weight.grad, plain.bin_norm.weight.grad
    torch.testing.assert_close(found, expected)
    assert found[4:9].abs().min() > 0


@pytest.mark.parametrize(("channels", "stride"), [(16, 1), (32, 2)])
def test_residual_block(channels, stride):
    torch.manual_seed(0)
    x = torch.randn(3, 16, 13, 10, dtype=torch.float64)
    assert_equal(*pair(ResidualBlock(16, channels, stride)), x, of_input=True)


@pytest.mark.parametrize("size", [(3, 3), (4, 7), (8, 5), (21, 30)])
def test_pooling(size):
    x = torch.randn(2, 16, *size).contiguous(memory_format=torch.channels_last)
    x[0, 3, 1, 2] = torch.nan
    found, expected = max_pool(x), F.max_pool2d(x, 3, 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kernel", [3, 5, 7, 11])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gradients_column_by_column(kernel, dtype):
    """Of every column of the output alone: PyTorch's gradient where the others have none."""
    torch.manual_seed(0)
    for height, width in ((kernel, kernel + 5), (20, 21), (33, 19)):
        image = torch.randn(2, height, padded_width(width, kernel), dtype=torch.float64).to(dtype)
        weight = torch.randn(4, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
        out = torch.conv2d(image.double()[:, None, :, :width], weight, stride=2)
        grad = torch.randn_like(out).to(dtype).contiguous(memory_format=torch.channels_last)
        found = column_gradients(grad, image, kernel).double()
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
    torch.manual_seed(0)
    fast, plain = pair(Stem(40, 16))
    stft = torch.randn(4, 40, 61)
    with torch.autocast("cpu", torch.bfloat16):
        found = fast.float()(stft)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), plain(stft.double()), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [(lambda: Stem(40, 16), (4, 40, 61)), (lambda: ResidualBlock(16, 32, 2), (4, 16, 9, 7))],
)
def test_gradients_do_not_depend_on_autocast_around_backward(layer, shape, autocast):
    found = []
    for around in (False, True):
        torch.manual_seed(0)
        fast = pair(layer())[0].float()
        x = torch.randn(shape)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = fast(x)
        with torch.autocast("cpu", torch.bfloat16, enabled=around):
            out.sum().backward()
        found.append([weight.grad for weight in fast.parameters()])
    for first, second in zip(*found, strict=True):
        assert torch.equal(first, second)


SHAPES = [(8, 16, 400, 300), (3, 32, 123, 57), (9, 125, 2251, 1), (14, 1997, 141, 1)]
SHAPES += [(2, 2500, 7, 11), (1, 16, 1, 1), (2, 3, 1, 1)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_statistics_keep_their_digits(shape, dtype):
    """Up to a million positions, far from zero: sums one by one in float32 lose four digits."""
    torch.manual_seed(0)
    x = (3 + torch.randn(shape)).to(dtype).contiguous(memory_format=torch.channels_last)
    moments = [m for part in x.split(3) for m in channel_moments(part)]
    result = torch.float64 if dtype == torch.float64 else torch.float32
    mean, var = pooled_statistics(moments, result)
    assert mean.dtype == var.dtype == result
    # bfloat16 has many ties, which are all rounded alike
    rtol = {torch.bfloat16: 3e-6, torch.float32: 1e-6, torch.float64: 1e-13}[dtype]
    exact = x.double()
    expected = exact.var((0, 2, 3), correction=0)
    torch.testing.assert_close(mean.double(), exact.mean((0, 2, 3)), rtol=rtol, atol=0)
    torch.testing.assert_close(var.double(), expected, rtol=rtol, atol=0)


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
    """However many clips are processed at a time."""
    torch.manual_seed(0)
    layers = nn.Sequential(Stem(31, 16), ResidualBlock(16, 32, 2), ResidualBlock(32, 32, 1))
    layers = accelerate(layers.double(), "cpu")
    stft = torch.randn(7, 31, 40, dtype=torch.float64)
    found = []
    for part_bytes in (1, 50_000, 1 << 30):
        monkeypatch.setattr("unlabeledasd.fast.convolution.PART_BYTES", part_bytes)
        net = copy.deepcopy(layers)
        net(stft).square().sum().backward()
        found.append([*(p.grad for p in net.parameters()), *net.buffers()])
    torch.testing.assert_close(found[0], found[2])
    torch.testing.assert_close(found[1], found[2])


def assert_as_near(
    layer: nn.Module,
    x: torch.Tensor,
    shape: tuple,
    mean: float,
    device: str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    floor: float = 0.002,
) -> None:
    """16-bit gradients are as near to those in float32 as PyTorch's layers' under autocast.

    device: whose layers are taken; floor: what is near enough, as a share of the gradient.
    """
    weights = torch.randn(shape).to(x.device) + mean
    plain = layer.to(x.device, memory_format=torch.channels_last)
    exact, fast = copy.deepcopy(plain), accelerate(copy.deepcopy(plain), device)
    (exact(x.float()) * weights).sum().backward()
    for net in (fast, plain):
        with torch.autocast(x.device.type, dtype):
            (net(x) * weights).sum().backward()
    triples = zip(fast.named_parameters(), plain.parameters(), exact.parameters(), strict=True)
    for (name, found), other, expected in triples:
        norm = expected.grad.norm()
        error, theirs = ((p.grad - expected.grad).norm() for p in (found, other))
        assert error <= 1.3 * theirs + floor * norm, (name, error / norm, theirs / norm)


@pytest.mark.parametrize("mean", [0.5, 3])
def test_bfloat16_gradients_of_a_block_are_as_near_as_those_of_the_layers(mean):
    """Over many positions, where what the statistics add to a gradient is below its last digit."""
    torch.manual_seed(0)
    block = ResidualBlock(16, 16, 1)
    x = torch.randn(24, 16, 280, 30).to(torch.bfloat16).to(memory_format=torch.channels_last)
    assert_as_near(block, x, x.shape, mean)


def test_bfloat16_gradients_of_the_stem_are_as_near_as_those_of_the_layers():
    torch.manual_seed(0)
    _, stem = pair(Stem(61, 16))
    assert_as_near(stem.float(), torch.randn(24, 61, 401).abs(), (24, 16, 98, 13), mean=0.5)


def test_libraries_that_convolve_in_another_layout():
    torch.manual_seed(0)
    net = accelerate(nn.Sequential(Stem(47, 16), ResidualBlock(16, 32, 2)), "cpu")
    stft = torch.randn(20, 47, 47)
    with torch.backends.mkldnn.flags(enabled=False):
        net(stft).sum().backward()
        assert torch.isfinite(net.eval()(stft)).all()
