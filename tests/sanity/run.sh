#!/usr/bin/env bash
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# ansible-test sanity, without ignores: run.sh [OPTION OF ansible-test sanity]...
# It works on a copy, since ansible-test wants .../ansible_collections/NAMESPACE/NAME inside a git repository of its own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PYTHON=${PYTHON:-.cache/venv/bin/python}
PYTHON=$(cd "$(dirname "$PYTHON")" && pwd)/$(basename "$PYTHON")
copy=$PWD/.cache/sanity/ansible_collections/nodeforge/kind

rm -rf "$copy"
mkdir -p "$copy"
# What git knows or would add; the link in .collections would make the copy contain itself.
git ls-files -z --cached --others --exclude-standard -- . ':!:.collections' |
  while IFS= read -r -d '' file; do [ -e "$file" ] && printf '%s\0' "$file"; done |
  tar -c --null -T - | tar -x -C "$copy"
git -C "$copy" init -q
git -C "$copy" add -A

# ansible-test keeps its virtual environments below HOME. A HOME of its own leaves ~/.ansible alone and serves every
# checkout; the user's settings for pip are still obeyed.
HOME_WAS=$HOME
HOME=${XDG_CACHE_HOME:-$HOME/.cache}/nodeforge/ansible-test
mkdir -p "$HOME/.config" "$HOME/.ansible/test/cache" "$HOME/bin"
for settings in .config/pip .pip; do
  if [ -e "$HOME_WAS/$settings" ]; then ln -sfn "$HOME_WAS/$settings" "$HOME/$settings"; fi
done
# pip comes with Python: no script needs to be downloaded to bootstrap it.
version=$("$PYTHON" -c 'from ansible_test._internal.python_requirements import get_venv_packages as packages
from ansible_test._internal.host_configs import NativePythonConfig as config
import sys
print(packages(config(version="%d.%d" % sys.version_info[:2], path=sys.executable))["pip"])')
cat >"$HOME/.ansible/test/cache/get_pip_${version//./_}.py" <<'PY'
import subprocess
import sys

# In a process of its own: it would turn pip's configuration off for the rest of this one.
subprocess.check_call([sys.executable, "-m", "ensurepip"])
args = [arg for arg in sys.argv[1:] if arg not in ("--no-setuptools", "--no-wheel")]
sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", *args]))
PY
# Modules are compiled and imported by every supported Python that this machine has (pyenv's are not on PATH).
rm -f "$HOME"/bin/python3.*
for minor in 9 10 11 12 13 14; do
  for python in "python3.$minor" "${PYENV_ROOT:-$HOME_WAS/.pyenv}/versions/3.$minor".*/bin/python; do
    if "$python" -c "import ensurepip, sys; sys.exit(sys.version_info[:2] != (3, $minor))" 2>/dev/null; then
      ln -sfn "$("$python" -c 'import sys; print(sys.executable)')" "$HOME/bin/python3.$minor"
      break
    fi
  done
done
PATH=$HOME/bin:$PATH

skip=(--skip-test pslint)
echo "sanity: pslint is not run: it needs PowerShell, and there is none in this collection"
if ! command -v shellcheck >/dev/null; then
  skip+=(--skip-test shellcheck)
  echo "sanity: shellcheck is not run: there is no shellcheck on PATH"
fi
cd "$copy"
exec "$(dirname "$PYTHON")/ansible-test" sanity --color no --requirements "${skip[@]}" "$@"
