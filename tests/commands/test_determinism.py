"""From the seed to the bytes of the score CSVs: what must not matter."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

import train
from conftest import call, files_below, tiny


@pytest.fixture(scope="module")
def csvs(data_dir, tmp_path_factory):
    def make(data_dir: Path, *overrides: str) -> dict[str, bytes]:
        results = tmp_path_factory.mktemp("results")
        with pytest.MonkeyPatch.context() as monkeypatch:
            arguments = tiny(data_dir, results, *overrides, method="subloss_0256_4096")
            assert call(train, monkeypatch, "model.extractor.n_ffts=[4096]", *arguments) == 0
        found = files_below(results, "**/*.csv")
        return {name: content for name, content in found.items() if "/logs/" not in name}

    make.expected = make(data_dir)
    return make


def test_the_same_command(csvs, data_dir):
    assert csvs(data_dir) == csvs.expected
    assert (
        sum(name.endswith("_test_score.csv") for name in csvs.expected) == 2 * 3
    )  # machines, versions


def test_number_of_workers(csvs, data_dir):
    assert csvs(data_dir, "data.num_workers=2") == csvs.expected


def test_place_of_the_data_and_order_of_its_files(csvs, data_dir, tmp_path, monkeypatch):
    moved = tmp_path / 'it\'s a "place" of\nits own'
    shutil.copytree(data_dir, moved)
    scan, listing = os.scandir, Path.iterdir

    @contextmanager
    def backwards(folder):
        with scan(folder) as entries:
            yield iter(sorted(entries, key=lambda entry: entry.name, reverse=True))

    monkeypatch.setattr(os, "scandir", backwards)
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(listing(self), reverse=True)))
    with os.scandir(moved / "tiny/all/raw/fan/train") as entries:
        assert next(entries).name.startswith("section_00_target")
    quoted = "'" + str(moved).replace("'", "\\'") + "'"
    arguments = [f"data_dir={quoted}", f"label_dir={data_dir}/label"]
    assert csvs(data_dir, *arguments) == csvs.expected


def test_another_seed_differs(csvs, data_dir):
    other = csvs(data_dir, "seed=2")
    expected = {
        name.replace("4096_1/", "4096_2/"): content for name, content in csvs.expected.items()
    }
    assert other.keys() == expected.keys()
    scores = [name for name in other if name.endswith("_test_score.csv")]
    assert all(other[name] != expected[name] for name in scores)
