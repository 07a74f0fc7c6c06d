#!/usr/bin/env bash
# Table 3 - pseudo-labels for machines without attributes, in stages:
#
#   teachers   the models whose embeddings are clustered, triplet models among them
#   labels     pseudoattr/pseudo_attr.sh; OpenL3 and PANNs need weights (pseudoattr/README.md)
#   students   training on the labels; the rows "machine and domain" and "true attributes"
#   table      mean and standard deviation over seeds
#
#   DATA_DIR=/data jobs/exp/exp3.sh                                    everything
#   DATA_DIR=/data DATASETS=dcase2024 SEEDS="1 2" jobs/exp/exp3.sh     a part (METHODS too: rows)
#   DATA_DIR=data DATASETS=demo_unlabeled SEEDS=1 jobs/exp/exp3.sh     on the demo data
#   DATA_DIR=/data STAGES="students table" jobs/exp/exp3.sh            some of the stages
#   DRY_RUN=1 jobs/exp/exp3.sh                                         only print the commands
#
# The other settings are those of exp1.sh (jobs/exp/exp1.sh --help) and, for the labels, SETTINGS
# and LABEL_DIR of pseudoattr/pseudo_attr.sh. What is finished is skipped. A row whose labels
# cannot be made is left out, named with the reason at the start and at the end; that is an error
# only if METHODS names the row, or if something failed.

data_dir=   # holds dcase2023/all/raw/<machine>/{train,test}, dcase2024/...; DATA_DIR wins
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
source pseudoattr/labels.sh

read -ra STAGES <<< "${STAGES:-teachers labels students table}"
for stage in "${STAGES[@]}"; do   # refused before days of training
  case ${stage} in
    teachers | labels | students | table) ;;
    *) echo "STAGES=${stage}: allowed are teachers labels students table" >&2; exit 1 ;;
  esac
done
after_start="${AFTER_JOBS:-}"   # of Slurm: what rows without pseudo-labels wait for

asked="${METHODS:-}"   # empty: the methods of each dataset's experiment 3
read_facts "${asked}" ""
METHODS=()   # of any dataset
ROWS=()      # DATASET METHOD SOURCE; the source is empty without pseudo-labels
SOURCES=()   # DATASET SOURCE
for dataset in "${DATASETS[@]}"; do
  for method in $(facts "${dataset}" row | cut -f 1); do
    source="$(facts "${dataset}" row "${method}")"
    [[ " ${METHODS[*]-} " == *" ${method} "* ]] || METHODS+=("${method}")
    reason="$([[ -z "${source}" ]] || lacking "${dataset}" "${source}")"
    if [[ -z "${reason}" ]]; then
      ROWS+=("${dataset} ${method} ${source}")
    else
      leave_out "${dataset} ${method}" "${reason}"
    fi
  done
  for source in $(facts "${dataset}" source); do
    [[ -n "$(lacking "${dataset}" "${source}")" ]] || SOURCES+=("${dataset} ${source}")
  done
done

stage_teachers() {
  for entry in ${SOURCES[@]+"${SOURCES[@]}"}; do
    read -r dataset source <<< "${entry}"
    plan_teachers "${dataset}" "${source}"
  done
  run_planned
}

stage_labels() {
  for entry in ${SOURCES[@]+"${SOURCES[@]}"}; do
    read -r dataset source <<< "${entry}"
    plan_labels "${dataset}" "${source}"
  done
  make_labels
}

# plan_students yes|no: the rows that train on pseudo-labels, or the others.
plan_students() {
  local row entry labels
  for row in ${ROWS[@]+"${ROWS[@]}"}; do
    read -r dataset method source <<< "${row}"
    [[ "$1" == "${source:+yes}" || "$1" == no && -z "${source}" ]] || continue
    for seed in "${SEEDS[@]}"; do
      labels=""
      for entry in ${NOT_MADE[@]+"${NOT_MADE[@]}"}; do
        case ${entry} in
          "${dataset} ${source}" | "${dataset} ${source} ${seed}") labels="${entry}" ;;
        esac
      done
      if [[ -z "${labels}" ]]; then
        plan "${dataset}" "${method}" "${seed}"
      else
        leave_out "${dataset} ${method} ${seed}" "no labels of ${labels#* }, see above"
        FAILED=1
      fi
    done
  done
}

stage_students() {
  plan_students no
  # they do not wait for labels
  [[ "${LAUNCHER}" != slurm ]] || AFTER_JOBS="${after_start}" run_planned
  plan_students yes
  run_planned
}

for stage in "${STAGES[@]}"; do
  case ${stage} in
    teachers) stage_teachers ;;
    labels) stage_labels ;;
    students) stage_students ;;
    table) report table3 "${METHODS[@]}" ;;
  esac
  [[ -z "${FAILED:-}" || -z "${FAIL_FAST:-}" ]] || break
  next_stage
done
print_left_out
[[ -z "${asked}" || ${#LEFT_OUT[@]} == 0 ]] || FAILED=1
[[ -z "${FAILED:-}" ]] || echo "exp3: not finished, see above; the same command resumes" >&2
exit "${FAILED:-0}"
