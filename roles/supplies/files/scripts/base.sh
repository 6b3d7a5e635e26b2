#!/bin/sh
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Makes the base image and loads it into the container engine.
# usage: base.sh REF PLATFORM ROOTFS FILES SOURCES IMAGE_TOOL PAUSE_REF [BUILD_ARGUMENT...]
set -eu
. "$(dirname "$0")/go.sh"
ref=$1 platform=$2 rootfs=$3 files=$4 sources=$5 tool=$6 pause=$7
shift 7
GOOS=${platform%/*} GOARCH=${platform#*/}
export GOOS GOARCH

work=$(mktemp -d "$(dirname "$rootfs")/base.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
cp -R "$files" "$work/files"
mkdir "$work/files/dev" # whether the root has it is up to the version of mmdebstrap
config=$work/files/etc/containerd/config.toml
sed "s|@PAUSE_IMAGE@|$pause|" "$config" >"$work/config" && mv "$work/config" "$config"
build "$sources/addons" "$work/crictl" ./cmd/crictl

# A node has no devices, sessions, updates or disks of its own to look after.
masked='apt-daily-upgrade.timer apt-daily.timer console-getty.service dev-hugepages.mount dpkg-db-backup.timer
  e2scrub_all.timer e2scrub_reap.service fstrim.timer getty.target ldconfig.service proc-sys-fs-binfmt_misc.automount
  sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount
  systemd-binfmt.service systemd-firstboot.service systemd-hostnamed.socket systemd-hwdb-update.service
  systemd-logind.service systemd-modules-load.service systemd-networkd.service systemd-pcrmachine.service
  systemd-pcrphase-sysinit.service systemd-pcrphase.service systemd-tpm2-setup-early.service systemd-tpm2-setup.service
  systemd-udev-trigger.service systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udevd.service
  systemd-update-done.service'
for unit in $masked; do set -- "$@" --link "etc/systemd/system/$unit=/dev/null"; done
for unit in containerd.service:/usr/lib/systemd/system kubelet.service:/etc/systemd/system; do
  set -- "$@" --link "etc/systemd/system/multi-user.target.wants/${unit%:*}=${unit#*:}/${unit%:*}"
done

"$tool" build --platform "$platform" --ref "$ref" --archive "$work/base.tar" \
  --base "$rootfs" --dir "$work/files=/" --file "$work/crictl=usr/local/bin/crictl" \
  --file "$work/files/usr/local/bin/entrypoint=usr/local/bin/entrypoint:755" \
  --file "$work/files/usr/local/lib/nodeforge/kubelet-cgroups=usr/local/lib/nodeforge/kubelet-cgroups:755" \
  --link etc/systemd/system/default.target=/usr/lib/systemd/system/multi-user.target \
  --env container=docker --entrypoint /usr/local/bin/entrypoint --entrypoint /sbin/init --stop-signal SIGRTMIN+3 \
  --label "org.opencontainers.image.created=$(date -u -r "$rootfs" +%Y-%m-%dT%H:%M:%SZ)" "$@" >/dev/null
docker load --quiet --input "$work/base.tar" >/dev/null ||
  die "the container engine did not take the base image $ref: is it running, and is there room on its disk?"
