"""Time of making the pseudo-labels of one machine of DCASE size, on one thread.

  python benchmarks/pseudolabels.py [--clips 1000] [--size 384] [--clusters 10] [--embed 16]

Embedding is measured on --embed clips of 18 s with the network of subloss_0256_4096 and printed
for all clips (0 leaves it out). Compiling is the extra time of the first UMAP of a process.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from unlabeledasd.pseudo.cluster_map import draw_map
from unlabeledasd.pseudo.clustering import PseudoLabeler, agreement

TARGET_CLIPS = 10


def separated(n_clips: int, size: int, n_clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (N, D) in separated clusters, and the cluster of each (N,)."""
    rng = np.random.default_rng(0)
    cluster = rng.integers(n_clusters, size=n_clips)
    centers = rng.standard_normal((n_clusters, size))
    embedding = centers[cluster] + 0.5 * rng.standard_normal((n_clips, size))
    return embedding.astype(np.float32), cluster


def seconds(function: Callable, *arguments, repeat: int = 1) -> float:
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - start)
    return min(times)


def embedding_seconds(n_clips: int) -> float:
    """Seconds for one clip of 18 s, read and embedded in batches."""
    import soundfile
    import torch

    from unlabeledasd.networks import MultiResolutionNet
    from unlabeledasd.pseudo.embedders import Embedder

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{i}.wav" for i in range(n_clips)]
        for i, path in enumerate(paths):
            wave = 0.1 * np.random.default_rng(i).standard_normal(18 * 16000)
            soundfile.write(Path(folder, path), wave, 16000)
        embedder = Embedder(MultiResolutionNet(), "embedding")
        return seconds(embedder.embed, Path(folder), paths) / n_clips


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--clusters", type=int, default=10)
    parser.add_argument("--embed", type=int, default=16)
    options = parser.parse_args()
    embedding, cluster = separated(options.clips, options.size, options.clusters)
    is_target = np.arange(options.clips) >= options.clips - TARGET_CLIPS
    rows = []
    if options.embed:
        rows.append(("embedding", options.clips * embedding_seconds(options.embed)))
    with threadpool_limits(1), tempfile.TemporaryDirectory() as folder:
        labeler = PseudoLabeler()
        few = separated(100, 8, 2)[0], np.zeros(100)
        rows.append(("compiling UMAP", seconds(labeler.fit, *few) - seconds(labeler.fit, *few)))
        rows.append(("UMAP", seconds(labeler._reduce, embedding, repeat=3)))
        labeler.fit(embedding, is_target)
        places = labeler.map_[~is_target]
        rows.append(
            ("mixtures by cv_bic", seconds(labeler._cluster, places, labeler.max_source, repeat=3))
        )
        bic = seconds(PseudoLabeler("bic")._cluster, places, labeler.max_source, repeat=3)
        clips = pd.DataFrame(
            {
                "x": labeler.map_[:, 0],
                "y": labeler.map_[:, 1],
                "cluster": labeler.labels_,
                "domain": np.where(is_target, "target", "source"),
                "true_attribute": cluster.astype(str),
            }
        )
        rows.append(("plot", seconds(draw_map, Path(folder, "map.png"), clips, "benchmark")))
    rows += [("sum", sum(value for _, value in rows)), ("mixtures by bic instead", bic)]
    print(f"{options.clips} clips x {options.size}, {options.clusters} clusters")
    print(*(f"{name:24}{value:8.1f} s" for name, value in rows), sep="\n")
    found = labeler.n_clusters_["source"]
    ari = agreement(labeler.labels_[~is_target], cluster[~is_target])[0]
    print(f"{found} clusters found in the source domain, adjusted Rand index {ari:.3f}")


if __name__ == "__main__":
    main()
