#!/usr/bin/env bash
# One task of a job array that jobs/launch/slurm.sh submits: line TASK + 1 of SUBMISSION/commands.
#
#   sbatch --array=TASKS jobs/launch/slurm_job.sh REPOSITORY SUBMISSION
#
# What the #SBATCH lines below ask for gives way to SBATCH_* of the environment, and both to SBATCH_OPTIONS.
# USR1, which Slurm sends 120 s before the time limit, or TERM, which announces preemption, ends the run and queues the
# job again; it goes on from its last whole epoch. After scancel it is not queued again.

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
source jobs/environment.sh   # not beside this script, which Slurm calls as a copy
use_environment
export OMP_NUM_THREADS="${SLURM_CPUS_ON_NODE:-1}"   # `threads: auto` takes as many; a node may not bind the job to its CPUs
export UNLABELEDASD_WAIT=300   # for the lock of a node that is gone, stale after 3 minutes
export UNLABELEDASD_CALL="${2##*/}"   # overwrite=true clears a run once, not again when it is requeued
id="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"   # SLURM_JOB_ID of the last task is the whole array's
command="$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$2/commands")"
[[ -n "${command}" ]] || { echo "$2/commands: no line $((SLURM_ARRAY_TASK_ID + 1)) for job ${id}" >&2; exit 1; }
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
  echo "== $(date +'%F %T'): told to end, queued again"
  scontrol requeue "${id}"
fi
exit "${status}"
