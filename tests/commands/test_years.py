"""The challenges of 2020 to 2022: names, several sections in a folder, official scores."""

import csv
import io
import shutil
import zipfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from local_server import run_local_server
from omegaconf import DictConfig, OmegaConf
from scipy.stats import hmean
from sklearn.metrics import roc_auc_score
from test_download import Zenodo

import add_gt_info
import check_data
import download
import report
import submit
import train
from conftest import SHARED, call, tiny, write_wav
from renaming import read_lists
from settings import datasets as dataset_facts
from unlabeledasd.audio.clip_names import parse_clip
from unlabeledasd.errors import InputError
from unlabeledasd.metrics import OFFICIAL_OF
from unlabeledasd.pseudo.label_file import unlabeled_machines
from unlabeledasd.results import find_csv, read_metrics
from unlabeledasd.runs.folder import Run
from unpacking import merge

OFFICIAL = SHARED / "data/ground_truth"
needs_official = pytest.mark.skipif(not OFFICIAL.is_dir(), reason=f"no official lists: {OFFICIAL}")
YEARS = (2020, 2021, 2022)
TRAIN = {"train_source": 4, "train_target": 1}
CLIPS = [(c, d) for c in ("normal", "anomaly") for d in ("source", "target") for _ in range(3)]


def names(year: int, section: int, split: str) -> list[tuple[str, str]]:
    """(name in the archive of an evaluation set, name with ground truth) of a section's clips."""
    found = []
    clips = [("normal", "source")] * 4 + [("normal", "target")] if split == "train" else CLIPS
    for i, (condition, domain) in enumerate(clips):
        if year == 2020:
            full, bare = f"{condition}_id_{section:02}_{i:08}", f"id_{section:02}_{i:08}"
        elif year == 2021 and split == "test":
            index = f"{sum(d == domain for _, d in clips[:i]):04}"
            full = f"section_{section:02}_{domain}_test_{condition}_{i:04}"
            bare = f"section_{section:02}_{domain}_test_{index}"
        else:
            full = f"section_{section:02}_{domain}_{split}_{condition}_{i:04}_A1"
            bare = f"section_{section:02}_{i:04}"
        found.append((f"{full if split == 'train' else bare}.wav", f"{full}.wav"))
    return found


def archive(year: int, section: int, splits: dict[str, bool], folder: Path) -> bytes:
    """A zip of fan's clips as published; splits: whether ground truth is in the names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for split, is_known in splits.items():
            for i, (bare, full) in enumerate(names(year, section, split)):
                domain = "target" if "target" in full else "source"
                place = f"{domain}_test" if year == 2021 and split == "test" else split
                name = full if is_known else bare
                hz = 300 * (1 + section) * (1.3 if "anomaly" in full else 1)
                wav = write_wav(folder / "x.wav", hz=hz, seed=1000 * section + 100 * len(split) + i)
                file.write(wav, f"fan/{place}/{name}")
    return buffer.getvalue()


@pytest.fixture(params=YEARS)
def of_year(request, tmp_path, monkeypatch):
    """(year, data folder): fan with the sections 0 and 1, downloaded, with ground truth."""
    year = request.param
    facts = dataset_facts.load_dataset(f"dcase{year}")
    config = tmp_path / "config"
    config.mkdir()
    shutil.copy(dataset_facts.CONFIG / "base.yaml", config)
    text = (dataset_facts.CONFIG / f"dcase{year}.yaml").read_text().partition("\nclips_of:")[0]
    lines = [line for line in text.splitlines() if not line.startswith(("clips:", "  "))]
    own = ["machines: {development: [fan], evaluation: [fan]}", "sections_of: {}"]
    own += ["sections: {development: [0], evaluation: [1]}"]
    lines = [x for x in lines if not x.startswith(("machines:", "sections", "archives:", "unl"))]
    train = {"train_source": 5, "train_target": 0} if year == 2020 else TRAIN
    own += [f"archives: {dict(facts.archives)}"]
    own += [f"clips: {train | {'test_normal': 6, 'test_anomaly': 6}}"]
    (config / f"dcase{year}.yaml").write_text("\n".join([*lines, *own]) + "\n")
    monkeypatch.setattr(dataset_facts, "CONFIG", config)
    records = dict(facts.records)
    contents = {
        "development": archive(year, 0, {"train": True, "test": True}, tmp_path),
        "evaluation_train": archive(year, 1, {"train": True}, tmp_path),
        "evaluation_test": archive(year, 1, {"test": False}, tmp_path),
    }
    for server in run_local_server():
        monkeypatch.setenv("ZENODO_URL", server.url)
        monkeypatch.setenv("no_proxy", "*")
        for kind, content in contents.items():
            name = f"{facts.archives[kind].format('fan')}.zip"
            zenodo = SimpleNamespace(server=server, records={}, record=lambda _, k=kind: records[k])
            zenodo.path = lambda n, z=zenodo: Zenodo.path(z, n)
            Zenodo.put(zenodo, name, content)
        download.main([str(tmp_path / "data"), f"dcase{year}"])
    return year, tmp_path / "data"


def add_ground_truth(year: int, data_dir: Path, *options: str) -> None:
    lines = ["fan"]
    for bare, full in names(year, 1, "test"):
        lines.append(f"{bare},{full}" + f",{int('anomaly' in full)}" * (year == 2020))
    file = data_dir.parent / f"eval_data_list_{year}.csv"
    file.write_text("\n".join(lines) + "\n")
    given = ["--ground-truth", str(data_dir.parent)]
    add_gt_info.main([str(data_dir), f"dcase{year}", *given, *options])


def official(year: int, scores: pd.DataFrame) -> list[float]:
    """The values that the year's score is a mean of, by scikit-learn."""
    anomaly, target = scores.is_normal == 0, scores.is_target == 1
    values = []
    for domain in {2020: [None], 2021: [0, 1], 2022: [0, 1]}[year]:
        normal = ~anomaly & ((target == domain) | (domain is None))
        against = anomaly & ((target == domain) | (year != 2021))
        rows = normal | against
        values.append(roc_auc_score(anomaly[rows], scores.iloc[:, -1][rows]))
        if year == 2021:
            values.append(roc_auc_score(anomaly[rows], scores.iloc[:, -1][rows], max_fpr=0.1))
    if year != 2021:
        values.append(roc_auc_score(anomaly, scores.iloc[:, -1], max_fpr=0.1))
    return values


def test_from_download_to_submission(of_year, tmp_path, monkeypatch, capsys):
    year, data_dir = of_year
    raw = data_dir / f"dcase{year}/all/raw/fan"
    both = [*names(year, 0, "test"), *names(year, 1, "test")]
    wanted = {full for _, full in both[:12]} | {bare for bare, _ in both[12:]}
    assert {p.name for p in raw.glob("test/*")} == wanted
    assert len(list(raw.glob("train/*"))) == 10
    archives = download.wanted_archives(data_dir, dataset_facts.load_dataset(f"dcase{year}"), None)
    assert all(archive.is_unpacked for archive in archives)
    half = raw / f".merging_{archives[2].stem}"  # what a call leaves that is killed while it merges
    half.mkdir()
    check_data.check(data_dir, f"dcase{year}")
    assert f"problem: {half}: unpacking was interrupted" in capsys.readouterr().out
    assert [archive.is_unpacked for archive in archives] == [True, True, False]
    half.rmdir()
    add_ground_truth(year, data_dir, "--mode", "symlink", "--machines", "fan")
    linked = data_dir / f"with_ground_truth/dcase{year}/all/raw/fan"
    assert {p.name for p in linked.glob("test/*")} == {full for _, full in both}
    assert {p.name for p in raw.glob("test/*")} == wanted
    add_ground_truth(year, data_dir, "--mode", "symlink", "--undo")
    assert not linked.exists()
    add_ground_truth(year, data_dir)
    assert {p.name for p in raw.glob("test/*")} == {full for _, full in both}
    assert check_data.check(data_dir, f"dcase{year}")
    wrong = sorted(raw.glob("train/*"))[0]
    wrong.rename(tmp_path / wrong.name)
    assert not check_data.check(data_dir, f"dcase{year}")
    assert "train source clips, expected" in capsys.readouterr().out
    (tmp_path / wrong.name).rename(wrong)

    results = tmp_path / "results"
    own = [f"dataset=dcase{year}", f"dataset.name=dcase{year}", "dataset.hide=[]"]
    for group, section in (("development", 0), ("evaluation", 1)):
        own += [f"dataset.machines.{group}=[fan]", f"dataset.sections.{group}=[{section}]"]
    arguments = [x for x in tiny(data_dir, results, *own) if x not in tiny(data_dir, results)[:2]]
    assert call(train, monkeypatch, *arguments) == 0
    run = Run(results / f"dcase{year}/na_1024_1")
    column = {2020: "mean_official_2020", 2021: "hmean_official_2021", 2022: "hmean_official"}[year]
    mean = np.mean if year == 2020 else hmean
    values = []
    for unit in ("fan_section_00", "fan_section_01"):
        file = find_csv(run, unit, "epoch_1_2", "test_score")
        values += (of_unit := official(year, pd.read_csv(file)))
        result = read_metrics(find_csv(run, unit, "epoch_1_2", "test_result"))
        assert result[column] == pytest.approx(mean(of_unit))
    printed = capsys.readouterr().out
    assert f"{mean(values):.4f}" in printed
    heads = printed[printed.index("machine   ") :].splitlines()[0].split()
    assert heads == ["machine", column, *OFFICIAL_OF[column]]

    grid = {"datasets": [f"dcase{year}"], "methods": ["na_1024"], "seeds": [1]}
    table = report.make_table(results, *grid.values(), "epoch_1_2")
    assert table["mean"][table.machines == "all"].item() == pytest.approx(mean(values))
    shutil.copytree(run.folder, run.folder.with_name("na_0256_1"))
    given = ["--datasets", f"dcase{year}", "--methods", "na_1024", "na_0256", "--seeds", "1"]
    given += ["--results-dir", results, "--version", "epoch_1_2", "--html"]
    given += ["--baseline", "na_1024", "--resample", "clips"]
    monkeypatch.setattr("sys.argv", ["report.py", *map(str, given)])
    report.main()
    assert "+0.00 [+0.00, +0.00]" in capsys.readouterr().out
    assert column in (results / "table.html").read_text()

    options = {"machines": None, "version": None, "threshold": "empirical", "quantile": 0.9}
    out = tmp_path / "out"
    submit.submit(SimpleNamespace(runs=[run.folder], out=out, data_dir=data_dir, **options))
    (file,) = out.glob("anomaly_score_*")
    assert file.name == "anomaly_score_fan_section_01_test.csv"
    with file.open() as lines:
        assert {name for name, _ in csv.reader(lines)} == {bare for bare, _ in both[12:]}

    add_ground_truth(year, data_dir, "--undo")
    assert {p.name for p in raw.glob("test/*")} == wanted


def tree(root: Path, year: int, sections: list[int]) -> None:
    """fan's clips of sections, empty files, with ground truth."""
    for split in ("train", "test"):
        (root / "fan" / split).mkdir(parents=True)
        for section in sections:
            for _, name in names(year, section, split):
                (root / "fan" / split / name).touch()


def facts_of_fan(year: int, **groups: list[int]) -> DictConfig:
    """The dataset with the machine fan alone; groups: the sections of those that it has."""
    machines = {group: ["fan"] * (group in groups) for group in ("development", "evaluation")}
    own = {"machines": machines, "sections": groups, "sections_of": {}}
    return OmegaConf.merge(dataset_facts.load_dataset(f"dcase{year}"), own)


@pytest.mark.parametrize("year", YEARS)
def test_the_sections_of_a_dataset_are_all_taken_and_no_others(year, tmp_path):
    tree(tmp_path, year, [0, 1])
    both = {"development": [0], "evaluation": [1]}
    table = dataset_facts.index_dataset(facts_of_fan(year, **both), tmp_path)
    assert set(table.machine) == {"fan_section_00", "fan_section_01"}
    notes: list[str] = []
    alone = facts_of_fan(year, development=[0])
    table = dataset_facts.index_dataset(alone, tmp_path, notes=notes)
    assert (set(table.machine), len(table)) == ({"fan_section_00"}, 17)
    assert "left out: 17 of other sections (fan/t" in notes[0]
    facts = facts_of_fan(year, development=[0], evaluation=[2])
    with pytest.raises(InputError, match=r"fan_section_02 has no clip in train/"):
        dataset_facts.index_dataset(facts, tmp_path)
    assert unlabeled_machines(table, ["fan"]) == ["fan_section_00"]


def test_a_clip_in_two_folders_of_2021(tmp_path):
    tree(tmp_path, 2021, [0])
    name = names(2021, 0, "test")[0][1]
    other = tmp_path / "fan/source_test"
    other.mkdir()
    (other / name).touch()
    with pytest.raises(InputError, match=rf"source_test/{name}: .*test/{name} is the same clip"):
        dataset_facts.index_dataset(facts_of_fan(2021, development=[0]), tmp_path)
    (tmp_path / "fan/test" / name).unlink()
    new = tmp_path / "new"
    tree(new, 2021, [0])
    merge(new / "fan", tmp_path / "fan", tmp_path / "fan/.merging_x")
    assert len(dataset_facts.index_dataset(facts_of_fan(2021, development=[0]), tmp_path)) == 17


def test_what_is_of_2021_alone():
    """Names and folders of 2021 mean nothing in other years, nor in own recordings."""
    name = "section_03_source_test_0003.wav"
    for place in ("fan/source_test", "/data/train/raw/fan/source_test", "fan/test"):
        clip = parse_clip(f"{place}/{name}", "dcase2021")
        assert (clip.machine, clip.split, clip.section, clip.domain) == (
            "fan",
            "test",
            "03",
            "source",
        )
    assert parse_clip(f"fan/test/{name}", "free").section == "00"
    for place in ("fan/test", "fan/source_test"):
        with pytest.raises(InputError):
            parse_clip(f"{place}/{name}", "dcase")


def test_the_dataset_of_a_run_from_before():
    """Its configuration has no sections: each folder is a machine."""
    old = OmegaConf.create({"machines": {"development": ["fan"], "evaluation": ["saw"]}})
    assert dataset_facts.units(old, "evaluation") == ["saw"]


def test_an_unknown_official_score_is_refused_before_training(tmp_path, monkeypatch, capsys):
    arguments = tiny(tmp_path, tmp_path / "results", "dataset.official=mean")
    assert call(train, monkeypatch, *arguments) != 0
    assert "dataset.official=mean: allowed are hmean_official" in capsys.readouterr().err


@needs_official
@pytest.mark.parametrize("year", YEARS)
def test_the_official_lists(year, tmp_path):
    """Every clip of every list fits the grammar, the renaming, and the counts of the yaml."""
    dataset = dataset_facts.load_dataset(f"dcase{year}")
    raw = dataset_facts.raw_folder(tmp_path, dataset)
    lists: dict[str, list[list[str]]] = {}
    for row in csv.reader((OFFICIAL / f"eval_data_list_{year}.csv").open()):
        if len(row) == 1:
            rows = lists.setdefault(row[0], [])
            (raw / row[0] / "test").mkdir(parents=True)
        else:
            rows.append(row)
            (raw / list(lists)[-1] / "test" / row[0]).touch()
    assert set(lists) == set(dataset.machines.evaluation)
    add_gt_info.main([str(tmp_path), f"dcase{year}", "--ground-truth", str(OFFICIAL)])
    for machine, rows in lists.items():
        present = {path.name for path in (raw / machine / "test").iterdir()}
        assert present == {row[1] for row in rows}
        clips = [parse_clip(f"{machine}/test/{name}", dataset.grammar) for name in present]
        found = Counter((clip.section, clip.condition) for clip in clips)
        units = dataset_facts.units(dataset, "evaluation", [machine])
        assert {section for section, _ in found} == {unit[-2:] for unit in units}
        for unit in units:
            for condition in ("normal", "anomaly"):
                expected = dataset_facts.expected_clips(dataset, unit)[f"test_{condition}"]
                assert found[unit[-2:], condition] == expected


def test_a_label_that_contradicts_the_name(tmp_path):
    text = "fan\nid_01_00000000.wav,normal_id_01_00000098.wav,{}\n"
    assert read_lists(text.format(0), "list")["fan"][0].named == "normal_id_01_00000098.wav"
    with pytest.raises(InputError, match=r"list, line 2: .*expected bare name,full name"):
        read_lists(text.format(1), "list")
