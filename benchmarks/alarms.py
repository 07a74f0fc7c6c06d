"""Is the alarm rate that src/learn.py promises kept? By random splits of what a detector learned.

  python src/learn.py FOLDER --out DETECTOR
  python benchmarks/alarms.py DETECTOR [--splits 20] [--rates "0.1 0.05 0.01"] [--windows]

In each split a quarter of a machine's recordings plays what comes later; the others are references
and calibration as src/learn.py divides them. Columns: the promise; the share of the later
recordings that were alarms, the mean over the splits with the 95 % interval of that mean (of a
normal distribution; splits share recordings, so it is rather too narrow); the least and the most of
a split. --windows: shares of single windows, as src/score.py decides on a stream.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from measuring import show
from sklearn.base import BaseEstimator

from choose import make_scorer
from unlabeledasd.detection.conformal import conformal_threshold
from unlabeledasd.detection.learning import (
    Learned,
    assign_roles,
    drawn,
    fit,
    of_units,
    read_learned,
    window_scores,
)
from unlabeledasd.errors import InputError, one_line_errors
from unlabeledasd.runs.folder import Run

LATER = 0.25


def drawn_later(names: Sequence[str], seed: int) -> Sequence[str]:
    """The names that play what comes later in a split."""
    return np.random.default_rng(seed).permutation(names)[: round(LATER * len(names))]


def summary(shares: list[float]) -> dict:
    """Columns for the shares of all splits."""
    margin = 1.96 * np.std(shares, ddof=1) / len(shares) ** 0.5
    alarms = f"{np.mean(shares):.3f} +- {margin:.3f}"
    return {"alarms": alarms, "least": min(shares), "most": max(shares)}


def alarm_share(
    learned: Learned, scorer: BaseEstimator, rate: float, seed: int, of_windows: bool
) -> float:
    """Share of alarms among the later recordings, or windows, of a split of one machine's."""
    recording = learned.windows.recording
    is_later = recording.isin(drawn_later(recording.unique(), seed)).to_numpy()
    rest, later = learned.where(~is_later), learned.where(is_later)
    windows = assign_roles(rest.windows[["recording", "machine"]], rate, seed)
    parts, machine = Learned(windows, rest.embedding), windows.machine.iloc[0]
    fitted = fit(scorer, parts.of(machine, "reference", "both"))
    known = window_scores(parts, machine, scorer, fitted)
    scores = pd.Series(fitted.score(later.embedding), later.windows.recording)
    calibration = drawn(known, seed) if of_windows else of_units(known)
    scores = scores if of_windows else of_units(scores)
    return float((scores > conformal_threshold(calibration.to_numpy(), rate)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("detector", type=Path)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--rates", default="0.1 0.05 0.01")
    parser.add_argument("--windows", action="store_true", help="of single windows")
    parser.add_argument("--json", type=Path, help="write the table there too")
    options = parser.parse_args()
    with one_line_errors(OSError):
        run = Run(options.detector)
        learned = read_learned(run)
        scorer = make_scorer(next(iter(run.read_config()["scorer"])))
        rows = []
        for machine in learned.windows.machine.unique():
            of_machine = learned.where((learned.windows.machine == machine).to_numpy())
            for rate in map(float, options.rates.split()):
                row = {"machine": machine, "promise": rate}
                try:
                    seeds = range(options.splits)
                    shares = [
                        alarm_share(of_machine, scorer, rate, seed, options.windows)
                        for seed in seeds
                    ]
                except InputError as error:
                    print(error)
                    continue
                rows.append({**row, **summary(shares)})
        if not rows:
            raise InputError(f"{run.folder}: too few recordings for any of these rates")
        show(f"false alarms over {options.splits} splits", rows, options.json)


if __name__ == "__main__":
    main()
