"""Score a finished run again: with another scorer, at other kept epochs, or on another folder of clips.

  python src/infer.py run=results/exp/demo/subloss_0256_4096_1 name=k8 scorer.target_kmeans_cos.n_clusters=8
  python src/infer.py run=RUN name=late 'epochs=[14,16]'
  python src/infer.py run=RUN name=moved data_dir=/new/place
  python src/infer.py run=RUN name=today dataset=folder dataset.name=today data_dir=FOLDER

Writes <run>/<machine>/infer/version_<name>/ and nothing that another call wrote. A machine that has training
clips in the folder gets scorers fitted on them; one with test clips alone is scored by those the run keeps.
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from settings.build import CONFIG_PATH, build, launch, tell_errors
from settings.check import check_config, require_values
from settings.kept import load_config, trained_extractor
from settings.session import check_precision, load_clips, pick_device, quiet_lightning, use_threads
from unlabeledasd.errors import InputError
from unlabeledasd.files import write_text
from unlabeledasd.runs.folder import Run, version_name


@hydra.main(config_path=CONFIG_PATH, config_name="infer", version_base="1.3")
@tell_errors()
def main(config: DictConfig) -> None:
    require_values(config)
    run = Run(config.run)
    if not run.is_done:
        raise InputError(
            f"run={run.folder}: no finished run there; src/train.py makes and finishes runs"
        )
    check_config(config)
    OmegaConf.resolve(config)
    with run.claim():
        infer(config, run)


def infer(config: DictConfig, run: Run) -> None:
    quiet_lightning()
    from unlabeledasd import evaluation, results
    from unlabeledasd.runs.checkpoints import load_extractor

    trained = load_config(run)
    name, epochs = str(config.name), config.epochs or trained.score_epochs
    if not OmegaConf.is_list(epochs) or not config.get("scorer"):
        given = f"epochs={config.epochs}, scorer={config.get('scorer')}"
        raise InputError(f"{given}: a list like [14,16], and at least one scorer")
    epochs = list(epochs)
    if lacking := sorted(set(epochs) - set(run.epochs)):
        raise InputError(f"epochs={lacking}: not kept by {run.folder}, it has {run.epochs}")
    record = run.all / "infer" / f"{name}.yaml"
    text = OmegaConf.to_yaml(config)
    if "/" in name or name.startswith("epoch"):
        raise InputError(f"name={name}: a plain folder name that does not begin with 'epoch'")
    if record.is_file() and record.read_text(encoding="utf-8") != text:
        raise InputError(
            f"name={name}: {record} tells of other settings under this name; choose another"
        )

    check_precision(precision := config.precision or trained.precision)
    use_threads(trained.threads)
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
        scorers = [build(node) for node in config.scorer.values()]
        evaluation.score_machines(
            run, name, stem, table, embeddings, scorers, stored=run.scorers(stem)
        )
    stem = version_name(epochs)
    if len(epochs) > 1:
        sources = [(name, version_name([epoch])) for epoch in epochs]
        stem = results.ENSEMBLE
        results.average_scores(run, sources, name, scorers[0].column)
    print(results.report(run, name, stem, table.machine.unique()))


if __name__ == "__main__":
    launch(main, __doc__)
