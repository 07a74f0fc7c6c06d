#!/usr/bin/env bash
# Pseudo-labels for Table 3: 5 sources x 2 datasets x 5 seeds (openl3, panns and gt have no seeds).
#
#   DATA_DIR=/data pseudoattr/pseudo_attr.sh                    everything
#   DATA_DIR=/data DATASETS=dcase2024 SOURCES="class gt" SEEDS=1 pseudoattr/pseudo_attr.sh    a part
#   DATA_DIR=/data TRAIN_MISSING=1 pseudoattr/pseudo_attr.sh    train missing teachers first
#   DATA_DIR=/data SETTINGS="fit_on=all" LABEL_DIR=all_labels pseudoattr/pseudo_attr.sh
#   DRY_RUN=1 pseudoattr/pseudo_attr.sh                         only print the commands
#
# Also from the environment: RESULTS_DIR (where the teachers are), LABEL_DIR, CUDA_VISIBLE_DEVICES,
# and OVERRIDES as for jobs/exp/exp3.sh: for teachers that are trained here; what begins with
# dataset. is for the labels too. Labels that exist are left alone, so the same command resumes
# after an interruption. A source that lacks something is named, and the others are made;
# pseudoattr/README.md says what each needs.

data_dir=   # holds dcase2023/all/raw/<machine>/{train,test}, dcase2024/...; DATA_DIR wins
source "$(dirname "${BASH_SOURCE[0]}")/../jobs/exp/common.sh"
source pseudoattr/labels.sh

asked="${SOURCES:-}"   # empty: those of the methods of experiment 3
read_facts "" "${asked}"
for dataset in "${DATASETS[@]}"; do
  for source in $(facts "${dataset}" source); do
    reason="$(lacking "${dataset}" "${source}")"
    if [[ -z "${reason}" ]]; then
      [[ -z "${TRAIN_MISSING:-}" ]] || plan_teachers "${dataset}" "${source}"
      plan_labels "${dataset}" "${source}"
    else
      leave_out "${dataset} ${source}" "${reason}"
    fi
  done
done
[[ -z "${TRAIN_MISSING:-}" ]] || { run_planned; next_stage; }
make_labels
print_left_out
[[ -z "${asked}" || ${#LEFT_OUT[@]} == 0 ]] || FAILED=1
[[ -n "${FAILED:-}" || ${#NOT_MADE[@]} == 0 ]] || exit 3   # all of them are locked elsewhere
exit "${FAILED:-0}"
