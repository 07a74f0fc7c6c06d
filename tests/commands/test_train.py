"""A run end to end on tiny clips: files, repeatability, every method, inference, ensemble."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import ensemble
import infer
import train
import unlabeledasd
from conftest import NETWORKS, ROOT, SHARED, call, files_below, make_machine, tiny, write_wav
from unlabeledasd.data import ShuffledClips
from unlabeledasd.metrics import evaluate
from unlabeledasd.runs.folder import Run
from unlabeledasd.runs.training import KeepEpochs

SCORE = "AS-TargetKmeansCos-16-plain"


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory) -> Run:
    """A finished run; tests may add versions to it."""
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert call(train, monkeypatch, *tiny(data_dir, results, method="subloss_0256_4096")) == 0
    return Run(results / "tiny/subloss_0256_4096_1")


def test_files_of_a_run(run):
    for machine in ("fan", "pump"):
        for version, stem in (
            ("epoch1", "epoch1"),
            ("epoch2", "epoch2"),
            ("epoch_1_2", "ensemble"),
        ):
            folder = run.version(machine, version)
            kinds = [
                "held_out_score",
                *["map"] * (stem != "ensemble"),
                "test_result",
                "test_score",
                "train_score",
            ]
            assert sorted(p.name for p in folder.iterdir()) == [
                f"{stem}_{kind}.csv" for kind in kinds
            ]
    assert sorted(p.name for p in (run.all / "checkpoints").iterdir()) == [
        "epoch1.ckpt",
        "epoch2.ckpt",
    ]
    assert run.is_done
    assert {"config.yaml", "labels.json", "environment.json", "scorers", "logs"} <= {
        p.name for p in run.all.iterdir()
    }
    environment = json.loads(run.environment.read_text())
    assert environment["unlabeledasd"] == unlabeledasd.__version__
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
    assert environment["device"] == "cpu"
    assert list((run.all / "logs/csv").rglob("metrics.csv"))
    assert list((run.all / "logs/tensorboard").rglob("events*"))


def test_csv_columns_and_metrics(run):
    scores = pd.read_csv(run.version("fan", "epoch2") / "epoch2_test_score.csv")
    assert list(scores) == ["path", "is_normal", "is_target", SCORE]
    assert scores.path.is_monotonic_increasing
    assert scores.path[0] == "fan/test/section_00_source_test_anomaly_0000_speed_1.wav"
    assert (scores.is_normal == scores.path.str.contains("_normal_")).all()
    assert (scores.is_target == scores.path.str.contains("_target_")).all()
    result = pd.read_csv(run.version("fan", "epoch2") / "epoch2_test_result.csv")
    metrics = evaluate(scores[SCORE], scores.is_normal, scores.is_target)
    assert list(result) == ["post_process", *metrics]
    assert result.post_process.tolist() == [SCORE]
    np.testing.assert_allclose(result.iloc[0, 1:].astype(float), list(metrics.values()))


def test_ensemble_is_the_mean_of_raw_scores(run):
    for split in ("train", "held_out", "test"):
        epochs = [
            pd.read_csv(run.version("pump", f"epoch{e}") / f"epoch{e}_{split}_score.csv")
            for e in (1, 2)
        ]
        mean = pd.read_csv(run.version("pump", "epoch_1_2") / f"ensemble_{split}_score.csv")
        np.testing.assert_allclose(
            mean["AS-ensemble"], (epochs[0][SCORE] + epochs[1][SCORE]) / 2, rtol=1e-12
        )
        assert mean.path.tolist() == epochs[0].path.tolist()


def test_target_training_clips_score_zero(run):
    scores = pd.read_csv(run.version("fan", "epoch1") / "epoch1_train_score.csv")
    np.testing.assert_allclose(scores[SCORE][scores.is_target == 1], 0, atol=1e-12)


def test_stored_scorers_score_without_training_clips(run, tmp_path, monkeypatch, data_dir):
    clip = "fan/test/section_00_source_test_normal_0000_speed_1.wav"
    new = tmp_path / "new/all/raw/fan/test/normal/monday morning.wav"
    new.parent.mkdir(parents=True)
    new.write_bytes((data_dir / "tiny/all/raw" / clip).read_bytes())
    status = call(
        infer,
        monkeypatch,
        f"run={run.folder}",
        "name=today",
        "dataset=folder",
        "dataset.name=new",
        f"data_dir={tmp_path}",
        "epochs=[2]",
        "accelerator=cpu",
    )
    assert status == 0
    today = pd.read_csv(run.version("fan", "today") / "epoch2_test_score.csv")
    before = pd.read_csv(run.version("fan", "epoch2") / "epoch2_test_score.csv").set_index("path")
    assert today.path.tolist() == ["fan/test/normal/monday morning.wav"]
    assert today[SCORE][0] == pytest.approx(before[SCORE][clip], abs=1e-6)


def test_infer_repeats_the_scores_and_touches_nothing(run, monkeypatch, capsys):
    before = files_below(run.folder)
    assert call(infer, monkeypatch, f"run={run.folder}", "name=again", "accelerator=cpu") == 0
    after = files_below(run.folder)
    # the lock file names the last owner
    assert {k: v for k, v in after.items() if k in before} == {
        k: v for k, v in before.items() if "lock." not in k
    }
    for stem, version in (("epoch1", "epoch1"), ("ensemble", "epoch_1_2")):
        for kind in ("train_score", "test_score", "test_result"):
            again = after[f"fan/infer/version_again/{stem}_{kind}.csv"]
            assert again == before[f"fan/infer/version_{version}/{stem}_{kind}.csv"]
    assert (
        call(infer, monkeypatch, f"run={run.folder}", "name=again", "accelerator=cpu", "epochs=[1]")
        == 1
    )
    assert "name=again" in capsys.readouterr().err


def test_infer_with_another_scorer(run, monkeypatch):
    arguments = [
        "name=k2",
        "scorer.target_kmeans_cos.n_clusters=2",
        "epochs=[1]",
        "accelerator=cpu",
    ]
    assert call(infer, monkeypatch, f"run={run.folder}", *arguments) == 0
    assert "AS-TargetKmeansCos-2-plain" in pd.read_csv(
        run.version("fan", "k2") / "epoch1_test_score.csv"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["name=x", "epochs=[7]"], ["epochs=[7]", "[1, 2]"]),
        (["name=epoch9"], ["name=epoch9"]),
        (["name=x", "epochs=1"], ["epochs=1", "a list like"]),
        (["name=x", "data_dir=/nowhere"], ["/nowhere/tiny/all/raw"]),
    ],
)
def test_infer_errors(run, monkeypatch, capsys, arguments, words):
    assert call(infer, monkeypatch, f"run={run.folder}", "accelerator=cpu", *arguments) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert all(word in error for word in words), error


def test_ensemble_script(run, monkeypatch, tmp_path, capsys):
    config = tmp_path / "both.yaml"
    config.write_text(f"epochs: [1, 2]\ncolumn: {SCORE}\n")
    before = files_below(run.folder, "*/infer/version_epoch_1_2/*")
    monkeypatch.setattr(sys, "argv", ["ensemble.py", str(run.folder), "--config", str(config)])
    ensemble.main()
    assert files_below(run.folder, "*/infer/version_epoch_1_2/*") == before
    assert "challenge score" in capsys.readouterr().out
    config.write_text(f"epochs: [1, 3]\ncolumn: {SCORE}\n")
    with pytest.raises(SystemExit, match="1"):
        ensemble.main()
    assert "epoch3_train_score.csv: no such score CSV" in capsys.readouterr().err


def test_one_machine_without_conditions(tmp_path, monkeypatch, capsys):
    """Refused without classes; with those of transformations trained, scored and scored again."""
    for i in range(9):
        write_wav(tmp_path / "tiny/all/raw/fan/train" / f"{i}.wav", seed=i)
    for name, hz in (("normal", 440.0), ("anomaly", 660.0)):
        for i in range(2):
            file = tmp_path / "tiny/all/raw/fan/test" / f"{name}_{i}.wav"
            write_wav(file, hz=hz, seed=50 + round(hz) + i)
    settings = tiny(tmp_path, tmp_path / "results")
    assert call(train, monkeypatch, *settings) == 1
    assert "let label=self_supervised make classes" in capsys.readouterr().err
    assert call(train, monkeypatch, *settings, "label=self_supervised") == 0
    run = Run(tmp_path / "results/tiny/na_1024_1")
    state = torch.load(run.checkpoint(2), weights_only=True)["state_dict"]
    assert len(state["loss.centers"]) == 4  # the clips as they are, and three transformations
    losses = pd.read_csv(next((run.all / "logs/csv").rglob("metrics.csv"))).loss_epoch.dropna()
    assert (losses > 0.1).all()  # not the zero of one class
    arguments = [f"run={run.folder}", "name=again", "accelerator=cpu", "embeddings=new"]
    assert call(infer, monkeypatch, *arguments) == 0
    scores = [
        pd.read_csv(run.version("fan", version) / "epoch2_test_score.csv")[SCORE]
        for version in ("again", "epoch2")
    ]
    np.testing.assert_allclose(*scores, atol=1e-5)
    assert scores[0].nunique() == 4


def test_finished_run_is_left_alone(run, data_dir, monkeypatch, capsys):
    before = files_below(run.folder)
    assert (
        call(train, monkeypatch, *tiny(data_dir, run.folder.parents[1], method="subloss_0256_4096"))
        == 0
    )
    assert "already finished, skipping" in capsys.readouterr().out
    assert files_below(run.folder) == before


def test_run_locked_elsewhere(run, data_dir, monkeypatch, capsys):
    program = (
        "from unlabeledasd.runs.folder import Run\n"
        f"with Run({str(run.folder)!r}).claim(): print(flush=True); input()"
    )
    here = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], env=here, **pipes) as holder:
        holder.stdout.readline()
        assert call(infer, monkeypatch, f"run={run.folder}", "name=busy") == 3
        holder.kill()
    assert f"process {holder.pid}" in capsys.readouterr().err
    with run.claim():  # the lock went with its holder
        pass


def test_every_epoch_has_its_own_order(data_dir, tmp_path, monkeypatch):
    """Lightning sets the epoch of the sampler."""
    epochs = []
    monkeypatch.setattr(ShuffledClips, "set_epoch", lambda self, epoch: epochs.append(epoch))
    assert call(train, monkeypatch, *tiny(data_dir, tmp_path)) == 0
    assert sorted(set(epochs)) == [0, 1]


def test_a_name_is_free_after_a_call_that_failed(run, monkeypatch):
    arguments = [f"run={run.folder}", "name=20240501", "accelerator=cpu", "epochs=[1]"]
    assert call(infer, monkeypatch, *arguments, "data_dir=/nowhere") == 1
    assert call(infer, monkeypatch, *arguments) == 0


def test_a_person_stops_the_run(data_dir, tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(KeepEpochs, "on_train_epoch_end", stop)
    try:
        assert call(train, monkeypatch, *tiny(data_dir, tmp_path)) == 130
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning has switched it off
    assert "interrupted" in capsys.readouterr().err
    assert not Run(tmp_path / "tiny/na_1024_1").is_done


@pytest.mark.parametrize("method", NETWORKS)
def test_every_method_runs(method, data_dir, tmp_path, monkeypatch):
    arguments = tiny(
        data_dir, tmp_path, "score_epochs=[1]", "+trainer.limit_train_batches=2", method=method
    )
    assert call(train, monkeypatch, *arguments) == 0
    assert Run(tmp_path / f"tiny/{method}_1").is_done
    result = pd.read_csv(
        tmp_path / f"tiny/{method}_1/fan/infer/version_epoch1/epoch1_test_result.csv"
    )
    assert result["hmean_official"].between(0, 1).all()


def test_own_recordings_of_any_name(tmp_path, monkeypatch, capsys):
    """No DCASE names, no target domain, conditions from folders or names, clips of any length."""
    raw = tmp_path / "own/all/raw"
    for i in range(3):
        write_wav(raw / f"press/train/take {i}.wav", seconds=3 + 3 * i, hz=300 + 10 * i, seed=i)
        write_wav(raw / f"drill/train/{i}.wav", hz=1000, seed=i)
        write_wav(raw / f"press/test/normal/{i}.wav", hz=300, seed=10 + i)
        write_wav(raw / f"press/test/anomaly/{i}.wav", hz=500, seed=20 + i)
        write_wav(raw / f"drill/test/monday-{i}.wav", hz=1000, seed=30 + i)
    arguments = tiny(tmp_path, tmp_path / "results", "dataset.name=own", "score_epochs=[1]")
    assert call(train, monkeypatch, *arguments) == 0
    printed = capsys.readouterr().out
    assert "drill: test clips of unknown condition" in printed
    assert "0_target_auc_all does not exist for press" in printed
    folder = tmp_path / "results/own/na_1024_1"
    result = pd.read_csv(folder / "press/infer/version_epoch1/epoch1_test_result.csv")
    assert result["hmean_official"].isna().all()
    assert result["0_source_auc_all"].notna().all()
    drill = folder / "drill/infer/version_epoch1"
    assert not (drill / "epoch1_test_result.csv").exists()
    assert pd.read_csv(drill / "epoch1_test_score.csv").is_normal.isna().all()


def test_sections_are_machines_of_their_own(tmp_path, monkeypatch):
    raw = tmp_path / "own/all/raw/fan"
    make_machine(raw, 300)
    for file in list(raw.rglob("*.wav")):
        file.with_name(file.name.replace("section_00", "section_01")).write_bytes(file.read_bytes())
    arguments = tiny(tmp_path, tmp_path / "results", "dataset.name=own", "score_epochs=[1]")
    assert call(train, monkeypatch, *arguments) == 0
    folder = tmp_path / "results/own/na_1024_1"
    assert {p.name for p in folder.iterdir()} == {"all", "fan_section_00", "fan_section_01"}


@pytest.mark.slow
@pytest.mark.skipif(
    not (SHARED / "data/real_mini").is_dir(),
    reason="the real recordings are only next to some checkouts",
)
def test_real_recordings(tmp_path):
    command = [
        sys.executable,
        ROOT / "src/train.py",
        "dataset=folder",
        "dataset.name=real_mini",
        "seed=1",
        "method=na_1024",
        "dataset.clip_seconds=10",
        "dataset.batch_size=8",
        "score_epochs=[1,2]",
        f"data_dir={SHARED / 'data'}",
        f"results_dir={tmp_path}",
    ]
    subprocess.run(command, check=True)
    result = pd.read_csv(
        tmp_path / "real_mini/na_1024_1/fan/infer/version_epoch_1_2/ensemble_test_result.csv"
    )
    assert result["0_source_auc_all"].between(0, 1).all()
    assert result["0_target_auc_all"].isna().all()
