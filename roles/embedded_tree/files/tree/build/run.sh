#!/usr/bin/env bash
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Runs a command, usually make, in a builder container: build/run.sh make all WHAT=cmd/kubelet
# What is compiled goes to _output/dockerized/bin.
#
# The container is Debian, made from this host's own package mirror, with this host's Go. The tree lies where Kubernetes'
# builder has it, so paths in debug information agree. It has no network and no capability, and works as the calling user.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../hack/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../hack/lib.sh"

# what the builder's root is made with, besides the suite and the mirror
readonly RECIPE=(
  --variant=essential --include=make
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*'
)

(($# > 0)) || die "Nothing to run: say what, for example build/run.sh make all WHAT=cmd/kubelet"
find_go
docker=${DOCKER:-docker}
command -v "$docker" >/dev/null || die "The command $docker is not on PATH: install the client of the container engine"
security=$("$docker" info --format '{{.SecurityOptions}}' 2>&1) ||
  die "The container engine does not answer: start it, or set DOCKER_HOST ($(tail -n 1 <<<"$security"))"

work=$(mktemp -d)
container=nodeforge-builder-${work##*.}
# also when interrupted: neither the container nor the temporary files stay
trap '"$docker" rm --force "$container" >/dev/null 2>&1 || true; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# debian_sources prints the file that names this host's package mirror.
debian_sources() {
  local file
  for file in /etc/apt/sources.list.d/{debian,ubuntu}.sources /etc/apt/sources.list /etc/apt/sources.list.d/*.{sources,list}; do
    if [[ -r $file ]] && grep -qE "^(deb |Suites:.*)[^#]*\b$1\b" "$file"; then
      printf '%s\n' "$file"
      return
    fi
  done
  die "No package mirror for Debian or Ubuntu $1 in /etc/apt: configure one, or give an image that has bash and make, KUBE_BUILD_IMAGE=..."
}

image=$(setting KUBE_BUILD_IMAGE)
if [[ -z $image ]]; then
  # shellcheck source=/dev/null
  suite=$(source /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
  image=nodeforge-builder:${suite:-unknown}-$(sha256sum <<<"${RECIPE[*]}" | cut -c1-12)
  if ! "$docker" image inspect "$image" >/dev/null 2>&1; then
    if [[ -z $suite ]] || ! command -v mmdebstrap >/dev/null; then
      die "The builder's image needs mmdebstrap on Debian or Ubuntu: install it, apt-get install mmdebstrap, or give an image that has bash and make, KUBE_BUILD_IMAGE=..."
    fi
    sources=$(debian_sources "$suite")
    printf '+++ making the builder image %s\n' "$image" >&2
    mmdebstrap --quiet "${RECIPE[@]}" "$suite" "$work/root.tar" "$sources" >"$work/log" 2>&1 ||
      die "mmdebstrap could not make the builder's root from $sources: check the mirror, or give KUBE_BUILD_IMAGE=... ($(grep -v '^I:' "$work/log" | tail -n 2 | paste -sd' '))"
    "$docker" import "$work/root.tar" "$image" >/dev/null
    rm "$work/root.tar"
  fi
fi

goroot=$(go env GOROOT)
gocache=$(go env GOCACHE)
mkdir -p "$gocache"
options=(
  --volume "$KUBE_ROOT:/go/src/k8s.io/kubernetes" --workdir /go/src/k8s.io/kubernetes
  --volume "$goroot:$goroot:ro" --volume "$gocache:/go/cache"
  --env "PATH=$goroot/bin:/usr/local/bin:/usr/bin:/bin" --env "GO=$goroot/bin/go" --env GOTOOLCHAIN=local
  --env GOCACHE=/go/cache --env HOME=/tmp --env KUBE_OUTPUT_SUBPATH=dockerized
)
# distributions' Go has links to elsewhere in GOROOT
for link in "$goroot"/*; do
  if [[ -L $link ]]; then
    target=$(readlink -f "$link")
    options+=(--volume "$target:$target:ro")
  fi
done
# image archives made inside need the image tool and the root of kube-proxy's image
for name in NODEFORGE_IMAGE KUBE_PROXY_BASE; do
  value=$(setting "$name")
  value=${value//@ARCH@/$(go env GOHOSTARCH)}
  [[ ! -e $value ]] || options+=(--volume "$value:$value:ro")
done
# git stays outside: the container is told the version
list_new_packages
load_version
export KUBE_GIT_VERSION KUBE_GIT_COMMIT KUBE_GIT_TREE_STATE
SOURCE_DATE_EPOCH=$(date -u -d "$BUILD_DATE" +%s)
export SOURCE_DATE_EPOCH
for name in KUBE_GIT_VERSION KUBE_GIT_COMMIT KUBE_GIT_TREE_STATE SOURCE_DATE_EPOCH KUBE_BUILD_PLATFORMS KUBE_VERBOSE \
  GOFLAGS GOLDFLAGS GOGCFLAGS; do
  [[ -z ${!name:-} ]] || options+=(--env "$name")
done
# a rootless engine maps its root to the calling user
[[ $security == *name=rootless* ]] || options+=(--user "$(id -u):$(id -g)")

# in the background, so that a signal is handled at once and not when the compiler has ended
"$docker" run --name "$container" --rm --network none --cap-drop ALL --security-opt no-new-privileges "${options[@]}" "$image" \
  bash -c 'test -f hack/build.sh || exit 97; exec "$@"' builder "$@" &
status=0
wait $! || status=$?
((status != 97)) || die "The container engine does not see $KUBE_ROOT: it runs on another machine; build there"
exit "$status"
