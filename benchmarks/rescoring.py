"""Seconds and memory of `src/infer.py` with another scorer, on embeddings that a run has kept.

  python benchmarks/rescoring.py [--machines 16] [--train 1000] [--test 200] [--epochs 3]
                                 [--size 384] [--scorers "knn domain_ldn"]

Each scorer of src/config/scorer/ (default: all that take any embedding), on random embeddings of
`size` dimensions in 20 clusters a machine, 10 of the training clips in the target domain. Seconds
are those of the whole command; memory is its peak of resident memory.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from measuring import BENCHMARKS, compose, options, show
from omegaconf import OmegaConf
from tqdm import tqdm

from unlabeledasd.files import write_npz
from unlabeledasd.runs.embeddings import COLUMNS, write_embeddings
from unlabeledasd.runs.folder import Run, version_name

SRC = BENCHMARKS.parent / "src"
TARGETS = 10


def clip_table(n_machines: int, n_train: int, n_test: int) -> pd.DataFrame:
    """Half of the test clips are anomalies, half of each condition are of the target domain."""
    rows = []
    for machine in (f"machine{i:02}" for i in range(n_machines)):
        for split, count in (("train", n_train), ("test", n_test)):
            for i in range(count):
                target = i < TARGETS if split == "train" else i % 2
                anomaly = split == "test" and i % 4 > 1
                domain, condition = ("source", "target")[target], ("normal", "anomaly")[anomaly]
                name = f"section_00_{domain}_{split}_{condition}_{i:04}.wav"
                path = f"{machine}/{split}/{name}"
                rows.append((path, machine, split, "00", domain, condition, ""))
    return pd.DataFrame(rows, columns=COLUMNS)


def keep_run(folder: Path, table: pd.DataFrame, n_epochs: int, size: int) -> Run:
    """A run folder with embeddings and without a network."""
    epochs = f"score_epochs={list(range(1, n_epochs + 1))}"
    config = compose(folder, "subloss_0256_4096", epochs, f"threads={os.cpu_count()}")
    run, rng = Run(folder / "run"), np.random.default_rng(0)
    run.all.joinpath("checkpoints").mkdir(parents=True)
    OmegaConf.save(config, run.config, resolve=True)
    for epoch in config.score_epochs:
        centers = rng.standard_normal((20, size), np.float32)
        near = centers[rng.integers(20, size=len(table))]
        embeddings = near + 0.5 * rng.standard_normal((len(table), size), np.float32)
        write_embeddings(run.embeddings(version_name([epoch])), table, embeddings)
        write_npz(run.scorers(version_name([epoch])), {})  # nothing to restore
        run.checkpoint(epoch).touch()
    run.mark_done("")
    return run


def measure(command: list[str]) -> tuple[float, float]:
    """(seconds, GB) of a process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    error = process.stderr.read().decode()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{error}")
    return time.perf_counter() - start, used.ru_maxrss / 1e6


def main() -> None:
    files = sorted(file.stem for file in (SRC / "config/scorer").glob("*.yaml"))
    every = " ".join(name for name in files if name != "views")  # two embeddings side by side
    given = options(__doc__, machines=16, train=1000, test=200, epochs=3, size=384, scorers=every)
    table = clip_table(given.machines, given.train, given.test)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        run = keep_run(Path(folder), table, given.epochs, given.size)
        for scorer in tqdm(given.scorers.split(), desc="measuring", unit="scorer"):
            command = [sys.executable, str(SRC / "infer.py"), f"run={run.folder}"]
            seconds, memory = measure([*command, f"name={scorer}", f"scorer={scorer}"])
            rows.append({"scorer": scorer, "seconds": seconds, "GB": memory})
    clips = f"{given.train + given.test} clips x {given.epochs} epochs"
    show(f"{given.machines} machines x {clips} rescored", rows, given.json)


if __name__ == "__main__":
    main()
