"""A job like experiment 2 on tiny clips, and the pseudo-labels of one of its runs, made to be
killed by test_crash.py: it reports on a pipe when a phase begins and ends. Imported once by a
server process that forks the jobs."""

import os
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import hydra
import matplotlib.pyplot  # noqa: F401  before forking
import tensorboard.summary.writer.event_file_writer  # noqa: F401
import torch

import cluster
import embed
import train
from conftest import tiny
from unlabeledasd import evaluation, results
from unlabeledasd.modules import DiscriminativeModule
from unlabeledasd.runs import training

METHODS = ("featex_0256_4096", "subloss_0256_4096")
SMALL = "model.extractor.n_ffts=[4096]"  # the cheaper branch alone


def job(folder: Path, data_dir: Path, pipe: Connection) -> None:
    torch.set_num_threads(1)
    with (folder.with_suffix(".log")).open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    results = folder / "results"
    for method in METHODS:
        report_phases(pipe, method)
        call(train, *tiny(data_dir, results, SMALL, method=method))
    labels = [
        "dataset=folder",
        "dataset.name=tiny",
        "dataset.hide=[fan]",
        "source=class",
        "seed=1",
        "n_jobs=1",
        f"data_dir={data_dir}",
        f"results_dir={results}",
        f"label_dir={folder}/label",
        "accelerator=cpu",
        f"source.teacher.run={results}/tiny/{METHODS[1]}_1",
        "source.teacher.epoch=2",
    ]
    call(embed, *labels)
    call(cluster, *labels)


def call(script, *arguments: str) -> None:
    sys.argv = [script.__file__, *arguments]
    hydra.core.global_hydra.GlobalHydra.instance().clear()
    script.launch(script.main, script.__doc__)


def report_phases(pipe: Connection, method: str) -> None:
    """Wrap what begins and ends a phase of this method's run, and of the labels."""

    def report(phase: str, part, what: str) -> None:
        pipe.send(((method, phase, part), what, time.monotonic()))

    def wrap(owner, name: str, phase: str, part) -> None:
        inner = ORIGINAL.setdefault((owner, name), getattr(owner, name))

        def wrapper(*args, **kwargs):
            which = part(*args, **kwargs)
            report(phase, which, "started")
            result = inner(*args, **kwargs)
            report(phase, which, "ended")
            return result

        setattr(owner, name, wrapper)

    start = ORIGINAL.setdefault("epoch", DiscriminativeModule.on_train_epoch_start)

    def epoch_start(self):
        report("training", self.current_epoch + 1, "started")
        start(self)

    DiscriminativeModule.on_train_epoch_start = epoch_start
    wrap(
        training.KeepEpochs,
        "on_train_epoch_end",
        "checkpoint",
        lambda _, trainer, *__: trainer.current_epoch + 1,
    )
    wrap(
        evaluation,
        "embed",
        "embedding",
        lambda *_, description, **__: description.removeprefix("epoch"),
    )
    wrap(
        evaluation,
        "score_machines",
        "scoring",
        lambda _, version, *__, **___: version.removeprefix("epoch"),
    )
    wrap(results, "average_scores", "ensemble", lambda *_, **__: 0)
    wrap(embed, "embed_missing", "labels", lambda *_, **__: "embed")
    wrap(cluster, "make_labels", "labels", lambda *_, **__: "cluster")


ORIGINAL = {}
