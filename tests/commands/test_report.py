"""The table over seeds, from result CSVs written by hand."""

import os
import shutil
import statistics
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import report
from conftest import ROOT
from reporting import grid
from unlabeledasd.errors import InputError
from unlabeledasd.files import write_csv
from unlabeledasd.metrics import OFFICIAL, evaluate
from unlabeledasd.runs.folder import Run

DEVELOPMENT = ["bearing", "fan", "gearbox", "slider", "ToyCar", "ToyTrain", "valve"]
EVALUATION = ["Vacuum", "ToyTank", "ToyNscale", "ToyDrone", "bandsaw", "grinder", "shaker"]


def write_run(results, dataset, method, seed, figures):
    """figures: machine -> its three official values."""
    run = Run(results / dataset / f"{method}_{seed}")
    for machine, values in figures.items():
        row = {
            "post_process": "AS-ensemble",
            "hmean_official": 0.0,
            **dict(zip(OFFICIAL, values, strict=True)),
        }
        write_csv(
            run.version(machine, "epoch_12_14_16") / "ensemble_test_result.csv", pd.DataFrame([row])
        )


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
    table = report.make_table(
        results, ["dcase2023", "own"], ["na_1024", "na_0256"], [1, 2, 3], "epoch_12_14_16"
    )
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
    (
        Run(results / "dcase2023/na_1024_2").version("fan", "epoch_12_14_16")
        / "ensemble_test_result.csv"
    ).unlink()
    table = report.make_table(results, ["dcase2023"], ["na_1024"], [1, 2, 3], "epoch_12_14_16")
    assert table.set_index("machines").seeds.to_dict() == {"dev": 2, "eval": 3, "all": 2}


def call_report(results, *arguments):
    command = [
        sys.executable,
        ROOT / "src/report.py",
        "--results-dir",
        results,
        "--name",
        "table1",
        *arguments,
    ]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "DATA_DIR": "/data"}
    )


def test_files_and_terminal(results):
    grid_part = [
        "--seeds",
        "1",
        "2",
        "--datasets",
        "dcase2023",
        "own",
        "--methods",
        "na_1024",
        "na_0256",
    ]
    done = call_report(results, *grid_part)
    assert done.returncode == 0, done.stderr
    markdown = (results / "table1.md").read_text()
    first_table = markdown.partition("\n\nChallenge")[0]
    assert first_table in done.stdout
    header, _, *rows = [
        line.strip("| ").split(" | ") for line in first_table.splitlines() if line.startswith("|")
    ]
    header, first, second = ([text.strip() for text in row] for row in (header, *rows))
    assert header == ["method", "dcase2023 dev", "dcase2023 eval", "dcase2023 all", "own all"]
    # dev, seed 1: 3 / (1/.5 + 1/.5 + 1/.8) = .5714, seed 2: .6102; eval .7105, .7714; all .6334, .6814
    assert first == ["na_1024", "59.08 ± 2.74", "74.10 ± 4.31", "65.74 ± 3.39", "42.86 (1 of 2)"]
    assert second == ["na_0256", *["missing"] * 4]
    # no run has a done marker
    place = f"DATA_DIR=/data RESULTS_DIR={results}"
    for dataset in ("dcase2023", "folder:own"):
        grid_part = f'DATASETS={dataset} METHODS="na_1024 na_0256" SEEDS="1 2"'
        assert f"    {place} {grid_part} jobs/exp/exp2.sh\n" in done.stdout


def test_csv_round_trip(results):
    call_report(
        results, "--seeds", "1", "2", "3", "--datasets", "dcase2023", "--methods", "na_1024"
    )
    table = pd.read_csv(results / "table1.csv")
    versions = ["epoch_12_14_16", "epoch12", "epoch14", "epoch16"]
    made = pd.concat(
        [grid.make_table(results, ["dcase2023"], ["na_1024"], [1, 2, 3], v) for v in versions],
        ignore_index=True,
    )
    pd.testing.assert_frame_equal(table, made)
    assert table.seeds.tolist() == [3] * 3 + [0] * 9


def test_single_epochs_have_tables_of_their_own(results):
    run = Run(results / "own/na_1024_1")
    row = {"post_process": "AS-X", "hmean_official": 0.0, **dict.fromkeys(OFFICIAL, 0.75)}
    write_csv(run.version("press", "epoch14") / "epoch14_test_result.csv", pd.DataFrame([row]))
    call_report(results, "--seeds", "1", "--datasets", "own", "--methods", "na_1024")
    markdown = (results / "table1.md").read_text()
    assert markdown.count("Challenge score") == 4
    assert "| 75.00   |" in markdown.partition("(epoch14)")[2].partition("(epoch16)")[0]
    assert "75.00" in (results / "table1.tex").read_text()


def test_best_of_each_column_is_bold(results):
    write_run(results, "own", "na_0256", 1, {"press": (0.6, 0.25, 1.0)})
    write_run(results, "dcase2023", "na_0256", 1, dict.fromkeys(DEVELOPMENT, (0.4, 0.5, 0.8)))
    call_report(
        results, "--seeds", "1", "--datasets", "dcase2023", "own", "--methods", "na_1024", "na_0256"
    )
    first, second = [
        line
        for line in (results / "table1.md").read_text().splitlines()
        if line.startswith("| na_")
    ][:2]
    cells = [
        [text.strip() for text in line.strip("| ").split(" | ")][1:] for line in (first, second)
    ]
    # eval and all of dcase2023 have one value only: nothing to compare
    assert cells == [
        ["**57.14**", "71.05", "63.34", "42.86"],
        ["52.17", "missing", "missing", "**45.00**"],
    ]
    assert r"\textbf{45.00}" in (results / "table1.tex").read_text()


def test_finished_runs_without_figures_are_named(results):
    Run(results / "own/na_1024_1").mark_done("settings")
    done = call_report(
        results, "--seeds", "1", "--datasets", "own", "--methods", "na_1024", "--version", "late"
    )
    assert f"{results}/own/na_1024_1: no metrics of any machine in version late" in done.stdout
    assert "Missing runs" not in done.stdout


# --- differences --------------------------------------------------------------------------------------------------


def write_scores(results, method, seed, shift, machines=("fan", "pump"), extra=0):
    """Normally distributed scores, most of it common to all runs; anomalies lie `shift` higher."""
    run = Run(results / "own" / f"{method}_{seed}")
    for i, machine in enumerate(machines):
        rng = np.random.default_rng(i)
        is_normal, is_target = np.repeat([1, 0], 40), np.tile(np.repeat([0, 1], 20), 2)
        noise = np.random.default_rng((seed, len(method), i)).standard_normal(80)
        scores = rng.standard_normal(80) + 0.3 * noise + shift * (1 - is_normal)
        paths = [f"{machine}/test/{j + extra}.wav" for j in range(80)]
        table = pd.DataFrame(
            {"path": paths, "is_normal": is_normal, "is_target": is_target, "AS-ensemble": scores}
        )
        write_csv(run.version(machine, "epoch_12_14_16") / "ensemble_test_score.csv", table)
        figures = {"post_process": "AS-ensemble", **evaluate(scores, is_normal, is_target)}
        write_csv(
            run.version(machine, "epoch_12_14_16") / "ensemble_test_result.csv",
            pd.DataFrame([figures]),
        )


@pytest.mark.parametrize("resample", ["clips", "seeds"])
def test_differences(tmp_path, resample):
    for seed in (1, 2, 3):
        write_scores(tmp_path, "base", seed, 1.0)
        write_scores(tmp_path, "better", seed, 1.6)
    write_scores(tmp_path, "same", 1, 1.0)  # one seed of three
    where = (tmp_path, ["own"], ["base", "better", "same"], [1, 2, 3], "epoch_12_14_16")
    table = grid.make_table(*where).set_index(["method", "machines"])["mean"]
    rows = grid.differences(*where, "base", resample).set_index(["method", "machines"])
    assert sorted(rows.index) == [("better", "all"), ("same", "all")]
    better = rows.loc["better", "all"]
    assert better.difference == pytest.approx(table["better", "all"] - table["base", "all"])
    assert 0 < better.low < better.difference < better.high
    assert rows.loc["same", "all"].low <= 0.05


def test_differences_want_the_same_clips(tmp_path):
    write_scores(tmp_path, "base", 1, 1.0)
    write_scores(tmp_path, "other", 1, 1.0, extra=1)
    with pytest.raises(InputError, match=r"other_1/fan/.*ensemble_test_score.csv: other clips"):
        grid.differences(tmp_path, ["own"], ["base", "other"], [1], "epoch_12_14_16", "base")


def test_baseline_must_be_in_the_table(results):
    done = call_report(
        results,
        "--seeds",
        "1",
        "--datasets",
        "own",
        "--methods",
        "na_1024",
        "--baseline",
        "na_4096",
    )
    assert done.returncode == 1
    assert done.stderr == "error: --baseline na_4096: not among --methods na_1024\n"


def test_nothing_to_compare(results):
    done = call_report(
        results,
        "--seeds",
        "1",
        "--datasets",
        "own",
        "--methods",
        "na_1024",
        "na_0256",
        "--baseline",
        "na_0256",
    )
    assert done.returncode == 0
    assert done.stdout.count("Challenge score") == 1
    assert "No differences: no seed has scores of na_0256 and another method" in done.stdout


def test_latex_structure_and_compilation(results, tmp_path):
    call_report(
        results,
        "--seeds",
        "1",
        "2",
        "--datasets",
        "dcase2023",
        "own",
        "--methods",
        "na_1024",
        "na_0256",
    )
    text = (results / "table1.tex").read_text()
    tabular = text.partition(r"\end{table}")[0]
    assert r"\begin{tabular}{lcccc}" in tabular
    assert r"\multicolumn{3}{c}{dcase2023} & \multicolumn{1}{c}{own}" in tabular
    rows = [line for line in tabular.splitlines() if line.endswith(r"\\")]
    assert [row.count("&") for row in rows] == [2, 4, 4, 4]  # the first spans
    assert all(
        tabular.count(rf"\begin{{{name}}}") == tabular.count(rf"\end{{{name}}}")
        for name in ("tabular",)
    )
    assert "_" not in tabular.replace(r"\_", "")
    if not (pdflatex := shutil.which("pdflatex")):
        pytest.skip("no pdflatex here: structure checked, not compiled")
    document = (
        r"\documentclass{article}\usepackage{booktabs}\begin{document}" + text + r"\end{document}"
    )
    (tmp_path / "a.tex").write_text(document)
    command = [pdflatex, "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
