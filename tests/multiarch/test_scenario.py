# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The molecule scenario multiarch."""

from __future__ import annotations

from test_molecule import run_scenario


def test_scenario(ansible_env: dict[str, str]) -> None:
    run_scenario("multiarch", ansible_env)
