"""Anomalous sound detection of machines in unlabeled conditions (arXiv 2409.09332)."""

from unlabeledasd.runs.containers import stand_alone

__version__ = "0.1.0"

stand_alone()
