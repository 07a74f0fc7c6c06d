"""Every yaml composes, and every `_target_` node of it binds to its signature and types."""

import re

import pytest
from omegaconf import OmegaConf

from conftest import DATASETS, ENCODERS, METHODS, ROOT, compose
from settings.build import build, naming_settings, nodes
from settings.check import check_config
from unlabeledasd.errors import InputError
from unlabeledasd.pseudo.label_file import source_name

CONFIG = ROOT / "src/config"
GROUPS = [
    (file.parent.name, file.stem)
    for file in sorted(CONFIG.glob("*/*.yaml"))
    if file.parent.name not in ("dataset", "method", "source") and file.stem != "base"
]
SOURCES = sorted(file.stem for file in (CONFIG / "source").glob("*.yaml"))
SET = ["seed=1", "data_dir=data"]


def settings(dataset: str, method: str) -> list[str]:
    name = ["dataset.name=own"] if dataset == "folder" else []
    return [f"dataset={dataset}", f"method={method}", *SET, *name]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dataset", DATASETS)
def test_dataset_and_method(dataset, method):
    config = compose("train", settings(dataset, method))
    check_config(config)
    OmegaConf.resolve(config)
    assert config.run_dir == f"results/exp/{config.dataset.name}/{method}_1"
    targets = [node["_target_"] for _, node in nodes(OmegaConf.to_container(config))]
    assert len(targets) >= (8 if method in ENCODERS else 9)


@pytest.mark.parametrize(("group", "name"), GROUPS)
def test_every_other_file(group, name):
    package = "@model.loss" if group == "loss" else ""
    plus = "+" if group in ("embedder", "labeler") else ""  # training takes none
    choice = f"{plus}{group}{package}={name}"
    of_encoders = {"untrained": "spectral_logmel", "adaptation": "beats_lora"}
    # otherwise the method that sets the least besides its model
    method = of_encoders.get(name, "featex_0256_4096")
    check_config(compose("train", [*settings("demo", method), choice]))


def test_no_yaml_is_left_out():
    tested = {(CONFIG / group / f"{name}.yaml") for group, name in GROUPS}
    tested |= {CONFIG / "dataset" / f"{name}.yaml" for name in DATASETS}
    tested |= {CONFIG / "method" / f"{name}.yaml" for name in METHODS}
    tested |= {CONFIG / "source" / f"{name}.yaml" for name in SOURCES}
    parents = {CONFIG / "dataset/base.yaml", CONFIG / "model/base.yaml"}
    entries = {CONFIG / f"{entry}.yaml" for entry in ("train", "infer", "triplet", "pseudo")}
    assert set(CONFIG.rglob("*.yaml")) == tested | parents | entries


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("dataset", ["dcase2023", "demo_unlabeled"])
def test_pseudo_labels(dataset, source):
    config = compose("pseudo", [f"dataset={dataset}", f"source={source}", *SET])
    check_config(config)
    OmegaConf.resolve(config)
    seed = 1 if source in ("class", "triplet") else None
    assert config.folder == f"pseudoattr/label/{dataset}/{source_name(source, seed)}"
    assert (config.labeler.criterion, config.fit_on) == ("cv_bic", "train")
    if source == "class":
        method = "pattr_macdom_subloss_0256_4096" if dataset == "dcase2023" else "subloss_0256_4096"
        assert config.source.teacher.run == f"results/exp/{dataset}/{method}_1"
        assert (config.source.teacher.epoch, config.source.teacher.unit_norm) == (14, True)


def test_methods_name_their_labels():
    """Every file of pseudo-labels that a method trains on is one that pseudoattr/ makes."""
    for method in METHODS:
        config = compose("train", settings("dcase2024", method))
        if "source" in config.label:
            assert method.startswith("pattr_")
            made = compose("pseudo", ["dataset=dcase2024", f"source={config.label.source}", *SET])
            assert (
                made.folder
                == f"{config.label.folder}/{source_name(config.label.source, config.label.seed)}"
            )


@pytest.mark.parametrize("dataset", [[], ["dataset=demo"]])
def test_infer(dataset):
    check_config(compose("infer", ["run=results/exp/demo/x_1", "name=y", *dataset]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+model.dropout=0.1", r"model\.dropout: unknown key; .* takes .*mixup_prob"),
        ("+data.shuffle=true", r"data\.shuffle: unknown key"),
        ("model.mixup_prob=often", r"model\.mixup_prob='often': expected float"),
        (
            "model.extractor.n_ffts=[4096,big]",
            r"model\.extractor\.n_ffts=\[4096, 'big'\]: expected .*int",
        ),
        ("model.extractor.n_ffts=4096", r"model\.extractor\.n_ffts=4096: expected"),
        (
            "seed=one",
            r"^seed='one': expected int",
        ),  # the key that was set, not one that refers to it
        ("dataset.batch_size=2.5", r"^dataset\.batch_size=2\.5: expected int"),
        ("trainer.accelerator=[cpu]", r"trainer\.accelerator=\['cpu'\]: expected"),
        ("scorer.target_kmeans_cos.n_clusters=many", r"n_clusters='many': expected int"),
        ("~model.optimizer", r"model\.optimizer is not set"),
        ("~label.fields", r"label\.fields is not set"),
        ("+model.n_classes=3", r"model\.n_classes: set by the program"),
        (
            "model.loss._target_=unlabeledasd.losses.ArcFace",
            r"_target_=unlabeledasd\.losses\.ArcFace: cannot be found",
        ),
        ("label._target_=nowhere.labels", r"label\._target_=nowhere\.labels: cannot be found"),
        ("data_dir=???", r"^data_dir is not set: give data_dir=VALUE"),
    ],
)
def test_what_does_not_fit_is_named(override, message):
    config = compose("train", [*settings("demo", "subloss_0256_4096"), override])
    with pytest.raises(InputError, match=message) as error:
        check_config(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.mixup_prob=1.5", r"model\.mixup_prob=1\.5: allowed is from 0 to 1"),
        ("model.subspace_weight=-1", r"model\.subspace_weight=-1: allowed is at least 0"),
        ("model.extractor.n_ffts=[4096,1]", r"model\.extractor\.n_ffts=\[4096, 1\]: allowed is"),
        ("model.extractor.band_hz=[-1,8000]", r"model\.extractor\.band_hz=\[-1, 8000\]: allowed"),
        ("model.extractor.band_hz=[1,2]", r"model\.extractor\.band_hz=\[1, 2\]: contains no"),
        ("model.loss.n_subclusters=0", r"model\.loss\.n_subclusters=0: allowed is at least 1"),
        ("dataset.sample_rate=0", r"dataset\.sample_rate=0: allowed is at least 1"),
        ("dataset.clip_seconds=4", r"dataset\.clip_seconds=4: too short"),
    ],
)
def test_a_value_is_refused_by_the_constructor_and_named_as_it_was_set(override, message):
    config = compose("train", [*settings("demo", "subloss_0256_4096"), override])
    check_config(config)
    with pytest.raises(InputError, match=f"^{message}"):
        build(config.model, n_classes=2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.noise_prob=-0.1", r"model\.noise_prob=-0\.1: allowed is from 0 to 1"),
        ("model.margin=-1", r"model\.margin=-1: allowed is at least 0"),
        ("model.stretch_ratios=[[0,1],[1,2]]", r"model\.stretch_ratios=\[0, 1\]: allowed is from"),
        ("model.extractor.n_fft=16", r"model\.extractor\.n_fft=16: allowed is from 32"),
    ],
)
def test_values_of_a_triplet_model(override, message):
    config = compose("triplet", [*TRIPLET, override])
    with pytest.raises(InputError, match=f"^{message}"):
        build(config.model)


def test_values_of_scorer_and_optimizer_are_refused_before_training():
    scorer = "scorer.target_kmeans_cos.n_clusters=0"
    config = compose("train", [*settings("demo", "na_4096"), scorer, "model.optimizer.lr=-0.1"])
    check_config(config)
    with pytest.raises(InputError, match=r"^scorer\.target_kmeans_cos\.n_clusters=0: allowed is"):
        build(config.scorer.target_kmeans_cos)
    module = build(config.model, n_classes=2)
    with (
        pytest.raises(InputError, match=r"^torch\.optim\.AdamW: Invalid learning rate: -0\.1"),
        naming_settings(config.model.optimizer),
    ):
        module.configure_optimizers()


TRIPLET = ["dataset=demo", "machine=gearbox", *SET]


@pytest.mark.parametrize(
    ("entry", "given"), [("train", settings("demo", "na_1024")), ("triplet", TRIPLET)]
)
@pytest.mark.parametrize(
    "override",
    [
        "trainer.devices=4",
        "trainer.devices=-1",
        "trainer.devices='-1'",
        "trainer.devices='2'",
        "trainer.devices='0,1'",
        "trainer.devices=[0,1]",
        "+trainer.num_nodes=2",
        "+trainer.strategy=ddp",
        "+trainer.strategy=fsdp",
        "+trainer.strategy={_target_:pytorch_lightning.strategies.DDPStrategy}",
    ],
)
def test_several_devices_are_refused(entry, given, override):
    setting = override.lstrip("+").partition("=")[0]
    with pytest.raises(
        InputError, match=rf"^{setting}=.+: a run is for one device, since .+ \(docs/cluster\.md\)$"
    ):
        check_config(compose(entry, [*given, override]))


@pytest.mark.parametrize(
    "override",
    [
        "trainer.devices='1'",
        "trainer.devices=[3]",
        "trainer.devices='3,'",
        "+trainer.num_nodes=1",
        "+trainer.strategy=auto",
        "+trainer.strategy=single_device",
    ],
)
def test_one_device_in_any_words(override):
    check_config(compose("train", [*settings("demo", "na_1024"), override]))


def test_auto_is_as_many_as_there_are(monkeypatch):
    """A CPU is one device; of GPUs Lightning takes all that it sees."""
    check_config(
        compose(
            "train",
            [*settings("demo", "na_1024"), "trainer.devices=auto", "trainer.accelerator=cpu"],
        )
    )
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for accelerator in ("auto", "gpu"):
        given = [
            *settings("demo", "na_1024"),
            "trainer.devices=auto",
            f"trainer.accelerator={accelerator}",
        ]
        with pytest.raises(
            InputError, match=r"^trainer\.devices=auto: takes 2 here: a run is for one device"
        ):
            check_config(compose("train", given))


def test_methods_of_table_1():
    """The branches say what the name says, larger first."""
    for method in (name for name in METHODS if name.startswith("na_")):
        n_ffts = compose("train", settings("dcase2024", method)).model.extractor.n_ffts
        assert sorted(n_ffts, reverse=True) == n_ffts
        assert sorted(f"{n_fft:04d}" for n_fft in n_ffts) == re.findall(r"\d{4}", method)


def test_published_settings():
    for method, weight in (("na_0256_4096", 0.0), ("subloss_0256_4096", 1.0)):
        config = compose("train", settings("dcase2023", method))
        OmegaConf.resolve(config)
        assert config.model.subspace_weight == weight
        assert config.model.loss.n_subclusters == 16
        assert config.model.mixup_prob == 0.5
        optimizer = {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 1e-3, "fused": True}
        assert config.model.optimizer == optimizer  # weight decay by default
        assert (config.data.batch_size, config.dataset.clip_seconds) == (64, 18)
        assert config.score_epochs == [12, 14, 16]
        assert config.model.extractor.time_mean_removed == []


@pytest.mark.parametrize(
    ("dataset", "development", "evaluation", "unlabeled"),
    [
        ("dcase2023", 7, 7, 0),
        ("dcase2024", 7, 9, 7),
        ("dcase2025", 7, 8, 7),
        ("dcase2026", 7, 5, 0),
        ("demo", 4, 0, 0),
    ],
)
def test_machines(dataset, development, evaluation, unlabeled):
    config = compose("train", settings(dataset, "na_1024")).dataset
    machines = [*config.machines.development, *config.machines.evaluation]
    assert (len(config.machines.development), len(config.machines.evaluation)) == (
        development,
        evaluation,
    )
    assert len(set(machines)) == len(machines)
    assert len(config.unlabeled) == unlabeled
    assert set(config.unlabeled) <= set(machines)
    assert config.channel == ("near" if dataset == "dcase2026" else None)
