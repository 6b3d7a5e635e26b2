#!/usr/bin/env bash
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Tells what lies at the tree's place: state.sh PATH VERSION DIGEST SETTINGS
#   absent, ready (and then, where Go is, whether hack/nodeforge.mk is SETTINGS, and whether there are patches in the tree)
#   stale   made by another release of the collection, and without a single edit
#   kept    the same with edits, so it stays
#   other   a tree of another version, which is the next line; foreign: no tree of ours
set -euo pipefail
path=$1 version=$2 digest=$3 settings=$4

repo() { GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null git -C "$path" -c safe.directory="$path" "$@"; }

# pristine: nothing that the user could miss if the tree were made anew
pristine() {
  local head
  head=$(repo rev-parse HEAD) &&
    [[ $head == "$(repo rev-parse --quiet --verify refs/nodeforge/patched || repo rev-list --max-parents=0 HEAD)" ]] &&
    [[ -z $(repo status --porcelain) && -z $(repo rev-list --all --not HEAD) ]]
}

for command in git make; do
  command -v "$command" >/dev/null || { printf 'no-%s\n' "$command"; exit; }
done
PATH=$PATH:/usr/local/go/bin:/usr/lib/go/bin
go=$(command -v go) || { printf 'no-go\n'; exit; }

# patched says whether the role has put patches into the tree
patched() {
  local ours
  ours=$(repo rev-parse --quiet --verify refs/nodeforge/patched) && [[ $ours != "$(repo rev-list --max-parents=0 HEAD)" ]]
}

made=$(cat "$path/.git/nodeforge-tree" 2>/dev/null) || made=
if [[ -n $made ]]; then
  if [[ ${made%% *} != "$version" ]]; then
    state=other
    go=${made%% *}
  elif [[ $made == "$version $digest" ]]; then
    state=ready
  elif pristine; then
    state=stale
  else
    state=kept
  fi
elif [[ ! -e $path ]] || [[ -d $path && -z $(ls -A "$path") ]]; then
  state=absent
else
  state=foreign
fi
printf '%s\n' "$state" "$go"
settings=$(printf '%s' "${settings//@GO@/"$go"}") # without its last newline, as the file's content comes here
if [[ $(cat "$path/hack/nodeforge.mk" 2>/dev/null) == "$settings" ]]; then printf 'told\n'; fi
if [[ $state == ready || $state == kept ]] && patched; then printf 'patched\n'; fi
