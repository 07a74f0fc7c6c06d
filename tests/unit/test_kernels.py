"""The kernels for a GPU against PyTorch's layers; without one they are interpreted on the CPU."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("triton", reason="Triton is not made for this system")

from test_accelerate import assert_as_near, assert_equal, pair

from unlabeledasd.fast import accelerate
from unlabeledasd.fast.gpu import layers, norm, pooling, rescaling
from unlabeledasd.fast.gpu.convolution import convolution, weight_gradient
from unlabeledasd.fast.gpu.tiles import channels_last
from unlabeledasd.networks import ResidualBlock, Stem

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    monkeypatch.setattr(layers, "DEVICES", {DEVICE})


def image(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    torch.manual_seed(0)
    x = (3 + torch.randn(*shape)).to(DEVICE, dtype)
    return x.contiguous(memory_format=torch.channels_last)


def compare(layer: nn.Module, x: torch.Tensor, low: float = -1) -> None:
    """assert_equal of kernels and layers, and inference by kernels; weights from `low`."""
    fast, plain = (net.to(DEVICE) for net in pair(layer, low, "cuda"))
    x = x.to(DEVICE)
    by = copy.deepcopy(fast)(x).grad_fn
    assert isinstance(by, torch.autograd.function.BackwardCFunction)  # not PyTorch's layers
    assert_equal(fast, plain, x, of_input=True)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), plain(x))


@pytest.mark.parametrize("low", [-1, 0.5])
@pytest.mark.parametrize("size", [(15, 15), (30, 41), (140, 29)])
def test_stem(low, size):
    compare(Stem(size[0], 16), 3 + torch.randn(3, *size, dtype=torch.float64), low)


@pytest.mark.parametrize(("channels", "stride"), [(16, 1), (32, 2)])
@pytest.mark.parametrize("size", [(13, 10), (4, 7), (90, 21)])
def test_residual_block(channels, stride, size):
    compare(ResidualBlock(16, channels, stride), image(2, 16, *size))


def test_images_in_another_order_of_memory():
    compare(ResidualBlock(32, 32, 1), image(3, 32, 6, 5).contiguous())


@pytest.mark.parametrize("channels", [3, 16, 100, 130])
@pytest.mark.parametrize("positions", [2, 500, 20_000])
def test_statistics_keep_their_digits(channels, positions):
    """Of any number of channels, in float32, far from zero."""
    x = image(1, channels, positions, 1, dtype=torch.float32)
    fast = nn.BatchNorm2d(channels, device=DEVICE)
    mean, invstd = norm.normalization(x, fast).statistics.double()
    exact = x.double()
    torch.testing.assert_close(mean, exact.mean((0, 2, 3)), rtol=1e-6, atol=0)
    expected = (exact.var((0, 2, 3), correction=0) + fast.eps).rsqrt()
    torch.testing.assert_close(invstd, expected, rtol=2e-6, atol=0)
    plain = nn.BatchNorm2d(channels, device=DEVICE, dtype=torch.float64)
    plain(exact)
    for name, value in plain.state_dict().items():
        near = {"rtol": 1e-5, "atol": 1e-7, "check_dtype": False}
        torch.testing.assert_close(fast.state_dict()[name], value, **near)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("size", [(3, 3), (4, 7), (8, 5), (21, 30)])
def test_pooling(size, padding):
    """Equal values give the gradient to the first one, as in PyTorch; nan stays."""
    x = image(2, 16, *size).round()  # many equal ones
    x[0, 3, 1, 2] = torch.nan
    x.requires_grad_()
    found, _, winner = pooling.pool(x.detach(), padding)
    expected = F.max_pool2d(x, 3, 2, padding)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    grad = torch.randn_like(expected)
    expected.backward(grad)
    grad = channels_last(grad)
    found = pooling.pool_gradient(grad, winner, x.detach(), padding)
    torch.testing.assert_close(found, x.grad)


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (40, 29)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_convolution_of_few_channels(size, dtype, monkeypatch):
    """Also where a program of the weight's gradient takes several tiles."""
    monkeypatch.setattr("unlabeledasd.fast.gpu.convolution.PROGRAMS", 3)
    if DEVICE == "cpu" and dtype == torch.bfloat16:
        pytest.skip("needs a GPU: Triton's interpreter multiplies no bfloat16")
    x, grad = image(2, 16, *size, dtype=dtype), image(2, 16, *size, dtype=dtype).flip(0)
    weight = channels_last(torch.randn(16, 16, 3, 3, device=DEVICE))
    exact = [v.double().requires_grad_() for v in (x, weight.to(dtype))]
    expected = F.conv2d(*exact, padding=1)
    of_x, of_weight = torch.autograd.grad(expected, exact, grad.double())
    near = {"rtol": 1e-2, "atol": 1e-1, "check_dtype": False}
    torch.testing.assert_close(convolution(x, weight), expected, **near)
    torch.testing.assert_close(convolution(grad, weight, of_gradient=True), of_x, **near)
    near = {"rtol": 1e-5, "atol": 1e-3, "check_dtype": False}
    torch.testing.assert_close(weight_gradient(x, grad), of_weight, **near)


@pytest.mark.parametrize("layer", [Stem(21, 16), ResidualBlock(16, 32, 2)], ids=["stem", "block"])
def test_nan_is_not_hidden(layer):
    """A training that diverges shows it, inference at least where PyTorch's layers do."""
    x = torch.randn(2, 21, 30) if isinstance(layer, Stem) else image(2, 16, 9, 9)
    x = x.to(DEVICE, torch.float64)
    x[0, 3, 4] = torch.nan
    plain = layer.to(DEVICE, torch.float64)
    fast = accelerate(copy.deepcopy(plain), "cuda")
    with torch.no_grad():
        expected = plain.eval()(x)
        assert expected.isnan().any()
        assert fast.eval()(x)[expected.isnan()].isnan().all()
    assert fast.train()(x).isnan().any()


def test_one_position_has_no_statistics():
    with pytest.raises(ValueError, match="more than one position"):
        norm.normalization(image(1, 16, 1, 1), nn.BatchNorm2d(16).to(DEVICE, torch.float64))


def test_gradients_of_running_statistics_are_those_of_the_layers():
    """Not of the kernels, whose gradients are those of the batch's statistics."""
    plain = ResidualBlock(16, 16, 1).to(DEVICE, torch.float64).eval()
    fast, grads = accelerate(copy.deepcopy(plain), "cuda"), []
    fast.train()
    fast.norm1.eval(), fast.norm2.eval()  # as when they are frozen
    for block in (fast, plain):
        x = image(2, 16, 5, 6).requires_grad_()
        block(x).square().sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize(("channels", "stride"), [(16, 1), (32, 2)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bits_are_as_near_as_the_layers(channels, stride, dtype):
    """Gradients of a block under autocast, next to those in float32."""
    if DEVICE == "cpu" and dtype == torch.bfloat16 and channels == layers.FEW:
        pytest.skip("needs a GPU: Triton's interpreter multiplies no bfloat16")
    torch.manual_seed(0)
    block = ResidualBlock(16, channels, stride)
    x, shape = image(4, 16, 40, 30, dtype=dtype), (4, channels, 40 // stride, 30 // stride)
    assert_as_near(block, x, shape, mean=0.5, device="cuda", dtype=dtype, floor=0.005)


class CompilationError(Exception):
    """As Triton's: no RuntimeError."""


def test_trying_leaves_no_trace(capsys):
    state = torch.get_rng_state()
    layers.try_kernels.cache_clear()
    with torch.inference_mode():
        layers.try_kernels(torch.device(DEVICE))
    assert torch.equal(torch.get_rng_state(), state)
    assert {DEVICE} == layers.DEVICES
    assert capsys.readouterr().err == ""


def test_a_machine_that_cannot_compile_kernels(monkeypatch, capsys):
    """Says so once, and computes PyTorch's layers."""

    def fail(*_):
        raise CompilationError("Failed to find C compiler.\nSet CC")

    monkeypatch.setattr(rescaling, "clip_sums", fail)
    layers.try_kernels.cache_clear()
    for _ in range(2):
        layers.try_kernels(torch.device(DEVICE))
    layers.try_kernels.cache_clear()
    expected = "note: no Triton kernels (Failed to find C compiler.); PyTorch's layers instead\n"
    assert capsys.readouterr().err == expected
    block = accelerate(ResidualBlock(16, 16, 1).to(DEVICE, torch.float64), "cpu")
    block.__class__ = layers.GpuResidualBlock
    assert block(image(2, 16, 5, 5)).grad_fn.name() == "AddBackward0"


def test_the_kernels_compile_for_gpus():
    """Interpreted kernels may do what compiled ones cannot; no GPU is needed to compile."""
    script = Path(__file__).parent.parent / "compile_kernels.py"
    environment = {**os.environ, "PYTHONPATH": str(script.parent.parent / "src")}
    command = [sys.executable, script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 28
