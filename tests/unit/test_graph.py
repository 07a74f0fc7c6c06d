"""Steps on a GPU: recorded as CUDA graphs with the results of single layers, and without waiting.

The tests marked `gpu` need one; the others show on any machine what does not depend on it.
"""

import copy
import functools

import hydra
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from conftest import SECONDS, compose
from unlabeledasd.fast import accelerate
from unlabeledasd.fast.graph import GraphedExtractor, record
from unlabeledasd.networks import MultiResolutionNet

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def deterministic(monkeypatch):
    """As src/train.py sets it."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


FAMILIES = ["na_0256_4096", "subloss_0256_4096", "featex_0256_4096"]
FAMILIES += ["self_supervised_0256_1024_4096"]
BATCH, CLASSES = 4, 5


def make_module(method: str, device: str):
    """A module in training mode with the layers for a GPU, and a batch, on `device`."""
    torch.manual_seed(0)
    settings = ["dataset=demo", f"dataset.clip_seconds={SECONDS}", "seed=1", "data_dir=data"]
    config = compose("train", [*settings, f"method={method}"])
    module = hydra.utils.instantiate(config.model, _partial_=True, _convert_="all")(CLASSES)
    accelerate(module.train().to(device).extractor, "cuda")
    module.log = module.log_dict = functools.partial(lambda *_, **__: None)
    module.generator = torch.Generator(device).manual_seed(0)
    size = BATCH, module.extractor.n_samples
    wave = torch.randint(-9999, 9999, size, dtype=torch.int16, device=device)
    return module, (wave, torch.arange(BATCH, device=device))


def step(module, optimizer, batch) -> torch.Tensor:
    """A step of training as Lightning makes it -> the loss."""
    optimizer.zero_grad()
    with torch.autocast(batch[0].device.type, torch.bfloat16):
        loss = module.training_step(batch, 0)
    loss.backward()
    optimizer.step()
    return loss.detach()


@pytest.mark.parametrize("method", FAMILIES)
def test_a_step_reads_no_value_of_a_tensor(method):
    """On tensors without values: each `.item()`, `.cpu()` or branch on a value is an error."""
    module, batch = make_module(method, "cpu")
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        batch = [mode.from_tensor(x) for x in batch]
        loss = step(module, optimizer, batch)
        assert loss.shape == ()
        with pytest.raises(DataDependentOutputException):
            loss.item()


def test_where_no_graph_can_be_recorded_layers_are_called(capsys):
    """And the reason is printed once."""
    plain = MultiResolutionNet([1024], SECONDS).train()
    graphed = GraphedExtractor(copy.deepcopy(plain))
    wave = torch.randn(3, plain.n_samples)
    for _ in range(2):
        torch.testing.assert_close(graphed(wave)[0], plain(wave)[0])
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("note: no CUDA graph (") for line in lines] == [True]


def test_recording_leaves_the_running_statistics(monkeypatch):
    def stand_in(module, inputs):
        for _ in range(3):
            module(*inputs)
        return module

    monkeypatch.setattr("torch.cuda.make_graphed_callables", stand_in)
    network = MultiResolutionNet([1024], SECONDS).train()
    before = copy.deepcopy(network.state_dict())
    record(network, torch.randn(3, network.n_samples))
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


@gpu
@pytest.mark.parametrize("method", FAMILIES)
def test_graphs_give_the_bytes_of_single_layers(method, deterministic):
    """Losses and weights after steps of full batches and a smaller one."""
    states = []
    for graphs in (False, True):
        module, batch = make_module(method, "cuda")
        if graphs:
            module.graphed = GraphedExtractor(module.extractor)
        optimizer = torch.optim.AdamW(module.parameters(), fused=True)
        batches = [batch, batch, [x[:3] for x in batch], batch]
        losses = [step(module, optimizer, batch) for batch in batches]
        states.append([torch.stack(losses), *module.state_dict().values()])
        assert not graphs or module.graphed.replay is not module.extractor
    for a, b in zip(*states, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@gpu
@pytest.mark.parametrize("method", FAMILIES)
def test_a_step_waits_for_nothing(method):
    module, batch = make_module(method, "cuda")
    module.graphed = GraphedExtractor(module.extractor)
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    step(module, optimizer, batch)  # records
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(module, optimizer, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
