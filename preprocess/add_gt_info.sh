#!/usr/bin/env bash
# Add ground truth to the names of the evaluation test clips of DCASE Task 2:
# section_00_0000.wav -> section_00_source_test_normal_0031_<attributes>.wav
#
#   DATA_DIR=/data preprocess/add_gt_info.sh                       every dataset with ground truth
#   DATA_DIR=/data preprocess/add_gt_info.sh dcase2023 dcase2024   these
#   ... --dry-run                  check every name, change nothing
#   ... --undo                     give the bare names back
#   ... --mode symlink             change nothing there, but build a tree of links with the full
#                                  names in <data_dir>/with_ground_truth, or in --links DIR
#                                  (for data that is read-only)
#   ... --ground-truth DIR         read DIR/eval_data_list_<year>.csv, fetch nothing
#   ... --machines Vacuum ToyTank  these alone
#
# Also fetches the true attributes of the machines that hide them (dcase2024, dcase2025). Run it
# again at any time: it resumes after a kill and does nothing when all is done. Lists that were
# fetched or given once are kept with the data, so that later calls need no network. Nothing is
# renamed unless every clip fits its list.
# Exit status: 0 done, 1 a clip or a setting that does not fit, 3 another process is at work.

data_dir=   # holds dcase2023/all/raw/<machine>/{train,test}, dcase2024/...; DATA_DIR wins

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../jobs/environment.sh"
if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then usage "$0"; exit; fi
DATA_DIR="${DATA_DIR:-${data_dir}}"
[[ -n "${DATA_DIR}" ]] || {
  echo "$0: set data_dir in it, or export DATA_DIR: the folder with <dataset>/all/raw/" >&2
  exit 1
}
[[ "${DATA_DIR}" == /* ]] || DATA_DIR="${PWD}/${DATA_DIR}"
use_environment
exec python "${REPOSITORY}/preprocess/add_gt_info.py" "${DATA_DIR}" "$@"
