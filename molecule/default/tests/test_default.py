# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the default scenario left on the host: the image, and nothing else."""

from __future__ import annotations

import json

from testinfra.host import Host

testinfra_hosts = ["ansible://localhost"]
IMAGE = "kindest/node:molecule"


def inspect(host: Host) -> dict:
    return json.loads(host.check_output("docker image inspect %s", IMAGE))[0]


def in_image(host: Host, *argv: str) -> str:
    words = " ".join(f"'{word}'" for word in argv[1:])
    return host.check_output(f"docker run --rm --entrypoint {argv[0]} {IMAGE} {words}")


def test_image_is_labelled(host: Host) -> None:
    labels = inspect(host)["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"].startswith("v1.")
    assert len(labels["io.nodeforge.fingerprint"]) == 64
    assert labels["io.nodeforge.platform"] in ("linux/amd64", "linux/arm64")
    assert "registry.k8s.io/kube-apiserver:" in labels["io.nodeforge.images"]


def test_image_starts_as_a_node(host: Host) -> None:
    config = inspect(host)["Config"]
    assert config["Entrypoint"] == ["/usr/local/bin/entrypoint", "/sbin/init"]
    assert not config["Cmd"]
    assert not [name for name in config["Env"] if "PROXY" in name.upper()]


def test_version_and_binaries(host: Host) -> None:
    version = in_image(host, "cat", "/kind/version")
    assert in_image(host, "kubelet", "--version") == f"Kubernetes {version}"
    for name in ("kubelet", "kubeadm", "kubectl"):
        assert in_image(host, "stat", "-c", "%a %U:%G", f"/usr/bin/{name}") == "755 root:root"


def test_manifests_are_there(host: Host) -> None:
    for name in ("default-cni", "default-storage"):
        assert "kind: " in in_image(host, "cat", f"/kind/manifests/{name}.yaml")


def test_nothing_is_left_behind(host: Host) -> None:
    # a name of the scenario's own: others may build on this machine at the same time
    assert host.check_output("docker ps -aq --filter name=^nodeforge-molecule-default") == ""
    assert not [p for p in host.process.filter(comm="nodeforge-image") if "serve" in p.args]
