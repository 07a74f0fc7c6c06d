"""The score and result CSVs: flags, the default column, the mean over epochs, bad files."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unlabeledasd.errors import InputError
from unlabeledasd.metrics import evaluate
from unlabeledasd.results import (
    average_scores,
    find_csv,
    read_metrics,
    read_scores,
    report,
    score_table,
    write_scores,
)
from unlabeledasd.runs.folder import Run

COLUMN = "AS-A"
CLIPS = pd.DataFrame(
    [
        (f"fan/test/{domain}_{condition}_{i}.wav", domain, condition)
        for domain in ("source", "target")
        for condition in ("normal", "anomaly")
        for i in range(4)
    ],
    columns=["path", "domain", "condition"],
)


def write(run: Run, machine: str, stem: str, seed: int, *others: str) -> pd.DataFrame:
    """A version of one epoch with random scores; others: score columns behind the first one."""
    rng = np.random.default_rng(seed)
    columns = {column: rng.standard_normal(len(CLIPS)) for column in (COLUMN, *others)}
    table = score_table(CLIPS, columns)
    write_scores(run.version(machine, stem), stem, "test", table)
    return table


def test_the_first_score_column_is_the_default(tmp_path):
    run = Run(tmp_path)
    table = write(run, "fan", "epoch1", 0, "AS-B")
    file = find_csv(run, "fan", "epoch1", "test_score")
    for column, found in ((COLUMN, read_scores(file)), ("AS-B", read_scores(file, "AS-B"))):
        assert list(found) == ["path", "is_normal", "is_target", "score"]
        np.testing.assert_allclose(found.score, table[column], rtol=1e-12)
        assert found.is_normal.tolist() == 2 * [1, 1, 1, 1, 0, 0, 0, 0]
        assert found.is_target.tolist() == 8 * [0] + 8 * [1]
    expected = evaluate(table[COLUMN], table.is_normal, table.is_target)
    metrics = read_metrics(find_csv(run, "fan", "epoch1", "test_result"))
    assert metrics == pytest.approx(expected, rel=1e-12)


def test_the_csv_of_a_version_is_the_ensemble_or_the_only_one(tmp_path):
    run = Run(tmp_path)
    assert find_csv(run, "fan", "both", "test_score") is None
    folder = run.version("fan", "both")
    for stem in ("epoch1", "epoch2"):
        write_scores(folder, stem, "test", score_table(CLIPS, {COLUMN: np.arange(16.0)}))
        names = {"epoch1": folder / "epoch1_test_score.csv", "epoch2": None}  # one of two: neither
        assert find_csv(run, "fan", "both", "test_score") == names[stem]
    write_scores(folder, "ensemble", "test", score_table(CLIPS, {COLUMN: np.arange(16.0)}))
    assert find_csv(run, "fan", "both", "test_result") == folder / "ensemble_test_result.csv"
    assert find_csv(run, "fan", "both", "held_out_score") is None


def test_report(tmp_path):
    """A machine without flags, one without target clips, and the score of all that have metrics."""
    run = Run(tmp_path)
    scores = np.random.default_rng(0).standard_normal(16)
    for machine, clips in (
        ("fan", CLIPS),
        ("pump", CLIPS.assign(condition="unknown")),
        ("saw", CLIPS.assign(domain="source")),
    ):
        write_scores(run.version(machine, "a"), "a", "test", score_table(clips, {COLUMN: scores}))
    lines = report(run, "a", ["fan", "pump", "saw"]).splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["machine", "fan", "saw", "challenge"]
    known = score_table(CLIPS, {COLUMN: scores})
    expected = evaluate(scores, known.is_normal, known.is_target)
    assert lines[1].split()[1] == f"{expected['hmean_official']:.4f}"
    assert lines[2].split()[3] == lines[3].split()[2] == "-"
    assert lines[4].startswith("pump: test clips of unknown condition or domain; scores were")
    assert lines[5].startswith("0_target_auc_all does not exist for saw: no such normal")
    assert lines[-1] == f"CSVs: {tmp_path}/<machine>/infer/version_a/"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as a score CSV"),
        ("path,is_normal,AS-A\nx,1,2\n", "no column is_target; it has path, is_normal, AS-A"),
        ("path,is_normal,is_target\nx,1,0\n", r"no column AS-\.\.\., it has"),
        ("path,is_normal,is_target,AS-A\nx,1,0,inf\n", "1 scores of column AS-A are not finite"),
        ("path,is_normal,is_target,AS-A\nx,1,0,a\n", "1 scores of column AS-A are not finite"),
        ("path,is_normal,is_target,AS-A\nx,yes,0,1\n", "cannot be read as a score CSV"),
    ],
)
def test_score_csvs_that_are_refused(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=rf"a\.csv: {message}"):
        read_scores(tmp_path / "a.csv")


@pytest.mark.parametrize("text", ["", "post_process\nAS-A\n", "post_process,hmean_official\n"])
def test_result_csvs_that_are_refused(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=r"a\.csv: cannot be read as a result CSV"):
        read_metrics(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.unlink(), "no such score CSV"),
        (
            lambda file: file.write_text(file.read_text().replace("anomaly_0", "anomaly_9")),
            "clips or flags differ",
        ),
        (
            lambda file: file.write_text(file.read_text().replace(COLUMN, "AS-Other")),
            "no column AS-A, it has AS-Other",
        ),
        (
            lambda file: pd.read_csv(file).assign(**{COLUMN: np.nan}).to_csv(file, index=False),
            "16 scores of",
        ),
        (lambda file: pd.read_csv(file)[::-1].to_csv(file, index=False), "clips or flags differ"),
    ],
)
def test_ensemble_of_scores_that_do_not_match(tmp_path, spoil, message):
    run = Run(tmp_path)
    for machine in ("fan", "pump"):
        for seed, version in enumerate(("epoch12", "epoch14")):
            write(run, machine, version, seed)
    sources = [("epoch12", "epoch12"), ("epoch14", "epoch14")]
    average_scores(run, sources, "both", COLUMN)
    spoil(run.version("pump", "epoch14") / "epoch14_test_score.csv")
    with pytest.raises(InputError, match=message) as error:
        average_scores(run, sources, "both", COLUMN)
    assert "pump/infer/version_epoch14/epoch14_test_score.csv" in str(error.value)


finite = st.floats(-1e6, 1e6)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    arrays(float, st.tuples(st.integers(2, 4), st.integers(1, 6)), elements=finite), st.randoms()
)
def test_ensemble_of_any_scores(tmp_path, scores, random):
    """The mean of each clip in any order of the epochs; scaled and shifted as the scores are."""
    clips = pd.DataFrame(
        {
            "path": [f'fan/test/a,"{i}".wav' for i in range(scores.shape[1])],
            "is_normal": 1,
            "is_target": 0,
        }
    )
    run, sources = Run(tmp_path), [(f"epoch{e}", f"epoch{e}") for e in range(len(scores))]

    def average(scores, sources):
        for row, (version, stem) in zip(scores, sources, strict=True):
            for split in ("train", "test"):
                write_scores(
                    run.version("fan", version), stem, split, clips.assign(**{COLUMN: row})
                )
        average_scores(run, sources, "mean", COLUMN)
        table = pd.read_csv(run.version("fan", "mean") / "ensemble_test_score.csv")
        assert table.path.tolist() == clips.path.tolist()
        return table["AS-ensemble"].to_numpy()

    mean = average(scores, sources)
    np.testing.assert_allclose(
        mean, [sum(column) / len(column) for column in scores.T.tolist()], atol=1e-9
    )
    assert ((scores.min(0) - 1e-9 <= mean) & (mean <= scores.max(0) + 1e-9)).all()
    np.testing.assert_allclose(average(2 * scores + 1, sources), 2 * mean + 1, atol=1e-8)
    random.shuffle(sources)
    np.testing.assert_allclose(average(scores, sources), mean, atol=1e-9)
