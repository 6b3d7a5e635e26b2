#!/bin/sh
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Makes another image of the base image, whose containerd has all images of a layout: a layer that every node image can stand on.
# Nothing of the base is run.
# usage: fill.sh BASE REF PLATFORM SET STORE_TOOL
set -eu
base=$1 ref=$2 platform=$3 layout=$4/layout images=$4/images.json tool=$5

die() {
  printf 'fill: %s\n' "$*" >&2
  exit 1
}
container=
work=$(mktemp -d "${images%/*}.fill.XXXXXX")
clean() {
  rm -rf "$work"
  [ -z "$container" ] || docker rm -f "$container" >/dev/null
}
trap clean EXIT
trap 'exit 130' INT TERM HUP

names= held=
# one line: each reference with its digest
for image in $(tr ',' '\n' <"$images" | sed -n 's/^{*"\([^"]*\)":".*/\1/p'); do
  names="$names${names:+,}\"$image\":\"$image\"" held="$held${held:+,}$image"
done
# its mode is that which containerd gives it
mkdir -m 700 "$work/store"
printf '{"Platform":"%s","Pin":true,"Sources":[{"Layout":"%s","Names":{%s}}]}' "$platform" "$layout" "$names" |
  "$tool" import "$work/store" >/dev/null || die "the add-ons in $layout are damaged: delete ${images%/*} and run again"
container=$(docker create --platform "$platform" --network none "$base") ||
  die "the container engine makes no container of $base: is it running, and is there room on its disk?"
if ! { tar -C "$work/store" --owner=0 --group=0 --numeric-owner --transform 's,^\.,containerd,' -c . | docker cp - "$container:/var/lib" &&
  docker commit --change "LABEL io.nodeforge.images=\"$held\"" --change "LABEL org.opencontainers.image.base.name=\"$base\"" \
    "$container" "$ref" >/dev/null; }; then
  die "the container engine did not take the image $ref: is it running, and is there room on its disk?"
fi
