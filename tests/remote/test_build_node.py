# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook build_node with a tree of this machine on another host: it is brought, compiled and assembled there, and the image comes back."""

from __future__ import annotations

import pathlib
import subprocess
import typing as t

import docker
import pytest
import small_base

from remote.conftest import HERE, Player
from remote.lab import Host, Relay
from remote.test_fleet import COLUMNS, rows

CACHE = pathlib.Path.home() / ".cache/nodeforge"
PHASES = COLUMNS[3:-1]
TREE = CACHE / "trees/v1.37.2"
TAG = "nodeforge-remote-test"
IMAGE = f"kindest/node:{TAG}"
EDITED = "vendor/k8s.io/kubernetes/cmd/kubelet/app/server.go"


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the embedded tree, to edit."""
    copy = tmp_path / "v1.37.2"
    subprocess.run(["rsync", "-a", "--exclude=/_output*", "--exclude=/hack/nodeforge.mk", f"{TREE}/", str(copy)], check=True)
    return copy


@pytest.mark.skipif(not (TREE / ".git").exists() or not (CACHE / "supplies").exists(), reason="make node was never run here")
def test_a_tree_of_this_machine(builder: Host, play: Player, tree: pathlib.Path) -> None:
    host = builder
    engine = docker.from_env(timeout=300)
    relay = Relay(host.address, 0.001)
    try:
        small_base.remove_all(engine, IMAGE)
        hosts = {"node": host.variables(ansible_host="127.0.0.1", ansible_port=relay.port)}

        def build(*options: str, **variables: t.Any) -> t.Any:
            before = sum(relay.carried)
            ended = play(
                "nodeforge.kind.build_node",
                hosts,
                *options,
                **{"target": "node", "kube_source": str(tree), "transport": "stream", "node_image_tag": TAG, **HERE, **variables},
            )
            print(f"{ended.seconds:.0f} s, {sum(relay.carried) - before} bytes, changed {ended.changed('node')}")
            return ended

        first = build()
        mine = engine.images.get(IMAGE)
        assert mine.id == host.sh(f"docker image inspect --format '{{{{.Id}}}}' {IMAGE}")
        assert mine.labels["io.nodeforge.kubernetes-version"] == "v1.37.2", (mine.labels, first.output[-3000:])
        assert build().changed("node") == 0
        # an edit of the kubelet, not committed
        text = (tree / EDITED).read_text()
        (tree / EDITED).write_text(text.replace('"Kubelet version"', '"Kubelet version of mine"'))
        assert text != (tree / EDITED).read_text()
        before = sum(relay.carried)
        build()
        edited = engine.images.get(IMAGE)
        assert edited.id != mine.id and edited.id == host.sh(f"docker image inspect --format '{{{{.Id}}}}' {IMAGE}")
        assert edited.labels["io.nodeforge.kubernetes-version"].endswith("-dirty")
        layers = engine.api.history(edited.id)
        print(f"the changed layer has {layers[0]['Size']} bytes, {sum(relay.carried) - before} moved")
        assert sum(relay.carried) - before <= 1.1 * layers[0]["Size"]
        assert build().changed("node") == 0
        # beside a host that is not there
        hosts["nowhere"] = host.variables(ansible_host="127.0.0.1", ansible_port=9)
        fleet = build(target="all", check=False)
        table = rows(fleet.output)
        assert fleet.rc != 0 and fleet.changed("node") == 0
        assert table["nowhere"]["state"] == "failed at host and base" and table["node"]["state"] == "up to date"
        assert table["node"]["id"] == edited.id[:19] and all(float(table["node"][name]) >= 0 for name in PHASES), table
    finally:
        relay.close()
        small_base.remove_all(engine, IMAGE)
