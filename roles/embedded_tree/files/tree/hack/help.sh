#!/usr/bin/env bash
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Says what this tree answers to.
set -euo pipefail
cat <<'TEXT'
make all                    compile into _output/local/bin/linux/ARCH (link: _output/bin)
make quick-release-images   compile into _output/dockerized/bin/linux/ARCH and write the image archives of
                            kube-apiserver, kube-controller-manager, kube-scheduler and kube-proxy
                            into _output/release-images/ARCH
make clean                  remove _output
build/run.sh make ...       the same inside a builder container

WHAT="cmd/kubelet ..."      what `all` compiles; nothing given: everything in cmd/
KUBE_EXTRA_WHAT="..."       what `quick-release-images` compiles besides the four components
KUBE_BUILD_PLATFORMS="..."  linux/amd64, linux/arm64 or both; nothing given: this machine's
DBG=1                       keep symbols and switch optimisation off, for a debugger
GOFLAGS GOLDFLAGS GOGCFLAGS more flags for the go command, the linker and the compiler
KUBE_VERBOSE=0              do not list the packages that are compiled
KUBE_GIT_VERSION            the version to stamp, instead of git's; SOURCE_DATE_EPOCH: the build date

hack/print-workspace-status.sh   the version that is stamped
hack/apply-patches.sh PATCH...   have exactly these patches in the tree
hack/update-go-mod.sh vX.Y.Z     another Kubernetes version (followed by `go mod vendor`)
TEXT
