#!/usr/bin/env bash
# Table 2 - feature exchange against the subspace loss: 2 methods x 2 datasets x 5 seeds.
#
#   DATA_DIR=/data jobs/exp/exp2.sh                                  everything
#   DATA_DIR=/data DATASETS=dcase2024 SEEDS="1 2" jobs/exp/exp2.sh   a part (METHODS too)
#   DRY_RUN=1 jobs/exp/exp2.sh                                       only print the commands
#
# The other settings are those of exp1.sh (jobs/exp/exp1.sh --help).

data_dir=   # holds dcase2023/all/raw/<machine>/{train,test}, dcase2024/...; DATA_DIR wins
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

read -ra METHODS <<< "${METHODS:-featex_0256_4096 subloss_0256_4096}"

for dataset in "${DATASETS[@]}"; do
  for seed in "${SEEDS[@]}"; do
    for method in "${METHODS[@]}"; do
      plan "${dataset}" "${method}" "${seed}"
    done
  done
done
run_planned
report table2 "${METHODS[@]}"
exit "${FAILED:-0}"
