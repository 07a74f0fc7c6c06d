"""The last scores of each machine, in a small file, and whether they drift from calibration.

A single alarm is one score above the threshold. Drift is a change of the scores as a whole, found
by the two-sample test of Kolmogorov and Smirnov: the largest distance between the distribution of
the last scores and that of the calibration scores.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unlabeledasd.detection.detector import Detector
from unlabeledasd.errors import InputError
from unlabeledasd.files import write_json

KEPT = 200  # scores of each machine and kind
TESTED = 50  # the last ones of these
LEAST = 10  # fewer are not tested
LEVEL = 0.001  # scores drift where the p-value is below
FEW = 0.25  # share of alarms below which a drift looks new, but not faulty
RECORDINGS, WINDOWS = "recordings", "windows"  # kinds of scores: of recordings, of a stream
NAME = "recent.json"


class Scored(NamedTuple):
    """A score that is kept.

    key: what counts once: a hash of the recording's content, or the place in a stream. highest: the
    highest score of its windows, or of those of a stream until the next score that is kept.
    """

    time: str  # when it was scored, ISO 8601
    clip: str
    key: str
    score: float
    highest: float
    threshold: float | None
    is_alarm: bool


class Drift(NamedTuple):
    """The test of the last scores against calibration.

    clips: recordings that are no alarms, above the score at which the distributions differ most;
    empty unless the last scores are higher.
    """

    p_value: float
    is_higher: bool
    tested: int  # scores
    alarms: int  # of these
    clips: tuple[str, ...]

    @property
    def is_found(self) -> bool:
        return self.p_value < LEVEL

    @property
    def word(self) -> str | None:
        """higher or lower; None where scores do not drift."""
        return ("higher" if self.is_higher else "lower") if self.is_found else None

    def looks_new(self, rate: float) -> bool:
        """Whether scores drift upwards while alarms are few: at most twice their rate, or FEW."""
        few = self.alarms <= max(FEW, 2 * rate) * self.tested
        return self.is_found and self.is_higher and few


def drift(calibration: np.ndarray, last: list[Scored]) -> Drift | None:
    """Whether the last TESTED scores come from another distribution than calibration (n,).

    None where there are too few of one or the other. The test takes the scores for independent
    of each other; alike ones (of one hour, of one state) count as more than they are.
    """
    from scipy.stats import ks_2samp

    last = last[-TESTED:]
    if len(last) < LEAST or not len(calibration):
        return None
    test = ks_2samp([one.score for one in last], calibration)
    is_higher = test.statistic_sign < 0  # the share of last scores below a value is smaller
    above = [one for one in last if one.score > test.statistic_location and not one.is_alarm]
    clips = tuple(one.clip for one in above) if is_higher else ()
    alarms = sum(one.is_alarm for one in last)
    return Drift(float(test.pvalue), bool(is_higher), len(last), alarms, clips)


def fingerprint(detector: Detector, machine: str) -> str:
    """Another one after every change of the machine's references or calibration."""
    own = detector.machines[machine]
    windows = () if own.held_out_windows is None else own.held_out_windows
    values = np.concatenate([own.held_out, windows]).astype(np.float64)
    return hashlib.sha256(values.tobytes()).hexdigest()[:16]


Series = dict[str, dict[str, Any]]  # machine -> calibration, recordings, windows


def read(file: Path) -> Series:
    """What a state file has; InputError where another file is there."""
    if not file.exists():
        return {}
    try:
        machines = json.loads(file.read_text(encoding="utf-8"))["machines"]
        for own in machines.values():
            own["calibration"] = str(own["calibration"])
            for kind in (RECORDINGS, WINDOWS):
                own[kind] = [checked(Scored(**entry)) for entry in own[kind]]
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(
            f"{file}: no file of recent scores ({reason}); remove it, or name another"
        ) from None
    return machines


def checked(one: Scored) -> Scored:
    """With numbers where numbers belong; ValueError or TypeError otherwise."""
    if not np.isfinite([one.score, one.highest]).all():
        raise ValueError(f"score {one.score}")
    return one


class Recent:
    """The last KEPT scores of each machine and kind, in `file`.

    A machine's scores begin again when its references or calibration have changed, since scores of
    two detectors do not compare. `save` merges with what another process has written meanwhile.
    """

    def __init__(self, file: Path, detector: Detector):
        self.file = file
        self.fingerprints = {name: fingerprint(detector, name) for name in detector.machines}
        self.series = read(file)
        self.unsaved: list[tuple[str, str, Scored]] = []

    def of(self, machine: str, kind: str) -> list[Scored]:
        """From the oldest to the newest."""
        own = self.series.get(machine)
        is_own = own is not None and own["calibration"] == self.fingerprints.get(machine)
        return list(own[kind]) if own and is_own else []

    def add(self, machine: str, kind: str, one: Scored) -> None:
        self.unsaved.append((machine, kind, checked(one)))
        self._insert(machine, kind, one)

    def save(self) -> None:
        """Write the file, if something is new; InputError where it cannot be written."""
        if not self.unsaved:
            return
        self.series = read(self.file)
        for machine, kind, one in self.unsaved:
            self._insert(machine, kind, one)
        kinds = (RECORDINGS, WINDOWS)
        machines = {
            name: own | {kind: [one._asdict() for one in own[kind]] for kind in kinds}
            for name, own in self.series.items()
        }
        write_json(self.file, {"machines": machines})
        self.unsaved = []

    def _insert(self, machine: str, kind: str, one: Scored) -> None:
        mark = self.fingerprints[machine]
        if self.series.get(machine, {}).get("calibration") != mark:
            self.series[machine] = {"calibration": mark, RECORDINGS: [], WINDOWS: []}
        own = self.series[machine][kind]
        known = [i for i, other in enumerate(own) if one.key and other.key == one.key]
        if known:
            own[known[0]] = one._replace(time=own[known[0]].time)
        else:
            self.series[machine][kind] = [*own, one][-KEPT:]
