"""The settings that a run was made with: changes are refused, and what a results folder says is not trusted."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from settings.build import CONFIG_PATH, build, flat, nodes
from unlabeledasd.errors import InputError, one_line
from unlabeledasd.files import sha256, write_text
from unlabeledasd.runs.folder import Run

if TYPE_CHECKING:
    from torch import nn

# What may differ between two calls that go on with one run: it does not change what is computed.
FREE_KEYS = {
    "data_dir",
    "results_dir",
    "run_dir",
    "label_dir",
    "check",
    "overwrite",
    "keep_all_checkpoints",
    "data.root",
    "data.num_workers",
    "data.cache_gb",
    "num_workers",
    "label.root",
    "label.folder",
    "label.command",
    "trainer.log_every_n_steps",
}
FREE_PREFIXES = ("trainer.accelerator", "trainer.devices", "trainer.logger")

CHOICES = ("precision", "threads")  # that a machine makes when a run begins
CALL = "UNLABELEDASD_CALL"  # of the environment: what a launcher calls this call of a job script


def deciding(config: DictConfig) -> dict[str, Any]:
    """What decides the results, as flat keys."""
    every = flat(OmegaConf.to_container(config, resolve=True))
    return {
        key: value
        for key, value in every.items()
        if key not in FREE_KEYS and not key.startswith(FREE_PREFIXES)
    }


def settings_hash(config: DictConfig) -> str:
    return hashlib.sha256(json.dumps(deciding(config), sort_keys=True).encode()).hexdigest()


def refuse_changes(config: DictConfig, run: Run) -> None:
    """InputError names every key in which the configuration differs from the one that the run began with."""
    if not run.config.is_file():
        return
    before, now = deciding(load_config(run)), deciding(config)
    told = [
        f"{key}={now.get(key, 'not set')} now, {before.get(key, 'not set')} when the run began"
        for key in sorted({*before, *now})
        if (key in before, before.get(key)) != (key in now, now.get(key))
    ]
    if told:
        raise InputError(
            f"{run.config}: {'; '.join(told)} (overwrite=true trains anew, run_dir=FOLDER elsewhere)"
        )


def refuse_other_done(config: DictConfig, run: Run) -> None:
    """InputError if the finished run is of other settings or labels than it would be now."""
    run.require(run.config)
    refuse_changes(config, run)
    done = run.read_done()
    if done["settings"] != settings_hash(config):
        raise InputError(
            f"{run.config}: changed after the run was finished; overwrite=true trains anew"
        )
    if done["labels"] and (not run.labels.is_file() or sha256(run.labels) != done["labels"]):
        raise InputError(
            f"{run.labels}: changed after the run was finished; overwrite=true trains anew"
        )


def tell_finished(config: DictConfig, run: Run) -> None:
    refuse_other_done(config, run)
    print(f"finished already: {run.folder}")


def make_once(config: DictConfig, run: Run, train: Callable[[DictConfig, Run], None]) -> None:
    """Train the run unless it is finished, as its only writer; with overwrite=true remove what it has before."""
    with run.claim():
        if config.overwrite and not cleared_by_this_call(run):
            clear(run)
        if run.is_done:  # by another process, while this one started
            tell_finished(config, run)
        else:
            with told_in(run.error):
                train(config, run)


def clear(run: Run) -> None:
    """Remove what the run has, and write down which call of a job script did so."""
    if removed := run.clear():
        print(f"overwrite=true: removed from {run.folder}: {', '.join(removed)}")
    if call := os.environ.get(CALL):
        write_text(run.cleared, call)


def cleared_by_this_call(run: Run) -> bool:
    """True if the call of a job script that started this process has cleared the run already.

    A launcher starts a run again whose host was lost; overwrite=true does not clear it twice then.
    """
    call = os.environ.get(CALL)
    return bool(call) and run.cleared.is_file() and run.cleared.read_text("utf-8") == call


@contextmanager
def told_in(file: Path) -> Iterator[None]:
    """Leave an error in `file` for whoever looks at the run later, and remove that of the attempt before."""
    file.unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, (InputError, OSError)) else f"{type(error).__name__}: "
        text = f"{kind}{one_line(error)}\n".encode(
            errors="backslashreplace"
        ).decode()  # a name may be no UTF-8
        with suppress(InputError):  # the disk may be full
            write_text(file, text)
        raise


def keep_choices(config: DictConfig, run: Run) -> None:
    """What is `auto` becomes what it was when the run began; overwrite=true is obeyed once per call."""
    config.overwrite = config.overwrite and not cleared_by_this_call(run)
    if run.config.is_file() and not config.overwrite:
        before = load_config(run)
        for key in CHOICES:
            if config[key] == "auto" and key in before:
                config[key] = before[key]


def save_config(config: DictConfig, run: Run) -> None:
    refuse_changes(config, run)
    write_text(run.config, OmegaConf.to_yaml(config))


def load_config(run: Run) -> DictConfig:
    """The configuration that a run keeps."""
    file = run.require(run.config)
    try:
        return OmegaConf.load(file)
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        raise InputError(f"{file}: not a configuration ({' '.join(str(error).split())})") from None


def allowed_targets() -> set[str]:
    """Every `_target_` in the yaml files of src/config, and of the user's hydra.searchpath where Hydra runs."""
    folders = {Path(CONFIG_PATH)}
    if HydraConfig.initialized():
        folders |= {
            Path(source.path)
            for source in HydraConfig.get().runtime.config_sources
            if source.schema == "file"
        }
    files = (file for folder in folders for file in folder.rglob("*.yaml"))
    configs = (OmegaConf.to_container(OmegaConf.load(file), resolve=False) for file in files)
    return {str(node["_target_"]) for config in configs for _, node in nodes(config)} - {"???"}


def build_kept(node: dict | DictConfig, key: str, file: Path) -> Any:
    """Build the node `key` of a `file` in a results folder, which may come from anybody: it can name no class but
    those of the configuration files here."""
    plain = OmegaConf.to_container(OmegaConf.create(node), resolve=True)
    allowed = allowed_targets()
    for name, part in nodes(plain, key):
        if part["_target_"] not in allowed:
            told = f"{name}._target_={part['_target_']}: in no yaml file of src/config or hydra.searchpath"
            raise InputError(f"{file}: {told}; allowed are {', '.join(sorted(allowed))}")
    return build(OmegaConf.create(plain))


def trained_extractor(run: Run) -> "nn.Module":
    """The extractor of a run, without its weights."""
    return build_kept(load_config(run).model.extractor, "model.extractor", run.config)
