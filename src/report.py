"""Tables of challenge scores, and a page with their details; the page of a detector.

  python src/report.py --datasets dcase2023 dcase2024 --methods na_1024 na_0256 --seeds 1 2 3
  python src/report.py ... --name table1      of the files written
  python src/report.py ... --baseline na_1024 differences to one method, with 95 % intervals
  python src/report.py ... --baseline na_1024 --resample seeds
  python src/report.py ... --html             a page with plots and the most misranked clips
  python src/report.py DETECTOR               DETECTOR/detector.html, of src/learn.py

Reads the finished runs below --results-dir and writes <name>.csv, <name>.md, <name>.tex and
<name>.html there. The challenge score of a set of machines is the harmonic mean over all 3 x M
official values (of 2020 and 2021: results/README.md); dev and eval are the development and
evaluation machines of the dataset, all is both. Mean and standard deviation are over seeds.

The page of a detector shows what was learned, the calibration scores and threshold of each machine,
and of the scores that src/score.py kept: when there were alarms, whether they drift, and the
recordings with the highest scores, each next to the normal clip that it resembles most.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from reporting.grid import differences, make_table, missing_runs, single_epochs, without_metrics
from reporting.tables import latex, markdown
from unlabeledasd.errors import InputError, one_line_errors
from unlabeledasd.files import write_csv, write_text

KEY = ["dataset", "method", "machines"]


def score_cell(row: pd.Series) -> str:
    if row.seeds == 0:
        return "missing"
    spread = "" if np.isnan(row["std"]) else f" ± {100 * row['std']:.2f}"
    count = "" if row.seeds == row.of else f" ({row.seeds} of {row.of})"
    return f"{100 * row['mean']:.2f}{spread}{count}"


def difference_cell(row: pd.Series) -> str:
    difference, low, high = (f"{100 * row[n]:+.2f}" for n in ("difference", "low", "high"))
    return f"{difference} [{low}, {high}]".replace("-", "−")


def arrange(
    table: pd.DataFrame, cells: pd.Series, values: pd.Series
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Methods down, datasets and sets of machines across -> (cells, best).

    best: where a cell has the greatest value of several. A set without any value is left out,
    except that of all machines.
    """
    table = table.assign(cell=cells, value=values, column=table.dataset + " " + table.machines)
    empty = table.groupby("column").value.transform("count") == 0
    shown = table[~empty | (table.machines == "all")]
    order = (shown.method.unique(), shown.column.unique())
    text = shown.pivot(index="method", columns="column", values="cell").loc[order]
    value = shown.pivot(index="method", columns="column", values="value").loc[order]
    best = (value == value.max()) & (value.count() > 1)
    return text.fillna("").rename_axis(columns=None), best


def sections(
    table: pd.DataFrame, deltas: pd.DataFrame | None, arguments: argparse.Namespace
) -> list[tuple]:
    """(title, cells, best) of every table that is written, the most important first."""
    made = []
    for version in table.version.unique():
        part = table[table.version == version]
        title = f"Challenge score in percent, mean ± standard deviation over seeds ({version})"
        made.append((title, *arrange(part, part.apply(score_cell, axis=1), part["mean"])))
    if deltas is not None:
        cells, best = arrange(deltas, deltas.apply(difference_cell, axis=1), deltas.difference)
        title = (
            f"Difference to {arguments.baseline} in percent points, mean over seeds, with the "
            f"95 % interval of a paired bootstrap over {arguments.resample} ({arguments.version})"
        )
        made.insert(1, (title, cells, best & False))
    return made


def write_report(arguments: argparse.Namespace) -> None:
    where = (arguments.results_dir, arguments.datasets, arguments.methods, arguments.seeds)
    versions = [arguments.version, *single_epochs(arguments.version)]
    table = pd.concat([make_table(*where, version) for version in dict.fromkeys(versions)])
    deltas, notes = None, ""
    if arguments.baseline:
        deltas = differences(*where, arguments.version, arguments.baseline, arguments.resample)
        deltas["version"] = arguments.version
        if deltas.empty:
            deltas = None
            both = f"{arguments.baseline} and another method"
            notes = f"\nNo differences: no seed has scores of {both}\n"
    parts = sections(table, deltas, arguments)
    if missing := missing_runs(*where):
        commands = [f"    {command}" for command in missing]
        notes += "\n".join(["\nMissing runs are made by\n", *commands, ""])
    if empty := without_metrics(*where, arguments.version):
        advice = (
            "Where test clips lack ground truth: preprocess/add_gt_info.sh, "
            "src/infer.py run=RUN name=metrics embeddings=new, and --version metrics here"
        )
        notes += "\n".join(["", *empty, advice, ""])
    texts = [f"{title}\n\n{markdown(cells, best)}\n" for title, cells, best in parts]
    print(*texts[: 2 if deltas is not None else 1], sep="\n", end=notes)
    stem = arguments.results_dir / arguments.name
    csv = table if deltas is None else table.merge(deltas, how="left", on=["version", *KEY])
    write_csv(stem.with_name(f"{arguments.name}.csv"), csv)
    write_text(stem.with_name(f"{arguments.name}.md"), "\n".join(texts) + notes)
    tables = [latex(cells, best, title) for title, cells, best in parts]
    write_text(stem.with_name(f"{arguments.name}.tex"), "\n".join(tables))
    kinds = "csv, .md, .tex"
    if arguments.html:
        from reporting.page import write_page

        write_page(stem.with_name(f"{arguments.name}.html"), parts, notes, arguments)
        kinds += ", .html"
    print(f"written: {stem}.{kinds}" + (" (single epochs there)" if len(versions) > 1 else ""))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("detector", nargs="?", type=Path, help="of src/learn.py; else:")
    parser.add_argument("--datasets", nargs="+")
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--results-dir", type=Path, default=Path("results/exp"))
    parser.add_argument(
        "--version", default="epoch_12_14_16", help="which scores (default: %(default)s)"
    )
    parser.add_argument(
        "--name", default="table", help="of the files written (default: %(default)s)"
    )
    parser.add_argument(
        "--baseline", metavar="METHOD", help="the method that differences are taken to"
    )
    parser.add_argument(
        "--resample", choices=["clips", "seeds"], default="clips", help="(default: %(default)s)"
    )
    parser.add_argument("--html", action="store_true", help="write the page too")
    parser.add_argument(
        "--clips", type=int, default=3, help="on the page, of each machine and method (%(default)s)"
    )
    parser.add_argument(
        "--data-dir", type=Path, help="where these clips are, if not where the runs found them"
    )
    parser.add_argument(
        "--state", type=Path, metavar="FILE", help="of a detector's recent scores, if elsewhere"
    )
    arguments = parser.parse_args()
    grid = ("datasets", "methods", "seeds")
    if arguments.detector:
        with one_line_errors(OSError):
            from reporting.detector_page import write_detector_page

            page = write_detector_page(arguments.detector, arguments.state, arguments.clips)
            print(f"written: {page}")
        return
    if missing := [f"--{name}" for name in grid if not getattr(arguments, name)]:
        parser.error(f"DETECTOR or {' '.join(missing)}: required")
    for name in grid:
        setattr(arguments, name, list(dict.fromkeys(getattr(arguments, name))))
    with one_line_errors(OSError):
        if arguments.baseline and arguments.baseline not in arguments.methods:
            methods = " ".join(arguments.methods)
            raise InputError(f"--baseline {arguments.baseline}: not among --methods {methods}")
        write_report(arguments)


if __name__ == "__main__":
    main()
