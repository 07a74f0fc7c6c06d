#!/usr/bin/env bash
# The whole method on generated machines: set-up, data, training, scores, their mean.
#
#   bash jobs/demo.sh
#
# Writes venv/ (unless the active environment will do), data/demo/ and results/exp/demo/. The run
# is a cell of exp2.sh, subloss_0256_4096 with seed 1; a second call prints its table again.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then usage "$0"; exit; fi

cd "${REPOSITORY}"
bash jobs/setup.sh
use_environment
bash preprocess/make_demo.sh data
run=results/exp/demo/subloss_0256_4096_1
if [[ -e "${run}/all/done" ]]; then
  python ensemble/ensemble.py "${run}"
else
  export DATA_DIR=data RESULTS_DIR=results/exp
  DATASETS=demo METHODS=subloss_0256_4096 SEEDS=1 jobs/exp/exp2.sh
fi
