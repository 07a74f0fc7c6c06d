"""Loss and gradients stay finite, in float32 and under bfloat16 autocast.

Tried are silent clips and embeddings at a centre; networks are accelerated, as a CPU trains them.
"""

from contextlib import nullcontext
from functools import partial

import pytest
import torch

from unlabeledasd.fast import accelerate
from unlabeledasd.losses import SubclusterAdaCos
from unlabeledasd.modules import FeatExModule, SubspaceLossModule
from unlabeledasd.networks import MultiResolutionNet
from unlabeledasd.pseudo.triplet import TripletModule, TripletNet

SAMPLES = 70400
PRECISIONS = {"fp32": nullcontext, "bf16": partial(torch.autocast, "cpu", torch.bfloat16)}

precision = pytest.mark.parametrize("precision", PRECISIONS)


@pytest.fixture(scope="module")
def noise():
    generator = torch.Generator().manual_seed(0)
    return (3000 * torch.randn(8, SAMPLES, generator=generator)).to(torch.int16)


TONE = (32767 * torch.sin(0.3 * torch.arange(SAMPLES))).to(torch.int16)
BATCHES = {
    "all silent": lambda wave: wave * 0,
    "some silent": lambda wave: wave * (torch.arange(8) % 2)[:, None],
    "constant": lambda wave: torch.full_like(wave, 7),
    "one bit": lambda wave: wave.sign(),
    "full scale": lambda wave: wave.sign() * 32767,
    "one tone of full scale": lambda wave: TONE.repeat(len(wave), 1),
}


def step(module, batch, precision):
    """One training step as Lightning does it, without a trainer."""
    module.log = module.log_dict = lambda *_, **__: None
    module.generator = torch.Generator().manual_seed(0)
    with PRECISIONS[precision]():
        loss = module.training_step(batch, 0)
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in module.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    assert all(value.isfinite().all() for value in module.state_dict().values())


@precision
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("family", [SubspaceLossModule, FeatExModule])
def test_discriminative(noise, family, batch, precision):
    torch.manual_seed(0)
    extractor = accelerate(MultiResolutionNet([4096], clip_seconds=SAMPLES / 16000), "cpu")
    module = family(4, extractor, SubclusterAdaCos, torch.optim.AdamW)
    step(module, (BATCHES[batch](noise), torch.arange(8) % 4), precision)


@precision
@pytest.mark.parametrize("batch", BATCHES)
def test_triplet(noise, batch, precision):
    torch.manual_seed(0)
    extractor = accelerate(TripletNet(clip_seconds=SAMPLES / 16000), "cpu")
    module = TripletModule(extractor, torch.optim.AdamW)
    for wave in (BATCHES[batch](noise), torch.cat([BATCHES[batch](noise)[:4], noise[4:]])):
        step(module, (wave, torch.arange(8) // 4), precision)


@precision
@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("kind", ["at a centre", "opposite", "zero", "huge", "tiny"])
def test_embeddings_at_a_centre(kind, trainable, precision):
    torch.manual_seed(0)
    loss = SubclusterAdaCos(128, 500, trainable=trainable)
    centre = loss.centers.detach()[7, 3]
    factor = {"at a centre": 1, "opposite": -1, "zero": 0, "huge": 1e15, "tiny": 1e-15}[kind]
    embedding = (factor * centre).repeat(3, 1).requires_grad_()
    with PRECISIONS[precision]():
        value = loss(embedding * 1, torch.eye(500)[[7, 7, 499]])
    value.backward()
    assert torch.isfinite(value)
    assert embedding.grad.isfinite().all()
    if trainable:
        assert loss.centers.grad.isfinite().all()
