#!/usr/bin/env bash
# Runs a command, and restarts it when it dies: on each host of a pod, where the death of one process ends all others.
#
#   launch/keep_running.sh RESTARTS mmjax train ...
#
# Exit status: 0 done; 2 a user error, which is not retried; 143 after SIGTERM, also if the command saved and exited
# with 0, so that an interrupted run is not taken for a finished one; else the command's. A training that saved and
# stopped because another host was stopped exits with 143, and is restarted.
set -u
export MMJAX_STOPPED_STATUS=143
case ${1:-} in '' | *[!0-9]*) echo "keep_running.sh: first argument must be a number of restarts, not '${1:-}'" >&2; exit 2 ;; esac
[ $# -gt 1 ] || { echo "keep_running.sh: name the command after the number of restarts" >&2; exit 2; }
left=$1
shift
child= stopping= signaled=

forward() {  # once: a second SIGTERM may mean that there is no time to save
    if [ -n "$child" ] && [ -z "$signaled" ]; then signaled=yes; kill -TERM "$child" 2>/dev/null; fi
}
trap 'stopping=yes; forward' TERM INT

while :; do
    "$@" &
    child=$!
    if [ -n "$stopping" ]; then forward; fi
    wait "$child"
    status=$?
    while kill -0 "$child" 2>/dev/null; do  # a signal had ended the wait, not the command
        wait "$child"
        status=$?
    done
    child=
    if [ -n "$stopping" ]; then
        if [ "$status" -eq 0 ]; then status=143; fi
        exit "$status"
    fi
    case $status in 0 | 2 | 130) exit "$status" ;; esac
    if [ "$left" -eq 0 ]; then
        echo "keep_running.sh: ended with status $status" >&2
        exit "$status"
    fi
    echo "keep_running.sh: ended with status $status; $left restarts left, the next in ${KEEP_RUNNING_PAUSE:-10} seconds" >&2
    left=$((left - 1))
    sleep "${KEEP_RUNNING_PAUSE:-10}"
    if [ -n "$stopping" ]; then exit 143; fi
done
