#!/usr/bin/env bash
# The triplet models, one per unlabeled machine and seed: teachers of the pseudo-labels "triplet".
# They are a part of the first stage of exp3.sh.
#
#   DATA_DIR=/data jobs/exp/exp3_triplet.sh                                  everything
#   DATA_DIR=/data DATASETS=dcase2024 SEEDS="1 2" jobs/exp/exp3_triplet.sh   a part
#   DRY_RUN=1 jobs/exp/exp3_triplet.sh                                       only print the commands
#
# The other settings are those of exp1.sh (jobs/exp/exp1.sh --help).

data_dir=   # holds dcase2023/all/raw/<machine>/{train,test}, dcase2024/...; DATA_DIR wins
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

read_facts "" triplet
for dataset in "${DATASETS[@]}"; do
  reason="$(facts "${dataset}" lacking triplet)"
  [[ -z "${reason}" ]] || echo "no triplet models: ${dataset}: ${reason}" >&2
  plan_teachers "${dataset}" triplet
done
run_planned
exit "${FAILED:-0}"
