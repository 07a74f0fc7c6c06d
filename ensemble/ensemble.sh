#!/usr/bin/env bash
# Average the anomaly scores of epochs 12, 14 and 16 of finished runs, as src/train.py does already.
#
#   ensemble/ensemble.sh                          all seeds of ${method} below
#   DATASETS=demo METHODS="na_1024 na_0256" SEEDS=1 ensemble/ensemble.sh
#   CONFIG=my_epochs.yaml ensemble/ensemble.sh    other epochs than those of epoch_12_14_16.yaml

method=subloss_0256_4096
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../jobs/environment.sh"
if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then usage "$0"; exit; fi
config="$(realpath -- "${CONFIG:-$(dirname "${BASH_SOURCE[0]}")/epoch_12_14_16.yaml}")"
read_grid
read_places
cd "${REPOSITORY}"
use_environment

for dataset in "${DATASETS[@]}"; do
  for name in ${METHODS:-${method}}; do
    for seed in "${SEEDS[@]}"; do
      run="${RESULTS_DIR}/${dataset#folder:}/${name}_${seed}"
      python ensemble/ensemble.py --config="${config}" -- "${run}"
    done
  done
done
