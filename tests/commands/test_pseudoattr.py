"""pseudoattr/: from a teacher to labels and their report, on tiny clips."""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from sklearn.metrics import adjusted_rand_score

import cluster
import embed
import train
from conftest import ROOT, SECONDS, call, compose, files_below, tiny, write_wav
from settings.build import build
from unlabeledasd import evaluation
from unlabeledasd.audio.clip_names import parse_clip
from unlabeledasd.files import write_npz, write_text
from unlabeledasd.labels import Labels
from unlabeledasd.pseudo.label_file import PseudoLabels, fingerprint
from unlabeledasd.runs.checkpoints import load_extractor
from unlabeledasd.runs.folder import Run
from unlabeledasd.runs.locks import locked

RUNS = {"class": "subloss_0256_4096_1", "triplet": "triplet_fan_1"}
EPOCHS = {"class": 14, "triplet": 6}


def make_teacher(results_dir, source: str, seed: int = 0) -> Run:
    """A run folder with a checkpoint of random weights."""
    network = "pseudo.triplet.TripletNet" if source == "triplet" else "networks.MultiResolutionNet"
    extractor = {"_target_": f"unlabeledasd.{network}", "clip_seconds": SECONDS}
    run = Run(results_dir / "tiny" / RUNS[source])
    write_text(
        run.config,
        OmegaConf.to_yaml(
            {"model": {"extractor": extractor}, "precision": "32-true", "threads": 1}
        ),
    )
    torch.manual_seed(seed)
    state = build(OmegaConf.create(extractor)).state_dict()
    file = run.checkpoint(EPOCHS[source])
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {f"extractor.{key}": value for key, value in state.items()}}, file)
    return run


@pytest.fixture
def settings(data_dir, tmp_path):
    def make(source: str, *more: str) -> list[str]:
        return [
            "dataset=folder",
            "dataset.name=tiny",
            "dataset.hide=[fan]",
            f"dataset.clip_seconds={SECONDS}",
            f"source={source}",
            "seed=1",
            f"data_dir={data_dir}",
            f"results_dir={tmp_path}/results",
            f"label_dir={tmp_path}/label",
            "accelerator=cpu",
            "n_jobs=1",
            *more,
        ]

    return make


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1].split("\r")[-1].strip()


@pytest.mark.parametrize("source", ["class", "triplet"])
def test_embeddings_of_a_teacher(source, settings, data_dir, tmp_path, monkeypatch, capsys):
    run = make_teacher(tmp_path / "results", source)
    assert call(embed, monkeypatch, *settings(source)) == 0
    file = tmp_path / f"label/tiny/{source}_1/fan/embedding_train.npz"
    arrays = dict(np.load(file, allow_pickle=False))
    assert arrays["paths"].tolist() == sorted(
        f"fan/train/{p.name}" for p in data_dir.glob("tiny/all/raw/fan/train/*")
    )
    extractor = load_extractor(
        build(OmegaConf.load(run.config).model.extractor), run.checkpoint(EPOCHS[source])
    )
    expected = evaluation.embed(extractor, data_dir / "tiny/all/raw", arrays["paths"].tolist())
    if source == "class":
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(arrays["embedding"], expected, rtol=1e-5, atol=1e-6)
    before = file.stat().st_mtime_ns
    assert call(embed, monkeypatch, *settings(source)) == 0
    assert "0 files written" in capsys.readouterr().out
    assert file.stat().st_mtime_ns == before
    make_teacher(tmp_path / "results", source, seed=1)
    assert call(embed, monkeypatch, *settings(source, "fit_on=all")) == 0
    assert "2 files written" in capsys.readouterr().out  # of new weights, and of the test clips
    assert not np.allclose(np.load(file)["embedding"], expected)
    assert len(np.load(file.with_name("embedding_test.npz"))["embedding"]) == 8


@pytest.mark.parametrize("source", ["class", "triplet"])
def test_a_missing_teacher_is_named_with_the_command_that_trains_it(
    source, settings, data_dir, tmp_path, monkeypatch, capsys
):
    """The job script makes of the command what would have been trained for this call."""
    place = tmp_path / "it's here"
    given = settings(source, f"results_dir='{place}'".replace("t's", "t\\'s"))
    assert call(embed, monkeypatch, *given) == 1
    error = last_line(capsys.readouterr().err)
    run = place / "tiny" / RUNS[source]
    assert error.startswith(f"error: {run}: the teacher of fan is missing; train it: DATA_DIR=")
    command = error.partition("train it: ")[2]
    done = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        | {"DRY_RUN": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    trained, *made = done.stdout.splitlines()
    entry, config = ("train_triplet", "triplet") if source == "triplet" else ("train", "train")
    words = shlex.split(trained)
    assert words[:2] == ["python", f"src/{entry}.py"]
    teacher = compose(config, words[2:])
    assert teacher.run_dir == str(run)
    assert (teacher.data_dir, teacher.seed) == (str(data_dir), 1)
    assert (teacher.dataset.hide, teacher.dataset.clip_seconds) == (["fan"], SECONDS)
    assert len(made) == 2
    assert all(f"label_dir={tmp_path}/label " in line for line in made)


def test_a_teacher_without_that_epoch(settings, tmp_path, monkeypatch, capsys):
    run = make_teacher(tmp_path / "results", "class")
    run.checkpoint(14).rename(run.checkpoint(2))
    run.mark_done("")
    assert call(embed, monkeypatch, *settings("class")) == 1
    assert "the run has epochs [2]: source.teacher.epoch=EPOCH" in capsys.readouterr().err
    assert call(embed, monkeypatch, *settings("class", "source.teacher.epoch=2")) == 0


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (embed, ["panns", "source.embedder.weights=/none.pth"], "/none.pth: no such file"),
        (embed, ["gt"], "gt: has no embeddings"),
        (
            embed,
            ["class", "dataset.hide=[]"],
            "no unlabeled machine, the training clips of all have attributes in their names",
        ),
        (embed, ["class", "fit_on=test"], "fit_on=test: allowed are train, all"),
        (
            cluster,
            ["class"],
            "embedding_train.npz: no such embeddings; pseudoattr/embed.py source=class makes them",
        ),
        (cluster, ["gt", "labeler.criterion=3"], "labeler.criterion=3: expected str"),
        (cluster, ["gt", "n_jobs=0"], "n_jobs=0: a number of machines, or -1"),
    ],
)
def test_errors_in_one_line(script, arguments, message, settings, monkeypatch, capsys):
    assert call(script, monkeypatch, *settings(*arguments)) == 1
    error = last_line(capsys.readouterr().err)
    assert error.startswith("error: ")
    assert message in error


def test_seed_is_asked_for(settings, monkeypatch, capsys):
    arguments = [setting for setting in settings("class") if setting != "seed=1"]
    assert call(embed, monkeypatch, *arguments) == 1
    assert "seed is not set: give seed=VALUE" in capsys.readouterr().err


@pytest.fixture
def embedded(tmp_path, data_dir, settings):
    """Embeddings of fan as embed.py leaves them: two clusters in the source domain, by speed."""
    root, file = data_dir / "tiny/all/raw", tmp_path / "label/tiny/class_1/fan/embedding_train.npz"
    paths = sorted(f"fan/train/{p.name}" for p in (root / "fan/train").iterdir())
    embedding = np.random.default_rng(0).standard_normal((7, 8)).astype(np.float32)
    made_by = {"weights": "0123", "clips": fingerprint(root, paths)}
    write_npz(
        file,
        {
            "paths": np.array(paths),
            "embedding": embedding,
            "made_by": np.array(json.dumps(made_by)),
        },
    )
    return file


def test_clusters_and_report(embedded, settings, data_dir, tmp_path, monkeypatch, capsys):
    assert call(cluster, monkeypatch, *settings("class")) == 0
    assert "fan: clustered\n" in capsys.readouterr().out
    folder = tmp_path / "label/tiny/class_1"
    clusters = pd.read_csv(folder / "fan/clusters.csv")
    assert list(clusters) == ["path", "domain", "true_attribute", "cluster", "x", "y"]
    assert clusters.true_attribute.tolist() == [f"speed_{n}" for n in (1, 2, 1, 2, 1, 1, 2)]
    criterion = pd.read_csv(folder / "fan/criterion.csv")
    assert list(criterion) == ["domain", "n_components", "cv_bic"]
    assert criterion.n_components.tolist() == [
        1,
        2,
        3,
        4,
    ]  # of the source domain; two target clips are one cluster
    assert (folder / "fan/map.png").read_bytes().startswith(b"\x89PNG")
    report = pd.read_csv(folder / "report.csv").set_index("domain")
    assert list(report) == ["machine", "clips", "clusters", "true_attributes", "ari", "nmi"]
    source = clusters[clusters.domain == "source"]
    assert report.loc["source", ["clips", "clusters", "true_attributes"]].tolist() == [
        5,
        source.cluster.nunique(),
        2,
    ]
    assert report.loc["source", "ari"] == adjusted_rand_score(source.true_attribute, source.cluster)
    assert report.loc["target", ["clusters", "ari", "nmi"]].tolist() == [1, 0, 0]

    labels = PseudoLabels.load(folder / "labels.json")
    assert (labels.dataset, labels.source) == ("tiny", "class_1")
    assert labels.settings["labeler"]["criterion"] == "cv_bic"
    assert labels.settings["weights"] == {"fan": "0123"}
    names = "fan-" + clusters.domain + "-" + clusters.cluster.astype(str)
    assert labels.clips == dict(zip(clusters.path, names, strict=True))

    before = files_below(folder, "**/*.[!0-9]*")  # the lock says who came last
    assert call(cluster, monkeypatch, *settings("class")) == 0
    assert "fan: already clustered, skipping" in capsys.readouterr().out
    assert files_below(folder, "**/*.[!0-9]*") == before
    assert call(cluster, monkeypatch, *settings("class", "labeler.criterion=bic")) == 0
    assert "fan: clustered\n" in capsys.readouterr().out
    assert "bic" in pd.read_csv(folder / "fan/criterion.csv")
    assert call(cluster, monkeypatch, *settings("class", "fit_on=all")) == 1
    assert "embedding_test.npz: no such embeddings" in capsys.readouterr().err
    tests = [f"fan/test/{p.name}" for p in sorted((data_dir / "tiny/all/raw/fan/test").iterdir())]
    made_by = np.array(json.dumps({"clips": fingerprint(data_dir / "tiny/all/raw", tests)}))
    others = {"paths": np.array(tests), "embedding": np.eye(8), "made_by": made_by}
    write_npz(embedded.with_name("embedding_test.npz"), others)
    assert call(cluster, monkeypatch, *settings("class", "fit_on=all")) == 0
    assert not pd.read_csv(folder / "fan/clusters.csv")[["x", "y"]].equals(clusters[["x", "y"]])
    assert PseudoLabels.load(folder / "labels.json").settings["fit_on"] == "all"


def test_training_takes_these_labels_and_records_them(
    embedded, settings, data_dir, tmp_path, monkeypatch, capsys
):
    assert call(cluster, monkeypatch, *settings("class")) == 0
    method = "pattr_bic_pre_subloss_0256_4096"
    overrides = [
        f"label_dir={tmp_path}/label",
        "score_epochs=[1]",
        "+trainer.limit_train_batches=1",
    ]
    assert (
        call(train, monkeypatch, *tiny(data_dir, tmp_path / "results", *overrides, method=method))
        == 0
    )
    recorded = Labels.load(tmp_path / f"results/tiny/{method}_1/all/labels.json")
    file = tmp_path / "label/tiny/class_1/labels.json"
    assert recorded.made_from["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    pseudo = PseudoLabels.load(file)
    for path, index in recorded.clips.items():
        clip = parse_clip(path)
        expected = pseudo.clips.get(path, f"pump-{clip.domain}-{clip.attribute}")
        assert recorded.classes[index] == expected
    assert (
        call(
            train,
            monkeypatch,
            *tiny(data_dir, tmp_path, "seed=2", *overrides, "check=true", method=method),
        )
        == 1
    )
    error = last_line(capsys.readouterr().err)
    assert (
        "label/tiny/class_2/labels.json: no such pseudo-labels; they are made by: DATA_DIR="
        in error
    )
    assert error.endswith("DATASETS=folder:tiny SOURCES=class SEEDS=2 pseudoattr/pseudo_attr.sh")


def test_clips_that_were_renamed(embedded, settings, data_dir, tmp_path, monkeypatch, capsys):
    """Equal embeddings, other names: clusters and labels are made again."""
    assert call(cluster, monkeypatch, *settings("class")) == 0
    shutil.copytree(data_dir / "tiny", tmp_path / "data/tiny")
    root = tmp_path / "data/tiny/all/raw"
    for file in (root / "fan/train").iterdir():
        file.rename(file.with_name(file.name.replace("_normal_0", "_normal_9")))
    paths = sorted(f"fan/train/{p.name}" for p in (root / "fan/train").iterdir())
    made_by = np.array(json.dumps({"weights": "0123", "clips": fingerprint(root, paths)}))
    write_npz(embedded, dict(np.load(embedded)) | {"paths": np.array(paths), "made_by": made_by})
    capsys.readouterr()
    assert call(cluster, monkeypatch, *settings("class", f"data_dir={tmp_path}/data")) == 0
    assert "fan: clustered\n" in capsys.readouterr().out
    assert sorted(PseudoLabels.load(embedded.parents[1] / "labels.json").clips) == paths


def test_labels_go_when_what_they_were_made_from_does(embedded, settings, tmp_path, monkeypatch):
    assert call(cluster, monkeypatch, *settings("class")) == 0
    file = embedded.parents[1] / "labels.json"
    before = file.read_bytes()
    monkeypatch.setattr(cluster, "cluster_machine", lambda *_: 1 / 0)  # stopped in the middle
    with pytest.raises(ZeroDivisionError):
        call(cluster, monkeypatch, *settings("class", "labeler.criterion=bic"))
    assert not file.exists()
    file.write_bytes(before)
    make_teacher(tmp_path / "results", "class")
    assert (
        call(embed, monkeypatch, *settings("class")) == 0
    )  # other weights than those of the fixture
    assert not file.exists()


def test_two_at_once(embedded, settings, tmp_path, monkeypatch, capsys):
    folder = embedded.parents[1]
    run = make_teacher(tmp_path / "results", "class")
    with locked(folder, folder / "lock"):
        for script in (embed, cluster):
            assert call(script, monkeypatch, *settings("class")) == 3
            assert f"{folder}: locked by process" in capsys.readouterr().err
    run.checkpoint(14).unlink()
    with run.claim():  # in training
        assert call(embed, monkeypatch, *settings("class")) == 3
        assert f"{run.folder}: locked by process" in capsys.readouterr().err


def test_damaged_embeddings(embedded, settings, tmp_path, monkeypatch, capsys):
    make_teacher(tmp_path / "results", "class")
    for content in (b"", embedded.read_bytes()[:200]):
        embedded.write_bytes(content)
        assert call(cluster, monkeypatch, *settings("class")) == 1
        assert (
            "no such embeddings; pseudoattr/embed.py source=class makes them"
            in capsys.readouterr().err
        )
        assert call(embed, monkeypatch, *settings("class")) == 0
        assert "1 files written" in capsys.readouterr().out


def test_embeddings_of_other_clips_are_refused(embedded, settings, monkeypatch, capsys):
    arrays = dict(np.load(embedded))
    write_npz(
        embedded,
        arrays | {"made_by": np.array(json.dumps({"weights": "", "clips": "of other recordings"}))},
    )
    assert call(cluster, monkeypatch, *settings("class")) == 1
    assert "of other clips than those in" in capsys.readouterr().err


@pytest.mark.parametrize("bare", [False, True])
def test_true_attributes_as_labels(bare, settings, tmp_path, monkeypatch, capsys):
    assert call(cluster, monkeypatch, *settings("gt", f"source.bare_attribute={bare}")) == 0
    labels = PseudoLabels.load(tmp_path / "label/tiny/gt/labels.json")
    heads = [""] if bare else ["fan-source-", "fan-target-"]
    assert set(labels.clips.values()) == {f"{head}speed_{n}" for head in heads for n in (1, 2)}
    assert pd.read_csv(tmp_path / "label/tiny/gt/report.csv").ari.tolist() == [1, 1]


def test_hidden_attributes_need_the_official_lists(
    settings, data_dir, tmp_path, monkeypatch, capsys
):
    hidden = "section_00_source_train_normal_0000_noAttribute"
    for machine in ("fan", "pump"):
        write_wav(tmp_path / f"data/tiny/all/raw/{machine}/train/{hidden}.wav")
    arguments = settings("gt", f"data_dir={tmp_path}/data", "dataset.hide=[]")
    assert call(cluster, monkeypatch, *arguments) == 1
    error = last_line(capsys.readouterr().err)
    assert f"no true attribute of fan/train/{hidden}.wav (2 such clips); DATA_DIR=" in error
    for machine in ("fan", "pump"):
        row = f"section_00_source_train_normal_0000_load_3.wav,{hidden}.wav"
        write_text(
            tmp_path / f"data/tiny/ground_truth/{machine}/attributes_00_train_correspondence.csv",
            f"source_file_name,target_file_name\n{row}\n",
        )
    assert call(cluster, monkeypatch, *arguments) == 0
    labels = PseudoLabels.load(tmp_path / "label/tiny/gt/labels.json")
    assert set(labels.clips.values()) == {"fan-source-load_3", "pump-source-load_3"}


def test_labels_from_spectra_by_another_clustering(settings, tmp_path, monkeypatch, capsys):
    """No teacher, no weights; three clusters are asked for, so there is no criterion."""
    given = ("labeler=agglomerative", "labeler.n_source=3", "labeler.n_target=1")
    assert call(embed, monkeypatch, *settings("spectral")) == 0
    assert call(cluster, monkeypatch, *settings("spectral", *given)) == 0
    folder = tmp_path / "label/tiny/spectral"
    labels = json.loads((folder / "labels.json").read_text())
    assert labels["settings"]["labeler"]["clustering"] == "agglomerative"
    clusters = pd.read_csv(folder / "fan/clusters.csv")
    assert clusters.groupby("domain").cluster.nunique().to_dict() == {"source": 3, "target": 1}
    assert pd.read_csv(folder / "fan/criterion.csv").empty
    assert (folder / "fan/map.png").is_file()
    assert call(cluster, monkeypatch, *settings("spectral", "labeler=kmean")) == 1
    assert "Could not find 'labeler/kmean'" in capsys.readouterr().err
