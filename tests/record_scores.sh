#!/usr/bin/env bash
# Record the score CSVs of small runs of every family of methods, so that two checkouts can be
# compared byte by byte: the paper's methods on generated clips, in float32 on one thread.
#
#   tests/record_scores.sh OUT                         run this checkout: about 3 minutes
#   tests/record_scores.sh OUT --demo                  also subloss_0256_4096 on the demo machines
#   CHECKOUT=../other tests/record_scores.sh OTHER     run another checkout, by its own venv/
#   diff OUT/hashes OTHER/hashes                       no output: equal scores and clusters
#
# OUT/hashes has the SHA-256 of every CSV. The runs are those of the job scripts: a plain method,
# feature exchange, the subspace loss, triplet models, and students of both kinds of labels that
# are clustered from own embeddings.
set -euo pipefail
usage() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; }
case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  "" | -*) usage >&2; exit 2 ;;
esac
[[ -z "${2:-}" || "$2" == --demo ]] || {
  echo "unknown argument $2; allowed is --demo" >&2
  exit 2
}

mkdir -p -- "$1"
out="$(cd "$1" && pwd)"
cd "${CHECKOUT:-$(dirname "${BASH_SOURCE[0]}")/..}"
export PATH="${PWD}/venv/bin:${PATH}" PYTHONPATH="${PWD}/src" OMP_NUM_THREADS=1
export DATA_DIR="${out}/data" RESULTS_DIR="${out}/results" LABEL_DIR="${out}/label"

# Two machines of sines in noise; fan hides its attributes, anomalies sound a fifth higher.
python - "${DATA_DIR}/small/all/raw" << 'END'
import sys
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000
GROUPS = [("train", "source", "normal", 12), ("train", "target", "normal", 6)]
GROUPS += [("test", d, c, 3) for d in ("source", "target") for c in ("normal", "anomaly")]
for machine, hz in (("fan", 200), ("pump", 900)):
    rng = np.random.default_rng(hz)
    time = np.arange(5 * RATE) / RATE
    for split, domain, condition, count in GROUPS:
        for i in range(count):
            attribute = "noAttribute" if machine == "fan" else f"speed_{1 + i % 2}"
            name = f"section_00_{domain}_{split}_{condition}_{i:04d}_{attribute}.wav"
            pitch = hz * (1 + i % 2) * (1.5 if condition == "anomaly" else 1)
            wave = 0.2 * np.sin(2 * np.pi * pitch * time) + 0.02 * rng.standard_normal(len(time))
            file = Path(sys.argv[1], machine, split, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(file, wave, RATE)
END

exact="precision=32-true threads=1 trainer.accelerator=cpu"
export SEEDS=1 DATASETS=folder:small
export OVERRIDES="dataset.clip_seconds=5 dataset.batch_size=8 ${exact}"
METHODS=na_1024 jobs/exp/exp1.sh
METHODS="featex_0256_4096 subloss_0256_4096" jobs/exp/exp2.sh
METHODS="pattr_bic_pre_subloss_0256_4096 pattr_bic_triplet_subloss_0256_4096" jobs/exp/exp3.sh
if [[ "${2:-}" == --demo ]]; then
  bash preprocess/make_demo.sh "${DATA_DIR}"
  DATASETS=demo METHODS=subloss_0256_4096 OVERRIDES="${exact}" jobs/exp/exp2.sh
fi

cd "${out}"
find results label -name '*.csv' -not -path '*/logs/*' -print0 | sort -z \
  | xargs -0 sha256sum > hashes
echo "$(wc -l < hashes) files: ${out}/hashes"
