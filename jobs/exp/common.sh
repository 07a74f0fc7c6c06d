# shellcheck shell=bash disable=SC2034
# Sourced by jobs/exp/*.sh and pseudoattr/pseudo_attr.sh, which set data_dir: the settings that
# they share, and the steps of an experiment:
#
#   plan DATASET METHOD SEED    a run; the METHOD triplet:MACHINE is the triplet model of a machine
#   run_planned                 start by the launcher what is not finished of the plan
#   report NAME METHOD...       the table over DATASETS and SEEDS
#   report_scorers NAME METHOD...   and one for each of SCORERS, by kept embeddings
#   exit "${FAILED:-0}"         1 if a run failed
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../environment.sh"
if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then usage "$0"; exit; fi
[[ $# == 0 ]] || {
  echo "$0: takes no arguments; settings come from the environment, see --help" >&2
  exit 1
}

MB_PER_RUN=100   # three kept epochs, scorers and score CSVs of 16 machines
FAILED=""
PART="${DATASETS:-}${METHODS:-}${SEEDS:-}"   # not empty: a part of the grid
read_grid
read_places
read -ra OVERRIDES <<< "${OVERRIDES:-}"   # more settings for src/train.py
# embeddings of 16 machines x 1,200 clips x 3 epochs
[[ " ${OVERRIDES[*]-} " == *" keep_embeddings=false "* ]] || MB_PER_RUN=$((MB_PER_RUN + 106))
read -ra REPORT <<< "${REPORT:-}"         # more settings for src/report.py
[[ -z "${LIST_RUNS:-}" ]] || DRY_RUN=1   # print the plan as jobs/status.sh reads it
DATA_DIR="${DATA_DIR:-${data_dir:-}}"
[[ -z "${DRY_RUN:-}" ]] || DATA_DIR="${DATA_DIR:-DATA_DIR}"   # nothing will be read
[[ -n "${DATA_DIR}" ]] || {
  echo "$0: set data_dir in it, or export DATA_DIR: the folder with <dataset>/all/raw/" >&2
  exit 1
}
[[ -d "${DATA_DIR}" || -n "${DRY_RUN:-}" ]] || {
  echo "DATA_DIR=${DATA_DIR}: no such folder" >&2
  exit 1
}
# relative paths start where the caller is; inside the repository they are short
[[ "${DATA_DIR}" == /* || ! -d "${DATA_DIR}" ]] || DATA_DIR="${PWD}/${DATA_DIR}"
RESULTS_DIR="${RESULTS_DIR#"${REPOSITORY}/"}"
LABEL_DIR="${LABEL_DIR#"${REPOSITORY}/"}"
cd "${REPOSITORY}"

LAUNCHER="${LAUNCHER:-local}"   # what starts the runs: launch, in jobs/launch/<LAUNCHER>.sh
case ${LAUNCHER} in
  local | slurm | ray) ;;
  *) echo "LAUNCHER=${LAUNCHER}: allowed are local, slurm, ray" >&2; exit 1 ;;
esac
[[ "${JOBS:-1}" =~ ^[1-9][0-9]*$ ]] || {
  echo "JOBS=${JOBS}: a number of runs at a time, at least 1" >&2
  exit 1
}

# attended COMMAND...: its exit status. TERM, which the shell would see only after the command,
# ends the command and then this script; so does Ctrl-C, which the command gets by itself.
attended() {
  local child="" status=0 stopped=""
  trap 'stopped=130' INT
  trap 'stopped=143; [[ -z "${child}" ]] || kill -TERM "${child}" 2> /dev/null' TERM
  # without the first trap, what runs in the background would ignore Ctrl-C
  (trap - INT; exec "$@") <&0 &
  child=$!
  [[ "${stopped}" != 143 ]] || kill -TERM "${child}" 2> /dev/null || true
  while kill -0 "${child}" 2> /dev/null; do wait "${child}" || true; done   # a trap ends a wait
  wait "${child}" || status=$?
  trap - INT TERM
  [[ -z "${stopped}" ]] || exit "${stopped}"
  return "${status}"
}

# ended I STATUS: of a run; fails if no other run is to begin.
ended() {
  case $2 in
    0) ;;
    3) locked+=("${RUNS[$1]}") ;;   # another terminal or machine works on it
    130) exit 130 ;;                # Ctrl-C
    *) failed+=("${RUNS[$1]}"); [[ -z "${FAIL_FAST:-}" ]] || return 1 ;;
  esac
}

# afterwards LOG COMMAND...: what needs the runs that were launched, and next_stage: what is
# launched from now on needs them. A launcher that only submits has its own.
afterwards() { "${@:2}"; }
next_stage() { :; }
# shellcheck source=jobs/launch/local.sh
source "jobs/launch/${LAUNCHER}.sh"

# read_facts METHODS SOURCES: FACTS, what src/config says of DATASETS; see src/settings/facts.py.
read_facts() {
  use_environment
  local -a options=(--methods="$1" --sources="$2" --data-dir="${DATA_DIR}")
  options+=(--overrides="${OVERRIDES[*]-}" --settings="${SETTINGS[*]-}")
  [[ -z "${DRY_RUN:-}" ]] || options+=(--no-check)
  [[ -z "${LIST_RUNS:-}" ]] || options+=(--results-dir="${RESULTS_DIR}")   # without the data
  FACTS="$(python -m settings.facts "${DATASETS[@]}" "${options[@]}")"
}

# facts DATASET FACT [KEY]: values of a fact, one a line; with KEY the rest of those that begin so.
facts() {
  local dataset fact value
  while IFS=$'\t' read -r dataset fact value; do
    [[ "${dataset} ${fact}" == "$1 $2" ]] || continue
    [[ $# == 2 || "${value}"$'\t' == "$3"$'\t'* ]] || continue
    [[ $# == 2 ]] || value="${value#"$3"}"
    printf '%s\n' "${value#$'\t'}"
  done <<< "${FACTS}"
}

PLAN=()
plan() { PLAN+=("$1"$'\t'"$2"$'\t'"$3"); }

# plan_teachers DATASET SOURCE: the runs of every seed that a source of labels takes embeddings of.
plan_teachers() {
  local method teachers
  teachers="$(facts "$1" teacher "$2")"
  while IFS= read -r method; do   # the name of a machine may contain blanks
    for seed in "${SEEDS[@]}"; do
      [[ -z "${method}" ]] || plan "$1" "${method}" "${seed}"
    done
  done <<< "${teachers}"
}

# quoted KEY=VALUE: in quotes for Hydra's parser, unless the value is a plain word or path.
quoted() {
  local value="${1#*=}"
  local plain='^[A-Za-z/._][A-Za-z0-9/._-]*$' special='^(null|true|false|nan|inf)$'
  if [[ ! "${value}" =~ ${plain} || "${value}" =~ ${special} ]]; then
    # shellcheck disable=SC2016
    value="${value//\'/\\\'}" value="${value//'${'/'\${'}"
    value="'${value}'"
  fi
  printf '%s' "${1%%=*}=${value}"
}

# folder:NAME is own recordings, dataset=folder dataset.name=NAME
dataset_name() { echo "${1#folder:}"; }
run_folder() { FOLDER="${1#folder:}/${2/:/_}_$3"; }   # in RESULTS_DIR

# reaches_triplet OVERRIDE: triplet models have this setting too (src/config/triplet.yaml).
reaches_triplet() { [[ "$1" =~ ^\+*(dataset\.|data\.|trainer\.|precision=|threads=|overwrite=) ]]; }

# run_command DATASET METHOD SEED: its command line, quoted for the shell.
run_command() {
  local override
  local -a command=(python)
  case $2 in
    triplet:*) command+=(src/train_triplet.py) ;;
    *) command+=(src/train.py) ;;
  esac
  case $1 in
    folder:*) command+=(dataset=folder "$(quoted dataset.name="${1#folder:}")") ;;
    *) command+=(dataset="$1") ;;
  esac
  case $2 in
    triplet:*) command+=("$(quoted machine="${2#triplet:}")") ;;
    *) command+=(method="$2") ;;
  esac
  command+=(seed="$3" "$(quoted data_dir="${DATA_DIR}")" "$(quoted results_dir="${RESULTS_DIR}")")
  [[ "$2" == triplet:* || "${LABEL_DIR}" == pseudoattr/label ]] \
    || command+=("$(quoted label_dir="${LABEL_DIR}")")
  for override in ${OVERRIDES[@]+"${OVERRIDES[@]}"}; do
    if [[ "$2" != triplet:* ]] || reaches_triplet "${override}"; then command+=("${override}"); fi
  done
  printf '%q ' "${command[@]}"
}

# list_planned: a run a line: kind, dataset, method or machine, seed, folder in RESULTS_DIR.
list_planned() {
  local run dataset method seed kind
  for run in ${PLAN[@]+"${PLAN[@]}"}; do
    IFS=$'\t' read -r dataset method seed <<< "${run}"
    run_folder "${dataset}" "${method}" "${seed}"
    kind=run
    [[ "${method}" != triplet:* ]] || kind=triplet
    printf '%s\t' "${kind}" "${dataset}" "${method#triplet:}" "${seed}"
    printf '%s\n' "${FOLDER}"
  done
}

# data_changed DATASET FOLDER: clips may differ from those of the finished run; train.py compares.
data_changed() {
  local contents="$2/all/contents.json" raw newer
  raw="${DATA_DIR}/${1#folder:}/all/raw"
  [[ -e "${contents}" && -d "${raw}" ]] || return 1
  raw="$(cd "${raw}" && pwd -P)"
  grep -qF -- "\"root\": \"${raw}\"" "${contents}" || return 0
  newer="$(find -L "${raw}" -cnewer "${contents}" -print -quit 2> /dev/null)" || true
  [[ -n "${newer}" ]]
}

# run_planned: a finished run is skipped, a failed one does not stop the rest.
run_planned() {
  local run dataset method seed folder free
  local -a locked=() failed=()   # entries of RUNS, named by the launcher
  if [[ -n "${LIST_RUNS:-}" ]]; then list_planned; PLAN=(); return; fi
  [[ ${#PLAN[@]} != 0 ]] || return 0
  RUNS=() FOLDERS=() COMMANDS=()
  for run in "${PLAN[@]}"; do
    IFS=$'\t' read -r dataset method seed <<< "${run}"
    run_folder "${dataset}" "${method}" "${seed}"
    folder="${RESULTS_DIR}/${FOLDER}"
    # with OVERRIDES or newer clips, src/train.py says whether they are those of the finished run
    if [[ -e "${folder}/all/done" && -z "${DRY_RUN:-}${OVERRIDES[*]-}" ]] \
      && ! data_changed "${dataset}" "${folder}"; then
      echo "already finished, skipping: ${folder}"
      continue
    fi
    RUNS+=("${run}")
    FOLDERS+=("${folder}")
    COMMANDS+=("$(run_command "${dataset}" "${method}" "${seed}")")
  done
  if [[ -z "${DRY_RUN:-}" ]]; then
    use_environment
    mkdir -p -- "${RESULTS_DIR}"
    free="$(df -Pm -- "${RESULTS_DIR}" | awk 'NR == 2 { print $4 }')"
    echo "${#RUNS[@]} of ${#PLAN[@]} runs to do," \
      "about $((${#RUNS[@]} * MB_PER_RUN)) MB in ${RESULTS_DIR} (${free} MB free)"
  fi
  launch
  PLAN=()
  [[ ${#locked[@]} == 0 ]] || printf 'locked elsewhere: %s\n' "${locked[@]//$'\t'/ }" >&2
  [[ ${#failed[@]} == 0 ]] || { printf 'failed: %s\n' "${failed[@]//$'\t'/ }" >&2; FAILED=1; }
}

# report NAME METHOD...: the table, unless it would have one run, which has printed its scores.
report() {
  [[ -z "${DRY_RUN:-}" && $((${#DATASETS[@]} * ($# - 1) * ${#SEEDS[@]})) -gt 1 ]] || return 0
  local name="$1${PART:+_part}"
  local -a names=()
  for dataset in "${DATASETS[@]}"; do names+=("$(dataset_name "${dataset}")"); done
  afterwards "${RESULTS_DIR}/${name}.log" \
    python src/report.py --name "${name}" --datasets "${names[@]}" --methods "${@:2}" \
    --seeds "${SEEDS[@]}" --results-dir="${RESULTS_DIR}" ${REPORT[@]+"${REPORT[@]}"} || FAILED=1
}

# score_again DATASET METHOD SEED SCORER: the scores of a finished run by another scorer.
score_again() {
  run_folder "$1" "$2" "$3"
  local folder="${RESULTS_DIR}/${FOLDER}"
  local -a command=(python src/infer.py "$(quoted run="${folder}")" name="$4" scorer="$4")
  if [[ -n "${DRY_RUN:-}" ]]; then printf '%q ' "${command[@]}" && echo; return; fi
  [[ -e "${folder}/all/done" && ! -e "${folder}/all/infer/$4.yaml" ]] || return 0
  attended "${command[@]}" || FAILED=1
}

# report_scorers NAME METHOD...: score the finished runs by each of SCORERS (names in
# src/config/scorer), and write a table of each.
report_scorers() {
  local name="$1" scorer dataset seed method
  local -a scorers rest=(${REPORT[@]+"${REPORT[@]}"})
  shift
  read -ra scorers <<< "${SCORERS:-}"
  for scorer in ${scorers[@]+"${scorers[@]}"}; do
    for dataset in "${DATASETS[@]}"; do
      for seed in "${SEEDS[@]}"; do
        for method in "$@"; do score_again "${dataset}" "${method}" "${seed}" "${scorer}"; done
      done
    done
    REPORT=(${rest[@]+"${rest[@]}"} --version "${scorer}")
    report "${name}_${scorer}" "$@"
  done
}
