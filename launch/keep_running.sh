#!/usr/bin/env bash
# Runs a command, and again when it dies: a host's part of a pod, where the death of one process ends those of all others.
#
#   launch/keep_running.sh RESTARTS mmjax train ...
#
# Exit status: 0 done; 2 the user's mistake, which no restart mends; 143 after SIGTERM, also where the command saved and
# ended with 0, so that whoever started this does not take a run that was cut short for a finished one; else the command's.
# A training that saved and ended because another host was told to end exits with 143, and is started again.
set -u
export MMJAX_STOPPED_STATUS=143
case ${1:-} in '' | *[!0-9]*) echo "keep_running.sh: first argument must be a number of restarts, not '${1:-}'" >&2; exit 2 ;; esac
[ $# -gt 1 ] || { echo "keep_running.sh: name the command after the number of restarts" >&2; exit 2; }
left=$1
shift
child= stopping= told=

tell() {  # once: a second SIGTERM may mean that there is no time to save
    if [ -n "$child" ] && [ -z "$told" ]; then told=yes; kill -TERM "$child" 2>/dev/null; fi
}
trap 'stopping=yes; tell' TERM INT

while :; do
    "$@" &
    child=$!
    if [ -n "$stopping" ]; then tell; fi
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
