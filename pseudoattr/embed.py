"""Embed the training clips of unlabeled machines: the first half of making pseudo-labels.

  python pseudoattr/embed.py dataset=DATASET source=SOURCE seed=N data_dir=FOLDER [key=value ...]

Writes <label_dir>/<dataset>/<source>[_<seed>]/<machine>/embedding_train.npz (with fit_on=all
embedding_test.npz too). Embeddings that exist, by the same weights and of the same recordings, are
left alone. The error for a missing teacher names the command that trains it.
Exit status: 0 done, 1 error, 3 another process trains the teacher or makes these labels.
"""

import shlex
from functools import lru_cache
from pathlib import Path

import hydra
import pandas as pd
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from settings.build import CONFIG_PATH, build, launch, report_errors
from settings.check import check_config, require_values
from settings.datasets import load_unlabeled
from settings.kept import load_config, trained_extractor
from settings.session import pick_device, quiet_lightning
from unlabeledasd.errors import InputError
from unlabeledasd.files import file_hash
from unlabeledasd.pseudo.embeddings import embeddings_made_by, write_embeddings
from unlabeledasd.pseudo.label_file import fingerprint
from unlabeledasd.runs.folder import Run, writing_alone


@hydra.main(config_path=CONFIG_PATH, config_name="pseudo", version_base="1.3")
@report_errors()
def main(config: DictConfig) -> None:
    require_values(config)
    OmegaConf.resolve(config)
    if not config.source.teacher and not config.source.embedder:
        raise InputError(
            f"source={config.source.name}: has no embeddings; "
            "only pseudoattr/cluster.py makes its labels"
        )
    root, table, machines = load_unlabeled(config.dataset, Path(config.data_dir), config.fit_on)
    weights = {machine: weights_of(config, machine) for machine in machines}
    if config.source.teacher:
        require_teachers(config, weights)
    with writing_alone(Path(config.folder), Path(config.folder) / "lock"):
        embed_missing(config, root, table, weights)


def weights_of(config: DictConfig, machine: str) -> Path | None:
    """The file whose weights embed `machine`: the teacher's checkpoint or the user's download.

    None for an embedder without weights.
    """
    if teacher := config.source.teacher:
        return Run(teacher.run.replace("<machine>", machine)).checkpoint(teacher.epoch)
    weights = config.source.embedder.get("weights")
    return Path(weights) if weights else None


def require_teachers(config: DictConfig, weights: dict[str, Path]) -> None:
    """InputError names the first checkpoint that lacks and what makes it; RunLocked where a process
    trains that run at this moment."""
    for machine, checkpoint in weights.items():
        if checkpoint.is_file():
            continue
        run = Run(checkpoint.parents[2])
        if run.is_done:
            raise InputError(
                f"{checkpoint}: not kept; the run has epochs {run.epochs}: "
                "source.teacher.epoch=EPOCH"
            )
        if run.all.is_dir():
            with run.claim():
                pass
        command = training_command(config)
        raise InputError(f"{run.folder}: the teacher of {machine} is missing; train it: {command}")


def training_command(config: DictConfig) -> str:
    """The command line that trains the teachers of these labels, and makes the labels."""
    overrides = [word for word in HydraConfig.get().overrides.task if word.startswith("dataset.")]
    settings = {
        "DATA_DIR": config.data_dir,
        "RESULTS_DIR": config.results_dir,
        "LABEL_DIR": config.label_dir,
        "DATASETS": config.dataset.job_name,
        "SOURCES": HydraConfig.get().runtime.choices.source,
        "SEEDS": config.seed,
        "OVERRIDES": " ".join(w for w in overrides if not w.startswith("dataset.name=")),
        "TRAIN_MISSING": 1,
    }
    words = [f"{name}={shlex.quote(str(value))}" for name, value in settings.items() if value]
    return " ".join([*words, "pseudoattr/pseudo_attr.sh"])


def embed_missing(
    config: DictConfig, root: Path, table: pd.DataFrame, weights: dict[str, Path | None]
) -> None:
    """Embed what does not exist, or is of other weights, clips or settings; weights: of each
    machine."""
    files = set(weights.values())
    digests = {file: file_hash(file) if file and file.is_file() else None for file in files}
    todo = []
    for machine, file in weights.items():
        for split in ("train", "test") if config.fit_on == "all" else ("train",):
            paths = table.path[(table.machine == machine) & (table.split == split)].tolist()
            target = Path(config.folder) / machine / f"embedding_{split}.npz"
            made_by = {"weights": digests[file], "clips": fingerprint(root, paths), **how(config)}
            if embeddings_made_by(target) != made_by:
                todo.append((machine, paths, target, made_by))
    if todo:
        check_config(config)
        embed(config, root, todo, weights)
    print(
        f"{config.source.name}: {len(weights)} machines embedded, "
        f"{len(todo)} files written to {config.folder}"
    )


def how(config: DictConfig) -> dict:
    """What decides an embedding besides weights and clips."""
    settings = {"channel": config.dataset.channel}
    if teacher := config.source.teacher:
        return {"unit_norm": teacher.unit_norm, **settings}
    embedder = config.source.embedder.items()
    return {**{key: value for key, value in embedder if key not in ("weights", "md5")}, **settings}


def embed(config: DictConfig, root: Path, todo: list, weights: dict[str, Path | None]) -> None:
    """Write the embeddings (N, D) of each (machine, paths, file, made_by)."""
    from unlabeledasd.waveforms import check_clips

    quiet_lightning()
    dataset = config.dataset
    every = [path for _, paths, *_ in todo for path in paths]
    check_clips(root, every, dataset.sample_rate, dataset.channel)
    device = pick_device(config.accelerator)
    embedder = lru_cache(1)(lambda file: make_embedder(config, file))
    for machine, paths, file, made_by in todo:
        embedding = embedder(weights[machine]).embed(root, paths, dataset.channel, device)
        # labels of other embeddings than those in this folder must not be taken for theirs
        (Path(config.folder) / "labels.json").unlink(missing_ok=True)
        write_embeddings(file, paths, embedding, made_by)
        print(f"{machine}: {len(paths)} clips embedded", flush=True)


def make_embedder(config: DictConfig, weights: Path):
    """An object with the method embed(root, paths, channel, device)."""
    if config.source.embedder:
        return build(config.source.embedder)
    from unlabeledasd.pseudo.embedders import OwnModel
    from unlabeledasd.runs.hardware import keep_memory, use_threads

    run = Run(weights.parents[2])
    trained = load_config(run)
    use_threads(trained.threads)
    keep_memory()
    unit_norm = config.source.teacher.unit_norm
    return OwnModel(trained_extractor(run), weights, unit_norm, precision=trained.precision)


if __name__ == "__main__":
    launch(main, __doc__, ("dataset", "source"))
