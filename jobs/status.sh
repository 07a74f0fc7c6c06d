#!/usr/bin/env bash
# How far the experiments are: runs that are done, running, interrupted, failed or missing.
#
#   jobs/status.sh                                     exp1, exp2 and exp3
#   jobs/status.sh exp1 exp2                           some of them
#   DATASETS=dcase2024 SEEDS="1 2" jobs/status.sh      a part, as for jobs/exp/*.sh (METHODS too)
#   jobs/status.sh --watch 30                          again every 30 seconds (10 without a number)
#   jobs/status.sh --json                              every run, for other programs
#
# Also from the environment, as for jobs/exp/*.sh: RESULTS_DIR, LABEL_DIR, and DATA_DIR (for the
# commands that it prints, and for the machines of own recordings). It asks the job scripts for
# their runs, reads the folders of runs and labels, wherever the runs were started
# (docs/cluster.md), and writes nothing. With METHODS and no experiment named, methods that need no
# pseudo-labels are listed under exp2.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then usage "$0"; exit; fi
use_environment
read_places
exec python "${REPOSITORY}/src/status.py" \
  --results-dir="${RESULTS_DIR}" --label-dir="${LABEL_DIR}" "$@"
