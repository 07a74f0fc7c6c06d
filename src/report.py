"""Table of challenge scores: mean and standard deviation over seeds, per dataset and method.

  python src/report.py --datasets dcase2023 dcase2024 --methods na_1024 na_0256 --seeds 1 2 3 4 5 --name table1

Reads the finished runs below --results-dir; prints the table and writes <name>.csv and <name>.md there. The
challenge score of a set of machines is the harmonic mean over all 3 x M official values; dev and eval are the
development and evaluation machines of the dataset, all is both.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from dataset_facts import dataset_names, load_dataset
from unlabeledasd.errors import one_line_errors
from unlabeledasd.metrics import challenge_score
from unlabeledasd.runs import Run, write_csv, write_text

SETS = ("dev", "eval", "all")


def machine_sets(dataset: str, run: Run, version: str) -> dict[str, list[str]]:
    """Names of the machines in each set; those the run has scored where the dataset's file names none."""
    if dataset not in dataset_names():  # own recordings
        return {"dev": [], "eval": [], "all": run.machines(version)}
    machines = load_dataset(dataset).machines
    return {"dev": machines.development, "eval": machines.evaluation, "all": machines.development + machines.evaluation}


def run_scores(results_dir: Path, dataset: str, method: str, seed: int, version: str) -> dict[str, float]:
    """Challenge score of each set of machines; nan where the run, a machine or a figure is missing."""
    run = Run(results_dir / dataset / f"{method}_{seed}")
    scores = {}
    for name, machines in machine_sets(dataset, run, version).items():
        files = [next(iter(run.version(machine, version).glob("*_test_result.csv")), None) for machine in machines]
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
                rows.append((dataset, method, name, mean, std, len(found), len(seeds)))
    return pd.DataFrame(rows, columns=["dataset", "method", "machines", "mean", "std", "seeds", "of"])


def cell(row: pd.Series) -> str:
    if row.seeds == 0:
        return "missing"
    spread = "" if np.isnan(row["std"]) else f" ± {100 * row['std']:.2f}"
    count = "" if row.seeds == row.of else f" ({row.seeds} of {row.of})"
    return f"{100 * row['mean']:.2f}{spread}{count}"


def to_markdown(table: pd.DataFrame) -> str:
    """Methods down, datasets and sets of machines across, in percent; a set without machines is left out."""
    table = table.assign(cell=table.apply(cell, axis=1), column=table.dataset + " " + table.machines)
    empty = table.groupby("column").seeds.transform("sum") == 0
    shown = table[~empty | (table.machines == "all")]
    wide = shown.pivot(index="method", columns="column", values="cell")
    wide = wide.loc[table.method.unique(), shown.column.unique()].reset_index()
    widths = [max(map(len, [column, *wide[column]])) for column in wide]
    lines = [list(wide), ["-" * width for width in widths], *wide.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", required=True)
    parser.add_argument("--methods", nargs="+", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, required=True)
    parser.add_argument("--results-dir", type=Path, default=Path("results/exp"))
    parser.add_argument("--version", default="epoch_12_14_16", help="which scores (default: %(default)s)")
    parser.add_argument("--name", default="table", help="of the files written (default: %(default)s)")
    arguments = parser.parse_args()
    with one_line_errors(OSError):
        table = make_table(
            arguments.results_dir, arguments.datasets, arguments.methods, arguments.seeds, arguments.version
        )
        title = f"Challenge score in percent, mean ± standard deviation over seeds ({arguments.version})"
        text = f"{title}\n\n{to_markdown(table)}"
        print(text)
        write_csv(arguments.results_dir / f"{arguments.name}.csv", table)
        write_text(arguments.results_dir / f"{arguments.name}.md", text + "\n")
        print(f"written: {arguments.results_dir / arguments.name}.csv and .md")


if __name__ == "__main__":
    main()
