"""Score new recordings with a finished run, or with what src/export.py made of one.

  python src/score.py RUN recording.wav --machine gearbox
  python src/score.py RUN FOLDER              every recording below it, of the machine of its folder
  python src/score.py RUN FOLDER --watch      then also those that come, until Ctrl-C
  python src/score.py RUN hour.wav --machine fan --curves FOLDER --pictures   the score over time
  python src/score.py RUN FOLDER --explain FOLDER    what differs from the nearest normal clip
  python src/score.py RUN FOLDER --format csv > scores.csv                    or jsonl
  python src/score.py RUN FOLDER --normal NORMALS    thresholds from your own normal recordings
  arecord -f S16_LE -r 16000 | python src/score.py RUN -     a live stream, a JSON line per window

Recordings are wav, flac, ogg, mp3, aiff, au, caf or w64, of any sample rate, length and number of
channels (docs/recordings.md). The nearest folder that is named as a machine decides, from FOLDER on
downwards. A recording that cannot be scored is reported, the others are scored, and the exit status
is 1.

A recording up to the length that the run was trained on is scored as src/infer.py scores it. A
longer one is cut into windows; its score is their mean. The percentile is among the scores of
training clips held out from the scorer, and the decision is anomaly above their threshold, as in
the challenge. The network has seen these clips, so new normal clips score higher, and where there
were few of them alarms are far more frequent than the quantile says. So give 30 or more normal
recordings of a machine, which were not trained on, by --normal. A run that was trained with
calibrate=0.1, and a detector of src/learn.py, have set such recordings aside: their thresholds keep
a rate of false alarms, and the p-value is the chance of a score as high for a normal recording.
Their last scores are kept in recent.json in their folder; a line says where they drift from
calibration as a whole, which single alarms do not say.
"""

import argparse
import io
import os
import sys
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import NoReturn

import numpy as np
from tqdm import tqdm

from reporting.curves import curve_file, write_curve
from reporting.drift import History, drift_fields, state_options
from reporting.explained import Explainer
from reporting.lines import (
    FIELDS,
    Tally,
    as_line,
    csv_line,
    guarantee,
    print_beside_bar,
    reported,
)
from reporting.stream import score_stream, stream_options
from unlabeledasd.audio.clip_names import composed
from unlabeledasd.audio.folders import Found
from unlabeledasd.decisions import THRESHOLDS
from unlabeledasd.detection.inbox import SUFFIXES, Inbox, Recording, look, machine_of, settled
from unlabeledasd.detection.recent import RECORDINGS
from unlabeledasd.errors import InputError, one_line_errors, printable


def refer_to(detector, inbox: Inbox, tally: Tally, options: argparse.Namespace) -> None:
    """Replace the scores of the held-out training clips by those of normal recordings."""
    if not options.normal.exists():
        raise InputError(f"--normal {options.normal}: no such folder")
    curves: dict[str, list[np.ndarray]] = {}
    for error in inbox.unreadable:
        tally.fail(error)
    for recording in tqdm(inbox.recordings, desc="normal", leave=False, disable=None):
        with reported(tally, recording.path):
            machine = find_machine(detector, recording, options)
            curve = detector.curve_file(recording.path, machine, options.hop, options.channel)
            curves.setdefault(machine, []).append(curve.score.to_numpy())
    if not curves:
        raise InputError(f"--normal {options.normal}: no recording in it ({' '.join(SUFFIXES)})")
    rng = np.random.default_rng(0)
    for machine, own in curves.items():
        means = np.array([curve.mean() for curve in own])
        one_each = np.array([rng.choice(curve) for curve in own])
        detector.machines[machine] = replace(
            detector.machines[machine], held_out=means, held_out_windows=one_each
        )


def find_machine(detector, recording: Recording, options: argparse.Namespace) -> str:
    """The machine of a recording: as --machine says, or its folder."""
    machines = list(detector.machines)
    machine = options.machine or machine_of(recording, machines)
    if machine is None:
        raise InputError(
            f"{recording.path}: no folder of it is named as a machine, from {recording.argument} "
            f"downwards; --machine takes {' '.join(machines)}"
        )
    return machine


def score(detector, recording: Recording, tally: Tally, options: argparse.Namespace) -> None:
    """Print the score of a recording and its notes; write its curve if --curves says so."""
    path, explainer = recording.path, options.explainer
    machine = find_machine(detector, recording, options)
    copied = tally.copies.earlier(path) if path.is_file() else None
    curve = detector.curve_file(path, machine, options.hop, options.channel)
    notes = curve.attrs["notes"] + [f"the same recording as {copied}"] * bool(copied)
    threshold = detector.threshold(machine, options.threshold, options.quantile)
    above, worst = curve.score > threshold, curve.loc[curve.score.idxmax()]
    mean = float(curve.score.mean())
    values = [
        printable(path),
        machine,
        mean,
        float(detector.percentile(machine, mean)),
        threshold,
        None if isnan(threshold) else "anomaly" if mean > threshold else "normal",
        len(curve),
        int(above.sum()),
        worst.start_s,
        printable("; ".join(notes)) or None,
        float(detector.p_value(machine, mean)),
        explainer and explainer.explain(path, machine, curve, options.hop, options.channel),
    ]
    drift = options.history.add_recording(path, machine, curve.score.to_numpy(), threshold)
    values += drift_fields(drift).values()
    result = {
        name: None if isinstance(value, float) and isnan(value) else value
        for name, value in zip(FIELDS, values, strict=True)
    }
    print_beside_bar(as_line(result, options.format), sys.stdout)
    tally.scored += 1
    for note in notes:
        print_beside_bar(f"note: {path}: {note}", sys.stderr)
    if options.watch:
        options.history.follow(machine, RECORDINGS, drift)
    if options.curves:
        file = curve_file(options.curves, options.recordings, path, machine)
        write_curve(file, curve, threshold, options.pictures)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "run", type=Path, help="results/exp/<dataset>/<method>_<seed>, or an exported folder"
    )
    parser.add_argument("recordings", nargs="+", type=Path, metavar="CLIP_OR_FOLDER")
    parser.add_argument("--machine", help="what the recordings are of")
    parser.add_argument(
        "--channel", type=int, help="counted from 0 (that of the run; without one the mean of all)"
    )
    parser.add_argument(
        "--hop", type=float, metavar="SECONDS", help="between windows (half a window)"
    )
    parser.add_argument(
        "--threshold", choices=THRESHOLDS, default="auto", help="how (default: %(default)s)"
    )
    parser.add_argument(
        "--quantile", type=float, default=0.9, help="of normal scores (default: %(default)s)"
    )
    parser.add_argument(
        "--normal", type=Path, metavar="FOLDER", help="normal recordings to take both from instead"
    )
    parser.add_argument("--format", choices=["text", "csv", "jsonl"], default="text")
    parser.add_argument(
        "--curves",
        type=Path,
        metavar="FOLDER",
        help="write the score over time of each there, as CSV",
    )
    parser.add_argument("--pictures", action="store_true", help="with --curves: as PNG too")
    parser.add_argument(
        "--explain",
        type=Path,
        metavar="FOLDER",
        help="say at which time and frequency each differs from the nearest normal clip; write "
        "pictures and JSON there",
    )
    parser.add_argument(
        "--watch", action="store_true", help="then follow the folder; Ctrl-C ends it"
    )
    parser.add_argument(
        "--settle",
        type=float,
        default=2,
        metavar="SECONDS",
        help="with --watch: how long a file has been left alone (default: %(default)s)",
    )
    stream_options(parser)
    state_options(parser)
    options = parser.parse_args(arguments)
    with one_line_errors(OSError):
        sys.exit(run(options))


def run(options: argparse.Namespace) -> int:
    """Print a line for each recording; 1 if one could not be scored."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files in whatever encoding it has
            stream.reconfigure(errors="backslashreplace")
    if options.watch and not (len(options.recordings) == 1 and options.recordings[0].is_dir()):
        raise InputError(f"--watch: one folder, not {' '.join(map(str, options.recordings))}")
    if not 0 < options.quantile < 1:
        raise InputError(f"--quantile {options.quantile}: between 0 and 1")
    from settings.kept import build_kept
    from unlabeledasd.detection.loading import load_detector

    detector = load_detector(options.run, build=build_kept)
    if options.machine:
        options.machine = known_machine(options.machine, list(detector.machines))
    if (
        options.hop is not None
        and not 0 < round(options.hop * detector.sample_rate) <= detector.n_samples
    ):
        window = detector.n_samples / detector.sample_rate
        raise InputError(
            f"--hop {options.hop}: more than 0 and at most {window:g} s, the length of a window"
        )
    options.history = History(detector, options.run, options)
    try:
        return score_them(detector, Tally(), options)
    finally:
        options.history.finish()


def score_them(detector, tally: Tally, options: argparse.Namespace) -> int:
    """A stream, or recordings and folders -> exit status."""
    if options.recordings == [Path("-")]:
        if options.normal:
            refer_to(detector, look([options.normal]), tally, options)
        elif line := guarantee(detector, options.threshold):
            print_beside_bar(line, sys.stderr)
        status = score_stream(detector, sys.stdin.buffer, options, options.history)
        return status or int(tally.failed > 0)
    options.explainer = None
    if options.explain:
        options.explainer = Explainer(detector, options.run, options.explain, options.recordings)
    for path in options.recordings:
        if not os.path.lexists(path):
            tally.fail(f"{path}: no such recording or folder")
    options.recordings = [path for path in options.recordings if os.path.lexists(path)]
    if options.normal:
        refer_to(detector, look([options.normal]), tally, options)
    if options.watch:
        watch(detector, tally, options)
    return score_all(detector, tally, options)


def known_machine(given: str, machines: list[str]) -> str:
    names = {composed(machine): machine for machine in machines}
    if composed(given) not in names:
        raise InputError(f"--machine {given}: unknown; the run has {' '.join(machines)}")
    return names[composed(given)]


def score_all(detector, tally: Tally, options: argparse.Namespace) -> int:
    inbox = look(options.recordings)
    for error in inbox.unreadable:
        tally.fail(error)
    if not inbox.recordings and not tally.failed:
        folders = " ".join(map(str, options.recordings))
        others = f"; left out: {inbox.left_out}" if inbox.left_out.counts else ""
        raise InputError(f"{folders}: no recording in it ({' '.join(SUFFIXES)}){others}")
    print_head(options)
    # a bar where there is a terminal and more than one to wait for
    count = len(inbox.recordings)
    for recording in tqdm(
        inbox.recordings, unit="clip", leave=False, disable=True if count == 1 else None
    ):
        with reported(tally, recording.path):
            score(detector, recording, tally, options)
    if tally.scored and not options.normal and (line := guarantee(detector, options.threshold)):
        print_beside_bar(line, sys.stderr)
    if summary := tally.summary(inbox):
        print_beside_bar(f"note: {summary}", sys.stderr)
    return int(tally.failed > 0)


def watch(detector, tally: Tally, options: argparse.Namespace) -> NoReturn:
    """Score what is in a folder and what comes, until Ctrl-C."""

    def report(found: Found) -> None:
        for error in found.unreadable:
            tally.fail(error)
        if found.left_out.counts:
            print_beside_bar(
                f"note: {options.recordings[0]}: left out: {found.left_out}", sys.stderr
            )

    print_head(options)
    for recording in settled(options.recordings[0], options.settle, report):
        with reported(tally, recording.path):
            score(detector, recording, tally, options)


def print_head(options: argparse.Namespace) -> None:
    if options.format == "csv":
        print(csv_line(FIELDS), flush=True)


if __name__ == "__main__":
    main()
