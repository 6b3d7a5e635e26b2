#!/bin/sh
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# look.sh DOCKER_HOST PYTHON TOOL...: what this machine has, in one look, as lines of a name and what is said about it:
#   lacks TOOL...               tools that are not on PATH
#   engine API VERSION CGROUP   of the engine that answers at DOCKER_HOST (- asks none)
#   silent REASON               none answers, in docker's words; neither line: there is no docker command
#   sdk yes                     PYTHON has the Docker SDK
#   go VERSION GOTOOLCHAIN      kind PATH VERSION
docker_host=$1 python=$2
shift 2

engine() {
  command -v docker >/dev/null || return
  if answer=$(docker --host "$docker_host" version --format '{{ .Server.APIVersion }} {{ .Server.Version }}' 2>&1); then
    echo "engine $answer $(docker --host "$docker_host" info --format '{{ .CgroupVersion }}')"
  else
    # the client prints its half of the answer, too
    echo "silent $(printf %s "$answer" | grep . | tail -n 1)"
  fi
}

# Importing it takes twice as long as a look. Older ones are imported: they may not work with this Python, or with the requests that there is.
sdk='
import sys
from importlib import metadata, util
if tuple(map(int, metadata.version("docker").split(".")[:2])) < (7, 1):
    import docker
sys.exit(None in map(util.find_spec, ("docker", "requests", "urllib3")))'

# All at once: each program takes longer to start than to answer. A line this short is written as a whole.
if [ "$docker_host" != - ]; then
  engine &
  "$python" -c "$sdk" 2>/dev/null && echo 'sdk yes' &
fi
# outside of any module that might ask for another toolchain
(cd / && command -v go >/dev/null && echo "go $(go env GOVERSION GOTOOLCHAIN | xargs)") &
(cd / && kind=$(command -v kind) && version=$(kind version -q 2>/dev/null) && echo "kind $kind $version") &
lacks=
for tool; do
  command -v "$tool" >/dev/null || lacks="$lacks $tool"
done
[ -z "$lacks" ] || echo "lacks$lacks"
wait
