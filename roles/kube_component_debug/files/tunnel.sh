#!/bin/sh
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# tunnel.sh look|do DIRECTORY NAME LOCAL REMOTE SSH...: one ssh that carries the port LOCAL of 127.0.0.1 to the port REMOTE of the host that
# SSH... names, or none where LOCAL is 0. ssh itself keeps the socket by which it is found again and ended.
set -eu
action=$1 directory=$2 name=$3 local=$4 remote=$5
shift 5
wanted=$directory/$name-$local-$remote
for socket in "$directory/$name"-*; do
  [ -S "$socket" ] || continue
  if [ "$socket" = "$wanted" ] && ssh -S "$socket" -O check "$@" 2>/dev/null; then continue; fi
  echo changed
  [ "$action" = look ] || ssh -S "$socket" -O exit "$@" 2>/dev/null || rm -f "$socket"
done
if [ "$local" != 0 ] && [ ! -S "$wanted" ]; then
  echo changed
  [ "$action" = look ] && exit
  (umask 077 && mkdir -p "$directory")
  # what stays must not hold Ansible's pipes
  ssh -f -N -M -S "$wanted" -o ControlPersist=no -o ExitOnForwardFailure=yes -o ServerAliveInterval=15 \
    -L "127.0.0.1:$local:127.0.0.1:$remote" "$@" </dev/null >/dev/null 2>"$wanted.err" ||
    { tail -n 1 "$wanted.err" >&2; rm -f "$wanted.err"; exit 1; }
  rm -f "$wanted.err"
fi
[ "$action" = look ] || rmdir "$directory" 2>/dev/null || true
