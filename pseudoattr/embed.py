"""Embed the training clips of a dataset's unlabeled machines: the first half of making pseudo-labels.

  python pseudoattr/embed.py dataset=DATASET source=SOURCE seed=N data_dir=FOLDER [key=value ...]

Writes <label_dir>/<dataset>/<source>[_<seed>]/<machine>/embedding_train.npz (with fit_on=all embedding_test.npz
too). Embeddings that are there, by the same weights and of the same recordings, are left alone. A missing teacher
is named with the command that trains it; train_missing=true runs the command, with the settings of the environment's
OVERRIDES as jobs/exp/exp3.sh would.
Exit status: 0 done, 1 error, 3 another process trains the teacher or makes these labels.
"""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import hydra
import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from settings.build import CONFIG_PATH, build, launch, report_errors
from settings.check import check_config, require_values
from settings.kept import load_config, trained_extractor
from settings.session import pick_device, quiet_lightning
from unlabeledasd.clips import index_clips
from unlabeledasd.errors import InputError
from unlabeledasd.files import read_npz, write_npz
from unlabeledasd.pseudo.label_file import fingerprint, unlabeled_machines
from unlabeledasd.runs.folder import Run, writing_alone

RUN_SETTINGS = (
    "data.",
    "trainer.",
    "precision=",
    "threads=",
)  # of OVERRIDES, those that triplet models have too
REPOSITORY = Path(__file__).resolve().parent.parent


@hydra.main(config_path=CONFIG_PATH, config_name="pseudo", version_base="1.3")
@report_errors()
def main(config: DictConfig) -> None:
    require_values(config)
    OmegaConf.resolve(config)
    if not config.source.teacher and not config.source.embedder:
        raise InputError(
            f"source={config.source.name}: has no embeddings; only pseudoattr/cluster.py makes its labels"
        )
    root, table, machines = load_unlabeled(config)
    weights = {machine: weights_of(config, machine) for machine in machines}
    for file in dict.fromkeys(weights.values()):
        if config.source.teacher and not file.is_file():
            make_teacher(
                config, next(machine for machine in machines if weights[machine] == file), file
            )
    with writing_alone(Path(config.folder), Path(config.folder) / "lock"):
        embed_missing(config, root, table, weights)


def embed_missing(config: DictConfig, root: Path, table, weights: dict[str, Path]) -> None:
    """Embed what is not there, or is of other weights, clips or settings; weights: those of each machine."""
    digests = {file: sha256(file) for file in set(weights.values())}
    todo = []
    for machine, file in weights.items():
        for split in ("train", "test") if config.fit_on == "all" else ("train",):
            paths = table.path[(table.machine == machine) & (table.split == split)].tolist()
            target = Path(config.folder) / machine / f"embedding_{split}.npz"
            made_by = {"weights": digests[file], "clips": fingerprint(root, paths), **how(config)}
            if stored_key(target) != made_by:
                todo.append((machine, paths, target, made_by))
    if todo:
        check_config(config)
        embed(config, root, todo, weights)
    print(
        f"{config.source.name}: {len(weights)} machines embedded, {len(todo)} files written to {config.folder}"
    )


def load_unlabeled(config: DictConfig):
    """-> (data root, table of all clips, unlabeled machines), names checked."""
    dataset, root = config.dataset, Path(config.data_dir) / config.dataset.name / "all" / "raw"
    if config.fit_on not in ("train", "all"):
        raise InputError(f"fit_on={config.fit_on}: allowed are train, all")
    machines = [*dataset.machines.development, *dataset.machines.evaluation] or None
    required = ("train", "test") if config.fit_on == "all" else ("train",)
    table = index_clips(root, machines, dataset.grammar, required)
    unlabeled = unlabeled_machines(table, dataset.hide)
    if not unlabeled:
        raise InputError(
            f"{root}: no unlabeled machine, the training clips of all tell their attributes; "
            "dataset.hide=[MACHINE,...] or dataset.hide=all takes them as unlabeled"
        )
    return root, table, unlabeled


def weights_of(config: DictConfig, machine: str) -> Path:
    """The file with the weights that embed `machine`: the teacher's checkpoint or the user's download."""
    if teacher := config.source.teacher:
        return Run(teacher.run.replace("<machine>", machine)).checkpoint(teacher.epoch)
    return Path(config.source.embedder.weights)


def how(config: DictConfig) -> dict:
    """What beside weights and clips decides an embedding."""
    if teacher := config.source.teacher:
        settings = {"unit_norm": teacher.unit_norm}
    else:
        settings = {
            key: value
            for key, value in config.source.embedder.items()
            if key not in ("weights", "md5")
        }
    return {**settings, "channel": config.dataset.channel}


def quoted(key: str, value: str) -> str:
    """key=value, in quotes for Hydra's parser, unless the value is a plain word or path (as jobs/exp/common.sh)."""
    if re.fullmatch(r"[A-Za-z/._][\w/.-]*", value, re.ASCII) and value not in (
        "null",
        "true",
        "false",
        "nan",
        "inf",
    ):
        return f"{key}={value}"
    value = value.replace("'", "\\'").replace("${", "\\${")
    return f"{key}='{value}'"


def choice(group: str) -> str:
    """The file chosen of a config group."""
    return HydraConfig.get().runtime.choices[group]


def sha256(file: Path) -> str | None:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def stored_key(file: Path) -> dict | None:
    """What the embeddings in `file` were made by; None if there are none, or it is damaged."""
    if not file.is_file():
        return None
    try:
        return json.loads(str(read_npz(file)["made_by"]))
    except (InputError, KeyError):
        return None


def make_teacher(config: DictConfig, machine: str, checkpoint: Path) -> None:
    """Train the teacher whose checkpoint is missing, or say how."""
    teacher, run = config.source.teacher, Run(checkpoint.parents[2])
    if run.is_done:
        raise InputError(
            f"{checkpoint}: not kept; the run has epochs {run.epochs}: source.teacher.epoch=EPOCH"
        )
    if run.all.is_dir():
        with run.claim():  # RunLocked, where another process trains it at this moment
            pass
    # as in jobs/exp/common.sh: these settings go to teachers of every kind, the others to src/train.py alone
    overrides = os.environ.get("OVERRIDES", "").split()
    if teacher.script != "src/train.py":
        overrides = [
            override for override in overrides if override.lstrip("+").startswith(RUN_SETTINGS)
        ]
    command = [
        "python",
        teacher.script,
        *(given for given in HydraConfig.get().overrides.task if given.startswith("dataset")),
        *(
            quoted(key, value.replace("<machine>", machine))
            for key, value in teacher.settings.items()
        ),
        f"seed={config.seed}",
        quoted("data_dir", config.data_dir),
        quoted("results_dir", config.results_dir),
        *(override for override in overrides if not override.startswith("dataset.")),
    ]
    if not config.train_missing:
        raise InputError(
            f"{run.folder}: teacher of {machine} is missing; TRAIN_MISSING=1, or: {shlex.join(command)}"
        )
    print(shlex.join(command), flush=True)
    if status := subprocess.run(
        [sys.executable, REPOSITORY / teacher.script, *command[2:]], check=False
    ).returncode:
        sys.exit(status)


def embed(config: DictConfig, root: Path, todo: list, weights: dict[str, Path]) -> None:
    """Write the embeddings (N, D) of each (machine, paths, file, made_by)."""
    from unlabeledasd.waveforms import check_clips

    quiet_lightning()
    dataset = config.dataset
    check_clips(
        root,
        [path for _, paths, *_ in todo for path in paths],
        dataset.sample_rate,
        dataset.channel,
    )
    device = pick_device(config.accelerator)
    embedder = lru_cache(1)(lambda file: make_embedder(config, file))
    for machine, paths, file, made_by in todo:
        embedding = embedder(weights[machine]).embed(root, paths, dataset.channel, device)
        # labels of other embeddings than those beside them are not to be taken for these
        (Path(config.folder) / "labels.json").unlink(missing_ok=True)
        write_npz(
            file,
            {
                "paths": np.array(paths),
                "embedding": embedding,
                "made_by": np.array(json.dumps(made_by)),
            },
        )
        print(f"{machine}: {len(paths)} clips embedded", flush=True)


def make_embedder(config: DictConfig, weights: Path):
    if config.source.embedder:
        return build(config.source.embedder)
    from unlabeledasd.pseudo.embedders import OwnModel
    from unlabeledasd.runs.hardware import keep_memory, use_threads

    run = Run(weights.parents[2])
    trained = load_config(run)
    use_threads(trained.threads)
    keep_memory()
    return OwnModel(
        trained_extractor(run),
        weights,
        config.source.teacher.unit_norm,
        precision=trained.precision,
    )


if __name__ == "__main__":
    launch(main, __doc__, ("dataset", "source"))
