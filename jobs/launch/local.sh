# shellcheck shell=bash disable=SC2034
# LAUNCHER=local, sourced by common.sh: the runs on this machine, one after the other, or JOBS at a
# time; GPUS="0 1 2 3" and JOBS_PER_GPU (1) place them on GPUs, and JOBS is then their product.

JOBS_PER_GPU="${JOBS_PER_GPU:-1}"
[[ "${JOBS_PER_GPU}" =~ ^[1-9][0-9]*$ ]] || {
  echo "JOBS_PER_GPU=${JOBS_PER_GPU}: a number of runs at a time, at least 1" >&2
  exit 1
}
if [[ -n "${GPUS:-}" ]]; then
  read -ra gpus <<< "${GPUS}"
  [[ "${gpus[*]-}" =~ ^(([0-9]+|(GPU|MIG)-[A-Za-z0-9/-]+)( |$))+$ ]] || {
    echo "GPUS=${GPUS}: numbers of GPUs or their ids (GPU-..., MIG-...), with blanks between" >&2
    exit 1
  }
  JOBS=$((${#gpus[@]} * JOBS_PER_GPU))
  export CUDA_VISIBLE_DEVICES="${gpus[0]}"   # of what runs alone; local_run.sh chooses among them
elif ((JOBS_PER_GPU > 1)); then
  echo "JOBS_PER_GPU=${JOBS_PER_GPU}: needs GPUS, the GPUs to share, such as GPUS=0" >&2
  exit 1
fi

# launch: call COMMANDS[i], of the run RUNS[i] with the folder FOLDERS[i], for every i; add to
# failed and locked.
launch() {
  local i status
  if [[ -z "${DRY_RUN:-}" && "${JOBS:-1}" != 1 && ${#RUNS[@]} -gt 1 ]]; then
    launch_several
    return
  fi
  for ((i = 0; i < ${#RUNS[@]}; i++)); do
    echo "${COMMANDS[i]}"
    [[ -z "${DRY_RUN:-}" ]] || continue
    status=0
    attended env RUNS_AFTER=$((${#RUNS[@]} - i - 1)) bash -c "exec ${COMMANDS[i]}" || status=$?
    ended "${i}" "${status}" || break
  done
}

# launch_several: JOBS at a time by xargs, each with its output in launch.log of its folder and a
# share of the cores.
launch_several() {
  local i what pid xargs="" count=0 stopped="" failing=""
  local -a slots=() running=() reported=()
  [[ -z "${GPUS:-}" ]] || slots=(--process-slot-var=SLOT)   # an option of GNU's xargs alone
  # Ctrl-C reaches the runs too, TERM is passed on; their output ends when the last of them does
  trap 'stopped=130' INT
  trap 'stopped=143; end_several' TERM
  while read -r i what pid xargs; do
    if [[ "${what}" == began ]]; then
      running[i]="${pid}"
      [[ "${stopped}" != 143 ]] || end_several
      continue
    fi
    unset "running[i]"
    reported[i]=1
    count=$((count + 1))
    echo "${count} of ${#RUNS[@]}, status ${what}: ${FOLDERS[i]}/launch.log"
    # after Ctrl-C, the others have not ended yet
    if [[ "${what}" == 130 ]]; then stopped="${stopped:-130}"; continue; fi
    ended "${i}" "${what}" || failing=1
  done < <(
    # rounded down: more threads than cores wait for each other several times as long
    at_once=$((JOBS < ${#RUNS[@]} ? JOBS : ${#RUNS[@]}))
    threads=$(($(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN) / at_once))
    ((threads > 0)) || threads=1
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${threads}}"
    export GPUS="${GPUS:-}" FAIL_FAST="${FAIL_FAST:-}"
    for ((i = 0; i < ${#RUNS[@]}; i++)); do
      printf '%s\0' "${i}" "${FOLDERS[i]}" "${COMMANDS[i]}"
    done | xargs -0 -n 3 -P "${JOBS}" ${slots[@]+"${slots[@]}"} jobs/launch/local_run.sh
  )
  trap - INT TERM
  [[ -z "${stopped}" ]] || exit "${stopped}"
  for ((i = 0; i < ${#RUNS[@]}; i++)); do
    [[ -z "${reported[i]:-}${failing}" ]] || continue
    echo "did not begin, or vanished: ${FOLDERS[i]}" >&2
    failed+=("${RUNS[i]}")
  done
}

# end_several: xargs first, which would begin the next run.
end_several() {
  kill -TERM ${xargs:+"${xargs}"} ${running[@]+"${running[@]}"} 2> /dev/null || true
}
