"""What benchmarks/gpu.py compares: a device with the CPU, and two runs byte by byte."""

import functools
import subprocess
import sys
from pathlib import Path

import torch
from measuring import BENCHMARKS, prepared


def agreement(data_dir: Path, method: str, device: str) -> list[dict]:
    """Training and embeddings in float32 on this device against the CPU: relative differences.

    Without TF32, in which a GPU convolves otherwise: its 10 bits are no float32. Gradients and
    embeddings are those of the first step. Rounding grows tenfold with each step of AdamW: after
    five steps embeddings of two CPU paths differ by 8 % too.
    """
    from scipy.stats import spearmanr

    from unlabeledasd.fast import accelerate

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    found = {}
    for place in ("cpu", device):
        # without mixup, whose draws differ between devices
        overrides = ["dataset.clip_seconds=5", "dataset.batch_size=8", "model.mixup_prob=0"]
        overrides += ["precision=32-true", f"trainer.accelerator={place}"]
        _, module, data = prepared(data_dir, method, *overrides)
        module.log = module.log_dict = functools.partial(lambda *_, **__: None)
        module.generator = torch.Generator(place).manual_seed(0)
        accelerate(module.to(place).train().extractor, place)
        optimizer = module.configure_optimizers()
        losses, first = [], []
        for _, batch in zip(range(5), data.train_dataloader(), strict=False):
            optimizer.zero_grad()
            loss = module.training_step([x.to(place) for x in batch], 0)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if not first:
                grads = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
                with torch.inference_mode():
                    wave = batch[0].to(place) / 32768
                    first = [torch.cat(grads), module.extractor.eval()(wave)[0]]
                module.extractor.train()
        found[place] = [x.double().cpu() for x in (torch.tensor(losses), *first)]
    losses, gradients, embeddings = zip(found["cpu"], found[device], strict=True)
    distances = [torch.cdist(e, e).flatten().numpy() for e in embeddings]
    return [
        {
            "losses of 5 steps": ((losses[0] - losses[1]).abs() / losses[0]).max().item(),
            "gradients": ((gradients[0] - gradients[1]).norm() / gradients[0].norm()).item(),
            "embeddings": ((embeddings[0] - embeddings[1]).norm() / embeddings[0].norm()).item(),
            "rank correlation of distances": float(spearmanr(*distances).statistic),
        }
    ]


def equal_bytes(data_dir: Path, method: str, *overrides: str) -> list[dict]:
    """Two runs of src/train.py with equal settings: how many of their score CSVs differ."""
    scores = []
    for name in ("one", "other"):
        config = ["dataset=folder", "dataset.name=bench", f"data_dir={data_dir}", "seed=1"]
        config += [f"method={method}", f"run_dir={data_dir}/{name}", "score_epochs=[1]"]
        config += overrides
        command = [sys.executable, BENCHMARKS.parent / "src/train.py", *config]
        subprocess.run(command, check=True, capture_output=True)
        files = sorted(Path(data_dir, name).glob("*/infer/*/*_score.csv"))
        scores.append({file.relative_to(data_dir / name): file.read_bytes() for file in files})
    one, other = scores
    differing = sum(content != other.get(file) for file, content in one.items())
    return [{"score CSVs": len(one), "differing": differing}]
