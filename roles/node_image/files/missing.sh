#!/bin/sh
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# missing.sh CACHE KIND NAME...: the images that are not there, one a line, as people name them.
# KIND is engine (in the container engine), archive (a file) or pulled (in the cache of pulled images).
cache=$1
shift

# as the cache names it: with registry and tag
full() {
  name=$1
  case $name in
    */*) case ${name%%/*} in *.* | *:* | localhost) ;; *) name=docker.io/$name ;; esac ;;
    *) name=docker.io/library/$name ;;
  esac
  case ${name##*/} in *:* | *@*) ;; *) name=$name:latest ;; esac
  # of tag and digest only the digest counts
  case ${name##*/} in *:*@*) printf '%s@%s\n' "${name%:*@*}" "${name##*@}" ;; *) printf '%s\n' "$name" ;; esac
}

while [ $# -gt 1 ]; do
  case $1 in
    engine) docker image inspect "$2" >/dev/null 2>&1 || echo "the image $2 in the container engine" ;;
    archive) case $2 in "~"/*) file=$HOME/${2#"~/"} ;; *) file=$2 ;; esac
      [ -e "$file" ] || echo "the image archive $2" ;;
    *) name=$(full "$2")
      grep -q -s -F "\"$name\"" "$cache/index.json" || echo "the image $name in the cache $cache" ;;
  esac
  shift 2
done
