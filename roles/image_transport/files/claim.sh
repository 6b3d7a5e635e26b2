#!/bin/sh
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# On the controller: one play at a time brings an image from a host, as two would write and remove the same files.
# usage: claim.sh LINK OWNER SECONDS
# Makes LINK name the process OWNER, which is ansible-playbook. Waits for another one that runs, and takes over from one that has ended, however it ended.
# Prints "waited" where it had to wait, and ends with 75 and the other's id where that takes more than SECONDS.
set -eu
link=$1 owner=$2 seconds=$3

# the moment at which a process began, so that no other one is ever taken for it; nothing where it has ended
began() {
  if [ -e /proc/self/stat ]; then
    sed -n 's/.*) //; /^[ZX]/!p' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20
  else
    ps -o lstart= -p "$1" 2>/dev/null | tr ' ' _
  fi
}
mine=$owner-$(began "$owner")
directory=$(dirname "$link")
mkdir -p "$directory"
# two that find an ended one at the same time would take it from each other
exec 9<"$directory"
waited=
while :; do
  if command -v flock >/dev/null; then flock 9; fi
  theirs=$(readlink "$link" || :)
  pid=${theirs%%-*}
  if [ -z "$theirs" ] || [ "$theirs" = "$mine" ] || [ "$theirs" != "$pid-$(began "$pid")" ]; then
    rm -f "$link"
    ln -s "$mine" "$link"
    break
  fi
  if command -v flock >/dev/null; then flock -u 9; fi
  if [ "$seconds" -le 0 ]; then
    echo "$pid" >&2
    exit 75
  fi
  waited=waited
  seconds=$((seconds - 1))
  sleep 1
done
printf '%s\n' "$waited"
