"""Every row of docs/troubleshooting.md: the test produces the cause and compares the message."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

import ensemble
import infer
import train
from conftest import ROOT, call, make_machine, tiny, write_pseudo_labels, write_wav
from unlabeledasd.runs.folder import Run

COLUMN = "AS-TargetKmeansCos-16-plain"
NAME = "section_00_source_train_normal_0000_speed_1.wav"
PAGE = (ROOT / "docs/troubleshooting.md").read_text()
ROWS = [
    (cause, message.replace(r"\|", "|"))
    for cause, message in re.findall(r"^\| (.+?) \| (.+) \|$", PAGE, re.MULTILINE)
    if cause != "cause" and not cause.startswith("---")
]
CASES = {}  # cause -> function of a Place that produces it and returns the exit status


class Place:
    """Two tiny machines, one of whose clips or files a test damages, and the commands."""

    def __init__(self, folder: Path, monkeypatch):
        self.folder, self.monkeypatch = folder, monkeypatch
        self.raw = folder / "tiny/all/raw"
        self.clip = self.raw / "fan/train" / NAME
        self.results = folder / "results"
        self.run = Run(self.results / "tiny/na_4096_1")

    def train(self, *overrides: str) -> int:
        arguments = tiny(
            self.folder, self.results, "score_epochs=[1]", *overrides, method="na_4096"
        )
        return call(train, self.monkeypatch, *arguments)

    def check(self, *overrides: str) -> int:
        return self.train("check=true", *overrides)

    def infer(self, *overrides: str) -> int:
        return call(
            infer,
            self.monkeypatch,
            f"run={self.run.folder}",
            "name=x",
            "accelerator=cpu",
            *overrides,
        )

    def write(self, samples: np.ndarray, **options) -> int:
        soundfile.write(self.clip, samples, 16000, **options)
        return self.check()


def case(cause: str):
    return lambda function: CASES.setdefault(cause, function)


@pytest.fixture(scope="session")
def machines(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("machines")
    for machine, hz in (("fan", 200.0), ("pump", 900.0)):
        make_machine(folder / "tiny/all/raw" / machine, hz)
    return folder


@pytest.fixture(scope="session")
def finished(machines, tmp_path_factory) -> Path:
    """Results of a run that kept two epochs."""
    results = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert call(train, monkeypatch, *tiny(machines, results, method="na_4096")) == 0
    return results


@pytest.fixture
def place(machines, finished, tmp_path, monkeypatch) -> Place:
    made = Place(Path(shutil.copytree(machines, tmp_path / "data")), monkeypatch)
    made.finished = lambda: shutil.copytree(finished, made.results)
    return made


def pattern(words: str) -> re.Pattern:
    """A pattern of the page's message, in which `<...>` matches any text."""
    return re.compile(".+".join(map(re.escape, re.split(r"<[\w' .|]+>", words))))


@pytest.mark.parametrize(("cause", "message"), ROWS, ids=[cause for cause, _ in ROWS])
def test_message(cause, message, place, capfd):
    status = CASES[cause](place)
    # progress bars return to the start of their line
    printed, errors = (
        re.sub(r"\r|\x1b\[A", "\n", text).strip().splitlines() for text in capfd.readouterr()
    )
    words = pattern(re.search(r"`((?:error|note|check|<folder>).*)`$", message)[1])
    if message.startswith("accepted"):
        assert status == 0, errors
        lines = printed + errors
        assert any(words.fullmatch(line.strip()) for line in lines), lines
    else:
        assert status == (3 if message.startswith("exit status 3") else 1)
        assert words.fullmatch(errors[-1].strip()), errors[-1]


def test_every_cause_has_a_row():
    assert list(CASES) == [cause for cause, _ in ROWS]


# --- recordings ------------------------------------------------------------------------------


@case("an empty file")
def _(place):
    place.clip.write_bytes(b"")
    return place.check()


@case("text in a file named .wav")
def _(place):
    place.clip.write_text("RIFF, they said")
    return place.check()


@case("a wav file that ends after its header")
def _(place):
    place.clip.write_bytes(place.clip.read_bytes()[:44])
    return place.check()


@case("a wav file without samples")
def _(place):
    return place.write(np.zeros(0))


@case("a wav file that ends early")
def _(place):
    place.clip.write_bytes(place.clip.read_bytes()[:-1000])
    return place.check()


@case("a flac file that ends early")
def _(place):
    file = place.clip.with_suffix(".flac")
    soundfile.write(file, soundfile.read(place.clip, dtype="int16")[0], 16000)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    place.clip.unlink()
    return place.check()


@case("another sample rate")
def _(place):
    write_wav(place.clip, samplerate=8000)
    return place.check()


@case("two channels")
def _(place):
    return place.write(np.zeros((100, 2)))


@case("a channel that does not exist")
def _(place):
    return place.check("dataset.channel=1")


NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 70400)


@case("8-bit wav")
def _(place):
    return place.write(NOISE, subtype="PCM_U8")


@case("24-bit wav")
def _(place):
    return place.write(NOISE, subtype="PCM_24")


@case("flac")
def _(place):
    soundfile.write(place.clip.with_suffix(".flac"), NOISE, 16000)
    place.clip.unlink()
    return place.check()


@case("floating point samples beyond full scale")
def _(place):
    return place.write(6 * NOISE, subtype="FLOAT")


def with_sample(place, value: float) -> int:
    wave = NOISE.copy()
    wave[1234] = value
    return place.write(wave, subtype="FLOAT")


@case("a sample that is NaN")
def _(place):
    return with_sample(place, np.nan)


@case("a sample that overflows later")
def _(place):
    return with_sample(place, 1e30)


@case("floating point samples in the range of integers")
def _(place):
    return place.write(32768 * NOISE, subtype="FLOAT")


@case("a sample that is infinite")
def _(place):
    return with_sample(place, -np.inf)


@case("a silent clip")
def _(place):
    return place.write(np.zeros(70400))


@case("a constant clip")
def _(place):
    return place.write(np.full(70400, 0.5))


@case("a clip with an offset")
def _(place):
    return place.write(0.5 + 0.01 * NOISE)


@case("a clip of a few samples")
def _(place):
    return place.write(NOISE[:7])


def with_size(place, size: int) -> int:
    """The clip, declared to have `size` bytes of samples."""
    whole = place.clip.read_bytes()
    assert whole[36:40] == b"data"
    place.clip.write_bytes(whole[:40] + size.to_bytes(4, "little") + whole[44:])
    return place.check()


@case("a header with size 0")
def _(place):
    return with_size(place, 0)


@case("a header with too small a size")
def _(place):
    return with_size(place, 1000)


@case("a header without a size")
def _(place):
    return with_size(place, 0x7FFFF000)


@case("bytes behind the samples")
def _(place):
    place.clip.write_bytes(place.clip.read_bytes() + bytes(4096))
    return place.check()


@case("two joined files")
def _(place):
    place.clip.write_bytes(2 * place.clip.read_bytes())
    return place.check()


@case("a codec that is not read")
def _(place):
    return place.write(NOISE, subtype="IMA_ADPCM")


@case("a pipe named x.wav")
def _(place):
    place.clip.unlink()
    os.mkfifo(place.clip)
    return place.check()


@case("the same recording twice")
def _(place):
    place.write(NOISE)
    shutil.copy(place.clip, place.clip.with_name(NAME.replace("0000", "0077")))
    return place.check()


@case("a folder named x.wav")
def _(place):
    place.clip.unlink()
    place.clip.mkdir()
    return place.check()


@case("a broken link")
def _(place):
    place.clip.unlink()
    place.clip.symlink_to("/nowhere/clip.wav")
    return place.check()


def as_nobody(place, spoil) -> int:
    """Check the data in a place that everybody may enter, without the rights of root."""
    if os.geteuid() == 0:
        with tempfile.TemporaryDirectory() as folder:
            shutil.move(place.folder, folder)
            moved = Place(Path(folder, place.folder.name), place.monkeypatch)
            for entered in (Path(folder), *filter(Path.is_dir, Path(folder).rglob("*"))):
                entered.chmod(0o755)
            spoil(moved)
            os.seteuid(65534)
            try:
                if not os.access(ROOT / "src/config", os.X_OK, effective_ids=True):
                    pytest.skip("nobody may not read this checkout")
                return moved.train("check=" + str(spoil is not forbid_writing).lower())
            finally:
                os.seteuid(0)
    spoil(place)
    return place.train("check=" + str(spoil is not forbid_writing).lower())


def forbid_reading(place):
    place.clip.chmod(0)


def forbid_listing(place):
    place.clip.parent.chmod(0)


def forbid_writing(place):
    place.results.mkdir()
    place.results.chmod(0o555)


@case("a file without read permission")
def _(place):
    return as_nobody(place, forbid_reading)


@case("the same recording in two machines' folders")
def _(place):
    shutil.copy(place.clip, place.raw / "pump/train" / NAME)
    return place.check()


@case("the same recording in train/ and test/")
def _(place):
    shutil.copy(place.clip, place.raw / "fan/test/section_00_source_test_normal_0077.wav")
    return place.check()


@case("the same recording as a normal and as an anomalous test clip")
def _(place):
    clip = write_wav(place.raw / "fan/test/normal_1.wav", seed=99)
    shutil.copy(clip, clip.with_name("anomaly_2.wav"))
    return place.check()


# --- folders and names -----------------------------------------------------------------------


@case("no folder of the dataset")
def _(place):
    return place.check("dataset.name=other")


@case("a machine without test/")
def _(place):
    shutil.rmtree(place.raw / "fan/test")
    return place.check()


@case("train/ without clips")
def _(place):
    for file in (place.raw / "fan/train").iterdir():
        file.unlink()
    return place.check()


@case("files that are no clips")
def _(place):
    for name in ("a.mp3", "b.mp3", ".x.wav", "b.wav.part"):
        place.clip.with_name(name).touch()
    return place.check()


@case("a folder that links to itself")
def _(place):
    place.clip.with_name("again").symlink_to(".")
    return place.check()


@case("a folder without read permission")
def _(place):
    return as_nobody(place, forbid_listing)


@case("a name that is not UTF-8")
def _(place):
    place.clip.rename(place.clip.with_name(os.fsdecode(b"L\xfcfter.wav")))
    return place.check()


@case("a file name that does not follow the grammar")
def _(place):
    place.clip.rename(place.clip.with_name("section_00_sauce_train_normal_0000_speed_1.wav"))
    return place.check("dataset.grammar=dcase")


@case("a file name of another split")
def _(place):
    place.clip.rename(place.clip.with_name(NAME.replace("train", "test")))
    return place.check()


@case("an anomalous training clip")
def _(place):
    place.clip.rename(place.clip.with_name(NAME.replace("normal", "anomaly")))
    return place.check()


@case("anomaly or abnormal in the name of a training clip or of its folder")
def _(place):
    write_wav(place.raw / "fan/train/abnormal/1.wav")
    return place.check()


@case("a folder that contradicts the name of a clip")
def _(place):
    write_wav(place.raw / "fan/test/anomaly/section_00_source_test_normal_0009.wav")
    return place.check()


@case("a name that does not state a condition clearly (`without_anomaly`, `ab-normal`)")
def _(place):
    write_wav(place.raw / "fan/test/without_anomaly_0.wav", seed=90)
    return place.check()


@case("such a name in train/")
def _(place):
    write_wav(place.raw / "fan/train/before_anomaly_0.wav", seed=90)
    return place.check()


@case("a copy by a file manager")
def _(place):
    place.clip.rename(place.clip.with_stem(f"{place.clip.stem} (1)"))
    return place.check()


@case("a name that begins with `section_`, but is not in the DCASE form")
def _(place):
    place.clip.rename(place.clip.with_name(NAME.replace("source", "sauce")))
    return place.check()


@case("`_` in attributes")
def _(place):
    place.clip.rename(place.clip.with_name(NAME.replace("speed_1", "_speed__1_load_")))
    return place.check("dataset.grammar=dcase")


@case("only one class")
def _(place):
    return place.check("label.fields=[section]")


def keep_training(place, domain: str, count: int, machine: str = "fan") -> int:
    for file in sorted((place.raw / machine / "train").glob(f"*_{domain}_*"))[count:]:
        file.unlink()
    return place.train()


@case("a machine with one training clip")
def _(place):
    keep_training(place, "target", 0)
    shutil.rmtree(place.results)
    return keep_training(place, "source", 1)


def scores(place) -> pd.Series:
    table = pd.read_csv(place.run.version("fan", "epoch1") / "epoch1_test_score.csv")
    return table[COLUMN]


@case("no source training clips")
def _(place):
    status = keep_training(place, "source", 0)
    assert scores(place).between(-1e-9, 2).all()
    return status


@case("no target training clips")
def _(place):
    status = keep_training(place, "target", 0)
    assert scores(place).between(-1e-9, 2).all()
    return status


@case("fewer source clips than centres")
def _(place):
    return place.check()


# --- settings --------------------------------------------------------------------------------

for cause, override in {
    "an unknown dataset": "dataset=foo",
    "an unknown method": "method=foo",
    "a key that does not exist": "+model.dropout=0.1",
    "a value of another type": "dataset.batch_size=many",
    "a value out of range": "model.mixup_prob=1.5",
    "a negative number of workers": "data.num_workers=-1",
    "batches of one clip": "dataset.batch_size=1",
    "clips too short for the network": "dataset.clip_seconds=4",
}.items():
    case(cause)(lambda place, override=override: place.check(override))


@case("workers without shared memory")
def _(place):
    place.monkeypatch.setattr("unlabeledasd.data.free_bytes", lambda folder: 1_000_000)
    return place.train("data.num_workers=2")


@case("an accelerator that does not exist")
def _(place):
    return place.train("trainer.accelerator=abacus")


@case("several devices for one run")
def _(place):
    status = place.train("trainer.devices=2")
    assert not place.results.exists()
    return status


@case("a key without value")
def _(place):
    return place.check("seed=???")


@case("a text that Hydra would not take as text")
def _(place):
    return place.check("dataset.teacher=a=b")


# --- runs ------------------------------------------------------------------------------------


@case("settings that differ from those of the existing run")
def _(place):
    place.finished()
    return place.train("score_epochs=[1,2]", "model.optimizer.lr=0.01", "model.mixup_prob=0.1")


@case("clips that were added to those of an unfinished run")
def _(place):
    place.finished()
    place.run.done_marker.unlink()
    write_wav(place.raw / "fan/train" / NAME.replace("0000", "0099"), hz=333)
    return place.train("score_epochs=[1,2]")


@case("clips that were removed from those of a finished run")
def _(place):
    place.finished()
    place.clip.unlink()
    return place.train("score_epochs=[1,2]")


@case("other recordings under the names of those of a run")
def _(place):
    place.finished()
    write_wav(place.clip, hz=333)
    return place.train("score_epochs=[1,2]")


@case("another `data_dir` with other test clips")
def _(place):
    place.finished()
    moved = place.folder.with_name("moved")
    shutil.copytree(place.folder, moved)
    test = moved / "tiny/all/raw/pump/test"
    write_wav(test / "section_00_source_test_normal_0099.wav", hz=333)
    return place.train("score_epochs=[1,2]", f"data_dir={moved}")


@case("a finished run whose recordings are no longer there")
def _(place):
    place.finished()
    return place.train("score_epochs=[1,2]", "data_dir=gone")


@case("a results folder without write permission")
def _(place):
    return as_nobody(place, forbid_writing)


@case("a full disk")
def _(place):
    place.results.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place.results]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        status = place.train()
        (place.results / "room").write_text("space is free again")
        with place.run.claim():  # the lock was released although the disk was full
            assert not list(place.results.rglob(".*.tmp"))
        return status
    finally:
        subprocess.run(["umount", place.results], check=True)


@case("a run that another process is training")
def _(place):
    with place.run.claim():
        return place.train()


@case("a loss that is not finite")
def _(place):
    return place.train("+model.optimizer.weight_decay=1e38")


@case("a corrupt checkpoint")
def _(place):
    place.finished()
    file = place.run.checkpoint(2)
    file.write_bytes(file.read_bytes()[:9999])
    return place.infer("embeddings=new")


@case("a checkpoint of another network")
def _(place):
    place.finished()
    place.run.config.write_text(
        re.sub(r"n_ffts:\n\s*- 4096", "n_ffts: [256]", place.run.config.read_text())
    )
    return place.infer("embeddings=new")


class Evil:
    """Makes a file where it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@case("a checkpoint that would execute code")
def _(place):
    place.finished()
    torch.save({"state_dict": Evil(place.folder / "evil")}, place.run.checkpoint(1))
    try:
        return place.infer("embeddings=new")
    finally:
        assert not (place.folder / "evil").exists()


@case("a configuration that names a class outside `src/config`")
def _(place):
    place.finished()
    config = place.run.config.read_text()
    assert "    _target_: unlabeledasd.networks.MultiResolutionNet" in config
    evil = "    _target_: os.system\n    command: touch " + str(place.folder / "evil")
    place.run.config.write_text(
        config.replace("    _target_: unlabeledasd.networks.MultiResolutionNet", evil)
    )
    try:
        return place.infer("embeddings=new")
    finally:
        assert not (place.folder / "evil").exists()


@case("a corrupt file of scorers")
def _(place):
    place.finished()
    place.run.scorers("epoch1").write_bytes(b"not an archive")
    return place.infer("epochs=[1]")


@case("epochs that were not kept")
def _(place):
    place.finished()
    return place.infer("epochs=[7]")


def pseudo(place, spoil) -> int:
    write_pseudo_labels(place.folder)
    file = place.folder / "label/tiny/class_1/labels.json"
    spoil(file)
    return place.check("label=pseudo", "label.source=class")


@case("pseudo-labels of another dataset")
def _(place):
    return pseudo(
        place,
        lambda file: file.write_text(
            json.dumps({**json.loads(file.read_text()), "dataset": "other"})
        ),
    )


@case("no pseudo-labels")
def _(place):
    return pseudo(place, Path.unlink)


# --- ensemble --------------------------------------------------------------------------------


def average(place, spoil) -> int:
    place.finished()
    spoil(place.run.version("pump", "epoch2") / "epoch2_test_score.csv")
    config = place.folder / "both.yaml"
    config.write_text(f"epochs: [1, 2]\ncolumn: {COLUMN}\n")
    place.monkeypatch.setattr(
        "sys.argv", ["ensemble.py", str(place.run.folder), "--config", str(config)]
    )
    with pytest.raises(SystemExit) as stop:
        ensemble.main()
    return stop.value.code


def change(edit):
    def spoil(file):
        table = pd.read_csv(file)
        edit(table).to_csv(file, index=False)

    return spoil


for cause, spoil in {
    "scores of other clips": change(
        lambda table: table.assign(path=table.path.str.replace("0000", "0007"))
    ),
    "scores in another order": change(lambda table: table[::-1]),
    "an epoch without scores": Path.unlink,
    "a score that is NaN": change(
        lambda table: table.assign(**{COLUMN: [np.nan, *table[COLUMN][1:]]})
    ),
    "scores of another scorer": change(lambda table: table.rename(columns={COLUMN: "AS-Other"})),
    "a file that is not a table": lambda file: file.write_bytes(b"\xff\x00,\n1,2,3\n"),
}.items():
    case(cause)(lambda place, spoil=spoil: average(place, spoil))
