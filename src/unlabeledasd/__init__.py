"""Anomalous sound detection of machines in unlabeled conditions (arXiv 2409.09332)."""

import os

from unlabeledasd.runs.containers import stand_alone

__version__ = "0.1.0"

stand_alone()
# OpenMP's threads wait for each other in a loop, on busy cores for threads that do not run. They
# sleep after this many turns (GNU's default is 300,000): docs/performance.md. A library that brings
# OpenMP, as torch does, reads it when it is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
