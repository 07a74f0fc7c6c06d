"""Score a finished run again: by another scorer, at other kept epochs, or on other clips.

  python src/infer.py run=RUN name=k8 scorer.target_kmeans_cos.n_clusters=8
  python src/infer.py run=RUN name=late 'epochs=[14,16]'
  python src/infer.py run=RUN name=moved data_dir=/new/place
  python src/infer.py run=RUN name=today dataset=folder dataset.name=today data_dir=FOLDER

RUN is results/exp/<dataset>/<method>_<seed>. Writes RUN/<machine>/infer/version_<name>/ and
nothing that another call wrote. For a machine with training clips in the folder, scorers are
fitted on them; a machine with test clips alone is scored by the fitted scorers of the run.
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from settings.build import CONFIG_PATH, build, launch, report_errors
from settings.check import check_config, require_values
from settings.kept import load_config, trained_extractor
from settings.session import load_clips, pick_device, quiet_lightning
from unlabeledasd.errors import InputError
from unlabeledasd.files import write_text
from unlabeledasd.runs.folder import Run, version_name


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
    quiet_lightning()
    from unlabeledasd import evaluation, results
    from unlabeledasd.runs.checkpoints import load_extractor
    from unlabeledasd.runs.hardware import check_precision, keep_memory, use_threads

    trained = load_config(run)
    epochs = scored_epochs(config, trained, run)
    scorers = [build(node) for node in config.scorer.values()]
    name = str(config.name)
    record = run.all / "infer" / f"{name}.yaml"
    text = OmegaConf.to_yaml(config, resolve=True)
    if "/" in name or name.startswith("epoch"):
        raise InputError(f"name={name}: a plain folder name that does not begin with 'epoch'")
    if record.is_file() and record.read_text(encoding="utf-8") != text:
        raise InputError(
            f"name={name}: {record} has other settings under this name; choose another name"
        )
    precision = config.precision or trained.precision
    check_precision(precision)
    use_threads(trained.threads)
    keep_memory()
    dataset = config.get("dataset") or trained.dataset
    root = Path(config.data_dir or trained.data_dir) / str(dataset.name) / "all" / "raw"
    table = load_clips(dataset, root, required=("test",))
    write_text(record, text)
    device = pick_device(config.accelerator)
    for epoch in epochs:
        stem = version_name([epoch])
        extractor = load_extractor(trained_extractor(run), run.checkpoint(epoch))
        embeddings = evaluation.embed(
            extractor,
            root,
            table.path.tolist(),
            dataset.channel,
            device=device,
            num_workers=config.num_workers,
            description=f"epoch {epoch}",
            precision=precision,
        )
        stored = run.scorers(stem)
        evaluation.score_machines(run, name, stem, table, embeddings, scorers, stored)
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


if __name__ == "__main__":
    launch(main, __doc__)
