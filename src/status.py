"""How far the experiments are, from the folders of their runs; jobs/status.sh --help names all
settings.

    python src/status.py [exp1] [exp2] [exp3] [--watch [SECONDS]] [--json]
        --results-dir FOLDER --label-dir FOLDER

The job scripts say which runs, triplet models and pseudo-labels an experiment consists of: called
with LIST_RUNS=1 they print each as a line.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from shlex import quote

from unlabeledasd.errors import InputError, one_line_errors
from unlabeledasd.runs.state import STATES, State, duration, labels_state, run_state

REPOSITORY = Path(__file__).resolve().parents[1]
EXPERIMENTS = ("exp1", "exp2", "exp3")
COMMAND_SETTINGS = (
    "RESULTS_DIR",
    "LABEL_DIR",
    "LAUNCHER",
    "OVERRIDES",
)  # repeated where they are set


@dataclass
class Planned:
    """One run, triplet model or set of pseudo-labels."""

    experiment: str
    kind: str  # run, triplet, labels
    dataset: str  # as DATASETS names it
    method: str  # of labels: their source
    seed: str  # "" where the labels have none
    folder: Path
    machine: str = ""

    @property
    def title(self) -> str:
        """Of its row in a table over seeds."""
        titles = {"labels": f"labels from {self.method}", "triplet": "triplet models"}
        return titles.get(self.kind, self.method)

    @property
    def name(self) -> str:
        seed = f", seed {self.seed}" if self.seed else ""
        title = f"triplet model of {self.machine}" if self.kind == "triplet" else self.title
        return f"{self.dataset} {title}{seed}"


def plan(experiments: list[str], results_dir: Path, label_dir: Path) -> list[Planned]:
    """What the experiments consist of, in the order of their scripts; each folder once per
    experiment."""
    if unknown := [name for name in experiments if name not in EXPERIMENTS]:
        allowed = " ".join(EXPERIMENTS)
        raise InputError(f"{' '.join(unknown)}: no such experiment; allowed are {allowed}")
    wanted = {name: {} for name in EXPERIMENTS if name in experiments or not experiments}
    if (methods := os.environ.get("METHODS", "").split()) and not experiments:
        wanted = experiments_of(methods)
    scripts = {name: start_script(name, settings) for name, settings in wanted.items()}
    unique: dict[tuple, Planned] = {}
    for name, script in scripts.items():
        listed, _ = script.communicate()
        if script.returncode:
            sys.exit(script.returncode)  # the script has said why
        for line in listed.splitlines():
            kind, dataset, what, seed, place = line.split("\t")
            folder = (label_dir if kind == "labels" else results_dir) / place
            machine = what if kind == "triplet" else ""
            item = Planned(
                name, kind, dataset, "triplet" if machine else what, seed, folder, machine
            )
            unique.setdefault((name, folder), item)
    return list(unique.values())


def experiments_of(methods: list[str]) -> dict[str, dict[str, str]]:
    """Experiment -> its METHODS: exp2 trains any method that needs no pseudo-labels, exp3 the
    others."""
    from settings.facts import trains_on_pseudo_labels

    students = [method for method in methods if trains_on_pseudo_labels(method)]
    others = [method for method in methods if method not in students]
    chosen = {"exp2": " ".join(others), "exp3": " ".join(students)}
    return {name: {"METHODS": words} for name, words in chosen.items() if words}


def start_script(experiment: str, settings: dict[str, str]) -> subprocess.Popen:
    """The job script, which prints its plan."""
    asked = {"LIST_RUNS": "1", "LAUNCHER": "local", "STAGES": "", **settings}
    return subprocess.Popen(
        [REPOSITORY / f"jobs/exp/{experiment}.sh"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **asked},
    )


def look_at(planned: list[Planned]) -> list[tuple[Planned, State]]:
    states: dict[Path, State] = {}  # a teacher may belong to two experiments
    for item in planned:
        if item.folder not in states:
            look = labels_state if item.kind == "labels" else run_state
            states[item.folder] = look(item.folder)
    return [(item, states[item.folder]) for item in planned]


def table(found: list[tuple[Planned, State]]) -> list[str]:
    """A line per experiment, dataset and method with counts over seeds, and one of all folders."""
    rows: dict[tuple, Counter] = {}
    for item, state in found:
        rows.setdefault((item.experiment, item.dataset, item.title), Counter())[state.state] += 1
    total = Counter({item.folder: state.state for item, state in found}.values())
    cells = [("", "dataset", "method", *STATES)]
    for key, counts in [*rows.items(), (("all", "", ""), total)]:
        cells.append((*key, *(str(counts[name] or ".") for name in STATES)))
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
        holder, left = state.holder or {}, ""
        where = f"host {holder.get('host', 'unknown')}, process {holder.get('pid', 'unknown')}"
        if state.seconds_left is not None:
            left = f", about {duration(state.seconds_left)} of training left"
        since = holder.get("since", "just now")
        lines.append(f"{item.name}: {state.doing}{left} ({where}, since {since})")
    return lines


def interrupted_lines(found: list[tuple[Planned, State]]) -> list[str]:
    lines = []
    for item, state in found:
        sign = ""
        if state.holder:  # killed: it did not give its lock back
            ago = duration(max(0.0, time.time() - state.holder["renewed"]))
            host = state.holder.get("host", "unknown")
            sign = f", last heartbeat {ago} ago on host {host}"
        lines.append(f"{item.name}: {state.doing or 'nothing trained yet'}{sign}")
    return lines


def failed_lines(found: list[tuple[Planned, State]]) -> list[str]:
    """Runs of one method that failed alike are a line, with the command that resumes them."""
    groups: dict[tuple, list[Planned]] = {}
    for item, state in found:
        groups.setdefault((item.dataset, item.title, state.error), []).append(item)
    lines = []
    for (_, _, error), items in groups.items():
        names = items[0].name + (f" (and {len(items) - 1} more)" if len(items) > 1 else "")
        lines += [f"{names}: {error}", f"  {command(items)}"]
    return lines


def command(items: list[Planned]) -> str:
    """The command that resumes the runs or labels of one row of the table."""
    first = items[0]
    given = {name: os.environ[name] for name in COMMAND_SETTINGS if os.environ.get(name)}
    given["DATASETS"] = first.dataset
    script = f"jobs/exp/{first.experiment}.sh"
    if first.kind == "labels":
        given["SOURCES"] = first.method
        script = "pseudoattr/pseudo_attr.sh"
    elif first.kind == "triplet":
        script = "jobs/exp/exp3_triplet.sh"
    else:
        given["METHODS"] = first.method
    if seeds := list(dict.fromkeys(item.seed for item in items if item.seed)):
        given["SEEDS"] = " ".join(seeds)
    data_dir = quote(os.environ["DATA_DIR"]) if os.environ.get("DATA_DIR") else "<data_dir>"
    words = [f"DATA_DIR={data_dir}", *(f"{name}={quote(value)}" for name, value in given.items())]
    return " ".join([*words, script])


def text(found: list[tuple[Planned, State]]) -> str:
    of = {name: [] for name in STATES}
    for item, state in {item.folder: (item, state) for item, state in found}.values():
        of[state.state].append((item, state))
    parts = [table(found)]
    for name, lines in {
        "running": running_lines(of["running"]),
        "interrupted, or waiting to resume": interrupted_lines(of["interrupted"]),
        "failed": failed_lines(of["failed"]),
    }.items():
        if lines:
            parts.append([f"{name}:", *(f"  {line}" for line in lines)])
    return "\n\n".join("\n".join(lines) for lines in parts)


def as_json(found: list[tuple[Planned, State]]) -> str:
    entries = [{**asdict(item), **asdict(state)} for item, state in found]
    return json.dumps(entries, default=str, ensure_ascii=False)


def seconds(word: str) -> float:
    if not 0 < (value := float(word)) < float("inf"):
        raise ValueError
    return value


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("experiments", nargs="*", metavar="EXPERIMENT", help="exp1, exp2, exp3 (default: all)")
    add("--watch", nargs="?", type=seconds, const=10.0, metavar="SECONDS", help="look repeatedly")
    add("--json", action="store_true", help="every run as an entry of a list")
    add("--results-dir", type=Path, required=True, help="of runs; jobs/status.sh knows the default")
    add("--label-dir", type=Path, required=True, help="of pseudo-labels; jobs/status.sh too")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    with one_line_errors(OSError):
        planned = plan(arguments.experiments, arguments.results_dir, arguments.label_dir)
        try:
            while True:
                found = look_at(planned)
                shown = as_json(found) if arguments.json else text(found)
                if arguments.watch and not arguments.json:
                    clear = "\x1b[H\x1b[2J" if sys.stdout.isatty() else ""
                    shown = f"{clear}{datetime.now():%Y-%m-%d %H:%M:%S}\n{shown}"
                print(shown, flush=True)
                if not arguments.watch or all(state.state == "done" for _, state in found):
                    return
                time.sleep(arguments.watch)
        except KeyboardInterrupt:  # the way to end --watch
            print()
        except BrokenPipeError:  # of | head; nothing is to be flushed to it at the end either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
