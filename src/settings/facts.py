"""Facts for the job scripts from src/config, read without Hydra.

Prints a fact a line, DATASET FACT VALUE, with tabs between:

python -m settings.facts DATASET ... [--methods "METHOD ..."] [--sources "SOURCE ..."] ...

row       METHOD [SOURCE]   a method of the dataset's experiment 3, or of --methods, and the
                            source of the pseudo-labels that it trains on
source    SOURCE            every source of these methods, or of --sources
seeded    SOURCE            its labels exist once per seed
teacher   SOURCE METHOD     the run whose embeddings it clusters; triplet:MACHINE, one per machine
lacking   SOURCE REASON     why its labels cannot be made
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from settings import datasets
from settings.datasets import ground_truth_folder, hidden_machines, load_dataset, with_parents
from unlabeledasd.errors import InputError, one_line_errors


def load_choice(group: str, name: str) -> DictConfig:
    """The yaml `name` of a config group; InputError names those that exist."""
    folder = datasets.CONFIG.parent / group
    if not (file := folder / f"{name}.yaml").is_file():
        allowed = " ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        raise InputError(f"{group} {name}: unknown; allowed are {allowed}")
    return with_parents(file)


def label_source(method: str) -> str | None:
    """The source of the pseudo-labels that a method trains on, None if it needs none."""
    return load_choice("method", method).get("label", {}).get("source")


def trains_on_pseudo_labels(method: str) -> bool:
    """Also of a method that is not in src/config, from a hydra.searchpath: False."""
    known = (datasets.CONFIG.parent / "method" / f"{method}.yaml").is_file()
    return known and label_source(method) is not None


@dataclass
class Facts:
    """What is known of one dataset.

    overrides: settings `dataset.KEY=VALUE` of this call; results_dir: folder of runs, whose
    triplet models name the unlabeled machines of own recordings that are not at hand; check: look
    at the files that a source needs; weights: in place of the files that the sources name.
    """

    name: str  # as DATASETS names it
    data_dir: Path
    overrides: list[str]
    results_dir: Path | None = None
    check: bool = True
    weights: str | None = None

    def __post_init__(self) -> None:
        given = [word.removeprefix("dataset.") for word in self.overrides]
        self.dataset = OmegaConf.merge(load_dataset(self.name), OmegaConf.from_dotlist(given))

    def lines(self, methods: list[str], sources: list[str]) -> Iterator[tuple[str, ...]]:
        rows = {method: label_source(method) for method in methods or self.dataset.experiment3}
        if not sources:
            yield from (("row", method, source or "") for method, source in rows.items())
            sources = [source for source in dict.fromkeys(rows.values()) if source]
        if not sources:
            return
        machines, certain = self.unlabeled()
        for name in sources:
            config = OmegaConf.merge({"dataset": self.dataset}, load_choice("source", name))
            yield "source", name
            if OmegaConf.is_missing(config, "seed"):
                yield "seeded", name
            if certain and (reason := self.lacking(name, config.source, machines)):
                yield "lacking", name, reason
                continue
            if teacher := config.source.get("teacher"):
                methods = [teacher.method.replace("<machine>", machine) for machine in machines]
                yield from (("teacher", name, method) for method in dict.fromkeys(methods))

    def unlabeled(self) -> tuple[list[str], bool]:
        """The unlabeled machines, and whether these are all."""
        try:
            return hidden_machines(self.dataset, self.data_dir), True
        except (InputError, OSError):
            if self.results_dir is None:
                raise
        runs = (self.results_dir / self.dataset.name).glob("triplet_*_*")
        return sorted({run.name[len("triplet_") :].rpartition("_")[0] for run in runs}), False

    def lacking(self, name: str, source: DictConfig, machines: list[str]) -> str:
        """Why the labels of a source cannot be made, "" if they can."""
        if not machines:
            return "no unlabeled machine"
        if source.get("teacher"):
            return ""
        if embedder := source.get("embedder"):
            weights = Path(self.weights or embedder.get("weights") or "")
            if self.check and "weights" in embedder and not weights.is_file():
                return (
                    f"{weights}: no such file; pseudoattr/README.md says where its weights are from"
                )
            return ""
        if name not in map(label_source, self.dataset.experiment3):
            return "the attributes are not hidden: they are the classes of the other methods"
        lists = ground_truth_folder(self.data_dir, self.dataset)
        for machine in machines if self.check and self.dataset.hide != "all" else ():
            pattern = "attributes_*_train_correspondence.csv"
            if machine not in self.dataset.hide and not list((lists / machine).glob(pattern)):
                return f"{lists / machine}: no {pattern}; preprocess/README.md says what fetches it"
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", nargs="+", help="dcase2024, ..., demo, or folder:NAME")
    parser.add_argument("--methods", default="", help="(those of experiment 3)")
    parser.add_argument("--sources", default="", help="(those of the methods)")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--overrides", default="", help="settings; those of dataset. are taken")
    parser.add_argument("--settings", default="", help="settings of pseudoattr/embed.py")
    parser.add_argument("--results-dir", type=Path, help="where data_dir is not at hand")
    parser.add_argument("--no-check", action="store_true", help="of the files that sources need")
    given = parser.parse_args()
    overrides = [word.lstrip("+") for word in given.overrides.split()]
    settings = dict(word.partition("=")[::2] for word in given.settings.split())
    with one_line_errors(OSError):
        for name in dict.fromkeys(given.datasets):
            facts = Facts(
                name,
                given.data_dir,
                [word for word in overrides if word.startswith("dataset.")],
                given.results_dir,
                not given.no_check,
                settings.get("source.embedder.weights"),
            )
            for line in facts.lines(given.methods.split(), given.sources.split()):
                print(name, *line, sep="\t")


if __name__ == "__main__":
    main()
