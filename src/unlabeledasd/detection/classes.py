"""The classes that a network of src/learn.py --train learns."""

from typing import NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from sklearn.preprocessing import StandardScaler

from unlabeledasd.audio.clip_names import composed
from unlabeledasd.detection.learning import Learned
from unlabeledasd.detection.survey import condition_of
from unlabeledasd.labels import class_names
from unlabeledasd.scoring import one_thread

LEAST_RECORDINGS = 3  # of a condition, on average: dates and numbers are none
MOST_CLUSTERS = 8
LEAST_SHARE = 0.05  # of the windows, in a cluster
CLEAR = 0.5  # silhouette; Kaufman and Rousseeuw (1990) call less a weak structure or none
DIMENSIONS = 10  # of the principal components in which clusters are looked for
MOST_WINDOWS = 2000  # of which silhouettes are computed


class Classes(NamedTuple):
    """names: of the class of every window; why: in words; are_made: by transformations too."""

    names: list[str]
    why: str
    are_made: bool = False


def choose_classes(references: Learned) -> Classes:
    """Machines and conditions where there are several, else clusters of spectra, else one class.

    references: windows with their spectral embeddings (N, ...). That one class is for
    transformations of its clips.
    """
    windows = references.windows
    machines = windows.machine.tolist()
    places = zip(machines, windows.recording, strict=True)
    pairs = [(machine, composed(condition_of(path, machine))) for machine, path in places]
    several, count = len(set(machines)) > 1, len(set(pairs))
    is_fine = count * LEAST_RECORDINGS <= windows.recording.nunique()
    if count > len(set(machines)) and is_fine:
        what = "machines and conditions" if several else f"conditions of {machines[0]}"
        return Classes(class_names(pairs), f"{count} classes: {what}, by folders and names")
    if several:
        return Classes(machines, f"{len(set(machines))} classes: machines")
    clusters, silhouette = find_clusters(references.embedding)
    what = "one machine without conditions"
    if silhouette >= CLEAR:
        names = [f"{machines[0]}-cluster-{cluster}" for cluster in clusters]
        why = f"{what}: {len(set(names))} clusters of its spectra (silhouette {silhouette:.2f})"
        return Classes(names, why)
    why = f"{what} or clear clusters (silhouette {silhouette:.2f}): transformations of its clips"
    return Classes(machines, why, are_made=True)


def find_clusters(embedding: np.ndarray) -> tuple[np.ndarray, float]:
    """Embeddings (N, ...) -> (the cluster of each (N,), the mean silhouette of the best number).

    k-means on principal components of standardised dimensions; numbers of clusters with one that
    is too small are passed over. One cluster and 0 where there is nothing to choose.
    """
    rows = np.asarray(embedding, np.float64).reshape(len(embedding), -1)
    best, clusters = 0.0, np.zeros(len(rows), int)
    with one_thread():
        points = StandardScaler().fit_transform(rows)
        if not points.any():  # all are the same
            return clusters, best
        size = min(DIMENSIONS, *points.shape)
        points = PCA(size, svd_solver="full").fit_transform(points)
        for count in range(2, min(MOST_CLUSTERS, len(np.unique(points, axis=0)) - 1) + 1):
            found = KMeans(count, n_init=5, random_state=0).fit_predict(points)
            if np.bincount(found).min() < LEAST_SHARE * len(points):
                continue
            sample = min(MOST_WINDOWS, len(points))
            silhouette = silhouette_score(points, found, sample_size=sample, random_state=0)
            if silhouette > best:
                best, clusters = float(silhouette), found
    return clusters, best
