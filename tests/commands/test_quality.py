"""benchmarks/quality.py on tiny clips, and src/choose.py on the runs that it made."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest

import choose
from conftest import ROOT, SECONDS
from unlabeledasd.metrics import challenge_score
from unlabeledasd.results import find_csv, read_metrics
from unlabeledasd.runs.folder import Run

SCORERS = "target_kmeans_cos ldn_ratio@mean"


@pytest.fixture(scope="module")
def measured(data_dir, tmp_path_factory):
    """(results folder, rows of the table)"""
    folder = tmp_path_factory.mktemp("quality")
    overrides = f"dataset.clip_seconds={SECONDS} dataset.batch_size=4 score_epochs=[1,2]"
    command = [sys.executable, "benchmarks/quality.py", "--dataset", "folder:tiny"]
    command += ["--data", data_dir, "--results", folder / "exp", "--json", folder / "rows.json"]
    command += ["--methods", "na_1024", "--seeds", "1", "--scorers", SCORERS]
    command += ["--overrides", f"{overrides} trainer.accelerator=cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    return folder / "exp/tiny", json.loads((folder / "rows.json").read_text())["rows"]


def official(run: Run, version: str) -> float:
    files = [find_csv(run, machine, version, "test_result") for machine in ("fan", "pump")]
    return 100 * challenge_score([read_metrics(file) for file in files])


def test_scores_are_those_of_the_run(measured):
    results, rows = measured
    scores = {(row["method"], row["scorer"]): float(row["score"]) for row in rows}
    expected = official(Run(results / "na_1024_1"), "epoch_1_2")
    assert scores["na_1024", "target_kmeans_cos"] == pytest.approx(expected, abs=0.051)
    fused = [row for row in rows if row["method"] == "na_1024 + spectral_level"]
    assert [row["scorer"] for row in fused] == [
        f"{scorer}, {how} of z" for scorer in SCORERS.split() for how in ("mean", "min")
    ]


def choose_by(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["choose.py", *map(str, arguments)])
    try:
        choose.main()
    except SystemExit as stop:
        return stop.code or 0
    return 0


def test_choose(measured, tmp_path, monkeypatch, capsys):
    results, _ = measured
    runs = [results / name for name in ("na_1024_1", "spectral_level_1")]
    out = tmp_path / "choice.csv"
    arguments = (*runs, "--scorers", *SCORERS.split(), "--regret", "--out", out)
    assert choose_by(monkeypatch, *arguments) == 0
    table = pd.read_csv(out)
    assert list(table) == ["method", "scorer", "all", "fan", "pump", "official"]
    assert len(table) == 4
    assert table["all"].is_monotonic_decreasing
    assert table[["fan", "pump"]].mean(axis=1).tolist() == pytest.approx(table["all"].tolist())
    row = table.set_index(["method", "scorer"]).loc[("na_1024", "target_kmeans_cos")]
    assert row.official == pytest.approx(official(Run(runs[0]), "epoch_1_2"))
    printed = capsys.readouterr().out
    best = table.iloc[0]
    assert f"chosen: {best.method} with scorer={best.scorer}" in printed
    assert f"regret {table.official.max() - best.official:.1f} points" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scorers", "nn"], "error: scorer nn: unknown; allowed are beam "),
        (["--scorers", "target_kmeans_cos@mean"], "takes no parts of an embedding"),
        (["--scorers", "knn@half"], "parts=half: allowed are whole, mean, max"),
    ],
)
def test_scorers_that_do_not_exist(measured, arguments, message, monkeypatch, capsys):
    assert choose_by(monkeypatch, measured[0] / "spectral_level_1", *arguments) == 1
    assert message in capsys.readouterr().err


def test_a_folder_that_is_no_run(tmp_path, monkeypatch, capsys):
    assert choose_by(monkeypatch, tmp_path) == 1
    assert "config.yaml is missing" in capsys.readouterr().err
