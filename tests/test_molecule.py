# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The molecule scenarios, each from create to destroy; pytest-testinfra verifies inside."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCENARIOS = sorted(path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml"))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario: str, ansible_env: dict[str, str]) -> None:
    output = ROOT / "tests" / "output"
    output.mkdir(exist_ok=True)
    log = output / f"molecule-{scenario}.log"
    with log.open("w") as stream:
        ended = subprocess.run(
            [sys.executable, "-m", "molecule", "test", "--scenario-name", scenario],
            cwd=ROOT,
            env={**ansible_env, "MOLECULE_GLOB": "molecule/*/molecule.yml", "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            timeout=3600,
        )
    if ended.returncode:
        pytest.fail(f"molecule test -s {scenario} ended with {ended.returncode}:\n{log.read_text()[-8000:]}", pytrace=False)
