"""Embeddings kept with a run: other scorers in seconds, the same bytes, other clips are refused."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import infer
import train
from conftest import ROOT, call, files_below, tiny, write_wav
from unlabeledasd.clips import index_clips
from unlabeledasd.errors import InputError
from unlabeledasd.evaluation import embed, score_machines
from unlabeledasd.files import write_npz
from unlabeledasd.runs.embeddings import (
    COLUMNS,
    read_embeddings,
    require_clips,
    write_embeddings,
)
from unlabeledasd.runs.folder import Run
from unlabeledasd.scorers.density import LdnRatio
from unlabeledasd.scorers.references import Knn
from unlabeledasd.scoring import TargetKmeansCos, default_first

BOTH = "scorer=[target_kmeans_cos,varmin]"


@pytest.fixture(scope="module")
def own_data(data_dir, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    return Path(shutil.copytree(data_dir / "tiny", folder / "tiny")).parent


@pytest.fixture(scope="module")
def run(own_data, tmp_path_factory) -> Run:
    """A finished run, scored by two scorers, the second averaged; tests may add versions to it."""
    results = tmp_path_factory.mktemp("results")
    given = tiny(own_data, results, BOTH, "average=varmin")
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert call(train, monkeypatch, *given) == 0
    return Run(results / "tiny/na_1024_1")


def scores(run: Run, version: str) -> dict[str, bytes]:
    """The CSVs of a version by machine and name; those of the ensemble where it has one."""
    return {
        f"{machine}/{name}": data
        for machine in ("fan", "pump")
        for name, data in files_below(run.version(machine, version)).items()
    }


def test_what_is_kept(run, own_data):
    table = index_clips(own_data / "tiny/all/raw")
    for epoch in ("epoch1", "epoch2"):
        kept, embeddings = read_embeddings(run.embeddings(epoch))
        pd.testing.assert_frame_equal(kept, table[COLUMNS].astype(str), check_dtype=False)
        assert embeddings.dtype == np.float32
        assert embeddings.shape == (len(table), 256)
    assert not np.array_equal(embeddings, read_embeddings(run.embeddings("epoch1"))[1])


def test_the_same_bytes_as_while_training(run, monkeypatch):
    monkeypatch.setattr("unlabeledasd.evaluation.embed", None)  # no network takes part
    assert call(infer, monkeypatch, f"run={run.folder}", "name=kept", BOTH, "average=varmin") == 0
    trained = {**scores(run, "epoch1"), **scores(run, "epoch2"), **scores(run, "epoch_1_2")}
    assert scores(run, "kept") == trained
    assert len(trained) == 2 * (5 + 5 + 4)


def test_the_same_bytes_by_the_network(run, monkeypatch):
    given = [f"run={run.folder}", "name=new", BOTH, "average=varmin", "embeddings=new"]
    assert call(infer, monkeypatch, *given, "accelerator=cpu") == 0
    assert scores(run, "new") == scores(run, "kept")


def test_the_averaged_scorer_comes_first(run):
    folder = run.version("fan", "epoch2")
    columns = list(pd.read_csv(folder / "epoch2_test_score.csv"))[3:]
    assert columns == ["AS-VarMin-4", "AS-TargetKmeansCos-16-plain"]
    single = [
        pd.read_csv(run.version("fan", f"epoch{n}") / f"epoch{n}_test_score.csv") for n in (1, 2)
    ]
    mean = pd.read_csv(run.version("fan", "epoch_1_2") / "ensemble_test_score.csv")
    expected = (single[0]["AS-VarMin-4"] + single[1]["AS-VarMin-4"]) / 2
    np.testing.assert_allclose(mean["AS-ensemble"], expected)


def test_no_torch_is_imported(run):
    lines = (
        "import sys, infer\n"
        f"sys.argv = ['infer.py', 'run={run.folder}', 'name=quick', 'scorer=knn']\n"
        "infer.launch(infer.main, infer.__doc__)\n"
        "assert not {'torch', 'pytorch_lightning'} & set(sys.modules), 'torch was imported'\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-c", lines], env=environment, check=True)
    assert scores(run, "quick")


def test_without_the_clips(run, own_data, tmp_path, monkeypatch, capsys):
    """A run that was copied to a machine without the recordings."""
    moved = own_data / "tiny", tmp_path / "elsewhere"
    shutil.move(*moved)
    try:
        status = call(infer, monkeypatch, f"run={run.folder}", "name=alone", "scorer=knn")
    finally:
        shutil.move(*moved[::-1])
    assert status == 0
    assert "tiny/all/raw: not there; the clips are those of" in capsys.readouterr().out
    call(infer, monkeypatch, f"run={run.folder}", "name=there", "scorer=knn")
    assert scores(run, "alone") == scores(run, "there")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("add", "fan/test/section_00_source_test_normal_0099_x.wav is new (1 such clips)"),
        ("remove", "fan/test/section_00_target_test_normal_0001_speed_2.wav is missing now (1 "),
    ],
)
def test_other_clips_are_refused_by_name(run, own_data, monkeypatch, capsys, change, message):
    folder = own_data / "tiny/all/raw/fan/test"
    added = folder / "section_00_source_test_normal_0099_x.wav"
    removed = folder / "section_00_target_test_normal_0001_speed_2.wav"
    if change == "add":
        write_wav(added)
    else:
        removed.rename(folder.parent / "away")
    try:
        status = call(infer, monkeypatch, f"run={run.folder}", f"name={change}", "scorer=knn")
        errors = capsys.readouterr().err
        given = [f"run={run.folder}", f"name={change}", "scorer=knn", "accelerator=cpu"]
        again = call(infer, monkeypatch, *given, "embeddings=new")
    finally:
        if change == "add":
            added.unlink()
        else:
            (folder.parent / "away").rename(removed)
    assert (status, again) == (1, 0)
    assert f"epoch1.npz: embeddings of other clips: {message}" in errors
    assert "embeddings=new embeds" in errors


def test_left_out(run, own_data, tmp_path, monkeypatch, capsys):
    given = tiny(own_data, tmp_path, BOTH, "average=varmin", "keep_embeddings=false")
    assert call(train, monkeypatch, *given) == 0
    other = Run(tmp_path / "tiny/na_1024_1")
    assert not other.embeddings("epoch1").parent.exists()
    assert scores(other, "epoch_1_2") == scores(run, "epoch_1_2")
    assert call(infer, monkeypatch, f"run={other.folder}", "name=a", "embeddings=kept") == 1
    assert "all/embeddings/epoch1.npz is missing" in capsys.readouterr().err
    # it decides nothing, so the finished run is accepted
    assert call(train, monkeypatch, *given[:-1], "keep_embeddings=true") == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["embeddings=old"], "embeddings=old: allowed are auto, kept, new"),
        (["average=knn"], "average=knn: allowed are target_kmeans_cos"),
    ],
)
def test_settings_that_cannot_be(run, monkeypatch, capsys, given, message):
    assert call(infer, monkeypatch, f"run={run.folder}", "name=b", *given) == 1
    assert message in capsys.readouterr().err


def test_embeddings_of_a_run_are_those_of_its_network(run, own_data):
    """Independent of the command: the checkpoint, loaded and called here."""
    from settings.kept import trained_extractor
    from unlabeledasd.runs.checkpoints import load_extractor

    table, embeddings = read_embeddings(run.embeddings("epoch2"))
    extractor = load_extractor(trained_extractor(run), run.checkpoint(2))
    again = embed(extractor, own_data / "tiny/all/raw", table.path.tolist())
    np.testing.assert_allclose(embeddings, again, rtol=1e-2, atol=1e-2 * np.abs(again).max())


text = st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]), max_size=8)


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.tuples(*[text] * len(COLUMNS)), min_size=1, max_size=6))
def test_any_table_comes_back(tmp_path_factory, rows):
    file = tmp_path_factory.mktemp("kept") / "epoch1.npz"
    table = pd.DataFrame(rows, columns=COLUMNS)
    embeddings = np.random.default_rng(0).standard_normal((len(rows), 3, 4)).astype(np.float32)
    write_embeddings(file, table, embeddings)
    kept, found = read_embeddings(file)
    assert kept.to_numpy().tolist() == table.to_numpy().tolist()
    np.testing.assert_array_equal(found, embeddings)
    require_clips(file, kept, table)


def test_clips_that_differ_are_named(tmp_path):
    table = pd.DataFrame({name: [f"{name}{i}" for i in range(3)] for name in COLUMNS})
    kept = table.copy()
    changes = {
        "path0 has another machine, domain or condition now": table.assign(
            domain=["target", "domain1", "domain2"]
        ),
        "path0 has another place now": table[::-1],
        r"path2 is missing now \(1 such clips\)": table[:2],
        r"more is new \(1 such clips\)": pd.concat([table, table[:1].assign(path="more")]),
    }
    for message, other in changes.items():
        with pytest.raises(InputError, match=f"epoch1.npz: embeddings of other clips: {message}"):
            require_clips(tmp_path / "epoch1.npz", kept, other)


@pytest.mark.parametrize("spoil", ["cut", "arrays", "rows"])
def test_corrupt_files(tmp_path, spoil):
    file = tmp_path / "epoch1.npz"
    table = pd.DataFrame({name: ["a", "b"] for name in COLUMNS})
    write_embeddings(file, table, np.zeros((2, 3)))
    if spoil == "cut":
        file.write_bytes(file.read_bytes()[:200])
    elif spoil == "arrays":
        write_npz(file, {"centers_": np.zeros(3)})
    else:
        write_embeddings(file, table, np.zeros((3, 3)))
    with pytest.raises(InputError, match=r"epoch1\.npz: "):
        read_embeddings(file)


def test_two_scorers_of_one_column(tmp_path):
    table = pd.DataFrame({name: ["a"] for name in COLUMNS})
    with pytest.raises(InputError, match="two have the score column AS-Knn-1"):
        score_machines(Run(tmp_path), "x", "x", table, np.zeros((1, 2)), [Knn(), Knn()])


def test_default_first():
    scorers = {"paper": TargetKmeansCos(), "knn": Knn(), "ldn": LdnRatio()}
    assert list(default_first(scorers, None)) == ["paper", "knn", "ldn"]
    assert list(default_first(scorers, "knn")) == ["knn", "paper", "ldn"]
    with pytest.raises(InputError, match="average=lnd: allowed are paper, knn, ldn"):
        default_first(scorers, "lnd")
