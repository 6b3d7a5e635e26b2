#!/usr/bin/env bash
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Compiles what WHAT names for KUBE_BUILD_PLATFORMS, static and stamped with the version: `make all`.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# programs lists what can be compiled: the folders of cmd/, also those that the user adds.
programs() {
  local main
  for main in cmd/*/*.go; do dirname "$main"; done | sort -u
}

# Check everything before the first package is compiled.
known=$(programs)
packages=()
for wanted in ${WHAT:-$known}; do
  program=${wanted#./}
  program=${program#k8s.io/kubernetes/}
  program=${program%/}
  grep -qxF "$program" <<<"$known" ||
    die "WHAT names $wanted, which this tree does not compile: choose from $(paste -sd' ' <<<"$known" | sed 's/ /, /g')"
  packages+=("./$program")
done
find_go
platforms=$(platforms)
list_new_packages
load_version

ldflags=${GOLDFLAGS:-}
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  ldflags+=" -X $package.gitVersion=$KUBE_GIT_VERSION -X $package.gitCommit=$KUBE_GIT_COMMIT"
  ldflags+=" -X $package.gitTreeState=$KUBE_GIT_TREE_STATE -X $package.buildDate=$BUILD_DATE"
  ldflags+=" -X $package.gitMajor=$KUBE_GIT_MAJOR -X $package.gitMinor=$KUBE_GIT_MINOR"
done
flags=(-mod=vendor -buildvcs=false)
# the build tags of Kubernetes' releases; without grpc's tracing the linker can drop a third of a program
tags=selinux,notest
if [[ ${DBG:-} == 1 ]]; then
  # real paths and no optimisation, for the debugger
  flags+=("-gcflags=all=-N -l ${GOGCFLAGS:-}")
else
  flags+=(-trimpath)
  tags+=,grpcnotrace
  ldflags+=" -s -w"
  [[ -z ${GOGCFLAGS:-} ]] || flags+=("-gcflags=$GOGCFLAGS")
fi
for flag in ${GOFLAGS:-}; do # would be overridden
  [[ $flag != -tags=* ]] || tags+=,${flag#-tags=}
done
flags+=("-tags=$tags")
[[ ${KUBE_VERBOSE:-1} == 0 ]] || flags+=(-v)

subpath=${KUBE_OUTPUT_SUBPATH:-local}
output=_output/$subpath
# the linker's result is renamed into place only within one file system; a copy that breaks off would pass for up to date
mkdir -p "$output/go"
find "$output/go" -maxdepth 1 -name 'tmp.*' -mmin +1440 -exec rm -rf {} + # left by a run that was killed
GOTMPDIR=$(mktemp -d "$KUBE_ROOT/$output/go/tmp.XXXXXX")
trap 'rm -rf "$GOTMPDIR"' EXIT
export GOTMPDIR GOPROXY=off CGO_ENABLED=0 GOOS=linux

for platform in $platforms; do
  bin=$output/bin/$platform
  mkdir -p "$bin"
  printf '+++ %s: compiling %s %s\n' "$platform" "$KUBE_GIT_VERSION" "${packages[*]#./}" >&2
  GOARCH=${platform#*/} go build "${flags[@]}" -ldflags "$ldflags" -o "$bin/" "${packages[@]}"
  if [[ $subpath == local && $platform == linux/$(go env GOHOSTARCH) ]]; then
    ln -sfn "local/bin/$platform" _output/bin
  fi
done
