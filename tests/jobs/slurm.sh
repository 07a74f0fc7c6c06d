#!/usr/bin/env bash
# A Slurm of its own for tests: munged, slurmctld and two nodes, n1 and n2, of one CPU each, all on
# this host.
#
#   tests/jobs/slurm.sh start FOLDER     all in FOLDER (a short path); ports from SLURM_TEST_PORT
#   export SLURM_CONF=FOLDER/slurm.conf     and sbatch, squeue, scontrol are of that one
#   tests/jobs/slurm.sh stop FOLDER      end its jobs and daemons
#
# Needs Debian's slurm-wlm and munge (apt install slurm-wlm munge), and root; nothing in /etc or
# /var is touched.
set -Eeuo pipefail
usage() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; }

start() {
  local folder port host node
  mkdir -p -- "$1"
  folder="$(cd "$1" && pwd)" port="${SLURM_TEST_PORT:-16817}" host="$(hostname -s)"
  node="NodeHostname=${host} NodeAddr=127.0.0.1 CPUs=1 RealMemory=64000 Gres=gpu:1"
  mkdir -p "${folder}"/{munge,state,spool/n1,spool/n2}
  chmod 700 "${folder}/munge"
  head -c 1024 /dev/urandom > "${folder}/munge/key"
  chmod 600 "${folder}/munge/key"
  # a job that is queued again may start when its credential has expired: 2 minutes by default, the
  # least is 5 seconds
  cat > "${folder}/slurm.conf" << END
ClusterName=test
SlurmctldHost=${host}(127.0.0.1)
SlurmUser=root
SlurmctldPort=${port}
AuthType=auth/munge
AuthInfo=socket=${folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=${folder}/state
SlurmdSpoolDir=${folder}/spool/%n
SlurmctldPidFile=${folder}/slurmctld.pid
SlurmdPidFile=${folder}/%n.pid
SlurmctldLogFile=${folder}/slurmctld.log
SlurmdLogFile=${folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
KillWait=10
ReturnToService=0
GresTypes=gpu
NodeName=n1 Port=$((port + 1)) ${node}
NodeName=n2 Port=$((port + 2)) ${node}
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
END
  echo "NodeName=n[1-2] Name=gpu File=/dev/null" > "${folder}/gres.conf"
  export SLURM_CONF="${folder}/slurm.conf"
  # shellcheck disable=SC2064
  trap "echo 'Slurm did not start; see ${folder}/*.log and munge/log' >&2; stop '${folder}'" ERR
  munged --socket="${folder}/munge/socket" --key-file="${folder}/munge/key" \
    --pid-file="${folder}/munge/pid" --log-file="${folder}/munge/log" \
    --seed-file="${folder}/munge/seed" --force > "${folder}/munge/start" 2>&1 \
    || { cat "${folder}/munge/start" >&2; false; }   # it warns of --force
  slurmctld
  for node in n1 n2; do slurmd -N "${node}"; done
  for _ in {1..30}; do
    [[ "$(sinfo --noheader --states=idle --format=%D 2> /dev/null || true)" != 2 ]] || return 0
    sleep 0.5
  done
  false
}

stop() {
  local file pid
  export SLURM_CONF="$1/slurm.conf"
  scancel --user="$(id -un)" --quiet 2> /dev/null || true
  scancel --user="$(id -un)" --signal=KILL --full --quiet 2> /dev/null || true
  for file in "$1"/{n1,n2,slurmctld,munge/pid}; do
    [[ "${file}" == */pid ]] || file="${file}.pid"
    [[ -s "${file}" ]] || continue
    pid="$(< "${file}")"
    kill "${pid}" 2> /dev/null || true
    for _ in {1..100}; do   # slurmctld saves its state
      kill -0 "${pid}" 2> /dev/null || break
      sleep 0.1
    done
  done
}

case "${1:-}" in
  start | stop) [[ $# == 2 ]] || { usage >&2; exit 1; }; "$@" ;;
  -h | --help) usage ;;
  *) usage >&2; exit 1 ;;
esac
