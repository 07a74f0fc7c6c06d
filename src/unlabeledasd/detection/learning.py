"""A detector learned from normal recordings: references to compare with, and calibration scores.

Nothing is trained. The windows of every recording become embeddings, which are kept
(`all/learned.npz`), so that recordings can be added or taken back without reading any of them
again. Recordings are references of the scorer, or set aside for calibration, or both: then each is
scored by a scorer that was fitted without it.
"""

import json
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone

from unlabeledasd.audio.two_channels import Channel
from unlabeledasd.detection.conformal import least_scores
from unlabeledasd.detection.recordings import read_blocks, windows
from unlabeledasd.detection.survey import Facts, measured
from unlabeledasd.errors import InputError
from unlabeledasd.files import read_npz, write_npz, write_text
from unlabeledasd.results import write_scores
from unlabeledasd.runs.embeddings import parse_table
from unlabeledasd.runs.folder import UNTRAINED, Run
from unlabeledasd.scoring import learned_arrays

BATCH = 32  # windows embedded at a time
GAP = 2  # windows: they overlap by half
LEAST_REFERENCES = 2  # of each machine
CALIBRATION_SHARE = 0.25  # of the recordings, or what the rate needs if that is more


class Learned(NamedTuple):
    """Windows and their embeddings (N, ...).

    windows: columns recording, machine, unit (what gets one calibration score), role, batch (0, and
    one more with every later addition).
    """

    windows: pd.DataFrame
    embedding: np.ndarray

    def of(self, machine: str, *roles: str) -> "Learned":
        is_role = self.windows.role.isin(roles)
        return self.where(((self.windows.machine == machine) & is_role).to_numpy())

    def but(self, unit: str) -> "Learned":
        return self.where((self.windows.unit != unit).to_numpy())

    def where(self, rows: np.ndarray) -> "Learned":
        """Of the windows for which rows (N,) bool is true."""
        return Learned(self.windows[rows].reset_index(drop=True), self.embedding[rows])

    @property
    def batches(self) -> int:
        return int(self.windows.batch.astype(int).max()) + 1

    def added(self, later: "Learned") -> "Learned":
        windows = pd.concat([self.windows, later.windows], ignore_index=True)
        return Learned(windows, np.concatenate([self.embedding, later.embedding]))

    def without_last(self) -> "Learned":
        """What was learned before the last addition; InputError where nothing was added."""
        if self.batches == 1:
            raise InputError("nothing was added, so nothing can be undone")
        return self.where((self.windows.batch.astype(int) < self.batches - 1).to_numpy())


class Rows:
    """Arrays (n, ...) below each other, in one piece of memory that doubles where it is full.

    A list of many small arrays costs more than they need: each lies among the memory that the
    network used meanwhile, and keeps the allocator from using it as one piece again.
    """

    def __init__(self) -> None:
        self.count = 0
        self.memory: np.ndarray | None = None

    def add(self, rows: np.ndarray) -> None:
        end = self.count + len(rows)
        if self.memory is None or end > len(self.memory):
            larger = np.empty((2 * end, *rows.shape[1:]), rows.dtype)
            if self.memory is not None:
                larger[: self.count] = self.array
            self.memory = larger
        self.memory[self.count : end] = rows
        self.count = end

    @property
    def array(self) -> np.ndarray:
        return np.empty(0) if self.memory is None else self.memory[: self.count]


def kept_file(run: Run) -> Path:
    return run.all / "learned.npz"


def write_learned(run: Run, learned: Learned) -> None:
    text = learned.windows.to_csv(index=False).encode(errors="surrogateescape")
    arrays = {"embedding": learned.embedding, "windows": np.frombuffer(text, np.uint8)}
    write_npz(kept_file(run), arrays)


def read_learned(run: Run) -> Learned:
    file = kept_file(run)
    if not file.is_file():
        raise InputError(f"{run.folder}: no detector of src/learn.py ({file.name} is missing)")
    arrays = read_npz(file)
    try:
        lines = arrays["windows"].tobytes().decode(errors="surrogateescape")
        learned = Learned(parse_table(lines), arrays["embedding"])
    except KeyError as error:
        raise InputError(f"{file}: corrupt ({error} is missing)") from None
    if len(learned.windows) != len(learned.embedding):
        raise InputError(f"{file}: corrupt, embeddings of other windows")
    return learned


def facts_file(run: Run) -> Path:
    return run.all / "recordings.json"


def keep_facts(run: Run, facts: list[Facts]) -> None:
    """Keep what was found in the recordings that a detector learned, next to earlier ones."""
    known = {one.recording: one for one in [*read_facts(run), *facts] if not np.isnan(one.level_db)}
    write_text(facts_file(run), json.dumps([asdict(one) for one in known.values()], indent=1))


def read_facts(run: Run) -> list[Facts]:
    """What `keep_facts` kept; empty where nothing was. InputError for a corrupt file."""
    file = facts_file(run)
    if not file.is_file():
        return []
    try:
        return [Facts(**one) for one in json.loads(file.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise InputError(f"{file}: corrupt ({error}); remove it") from None


def embed_recording(facts: Facts, extractor: Any, sample_rate: int, channel: Channel) -> np.ndarray:
    """Embeddings (W, ...) of the windows of a recording, as a Detector takes them.

    Notes, level and clipping go into `facts`. InputError for what cannot be read to its end.
    """
    import torch

    one = None if facts.channels == 1 else channel
    blocks = measured(read_blocks(Path(facts.recording), sample_rate, one, facts.notes), facts)
    pieces, found = windows(blocks, extractor.n_samples, extractor.n_samples // 2), Rows()
    while batch := [wave for _, wave in islice(pieces, BATCH)]:
        with torch.inference_mode():
            found.add(extractor(torch.from_numpy(np.stack(batch)))[0].numpy())
    return found.array


def assign_roles(table: pd.DataFrame, rate: float, seed: int = 0) -> pd.DataFrame:
    """`table` with the columns unit and role.

    table: the windows of one machine, columns recording and machine, in order of time. As many
    recordings as the rate needs, or a quarter if that is more, are set aside at random. Where
    there would be too few others, every recording is both: it is scored without itself. Where
    there are too few recordings, the last windows of each are set aside, after a gap. InputError
    where there are too few windows too.
    """
    needed = least_scores(rate)
    names = table.recording.unique()
    aside = max(needed, round(CALIBRATION_SHARE * len(names)))
    if len(names) - aside >= aside:
        chosen = np.random.default_rng(seed).permutation(names)[:aside]
        roles = np.where(table.recording.isin(chosen), "calibration", "reference")
        return table.assign(unit=table.recording, role=roles)
    if len(names) >= max(needed, LEAST_REFERENCES):
        return table.assign(unit=table.recording, role="both")
    groups = table.groupby("recording", sort=False).recording
    count, place = groups.transform("size"), groups.cumcount()
    share = max(CALIBRATION_SHARE, needed / len(table))
    first = np.floor(count * (1 - share))  # of the windows that are set aside
    roles = np.select([place >= first, place >= first - GAP], ["calibration", "gap"], "reference")
    if (roles == "calibration").sum() < needed or (roles == "reference").sum() < LEAST_REFERENCES:
        raise InputError(
            f"{table.machine.iloc[0]}: {len(names)} recordings, {len(table)} windows in all; an "
            f"alarm rate of {rate:g} needs {needed} recordings; give more, or a higher rate"
        )
    return table.assign(unit=table.recording + "@" + place.astype(str), role=roles)


def check_unseen(roles: pd.DataFrame, rate: float) -> None:
    """InputError where a network would be trained on what calibrates it: role "both"."""
    if (roles.role == "both").any():
        machine, count = roles.machine.iloc[0], roles.recording.nunique()
        needed = 2 * least_scores(rate)
        raise InputError(
            f"--train: {machine}: {count} recordings; an alarm rate of {rate:g} needs {needed}, of "
            "which the network does not see one half; give more, a higher rate, or leave --train "
            "out: the spectral method scores each recording without itself"
        )


def promise(learned: Learned, machine: str, rate: float) -> str:
    """What the thresholds of a machine promise, by how its calibration scores were made."""
    own = learned.windows[learned.windows.machine == machine]
    if (own.unit != own.recording).any():
        return (
            f"no rate is promised: with too few recordings for {rate:g}, the last windows of each "
            "are set aside, and neighbouring windows are alike"
        )
    if (own.role == "both").any():
        return f"alarms at a rate of about {rate:g}: every recording was scored without itself"
    return f"alarms at a rate of at most {rate:g}"


def calibrate(
    learned: Learned, scorer: BaseEstimator, run: Run, version: str = UNTRAINED
) -> dict[str, np.ndarray]:
    """Fit each machine's scorer on its references; write it and the calibration scores -> these.

    They become the held-out scores of `version`, the run's only one. One window of each unit is
    kept too: a stream is scored by single windows, which vary more than the mean over a recording.
    """
    arrays: dict[str, np.ndarray] = {}
    scores: dict[str, np.ndarray] = {}
    for machine in learned.windows.machine.unique():
        references = learned.of(machine, "reference", "both")
        fitted = fit(scorer, references)
        prefix = f"{machine}/{scorer.column}/"
        arrays |= {prefix + name: value for name, value in learned_arrays(fitted).items()}
        of_windows = window_scores(learned, machine, scorer, fitted)
        found = {"held_out": of_units(of_windows), "held_out_window": drawn(of_windows)}
        for split, values in found.items():
            table = pd.DataFrame({"path": values.index, "is_normal": 1, "is_target": 0})
            table[scorer.column] = values.to_numpy()
            write_scores(run.version(machine, version), version, split, table)
        scores[machine] = found["held_out"].to_numpy()
    write_npz(run.scorers(version), arrays)
    return scores


def fit(scorer: BaseEstimator, references: Learned) -> BaseEstimator:
    return clone(scorer).fit(references.embedding, np.zeros(len(references.embedding), bool))


def window_scores(
    learned: Learned, machine: str, scorer: BaseEstimator, fitted: BaseEstimator
) -> pd.Series:
    """Scores of the calibration windows by scorers that have not seen them; the index is the unit.

    fitted: the scorer of all references; what was set aside is scored by it.
    """
    aside, both = learned.of(machine, "calibration"), learned.of(machine, "both")
    parts = [pd.Series(fitted.score(aside.embedding), aside.windows.unit)] * len(aside.windows[:1])
    references = learned.of(machine, "reference", "both")
    for unit in both.windows.unit.unique():
        inside = (both.windows.unit == unit).to_numpy()
        others = references.but(unit)
        own = fit(scorer, others).score(both.embedding[inside])
        parts.append(pd.Series(own, [unit] * inside.sum()))
    return pd.concat(parts)


def of_units(scores: pd.Series) -> pd.Series:
    """unit -> its score, the mean over its windows."""
    return scores.groupby(level=0, sort=False).mean()


def drawn(scores: pd.Series, seed: int = 0) -> pd.Series:
    """unit -> the score of one of its windows, at random.

    One, since the windows of a recording are alike: together they would count as one score.
    """
    return scores.groupby(level=0, sort=False).sample(1, random_state=seed)
