#!/usr/bin/env bash
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# play.sh PLAYBOOK [OPTION]...: ansible-playbook, and the play nodeforge.kind.clean after an interrupt: Ansible stops a play at
# once then, without its always sections. Signals that reach only this script (make hands on SIGTERM) are handed on.
set -u
command -v ansible-playbook >/dev/null || { echo "play.sh: ansible-playbook is not on PATH: use make." >&2; exit 127; }

# a name that only this run has
container=nodeforge-build-$(date +%s)-$$

# Without job control bash makes background children ignore SIGINT and takes their standard input away: undo both.
env --default-signal=INT --default-signal=QUIT ansible-playbook -e "node_image_build_container=$container" "$@" <&0 &
play=$!
interrupted=
trap 'interrupted=yes' INT # the terminal sends it to the play, too
trap 'interrupted=yes; kill -s TERM "$play"' TERM HUP

while :; do
  wait "$play"
  status=$?
  kill -0 "$play" 2>/dev/null || break
done

if [ -n "$interrupted" ]; then
  trap '' INT TERM HUP
  echo "Interrupted: removing what the run left behind" >&2
  ansible-playbook nodeforge.kind.clean "${@:2}" -e "clean_build_containers=$container" </dev/null >&2 ||
    echo "The play nodeforge.kind.clean failed: run make clean." >&2
  [ "$status" -ne 0 ] || status=130
fi
exit "$status"
