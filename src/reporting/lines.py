"""What is printed of recordings that are scored one after the other: lines, problems, a summary."""

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import nan
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from unlabeledasd.detection.detector import Detector
from unlabeledasd.detection.inbox import Copies, Inbox
from unlabeledasd.errors import InputError, one_line, printable

FIELDS = (
    *("clip", "machine", "score", "percentile", "threshold", "decision"),
    *("windows", "windows_above", "worst_start_s", "note", "p_value", "explanation"),
    *("drift", "drift_p_value"),
)


NO_GUARANTEE = (
    "note: thresholds are from clips that the network was trained on, so no rate of false alarms "
    "is promised; training with calibrate=0.1, src/learn.py or --normal take clips that it has not "
    "seen"
)


def guarantee(detector: Detector, kind: str) -> str | None:
    """What thresholds of this kind promise; None where src/learn.py has said it, or nobody can."""
    if detector.alarm_rate is None:
        return NO_GUARANTEE
    if not detector.calibrated or kind != "auto":
        return None
    seconds = detector.n_samples / detector.sample_rate
    return (
        "note: thresholds are from clips that neither network nor scorer has seen, so that at most "
        f"{100 * detector.alarm_rate:g} % of new normal recordings like them, up to {seconds:g} s "
        "long, are false alarms (on average over such runs)"
    )


class Tally:
    """How many recordings were scored, how many could not be, and which came before."""

    def __init__(self) -> None:
        self.scored, self.failed, self.copies = 0, 0, Copies()

    def fail(self, error: object) -> None:
        self.failed += 1
        print_beside_bar(f"error: {error}", sys.stderr)

    def summary(self, inbox: Inbox) -> str:
        """One line on a batch; empty where nothing has to be said."""
        parts = []
        if self.scored + self.failed > 1:
            parts.append(f"{self.scored} recordings scored")
            parts += [f"{self.failed} could not be"] * bool(self.failed)
        parts += [f"left out: {inbox.left_out}"] * bool(inbox.left_out.counts)
        return "; ".join(parts)


def print_beside_bar(line: str, file: TextIO) -> None:
    tqdm.write(printable(line), file=file)
    file.flush()


@contextmanager
def reported(tally: Tally, path: Path) -> Iterator[None]:
    """Whatever happens with one recording is reported, so that the others are scored."""
    try:
        yield
    except BrokenPipeError:  # nobody reads what is printed
        raise
    except InputError as error:
        tally.fail(error)
    except Exception as error:  # one file must not end a batch, or a watch that runs for months
        tally.fail(f"{path}: cannot be used ({type(error).__name__}: {one_line(error)})")


def as_line(result: dict, form: str) -> str:
    if form == "jsonl":
        return json.dumps(result, ensure_ascii=False)
    if form == "csv":
        return csv_line(result.values())
    percent = "?" if result["percentile"] is None else f"{result['percentile']:.0f}"
    decision = result["decision"] or "?"
    text = f"{result['score']:.4f}  {percent:>3} %  {decision:7}  {result['machine']}"
    if result["windows"] > 1:
        threshold = nan if result["threshold"] is None else result["threshold"]
        text += f"  {result['windows_above']} of {result['windows']} windows above {threshold:.4f}"
        text += f", the highest at {result['worst_start_s']:.0f} s"
    if result["explanation"]:
        text += f"  ({result['explanation']})"
    return f"{text}  " + result["clip"].replace("\n", "\\n")


def csv_line(values: Iterable) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(values)
    return buffer.getvalue()
