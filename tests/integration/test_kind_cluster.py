# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What kind_cluster and kube_component_swap say where there is no cluster; clusters themselves are in tests/e2e."""

from __future__ import annotations

import json
import pathlib
import typing as t

import docker
import pytest
import small_base

NAME = "nodeforge-no-such-cluster"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "Not_A_Name"}, "not one that kind takes"),
        ({"config": {"kind": "Pod"}}, "kind takes Cluster"),
        ({"config": {"nodes": [{"role": "master"}]}}, 'role "master"'),
        ({"kind": "/no/such/kind"}, 'no kind at "/no/such/kind"'),
        ({"docker_host": "unix:///no/such/socket"}, "nothing listens there"),
    ],
)
def test_one_sentence(run_module: t.Any, options: dict[str, t.Any], said: str) -> None:
    failed = run_module("kind_cluster", {"name": NAME, **options})
    assert failed.failed and said in failed["msg"], failed


def test_what_kind_refuses_is_told(run_module: t.Any, tmp_path: pathlib.Path) -> None:
    """kind itself reads the configuration, and nothing was made."""
    failed = run_module("kind_cluster", {"name": NAME, "config": {"network": {}}, "kubeconfig": str(tmp_path / "config")})
    assert failed.failed and f'The cluster "{NAME}" could not be created' in failed["msg"] and "network" in failed["msg"], failed
    assert "logs" not in failed


def test_a_program_that_is_not_kind(run_module: t.Any, tmp_path: pathlib.Path) -> None:
    program = tmp_path / "kind"
    program.write_text("no program\n")
    program.chmod(0o755)
    failed = run_module("kind_cluster", {"name": NAME, "kind": str(program)})
    assert failed.failed and "could not be created" in failed["msg"], failed


def test_check_mode_predicts(run_module: t.Any) -> None:
    predicted = run_module("kind_cluster", {"name": NAME, "config": {"nodes": [{}, {"role": "worker"}]}}, check=True, diff=True)
    assert predicted["actions"] == [f'Created the cluster "{NAME}" of 2 nodes']
    assert list(predicted["diff"]["after"]["nodes"]) == [f"{NAME}-control-plane", f"{NAME}-worker"] and predicted["diff"]["before"] == {}
    absent = run_module("kind_cluster", {"name": NAME, "state": "absent"})
    assert not absent["changed"] and absent["nodes"] == []


def test_kubeadm_is_told_what_the_image_has(run_module: t.Any, tmp_path: pathlib.Path) -> None:
    """Other versions than kubeadm asks for; the user's own patches come last."""
    engine, image = docker.from_env(), f"{NAME}:replaced"
    small_base.load(engine, image, {}, Labels={"io.nodeforge.replaced-images": "registry.k8s.io/etcd:3.7.0-0=registry.k8s.io/etcd:3.6.5-0"})
    program, document = tmp_path / "kind", tmp_path / "document"
    program.write_text(f"#!/bin/sh\nwhile [ $1 != --config ]; do shift; done; cp $2 {document}; exit 1\n")
    program.chmod(0o755)
    try:
        for options in ({"image": image}, {"config": {"nodes": [{"image": image}]}}):
            config = {"kubeadmConfigPatches": ["mine"], **options.pop("config", {})}
            run_module("kind_cluster", {"name": NAME, "config": config, "kind": str(program), **options})
            patch, last = json.loads(document.read_text())["kubeadmConfigPatches"]
            assert json.loads(patch) == {"kind": "ClusterConfiguration", "etcd": {"local": {"imageTag": "3.6.5-0"}}} and last == "mine"
            # it is no part of what is compared
            predicted = run_module("kind_cluster", {"name": NAME, "config": config, **options}, check=True, diff=True)
            assert predicted["diff"]["after"]["config"]["kubeadmConfigPatches"] == ["mine"]
    finally:
        engine.images.remove(image, force=True)


def test_a_swap_without_a_cluster(run_module: t.Any) -> None:
    failed = run_module("kube_component_swap", {"cluster": NAME, "component": "kubelet", "state": "original"})
    assert failed.failed and f'There is no cluster "{NAME}"' in failed["msg"]
    assert "binary" in run_module("kube_component_swap", {"cluster": NAME, "component": "kubelet"})["msg"]
