"""Why a recording was scored as it was: what differs from the nearest normal clip."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd

from reporting.curves import curve_file
from unlabeledasd.audio.two_channels import Channel
from unlabeledasd.detection.detector import Detector
from unlabeledasd.detection.explanations import draw, explain
from unlabeledasd.detection.nearest import NormalClips, first_window, window_at
from unlabeledasd.errors import printable
from unlabeledasd.files import write_json


class Explainer:
    """Writes an explanation of each recording below `out`, as JSON and PNG."""

    def __init__(self, detector: Detector, run: Path, out: Path, arguments: list[Path]):
        self.detector, self.normal = detector, NormalClips(run)
        self.out, self.arguments = out, arguments

    def explain(
        self, path: Path, machine: str, curve: pd.DataFrame, hop: float | None, channel: Channel
    ) -> str:
        """One sentence on the window with the highest score of `curve`."""
        detector = self.detector
        rate, length = detector.sample_rate, detector.n_samples
        step = length // 2 if hop is None else round(hop * rate)
        channel = detector.channel if channel is None else channel
        begin = float(curve.start_s[curve.score.idxmax()])
        wave = window_at(path, round(begin * rate), rate, length, step, channel)
        nearest = self.normal.nearest(machine, detector.extractors[-1](wave[None]))
        normal = first_window(nearest, rate, length, channel)
        found = explain(wave, normal, rate)
        shifted = replace(found, start_s=begin + found.start_s, end_s=begin + found.end_s)
        sentence = f"{shifted.sentence()} against {printable(nearest.name)}"
        file = curve_file(self.out, self.arguments, path, machine).with_suffix(".json")
        values = {name: round(float(value), 3) for name, value in asdict(shifted).items()}
        kept = {"clip": printable(path), "machine": machine, "sentence": sentence, **values}
        write_json(file, {**kept, "nearest_normal": printable(nearest)})
        titles = (printable(path.name), f"nearest normal clip: {printable(nearest.name)}")
        draw(file.with_suffix(".png"), np.asarray(wave), normal, rate, titles)
        return sentence
