#!/bin/sh
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# On the build host, as what rsync starts there: receive.sh PLACE STATE DRY RSYNC...
# One synchronisation of a tree at a time, and none while it is compiled. Says which state of the repository is there; with a STATE it takes the one that comes; with none it has none.
umask 022
place=$1 state=$2 dry=$3
shift 3
command -v rsync >/dev/null || {
  echo "nodeforge: no rsync" >&2
  exit 127
}
if [ "$dry" = no ]; then
  mkdir -p "$place/tree" || exit 11
  if command -v flock >/dev/null; then
    exec 9>"$place/lock"
    flock -w 60 9 || {
      echo "nodeforge: busy" >&2
      exit 75
    }
  fi
fi
# A compile must not see files change: what one reads here, its compiler may read anew.
if [ "$dry" = no ] && [ -e "$place/tree/_output/nodeforge/lock" ] && command -v flock >/dev/null; then
  exec 8<"$place/tree/_output/nodeforge/lock"
  flock -n 8 || {
    echo "nodeforge: compiling $(sed -n 1p "$place/tree/_output/nodeforge/lock")" >&2
    exit 75
  }
fi
if [ "$state" = none ] && [ "$dry" = no ]; then rm -rf "$place/tree/.git"; fi
if [ -z "$state" ] || [ "$state" = none ]; then
  printf 'nodeforge: state %s\n' "$(cat "$place/tree/.git/synced" 2>/dev/null || echo none)" >&2
  exec rsync "$@"
fi
rsync "$@" || exit
[ "$dry" = no ] || exit 0
cd "$place/tree" || exit
# the files' times are those of another disk: git looks at each once, and remembers
cp .git/index.sent .git/index && { git update-index -q --refresh >/dev/null 2>&1 || :; } && printf '%s\n' "$state" >.git/synced
