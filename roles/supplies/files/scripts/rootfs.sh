#!/bin/sh
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Makes the root filesystem of a node as a tar, from Debian packages.
# usage: rootfs.sh OUTPUT.tar ARCH SUITE NEWER_SUITE NEWER_PACKAGES PACKAGES [MIRROR] [KEYRING] [NATIVE.tar PYTHON]
# Lists are separated by commas. Without MIRROR and KEYRING this host's own apt
# configuration tells where packages come from. For another architecture than this
# host's, NATIVE.tar is the same root for this host; nothing foreign is run (twin.py).
set -eu
umask 022 # mmdebstrap works as other users, too, and what is made is for all
output=$1 arch=$2 suite=$3 newer=$4 newer_packages=$5 packages=$6 mirror=${7:-} keyring=${8:-} native=${9:-} python=${10:-}

die() {
  printf 'rootfs: %s\n' "$*" >&2
  exit 1
}

command -v mmdebstrap >/dev/null ||
  die "mmdebstrap is not installed on this host: install the Debian package of that name (the role build_host does it as root)"

# shellcheck disable=SC2016 # apt-get expands it
if [ -z "$mirror" ]; then
  # A repository says itself that it is Debian's, once apt has its index; before
  # that, the first one of a Debian host is. Without an index apt is to expect none.
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 2>/dev/null | head -n 1)
  if [ -z "$mirror" ] && grep -qx 'ID=debian' /etc/os-release; then
    mirror=$(apt-get indextargets --no-release-info --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | grep -v security | head -n 1)
  fi
  [ -n "$mirror" ] ||
    die "this host's apt configuration names no Debian mirror: set supplies_mirror (and supplies_keyring) to one"
fi
for k in "$keyring" /usr/share/keyrings/debian-archive-keyring.gpg /usr/share/keyrings/debian-archive-keyring.pgp; do
  if [ -f "$k" ]; then break; fi
  [ -z "$k" ] || [ "$k" != "$keyring" ] || die "the keyring $k does not exist: correct supplies_keyring"
done
[ -f "$k" ] || die "Debian's archive keyring is not on this host: install debian-archive-keyring or set supplies_keyring"

work=$(mktemp -d) part=$output.$$
# an interrupted run leaves nothing half-made
trap 'rm -rf "$work"; rm -f "$part"' EXIT
trap 'exit 130' INT TERM HUP

# How this host reaches mirrors (proxies, retries, certificates) holds for the
# new root too, while it is made.
apt-config dump 2>/dev/null | grep -E '^Acquire::(Retries|https?::.*|http|https)\b' |
  grep -E '::(Proxy|Retries|Timeout|CaInfo|Verify-Peer|Verify-Host|Pipeline-Depth)' >"$work/apt.conf" || :

# Nothing comes from the newer suite but the named packages and what they need.
cat >"$work/preferences" <<PREF
Package: *
Pin: release n=$newer
Pin-Priority: 100

Package: $(printf %s "$newer_packages" | tr , ' ')
Pin: release n=$newer
Pin-Priority: 990
PREF

cat >"$work/finish" <<'FINISH'
#!/bin/sh
set -eu
cd "$1"
mkdir -p opt/cni/bin kind/manifests etc/cni/net.d etc/containerd/certs.d etc/kubernetes/manifests
# Where Kubernetes and every network plugin look; Debian has them elsewhere.
for p in bridge host-local loopback portmap ptp; do mv "usr/lib/cni/$p" opt/cni/bin/; done
# Large programs that no node runs.
rm -rf usr/lib/cni usr/lib/containerd
rm -f usr/sbin/fs-idmap usr/sbin/pidfd-kill usr/sbin/recvtty usr/sbin/remap-rootfs usr/sbin/sd-helper usr/sbin/seccompagent
# Units are enabled by our own links only.
rm -rf etc/systemd/system/*.wants etc/systemd/system/*.target etc/systemd/system/dbus-*.service
# The same on every architecture, whoever makes it: no cache of the linker, which no node needs; nothing that guards the merge of directories during
# upgrades, each in its own way; no order of chance.
rm -f etc/ld.so.cache var/lib/dpkg/*-old
paste - - - <var/lib/dpkg/diversions | { grep -v '[.]usr-is-merged' || :; } | LC_ALL=C sort | tr '\t' '\n' >var/lib/dpkg/diversions.new
mv var/lib/dpkg/diversions.new var/lib/dpkg/diversions
LC_ALL=C sort -o var/lib/dpkg/triggers/File var/lib/dpkg/triggers/File
# Nothing of the machine that made this: its mirror, names and identity.
rm -rf etc/apt/sources.list* etc/apt/preferences.d etc/apt/apt.conf.d/99* etc/hostname etc/resolv.conf etc/machine-id var/lib/dbus/machine-id var/cache/* var/lib/apt var/log/*
FINISH
chmod +x "$work/finish"
chmod 755 "$work" # other users, in the unshare mode

# cleanup/apt: the hook does it. It must not touch tmp, where mmdebstrap keeps the
# configuration that ties apt to the new root: without it apt works on the host.
if [ -n "$native" ]; then
  mkdir "$work/packages"
  chmod 777 "$work/packages" # the hook may be another user
  packages=$(tar -xOf "$native" ./var/lib/dpkg/status | sed -n 's/^Package: //p' | paste -sd,)
  set -- --format=null --variant=extract --extract-hook="cp \"\$1\"/var/cache/apt/archives/*.deb '$work/packages'"
else
  set -- --format=tar --variant=essential --customize-hook="$work/finish"
fi
set -- "$@" --quiet --architectures="$arch" --include="$packages" \
  --skip=output/dev,cleanup/apt \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/info/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/lintian/*' \
  --aptopt="$work/apt.conf" \
  --setup-hook="mkdir -p \"\$1/etc/apt/preferences.d\" && cp '$work/preferences' \"\$1/etc/apt/preferences.d/nodeforge\""
# Testing and unstable promise to be renewed every week. A mirror that is frozen
# at a date breaks that promise; the signature is checked all the same.
if ! SOURCE_DATE_EPOCH=0 mmdebstrap "$@" "$suite" "$part" \
  "deb [signed-by=$k] $mirror $suite main" \
  "deb [signed-by=$k check-valid-until=no] $mirror $newer main" >"$work/log" 2>&1; then
  tail -n 20 "$work/log" >&2
  die "mmdebstrap could not make a $suite root for $arch from $mirror: $(grep '^E:' "$work/log" | head -n 1)"
fi
if [ -n "$native" ]; then
  "$python" "$(dirname "$0")/twin.py" "$native" "$work/packages" "$part" 2>"$work/log" ||
    die "no $arch root can be made like $native: $(tail -n 1 "$work/log")"
fi
mv "$part" "$output"
