#!/usr/bin/env bash
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# play.sh PLAYBOOK [OPTION]...: ansible-playbook, and playbooks/clean.yml after an interrupt: Ansible stops a play at
# once then, without its always sections. Signals that reach only this script (make hands on SIGTERM) are handed on.
set -u
signal=
hand_on() {
  signal=$1
  kill -s "$signal" "$play" 2>/dev/null
}

# Without job control bash makes background children ignore SIGINT and takes their standard input away: undo both.
python3=$(command -v ansible-playbook) || { echo "play.sh: ansible-playbook is not on PATH: use make." >&2; exit 127; }
env --default-signal=INT --default-signal=QUIT "$python3" "$@" <&0 &
play=$!
trap 'hand_on TERM' TERM
trap 'hand_on TERM' HUP
trap 'signal=INT' INT # the terminal sends it to the play, too

while :; do
  wait "$play"
  status=$?
  kill -0 "$play" 2>/dev/null || break
done

if [ -n "$signal" ]; then
  trap '' INT TERM HUP
  echo "Interrupted: removing what the run left behind" >&2
  ansible-playbook playbooks/clean.yml </dev/null >&2 || echo "play.sh: playbooks/clean.yml failed: run it again by hand." >&2
  [ "$status" -ne 0 ] || status=130
fi
exit "$status"
