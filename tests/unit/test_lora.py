"""LoRA by its formula; extractors of BEATs: what is trained, saved and refused."""

import numpy as np
import pytest
import torch

from beats_file import write_beats
from unlabeledasd.encoders.beats import load_beats
from unlabeledasd.encoders.extractors import FrozenBeats, LoraBeats
from unlabeledasd.encoders.lora import LoraLinear, add_lora, freeze
from unlabeledasd.encoders.pooling import DeviationPooling
from unlabeledasd.errors import InputError

SETTINGS = {"clip_seconds": 1.0, "hashes": None}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_beats(tmp_path_factory.mktemp("beats") / "beats.pt")


def waves(seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(0.1 * rng.standard_normal((3, 16000)).astype(np.float32))


def test_formula():
    torch.manual_seed(0)
    base = torch.nn.Linear(6, 4).double()
    layer = LoraLinear(base, rank=3, alpha=12.0, dropout=0.0).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    assert torch.equal(layer(x), base(x))  # it begins as the layer that it adapts
    torch.nn.init.normal_(layer.lora_b)
    merged = base.weight + 12 / 3 * layer.lora_b @ layer.lora_a
    torch.testing.assert_close(layer(x), x @ merged.T + base.bias)
    bound = 1 / np.sqrt(6)  # that of nn.Linear
    assert layer.lora_a.abs().max() <= bound
    assert layer.lora_a.abs().max() > bound / 2


def test_only_lora_pooling_and_linear_are_trained(file):
    torch.manual_seed(0)
    extractor = LoraBeats(file, rank=2, embedding_size=7, **SETTINGS)
    names = {name for name, _ in extractor.named_parameters()}
    layers = [f"base.encoder.layers.{i}.self_attn.{p}_proj" for i in (0, 1) for p in "qv"]
    heads = {"pooling.hidden.weight", "pooling.hidden.bias", "pooling.weight.weight"}
    adapted = {f"{layer}.lora_{matrix}" for layer in layers for matrix in "ab"}
    assert names == adapted | heads | {"linear.weight", "linear.bias"}
    assert set(extractor.state_dict()) == names | {"base_hash"}
    before = {k: v.clone() for k, v in extractor.base.named_buffers()}
    optimizer = torch.optim.AdamW(extractor.parameters(), lr=0.1)
    for _ in range(2):  # at first B is 0, so that A has no gradient
        optimizer.zero_grad()
        embedding, parts = extractor(waves())
        assert embedding.shape == (3, 7)
        assert torch.equal(parts[0], embedding)
        embedding.square().mean().backward()
        optimizer.step()
    for name, parameter in extractor.named_parameters():
        assert parameter.grad is not None, name
        if name != "pooling.hidden.bias":
            assert parameter.grad.abs().max() > 0, name
    for name, value in extractor.base.named_buffers():
        assert torch.equal(value, before[name]), name


def test_saved_weights_restore_the_network(file):
    torch.manual_seed(0)
    trained, other = (LoraBeats(file, rank=2, embedding_size=7, **SETTINGS) for _ in range(2))
    for parameter in trained.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    other.load_state_dict(trained.state_dict())
    assert torch.equal(trained(waves())[0], other(waves())[0])


def test_weights_on_another_base_are_refused(file, tmp_path):
    another = write_beats(tmp_path / "another.pt", seed=1)
    frozen = [FrozenBeats(path, DeviationPooling(), **SETTINGS) for path in (file, another)]
    assert set(frozen[0].state_dict()) == {"base_hash"}
    with pytest.raises(
        InputError, match=rf"^{another}: sha256 [0-9a-f]{{64}}, but the run was made with [0-9a-f]"
    ):
        frozen[1].load_state_dict(frozen[0].state_dict())
    frozen[0].load_state_dict(frozen[0].state_dict())


def test_frozen_embedding(file):
    extractor = FrozenBeats(file, DeviationPooling(4.0), **SETTINGS)
    network, _ = load_beats(file, None)
    embedding, bands = extractor(waves())
    torch.testing.assert_close(embedding, DeviationPooling(4.0)(network(waves())))
    assert embedding.shape == (3, 8, 32)
    assert extractor.embedding_size == 8 * 32
    torch.testing.assert_close(torch.stack(bands, 1), embedding)
    assert not list(extractor.parameters())
    with pytest.raises(InputError, match=r"shape \(1, 9\): expected \(batch, 16000\)"):
        extractor(torch.zeros(1, 9))


def test_frozen_weights_move_with_the_network(file):
    network, _ = load_beats(file, None)
    expected = network(waves())
    freeze(network)
    assert torch.equal(network(waves()), expected)
    assert not list(network.parameters())
    assert not network.state_dict()
    assert {buffer.dtype for buffer in network.double().buffers()} == {torch.float64}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip_seconds": 0.1}, "clip_seconds=0.1: BEATs needs at least 0.175"),
        ({"sample_rate": 8000}, "sample_rate=8000: BEATs takes 16000"),
        ({"rank": 0}, "rank=0: at least 1"),
        ({"dropout": 1.0}, "dropout=1.0: from 0 to below 1"),
        ({"targets": ["query"]}, r"targets=\['query'\]: allowed are .*q_proj"),
        ({"targets": []}, r"targets=\[\]: .*at least one"),
    ],
)
def test_wrong_settings(file, changes, message):
    with pytest.raises(InputError, match=message):
        LoraBeats(file, **{**SETTINGS, **changes})


def test_a_network_without_such_layers():
    with pytest.raises(InputError, match="targets"):
        add_lora(torch.nn.Sequential(torch.nn.ReLU()), ["q_proj"], 2, 2.0, 0.0)
