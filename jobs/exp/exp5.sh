#!/usr/bin/env bash
# Table 5 - embeddings without training and with LoRA: 11 methods x 2 datasets, by any scorers.
#
#   spectral_*         statistics of spectra: no weights, no training, a minute a dataset
#   beats_*            BEATs frozen, or with LoRA (beats_lora)
#   panns, openl3      frozen
#
#   DATA_DIR=/data jobs/exp/exp5.sh                               everything
#   DATA_DIR=data DATASETS=demo METHODS="spectral_logmel spectral_psd" jobs/exp/exp5.sh    a part
#   DATA_DIR=/data SCORERS="knn ldn_ratio beam" jobs/exp/exp5.sh  a further table for each scorer
#   DRY_RUN=1 jobs/exp/exp5.sh                                    only print the commands
#
# The weights of BEATs, PANNs and OpenL3 are your download (docs/encoders.md). Without them these
# methods fail, each with a line that says where to get them, and the others run. Without training
# nothing depends on the seed: SEEDS is 1 unless you set it, as beats_lora needs. The other settings
# are those of exp1.sh (jobs/exp/exp1.sh --help).

data_dir=   # holds dcase2023/all/raw/<machine>/{train,test}, dcase2024/...; DATA_DIR wins
SEEDS="${SEEDS:-1}"
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

methods="spectral_logmel spectral_level spectral_max spectral_psd"
methods+=" beats_mean beats_rdp beats_gem beats_max beats_lora panns openl3"
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
version=untrained
# the epochs of beats_lora; the other methods have one version alone
[[ " ${METHODS[*]} " != *" beats_lora "* ]] || version=epoch_21_23_25
REPORT=(--version "${version}" ${REPORT[@]+"${REPORT[@]}"})
report table5 "${METHODS[@]}"
report_scorers table5 "${METHODS[@]}"
exit "${FAILED:-0}"
