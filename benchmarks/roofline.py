"""How near training comes to the peak of the machine, and which operations take the time.

  python benchmarks/roofline.py [--method subloss_0256_4096] [--precision auto] [--batch 64]
    [--rows 16]

Torch's flop counter counts the work per clip in the convolutions and linear layers of
benchmarks/plain.py. The machine's peak is measured in the same run, with a large matrix product and
a convolution of 128 channels, in float32, and with bf16-mixed in bfloat16 too (hardware that does
not multiply it imitates it, for minutes). Then: the share of the float32 convolution peak that
forward, backward and the step reach in the precision given (auto: the one chosen for this machine),
and the operations that take the time.
"""

import functools
import time
from collections.abc import Callable

from measuring import clips, compose, options, show


def best_seconds(function: Callable[[], object], repeat: int = 5) -> float:
    function()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def peaks(precision: str) -> dict[str, float]:
    """FLOP/s of a matrix product and a convolution."""
    import torch

    found = {}
    for dtype in (torch.float32, *([torch.bfloat16] if precision == "bf16-mixed" else [])):
        name = str(dtype).removeprefix("torch.")
        a = torch.randn(2048, 2048).to(dtype)
        seconds = best_seconds(functools.partial(torch.mm, a, a))
        found[f"matrix product, {name}"] = 2 * 2048**3 / seconds
        x = torch.randn(16, 128, 56, 56).to(dtype, memory_format=torch.channels_last)
        w = torch.randn(128, 128, 3, 3).to(dtype, memory_format=torch.channels_last)
        seconds = best_seconds(functools.partial(torch.conv2d, x, w, padding=1))
        found[f"convolution, {name}"] = 2 * x.numel() * 128 * 9 / seconds
    return found


def flops_per_clip(method: str) -> tuple[float, float]:
    """Work of the forward and the backward pass."""
    import torch
    from plain import Spectrum, Stft
    from torch.utils.flop_counter import FlopCounterMode

    branches = [Spectrum(), *(Stft(int(n)) for n in method.split("_")[1:])]
    wave = torch.randn(2, 288_000)
    with FlopCounterMode(display=False) as forward:
        outputs = [branch(wave) for branch in branches]
    with FlopCounterMode(display=False) as backward:
        torch.cat(outputs, 1).sum().backward()
    return forward.get_total_flops() / 2, backward.get_total_flops() / 2


def main() -> None:
    given = options(__doc__, method="subloss_0256_4096", batch=64, rows=16, precision="auto")
    import torch
    from torch.profiler import profile

    import train
    from settings.session import quiet_lightning, use_hardware
    from unlabeledasd.fast import accelerate

    quiet_lightning()
    with clips(8, -(-given.batch // 8)) as data_dir:
        settings = f"dataset.batch_size={given.batch}", f"precision={given.precision}"
        config = compose(data_dir, given.method, *settings)
        use_hardware(config)
        _, _, module, data = train.prepare(config)
        accelerate(module.extractor, "cpu")
        batch = next(iter(data.train_dataloader()))
    module.log = module.log_dict = lambda *_, **__: None
    module.generator = torch.Generator().manual_seed(0)
    optimizer = module.configure_optimizers()

    def step() -> list[float]:
        times = [time.perf_counter()]
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16-mixed"):
            loss = module.training_step(batch, 0)
        times.append(time.perf_counter())
        loss.backward()
        times.append(time.perf_counter())
        optimizer.step()
        return [*times, time.perf_counter()]

    peak = peaks(config.precision)
    for _ in range(3):
        step()
    steps = sorted((step() for _ in range(5)), key=lambda times: times[-1] - times[0])
    start, forward, backward, end = steps[2]
    flops = flops_per_clip(given.method)
    work = {
        "forward": (forward - start, flops[0]),
        "backward": (backward - forward, flops[1]),
        "step": (end - start, sum(flops)),
    }
    share = "% of float32 convolution"

    def row(what: str, speed: float, seconds: float | str = "", each: float | str = "") -> dict:
        percent = 100 * speed / peak["convolution, float32"]
        cells = {"what": what, "seconds": seconds, "GFLOP per clip": each}
        return cells | {"GFLOP/s": speed / 1e9, share: percent}

    rows = [row(name, speed) for name, speed in peak.items()]
    rows += [
        row(n, given.batch * each / seconds, seconds, each / 1e9)
        for n, (seconds, each) in work.items()
    ]
    show(f"{given.method}, {given.batch} clips of 18 s, {config.precision}", rows, given.json)

    with profile() as profiled:
        step()
    events = sorted(profiled.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    show(
        "Where a step's time goes (profiled; operations are PyTorch's)",
        [
            {
                "operation": event.key,
                "calls": event.count,
                "seconds": event.self_cpu_time_total / 1e6,
                "%": 100 * event.self_cpu_time_total / total,
            }
            for event in events[: given.rows]
        ],
    )


if __name__ == "__main__":
    main()
