# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Other versions of Kubernetes, and one with a patch: compiled from the embedded tree, assembled and booted. Takes long: make versions."""

from __future__ import annotations

import json
import os
import pathlib

import docker
import pytest
from e2e.conftest import ROOT, boot, build

PATCH = ROOT / "docs" / "examples" / "kubelet-log-line.patch"


@pytest.fixture
def engine() -> docker.DockerClient:
    return docker.from_env(timeout=300)


@pytest.mark.parametrize("version", os.environ.get("VERSIONS", "v1.34.4 v1.35.4 v1.36.3").split())
def test_version_boots(version: str, ansible_env: dict[str, str], engine: docker.DockerClient, tmp_path: pathlib.Path) -> None:
    play = build(ansible_env, "-e", f"embedded_tree_version={version}", tag=f"e2e-{version}")
    print("\n".join(f"{name:<10} {text}" for name, text in play.summary.items()))
    try:
        assert play.summary["kubernetes"] == version
        with boot(play, tmp_path, engine, "nodeforge-versions") as cluster:
            cluster.check_version(version)
            cluster.kubectl("wait", "--for=condition=Ready", "pod", "--all", "-A", "--timeout=120s", timeout=150)
            cluster.check_no_pulls(engine, "control-plane")
    finally:
        engine.images.remove(play.summary["image"], force=True)


def test_documented_patch_runs_in_a_node(ansible_env: dict[str, str], engine: docker.DockerClient, tmp_path: pathlib.Path) -> None:
    # a tree of its own: the user's is the user's
    variables = {"embedded_tree_path": str(tmp_path / "tree"), "embedded_tree_patches": [str(PATCH)]}
    play = build(ansible_env, "-e", json.dumps(variables), tag="e2e-patched")
    try:
        version = play.summary["kubernetes"]
        assert version.startswith("v1.37.2-1+"), version
        with boot(play, tmp_path, engine, "nodeforge-versions") as cluster:
            cluster.check_version(version)
            journal = cluster.node_exec(engine, "control-plane", "journalctl", "-u", "kubelet", "--no-pager", "-o", "cat")
            assert "Starting kubelet main sync loop, changed with nodeforge" in journal
    finally:
        engine.images.remove(play.summary["image"], force=True)
