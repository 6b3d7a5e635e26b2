# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes that are meant, configurations that are wished, and the line of a log that tells why."""

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.nodeforge.kind.plugins.module_utils import _kind as kind

NODES = [
    kind.Node(name, role, True, "kindest/node:a", "sha256:a")
    for name, role in (("k-control-plane", "control-plane"), ("k-worker", "worker"), ("k-worker2", "worker"))
]


def names(wanted: list[str]) -> list[str]:
    return [node.name for node in kind.select(NODES, "k", wanted)]


def test_nodes_by_all_role_and_name() -> None:
    assert names(["all"]) == [node.name for node in NODES]
    assert names(["worker"]) == ["k-worker", "k-worker2"]
    assert names(["worker2", "k-control-plane"]) == ["k-control-plane", "k-worker2"]
    assert names(["control-plane", "all"]) == names(["all"])
    with pytest.raises(kind.BadInput, match='no node "workers": write all, control-plane or worker, or one of k-control-plane'):
        names(["workers"])


def test_order_is_by_role_and_number() -> None:
    assert kind._order("k-control-plane3", "control-plane") < kind._order("k-worker", "worker") < kind._order("k-worker2", "worker")
    assert kind._order("k-worker2", "worker") < kind._order("k-worker10", "worker") < kind._order("k-external-load-balancer", "external-load-balancer")
    # a number of the cluster is none of the node
    assert kind._order("k9-worker", "worker") < kind._order("k9-worker2", "worker")


def test_check_config() -> None:
    assert kind.check_config({}, "a") == {"kind": "Cluster", "apiVersion": kind.API_VERSION, "name": "a"}
    for config, said in (
        ({"kind": "Pod"}, "kind takes Cluster"),
        ({"apiVersion": "v1"}, "kind takes kind.x-k8s.io/v1alpha4"),
        ({"name": "b"}, "give one of them"),
        ({"nodes": ["worker"]}, "no list of dictionaries"),
        ({"nodes": [{"role": "master"}]}, 'role "master"'),
    ):
        with pytest.raises(kind.BadInput, match=said):
            kind.check_config(t.cast("dict[str, t.Any]", config), "a")
    for name in ("", "Upper", "a_b", "-a", "a" * 51):
        with pytest.raises(kind.BadInput):
            kind.check_name(name)
    assert kind.check_name("my-cluster.1") == "my-cluster.1"


def test_planned() -> None:
    config = {"name": "k", "nodes": [{"role": "worker", "image": "x"}, {}, {"role": "worker"}, {"role": "control-plane"}]}
    assert kind.planned(config, None) == [
        ("k-control-plane", "control-plane", None),
        ("k-control-plane2", "control-plane", None),
        ("k-worker", "worker", "x"),
        ("k-worker2", "worker", None),
    ]
    assert kind.planned({"name": "k"}, "i") == [("k-control-plane", "control-plane", "i")]


def test_cluster_config() -> None:
    assert kind.cluster_config({}) == {"nodes": [{"role": "control-plane"}]}
    config = kind.cluster_config(
        {"control_planes": 3, "workers": 1, "feature_gates": {"B": True, "A": False}, "runtime_config": {"api/alpha": True},
         "port_mappings": ["8080:80", 9000, {"containerPort": 1, "hostPort": 2, "listenAddress": "0.0.0.0"}], "debug_ports": [2345]}
    )  # fmt: skip
    assert [node["role"] for node in config["nodes"]] == ["control-plane"] * 3 + ["worker"]
    assert [(port["listenAddress"], port["hostPort"], port["containerPort"]) for port in config["nodes"][0]["extraPortMappings"]] == [
        ("127.0.0.1", 8080, 80), ("127.0.0.1", 9000, 9000), ("0.0.0.0", 2, 1), ("127.0.0.1", 2345, 2345),
    ]  # fmt: skip
    assert config["featureGates"] == {"B": True, "A": False} and config["runtimeConfig"] == {"api/alpha": "true"}
    assert "kubeadmConfigPatches" not in config


def test_arguments_for_both_forms_of_kubeadm() -> None:
    config = kind.cluster_config(
        {"verbosity": "4", "admission_plugins": ["A", "B"], "feature_gates": {"X": True}, "cgroup_v1": True, "kubeadm_patches": [{"kind": "InitConfiguration"}]}
    )
    old, new, kubelet, more = [json.loads(patch) for patch in config["kubeadmConfigPatches"]]
    assert old["apiVersion"] == "kubeadm.k8s.io/v1beta3" and new["apiVersion"] == "kubeadm.k8s.io/v1beta4"
    assert old["apiServer"]["extraArgs"] == {"v": "4", "enable-admission-plugins": "A,B"} and old["scheduler"]["extraArgs"] == {"v": "4"}
    # a list is replaced as a whole, so it has what kind would write
    assert {argument["name"]: argument["value"] for argument in new["apiServer"]["extraArgs"]} == {
        "runtime-config": "", "feature-gates": "X=true", "v": "4", "enable-admission-plugins": "A,B",
    }  # fmt: skip
    assert {argument["name"] for argument in new["controllerManager"]["extraArgs"]} == {"enable-hostpath-provisioner", "feature-gates", "v"}
    assert kubelet["logging"] == {"verbosity": 4} and kubelet["failCgroupV1"] is False
    assert more == {"kind": "InitConfiguration"}


def test_other_versions_than_kubeadm_asks_for() -> None:
    replaced = {"r.io/etcd:1-0": "r.io/etcd:2-0@sha256:0", "r.io/coredns/coredns:v1": "mirror.io/dns/coredns:v2", "r.io/other:1": "r.io/other:2"}
    assert [json.loads(patch) for patch in kind.replaced_patches(replaced)] == [
        {"kind": "ClusterConfiguration", "etcd": {"local": {"imageTag": "2-0"}}, "dns": {"imageTag": "v2", "imageRepository": "mirror.io/dns"}}
    ]
    assert kind.replaced_patches({}) == [] == kind.replaced_patches({"r.io/other:1": "r.io/other:2", "r.io/etcd:1": "r.io/my-etcd:1"})


def test_a_configuration_to_begin_with_is_kept() -> None:
    mine = {"nodes": [{"role": "control-plane", "labels": {"a": "b"}}], "featureGates": {"A": True}, "kubeadmConfigPatches": ["mine"]}
    config = kind.cluster_config({"config": mine, "workers": 3, "feature_gates": {"B": True}, "debug_ports": [1], "cgroup_v1": True})
    assert len(config["nodes"]) == 1 and config["nodes"][0]["labels"] == {"a": "b"}
    assert config["featureGates"] == {"A": True, "B": True} and config["kubeadmConfigPatches"][-1] == "mine"
    assert mine == {"nodes": [{"role": "control-plane", "labels": {"a": "b"}}], "featureGates": {"A": True}, "kubeadmConfigPatches": ["mine"]}


@pytest.mark.parametrize(
    ("presets", "said"),
    [
        ({"worker": 1}, 'no preset "worker"'),
        ({"control_planes": 0}, "at least one control plane"),
        ({"workers": -1}, "cannot be"),
        ({"port_mappings": ["a:b"]}, 'mapping "a:b" is none'),
        ({"port_mappings": ["80:0"]}, 'mapping "80:0" is none'),
        ({"debug_ports": ["127.0.0.1:80:80"]}, "is none"),
    ],
)
def test_wishes_that_cannot_be(presets: dict[str, t.Any], said: str) -> None:
    with pytest.raises(kind.BadInput, match=said):
        kind.cluster_config(presets)


def test_reason() -> None:
    info = 'I1124 11:00:00.000000       1 a.go:1] "Starting"'
    error = 'E1124 11:00:00.000000       1 run.go:72] "command failed" err="no"'
    assert kind.reason([info, error, info]) == error
    assert kind.reason([error, "panic: oh", "goroutine 1 [running]:", info]) == "panic: oh"
    assert kind.reason([info, "Error: unknown flag: --x", info]) == "Error: unknown flag: --x"
    assert kind.reason([info]) == info and kind.reason([]) == ""
    assert kind.tail("a\n\n  b \n" + "c" * 600, 2) == ["  b", "c" * 500]
