"""Clusterings of embeddings themselves, next to the paper's mixture in the map of UMAP."""

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.cluster import HDBSCAN, AgglomerativeClustering, KMeans

from unlabeledasd.errors import InputError, check_range
from unlabeledasd.pseudo.clustering import DOMAINS, PseudoLabeler
from unlabeledasd.scoring import one_thread

CLUSTERINGS = ("kmeans", "agglomerative", "hdbscan")
LEAST_CLUSTER = 5  # clips, of hdbscan


class EmbeddingLabeler(BaseEstimator):
    """Clusters of one machine's training clips, each domain by itself, in the embedding's space.

    clustering: kmeans or agglomerative (Ward) makes `n_source` and `n_target` clusters, as many as
    there are distinct clips where these are fewer; hdbscan finds their number, and clips outside
    of every cluster are one more. UMAP makes the map that is drawn, and nothing else.

    labels_, map_, criterion_ (empty: there was no choice) and n_clusters_ as of PseudoLabeler.
    """

    def __init__(
        self,
        clustering: str = "agglomerative",
        n_source: int = 8,
        n_target: int = 2,
        n_neighbors: int = 15,
        random_state: int = 0,
    ):
        self.clustering = clustering
        self.n_source, self.n_target = n_source, n_target
        self.n_neighbors = n_neighbors
        self.random_state = random_state

    def fit(
        self, embedding: np.ndarray, is_target: np.ndarray, others: np.ndarray | None = None
    ) -> "EmbeddingLabeler":
        """embedding (N, D), is_target (N,), others (M, D): as PseudoLabeler.fit takes them."""
        if self.clustering not in CLUSTERINGS:
            allowed = ", ".join(CLUSTERINGS)
            raise InputError(f"clustering={self.clustering!r}: allowed are {allowed}")
        for name in ("n_source", "n_target"):
            check_range(name, getattr(self, name), 1)
        one = PseudoLabeler("bic", 1, 1, n_neighbors=self.n_neighbors)
        one.random_state = self.random_state
        self.map_ = one.fit(embedding, is_target, others).map_
        embedding = np.asarray(embedding, dtype=np.float64)
        is_target = np.asarray(is_target).astype(bool)
        self.labels_ = np.zeros(len(embedding), dtype=int)
        self.criterion_ = {domain: np.empty(0) for domain in DOMAINS}
        self.n_clusters_ = {}
        for domain, most in zip(DOMAINS, (self.n_source, self.n_target), strict=True):
            rows = np.flatnonzero(is_target == (domain == "target"))
            with one_thread():
                found = self._cluster(embedding[rows], most)
            _, found, sizes = np.unique(found, return_inverse=True, return_counts=True)
            rank = np.argsort(np.argsort(-sizes, kind="stable"))  # 0 is the largest
            self.labels_[rows] = rank[found] if len(rows) else 0
            self.n_clusters_[domain] = len(sizes)
        return self

    def _cluster(self, points: np.ndarray, most: int) -> np.ndarray:
        """Points (N, D) -> cluster of each (N,); the order of the points does not matter."""
        distinct, place = np.unique(points, axis=0, return_inverse=True)
        count = min(most, len(distinct))
        if self.clustering == "hdbscan":
            if len(distinct) <= LEAST_CLUSTER:
                return np.zeros(len(points), dtype=int)
            found = HDBSCAN(LEAST_CLUSTER, copy=True).fit_predict(distinct)
        elif count < 2:
            return np.zeros(len(points), dtype=int)
        elif self.clustering == "kmeans":
            kmeans = KMeans(count, n_init=10, random_state=self.random_state)
            found = kmeans.fit_predict(distinct)
        else:
            found = AgglomerativeClustering(count).fit_predict(distinct)
        return found[place.reshape(-1)]
