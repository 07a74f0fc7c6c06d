"""Clusters of the pseudo-labels of the demo's machines by the number of their clips.

  export DATA_DIR=data DATASETS=demo_unlabeled
  METHODS=subloss_0256_4096 SEEDS=1 jobs/exp/exp2.sh
  PYTHONPATH=preprocess python benchmarks/clusters.py RUN [--speeds 900 1200 1600]

RUN: results/exp/demo_unlabeled/subloss_0256_4096_1.

Generates clips of the machines without attributes that the teacher has not seen, as many as DCASE
has, embeds them with its epoch 14 and clusters the first 54, 120, ... of them. The demo itself has
54 source clips per machine.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import hydra
import numpy as np
from omegaconf import OmegaConf
from scipy.io import wavfile

import synthesis
from unlabeledasd.pseudo.clustering import CRITERIA, PseudoLabeler, agreement
from unlabeledasd.pseudo.embedders import OwnModel
from unlabeledasd.runs.folder import Run

N_CLIPS = (54, 120, 240, 500, 990)


def embed(model: OwnModel, machine: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings (N, D), is_target (N,) and attributes (N,) of new training clips."""
    counts = {("source", "train", "normal"): N_CLIPS[-1], ("target", "train", "normal"): 10}
    with patch.dict(synthesis.COUNTS, counts), tempfile.TemporaryDirectory() as folder:
        clips = [clip for clip in synthesis.demo_clips(machine) if clip.split == "train"]
        for clip in clips:
            wave = synthesis.render(clip, seed=7)
            wavfile.write(Path(folder, f"{clip.name}.wav"), synthesis.SAMPLE_RATE, wave)
        embedding = model.embed(Path(folder), [f"{clip.name}.wav" for clip in clips])
    is_target = np.array([clip.domain == "target" for clip in clips])
    return embedding, is_target, np.array([clip.attribute for clip in clips])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of the teacher's run")
    parser.add_argument(
        "--speeds", type=int, nargs="+", help="per minute, in place of the demo's source domain"
    )
    options = parser.parse_args()
    run = Run(options.run)
    extractor = hydra.utils.instantiate(
        OmegaConf.load(run.require(run.config)).model.extractor, _convert_="all"
    )
    model = OwnModel(extractor, run.checkpoint(14), unit_norm=True)
    for machine in synthesis.HIDDEN_MACHINES:
        if options.speeds:
            made = replace(synthesis.MACHINES[machine], source_speeds=tuple(options.speeds))
            synthesis.MACHINES[machine] = made
        embedding, is_target, attributes = embed(model, machine)
        for n in N_CLIPS:
            rows = np.concatenate([np.flatnonzero(~is_target)[:n], np.flatnonzero(is_target)])
            cells = []
            for criterion in CRITERIA:
                labeler = PseudoLabeler(criterion).fit(embedding[rows], is_target[rows])
                ari = agreement(labeler.labels_[:n], attributes[rows[:n]])[0]
                found = labeler.n_clusters_["source"]
                cells.append(f"{criterion}: {found:2} clusters, adjusted Rand index {ari:.2f}")
            print(f"{machine:8} {n:4} source clips", *cells, sep="   ", flush=True)


if __name__ == "__main__":
    main()
