"""What the entry points share: reading, checking and building from the Hydra configuration; errors in one line."""

import inspect
import logging
import os
import re
import sys
import typing
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from unlabeledasd.errors import InputError, one_line_errors
from unlabeledasd.runs import Run, write_text

if TYPE_CHECKING:  # what is slow to import waits until a finished run was passed over
    import pandas as pd
    import pytorch_lightning as pl
    import torch

CONFIG_PATH = str(Path(__file__).parent / "config")

# Arguments that the program gives when it builds a node, so that the configuration must not.
RUNTIME_ARGUMENTS = {
    "data": {"table", "labels", "n_samples"},
    "label": {"table"},
    "model": {"n_classes"},
    "model.loss": {"embedding_size", "n_classes", "trainable"},
    "model.optimizer": {"params"},
    "trainer": {"max_epochs", "callbacks"},
}


def build(node: DictConfig, **runtime: Any) -> Any:
    """Call the node's `_target_` with its settings, as plain lists and dicts, and the runtime arguments."""
    return hydra.utils.instantiate(node, _partial_=True, _convert_="all")(**runtime)


def nodes(config: Any, key: str = "") -> Iterator[tuple[str, dict]]:
    """Every (key, node) of a plain configuration that has a `_target_`."""
    if isinstance(config, list):
        config = dict(enumerate(config))
    if isinstance(config, dict):
        if "_target_" in config:
            yield key, config
        for name, value in config.items():
            yield from nodes(value, f"{key}.{name}".lstrip("."))


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
    for key, node in nodes(OmegaConf.to_container(config, resolve=True)):
        raw = OmegaConf.to_container(OmegaConf.select(config, key), resolve=False)
        check_node(key, node, raw)


def check_node(key: str, node: dict, raw: dict | None = None) -> None:
    """Check one node; `raw` is the same with its interpolations, to name the key that a person set."""
    try:
        target = hydra.utils.get_object(node["_target_"])
    except Exception as error:  # whatever importing it raises
        reason = str(error).splitlines()[0]
        raise InputError(f"{key}._target_={node['_target_']}: cannot be found ({reason})") from error
    function = target.__init__ if isinstance(target, type) else target
    hints = typing.get_type_hints(function)
    runtime = RUNTIME_ARGUMENTS.get(key, set())
    given = {name: value for name, value in node.items() if name not in ("_target_", "_partial_", "_convert_")}
    signature = inspect.signature(target)
    for name, value in given.items():
        parameter = signature.parameters.get(name)
        if parameter is None and not any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
            allowed = ", ".join(sorted(set(signature.parameters) - runtime))
            raise InputError(f"{key}.{name}: unknown key; {node['_target_']} takes {allowed}")
        if name in runtime:
            raise InputError(f"{key}.{name}: set by the program, not by the configuration")
        if any(True for _ in nodes(value)):
            continue  # checked by itself
        try:
            check_type(value, hints.get(name, Any), collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
        except TypeCheckError:
            link = re.fullmatch(r"\$\{([\w.]+)\}", str(raw and raw[name]))
            wanted = inspect.formatannotation(hints[name])
            raise InputError(f"{link[1] if link else f'{key}.{name}'}={value!r}: expected {wanted}") from None
    required = {name for name, p in signature.parameters.items()
                if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}  # fmt: skip
    if lacking := required - set(given) - runtime:
        raise InputError(f"{key}.{min(lacking)} is not set: {node['_target_']} needs it")


# What may differ between two calls that go on with one run: it does not change what is computed.
FREE_KEYS = {"data_dir", "results_dir", "run_dir", "label_dir", "check", "data.root", "data.num_workers", "num_workers",
             "label.root", "label.folder", "label.command"}  # fmt: skip


def save_config(config: DictConfig, file: Path) -> None:
    """Write the run's configuration; InputError names a key in which it differs from the one it began with."""
    if file.is_file():
        before, now = flat(OmegaConf.to_container(OmegaConf.load(file))), flat(OmegaConf.to_container(config))
        for key in sorted({*before, *now}):
            free = key in FREE_KEYS or key.startswith(("trainer.accelerator", "trainer.logger"))
            if not free and before.get(key) != now.get(key):
                told = f"{key}={now.get(key)} now, {before.get(key)} when the run began"
                raise InputError(f"{file}: {told}; remove {file.parents[1]} to start anew, or set run_dir")
    write_text(file, OmegaConf.to_yaml(config))


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested dicts and lists -> {"model.extractor.n_ffts.0": 4096, ...}."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {key: value}
    return {k: v for name, child in value.items() for k, v in flat(child, f"{key}.{name}".lstrip(".")).items()}


def load_clips(dataset: DictConfig, root: str | Path, required: Sequence[str] = ("train", "test")) -> "pd.DataFrame":
    """The table of a dataset's clips below `root`, names and headers checked, its counts printed."""
    from unlabeledasd.clips import index_clips, summary
    from unlabeledasd.waveforms import check_clips

    root = Path(root)
    machines = [*dataset.machines.development, *dataset.machines.evaluation] or None
    table = index_clips(root, machines, dataset.grammar, required)
    check_clips(root, table.path.tolist(), dataset.sample_rate, dataset.channel)
    print(summary(table))
    return table


def fit(
    run: Run, trainer: DictConfig, module: "pl.LightningModule", data: "pl.LightningDataModule", epochs: list[int]
) -> "pl.Trainer":
    """Train until the last of `epochs`, from where the run stopped; keep the weights of `epochs` in the run."""
    from unlabeledasd.training import KeepEpochs, ProgressBar, write_environment

    callbacks = [KeepEpochs(run, epochs), ProgressBar(int(os.environ.get("RUNS_AFTER", 0)))]
    made = build(trainer, max_epochs=epochs[-1], callbacks=callbacks)
    if not all(run.checkpoint(epoch).is_file() for epoch in epochs):
        write_environment(run, made)
        resume = run.last_checkpoint if run.last_checkpoint.is_file() else None
        try:
            made.fit(module, data, ckpt_path=resume, weights_only=True)
        except SystemExit:  # Lightning's answer to Ctrl-C, with status 1; job scripts must see that a person stopped it
            if made.interrupted:
                raise KeyboardInterrupt from None
            raise
    return made


def pick_device(accelerator: str) -> "torch.device":
    """The device that Lightning means by auto, cpu, gpu, ..."""
    from pytorch_lightning import Trainer

    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator=accelerator, devices=1, **silent).strategy.root_device


def quiet_lightning() -> None:
    """Keep Lightning's advertisements, hardware list and hints that do not apply here from the terminal."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for hint in ("does not have many workers", "smaller than the logging interval", "treespec, LeafSpec"):
        warnings.filterwarnings("ignore", message=f".*{hint}")


def tell_errors() -> AbstractContextManager:
    """one_line_errors for Hydra's errors too. Goes around the task function, so that Hydra does not report our
    errors in its own way, and around the call of hydra.main."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # so that Hydra's own errors reach us
    return one_line_errors(HydraException, OmegaConfBaseException)


def launch(main: Callable[[], None], help_text: str, groups: Sequence[str] = ("dataset", "method")) -> None:
    """Call a hydra.main function; --help is ours, since Hydra's own needs every choice to be made first, and lists
    the choices of `groups`."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(help_text.strip())
        for group in groups:
            names = sorted(p.stem for p in Path(CONFIG_PATH, group).glob("*.yaml"))
            print(f"\n{group}:", *(name for name in names if name != "base"))
        return
    with tell_errors():
        main()
