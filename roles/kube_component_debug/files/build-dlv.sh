#!/bin/sh
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# build-dlv.sh VERSION PLATFORM FILE: that version of delve for that platform, not linked to any library.
set -eu
directory=$(dirname "$3")
mkdir -p "$directory"
work=$(mktemp -d "$directory/.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM HUP
cd /
GOMODCACHE=$(go env GOMODCACHE)
GOOS=${2%/*} GOARCH=${2#*/}
# GOBIN forbids programs for another platform; below GOPATH they get a directory of their own
unset GOBIN
export GOMODCACHE GOOS GOARCH
GOENV=off GOPROXY=$(go env GOPROXY) GOSUMDB=$(go env GOSUMDB) GONOSUMDB=$(go env GONOSUMDB) GOFLAGS='' \
  GOPATH=$work CGO_ENABLED=0 go install "github.com/go-delve/delve/cmd/dlv@$1"
find "$work/bin" -name dlv -type f -exec mv {} "$3" \;
[ -x "$3" ]
