#!/bin/sh
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Builds one of our tools for this host. usage: tool.sh SOURCES OUTPUT
set -eu
. "$(dirname "$0")/go.sh"
trap 'rm -f "$2.$$"' EXIT
trap 'exit 130' INT TERM HUP
unset GOOS GOARCH
build "$1" "$2.$$" .
mv "$2.$$" "$2"
