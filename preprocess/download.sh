#!/usr/bin/env bash
# Fetch the official DCASE Task 2 archives from Zenodo, verify them, and unpack them to
# <data_dir>/<dataset>/all/raw/<machine>/{train,test}.
#
#   preprocess/download.sh <data_dir> <dataset>...
#   preprocess/download.sh /data dcase2023 dcase2024               both years; also dcase2025, dcase2026
#   preprocess/download.sh /data dcase2024 --dry-run               what, from where, how many GB, is there room
#   preprocess/download.sh /data dcase2024 --machines fan valve    these machines alone
#   preprocess/download.sh /data dcase2024 --keep-archives         keep the zip files, in <data_dir>/<dataset>/archives/
#   preprocess/download.sh /data dcase2024 --jobs 8                archives at once (4)
#
# The same command goes on after an interruption and does nothing when all is there. Next: preprocess/add_gt_info.sh.
# Exit status: 0 all is there, 1 something is not (told in a line), 3 another process fetches the same dataset.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../jobs/environment.sh"
if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then usage "$0"; exit; fi
use_environment
exec python "${REPOSITORY}/preprocess/download.py" "$@"
