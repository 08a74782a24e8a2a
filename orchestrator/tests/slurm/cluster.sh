#!/usr/bin/env bash
# Runs a command with a Slurm cluster whose only node is this host:
#
#   unshare --net --mount --pid --fork --kill-child --mount-proc cluster.sh DIR COMMAND...
#
# The namespaces isolate the cluster: its daemons use a private loopback interface, and the kernel ends them
# when the command has ended. DIR gets the configuration, the logs, and jobs.txt with the result of each
# job. Needs root and the Debian packages slurm-wlm and munge.

set -euo pipefail

dir=$(realpath "$1")
shift
host=$(hostname -s)
cpus=$(nproc)
mkdir -p "$dir/state" "$dir/spool"

ip link set lo up
# Slurm resolves names with AI_ADDRCONFIG, which does not count 127.0.0.1 as an address.
ip address add 192.0.2.9/32 dev lo
(umask 077 && head -c 1024 /dev/urandom >"$dir/munge.key")
munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
    --log-file="$dir/munged.log" --seed-file="$dir/munged.seed" 2>>"$dir/munged.log"

cat >"$dir/slurm.conf" <<END
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus State=UNKNOWN
PartitionName=all Nodes=$host Default=YES OverSubscribe=NO MaxTime=60
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
MpiDefault=none
JobCompType=jobcomp/filetxt
JobCompLoc=$dir/jobs.txt
# Schedule jobs without the usual delays.
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0
ReturnToService=2
END
export SLURM_CONF=$dir/slurm.conf
slurmctld
slurmd
for _ in $(seq 50); do
    [ "$(timeout 2 sinfo --noheader --format=%T 2>/dev/null)" = idle ] && exec "$@"
    sleep 0.2
done
echo "the Slurm node did not become ready within its time limit:" >&2
sinfo >&2 || true
tail -n 20 "$dir"/*.log >&2
exit 1
