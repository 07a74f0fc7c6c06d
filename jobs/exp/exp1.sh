#!/usr/bin/env bash
# Table 1 - which spectral resolutions help: 7 methods x 2 datasets x 5 seeds.
#
#   DATA_DIR=/data jobs/exp/exp1.sh                                  everything
#   DATA_DIR=/data DATASETS=dcase2024 SEEDS="1 2" jobs/exp/exp1.sh   a part (METHODS too)
#   DATA_DIR=/data DATASETS=folder:pumps jobs/exp/exp1.sh            own recordings in /data/pumps
#   DRY_RUN=1 jobs/exp/exp1.sh                                       only print the commands
#
# Also from the environment: OVERRIDES="key=value ..." (settings of src/train.py), RESULTS_DIR,
# REPORT="--html --baseline METHOD" (settings of src/report.py), FAIL_FAST=1 (stop at the first
# failure), CUDA_VISIBLE_DEVICES. A finished run is skipped, an interrupted one resumes; the same
# command in several terminals, or on several machines with one results folder, shares the runs
# among them. Several runs at a time: JOBS=2, or GPUS="0 1 2 3" and JOBS_PER_GPU; on a cluster:
# LAUNCHER=slurm or ray (docs/cluster.md).

data_dir=   # holds dcase2023/all/raw/<machine>/{train,test}, dcase2024/...; DATA_DIR wins
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

methods="na_1024 na_0256 na_4096 na_1024_4096 na_0256_1024 na_0256_4096 na_0256_1024_4096"
read -ra METHODS <<< "${METHODS:-${methods}}"

for dataset in "${DATASETS[@]}"; do
  for seed in "${SEEDS[@]}"; do
    for method in "${METHODS[@]}"; do
      plan "${dataset}" "${method}" "${seed}"
    done
  done
done
run_planned
report table1 "${METHODS[@]}"
exit "${FAILED:-0}"
