"""Quality of detection: methods x scorers over seeds, next to yardsticks that train nothing.

  python benchmarks/quality.py --data data --dataset demo
  python benchmarks/quality.py --data DIR --dataset folder:NAME --methods na_0256 --seeds "1 2"

Trains by src/train.py (--overrides has more of its settings) what the results folder lacks; a
finished run is kept, so the same command resumes. Then every kept embedding is scored by every
scorer (NAME@PARTS takes a part of it: docs/scorers.md), the mean over the kept epochs. Rows:

  METHOD                   of the network alone
  METHOD + YARDSTICK       fused with a method without training: mean or minimum of their z
  spectral_*               the yardsticks: plain nearest neighbour (knn) on log-mel mean and
                           standard deviation, with the level and without it, and better scorers

Columns: the challenge score in percent, mean and standard deviation over seeds, and each machine's.
"""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from measuring import BENCHMARKS, options, show
from tqdm import tqdm

from choose import make_scorer
from settings.datasets import load_dataset
from unlabeledasd.errors import InputError, one_line_errors
from unlabeledasd.runs.folder import Run
from unlabeledasd.runs.fusion import fuse
from unlabeledasd.runs.rescoring import Scores, kept_clips, official_score, rescore

METHODS = "subloss_0256_4096 multires_trainable_0256_1024_4096 best_0256_1024_4096"
YARDSTICKS = ("spectral_logmel", "spectral_level")
SCORERS = "target_kmeans_cos knn ldn_ratio varmin domain_z standardized_domain_z ldn_ratio@mean"
VIEWS = "views"  # the only scorer of methods whose embedding has two views
FUSED = "standardized_domain_z"  # the yardsticks' scorer in fusions: the default of these methods

ByMachine = dict[str, Scores]


def train(given, method: str, seed: str) -> Run:
    """The finished run of a method and seed."""
    name = load_dataset(given.dataset).name
    stem, _, own = given.dataset.partition(":")
    command = [sys.executable, BENCHMARKS.parent / "src/train.py", f"dataset={stem}"]
    command += [f"dataset.name={own}"] * bool(own)
    command += [f"method={method}", f"seed={seed}", f"data_dir={given.data}"]
    overrides = given.overrides.split()
    if method in YARDSTICKS:  # which have no epochs or optimizer
        overrides = [word for word in overrides if word.startswith("dataset.")]
    command += [f"results_dir={given.results}", *overrides]
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
        raise InputError(f"{method}, seed {seed}: not trained, see above")
    return Run(Path(given.results, name, f"{method}_{seed}"))


def of_run(run: Run, scorers: list[str]) -> tuple[dict, dict[str, ByMachine]]:
    """(machine -> test clips, scorer -> machine -> scores)."""
    epochs = list(kept_clips(run))
    tables = {machine: clips.test for machine, clips in epochs[0].items()}
    found: dict[str, ByMachine] = {}
    for name in tqdm(scorers, desc=run.folder.name, unit="scorer", leave=False):
        scorer = make_scorer(name)
        found[name] = {m: rescore([every[m] for every in epochs], scorer) for m in tables}
    return tables, found


def percent(official: str, tables: dict, scores: dict[str, np.ndarray]) -> list[float]:
    """The challenge score, then each machine's official score."""
    machines = [official_score({m: table}, {m: scores[m]}, official) for m, table in tables.items()]
    return [100 * value for value in (official_score(tables, scores, official), *machines)]


def fusions(own: ByMachine, other: ByMachine) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    for how in ("mean", "min"):
        yield how, {m: fuse([own[m].z, other[m].z], how) for m in own}


def main() -> None:
    given = options(
        __doc__,
        dataset="demo",
        data="data",
        results="results/exp",
        methods=METHODS,
        seeds="1 2 3",
        scorers=SCORERS,
        overrides="",
    )
    scorers = given.scorers.split()
    rate = partial(percent, load_dataset(given.dataset).official)
    values: dict[tuple[str, str], list[list[float]]] = {}
    with one_line_errors(OSError):
        yardsticks = {}
        for method in YARDSTICKS:
            whole = [name for name in scorers if name != VIEWS]
            tables, found = of_run(train(given, method, "1"), list({*whole, FUSED}))
            yardsticks[method] = found[FUSED]
            for name in whole:
                scores = {m: found[name][m].test for m in tables}
                values[method, name] = [rate(tables, scores)]
        for method in given.methods.split():
            for seed in given.seeds.split():
                run = train(given, method, seed)
                has_views = VIEWS in run.read_config()["scorer"]
                tables, found = of_run(run, [VIEWS] if has_views else whole)
                for name, own in found.items():
                    alone = rate(tables, {m: own[m].test for m in tables})
                    values.setdefault((method, name), []).append(alone)
                    for other, its in yardsticks.items():
                        for how, fused in fusions(own, its):
                            row = (f"{method} + {other}", f"{name}, {how} of z")
                            values.setdefault(row, []).append(rate(tables, fused))
    rows = []
    for (method, name), seeds in values.items():
        mean, deviation = np.mean(seeds, axis=0), np.std(seeds, axis=0, ddof=len(seeds) > 1)
        machines = dict(zip(tables, (f"{value:.1f}" for value in mean[1:]), strict=True))
        row = {"method": method, "scorer": name, "score": f"{mean[0]:.1f}"}
        rows.append({**row, "sd": f"{deviation[0]:.1f}", "seeds": len(seeds), **machines})
    show(f"challenge score in percent, {given.dataset}", rows, given.json)


if __name__ == "__main__":
    main()
