"""Checks of a configuration before anything is built from it."""

import inspect
import math
import re
import typing
from collections.abc import Iterator
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf
from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from settings.build import flat, nodes
from settings.session import make_trainer
from unlabeledasd.errors import InputError

# Arguments that the program gives when it builds a node, so that the configuration must not.
RUNTIME_ARGUMENTS = {
    "data": {"table", "labels", "n_samples"},
    "label": {"table"},
    "model": {"n_classes"},
    "model.loss": {"embedding_size", "n_classes", "trainable"},
    "model.optimizer": {"params"},
    "trainer": {"max_epochs", "callbacks", "plugins", "precision"},
}


# Least and greatest value of settings, whichever node has them; of lists, of each entry.
RANGES = {
    "seed": (0, 2**32 - 1),
    "n_clusters": (1, math.inf),
    "num_workers": (0, math.inf),
    "cache_gb": (0, math.inf),
    "channel": (0, math.inf),
    "sample_rate": (1, math.inf),
    "n_ffts": (32, 2**16),
    "n_fft": (32, 2**16),
    "band_hz": (0, math.inf),
    "n_subclusters": (1, math.inf),
    "mixup_prob": (0, 1),
    "featex_prob": (0, 1),
    "noise_prob": (0, 1),
    "lr": (0, math.inf),
    "margin": (0, math.inf),
    "subspace_weight": (0, math.inf),
    "featex_weight": (0, math.inf),
    "stretch_ratios": (0.01, 100),
}


def require_values(config: DictConfig) -> None:
    """InputError names the first key that is still ???."""

    def missing(value: Any, key: str = "") -> Iterator[str]:
        if isinstance(value, dict):
            for name, child in value.items():
                yield from missing(child, f"{key}.{name}".lstrip("."))
        elif value == "???":
            yield key

    for key in missing(OmegaConf.to_container(config, resolve=False)):
        raise InputError(f"{key} is not set: give {key}=VALUE")


def check_config(config: DictConfig) -> None:
    """Bind every `_target_` node to its signature and types; InputError names the first key that does not fit."""
    require_values(config)
    plain = OmegaConf.to_container(config, resolve=True)
    for name, value in plain.items():
        check_range(name, name, value)
    for key, node in nodes(plain):
        raw = OmegaConf.to_container(OmegaConf.select(config, key), resolve=False)
        check_node(key, node, raw)
    if "trainer" in plain:
        check_one_device(plain["trainer"])


def check_one_device(trainer: dict) -> None:
    """InputError where Lightning would spread one run over several devices."""
    devices, strategy = trainer.get("devices", "auto"), trainer.get("strategy", "auto")
    if isinstance(strategy, dict):
        strategy = strategy["_target_"].rpartition(".")[2]
    told = ""
    if count_devices(devices) not in (1, "auto"):
        told = f"devices={devices}"
    elif trainer.get("num_nodes", 1) != 1:
        told = f"num_nodes={trainer['num_nodes']}"
    elif strategy != "auto" and not strategy.lower().startswith("single"):
        told = f"strategy={strategy}"
    elif (
        devices == "auto"
        and (found := make_trainer(trainer.get("accelerator", "auto"), devices).num_devices) > 1
    ):
        told = f"devices=auto: takes {found} here"
    if told:
        raise InputError(
            f"trainer.{told}: a run is for one device, since statistics of whole batches are part of the "
            "method; many runs side by side fill several devices better (docs/cluster.md)"
        )


def count_devices(devices: int | str | list[int]) -> int | str:
    """How many devices a setting means to Lightning, -1 being all; auto and what is no number stay as they are."""
    if isinstance(devices, str) and "," in devices:  # "0,1", and "0," is one
        devices = [index for index in devices.split(",") if index.strip()]
    if isinstance(devices, list):
        return len(devices)
    return int(devices) if re.fullmatch(r"-?\d+", str(devices)) else devices


def check_range(name: str, setting: str, value: Any) -> None:
    least, most = RANGES.get(name, (-math.inf, math.inf))
    if not all(
        least <= number <= most for number in flat(value).values() if type(number) in (int, float)
    ):
        allowed = f"at least {least}" if most == math.inf else f"from {least} to {most}"
        raise InputError(f"{setting}={value}: allowed is {allowed}")


def check_node(key: str, node: dict, raw: dict | None = None) -> None:
    """Check one node; `raw` is the same with its interpolations, to name the key that a person set."""
    try:
        target = hydra.utils.get_object(node["_target_"])
    except Exception as error:  # whatever importing it raises
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{key}._target_={node['_target_']}: cannot be found ({reason})"
        ) from error
    function = target.__init__ if isinstance(target, type) else target
    hints = typing.get_type_hints(function)
    runtime = RUNTIME_ARGUMENTS.get(key, set())
    given = {
        name: value
        for name, value in node.items()
        if name not in ("_target_", "_partial_", "_convert_")
    }
    signature = inspect.signature(target)
    for name, value in given.items():
        parameter = signature.parameters.get(name)
        if parameter is None and not any(
            p.kind is p.VAR_KEYWORD for p in signature.parameters.values()
        ):
            allowed = ", ".join(sorted(set(signature.parameters) - runtime))
            raise InputError(f"{key}.{name}: unknown key; {node['_target_']} takes {allowed}")
        if name in runtime:
            raise InputError(f"{key}.{name}: set by the program, not by the configuration")
        if any(True for _ in nodes(value)):
            continue  # checked by itself
        link = re.fullmatch(r"\$\{([\w.]+)\}", str(raw and raw[name]))
        setting = link[1] if link else f"{key}.{name}"
        try:
            check_type(
                value,
                hints.get(name, Any),
                collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS,
            )
        except TypeCheckError:
            raise InputError(
                f"{setting}={value!r}: expected {inspect.formatannotation(hints[name])}"
            ) from None
        check_range(name, setting, value)
    required = {
        name
        for name, p in signature.parameters.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    if lacking := required - set(given) - runtime:
        raise InputError(f"{key}.{min(lacking)} is not set: {node['_target_']} needs it")
