"""A detector of src/learn.py on recordings of known state."""

from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from unlabeledasd.audio.clip_names import UNKNOWN
from unlabeledasd.detection.inbox import look
from unlabeledasd.detection.learning import read_learned
from unlabeledasd.detection.survey import stated_by
from unlabeledasd.runs.folder import Run


def print_test(run: Run, folder: Path, only_machine: str | None) -> None:
    """AUC of each machine on recordings whose folders or names state normal or anomaly.

    Those that were learned are left out. only_machine: all are of this one.
    """
    from sklearn.metrics import roc_auc_score

    from unlabeledasd.detection import load

    detector, rows = load(run.folder), []
    learned = set(read_learned(run).windows.recording)
    names = list(detector.machines)
    paths = [recording.path for recording in look([folder]).recordings]
    for path in tqdm(paths, desc="testing", leave=False, disable=None):
        if str(path.absolute()) in learned:
            continue
        named = [name for name in path.parts if name in names]
        machine = only_machine or (named or names)[-1]
        condition = stated_by(path, machine)
        if condition != UNKNOWN:
            score = detector.score_file(path, machine)
            alarm = score > detector.threshold(machine)
            rows.append((machine, condition == "anomaly", score, alarm))
    table = pd.DataFrame(rows, columns=["machine", "anomaly", "score", "alarm"])
    for machine, own in table.groupby("machine"):
        counts = f"{(~own.anomaly).sum()} normal, {own.anomaly.sum()} anomalous"
        auc = roc_auc_score(own.anomaly, own.score) if own.anomaly.nunique() == 2 else np.nan
        rates = own.groupby("anomaly").alarm.mean()
        text = f"test {machine}: {counts}; AUC {auc:.3f}"
        print(f"{text}; alarms: {rates.get(False, np.nan):.3f} of the normal ones, "
              f"{rates.get(True, np.nan):.3f} of the anomalous ones")  # fmt: skip
