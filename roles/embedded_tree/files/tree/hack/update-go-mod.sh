#!/usr/bin/env bash
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Writes go.mod and go.sum for a Kubernetes version: hack/update-go-mod.sh v1.34.4
#
# Kubernetes is an ordinary dependency here. Its own go.mod takes its libraries (k8s.io/api, k8s.io/client-go, ...) from the
# folder staging/, which a dependent does not see; they are published as v0.X.Y beside every v1.X.Y. The Go command
# fetches everything through its proxy and checks it against the checksum database.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

version=${1:-}
[[ $version =~ ^v1\.([0-9]+\.[0-9]+(-(alpha|beta|rc)\.[0-9]+)?)$ ]] ||
  die "\"$version\" is not a Kubernetes version: write it like v1.37.2"
staging=v0.${BASH_REMATCH[1]}
find_go
export GOFLAGS=-mod=mod

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# outside of the tree, whose go.mod may ask for another Go
upstream=$(cd "$work" && go mod download -json "k8s.io/kubernetes@$version" 2>"$work/errors") || true
if [[ $upstream != *'"Zip":'* ]]; then
  reason=$(sed -n 's/^\t"Error": "\(.*\)",\{0,1\}$/\1/p' <<<"$upstream" | sed 's/\\[nt]/ /g; s/\\"/"/g; s|://[^/@ ]*@|://|g')
  [[ -n $reason ]] || reason=$(tail -n 1 "$work/errors")
  die "Kubernetes $version cannot be had from the Go module proxy; choose a version that has been released, or set GOPROXY to a proxy that serves it (the Go command says: $reason)"
fi
gomod=$(sed -n 's/^\t"GoMod": "\(.*\)",$/\1/p' <<<"$upstream")

{
  printf 'module nodeforge.example/kubernetes\n\n'
  grep -E '^(go|godebug) ' "$gomod"
  printf '\nrequire k8s.io/kubernetes %s\n\nreplace (\n' "$version"
  sed -n 's|^\(replace \)\{0,1\}[[:space:]]*\(k8s\.io/[^ ]*\) => \./staging/.*|\2|p' "$gomod" |
    while read -r module; do printf '\t%s => %s %s\n' "$module" "$module" "$staging"; done
  printf ')\n'
} >"$work/go.mod"
cp "$work/go.mod" go.mod
: >go.sum
go mod tidy 2>"$work/errors" ||
  die "The modules that Kubernetes $version needs cannot be had: $(grep -v ': downloading ' "$work/errors" | tail -n 1 | sed 's/^[[:space:]]*//')"
