#!/usr/bin/env bash
# Pseudo-labels for Table 3: 5 sources of embeddings x 2 datasets x 5 seeds (openl3, panns and gt have no seeds).
#
#   DATA_DIR=/data pseudoattr/pseudo_attr.sh                                         everything
#   DATA_DIR=/data DATASETS=dcase2024 SOURCES="class gt" SEEDS=1 pseudoattr/pseudo_attr.sh    a part
#   DATA_DIR=/data TRAIN_MISSING=1 pseudoattr/pseudo_attr.sh                         train teachers that are missing
#   DATA_DIR=/data SETTINGS="labeler.criterion=bic fit_on=all" LABEL_DIR=bic_labels pseudoattr/pseudo_attr.sh
#   DRY_RUN=1 pseudoattr/pseudo_attr.sh                                              only print the commands
#
# Also from the environment: RESULTS_DIR (where the teachers are), LABEL_DIR, CUDA_VISIBLE_DEVICES, and OVERRIDES as
# for jobs/exp/exp3.sh: it goes to teachers that are trained here, what begins with dataset. to the labels too.
# What is there is left alone, so the same command goes on after an interruption. A source that lacks something is
# named, the others go on; pseudoattr/README.md tells what each source needs.

data_dir=   # holds dcase2023/all/raw/<machine>/{train,test}, dcase2024/...; the environment's DATA_DIR wins
source "$(dirname "${BASH_SOURCE[0]}")/../jobs/exp/common.sh"

read -ra SOURCES <<< "${SOURCES:-class triplet openl3 panns gt}"
read -ra SETTINGS <<< "${SETTINGS:-}"
[[ -z "${TRAIN_MISSING:-}" ]] || SETTINGS+=(train_missing=true)
for override in ${OVERRIDES[@]+"${OVERRIDES[@]}"}; do
  [[ "${override}" != dataset.* ]] || SETTINGS+=("${override}")
done

LACKING=() HELD=() RUNS=() FOLDERS=() COMMANDS=()

# plan_labels DATASET SOURCE [SEED]: a job that calls this script for these labels alone.
plan_labels() {
  local folder
  folder="${LABEL_DIR}/$(dataset_name "$1")/$2${3:+_$3}"
  if [[ -e "${folder}/labels.json" && -z "${DRY_RUN:-}${AFTER_JOBS}${SETTINGS[*]-}" ]]; then
    echo "there already: ${folder}"   # no teacher is in the queue, no other settings are asked for
    return
  fi
  RUNS+=("$*") FOLDERS+=("${folder}")
  COMMANDS+=("$(printf '%q ' env LAUNCHER=local DATA_DIR="${DATA_DIR}" RESULTS_DIR="${RESULTS_DIR}" LABEL_DIR="${LABEL_DIR}" \
    GPUS= DATASETS="$1" SOURCES="$2" ${3:+SEEDS="$3"} OVERRIDES="${OVERRIDES[*]-}" SETTINGS="${SETTINGS[*]-}" \
    pseudoattr/pseudo_attr.sh)")
}

# make_labels DATASET SOURCE [SEED]
make_labels() {
  if [[ "${LAUNCHER}" == slurm ]]; then plan_labels "$@"; return; fi
  local script status
  local -a command dataset=("dataset=$1") scripts=(embed.py cluster.py)
  [[ "$1" != folder:* ]] || dataset=(dataset=folder "$(quoted dataset.name="${1#folder:}")")
  [[ "$2" != gt ]] || scripts=(cluster.py)   # true attributes need no embeddings
  for script in "${scripts[@]}"; do
    command=(python "pseudoattr/${script}" "${dataset[@]}" source="$2" ${3:+seed="$3"}
      "$(quoted data_dir="${DATA_DIR}")" "$(quoted results_dir="${RESULTS_DIR}")"
      "$(quoted label_dir="${LABEL_DIR}")" ${SETTINGS[@]+"${SETTINGS[@]}"})
    printf '%q ' "${command[@]}" && echo
    [[ -z "${DRY_RUN:-}" ]] || continue
    status=0
    attended env OVERRIDES="${OVERRIDES[*]-}" "${command[@]}" || status=$?
    case ${status} in
      0) ;;
      3) HELD+=("$*"); return ;;   # another terminal or machine trains the teacher or makes these labels
      130) exit 130 ;;             # Ctrl-C
      *) LACKING+=("$*"); return ;;
    esac
  done
}

[[ -n "${DRY_RUN:-}" ]] || use_environment
for dataset in "${DATASETS[@]}"; do
  for source in "${SOURCES[@]}"; do
    case ${source} in
      class | triplet)
        for seed in "${SEEDS[@]}"; do make_labels "${dataset}" "${source}" "${seed}"; done ;;
      gt)
        if [[ "${dataset}" == dcase2023 ]]; then
          echo "dcase2023 gt: no such labels, its attributes are not hidden (the classes of experiment 2)" >&2
        else
          make_labels "${dataset}" gt
        fi ;;
      *) make_labels "${dataset}" "${source}" ;;
    esac
  done
done
if [[ ${#RUNS[@]} != 0 ]]; then
  failed=()
  launch
  LACKING=(${failed[@]+"${failed[@]}"})
fi
[[ ${#HELD[@]} == 0 ]] || printf 'held elsewhere: %s\n' "${HELD[@]}" >&2
[[ ${#HELD[@]} == 0 || ${#LACKING[@]} != 0 ]] || exit 3
[[ ${#LACKING[@]} == 0 ]] || { printf 'no labels: %s\n' "${LACKING[@]}" >&2; exit 1; }
