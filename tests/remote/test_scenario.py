# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The molecule scenario "remote", with a host of the lab."""

from __future__ import annotations

import json
import pathlib

import pytest
from test_molecule import run_scenario

from remote.conftest import HERE, Player
from remote.lab import Host

TREE = pathlib.Path.home() / ".cache/nodeforge/trees/v1.37.2"


@pytest.mark.skipif(not (TREE / ".git").exists(), reason="make node was never run here")
def test_scenario(builder: Host, play: Player, tmp_path: pathlib.Path) -> None:
    # it looks for the one tree that it has brought
    builder.sh("rm -rf ~/.cache/nodeforge/synced")
    (tmp_path / "hosts.yml").write_text(json.dumps({"all": {"hosts": {"node": builder.variables()}}}))
    (tmp_path / "options.yml").write_text(json.dumps(HERE))
    places = {"REMOTE_HOSTS": str(tmp_path / "hosts.yml"), "REMOTE_OPTIONS": str(tmp_path / "options.yml"), "REMOTE_SOURCE": str(TREE)}
    run_scenario("remote", {**play.env, **places})
