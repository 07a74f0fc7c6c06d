"""Facts of a dataset, from src/config/dataset/*.yaml, read without Hydra; settings.facts prints
them."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from unlabeledasd.audio.clip_names import folder_of, unit_name
from unlabeledasd.errors import InputError

if TYPE_CHECKING:  # slow imports wait until clips are read
    import pandas as pd

CONFIG = Path(__file__).resolve().parents[1] / "config/dataset"


def dataset_names(key: str | None = None) -> list[str]:
    """All datasets, or those that have a value in every entry of `key`."""
    files = sorted(file for file in CONFIG.glob("*.yaml") if file.stem != "base")
    return [file.stem for file in files if key is None or all(with_parents(file)[key].values())]


def load_dataset(name: str) -> DictConfig:
    """The settings of a dataset; folder:NAME is dataset=folder dataset.name=NAME."""
    stem, _, own_name = name.partition(":")
    file = CONFIG / f"{stem}.yaml"
    if stem == "base" or not file.is_file() or bool(own_name) != (stem == "folder"):
        allowed = " ".join(n for n in dataset_names() if n != "folder")
        raise InputError(f"dataset {name}: unknown; allowed are {allowed} folder:NAME")
    dataset = with_parents(file)
    return OmegaConf.merge(dataset, {"name": own_name}) if own_name else dataset


@cache  # not to be changed
def with_parents(file: Path) -> DictConfig:
    """A yaml over those that its `defaults` names, files of its own group or of others, as Hydra
    composes them."""
    config = OmegaConf.load(file)
    parts = []
    for entry in config.pop("defaults", []):
        if isinstance(entry, str):
            if entry != "_self_":
                parts.append(with_parents(file.with_name(f"{entry}.yaml")))
            continue
        # "override /label: pseudo", "/embedder@source.embedder: panns"
        ((key, name),) = entry.items()
        group, _, package = key.removeprefix("override ").removeprefix("/").partition("@")
        names = name if OmegaConf.is_list(name) else [name]
        for each in (entry for entry in names if entry is not None):  # null: nothing of the group
            part = with_parents(file.parents[1] / group / f"{each}.yaml")
            for level in reversed((package or group).split(".")):
                part = OmegaConf.create({level: part})
            parts.append(part)
    return OmegaConf.merge(*parts, config)


def machine_folders(dataset: DictConfig) -> list[str]:
    """The folders of a dataset's machines, each once; none where every folder is taken."""
    return list(dict.fromkeys(name for group in dataset.machines.values() for name in group))


def sections(dataset: DictConfig, group: str, machine: str) -> list[str]:
    """The sections of a machine's folder that belong to a group, "03"; none: it has but one."""
    own = dataset.get("sections_of", {}).get(machine, {})  # runs from before have no such settings
    numbers = {**dataset.get("sections", {}), **own}.get(group, [])
    return [f"{number!s:0>2}" for number in numbers]  # a command line makes text of them


def sections_of(dataset: DictConfig, machine: str) -> list[str]:
    """The sections of a machine's folder, of all groups that name it."""
    groups = [group for group, names in dataset.machines.items() if machine in names]
    return [number for group in groups for number in sections(dataset, group, machine)]


def index_dataset(
    dataset: DictConfig,
    root: str | Path,
    required: Iterable[str] = ("train", "test"),
    notes: list[str] | None = None,
) -> "pd.DataFrame":
    """The table of a dataset's clips below `root`, by their names; notes: gets what is skipped."""
    from unlabeledasd.clips import index_clips

    machines = machine_folders(dataset)
    taken = {machine: own for machine in machines if (own := sections_of(dataset, machine))}
    return index_clips(root, machines or None, dataset.grammar, tuple(required), notes, taken)


def units(dataset: DictConfig, group: str, machines: Iterable[str] | None = None) -> list[str]:
    """What is scored of a group: its machines, or `<machine>_section_<NN>` where they have several.

    machines: the folders; None: all of the group.
    """
    return [
        unit
        for machine in (dataset.machines[group] if machines is None else machines)
        for unit in (
            [unit_name(machine, n) for n in sections(dataset, group, machine)] or [machine]
        )
    ]


def units_of(dataset: DictConfig, machine: str) -> list[str]:
    """The units of a machine's folder, of all groups; itself where no group names it."""
    return [unit_name(machine, n) for n in sections_of(dataset, machine)] or [machine]


def expected_clips(dataset: DictConfig, unit: str) -> dict[str, int | None]:
    """Clips of each kind (train_source, ..., test_anomaly) of a machine or of a section; None: not
    known."""
    return {**dataset.clips, **dataset.clips_of.get(unit, {})}


def check_machines(machines: list[str] | None, datasets: list[DictConfig]) -> None:
    """InputError where one of `machines` is in none of the datasets."""
    every = {m: None for dataset in datasets for group in dataset.machines.values() for m in group}
    if unknown := [machine for machine in machines or [] if machine not in every]:
        raise InputError(f"--machines {' '.join(unknown)}: unknown; allowed are {' '.join(every)}")


def raw_folder(data_dir: Path, dataset: DictConfig) -> Path:
    """The folder that contains <machine>/{train,test}."""
    return data_dir / dataset.name / "all" / "raw"


def ground_truth_folder(data_dir: Path, dataset: DictConfig) -> Path:
    """Official lists, and per machine the journal of its renamed clips and its true attributes."""
    return data_dir / dataset.name / "ground_truth"


def hidden_machines(dataset: DictConfig, data_dir: Path) -> list[str]:
    """Machines that pseudo-labels are for: from the yaml, or for own recordings from their
    names."""
    if every := [unit for group in dataset.machines for unit in units(dataset, group)]:
        hidden = {*every} if dataset.hide == "all" else {*dataset.unlabeled, *dataset.hide}
        return [unit for unit in every if unit in hidden or folder_of(unit) in hidden]
    from unlabeledasd.pseudo.label_file import unlabeled_machines

    table = index_dataset(dataset, raw_folder(data_dir, dataset), ("train",))
    return unlabeled_machines(table, dataset.hide)


def load_unlabeled(
    dataset: DictConfig, data_dir: Path, fit_on: str = "train"
) -> tuple[Path, "pd.DataFrame", list[str]]:
    """(data root, table of all clips, unlabeled machines) of the clips in `data_dir`.

    fit_on: the clips that are required, "train", or "all" for the test clips too. InputError where
    a name breaks the grammar, or where no machine is unlabeled.
    """
    if fit_on not in ("train", "all"):
        raise InputError(f"fit_on={fit_on}: allowed are train, all")
    from unlabeledasd.pseudo.label_file import unlabeled_machines

    root = raw_folder(data_dir, dataset)
    required = ("train", "test") if fit_on == "all" else ("train",)
    table = index_dataset(dataset, root, required)
    if not (unlabeled := unlabeled_machines(table, dataset.hide)):
        raise InputError(
            f"{root}: no unlabeled machine, the training clips of all have attributes in their "
            "names; dataset.hide=[MACHINE,...] or dataset.hide=all treats machines as unlabeled"
        )
    return root, table, unlabeled
