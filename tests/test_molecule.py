# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The molecule scenarios, as cases of one pytest run; testinfra verifies each of them."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
# those that take minutes run with other tests of their kind
LONG = {"multiarch", "remote"}
SCENARIOS = sorted({path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml")} - LONG)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario: str, ansible_env: dict[str, str]) -> None:
    run_scenario(scenario, ansible_env)


def run_scenario(scenario: str, ansible_env: dict[str, str]) -> None:
    run = subprocess.run(
        ["molecule", "test", "--scenario-name", scenario],
        cwd=ROOT,
        # names the place of the scenarios outright, as molecule would rather have them elsewhere
        env={**ansible_env, "MOLECULE_GLOB": "molecule/*/molecule.yml"},
        capture_output=True,
        text=True,
        timeout=4500,
        check=False,
    )
    assert run.returncode == 0, (run.stdout + run.stderr)[-8000:]
