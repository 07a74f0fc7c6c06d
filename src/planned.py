"""The runs and pseudo-labels that the experiments consist of, as their job scripts plan them."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from omegaconf import DictConfig

from settings.datasets import hidden_machines, load_dataset
from unlabeledasd.errors import InputError

REPOSITORY = Path(__file__).resolve().parent.parent
SEEDED = ("class", "triplet")  # sources of pseudo-labels that exist once per seed


@dataclass
class Planned:
    """One run or one set of pseudo-labels."""

    experiment: str
    kind: str  # run, triplet, labels
    dataset: str  # as DATASETS names it
    method: str  # of labels: their source
    seed: str
    folder: Path
    machine: str = ""

    @property
    def title(self) -> str:
        """Of its row in a table over seeds."""
        return {"labels": f"labels from {self.method}", "triplet": "triplet models"}.get(
            self.kind, self.method
        )

    @property
    def name(self) -> str:
        seed = f", seed {self.seed}" if self.seed else ""
        title = f"triplet model of {self.machine}" if self.kind == "triplet" else self.title
        return f"{self.dataset} {title}{seed}"


@dataclass
class Settings:
    """Of the environment, as jobs/exp/common.sh reads them."""

    datasets: list[str]
    methods: list[str]  # none: those of the experiment
    seeds: list[str]
    data_dir: str
    results_dir: Path
    label_dir: Path
    others: dict[str, str] = field(default_factory=dict)  # that a command to go on needs too

    @classmethod
    def of_environment(cls) -> "Settings":
        given = os.environ
        return cls(
            (given.get("DATASETS") or "dcase2023 dcase2024").split(),
            given.get("METHODS", "").split(),
            (given.get("SEEDS") or "1 2 3 4 5").split(),
            given.get("DATA_DIR", ""),
            Path(given.get("RESULTS_DIR") or REPOSITORY / "results/exp"),
            Path(given.get("LABEL_DIR") or REPOSITORY / "pseudoattr/label"),
            {
                name: given[name]
                for name in ("RESULTS_DIR", "LABEL_DIR", "LAUNCHER", "OVERRIDES")
                if given.get(name)
            },
        )

    def run(self, experiment: str, kind: str, dataset: str, method: str, seed: str) -> Planned:
        """A run, or the triplet model of the machine `method`."""
        stem = f"triplet_{method}" if kind == "triplet" else method
        folder = self.results_dir / dataset.removeprefix("folder:") / f"{stem}_{seed}"
        machine = method if kind == "triplet" else ""
        return Planned(
            experiment, kind, dataset, "triplet" if machine else method, seed, folder, machine
        )


def plan(experiments: list[str], settings: Settings) -> list[Planned]:
    """In the order of the scripts; each folder once per experiment."""
    if unknown := [name for name in experiments if name not in PLANS]:
        raise InputError(f"{' '.join(unknown)}: no such experiment; allowed are {' '.join(PLANS)}")
    wanted = {name: settings for name in PLANS if name in experiments or not experiments}
    if settings.methods and not experiments:  # exp2 takes any method that needs no labels
        pseudo = [method for method in settings.methods if method.startswith("pattr_")]
        others = [method for method in settings.methods if method not in pseudo]
        wanted = {
            name: replace(settings, methods=m)
            for name, m in (("exp2", others), ("exp3", pseudo))
            if m
        }
    unique: dict[tuple, Planned] = {}
    for item in (item for name, of in wanted.items() for item in PLANS[name](name, of)):
        unique.setdefault((item.experiment, item.folder), item)
    return list(unique.values())


def from_script(experiment: str, settings: Settings) -> list[Planned]:
    """What a job script with one loop plans, asked of the script itself."""
    environment = {
        "DATASETS": settings.datasets,
        "METHODS": settings.methods,
        "SEEDS": settings.seeds,
    }
    listed = subprocess.run(
        [REPOSITORY / f"jobs/exp/{experiment}.sh"],
        check=False,
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            **{name: " ".join(words) for name, words in environment.items()},
            "LAUNCHER": "local",
            "OVERRIDES": "",
            "LIST_RUNS": "1",
            "DRY_RUN": "1",
        },
    )
    if listed.returncode:
        sys.exit(listed.returncode)  # the script has told why
    return [
        settings.run(experiment, "run", *line.split("\t")) for line in listed.stdout.splitlines()
    ]


def table3(experiment: str, settings: Settings) -> list[Planned]:
    """The stages of jobs/exp/exp3.sh: teachers, labels, students."""
    teachers, labels, students = [], [], []
    for dataset in settings.datasets:
        facts = load_dataset(dataset)
        methods = settings.methods or list(facts.experiment3)
        sources = list(
            dict.fromkeys(source for method in methods if (source := label_source(method)))
        )
        if "class" in sources:
            teachers += [
                settings.run(experiment, "run", dataset, facts.teacher, seed)
                for seed in settings.seeds
            ]
        if "triplet" in sources:
            machines = machines_of_triplets(dataset, facts, settings)
            teachers += [
                settings.run(experiment, "triplet", dataset, machine, seed)
                for machine in machines
                for seed in settings.seeds
            ]
        for source in sources:
            if source == "gt" and "gt" not in map(label_source, facts.experiment3):
                continue  # its attributes are not hidden
            for seed in settings.seeds if source in SEEDED else [""]:
                folder = settings.label_dir / facts.name / (f"{source}_{seed}" if seed else source)
                labels.append(Planned(experiment, "labels", dataset, source, seed, folder))
        students += [
            settings.run(experiment, "run", dataset, method, seed)
            for seed in settings.seeds
            for method in methods
        ]
    return [*teachers, *labels, *students]


def label_source(method: str) -> str | None:
    """The source of the pseudo-labels that a method trains on, by its name, as jobs/exp/exp3.sh has it."""
    if match := re.match(r"pattr_bic_([^_]+)|pattr_(gt)_", method):
        source = match[1] or match[2]
        return "class" if source == "pre" else source
    return None


def machines_of_triplets(dataset: str, facts: DictConfig, settings: Settings) -> list[str]:
    """The unlabeled machines; without the recordings that tell which those are, the ones that have a triplet model."""
    try:
        return hidden_machines(facts, Path(settings.data_dir))
    except (InputError, OSError):
        folders = settings.run("", "triplet", dataset, "*", "*").folder
        return sorted(
            {
                path.name[len("triplet_") :].rpartition("_")[0]
                for path in folders.parent.glob(folders.name)
            }
        )


PLANS: dict[str, Callable[[str, Settings], list[Planned]]] = {
    "exp1": from_script,
    "exp2": from_script,
    "exp3": table3,
}
