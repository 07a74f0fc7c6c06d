"""The page of a detector (src/report.py DETECTOR): one file that needs no network."""

from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from reporting.drift import sentence
from reporting.explained import against_nearest, worst_window
from reporting.page import rounded
from reporting.rendering import rendered
from reporting.worst_clips import audio_uri, difference, spectrogram_uri
from unlabeledasd.detection.detector import Detector
from unlabeledasd.detection.learning import Learned, promise, read_facts, read_learned
from unlabeledasd.detection.loading import load_detector
from unlabeledasd.detection.nearest import NormalClips
from unlabeledasd.detection.recent import NAME, RECORDINGS, WINDOWS, Recent, Scored, drift
from unlabeledasd.detection.survey import summary
from unlabeledasd.errors import InputError, printable
from unlabeledasd.files import write_text
from unlabeledasd.results import find_csv, read_scores
from unlabeledasd.runs.folder import Run, version_name


def write_detector_page(folder: Path, state: Path | None = None, clips: int = 0) -> Path:
    """Write DETECTOR/detector.html -> its path.

    state: the file of recent scores, None: the detector's own. clips: of each machine, shown with
    player, spectrogram and explanation. InputError where `folder` is no detector of src/learn.py.
    """
    run = Run(folder)
    learned = read_learned(run)
    detector = load_detector(folder)
    if state and not state.is_file():
        raise InputError(f"--state {state}: no such file")
    recent = Recent(state or folder / NAME, detector)
    machines = {}
    for name in tqdm(detector.machines, desc="page", unit="machine", leave=False, disable=None):
        machines[name] = details(detector, name, learned, recent)
        names = set(learned.windows.recording[learned.windows.machine == name])
        machines[name]["facts"] = summary([f for f in read_facts(run) if f.recording in names])
        if clips:
            machines[name] |= worst_clips(detector, name, recent, run, clips)
    seconds = detector.n_samples / detector.sample_rate
    text = rendered(
        "detector",
        {"machines": machines},
        title=f"Detector of {', '.join(machines)}",
        subtitle=f"{printable(folder.resolve())}: windows of {seconds:g} s at "
        f"{detector.sample_rate} Hz, alarm rate {detector.alarm_rate:g}",
        table=pd.DataFrame([overview(name, own) for name, own in machines.items()]),
    )
    write_text(folder / "detector.html", text)
    return folder / "detector.html"


def details(detector: Detector, machine: str, learned: Learned, recent: Recent) -> dict[str, Any]:
    """Calibration, recent scores and drift of a machine, of recordings and of streams."""
    rate = detector.alarm_rate
    found: dict[str, Any] = {"promise": promise(learned, machine, rate), "drift": [], "clips": []}
    found["references"] = learned.of(machine, "reference", "both").windows.recording.nunique()
    for kind, decides in ((RECORDINGS, detector), (WINDOWS, detector.of_windows())):
        scores, last = decides.machines[machine].held_out, recent.of(machine, kind)
        found[kind] = timeline(last) | {
            "calibration": rounded(scores),
            "threshold": decides.threshold(machine),
        }
        tested = drift(scores, last)
        if tested and tested.is_found:
            clips = tested.clips if tested.looks_new(rate) else ()
            found["drift"].append({"line": sentence(machine, kind, tested, rate), "clips": clips})
    return found


def timeline(last: list[Scored]) -> dict[str, list]:
    """Recent scores as columns; a recording is shown by its score, a minute by the highest one."""
    return {
        "scores": rounded([one.score for one in last]),
        "shown": rounded([one.score if one.clip else one.highest for one in last]),
        "alarms": [one.is_alarm for one in last],
        "times": [one.time for one in last],
        "clips": [one.clip for one in last],
    }


def overview(machine: str, own: dict[str, Any]) -> dict[str, str]:
    """A row of the table of machines."""
    last = own[RECORDINGS]["alarms"]
    words = [line["line"].partition(" than ")[0].rpartition(" ")[2] for line in own["drift"]]
    return {
        "machine": machine,
        "recordings to compare with": str(own["references"]),
        "calibration scores": str(len(own[RECORDINGS]["calibration"])),
        "threshold": f"{own[RECORDINGS]['threshold']:.4f}",
        "alarms": f"{sum(last)} of the last {len(last)}" if last else "",
        "drift": ", ".join(words) or "no",
    }


def worst_clips(
    detector: Detector, machine: str, recent: Recent, run: Run, count: int
) -> dict[str, Any]:
    """The last recordings with the highest scores, explained; else those of calibration."""
    last = sorted(recent.of(machine, RECORDINGS), key=lambda one: -one.score)[:count]
    if last:
        normal = NormalClips(run.folder)
        kinds = [f"{'alarm' if one.is_alarm else 'normal'}, score {one.score:.4f}" for one in last]
        shown = [
            shown_clip(detector, machine, one.clip, head, normal)
            for one, head in zip(last, kinds, strict=True)
        ]
        return {"clips_title": "Last recordings with the highest scores", "clips": shown}
    version = version_name(run.read_config()["score_epochs"])
    table = read_scores(find_csv(run, machine, version, "held_out_score"))
    table = table[[Path(path).is_file() for path in table.path]]  # others are parts of recordings
    shown = [
        shown_clip(detector, machine, row.path, f"score {row.score:.4f}", None)
        for row in table.nlargest(count, "score").itertuples()
    ]
    title = "Calibration recordings with the highest scores: are they normal?"
    return {"clips_title": title, "clips": shown}


def shown_clip(
    detector: Detector, machine: str, clip: str, head: str, normal: NormalClips | None
) -> dict[str, Any]:
    """The worst window of a recording and, given `normal`, of the clip it resembles most there."""
    rate, path = detector.sample_rate, Path(clip)
    try:
        curve = detector.curve_file(path, machine)
        wave, begin = worst_window(detector, path, curve, None, None)
    except InputError as error:
        return {"media": None, "texts": [head, str(error)]}
    place = f"{detector.n_samples / rate:g} s from {begin:.1f} s on"
    media = [audio_uri(wave, rate), spectrogram_uri(wave, rate)]
    shown = {"media": media, "texts": [f"{head}; {place}", printable(clip)]}
    if normal is None:
        return shown
    try:
        made = against_nearest(detector, normal, path, machine, curve)
    except InputError as error:
        return shown | {"normal": "", "found": {"missing": str(error)}}
    found = difference(wave, made.normal, rate) | {"sentence": made.sentence()}
    sound = audio_uri(made.normal, rate)
    return shown | {"normal": printable(made.nearest), "found": found, "normal_sound": sound}
