"""Runs of spectral methods, frozen BEATs and LoRA, and every command that uses them."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch

import export
import infer
import report
import score
import train
from beats_file import write_beats
from conftest import call, files_below, tiny
from unlabeledasd.encoders.beats import kaldi_mel
from unlabeledasd.files import file_hash
from unlabeledasd.runs.folder import UNTRAINED, Run
from unlabeledasd.runs.training import KeepEpochs

FROZEN = ["spectral_logmel", "spectral_level", "spectral_max", "spectral_psd"]
FROZEN += ["beats_mean", "beats_rdp", "beats_gem", "beats_max"]
BEST = "best_0256_1024_4096"  # a network with spectra next to it
LORA = ["model.extractor.rank=2", "model.extractor.embedding_size=8", "model.warmup_steps=3"]

OPTIONS = ["--format", "jsonl", "--threshold", "empirical"]  # 5 scores are few for a distribution


class Stop(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_beats(tmp_path_factory.mktemp("weights") / "beats.pt")


def settings(data_dir, results, method, weights, *overrides) -> list[str]:
    of_file = [f"model.extractor.weights={weights}", "+model.extractor.hashes=null"]
    given = of_file if method.startswith("beats") else []
    epochs = {
        "beats_lora": ["score_epochs=[1,3]", *LORA],
        BEST: ["score_epochs=[1]", "precision=32-true", "model.extractor.n_ffts=[1024]"],
    }
    chosen = epochs.get(method, ["score_epochs=[0]"])
    return tiny(data_dir, results, *given, *chosen, *overrides, method=method)


def run_of(results: Path, method: str) -> Run:
    return Run(results / f"tiny/{method}_1")


@pytest.fixture(scope="module")
def runs(data_dir, weights, tmp_path_factory) -> Path:
    """A results folder with a finished run of every method."""
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for method in [*FROZEN, "beats_lora", BEST]:
            arguments = settings(data_dir, results, method, weights)
            assert call(train, monkeypatch, *arguments) == 0
    return results


def call_main(module, *arguments) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            module.main([str(argument) for argument in arguments])
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
    return status, out.getvalue(), err.getvalue()


def test_bands_are_named_by_their_frequencies(runs):
    largest = kaldi_mel().argmax(1) // 16  # the band of each of 257 frequencies
    lowest = 31.25 * np.array([(largest == band).nonzero()[0, 0] for band in range(1, 8)])
    names = run_of(runs, "beats_mean").read_parts()
    assert len(names) == 8
    found = [1000 * float(name.partition("-")[0]) for name in names[1:]]
    np.testing.assert_allclose(found, lowest, atol=31.25, rtol=0.05)
    assert run_of(runs, BEST).read_parts() == ["spectrum", "n_fft 1024"]


@pytest.mark.parametrize("method", FROZEN)
def test_one_version_without_training(runs, method):
    run = run_of(runs, method)
    assert run.is_done
    assert run.epochs == [0]
    assert [path.name for path in (run.all / "scorers").iterdir()] == ["untrained.npz"]
    assert run.checkpoint(0).stat().st_size < 10_000  # no weights of anybody else
    assert not run.progress.exists()
    assert json.loads(run.environment.read_text())["precision"] == "32-true"
    for machine in ("fan", "pump"):
        folder = run.version(machine, UNTRAINED)
        assert {path.name for path in folder.parent.iterdir()} == {"version_untrained"}
        kinds = ["train_score", "test_score", "held_out_score", "test_result", "map"]
        names = {f"untrained_{kind}.csv" for kind in kinds}
        assert names <= {path.name for path in folder.iterdir()}
        scores = pd.read_csv(folder / "untrained_test_score.csv")
        file = folder / "untrained_test_band_score.csv"
        assert file.exists() == method.startswith("beats")  # scored band by band
        if file.exists():
            bands = pd.read_csv(file).set_index("path")
            assert bands.shape == (len(scores), 8)
            mean = bands.mean(axis=1)[scores.path]
            np.testing.assert_allclose(mean, scores.iloc[:, 3], rtol=1e-9, atol=1e-12)
        by_condition = scores.iloc[:, 3].groupby(scores.is_normal).mean()
        assert by_condition[0] > by_condition[1]  # the anomalies are a fifth higher


def test_finished_runs_are_skipped_and_changes_refused(
    runs, data_dir, weights, monkeypatch, capsys
):
    arguments = settings(data_dir, runs, "spectral_logmel", weights)
    before = files_below(run_of(runs, "spectral_logmel").folder)
    assert call(train, monkeypatch, *arguments) == 0
    assert "already finished, skipping" in capsys.readouterr().out
    assert call(train, monkeypatch, *arguments, "model.extractor.n_bands=4") == 1
    assert "model.extractor.n_bands=4 now, 8 when the run began" in capsys.readouterr().err
    assert files_below(run_of(runs, "spectral_logmel").folder) == before


def test_weights_may_move_but_not_change(runs, data_dir, weights, tmp_path, monkeypatch, capsys):
    moved = tmp_path / "moved.pt"
    moved.write_bytes(weights.read_bytes())
    arguments = settings(data_dir, runs, "beats_mean", moved)
    assert call(train, monkeypatch, *arguments) == 0
    other = write_beats(tmp_path / "other.pt", seed=1)
    config = run_of(runs, "beats_mean").config
    text = config.read_text()
    config.write_text(text.replace(str(weights), str(other)))
    try:
        run = run_of(runs, "beats_mean").folder
        status, _, err = call_main(score, run, next(data_dir.glob("tiny/all/raw/fan/test/*")))
        assert status == 1
        made_with, found = file_hash(weights), file_hash(other)
        assert f"{other}: sha256 {found}, but the run was made with {made_with}" in err
        assert len(err.splitlines()) == 1
    finally:
        config.write_text(text)


def test_the_same_again_gives_the_same_bytes(runs, data_dir, weights, tmp_path, monkeypatch):
    for method in ("spectral_psd", "beats_rdp"):
        assert call(train, monkeypatch, *settings(data_dir, tmp_path, method, weights)) == 0
        again = files_below(run_of(tmp_path, method).folder, "*/infer/**/*.csv")
        assert again == files_below(run_of(runs, method).folder, "*/infer/**/*.csv")
        assert len(again) == 2 * (5 if method == "spectral_psd" else 7)  # band scores are two more


def test_lora_saves_and_resumes_what_it_trains(runs, data_dir, weights, tmp_path, monkeypatch):
    finished = run_of(runs, "beats_lora")
    state = torch.load(finished.checkpoint(3), weights_only=True)["state_dict"]
    names = {name.removeprefix("extractor.") for name in state}
    assert {"base_hash", "linear.weight", "loss.centers"} <= names
    assert not any("k_proj" in name or "fc1" in name for name in names)
    assert sum("lora_" in name for name in names) == 2 * 2 * 2  # layers, projections, matrices
    first = torch.load(finished.checkpoint(1), weights_only=True)["state_dict"]
    changed = [name for name in state if not torch.equal(state[name], first[name])]
    assert any("lora_b" in name for name in changed)
    assert "loss.centers" in changed
    keep = KeepEpochs.on_train_epoch_end

    def stop_after_second(self, trainer, module):
        keep(self, trainer, module)
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        assert rate == pytest.approx(1e-4)  # three steps of warm-up are over
        if trainer.current_epoch == 1:
            raise Stop

    arguments = settings(data_dir, tmp_path, "beats_lora", weights)
    with monkeypatch.context() as patch:
        patch.setattr(KeepEpochs, "on_train_epoch_end", stop_after_second)
        with pytest.raises(Stop):
            call(train, patch, *arguments)
    assert not run_of(tmp_path, "beats_lora").is_done
    assert call(train, monkeypatch, *arguments) == 0
    resumed = files_below(run_of(tmp_path, "beats_lora").folder, "*/infer/**/*.csv")
    assert resumed == files_below(finished.folder, "*/infer/**/*.csv")


def test_warm_up(data_dir, weights, tmp_path, monkeypatch):
    rates = []

    def record(self, trainer, *_):
        rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    monkeypatch.setattr("unlabeledasd.runs.training.ProgressBar.on_train_batch_end", record)
    arguments = settings(data_dir, tmp_path, "beats_lora", weights, "model.warmup_steps=5")
    assert call(train, monkeypatch, *arguments) == 0
    # of the step that follows: the first was made with a fifth
    expected = [1e-4 * min(1, (step + 1) / 5) for step in range(1, len(rates) + 1)]
    assert rates == pytest.approx(expected)
    assert len(rates) == 6


@pytest.mark.parametrize("method", ["spectral_logmel", "beats_mean", "beats_lora", BEST])
def test_score_and_export(runs, data_dir, tmp_path, method):
    run, clips = run_of(runs, method), data_dir / "tiny/all/raw/fan/test"
    places = {"beats_lora": ("epoch_1_3", "ensemble"), BEST: ("epoch1", "epoch1")}
    version, stem = places.get(method, (UNTRAINED, UNTRAINED))
    table = pd.read_csv(run.version("fan", version) / f"{stem}_test_score.csv")
    expected = dict(zip(table.path, table.iloc[:, 3], strict=True))
    status, out, err = call_main(score, run.folder, clips, *OPTIONS)
    assert status == 0, err
    found = {Path(row["clip"]).name: row["score"] for row in map(json.loads, out.splitlines())}
    assert len(found) == 8
    # z is in units of the spread of a few held-out scores: against that, the rounding of float32 is
    # large, and other in batches of another size
    near = {"rel": 1e-3, "abs": 2e-3} if method == BEST else {"rel": 1e-4, "abs": 1e-6}
    for path, value in expected.items():
        assert found[Path(path).name] == pytest.approx(value, **near)
    pytest.importorskip("onnxscript", reason="the export requirements are not installed")
    status, out, err = call_main(export, run.folder, tmp_path / "detector")
    assert status == 0, err
    status, out, err = call_main(score, tmp_path / "detector", clips, *OPTIONS)
    assert status == 0, err
    exported = {Path(row["clip"]).name: row["score"] for row in map(json.loads, out.splitlines())}
    for name, value in found.items():
        assert exported[name] == pytest.approx(value, rel=1e-3, abs=max(near["abs"], 1e-4))


def test_an_interrupted_export_is_made_anew(runs, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript", reason="the export requirements are not installed")
    run = run_of(runs, "spectral_logmel")
    with monkeypatch.context() as interrupted:
        interrupted.setattr(export, "make_card", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            export.export(run.folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export.export(run.folder, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_another_scorer_and_tables(runs, data_dir, monkeypatch):
    run = run_of(runs, "spectral_logmel")
    given = [f"run={run.folder}", "name=others", "scorer=[knn,beam]"]
    assert call(infer, monkeypatch, *given) == 0
    scores = pd.read_csv(run.version("fan", "others") / "untrained_test_score.csv")
    assert list(scores)[3:] == ["AS-Knn-1", "AS-VarMin-4-mean"]
    assert call(infer, monkeypatch, f"run={run.folder}", "name=untrained") == 1
    methods = ["spectral_logmel", "beats_lora"]
    grid = ["--datasets", "tiny", "--methods", *methods, "--seeds", "1"]
    where = ["--results-dir", str(runs), "--name", "table5", "--version", "epoch_1_3"]
    monkeypatch.setattr(sys, "argv", ["report.py", *grid, *where])
    report.main()
    table = pd.read_csv(runs / "table5.csv")
    chosen = table[(table.version == "epoch_1_3") & (table.machines == "all")]
    means = chosen.set_index("method")["mean"]
    assert list(means.index) == methods
    assert means.between(0, 100).all()
    result = pd.read_csv(run.version("fan", UNTRAINED) / "untrained_test_result.csv")
    assert np.isfinite(result.hmean_official).all()


@pytest.mark.parametrize(
    ("method", "overrides", "message"),
    [
        ("spectral_logmel", ["score_epochs=[1]"], "score_epochs=[1]: nothing of this method is"),
        ("spectral_logmel", ["score_epochs=[0,1]"], "score_epochs=[0, 1]: ascending epochs"),
        (
            "spectral_logmel",
            ["model.extractor.statistics=[median]"],
            "model.extractor.statistics=['median']: allowed are mean, std, max",
        ),
        (
            "beats_mean",
            ["model.extractor.weights=nowhere.pt"],
            "nowhere.pt: no such file; get BEATs_iter3.pt (361,499,833 bytes, sha256 8d1b",
        ),
        ("panns", [], "Cnn14_mAP=0.431.pth: no such file; get Cnn14"),
        ("openl3", [], "512.pth.tar: no such file; get torchopenl3"),
        ("beats_lora", ["model.warmup_steps=-1"], "model.warmup_steps=-1: allowed is at least 0"),
    ],
)
def test_wrong_settings_are_one_line(
    data_dir, weights, tmp_path, monkeypatch, capsys, method, overrides, message
):
    arguments = settings(data_dir, tmp_path, method, weights)
    assert call(train, monkeypatch, *arguments, *overrides) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert message in last
    assert last.startswith("error: ")
