"""The demo machines: counts, bytes, files, physics, and that no simple measure finds anomalies."""

import csv
import os
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from omegaconf import OmegaConf
from scipy import signal
from sklearn.metrics import roc_auc_score

import synthesis
from conftest import ROOT
from synthesis import (
    COUNTS,
    FREQUENCY_HZ,
    MACHINES,
    SAMPLE_RATE,
    demo_clips,
    fault_of,
    render,
    write_demo,
)
from unlabeledasd.audio.clip_names import NO_ATTRIBUTE, Clip, parse_clip
from unlabeledasd.clips import index_clips
from unlabeledasd.errors import InputError

TEETH = {"rotor": 7, "gearbox": 23, "bearing": 11}  # lines per turn of the shaft
FEW = dict.fromkeys(COUNTS, 1)


@pytest.fixture
def small(monkeypatch):
    """Two machines of 6 clips; gearbox hides its attributes."""
    monkeypatch.setattr(synthesis, "COUNTS", FEW)
    monkeypatch.setattr(
        synthesis, "MACHINES", {name: MACHINES[name] for name in ("valve", "gearbox")}
    )
    monkeypatch.setattr(synthesis, "HIDDEN_MACHINES", ("gearbox",))


def files_below(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


# --- names, counts, files ---


def test_machines_are_those_of_the_configuration():
    demo, unlabeled = (
        OmegaConf.load(ROOT / f"src/config/dataset/{name}.yaml")
        for name in ("demo", "demo_unlabeled")
    )
    assert set(demo.machines.development) == set(MACHINES)
    assert demo.clip_seconds == synthesis.CLIP_SECONDS
    assert set(unlabeled.unlabeled) == set(synthesis.HIDDEN_MACHINES)
    assert 2 * len(synthesis.HIDDEN_MACHINES) == len(MACHINES)


@pytest.mark.parametrize("machine", MACHINES)
def test_counts_and_names(machine):
    clips = demo_clips(machine)
    assert Counter((c.split, c.domain, c.condition) for c in clips) == {
        ("train", "source", "normal"): 54,
        ("train", "target", "normal"): 6,
        **{
            ("test", domain, condition): 10
            for domain in ("source", "target")
            for condition in ("normal", "anomaly")
        },
    }
    assert len({c.name for c in clips}) == len(clips)
    for clip in clips:
        assert parse_clip(f"{clip.machine}/{clip.split}/{clip.name}.wav") == clip
    attributes = {
        domain: {c.attribute for c in clips if c.domain == domain}
        for domain in ("source", "target")
    }
    assert not attributes["source"] & attributes["target"]
    trained = Counter(c.attribute for c in clips if c.split == "train" and c.domain == "source")
    assert set(trained) == attributes["source"]
    assert len(set(trained.values())) == 1  # as many clips of every setting
    for domain in ("source", "target"):
        anomalies = [c for c in clips if c.condition == "anomaly" and c.domain == domain]
        assert {fault_of(c) for c in anomalies} == set(MACHINES[machine].faults)


def test_files_of_both_datasets(small, tmp_path):
    assert write_demo(tmp_path) == 12
    shown, hidden = (
        index_clips(tmp_path / name / "all/raw") for name in ("demo", "demo_unlabeled")
    )
    assert len(shown) == len(hidden) == 12
    for path in shown.path:
        info = soundfile.info(tmp_path / "demo/all/raw" / path)
        assert (info.samplerate, info.channels, info.subtype, info.frames) == (
            16000,
            1,
            "PCM_16",
            80000,
        )
    assert set(hidden.attribute[hidden.machine == "gearbox"]) == {NO_ATTRIBUTE}
    valve = [set(table.path[table.machine == "valve"]) for table in (shown, hidden)]
    assert valve[0] == valve[1]


def test_correspondence_is_true_and_one_to_one(small, tmp_path):
    write_demo(tmp_path)
    assert [p.name for p in (tmp_path / "demo_unlabeled/ground_truth").iterdir()] == ["gearbox"]
    for split, count in (("train", 2), ("test", 4)):
        file = (
            tmp_path
            / f"demo_unlabeled/ground_truth/gearbox/attributes_00_{split}_correspondence.csv"
        )
        assert file.read_bytes().startswith(b"source_file_name,target_file_name\r\n")
        with file.open(newline="") as lines:
            pairs = [
                (row["source_file_name"], row["target_file_name"]) for row in csv.DictReader(lines)
            ]
        true_names, hidden_names = map(set, zip(*pairs, strict=True))
        assert len(pairs) == len(true_names) == len(hidden_names) == count
        true, hidden = (
            tmp_path / name / "all/raw/gearbox" / split for name in ("demo", "demo_unlabeled")
        )
        assert {p.name for p in true.iterdir()} == true_names
        assert {p.name for p in hidden.iterdir()} == hidden_names
        for true_name, hidden_name in pairs:
            assert (true / true_name).read_bytes() == (hidden / hidden_name).read_bytes()


def test_same_bytes_in_any_order(small, tmp_path, monkeypatch):
    write_demo(tmp_path / "one")
    monkeypatch.setattr(synthesis, "MACHINES", dict(reversed(synthesis.MACHINES.items())))
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no hard links here")))
    write_demo(tmp_path / "other", progress=reversed)
    assert files_below(tmp_path / "one") == files_below(tmp_path / "other")


def test_a_second_call_does_nothing_and_an_interrupted_one_is_finished(small, tmp_path):
    def stop_after(n):
        def progress(clips):
            yield from clips[:n]
            raise KeyboardInterrupt

        return progress

    with pytest.raises(KeyboardInterrupt):
        write_demo(tmp_path, progress=stop_after(5))
    kept = files_below(tmp_path / "demo")
    assert len(kept) == 5 + 1
    cut = next((tmp_path / "demo").rglob("*.wav"))
    cut.write_bytes(cut.read_bytes()[:1000])  # as if the disk had been full
    assert write_demo(tmp_path) == 12 - 5 + 1
    whole = files_below(tmp_path)
    assert len(whole) == 2 * 12 + 1 + 2
    assert not [name for name in whole if name.endswith(".tmp")]
    assert kept.items() <= files_below(tmp_path / "demo").items()
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.wav")}
    assert write_demo(tmp_path) == 0
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.wav")} == stamps
    with pytest.raises(InputError, match="seed 1"):
        write_demo(tmp_path, seed=1)


def test_a_failing_write_leaves_no_clip(small, tmp_path, monkeypatch):
    def fail(file, *_):
        file.write_bytes(b"RIFF")
        raise OSError("disk full")

    monkeypatch.setattr(synthesis.wavfile, "write", fail)
    with pytest.raises(InputError, match=r"cannot be written \(disk full\)"):
        write_demo(tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".wav", ".tmp")]


def test_seeds_and_clips_differ():
    first, second = demo_clips("rotor")[:2]
    assert np.array_equal(render(first), render(first))
    assert not np.array_equal(render(first), render(second))
    assert not np.array_equal(render(first), render(first, seed=1))


# --- difficulty ---


@pytest.mark.parametrize("machine", MACHINES)
def test_loudness_or_brightness_alone_finds_no_anomaly(machine):
    clips = [c for c in demo_clips(machine) if c.split == "test"]
    wave = np.stack([render(c) for c in clips]) / 32768
    assert np.abs(wave).max() < 0.99  # no clipping
    anomalous = [c.condition == "anomaly" for c in clips]
    spectrum = np.abs(np.fft.rfft(wave))
    for measure in (
        10 * np.log10(np.mean(wave**2, axis=1)),
        spectrum @ FREQUENCY_HZ / spectrum.sum(axis=1),
        spectrum**2 @ FREQUENCY_HZ / (spectrum**2).sum(axis=1),
    ):
        auc = roc_auc_score(anomalous, measure)
        assert max(auc, 1 - auc) < 0.65


# --- physics ---


def machine_wave(machine, speed, load, fault=None, severity=1.0, seed=3):
    """The machine alone, without room and microphone."""
    rng = np.random.default_rng(seed)
    return MACHINES[machine].synthesise(rng, speed, load, defaultdict(float, {fault: severity}))


def line_hz(wave, lowest, highest):
    """Fundamental of a harmonic series: the comb of 6 lines with most energy."""
    power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
    step = FREQUENCY_HZ[1]
    candidates = np.arange(lowest, highest, step / 4)
    smooth = np.convolve(power, np.ones(5), "same")  # the lines are as wide as the speed wanders
    combs = [smooth[np.rint(np.arange(1, 7) * f / step).astype(int)].sum() for f in candidates]
    return candidates[np.argmax(combs)]


def stroke_seconds(wave):
    """Period of the envelope above 1 kHz, by autocorrelation."""
    envelope = np.abs(
        signal.sosfilt(signal.butter(4, 1000, "high", fs=SAMPLE_RATE, output="sos"), wave)
    )
    envelope = signal.decimate(signal.decimate(envelope, 10), 8)  # 200 Hz
    envelope -= envelope.mean()
    correlation = signal.correlate(envelope, envelope)[len(envelope) - 1 :]
    first, last = int(0.24 * 200), int(0.55 * 200)
    return (first + np.argmax(correlation[first:last])) / 200


@pytest.mark.parametrize("machine", TEETH)
def test_lines_lie_where_the_attribute_says(machine):
    """In every setting, from the machine alone and from whole clips, where a neighbour may mislead
    now and then."""
    errors = []  # (clips, 2)
    for clip in demo_clips(machine)[:6] + demo_clips(machine)[54:55]:
        _, speed, _, load = clip.attribute.split("_")
        expected = float(speed) / 60 * TEETH[machine]
        waves = machine_wave(machine, float(speed), float(load) / 100), render(clip)
        errors.append(
            [abs(line_hz(wave, 0.9 * expected, 1.1 * expected) / expected - 1) for wave in waves]
        )
    assert np.max(errors, axis=0)[0] < 0.015  # source speeds are 4 % apart and more
    assert np.median(errors, axis=0)[1] < 0.008


def test_strokes_come_as_often_as_the_attribute_says():
    for clip in demo_clips("valve")[:6]:
        expected = 60 / float(clip.attribute.split("_")[1])
        wave = machine_wave("valve", 60 / expected, float(clip.attribute.split("_")[3]) / 100)
        assert stroke_seconds(wave) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("machine", TEETH)
def test_load_makes_lines_brighter(machine):
    speed = MACHINES[machine].source_speeds[0]
    fundamental = speed / 60 * TEETH[machine]

    def high_share(load):
        power = np.abs(np.fft.rfft(machine_wave(machine, speed, load))) ** 2
        lines = [
            power[np.abs(FREQUENCY_HZ - k * fundamental) < 0.02 * k * fundamental].sum()
            for k in (1, 2, 3, 4)
        ]
        return sum(lines[2:]) / sum(lines)

    assert high_share(0.2) < high_share(0.5) < high_share(0.8)


@pytest.mark.parametrize(
    ("machine", "fault"), [(m, f) for m in MACHINES for f in MACHINES[m].faults]
)
def test_every_fault_is_heard(machine, fault):
    """A fault changes the sound, and more so when it is worse; other draws stay the same."""
    speed = MACHINES[machine].source_speeds[0]
    normal, mild, severe = (machine_wave(machine, speed, 0.5, fault, s) for s in (0.0, 0.1, 1.0))
    assert np.isfinite(severe).all()
    assert 0 < np.mean((mild - normal) ** 2) < 1.2 * np.mean((severe - normal) ** 2)


@pytest.mark.parametrize("machine", TEETH)
def test_drag_slows_the_shaft(machine):
    speed = MACHINES[machine].source_speeds[1]
    expected = speed / 60 * TEETH[machine]
    waves = [machine_wave(machine, speed, 0.5, fault) for fault in (None, "drag")]
    normal, slow = (line_hz(wave, 0.9 * expected, 1.1 * expected) for wave in waves)
    assert slow / normal == pytest.approx(0.97, abs=0.005)


def sideband(wave, carrier_hz, offset_hz):
    """Energy of the sidebands around a line, relative to that line."""
    power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
    line, lower, upper = (
        power[np.abs(FREQUENCY_HZ - carrier_hz - k * offset_hz) < 3].sum() for k in (0, -1, 1)
    )
    return (lower + upper) / line


@pytest.mark.parametrize(
    ("machine", "fault", "order"),
    [
        ("rotor", "imbalance", 1),
        ("rotor", "blade", 1),
        ("rotor", "rub", 0.5),
        ("gearbox", "eccentric", 23 / 31),
        ("gearbox", "misaligned", 2),
        ("bearing", "bent", 1),
        ("bearing", "loose", 0.5),
        ("bearing", "race", 3.57),
    ],
)
def test_faults_of_the_shaft_give_sidebands(machine, fault, order):
    speed = MACHINES[machine].source_speeds[0]
    carrier = speed / 60 * TEETH[machine]
    waves = [machine_wave(machine, speed, 0.5, f) for f in (None, fault)]
    normal, faulty = (sideband(wave, carrier, order * speed / 60) for wave in waves)
    assert faulty > 3 * normal


def test_missing_strokes_are_missing():
    def strokes(fault):
        envelope = np.abs(signal.hilbert(machine_wave("valve", 150, 0.2, fault)))
        return len(signal.find_peaks(envelope, height=2, distance=0.3 * SAMPLE_RATE)[0])

    assert strokes(None) in (12, 13)  # 150 a minute, 5 s
    assert strokes("missing") <= 8


def test_hidden_keeps_everything_but_the_attribute():
    clip = Clip("gearbox", "00", "source", "train", "normal", "speed_1140_load_20", "0000")
    assert synthesis.hidden(clip) == replace(clip, attribute=NO_ATTRIBUTE)
    assert synthesis.hidden(replace(clip, machine="rotor")).attribute == "speed_1140_load_20"
