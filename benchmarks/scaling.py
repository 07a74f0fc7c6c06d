"""Seconds and memory of training and scoring by the number of clips, machines, and clip length.

  python benchmarks/scaling.py [--clips 64] [--most 8]

Each point is a process that trains one epoch of subloss_0256_4096 in batches of 16 and scores it,
on 1, 2, 4, ... --most times as many clips (of 5 s), machines, or seconds. A straight line is fitted
to seconds over size; `off` is the largest distance of a point from the line. Clips that stay in
memory would show in the peak.
"""

import json
import time
from pathlib import Path

import numpy as np
from measuring import MemoryPeak, child, clips, compose, options, show
from tqdm import tqdm


def work(data_dir: Path, seconds: str) -> float:
    """Seconds of one epoch and its scores."""
    import train
    from settings.session import quiet_lightning
    from unlabeledasd.runs.folder import Run

    quiet_lightning()
    config = compose(
        data_dir,
        "subloss_0256_4096",
        f"dataset.clip_seconds={seconds}",
        "dataset.batch_size=16",
        "score_epochs=[1]",
        "trainer.logger=false",
    )
    start = time.perf_counter()
    train.train(config, Run(config.run_dir))
    return time.perf_counter() - start


def main() -> None:
    given = options(__doc__, clips=64, most=8)
    if given.worker:
        peak, (folder, seconds) = MemoryPeak(), given.worker
        print(json.dumps({"seconds": work(Path(folder), seconds), "peak_gb": peak.gb}))
        return
    factors = [2**i for i in range(given.most.bit_length())]
    kinds = ("clips", "machines", "clip seconds")
    points = [(what, factor) for what in kinds for factor in factors]
    rows = []
    for what, factor in tqdm(points, unit="process"):
        machines = 4 * (factor if what == "machines" else 1)
        each = given.clips // 4 * (factor if what == "clips" else 1)
        seconds = 5 * (factor if what == "clip seconds" else 1)
        with clips(machines, each, 2, seconds) as data_dir:
            found = child("scaling.py", "--worker", data_dir, seconds)
        size = {"clips": machines * each, "machines": machines, "clip seconds": seconds}[what]
        row = {"against": what, "size": size}
        rows.append(row | {"seconds": found["seconds"], "peak GB": found["peak_gb"]})
    for what in kinds:
        own = [row for row in rows if row["against"] == what]
        sizes, values = (np.array([row[key] for row in own]) for key in ("size", "seconds"))
        slope, start = np.polyfit(sizes, values, 1)
        off = float(np.abs(start + slope * sizes - values).max())
        for row in own:
            row |= {"seconds at 0": float(start), "seconds each": float(slope), "off": off}
    show("One epoch and its scores", rows, given.json)


if __name__ == "__main__":
    main()
