"""Anomalous sound detection of machines in unlabeled conditions (arXiv 2409.09332)."""

import os

from unlabeledasd.runs.containers import stand_alone

__version__ = "0.1.0"

stand_alone()
# Threads of OpenMP that are not done on a core that others use keep the rest waiting in a loop.
# After 30,000 turns, 1 ms, these sleep instead (GNU's default: 300,000). It is read as torch loads.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
