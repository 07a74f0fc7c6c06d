"""Score new recordings with a finished run, or with what src/export.py made of one.

  python src/score.py RUN recording.wav --machine gearbox
  python src/score.py RUN FOLDER                      every recording below it; the machine is told by folder names
  python src/score.py RUN FOLDER --watch              and then those that come, until Ctrl-C
  python src/score.py RUN hour.wav --machine fan --curves FOLDER --pictures       the score over time
  python src/score.py RUN FOLDER --format csv > scores.csv                        or jsonl
  python src/score.py RUN FOLDER --normal NORMAL_FOLDER       thresholds from normal recordings of your own

Any sample rate, length and number of channels; wav, flac, ogg, mp3, aiff. A recording up to the length that the run
was trained on is scored as src/infer.py scores it. A longer one is cut into windows, and its score is their mean.
The percentile is among the scores of training clips held out from the scorer, and the decision is anomaly above their
threshold, as the challenge has it. The network has seen these clips, so new normal clips score higher than they do,
and where there were few of them alarms are far more frequent than the quantile says: give normal recordings that were
not trained on by --normal, 30 or more of a machine, and percentile and threshold are taken from those.
"""

import argparse
import csv
import io
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import isnan, nan
from pathlib import Path

import numpy as np
from tqdm import tqdm

from unlabeledasd.decisions import THRESHOLDS
from unlabeledasd.detection.recordings import SUFFIXES, audio_files
from unlabeledasd.errors import InputError, one_line_errors

FIELDS = (
    "clip",
    "machine",
    "score",
    "percentile",
    "threshold",
    "decision",
    "windows",
    "windows_above",
    "worst_start_s",
)
POLL_SECONDS = 0.5


def machine_of(path: Path, machines: list[str]) -> str:
    """The machine a recording is of: the nearest folder that has a machine's name, or the only machine there is."""
    places = (Path(os.path.abspath(path)), path.resolve())  # noqa: PTH100  as it is called, then where links lead
    named = [part for place in places for part in reversed(place.parts[:-1]) if part in machines]
    if not named and len(machines) > 1:
        raise InputError(
            f"{path}: no folder of it is named as a machine; --machine takes {' '.join(machines)}"
        )
    return (named or machines)[0]


def settled(folder: Path, seconds: float) -> Iterator[Path]:
    """The recordings below `folder`, and those that come, forever: each as soon as its size and time have not changed
    for `seconds`, so that one still being written is not read half. A file that changes later comes again."""
    seen: dict[Path, list] = {}  # size and time, since when, whether it was given out
    while True:
        for path in audio_files(folder):
            try:
                status = path.stat()
            except OSError:  # taken away in between
                continue
            state, now = (status.st_size, status.st_mtime_ns), time.monotonic()
            if path not in seen or seen[path][0] != state:
                seen[path] = [state, now, status.st_size == 0]  # an empty file will change
            elif not seen[path][2] and now - seen[path][1] >= seconds:
                seen[path][2] = True
                yield path
        time.sleep(POLL_SECONDS)


def refer_to(detector, recordings: list[Path], options: argparse.Namespace) -> None:
    """Put the scores of normal recordings in place of those of the held-out training clips, machine by machine."""
    scores: dict[str, list[float]] = {}
    for path in tqdm(recordings, desc="normal", unit="clip", leave=False, disable=None):
        machine = options.machine or machine_of(path, list(detector.machines))
        scores.setdefault(machine, []).append(
            detector.score_file(path, machine, options.hop, options.channel)
        )
    if not scores:
        raise InputError(f"--normal {options.normal}: no recording in it ({' '.join(SUFFIXES)})")
    for machine, values in scores.items():
        detector.machines[machine] = replace(detector.machines[machine], held_out=np.array(values))


def judge(detector, path: Path, options: argparse.Namespace) -> dict:
    """What is printed about a recording, FIELDS; writes its curve if asked to."""
    machine = options.machine or machine_of(path, list(detector.machines))
    curve = detector.curve_file(path, machine, options.hop, options.channel)
    threshold = detector.threshold(machine, options.threshold, options.quantile)
    above, worst = curve.score > threshold, curve.loc[curve.score.idxmax()]
    score = float(curve.score.mean())
    decision = None if isnan(threshold) else "anomaly" if score > threshold else "normal"
    if options.curves:
        write_curve(curve_file(path, machine, options), curve, threshold, options.pictures)
    percent = float(detector.percentile(machine, score))
    values = [
        str(path),
        machine,
        score,
        percent,
        threshold,
        decision,
        len(curve),
        int(above.sum()),
        worst.start_s,
    ]
    return {
        name: None if isinstance(value, float) and isnan(value) else value
        for name, value in zip(FIELDS, values, strict=True)
    }


def curve_file(path: Path, machine: str, options: argparse.Namespace) -> Path:
    """In subfolders like those that the recordings lie in, so that equal names in two of them stay apart."""
    folders = [given if given.is_dir() else given.parent for given in options.recordings]
    tops = [os.path.abspath(folder) for folder in folders]  # noqa: PTH100
    place = Path(os.path.relpath(path, os.path.commonpath(tops)))
    return options.curves / place.with_name(f"{machine}_{path.stem}.csv")


def write_curve(file: Path, curve, threshold: float, picture: bool) -> None:
    from unlabeledasd.files import replacing, write_csv

    write_csv(file, curve)
    if picture:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.plot(curve.start_s, curve.score, marker=".")
        axes.axhline(threshold, color="tab:red", linestyle="--", label="threshold")
        axes.set(title=file.stem, xlabel="start of the window in s", ylabel="anomaly score")
        axes.legend(loc="upper right")
        with replacing(file.with_suffix(".png")) as temporary:
            figure.savefig(temporary, format="png", dpi=100)


def as_line(verdict: dict, form: str) -> str:
    if form == "jsonl":
        return json.dumps(verdict, ensure_ascii=False)
    if form == "csv":
        return csv_line(verdict.values())
    percent = "?" if verdict["percentile"] is None else f"{verdict['percentile']:.0f}"
    text = f"{verdict['score']:.4f}  {percent:>3} %  {verdict['decision'] or '?':7}  {verdict['machine']}"
    if verdict["windows"] > 1:
        text += f"  {verdict['windows_above']} of {verdict['windows']} windows above {verdict['threshold'] or nan:.4f}"
        text += f", the highest at {verdict['worst_start_s']:.0f} s"
    return f"{text}  {verdict['clip']}"


def csv_line(values: Iterable) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(values)
    return buffer.getvalue()


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
        "--threshold", choices=THRESHOLDS, default="gamma", help="how (default: %(default)s)"
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
        "--watch", action="store_true", help="then follow the folder; Ctrl-C ends it"
    )
    parser.add_argument(
        "--settle",
        type=float,
        default=2,
        metavar="SECONDS",
        help="with --watch: how long a file has been left alone (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    with one_line_errors(OSError):
        sys.exit(run(options))


def run(options: argparse.Namespace) -> int:
    """Print a line per recording; 1 if one could not be scored."""
    for path in options.recordings:
        if not path.exists():
            raise InputError(f"{path}: no such recording or folder")
    if options.watch and not (len(options.recordings) == 1 and options.recordings[0].is_dir()):
        raise InputError(f"--watch: one folder, not {' '.join(map(str, options.recordings))}")
    if not 0 < options.quantile < 1:
        raise InputError(f"--quantile {options.quantile}: between 0 and 1")
    from settings.kept import build_kept
    from unlabeledasd.detection.loading import load_detector

    detector = load_detector(options.run, build=build_kept)
    if options.machine and options.machine not in detector.machines:
        raise InputError(
            f"--machine {options.machine}: unknown; the run has {' '.join(detector.machines)}"
        )
    if (
        options.hop is not None
        and not 0 < round(options.hop * detector.sample_rate) <= detector.n_samples
    ):
        window = detector.n_samples / detector.sample_rate
        raise InputError(
            f"--hop {options.hop}: more than 0 and at most {window:g} s, the length of a window"
        )
    if options.normal:
        refer_to(detector, audio_files(options.normal), options)
    if options.watch:
        clips = settled(options.recordings[0], options.settle)
    else:
        clips = [
            clip
            for path in options.recordings
            for clip in (audio_files(path) if path.is_dir() else [path])
        ]
        if not clips:
            folders = " ".join(map(str, options.recordings))
            raise InputError(f"{folders}: no recording in it ({' '.join(SUFFIXES)})")
    if options.format == "csv":
        print(csv_line(FIELDS), flush=True)
    # a bar where there is a terminal and more than one to wait for
    bar = tqdm(clips, unit="clip", leave=False, disable=options.watch or len(clips) == 1 or None)
    return 1 - min([tell(detector, clip, options) for clip in bar])


def tell(detector, clip: Path, options: argparse.Namespace) -> bool:
    """Print the verdict; False where there is none, since the recording cannot be used."""
    try:
        tqdm.write(as_line(judge(detector, clip, options), options.format), file=sys.stdout)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    finally:
        sys.stdout.flush()
    return True


if __name__ == "__main__":
    main()
