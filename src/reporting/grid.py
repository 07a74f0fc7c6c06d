"""The runs of an experiment, dataset x method x seed: scores, missing runs, differences."""

import os
import re
from collections import defaultdict
from itertools import product
from pathlib import Path
from shlex import quote
from zlib import crc32

import numpy as np
import pandas as pd
from tqdm import tqdm

from reporting.bootstrap import draw_weights, interval, official_metrics, resampled_means
from settings.datasets import dataset_names, load_dataset, units
from settings.facts import trains_on_pseudo_labels
from unlabeledasd.errors import InputError
from unlabeledasd.metrics import ARITHMETIC, challenge_score
from unlabeledasd.results import find_csv, official_in, read_metrics, read_scores
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
    """The machines of each set; those that the run has scored where the dataset names none."""
    if dataset not in dataset_names():  # own recordings
        return {"dev": [], "eval": [], "all": run.machines(version)}
    facts = load_dataset(dataset)
    dev, evaluation = (units(facts, group) for group in ("development", "evaluation"))
    return {"dev": dev, "eval": evaluation, "all": dev + evaluation}


def run_scores(
    results_dir: Path, dataset: str, method: str, seed: int, version: str
) -> dict[str, float]:
    """Challenge score of each set of machines; nan where the run or a metric is missing."""
    run = find_run(results_dir, dataset, method, seed)
    scores = {}
    for name, machines in machine_sets(dataset, run, version).items():
        files = [find_csv(run, machine, version, "test_result") for machine in machines]
        metrics = [read_metrics(file) for file in files if file is not None]
        scores[name] = challenge_score(metrics) if len(metrics) == len(machines) else float("nan")
    return scores


def make_table(
    results_dir: Path, datasets: list[str], methods: list[str], seeds: list[int], version: str
) -> pd.DataFrame:
    """One row per dataset, method and set of machines: mean, std and how many seeds were found.

    std is that of a sample; column `of` is the number of seeds asked for.
    """
    rows = []
    for dataset in datasets:
        for method in methods:
            runs = [run_scores(results_dir, dataset, method, seed, version) for seed in seeds]
            for name in SETS:
                found = np.array([run[name] for run in runs if not np.isnan(run[name])])
                mean = found.mean() if len(found) else np.nan
                std = found.std(ddof=1) if len(found) > 1 else np.nan
                rows.append((version, dataset, method, name, mean, std, len(found), len(seeds)))
    columns = ["version", "dataset", "method", "machines", "mean", "std", "seeds", "of"]
    return pd.DataFrame(rows, columns=columns)


def missing_runs(
    results_dir: Path, datasets: list[str], methods: list[str], seeds: list[int]
) -> list[str]:
    """The commands that make the runs which are not finished."""
    groups = defaultdict(list)  # (dataset, missing seeds, script) -> methods
    for dataset in datasets:
        for method in methods:
            # exp2 trains any method that needs no pseudo-labels
            script = "exp3" if trains_on_pseudo_labels(method) else "exp2"
            runs = {seed: find_run(results_dir, dataset, method, seed) for seed in seeds}
            if lacking := [str(seed) for seed, run in runs.items() if not run.is_done]:
                groups[dataset, " ".join(lacking), script].append(method)
    data_dir = quote(os.environ["DATA_DIR"]) if os.environ.get("DATA_DIR") else "<data_dir>"
    place = "" if results_dir == Path("results/exp") else f"RESULTS_DIR={quote(str(results_dir))} "
    lines = []
    for (dataset, lacking, script), names in groups.items():
        name = quote(dataset if dataset in dataset_names() else f"folder:{dataset}")
        grid = f'DATASETS={name} METHODS="{" ".join(names)}" SEEDS="{lacking}"'
        lines.append(f"DATA_DIR={data_dir} {place}{grid} jobs/exp/{script}.sh")
    return lines


def without_metrics(
    results_dir: Path, datasets: list[str], methods: list[str], seeds: list[int], version: str
) -> list[str]:
    """A line for each finished run that has no challenge score of all its machines."""
    lines = []
    for dataset in datasets:
        for method, seed in product(methods, seeds):
            run = find_run(results_dir, dataset, method, seed)
            machines = machine_sets(dataset, run, version)["all"]
            lacking = [m for m in machines if not find_csv(run, m, version, "test_result")]
            if run.is_done and (lacking or not machines):
                names = ", ".join(lacking) or "any machine"
                lines.append(f"{run.folder}: no metrics of {names} in version {version}")
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
    """Challenge score minus that of `baseline`, mean over the seeds that both have.

    Columns dataset, method, machines, difference, and low and high of a 95 % interval. resample:
    "clips" draws the test clips again: would the order be the same on other clips of these
    machines? "seeds" draws the seeds: would it be the same for other trainings? (That interval is
    too narrow for a handful of seeds.)
    """
    rows = []
    n_draws = RESAMPLES if resample == "clips" else 0
    for dataset in datasets:
        clips: dict[str, list[str]] = {}
        scores = {}  # (method, seed) -> name of the set -> (1 + n_draws,) or None
        pairs = list(product(dict.fromkeys([baseline, *methods]), seeds))
        for method, seed in tqdm(pairs, desc=f"bootstrap, {dataset}", leave=False, disable=None):
            run = find_run(results_dir, dataset, method, seed)
            scores[method, seed] = resampled_sets(dataset, run, version, n_draws, clips)
        for method, name in product((m for m in methods if m != baseline), SETS):
            found = []
            for seed in seeds:
                ours, theirs = scores[method, seed][name], scores[baseline, seed][name]
                if ours is not None and theirs is not None:
                    found.append(ours - theirs)
            if found:
                mean = np.mean(found, axis=0)  # (1 + n_draws,)
                draws = mean[1:]
                if resample == "seeds":
                    draws = resampled_means(np.ravel(found), RESAMPLES, seed=0)
                rows.append((dataset, method, name, mean[0], *interval(draws)))
    columns = ["dataset", "method", "machines", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def resampled_sets(
    dataset: str, run: Run, version: str, n_resamples: int, clips: dict[str, list[str]]
) -> dict[str, np.ndarray | None]:
    """Challenge scores (1 + n_resamples,) of each set of machines; None without all metrics."""
    sets = machine_sets(dataset, run, version)
    official = official_in(*(find_csv(run, m, version, "test_result") for m in sets["all"]))
    draws = n_resamples, official, clips
    metrics = {m: resampled_metrics(run, m, version, *draws) for m in sets["all"]}
    return {name: resampled_scores([metrics[m] for m in sets[name]], official) for name in SETS}


def resampled_metrics(
    run: Run,
    machine: str,
    version: str,
    n_resamples: int,
    official: str,
    clips: dict[str, list[str]],
) -> np.ndarray | None:
    """A machine's official metrics (1 + n_resamples, M), the first row of its clips as they are.

    None where it has none. clips: machine -> its clips in the runs before, which must be equal.
    """
    file = find_csv(run, machine, version, "test_score")
    if file is None or find_csv(run, machine, version, "test_result") is None:
        return None
    table = read_scores(file)
    if clips.setdefault(machine, table.path.tolist()) != table.path.tolist():
        reason = "other clips than in the runs before it, so there are no pairs to compare"
        raise InputError(f"{file}: {reason}")
    is_normal, is_target = table.is_normal.to_numpy(int), table.is_target.to_numpy(int)
    # equal draws for every run, independent ones for every machine
    draws = draw_weights(is_normal, is_target, n_resamples, seed=crc32(machine.encode()))
    weights = np.concatenate([np.ones((1, len(table))), draws])
    with np.errstate(invalid="ignore"):  # nan without clips of a kind, as in the result CSV
        return official_metrics(table.score.to_numpy(), is_normal, is_target, weights, official)


def resampled_scores(metrics: list[np.ndarray | None], official: str) -> np.ndarray | None:
    """Challenge scores (1 + n,) of a set of machines; None where a machine has no metrics."""
    present = [values for values in metrics if values is not None]
    if len(present) < len(metrics) or not metrics or np.isnan([v[0] for v in present]).any():
        return None
    values = np.concatenate(present, axis=1)
    if official in ARITHMETIC:
        return values.mean(axis=1)
    with np.errstate(divide="ignore"):
        return 1 / np.mean(1 / values, axis=1)
