"""calibrate=SHARE: clips that neither network nor scorer has seen decide what is an alarm."""

import json
import sys

import numpy as np
import pandas as pd
import pytest

import infer
import score
import train
from conftest import call, files_below, make_machine, tiny
from unlabeledasd.detection import load
from unlabeledasd.runs.embeddings import read_embeddings
from unlabeledasd.runs.folder import Run
from unlabeledasd.scoring import TargetKmeansCos


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_machine(folder / "tiny/all/raw/fan", 200.0, source=16, target=4, test=1)
    return folder


def given(data, *more: str) -> list[str]:
    return tiny(data, data / "results", "dataset.hide=[]", "score_epochs=[1]", *more)


@pytest.fixture(scope="module")
def run(data) -> Run:
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert call(train, monkeypatch, *given(data, "calibrate=0.1")) == 0
    return Run(data / "results/tiny/na_1024_1")


def test_neither_network_nor_scorer_sees_them(run):
    aside = json.loads(run.calibration.read_text())["clips"]
    held_out, trained = (
        pd.read_csv(run.version("fan", "epoch1") / f"epoch1_{kind}_score.csv")
        for kind in ("held_out", "train")
    )
    assert held_out.path.tolist() == aside
    assert len(aside) == 9  # what 10 % needs
    labels = json.loads(run.labels.read_text())["clips"]
    assert sorted(labels) == trained.path.tolist()
    assert len(labels) == 11
    assert not set(aside) & set(labels)
    table, embeddings = read_embeddings(run.embeddings("epoch1"))
    seen, new = table.path.isin(labels).to_numpy(), table.path.isin(aside).to_numpy()
    is_target = (table.domain == "target").to_numpy()
    scorer = TargetKmeansCos().fit(embeddings[seen], is_target[seen])
    np.testing.assert_allclose(held_out.iloc[:, 3], scorer.score(embeddings[new]), rtol=1e-6)
    assert load(run.folder).threshold() == pytest.approx(held_out.iloc[:, 3].max())  # 9th of 9


def test_score_says_what_is_promised(run, data, monkeypatch, capsys):
    clip = next((data / "tiny/all/raw/fan/test").iterdir())
    monkeypatch.setattr(sys, "argv", ["score.py", str(run.folder), str(clip), "--no-state",
                                      "--format", "jsonl"])  # fmt: skip
    with pytest.raises(SystemExit):
        score.main()
    output = capsys.readouterr()
    assert "at most 10 % of new normal recordings like them, up to 4.4 s" in output.err
    assert json.loads(output.out)["p_value"] in [k / 10 for k in range(1, 11)]


@pytest.mark.parametrize("source", ["kept", "new"])
def test_infer_scores_them_as_training_did(run, monkeypatch, source):
    arguments = (f"run={run.folder}", f"name={source}", f"embeddings={source}", "accelerator=cpu")
    assert call(infer, monkeypatch, *arguments) == 0
    assert files_below(run.version("fan", source)) == files_below(run.version("fan", "epoch1"))


def test_the_choice_belongs_to_the_run(run, data, monkeypatch, capsys):
    assert call(train, monkeypatch, *given(data, "calibrate=0.1")) == 0
    assert "already finished" in capsys.readouterr().out
    assert call(train, monkeypatch, *given(data)) == 1
    assert "calibrate=not set now, 0.1 when the run began" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["calibrate=0.1", "alarm_rate=0.01"], "needs 99 for calibration, so at least 198 in all"),
        (["calibrate=ten"], "calibrate='ten': expected"),
        (["alarm_rate=0.05"], "alarm_rate=0.05: needs calibrate=SHARE"),
    ],
)
def test_refused(data, tmp_path, monkeypatch, capsys, more, message):
    assert call(train, monkeypatch, *given(data, f"run_dir={tmp_path}/run", *more)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run/all/config.yaml").exists()


def test_pseudo_labels_have_seen_all_clips(data, tmp_path, monkeypatch, capsys):
    method = "pattr_gt_subloss_0256_4096"
    assert call(train, monkeypatch, *tiny(data, tmp_path, "calibrate=0.1", method=method)) == 1
    assert "pseudo-labels were made from all training clips" in capsys.readouterr().err
