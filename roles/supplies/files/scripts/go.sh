# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=sh
#
# Read by the other scripts: how Go programs are built here.

die() {
  printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2
  exit 1
}

# Installed by hand, Go is often in no PATH that Ansible sees.
PATH=$PATH:/usr/local/go/bin:$HOME/go/bin:/usr/lib/go/bin
command -v go >/dev/null || die "Go is not found on this host: install it, or name its directory in PATH"
# What surrounds the sources (a work file, a repository) has no say in them.
export PATH CGO_ENABLED=0 GOWORK=off GOFLAGS="${GOFLAGS:-} -buildvcs=false"

# build MODULE_DIR OUTPUT PACKAGE... : static programs for GOOS and GOARCH
build() {
  dir=$1 out=$2
  shift 2
  log=$(mktemp)
  if ! (cd "$dir" && go build -trimpath -ldflags "-s -w ${LDFLAGS:-}" -o "$out" "$@") >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    reason=$(grep -v '^go: downloading' "$log" | head -n 1)
    rm -f "$log"
    die "could not build $* of $dir: $reason"
  fi
  rm -f "$log"
}
