"""The table over seeds, from result CSVs written by hand."""

import statistics
import subprocess
import sys

import pandas as pd
import pytest
from conftest import ROOT

import report
from unlabeledasd.metrics import OFFICIAL
from unlabeledasd.runs import Run, write_csv

DEVELOPMENT = ["bearing", "fan", "gearbox", "slider", "ToyCar", "ToyTrain", "valve"]
EVALUATION = ["Vacuum", "ToyTank", "ToyNscale", "ToyDrone", "bandsaw", "grinder", "shaker"]


def write_run(results, dataset, method, seed, figures):
    """figures: machine -> its three official values."""
    run = Run(results / dataset / f"{method}_{seed}")
    for machine, values in figures.items():
        row = {"post_process": "AS-ensemble", "hmean_official": 0.0, **dict(zip(OFFICIAL, values, strict=True))}
        write_csv(run.version(machine, "epoch_12_14_16") / "ensemble_test_result.csv", pd.DataFrame([row]))


@pytest.fixture
def results(tmp_path):
    for seed, value in ((1, 0.5), (2, 0.6), (3, 0.7)):
        figures = dict.fromkeys(DEVELOPMENT, (value, 0.5, 0.8))
        figures |= dict.fromkeys(EVALUATION, (0.9, 0.9, value))
        write_run(tmp_path, "dcase2023", "na_1024", seed, figures)
    write_run(tmp_path, "own", "na_1024", 1, {"press": (0.5, 0.25, 1.0)})
    return tmp_path


def harmonic(*values):
    return len(values) / sum(1 / value for value in values)


def test_mean_and_spread(results):
    table = report.make_table(results, ["dcase2023", "own"], ["na_1024", "na_0256"], [1, 2, 3], "epoch_12_14_16")
    table = table.set_index(["dataset", "method", "machines"])
    for name, expected in {
        "dev": [harmonic(v, 0.5, 0.8) for v in (0.5, 0.6, 0.7)],
        "eval": [harmonic(0.9, 0.9, v) for v in (0.5, 0.6, 0.7)],
        "all": [harmonic(v, 0.5, 0.8, 0.9, 0.9, v) for v in (0.5, 0.6, 0.7)],
    }.items():
        row = table.loc["dcase2023", "na_1024", name]
        assert row["mean"] == pytest.approx(statistics.mean(expected))
        assert row["std"] == pytest.approx(statistics.stdev(expected))
        assert (row.seeds, row.of) == (3, 3)
    own = table.loc["own", "na_1024", "all"]
    assert own["mean"] == pytest.approx(harmonic(0.5, 0.25, 1.0))
    assert (own.seeds, own.of) == (1, 3)
    assert table.loc["dcase2023", "na_0256", "all"].seeds == 0


def test_a_run_without_one_machine_does_not_count(results):
    (Run(results / "dcase2023/na_1024_2").version("fan", "epoch_12_14_16") / "ensemble_test_result.csv").unlink()
    table = report.make_table(results, ["dcase2023"], ["na_1024"], [1, 2, 3], "epoch_12_14_16")
    assert table.set_index("machines").seeds.to_dict() == {"dev": 2, "eval": 3, "all": 2}


def test_files_and_terminal(results):
    command = [sys.executable, ROOT / "src/report.py", "--results-dir", results, "--name", "table1",
               "--seeds", "1", "2", "--datasets", "dcase2023", "own", "--methods", "na_1024", "na_0256"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    markdown = (results / "table1.md").read_text()
    assert markdown in done.stdout
    header, _, *rows = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("|")]
    header, first, second = ([text.strip() for text in row] for row in (header, *rows))
    assert header == ["method", "dcase2023 dev", "dcase2023 eval", "dcase2023 all", "own all"]
    # dev, seed 1: 3 / (1/.5 + 1/.5 + 1/.8) = .5714, seed 2: .6102; eval .7105, .7714; all .6334, .6814
    assert first == ["na_1024", "59.08 ± 2.74", "74.10 ± 4.31", "65.74 ± 3.39", "42.86 (1 of 2)"]
    assert second == ["na_0256", *["missing"] * 4]
    assert len(pd.read_csv(results / "table1.csv")) == 2 * 2 * 3
