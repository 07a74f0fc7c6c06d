"""Small checkpoints of BEATs with random weights, in the form of the published ones."""

from pathlib import Path

import numpy as np
import torch

from unlabeledasd.encoders.beats import FORM

SMALL = {
    "embed_dim": 16,
    "input_patch_size": 16,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 4,
    "encoder_layers": 2,
    "conv_pos": 16,
    "conv_pos_groups": 4,
    "num_buckets": 32,
    "max_distance": 80,
}


def shapes(sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters of a published checkpoint."""
    size, patch = sizes["encoder_embed_dim"], sizes["input_patch_size"]
    hidden, kernel = sizes["encoder_ffn_embed_dim"], sizes["conv_pos"]
    n_heads = sizes["encoder_attention_heads"]

    def linear(name: str, n_in: int, n_out: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (n_out, n_in), f"{name}.bias": (n_out,)}

    def norm(name: str, n: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (n,), f"{name}.bias": (n,)}

    found = {"patch_embedding.weight": (sizes["embed_dim"], 1, patch, patch)}
    found |= norm("layer_norm", sizes["embed_dim"])
    found |= linear("post_extract_proj", sizes["embed_dim"], size)
    found |= {
        "encoder.pos_conv.0.bias": (size,),
        "encoder.pos_conv.0.weight_g": (1, 1, kernel),
        "encoder.pos_conv.0.weight_v": (size, size // sizes["conv_pos_groups"], kernel),
    }
    found |= norm("encoder.layer_norm", size)
    for i in range(sizes["encoder_layers"]):
        layer = f"encoder.layers.{i}"
        attention = f"{layer}.self_attn"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= linear(f"{attention}.{name}", size, size)
        found |= linear(f"{attention}.grep_linear", size // n_heads, 8)
        found[f"{attention}.grep_a"] = (1, n_heads, 1, 1)
        found[f"{attention}.relative_attention_bias.weight"] = (sizes["num_buckets"], n_heads)
        found |= norm(f"{layer}.self_attn_layer_norm", size)
        found |= linear(f"{layer}.fc1", size, hidden) | linear(f"{layer}.fc2", hidden, size)
        found |= norm(f"{layer}.final_layer_norm", size)
    return found


def write_beats(path: Path, seed: int = 0, **changes: object) -> Path:
    """A checkpoint of random weights; changes: of SMALL, or of what it says of its form."""
    rng = np.random.default_rng(seed)
    settings = {**FORM, **SMALL, "finetuned_model": False, "predictor_class": 527, **changes}
    state: dict[str, torch.Tensor] = {}
    for name, shape in shapes(settings).items():
        values = rng.standard_normal(shape) * (0.1 if len(shape) == 1 else 0.3)
        if name.endswith(("norm.weight", "weight_g", "grep_a")):
            values += 1
        state[name] = torch.from_numpy(values.astype(np.float32))
        if "relative_attention_bias" in name:  # one for all layers
            state[name] = state["encoder.layers.0.self_attn.relative_attention_bias.weight"]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"cfg": settings, "model": state}, path)
    return path
