"""Train one run = dataset x method x seed, score its kept epochs on every machine, average their scores.

  python src/train.py dataset=DATASET method=METHOD seed=N data_dir=FOLDER [key=value ...]
  python src/train.py ... check=true      look at data, labels and configuration, train nothing
  python src/train.py ... overwrite=true  remove what the run has and train it anew
  python src/train.py ... --cfg job       print the whole configuration; every key of it can be set

A finished run is left alone; an interrupted one goes on from its last whole epoch, both by the settings it began
with. Exit status: 0 done, 1 error, 3 another process works on this run.
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from settings.build import CONFIG_PATH, build, launch, tell_errors
from settings.check import check_config, require_values
from settings.kept import keep_choices, make_once, save_config, settings_hash, tell_finished
from settings.session import fit, load_clips, quiet_lightning, use_hardware
from unlabeledasd.errors import InputError
from unlabeledasd.runs.folder import Run, version_name


@hydra.main(config_path=CONFIG_PATH, config_name="train", version_base="1.3")
@tell_errors()
def main(config: DictConfig) -> None:
    require_values(config)
    run = Run(config.run_dir)
    keep_choices(config, run)
    if run.is_done and not config.check and not config.overwrite:
        tell_finished(
            config, run
        )  # before torch is imported: a grid of finished runs passes quickly
        return
    check_config(config)
    OmegaConf.resolve(config)
    if config.check:
        prepare(config)
        print("check passed: data, labels and configuration fit")
        return
    make_once(config, run, train)


def prepare(config: DictConfig):
    """-> (table of all clips, labels, module, data), checked; seeds the initialisation."""
    from pytorch_lightning import seed_everything

    from unlabeledasd.clips import training_notes

    epochs = list(config.score_epochs)
    if not epochs or epochs != sorted(set(epochs)) or epochs[0] < 1:
        raise InputError(f"score_epochs={epochs}: ascending epochs, counted from 1")
    table = load_clips(config.dataset, config.data.root)
    labels = build(config.label, table=table)
    print(f"{len(labels.classes)} classes")
    n_clusters = max(scorer.get("n_clusters", 0) for scorer in config.scorer.values())
    for line in [*training_notes(table, n_clusters), *missing_ground_truth(config, table)]:
        print(line)
    if len(labels.classes) == 1:
        raise InputError(
            f"{config.data.root}: one class in all ({labels.classes[0]}), so the loss is exactly zero and nothing is "
            "learned; add another machine's folder, or tell operating conditions apart in the names of the training "
            "clips: section_00_source_train_normal_0000_<condition>.wav"
        )
    seed_everything(config.seed, verbose=False)
    module = build(config.model, n_classes=len(labels.classes))
    data = build(config.data, table=table, labels=labels, n_samples=module.extractor.n_samples)
    return table, labels, module, data


def train(config: DictConfig, run: Run) -> None:
    """Do what is missing of: training, the scores of each kept epoch, their mean."""
    from unlabeledasd import evaluation, results
    from unlabeledasd.labels import Labels
    from unlabeledasd.runs.checkpoints import load_extractor

    quiet_lightning()
    use_hardware(config)
    table, labels, module, data = prepare(config)
    save_config(config, run)
    if run.labels.is_file() and Labels.load(run.labels) != labels:
        raise InputError(
            f"{run.labels}: other labels than the clips have now; overwrite=true trains anew"
        )
    labels.save(run.labels)
    epochs = list(config.score_epochs)
    trainer = fit(run, config, module, data, epochs, config.keep_all_checkpoints)
    for epoch in epochs:
        version = version_name([epoch])
        if not run.scorers(version).is_file():
            extractor = load_extractor(module.extractor, run.require(run.checkpoint(epoch)))
            embeddings = evaluation.embed(
                extractor,
                Path(config.data.root),
                table.path.tolist(),
                config.data.channel,
                num_workers=config.data.num_workers,
                device=trainer.strategy.root_device,
                description=f"epoch {epoch}",
                precision=config.precision,
            )
            scorers = [build(node) for node in config.scorer.values()]
            evaluation.score_machines(run, version, version, table, embeddings, scorers)
    version, stem = version_name(epochs), version_name(epochs)
    if len(epochs) > 1:
        sources = [(version_name([epoch]),) * 2 for epoch in epochs]
        stem = results.ENSEMBLE
        results.average_scores(
            run, sources, version, build(next(iter(config.scorer.values()))).column
        )
    run.mark_done(settings_hash(config), config.keep_all_checkpoints)
    print(results.report(run, version, stem, table.machine.unique()))
    for line in missing_ground_truth(config, table)[1:]:
        print(line)


def missing_ground_truth(config: DictConfig, table) -> list[str]:
    """Lines on official test clips with bare names, if any: whose they are, and what to do."""
    from unlabeledasd.clips import UNKNOWN

    machines = table.machine[table.condition == UNKNOWN].unique()
    if config.dataset.grammar != "dcase" or not len(machines):
        return []
    return [
        f"{', '.join(machines)}: test clips without ground truth in their names; they get scores, but no figures.",
        f"To have figures: DATA_DIR={config.data_dir} preprocess/add_gt_info.sh {config.dataset.name}, and after "
        f"training python src/infer.py run={config.run_dir} name=figures",
    ]


if __name__ == "__main__":
    launch(main, __doc__)
