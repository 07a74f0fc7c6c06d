# shellcheck shell=bash disable=SC2034
# LAUNCHER=ray, sourced by common.sh: the runs on a Ray cluster, by ray_runs.py.

# launch: run COMMANDS[i], of the run RUNS[i] with the folder FOLDERS[i], for every i; add to
# failed and locked.
launch() {
  local ended i status
  if [[ -n "${DRY_RUN:-}" || ${#RUNS[@]} == 0 ]]; then
    ((${#COMMANDS[@]} == 0)) || printf '%s\n' "${COMMANDS[@]}"
    return
  fi
  ended="$(mktemp)"
  # shellcheck disable=SC2064
  trap "rm -f -- '${ended}'" EXIT
  attended python jobs/launch/ray_runs.py > "${ended}" < <(
    for i in "${!RUNS[@]}"; do printf '%s\0' "${RUNS[i]}" "${FOLDERS[i]}" "${COMMANDS[i]}"; done
  ) || exit $?
  while read -r i status; do
    case ${status} in
      0) ;;
      3) locked+=("${RUNS[i]}") ;;   # another launcher or terminal works on it
      *) failed+=("${RUNS[i]}") ;;
    esac
  done < "${ended}"
  rm -f -- "${ended}"
}
