# shellcheck shell=bash
# Sourced by jobs/exp/*.sh, which set data_dir: settings that the environment may override, and the steps of an
# experiment: plan DATASET METHOD SEED for every run, run_planned, then report NAME METHOD... for the table.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../environment.sh"
if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then usage "$0"; exit; fi
[[ $# == 0 ]] || { echo "$0: takes no arguments; settings come from the environment, see --help" >&2; exit 1; }

PART="${DATASETS:-}${METHODS:-}${SEEDS:-}"   # not empty: a part of the grid
read -ra DATASETS <<< "${DATASETS:-dcase2023 dcase2024}"
read -ra SEEDS <<< "${SEEDS:-1 2 3 4 5}"
# more settings for src/train.py: OVERRIDES="data.batch_size=32 ..."; triplet models take those that they have too
read -ra OVERRIDES <<< "${OVERRIDES:-}"
read -ra REPORT <<< "${REPORT:-}"   # more settings for src/report.py: REPORT="--html --baseline na_1024"
DATA_DIR="${DATA_DIR:-${data_dir:-}}"
[[ -z "${DRY_RUN:-}" ]] || DATA_DIR="${DATA_DIR:-DATA_DIR}"   # nothing will be read
[[ -n "${DATA_DIR}" ]] || {
  echo "$0: set data_dir in it, or export DATA_DIR: the folder that holds <dataset>/all/raw/" >&2
  exit 1
}
[[ -d "${DATA_DIR}" || -n "${DRY_RUN:-}" ]] || { echo "DATA_DIR=${DATA_DIR}: no such folder" >&2; exit 1; }
# as the caller stands; short where it lies in the repository
[[ "${DATA_DIR}" == /* || -n "${DRY_RUN:-}" ]] || DATA_DIR="${PWD}/${DATA_DIR}"
RESULTS_DIR="${RESULTS_DIR:-${REPOSITORY}/results/exp}"
LABEL_DIR="${LABEL_DIR:-${REPOSITORY}/pseudoattr/label}"
[[ "${RESULTS_DIR}" == /* ]] || RESULTS_DIR="${PWD}/${RESULTS_DIR}"
[[ "${LABEL_DIR}" == /* ]] || LABEL_DIR="${PWD}/${LABEL_DIR}"
RESULTS_DIR="${RESULTS_DIR#"${REPOSITORY}/"}" LABEL_DIR="${LABEL_DIR#"${REPOSITORY}/"}"
cd "${REPOSITORY}"
LAUNCHER="${LAUNCHER:-local}"   # what starts the runs: launch, in jobs/launch/<LAUNCHER>.sh
case ${LAUNCHER} in
  local | slurm | ray) ;;
  *) echo "LAUNCHER=${LAUNCHER}: allowed are local, slurm, ray" >&2; exit 1 ;;
esac
[[ "${JOBS:-1}" =~ ^[1-9][0-9]*$ ]] || { echo "JOBS=${JOBS}: a number of runs at a time, at least 1" >&2; exit 1; }
# attended COMMAND...: its exit status. TERM, of which the shell would hear only afterwards, ends it and then this script;
# so does Ctrl-C, which it gets by itself.
attended() {
  local child="" status=0 stopped=""
  trap 'stopped=130' INT
  trap 'stopped=143; [[ -z "${child}" ]] || kill -TERM "${child}" 2> /dev/null' TERM
  (trap - INT; exec "$@") <&0 &   # Ctrl-C is ignored in what runs in the background, unless it says otherwise
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
    3) held+=("${RUNS[$1]}") ;;   # another terminal or machine works on it
    130) exit 130 ;;              # Ctrl-C
    *) failed+=("${RUNS[$1]}"); [[ -z "${FAIL_FAST:-}" ]] || return 1 ;;
  esac
}
# afterwards LOG COMMAND...: what needs the runs that were launched, and next_stage: what is launched from now on needs
# them. A launcher that only submits has its own.
afterwards() { "${@:2}"; }
next_stage() { :; }
# shellcheck source=jobs/launch/local.sh
source "jobs/launch/${LAUNCHER}.sh"
MB_PER_RUN=100   # three kept epochs, scorers and score CSVs of 16 machines

# facts DATASET unlabeled|teacher|experiment3: names from the dataset's yaml (of own recordings, from their folder).
facts() {
  use_environment
  python -m settings.datasets "$@" --data-dir "${DATA_DIR}"
}

PLAN=()
plan() { PLAN+=("$1"$'\t'"$2"$'\t'"$3"); }   # DATASET METHOD SEED; the method triplet:MACHINE is a triplet model

# quoted KEY=VALUE: in quotes for Hydra's parser, unless the value is a plain word or path.
quoted() {
  local value="${1#*=}"
  if [[ ! "${value}" =~ ^[A-Za-z/._][A-Za-z0-9/._-]*$ || "${value}" =~ ^(null|true|false|nan|inf)$ ]]; then
    # shellcheck disable=SC2016
    value="${value//\'/\\\'}" value="${value//'${'/'\${'}"
    value="'${value}'"
  fi
  printf '%s' "${1%%=*}=${value}"
}

# folder:NAME is own recordings, dataset=folder dataset.name=NAME
dataset_name() { echo "${1#folder:}"; }
run_folder() { echo "${RESULTS_DIR}/$(dataset_name "$1")/${2/:/_}_$3"; }

# run_command DATASET METHOD SEED: its command line, quoted for the shell, to be called in the repository.
run_command() {
  local override
  local -a command
  case $1 in
    folder:*) command=(dataset=folder "$(quoted dataset.name="${1#folder:}")") ;;
    *) command=(dataset="$1") ;;
  esac
  case $2 in
    triplet:*) command=(python src/train_triplet.py "${command[@]}" "$(quoted machine="${2#triplet:}")") ;;
    *) command=(python src/train.py "${command[@]}" method="$2") ;;
  esac
  command+=(seed="$3" "$(quoted data_dir="${DATA_DIR}")" "$(quoted results_dir="${RESULTS_DIR}")")
  [[ "$2" != pattr_* || "${LABEL_DIR}" == pseudoattr/label ]] || command+=("$(quoted label_dir="${LABEL_DIR}")")
  for override in ${OVERRIDES[@]+"${OVERRIDES[@]}"}; do
    [[ "$2" == triplet:* && ! "${override}" =~ ^\+*(dataset\.|data\.|trainer\.|precision=|threads=) ]] || command+=("${override}")
  done
  printf '%q ' "${command[@]}"
}

# run_planned: what is to do of the plan, by the launcher; a finished run is skipped, a failed one does not stop the rest.
run_planned() {
  local run dataset method seed folder
  local -a held=() failed=()   # entries of RUNS, named by the launcher
  [[ -z "${LIST_RUNS:-}" ]] || { printf '%s\n' "${PLAN[@]}"; return; }   # jobs/status.sh asks
  RUNS=() FOLDERS=() COMMANDS=()
  for run in ${PLAN[@]+"${PLAN[@]}"}; do
    IFS=$'\t' read -r dataset method seed <<< "${run}"
    folder="$(run_folder "${dataset}" "${method}" "${seed}")"
    # with OVERRIDES, src/train.py tells whether they are those of the finished run
    if [[ -e "${folder}/all/done" && -z "${DRY_RUN:-}${OVERRIDES[*]-}" ]]; then
      echo "finished already: ${folder}"
      continue
    fi
    RUNS+=("${run}") FOLDERS+=("${folder}") COMMANDS+=("$(run_command "${dataset}" "${method}" "${seed}")")
  done
  if [[ -z "${DRY_RUN:-}" ]]; then
    use_environment
    mkdir -p -- "${RESULTS_DIR}"
    echo "${#RUNS[@]} of ${#PLAN[@]} runs to do, about $((${#RUNS[@]} * MB_PER_RUN)) MB in ${RESULTS_DIR}" \
      "($(df -Pm -- "${RESULTS_DIR}" | awk 'NR == 2 { print $4 }') MB free)"
  fi
  launch
  PLAN=()
  [[ ${#held[@]} == 0 ]] || printf 'held elsewhere: %s\n' "${held[@]//$'\t'/ }" >&2
  [[ ${#failed[@]} == 0 ]] || { printf 'failed: %s\n' "${failed[@]//$'\t'/ }" >&2; FAILED=1; }
}

# report NAME METHOD...: the table over DATASETS and SEEDS; then the script ends, with status 1 if a run failed.
report() {
  # one run has printed its figures; the paper's tables are those of the whole grid
  [[ -z "${DRY_RUN:-}" && $((${#DATASETS[@]} * ($# - 1) * ${#SEEDS[@]})) -gt 1 ]] || exit "${FAILED:-0}"
  local -a names=()
  for dataset in "${DATASETS[@]}"; do names+=("$(dataset_name "${dataset}")"); done
  afterwards "${RESULTS_DIR}/$1${PART:+_part}.log" \
    python src/report.py --name "$1${PART:+_part}" --datasets "${names[@]}" --methods "${@:2}" --seeds "${SEEDS[@]}" \
    --results-dir="${RESULTS_DIR}" ${REPORT[@]+"${REPORT[@]}"}
  exit "${FAILED:-0}"
}
