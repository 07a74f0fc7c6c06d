"""Embedders, against the networks inside the published wheels.

The wheels are fetched with pip into pytest's cache folder and imported from there piece by piece:
nothing is installed, and the package of PANNs, which downloads a file into the home folder when it
is imported, is not run.
"""

import importlib
import subprocess
import sys
import zipfile
from types import ModuleType, SimpleNamespace

import librosa
import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from conftest import ROOT, SECONDS, compose, write_wav
from settings.build import build
from settings.check import check_config
from unlabeledasd import evaluation
from unlabeledasd.errors import InputError
from unlabeledasd.networks import MultiResolutionNet
from unlabeledasd.pseudo.embedders import PANNS_MD5, OpenL3, OwnModel, Panns, Resampled, resample
from unlabeledasd.pseudo.pretrained import Cnn14, OpenL3Net
from unlabeledasd.pseudo.triplet import TripletNet

WHEELS = """
panns-inference==0.1.1 \\
  --hash=sha256:97f6b56b6c9467cf00e21f041e1f88933188c65c1b5ca64eeb3c92e37fb27fc2
torchlibrosa==0.1.0 \\
  --hash=sha256:89b65fd28b833ceb6bc74a3d0d87e2924ddc5a845d0a246b194952a4e12a38cb
torchopenl3==1.0.1 \\
  --hash=sha256:65fcb335ce35499887d6d163c5d8b1448d25c6118535ef0c10d7b7d535c21e46
"""
MODULES = ("panns_inference.models", "torchopenl3.models", "torchopenl3.utils")


@pytest.fixture(scope="session")
def published(request, tmp_path_factory):
    """The modules of the wheels that hold networks and front ends."""
    cache = request.config.cache.mkdir("wheels")
    requirements = tmp_path_factory.mktemp("wheels") / "requirements.txt"
    requirements.write_text(WHEELS)
    if len(list(cache.glob("*.whl"))) < 3:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--require-hashes",
                "--retries",
                "1",
                "--timeout",
                "15",
                "-r",
                requirements,
                "-d",
                cache,
            ],
            capture_output=True,
            text=True,
        )
        assert "DO NOT MATCH THE HASHES" not in done.stderr, done.stderr
        if done.returncode:
            pytest.skip(
                "the published wheels cannot be fetched: "
                f"{(done.stderr.strip() or 'pip failed')[-200:]}"
            )
    folder = requirements.parent
    for wheel in cache.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(folder)
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        for package in (
            "panns_inference",
            "torchlibrosa",
            "torchopenl3",
        ):  # without what their __init__ does
            module = ModuleType(package)
            module.__path__ = [str(folder / package)]
            patch.setitem(sys.modules, package, module)
        for unused in ("torchopenl3.core", "julius", "resampy"):
            patch.setitem(sys.modules, unused, ModuleType(unused))
        try:
            panns, openl3, windows = map(importlib.import_module, MODULES)
        except ImportError as error:
            pytest.skip(f"the published wheels cannot be imported here: {error}")
        yield SimpleNamespace(
            Cnn14=panns.Cnn14, OpenL3=openl3.PytorchOpenl3, windows=windows.preprocess_audio_batch
        )
        for name in set(sys.modules) - before:
            if name.startswith(("panns_inference", "torchlibrosa", "torchopenl3")):
                del sys.modules[name]


def random_state(network: nn.Module) -> dict:
    """Weights that keep the signal's size and let clips differ; the front end's constants as is."""
    generator = torch.Generator().manual_seed(0)
    state = network.state_dict()
    for name, value in state.items():
        if "spec" in name or "mel" in name or not value.is_floating_point():
            continue
        if "running_var" in name:
            value.uniform_(0.5, 2, generator=generator)
        elif value.dim() == 1:
            value.normal_(float(name.endswith("weight")), 0.3, generator=generator)
        else:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
    for name in ("bn0", "batch_normalization_1"):  # they see dB
        if f"{name}.running_var" in state:
            state[f"{name}.running_mean"].sub_(20)
            state[f"{name}.running_var"].mul_(400)
    return state


@pytest.fixture(scope="module")
def panns_weights(tmp_path_factory):
    """As the published file: weights under "model", written the way PyTorch did before 1.6."""
    path = tmp_path_factory.mktemp("panns") / "Cnn14_mAP=0.431.pth"
    checkpoint = {"iteration": 1, "model": random_state(Cnn14())}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=False)
    yield path
    path.unlink()  # 327 MB


@pytest.fixture(scope="module")
def openl3_weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("openl3") / "torchopenl3_mel128_env_512.pth.tar"
    torch.save(random_state(OpenL3Net()), path)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Folder and names of three clips of different sound, level and length."""
    folder = tmp_path_factory.mktemp("clips")
    for i, (seconds, hz) in enumerate([(1.0, 300.0), (0.7, 2500.0), (1.6, 900.0)]):
        write_wav(folder / f"{i}.wav", seconds, hz, seed=i)
    wave, rate = soundfile.read(folder / "1.wav")
    soundfile.write(folder / "1.wav", wave / 20, rate)
    return folder, ["0.wav", "1.wav", "2.wav"]


def long_clips(clips, seconds: float, rate: int) -> np.ndarray:
    """What the embedders give their networks, by other means."""
    folder, names = clips
    n_samples = round(seconds * 16000)
    waves = [
        np.tile(soundfile.read(folder / name, dtype="float32")[0], 99)[:n_samples] for name in names
    ]
    return np.stack(
        [
            librosa.resample(wave, orig_sr=16000, target_sr=rate, res_type="soxr_hq")
            for wave in waves
        ]
    )


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == np.float32
    assert np.ptp(theirs, axis=0).max() > 0.1, "clips differ too little for a comparison"
    print(
        f"largest deviation {np.abs(ours - theirs).max():.2g} of embeddings up to "
        f"{np.abs(theirs).max():.2g}"
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


def assert_equal_layout(ours: nn.Module, theirs: nn.Module, front_end: str) -> None:
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert {name: (v.shape, v.dtype) for name, v in ours.items()} == {
        name: (v.shape, v.dtype) for name, v in theirs.items()
    }
    constants = [name for name in ours if name.startswith(front_end)]
    assert len(constants) == 3
    for name in constants:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-6, rtol=0)


def check_panns(published, weights, clips, seconds: float) -> None:
    reference = published.Cnn14(32000, 1024, 320, 64, 50, 14000, 527).eval()
    ours = Panns(weights, seconds, md5=None)
    assert_equal_layout(Cnn14(), reference, ("spectrogram_extractor", "logmel_extractor"))
    reference.load_state_dict(torch.load(weights, weights_only=True)["model"])
    waves = long_clips(clips, seconds, 32000)
    with torch.inference_mode():
        theirs = np.concatenate(
            [reference(torch.from_numpy(wave[None]))["embedding"] for wave in waves]
        )
    assert_same(ours.embed(*clips), theirs)


def check_openl3(published, weights, clips, seconds: float, hop_seconds: float) -> None:
    reference = published.OpenL3("env", "mel128", 512).eval()
    ours = OpenL3(weights, seconds, hop_seconds=hop_seconds)
    assert_equal_layout(OpenL3Net(), reference, "speclayer")
    reference.load_state_dict(torch.load(weights, weights_only=True))
    waves = torch.from_numpy(long_clips(clips, seconds, 48000))
    windows = published.windows(waves, 48000, hop_size=hop_seconds)
    assert torch.equal(ours.extractor.network.windows(waves).flatten(0, 1), windows.squeeze(1))
    with torch.inference_mode():
        theirs = (
            torch.cat([reference(part) for part in windows.split(16)])
            .view(len(waves), -1, 512)
            .mean(1)
        )
    assert_same(ours.embed(*clips), theirs.numpy())


def test_panns_is_the_published_network(published, panns_weights, clips):
    check_panns(published, panns_weights, clips, seconds=1.2)


def test_openl3_is_the_published_network(published, openl3_weights, clips):
    check_openl3(published, openl3_weights, clips, seconds=1.2, hop_seconds=0.4)


@pytest.mark.slow
def test_panns_on_whole_clips(published, panns_weights, clips):
    check_panns(published, panns_weights, clips, seconds=18)


@pytest.mark.slow
def test_openl3_on_whole_clips(published, openl3_weights, clips):
    folder, names = clips
    check_openl3(published, openl3_weights, (folder, names[:2]), seconds=18, hop_seconds=0.1)


@pytest.fixture(params=["panns", "openl3"])
def embedder(request):
    weights = request.getfixturevalue(f"{request.param}_weights")
    if request.param == "panns":
        return Panns(weights, 1.0, md5=None, batch_size=2)
    return OpenL3(weights, 1.0, hop_seconds=0.4, windows_at_once=2)


def test_embeddings_do_not_depend_on_the_batch(embedder, clips):
    folder, names = clips
    together = embedder.embed(folder, names)
    assert together.shape == (3, embedder.extractor.network.embedding_size)
    assert together.dtype == np.float32
    embedder.batch_size, embedder.extractor.network.windows_at_once = 3, 3
    for order in ([2, 0, 1], [1]):
        alone = embedder.embed(folder, [names[i] for i in order])
        np.testing.assert_allclose(alone, together[order], atol=1e-5, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same(embedder, clips):
    cpu, gpu = embedder.embed(*clips), embedder.embed(*clips, device="cuda")
    assert np.linalg.norm(gpu - cpu) < 1e-2 * np.linalg.norm(cpu)  # cuDNN convolves in TF32


class Lengths(nn.Module):
    sample_rate = 48000

    def forward(self, wave):
        self.shape = wave.shape
        return wave[:, :: 48000 // 10]


def test_clips_are_tiled_and_resampled(tmp_path):
    """A clip of a whole number of periods, tiled, is a tone without a seam at every rate."""
    for rate, n_samples in ((32000, 36000), (48000, 54000), (16000, 18000)):
        time = np.arange(8000) / 16000
        soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 1000 * time), 16000)
        network = Lengths()
        network.sample_rate = rate
        extractor = Resampled(network, 1.125, 16000)
        evaluation.embed(extractor, tmp_path, ["a.wav"] * 3, batch_size=2)
        assert network.shape == (1, n_samples)
    tiled = np.resize(0.5 * np.sin(2 * np.pi * 1000 * time), (1, 18000)).astype(np.float32)
    long = resample(torch.from_numpy(tiled), 16000, 48000)[0].numpy()
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(54000) / 48000)
    np.testing.assert_allclose(long[500:-500], expected[500:-500], atol=2e-5)
    assert resample(torch.zeros(2, 7), 16000, 24000).shape == (2, 11)


def test_windows_of_openl3():
    """Half a second of silence before the clip, and silence until the last window is full."""
    with torch.device("meta"):
        network = OpenL3Net()
    wave = torch.arange(1.0, 864001).unsqueeze(0)
    windows = network.windows(wave)
    assert windows.shape == (1, 176, 48000)
    assert (windows[0, 0, :24000] == 0).all()
    assert windows[0, 0, 24000] == 1
    assert windows[0, 1, 24000] == 4801
    assert windows[0, 175, -1] == 864000
    assert network.windows(torch.ones(1, 10)).sum() == 10


def test_openl3_takes_silence(openl3_weights, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(8000), 16000)
    assert np.isfinite(
        OpenL3(openl3_weights, 1.0, hop_seconds=0.5).embed(tmp_path, ["silence.wav"])
    ).all()


def test_one_channel_of_several(openl3_weights, clips, tmp_path):
    folder, names = clips
    wave, rate = soundfile.read(folder / names[0])
    soundfile.write(tmp_path / "two.wav", np.stack([0 * wave, wave], axis=1), rate)
    embedder = OpenL3(openl3_weights, 1.0, hop_seconds=0.5)
    np.testing.assert_array_equal(
        embedder.embed(tmp_path, ["two.wav"], channel=1), embedder.embed(folder, names[:1])
    )


@pytest.mark.parametrize(
    ("make", "source"),
    [
        (
            Panns,
            rf"Cnn14_mAP=0.431.pth \(327,428,481 bytes, md5 {PANNS_MD5}\) from "
            "https://zenodo.org/record/3987831",
        ),
        (
            OpenL3,
            "torchopenl3_mel128_env_512.pth.tar .* from "
            "https://github.com/torchopenl3/torchopenl3-models",
        ),
    ],
)
def test_weights_that_will_not_do(make, source, tmp_path):
    other = tmp_path / "other.pth"
    tail = f"get {source}; see pseudoattr/README.md$"
    cases = [
        (None, None, f"^{tmp_path}/other.pth: no such file; {tail}"),
        (
            b"<html>",
            "0" * 32,
            f"other.pth: 6 bytes with md5 [0-9a-f]{{32}}, expected md5 {'0' * 32}; {tail}",
        ),
        (b"<html>", None, f"other.pth: not the weights of {{}} .*; {tail}"),
        (
            {"model": {"x": torch.zeros(3)}},
            None,
            f"other.pth: not the weights of {{}} .*Missing key.*; {tail}",
        ),
        ([1, 2], None, f"other.pth: not the weights of {{}} .*; {tail}"),
    ]
    for content, md5, message in cases:
        if isinstance(content, bytes):
            other.write_bytes(content)
        elif content is not None:
            torch.save(content, other)
        network = "Cnn14" if make is Panns else "OpenL3Net"
        with pytest.raises(InputError, match=message.replace("{}", network)) as error:
            make(other, md5=md5)
        assert "\n" not in str(error.value)


def test_published_checksum_is_asked_for(panns_weights):
    with pytest.raises(InputError, match=f"expected md5 {PANNS_MD5}"):
        Panns(panns_weights)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MultiResolutionNet([1024], clip_seconds=SECONDS),
        lambda: TripletNet(clip_seconds=1.0),
    ],
)
def test_own_model(make, clips, tmp_path):
    torch.manual_seed(0)
    network = make()
    checkpoint = tmp_path / "epoch1.ckpt"
    torch.save(
        {
            "state_dict": {
                f"extractor.{name}": value for name, value in network.state_dict().items()
            }
        },
        checkpoint,
    )
    raw = evaluation.embed(network, *clips)
    np.testing.assert_array_equal(OwnModel(make(), checkpoint).embed(*clips), raw)
    unit = OwnModel(make(), checkpoint, unit_norm=True).embed(*clips)
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw, axis=1, keepdims=True), rtol=1e-6)
    with pytest.raises(InputError, match=r"none\.ckpt: corrupt or not a checkpoint"):
        OwnModel(make(), tmp_path / "none.ckpt")


def test_configured(openl3_weights, clips):
    overrides = [
        "dataset=demo",
        "method=na_1024",
        "seed=1",
        "data_dir=data",
        "dataset.clip_seconds=1",
    ]
    config = compose(
        "train", [*overrides, "+embedder=openl3", f"embedder.weights={openl3_weights}"]
    )
    check_config(config)
    embedder = build(config.embedder)
    assert embedder.extractor.n_samples == 16000
    config = compose("train", [*overrides, "+embedder=panns"])
    with pytest.raises(
        InputError, match=r"^pseudoattr/weights/Cnn14_mAP=0\.431\.pth: no such file"
    ):
        build(config.embedder)


@pytest.mark.slow
def test_importing_fetches_and_writes_nothing():
    watch = (
        "import sys, librosa.core, librosa.filters, unlabeledasd.evaluation\n"
        "def hook(event, arguments):\n"
        "    mode = arguments[1] if event == 'open' else ''\n"
        "    writes = isinstance(mode, str) and set(mode) & set('wax+')\n"
        "    others = ('socket.connect', 'os.system', 'subprocess.Popen', 'os.mkdir')\n"
        "    if writes or event in others:\n"
        "        print(event, arguments)\n"
        "sys.addaudithook(hook)\n"
        "import unlabeledasd.pseudo.embedders\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", watch], capture_output=True, text=True, cwd=ROOT / "src"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
