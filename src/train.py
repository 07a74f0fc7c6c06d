"""Train one run = dataset x method x seed; score its kept epochs on every machine; average.

  python src/train.py dataset=DATASET method=METHOD seed=N data_dir=FOLDER [key=value ...]
  python src/train.py ... check=true      check data, labels and configuration, train nothing
  python src/train.py ... overwrite=true  delete this run's results and train from scratch
  python src/train.py ... --cfg job       print the configuration; every key of it can be set

A finished run is skipped. An interrupted one resumes after its last complete epoch. Both keep the
settings that they began with. Exit status: 0 done, 1 error, 3 another process works on this run.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

from settings.build import (
    CONFIG_PATH,
    build,
    build_scorers,
    launch,
    naming_settings,
    report_errors,
)
from settings.check import check_config, require_type, require_values
from settings.kept import keep_choices, make_once, report_finished, save_config, settings_hash
from settings.session import (
    clip_folder,
    load_clips,
    quiet_lightning,
    runs_after,
    seed_initialisation,
    use_hardware,
)
from unlabeledasd.errors import InputError
from unlabeledasd.runs.folder import Run, version_name

DEFAULT_RATE = 0.1  # of false alarms

if TYPE_CHECKING:
    import pandas as pd


@hydra.main(config_path=CONFIG_PATH, config_name="train", version_base="1.3")
@report_errors()
def main(config: DictConfig) -> None:
    require_values(config)
    choose_alarm_rate(config)
    if config.dataset.resample:
        if config.dataset.channel is None:
            config.dataset.channel = 0  # of new recordings too
        config.data.root = str(clip_folder(config.dataset, config.data.root))
    run = Run(config.run_dir)
    keep_choices(config, run)
    if run.is_done and not config.check and not config.overwrite:
        # before torch is imported, so that a grid of finished runs passes quickly
        report_finished(config, run)
        return
    check_config(config)
    if config.check:
        prepare(config)
        print("check passed: data, labels and configuration fit")
        return
    make_once(config, run, train)


def choose_alarm_rate(config: DictConfig) -> None:
    """Set what is promised of the calibration clips; InputError where there are none."""
    if not config.calibrate:
        if config.alarm_rate is not None:
            raise InputError(f"alarm_rate={config.alarm_rate}: needs calibrate=SHARE, such as 0.1")
        return
    for name in ("calibrate", "alarm_rate"):
        require_type(name, config[name], float | int | None)
    if "source" in config.label:
        made = "pseudo-labels were made from all training clips, so none is unseen"
        raise InputError(f"calibrate={config.calibrate}: {made}; choose another method")
    if config.alarm_rate is None:
        config.alarm_rate = DEFAULT_RATE


def prepare(config: DictConfig) -> tuple:
    """(table of all clips, labels, module, data), checked; seeds the initialisation."""
    from unlabeledasd.clips import training_notes
    from unlabeledasd.detection.calibration import calibration_note, set_aside
    from unlabeledasd.metrics import check_official

    epochs = list(config.score_epochs)
    trains = epochs != [0]
    if trains and (not epochs or epochs != sorted(set(epochs)) or epochs[0] < 1):
        raise InputError(
            f"score_epochs={epochs}: ascending epochs, counted from 1, or [0]: no training"
        )
    check_official(config.dataset.official)  # which is needed after the training
    table = load_clips(config.dataset, config.data.root)
    if config.calibrate:
        table = set_aside(table, config.calibrate, config.alarm_rate)
        print(calibration_note(table, config.alarm_rate))
    labels = build(config.label, table=table)
    print(f"{len(labels.classes)} classes")
    scorers = build_scorers(config)  # checks their settings early
    n_clusters = max(getattr(scorer, "n_clusters", 0) for scorer in scorers)
    for line in [*training_notes(table, n_clusters), *missing_ground_truth(config, table)]:
        print(line)
    seed_initialisation(config.seed)
    module = build(config.model, n_classes=len(labels.classes))
    if trains and not any(parameter.requires_grad for parameter in module.parameters()):
        raise InputError(
            f"score_epochs={epochs}: nothing of this method is trained, allowed is [0]"
        )
    if trains and not getattr(module, "can_learn", True):
        raise InputError(
            f"{config.data.root}: one class in all ({labels.classes[0]}), so the loss is exactly "
            "zero and nothing is learned; add another machine's folder, name the operating "
            "conditions in the file names of the training clips "
            "(section_00_source_train_normal_0000_<condition>.wav), let label=self_supervised make "
            "classes, or take method=spectral_level, which needs no training"
        )
    if trains:
        with naming_settings(config.model.optimizer):
            module.configure_optimizers()  # whose settings are checked only here
    data = build(config.data, table=table, labels=labels, n_samples=module.extractor.n_samples)
    return table, labels, module, data


def train(config: DictConfig, run: Run) -> None:
    """Do what the run lacks of: training, the scores of each kept epoch, their mean."""
    from unlabeledasd import evaluation, results
    from unlabeledasd.cache import ClipCache
    from unlabeledasd.detection.calibration import (
        alarms_by_domain,
        as_training,
        keep_calibration,
    )
    from unlabeledasd.files import write_json
    from unlabeledasd.labels import Labels
    from unlabeledasd.runs.checkpoints import load_extractor
    from unlabeledasd.runs.contents import keep_contents
    from unlabeledasd.runs.embeddings import write_embeddings
    from unlabeledasd.runs.training import fit

    quiet_lightning()
    use_hardware(config)
    table, labels, module, data = prepare(config)
    save_config(config, run)
    keep_contents(run, config.data.root, as_training(table))
    keep_calibration(run, table)
    if run.labels.is_file() and Labels.load(run.labels) != labels:
        raise InputError(
            f"{run.labels}: differs from the labels of the clips now; retrain with overwrite=true"
        )
    labels.save(run.labels)
    write_json(run.parts, getattr(module.extractor, "part_names", []))
    epochs = list(config.score_epochs)
    scorers = build_scorers(config)
    make_trainer = partial(build, config.trainer, precision=config.precision)
    keep_all = config.keep_all_checkpoints
    trainer = fit(run, make_trainer, module, data, epochs, keep_all, runs_after(), config.graph)
    root, paths = Path(config.data.root), table.path.tolist()
    device = trainer.strategy.root_device
    waiting = [epoch for epoch in epochs if not run.scorers(version_name([epoch])).is_file()]
    cache = None
    if waiting and device.type != "cpu":
        most = 1e9 * config.data.cache_gb
        cache = ClipCache.read(root, paths, config.data.channel, device, most)
    for epoch in waiting:
        version = version_name([epoch])
        embeddings = evaluation.embed(
            load_extractor(module.extractor, run.require(run.checkpoint(epoch))),
            root,
            paths,
            config.data.channel,
            num_workers=config.data.num_workers,
            device=device,
            description=version,
            precision=config.precision,
            cache=cache,
        )
        if config.keep_embeddings:
            write_embeddings(run.embeddings(version), table, embeddings)
        evaluation.score_machines(
            run,
            version,
            version,
            table,
            embeddings,
            scorers,
            n_jobs=config.threads,
            official=config.dataset.official,
        )
    version = version_name(epochs)
    if len(epochs) > 1:
        sources = [(version_name([epoch]), version_name([epoch])) for epoch in epochs]
        results.average_scores(run, sources, version, scorers[0].column)
    run.mark_done(settings_hash(config), keep_all)
    print(results.report(run, version, table.machine.unique()))
    if config.calibrate:
        print(*alarms_by_domain(run, version, config.alarm_rate), sep="\n")
    for line in missing_ground_truth(config, table)[1:]:
        print(line)


def missing_ground_truth(config: DictConfig, table: "pd.DataFrame") -> list[str]:
    """Lines to print about official test clips with bare names: of which machines, what to do."""
    from unlabeledasd.audio.clip_names import UNKNOWN

    machines = table.machine[table.condition == UNKNOWN].unique()
    if config.dataset.grammar == "free" or not len(machines):
        return []
    return [
        f"{', '.join(machines)}: test clips without ground truth in their names; they get "
        "scores, but no metrics.",
        f"To have metrics: DATA_DIR={config.data_dir} preprocess/add_gt_info.sh "
        f"{config.dataset.name}, and after training python src/infer.py run={config.run_dir} "
        "name=metrics embeddings=new",
    ]


if __name__ == "__main__":
    launch(main, __doc__)
