#!/bin/sh
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# On the controller: brings a tree to a build host.
# usage: sync.sh TREE STAGED HOST SSH USER CACHE TIMEOUT DRY EXCLUDE...
# HOST is reached by the command SSH, and there the tree becomes USER's, in CACHE/synced/NAME/tree; with DRY=yes nothing is changed. Prints NAME, whether
# the role embedded_tree made the tree, and then what rsync says of each file that differs. Ends with 75 where something differs and the tree is compiled there
# at this time.
#
# A part of the repository comes, too, made in STAGED/NAME/.git where it changed: all commits, as tags count them, and the trees of HEAD, as git status
# compares with them, without any file's content.
set -eu
tree=$1 staging=$2 host=$3 ssh=$4 user=$5 cache=$6 timeout=$7 dry=$8
shift 8
here=$(dirname "$0")
die() {
  printf '%s\n' "$*" >&2
  exit 1
}

given=$tree
tree=$(cd "$given" 2>/dev/null && pwd -P) || die "there is no directory $given on the controller: correct the path, or set kube_source_on=host for one on the build host"
command -v git >/dev/null || die "the controller has no git, which tells the tree's version: install it"
command -v rsync >/dev/null || die "the controller has no rsync: install it"
[ -f "$tree/hack/print-workspace-status.sh" ] ||
  die "$tree on the controller is no tree of Kubernetes (it has no hack/print-workspace-status.sh): name a tree, or set kube_source_on=host for a path on the build host"

# One tree of one user on one controller; another user or another worktree is another tree on the host.
whose=$(cat /etc/machine-id 2>/dev/null) || whose=
ident=$(printf '%s' "${whose:-$(uname -n)} $(id -u) $tree" | git hash-object --stdin | cut -c 1-8)
name=$(basename "$tree" | tr -c 'A-Za-z0-9._\n-' _)-$ident
staged=$staging/$name
place=$cache/synced/$name
printf '%s\n' "$name"
if [ -f "$tree/.git/nodeforge-tree" ]; then echo embedded; else echo other; fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

# without a change of it, such as an index that is refreshed
repo() { GIT_OPTIONAL_LOCKS=0 GIT_CEILING_DIRECTORIES=$(dirname "$tree") git -C "$tree" -c safe.directory="$tree" "$@"; }
# sets state, and has STAGED/NAME/.git be it
stage() {
  head=$(repo rev-parse --quiet --verify 'HEAD^{commit}') || die "$tree has no commit that git can read: make one, or repair the checkout"
  branch=$(repo symbolic-ref --quiet HEAD) || branch=
  setting() { repo config --get "$1" || printf '%s\n' "$2"; }
  # what is ignored without the tree's own .gitignore files
  ignored() {
    cat "$(repo rev-parse --path-format=absolute --git-path info/exclude)" 2>/dev/null || :
    cat "$(repo config --type=path --get core.excludesFile || printf %s "${XDG_CONFIG_HOME:-$HOME/.config}/git/ignore")" 2>/dev/null || :
  }
  shallow=$(repo rev-parse --path-format=absolute --git-path shallow)
  settings="[core]
	repositoryformatversion = 0
	bare = false
	filemode = $(setting core.fileMode true)
	autocrlf = $(setting core.autocrlf false)
[status]
	renames = false
[diff]
	renames = false
[gc]
	auto = 0
"
  state=$({
    cat "$0" 2>/dev/null || :
    printf '%s\n' "$head" "$branch" "$settings"
    ignored
    cat "$shallow" 2>/dev/null || :
    repo for-each-ref refs/tags
    repo ls-files --stage -v
  } | git hash-object --stdin)

  # Several hosts are served at once: one of them makes it, the others wait.
  mkdir -p "$staging"
  if command -v flock >/dev/null; then
    exec 8>"$staged.lock"
    flock 8
  fi
  if [ "$(cat "$staged/state" 2>/dev/null)" != "$state" ]; then make_repository; fi
  exec 8>&-
}
make_repository() {
  made=$(mktemp -d "$staging/.$name.XXXXXX")
  trap 'rm -rf "$work" "$made"' EXIT
  git init --quiet --template= "$made"
  new=$made/.git
  mkdir -p "$new/info" "$new/objects/pack"
  # Commits that were packed before are not packed again, unless the history was rewritten or there are too many packs.
  known=
  if [ "$(find "$staged/.git/objects/pack" -name 'commits-*.pack' 2>/dev/null | wc -l)" -lt 20 ]; then
    packed=$(cat "$staged/packed" 2>/dev/null) || packed=
    if [ -n "$packed" ] && repo merge-base --is-ancestor "$packed" "$head" 2>/dev/null; then known=^$packed; fi
  fi
  if [ -n "$known" ]; then cp -p "$staged"/.git/objects/pack/commits-* "$new/objects/pack/"; fi
  repo rev-list "$head" ${known:+"$known"} >"$work/commits"
  if [ -s "$work/commits" ]; then repo pack-objects -q "$new/objects/pack/commits" <"$work/commits" >/dev/null; fi
  repo for-each-ref --merged "$head" --format '%(objecttype) %(objectname) %(refname)' refs/tags >"$work/tags"
  {
    repo rev-parse "$head^{tree}"
    repo ls-tree -d -r -t --full-tree "$head" | awk '$2 == "tree" { print $3 }'
    awk '$1 == "tag" { print $2 }' "$work/tags"
  } | repo pack-objects -q "$new/objects/pack/trees" >/dev/null
  {
    awk '$1 == "tag" || $1 == "commit" { print $2, $3 }' "$work/tags"
    if [ -n "$branch" ]; then printf '%s %s\n' "$head" "$branch"; fi
  } >"$new/packed-refs"
  if [ -n "$branch" ]; then printf 'ref: %s\n' "$branch"; else printf '%s\n' "$head"; fi >"$new/HEAD"
  printf '%s' "$settings" >"$new/config"
  ignored >"$new/info/exclude"
  if [ -s "$shallow" ]; then cp "$shallow" "$new/shallow"; fi
  cp "$(repo rev-parse --path-format=absolute --git-path index)" "$new/index.sent"
  shared=$(repo rev-parse --shared-index-path)
  if [ -n "$shared" ]; then (cd "$tree" && cp "$shared" "$new/"); fi
  rm -f "$new/index"
  printf '%s\n' "$head" >"$made/packed"
  printf '%s\n' "$state" >"$made/state"
  rm -rf "$staged"
  mv "$made" "$staged"
}
if [ -e "$tree/.git" ]; then stage; else state=none; fi

quote() { printf "'%s' " "$(printf %s "$1" | sed "s/'/'\\\\''/g")"; }
# bring TAKEN OPTION...: runs there in receive.sh, as the user as whom tasks run, whoever logs in
# shellcheck disable=SC2016 # expanded there
as='user=$1; shift
if [ "$(id -un)" = "$user" ]; then exec sh -c "$0" receive "$@"; else exec sudo -n -H -u "$user" sh -c "$0" receive "$@"; fi'
bring() {
  taken=$1
  shift
  if [ "$dry" = yes ]; then set -- --dry-run "$@"; fi
  far="sh -c $(quote "$as")$(quote "$(cat "$here/receive.sh")")$(quote "$user")$(quote "$place")$(quote "$taken")$(quote "$dry")"
  status=0
  : >"$work/told"
  rsync -rlptO -z --delete --out-format='%i %n%L' --timeout="$timeout" --partial-dir="$place/partial" -e "$ssh" --rsync-path="$far" "$@" \
    >"$work/told" 2>"$work/errors" || status=$?
  if [ "$status" != 0 ] && grep -q '^nodeforge: compiling ' "$work/errors"; then
    compiled=$(sed -n 's/^nodeforge: compiling //p' "$work/errors")
    dry=yes
    bring "$taken" "$@"
    return
  fi
  cat "$work/told"
  grep -v '^nodeforge: state ' "$work/errors" >&2 || :
  # 24: a file went away meanwhile
  [ "$status" = 0 ] || [ "$status" = 24 ] || exit "$status"
}

# with who compiles the tree there at this time: it stays as it is, and that is enough where nothing differs
compiled=
differs() {
  printf 'nodeforge: compiling %s\n' "$compiled" >&2
  exit 75
}
taken=
if [ "$state" = none ]; then taken=none; fi
for pattern; do
  shift
  set -- "$@" --exclude="$pattern"
done
bring "$taken" --exclude=/.git "$@" "$tree/" "$host:$place/tree/"
if [ -n "$compiled" ] && grep -q '^[<>ch.*][fdLDSe]' "$work/told"; then differs; fi
there=$(sed -n 's/^nodeforge: state //p' "$work/errors")
if [ "$state" != none ] && [ "$state" != "$there" ]; then
  if [ -n "$compiled" ]; then differs; fi
  bring "$state" --exclude=/index --exclude=/index.lock --exclude=/synced "$staged/.git/" "$host:$place/tree/.git/"
fi
