#!/bin/sh
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Starts or stops a registry that belongs to one play.
# usage: registry.sh start IMAGE_TOOL SET RUNS TTL_SECONDS [OWNER_PID]: prints {"port": …, "run": …, "images": …}
#        registry.sh stop RUN
set -eu

if [ "$1" = stop ]; then
  run=$2
  rm -f "$run/alive"
  # The server looks for the file and takes its port file away as it ends.
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    [ -e "$run/port" ] || break
    sleep 0.1
  done
  rm -rf "$run"
  exit
fi

tool=$2 set=$3 runs=$4 ttl=$5 owner=${6:-}
mkdir -p "$runs"
# What killed plays left: their servers took the port file away as they ended. One that
# has none yet, because it starts right now, is younger than a minute.
find "$runs" -mindepth 1 -maxdepth 1 -type d -mmin +1 | while read -r old; do
  if [ ! -e "$old/port" ] || [ -n "$(find "$old" -maxdepth 0 -mmin "+$((ttl / 60 + 1))")" ]; then rm -rf "$old"; fi
done
run=$(mktemp -d "$runs/XXXXXX")
: >"$run/alive"
# a session of its own: the server outlives this task and its connection
setsid "$tool" serve --layout "$set/layout" --address 127.0.0.1:0 --port-file "$run/port" --until-gone "$run/alive" \
  ${owner:+--until-gone "/proc/$owner"} --ttl "${ttl}s" >"$run/log" 2>&1 </dev/null &
server=$!
while [ ! -s "$run/port" ]; do
  if ! kill -0 "$server" 2>/dev/null; then
    echo "registry: the registry for $set did not start: $(tail -n 1 "$run/log")" >&2
    rm -rf "$run"
    exit 1
  fi
  sleep 0.05
done
printf '{"port": %s, "run": "%s", "images": %s}\n' "$(cat "$run/port")" "$run" "$(cat "$set/images.json")"
