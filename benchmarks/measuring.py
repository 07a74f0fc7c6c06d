"""Shared by the benchmarks: clips, a configuration, child processes that print JSON, tables."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

BENCHMARKS = Path(__file__).resolve().parent
SOURCE = BENCHMARKS.parent / "src"
RATE = 16000
sys.path.insert(0, str(SOURCE))


@contextmanager
def clips(n_machines: int, n_train: int, n_test: int = 1, seconds: float = 10.0) -> Iterator[Path]:
    """A data folder with the dataset `bench`: noise, since only its size matters."""
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for machine in range(n_machines):
            for split, count in (("train", n_train), ("test", n_test)):
                place = Path(folder, "bench/all/raw", f"machine{machine:02}", split)
                place.mkdir(parents=True)
                for i in range(count):
                    wave = rng.integers(-3000, 3000, round(seconds * RATE), dtype=np.int16)
                    name = f"section_00_source_{split}_normal_{i:04}_a.wav"
                    soundfile.write(place / name, wave, RATE)
        yield Path(folder)


def compose(data_dir: Path, method: str, *overrides: str):
    """Configuration of src/train.py for the dataset `bench`; results are next to the clips."""
    import hydra
    from omegaconf import OmegaConf

    settings = [
        "dataset=folder",
        "dataset.name=bench",
        f"data_dir={data_dir}",
        f"method={method}",
        "seed=1",
        f"run_dir={data_dir}/run{os.getpid()}",
    ]
    with hydra.initialize_config_dir(str(SOURCE / "config"), version_base="1.3"):
        config = hydra.compose("train", [*settings, *overrides])
    OmegaConf.resolve(config)
    return config


def prepared(data_dir: Path, method: str, *overrides: str):
    """(configuration, module, data) of a run of one epoch on the dataset `bench`."""
    import train
    from settings.session import quiet_lightning, use_hardware

    quiet_lightning()
    config = compose(data_dir, method, "score_epochs=[1]", "trainer.logger=false", *overrides)
    use_hardware(config)
    return config, *train.prepare(config)[2:]


def child(script: str, *arguments: object, **environment: str) -> dict:
    """What a script of this folder, run in its own process, prints as JSON in its last line."""
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    start = time.perf_counter()
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return {
        **json.loads(done.stdout.splitlines()[-1]),
        "process_seconds": time.perf_counter() - start,
    }


class MemoryPeak:
    """Peak of anonymous memory of this process, in GB, sampled fifty times a second."""

    def __init__(self):
        self.gb = 0.0
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self) -> None:
        while True:
            status = Path("/proc/self/status").read_text(encoding="ascii")
            self.gb = max(self.gb, int(status.split("RssAnon:")[1].split()[0]) / 1e6)
            time.sleep(0.02)


def options(documentation: str, **defaults: int | str) -> argparse.Namespace:
    """Command line with --help, --json, and an option per default."""
    parser = argparse.ArgumentParser(
        description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in defaults.items():
        parser.add_argument(
            f"--{name}", type=type(default), default=default, help="(default: %(default)s)"
        )
    parser.add_argument("--json", type=Path, help="write the table there too")
    parser.add_argument("--worker", nargs="*", help=argparse.SUPPRESS)
    return parser.parse_args()


def show(title: str, rows: list[dict], file: Path | None = None) -> None:
    """Rows of equal keys as a table, and as JSON."""
    cells = [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(rows[0], *cells, strict=True)]
    print(f"\n{title}")
    for line in (rows[0], *cells):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    if file:
        file.write_text(
            json.dumps({"title": title, "rows": rows}, indent=1) + "\n", encoding="utf-8"
        )


def rounds(count: int, names: list[str]) -> Iterator[str]:
    """A B A B ..., with a progress bar: a machine that slows down slows all of them."""
    yield from tqdm(names * count, desc="measuring", unit="process")
