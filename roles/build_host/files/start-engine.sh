#!/bin/sh
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# start-engine.sh DOCKER_HOST LOG SECONDS [OPTION]...: starts dockerd where no service manager would, in a session of its own
# so that it outlives the play, and ends when it answers. One that fails is not left behind; its last words are printed.
docker_host=$1 log=$2 seconds=$3
shift 3

printf '%s dockerd %s\n' "$(date -u +%FT%TZ)" "$*" >>"$log" || exit 1
setsid dockerd "$@" >>"$log" 2>&1 </dev/null &
engine=$!
end=$(($(date +%s) + seconds))
while [ "$(date +%s)" -lt "$end" ]; do
  docker --host "$docker_host" version >/dev/null 2>&1 && exit 0
  if ! kill -0 "$engine" 2>/dev/null; then
    printf 'it ended: %s' "$(tail -n 1 "$log")"
    exit 1
  fi
  sleep 0.2
done
kill "$engine"
printf 'no answer within %s seconds: %s' "$seconds" "$(tail -n 1 "$log")"
exit 1
