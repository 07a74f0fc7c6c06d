"""Scores of a finished run by any scorer, from the embeddings that it has kept, in memory."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone

from unlabeledasd.audio.clip_names import UNKNOWN
from unlabeledasd.decisions import held_out_scores
from unlabeledasd.errors import InputError
from unlabeledasd.metrics import challenge_score, evaluate
from unlabeledasd.runs.embeddings import read_embeddings
from unlabeledasd.runs.folder import Run, version_name
from unlabeledasd.runs.fusion import fuse, standardize
from unlabeledasd.scoring import one_thread


class Clips(NamedTuple):
    """The clips of one machine, with their embeddings after one epoch."""

    train: pd.DataFrame
    test: pd.DataFrame
    train_embedding: np.ndarray
    test_embedding: np.ndarray

    @property
    def is_target(self) -> np.ndarray:
        """Of the training clips."""
        return (self.train.domain == "target").to_numpy()


class Scores(NamedTuple):
    """Of one machine by one scorer, the mean over the epochs."""

    test: np.ndarray  # (N,)
    z: np.ndarray  # (N,), standardised by held-out training clips in every epoch


def kept_clips(run: Run) -> Iterator[dict[str, Clips]]:
    """machine -> its clips, for each scored epoch; InputError where no embeddings are kept."""
    for epoch in run.read_config()["score_epochs"]:
        table, embeddings = read_embeddings(run.require(run.embeddings(version_name([epoch]))))
        machines = {}
        for machine in table.machine.unique():
            train, test = (
                ((table.machine == machine) & (table.split == split)).to_numpy()
                for split in ("train", "test")
            )
            machines[machine] = Clips(
                table[train], table[test], embeddings[train], embeddings[test]
            )
        yield machines


def rescore(epochs: list[Clips], scorer: BaseEstimator) -> Scores:
    """epochs: the clips of one machine after each epoch; scorer: not fitted."""
    tests, zs = [], []
    with one_thread():
        for clips in epochs:
            fitted = clone(scorer).fit(clips.train_embedding, clips.is_target)
            scores = fitted.score(clips.test_embedding)
            held_out = held_out_scores(scorer, clips.train_embedding, clips.is_target)
            tests.append(scores)
            zs.append(standardize(scores, held_out))
    return Scores(np.mean(tests, axis=0), fuse(zs))


def official_score(
    tables: dict[str, pd.DataFrame], scores: dict[str, np.ndarray], official: str
) -> float:
    """The challenge score of test clips; both by machine. InputError without ground truth.

    official: the score of the dataset's year, a key of metrics.OFFICIAL_OF.
    """
    results = []
    for machine, table in tables.items():
        if (table[["condition", "domain"]] == UNKNOWN).any(axis=None):
            raise InputError(f"{machine}: test clips of unknown condition or domain, so no metrics")
        normal, target = table.condition == "normal", table.domain == "target"
        flags = normal.to_numpy(), target.to_numpy()
        results.append(evaluate(scores[machine], *flags, official))
    return challenge_score(results)
