#!/usr/bin/env bash
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Compiles the four components and KUBE_EXTRA_WHAT, and writes the components' images as docker archives:
# `make quick-release-images`.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../hack/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../hack/lib.sh"

readonly COMPONENTS=(kube-apiserver kube-controller-manager kube-scheduler kube-proxy)

find_go
platforms=$(platforms)
load_version
tag=${KUBE_GIT_VERSION//+/_}
output=$KUBE_ROOT/_output

# Everything that the images need must be there before minutes go into compiling.
tool=$(setting NODEFORGE_IMAGE)
[[ -x $tool ]] ||
  die "The image tool ${tool:-nodeforge-image} is not there: run role nodeforge.kind.supplies with tasks_from: tools on this host, or give NODEFORGE_IMAGE=/path/of/nodeforge-image"
# proxy_base ARCH: the root file system with iptables and nft that kube-proxy's image starts from.
proxy_base() {
  local base
  base=$(setting KUBE_PROXY_BASE)
  printf '%s\n' "${base//@ARCH@/$1}"
}
for platform in $platforms; do
  base=$(proxy_base "${platform#*/}")
  [[ -r $base ]] ||
    die "The root of kube-proxy's image for $platform, ${base:-KUBE_PROXY_BASE}, is not there: run role nodeforge.kind.supplies with tasks_from: tools for this platform, or give KUBE_PROXY_BASE=/path/of/root.tar"
done

# git is asked once
export KUBE_GIT_VERSION KUBE_GIT_COMMIT KUBE_GIT_TREE_STATE
WHAT="$(printf 'cmd/%s ' "${COMPONENTS[@]}")${KUBE_EXTRA_WHAT:-}" KUBE_OUTPUT_SUBPATH=dockerized hack/build.sh

for platform in $platforms; do
  arch=${platform#*/}
  images=$output/release-images/$arch
  stage=$output/release-stage/$arch
  mkdir -p "$images" "$stage"
  cd "$output/dockerized/bin/$platform"
  for name in "${COMPONENTS[@]}"; do
    ref=registry.k8s.io/$name-$arch:$tag
    inputs=("$tool")
    options=()
    if [[ $name == kube-proxy ]]; then
      inputs+=("$(proxy_base "$arch")")
      options+=(--base "$(proxy_base "$arch")")
    fi
    # An archive whose ingredients are the same needs not be written again. Go touches programs that it leaves as they are, but their first note is
    # its build id, which ends with a checksum of the content.
    id=$(head -c 32768 "$name" | grep -aoEm1 '[A-Za-z0-9_-]{20}(/[A-Za-z0-9_-]{20}){3}') && id+=:$(stat -c %s "$name") || id=$(sha256sum <"$name")
    key="$ref $id $(stat -Lc '%n %i %s %.9Y' "${inputs[@]}" | paste -sd' ')"
    if [[ -f $images/$name.tar && $(cat "$stage/$name.key" 2>/dev/null) == "$key" ]]; then continue; fi
    printf '+++ %s: image %s\n' "$platform" "$ref" >&2
    rm -f "$stage/$name.key"
    "$tool" build --platform "$platform" --ref "$ref" "${options[@]}" --file "$name=/usr/local/bin/$name:0755" \
      --env PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin \
      --label "org.opencontainers.image.version=$KUBE_GIT_VERSION" --archive "$stage/$name.tar" >/dev/null
    printf '%s\n' "$tag" >"$images/$name.docker_tag"
    mv "$stage/$name.tar" "$images/$name.tar"
    printf '%s\n' "$key" >"$stage/$name.key"
  done
  cd "$KUBE_ROOT"
done
