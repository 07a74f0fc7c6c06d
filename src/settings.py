"""What the entry points share: reading, checking and building from the Hydra configuration; errors in one line."""

import inspect
import logging
import math
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
from unlabeledasd.runs import Run, is_whole

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
    "trainer": {"max_epochs", "callbacks", "plugins", "precision"},
}

# Least and greatest value of settings, whichever node has them; of lists, of each entry.
RANGES = {
    "seed": (0, 2**32 - 1), "n_clusters": (1, math.inf),
    "num_workers": (0, math.inf), "cache_gb": (0, math.inf), "channel": (0, math.inf), "sample_rate": (1, math.inf),
    "n_ffts": (32, 2**16), "n_fft": (32, 2**16), "band_hz": (0, math.inf), "n_subclusters": (1, math.inf),
    "mixup_prob": (0, 1), "featex_prob": (0, 1), "noise_prob": (0, 1), "lr": (0, math.inf), "margin": (0, math.inf),
    "subspace_weight": (0, math.inf), "featex_weight": (0, math.inf), "stretch_ratios": (0.01, 100),
}  # fmt: skip


def build(node: DictConfig, **runtime: Any) -> Any:
    """Call the node's `_target_` with its settings, as plain lists and dicts, and the runtime arguments."""
    try:
        return hydra.utils.instantiate(node, _partial_=True, _convert_="all")(**runtime)
    except Exception as error:  # what libraries say of values that they do not take
        if isinstance(error, ValueError) or type(error).__name__ == "MisconfigurationException":
            told = error if isinstance(error, InputError) else InputError(f"{node['_target_']}: {error}")
            raise told from error.__cause__
        raise


def nodes(config: Any, key: str = "") -> Iterator[tuple[str, dict]]:
    """Every (key, node) of a plain configuration that has a `_target_`."""
    if isinstance(config, list):
        config = dict(enumerate(config))
    if isinstance(config, dict):
        if "_target_" in config:
            yield key, config
        for name, value in config.items():
            yield from nodes(value, f"{key}.{name}".lstrip("."))


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested dicts and lists -> {"model.extractor.n_ffts.0": 4096, ...}."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {key: value}
    return {k: v for name, child in value.items() for k, v in flat(child, f"{key}.{name}".lstrip(".")).items()}


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
    elif devices == "auto" and (found := make_trainer(trainer.get("accelerator", "auto"), devices).num_devices) > 1:
        told = f"devices=auto: takes {found} here"
    if told:
        raise InputError(f"trainer.{told}: a run is for one device, since statistics of whole batches are part of the "
                         "method; many runs side by side fill several devices better (docs/cluster.md)")  # fmt: skip


def count_devices(devices: int | str | list[int]) -> int | str:
    """How many devices a setting means to Lightning, -1 being all; auto and what is no number stay as they are."""
    if isinstance(devices, str) and "," in devices:  # "0,1", and "0," is one
        devices = [index for index in devices.split(",") if index.strip()]
    if isinstance(devices, list):
        return len(devices)
    return int(devices) if re.fullmatch(r"-?\d+", str(devices)) else devices


def check_range(name: str, setting: str, value: Any) -> None:
    least, most = RANGES.get(name, (-math.inf, math.inf))
    if not all(least <= number <= most for number in flat(value).values() if type(number) in (int, float)):
        allowed = f"at least {least}" if most == math.inf else f"from {least} to {most}"
        raise InputError(f"{setting}={value}: allowed is {allowed}")


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
        link = re.fullmatch(r"\$\{([\w.]+)\}", str(raw and raw[name]))
        setting = link[1] if link else f"{key}.{name}"
        try:
            check_type(value, hints.get(name, Any), collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
        except TypeCheckError:
            raise InputError(f"{setting}={value!r}: expected {inspect.formatannotation(hints[name])}") from None
        check_range(name, setting, value)
    required = {name for name, p in signature.parameters.items()
                if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}  # fmt: skip
    if lacking := required - set(given) - runtime:
        raise InputError(f"{key}.{min(lacking)} is not set: {node['_target_']} needs it")


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


def use_hardware(config: DictConfig) -> None:
    """Decide what is `auto`, tell it, and use it."""
    from unlabeledasd.hardware import best_precision

    if config.precision == "auto":
        config.precision = best_precision(pick_device(config.trainer.accelerator))
    check_precision(config.precision)
    config.threads = use_threads(config.threads)
    print(f"precision {config.precision}, threads {config.threads}")


def use_threads(threads: int | str) -> int:
    """Results equal to the last digit need as many threads as before; auto: as many as torch takes. -> their number.
    Memory is made fast along the way."""
    import torch

    from unlabeledasd.hardware import keep_memory

    threads = torch.get_num_threads() if threads == "auto" else threads
    if type(threads) is not int or threads < 1:
        raise InputError(f"threads={threads}: allowed are auto and numbers from 1")
    torch.set_num_threads(threads)
    keep_memory()
    # deterministic=true would fill every new tensor, so that reading it by mistake is repeatable: 5 % of a step
    torch.utils.deterministic.fill_uninitialized_memory = False
    return threads


def check_precision(precision: str) -> None:
    from unlabeledasd.hardware import PRECISIONS

    if precision not in PRECISIONS:
        raise InputError(f"precision={precision}: allowed are {', '.join(PRECISIONS)}, and auto for a new run")


def fit(
    run: Run,
    config: DictConfig,
    module: "pl.LightningModule",
    data: "pl.LightningDataModule",
    epochs: list[int],
    keep_all: bool = False,
) -> "pl.Trainer":
    """Train until the last of `epochs`, from where the run stopped; keep the weights of `epochs`, or of all."""
    from unlabeledasd import training

    kept = list(range(1, epochs[-1] + 1)) if keep_all else epochs
    callbacks = [training.StopAtNonFiniteLoss(run), training.KeepEpochs(run, kept),
                 training.RecordProgress(run), training.ProgressBar(int(os.environ.get("RUNS_AFTER", 0)))]  # fmt: skip
    # one process, also in a job of Slurm: there Lightning would take signals and requeueing into its own hands
    made = build(config.trainer, max_epochs=epochs[-1], callbacks=callbacks, precision=config.precision,
                 plugins=[training.CheckpointWriter(), training.LightningEnvironment()])  # fmt: skip
    if lacking := [epoch for epoch in epochs if not is_whole(run.checkpoint(epoch))]:
        for path in (run.checkpoint(epoch) for epoch in lacking):
            if path.exists():
                print(f"warning: {path}: damaged, its epoch is trained again", file=sys.stderr)
        training.write_environment(run, made)
        resume = training.resume_point(run, lacking[0])
        try:
            made.fit(module, data, ckpt_path=resume, weights_only=True)
        except SystemExit:  # Lightning's answer to Ctrl-C, with status 1; job scripts must see that a person stopped it
            if made.interrupted:
                raise KeyboardInterrupt from None
            raise
        except OSError as error:  # of a logger, which does not say where
            raise InputError(f"{run.folder}: cannot be written ({error.strerror or error})") from error
    return made


def pick_device(accelerator: str) -> "torch.device":
    """The device that Lightning means by auto, cpu, gpu, ..."""
    return make_trainer(accelerator, 1).strategy.root_device


def make_trainer(accelerator: str, devices: int | str) -> "pl.Trainer":
    """A trainer that is only asked what it would use."""
    from pytorch_lightning.plugins.environments import LightningEnvironment

    quiet_lightning()
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = {"_target_": "pytorch_lightning.Trainer", "accelerator": accelerator, "devices": devices, **silent}
    return build(OmegaConf.create(trainer), plugins=[LightningEnvironment()])


def quiet_lightning() -> None:
    """Keep Lightning's advertisements, hardware list and hints that do not apply here from the terminal."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for hint in ("does not have many workers", "smaller than the logging interval", "treespec, LeafSpec", "`srun`"):
        warnings.filterwarnings("ignore", message=f".*{hint}")


def tell_errors() -> AbstractContextManager:
    """one_line_errors for Hydra's errors too. Goes around the task function, so that Hydra does not report our
    errors in its own way, and around the call of hydra.main."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # so that Hydra's own errors reach us
    return one_line_errors(HydraException, OmegaConfBaseException, OSError)


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
