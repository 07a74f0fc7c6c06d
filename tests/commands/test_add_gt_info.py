"""preprocess/add_gt_info.py: names with ground truth, whatever happens on the way."""

import csv
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from local_server import run_local_server

import add_gt_info
import fetching
import ground_truth
from conftest import ROOT, SHARED, files_below
from renaming import named_by, read_lists
from settings import datasets as dataset_facts
from unlabeledasd.clips import index_clips
from unlabeledasd.errors import InputError, RunLocked
from unlabeledasd.runs.locks import locked

OFFICIAL = SHARED / "data/ground_truth"
needs_official = pytest.mark.skipif(
    not OFFICIAL.is_dir(), reason="the official lists lie in ../shared only"
)
OFFICIAL_DATASETS = ["dcase2023", "dcase2024", "dcase2025"]

TINY = """
defaults: [base]
name: tiny
machines: {development: [fan], evaluation: [Arm, saw, Motor]}
unlabeled: [fan, Motor]
records: {development: 1, evaluation_train: 2, evaluation_test: 3}
"""
# Arm without _test_, like RoboticArm 2024; saw begins at 0001 and is not balanced; Motor hides its
# attributes
LIST = """Arm
section_00_0000.wav,section_00_source_normal_0007_weight15_BckgF.wav
section_00_0001.wav,section_00_target_anomaly_0000_weight35_BckgE.wav
section_00_0002.wav,section_00_source_anomaly_0001_weight20_BckgC.wav
saw
section_00_0003.wav,section_00_source_test_normal_0003_vel_1.wav
section_00_0001.wav,section_00_source_test_normal_0001_vel_1.wav
section_00_0002.wav,section_00_target_test_anomaly_0002_vel_2.wav
Motor
section_00_0000.wav,section_00_source_test_normal_0001_noAttribute.wav
section_00_0001.wav,section_00_target_test_anomaly_0000_noAttribute.wav
""".replace("\n", "\r\n")
ATTRIBUTES = [
    "fan/attributes_00_train",
    "Motor/attributes_00_train",
    "Motor/attributes_00_test",
]  # no test list of fan


def pairs(machine: str) -> list[tuple[str, str]]:
    """(bare, published) of LIST."""
    block = LIST.split(f"{machine}\r\n")[1]
    return [tuple(line.split(",")) for line in re.match(r"(section.*\r\n)+", block)[0].split()]


def make_tree(data_dir: Path, dataset: str, bare: dict[str, list[str]]) -> Path:
    """A tiny clip of its own content for every name; development machines have one training
    clip."""
    raw = data_dir / dataset / "all/raw"
    for machine, names in bare.items():
        (raw / machine / "test").mkdir(parents=True)
        (raw / machine / "train").mkdir()
        (raw / machine / "train/section_00_source_train_normal_0000_a.wav").write_bytes(
            machine.encode()
        )
        (raw / machine / "attributes_00.csv").write_text("x")
        for name in names:
            (raw / machine / "test" / name).write_bytes(f"{machine} {name}".encode())
    return raw


@pytest.fixture
def data_dir(tmp_path, monkeypatch) -> Path:
    config = tmp_path / "config"
    config.mkdir()
    (config / "tiny.yaml").write_text(TINY)
    shutil.copy(dataset_facts.CONFIG / "base.yaml", config)
    monkeypatch.setattr(dataset_facts, "CONFIG", config)
    given = tmp_path / "given"
    for name in [f"dev_data/{ATTRIBUTES[0]}", *(f"eval_data/{name}" for name in ATTRIBUTES[1:])]:
        file = given / f"attributes_tiny/{name}_correspondence.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"source_file_name,target_file_name\r\n{name}")
    (given / "eval_data_list_tiny.csv").write_bytes(LIST.encode())
    bare = {machine: [name for name, _ in pairs(machine)] for machine in ("Arm", "saw", "Motor")}
    make_tree(
        tmp_path / "data",
        "tiny",
        {**bare, "fan": ["section_00_source_test_normal_0000_noAttribute.wav"]},
    )
    return tmp_path / "data"


def all_files(data_dir: Path) -> dict[str, bytes]:
    """But locks, and trees of links."""
    return {
        path: content
        for path, content in files_below(data_dir).items()
        if ".lock." not in path and not path.startswith("with_ground_truth/")
    }


def raw(data_dir: Path) -> Path:
    return data_dir / "tiny/all/raw"


def add(data_dir: Path, *options: str) -> None:
    add_gt_info.main(
        [str(data_dir), "tiny", "--ground-truth", str(data_dir.parent / "given"), *options]
    )


def named(before: dict[str, bytes]) -> dict[str, bytes]:
    """What LIST makes of the files below raw/."""
    new = {
        f"{machine}/test/{bare}": f"{machine}/test/{named_by(published)}"
        for machine in ("Arm", "saw", "Motor")
        for bare, published in pairs(machine)
    }
    return {new.get(path, path): content for path, content in before.items()}


def test_rename_undo_rename(data_dir, capsys):
    bare = files_below(raw(data_dir))
    wanted = named(bare)
    assert "Arm/test/section_00_source_test_normal_0007_weight15_BckgF.wav" in wanted
    for _ in range(2):
        add(data_dir)
        assert files_below(raw(data_dir)) == wanted
        add(data_dir)  # nothing more
        assert files_below(raw(data_dir)) == wanted
        add(data_dir, "--undo")
        assert files_below(raw(data_dir)) == bare
        add(data_dir, "--undo")
        assert files_below(raw(data_dir)) == bare
    printed = capsys.readouterr().out
    assert "saw: 3 of 3 clips renamed" in printed
    assert "saw: all 3 clips already have these names" in printed
    assert "saw: 3 of 3 clips undone" in printed
    assert "nothing to undo" in printed


def test_names_are_those_that_the_experiments_read(data_dir):
    add(data_dir)
    table = index_clips(raw(data_dir), ["Arm", "saw", "Motor"])
    test = table[table.split == "test"]
    assert len(test) == 8
    assert (test.condition == "anomaly").sum() == 4


def test_journal_and_true_attributes(data_dir):
    add(data_dir)
    kept, name = data_dir / "tiny/ground_truth", "section_00_source_test_normal_0003_vel_1.wav"
    assert (kept / "saw/renamed.csv").read_text().splitlines()[:2] == [
        "bare,published,named,bytes",
        f"section_00_0003.wav,{name},{name},23",
    ]
    attributes = {f"{name}_correspondence.csv" for name in ATTRIBUTES}
    assert set(files_below(kept, "**/att*")) == attributes
    assert (kept / "eval_data_list_tiny.csv").read_bytes() == LIST.encode()
    times = {path: path.stat().st_mtime_ns for path in kept.rglob("*.csv")}
    add_gt_info.main([str(data_dir), "tiny"])  # nothing is asked for again
    assert times == {path: path.stat().st_mtime_ns for path in kept.rglob("*.csv")}


def test_dry_run_changes_nothing(data_dir, capsys):
    before = files_below(data_dir)
    add(data_dir, "--dry-run")
    add(data_dir, "--dry-run", "--mode", "symlink")
    assert files_below(data_dir) == before
    assert "saw: 3 of 3 clips would be renamed, section_00_0003.wav -> " in capsys.readouterr().out


def test_one_machine(data_dir):
    add(data_dir, "--machines", "saw")
    assert sorted(p.parts[-2] for p in (data_dir / "tiny/ground_truth").glob("*/renamed.csv")) == [
        "saw"
    ]
    add(data_dir)
    assert len(list((data_dir / "tiny/ground_truth").glob("*/renamed.csv"))) == 3


def clip(data_dir: Path, name: str = "section_00_0001.wav") -> Path:
    return raw(data_dir) / "saw/test" / name


OTHER = "section_00_source_test_normal_0001_other.wav"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda d: clip(d).unlink(),
            r"1 of 3 clips are missing \(section_00_0001\.wav\); nothing was renamed",
        ),
        (
            lambda d: clip(d, "section_00_0009.wav").touch(),
            r"1 files have names .* not in the list \(section_00_0009",
        ),
        (
            lambda d: clip(d, "x.flac").touch(),
            r"1 files have names that are not in the list \(x\.flac\)",
        ),
        (
            lambda d: clip(d).rename(clip(d, OTHER)),
            rf"1 of 3 clips are missing .* not in the list \({OTHER}\)",
        ),
        (
            lambda d: clip(d, "section_00_source_test_normal_0001_vel_1.wav").touch(),
            r"under two names \(sec",
        ),
        (
            lambda d: shutil.rmtree(clip(d).parent),
            r"saw/test: no such folder \(--machines selects those",
        ),
        (
            lambda d: shutil.rmtree(raw(d)),
            r"tiny/all/raw: no such folder; preprocess/download\.sh makes it",
        ),
        (
            lambda d: (d.parent / "given/eval_data_list_tiny.csv").unlink(),
            r"eval_data_list_tiny\.csv: no such file",
        ),
    ],
)
def test_what_does_not_fit_is_refused(data_dir, spoil, message):
    spoil(data_dir)
    before = files_below(data_dir)
    with pytest.raises(InputError, match=message) as error:
        add(data_dir)
    assert "\n" not in str(error.value)
    assert all_files(data_dir) == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "section_00_0000.wav,section_00_source_test_normal_0009_vel_1.wav\nsection_00_0000.wav,"
            "section_00_source_test_normal_0008_vel_1.wav",
            r"saw: section_00_0000\.wav occurs twice",
        ),
        (
            "section_00_0000.wav,../evil.wav",
            r"line 2: section_00_0000\.wav,\.\./evil\.wav: expected",
        ),
        ("section_00_0000.wav,x/section_00_source_test_normal_0009_vel_1.wav", r"line 2: "),
        ("../section_00_0000.wav,section_00_source_test_normal_0009_vel_1.wav", r"line 2: "),
        ("section_00_0000.wav,section_00_source_train_normal_0009_vel_1.wav", r"line 2: "),
    ],
)
def test_lists_that_cannot_be(line, message):
    with pytest.raises(InputError, match=message):
        read_lists(f"saw\n{line}\n", "list.csv")


def test_a_list_without_a_machine(data_dir):
    file = data_dir.parent / "given/eval_data_list_tiny.csv"
    file.write_text(file.read_text().replace("saw", "jigsaw"))
    with pytest.raises(InputError, match=r"eval_data_list_tiny\.csv: no clips of saw in it"):
        add(data_dir)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda d, j: clip(d, "section_00_source_test_normal_0001_vel_1.wav").write_bytes(b"x"),
            r"0001_vel_1\.wav: 1 bytes, but \S+renamed\.csv recorded 23: another file",
        ),
        (lambda d, j: j.write_text(j.read_text()[:-9]), r"renamed\.csv: damaged"),
        (lambda d, j: j.write_text(""), r"renamed\.csv: damaged"),
        (
            lambda d, j: j.write_text(j.read_text().replace("0001_vel", "0001_lev")),
            r"this journal is of another list",
        ),
    ],
)
@pytest.mark.parametrize("options", [[], ["--undo"]], ids=["again", "undo"])
def test_the_journal_is_verified(data_dir, spoil, message, options):
    add(data_dir)
    spoil(data_dir, data_dir / "tiny/ground_truth/saw/renamed.csv")
    before = files_below(raw(data_dir))
    if options:  # which looks at the journal alone
        message = message.replace("this journal is of another list", "1 of 3 clips are missing")
    with pytest.raises(InputError, match=message):
        add(data_dir, *options)
    assert files_below(raw(data_dir)) == before


def test_names_of_other_tools_are_taken_up(data_dir):
    """Renamed in part, with the names as published (without _test_), and without a journal."""
    bare = files_below(raw(data_dir))
    for old, new in pairs("Arm")[:2]:
        (raw(data_dir) / "Arm/test" / old).rename(raw(data_dir) / "Arm/test" / new)
    add(data_dir)
    assert files_below(raw(data_dir)) == named(bare)
    for machine in ("Arm", "saw", "Motor"):
        (data_dir / f"tiny/ground_truth/{machine}/renamed.csv").unlink()
    add(data_dir)
    add(data_dir, "--undo")
    assert files_below(raw(data_dir)) == bare


TRUE = [
    "section_00_source_test_normal_0001_spd_7.wav",
    "section_00_target_test_anomaly_0000_spd_9.wav",
]


def give_true_names(data_dir: Path) -> Path:
    """Motor's clips as the authors' code names those of hidden machines -> its folder."""
    folder = raw(data_dir) / "Motor/test"
    for (bare, _), name in zip(pairs("Motor"), TRUE, strict=True):
        (folder / bare).rename(folder / name)
    return folder


def test_names_with_the_true_attribute_are_taken_up(data_dir):
    bare = files_below(raw(data_dir))
    folder = give_true_names(data_dir)
    add(data_dir, "--dry-run")
    assert sorted(file.name for file in folder.iterdir()) == sorted(TRUE)
    add(data_dir)
    assert files_below(raw(data_dir)) == named(bare)
    for (name, _), published in zip(pairs("Motor"), TRUE, strict=True):
        (folder / f"{published.rpartition('_spd')[0]}_noAttribute.wav").rename(folder / published)
        assert name in (data_dir / "tiny/ground_truth/Motor/renamed.csv").read_text()
    add(data_dir, "--undo")  # by the journal, whatever tool has named them since
    assert files_below(raw(data_dir)) == bare


def test_a_true_attribute_that_is_ambiguous(data_dir):
    folder = give_true_names(data_dir)
    (folder / TRUE[0].replace("spd_7", "spd_8")).touch()
    with pytest.raises(InputError, match="a clip exists under two names"):
        add(data_dir)
    (folder / TRUE[0].replace("spd_7", "spd_8")).unlink()
    (folder / TRUE[0]).rename(folder / TRUE[0].replace("_0001_", "_0002_"))  # another index
    with pytest.raises(InputError, match=r"1 of 2 clips are missing .*; 1 files have names"):
        add(data_dir)


def test_other_attributes_are_taken_up_of_hidden_ones_alone(data_dir):
    file = raw(data_dir) / "saw/test/section_00_0001.wav"
    file.rename(file.with_name("section_00_source_test_normal_0001_vel_9.wav"))
    with pytest.raises(InputError, match=r"1 of 3 clips are missing \(section_00_0001"):
        add(data_dir)


def test_links_to_names_with_the_true_attribute(data_dir):
    """The journal is next to the links, so that a submission finds the bare names."""
    folder = give_true_names(data_dir)
    add(data_dir, "--mode", "symlink")
    tree = data_dir / "with_ground_truth/tiny"
    link = tree / "all/raw/Motor/test/section_00_source_test_normal_0001_noAttribute.wav"
    assert link.resolve() == folder / TRUE[0]
    journal = tree / "ground_truth/Motor/renamed.csv"
    assert journal.read_text().splitlines()[1].startswith(f"section_00_0000.wav,{link.name},")
    add(data_dir, "--mode", "symlink", "--undo")
    assert not journal.exists()


def test_one_process_at_a_time(data_dir):
    with locked(data_dir / "tiny", data_dir / "tiny" / ".lock"), pytest.raises(RunLocked):
        add(data_dir)


# Runs main in a child process again and again; the child kills itself before its n-th change of
# the file system.
KILLER = """
import json, os, signal, sys
from pathlib import Path
import add_gt_info
from settings import datasets as dataset_facts
config, root, given, points, *datasets = sys.argv[1:]
dataset_facts.CONFIG = Path(config)
dataset_facts.dataset_names()  # read once, not in every child

def call(*options, die_at=None):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    seen = 0
    def count(event, arguments):
        nonlocal seen
        opened = event == "open" and arguments[2] & os.O_ACCMODE
        if event in ("os.rename", "os.remove", "os.mkdir") or opened:
            seen += 1
            if seen == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    stdout, sys.stdout = sys.stdout, open(os.devnull, "w")
    add_gt_info.main([root, *datasets, "--ground-truth", given, *options])
    if die_at is None:
        print(seen, file=stdout, flush=True)
    os._exit(0)

def clips():
    return {str(path): path.read_bytes() for path in Path(root).glob("*/all/raw/*/test/*")}

bare = clips()
assert call() == 0
named = clips()
assert call("--undo") == 0 and clips() == bare
for turn, n in enumerate(json.loads(points)):
    both = ((), named, ("--undo",), bare), (("--undo",), bare, (), named)
    for options, wanted, other, before in both:
        status = call(*options, die_at=n)
        assert status == signal.SIGKILL, (n, options, status)
        now = clips()
        assert len(now) == len(bare), "a clip is lost"
        assert sorted(now.values()) == sorted(bare.values()), "a clip is lost"
        if turn % 2:  # change one's mind
            assert call(*other) == 0 and clips() == before, (n, options)
        assert call(*options) == 0 and clips() == wanted, (n, options)
"""


def kill_everywhere(data_dir: Path, given: Path, points: list[int], *datasets: str) -> list[int]:
    """-> the number of changes of each call that was not killed: rename, undo, ..."""
    path = os.pathsep.join(str(ROOT / folder) for folder in ("src", "preprocess"))
    command = [
        sys.executable,
        "-c",
        KILLER,
        dataset_facts.CONFIG,
        data_dir,
        given,
        str(points),
        *datasets,
    ]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.split()]


def test_killed_at_every_moment(data_dir):
    """Before every single change of the file system: SIGKILL, then the same call, or first the
    opposite one."""
    changes = kill_everywhere(data_dir, data_dir.parent / "given", [], "tiny")
    assert (
        changes[0] > changes[1] >= 8 + 3
    )  # the undo has 8 clips to rename and 3 journals to remove
    shutil.rmtree(data_dir / "tiny/ground_truth")
    kill_everywhere(data_dir, data_dir.parent / "given", list(range(2, changes[1] + 1)), "tiny")


def official_names(year: str) -> dict[str, dict[str, str]]:
    """Machine -> bare name -> name as published, read without the project's code."""
    lists, rows = {}, {}
    for cells in csv.reader((OFFICIAL / f"eval_data_list_{year}.csv").open()):
        if len(cells) == 1:
            rows = lists.setdefault(cells[0], {})
        else:
            rows[cells[0]] = cells[1]
    return lists


@pytest.fixture
def official_tree(tmp_path) -> Path:
    for dataset in OFFICIAL_DATASETS:
        lists = official_names(dataset[-4:])
        machines = dataset_facts.load_dataset(dataset).machines
        bare = {machine: list(lists[machine]) for machine in machines.evaluation}
        make_tree(
            tmp_path / "data", dataset, bare | {machine: [] for machine in machines.development}
        )
    return tmp_path / "data"


@needs_official
def test_official_machines(official_tree):
    bare = files_below(official_tree)
    arguments = [str(official_tree), "--ground-truth", str(OFFICIAL)]
    for _ in range(2):
        add_gt_info.main(arguments)
        there = files_below(official_tree, "*/all/raw/**/*")
        assert sorted(there.values()) == sorted(bare.values())
        for dataset in OFFICIAL_DATASETS:
            facts, lists = dataset_facts.load_dataset(dataset), official_names(dataset[-4:])
            assert set(facts.machines.evaluation) == set(lists)
            table = index_clips(
                official_tree / dataset / "all/raw", list(facts.machines.evaluation)
            )
            for machine in facts.machines.evaluation:
                conditions = table.condition[(table.split == "test") & (table.machine == machine)]
                counts = {
                    f"test_{condition}": n for condition, n in conditions.value_counts().items()
                }
                assert counts.items() <= dataset_facts.expected_clips(facts, machine).items()
                for name, published in lists[machine].items():
                    now = (
                        published
                        if "_test_" in published
                        else re.sub("_(normal|anomaly)_", r"_test_\1_", published)
                    )
                    assert (
                        there[f"{dataset}/all/raw/{machine}/test/{now}"]
                        == f"{machine} {name}".encode()
                    )
            for machine in facts.unlabeled:
                file = (
                    official_tree
                    / dataset
                    / "ground_truth"
                    / ground_truth.attribute_file(machine, "train")
                )
                assert len(file.read_text().splitlines()) == 1001
        add_gt_info.main([*arguments, "--undo"])
        assert files_below(official_tree, "*/all/raw/**/*") == bare


@needs_official
def test_official_names_with_true_attributes(official_tree):
    """The three machines of 2024 that the authors' code names by their attributes."""
    raw_2024 = official_tree / "dcase2024/all/raw"
    bare = files_below(raw_2024)
    lists = official_names("2024")
    for machine in ("AirCompressor", "HoveringDrone", "ToothBrush"):
        file = f"attributes_dcase2024/eval_data/{machine}/attributes_00_test_correspondence.csv"
        rows = list(csv.DictReader((OFFICIAL / file).open()))
        true = {row["target_file_name"]: row["source_file_name"] for row in rows}
        assert len(true) == 200
        for name, published in lists[machine].items():
            (raw_2024 / machine / "test" / name).rename(
                raw_2024 / machine / "test" / true[published]
            )
    arguments = [str(official_tree), "dcase2024", "--ground-truth", str(OFFICIAL)]
    add_gt_info.main(arguments)
    found = files_below(raw_2024)
    for machine in ("AirCompressor", "HoveringDrone", "ToothBrush"):
        for name, published in lists[machine].items():
            assert found[f"{machine}/test/{published}"] == f"{machine} {name}".encode()
    add_gt_info.main([*arguments, "--undo"])
    assert files_below(raw_2024) == bare


@needs_official
@pytest.mark.slow
def test_official_machines_killed_at_20_moments(official_tree):
    moments = random.sample(range(2, 4800), 20)
    print(moments)  # shown if it fails
    changes = kill_everywhere(official_tree, OFFICIAL, moments, *OFFICIAL_DATASETS)
    assert min(changes[:2]) >= 4800


@needs_official
@pytest.mark.parametrize("dataset", ["dcase2023", "dcase2024"])
def test_the_list_of_a_year_says_what_the_lists_of_its_machines_say(dataset):
    """So that one file of one form is enough for each year."""
    for machine, names in official_names(dataset[-4:]).items():
        lines = (
            (OFFICIAL / dataset / f"ground_truth_{machine}_section_00_test.csv")
            .read_text()
            .splitlines()
        )
        assert {line.split(",")[0]: line.split(",")[1] + ".wav" for line in lines} == names


@needs_official
def test_official_checksums():
    """Every official file that the project uses is fetched, verified."""
    places = {f"datasets/{file.name}": file for file in OFFICIAL.glob("eval_data_list_202?.csv")}
    for year in ("2024", "2025"):
        folder = OFFICIAL / f"attributes_dcase{year}"
        place = f"datasets/ground_truth_attributes/dcase{year}t2"
        places |= {
            f"{place}/{file.relative_to(folder).as_posix()}": file for file in folder.rglob("*.csv")
        }
    sums = {path: hashlib.sha256(file.read_bytes()).hexdigest() for path, file in places.items()}
    assert ground_truth.checksums() == sums


@pytest.fixture
def publisher(data_dir, monkeypatch):
    """The lists of `given` on a server, in the publisher's places, with their checksums; yields
    server and folder."""
    given = data_dir.parent / "given"
    content = {"datasets/eval_data_list_tiny.csv": (given / "eval_data_list_tiny.csv").read_bytes()}
    content |= {
        f"datasets/ground_truth_attributes/tinyt2/{name}": text
        for name, text in files_below(given / "attributes_tiny").items()
    }
    table = data_dir.parent / "ground_truth.yaml"
    sums = "".join(
        f"  {path}: {hashlib.sha256(text).hexdigest()}\n" for path, text in content.items()
    )
    table.write_text(f"publisher: https://nowhere.invalid\nrevision: r1\nsha256:\n{sums}")
    monkeypatch.setattr(ground_truth, "PUBLISHED", table)
    monkeypatch.setattr(fetching, "WAIT_S", 0.001)
    monkeypatch.setenv("no_proxy", "*")
    for server in run_local_server():
        monkeypatch.setenv("GROUND_TRUTH_URL", f"{server.url}/repository/")
        server.files |= {f"/repository/r1/{path}": text for path, text in content.items()}
        yield server


def test_fetched_from_the_publisher(data_dir, publisher):
    bare = files_below(raw(data_dir))
    publisher.drops["/repository/r1/datasets/eval_data_list_tiny.csv"] = [100]
    add_gt_info.main([str(data_dir)])  # every dataset there that has ground truth
    assert files_below(raw(data_dir)) == named(bare)
    assert len(files_below(data_dir / "tiny/ground_truth", "**/attributes*")) == 3
    publisher.asked.clear()
    add_gt_info.main([str(data_dir)])
    add_gt_info.main([str(data_dir), "--undo"])
    assert publisher.asked == []
    assert files_below(raw(data_dir)) == bare


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        (
            "eval_data_list_tiny.csv",
            b"x",
            r"eval_data_list_tiny\.csv: its SHA-256 is \w+, expected \w+; nothing was kept",
        ),
        ("eval_data_list_tiny.csv", None, r"eval_data_list_tiny\.csv: the server answers 404"),
        (
            f"ground_truth_attributes/tinyt2/dev_data/{ATTRIBUTES[0]}_correspondence.csv",
            b"x",
            r"train_corresp.*SHA-256",
        ),
    ],
)
def test_a_publisher_with_other_files(data_dir, publisher, path, content, message):
    before = files_below(data_dir)
    if content is None:
        del publisher.files[f"/repository/r1/datasets/{path}"]
    else:
        publisher.files[f"/repository/r1/datasets/{path}"] = content
    with pytest.raises(InputError, match=message):
        add_gt_info.main([str(data_dir), "tiny"])
    assert all_files(data_dir) == before


@pytest.fixture
def no_network(data_dir, publisher, monkeypatch):
    """A publisher that nobody reaches."""
    publisher.server_close()
    monkeypatch.setattr(ground_truth, "ATTEMPTS", 1)


def test_without_a_network_the_error_says_where_lists_may_come_from(data_dir, no_network):
    before = files_below(data_dir)
    with pytest.raises(InputError) as error:
        add_gt_info.main([str(data_dir), "tiny"])
    assert "Connection refused, 6 times; without a network: --ground-truth DIR " in str(error.value)
    assert "reads DIR/eval_data_list_tiny.csv" in str(error.value)
    assert all_files(data_dir) == before


@pytest.mark.parametrize("mode", [[], ["--mode", "symlink"]])
def test_lists_that_were_given_once_do_without_a_network(data_dir, no_network, capsys, mode):
    """Also where true attributes were not given; the names do not need them."""
    bare = files_below(raw(data_dir))
    shutil.rmtree(data_dir.parent / "given/attributes_tiny")
    add(data_dir)
    add(data_dir, "--undo")
    (data_dir.parent / "given/eval_data_list_tiny.csv").unlink()
    assert capsys.readouterr().err == ""
    add_gt_info.main([str(data_dir), "tiny", *mode])
    tree = data_dir / "with_ground_truth/tiny/all/raw" if mode else raw(data_dir)
    found = {path for path in files_below(tree) if "/test/" in path and "fan" not in path}
    assert found == {path for path in named(bare) if "/test/" in path and "fan" not in path}
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert "Connection refused, 1 times; true attributes are missing, which the pseudo" in warning


def test_true_attributes_that_were_given_once(data_dir, no_network, capsys):
    add(data_dir)
    add_gt_info.main([str(data_dir), "tiny"])
    assert capsys.readouterr().err == ""


def test_a_clone_of_the_publisher_is_ground_truth_too(data_dir):
    given = data_dir.parent / "given"
    (given / "ground_truth_attributes").mkdir()
    (given / "attributes_tiny").rename(given / "ground_truth_attributes/tinyt2")
    add(data_dir)
    assert len(files_below(data_dir / "tiny/ground_truth", "**/attributes*")) == 3


def test_symlink_mode(data_dir, capsys):
    before = files_below(data_dir)
    add(data_dir, "--mode", "symlink")
    tree = data_dir / "with_ground_truth"
    assert f"use DATA_DIR={tree}" in capsys.readouterr().out
    wanted = named(files_below(raw(data_dir)))
    table = index_clips(tree / "tiny/all/raw", ["fan", "Arm", "saw", "Motor"])
    assert {path: (tree / "tiny/all/raw" / path).read_bytes() for path in table.path} == {
        path: content for path, content in wanted.items() if path.endswith(".wav")
    }
    assert (tree / "tiny/all/raw/fan").is_symlink()
    assert (tree / "tiny/all/raw/saw/attributes_00.csv").is_symlink()
    assert len(files_below(tree / "tiny/ground_truth")) == 4 + 3  # lists and journals
    assert all_files(data_dir) == before
    inode = (tree / "tiny/all/raw").stat().st_ino
    add(data_dir, "--mode", "symlink")
    assert (tree / "tiny/all/raw").stat().st_ino == inode
    (tree / "tiny/all/raw/saw/train").unlink()
    add(data_dir, "--mode", "symlink")
    assert (tree / "tiny/all/raw/saw/train").is_dir()
    with pytest.raises(
        InputError,
        match=r"with_ground_truth/tiny/all/raw: links to the clips by their present names",
    ):
        add(data_dir)
    data_dir.rename(data_dir.with_name("moved"))  # links inside a data folder are relative
    data_dir = data_dir.with_name("moved")
    assert all(path.exists() for path in data_dir.rglob("*"))
    add(data_dir, "--mode", "symlink", "--undo")
    add(data_dir, "--mode", "symlink", "--undo")
    assert not (data_dir / "with_ground_truth/tiny/all/raw").exists()
    assert all_files(data_dir) == before
    add(data_dir)


def test_links_elsewhere_for_data_that_is_read_only(data_dir, tmp_path):
    links = tmp_path / "links"
    folders = [data_dir, *(path for path in data_dir.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    add(data_dir, "--mode", "symlink", "--links", str(links))
    for folder in folders:
        folder.chmod(0o755)
    assert len(list((links / "tiny/all/raw/saw/test").iterdir())) == 3
    (links / "tiny/all/raw/saw/test/new.wav").touch()
    for options in ([], ["--undo"]):
        with pytest.raises(InputError, match=r"new\.wav: a file, not a link"):
            add(data_dir, "--mode", "symlink", "--links", str(links), *options)


def test_arguments(data_dir):
    with pytest.raises(InputError, match="dataset nothing: unknown"):
        add_gt_info.main([str(data_dir), "nothing"])
    with pytest.raises(InputError, match="--machines pump: unknown; allowed are fan Arm saw"):
        add(data_dir, "--machines", "pump")


def test_a_dataset_without_known_ground_truth(tmp_path):
    (tmp_path / "dcase2026/all/raw").mkdir(parents=True)
    with pytest.raises(
        InputError,
        match=r"dcase2026: no published ground truth is known; .*eval_data_list_2026\.csv",
    ):
        add_gt_info.main([str(tmp_path), "dcase2026"])
    with pytest.raises(InputError, match=r"none of dcase2020 .* in it that has ground truth"):
        add_gt_info.main([str(tmp_path)])


@needs_official
def test_the_script(official_tree, tmp_path):
    """From any folder, with data_dir in the environment or at the top of the script."""
    checkout = tmp_path / "a checkout"
    (checkout / "preprocess").mkdir(parents=True)
    (checkout / "jobs").symlink_to(ROOT / "jobs")
    (checkout / "src").symlink_to(ROOT / "src")
    for file in (ROOT / "preprocess").glob("*.py"):
        (checkout / "preprocess" / file.name).symlink_to(file)
    script = checkout / "preprocess/add_gt_info.sh"
    text = (ROOT / "preprocess/add_gt_info.sh").read_text()
    script.write_text(
        re.sub(r"^data_dir=.*", f"data_dir={official_tree}", text, flags=re.MULTILINE)
    )
    script.chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if name != "DATA_DIR"}
    clean["PATH"] = f"{Path(sys.executable).parent}:{clean['PATH']}"

    def run(script, *arguments, **environment):
        return subprocess.run(
            [script, *arguments],
            env=clean | environment,
            cwd=checkout / "preprocess",
            capture_output=True,
            text=True,
            check=False,
        )

    done = run("./add_gt_info.sh", "dcase2023", "--ground-truth", OFFICIAL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("200 of 200 clips renamed") == 7
    done = run(ROOT / "preprocess/add_gt_info.sh", "--undo", "dcase2023", DATA_DIR="../../data")
    assert done.stdout.count("200 of 200 clips undone") == 7
    done = run(ROOT / "preprocess/add_gt_info.sh")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "set data_dir in it, or export DATA_DIR" in done.stderr
    done = run(script, DATA_DIR="/nowhere")
    assert (done.returncode, done.stderr) == (1, "error: data_dir /nowhere: no such folder\n")
