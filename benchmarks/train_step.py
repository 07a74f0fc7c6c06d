"""Training speed and memory: src/train.py against plain PyTorch (benchmarks/plain.py).

  python benchmarks/train_step.py [--methods "subloss_0256_4096 na_1024"] [--batches 5] [--rounds 2]

Batches of 64 clips of 18 s (10 s on disk, as in DCASE data). Each measurement is a process of its
own, in turns:

  plain         float32, default allocator, clips decoded by two DataLoader workers
  plain tuned   the same with an allocator that keeps its memory (three MALLOC_ variables)
  plain bf16    tuned, with autocast to bfloat16 and channels_last too
  train         src/train.py, reading included, default settings
  step          the same without reading and without Lightning: one batch again and again
  float32       as train, with precision=32-true

clips/s is the median over the steps after the first; memory is the peak of anonymous memory of the
training process.
"""

import functools
import itertools
import json
import statistics
import time
from pathlib import Path

from measuring import MemoryPeak, child, clips, options, prepared, rounds, show

BATCH = 64
KEEP = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}


def train_worker(data_dir: Path, method: str, batches: str, *overrides: str) -> list[float]:
    """Seconds of each step as Lightning makes them."""
    from settings.build import build
    from unlabeledasd.runs.folder import Run
    from unlabeledasd.runs.training import fit

    config, module, data = prepared(
        data_dir, method, f"+trainer.limit_train_batches={batches}", *overrides
    )
    ends = []

    class Timed(type(module)):
        def on_train_batch_end(self, *_):
            ends.append(time.perf_counter())

    module.__class__ = Timed
    make_trainer = functools.partial(build, config.trainer, precision=config.precision)
    fit(Run(config.run_dir), make_trainer, module, data, [1])
    return [end - start for start, end in itertools.pairwise(ends)]


def step_worker(data_dir: Path, method: str, batches: str) -> list[float]:
    """Seconds of each step on one batch in memory."""
    import torch

    from unlabeledasd.fast import accelerate

    config, module, data = prepared(data_dir, method)
    accelerate(module.extractor, "cpu")
    batch = next(iter(data.train_dataloader()))
    module.log = module.log_dict = functools.partial(lambda *_, **__: None)
    module.generator = torch.Generator().manual_seed(0)
    optimizer, seconds = module.configure_optimizers(), []
    for _ in range(int(batches)):
        start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16-mixed"):
            loss = module.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def measure(path: str, data_dir: Path, method: str, batches: int) -> dict:
    if path.startswith("plain"):
        folder, bf16 = data_dir / "bench/all/raw", ["--bf16"] if path == "plain bf16" else []
        arguments = [folder, "--method", method, "--batches", batches, *bf16]
        return child("plain.py", *arguments, **({} if path == "plain" else KEEP))
    worker = ["step"] if path == "step" else ["train"]
    overrides = ["precision=32-true"] if path == "float32" else []
    return child("train_step.py", "--worker", *worker, data_dir, method, batches, *overrides)


def main() -> None:
    paths = "plain,plain tuned,plain bf16,train,step,float32"
    given = options(__doc__, methods="subloss_0256_4096", batches=5, rounds=2, paths=paths)
    if given.worker:
        import unlabeledasd  # noqa: F401  before torch: how long its threads wait

        peak, (name, folder, *arguments) = MemoryPeak(), given.worker
        seconds = {"train": train_worker, "step": step_worker}[name](Path(folder), *arguments)
        print(json.dumps({"seconds": seconds, "peak_gb": peak.gb}))
        return
    rows = []
    with clips(8, -(-BATCH * given.batches // 8)) as data_dir:
        for method in given.methods.split():
            found = {path: [] for path in given.paths.split(",")}
            for path in rounds(given.rounds, list(found)):
                found[path].append(measure(path, data_dir, method, given.batches))
            first = None
            for path, results in found.items():
                speed = BATCH / statistics.median(s for r in results for s in r["seconds"])
                memory = max(r["peak_gb"] for r in results)
                first = first or (speed, memory)
                row = {"method": method, "path": path, "clips/s": speed, "ratio": speed / first[0]}
                rows.append(row | {"peak GB": memory, "ratio of memory": memory / first[1]})
    show(f"Batches of {BATCH} clips of 18 s", rows, given.json)


if __name__ == "__main__":
    main()
