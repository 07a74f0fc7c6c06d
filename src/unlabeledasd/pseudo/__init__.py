"""Pseudo-labels: embeddings, clusters, the file that keeps them."""
