#!/usr/bin/env bash
# Table 4 - beyond the paper: other losses and recipes, 9 methods x 2 datasets x 5 seeds.
#
#   subloss_0256_4096, featex_0256_4096    the paper's, to compare with
#   multires_*                             three resolutions, trained centres, other losses
#   best_0256_1024_4096                    the recommended recipe (README.md)
#
#   DATA_DIR=/data jobs/exp/exp4.sh                               everything
#   DATA_DIR=data DATASETS=demo SEEDS="1 2 3" jobs/exp/exp4.sh    a part
#   DATA_DIR=/data SCORERS="knn ldn_ratio varmin" jobs/exp/exp4.sh   a further table for each scorer
#   DRY_RUN=1 jobs/exp/exp4.sh                                    only print the commands
#
# Further scorers take the embeddings that the runs have kept, in seconds. The other settings are
# those of exp1.sh (jobs/exp/exp1.sh --help).

data_dir=   # holds dcase2023/all/raw/<machine>/{train,test}, dcase2024/...; DATA_DIR wins
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

methods="subloss_0256_4096 featex_0256_4096"
for recipe in trainable subloss featex adaproj arcface subcenter_arcface; do
  methods+=" multires_${recipe}_0256_1024_4096"
done
methods+=" best_0256_1024_4096"
read -ra METHODS <<< "${METHODS:-${methods}}"

for dataset in "${DATASETS[@]}"; do
  for seed in "${SEEDS[@]}"; do
    for method in "${METHODS[@]}"; do
      plan "${dataset}" "${method}" "${seed}"
    done
  done
done
run_planned
[[ -z "${LIST_RUNS:-}" ]] || exit 0
report table4 "${METHODS[@]}"
report_scorers table4 "${METHODS[@]}"
exit "${FAILED:-0}"
