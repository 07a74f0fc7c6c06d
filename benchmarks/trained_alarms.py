"""Is the alarm rate kept by detectors that train a network? One is trained for every split.

  python benchmarks/trained_alarms.py FOLDER --out OUT [--splits 20] [--rate 0.1]

FOLDER has normal recordings of one machine. In each split a quarter of them plays what comes later,
and of the others src/learn.py --train makes a detector, whose alarms among the later ones count.
Columns as those of benchmarks/alarms.py. OUT keeps what is finished: the same command resumes.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import pandas as pd
from alarms import drawn_later, summary
from measuring import SOURCE, rounds, show

from unlabeledasd.detection.inbox import look
from unlabeledasd.errors import InputError, one_line_errors


def divide(files: list[Path], folder: Path, seed: int) -> None:
    """Links to the files in folder/known and folder/later."""
    later = set(drawn_later([file.name for file in files], seed))
    for file in files:
        link = folder / ("later" if file.name in later else "known") / file.name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(file.resolve())


def script(name: str, *arguments: object) -> str:
    """What a script of src/ prints."""
    command = [sys.executable, str(SOURCE / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def alarm_share(files: list[Path], folder: Path, seed: int, rate: float) -> float:
    """Share of alarms among the later files of a split, in folder."""
    scores = folder / "scores.csv"
    if not scores.exists():
        divide(files, folder, seed)
        detector, rates = folder / "detector", ["--alarm-rate", rate]
        machine = ["--machine", "machine"]
        script("learn.py", folder / "known", "--train", *rates, *machine, "--out", detector)
        later = folder / "later", *machine, "--no-state", "--format", "csv"
        table = script("score.py", detector, *later)
        scores.write_text(table, encoding="utf-8")
    return float((pd.read_csv(scores).decision == "anomaly").mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--rate", type=float, default=0.1)
    options = parser.parse_args()
    with one_line_errors(OSError):
        files = [recording.path for recording in look([options.folder]).recordings]
        shares = []
        for split in rounds(1, [str(seed) for seed in range(options.splits)]):
            folder = options.out / f"{options.rate:g}" / split
            shares.append(alarm_share(files, folder, int(split), options.rate))
    title = f"false alarms of {len(shares)} trained detectors"
    show(title, [{"promise": options.rate, **summary(shares)}])


if __name__ == "__main__":
    main()
