#!/usr/bin/env bash
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Prints the version of the tree in the line format of Kubernetes; kind and kube_make read gitVersion.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
load_version
cat <<LINES
STABLE_BUILD_GIT_COMMIT $KUBE_GIT_COMMIT
STABLE_BUILD_SCM_STATUS $KUBE_GIT_TREE_STATE
STABLE_BUILD_SCM_REVISION $KUBE_GIT_VERSION
STABLE_BUILD_MAJOR_VERSION $KUBE_GIT_MAJOR
STABLE_BUILD_MINOR_VERSION $KUBE_GIT_MINOR
STABLE_DOCKER_TAG ${KUBE_GIT_VERSION//+/_}
gitCommit $KUBE_GIT_COMMIT
gitTreeState $KUBE_GIT_TREE_STATE
gitVersion $KUBE_GIT_VERSION
gitMajor $KUBE_GIT_MAJOR
gitMinor $KUBE_GIT_MINOR
buildDate $BUILD_DATE
LINES
