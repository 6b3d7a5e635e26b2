#!/bin/sh
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# tunnel.sh look|do present|absent DIRECTORY NAME LOCAL REMOTE SSH...: one ssh that carries the port LOCAL of 127.0.0.1 to REMOTE, an ADDRESS:PORT that
# the host which SSH... names can reach. LOCAL 0 is REMOTE's number, or the next one that is free here. ssh itself keeps the socket by which it is found
# again and ended. Prints "changed" where something is to do, and "port LOCAL".
set -eu
action=$1 state=$2 directory=$3 name=$4 local=$5 remote=$6 ssh=$7
shift 7
found=
for socket in "$directory/$name"-*; do
  [ -S "$socket" ] || continue
  port=${socket#"$directory/$name"-}
  if [ "$state" = present ] && [ "${port#*-}" = "$remote" ] && { [ "$local" = 0 ] || [ "$local" = "${port%%-*}" ]; } &&
    "$ssh" -S "$socket" -O check "$@" 2>/dev/null; then
    found=${port%%-*}
    continue
  fi
  echo changed
  [ "$action" = look ] || "$ssh" -S "$socket" -O exit "$@" 2>/dev/null || rm -f "$socket"
done
if [ "$state" = present ] && [ -z "$found" ]; then
  echo changed
  found=$local
  [ "$local" != 0 ] || found=${remote##*:}
  last=$((local == 0 ? found + 20 : found))
  [ "$action" = look ] || (umask 077 && mkdir -p "$directory")
  while [ "$action" != look ]; do
    socket=$directory/$name-$found-$remote
    # what stays must not hold Ansible's pipes
    if "$ssh" -f -N -M -S "$socket" -o ControlPersist=no -o ExitOnForwardFailure=yes -L "127.0.0.1:$found:$remote" "$@" \
      </dev/null >/dev/null 2>"$directory/$name.err"; then break; fi
    if [ "$found" = "$last" ] || ! grep -q 'cannot listen to port' "$directory/$name.err"; then
      grep -v 'Permanently added' "$directory/$name.err" | tail -n 1 >&2
      rm -f "$directory/$name.err"
      exit 1
    fi
    found=$((found + 1))
  done
  rm -f "$directory/$name.err"
fi
[ -z "$found" ] || echo "port $found"
[ "$action" = look ] || rmdir "$directory" 2>/dev/null || true
