"""The runs of an experiment, dataset x method x seed: their challenge scores, what is missing, which differ."""

import os
import re
from collections import defaultdict
from pathlib import Path
from shlex import quote
from zlib import crc32

import numpy as np
import pandas as pd
from tqdm import tqdm

from reporting.bootstrap import draw_weights, interval, official_figures, resampled_means
from settings.datasets import dataset_names, load_dataset
from settings.facts import trains_on_pseudo_labels
from unlabeledasd.errors import InputError
from unlabeledasd.metrics import challenge_score
from unlabeledasd.runs.folder import Run, version_name

SETS = ("dev", "eval", "all")
RESAMPLES = 2000


def single_epochs(version: str) -> list[str]:
    """epoch_12_14_16 -> [epoch12, epoch14, epoch16]; another version is not made of epochs."""
    epochs = version.split("_")[1:] if re.fullmatch(r"epoch(_\d+)+", version) else []
    return [version_name([int(epoch)]) for epoch in epochs]


def find_run(results_dir: Path, dataset: str, method: str, seed: int) -> Run:
    return Run(results_dir / dataset / f"{method}_{seed}")


def machine_sets(dataset: str, run: Run, version: str) -> dict[str, list[str]]:
    """Names of the machines in each set; those the run has scored where the dataset's file names none."""
    if dataset not in dataset_names():  # own recordings
        return {"dev": [], "eval": [], "all": run.machines(version)}
    machines = load_dataset(dataset).machines
    return {
        "dev": machines.development,
        "eval": machines.evaluation,
        "all": machines.development + machines.evaluation,
    }


def csv_of(run: Run, machine: str, version: str, kind: str) -> Path | None:
    """A CSV of `kind`, test_result for one, in a version: of the ensemble if it has one, else of its epoch."""
    files = sorted(run.version(machine, version).glob(f"*_{kind}.csv"))
    return next(
        (file for file in files if file.name == f"ensemble_{kind}.csv"),
        files[0] if len(files) == 1 else None,
    )


def run_scores(
    results_dir: Path, dataset: str, method: str, seed: int, version: str
) -> dict[str, float]:
    """Challenge score of each set of machines; nan where the run, a machine or a figure is missing."""
    run = find_run(results_dir, dataset, method, seed)
    scores = {}
    for name, machines in machine_sets(dataset, run, version).items():
        files = [csv_of(run, machine, version, "test_result") for machine in machines]
        results = [dict(pd.read_csv(file).iloc[0]) for file in files if file is not None]
        scores[name] = challenge_score(results) if len(results) == len(machines) else float("nan")
    return scores


def make_table(
    results_dir: Path, datasets: list[str], methods: list[str], seeds: list[int], version: str
) -> pd.DataFrame:
    """One row per dataset, method and set of machines: mean, std (of a sample), number of seeds found and asked for."""
    rows = []
    for dataset in datasets:
        for method in methods:
            runs = [run_scores(results_dir, dataset, method, seed, version) for seed in seeds]
            for name in SETS:
                found = np.array([run[name] for run in runs if not np.isnan(run[name])])
                mean = found.mean() if len(found) else np.nan
                std = found.std(ddof=1) if len(found) > 1 else np.nan
                rows.append((version, dataset, method, name, mean, std, len(found), len(seeds)))
    return pd.DataFrame(
        rows, columns=["version", "dataset", "method", "machines", "mean", "std", "seeds", "of"]
    )


def what_is_missing(
    results_dir: Path, datasets: list[str], methods: list[str], seeds: list[int]
) -> list[str]:
    """The commands that make the runs which are not finished."""
    groups = defaultdict(list)  # (dataset, missing seeds, script) -> methods
    for dataset in datasets:
        for method in methods:
            # exp2 trains any method that needs no pseudo-labels
            script = "exp3" if trains_on_pseudo_labels(method) else "exp2"
            if lacking := [
                str(s) for s in seeds if not find_run(results_dir, dataset, method, s).is_done
            ]:
                groups[dataset, " ".join(lacking), script].append(method)
    data_dir = quote(os.environ["DATA_DIR"]) if os.environ.get("DATA_DIR") else "<data_dir>"
    place = "" if results_dir == Path("results/exp") else f"RESULTS_DIR={quote(str(results_dir))} "
    lines = []
    for (dataset, lacking, script), names in groups.items():
        name = quote(dataset if dataset in dataset_names() else f"folder:{dataset}")
        grid = f'DATASETS={name} METHODS="{" ".join(names)}" SEEDS="{lacking}"'
        lines.append(f"DATA_DIR={data_dir} {place}{grid} jobs/exp/{script}.sh")
    return lines


def without_figures(
    results_dir: Path, datasets: list[str], methods: list[str], seeds: list[int], version: str
) -> list[str]:
    """A line for each finished run that has no challenge score of all its machines."""
    lines = []
    for dataset in datasets:
        for run in (
            find_run(results_dir, dataset, method, seed) for method in methods for seed in seeds
        ):
            machines = machine_sets(dataset, run, version)["all"]
            lacking = [
                machine
                for machine in machines
                if csv_of(run, machine, version, "test_result") is None
            ]
            if run.is_done and (lacking or not machines):
                lines.append(
                    f"{run.folder}: no figures of {', '.join(lacking) or 'any machine'} in version {version}"
                )
    return lines


def differences(
    results_dir: Path,
    datasets: list[str],
    methods: list[str],
    seeds: list[int],
    version: str,
    baseline: str,
    resample: str = "clips",
) -> pd.DataFrame:
    """Challenge score minus that of `baseline`, mean over the seeds that both have, with a 95 % interval: columns
    dataset, method, machines, difference, low, high.

    resample "clips" draws the test clips anew: would the order hold on other clips of these machines? "seeds"
    draws the seeds anew: would it hold for other trainings? (too narrow for a handful of seeds)
    """
    rows = []
    for dataset in datasets:
        scores: dict = {}  # method -> seed -> name of the set -> (1 + n,)
        clips: dict = {}
        bar = tqdm(
            dict.fromkeys([baseline, *methods]),
            desc=f"bootstrap, {dataset}",
            leave=False,
            disable=None,
        )
        for method in bar:
            scores[method] = {}
            for seed in seeds:
                run = find_run(results_dir, dataset, method, seed)
                sets, draws = (
                    machine_sets(dataset, run, version),
                    RESAMPLES if resample == "clips" else 0,
                )
                figures = {
                    machine: resampled_figures(run, machine, version, draws, clips)
                    for machine in sets["all"]
                }
                scores[method][seed] = {
                    name: resampled_scores([figures[m] for m in sets[name]]) for name in SETS
                }
        for method in (m for m in methods if m != baseline):
            for name in SETS:
                pairs = [
                    (scores[method][seed][name], scores[baseline][seed][name]) for seed in seeds
                ]
                found = [
                    ours - theirs
                    for ours, theirs in pairs
                    if ours is not None and theirs is not None
                ]
                if found:
                    mean = np.mean(found, axis=0)  # (1 + n,)
                    draws = (
                        mean[1:]
                        if resample == "clips"
                        else resampled_means(np.ravel(found), RESAMPLES, seed=0)
                    )
                    rows.append((dataset, method, name, mean[0], *interval(draws)))
    return pd.DataFrame(
        rows, columns=["dataset", "method", "machines", "difference", "low", "high"]
    )


def resampled_figures(
    run: Run, machine: str, version: str, n_resamples: int, clips: dict
) -> np.ndarray | None:
    """The machine's official figures (1 + n_resamples, 3), the first row of its clips as they are; None without.

    clips: machine -> its clips in the run before, which must be the same.
    """
    file = csv_of(run, machine, version, "test_score")
    if file is None or csv_of(run, machine, version, "test_result") is None:
        return None
    table = pd.read_csv(file)
    if clips.setdefault(machine, table.path.tolist()) != table.path.tolist():
        raise InputError(
            f"{file}: other clips than in the runs before it, so there are no pairs to compare"
        )
    # drawn alike for every run, independently for every machine
    draws = draw_weights(
        table.is_normal, table.is_target, n_resamples, seed=crc32(machine.encode())
    )
    weights = np.concatenate([np.ones((1, len(table))), draws])
    with np.errstate(
        invalid="ignore"
    ):  # a domain or condition without clips: nan, as in the result CSV
        return official_figures(
            table.iloc[:, 3].to_numpy(), table.is_normal, table.is_target, weights
        )


def resampled_scores(figures: list[np.ndarray | None]) -> np.ndarray | None:
    """Challenge scores (1 + n,) of a set of machines; None where one is missing or has no figures."""
    if not figures or any(values is None or np.isnan(values[0]).any() for values in figures):
        return None
    with np.errstate(divide="ignore"):
        return 1 / np.mean(1 / np.concatenate(figures, axis=1), axis=1)
