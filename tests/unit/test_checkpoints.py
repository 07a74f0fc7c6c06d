"""Checkpoints: weights that fit, files that are corrupt."""

import pytest
import torch

from unlabeledasd.errors import InputError
from unlabeledasd.networks import MultiResolutionNet
from unlabeledasd.runs.checkpoints import load_extractor


def test_checkpoint_of_another_network(tmp_path):
    extractor = MultiResolutionNet([256], clip_seconds=4.4)
    state = {f"extractor.{name}": value for name, value in extractor.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    load_extractor(MultiResolutionNet([256], clip_seconds=4.4), tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"a\.ckpt: not a checkpoint of this extractor"):
        load_extractor(MultiResolutionNet([4096], clip_seconds=4.4), tmp_path / "a.ckpt")
    (tmp_path / "b.ckpt").write_bytes((tmp_path / "a.ckpt").read_bytes()[:1000])
    whole = bytearray((tmp_path / "a.ckpt").read_bytes())
    whole[len(whole) // 2] ^= 1  # one bit of millions of numbers, which torch itself would accept
    (tmp_path / "c.ckpt").write_bytes(whole)
    for name in ("b.ckpt", "c.ckpt", "none.ckpt"):
        with pytest.raises(InputError, match=rf"{name}: corrupt or not a checkpoint"):
            load_extractor(extractor, tmp_path / name)
