"""Anomalous sound detection of machines in unlabeled conditions (arXiv 2409.09332)."""

__version__ = "0.1.0"
