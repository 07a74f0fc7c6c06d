#!/usr/bin/env bash
# Write the demo data: four synthesised machines, 400 clips of 5 s (demo, demo_unlabeled).
#
#   preprocess/make_demo.sh                   to data/ of this checkout
#   preprocess/make_demo.sh /data             to another folder of datasets
#   preprocess/make_demo.sh /data --seed 1    other clips of the same machines
#
# About 20 seconds on one core and 64 MB. The same command resumes after an interruption and does
# nothing when the data are complete.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../jobs/environment.sh"
if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then usage "$0"; exit; fi
use_environment
exec python "${REPOSITORY}/preprocess/make_demo.py" "$@"
