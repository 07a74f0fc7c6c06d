"""The demo data: four machines synthesised from their physics, with the names of DCASE Task 2.

A clip is a machine at some speed and load, perhaps with a fault, in background noise, heard
through a microphone. Noise, microphone position and recording level differ from clip to clip, more
than a fault changes a clip, and are spread evenly over normal and anomalous clips: loudness or
brightness alone finds no fault. A fault disturbs what distinguishes speed and load: line
frequencies, sidebands, harmonic balance, the timing of strokes.
"""

import filecmp
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import cycle, islice, product
from pathlib import Path

import numpy as np
from numpy.random import Generator
from scipy import signal
from scipy.io import wavfile

from unlabeledasd.audio.clip_names import NO_ATTRIBUTE, Clip
from unlabeledasd.errors import InputError
from unlabeledasd.files import replacing, write_text

VERSION = 1  # raise it with every change that a listener's computer could notice
SAMPLE_RATE = 16000
CLIP_SECONDS = 5
N_SAMPLES = SAMPLE_RATE * CLIP_SECONDS
N_BYTES = 44 + 2 * N_SAMPLES  # of a file: header, 16-bit samples
TIME = np.arange(N_SAMPLES) / SAMPLE_RATE  # seconds
FREQUENCY_HZ = np.fft.rfftfreq(N_SAMPLES, 1 / SAMPLE_RATE)
COUNTS = {  # clips of a machine
    ("source", "train", "normal"): 54,
    ("target", "train", "normal"): 6,
    ("source", "test", "normal"): 10,
    ("source", "test", "anomaly"): 10,
    ("target", "test", "normal"): 10,
    ("target", "test", "anomaly"): 10,
}
HIDDEN_MACHINES = ("gearbox", "bearing")  # those of demo_unlabeled that hide their attributes

# ---- parts of a machine; every signal is (N_SAMPLES,), every angle counts turns ----


def turns(rng: Generator, hz: float, wander: float = 0.002, hunting: float = 0.0) -> np.ndarray:
    """Angle of a shaft at `hz`: its speed wanders slower than once a second, and hunts 1.5 to 4
    times a second."""
    slow = sum(np.cos(2 * np.pi * (rng.uniform(0.05, 0.9) * TIME + rng.random())) for _ in range(3))
    slow = wander * (slow + rng.normal()) + hunting * np.cos(2 * np.pi * rng.uniform(1.5, 4) * TIME)
    return rng.random() + np.cumsum(hz * (1 + slow)) / SAMPLE_RATE


def wave(angle: np.ndarray) -> np.ndarray:
    return np.cos(2 * np.pi * angle)


def pulse(angle: np.ndarray, width: float) -> np.ndarray:
    """A smooth bump from 0 to 1 once a turn, about `width` turns wide."""
    return np.exp((wave(angle) - 1) / (np.pi * width) ** 2)


def harmonics(rng: Generator, angle: np.ndarray, amplitudes: np.ndarray) -> np.ndarray:
    """Sum over k = 1, 2, ... of a_k cos(2 pi k angle + random phase)."""
    phased = amplitudes * np.exp(2j * np.pi * rng.random(len(amplitudes)))
    return np.polyval([*phased[::-1], 0], np.exp(2j * np.pi * angle)).real


def powers(n: int, exponent: float) -> np.ndarray:
    """Amplitudes k ** -exponent of n harmonics."""
    return np.arange(1.0, n + 1) ** -exponent


def unit(x: np.ndarray) -> np.ndarray:
    """`x` at an RMS of 1."""
    return x / np.sqrt(np.mean(x**2))


def noise(rng: Generator, gain: np.ndarray) -> np.ndarray:
    """Gaussian noise of unit RMS with the spectrum `gain` over FREQUENCY_HZ."""
    return unit(np.fft.irfft(np.fft.rfft(rng.standard_normal(N_SAMPLES)) * gain, N_SAMPLES))


def hump(center_hz: float, octaves: float) -> np.ndarray:
    """A bell over the logarithm of FREQUENCY_HZ, 1 at its centre."""
    return np.exp(-0.5 * (np.log2(np.maximum(FREQUENCY_HZ, 1) / center_hz) / octaves) ** 2)


def ring(x: np.ndarray, hz: float, decay_seconds: float) -> np.ndarray:
    """`x` through a structural resonance that falls by 60 dB in `decay_seconds`."""
    radius = 10 ** (-3 / (decay_seconds * SAMPLE_RATE))
    return signal.lfilter(
        [1, 0, -1], [1, -2 * radius * np.cos(2 * np.pi * hz / SAMPLE_RATE), radius**2], x
    )


def impacts(angle: np.ndarray, at: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """An impulse where `angle` passes each of `at`, in turns."""
    inside = (at > angle[0]) & (at < angle[-1])
    x = np.zeros(N_SAMPLES)
    np.add.at(x, np.searchsorted(angle, at[inside]), heights[inside])
    return x


def repeated_impacts(rng: Generator, angle: np.ndarray, jitter: float) -> np.ndarray:
    """An impulse of about unit height once a turn, timing jitter in turns."""
    at = np.arange(np.ceil(angle[0]), angle[-1])
    return impacts(
        angle, at + jitter * rng.standard_normal(len(at)), rng.uniform(0.7, 1.3, len(at))
    )


# ---- the machines: speed per minute, load 0 to 1, fault[kind] its severity 0 to 1 (0: without
# that fault) ----


def rotor(rng: Generator, speed: float, load: float, fault: dict[str, float]) -> np.ndarray:
    """A fan of 7 blades: lines of shaft and blade pass, broadband noise that swells with every
    blade."""
    shaft = turns(rng, speed / 60 * (1 - 0.03 * fault["drag"]), hunting=0.03 * fault["surge"])
    runout = 0.12 * (fault["blade"] + fault["imbalance"]) * wave(shaft)
    lines = harmonics(rng, 7 * shaft + runout, powers(24, 1.3 - 0.8 * load + 0.9 * fault["stall"]))
    lines *= 1 + 0.8 * fault["imbalance"] * wave(shaft)
    lines *= 1 - 0.9 * fault["blade"] * pulse(shaft, 0.12)  # one blade of the seven gives less
    lines *= 1 + 0.8 * fault["rub"] * wave(shaft / 2)  # contact at every second turn
    shaft_lines = (1 + 4 * fault["imbalance"]) * harmonics(rng, shaft, powers(12, 1))
    air = noise(rng, hump(1500, 1)) * (1 + (0.3 + 0.5 * load) * wave(7 * shaft))
    rub = noise(rng, hump(2500, 0.8)) * pulse(shaft / 2, 0.05)
    return unit(lines) + 0.1 * shaft_lines + 0.5 * air + 0.8 * fault["rub"] * rub


def gearbox(rng: Generator, speed: float, load: float, fault: dict[str, float]) -> np.ndarray:
    """A pinion of 23 teeth drives a wheel of 31: mesh lines with sidebands of both shafts,
    churning oil."""
    pinion = turns(rng, speed / 60 * (1 - 0.03 * fault["drag"]))
    wheel = pinion * 23 / 31
    mesh = 23 * pinion + 0.15 * fault["eccentric"] * wave(wheel + 0.25)
    mesh += (
        6 * fault["dry"] * np.cumsum(noise(rng, FREQUENCY_HZ < 40)) / SAMPLE_RATE
    )  # stick and slip
    mesh += 0.3 * fault["tooth"] * pulse(pinion, 0.1)
    gains = powers(12, 1.4 - 0.9 * load)
    gains[1::2] *= 1 + 1.5 * fault["wear"]
    lines = unit(harmonics(rng, mesh, gains))
    lines *= 1 + (0.15 + 0.3 * load) * wave(pinion) + (0.1 + 0.5 * fault["eccentric"]) * wave(wheel)
    lines *= 1 + 0.9 * fault["misaligned"] * wave(2 * pinion)
    knock = unit(ring(ring(repeated_impacts(rng, pinion, 0.002), 1900, 0.03), 3100, 0.02))
    return lines + 0.8 * noise(rng, hump(900, 1.5)) + 0.3 * fault["tooth"] * knock


def valve(rng: Generator, speed: float, load: float, fault: dict[str, float]) -> np.ndarray:
    """A solenoid valve: every stroke clicks open, rings, hisses and clicks shut; under load it
    stays open longer."""
    stroke = turns(rng, speed / 60 * (1 - 0.25 * fault["slow"]))
    opens = np.arange(np.ceil(stroke[0]), stroke[-1])
    opens += (0.008 + 0.2 * fault["irregular"]) * rng.standard_normal(len(opens))
    opens = np.delete(
        opens, rng.permutation(len(opens))[: round(0.6 * fault["missing"] * len(opens))]
    )
    again = opens[rng.permutation(len(opens)) < fault["chatter"] * len(opens)] + 0.8
    opens = np.concatenate([opens, again])
    shuts = (
        opens
        + 0.25
        + 0.35 * load
        + 0.4 * fault["sticking"]
        + 0.008 * rng.standard_normal(len(opens))
    )
    opened = impacts(stroke, opens, rng.uniform(0.7, 1.3, len(opens)))
    shut = impacts(stroke, shuts, rng.uniform(0.7, 1.3, len(opens)))
    body = ring(opened + 0.6 * shut, 1350, 0.06) + ring(opened + shut, 2900, 0.03)
    flow = signal.lfilter([1], [1, -(10 ** (-3 / ((0.1 + 0.15 * load) * SAMPLE_RATE)))], opened)
    hiss = unit(noise(rng, hump(3000 + 1500 * load, 0.7)) * (flow + 0.15 * fault["leak"]))
    return unit(body) + (0.4 + 0.5 * load) * hiss


def bearing(rng: Generator, speed: float, load: float, fault: dict[str, float]) -> np.ndarray:
    """A shaft in a rolling bearing, driven by a toothed belt over 11 teeth: belt lines, rolling
    noise, belt flap."""
    shaft = turns(rng, speed / 60 * (1 - 0.03 * fault["drag"]), hunting=0.03 * fault["slack"])
    rolling = noise(rng, (FREQUENCY_HZ + 100) ** -0.5)
    body = unit(ring(rolling, 620, 0.02) + (0.3 + 0.4 * load) * ring(rolling, 1800, 0.01))
    body *= (
        1
        + (0.2 + 0.3 * load) * wave(shaft)
        + 0.2 * wave(0.4 * shaft)
        + 0.7 * fault["loose"] * wave(shaft / 2)
    )
    belt = (
        11 * shaft
        + 0.2 * fault["loose"] * wave(shaft / 2 + 0.25)
        + 0.15 * fault["bent"] * wave(shaft + 0.25)
    )
    lines = unit(harmonics(rng, belt, powers(16, 1.4 - 0.9 * load)))
    lines *= 1 + 0.8 * fault["bent"] * wave(shaft) + 0.6 * fault["loose"] * wave(shaft / 2)
    lines *= 1 + 0.8 * fault["race"] * wave(
        3.57 * shaft
    )  # balls pass a spalled outer race 3.57 times a turn
    flap = unit(noise(rng, hump(400, 0.7)) * pulse(0.27 * shaft, 0.08))
    spall = unit(ring(repeated_impacts(rng, 3.57 * shaft, 0.01), 2700, 0.012))
    return lines + 0.5 * body + 0.3 * flap + 0.4 * fault["race"] * spall


@dataclass(frozen=True)
class Machine:
    synthesise: Callable[..., np.ndarray]  # (rng, speed, load, fault) -> (N_SAMPLES,)
    source_speeds: tuple[int, ...]  # turns or strokes a minute
    target_speed: int
    faults: tuple[str, ...]

    @property
    def settings(self) -> dict[str, list[tuple[int, int]]]:
        """domain -> its (speed per minute, load in percent)."""
        return {
            "source": list(product(self.source_speeds, (20, 80))),
            "target": [(self.target_speed, 50)],
        }


MACHINES = {
    "rotor": Machine(
        rotor, (1410, 1470, 1530), 1590, ("imbalance", "blade", "rub", "drag", "stall", "surge")
    ),
    "gearbox": Machine(
        gearbox,
        (1140, 1200, 1260),
        1320,
        ("tooth", "wear", "eccentric", "dry", "misaligned", "drag"),
    ),
    "valve": Machine(
        valve, (150, 175, 200), 225, ("missing", "sticking", "irregular", "chatter", "leak", "slow")
    ),
    "bearing": Machine(
        bearing, (1440, 1500, 1560), 1620, ("race", "loose", "drag", "bent", "slack")
    ),
}

# ---- room, microphone, recording ----


def background(rng: Generator, domain: str, tilt: float) -> np.ndarray:
    """Coloured noise, dull (tilt 0) to bright (1), and the lines of a neighbouring machine; unit
    RMS."""
    gain = (FREQUENCY_HZ + 60) ** (1.1 * tilt - 1.4) * (1 + 2 * hump(rng.uniform(200, 4000), 0.5))
    neighbour_hz = rng.uniform(70, 190) if domain == "source" else rng.uniform(130, 250)
    lines = unit(harmonics(rng, turns(rng, neighbour_hz), powers(15, rng.uniform(0.5, 1.5))))
    return unit(noise(rng, gain) + rng.uniform(0.2, 1) * lines)


def microphone(rng: Generator, domain: str) -> np.ndarray:
    """Gain over FREQUENCY_HZ: that of the microphone, and up to 6 dB here and there from where it
    stands."""
    place_db = sum(rng.uniform(-6, 6) * hump(200 * 2 ** rng.uniform(0, 5), 0.3) for _ in range(5))
    corner_hz, presence = (40, 0) if domain == "source" else (200, 0.8)
    return (
        10 ** (place_db / 20)
        * FREQUENCY_HZ
        / (FREQUENCY_HZ + corner_hz)
        * (1 + presence * hump(3200, 0.6))
    )


def generator(*key: object) -> Generator:
    """The same on every computer, and independent of what was drawn for other keys."""
    return np.random.default_rng(list("/".join(map(str, key)).encode()))


def spread(clip: Clip, seed: int, n: int = 4) -> np.ndarray:
    """`n` numbers of a clip in 0..1, each spread evenly over its group of clips (a Latin
    hypercube)."""
    clips = COUNTS[clip.domain, clip.split, clip.condition]
    rng = generator(seed, clip.machine, clip.split, clip.domain, clip.condition)
    order = np.stack([rng.permutation(clips) for _ in range(n)])  # (n, clips)
    return (order[:, int(clip.index)] + 0.5) / clips


def fault_of(clip: Clip) -> str | None:
    faults = MACHINES[clip.machine].faults
    return faults[int(clip.index) % len(faults)] if clip.condition == "anomaly" else None


def demo_clips(machine: str) -> list[Clip]:
    """All clips of a machine, its settings in turn."""
    clips = []
    for group, n in COUNTS.items():
        settings = MACHINES[machine].settings[group[0]]
        names = [f"speed_{speed}_load_{load}" for speed, load in islice(cycle(settings), n)]
        clips += [Clip(machine, "00", *group, name, f"{i:04d}") for i, name in enumerate(names)]
    return clips


def render(clip: Clip, seed: int = 0) -> np.ndarray:
    """The samples (N_SAMPLES,) int16 of a clip."""
    rng = generator(seed, clip.machine, clip.split, clip.domain, clip.condition, clip.index)
    snr, tilt, level, severity = spread(clip, seed)
    _, speed, _, load = clip.attribute.split("_")
    fault = defaultdict(float, {fault_of(clip): 0.5 + 0.5 * severity})
    x = unit(MACHINES[clip.machine].synthesise(rng, float(speed), float(load) / 100, fault))
    x += 10 ** ((6 - 12 * snr) / 20) * background(rng, clip.domain, tilt)  # SNR -6 to 6 dB
    x = unit(np.fft.irfft(np.fft.rfft(x) * microphone(rng, clip.domain), N_SAMPLES))
    x *= 10 ** ((-40 + 12 * level) / 20)  # -40 to -28 dB of full scale
    return np.rint(32768 * x).clip(-32768, 32767).astype(np.int16)


# ---- files ----


def write_demo(
    data_dir: str | Path, seed: int = 0, progress: Callable[[list], Iterable] = iter
) -> int:
    """Write the clips of `demo` and `demo_unlabeled` that `data_dir` lacks; their number.

    `demo_unlabeled` has the same audio (as hard links where the file system has them).
    HIDDEN_MACHINES hide their attributes there; `demo_unlabeled/ground_truth/` lists them in the
    form of DCASE2024.
    """
    demo, unlabeled = Path(data_dir) / "demo", Path(data_dir) / "demo_unlabeled"
    note, made_by = demo / "made_by.txt", f"unlabeledasd synthesis {VERSION}, seed {seed}\n"
    if not note.is_file():
        write_text(note, made_by)
    elif (found := note.read_text(encoding="utf-8")) != made_by:
        raise InputError(f"{note}: says {found!r}, wanted {made_by!r}; remove {demo} first")
    clips = [clip for machine in MACHINES for clip in demo_clips(machine)]
    written = 0
    for clip in progress(clips):
        path, twin = clip_path(demo, clip), clip_path(unlabeled, hidden(clip))
        if not (path.is_file() and path.stat().st_size == N_BYTES):
            with replacing(path) as temporary:
                wavfile.write(temporary, SAMPLE_RATE, render(clip, seed))
            written += 1
        if not (twin.is_file() and filecmp.cmp(path, twin)):
            with replacing(twin) as temporary:
                link_or_copy(path, temporary)
    for machine in HIDDEN_MACHINES:
        for split in ("train", "test"):
            pairs = [(c.name, hidden(c).name) for c in demo_clips(machine) if c.split == split]
            rows = [
                ("source_file_name", "target_file_name"),
                *((f"{a}.wav", f"{b}.wav") for a, b in sorted(pairs)),
            ]
            folder = unlabeled / "ground_truth" / machine
            write_text(
                folder / f"attributes_00_{split}_correspondence.csv",
                "".join(f"{a},{b}\r\n" for a, b in rows),
            )
    return written


def hidden(clip: Clip) -> Clip:
    return replace(clip, attribute=NO_ATTRIBUTE) if clip.machine in HIDDEN_MACHINES else clip


def clip_path(dataset: Path, clip: Clip) -> Path:
    return dataset / "all" / "raw" / clip.machine / clip.split / f"{clip.name}.wav"


def link_or_copy(path: Path, copy: Path) -> None:
    try:
        os.link(path, copy)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, copy)
