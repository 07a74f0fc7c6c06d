"""A detector from a folder: a finished run, or an exported one."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unlabeledasd.detection.detector import Detector, Extractor, MachineScorers
from unlabeledasd.detection.portable import CARD, load_portable
from unlabeledasd.errors import InputError
from unlabeledasd.files import read_npz
from unlabeledasd.results import find_csv, read_scores
from unlabeledasd.runs.folder import Run, version_name
from unlabeledasd.scoring import default_first, restore

if TYPE_CHECKING:
    from torch import nn

# Modules, and packages of modules, with the classes that a run's configuration may name.
LIBRARY = tuple(f"unlabeledasd.{name}" for name in ("networks", "encoders", "scoring", "scorers"))

# Makes what a node (`_target_` and its settings) of a file describes: build(node, key, file).
Build = Callable[[dict, str, Path], Any]


def build_from_library(node: dict, key: str, file: Path) -> Any:
    """The object that a node and the nodes in it describe, of classes that LIBRARY defines.

    A results folder may come from anybody: no other name in it is imported or called.
    """
    target = str(node.get("_target_"))
    module, _, name = target.rpartition(".")
    found = None
    if any(module == place or module.startswith(f"{place}.") for place in LIBRARY):
        with suppress(ModuleNotFoundError):
            found = getattr(import_module(module), name, None)
    if not isinstance(found, type) or found.__module__ != module:
        allowed = f"allowed are the classes of {', '.join(LIBRARY)}"
        raise InputError(f"{file}: {key}._target_={target}: {allowed}")
    settings = {}
    for name, value in node.items():
        if isinstance(value, dict) and "_target_" in value:
            value = build_from_library(value, f"{key}.{name}", file)
        settings[name] = value
    del settings["_target_"]
    return found(**settings)


def load_detector(
    folder: Path, precision: str | None = None, build: Build = build_from_library
) -> Detector:
    """The detector of a folder, as unlabeledasd.detection.load describes it."""
    try:
        if (folder / CARD).is_file():
            return load_portable(folder, build)
        return load_run(folder, precision, build)
    except InputError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError) as error:  # of look-ups in the files
        reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise InputError(
            f"{folder}: corrupt, or not what this version writes ({reason})"
        ) from error


def load_run(folder: Path, precision: str | None, build: Build) -> Detector:
    import torch

    from unlabeledasd.fast import accelerate
    from unlabeledasd.runs.hardware import best_precision, check_precision

    run, config = open_run(folder)
    if "fusion" in config:
        fused = ", ".join(str(source["run"]) for source in config["fusion"]["sources"])
        raise InputError(f"{folder}: scores fused from {fused}, without networks; take one of them")
    if precision is None:
        trained_in = config.get("precision", "32-true")
        fast = trained_in == best_precision(torch.device("cpu"))
        precision = trained_in if fast else "32-true"
    check_precision(precision)
    networks = (accelerate(network, "cpu") for network in load_networks(run, config, build))
    settings = config["model"]["extractor"]
    return Detector(
        extractors=[torch_extractor(network, precision) for network in networks],
        machines=load_machines(run, config, build),
        sample_rate=settings["sample_rate"],
        n_samples=round(settings["clip_seconds"] * settings["sample_rate"]),
        channel=config["dataset"]["channel"],
        alarm_rate=config.get("alarm_rate"),
        calibrated=bool(config.get("calibrate")),
    )


def open_run(folder: Path) -> tuple[Run, dict]:
    """A finished run and its configuration; InputError where the folder is none."""
    run = Run(folder)
    if not run.is_done:
        raise InputError(f"{folder}: no finished run there, and no {CARD} of an exported one")
    config = run.read_config()
    if not config.get("scorer"):
        raise InputError(
            f"{folder}: this run has no scorers; a model for pseudo-labels cannot score clips"
        )
    return run, config


def load_networks(
    run: Run, config: dict, build: Build = build_from_library
) -> Iterator["nn.Module"]:
    """The extractor after each scored epoch."""
    from unlabeledasd.runs.checkpoints import load_extractor

    for epoch in config["score_epochs"]:
        extractor = build(config["model"]["extractor"], "model.extractor", run.config)
        yield load_extractor(extractor, run.require(run.checkpoint(epoch))).eval()


def torch_extractor(network: "nn.Module", precision: str) -> Extractor:
    import torch

    mixed = precision == "bf16-mixed"

    def extract(waves: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            return network(torch.from_numpy(waves))[0].numpy()

    return extract


def default_scorer(config: dict) -> tuple[str, dict]:
    """Name and node of the scorer that a run averaged over its epochs."""
    return next(iter(default_first(config["scorer"], config.get("average")).items()))


def load_machines(run: Run, config: dict, build: Build) -> dict[str, MachineScorers]:
    """The fitted default scorers of each machine, and the scores of its held-out clips."""
    key, node = default_scorer(config)
    scorer = build(node, f"scorer.{key}", run.config)
    epochs = config["score_epochs"]
    stored = [read_npz(run.require(run.scorers(version_name([epoch])))) for epoch in epochs]
    prefixes = [name.rpartition("/")[0] for name in stored[0]]  # <machine>/<column>
    machines = {}
    for prefix in dict.fromkeys(prefixes):
        machine, column = prefix.split("/")
        if column == scorer.column:
            fitted = [restore(scorer, arrays, f"{prefix}/") for arrays in stored]
            held_out = read_column(run, machine, epochs, "held_out_score")
            of_windows = read_column(run, machine, epochs, "held_out_window_score")
            machines[machine] = MachineScorers(
                fitted, np.empty(0) if held_out is None else held_out, of_windows
            )
    return machines


def read_column(run: Run, machine: str, epochs: list, kind: str) -> np.ndarray | None:
    """The scores of a CSV of the run's main version; None where it has no such CSV."""
    file = find_csv(run, machine, version_name(epochs), kind)
    return read_scores(file).score.to_numpy() if file else None
