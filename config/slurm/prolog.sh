#!/bin/bash
# Starts a weightvane beside each job that asks for one. In slurm.conf:
#   Prolog=/etc/slurm/prolog.d/*    with this file in it (or called by the script that is there), and
#   Epilog=/etc/slurm/epilog.d/*    with epilog.sh
# A job asks by its comment, with the directory of its checkpoints:
#   sbatch --comment=weightvane=/scratch/me/run train.sbatch
#
# It runs on the job's first node, as the job's user, at the lowest priority, and serves on loopback. Its
# metrics go to $WEIGHTVANE_JOBS/JOB/own/weightvane.prom, with the label `job` on every series; let
# node_exporter read them, whose own `job` makes it exported_job:
#   node_exporter --collector.textfile.directory='/run/weightvane-jobs/*/own'
#
# It always succeeds, as Slurm drains a node whose prolog fails; what went wrong is in JOB/log.
set -u
# Slurm sets none.
export PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin
# Only the administrator sets these: nothing of the user's environment comes here.
: "${WEIGHTVANE:=weightvane}"
: "${WEIGHTVANE_JOBS:=/run/weightvane-jobs}"
: "${WEIGHTVANE_LISTEN:=127.0.0.1:0}"
: "${WEIGHTVANE_CONFIG:=}"

job=${SLURM_JOB_ID-} user=${SLURM_JOB_UID-} group=${SLURM_JOB_GID-}
for number in "$job" "$user" "$group"; do
    [[ $number =~ ^[0-9]+$ ]] || exit 0
done
[[ ${SLURM_JOB_COMMENT-} =~ (^|[[:space:],;])weightvane=(/[^[:space:],;]*) ]] || exit 0
dir=${BASH_REMATCH[2]}

# The first of `gpu[03-05,9],login1` is gpu03.
node=${SLURMD_NODENAME-}
[[ ${SLURM_JOB_NODELIST-${SLURM_NODELIST-$node}} =~ ^([^][,]*)(\[([0-9]+)[^]]*\])?([^][,]*) ]]
[ "${BASH_REMATCH[1]}${BASH_REMATCH[3]}${BASH_REMATCH[4]}" = "$node" ] || exit 0

as_user=()
if [ "$(id -u)" = 0 ]; then
    as_user=(setpriv --reuid "$user" --regid "$group" --init-groups --no-new-privs --)
fi

place=$WEIGHTVANE_JOBS/$job
# What root writes lies where the user cannot; the daemon gets a directory of its own.
umask 022
mkdir -p "$WEIGHTVANE_JOBS" && mkdir "$place" && mkdir "$place/own" && chown "$user:$group" "$place/own" || exit 0
exec </dev/null >"$place/log" 2>&1
printf '%s\n' "$dir" >"$place/dir"
# The trainer may not have made it yet. As the user, so that no more is possible than the user may do. A file
# system that hangs holds up the daemon, not the job.
setsid ${as_user[@]+"${as_user[@]}"} mkdir -p -- "$dir" &
for ((i = 0; i < 100; i++)); do
    kill -0 $! 2>/dev/null || break
    sleep 0.1
done
! kill -0 $! 2>/dev/null || { echo "$dir does not answer" && exit 0; }
wait $! || exit 0
arguments=(watch "$dir" --label "job=$job" --listen "$WEIGHTVANE_LISTEN" --textfile "$place/own/weightvane.prom")
[ -z "$WEIGHTVANE_CONFIG" ] || arguments+=(--config "$WEIGHTVANE_CONFIG")
# In a session of its own: Slurm ends what a prolog leaves behind in its group.
setsid ${as_user[@]+"${as_user[@]}"} "$WEIGHTVANE" "${arguments[@]}" &
pid=$!
# A number of a process comes again; with its start it does not.
if read -r stat <"/proc/$pid/stat"; then
    read -ra fields <<<"${stat##*) }"
    printf '%s %s\n' "$pid" "${fields[19]}" >"$place/pid"
fi
exit 0
