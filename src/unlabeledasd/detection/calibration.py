"""Calibration clips: normal training clips that neither the network nor the scorer of a run sees.

Their scores are those of new normal clips, so that thresholds from them keep a rate of false alarms
(detection/conformal). In the table of clips their split is CALIBRATION in place of train.
"""

import json
import math

import numpy as np
import pandas as pd

from unlabeledasd.clips import CALIBRATION
from unlabeledasd.detection.conformal import conformal_threshold, least_scores
from unlabeledasd.errors import InputError, check_range
from unlabeledasd.files import write_json
from unlabeledasd.results import find_csv, read_scores
from unlabeledasd.runs.folder import Run


def set_aside(table: pd.DataFrame, share: float, rate: float, seed: int = 0) -> pd.DataFrame:
    """The table of clips, in which a `share` of each machine's training clips is for calibration.

    At least as many as the `rate` of false alarms needs; InputError where that is more than half.
    Every clip of a machine has the same chance; runs of a dataset take the same seed, so that their
    scores can be averaged. Domains and attributes have their share of the
    clips, rounded up or down.
    """
    check_range("calibrate", share, 0, 0.5)
    needed, table, rng = least_scores(rate), table.copy(), np.random.default_rng(seed)
    for machine, clips in table[table.split == "train"].groupby("machine", sort=False):
        count = max(math.ceil(round(share * len(clips), 9)), needed)
        if 2 * count > len(clips):
            raise InputError(
                f"calibrate={share:g}: {machine} has {len(clips)} training clips; alarm rate "
                f"{rate:g} needs {needed} for calibration, so at least {2 * needed} in all"
            )
        mixed = clips.iloc[rng.permutation(len(clips))]
        ordered = mixed.sort_values(["domain", "attribute"], kind="stable")
        places = (np.arange(count) + rng.random()) * len(clips) / count  # evenly, from a random one
        table.loc[ordered.index[places.astype(int)], "split"] = CALIBRATION
    return table


def as_training(table: pd.DataFrame) -> pd.DataFrame:
    """The table of clips with the splits that their folders say."""
    return table.assign(split=table.split.replace(CALIBRATION, "train"))


def calibration_note(table: pd.DataFrame, rate: float) -> str:
    counts = table[table.split == CALIBRATION].groupby("machine", sort=False).size()
    each = ", ".join(f"{machine} {count}" for machine, count in counts.items())
    return (
        f"set aside for calibration: {each} clips; alarm rate {rate:g} needs {least_scores(rate)}"
    )


def keep_calibration(run: Run, table: pd.DataFrame) -> None:
    """Write down which clips the run has set aside, if any."""
    if paths := table.path[table.split == CALIBRATION].tolist():
        write_json(run.calibration, {"clips": paths})


def with_calibration(run: Run, table: pd.DataFrame) -> pd.DataFrame:
    """The table of clips, where those that the run has set aside are for calibration."""
    if not run.calibration.is_file():
        return table
    try:
        paths = json.loads(run.calibration.read_text(encoding="utf-8"))["clips"]
    except (ValueError, TypeError, LookupError):
        raise InputError(f"{run.calibration}: corrupt; retrain with overwrite=true") from None
    return table.assign(split=table.split.mask(table.path.isin(paths), CALIBRATION))


def alarms_by_domain(run: Run, version: str, rate: float) -> list[str]:
    """A line for each machine: its threshold, and how many calibration clips are above it."""
    lines = []
    for machine in run.machines(version):
        if (file := find_csv(run, machine, version, "held_out_score")) is None:
            continue
        table = read_scores(file)
        limit = conformal_threshold(table.score.to_numpy(), rate)
        counts = []
        for flag, domain in ((0, "source"), (1, "target")):
            own = table.score[table.is_target == flag]
            counts.append(f"{(own > limit).sum()} of {len(own)} {domain}")
        above = f"{', '.join(counts)} calibration clips above it"
        lines.append(f"{machine}: threshold {limit:.4g} at alarm rate {rate:g}; {above}")
    return lines
