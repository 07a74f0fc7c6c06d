# shellcheck shell=bash disable=SC2034
# LAUNCHER=local, sourced by common.sh: the runs on this machine, one after the other.

# launch: call COMMANDS[i], of the run RUNS[i] with the folder FOLDERS[i], for every i; add to failed and held.
launch() {
  local i status
  for ((i = 0; i < ${#RUNS[@]}; i++)); do
    echo "${COMMANDS[i]}"
    [[ -z "${DRY_RUN:-}" ]] || continue
    status=0
    RUNS_AFTER=$((${#RUNS[@]} - i - 1)) bash -c "exec ${COMMANDS[i]}" || status=$?
    case ${status} in
      0) ;;
      3) held+=("${RUNS[i]}") ;;   # another terminal or machine works on it
      130) exit 130 ;;             # Ctrl-C
      *) failed+=("${RUNS[i]}"); [[ -z "${FAIL_FAST:-}" ]] || break ;;
    esac
  done
}
