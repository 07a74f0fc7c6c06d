#!/usr/bin/env bash
# One task of a job array that jobs/launch/slurm.sh submits: line TASK + 1 of SUBMISSION/commands.
#
#   sbatch --array=TASKS jobs/launch/slurm_job.sh REPOSITORY SUBMISSION
#
# SBATCH_* of the environment take precedence over the #SBATCH lines below, and SBATCH_OPTIONS over
# both. USR1, which Slurm sends 120 s before the time limit, or TERM, which announces preemption,
# ends the run and requeues the job; the run resumes from its last whole epoch. After scancel the
# job is not requeued.

#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --requeue
#SBATCH --signal=B:USR1@120

set -uo pipefail
if [[ $# != 2 ]]; then awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; exit; fi

stopped="" child=""
stop() { stopped=1; [[ -z "${child}" ]] || kill -TERM -- "-${child}" 2> /dev/null; }
trap stop USR1 TERM

cd "$1" || exit
# shellcheck source=jobs/environment.sh
source jobs/environment.sh   # Slurm calls a copy of this script, which lies elsewhere
use_environment
# threads=auto takes as many; a node may not bind the job to its CPUs
export OMP_NUM_THREADS="${SLURM_CPUS_ON_NODE:-1}"
export UNLABELEDASD_WAIT=300   # for the lock of a node that is gone, stale after 3 minutes
export UNLABELEDASD_CALL="${2##*/}"   # overwrite=true clears a run once, also if it is requeued
# SLURM_JOB_ID of the last task is that of the whole array
id="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
line=$((SLURM_ARRAY_TASK_ID + 1))
command="$(sed -n "${line}p" "$2/commands")"
[[ -n "${command}" ]] || { echo "$2/commands: no line ${line} for job ${id}" >&2; exit 1; }
echo "== $(date +'%F %T'): job ${id} on ${SLURMD_NODENAME:-$(hostname)}," \
  "start $((${SLURM_RESTART_COUNT:-0} + 1)): ${command}"

set -m   # a process group of its own, to end the run with whatever it called
bash -c "exec ${command}" &
child=$!
[[ -z "${stopped}" ]] || stop
while kill -0 "${child}" 2> /dev/null; do wait "${child}"; done   # a trap ends a wait
status=0
wait "${child}" || status=$?
# state: of the job, for Slurm; its controller may be busy.
state() {
  local try
  for try in 1 2 3 4 5; do
    [[ "${try}" == 1 ]] || sleep 10
    ! squeue --noheader --jobs="${id}" --format=%T || return 0
  done
}
# after scancel, or where Slurm queues it again by itself, the job is not running any more
if [[ -n "${stopped}" && ${status} != 0 && "$(state)" =~ ^(RUNNING|SIGNALING)$ ]]; then
  echo "== $(date +'%F %T'): stopped by a signal, requeued"
  scontrol requeue "${id}"
fi
exit "${status}"
