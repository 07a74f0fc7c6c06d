# shellcheck shell=bash disable=SC2034
# Sourced by pseudo_attr.sh and jobs/exp/exp3.sh after jobs/exp/common.sh: sets of pseudo-labels,
# one for each dataset, source and, if the source has seeds, seed.
#
#   lacking DATASET SOURCE       why its labels cannot be made; nothing if they can, or exist
#   plan_labels DATASET SOURCE   its sets, with every seed
#   make_labels                  embed and cluster what is planned, after read_facts
#
# A set is an entry "DATASET SOURCE [SEED]" of SETS; NOT_MADE has those that failed or are locked
# elsewhere.

read -ra SETTINGS <<< "${SETTINGS:-}"   # more settings for pseudoattr/embed.py and cluster.py
SETS=() NOT_MADE=() LEFT_OUT=()

# label_folder DATASET SOURCE [SEED]: in LABEL_DIR.
label_folder() { echo "${1#folder:}/$2${3:+_$3}"; }

lacking() {
  [[ -e "${LABEL_DIR}/$(label_folder "$1" "$2")/labels.json" ]] || facts "$1" lacking "$2"
}

# leave_out WHAT REASON: print it now, and with print_left_out at the end.
leave_out() {
  [[ -z "${LIST_RUNS:-}" ]] || return 0
  LEFT_OUT+=("$1: $2")
  echo "left out: $1: $2" >&2
}
print_left_out() { [[ ${#LEFT_OUT[@]} == 0 ]] || printf 'left out: %s\n' "${LEFT_OUT[@]}" >&2; }

plan_labels() {
  local seed reason
  reason="$(facts "$1" lacking "$2")"
  if [[ -n "${reason}" ]]; then
    echo "labels exist, taken as they are: ${LABEL_DIR}/$(label_folder "$1" "$2") (${reason})"
  elif [[ $'\n'"$(facts "$1" seeded)"$'\n' == *$'\n'"$2"$'\n'* ]]; then
    for seed in "${SEEDS[@]}"; do SETS+=("$1 $2 ${seed}"); done
  else
    SETS+=("$1 $2")
  fi
}

# list_labels: the plan, a set a line: kind, dataset, source, seed, folder in LABEL_DIR.
list_labels() {
  local entry dataset source seed
  for entry in ${SETS[@]+"${SETS[@]}"}; do
    read -r dataset source seed <<< "${entry}"
    printf 'labels\t%s\t%s\t%s\t%s\n' "${dataset}" "${source}" "${seed}" \
      "$(label_folder "${dataset}" "${source}" "${seed}")"
  done
}

# label_commands DATASET SOURCE [SEED]: SCRIPTS of pseudoattr/ that make a set, and their ARGUMENTS.
label_commands() {
  local override
  SCRIPTS=(embed.py cluster.py)
  [[ "$2" != gt ]] || SCRIPTS=(cluster.py)   # true attributes need no embeddings
  case $1 in
    folder:*) ARGUMENTS=(dataset=folder "$(quoted dataset.name="${1#folder:}")") ;;
    *) ARGUMENTS=("dataset=$1") ;;
  esac
  ARGUMENTS+=(source="$2" ${3:+seed="$3"} "$(quoted data_dir="${DATA_DIR}")"
    "$(quoted results_dir="${RESULTS_DIR}")" "$(quoted label_dir="${LABEL_DIR}")"
    ${SETTINGS[@]+"${SETTINGS[@]}"})
  for override in ${OVERRIDES[@]+"${OVERRIDES[@]}"}; do
    [[ "${override}" != dataset.* ]] || ARGUMENTS+=("${override}")
  done
}

# make_set DATASET SOURCE [SEED]: its exit status.
make_set() {
  local script
  local -a SCRIPTS ARGUMENTS
  label_commands "$@"
  for script in "${SCRIPTS[@]}"; do
    printf '%q ' python "pseudoattr/${script}" "${ARGUMENTS[@]}" && echo
    [[ -z "${DRY_RUN:-}" ]] || continue
    attended python "pseudoattr/${script}" "${ARGUMENTS[@]}" || return
  done
}

# submit_set DATASET SOURCE [SEED]: to RUNS; its job calls pseudo_attr.sh for this set alone.
submit_set() {
  local folder
  local -a command
  folder="${LABEL_DIR}/$(label_folder "$@")"
  if [[ -e "${folder}/labels.json" && -z "${DRY_RUN:-}${AFTER_JOBS}${SETTINGS[*]-}" \
    && " ${OVERRIDES[*]-}" != *" dataset."* ]]; then
    echo "labels exist: ${folder}"   # no teacher is in the queue, no other settings are asked for
    return
  fi
  command=(env LAUNCHER=local GPUS= DATA_DIR="${DATA_DIR}" RESULTS_DIR="${RESULTS_DIR}"
    LABEL_DIR="${LABEL_DIR}" DATASETS="$1" SOURCES="$2" ${3:+SEEDS="$3"}
    OVERRIDES="${OVERRIDES[*]-}" SETTINGS="${SETTINGS[*]-}" pseudoattr/pseudo_attr.sh)
  RUNS+=("$*")
  FOLDERS+=("${folder}")
  COMMANDS+=("$(printf '%q ' "${command[@]}")")
}

make_labels() {
  local entry status
  local -a locked=() failed=() words
  if [[ -n "${LIST_RUNS:-}" ]]; then list_labels; SETS=(); return; fi
  RUNS=() FOLDERS=() COMMANDS=()
  for entry in ${SETS[@]+"${SETS[@]}"}; do
    read -ra words <<< "${entry}"
    if [[ "${LAUNCHER}" == slurm ]]; then
      submit_set "${words[@]}"
      continue
    fi
    status=0
    make_set "${words[@]}" || status=$?
    case ${status} in
      0) ;;
      3) locked+=("${entry}") ;;   # another terminal trains the teacher or makes these labels
      130) exit 130 ;;             # Ctrl-C
      *) failed+=("${entry}") ;;
    esac
  done
  SETS=()
  [[ ${#RUNS[@]} == 0 ]] || ARRAY_NAME=pseudo_attr launch
  NOT_MADE+=(${locked[@]+"${locked[@]}"} ${failed[@]+"${failed[@]}"})
  [[ ${#locked[@]} == 0 ]] || printf 'locked elsewhere: %s\n' "${locked[@]}" >&2
  [[ ${#failed[@]} == 0 ]] || { printf 'no labels: %s\n' "${failed[@]}" >&2; FAILED=1; }
}
