"""Submission files: published names, completeness, thresholds and metrics of made-up scores."""

import csv
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from scipy import stats
from sklearn.metrics import f1_score, precision_score, recall_score

import submit
from conftest import compose
from renaming import Names, plan
from unlabeledasd.errors import InputError
from unlabeledasd.files import write_csv
from unlabeledasd.metrics import evaluate
from unlabeledasd.runs.folder import Run

EVALUATION = [
    "3DPrinter",
    "AirCompressor",
    "BrushlessMotor",
    "HairDryer",
    "HoveringDrone",
    "RoboticArm",
    "Scanner",
    "ToothBrush",
    "ToyCircuit",
]
VERSION = "epoch_12_14_16"


def make_run(folder, data_dir, machines=("fan", *EVALUATION), seed=0, first=0) -> Run:
    """A finished run on dcase2024 with random scores; evaluation test clips have bare names."""
    run, rng = Run(folder), np.random.default_rng(seed)
    config = compose(
        "train", ["dataset=dcase2024", "method=na_1024", "seed=1", f"data_dir={data_dir}"]
    )
    OmegaConf.resolve(config)
    run.all.mkdir(parents=True)
    OmegaConf.save(config, run.config)
    for machine in machines:
        test = [f"section_00_{i:04d}.wav" for i in range(first, first + 200)]
        normal, target = (pd.array([pd.NA] * 200, dtype="Int64") for _ in range(2))
        if machine == "fan":
            kinds = [(d, c) for d in ("source", "target") for c in ("normal", "anomaly")]
            test = [
                f"section_00_{d}_test_{c}_{i:04d}_m-n_W.wav" for d, c in kinds for i in range(50)
            ]
            normal, target = (
                [int(word in name) for name in test] for word in ("_normal_", "_target_")
            )
        train = [f"section_00_source_train_normal_{i:04d}_m-n_W.wav" for i in range(990)]
        for split, names, is_normal, is_target in (
            ("test", test, normal, target),
            ("held_out", train, 1, 0),
        ):
            table = pd.DataFrame({"path": [f"{machine}/{split}/{name}" for name in names]})
            table = table.assign(
                is_normal=is_normal, is_target=is_target, score=rng.gamma(2, 0.1, len(names))
            )
            table = table.rename(columns={"score": "AS-ensemble"})
            write_csv(run.version(machine, VERSION) / f"ensemble_{split}_score.csv", table)
    run.mark_done("settings")
    return run


def call(runs, out, **changes):
    options = {
        "machines": None,
        "version": None,
        "threshold": "gamma",
        "quantile": 0.9,
        "data_dir": None,
        **changes,
    }
    submit.submit(SimpleNamespace(runs=[run.folder for run in runs], out=out, **options))


def read(file):
    with file.open() as lines:
        return dict(csv.reader(lines))


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", tmp_path)


def test_files(run, tmp_path):
    call([run], tmp_path / "out")
    expected = [
        f"{kind}_{m}_section_00_test.csv"
        for kind in ("anomaly_score", "decision_result")
        for m in EVALUATION
    ]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted([*expected, "meta.yaml"])
    for machine in EVALUATION:
        folder = run.version(machine, VERSION)
        scores = pd.read_csv(folder / "ensemble_test_score.csv")["AS-ensemble"].tolist()
        held_out = pd.read_csv(folder / "ensemble_held_out_score.csv")["AS-ensemble"]
        shape, _, scale = stats.gamma.fit(held_out, floc=0)
        threshold = stats.gamma.ppf(0.9, shape, scale=scale)
        found = read(tmp_path / "out" / f"anomaly_score_{machine}_section_00_test.csv")
        assert list(found) == [f"section_00_{i:04d}.wav" for i in range(200)]
        assert [float(value) for value in found.values()] == scores
        decisions = read(tmp_path / "out" / f"decision_result_{machine}_section_00_test.csv")
        assert list(decisions) == list(found)
        assert [int(value) for value in decisions.values()] == [
            score > threshold for score in scores
        ]


def test_empirical_threshold(run, tmp_path):
    call([run], tmp_path / "out", threshold="empirical", quantile=0.5, machines=["Scanner"])
    held_out = pd.read_csv(run.version("Scanner", VERSION) / "ensemble_held_out_score.csv")[
        "AS-ensemble"
    ]
    scores = read(tmp_path / "out/anomaly_score_Scanner_section_00_test.csv")
    decisions = read(tmp_path / "out/decision_result_Scanner_section_00_test.csv")
    above = {name for name, score in scores.items() if float(score) > held_out.median()}
    assert {name for name, decision in decisions.items() if decision == "1"} == above


def test_several_runs_are_averaged(run, tmp_path):
    other = make_run(tmp_path / "other", tmp_path, seed=1)
    call([run, other], tmp_path / "out")
    found = [
        float(value)
        for value in read(tmp_path / "out/anomaly_score_Scanner_section_00_test.csv").values()
    ]
    both = [
        pd.read_csv(r.version("Scanner", VERSION) / "ensemble_test_score.csv") for r in (run, other)
    ]
    np.testing.assert_allclose(
        found, (both[0]["AS-ensemble"] + both[1]["AS-ensemble"]) / 2, rtol=1e-12
    )
    strange = make_run(tmp_path / "strange", tmp_path, first=1)
    with pytest.raises(InputError, match=r"strange/3DPrinter.*other clips than in .*run"):
        call([run, strange], tmp_path / "out2")
    assert not (tmp_path / "out2").exists()


def test_figures_of_development_machines(run, tmp_path, capsys):
    call([run], tmp_path / "out")
    meta = OmegaConf.load(tmp_path / "out/meta.yaml")
    assert list(meta.results.development_dataset) == ["fan"]
    found = meta.results.development_dataset.fan
    table = pd.read_csv(run.version("fan", VERSION) / "ensemble_test_score.csv")
    shape, _, scale = stats.gamma.fit(
        pd.read_csv(run.version("fan", VERSION) / "ensemble_held_out_score.csv")["AS-ensemble"],
        floc=0,
    )
    decided = table["AS-ensemble"] > stats.gamma.ppf(0.9, shape, scale=scale)
    for domain in ("source", "target"):
        rows = table.is_target == (domain == "target")
        truth = 1 - table.is_normal[rows]
        for name, function in (
            ("precision", precision_score),
            ("recall", recall_score),
            ("f1", f1_score),
        ):
            assert found[f"{name}_{domain}"] == pytest.approx(
                100 * function(truth, decided[rows]), abs=0.005
            )
    official = evaluate(table["AS-ensemble"], table.is_normal, table.is_target)
    assert found.auc_target == pytest.approx(100 * official["0_target_auc_all"], abs=0.005)
    # spectrum 1,662,208 + 1024: 972,536 parameters, three epochs
    assert meta.system.complexity.total_parameters == 3 * (1_662_208 + 972_536)
    printed = capsys.readouterr().out
    assert f"{found.f1_source / 100:.4f}" in printed


def test_clips_kept_as_flac_have_the_names_of_the_published_wavs(run, tmp_path):
    call([run], tmp_path / "before", machines=["RoboticArm"])
    file = run.version("RoboticArm", VERSION) / "ensemble_test_score.csv"
    file.write_text(file.read_text().replace(".wav", ".flac"))
    call([run], tmp_path / "after", machines=["RoboticArm"])
    assert_same_files(tmp_path)


# --- names after ground truth was added ---


def names_of(i: int) -> Names:
    """Clip i as the official list has it: another index, and the `_test_` that RoboticArm lacks."""
    domain, condition = ("source", "target")[i % 2], ("normal", "anomaly")[i % 4 // 2]
    named = f"section_00_{domain}_test_{condition}_{199 - i:04d}_x_1.wav"
    return Names(f"section_00_{i:04d}.wav", named.replace("_test_", "_"), named)


@pytest.fixture
def named(tmp_path):
    """RoboticArm with ground truth in its names, by preprocess/add_gt_info.sh: (run, before)."""
    rows, folder = [names_of(i) for i in range(200)], tmp_path / "dcase2024/all/raw/RoboticArm/test"
    folder.mkdir(parents=True)
    for row in rows:
        (folder / row.bare).write_bytes(b"audio")
    run = make_run(tmp_path / "run", tmp_path, machines=["RoboticArm"])
    call([run], tmp_path / "before", machines=["RoboticArm"])
    file = run.version("RoboticArm", VERSION) / "ensemble_test_score.csv"
    table = pd.read_csv(file)
    table["path"] = [f"RoboticArm/test/{row.named}" for row in rows]
    write_csv(file, table.sort_values("path"))
    return run, rows, folder


def assert_same_files(tmp_path, machine="RoboticArm"):
    for kind in ("anomaly_score", "decision_result"):
        name = f"{kind}_{machine}_section_00_test.csv"
        assert (tmp_path / "after" / name).read_bytes() == (tmp_path / "before" / name).read_bytes()


def test_renamed_clips_have_their_bare_names(named, tmp_path):
    run, rows, folder = named
    journal = tmp_path / "dcase2024/ground_truth/RoboticArm/renamed.csv"
    plan(folder.parent, journal, rows).run()
    assert (folder / rows[7].named).is_file()
    call([run], tmp_path / "after", machines=["RoboticArm"])
    assert_same_files(tmp_path)


def test_linked_clips_have_their_bare_names(named, tmp_path):
    run, rows, folder = named
    links = tmp_path / "links/dcase2024/all/raw/RoboticArm/test"
    links.mkdir(parents=True)
    for row in rows:
        (links / row.named).symlink_to(folder / row.bare)
    call([run], tmp_path / "after", machines=["RoboticArm"], data_dir=tmp_path / "links")
    assert_same_files(tmp_path)


def test_clips_that_the_authors_code_named_have_their_bare_names(tmp_path):
    """Scores of names with the true attribute, which the official list and the journal hide."""
    rows, folder = [names_of(i) for i in range(200)], tmp_path / "dcase2024/all/raw/ToothBrush/test"
    folder.mkdir(parents=True)
    hidden = [row.named.replace("_x_1.wav", "_noAttribute.wav") for row in rows]
    true = [row.named.replace("_x_1.wav", f"_spd_{i % 7}.wav") for i, row in enumerate(rows)]
    for name in true:
        (folder / name).write_bytes(b"audio")
    run = make_run(tmp_path / "run", tmp_path, machines=["ToothBrush"])
    call([run], tmp_path / "before", machines=["ToothBrush"])
    file = run.version("ToothBrush", VERSION) / "ensemble_test_score.csv"
    table = pd.read_csv(file)
    table["path"] = [f"ToothBrush/test/{name}" for name in true]
    write_csv(file, table.sort_values("path"))
    with pytest.raises(InputError, match="its official bare name is not known"):
        call([run], tmp_path / "after", machines=["ToothBrush"])
    journal = tmp_path / "dcase2024/ground_truth/ToothBrush/renamed.csv"
    lists = [Names(row.bare, name, name) for row, name in zip(rows, hidden, strict=True)]
    plan(folder.parent, journal, lists).run()
    assert (folder / hidden[7]).is_file()
    call([run], tmp_path / "after", machines=["ToothBrush"])
    assert_same_files(tmp_path, "ToothBrush")


def test_names_that_nothing_tells(named, tmp_path):
    run, _, folder = named
    shutil.rmtree(folder)
    with pytest.raises(InputError, match=r"its official bare name is not known: no .*renamed.csv"):
        call([run], tmp_path / "after", machines=["RoboticArm"])
    assert not (tmp_path / "after").exists()


# --- completeness ---


def drop(table, i):
    return table.drop(index=i)


def shift_last(table, _):
    table.loc[199, "path"] = table.path[199].replace("0199", "0200")
    return table


def double(table, _):
    table.loc[1, "path"] = table.path[0]
    return table


def empty(table, _):
    table.loc[3, "AS-ensemble"] = np.nan
    return table


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop, "Scanner: scores of 199 test clips, dcase2024 has 200"),
        (shift_last, "Scanner: no score of section_00_0199.wav, but of clips after it"),
        (double, "Scanner: 1 clips have the name of another"),
        (empty, r"ensemble_test_score.csv: 1 scores of column AS-ensemble are not finite"),
    ],
)
def test_incomplete_scores(run, tmp_path, spoil, message):
    file = run.version("Scanner", VERSION) / "ensemble_test_score.csv"
    write_csv(file, spoil(pd.read_csv(file), 17))
    with pytest.raises(InputError, match=message):
        call([run], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_indices_may_begin_at_1(tmp_path):
    call([make_run(tmp_path / "run", tmp_path, first=1)], tmp_path / "out")
    assert "section_00_0200.wav" in read(tmp_path / "out/anomaly_score_Scanner_section_00_test.csv")


def test_missing_machines(tmp_path):
    run = make_run(tmp_path / "run", tmp_path, machines=["fan", *EVALUATION[2:]])
    with pytest.raises(
        InputError, match="no scores of 3DPrinter AirCompressor in version epoch_12_14_16"
    ):
        call([run], tmp_path / "out")
    (run.version("Scanner", VERSION) / "ensemble_held_out_score.csv").unlink()
    with pytest.raises(InputError, match="no held_out scores of Scanner"):
        call([run], tmp_path / "out", machines=["Scanner"])
