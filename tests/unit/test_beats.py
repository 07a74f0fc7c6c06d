"""BEATs against a second implementation, brute force, and Kaldi's filter bank; bad files."""

import math
import pickle

import numpy as np
import pytest
import torch
import torchaudio

from beats_file import SMALL, write_beats
from unlabeledasd.encoders.beats import (
    KaldiFbank,
    distance_bucket,
    frame_to_spectrum,
    kaldi_mel,
    load_beats,
)
from unlabeledasd.errors import InputError
from unlabeledasd.files import file_hash

# First values of the tokens 0, 1, 8 and 100 of the network below, by BEATs of speechbrain 1.1.2,
# torch 2.11, float32: venv/bin/python -m pytest tests/unit/test_beats.py -k speechbrain
REFERENCE = [
    [-0.161494, -0.764899, 2.086513],
    [-0.758651, -0.198829, 1.945528],
    [-0.151219, -0.735620, 2.039584],
    [-0.532709, -0.163673, 1.990731],
]


def waves(batch: int = 2, seconds: float = 3.0, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    noise = 0.1 * rng.standard_normal((batch, round(16000 * seconds)))
    return torch.from_numpy(noise.astype(np.float32))


def kaldi(wave: torch.Tensor) -> torch.Tensor:
    return torchaudio.compliance.kaldi.fbank(
        wave * 2**15, num_mel_bins=128, sample_frequency=16000, frame_length=25, frame_shift=10
    )


def test_fbank_is_kaldis():
    wave = waves(batch=3, seconds=1.2)
    wave[1] *= 1e-3
    wave[2] = 0
    found = KaldiFbank()(wave)
    for row in range(3):
        np.testing.assert_allclose(found[row], kaldi(wave[row : row + 1]), atol=1e-3)
    exact = KaldiFbank()
    exact.basis, exact.mel = frame_to_spectrum(), kaldi_mel()
    tone = 0.5 * torch.sin(0.4 * torch.arange(8000, dtype=torch.float64))[None]
    # in float64, since the bins far from a tone are the rounding of float32
    np.testing.assert_allclose(exact(tone)[0], kaldi(tone), atol=1e-4)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_beats(tmp_path_factory.mktemp("beats") / "beats.pt")


def bucket(distance: int, n_buckets: int, max_distance: int) -> int:
    half = n_buckets // 2
    exact = half // 2
    first = half if distance > 0 else 0
    size = abs(distance)
    if size < exact:
        return first + size
    share = np.log(np.float32(size) / exact) / math.log(max_distance / exact)
    return first + min(half - 1, exact + int(share * (half - exact)))


@pytest.mark.parametrize(("n_buckets", "max_distance"), [(320, 800), (32, 80)])
def test_distances_fall_into_their_buckets(n_buckets, max_distance):
    distances = torch.arange(-1000, 1001)
    found = distance_bucket(distances, n_buckets, max_distance).tolist()
    assert found == [bucket(d, n_buckets, max_distance) for d in distances.tolist()]
    assert (min(found), max(found)) == (0, n_buckets - 1)


def by_hand(state: dict[str, np.ndarray], fbank: np.ndarray) -> np.ndarray:
    """Tokens (frames / 16 * 8, D) of one clip's log mel power, head by head, in float64."""
    size, n_heads = SMALL["encoder_embed_dim"], SMALL["encoder_attention_heads"]

    def linear(name, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    def gelu(x):
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    image = (fbank - 15.41663) / (2 * 6.55582)
    kernels = state["patch_embedding.weight"][:, 0]
    patches = [
        (kernels * image[16 * t : 16 * t + 16, 16 * f : 16 * f + 16]).sum((1, 2))
        for t in range(len(image) // 16)
        for f in range(8)
    ]
    x = linear("post_extract_proj", norm("layer_norm", np.array(patches)))
    direction = state["encoder.pos_conv.0.weight_v"]
    length = np.sqrt((direction**2).sum((0, 1)))
    kernel = direction * state["encoder.pos_conv.0.weight_g"][0, 0] / length
    width, inputs = kernel.shape[2], kernel.shape[1]
    padded = np.pad(x, ((width // 2, width // 2), (0, 0)))
    positions = np.zeros_like(x)
    for out in range(size):
        first = out // inputs * inputs  # as many outputs as inputs in a group
        for t in range(len(x)):
            seen = padded[t : t + width, first : first + inputs]
            positions[t, out] = (seen * kernel[out].T).sum()
    positions += state["encoder.pos_conv.0.bias"]
    x = norm("encoder.layer_norm", x + gelu(positions))
    table = state["encoder.layers.0.self_attn.relative_attention_bias.weight"]
    n = len(x)
    buckets = [[bucket(key - query, 32, 80) for key in range(n)] for query in range(n)]
    alpha = (2 * SMALL["encoder_layers"]) ** 0.25
    for i in range(SMALL["encoder_layers"]):
        layer = f"encoder.layers.{i}"
        attention = f"{layer}.self_attn"
        q, k, v = (linear(f"{attention}.{name}_proj", x) for name in "qkv")
        mixed = []
        for head in range(n_heads):
            own = slice(head * size // n_heads, (head + 1) * size // n_heads)
            gates = linear(f"{attention}.grep_linear", q[:, own])
            gate_a, gate_b = sigmoid(gates[:, :4].sum(1)), sigmoid(gates[:, 4:].sum(1))
            gate = gate_a * (gate_b * state[f"{attention}.grep_a"][0, head, 0, 0] - 1) + 2
            logits = q[:, own] @ k[:, own].T / math.sqrt(size // n_heads)
            logits += gate[:, None] * table[buckets, head]
            weights = np.exp(logits - logits.max(1, keepdims=True))
            mixed.append(weights / weights.sum(1, keepdims=True) @ v[:, own])
        attended = linear(f"{attention}.out_proj", np.concatenate(mixed, 1))
        x = norm(f"{layer}.self_attn_layer_norm", alpha * x + attended)
        inner = linear(f"{layer}.fc2", gelu(linear(f"{layer}.fc1", x)))
        x = norm(f"{layer}.final_layer_norm", alpha * x + inner)
    return x


def test_tokens_by_hand(file):
    state = torch.load(file, weights_only=True)["model"]
    wave = waves()
    network, _ = load_beats(file, None)
    found = network(wave)
    assert found.shape == (2, 18, 8, 32)
    assert found.dtype == torch.float32
    plain = {name: value.double().numpy() for name, value in state.items()}
    for row in range(2):
        expected = by_hand(plain, kaldi(wave[row : row + 1]).double().numpy())
        np.testing.assert_allclose(found[row].flatten(0, 1), expected, atol=1e-4)


def test_tokens_of_the_reference(file):
    network, _ = load_beats(file, None)
    found = network(waves())[0].flatten(0, 1)[[0, 1, 8, 100], :3]
    np.testing.assert_allclose(found, REFERENCE, atol=1e-4)


def test_speechbrain(file):
    reference = pytest.importorskip("speechbrain.lobes.models.beats")
    network, _ = load_beats(file, None)
    expected = reference.BEATs(str(file)).extract_features(waves(), torch.ones(2))[0]
    np.testing.assert_allclose(network(waves()).flatten(1, 2), expected.detach(), atol=1e-4)
    np.testing.assert_allclose(expected[0, [0, 1, 8, 100], :3].detach(), REFERENCE, atol=1e-5)


def test_a_frame_less_than_a_token_is_left_out(file):
    network, _ = load_beats(file, None)
    least = network.least_samples
    assert network(waves(seconds=least / 16000)).shape[1] == 1
    wave = waves(seconds=(least + 15 * 160) / 16000)
    np.testing.assert_allclose(network(wave), network(wave[:, :least]), atol=1e-6)


def test_never_in_half_precision(file):
    network, _ = load_beats(file, None)
    expected = network(waves())
    with torch.autocast("cpu", torch.bfloat16):
        found = network(waves())
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found, expected)


class Executes:
    def __reduce__(self):
        return print, ("executed",)


def other(path, **changes):
    checkpoint = torch.load(write_beats(path), weights_only=True)
    checkpoint["cfg"] |= changes
    torch.save(checkpoint, path)
    return path


def dropped(path):
    checkpoint = torch.load(write_beats(path), weights_only=True)
    del checkpoint["model"]["post_extract_proj.bias"]
    torch.save(checkpoint, path)
    return path


def written(path, data: bytes):
    path.write_bytes(data)
    return path


BAD = {
    "empty": (lambda path: written(path, b""), "not a checkpoint of BEATs"),
    "text": (lambda path: written(path, b"<html>404</html>"), "not a checkpoint of BEATs"),
    "truncated": (
        lambda path: written(path, write_beats(path).read_bytes()[:-5000]),
        "not a checkpoint of BEATs",
    ),
    "a pickle": (
        lambda path: written(path, pickle.dumps(Executes())),
        "contains code or objects, which are not loaded",
    ),
    "of another network": (dropped, "post_extract_proj.bias"),
    "of another form": (
        lambda path: other(path, layer_norm_first=True),
        "layer_norm_first=True, only False is computed here",
    ),
    "of other sizes": (lambda path: other(path, encoder_layers=3), "not a checkpoint of BEATs"),
    "without settings": (
        lambda path: torch.save({"model": {}}, path) or path,
        r"not a checkpoint of BEATs \('cfg'\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_line(name, tmp_path, capsys):
    write, message = BAD[name]
    path = write(tmp_path / "beats.pt")
    with pytest.raises(InputError, match=message) as raised:
        load_beats(path, None)
    text = str(raised.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert "361,499,833 bytes, sha256 8d1b2340" in text
    assert "https://github.com/microsoft/unilm" in text
    assert "https://huggingface.co/" in text
    assert "executed" not in capsys.readouterr().out


def test_missing_and_unknown_files_name_what_is_wanted(tmp_path):
    path = tmp_path / "BEATs_iter3.pt"
    with pytest.raises(InputError, match=rf"^{path}: no such file; get BEATs_iter3.pt \(361,499"):
        load_beats(path)
    write_beats(path)
    with pytest.raises(
        InputError, match=r"bytes, sha256 [0-9a-f]{64}: not a known file; get BEATs"
    ):
        load_beats(path)


def test_another_file_of_the_same_size_is_refused(tmp_path, monkeypatch):
    known, unknown = write_beats(tmp_path / "a.pt", seed=1), write_beats(tmp_path / "b.pt", seed=2)
    assert known.stat().st_size == unknown.stat().st_size
    digest = file_hash(known)
    assert load_beats(known, [digest])[1] == digest
    with pytest.raises(InputError, match="not a known file"):
        load_beats(unknown, [digest])
