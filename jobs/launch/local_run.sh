#!/usr/bin/env bash
# One of several runs at a time, called by xargs (local.sh), with its output added to
# FOLDER/launch.log. Prints "I began PID XARGS", the ids of COMMAND and of xargs, and "I STATUS"
# when COMMAND has finished.
#
#   jobs/launch/local_run.sh I FOLDER COMMAND
#   SLOT=N GPUS="0 1" jobs/launch/local_run.sh I FOLDER COMMAND     on a GPU of GPUS
set -uo pipefail
if [[ $# != 3 ]]; then awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; exit; fi

read -ra gpus <<< "${GPUS:-}"
[[ ${#gpus[@]} == 0 ]] || export CUDA_VISIBLE_DEVICES="${gpus[SLOT % ${#gpus[@]}]}"
mkdir -p -- "$2"
status=0
echo "== $(date +'%F %T'): $3" >> "$2/launch.log"
# shellcheck disable=SC2016
bash -c 'echo "$1 began $$ $4"; eval "exec $3" >> "$2/launch.log" 2>&1 < /dev/null' \
  - "$1" "$2" "$3" "${PPID}" || status=$?
echo "$1 ${status}"
case ${status} in
  0 | 3) ;;
  130) exit 255 ;;                               # xargs begins no other run
  *) [[ -z "${FAIL_FAST:-}" ]] || exit 255 ;;
esac
