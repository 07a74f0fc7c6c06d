#!/usr/bin/env bash
# Fetch the official DCASE Task 2 archives from Zenodo, verify them, and unpack them to
# <data_dir>/<dataset>/all/raw/<machine>/{train,test}.
#
#   preprocess/download.sh <data_dir> <dataset>...
#   preprocess/download.sh /data dcase2023 dcase2024     both years; dcase2020 to dcase2026
#   ... --dry-run                  what, from where, how many GB, how many are free
#   ... --machines fan valve       these machines alone
#   ... --keep-archives            keep the zip files, in <data_dir>/<dataset>/archives/
#   ... --jobs 8                   archives at once (4)
#
# The same command resumes after an interruption and does nothing when it is complete. Next:
# preprocess/add_gt_info.sh.
# Exit status: 0 complete, 1 something is missing, 3 another process fetches the same dataset.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../jobs/environment.sh"
if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then usage "$0"; exit; fi
use_environment
exec python "${REPOSITORY}/preprocess/download.py" "$@"
