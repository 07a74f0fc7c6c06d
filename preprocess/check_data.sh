#!/usr/bin/env bash
# Check whether a dataset is ready for experiments: a table of its clips, compared with what it
# should contain, and a list of problems.
#
#   preprocess/check_data.sh <data_dir> <dataset>
#   preprocess/check_data.sh /data dcase2024
#   preprocess/check_data.sh /data folder:pumps     own recordings in /data/pumps/all/raw/
#
# Exit status: 0 experiments can start, 1 something must be fixed first.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../jobs/environment.sh"
if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then usage "$0"; exit; fi
use_environment
exec python "${REPOSITORY}/preprocess/check_data.py" "$@"
