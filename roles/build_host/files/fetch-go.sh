#!/bin/sh
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# fetch-go.sh VERSION DIRECTORY: that release of Go, by means of any other. Go's module proxy serves its releases as modules,
# and the go command verifies them against the checksum database.
set -eu
directory=$2
mkdir -p "$(dirname "$directory")"
work=$(mktemp -d "$directory.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM HUP
cd "$work"
module=golang.org/toolchain@v0.0.1-go$1.linux-$(go env GOARCH)
GOTOOLCHAIN=local GOFLAGS=-modcacherw GOMODCACHE=$work go mod download "$module"
# A module's archive holds no permissions.
chmod a+x "$module"/bin/* "$module"/pkg/tool/*/*
mv "$module" "$directory"
