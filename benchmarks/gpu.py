"""Speed, memory, determinism and agreement with the CPU on a GPU, in some minutes.

  python benchmarks/gpu.py                         the whole table
  python benchmarks/gpu.py --parts "steps profile" --methods "subloss_0256_4096 na_1024"
  python benchmarks/gpu.py --json gpu.json         the same as JSON

Parts: card (peaks of this card), steps (clips/s of each setting), profile (kernels of a step of the
default), methods (clips/s of each method, and hours of exp1 to exp3 from them), together (one to
three processes at a time), scoring (16 machines), cpu (agreement with the CPU), bytes (two runs,
equal files).
Without a GPU it runs with tiny sizes on the CPU, where its numbers mean nothing.
"""

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from measuring import BENCHMARKS, clips, options, prepared, show
from repeatable import agreement, equal_bytes

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
BATCH, SECONDS = (64, 18.0) if CUDA else (4, 4.4)
SIZES = [f"dataset.batch_size={BATCH}", f"dataset.clip_seconds={SECONDS}"]
WARM_UP, STEPS = (5, 20) if CUDA else (1, 2)
ROUNDS = 40 if CUDA else 2  # of STEPS, of processes at a time
MACHINES = 16 if CUDA else 2
EPOCHS, TRAINING_CLIPS, TEST_CLIPS = 16, 1000, 200  # of a machine of dcase2023 and dcase2024
DEFAULT = "subloss_0256_4096"
METHODS = (
    "na_1024 na_0256 na_4096 na_1024_4096 na_0256_1024 na_0256_4096 na_0256_1024_4096 "
    f"{DEFAULT} featex_0256_4096"
)
SETTINGS = {
    "default": [],
    "no graph": ["graph=false"],
    "plain layers": ["graph=false"],  # networks.py as it is
    "not deterministic": ["trainer.deterministic=false"],
    "float32": ["precision=32-true"],
}


def elapsed(call: Callable[[], object], count: int = STEPS, warm_up: int = 3) -> float:
    """Mean seconds of a call, the device's work included."""
    for _ in range(warm_up):
        call()
    synchronize()
    start = time.perf_counter()
    for _ in range(count):
        call()
    synchronize()
    return (time.perf_counter() - start) / count


def synchronize() -> None:
    if CUDA:
        torch.cuda.synchronize()


def card() -> dict:
    """Name, driver, and the measured peaks: bfloat16 products in TFLOP/s, copies in TB/s."""
    size = 8192 if CUDA else 256
    matrix = torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16)
    words = torch.empty(2**30 if CUDA else 2**20, device=DEVICE)
    target = torch.empty_like(words)
    product = elapsed(lambda: matrix @ matrix)
    copy = elapsed(lambda: target.copy_(words))
    driver = ""
    if CUDA:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "card": torch.cuda.get_device_name() if CUDA else "CPU",
        "driver": driver.splitlines()[0] if driver else "",
        "torch": torch.__version__,
        "bf16 TFLOP/s": 2 * size**3 / product / 1e12,
        "copy TB/s": 2 * words.nbytes / copy / 1e12,
    }


def sized(data_dir: Path, method: str, *overrides: str) -> tuple:
    """(configuration, module, data) of a run with this benchmark's clip length and batch size."""
    return prepared(data_dir, method, *SIZES, *overrides)


def train_steps(data_dir: Path, method: str, *overrides: str) -> dict:
    """Seconds of a step as src/train.py makes it, and the greatest memory on the device."""
    from settings.build import build
    from unlabeledasd.runs.folder import Run
    from unlabeledasd.runs.training import fit

    limit = f"+trainer.limit_train_batches={WARM_UP + STEPS}"
    config, module, data = sized(data_dir, method, limit, *overrides)
    times = []

    class Timed(type(module)):
        def on_train_batch_end(self, _outputs, _batch, index: int) -> None:
            if index in (WARM_UP - 1, WARM_UP + STEPS - 1):
                synchronize()
                times.append(time.perf_counter())

    module.__class__ = Timed
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    make_trainer = functools.partial(build, config.trainer, precision=config.precision)
    start = time.perf_counter()
    run = Run(Path(f"{config.run_dir}_{time.monotonic_ns()}"))
    fit(run, make_trainer, module, data, [1], graph=config.graph)
    return {
        "step s": (times[1] - times[0]) / STEPS,
        "start s": times[0] - start,
        "peak GB": torch.cuda.max_memory_allocated() / 1e9 if CUDA else 0.0,
    }


def settings_table(data_dir: Path) -> list[dict]:
    """Each setting, and PyTorch's layers as they are."""
    from unlabeledasd import fast

    rows = []
    table = "ON_GPU" if CUDA else "ON_CPU"
    layers = getattr(fast, table)
    for name, overrides in SETTINGS.items():
        with patch.object(fast, table, () if name == "plain layers" else layers):
            found = train_steps(data_dir, DEFAULT, *overrides)
        step = found.pop("step s")
        rows.append({"setting": name, "clips/s": BATCH / step, "steps/s": 1 / step, **found})
        print(f"{name}: {BATCH / step:.0f} clips/s")
    return rows


def one_step(data_dir: Path, method: str, *overrides: str) -> Callable[[], torch.Tensor]:
    """A training step on one batch that stays on the device, without Lightning."""
    from unlabeledasd.fast import accelerate
    from unlabeledasd.fast.graph import GraphedExtractor

    config, module, data = sized(data_dir, method, *overrides)
    wave, labels = (x.to(DEVICE) for x in next(iter(data.train_dataloader())))
    accelerate(module.to(DEVICE).train().extractor, DEVICE)
    if CUDA and config.graph:
        module.graphed = GraphedExtractor(module.extractor)
    module.log = module.log_dict = functools.partial(lambda *_, **__: None)
    module.generator = torch.Generator(DEVICE).manual_seed(0)
    optimizer = module.configure_optimizers()
    amp = config.precision == "bf16-mixed"

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast(DEVICE, torch.bfloat16, enabled=amp):
            loss = module.training_step((wave, labels), 0)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def profile(step: Callable[[], torch.Tensor], count: int = 3) -> tuple[list[dict], float]:
    """-> (the 15 kernels that take most of a step, busy seconds of the device in a step)."""
    from torch.profiler import ProfilerActivity

    step()  # the first one records graphs
    activity = ProfilerActivity.CUDA if CUDA else ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as profiler:
        for _ in range(count):
            step()
        synchronize()
    device = torch.autograd.DeviceType.CUDA if CUDA else torch.autograd.DeviceType.CPU
    rows = []
    for event in profiler.key_averages():
        if event.device_type == device:
            total = event.self_device_time_total if CUDA else event.self_cpu_time_total
            rows.append(
                {"kernel": event.key[:90], "ms": total / 1e3 / count, "calls": event.count / count}
            )
    rows.sort(key=lambda row: -row["ms"])
    return rows[:15], sum(row["ms"] for row in rows) / 1e3


def hours(rates: dict[str, float]) -> list[dict]:
    """GPU hours of each experiment on dcase2023 and dcase2024, from clips/s of its methods.

    Runs of methods that were not measured count like subloss_0256_4096, whose network they have.
    Triplet models, set-up and scoring are not included.
    """
    rows = []
    for script in ("exp1", "exp2", "exp3"):
        environment = {**os.environ, "LIST_RUNS": "1", "DRY_RUN": "1", "DATA_DIR": "data"}
        listed = subprocess.run(
            [BENCHMARKS.parent / f"jobs/exp/{script}.sh"],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        runs = {tuple(line.split("\t")[:4]) for line in listed.stdout.splitlines()}
        trained = [run for run in runs if run[0] == "run"]
        seconds = 0.0
        for _, dataset, method, _ in trained:
            clips_seen = EPOCHS * TRAINING_CLIPS * {"dcase2023": 14, "dcase2024": 16}[dataset]
            seconds += clips_seen / rates.get(method, rates[DEFAULT])
        rows.append({"experiment": script, "runs": len(trained), "GPU hours": seconds / 3600})
    return rows


def step_ends(data_dir: Path) -> list[float]:
    """The time of day after each STEPS steps, for some seconds."""
    step = one_step(data_dir, DEFAULT)
    ends = []
    for _ in range(ROUNDS):
        for _ in range(STEPS):
            step()
        synchronize()
        ends.append(time.time())
    return ends


def together(data_dir: Path) -> list[dict]:
    """Clips/s of some processes at a time, in the time that all of them train."""
    rows = []
    for count in (1, 2, 3):
        command = [sys.executable, __file__, "--worker", str(data_dir)]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(count)]
        ends = [json.loads(run.communicate()[0].splitlines()[-1]) for run in running]
        start, stop = max(e[0] for e in ends), min(e[-1] for e in ends)
        steps = sum(STEPS * sum(start < end <= stop for end in e) for e in ends)
        rate = BATCH * steps / (stop - start) if stop > start else float("nan")
        rows.append({"at a time": count, "clips/s": rate, "common s": max(0.0, stop - start)})
    return rows


def scoring(data_dir: Path) -> list[dict]:
    """Seconds of one epoch's scores: clips to the device, embeddings, scorers of 16 machines."""
    from settings.build import build
    from unlabeledasd import evaluation
    from unlabeledasd.cache import ClipCache
    from unlabeledasd.clips import index_clips
    from unlabeledasd.runs.folder import Run

    config, module, _ = sized(data_dir, DEFAULT)
    root = Path(config.data.root)
    paths = index_clips(root, None, "free").path.tolist()
    start = time.perf_counter()
    cache = ClipCache.read(root, paths, None, torch.device(DEVICE), 1e9 * config.data.cache_gb)
    read = time.perf_counter() - start
    on_device = {"device": DEVICE, "precision": config.precision, "cache": cache}
    embed = functools.partial(evaluation.embed, module.extractor, root, paths, **on_device)
    embedded = elapsed(embed, count=1, warm_up=1)
    # the scorers' time depends on the number of clips alone
    splits = ["train"] * TRAINING_CLIPS + ["test"] * TEST_CLIPS if CUDA else ["train", "test"] * 20
    table = pd.DataFrame({"split": splits * MACHINES})
    table["machine"] = np.repeat([f"machine{i:02}" for i in range(MACHINES)], len(splits))
    table["path"] = table.machine + "/" + table.index.astype(str)
    table["domain"] = np.where(table.index % 100 < 99, "source", "target")
    table["condition"] = np.where(table.index % 2 < 1, "normal", "anomaly")
    size = len(table), module.extractor.embedding_size
    embeddings = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    scorers = [build(node) for node in config.scorer.values()]
    run = Run(data_dir / "scored")
    score = functools.partial(
        evaluation.score_machines, run, "epoch1", "epoch1", table, embeddings, scorers
    )
    scored = elapsed(score, count=1, warm_up=0)
    row = {"clips read/s": len(paths) / read, "clips embedded/s": len(paths) / embedded}
    return [{**row, "scorers s": scored, "scored clips": len(table)}]


def compare_with_cpu(data_dir: Path) -> list[dict]:
    return agreement(data_dir, DEFAULT, DEVICE)


def compare_runs(data_dir: Path) -> list[dict]:
    return equal_bytes(data_dir, DEFAULT, *SIZES)


SINGLE = {
    "together": ("Processes at a time", together),
    "scoring": ("Scoring of an epoch", scoring),
    "cpu": ("Agreement with the CPU in float32, relative", compare_with_cpu),
    "bytes": ("Two runs", compare_runs),
}
PARTS = "card steps profile methods together scoring cpu bytes"


def main() -> None:
    given = options(__doc__, parts=PARTS, methods=METHODS)
    if given.worker:
        print(json.dumps(step_ends(Path(given.worker[0]))))
        return
    tables: dict[str, list[dict]] = {}

    def add(title: str, rows: list[dict]) -> None:
        tables[title] = rows
        show(title, rows)

    with clips(MACHINES, -(-BATCH * (STEPS + 5) // MACHINES), seconds=min(SECONDS, 10)) as data_dir:
        for part in given.parts.split():
            if part == "card":
                add("Card", [card()])
            elif part == "steps":
                add(f"Settings, {BATCH} clips of {SECONDS:g} s", settings_table(data_dir))
            elif part == "profile":
                rows, busy = profile(step := one_step(data_dir, DEFAULT))
                add("Kernels of a step", rows)
                add("Host gaps", [{"busy s": busy, "step s": elapsed(step)}])
            elif part == "methods":
                rates = {
                    m: BATCH / train_steps(data_dir, m)["step s"] for m in given.methods.split()
                }
                add("Methods", [{"method": m, "clips/s": rate} for m, rate in rates.items()])
                add("Hours", hours(rates))
            elif part in SINGLE:
                title, measure = SINGLE[part]
                add(title, measure(data_dir))
            else:
                sys.exit(f"--parts {part}: allowed are {PARTS}")
    if given.json:
        given.json.write_text(json.dumps(tables, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
