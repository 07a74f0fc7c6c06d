"""Fusion of finished runs' scores: closed forms, no influence of other test clips, who takes it."""

import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from test_page import data_of

import fuse
import infer
import report
import submit
import train
from conftest import call, files_below, tiny
from unlabeledasd.detection import load
from unlabeledasd.detection.nearest import last_embeddings, nearest_training_clips
from unlabeledasd.errors import InputError
from unlabeledasd.metrics import evaluate
from unlabeledasd.results import (
    BAND_SPLITS,
    find_csv,
    read_band_scores,
    read_scores,
    write_scores,
)
from unlabeledasd.runs.folder import Run
from unlabeledasd.runs.fusion import FUSIONS, Source, fuse_scores, standardize

SCORES = ("train", "held_out", "test")


def run_script(script, monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", [script.__file__, *map(str, arguments)])
    try:
        script.main()
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.fixture(scope="module")
def runs(data_dir, tmp_path_factory) -> list[Run]:
    """Two finished runs of other methods, the first one scored by varmin too."""
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for method in ("na_1024", "na_0256"):
            assert call(train, monkeypatch, *tiny(data_dir, results, method=method)) == 0
        folder = results / "tiny/na_1024_1"
        assert call(infer, monkeypatch, f"run={folder}", "name=vm", "scorer=varmin") == 0
    return [Run(results / f"tiny/{method}_1") for method in ("na_1024", "na_0256")]


def column(run: Run, machine: str, version: str, split: str) -> np.ndarray:
    return read_scores(run.version(machine, version) / f"ensemble_{split}_score.csv").score


@pytest.mark.parametrize("how", FUSIONS)
def test_mean_minimum_and_maximum_of_z(runs, tmp_path, monkeypatch, capsys, how):
    out = Run(tmp_path / "tiny/fused_1")
    sources = [f"{runs[0].folder}@vm", runs[1].folder]
    assert run_script(fuse, monkeypatch, *sources, "--how", how, "--out", out.folder) == 0
    printed = capsys.readouterr().out
    for machine in ("fan", "pump"):
        for split in SCORES:
            z = []
            for run, version in ((runs[0], "vm"), (runs[1], "epoch_1_2")):
                held_out = column(run, machine, version, "held_out")
                scores = column(run, machine, version, split)
                z.append((scores - held_out.mean()) / held_out.std(ddof=0))
            expected = {"mean": (z[0] + z[1]) / 2, "min": np.minimum(*z), "max": np.maximum(*z)}
            found = column(out, machine, "epoch_1_2", split)
            np.testing.assert_allclose(found, expected[how], rtol=1e-9, atol=1e-9)
            if split in BAND_SPLITS:
                bands = read_band_scores(find_csv(out, machine, "epoch_1_2", f"{split}_score"))
                assert list(bands) == ["na_1024_1", "na_0256_1"]
                np.testing.assert_allclose(bands.T, z, rtol=1e-9, atol=1e-9)
        test = pd.read_csv(out.version(machine, "epoch_1_2") / "ensemble_test_score.csv")
        result = pd.read_csv(out.version(machine, "epoch_1_2") / "ensemble_test_result.csv")
        metrics = evaluate(test["AS-ensemble"], test.is_normal, test.is_target)
        assert result.hmean_official[0] == pytest.approx(metrics["hmean_official"])
        assert f"{result.hmean_official[0]:.4f}" in printed
    assert out.is_done


def test_scores_do_not_depend_on_other_test_clips(runs, tmp_path):
    """Without half of the test clips in all sources, the scores of the others stay as they are."""
    whole = fuse_scores([Source(runs[0], "vm"), Source(runs[1], "epoch_1_2")])
    halved = []
    for run, version in ((runs[0], "vm"), (runs[1], "epoch_1_2")):
        copy = Run(tmp_path / run.folder.name)
        shutil.copytree(run.folder, copy.folder)
        for file in copy.folder.glob("*/infer/*/*_test_score.csv"):
            pd.read_csv(file).iloc[::2].to_csv(file, index=False)
        halved.append(Source(copy, version))
    for machine, splits in fuse_scores(halved).items():
        kept = whole[machine]["test"].iloc[::2].reset_index(drop=True)
        assert 0 < len(kept) < len(whole[machine]["test"])
        pd.testing.assert_frame_equal(splits["test"], kept, check_exact=True)


def test_one_source_keeps_its_order(runs):
    """Of a single source the fused scores are a shifted and scaled copy, for any fusion."""
    for how in FUSIONS:
        fused = fuse_scores([Source(runs[0], "epoch_1_2")], how)["fan"]["test"]["AS-ensemble"]
        scores = column(runs[0], "fan", "epoch_1_2", "test")
        assert fused.argsort().tolist() == scores.argsort().tolist()
        assert np.corrcoef(fused, scores)[0, 1] == pytest.approx(1)


def test_single_epochs_and_columns(runs):
    """Epochs of a run, and a column by its name."""
    column_name = "AS-TargetKmeansCos-16-plain"
    sources = [Source(runs[0], "epoch1", column_name), Source(runs[0], "epoch2")]
    assert set(fuse_scores(sources)) == {"fan", "pump"}
    with pytest.raises(InputError, match="no column AS-Other, it has AS-TargetKmeansCos"):
        fuse_scores([Source(runs[0], "epoch1", "AS-Other")])


def test_report_submit_and_score(runs, data_dir, tmp_path, monkeypatch, capsys):
    results = tmp_path / "results"
    shutil.copytree(runs[0].folder.parent, results / "tiny")
    out = results / "tiny/fused_1"
    assert run_script(fuse, monkeypatch, *[run.folder for run in runs], "--out", out) == 0
    given = ["--datasets", "tiny", "--methods", "na_1024", "fused", "--seeds", "1"]
    places = ["--results-dir", results, "--version", "epoch_1_2"]
    assert run_script(report, monkeypatch, *given, *places, "--html", "--clips", "1") == 0
    table = pd.read_csv(results / "table.csv")
    mean = table[(table.method == "fused") & (table.version == "epoch_1_2")]["mean"]
    assert mean.notna().any()
    page = (results / "table.html").read_text(encoding="utf-8")
    (own,) = data_of(page)["datasets"]
    fan = own["methods"]["fused"]["machines"]["fan"]
    assert fan["bands"]["names"] == ["na_1024_1", "na_0256_1"]
    worst, first = [path for path, _ in fan["worst"]], Run(results / "tiny/na_1024_1")
    assert fan["nearest"] == nearest_training_clips(*last_embeddings(first), worst) != {}

    files = tmp_path / "submission"
    assert run_script(submit, monkeypatch, out, "--out", files) == 0
    meta = yaml.safe_load((files / "meta.yaml").read_text(encoding="utf-8"))
    assert meta["system"]["description"]["ensemble_method_subsystem_count"] == 4
    single = tmp_path / "single"
    assert run_script(submit, monkeypatch, *[run.folder for run in runs], "--out", single) == 0
    alone = yaml.safe_load((single / "meta.yaml").read_text(encoding="utf-8"))
    assert meta["system"]["complexity"] == alone["system"]["complexity"]
    assert len(list(files.glob("anomaly_score_*.csv"))) == 2

    with pytest.raises(InputError, match=r"scores fused from .*na_1024_1.*without networks"):
        load(out)


def test_fused_again(runs, tmp_path, monkeypatch, capsys):
    """The same call gives the same files; another fusion replaces the first one in its folder."""
    out = tmp_path / "fused_1"
    assert run_script(fuse, monkeypatch, runs[0].folder, "--out", out) == 0
    first = files_below(out, "*/infer/**/*.csv")
    assert run_script(fuse, monkeypatch, runs[0].folder, "--out", out) == 0
    assert files_below(out, "*/infer/**/*.csv") == first
    assert run_script(fuse, monkeypatch, *[run.folder for run in runs], "--out", out) == 0
    assert files_below(out, "*/infer/**/*.csv") != first
    assert run_script(fuse, monkeypatch, runs[1].folder, "--out", runs[0].folder) == 1
    assert "a run of src/train.py; name another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("no version", "@other: no scores; versions are folders <machine>/infer/version_<name>"),
        ("no run", "no finished run there"),
        ("no held out", "no held_out scores of fan"),
        ("other clips", "ensemble_test_score.csv: its clips or flags differ from those of"),
        ("equal", "ensemble_held_out_score.csv: 5 held-out scores; needed are two or more"),
    ],
)
def test_what_cannot_be_fused(runs, tmp_path, monkeypatch, capsys, spoil, message):
    copy = Run(tmp_path / "copy")
    shutil.copytree(runs[1].folder, copy.folder)
    folder, source = copy.version("fan", "epoch_1_2"), str(copy.folder)
    if spoil == "no version":
        source += "@other"
    elif spoil == "no run":
        copy.done_marker.unlink()
    elif spoil == "no held out":
        (folder / "ensemble_held_out_score.csv").unlink()
    elif spoil == "other clips":
        file = folder / "ensemble_test_score.csv"
        pd.read_csv(file).iloc[1:].to_csv(file, index=False)
    else:
        file = folder / "ensemble_held_out_score.csv"
        pd.read_csv(file).assign(**{"AS-ensemble": 0.1}).to_csv(file, index=False)
    sources = [source] if spoil == "no version" else [runs[0].folder, source]
    out = tmp_path / "fused_1"
    assert run_script(fuse, monkeypatch, *sources, "--out", out) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(out.glob("**/*.csv"))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shift=st.floats(-1e3, 1e3),
    scale=st.floats(1e-3, 1e3),
    how=st.sampled_from(sorted(FUSIONS)),
)
def test_shift_and_scale_of_a_source_do_not_count(tmp_path_factory, seed, shift, scale, how):
    rng = np.random.default_rng(seed)
    folder, clips = tmp_path_factory.mktemp("runs"), {"train": 9, "held_out": 7, "test": 8}
    for name, (a, b) in {"one": (1, 0), "two": (1, 0), "moved": (scale, shift)}.items():
        for split, count in clips.items():
            draws = np.random.default_rng((seed, name == "one", count)).standard_normal(count)
            table = pd.DataFrame(
                {"path": [f"{i}.wav" for i in range(count)], "is_normal": 1, "is_target": 0}
            ).assign(**{"AS-X": a * draws + b})
            write_scores(Run(folder / name).version("fan", "v"), "epoch1", split, table)
    one, two, moved = (Source(Run(folder / name), "v") for name in ("one", "two", "moved"))
    plain, other = (fuse_scores([one, b], how)["fan"]["test"] for b in (two, moved))
    np.testing.assert_allclose(other["AS-ensemble"], plain["AS-ensemble"], rtol=1e-6, atol=1e-6)
    order = rng.permutation(2)
    swapped = fuse_scores([[one, two][i] for i in order], how)["fan"]["test"]
    np.testing.assert_allclose(swapped["AS-ensemble"], plain["AS-ensemble"], atol=1e-12)


def test_standardize():
    held_out = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(standardize(np.array([2.0, 4.0]), held_out), [0, 2 / (2 / 3) ** 0.5])
    for few in ([], [1.0], [5.0, 5.0, 5.0]):
        with pytest.raises(InputError, match=f"{len(few)} held-out scores; needed are two"):
            standardize(np.array([1.0]), np.array(few))


def test_parse_source(runs):
    source, config = fuse.parse_source(f"{runs[0].folder}@vm@AS-VarMin-4")
    assert (source.version, source.column) == ("vm", "AS-VarMin-4")
    assert str(source) == f"{runs[0].folder}@vm@AS-VarMin-4"
    assert config["seed"] == 1
    assert fuse.parse_source(str(runs[0].folder))[0].version == "epoch_1_2"
