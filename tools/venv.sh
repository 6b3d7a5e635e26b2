#!/bin/sh
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# venv.sh DIRECTORY REQUIREMENTS: a virtual environment from the best Python of this machine that really runs, holding
# REQUIREMENTS. Does nothing when it is there already, for this place and these pins.
set -eu
venv=$1
requirements=$2

say() { printf '%s\n' "$*" >&2; }

# ansible-core 2.19 wants 3.11 or newer, 2.21 wants 3.12 or newer. pyenv's shims exist without running: so run it.
runs() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1; }
makes_venv() { runs "$1" && "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

candidates() {
  [ -z "${PYTHON:-}" ] || { echo "$PYTHON"; return; }
  printf '%s\n' python3.13 python3.12 python3.14
  if command -v pyenv >/dev/null 2>&1; then
    for version in $(pyenv versions --bare 2>/dev/null | grep -E '^3\.(12|13|14)\.[0-9]+$' | sort -rV); do
      echo "$(pyenv prefix "$version")/bin/python"
    done
  fi
  printf '%s\n' python3 /usr/bin/python3
}

find_python() {
  python='' bare=''
  while IFS= read -r candidate; do
    if makes_venv "$candidate"; then python=$candidate; return; fi
    if runs "$candidate"; then bare=${bare:-$candidate}; fi
  done <<LIST
$(candidates)
LIST
}

if ! mkdir -p "$venv" 2>/dev/null || [ ! -w "$venv" ]; then
  say "$(pwd)/$venv cannot be written by $(id -un): make it writable, or work in a checkout of your own."
  exit 1
fi
place=$(cd "$venv" && pwd)
pins=$(cat requirements.txt "$requirements" | cksum)
stamp=$venv/.$(basename "$requirements")

# Scripts in it hold its path: one that was moved, copied or not finished is made anew.
if [ "$(cat "$venv/.place" 2>/dev/null)" != "$place" ] || ! "$venv/bin/python" -c '' 2>/dev/null; then
  rm -rf "$venv"
elif [ "$(cat "$stamp" 2>/dev/null)" = "$pins" ]; then
  exit 0
fi

if [ ! -d "$venv" ]; then
  find_python
  if [ -z "$python" ] && [ -z "${PYTHON:-}" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    say "No Python that can make a virtual environment: installing python3-venv"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -y -qq --no-install-recommends python3 python3-venv >&2
    find_python
  fi
  if [ -z "$python" ]; then
    if [ -n "${PYTHON:-}" ]; then
      say "PYTHON=$PYTHON is not a Python 3.11 to 3.14 with the modules venv and ensurepip: name one that is, or unset PYTHON."
    elif [ -n "$bare" ]; then
      say "$bare cannot make a virtual environment (no ensurepip): install the package python3-venv, then run make again."
    else
      say "No Python 3.11 to 3.14 runs on this machine: install one (with its venv module), or name it with make PYTHON=/path/to/python3, then run make again."
    fi
    exit 1
  fi
  say "Making $venv with $("$python" -c 'import platform, sys; print(sys.executable, platform.python_version())')"
  "$python" -m venv "$venv"
  echo "$place" >"$venv/.place"
fi

say "Installing $requirements"
if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements" </dev/null; then
  say "pip could not install $requirements into $venv (its own words are above): mend that, then run make again."
  exit 1
fi
echo "$pins" >"$stamp"
