"""Checks of a configuration before anything is built from it: keys and types.

Values are checked where they are used, by the constructors that `settings.build` calls.
"""

import inspect
import re
import typing
from collections.abc import Iterator
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf
from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from settings.build import linked_key, nodes
from settings.session import make_trainer
from unlabeledasd.errors import InputError

# Arguments that the program sets when it builds a node, so that the configuration must not.
RUNTIME_ARGUMENTS = {
    "data": {"table", "labels", "n_samples"},
    "label": {"table"},
    "model": {"n_classes"},
    "model.loss": {"embedding_size", "n_classes"},
    "model.optimizer": {"params"},
    "trainer": {"max_epochs", "callbacks", "plugins", "precision"},
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
    """Bind every `_target_` node to its signature and types; InputError names the first misfit."""
    require_values(config)
    plain = OmegaConf.to_container(config, resolve=True)
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
    wrong = ""
    if count_devices(devices) not in (1, "auto"):
        wrong = f"devices={devices}"
    elif trainer.get("num_nodes", 1) != 1:
        wrong = f"num_nodes={trainer['num_nodes']}"
    elif strategy != "auto" and not strategy.lower().startswith("single"):
        wrong = f"strategy={strategy}"
    elif devices == "auto":
        found = make_trainer(trainer.get("accelerator", "auto"), devices).num_devices
        wrong = f"devices=auto: takes {found} here" if found > 1 else ""
    if wrong:
        raise InputError(
            f"trainer.{wrong}: a run is for one device, since statistics of whole batches are "
            "part of the method; many runs side by side fill several devices better "
            "(docs/cluster.md)"
        )


def count_devices(devices: int | str | list[int]) -> int | str:
    """How many devices a setting means to Lightning, -1 for all; auto and other words stay."""
    if isinstance(devices, str) and "," in devices:  # "0,1", and "0," is one
        devices = [int(index) for index in devices.split(",") if index.strip()]
    if isinstance(devices, list):
        return len(devices)
    return int(devices) if re.fullmatch(r"-?\d+", str(devices)) else devices


def check_node(key: str, node: dict, raw: dict) -> None:
    """Check one node; raw: the same with its interpolations, for the key that a person set."""
    target = find_target(key, node["_target_"])
    function = target.__init__ if isinstance(target, type) else target
    hints = typing.get_type_hints(function)
    runtime = RUNTIME_ARGUMENTS.get(key, set())
    parameters = inspect.signature(target).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    of_hydra = ("_target_", "_partial_", "_convert_")
    given = {name: value for name, value in node.items() if name not in of_hydra}
    for name, value in given.items():
        if name not in parameters and not takes_any:
            allowed = ", ".join(sorted(set(parameters) - runtime))
            raise InputError(f"{key}.{name}: unknown key; {node['_target_']} takes {allowed}")
        if name in runtime:
            raise InputError(f"{key}.{name}: set by the program, not by the configuration")
        if not any(nodes(value)):  # nodes below are checked by themselves
            setting = linked_key(raw[name]) or f"{key}.{name}"
            require_type(setting, value, hints.get(name, Any))
    required = {
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    if lacking := required - set(given) - runtime:
        raise InputError(f"{key}.{min(lacking)} is not set: {node['_target_']} needs it")


def find_target(key: str, name: str) -> Any:
    try:
        return hydra.utils.get_object(name)
    except Exception as error:  # any error that an import can raise
        reason = str(error).splitlines()[0]
        raise InputError(f"{key}._target_={name}: cannot be found ({reason})") from error


def require_type(setting: str, value: Any, hint: Any) -> None:
    every = CollectionCheckStrategy.ALL_ITEMS
    try:
        check_type(value, hint, collection_check_strategy=every)
    except TypeCheckError:
        expected = inspect.formatannotation(hint)
        raise InputError(f"{setting}={value!r}: expected {expected}") from None
