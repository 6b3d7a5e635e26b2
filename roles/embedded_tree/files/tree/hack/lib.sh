# shellcheck shell=bash
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# What the scripts share; sourced by each of them.
set -euo pipefail
export LC_ALL=C

KUBE_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$KUBE_ROOT"

readonly KNOWN_PLATFORMS="linux/amd64 linux/arm64"

# die ends the script with one sentence.
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# setting NAME: from the environment (make's variables are in it), else from what roles/embedded_tree wrote for this host.
setting() {
  if [[ -n ${!1:-} ]]; then
    printf '%s\n' "${!1}"
  elif [[ -r $KUBE_ROOT/hack/nodeforge.mk ]]; then
    sed -n "s|^$1 := ||p" "$KUBE_ROOT/hack/nodeforge.mk"
  fi
}

# find_go puts the go command on PATH: shells that are not log-in shells often lack it.
find_go() {
  local go
  go=$(setting GO)
  if [[ -x $go ]]; then
    PATH=$(dirname "$go"):$PATH
  elif ! command -v go >/dev/null; then
    PATH=$PATH:/usr/local/go/bin:/usr/lib/go/bin
  fi
  command -v go >/dev/null || die "Go is not on PATH: install it (https://go.dev/dl) or give its path, make GO=/usr/local/go/bin/go"
  # a workspace around the tree or a -mod in the user's GOFLAGS would compile something else than vendor/
  export GOWORK=off PATH
}

# platforms lists, one a line, what KUBE_BUILD_PLATFORMS asks for.
platforms() {
  local platform wanted=${KUBE_BUILD_PLATFORMS:-linux/$(go env GOHOSTARCH)}
  for platform in $wanted; do
    [[ " $KNOWN_PLATFORMS " == *" $platform "* ]] ||
      die "KUBE_BUILD_PLATFORMS names the platform $platform, which is not supported: choose from ${KNOWN_PLATFORMS// /, }"
    printf '%s\n' "$platform"
  done
}

# repo runs git on this tree and on no other, whoever owns it and whatever the user has configured.
repo() {
  env -u GIT_INDEX_FILE GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null \
    git --git-dir="$KUBE_ROOT/.git" --work-tree="$KUBE_ROOT" -c safe.directory="$KUBE_ROOT" "$@"
}

# load_version sets KUBE_GIT_VERSION, _COMMIT, _TREE_STATE, _MAJOR, _MINOR and BUILD_DATE by the rules of Kubernetes:
# v1.37.2 on the tag; v1.37.2-1+<commit> one commit after it; v1.38.0-rc.0.1+<commit> after a pre-release; -dirty with edits.
# Values from the environment or from KUBE_GIT_VERSION_FILE win (KUBE_GIT_VERSION, KUBE_GIT_COMMIT, KUBE_GIT_TREE_STATE).
load_version() {
  local described epoch=${SOURCE_DATE_EPOCH:-}
  # shellcheck source=/dev/null
  [[ -z ${KUBE_GIT_VERSION_FILE:-} ]] || source "$KUBE_GIT_VERSION_FILE"
  local after='^(v[0-9]+\.[0-9]+\.[0-9]+)(-[a-z]+\.[0-9]+)?-([0-9]+)-g([0-9a-f]{14})$'
  if repo rev-parse --quiet --verify HEAD >/dev/null 2>&1; then
    KUBE_GIT_COMMIT=${KUBE_GIT_COMMIT:-$(repo rev-parse HEAD)}
    if [[ -z ${KUBE_GIT_TREE_STATE:-} ]]; then
      if [[ -n $(repo status --porcelain) ]]; then KUBE_GIT_TREE_STATE=dirty; else KUBE_GIT_TREE_STATE=clean; fi
    fi
    epoch=${epoch:-$(repo log -1 --format=%ct)}
    if [[ -z ${KUBE_GIT_VERSION:-} ]]; then
      described=$(repo describe --tags --match='v[0-9]*' --abbrev=14 HEAD 2>/dev/null) ||
        die "The tree $KUBE_ROOT has no version tag: tag it, git tag v1.2.3, or set KUBE_GIT_VERSION"
      if [[ $described =~ $after ]]; then
        if [[ -n ${BASH_REMATCH[2]} ]]; then
          KUBE_GIT_VERSION=${BASH_REMATCH[1]}${BASH_REMATCH[2]}.${BASH_REMATCH[3]}+${BASH_REMATCH[4]}
        else
          KUBE_GIT_VERSION=${BASH_REMATCH[1]}-${BASH_REMATCH[3]}+${BASH_REMATCH[4]}
        fi
      else
        KUBE_GIT_VERSION=$described
      fi
    fi
  elif [[ -z ${KUBE_GIT_VERSION:-} ]]; then
    die "The tree $KUBE_ROOT is not a git repository, so its version is unknown: make it anew or set KUBE_GIT_VERSION"
  fi
  KUBE_GIT_COMMIT=${KUBE_GIT_COMMIT:-unknown}
  KUBE_GIT_TREE_STATE=${KUBE_GIT_TREE_STATE:-clean}
  [[ $KUBE_GIT_TREE_STATE != dirty || $KUBE_GIT_VERSION == *-dirty ]] || KUBE_GIT_VERSION+=-dirty
  [[ $KUBE_GIT_VERSION =~ ^v([0-9]+)\.([0-9]+)\.[0-9]+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$ ]] ||
    die "\"$KUBE_GIT_VERSION\" is not a version: KUBE_GIT_VERSION and the tree's tag must look like v1.2.3"
  KUBE_GIT_MAJOR=${BASH_REMATCH[1]}
  KUBE_GIT_MINOR=${BASH_REMATCH[2]}${BASH_REMATCH[3]:++}
  # one date for one source, so that the same sources always give the same bytes
  export KUBE_GIT_MAJOR KUBE_GIT_MINOR BUILD_DATE
  BUILD_DATE=$(date -u -d "@${epoch:-0}" +%Y-%m-%dT%H:%M:%SZ)
}

# list_packages MODULES_TXT: reads names of files in vendor/ and lists their packages, without which Go does not see them.
list_packages() {
  local package module
  sed -n 's|^vendor/\(.*\)/[^/]*\.go$|\1|p' | sort -u | { grep -vxFf "$1" || true; } | while read -r package; do
    module=$package
    while [[ $module == */* ]] && ! grep -q "^# $module v" "$1"; do module=${module%/*}; done
    sed -i "s|^# $module v.*|&\n$package|" "$1"
  done
}

# list_new_packages does so for files that the user has added to vendor/.
list_new_packages() {
  command -v git >/dev/null || return 0 # in the builder container, which is started after it has been done
  repo ls-files --others 'vendor/*.go' 2>/dev/null | list_packages vendor/modules.txt
}
