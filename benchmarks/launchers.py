"""Cost of a launcher: time until the first step, and the share of time without training or scoring.

  python benchmarks/launchers.py [--launcher local] [--runs 20] [--slots 2] [--epochs 10]

--runs short runs on generated clips, through jobs/exp/exp1.sh; --slots: how many of them the
launcher runs at a time (JOBS, nodes, GPUs), which this script cannot find out; --hours: when to
give up. Settings of the launcher in the environment (SBATCH_OPTIONS, ...) are passed on.

A run begins when src/train.py writes environment.json, before its first step, and ends with its
done marker; idle is all else in `slots` times the seconds from the call to the last end: the
launcher, imports, reading and checking clips.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from measuring import BENCHMARKS, clips, options, show
from tqdm import tqdm


def main() -> None:
    given = options(__doc__, launcher="local", runs=20, slots=2, epochs=10, hours=2)
    overrides = [
        "dataset.clip_seconds=5",
        "dataset.batch_size=8",
        f"score_epochs=[{given.epochs}]",
        "trainer.accelerator=cpu",
        "threads=1",
    ]
    with clips(2, 16, 2, seconds=5) as folder:
        settings = {
            "LAUNCHER": given.launcher,
            "JOBS": str(given.slots),
            "DATA_DIR": str(folder),
            "RESULTS_DIR": str(folder / "results"),
            "DATASETS": "folder:bench",
            "METHODS": "na_0256",
            "SEEDS": " ".join(map(str, range(given.runs))),
            "OVERRIDES": " ".join(overrides),
            "REPORT": f"--version epoch{given.epochs}",
        }
        start = time.time()
        command = [BENCHMARKS.parent / "jobs/exp/exp1.sh"]
        environment = {**os.environ, **settings}
        launcher = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
        )
        runs = [folder / f"results/bench/na_0256_{seed}/all" for seed in range(given.runs)]
        try:
            with tqdm(total=given.runs, unit="run") as bar:
                while (done := sum((run / "done").exists() for run in runs)) < given.runs:
                    check(launcher, runs, deadline=start + given.hours * 3600)
                    bar.update(done - bar.n)
                    time.sleep(0.5)
            begun, ended = (
                [written(run / name) - start for run in runs]
                for name in ("environment.json", "done")
            )
            launcher.wait()
            # Slurm's table waits in the queue; a single run has no table
            if given.launcher == "slurm" and given.runs > 1:
                while not list((folder / "results").glob("table1*.csv")):
                    check(launcher, runs, deadline=start + given.hours * 3600)
                    time.sleep(0.5)
        finally:
            end(launcher)  # before the clips are removed
    work = sum(end - begin for begin, end in zip(begun, ended, strict=True))
    slot_seconds = given.slots * max(ended)
    show(
        f"{given.runs} runs by LAUNCHER={given.launcher}, {given.slots} at a time",
        [
            {
                "first step after s": min(begun),
                "all slots busy after s": sorted(begun)[min(given.slots, given.runs) - 1],
                "work s a run": work / given.runs,
                "idle s a run": (slot_seconds - work) / given.runs,
                "idle share": 1 - work / slot_seconds,
            }
        ],
        given.json,
    )


def check(launcher: subprocess.Popen, runs: list[Path], deadline: float) -> None:
    """Exit if the launcher or a run failed, or at the deadline."""
    if launcher.poll():
        sys.exit(f"the launcher failed with status {launcher.returncode}")
    for run in runs:
        if (run / "error").exists():
            sys.exit(f"{run.parent.name} failed: {(run / 'error').read_text().strip()}")
    if time.time() > deadline:
        sys.exit("not finished in time; --hours allows more")


def end(launcher: subprocess.Popen) -> None:
    """Stop the launcher and what it started here; submitted jobs are the cluster's."""
    if launcher.poll() is None:
        os.killpg(launcher.pid, signal.SIGINT)
        launcher.wait()


def written(file: Path) -> float:
    """Time of the last change, in seconds since the epoch."""
    return file.stat().st_mtime


if __name__ == "__main__":
    main()
