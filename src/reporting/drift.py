"""What is kept and said of the scores of a call: the state file, one line where scores drift."""

import argparse
import os
import sys
from datetime import datetime
from pathlib import Path
from time import monotonic

import numpy as np

from reporting.lines import print_beside_bar
from unlabeledasd.detection.detector import Detector
from unlabeledasd.detection.inbox import content
from unlabeledasd.detection.recent import (
    LEVEL,
    NAME,
    RECORDINGS,
    WINDOWS,
    Drift,
    Recent,
    Scored,
    drift,
)
from unlabeledasd.errors import InputError, printable

SAVE_SECONDS = 10  # between two writings of the state file, while a folder or stream is followed
STREAM_SECONDS = 60  # of a stream, one score is kept: windows next to each other are alike
SHOWN = 3  # names in a line


def state_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state", type=Path, metavar="FILE", help=f"of recent scores (the detector's {NAME})"
    )
    parser.add_argument("--no-state", action="store_true", help="neither read nor write it")


class History:
    """Keeps the scores of a detector with an alarm rate, and says where they drift.

    detector: as loaded; `calibrated` is the one that decides, with --normal or of windows. A
    detector without an alarm rate has no scores of clips that its network has not seen, so that
    nothing is kept.
    """

    def __init__(self, detector: Detector, folder: Path, options: argparse.Namespace):
        self.calibrated, self.rate = detector, detector.alarm_rate
        if options.state and options.no_state:
            raise InputError(f"--state {options.state}: not together with --no-state")
        if options.state and self.rate is None:
            raise InputError(
                f"--state {options.state}: {folder} has no calibration scores to compare with; "
                "a detector of src/learn.py has them"
            )
        self.recent = None
        if self.rate is not None and not options.no_state:
            self.recent = Recent(options.state or folder / NAME, detector)
        self.said: set[tuple[str, str]] = set()
        self.changed: dict[tuple[str, str], None] = {}
        self.saved = monotonic()
        self.stream, self.kept = now(), None  # the last one that is kept of a stream

    def add_recording(
        self, path: Path, machine: str, scores: np.ndarray, threshold: float
    ) -> Drift | None:
        """Keep the score of a recording, the mean of scores (W,) of its windows -> drift so far."""
        if self.recent is None:
            return None
        key = content(path).hex() if path.is_file() else ""
        clip = printable(os.path.abspath(path))  # noqa: PTH100  links stay links
        mean, highest = float(scores.mean()), float(scores.max())
        one = Scored(now(), clip, key, mean, highest, or_none(threshold), mean > threshold)
        return self._add(machine, RECORDINGS, one)

    def add_window(
        self, machine: str, number: int, every: int, score: float, threshold: float, alarm: bool
    ) -> Drift | None:
        """Keep the score of every `every`-th window of a stream; number: counted from 0.

        The windows up to the next one that is kept add their highest score and whether one of them
        is an alarm.
        """
        if self.recent is None:
            return None
        if self.kept is None or number % every == 0:
            key = f"{self.stream} {number}"
            self.kept = Scored(now(), "", key, score, score, or_none(threshold), alarm)
        highest = max(score, self.kept.highest)
        self.kept = self.kept._replace(highest=highest, is_alarm=self.kept.is_alarm or alarm)
        return self._add(machine, WINDOWS, self.kept)

    def _add(self, machine: str, kind: str, one: Scored) -> Drift | None:
        self.recent.add(machine, kind, one)
        self.changed[machine, kind] = None
        if monotonic() - self.saved > SAVE_SECONDS:
            self.save()
        return self.test(machine, kind)

    def test(self, machine: str, kind: str) -> Drift | None:
        if self.recent is None:
            return None
        own = self.calibrated.machines[machine]
        return drift(own.held_out, self.recent.of(machine, kind))

    def follow(self, machine: str, kind: str, found: Drift | None) -> None:
        """Say once that scores drift; again only after they clearly did not."""
        if found and found.is_found and (machine, kind) not in self.said:
            self.said.add((machine, kind))
            print_beside_bar(f"note: {sentence(machine, kind, found, self.rate)}", sys.stderr)
        elif found and found.p_value > 10 * LEVEL:
            self.said.discard((machine, kind))

    def save(self) -> None:
        """A state file that cannot be written is reported, and does not end the scoring."""
        self.saved = monotonic()
        try:
            if self.recent is not None:
                self.recent.save()
        except InputError as error:
            print_beside_bar(f"note: {error}; --state names another, --no-state none", sys.stderr)
            self.recent = None

    def finish(self) -> None:
        """Save, and say of each machine that was scored whether its scores drift."""
        for machine, kind in self.changed:
            self.follow(machine, kind, self.test(machine, kind))
        self.save()


def or_none(threshold: float) -> float | None:
    """JSON has no nan."""
    return None if np.isnan(threshold) else float(threshold)


def now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def sentence(machine: str, kind: str, found: Drift, rate: float) -> str:
    """One line on scores that drift: what changed, and what to do."""
    unit = "recordings" if kind == RECORDINGS else "kept windows"
    head = f"{machine}: scores of the last {found.tested} {unit} are {found.word} than calibration "
    head += f"as a whole (Kolmogorov-Smirnov, p = {found.p_value:.1g}), {found.alarms} are alarms"
    if not found.is_higher:
        return f"{head}; recordings that were learned score lower, and so may another operation"
    if not found.looks_new(rate):
        return (
            f"{head}; a fault, or another microphone, place or operating state: look for the cause"
        )
    if kind == WINDOWS:
        return (
            f"{head}; new but not faulty? record it, confirm the recordings, and add them with "
            "src/learn.py --add"
        )
    names = [Path(clip).name for clip in found.clips]
    listed = ", ".join(names[:SHOWN]) + f" and {len(names) - SHOWN} more" * (len(names) > SHOWN)
    these = f"these {len(names)} clips look" if len(names) > 1 else "this clip looks"
    return f"{head}; {these} new but not faulty: confirm and add with src/learn.py --add: {listed}"


def drift_fields(found: Drift | None) -> dict[str, str | float | None]:
    """For a line of JSON or CSV."""
    return {"drift": found and found.word, "drift_p_value": found and found.p_value}
