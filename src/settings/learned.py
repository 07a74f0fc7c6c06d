"""The configuration of a detector of src/learn.py, and the training of its network."""

import hashlib
from functools import partial
from typing import Any

import hydra
import yaml
from omegaconf import OmegaConf

from settings.build import CONFIG_PATH, build
from settings.session import pick_device, quiet_lightning, seed_initialisation
from unlabeledasd.detection.classes import choose_classes
from unlabeledasd.detection.learning import Learned
from unlabeledasd.detection.survey import Facts
from unlabeledasd.labels import Labels
from unlabeledasd.networks import least_samples
from unlabeledasd.runs.folder import Run

SPECTRAL = "spectral_logmel"  # loudness does not count, so another gain is no anomaly
NETWORK = "best_0256_1024_4096"
EPOCHS = 16  # as many as the paper's
CHOICES = {
    SPECTRAL: ["scorer=[standardized_domain_z]"],
    # precision: of scores, as src/learn.py calibrates them
    NETWORK: ["model.extractor.level_removed=true", "precision=32-true", "trainer.logger=false"],
}


def make_config(method: str, *overrides: str) -> dict[str, Any]:
    """The configuration of a run, as src/train.py would write it, for a method of CHOICES."""
    given = ["dataset=folder", "dataset.name=learned", f"method={method}", "seed=0", "data_dir=."]
    given += ["results_dir=.", "run_dir=.", "threads=1", *CHOICES[method], *overrides]
    with hydra.initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        config = hydra.compose("train", given)
    return OmegaConf.to_container(config, resolve=True)


def least_seconds(sample_rate: int) -> float:
    """The shortest window that NETWORK takes, a little more."""
    return -(-least_samples() * 10 // sample_rate) / 10


def train(run: Run, facts: list[Facts], learned: Learned, overrides: list[str]) -> dict[str, Any]:
    """Train NETWORK on the references of `learned`; resumes -> the configuration of the run.

    learned: with spectral embeddings, which show clusters. overrides: of the dataset.
    """
    from unlabeledasd.detection import training
    from unlabeledasd.runs.hardware import best_precision, keep_memory
    from unlabeledasd.runs.training import fit

    numbers = learned.windows.groupby("recording").cumcount().to_numpy()
    is_reference = (learned.windows.role == "reference").to_numpy()
    references = learned.where(is_reference)
    table = references.windows.assign(place=numbers[is_reference])
    rows = training.choose_windows(table)
    classes = choose_classes(references)
    print(f"training, {classes.why}")
    print(f"{len(rows)} windows of {len(table)}, {EPOCHS} epochs; can be stopped, and called again")
    table = table.iloc[rows].reset_index(drop=True)
    overrides = [*overrides, f"score_epochs=[{EPOCHS}]"]
    overrides += ["label=self_supervised"] * classes.are_made
    plain = make_config(NETWORK, *overrides)
    places = (table.recording + "@" + table.place.astype(str)).tolist()
    labels = Labels.from_names(places, [classes.names[row] for row in rows])
    text = yaml.safe_dump([plain, labels.classes, labels.clips])
    training.begin(run, hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest())
    labels.save(run.labels)
    quiet_lightning()
    keep_memory()
    config = OmegaConf.create(plain)
    seed_initialisation(config.seed)
    module = build(config.model, n_classes=len(labels.classes))
    file = run.all / ".windows.tmp"  # removed by the next call if this one is killed
    dataset = config.dataset
    waves = training.read_windows(
        file,
        table,
        {one.recording: one for one in facts},
        module.extractor.n_samples,
        dataset.sample_rate,
        dataset.channel,
    )
    try:
        windows = training.Windows(waves, labels.of(places), places)
        data = training.WindowBatches(windows, dataset.batch_size, config.seed)
        precision = best_precision(pick_device(config.trainer.accelerator))
        make_trainer = partial(build, config.trainer, precision=precision)
        fit(run, make_trainer, module, data, list(config.score_epochs), graph=config.graph)
    finally:
        file.unlink(missing_ok=True)
    return plain
