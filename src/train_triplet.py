"""Train the triplet model of one machine, whose embeddings become the pseudo-labels "triplet".

  python src/train_triplet.py dataset=DATASET machine=MACHINE seed=N data_dir=FOLDER [key=value ...]

Writes results/exp/<dataset>/triplet_<machine>_<seed>/all/checkpoints/epoch6.ckpt. A finished run is left alone;
an interrupted one goes on from its last whole epoch; overwrite=true trains anew.
Exit status: 0 done, 1 error, 3 another process works on this run.
"""

import hydra
from omegaconf import DictConfig, OmegaConf

from settings.build import CONFIG_PATH, build, launch, tell_errors
from settings.check import check_config, require_values
from settings.kept import keep_choices, make_once, save_config, settings_hash, tell_finished
from settings.session import fit, load_clips, quiet_lightning, use_hardware
from unlabeledasd.errors import InputError
from unlabeledasd.runs.folder import Run


@hydra.main(config_path=CONFIG_PATH, config_name="triplet", version_base="1.3")
@tell_errors()
def main(config: DictConfig) -> None:
    require_values(config)
    run = Run(config.run_dir)
    keep_choices(config, run)
    if run.is_done and not config.overwrite:
        tell_finished(config, run)
        return
    check_config(config)
    OmegaConf.resolve(config)
    make_once(config, run, train)


def train(config: DictConfig, run: Run) -> None:
    from pytorch_lightning import seed_everything

    quiet_lightning()
    use_hardware(config)
    if type(config.epochs) is not int or config.epochs < 1:
        raise InputError(f"epochs={config.epochs}: a number of epochs, at least 1")
    table = load_clips(config.dataset, config.data.root, required=("train",))
    seed_everything(config.seed, verbose=False)
    module = build(config.model)
    data = build(config.data, table=table, n_samples=module.extractor.n_samples)
    save_config(config, run)
    fit(run, config, module, data, [config.epochs])
    checkpoint = run.require(run.checkpoint(config.epochs))
    run.mark_done(settings_hash(config))
    print(f"triplet model: {checkpoint}")


if __name__ == "__main__":
    launch(main, __doc__)
