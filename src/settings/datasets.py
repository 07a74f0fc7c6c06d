"""Facts of a dataset, from src/config/dataset/*.yaml, read without Hydra; for job scripts, one name a line.

python -m settings.datasets DATASET unlabeled     machines whose attributes are hidden, or are taken as hidden
python -m settings.datasets DATASET teacher       the method whose embeddings become the pseudo-labels "class"
python -m settings.datasets DATASET experiment3   the methods of Table 3
"""

import argparse
from functools import cache
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from unlabeledasd.errors import InputError, one_line_errors

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
    """A yaml over those that its `defaults` names."""
    config = OmegaConf.load(file)
    parents = [name for name in config.pop("defaults", []) if name != "_self_"]
    return OmegaConf.merge(
        *(with_parents(file.with_name(f"{parent}.yaml")) for parent in parents), config
    )


def expected_clips(dataset: DictConfig, machine: str) -> dict[str, int | None]:
    """Clips of a machine by kind: train_source, train_target, test_normal, test_anomaly; None: not known."""
    return {**dataset.clips, **dataset.clips_of.get(machine, {})}


def check_machines(machines: list[str] | None, datasets: list[DictConfig]) -> None:
    """InputError where one of `machines` is in none of the datasets."""
    every = {m: None for dataset in datasets for group in dataset.machines.values() for m in group}
    if unknown := [machine for machine in machines or [] if machine not in every]:
        raise InputError(f"--machines {' '.join(unknown)}: unknown; allowed are {' '.join(every)}")


def raw_folder(data_dir: Path, dataset: DictConfig) -> Path:
    """The folder that holds <machine>/{train,test}."""
    return data_dir / dataset.name / "all" / "raw"


def ground_truth_folder(data_dir: Path, dataset: DictConfig) -> Path:
    """Official lists, and per machine the journal of its renamed clips and its true attributes."""
    return data_dir / dataset.name / "ground_truth"


def hidden_machines(dataset: DictConfig, data_dir: Path) -> list[str]:
    """Machines that pseudo-labels are for: as the yaml says, or for own recordings as their names say."""
    if machines := [machine for group in dataset.machines.values() for machine in group]:
        return [
            m for m in machines if dataset.hide == "all" or m in {*dataset.unlabeled, *dataset.hide}
        ]
    from unlabeledasd.clips import index_clips
    from unlabeledasd.pseudo.label_file import unlabeled_machines

    table = index_clips(raw_folder(data_dir, dataset), None, dataset.grammar, ("train",))
    return unlabeled_machines(table, dataset.hide)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="dcase2024, ..., demo, or folder:NAME")
    parser.add_argument("fact", choices=["unlabeled", "teacher", "experiment3"])
    parser.add_argument(
        "--data-dir", type=Path, default=Path("data"), help="holds the clips of folder:NAME"
    )
    arguments = parser.parse_args()
    with one_line_errors(OSError):
        dataset = load_dataset(arguments.dataset)
        unlabeled = arguments.fact == "unlabeled"
        names = (
            hidden_machines(dataset, arguments.data_dir) if unlabeled else dataset[arguments.fact]
        )
        print(*([names] if isinstance(names, str) else names), sep="\n")


if __name__ == "__main__":
    main()
