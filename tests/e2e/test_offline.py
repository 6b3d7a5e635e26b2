# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Without a network: once built, always built again; and what was never fetched is named at once."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import docker
import pytest

from .conftest import BAKED, EXTRA, IMAGE, Play, build

# All that fetches goes through a proxy that is not there. Registries of this machine are not asked by way of one.
CUT = {name: "http://127.0.0.1:1" for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY")}
CUT.update(NO_PROXY="", no_proxy="", GOPROXY="http://127.0.0.1:1")


def test_the_same_build_with_the_network_cut(node_image: Play, ansible_env: dict[str, str], engine: docker.DockerClient) -> None:
    """The image under its own name is up to date; under another one it is assembled anew, from what is here."""
    env = {**ansible_env, **CUT}
    assert build(env, "-e", "nodeforge_offline=true").recap["changed"] == 0
    try:
        play = build(env, "-e", json.dumps({**BAKED, "nodeforge_offline": True}), tag="e2e-offline")
        assert play.recap["changed"] > 0
        again, first = engine.images.get("kindest/node:e2e-offline"), engine.images.get(IMAGE)
        for label in ("io.nodeforge.images", "io.nodeforge.fingerprint", "io.nodeforge.base-digest"):
            assert again.labels[label] == first.labels[label]
    finally:
        if engine.images.list("kindest/node:e2e-offline"):
            engine.images.remove("kindest/node:e2e-offline", force=True)


def test_an_empty_cache_is_told_at_once(node_image: Play, ansible_env: dict[str, str], tmp_path: pathlib.Path) -> None:
    wanted = {
        "nodeforge_offline": True,
        "nodeforge_cache": str(tmp_path / "cache"),
        "node_image_base": "docker.io/kindest/base:v0-none",
        "node_image_extra_images": [{"engine": EXTRA}, {"engine": "nodeforge-e2e/none:1"}, {"archive": "/nowhere/app.tar"}, "busybox"],
    }
    play = build({**ansible_env, **CUT}, "-e", json.dumps(wanted), check=False)
    told = " ".join(play.output.split())
    tree = f"the tree {tmp_path}/cache/trees/v1.37.2 with the Go modules of Kubernetes v1.37.2"
    for name in (
        "nodeforge-image",
        "nodeforge-store",
        "the root filesystem of nodes (trixie)",
        "the programs of kube-proxy",
        "the add-ons (etcd, CoreDNS, network, storage)",
        tree,
        "the image docker.io/kindest/base:v0-none in the container engine",
        "the image nodeforge-e2e/none:1 in the container engine",
        "the image archive /nowhere/app.tar",
        f"the image docker.io/library/busybox:latest in the cache {tmp_path}/cache/images. Run the play once with the network",
    ):
        assert name in told, (name, told[-3000:])
    assert EXTRA not in told
    assert play.recap["failed"] == 1 and play.recap["changed"] == 0
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("playbook", ["build-node.yml", "nodeforge.kind.build_variant"])
@pytest.mark.parametrize(
    "source, lacks",
    [
        ("v1.34.4", "lacks https://dl.k8s.io/release/v1.34.4/kubernetes-server-linux-"),
        ("ci/latest", "does not know what version ci/latest names"),
        ("https://example.com/build.tar.gz", "lacks https://example.com/build.tar.gz"),
    ],
)
def test_what_would_be_downloaded_is_told_at_once(ansible_env: dict[str, str], tmp_path: pathlib.Path, playbook: str, source: str, lacks: str) -> None:
    wanted = {
        "nodeforge_offline": True,
        "nodeforge_cache": str(tmp_path / "cache"),
        "kube_source": source,
        "kube_base": "kindest/node:v0-none",
        "kube_components": ["kube-proxy"],
        "node_image_extra_images": [{"archive": "/nowhere/app.tar"}],
    }
    play = build({**ansible_env, **CUT}, "-e", json.dumps(wanted), check=False, playbook=playbook)
    told = " ".join(play.output.split())
    assert play.recap["failed"] == 1 and play.recap["changed"] == 0 and not (tmp_path / "cache").exists()
    assert f"Kubernetes {source} (offline is set, and the cache_dir" in told.replace("\\", "") and lacks in told, told[-3000:]
    variant = playbook.endswith("variant")
    for name, there in (("the image archive /nowhere/app.tar", True), ("the image kindest/node:v0-none in the", variant), ("nodeforge-image", not variant)):
        assert (name in told[told.index("With nodeforge_offline") :]) is there, (name, told[-3000:])


def test_a_variant_of_the_inventorys_names(ansible_env: dict[str, str], tmp_path: pathlib.Path) -> None:
    """An inventory's variables are not hidden by those of the play."""
    names = {"kube_base": "kindest/node:v0-none", "kube_source": "embedded", "kube_components": ["kubelet"], "node_image_tag": "mine"}
    inventory = {"all": {"hosts": {"localhost": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}}, "vars": names}}
    (tmp_path / "hosts.yml").write_text(json.dumps(inventory))
    wanted = json.dumps({"nodeforge_offline": True, "nodeforge_cache": str(tmp_path / "cache")})
    command = ["ansible-playbook", "-i", str(tmp_path / "hosts.yml"), "-e", wanted, "-v", "nodeforge.kind.build_variant"]
    run = subprocess.run(command, env={**ansible_env, **CUT}, cwd=tmp_path, capture_output=True, text=True, check=False)
    told = " ".join(run.stdout.split())
    assert run.returncode == 2 and '"build_variant_tag": "mine"' in told, told[-3000:]
    assert "the image kindest/node:v0-none in the container engine" in told
    assert "cache/trees/v1.37.2 with the Go modules" in told
    # of the embedded tree only programs, for which nothing else has to be made
    assert "the add-ons" not in told and "kube-proxy" not in told
