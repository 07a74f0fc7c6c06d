"""Why a recording was scored as it was: what differs from the nearest normal clip."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from reporting.curves import curve_file
from unlabeledasd.audio.two_channels import Channel
from unlabeledasd.detection.detector import Detector
from unlabeledasd.detection.explanations import Explanation, draw, explain
from unlabeledasd.detection.nearest import NormalClips, first_window, window_at
from unlabeledasd.errors import printable
from unlabeledasd.files import write_json


class Compared(NamedTuple):
    """The window of a recording with the highest score, next to the first of a normal clip."""

    wave: np.ndarray
    normal: np.ndarray
    nearest: Path  # the normal clip
    found: Explanation  # times in the window
    begin: float  # of the window, in seconds

    def in_recording(self) -> Explanation:
        """With times in the recording."""
        start, end = self.begin + self.found.start_s, self.begin + self.found.end_s
        return replace(self.found, start_s=start, end_s=end)

    def sentence(self) -> str:
        return f"{self.in_recording().sentence()} against {printable(self.nearest.name)}"


def worst_window(
    detector: Detector, path: Path, curve: pd.DataFrame, hop: float | None, channel: Channel
) -> tuple[np.ndarray, float]:
    """The window (n_samples,) with the highest score of `curve`, and its start in seconds."""
    rate, length = detector.sample_rate, detector.n_samples
    step = length // 2 if hop is None else round(hop * rate)
    channel = detector.channel if channel is None else channel
    begin = float(curve.start_s[curve.score.idxmax()])
    return window_at(path, round(begin * rate), rate, length, step, channel), begin


def against_nearest(
    detector: Detector,
    clips: NormalClips,
    path: Path,
    machine: str,
    curve: pd.DataFrame,
    hop: float | None = None,
    channel: Channel = None,
) -> Compared:
    """What differs in the worst window of a recording; `curve` is its score over time.

    InputError where the nearest normal clip is not there any more.
    """
    wave, begin = worst_window(detector, path, curve, hop, channel)
    channel = detector.channel if channel is None else channel
    nearest = clips.nearest(machine, detector.extractors[-1](wave[None]))
    normal = first_window(nearest, detector.sample_rate, detector.n_samples, channel)
    found = explain(wave, normal, detector.sample_rate)
    return Compared(wave, normal, nearest, found, begin)


class Explainer:
    """Writes an explanation of each recording below `out`, as JSON and PNG."""

    def __init__(self, detector: Detector, run: Path, out: Path, arguments: list[Path]):
        self.detector, self.normal = detector, NormalClips(run)
        self.out, self.arguments = out, arguments

    def explain(
        self, path: Path, machine: str, curve: pd.DataFrame, hop: float | None, channel: Channel
    ) -> str:
        """One sentence on the window with the highest score of `curve`."""
        made = against_nearest(self.detector, self.normal, path, machine, curve, hop, channel)
        sentence, nearest = made.sentence(), made.nearest
        file = curve_file(self.out, self.arguments, path, machine).with_suffix(".json")
        found = asdict(made.in_recording())
        values = {name: round(float(value), 3) for name, value in found.items()}
        kept = {"clip": printable(path), "machine": machine, "sentence": sentence, **values}
        write_json(file, {**kept, "nearest_normal": printable(nearest)})
        titles = (printable(path.name), f"nearest normal clip: {printable(nearest.name)}")
        draw(file.with_suffix(".png"), made.wave, made.normal, self.detector.sample_rate, titles)
        return sentence
