# shellcheck shell=bash disable=SC2034
# LAUNCHER=slurm, sourced by common.sh: the runs of a plan become one job array, a task for each
# (docs/cluster.md).
#
# Every task has a line in <results_dir>/.slurm/<submission>/commands and a link <task>.log there,
# to the log in its run's folder. The comment of the job is <submission>, so that the queue shows
# which runs it has.

[[ -n "${DRY_RUN:-}" ]] || command -v sbatch > /dev/null || {
  echo "LAUNCHER=slurm: no sbatch here; call this where jobs are submitted" >&2
  exit 1
}
JOB_IDS="$(mktemp)"   # jobs of this stage, an id a line
trap 'rm -f -- "${JOB_IDS}"' EXIT
AFTER_JOBS="${AFTER_JOBS:-}"

absolute() { if [[ "$1" == /* ]]; then echo "$1"; else echo "${REPOSITORY}/$1"; fi; }
SUBMISSIONS="$(absolute "${RESULTS_DIR}")/.slurm"

# read_queue: QUEUED[log file] is the task that is queued, or runs, to write it; QUEUED[log file,
# line break, command line] the one that does so by this command.
read_queue() {
  declare -gA QUEUED=()
  [[ -z "${DRY_RUN:-}" ]] || return 0
  local queue id task name link command
  queue="$(squeue --user="$(id -un)" --noheader --array --format='%i %K %k')"
  while read -r id task name; do
    link="${SUBMISSIONS}/${name}/${task}.log"
    [[ -L "${link}" ]] || continue
    link="$(readlink "${link}")"
    QUEUED["${link}"]="${id}"
    command="$(sed -n "$((task + 1))p" "${SUBMISSIONS}/${name}/commands")"
    QUEUED["${link}"$'\n'"${command}"]="${id}"
  done <<< "${queue}"
}

# submit DEPENDENCY NAME WHAT [OPTION...]: TASKS[i] with its output in LOGS[i], as one array; its
# id is added to JOB_IDS.
submit() {
  local id i submission folder
  local -a command options
  submission="$(date +%Y%m%d-%H%M%S)-$$-${RANDOM}"
  folder="${SUBMISSIONS}/${submission}"
  read -ra options <<< "${SBATCH_OPTIONS:-}"
  command=(sbatch --parsable "${@:4}" ${options[@]+"${options[@]}"}
    --job-name="$2" --comment="${submission}" --array="0-$((${#TASKS[@]} - 1))${JOBS:+%${JOBS}}"
    --output="${folder//%/%%}/%a.log" --open-mode=append
    ${AFTER_JOBS:+"--dependency=$1:${AFTER_JOBS}" --kill-on-invalid-dep=yes}
    jobs/launch/slurm_job.sh "${REPOSITORY}" "${folder}")
  if [[ -n "${DRY_RUN:-}" ]]; then
    printf '%s\n' "${TASKS[@]}"
    printf '%q ' "${command[@]}" && echo
    echo "ID_$(($(wc -l < "${JOB_IDS}") + 1))_OF_$2" >> "${JOB_IDS}"   # in place of sbatch's number
    return
  fi
  mkdir -p -- "${folder}"
  printf '%s\n' "${TASKS[@]}" > "${folder}/commands"
  for ((i = 0; i < ${#TASKS[@]}; i++)); do
    mkdir -p -- "${LOGS[i]%/*}"
    ln -s -- "${LOGS[i]}" "${folder}/${i}.log"
  done
  id="$("${command[@]}")" || { rm -r -- "${folder}"; return 1; }
  id="${id%%;*}"   # without the cluster's name
  echo "${id}" >> "${JOB_IDS}"
  echo "submitted: job ${id}," \
    "$3${JOBS:+, ${JOBS} at a time}${AFTER_JOBS:+, after ${AFTER_JOBS//:/ }}"
}

# launch: submit what is not in the queue yet; what it waits for has to end well.
launch() {
  local i log status overwrite=no
  local -a TASKS=() LOGS=()
  local -A seen=()   # a plan may name a run twice
  [[ " ${OVERRIDES[*]-}" != *[\ +]overwrite=* ]] || overwrite=maybe
  read_queue
  for ((i = 0; i < ${#RUNS[@]}; i++)); do
    log="$(absolute "${FOLDERS[i]}")/launch.log"
    [[ -z "${seen[${log}]:-}" ]] || continue
    seen["${log}"]=1
    if [[ -n "${QUEUED[${log}]:-}" ]]; then
      echo "in the queue already, job ${QUEUED[${log}]}: ${FOLDERS[i]}"
      echo "${QUEUED[${log}]}" >> "${JOB_IDS}"
    elif [[ -z "${DRY_RUN:-}" && -e "${FOLDERS[i]}/all/done" && "${overwrite}" == no ]]; then
      # finished: says at once whether it was with these OVERRIDES
      status=0
      bash -c "exec ${COMMANDS[i]}" || status=$?
      ended "${i}" "${status}" || true   # FAIL_FAST is for runs, and this one has finished
    else
      TASKS+=("${COMMANDS[i]}")
      LOGS+=("${log}")
    fi
  done
  [[ ${#TASKS[@]} != 0 ]] || return 0
  submit afterok "${ARRAY_NAME:-$(basename "$0" .sh)}" \
    "${#TASKS[@]} tasks, each with its log in <its folder>/launch.log" || failed+=("${RUNS[@]}")
}

# next_stage: what is submitted from now on waits for what was submitted, or in the queue, until
# now.
next_stage() {
  [[ ! -s "${JOB_IDS}" ]] || AFTER_JOBS="$(paste -sd: "${JOB_IDS}")"
  : > "${JOB_IDS}"
}

# afterwards LOG COMMAND...: once all of that has ended, in whatever way; at once if there is none
# of it.
afterwards() {
  local same
  local -a TASKS LOGS
  next_stage
  if [[ -z "${AFTER_JOBS}" ]]; then "${@:2}"; return; fi
  TASKS=("$(printf '%q ' "${@:2}")")
  LOGS=("$(absolute "$1")")
  read_queue
  same="${LOGS[0]}"$'\n'"${TASKS[0]}"
  same="${QUEUED[${same}]:-}"
  if [[ -n "${same}" ]]; then   # an earlier call left it waiting, but not for what is new
    echo "cancelled: job ${same}, the same table, if it still waits"
    scancel --state=PENDING "${same}"
  fi
  submit afterany "$(basename "$1" .log)" "the table, printed to $1" --gres=none --cpus-per-task=1
}
