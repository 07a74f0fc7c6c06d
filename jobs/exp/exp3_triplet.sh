#!/usr/bin/env bash
# The triplet models, one per unlabeled machine and seed: teachers of the pseudo-labels "triplet" (exp3.sh calls this).
#
#   DATA_DIR=/data jobs/exp/exp3_triplet.sh                                  everything
#   DATA_DIR=/data DATASETS=dcase2024 SEEDS="1 2" jobs/exp/exp3_triplet.sh   a part
#   DRY_RUN=1 jobs/exp/exp3_triplet.sh                                       only print the commands
#
# The other settings are those of exp1.sh (jobs/exp/exp1.sh --help).

data_dir=   # holds dcase2023/all/raw/<machine>/{train,test}, dcase2024/...; the environment's DATA_DIR wins
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

for dataset in "${DATASETS[@]}"; do
  machines="$(facts "${dataset}" unlabeled)"   # one a line, of any name
  while IFS= read -r machine; do
    for seed in "${SEEDS[@]}"; do
      plan "${dataset}" "triplet:${machine}" "${seed}"
    done
  done <<< "${machines}"
done
run_planned
exit "${FAILED:-0}"
