"""A live stream of raw samples, scored window by window: a JSON line for each."""

import json
import re
import sys
from argparse import ArgumentParser, Namespace
from collections import deque
from collections.abc import Iterator
from math import isnan
from typing import BinaryIO

import numpy as np
import soxr

from reporting.drift import STREAM_SECONDS, History, drift_fields
from reporting.lines import print_beside_bar
from unlabeledasd.audio.levels import check_values, level_notes
from unlabeledasd.audio.two_channels import last_channel
from unlabeledasd.detection.conformal import onset_rate, windows_in_a_row
from unlabeledasd.detection.detector import Detector
from unlabeledasd.detection.recent import WINDOWS
from unlabeledasd.detection.recordings import windows
from unlabeledasd.errors import InputError, check_range

FORMATS = {"s16le": "<i2", "s32le": "<i4", "f32le": "<f4"}  # as arecord and ffmpeg name them
BLOCK_SECONDS = 0.25


def stream_options(parser: ArgumentParser) -> None:
    parser.add_argument("--stream-rate", type=int, metavar="HZ", help="of - (the detector's)")
    parser.add_argument("--stream-channels", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--stream-format", choices=list(FORMATS), default="s16le")
    parser.add_argument(
        "--alarm-of", metavar="K/M", help="of -: K anomalous windows of the last M (1/1)"
    )
    parser.add_argument(
        "--false-alarm-every",
        type=float,
        metavar="HOURS",
        help="of -: choose how many windows in a row, if they err independently of each other",
    )


def alarm_rule(
    detector: Detector, seconds: float, options: Namespace
) -> tuple[int, int, str | None]:
    """(K, M, what a rule that was chosen promises): an alarm is K anomalous windows of the last M.

    seconds: from one window to the next.
    """
    hours = options.false_alarm_every
    if hours is None:
        found = re.fullmatch(r"(\d+)/(\d+)", given := options.alarm_of or "1/1")
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise InputError(f"--alarm-of {given}: K/M with 1 <= K <= M, for instance 3/5")
        return int(found[1]), int(found[2]), None
    check_range("--false-alarm-every", hours, 0.001, 1e6)
    if options.alarm_of:
        raise InputError(f"--alarm-of {options.alarm_of}: not together with --false-alarm-every")
    rate = detector.alarm_rate
    if rate is None or options.threshold != "auto":
        raise InputError(
            f"--false-alarm-every {hours:g}: needs the thresholds of a detector of src/learn.py"
        )
    count = windows_in_a_row(rate, 3600 * hours / seconds)
    independent = seconds / onset_rate(rate, count, count) / 3600
    promise = (
        f"an alarm is {count} anomalous windows in a row ({count * seconds:g} s): a false one "
        f"begins every {independent:.3g} hours if windows err independently of each other; they "
        f"are alike, so more often, at most every {seconds / rate:.3g} s"
    )
    return count, count, promise


def read_stream(
    stream: BinaryIO, rate: int, channels: int, form: str, channel: int | None
) -> Iterator[np.ndarray]:
    """Blocks (T,) float32 of interleaved samples, as they come.

    channel: as in recordings.read_blocks. A sample that is cut at the end is left out.
    """
    kind = np.dtype(FORMATS[form])
    size = kind.itemsize * channels
    rest = b""
    while data := stream.read(max(1, round(rate * BLOCK_SECONDS)) * size):
        data = rest + data
        whole = len(data) // size * size
        samples = np.frombuffer(data[:whole], kind).reshape(-1, channels)
        rest = data[whole:]
        scale = 1 if kind.kind == "f" else np.iinfo(kind).max + 1
        wave = (samples / scale).astype(np.float32)
        one = wave.mean(axis=1) if channel is None else np.ascontiguousarray(wave[:, channel])
        check_values(one)
        yield one


def resampled(blocks: Iterator[np.ndarray], rate: int, wanted: int) -> Iterator[np.ndarray]:
    if rate == wanted:
        yield from blocks
        return
    resampler = soxr.ResampleStream(rate, wanted, 1, dtype="float32")
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.empty(0, np.float32), last=True)


def score_stream(detector, stream: BinaryIO, options: Namespace, history: History) -> int:
    """Print a JSON line for every window until the stream ends -> exit status.

    Its `alarm` is true while K of the last M windows are anomalous, by `alarm_rule`: single
    windows err at the stated rate, several at once more rarely. Thresholds are of single windows.
    """
    history.calibrated = detector = detector.of_windows()
    hop = round((options.hop or detector.n_samples / detector.sample_rate) * detector.sample_rate)
    needed, of_last, promise = alarm_rule(detector, hop / detector.sample_rate, options)
    last = deque[bool](maxlen=of_last)
    rate, channels = options.stream_rate or detector.sample_rate, options.stream_channels
    check_range("--stream-rate", rate, 1000, 1_000_000)
    check_range("--stream-channels", channels, 1, 64)
    channel = detector.channel if options.channel is None else options.channel
    if channel == "w1":
        raise InputError("-: channel w1 needs whole recordings; --channel 0 takes the near one")
    channel = 0 if channels == 1 else channel
    if isinstance(channel, str):
        channel = last_channel(channel)
    if channel is not None and not 0 <= channel < channels:
        raise InputError(f"--channel {channel}: the stream has {channels} (from 0)")
    machines = list(detector.machines)
    if (machine := options.machine or (machines[0] if len(machines) == 1 else None)) is None:
        raise InputError(f"--machine is needed: the detector has {' '.join(machines)}")
    threshold = detector.threshold(machine, options.threshold, options.quantile)
    if promise:
        print_beside_bar(f"note: {promise}", sys.stderr)
    blocks = read_stream(stream, rate, channels, options.stream_format, channel)
    kept_every = max(1, round(STREAM_SECONDS * detector.sample_rate / hop))
    count = 0
    for start, wave in windows(
        resampled(blocks, rate, detector.sample_rate), detector.n_samples, hop
    ):
        score = float(detector.score_windows(wave[None], machine)[0])
        last.append(score > threshold)
        p_value = float(detector.p_value(machine, score))
        alarm = sum(last) >= needed
        drift = history.add_window(machine, count, kept_every, score, threshold, alarm)
        line = {
            "start_s": round(start / detector.sample_rate, 3),
            "machine": machine,
            "score": score,
            "threshold": None if isnan(threshold) else threshold,
            "decision": None if isnan(threshold) else "anomaly" if last[-1] else "normal",
            "p_value": None if isnan(p_value) else p_value,
            "alarm": alarm,
            "note": "; ".join(level_notes(wave, is_float=False)) or None,
            **drift_fields(drift),
        }
        print(json.dumps(line), flush=True)
        history.follow(machine, WINDOWS, drift)
        count += 1
    if not count:
        raise InputError("-: no samples came")
    return 0
