"""Small generated clips, and commands called in this process."""

import functools
import itertools
import os
import signal
import sys
from pathlib import Path

import hydra
import numpy as np
import pytest
import soundfile
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from unlabeledasd.clips import index_clips
from unlabeledasd.pseudo.label_file import PseudoLabels, fingerprint, source_name

# A shell that starts the tests in the background ignores Ctrl-C for them and for their children.
signal.signal(signal.SIGINT, signal.default_int_handler)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels for a GPU, tried on a CPU

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"  # official lists and recordings, next to a developer's checkout
METHODS = sorted(p.stem for p in (ROOT / "src/config/method").glob("*.yaml"))
ENCODERS = [m for m in METHODS if m.startswith(("spectral_", "beats_", "panns", "openl3"))]
NETWORKS = [m for m in METHODS if m not in ENCODERS]  # trained from scratch
DATASETS = sorted(p.stem for p in (ROOT / "src/config/dataset").glob("*.yaml") if p.stem != "base")
SECONDS = 4.4  # about the shortest clip that the spectrum branch takes


def write_wav(
    path: Path, seconds: float = SECONDS, hz: float = 440.0, seed: int = 0, **options
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = options.pop("samplerate", 16000)
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    wave = 0.2 * np.sin(2 * np.pi * hz * time) + 0.02 * rng.standard_normal(len(time))
    soundfile.write(path, wave, rate, **{"subtype": "PCM_16", **options})
    return path


def write_script(file: Path, text: str) -> Path:
    """Write an executable file, for example a stand-in for a program on the PATH."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)
    return file


def make_machine(folder: Path, hz: float, source: int = 5, target: int = 2, test: int = 2) -> None:
    """Write a machine in DCASE layout: two speeds as attributes; anomalies are a fifth higher.

    Every clip has a noise of its own: one recording must not be of two splits or conditions.
    """
    seeds = itertools.count(1000 * round(hz))
    for split, domain, condition, count in [
        ("train", "source", "normal", source),
        ("train", "target", "normal", target),
        *[
            ("test", domain, condition, test)
            for domain in ("source", "target")
            for condition in ("normal", "anomaly")
        ],
    ]:
        for i in range(count):
            name = f"section_00_{domain}_{split}_{condition}_{i:04d}_speed_{1 + i % 2}.wav"
            pitch = hz * (1 + i % 2) * (1.5 if condition == "anomaly" else 1)
            write_wav(folder / split / name, hz=pitch, seed=next(seeds))


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """Folder of two tiny machines, dataset=folder dataset.name=tiny; tests must not change it."""
    folder = tmp_path_factory.mktemp("data")
    for machine, hz in (("fan", 200.0), ("pump", 900.0)):
        make_machine(folder / "tiny/all/raw" / machine, hz)
    write_pseudo_labels(folder)
    return folder


def write_pseudo_labels(data_dir: Path) -> None:
    """Write two clusters of fan below `data_dir`/label, for every source that a method uses."""
    root = data_dir / "tiny/all/raw"
    table = index_clips(root, ["fan"], required=("train",))
    paths = table.path[table.split == "train"].tolist()
    clips = {path: f"fan-cluster-{i % 2}" for i, path in enumerate(paths)}
    for place in label_places():
        labels = PseudoLabels("tiny", place.name, {}, {"fan": fingerprint(root, paths)}, clips)
        labels.save(data_dir / place / "labels.json")


@functools.cache
def label_places() -> set[Path]:
    """Below the data folder: those of all pseudo-labels that methods use with seed 1."""
    methods = [method for method in METHODS if method.startswith("pattr_")]
    nodes = [compose("train", tiny(Path("data"), Path("results"), method=m)).label for m in methods]
    return {
        Path(label.folder).relative_to("data") / source_name(label.source, label.seed)
        for label in nodes
        if "source" in label
    }


def tiny(data_dir: Path, results_dir: Path, *overrides: str, method: str = "na_1024") -> list[str]:
    """Settings of a run of two epochs on the tiny machines: seconds on one core."""
    return [
        "dataset=folder",
        "dataset.name=tiny",
        f"dataset.clip_seconds={SECONDS}",
        "dataset.batch_size=4",
        "seed=1",
        f"method={method}",
        f"data_dir={data_dir}",
        f"results_dir={results_dir}",
        "score_epochs=[1,2]",
        "trainer.accelerator=cpu",
        f"label_dir={data_dir}/label",
        "dataset.hide=[fan]",
        *overrides,
    ]


def compose(config_name: str, overrides: list[str]) -> DictConfig:
    with hydra.initialize_config_dir(str(ROOT / "src/config"), version_base="1.3"):
        config = hydra.compose(config_name, overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(config)  # for ${hydra:runtime.choices.method}
        return hydra.compose(config_name, overrides)


def call(script, monkeypatch, *arguments: str) -> int:
    """Exit status of a command that is called as on the command line."""
    monkeypatch.setattr(sys, "argv", [script.__file__, *arguments])
    hydra.core.global_hydra.GlobalHydra.instance().clear()
    try:
        script.launch(script.main, script.__doc__)
    except SystemExit as stop:
        return stop.code
    return 0


def files_below(folder: Path, pattern: str = "**/*") -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.glob(pattern))
        if p.is_file()
    }
