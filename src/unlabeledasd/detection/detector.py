"""A trained run as a detector: the anomaly score of any recording of its machines."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from tqdm import tqdm

from unlabeledasd.audio import AudioFile
from unlabeledasd.audio.two_channels import Channel
from unlabeledasd.decisions import percentile
from unlabeledasd.detection.conformal import p_values, threshold
from unlabeledasd.detection.recordings import array_blocks, read_blocks, windows
from unlabeledasd.errors import InputError

BATCH = 4  # windows that pass the network together

Extractor = Callable[[np.ndarray], np.ndarray]  # waveforms (B, T) float32 -> embeddings (B, D)


@dataclass(frozen=True)
class MachineScorers:
    """The fitted scorers of a machine, one per extractor, and scores of normal clips.

    held_out (N,): means over the extractors, of training clips held out from the scorers unless
    others replace them; thresholds and percentiles come from these. Empty where there are none.
    held_out_windows (N,): of one window each, where they are clips of several windows; None: the
    run does not have them apart.
    """

    scorers: list[BaseEstimator]
    held_out: np.ndarray
    held_out_windows: np.ndarray | None = None


@dataclass(frozen=True)
class Detector:
    """The extractors of a run, one per kept epoch, with the scorers of each machine.

        detector = load("results/exp/demo/subloss_0256_4096_1")  # unlabeledasd.detection.load
        score = detector.score_file("recording.wav", machine="gearbox")
        is_anomalous = score > detector.threshold("gearbox")

    A score is the mean over the extractors and over the windows of a recording; higher = more
    anomalous. A recording of up to `n_samples` at `sample_rate` is one window, repeated to that
    length as in training. A longer one has a window every `hop_seconds` (None: half a window).
    `machine` may be left out where the run has only one. `channel` (counted from 0) is taken of
    recordings of several channels; None: the run's own, else the mean of all. `alarm_rate` says
    that the held-out clips are unknown to network and scorer, as src/learn.py sets them aside:
    thresholds are then conformal, with that rate of false alarms. `calibrated`: src/train.py did,
    with calibrate=SHARE.
    """

    extractors: list[Extractor]
    machines: dict[str, MachineScorers]
    sample_rate: int
    n_samples: int
    channel: Channel = None
    alarm_rate: float | None = None
    calibrated: bool = False

    def score_file(
        self,
        path: str | Path,
        machine: str | None = None,
        hop_seconds: float | None = None,
        channel: Channel = None,
    ) -> float:
        """The anomaly score of an audio file of any sample rate and length.

        InputError where the file cannot be read, or has no samples.
        """
        return float(self.curve_file(path, machine, hop_seconds, channel).score.mean())

    def score(
        self,
        samples: np.ndarray,
        sample_rate: float,
        machine: str | None = None,
        hop_seconds: float | None = None,
        channel: Channel = None,
    ) -> float:
        """The anomaly score of samples (T,) or (T, channels): float in [-1, 1], int16 or int32.

        sample_rate in Hz, resampled where it is not the run's. InputError for no samples, another
        dtype or values that are not finite.
        """
        return float(self.curve(samples, sample_rate, machine, hop_seconds, channel).score.mean())

    def curve_file(
        self,
        path: str | Path,
        machine: str | None = None,
        hop_seconds: float | None = None,
        channel: Channel = None,
    ) -> pd.DataFrame:
        """The score over time of an audio file: a row per window, columns as of `curve`.

        `attrs["notes"]` of the table is a list of what a user should know of these scores, such as
        "silent, no sound in it; used as it is".
        """
        path = Path(path)
        notes: list[str] = []
        machine, hop = self._machine(machine), self._hop(hop_seconds)
        channel = self.channel if channel is None else channel
        blocks = read_blocks(path, self.sample_rate, channel, notes)
        total = expected_windows(path, self.sample_rate, self.n_samples, hop)
        curve = self._curve(blocks, machine, hop, str(path), total)
        curve.attrs["notes"] = notes
        return curve

    def curve(
        self,
        samples: np.ndarray,
        sample_rate: float,
        machine: str | None = None,
        hop_seconds: float | None = None,
        channel: Channel = None,
    ) -> pd.DataFrame:
        """The score over time of samples, as `score` takes them: a row per window.

        Columns start_s (of the window, in seconds), score and percentile.
        """
        machine, hop = self._machine(machine), self._hop(hop_seconds)
        channel = self.channel if channel is None else channel
        blocks = array_blocks(samples, sample_rate, self.sample_rate, channel)
        return self._curve(blocks, machine, hop, "samples", None)

    def score_windows(self, waves: np.ndarray, machine: str) -> np.ndarray:
        """Anomaly scores (B,) of waveforms (B, n_samples) float32 at the run's sample rate."""
        pairs = zip(self.extractors, self.machines[machine].scorers, strict=True)
        return np.mean([scorer.score(extract(waves)) for extract, scorer in pairs], axis=0)

    def threshold(
        self, machine: str | None = None, kind: str = "auto", quantile: float = 0.9
    ) -> float:
        """The score above which a recording is anomalous; nan where nothing was held out.

        kind, quantile: as decisions.decision_threshold takes them; with an alarm rate, auto is
        the conformal threshold.
        """
        machine = self._machine(machine)
        held_out = self.machines[machine].held_out
        try:
            if not len(held_out) and self.alarm_rate is None:
                return float("nan")
            return threshold(held_out, self.alarm_rate, kind, quantile)
        except InputError as error:
            raise InputError(f"{machine}: {error}") from None

    def of_windows(self) -> "Detector":
        """The same detector, with thresholds, percentiles and p-values for single windows."""
        machines = {
            name: own
            if own.held_out_windows is None
            else replace(own, held_out=own.held_out_windows)
            for name, own in self.machines.items()
        }
        return replace(self, machines=machines)

    def percentile(self, machine: str, scores: np.ndarray) -> np.ndarray:
        """Percent of the held-out scores below each of `scores`; nan where nothing was held out."""
        return percentile(self.machines[machine].held_out, np.asarray(scores))

    def p_value(self, machine: str, scores: np.ndarray) -> np.ndarray:
        """How probable scores as high are for a normal clip; nan without an alarm rate."""
        if self.alarm_rate is None:
            return np.full(np.shape(scores), np.nan)
        return p_values(self.machines[machine].held_out, np.asarray(scores))

    def _machine(self, machine: str | None) -> str:
        if machine is None and len(self.machines) == 1:
            return next(iter(self.machines))
        if machine not in self.machines:
            names = ", ".join(self.machines)
            raise InputError(f"machine={machine}: the machines of this run are {names}")
        return machine

    def _hop(self, hop_seconds: float | None) -> int:
        """In samples."""
        if hop_seconds is None:
            return self.n_samples // 2
        hop = round(hop_seconds * self.sample_rate)
        if not 0 < hop <= self.n_samples:
            window = f"{self.n_samples / self.sample_rate:g} s, the length of a window"
            raise InputError(f"hop_seconds={hop_seconds}: more than 0 and at most {window}")
        return hop

    def _curve(
        self, blocks: Iterable[np.ndarray], machine: str, hop: int, name: str, total: int | None
    ) -> pd.DataFrame:
        starts, scores = [], []
        options = {"unit": "window", "delay": 2, "leave": False, "disable": None}
        with tqdm(desc=Path(name).name, total=total, **options) as bar:
            for batch in batches(windows(blocks, self.n_samples, hop), BATCH):
                starts += [start for start, _ in batch]
                waves = np.stack([wave for _, wave in batch])
                scores += self.score_windows(waves, machine).tolist()
                bar.update(len(batch))
        if not scores:
            raise InputError(f"{name}: no samples in it")
        return pd.DataFrame(
            {
                "start_s": np.array(starts) / self.sample_rate,
                "score": scores,
                "percentile": self.percentile(machine, np.array(scores)),
            }
        )


def batches(items: Iterator, size: int) -> Iterator[list]:
    while batch := list(islice(items, size)):
        yield batch


def expected_windows(path: Path, sample_rate: int, n_samples: int, hop: int) -> int:
    """About how many windows a file has, for the progress bar."""
    with AudioFile(path) as file:
        extra = file.frames / file.sample_rate * sample_rate - n_samples
    return 1 + max(0, int(-(-extra // hop)))
