"""Score a finished run again: by another scorer, at other kept epochs, or on other clips.

  python src/infer.py run=RUN name=ldn scorer=ldn_ratio
  python src/infer.py run=RUN name=both 'scorer=[ldn_ratio,domain_z]' average=domain_z
  python src/infer.py run=RUN name=late 'epochs=[14,16]'
  python src/infer.py run=RUN name=moved data_dir=/new/place
  python src/infer.py run=RUN name=today dataset=folder dataset.name=today data_dir=FOLDER

RUN is results/exp/<dataset>/<method>_<seed>. Writes RUN/<machine>/infer/version_<name>/ and
nothing that another call wrote. The embeddings that the run has kept are scored in seconds, unless
the call names other clips, a precision or embeddings=new: then the network embeds the clips. For a
machine with training clips, scorers are fitted on them; a machine with test clips alone is scored
by the fitted scorers of the run.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig, OmegaConf

from settings.build import CONFIG_PATH, build_scorers, launch, report_errors
from settings.check import check_config, require_values
from settings.datasets import index_dataset
from settings.kept import load_config, trained_extractor
from settings.session import clip_folder, load_clips, pick_device, quiet_lightning
from unlabeledasd.detection.calibration import as_training, with_calibration
from unlabeledasd.errors import InputError
from unlabeledasd.files import write_text
from unlabeledasd.metrics import SINCE_2022
from unlabeledasd.runs.embeddings import read_embeddings, require_clips
from unlabeledasd.runs.folder import UNTRAINED, Run, version_name

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

SOURCES = ("auto", "kept", "new")


@hydra.main(config_path=CONFIG_PATH, config_name="infer", version_base="1.3")
@report_errors()
def main(config: DictConfig) -> None:
    require_values(config)
    run = Run(config.run)
    if not run.is_done:
        raise InputError(
            f"run={run.folder}: no finished run there; src/train.py makes and finishes runs"
        )
    check_config(config)
    with run.claim():
        infer(config, run)


def infer(config: DictConfig, run: Run) -> None:
    from unlabeledasd import evaluation, results

    trained = load_config(run)
    epochs = scored_epochs(config, trained, run)
    scorers = build_scorers(config)
    name = str(config.name)
    record = run.all / "infer" / f"{name}.yaml"
    text = OmegaConf.to_yaml(config, resolve=True)
    if "/" in name or name.startswith("epoch") or name == UNTRAINED:
        raise InputError(
            f"name={name}: a plain folder name, not {UNTRAINED}, that does not begin with 'epoch'"
        )
    if record.is_file() and record.read_text(encoding="utf-8") != text:
        raise InputError(
            f"name={name}: {record} has other settings under this name; choose another name"
        )
    dataset = config.get("dataset") or trained.dataset
    take = take_kept if uses_kept(config, run, epochs) else embed_clips
    table, embeddings = take(config, trained, run, epochs)
    write_text(record, text)
    for epoch in epochs:
        stem = version_name([epoch])
        evaluation.score_machines(
            run,
            name,
            stem,
            table,
            embeddings[epoch],
            scorers,
            stored=run.scorers(stem),
            keep=False,
            n_jobs=trained.threads,
            official=dataset.get("official", SINCE_2022),
        )
    if len(epochs) > 1:
        sources = [(name, version_name([epoch])) for epoch in epochs]
        results.average_scores(run, sources, name, scorers[0].column)
    print(results.report(run, name, table.machine.unique()))


def scored_epochs(config: DictConfig, trained: DictConfig, run: Run) -> list[int]:
    epochs = config.epochs or trained.score_epochs
    if not OmegaConf.is_list(epochs) or not config.get("scorer"):
        given = f"epochs={config.epochs}, scorer={config.get('scorer')}"
        raise InputError(f"{given}: a list like [14,16], and at least one scorer")
    if lacking := sorted(set(epochs) - set(run.epochs)):
        raise InputError(f"epochs={lacking}: not kept by {run.folder}, it has {run.epochs}")
    return list(epochs)


def uses_kept(config: DictConfig, run: Run, epochs: list[int]) -> bool:
    """Whether the embeddings that the run has kept are scored, and not those of its network."""
    if config.embeddings not in SOURCES:
        raise InputError(f"embeddings={config.embeddings}: allowed are {', '.join(SOURCES)}")
    files = [run.embeddings(version_name([epoch])) for epoch in epochs]
    if config.embeddings == "kept":
        for file in files:
            run.require(file)
        return True
    other_clips = config.get("dataset") or config.data_dir or config.precision
    return config.embeddings == "auto" and not other_clips and all(f.is_file() for f in files)


def take_kept(
    config: DictConfig, trained: DictConfig, run: Run, epochs: list[int]
) -> tuple["pd.DataFrame", dict[int, "np.ndarray"]]:
    """(table of clips, embeddings of each epoch) as the run has kept them.

    Where the data are, their clips must be the same ones.
    """
    dataset = config.get("dataset") or trained.dataset
    root = raw_folder(config, trained, dataset)
    embeddings = {}
    for epoch in epochs:
        file = run.embeddings(version_name([epoch]))
        table, embeddings[epoch] = read_embeddings(file)
        if root.is_dir():
            try:
                require_clips(file, as_training(table), index_dataset(dataset, root))
            except InputError as error:
                raise InputError(f"{error}; embeddings=new embeds the clips there are") from None
        else:
            print(f"note: {root}: not there; the clips are those of {file}")
    return table, embeddings


def embed_clips(
    config: DictConfig, trained: DictConfig, run: Run, epochs: list[int]
) -> tuple["pd.DataFrame", dict[int, "np.ndarray"]]:
    """(table of clips, embeddings of each epoch) by the run's network."""
    quiet_lightning()
    from unlabeledasd.evaluation import embed
    from unlabeledasd.runs.checkpoints import load_extractor
    from unlabeledasd.runs.hardware import check_precision, keep_memory, use_threads

    precision = config.precision or trained.precision
    check_precision(precision)
    use_threads(trained.threads)
    keep_memory()
    dataset = config.get("dataset") or trained.dataset
    # the network knows one rate: that of its training
    dataset = OmegaConf.merge(dataset, {"sample_rate": trained.dataset.sample_rate})
    root = raw_folder(config, trained, dataset)
    table = with_calibration(run, load_clips(dataset, root, required=("test",)))
    device = pick_device(config.accelerator)
    embeddings = {
        epoch: embed(
            load_extractor(trained_extractor(run), run.checkpoint(epoch)),
            root,
            table.path.tolist(),
            dataset.channel,
            device=device,
            num_workers=config.num_workers,
            description=version_name([epoch]),
            precision=precision,
        )
        for epoch in epochs
    }
    return table, embeddings


def raw_folder(config: DictConfig, trained: DictConfig, dataset: DictConfig) -> Path:
    data_dir = Path(config.data_dir or trained.data_dir)
    return clip_folder(dataset, data_dir / str(dataset.name) / "all" / "raw")


if __name__ == "__main__":
    launch(main, __doc__)
