# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=sh
#
# Has the containerd of a node image list which of its images are complete.
# usage: verify.sh IMAGE PLATFORM [PROGRAM...], the first of which that is there runs programs of the platform, if the host itself does not
# It is called by name for each of them, so that nothing has to be registered with the kernel.
set -eu
image=$1 platform=$2
shift 2

run='' path=''
if [ $# -gt 0 ]; then
  for program; do
    if path=$(command -v "$program"); then break; fi
  done
  if [ -z "$path" ]; then
    echo "$1 is not on this host: install qemu-user-static (from Debian 13 on, qemu-user), or leave out verify" >&2
    exit 1
  fi
  run=/nodeforge-emulator
fi
container=
trap 'rm -f "$log"; [ -z "$container" ] || docker rm --force --volumes "$container" >/dev/null' EXIT
trap 'exit 130' INT TERM HUP
log=$(mktemp)
for directory in /usr/local/bin /usr/bin; do
  container=$(docker create --platform "$platform" --network none --tmpfs /run --tmpfs /tmp ${run:+--volume "$path:$run:ro"} \
    --entrypoint "${run:-$directory/containerd}" "$image" ${run:+"$directory/containerd"})
  if docker cp "$container:$directory/ctr" - >/dev/null 2>&1; then break; fi
  docker rm "$container" >/dev/null
  container=
done
docker start "$container" >/dev/null
# emulated, it takes seconds to start
tries=120
until docker exec "$container" $run "$directory/ctr" --namespace k8s.io images check >"$log" 2>&1; do
  tries=$((tries - 1))
  if [ "$tries" = 0 ] || [ "$(docker inspect --format '{{.State.Running}}' "$container")" != true ]; then
    echo "containerd of $image does not list its images: $(tail -n 1 "$log"); $(docker logs --tail 1 "$container" 2>&1)" >&2
    exit 1
  fi
  sleep 0.5
done
# REF TYPE DIGEST STATUS ...
awk '$4 == "complete" {print $1}' "$log"
