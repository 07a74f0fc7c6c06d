"""The settings that a run was made with: changes are refused, and its classes are not trusted."""

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
from settings.datasets import index_dataset
from unlabeledasd.errors import InputError, one_line
from unlabeledasd.files import file_hash, write_text
from unlabeledasd.runs.folder import Run

if TYPE_CHECKING:
    from torch import nn

# What may differ between two calls that work on one run: it does not change what is computed.
FREE_KEYS = {
    *("data_dir", "results_dir", "run_dir", "label_dir", "check", "overwrite", "graph"),
    *("keep_all_checkpoints", "keep_embeddings", "data.root", "data.num_workers"),
    *("data.cache_gb", "num_workers", "model.extractor.weights"),
    *("label.root", "label.folder", "label.command", "trainer.log_every_n_steps"),
}
FREE_PREFIXES = (
    *("trainer.accelerator", "trainer.devices", "trainer.logger"),
    *("dataset.sections", "dataset.archives", "dataset.official"),  # of downloads and tables
)
# Settings that came later; without a value runs are what they were before.
ADDED = ("calibrate", "alarm_rate", "dataset.resample")

CHOICES = ("precision", "threads")  # that a machine makes when a run begins
CALL = "UNLABELEDASD_CALL"  # of the environment: what a launcher calls this call of a job script


def deciding(config: DictConfig) -> dict[str, Any]:
    """The settings that decide the results, as flat keys."""
    every = flat(OmegaConf.to_container(config, resolve=True))
    return {
        key: value
        for key, value in every.items()
        if key not in FREE_KEYS and not key.startswith(FREE_PREFIXES)
        if value or key not in ADDED
    }


def settings_hash(config: DictConfig) -> str:
    return hashlib.sha256(json.dumps(deciding(config), sort_keys=True).encode()).hexdigest()


def refuse_changes(config: DictConfig, run: Run) -> None:
    """InputError names every setting that differs from the one that the run began with."""
    if not run.config.is_file():
        return
    before, now = deciding(load_config(run)), deciding(config)
    changes = [
        f"{key}={now.get(key, 'not set')} now, {before.get(key, 'not set')} when the run began"
        for key in sorted({*before, *now})
        if (key in before, before.get(key)) != (key in now, now.get(key))
    ]
    if changes:
        remedy = "use overwrite=true to retrain, or run_dir=FOLDER to keep both"
        raise InputError(f"{run.config}: {'; '.join(changes)} ({remedy})")


def refuse_other_done(config: DictConfig, run: Run) -> None:
    """InputError if the finished run was made with other settings or labels than these."""
    run.require(run.config)
    refuse_changes(config, run)
    done = run.read_done()
    changed = "changed after the run was finished; retrain with overwrite=true"
    if done["settings"] != settings_hash(config):
        raise InputError(f"{run.config}: {changed}")
    if done["labels"] and (not run.labels.is_file() or file_hash(run.labels) != done["labels"]):
        raise InputError(f"{run.labels}: {changed}")


def refuse_other_clips(config: DictConfig, run: Run) -> None:
    """InputError if the finished run was made of other clips than there are now."""
    from unlabeledasd.runs.contents import require_same  # which imports pandas

    root = Path(config.data.root)
    if root.is_dir():
        require_same(run, root, index_dataset(config.dataset, root, required=()))
    else:
        print(f"note: {root}: no such folder; its clips are not compared with those of the run")


def report_finished(config: DictConfig, run: Run) -> None:
    refuse_other_done(config, run)
    refuse_other_clips(config, run)
    print(f"already finished, skipping: {run.folder}")


def make_once(config: DictConfig, run: Run, train: Callable[[DictConfig, Run], None]) -> None:
    """Train the run, as its only writer, unless it is finished.

    overwrite=true first removes what the run has.
    """
    with run.claim():
        if config.overwrite and not cleared_by_this_call(run):
            clear(run)
        if run.is_done:  # by another process, while this one started
            report_finished(config, run)
        else:
            with recording_error(run.error):
                train(config, run)


def clear(run: Run) -> None:
    """Remove what the run has, and write down which call of a job script did so."""
    if removed := run.clear():
        print(f"overwrite=true: removed from {run.folder}: {', '.join(removed)}")
    if call := os.environ.get(CALL):
        write_text(run.cleared, call)


def cleared_by_this_call(run: Run) -> bool:
    """True if the call of a job script that started this process has cleared the run already.

    A launcher starts a run again whose host was lost; overwrite=true does not clear it twice.
    """
    call = os.environ.get(CALL)
    return bool(call) and run.cleared.is_file() and run.cleared.read_text("utf-8") == call


@contextmanager
def recording_error(file: Path) -> Iterator[None]:
    """Write what ends the block to `file`, for whoever looks at the run later.

    The error of an earlier attempt is removed.
    """
    file.unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, (InputError, OSError)) else f"{type(error).__name__}: "
        # a file name may be no UTF-8
        text = f"{kind}{one_line(error)}\n".encode(errors="backslashreplace").decode()
        with suppress(InputError):  # the disk may be full
            write_text(file, text)
        raise


def keep_choices(config: DictConfig, run: Run) -> None:
    """Set what is `auto` to its value in the existing run; obey overwrite=true once per call."""
    config.overwrite = config.overwrite and not cleared_by_this_call(run)
    if run.config.is_file() and not config.overwrite:
        before = load_config(run)
        for key in CHOICES:
            if config[key] == "auto" and key in before:
                config[key] = before[key]


def save_config(config: DictConfig, run: Run) -> None:
    refuse_changes(config, run)
    write_text(run.config, OmegaConf.to_yaml(config, resolve=True))


def load_config(run: Run) -> DictConfig:
    """The configuration that a run keeps."""
    return OmegaConf.create(run.read_config())


def allowed_targets() -> set[str]:
    """Every `_target_` in the yaml files of src/config, and of hydra.searchpath under Hydra."""
    folders = {Path(CONFIG_PATH)}
    if HydraConfig.initialized():
        sources = HydraConfig.get().runtime.config_sources
        folders |= {Path(source.path) for source in sources if source.schema == "file"}
    files = (file for folder in folders for file in folder.rglob("*.yaml"))
    configs = (OmegaConf.to_container(OmegaConf.load(file), resolve=False) for file in files)
    return {str(node["_target_"]) for config in configs for _, node in nodes(config)} - {"???"}


def build_kept(node: dict | DictConfig, key: str, file: Path) -> Any:
    """Build the node `key` of a `file` in a results folder, which may come from anybody.

    It can name no class but those of the configuration files here.
    """
    plain = OmegaConf.to_container(OmegaConf.create(node), resolve=True)
    allowed = allowed_targets()
    for name, part in nodes(plain, key):
        if part["_target_"] not in allowed:
            wrong = f"{name}._target_={part['_target_']}"
            places = "in no yaml file of src/config or hydra.searchpath"
            names = ", ".join(sorted(allowed))
            raise InputError(f"{file}: {wrong}: {places}; allowed are {names}")
    return build(OmegaConf.create(plain))


def trained_extractor(run: Run) -> "nn.Module":
    """The extractor of a run, without its weights."""
    return build_kept(load_config(run).model.extractor, "model.extractor", run.config)
