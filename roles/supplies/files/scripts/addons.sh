#!/bin/sh
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Makes the add-on images into one OCI layout. The environment says from what:
#   OUTPUT    directory that appears when everything in it is complete
#   MANIFESTS the cluster's manifests, with names in place of images
#   SOURCES   the Go modules; MODULES is where go.mod files of other versions are kept
#   ROOTFS    the node's root filesystem tar, for the storage helper's busybox
#   PLATFORM  linux/amd64; IMAGE_TOOL is nodeforge-image
#   *_REF     names of the images; ETCD_VERSION, COREDNS_VERSION versions of the modules
set -eu
. "$(dirname "$0")/go.sh"
GOOS=${PLATFORM%/*} GOARCH=${PLATFORM#*/}
export GOOS GOARCH

mkdir -p "$(dirname "$OUTPUT")" "$MODULES"
work=$(mktemp -d "$OUTPUT.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
bin=$work/bin
mkdir "$bin"

# image REF REVISION BUILD_ARGUMENT...: what tells the content goes into labels, the time
# does not, so that the same content is the same image
image() {
  ref=$1 revision=$2
  shift 2
  "$IMAGE_TOOL" build --platform "$PLATFORM" --layout "$work/layout" --ref "$ref" "$@" \
    --label "org.opencontainers.image.version=${ref##*:}" --label "org.opencontainers.image.revision=$revision" \
    --label "org.opencontainers.image.source=https://github.com/nodeforge/nodeforge.kind" \
    --label "org.opencontainers.image.created=1970-01-01T00:00:00Z" --label "io.nodeforge.platform=$PLATFORM" >/dev/null
}

# module NAME MODULE VERSION REF: the directory with a go.mod for that version: the
# committed one, or one that is derived here and checked by the Go tool.
module() {
  if grep -q "^require $2 $3\$" "$SOURCES/$1/go.mod"; then
    echo "$SOURCES/$1"
    return
  fi
  derived=$MODULES/$1-$3
  if [ ! -d "$derived" ]; then
    new=$work/module-$1
    mkdir "$new"
    if ! (cd "$new" && unset GOOS GOARCH && cp "$SOURCES/$1/main.go" . && go mod init "nodeforge.example/$1" &&
      go get "$2@$3" && go mod tidy) >"$new/log" 2>&1; then
      tail -n 5 "$new/log" >&2
      die "the image $4 cannot be made: Go's module proxy does not give $2@$3: set supplies_$1_version to a version it has; the image then bears that version's tag, and kubeadm is told by supplies_kubeadm_patches"
    fi
    rm "$new/log"
    mv -T "$new" "$derived" 2>/dev/null || [ -d "$derived" ]
  fi
  cp "$SOURCES/$1/main.go" "$derived/"
  echo "$derived"
}

etcd=$(module etcd go.etcd.io/etcd/server/v3 "v$ETCD_VERSION" "$ETCD_REF")
coredns=$(module coredns github.com/coredns/coredns "v$COREDNS_VERSION" "$COREDNS_REF")
build "$etcd" "$bin/etcd" .
build "$coredns" "$bin/coredns" .
build "$SOURCES/addons" "$bin/" ./cmd/netd ./cmd/pause
LDFLAGS="-X main.VERSION=${PROVISIONER_REF##*:}" build "$SOURCES/addons" "$bin/" github.com/rancher/local-path-provisioner

image "$ETCD_REF" "v$ETCD_VERSION" --file "$bin/etcd=usr/local/bin/etcd" --cmd etcd
image "$COREDNS_REF" "v$COREDNS_VERSION" --file "$bin/coredns=coredns" --entrypoint /coredns
image "$PAUSE_REF" "${PAUSE_REF##*:}" --file "$bin/pause=pause" --entrypoint /pause --user 65535:65535
image "$NETD_REF" "${NETD_REF##*:}" --file "$bin/netd=netd" --entrypoint /netd
image "$PROVISIONER_REF" "${PROVISIONER_REF##*:}" --file "$bin/local-path-provisioner=usr/bin/local-path-provisioner" --cmd local-path-provisioner

# The helper makes and removes directories, and serves as a small shell in tests.
"$IMAGE_TOOL" extract --from "$ROOTFS" --output "$work/busybox.tar" usr/bin/busybox
set --
for applet in sh ash cat chmod chown cp date dd df du echo env false find free grep head hostname httpd id ip kill ln ls \
  mkdir mount mv nc netstat nslookup ping ps pwd rm rmdir route sed seq sleep sort stat stty sync tail tar test timeout \
  top touch traceroute true umount uname vi wc wget which xargs; do
  set -- "$@" --link "bin/$applet=/usr/bin/busybox"
done
image "$HELPER_REF" "${HELPER_REF##*:}" --base "$work/busybox.tar" "$@" --cmd sh

for manifest in default-cni.yaml default-storage.yaml; do
  sed "s|@NETD_IMAGE@|$NETD_REF|; s|@PROVISIONER_IMAGE@|$PROVISIONER_REF|; s|@HELPER_IMAGE@|$HELPER_REF|" \
    "$MANIFESTS/$manifest.in" >"$work/$manifest"
done
"$IMAGE_TOOL" list --layout "$work/layout" >"$work/images.json"
rm -r "$bin" "$work/busybox.tar"
chmod 755 "$work"
# Another play may have made the same meanwhile.
mv -T "$work" "$OUTPUT" 2>/dev/null || [ -f "$OUTPUT/images.json" ]
