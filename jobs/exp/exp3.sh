#!/usr/bin/env bash
# Table 3 - pseudo-labels for machines without attributes, in stages:
#
#   teachers   the models whose embeddings are clustered (triplet ones: exp3_triplet.sh)
#   labels     pseudoattr/pseudo_attr.sh; OpenL3 and PANNs need weights (pseudoattr/README.md)
#   students   training on the labels; the rows "machine and domain" and "true attributes"
#   table      mean and standard deviation over seeds
#
#   DATA_DIR=/data jobs/exp/exp3.sh                                    everything
#   DATA_DIR=/data DATASETS=dcase2024 SEEDS="1 2" jobs/exp/exp3.sh     a part (METHODS too: rows of the table)
#   DATA_DIR=data DATASETS=demo_unlabeled SEEDS=1 jobs/exp/exp3.sh     on the demo data
#   DATA_DIR=/data STAGES="students table" jobs/exp/exp3.sh            leave out what is done elsewhere
#   DRY_RUN=1 jobs/exp/exp3.sh                                         only print the commands
#
# The other settings are those of exp1.sh (jobs/exp/exp1.sh --help) and, for the labels, SETTINGS and LABEL_DIR of
# pseudoattr/pseudo_attr.sh. What is finished is skipped; teachers or labels that fail, or that another terminal still
# makes, end the script, and what a stage lacks is named with the command that makes it.

data_dir=   # holds dcase2023/all/raw/<machine>/{train,test}, dcase2024/...; the environment's DATA_DIR wins
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

read -ra STAGES <<< "${STAGES:-teachers labels students table}"
for stage in "${STAGES[@]}"; do   # told before days of training
  case ${stage} in
    teachers | labels | students | table) ;;
    *) echo "STAGES=${stage}: allowed are teachers labels students table" >&2; exit 1 ;;
  esac
done

# methods DATASET: its rows of the table.
methods() { if [[ -n "${METHODS:-}" ]]; then echo "${METHODS}"; else facts "$1" experiment3; fi; }

# sources DATASET: the sources of pseudo-labels that its rows need, in the order of the rows, each once and after a blank.
sources() {
  local method source found=""
  for method in $(methods "$1"); do
    case ${method} in
      pattr_bic_pre_*) source=class ;;
      pattr_bic_*) source="${method#pattr_bic_}" source="${source%%_*}" ;;
      pattr_gt_*) source=gt ;;
      *) continue ;;
    esac
    [[ "${found} " == *" ${source} "* ]] || found+=" ${source}"
  done
  printf '%s' "${found}"
}

rows=()   # every method of the table, of any dataset
for dataset in "${DATASETS[@]}"; do
  found="$(methods "${dataset}")"   # an unknown dataset ends the script here
  for method in ${found}; do
    [[ " ${rows[*]-} " == *" ${method} "* ]] || rows+=("${method}")
  done
done

# unfinished STATUS: of a script that was called; Ctrl-C there ends this one too, anything else once the stage is through.
unfinished() {
  [[ "$1" != 130 ]] || exit 130
  FAILED=1
}

stage_teachers() {
  for dataset in "${DATASETS[@]}"; do
    for seed in "${SEEDS[@]}"; do
      if [[ "$(sources "${dataset}") " == *" class "* ]]; then
        plan "${dataset}" "$(facts "${dataset}" teacher)" "${seed}"
      fi
    done
  done
  run_planned
  for dataset in "${DATASETS[@]}"; do
    if [[ "$(sources "${dataset}") " == *" triplet "* ]]; then
      attended env DATASETS="${dataset}" SEEDS="${SEEDS[*]}" OVERRIDES="${OVERRIDES[*]-}" \
        jobs/exp/exp3_triplet.sh || unfinished $?
    fi
  done
}

stage_labels() {
  for dataset in "${DATASETS[@]}"; do
    needed="$(sources "${dataset}")"
    [[ -n "${needed}" ]] || continue   # rows that need no pseudo-labels
    attended env DATASETS="${dataset}" SOURCES="${needed}" SEEDS="${SEEDS[*]}" OVERRIDES="${OVERRIDES[*]-}" \
      pseudoattr/pseudo_attr.sh || unfinished $?
  done
}

stage_students() {
  for dataset in "${DATASETS[@]}"; do
    for seed in "${SEEDS[@]}"; do
      for method in $(methods "${dataset}"); do
        plan "${dataset}" "${method}" "${seed}"
      done
    done
  done
  run_planned
}

stage_table() { report table3 "${rows[@]}"; }

export DATA_DIR RESULTS_DIR LABEL_DIR DRY_RUN
for stage in "${STAGES[@]}"; do
  case ${stage} in
    teachers) stage_teachers ;;
    labels) stage_labels ;;
    students) stage_students ;;
    table) stage_table ;;
  esac
  if [[ -n "${FAILED:-}" && "${stage}" != students ]]; then
    echo "exp3: stage ${stage} not finished, see above; the same command goes on from there" >&2
    exit 1
  fi
  next_stage
done
exit "${FAILED:-0}"
