"""How often src/score.py says that scores drift: by simulated, independent scores.

  python benchmarks/drift.py [--machines 300] [--calibration "10 30 100"]

Scores are gamma-distributed (shape 3). Columns: calibration scores of a machine; the share of
machines of which drift is said at least once within 500 scores of the calibration's distribution,
tested after each; and when the last 50 scores, or 20 of these, rise by one standard deviation.
"""

import argparse

import numpy as np
from measuring import show
from tqdm import tqdm

from unlabeledasd.detection.recent import LEAST, TESTED, Scored, drift

SHAPE, LATER = 3, 500


def is_said(calibration: np.ndarray, scores: np.ndarray) -> bool:
    last = [Scored("", "", "", score, score, None, False) for score in scores[-TESTED:]]
    return drift(calibration, last).is_found


def shares(machines: int, count: int) -> dict[str, float]:
    rng, rise = np.random.default_rng(count), SHAPE**0.5
    said, of_all, of_some = [], [], []
    for _ in tqdm(range(machines), desc=f"{count} calibration scores", leave=False, disable=None):
        calibration, later = rng.gamma(SHAPE, 1, count), rng.gamma(SHAPE, 1, LATER)
        ends = range(LEAST, LATER + 1)
        said.append(any(is_said(calibration, later[:end]) for end in ends))
        of_all.append(is_said(calibration, later + rise))
        some = np.concatenate([later[: TESTED - 20], later[TESTED - 20 : TESTED] + rise])
        of_some.append(is_said(calibration, some))
    return {
        "calibration": count,
        f"said without drift, of {LATER}": float(np.mean(said)),
        f"said after a rise of {TESTED}": float(np.mean(of_all)),
        "of 20": float(np.mean(of_some)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--machines", type=int, default=300)
    parser.add_argument("--calibration", default="10 30 100")
    options = parser.parse_args()
    counts = map(int, options.calibration.split())
    show("drift", [shares(options.machines, count) for count in counts])


if __name__ == "__main__":
    main()
