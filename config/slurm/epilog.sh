#!/bin/bash
# Ends what prolog.sh began: says in the directory of the checkpoints that the job is over, so that a daemon
# elsewhere expects no further save, stops the daemon beside the job, and takes its metrics away.
# It always succeeds, as Slurm drains a node whose epilog fails.
set -u
export PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin
: "${WEIGHTVANE_JOBS:=/run/weightvane-jobs}"

job=${SLURM_JOB_ID-} user=${SLURM_JOB_UID-} group=${SLURM_JOB_GID-}
for number in "$job" "$user" "$group"; do
    [[ $number =~ ^[0-9]+$ ]] || exit 0
done
place=$WEIGHTVANE_JOBS/$job
[ -d "$place" ] || exit 0
exec </dev/null >>"$place/log" 2>&1

as_user=()
if [ "$(id -u)" = 0 ]; then
    as_user=(setpriv --reuid "$user" --regid "$group" --init-groups --no-new-privs --)
fi

# Whether the process is the one that was started.
runs() {
    local stat fields
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
    read -ra fields <<<"${stat##*) }"
    [ "${fields[19]}" = "$2" ] && [ "${fields[0]}" != Z ]
}

if read -r pid started <"$place/pid" && runs "$pid" "$started"; then
    kill -TERM "$pid"
    # It promises five seconds.
    for ((i = 0; i < 60; i++)); do
        runs "$pid" "$started" || break
        sleep 0.1
    done
    ! runs "$pid" "$started" || kill -KILL "$pid"
fi

# As the user, who may write there. A file system that hangs holds up the mark, not the node.
if read -r dir <"$place/dir"; then
    setsid ${as_user[@]+"${as_user[@]}"} touch -- "$dir/.weightvane-ended" &
    for ((i = 0; i < 100; i++)); do
        kill -0 $! 2>/dev/null || break
        sleep 0.1
    done
fi
rm -rf -- "$place"
exit 0
