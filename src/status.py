"""How far the experiments are, from the folders of their runs; jobs/status.sh --help tells the settings.

python src/status.py [exp1] [exp2] [exp3] [--watch [SECONDS]] [--json]
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from shlex import quote

from planned import Planned, Settings, plan
from unlabeledasd.errors import one_line_errors
from unlabeledasd.runs.state import STATES, State, duration, labels_state, run_state


def look_at(planned: list[Planned]) -> list[tuple[Planned, State]]:
    states: dict[Path, State] = {}  # a teacher may belong to two experiments
    for item in planned:
        if item.folder not in states:
            states[item.folder] = (labels_state if item.kind == "labels" else run_state)(
                item.folder
            )
    return [(item, states[item.folder]) for item in planned]


def table(found: list[tuple[Planned, State]]) -> list[str]:
    """A line per experiment, dataset and method with counts over seeds, and one of all folders together."""
    rows: dict[tuple, Counter] = {}
    for item, state in found:
        rows.setdefault((item.experiment, item.dataset, item.title), Counter())[state.state] += 1
    cells = [("", "dataset", "method", *STATES)]
    cells += [
        (*key, *(str(counts[name] or ".") for name in STATES)) for key, counts in rows.items()
    ]
    total = Counter({item.folder: state.state for item, state in found}.values())
    cells.append(("all", "", "", *(str(total[name] or ".") for name in STATES)))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        texts = [text.ljust(width) for text, width in zip(row[:3], widths, strict=False)]
        numbers = [text.rjust(width) for text, width in zip(row[3:], widths[3:], strict=True)]
        lines.append("  ".join([*texts, *numbers]).rstrip())
    return lines


def running_lines(found: list[tuple[Planned, State]]) -> list[str]:
    lines = []
    for item, state in found:
        holder = state.holder or {}
        where = f"host {holder.get('host', 'unknown')}, process {holder.get('pid', 'unknown')}"
        left = (
            ""
            if state.seconds_left is None
            else f", about {duration(state.seconds_left)} of training left"
        )
        lines.append(
            f"{item.name}: {state.doing}{left} ({where}, since {holder.get('since', 'just now')})"
        )
    return lines


def interrupted_lines(found: list[tuple[Planned, State]]) -> list[str]:
    lines = []
    for item, state in found:
        sign = ""
        if state.holder:  # killed: it did not give its lock back
            ago = duration(max(0.0, time.time() - state.holder["renewed"]))
            sign = f", last sign of life {ago} ago on host {state.holder.get('host', 'unknown')}"
        lines.append(f"{item.name}: {state.doing or 'nothing trained yet'}{sign}")
    return lines


def failed_lines(found: list[tuple[Planned, State]], settings: Settings) -> list[str]:
    """Runs of one method that failed alike are told once, with the command that goes on with them."""
    groups: dict[tuple, list[Planned]] = {}
    for item, state in found:
        groups.setdefault((item.dataset, item.title, state.error), []).append(item)
    lines = []
    for (_, _, error), items in groups.items():
        names = items[0].name + (f" (and {len(items) - 1} more)" if len(items) > 1 else "")
        lines += [f"{names}: {error}", f"  {command(items, settings)}"]
    return lines


def command(items: list[Planned], settings: Settings) -> str:
    """The command that goes on with the runs or labels of one row of the table."""
    first, given = items[0], {"DATASETS": items[0].dataset}
    if first.kind == "labels":
        given["SOURCES"], script = first.method, "pseudoattr/pseudo_attr.sh"
    elif first.kind == "triplet":
        script = "jobs/exp/exp3_triplet.sh"
    else:
        given["METHODS"] = first.method
        # exp3 is more than its runs; exp2 takes any method that needs no labels
        own = first.experiment != "exp3" or first.method.startswith("pattr_")
        script = f"jobs/exp/{first.experiment if own else 'exp2'}.sh"
    seeds = list(dict.fromkeys(item.seed for item in items if item.seed))
    if seeds:
        given["SEEDS"] = " ".join(seeds)
    words = [
        f"{name}={value if value.startswith('<') else quote(value)}"
        for name, value in {
            "DATA_DIR": settings.data_dir or "<data_dir>",
            **settings.others,
            **given,
        }.items()
    ]
    return " ".join([*words, script])


def text(found: list[tuple[Planned, State]], settings: Settings) -> str:
    of = {name: [] for name in STATES}
    for item, state in {item.folder: (item, state) for item, state in found}.values():
        of[state.state].append((item, state))
    parts = [table(found)]
    for name, lines in {
        "running": running_lines(of["running"]),
        "interrupted, or waiting to go on": interrupted_lines(of["interrupted"]),
        "failed": failed_lines(of["failed"], settings),
    }.items():
        if lines:
            parts.append([f"{name}:", *(f"  {line}" for line in lines)])
    return "\n\n".join("\n".join(lines) for lines in parts)


def as_json(found: list[tuple[Planned, State]]) -> str:
    return json.dumps(
        [{**asdict(item), **asdict(state)} for item, state in found],
        default=str,
        ensure_ascii=False,
    )


def seconds(word: str) -> float:
    if not 0 < (value := float(word)) < float("inf"):
        raise ValueError
    return value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "experiments",
        nargs="*",
        metavar="EXPERIMENT",
        help="exp1, exp2, exp3 (default: all of them)",
    )
    parser.add_argument(
        "--watch",
        nargs="?",
        type=seconds,
        const=10.0,
        metavar="SECONDS",
        help="look again and again",
    )
    parser.add_argument("--json", action="store_true", help="every run as an entry of a list")
    arguments = parser.parse_args()
    with one_line_errors(OSError):
        settings = Settings.of_environment()
        planned = plan(arguments.experiments, settings)
        try:
            while True:
                found = look_at(planned)
                shown = as_json(found) if arguments.json else text(found, settings)
                clear = "\x1b[H\x1b[2J" if arguments.watch and sys.stdout.isatty() else ""
                when = (
                    f"{datetime.now():%Y-%m-%d %H:%M:%S}\n"
                    if arguments.watch and not arguments.json
                    else ""
                )
                print(f"{clear}{when}{shown}", flush=True)
                if not arguments.watch or all(state.state == "done" for _, state in found):
                    return
                time.sleep(arguments.watch)
        except KeyboardInterrupt:  # the way to end --watch
            print()
        except BrokenPipeError:  # of | head; nothing is to be flushed to it at the end either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
