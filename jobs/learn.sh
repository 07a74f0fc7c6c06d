#!/usr/bin/env bash
# Learn a detector from recordings of normal operation, in the environment of jobs/setup.sh.
#
#   jobs/learn.sh FOLDER --out detector      normal recordings, or a folder of them per machine
#   jobs/learn.sh FOLDER --out detector --train      a network, in minutes to hours
#   jobs/learn.sh MORE --add detector        confirmed normal recordings
#   jobs/learn.sh --undo detector            take the last --add back
#
# The options are those of src/learn.py (python src/learn.py --help; docs/detectors.md).
# Exit status: 0 everything was used, 1 something is wrong or was left out.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then usage "$0"; exit; fi
use_environment
exec python "${REPOSITORY}/src/learn.py" "$@"
