"""What every part of the published triplet training is worth on a generated gearbox.

  python benchmarks/triplet.py [--clips 256] [--epochs 6] [--seeds 1,2] [--json FILE]

Trains the triplet extractor on `clips` clips of 5 s of the demo's gearbox, whose six attributes
(three speeds, two loads) it does not see, with as many clips of the other machines as noise. Rows:
the untrained network, the published training (docs/fidelity.md), and one deviation from it each:

  one pass        anchors, positives and negatives share their batch statistics
  other noise     the negative's noise is that of another anchor
  late mean       the mean over time is removed after mixing and stretching
  one more copy   a clip is repeated once more than it needs to be for its random window
  all four

Columns: the share of clips of which the 5 nearest other clips have the attribute by majority, and
per criterion the number of clusters with their adjusted Rand index.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from measuring import options, show
from scipy.io import wavfile
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

import synthesis
from settings.session import quiet_lightning
from unlabeledasd.clips import index_clips
from unlabeledasd.evaluation import embed
from unlabeledasd.fast import accelerate
from unlabeledasd.pseudo.clustering import CRITERIA, PseudoLabeler, agreement
from unlabeledasd.pseudo.triplet import TripletDataModule, TripletModule, TripletNet
from unlabeledasd.waveforms import fit_length, to_float

MACHINE = "gearbox"
DEVIATIONS = ("one pass", "other noise", "late mean", "one more copy")
ROWS = {"untrained": (), "published": (), **{d: (d,) for d in DEVIATIONS}, "all four": DEVIATIONS}


class Deviating(TripletModule):
    """Triplet training with some of DEVIATIONS."""

    deviations: tuple[str, ...] = ()

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        stft, late = self.extractor.stft(to_float(batch[0])), "late mean" in self.deviations
        x, noise = (stft if late else self.extractor.centered(stft)).chunk(2)
        encode = self.extractor.encode if late else self.extractor.encoder
        parts = self.triplet(x, noise)
        if "one pass" in self.deviations:
            embeddings = encode(torch.cat(parts)).chunk(3)
        else:
            embeddings = [encode(part) for part in parts]
        return F.triplet_margin_loss(*embeddings, margin=self.margin)

    def triplet(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if "other noise" not in self.deviations:
            return super().triplet(x, noise)
        anchor, positive, _ = super().triplet(x, noise)
        negative = super().triplet(x, noise[self.permutation(len(x))])[2]
        return anchor, positive, negative


def one_copy_more(wave: np.ndarray, length: int, position: float) -> np.ndarray:
    return fit_length(np.tile(wave, length // len(wave) + 1), length, position)


def write_clips(root: Path, n_clips: int) -> None:
    """`n_clips` source clips of the gearbox, and as many of the other machines together."""
    others = [name for name in synthesis.MACHINES if name != MACHINE]
    for machine in synthesis.MACHINES:
        count = n_clips if machine == MACHINE else -(-n_clips // len(others))
        synthesis.COUNTS["source", "train", "normal"] = count
        clips = [c for c in synthesis.demo_clips(machine) if c.domain == "source"]
        folder = root / machine / "train"
        folder.mkdir(parents=True)
        for clip in tqdm([c for c in clips if c.split == "train"], desc=machine, leave=False):
            wave = synthesis.render(clip, seed=7)
            wavfile.write(folder / f"{clip.name}.wav", synthesis.SAMPLE_RATE, wave)


def embeddings(
    root: Path, table: pd.DataFrame, deviations: tuple[str, ...], epochs: int, seed: int
) -> np.ndarray:
    """Embeddings (N, D) of the gearbox' clips by a network that is trained for `epochs`."""
    pl.seed_everything(seed, verbose=False)
    net = TripletNet(clip_seconds=synthesis.CLIP_SECONDS)
    if epochs:
        module = Deviating(net, torch.optim.AdamW, seed=seed)
        module.deviations = deviations
        data = TripletDataModule(root, table, MACHINE, net.n_samples, seed=seed)
        if "one more copy" in deviations:
            data.dataset.fit = one_copy_more
        silent = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        trainer = pl.Trainer("cpu", max_epochs=epochs, enable_checkpointing=False, **silent)
        accelerate(net, "cpu")
        trainer.fit(module, data)
    return embed(net, root, table.path[table.machine == MACHINE].tolist())


def measure(embedding: np.ndarray, attributes: pd.Series) -> dict[str, str | float]:
    """How well the attributes of clips can be found in their embeddings (N, D)."""
    neighbours = KNeighborsClassifier(5)
    found = cross_val_predict(neighbours, embedding, attributes, cv=LeaveOneOut())
    result: dict[str, str | float] = {"5 neighbours": float((found == attributes).mean())}
    for criterion in CRITERIA:
        labeler = PseudoLabeler(criterion).fit(embedding, np.zeros(len(embedding), dtype=bool))
        index = agreement(labeler.labels_, attributes)[0]
        result[criterion] = f"{labeler.n_clusters_['source']} clusters, {index:.2f}"
    return result


def main() -> None:
    given = options(__doc__, clips=256, epochs=6, seeds="1,2")
    quiet_lightning()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_clips(root, given.clips)
        table = index_clips(root, required=("train",))
        attributes = table.attribute[table.machine == MACHINE]
        for name, deviations in ROWS.items():
            for seed in map(int, given.seeds.split(",")):
                start = time.perf_counter()
                epochs = given.epochs if name != "untrained" else 0
                embedding = embeddings(root, table, deviations, epochs, seed)
                rows.append({"training": name, "seed": seed, **measure(embedding, attributes)})
                print(rows[-1], f"{time.perf_counter() - start:.0f} s", flush=True)
    steps = given.epochs * -(-given.clips // 32)
    show(f"{MACHINE}, {given.clips} clips, {steps} steps", rows, given.json)


if __name__ == "__main__":
    main()
