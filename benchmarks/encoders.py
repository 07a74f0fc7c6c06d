"""Clips a second and memory of embeddings without training, on a CPU or a GPU.

  python benchmarks/encoders.py [--clips 8] [--seconds 10] [--threads 2] [--device cpu] [--batch 4]

CPU seconds are those of the process on all cores, which another load changes less than the wall
time. BEATs is BEATs-base with random weights: time and memory do not depend on the values. There
is a process per row; memory is the largest anonymous memory of the process less that before the
network was made, on a GPU what torch allocated at most.
"""

import json
import time

from measuring import MemoryPeak, child, options, show

NAMES = ("spectral_logmel", "spectral_psd", "beats_mean", "beats_rdp")


def make(name: str, seconds: float):
    """The extractor of a method as a function of waveforms."""
    from torch import nn

    from unlabeledasd.encoders.beats import Beats
    from unlabeledasd.encoders.pooling import DeviationPooling, TimeMean
    from unlabeledasd.encoders.spectral import LogMelStatistics, PowerSpectrum

    if name.startswith("spectral"):
        of_name = {"spectral_logmel": LogMelStatistics, "spectral_psd": PowerSpectrum}
        return of_name[name](clip_seconds=seconds)
    pooling = TimeMean() if name == "beats_mean" else DeviationPooling()
    return nn.Sequential(Beats(), pooling).requires_grad_(False)


def measure(name: str, n_clips: int, seconds: float, threads: int, device: str, batch: int) -> dict:
    import torch

    torch.set_num_threads(threads)
    memory = MemoryPeak()
    time.sleep(0.1)  # the first look
    before = memory.gb
    network = make(name, seconds).to(device).eval()
    waves = 0.1 * torch.randn(n_clips, round(16000 * seconds))
    with torch.inference_mode():
        network(waves[:1].to(device))  # the first call plans
        start, cpu = time.perf_counter(), time.process_time()
        for part in waves.split(batch):
            network(part.to(device))
        if device != "cpu":
            torch.cuda.synchronize()
        elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
    gb = memory.gb - before if device == "cpu" else torch.cuda.max_memory_allocated() / 1e9
    rates = {"clips_per_second": n_clips / elapsed, "cpu_seconds_per_clip": cpu / n_clips}
    return {"method": name, **rates, "gb": gb}


def main() -> None:
    given = options(__doc__, clips=8, seconds=10.0, threads=2, device="cpu", batch=4)
    if given.worker:
        name, *numbers = given.worker
        device, batch = numbers
        found = measure(name, given.clips, given.seconds, given.threads, device, int(batch))
        print(json.dumps(found))
        return
    rows = []
    for name in NAMES:
        settings = [f"--{key}={getattr(given, key)}" for key in ("clips", "seconds", "threads")]
        rows.append(child("encoders.py", *settings, "--worker", name, given.device, given.batch))
        del rows[-1]["process_seconds"]
    title = f"{given.clips} clips of {given.seconds:g} s, batches of {given.batch}, {given.device}"
    show(f"{title}, {given.threads} threads", rows, given.json)


if __name__ == "__main__":
    main()
