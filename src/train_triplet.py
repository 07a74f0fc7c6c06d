"""Train the triplet model of one machine; its embeddings become the pseudo-labels "triplet".

  python src/train_triplet.py dataset=DATASET machine=MACHINE seed=N data_dir=FOLDER [key=value ...]

Writes results/exp/<dataset>/triplet_<machine>_<seed>/all/checkpoints/epoch6.ckpt. A finished run
is skipped. An interrupted one resumes after its last complete epoch. overwrite=true retrains.
Exit status: 0 done, 1 error, 3 another process works on this run.
"""

from functools import partial

import hydra
from omegaconf import DictConfig

from settings.build import CONFIG_PATH, build, launch, naming_settings, report_errors
from settings.check import check_config, require_values
from settings.kept import keep_choices, make_once, report_finished, save_config, settings_hash
from settings.session import (
    load_clips,
    quiet_lightning,
    runs_after,
    seed_initialisation,
    use_hardware,
)
from unlabeledasd.errors import InputError
from unlabeledasd.runs.folder import Run


@hydra.main(config_path=CONFIG_PATH, config_name="triplet", version_base="1.3")
@report_errors()
def main(config: DictConfig) -> None:
    require_values(config)
    run = Run(config.run_dir)
    keep_choices(config, run)
    if run.is_done and not config.overwrite:
        report_finished(config, run)
        return
    check_config(config)
    make_once(config, run, train)


def train(config: DictConfig, run: Run) -> None:
    from unlabeledasd.runs.contents import keep_contents
    from unlabeledasd.runs.training import fit

    quiet_lightning()
    use_hardware(config)
    if type(config.epochs) is not int or config.epochs < 1:
        raise InputError(f"epochs={config.epochs}: a number of epochs, at least 1")
    table = load_clips(config.dataset, config.data.root, required=("train",))
    seed_initialisation(config.seed)
    module = build(config.model)
    with naming_settings(config.model.optimizer):
        module.configure_optimizers()  # whose settings are checked only here
    data = build(config.data, table=table, n_samples=module.extractor.n_samples)
    save_config(config, run)
    keep_contents(run, config.data.root, table[table.split == "train"])
    make_trainer = partial(build, config.trainer, precision=config.precision)
    fit(run, make_trainer, module, data, [config.epochs], runs_after=runs_after())
    checkpoint = run.require(run.checkpoint(config.epochs))
    run.mark_done(settings_hash(config))
    print(f"triplet model: {checkpoint}")


if __name__ == "__main__":
    launch(main, __doc__)
