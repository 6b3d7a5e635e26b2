#!/bin/sh
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# ask-engine.sh DOCKER_HOST: API version, version and cgroup version of the engine that answers there.
docker --host "$1" version --format '{{ .Server.APIVersion }} {{ .Server.Version }}' &&
  docker --host "$1" info --format '{{ .CgroupVersion }}'
