#!/bin/sh
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# missing.sh CACHE KIND NAME...: the images that are not there, one a line, as people name them.
# KIND is engine (in the container engine), archive (a file) or pulled (in the cache of pulled images). Before those it is local (a registry with a
# mirror on this very machine) or holder (an image of the engine that may hold pulled ones).
cache=$1
shift
local='' held=''

# as the cache names it: with registry and tag
full() {
  name=$1
  case $name in
    */*) case ${name%%/*} in *.* | *:* | localhost) ;; *) name=docker.io/$name ;; esac ;;
    *) name=docker.io/library/$name ;;
  esac
  case $name in index.docker.io/*) name=docker.io/${name#*/} ;; esac
  case $name in docker.io/*/*) ;; docker.io/*) name=docker.io/library/${name#*/} ;; esac
  case ${name##*/} in *:* | *@*) ;; *) name=$name:latest ;; esac
  # of tag and digest only the digest counts
  case ${name##*/} in *:*@*) printf '%s@%s\n' "${name%:*@*}" "${name##*@}" ;; *) printf '%s\n' "$name" ;; esac
}

# whether a pulled image is, or may be, at hand
at_hand() {
  case ${1%%/*} in localhost | localhost:* | 127.* | "[::1]"*) return ;; esac
  case " $local " in *" ${1%%/*} "*) return ;; esac
  case ",$held," in *",$1,"* | *,everything,*) return ;; esac
  grep -q -s -F "\"$1\"" "$cache/index.json"
}

while [ $# -gt 1 ]; do
  case $1 in
    local) local="$local $2" ;;
    holder)
      if told=$(docker image inspect --format '{{ index .Config.Labels "io.nodeforge.images" }}' "$2" 2>/dev/null); then
        # what an image of somebody else holds only a look into it tells
        held="$held,$(printf %s "${told:-everything}" | sed 's/:[^:/,@]*@/@/g')"
      fi ;;
    engine) docker image inspect "$2" >/dev/null 2>&1 || echo "the image $2 in the container engine" ;;
    archive) case $2 in "~"/*) file=$HOME/${2#"~/"} ;; *) file=$2 ;; esac
      [ -e "$file" ] || echo "the image archive $2" ;;
    *) name=$(full "$2")
      at_hand "$name" || echo "the image $name in the cache $cache" ;;
  esac
  shift 2
done
