"""Seconds to score one epoch: all machines in one pass against a process per machine.

  python benchmarks/scoring.py [--machines 14] [--train 40] [--test 20] [--processes 3]

  one pass       as src/train.py does: embed all clips in batches, fit a scorer per machine, write
                 every CSV, in a process that runs already
  with start     the same and the start of its process
  per machine    a process that loads the network, embeds the clips of one machine in float32 with
                 PyTorch's defaults and fits its scorer; measured for --processes machines, printed
                 for all

The network is that of subloss_0256_4096 at 18 s, untrained.
"""

import json
import time
from pathlib import Path

from measuring import child, clips, compose, options, show


def one_pass(data_dir: Path) -> float:
    from omegaconf import OmegaConf

    import train
    from settings.build import build
    from settings.session import use_hardware
    from unlabeledasd import evaluation
    from unlabeledasd.runs.folder import Run

    config = compose(data_dir, "subloss_0256_4096")
    use_hardware(config)
    table, _, module, _ = train.prepare(config)
    start = time.perf_counter()
    embeddings = evaluation.embed(
        module.extractor, Path(config.data.root), table.path.tolist(), precision=config.precision
    )
    scorers = [build(node) for node in config.scorer.values()]
    Run(config.run_dir).all.mkdir(parents=True)
    Run(config.run_dir).config.write_text(OmegaConf.to_yaml(config), encoding="utf-8")
    evaluation.score_machines(Run(config.run_dir), "epoch1", "epoch1", table, embeddings, scorers)
    return time.perf_counter() - start


def one_machine(folder: Path) -> float:
    """Seconds for one machine as in plain.py, with its own network and loader."""
    start = time.perf_counter()
    import torch
    from plain import Clips, Spectrum, Stft
    from sklearn.cluster import KMeans
    from torch import nn
    from torch.utils.data import DataLoader

    branches = nn.ModuleList([Spectrum(), Stft(4096), Stft(256)]).eval()
    embedded = []
    with torch.no_grad():
        for split in ("train", "test"):
            data = Clips(folder.parent, f"{folder.name}/{split}/*.wav")
            loader = DataLoader(data, 64, num_workers=2)
            batches = [torch.cat([branch(wave) for branch in branches], 1) for wave, _ in loader]
            embedded.append(torch.cat(batches))
    train, test = (nn.functional.normalize(e) for e in embedded)
    centers = KMeans(16, n_init=10, random_state=0).fit(train).cluster_centers_
    (1 - test @ torch.from_numpy(centers).T.float()).amin(1)
    return time.perf_counter() - start


def main() -> None:
    given = options(__doc__, machines=14, train=40, test=20, processes=3)
    if given.worker:
        name, folder = given.worker
        measure = {"pass": one_pass, "machine": one_machine}[name]
        print(json.dumps({"seconds": measure(Path(folder))}))
        return
    with clips(given.machines, given.train, given.test) as data_dir:
        together = child("scoring.py", "--worker", "pass", data_dir)
        alone = [
            child("scoring.py", "--worker", "machine", data_dir / f"bench/all/raw/machine{i:02}")
            for i in range(given.processes)
        ]
    per_machine = given.machines * sum(a["process_seconds"] for a in alone) / given.processes
    measured = {
        "per machine": per_machine,
        "with start": together["process_seconds"],
        "one pass": together["seconds"],
    }
    rows = [
        {"path": path, "seconds": s, "times faster": per_machine / s}
        for path, s in measured.items()
    ]
    title = f"One epoch of {given.machines} machines x {given.train + given.test} clips"
    show(title, rows, given.json)


if __name__ == "__main__":
    main()
