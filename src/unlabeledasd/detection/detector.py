"""A finished run as a detector: the score of any recording of its machines, and what it means."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from sklearn.base import BaseEstimator, clone
from tqdm import tqdm

from unlabeledasd.decisions import decision_threshold, percentile
from unlabeledasd.detection.recordings import read_blocks, windows
from unlabeledasd.errors import InputError

BATCH = 4  # windows that pass the network together

Extractor = Callable[[np.ndarray], np.ndarray]  # waveforms (B, T) float32 -> embeddings (B, D)


@dataclass(frozen=True)
class Machine:
    """What scores the clips of a machine: a fitted scorer per extractor, and the scores of normal clips to compare
    with: held-out training clips, unless others are put in their place."""

    scorers: list[BaseEstimator]
    held_out: np.ndarray  # (N,), of the mean over the extractors; empty where there are none


@dataclass(frozen=True)
class Detector:
    """The extractors of a run, one per kept epoch, and its machines; the score is the mean over the epochs."""

    extractors: list[Extractor]
    machines: dict[str, Machine]
    sample_rate: int
    n_samples: int
    channel: int | None = None

    def score(self, waves: np.ndarray, machine: str) -> np.ndarray:
        """Waveforms (B, n_samples) float32 -> anomaly scores (B,)."""
        pairs = zip(self.extractors, self.machines[machine].scorers, strict=True)
        return np.mean([scorer.score(extract(waves)) for extract, scorer in pairs], axis=0)

    def threshold(self, machine: str, kind: str = "gamma", quantile: float = 0.9) -> float:
        """The score above which a clip of `machine` is anomalous; nan where nothing was held out."""
        held_out = self.machines[machine].held_out
        try:
            return decision_threshold(held_out, kind, quantile) if len(held_out) else float("nan")
        except InputError as error:
            raise InputError(f"{machine}: {error}") from None

    def percentile(self, machine: str, scores: np.ndarray) -> np.ndarray:
        """Percent of the held-out scores that lie below each of `scores`; nan where nothing was held out."""
        return percentile(self.machines[machine].held_out, np.asarray(scores))

    def curve(
        self, path: Path, machine: str, hop_seconds: float | None, channel: int | None
    ) -> pd.DataFrame:
        """Score and percentile of each window of a recording: columns start_s, score, percentile.

        hop_seconds: between windows of a recording that is longer than one; None: half a window.
        """
        hop = self.n_samples // 2 if hop_seconds is None else round(hop_seconds * self.sample_rate)
        blocks = read_blocks(path, self.sample_rate, self.channel if channel is None else channel)
        parts, starts, scores = windows(blocks, self.n_samples, hop), [], []
        total = count_windows(path, self, hop)
        with tqdm(
            desc=path.name, unit="window", delay=2, leave=False, total=total, disable=None
        ) as bar:
            while batch := list(islice(parts, BATCH)):
                starts += [start for start, _ in batch]
                scores += list(self.score(np.stack([wave for _, wave in batch]), machine))
                bar.update(len(batch))
        if not scores:
            raise InputError(f"{path}: no samples in it")
        return pd.DataFrame(
            {
                "start_s": np.array(starts) / self.sample_rate,
                "score": scores,
                "percentile": self.percentile(machine, scores),
            }
        )


def count_windows(path: Path, detector: Detector, hop: int) -> int | None:
    """About how many windows a recording has, for the progress bar."""
    try:
        extra = soundfile.info(path).duration * detector.sample_rate - detector.n_samples
    except (soundfile.LibsndfileError, OSError):
        return None  # told where it is read
    return 1 + max(0, int(-(-extra // hop)))


def restore(scorer: BaseEstimator, arrays: dict[str, np.ndarray], prefix: str) -> BaseEstimator:
    """A copy of `scorer` with what it learned, the arrays whose names begin with `prefix`."""
    fitted = clone(scorer)
    vars(fitted).update(
        {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)}
    )
    return fitted
