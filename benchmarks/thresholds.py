"""How often normal test clips of a finished run are above its thresholds; one in ten should be.

  python benchmarks/thresholds.py results/exp/demo/subloss_0256_4096_1

Thresholds from training clips held out from the scorer, as in the challenge, and from half of the
normal test clips, as with src/score.py --normal (the other half is scored; mean over 50 random
halves).
"""

import argparse
from pathlib import Path

import numpy as np

from unlabeledasd.decisions import decision_threshold
from unlabeledasd.results import find_csv, read_scores
from unlabeledasd.runs.folder import Run

HALVES = 50


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--version", default="epoch_12_14_16")
    options = parser.parse_args()
    run, rng = Run(options.run), np.random.default_rng(0)
    alarms = {"held-out training clips": [], "other normal clips": []}
    for machine in run.machines(options.version):
        test = read_scores(find_csv(run, machine, options.version, "test_score"))
        normal = test.score[test.is_normal == 1].to_numpy()
        file = find_csv(run, machine, options.version, "held_out_score")
        held_out = read_scores(file).score.to_numpy()
        alarms["held-out training clips"].append(normal > decision_threshold(held_out))
        for _ in range(HALVES):
            reference, others = np.array_split(rng.permutation(normal), 2)
            alarms["other normal clips"].append(others > decision_threshold(reference))
    for name, found in alarms.items():
        percent = 100 * np.concatenate(found).mean()
        print(f"threshold from {name}: {percent:.0f} % of normal test clips above")


if __name__ == "__main__":
    main()
