"""jobs/exp/exp3.sh and pseudoattr/pseudo_attr.sh: what they call, with a stand-in for python."""

import os
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from launcher_job import write_truth

from conftest import METHODS, ROOT, compose, write_script
from settings.facts import Facts, label_source, trains_on_pseudo_labels

STAND_IN = f"""#!/bin/sh
case "$1" in
  *missing_requirements.py) exit 0 ;;
  -m) exec {sys.executable} "$@" ;;
  src/report.py) exit 0 ;;
esac
echo "$*" >> "$LOG"
case "$*" in *"$FAILS"*) exit ${{STATUS:-0}} ;; esac
"""


WEIGHTS = {"openl3": "torchopenl3_mel128_env_512.pth.tar", "panns": "Cnn14_mAP=0.431.pth"}
CLASS, TRIPLET, OPENL3, PANNS, MACDOM, GT = (
    f"pattr_{labels}_subloss_0256_4096"
    for labels in ("bic_pre", "bic_triplet", "bic_openl3", "bic_panns", "macdom", "gt")
)


@pytest.fixture
def job(tmp_path):
    stand_in = write_script(tmp_path / "bin/python", STAND_IN)
    write_truth(tmp_path, "demo_unlabeled")

    def run(script: str, **environment: str):
        clean = {
            "PATH": f"{stand_in.parent}:{os.environ['PATH']}",
            "LOG": str(tmp_path / "log"),
            "FAILS": "nothing",
            "RESULTS_DIR": str(tmp_path / "results"),
            "LABEL_DIR": str(tmp_path / "label"),
            "DATA_DIR": str(tmp_path),
            "DATASETS": "demo_unlabeled",
            "SEEDS": "1",
            **environment,
        }
        return subprocess.run(
            [ROOT / script], env=clean, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    run.log = lambda: (
        (tmp_path / "log").read_text().splitlines() if (tmp_path / "log").exists() else []
    )
    return run


@pytest.fixture
def exp3(job):
    def run(**environment: str):
        return job("jobs/exp/exp3.sh", **environment)

    run.log = job.log
    return run


def words(line: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(line)[1:])


def test_stages_in_their_order(exp3):
    assert exp3().returncode == 0
    log = exp3.log()
    scripts = [line.split()[0].rpartition("/")[2] for line in log]
    assert scripts == [
        "train.py",
        *["train_triplet.py"] * 2,
        *["embed.py", "cluster.py"] * 2,
        "cluster.py",
        *["train.py"] * 4,
    ]
    assert words(log[0])["method"] == "subloss_0256_4096"
    assert [words(line)["machine"] for line in log[1:3]] == ["gearbox", "bearing"]
    sources = [words(line)["source"] for line in log[3:8]]
    assert sources == ["class", "class", "triplet", "triplet", "gt"]
    assert [words(line)["method"] for line in log[8:]] == [MACDOM, CLASS, TRIPLET, GT]


def test_the_whole_grid(exp3):
    lines = [
        line.removeprefix("python ")
        for line in exp3(DRY_RUN="1", DATASETS="", SEEDS="").stdout.splitlines()
    ]
    scripts = [line.split()[0] for line in lines]
    # teachers; 14 and 7 unlabeled machines; 2 sources with seeds, 2 without, gt of 2024; 5 rows
    # each
    assert scripts.count("src/train.py") == 2 * 5 + 2 * 5 * 5
    assert scripts.count("src/train_triplet.py") == (14 + 7) * 5
    assert (scripts.count("pseudoattr/embed.py"), scripts.count("pseudoattr/cluster.py")) == (
        2 * 12,
        2 * 12 + 1,
    )


def test_settings_reach_what_has_them(exp3, tmp_path):
    overrides = (
        "dataset.channel=0 data.num_workers=1 +trainer.limit_train_batches=2 score_epochs=[1,14]"
    )
    settings = {"LABEL_DIR": "my labels", "SETTINGS": "labeler.criterion=bic"}
    assert exp3(OVERRIDES=overrides, **settings).returncode == 0
    for line in exp3.log():
        if "train_triplet" in line:
            assert line.endswith(overrides.removesuffix(" score_epochs=[1,14]"))
        elif "train.py" in line:
            assert line.endswith(overrides)
        else:
            assert line.endswith("labeler.criterion=bic dataset.channel=0")
        assert (f"label_dir='{tmp_path}/my labels'" in line) == ("triplet.py" not in line)


def test_rows_without_pseudo_labels_need_no_teacher(exp3):
    assert exp3(METHODS="pattr_macdom_subloss_0256_4096", SEEDS="1 2").returncode == 0
    assert [words(line)["method"] for line in exp3.log()] == ["pattr_macdom_subloss_0256_4096"] * 2


def students(log: list[str]) -> list[str]:
    """The methods of src/train.py, without the teacher."""
    found = [words(line)["method"] for line in log if line.startswith("src/train.py")]
    return [method for method in found if method != "subloss_0256_4096"]


@pytest.mark.parametrize(
    ("fails", "status", "message", "trained"),
    [
        ("machine=bearing", "1", "failed: demo_unlabeled triplet:bearing 1", [CLASS, TRIPLET, GT]),
        ("source=triplet", "1", "no labels: demo_unlabeled triplet 1", [CLASS, GT]),
        ("source=triplet", "3", "locked elsewhere: demo_unlabeled triplet 1", [CLASS, GT]),
        ("source=gt", "1", "no labels: demo_unlabeled gt", [CLASS, TRIPLET]),
        ("embed.py", "1", "no labels: demo_unlabeled class 1", [GT]),
    ],
)
def test_what_fails_stops_its_own_rows_alone(exp3, fails, status, message, trained):
    done = exp3(FAILS=fails, STATUS=status)
    assert done.returncode == 1
    assert f"{message}\n" in done.stderr
    assert students(exp3.log()) == [MACDOM, *trained]
    source = fails.removeprefix("source=")
    if fails.startswith("source="):
        seed = "" if source == "gt" else " 1"
        left = f"left out: demo_unlabeled {TRIPLET if source == 'triplet' else GT} 1: "
        assert done.stderr.count(f"{left}no labels of {source}{seed}, see above\n") == 2
    assert done.stderr.endswith("exp3: not finished, see above; the same command resumes\n")


def test_a_seed_whose_labels_fail(exp3):
    """The embeddings of its teacher alone, so the other seed has its student."""
    done = exp3(SEEDS="1 2", METHODS=CLASS, FAILS="source=class seed=2", STATUS="1")
    assert done.returncode == 1
    assert [words(line)["seed"] for line in exp3.log() if f"method={CLASS}" in line] == ["1"]
    assert f"left out: demo_unlabeled {CLASS} 2: no labels of class 2, see above\n" in done.stderr


def test_fail_fast(exp3):
    done = exp3(FAILS="machine=gearbox", STATUS="1", FAIL_FAST="1")
    assert done.returncode == 1
    assert exp3.log()[-1].startswith("src/train_triplet.py")


def test_an_interrupt_ends_the_script(exp3):
    assert exp3(FAILS="train_triplet.py", STATUS="130").returncode == 130
    assert "train_triplet.py" in exp3.log()[-1]


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of the scripts, in which weights may be put."""
    copy = tmp_path / "checkout"
    for folder in ("jobs", "src"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "pseudoattr/weights").mkdir(parents=True)
    for file in (ROOT / "pseudoattr").glob("*.sh"):
        shutil.copy(file, copy / "pseudoattr")
    return copy


@pytest.mark.parametrize("present", [[], ["openl3"], ["panns", "openl3"]])
def test_rows_whose_weights_are_missing_are_left_out(exp3, job, checkout, tmp_path, present):
    """Named with the reason at the start and at the end; all other rows are trained."""
    write_truth(tmp_path / "own", "dcase2024")
    for source in present:
        (checkout / "pseudoattr/weights" / WEIGHTS[source]).touch()
    given = {"DATASETS": "dcase2024", "DATA_DIR": str(tmp_path / "own")}
    done = job(str(checkout / "jobs/exp/exp3.sh"), **given)
    assert done.returncode == 0, done.stderr
    trained = {"openl3": OPENL3, "panns": PANNS}
    assert students(exp3.log()) == [
        CLASS,
        TRIPLET,
        *(trained[s] for s in trained if s in present),
        GT,
    ]
    lines = done.stderr.splitlines()
    expected = [
        f"left out: dcase2024 {trained[source]}: pseudoattr/weights/{WEIGHTS[source]}: "
        "no such file; pseudoattr/README.md says where its weights are from"
        for source in trained
        if source not in present
    ]
    assert lines == expected * 2
    # asked for by name it is an error, and the others are trained all the same
    (tmp_path / "log").unlink()
    done = job(str(checkout / "jobs/exp/exp3.sh"), **given, METHODS=f"{PANNS} {CLASS}")
    assert done.returncode == ("panns" not in present)
    assert students(exp3.log()) == ([PANNS, CLASS] if "panns" in present else [CLASS])


def test_labels_that_exist_need_no_weights(exp3, tmp_path):
    labels = tmp_path / "label/demo_unlabeled/openl3/labels.json"
    labels.parent.mkdir(parents=True)
    labels.touch()
    done = exp3(METHODS=OPENL3)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in exp3.log()] == ["src/train.py"]
    assert f"labels exist, taken as they are: {labels.parent} (" in done.stdout


def test_rows_whose_true_attributes_are_missing_are_left_out(exp3, tmp_path):
    (
        tmp_path / "demo_unlabeled/ground_truth/bearing/attributes_00_train_correspondence.csv"
    ).unlink()
    done = exp3()
    assert done.returncode == 0
    assert students(exp3.log()) == [MACDOM, CLASS, TRIPLET]
    left = f"left out: demo_unlabeled {GT}: {tmp_path}/demo_unlabeled/ground_truth/bearing: no "
    assert done.stderr.count(left) == 2


@pytest.mark.parametrize(
    ("dataset", "method", "reason"),
    [
        ("demo", CLASS, "no unlabeled machine"),
        (
            "dcase2023",
            GT,
            "the attributes are not hidden: they are the classes of the other methods",
        ),
    ],
)
def test_rows_that_no_file_would_help(exp3, dataset, method, reason):
    done = exp3(DATASETS=dataset, METHODS=f"{method} {MACDOM}")
    assert done.returncode == 1
    assert students(exp3.log()) == [MACDOM]
    assert done.stderr.startswith(f"left out: {dataset} {method}: {reason}\n")


@pytest.mark.parametrize(
    ("script", "kinds"),
    [
        ("jobs/exp/exp3.sh", {"run": 15, "triplet": 6, "labels": 7}),
        ("jobs/exp/exp3_triplet.sh", {"triplet": 6}),
        ("pseudoattr/pseudo_attr.sh", {"labels": 7}),
    ],
)
def test_every_script_lists_its_plan(job, script, kinds):
    """15 runs: a teacher and four rows; two triplet models; labels of two sources with seeds, and
    gt."""
    done = job(script, LIST_RUNS="1", DATASETS="demo_unlabeled", SEEDS="1 2 3")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert {len(line) for line in lines} == {5}
    assert Counter(line[0] for line in lines) == kinds
    assert len({tuple(line) for line in lines}) == len(lines)
    assert job.log() == []


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"STAGES": "table typo"}, "STAGES=typo: allowed are teachers labels students table"),
        ({"DATASETS": "demo nope"}, "error: dataset nope: unknown; allowed are "),
        ({"METHODS": "pattr_typo"}, "error: method pattr_typo: unknown; allowed are "),
    ],
)
def test_errors_before_anything_is_done(exp3, environment, message):
    done = exp3(**environment)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1
    assert exp3.log() == []


def test_the_grid_of_labels(job):
    lines = job(
        "pseudoattr/pseudo_attr.sh", DRY_RUN="1", DATASETS="", SEEDS="", LABEL_DIR=""
    ).stdout.splitlines()
    # embed and cluster of 2 datasets x (2 sources x 5 seeds + 2); cluster of the true attributes
    # of 2024
    assert len(lines) == len(set(lines)) == 2 * 2 * 12 + 1
    assert job.log() == []
    labels = [words(line.removeprefix("python ")) for line in lines]
    assert {word["source"] for word in labels} == {"class", "triplet", "openl3", "panns", "gt"}
    assert [word["dataset"] for word in labels if word["source"] == "gt"] == ["dcase2024"]
    assert {word["label_dir"] for word in labels} == {"pseudoattr/label"}
    assert {len({w["seed"] for w in labels if w["source"] == s}) for s in ("class", "triplet")} == {
        5
    }


def test_a_source_that_fails_does_not_stop_the_others(job, tmp_path):
    done = job(
        "pseudoattr/pseudo_attr.sh",
        SEEDS="3",
        SOURCES="triplet class",
        DATA_DIR=".",
        LABEL_DIR="mine",
        SETTINGS="fit_on=all",
        OVERRIDES="dataset.channel=0 seed=2",
        FAILS="source=triplet",
        STATUS="1",
    )
    assert done.returncode == 1
    assert done.stderr == "no labels: demo_unlabeled triplet 3\n"
    scripts = [line.split()[0] for line in job.log()]
    assert scripts == [f"pseudoattr/{script}.py" for script in ("embed", "embed", "cluster")]
    more = f" label_dir={tmp_path}/mine fit_on=all dataset.channel=0"
    assert all(line.endswith(more) for line in job.log())


@pytest.mark.parametrize("asked", ["openl3 class", ""])
def test_a_source_that_cannot_be_made(job, asked):
    """Is an error where it is asked for; the others are made."""
    done = job("pseudoattr/pseudo_attr.sh", DATASETS="dcase2024", SOURCES=asked)
    assert done.returncode == bool(asked)
    assert done.stderr.count("left out: dcase2024 openl3: ") == 2
    made = {words(line)["source"] for line in job.log()}
    assert made == ({"class"} if asked else {"class", "triplet"})


def test_labels_that_another_process_makes(job):
    done = job("pseudoattr/pseudo_attr.sh", SOURCES="class", FAILS="embed.py", STATUS="3")
    assert (done.returncode, done.stderr) == (3, "locked elsewhere: demo_unlabeled class 1\n")


def test_missing_teachers_are_trained_first(job):
    overrides = {"OVERRIDES": "score_epochs=[1,14] threads=1", "TRAIN_MISSING": "1"}
    assert job("pseudoattr/pseudo_attr.sh", SOURCES="class triplet", **overrides).returncode == 0
    log = job.log()
    assert [line.split()[0] for line in log] == [
        "src/train.py",
        *["src/train_triplet.py"] * 2,
        *["pseudoattr/embed.py", "pseudoattr/cluster.py"] * 2,
    ]
    assert log[0].endswith(" score_epochs=[1,14] threads=1")
    assert log[1].endswith("/results threads=1")
    # machines that are unlabeled by a setting
    job(
        "pseudoattr/pseudo_attr.sh",
        SOURCES="triplet",
        OVERRIDES="dataset.hide=[valve]",
        TRAIN_MISSING="1",
    )
    triplets = [words(line)["machine"] for line in job.log()[len(log) :] if "triplet.py" in line]
    assert triplets == ["gearbox", "valve", "bearing"]


def test_a_method_says_its_source_itself():
    """The facts that scripts ask for are those that Hydra composes."""
    assert not trains_on_pseudo_labels("my_own")
    for method in METHODS:
        label = compose("train", [f"method={method}", "dataset=demo", "seed=7", "data_dir=x"]).label
        assert label_source(method) == label.get("source")
        assert trains_on_pseudo_labels(method) == ("source" in label)
        if "source" not in label:
            continue
        lines = set(Facts("demo_unlabeled", Path("x"), [], check=False).lines([method], []))
        assert (("seeded", label.source) in lines) == (label.seed == 7)
        given = [f"source={label.source}", "dataset=demo_unlabeled", "data_dir=x", "seed=7"]
        teacher = compose("pseudo", given).source.teacher
        runs = {line[2] for line in lines if line[0] == "teacher"}
        machines = ("gearbox", "bearing") if teacher and "<machine>" in teacher.run else ("",)
        expected = {
            Path(teacher.run.replace("<machine>", machine)).name
            for machine in (machines if teacher else ())
        }
        assert {f"{run.replace(':', '_')}_7" for run in runs} == expected
