"""A run that was stopped, corrupted or asked for with other settings; a loss not finite."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

import infer
import train
from conftest import call, compose, files_below, tiny
from settings.build import flat
from settings.kept import FREE_KEYS
from unlabeledasd.data import ClipDataModule, ShuffledClips
from unlabeledasd.labels import Labels
from unlabeledasd.modules import DiscriminativeModule
from unlabeledasd.runs.folder import Run
from unlabeledasd.runs.training import KeepEpochs, batch_clips
from unlabeledasd.waveforms import read_clip

METHOD = "na_4096"  # the cheapest of them
EPOCHS = "score_epochs=[1,3]"


class Stop(Exception):
    """Stands for the end of the process."""


def settings(data_dir, results, *overrides: str) -> list[str]:
    return tiny(data_dir, results, EPOCHS, *overrides, method=METHOD)


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory) -> Run:
    """A finished run; not to be changed."""
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert call(train, monkeypatch, *settings(data_dir, results)) == 0
    return Run(results / f"tiny/{METHOD}_1")


@pytest.fixture(scope="module")
def stopped(data_dir, tmp_path_factory) -> Run:
    """A run that was stopped after its second epoch; not to be changed."""
    keep, results = KeepEpochs.on_train_epoch_end, tmp_path_factory.mktemp("results")

    def stop_after_second(self, trainer, module):
        keep(self, trainer, module)
        if trainer.current_epoch == 1:
            raise Stop

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(KeepEpochs, "on_train_epoch_end", stop_after_second)
        with pytest.raises(Stop):
            call(train, monkeypatch, *settings(data_dir, results))
    return Run(results / f"tiny/{METHOD}_1")


@pytest.fixture
def copy(tmp_path):
    def make(run: Run) -> Run:
        return Run(shutil.copytree(run.folder, tmp_path / "copy" / f"tiny/{METHOD}_1"))

    return make


def csvs(run: Run) -> dict[str, bytes]:
    return files_below(run.folder, "*/infer/**/*.csv")


def truncate(path):
    path.write_bytes(path.read_bytes()[:5000])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "begins", "warning"),
    [
        (lambda run: None, 2, ""),
        (lambda run: truncate(run.last_checkpoint), 1, "last.ckpt: corrupt"),
        (lambda run: flip(run.last_checkpoint), 1, "last.ckpt: corrupt"),
        (lambda run: run.last_checkpoint.unlink(), 1, ""),  # killed between two renames
        (
            lambda run: [flip(run.last_checkpoint), truncate(run.previous_checkpoint)],
            0,
            "previous.ckpt: corrupt",
        ),
        (lambda run: torch.save({"epoch": Stop}, run.last_checkpoint), 1, "last.ckpt: corrupt"),
        (
            lambda run: flip(run.checkpoint(1)),
            0,
            "epoch1.ckpt: corrupt, training this epoch again",
        ),
    ],
    ids=["whole", "truncated", "flipped", "missing", "both", "pickle", "kept"],
)
def test_resumed_run_equals_an_uninterrupted_one(
    run, stopped, copy, data_dir, monkeypatch, capsys, damage, begins, warning
):
    assert sorted(p.name for p in stopped.last_checkpoint.parent.iterdir()) == [
        "epoch1.ckpt",
        "last.ckpt",
        "previous.ckpt",
    ]
    resumed, trained = copy(stopped), []
    damage(resumed)
    patch = noting_epochs(trained)
    assert call(train, monkeypatch, *settings(data_dir, resumed.folder.parents[1])) == 0
    patch.undo()
    assert trained == list(range(begins, 3))
    assert warning in capsys.readouterr().err
    assert csvs(resumed) == csvs(run)
    assert sorted(p.name for p in resumed.last_checkpoint.parent.iterdir()) == [
        "epoch1.ckpt",
        "epoch3.ckpt",
    ]
    state = torch.load(resumed.checkpoint(3), weights_only=True)
    assert state["global_step"] == 3 * 4  # 14 clips in batches of 4
    expected = torch.load(run.checkpoint(3), weights_only=True)["state_dict"]
    assert all(torch.equal(value, expected[name]) for name, value in state["state_dict"].items())


def noting_epochs(trained: list[int]) -> pytest.MonkeyPatch:
    start, patch = DiscriminativeModule.on_train_epoch_start, pytest.MonkeyPatch()
    patch.setattr(
        DiscriminativeModule,
        "on_train_epoch_start",
        lambda self: (trained.append(self.current_epoch), start(self))[1],
    )
    return patch


def test_scores_of_weights_that_are_gone(run, copy, data_dir, monkeypatch):
    """Killed while scoring; then a kept epoch is corrupt, so it is trained and scored again."""
    half = copy(run)
    half.done_marker.unlink()
    flip(half.checkpoint(3))
    (half.version("fan", "epoch3") / "epoch3_test_score.csv").write_text("of other weights")
    assert call(train, monkeypatch, *settings(data_dir, half.folder.parents[1])) == 0
    assert csvs(half) == csvs(run)


def test_a_corrupt_checkpoint_is_not_scored(run, copy, data_dir, monkeypatch, capsys):
    corrupt = copy(run)
    flip(corrupt.checkpoint(3))
    assert (
        call(
            infer,
            monkeypatch,
            f"run={corrupt.folder}",
            "name=x",
            "embeddings=new",
            "epochs=[3]",
            "accelerator=cpu",
        )
        == 1
    )
    assert "epoch3.ckpt: corrupt or not a checkpoint" in capsys.readouterr().err
    assert not list(corrupt.folder.glob("*/infer/version_x/*.csv"))


def test_every_changed_setting_is_named(run, copy, data_dir, monkeypatch, capsys):
    finished = copy(run)
    unfinished = Run(shutil.copytree(run.folder, finished.folder.with_name("unfinished")))
    unfinished.done_marker.unlink()
    for changed in (finished, unfinished):
        before = files_below(changed.folder)
        arguments = settings(data_dir, finished.folder.parents[1], f"run_dir={changed.folder}")
        other = [
            "model.optimizer.lr=0.5",
            "scorer.target_kmeans_cos.n_clusters=3",
            "+trainer.gradient_clip_val=1.0",
        ]
        assert call(train, monkeypatch, *arguments, *other) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert "model.optimizer.lr=0.5 now, 0.001 when the run began" in error
        assert "scorer.target_kmeans_cos.n_clusters=3 now, 16 when the run began" in error
        assert "trainer.gradient_clip_val=1.0 now, not set when the run began" in error
        assert "overwrite=true" in error
        after = files_below(changed.folder)
        assert all(after[name] == before[name] for name in before if "/lock." not in name)
        free = [
            "data.num_workers=1",
            "trainer.devices=1",
            "trainer.logger=false",
            "keep_all_checkpoints=true",
        ]
        assert call(train, monkeypatch, *arguments, *free) == 0


def test_done_marker(run):
    done = json.loads(run.done_marker.read_text())
    assert sorted(done) == ["finished", "labels", "settings"]
    assert len(done["settings"]) == len(done["labels"]) == 64
    assert done == run.read_done()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda run: run.config.write_text(
                run.config.read_text().replace("lr: 0.001", "lr: 0.5")
            ),
            "model.optimizer.lr=0.001 now, 0.5 when the run began",
        ),
        (
            lambda run: run.labels.write_text(run.labels.read_text().replace("speed_1", "speed_7")),
            "labels.json: changed after the run was finished",
        ),
        (lambda run: run.config.unlink(), "config.yaml is missing"),
        (lambda run: run.done_marker.write_text("{"), "done: corrupt"),
    ],
)
def test_a_finished_run_that_was_changed(run, copy, data_dir, monkeypatch, capsys, spoil, message):
    changed = copy(run)
    spoil(changed)
    assert call(train, monkeypatch, *settings(data_dir, changed.folder.parents[1])) == 1
    assert message in capsys.readouterr().err


def test_overwrite(run, copy, data_dir, monkeypatch, capsys):
    other = copy(run)
    folder = other.version("fan", "k8")
    folder.mkdir()
    (other.folder / "notes.txt").write_text("mine")
    arguments = settings(
        data_dir, other.folder.parents[1], "overwrite=true", "seed=2", f"run_dir={other.folder}"
    )
    assert call(train, monkeypatch, *arguments, "keep_all_checkpoints=true") == 0
    printed = capsys.readouterr().out
    assert (
        f"overwrite=true: removed from {other.folder}: all/done, fan/infer/version_epoch1"
        in printed
    )
    assert "fan/infer/version_k8" in printed
    assert not folder.exists()
    assert (other.folder / "notes.txt").read_text() == "mine"
    names = sorted(p.name for p in other.last_checkpoint.parent.iterdir())
    assert names == ["epoch1.ckpt", "epoch2.ckpt", "epoch3.ckpt", "last.ckpt", "previous.ckpt"]
    new = csvs(other)
    assert new.keys() == csvs(run).keys()
    name = "fan/infer/version_epoch3/epoch3_test_score.csv"
    assert new[name] != csvs(run)[name]


def test_overwrite_once_per_call(run, copy, data_dir, monkeypatch, capsys):
    """A launcher starts a run again whose host was lost, with the command line of the first try."""
    other, keep = copy(run), KeepEpochs.on_train_epoch_end
    arguments = settings(data_dir, other.folder.parents[1], "overwrite=true")

    def trained() -> int:
        return len(json.loads(other.progress.read_text())["seconds"])

    def stop_after_second(self, trainer, module):
        keep(self, trainer, module)
        if trainer.current_epoch == 1:
            raise Stop

    monkeypatch.setenv("UNLABELEDASD_CALL", "first")
    monkeypatch.setattr(KeepEpochs, "on_train_epoch_end", stop_after_second)
    with pytest.raises(Stop):
        call(train, monkeypatch, *arguments)
    monkeypatch.setattr(KeepEpochs, "on_train_epoch_end", keep)
    assert "overwrite=true: removed" in capsys.readouterr().out
    assert call(train, monkeypatch, *arguments) == 0
    assert "removed" not in capsys.readouterr().out
    assert trained() == 1  # the third epoch
    assert csvs(other) == csvs(run)
    assert call(train, monkeypatch, *arguments) == 0
    assert f"{other.folder}\n" in capsys.readouterr().out  # finished, and skipped
    assert trained() == 1
    monkeypatch.setenv("UNLABELEDASD_CALL", "second")
    assert call(train, monkeypatch, *arguments) == 0
    assert "overwrite=true: removed" in capsys.readouterr().out
    assert trained() == 3


def test_free_keys_exist():
    """A key that was renamed must not stay free."""
    names = set()
    for entry in ("train", "infer"):
        given = (
            ["run=x", "name=y"]
            if entry == "infer"
            else ["dataset=demo", "method=na_1024", "seed=1", "data_dir=x"]
        )
        for label in ([], ["label=pseudo", "label.source=class"]) if entry == "train" else ([],):
            names |= set(flat(OmegaConf.to_container(compose(entry, [*given, *label]))))
    pretrained = ["dataset=demo", "method=beats_gem", "seed=1", "data_dir=x"]
    names |= set(flat(OmegaConf.to_container(compose("train", pretrained))))
    assert names >= FREE_KEYS


def test_an_extractor_of_ones_own_must_stand_in_a_yaml(run, copy, tmp_path, monkeypatch, capsys):
    """A results folder names it: that alone does not even import it."""
    own, moved = tmp_path / "own", copy(run)
    (own / "config/model").mkdir(parents=True)
    (own / "my_network.py").write_text(
        "from unlabeledasd.networks import MultiResolutionNet\n\n"
        "class MyNet(MultiResolutionNet):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(own))
    config = moved.config.read_text()
    moved.config.write_text(
        config.replace("unlabeledasd.networks.MultiResolutionNet", "my_network.MyNet")
    )
    arguments = [
        f"run={moved.folder}",
        "name=own",
        "embeddings=new",
        "epochs=[1]",
        "accelerator=cpu",
    ]
    for text in (None, "extractor: {_target_: my_network.MyNetwork}"):  # exact names count
        if text:
            (own / "config/model/mine.yaml").write_text(text)
            arguments.append(f"hydra.searchpath=[file://{own}/config]")
        assert call(infer, monkeypatch, *arguments) == 1
        assert (
            "model.extractor._target_=my_network.MyNet: in no yaml file" in capsys.readouterr().err
        )
        assert "my_network" not in sys.modules
    (own / "config/model/mine.yaml").write_text("extractor: {_target_: my_network.MyNet}")
    assert call(infer, monkeypatch, *arguments) == 0
    again = (moved.version("fan", "own") / "epoch1_test_score.csv").read_bytes()
    assert again == (run.version("fan", "epoch1") / "epoch1_test_score.csv").read_bytes()
    del sys.modules["my_network"]


# --- a loss that is not finite --------------------------------------------------------------------


POISONED = "fan/train/section_00_source_train_normal_0001_speed_2.wav"


@pytest.fixture
def poison():
    """One clip is read with samples so large that its spectrum and the loss are not finite.

    Such a file itself is refused when it is read.
    """

    def read(path, channel=None):
        huge = Path(path).as_posix().endswith(POISONED)
        return np.full(70400, 3e38, np.float32) if huge else read_clip(path, channel)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unlabeledasd.data.read_clip", read)
        yield patch


def test_a_loss_that_is_not_finite_stops_the_run(poison, data_dir, tmp_path, monkeypatch, capsys):
    assert call(train, monkeypatch, *settings(data_dir, tmp_path / "results")) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "epoch 1: loss nan at step " in error
    assert "learning rate 0.001, clips: " in error
    clips = error.partition("clips: ")[2].partition(";")[0].split(", ")
    assert POISONED in clips
    assert len(clips) == 4
    assert "nothing is kept" in error
    run = Run(tmp_path / f"results/tiny/{METHOD}_1")
    assert not list(run.all.glob("checkpoints/*"))
    assert not run.is_done


@pytest.mark.parametrize("cache", [None, object()], ids=["from files", "from a GPU's memory"])
def test_clips_of_a_batch_are_found_again(data_dir, cache):
    root = data_dir / "tiny/all/raw"
    paths = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.wav"))
    table = pd.DataFrame({"path": paths, "split": "train"})
    data = ClipDataModule(
        root, table, Labels(["one"], dict.fromkeys(paths, 0)), n_samples=100, batch_size=4, seed=3
    )
    order = ShuffledClips(len(paths), 4, seed=3)
    order.set_epoch(5)
    expected = [paths[clip] for clip, _ in order][8:12]
    data.cache = cache
    trainer = SimpleNamespace(datamodule=data, current_epoch=5)
    assert batch_clips(trainer, 2) == expected


def test_the_last_good_state_is_kept(stopped, copy, data_dir, monkeypatch, capsys):
    """Weights that the last step of an epoch spoiled, with a finite loss, are not saved."""
    resumed = copy(stopped)
    before = files_below(resumed.last_checkpoint.parent)

    def spoil(self, *_):
        if self.global_step == 12:
            next(self.extractor.parameters()).data.fill_(float("inf"))

    with monkeypatch.context() as patch:
        patch.setattr(DiscriminativeModule, "on_train_batch_end", spoil)
        assert call(train, monkeypatch, *settings(data_dir, resumed.folder.parents[1])) == 1
    error = capsys.readouterr().err
    assert "not finite after step 12; training stopped, the state after epoch 2 is kept" in error
    assert files_below(resumed.last_checkpoint.parent) == before


def test_a_run_resumes_when_its_clip_was_fixed(poison, data_dir, tmp_path, monkeypatch):
    assert call(train, monkeypatch, *settings(data_dir, tmp_path / "results")) == 1
    poison.undo()
    assert call(train, monkeypatch, *settings(data_dir, tmp_path / "results")) == 0
