#!/usr/bin/env bash
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Makes the tree hold exactly the given patches, one commit each on top of the version's tag:
#   hack/apply-patches.sh [--check] [PATCH...]
# Prints changed or unchanged, and what it left out. Uncommitted edits stay; a patch that does not apply changes nothing.
# --check only says what would happen.
#
# A patch may be written against Kubernetes (pkg/kubelet/..., staging/src/k8s.io/api/...) or against this tree
# (vendor/k8s.io/kubernetes/pkg/kubelet/..., cmd/kubelet/main.go).
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

check=
if [[ ${1:-} == --check ]]; then
  check=1
  shift
fi
patches=()
for patch in "$@"; do
  # relative to where the caller stands, not to the tree
  [[ $patch == /* ]] || patch=$OLDPWD/$patch
  [[ -r $patch ]] || die "The patch $patch cannot be read: name a file that exists"
  patches+=("$patch")
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
base=$(repo rev-list --max-parents=0 HEAD) || die "The tree $KUBE_ROOT is not a git repository: make it anew"
head=$(repo rev-parse HEAD)
ours=$(repo rev-parse --quiet --verify refs/nodeforge/patched || printf '%s\n' "$base")

# rewrite PATCH: the same patch on this tree's paths, without the files that never get into a program.
rewrite() {
  repo ls-tree -r --name-only "$base" | awk -v skipped="$work/skipped" '
    function depth(path,   d) { # how much of the path there is in the tree
      while (path != "" && !(path in there)) if (!sub(/\/[^\/]*$/, "", path)) path = ""
      return path == "" ? 0 : split(path, d, "/")
    }
    function place(path,   vendored) {
      if (sub(/^staging\/src\//, "vendor/", path)) return path
      vendored = "vendor/k8s.io/kubernetes/" path
      return depth(vendored) - 3 > depth(path) ? vendored : path
    }
    function useless(path) {
      return !(path in there) && path ~ /(_test\.go|\.md)$|(^|\/)testdata\/|(^|\/)(test|CHANGELOG)\/|^(api|docs)\//
    }
    function header(path) { # a new file section begins
      skip = useless(place(path))
      if (skip) print path > skipped
    }
    FNR == NR { for (path = $0; !(path in there) && path != ""; ) { there[path]; if (!sub(/\/[^\/]*$/, "", path)) path = "" } next }
    old > 0 || new > 0 { # inside a hunk nothing is a header
      if (!skip) print
      c = substr($0, 1, 1)
      if (c == "-") old--; else if (c == "+") new--; else if (c != "\\") { old--; new-- }
      next
    }
    /^diff --git a\/[^ ]+ b\/[^ ]+$/ {
      git = 1
      header(substr($4, 3))
      if (!skip) print "diff --git a/" place(substr($3, 3)) " b/" place(substr($4, 3))
      next
    }
    /^--- (a\/|\/dev\/null)/ { sub(/\t.*/, ""); before = $2; next }
    /^\+\+\+ (b\/|\/dev\/null)/ && before != "" {
      sub(/\t.*/, "")
      if (!git) header($2 == "/dev/null" ? substr(before, 3) : substr($2, 3))
      if (!skip) {
        print "--- " (before == "/dev/null" ? before : "a/" place(substr(before, 3)))
        print "+++ " ($2 == "/dev/null" ? $2 : "b/" place(substr($2, 3)))
      }
      before = ""
      next
    }
    /^(rename|copy) (from|to) / { if (!skip) print $1, $2, place(substr($0, length($1 $2) + 3)); next }
    /^@@ -[0-9]+(,[0-9]+)? \+[0-9]+(,[0-9]+)? @@/ {
      split($2, o, ","); split($3, n, ",")
      old = o[2] == "" ? 1 : o[2]; new = n[2] == "" ? 1 : n[2]
    }
    !skip' - "$1"
}

# The commits are made aside, in an index of their own, so that a patch that does not apply leaves no trace.
: >"$work/skipped"
export GIT_AUTHOR_NAME=nodeforge GIT_AUTHOR_EMAIL=nodeforge@localhost
export GIT_COMMITTER_NAME=nodeforge GIT_COMMITTER_EMAIL=nodeforge@localhost
GIT_AUTHOR_DATE=$(repo log -1 --format='%ct +0000' "$base") # the same patches always give the same commits and version
GIT_COMMITTER_DATE=$GIT_AUTHOR_DATE
export GIT_AUTHOR_DATE GIT_COMMITTER_DATE
if [[ -n $check ]]; then
  mkdir "$work/objects"
  GIT_ALTERNATE_OBJECT_DIRECTORIES=$(repo rev-parse --path-format=absolute --git-path objects)
  export GIT_ALTERNATE_OBJECT_DIRECTORIES GIT_OBJECT_DIRECTORY=$work/objects
fi
aside() { GIT_DIR=$KUBE_ROOT/.git GIT_INDEX_FILE=$work/index GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null \
  git -c safe.directory="$KUBE_ROOT" "$@"; }
wanted=$base
aside read-tree "$base"
for patch in "${patches[@]}"; do
  rewrite "$patch" >"$work/patch"
  grep -qE "^(diff --git a/|[+]{3} (b/|/dev/null))" "$work/patch" || die "The patch $patch changes no file that is compiled: give a unified diff of a/... and b/... files"
  aside apply --cached --whitespace=nowarn "$work/patch" 2>"$work/errors" ||
    die "The patch $patch does not apply to the tree of $(repo describe --tags "$base"): refresh it for this version (git says: $(sed 's/^error: //' "$work/errors" | head -n 3 | paste -sd';'))"
  aside show :vendor/modules.txt >"$work/modules.txt"
  aside diff-index --cached --diff-filter=A --name-only "$wanted" | list_packages "$work/modules.txt"
  aside update-index --cacheinfo "100644,$(aside hash-object -w --no-filters "$work/modules.txt"),vendor/modules.txt"
  tree=$(aside write-tree)
  wanted=$(aside commit-tree -p "$wanted" -m "$(basename "$patch")" "$tree")
done

sort -u "$work/skipped" | sed 's/^/left out, no part of any program: /'
if [[ $wanted == "$ours" ]]; then
  printf 'unchanged\n'
  exit
fi
if [[ $wanted != "$head" ]]; then
  [[ $head == "$ours" ]] ||
    die "The tree $KUBE_ROOT has commits of your own, so its patches cannot be exchanged: name another embedded_tree_path, or apply the patches by hand"
  aside diff-tree -r --name-only "$head" "$wanted" | sort >"$work/touched"
  repo status --porcelain --untracked-files=all | cut -c4- | sort | comm -12 - "$work/touched" >"$work/edited"
  [[ ! -s $work/edited ]] ||
    die "The tree $KUBE_ROOT holds edits of your own in $(paste -sd' ' "$work/edited"), which the patches change too: commit them elsewhere or undo them first"
fi
if [[ -z $check ]]; then
  repo reset --quiet --keep "$wanted"
  repo update-ref refs/nodeforge/patched "$wanted"
fi
printf 'changed\n'
