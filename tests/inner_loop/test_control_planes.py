# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real cluster of three control planes and a worker, whose control plane is swapped node by node while it serves."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import threading
import time
import typing as t

import docker
import pytest
from e2e.conftest import build
from inner_loop.test_inner_loop import CLUSTER, Inner, sha256, until

CONFIG = {"nodes": [{"role": "control-plane"}] * 3 + [{"role": "worker"}]}
PLANES = tuple(f"{CLUSTER}-control-plane{number}" for number in ("", "2", "3"))
MANAGER = "kube-controller-manager"

# What kind takes for a load balancer where its image cannot be had: the same files, and connections to whichever server answers.
BALANCER = """package main

import (
    "io"
    "net"
    "os"
    "regexp"
    "time"
)

var address = regexp.MustCompile(`address: "?([^"\\n]+?)"?\\n\\s+port_value: (\\d+)`)

func told(file string) (found []string) {
    text, _ := os.ReadFile("/home/envoy/" + file)
    for _, match := range address.FindAllStringSubmatch(string(text), -1) {
        found = append(found, net.JoinHostPort(match[1], match[2]))
    }
    return found
}

func carry(client net.Conn, begin int) {
    defer client.Close()
    servers := told("cds.yaml")
    for index := range servers {
        server, err := net.DialTimeout("tcp", servers[(begin+index)%len(servers)], time.Second)
        if err != nil {
            continue
        }
        defer server.Close()
        go func() {
            io.Copy(server, client)
            server.(*net.TCPConn).CloseWrite()
        }()
        io.Copy(client, server)
        return
    }
}

func main() {
    for len(told("lds.yaml")) == 0 {
        time.Sleep(100 * time.Millisecond)
    }
    listener, err := net.Listen("tcp", told("lds.yaml")[0])
    if err != nil {
        panic(err)
    }
    for count := 0; ; count++ {
        client, err := listener.Accept()
        if err != nil {
            panic(err)
        }
        go carry(client, count)
    }
}
"""


class Planes(Inner):
    """The cluster of several control planes."""

    def made(self, **options: t.Any) -> t.Any:
        return self.cluster(config=CONFIG, wait=600, **options)

    def holder(self) -> str:
        """The node whose controller manager has the lease."""
        return self.kubectl("-n", "kube-system", "get", "lease", MANAGER, "-o", "jsonpath={.spec.holderIdentity}").rpartition("_")[0]

    def all_ready(self) -> bool:
        form = r'jsonpath={range .items[*].status.conditions[?(@.type=="Ready")]}{.status} {end}'
        return self.kubectl("get", "nodes", "-o", form).split() == ["True"] * 4

    def manifests(self) -> dict[str, str]:
        return {node: self.sh(node, "sha256sum /etc/kubernetes/manifests/*; stat -c '%a %U %n' /etc/kubernetes/manifests/*") for node in PLANES}


def stand_in(engine: docker.DockerClient, name: str, node_image: str, directory: pathlib.Path) -> None:
    """An image of that name with a load balancer of our own, and the shell of a node."""
    (directory / "main.go").write_text(BALANCER)
    environment = {**os.environ, "CGO_ENABLED": "0", "GO111MODULE": "off"}
    subprocess.run(["go", "build", "-o", "envoy", "main.go"], cwd=directory, check=True, env=environment)
    (directory / "Dockerfile").write_text(f"FROM {node_image}\nCOPY envoy /usr/local/bin/envoy\nENTRYPOINT []\n")
    engine.images.build(path=str(directory), tag=name, rm=True)


@pytest.fixture(scope="module")
def planes(ansible_env: dict[str, str], run_module: t.Any, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Planes]:
    image = os.environ.get("INNER_IMAGE") or build(ansible_env, tag="inner-loop").summary["image"]
    engine = docker.from_env(timeout=600)
    planes = Planes(engine, run_module, image, tmp_path_factory.mktemp("planes"))
    balancer = None
    try:
        made = planes.made()
        if made.failed:  # without a network there is one sentence, and nothing else
            pattern = r'The cluster ".*" could not be created: 3 control planes need a load balancer, whose image "([^"]+)" .* wish for one control plane'
            told = re.fullmatch(pattern, made["msg"])
            assert told and not engine.api.containers(all=True, filters={"label": f"io.x-k8s.kind.cluster={CLUSTER}"}), made
            balancer = told.group(1)
            stand_in(engine, balancer, image, tmp_path_factory.mktemp("balancer"))
            made = planes.made()
        assert not made.failed and made["changed"], made
        yield planes
    finally:
        gone = planes.made(state="absent")
        if balancer:
            engine.images.remove(balancer, force=True)
        assert not gone.failed and not engine.api.containers(all=True, filters={"label": f"io.x-k8s.kind.cluster={CLUSTER}"})


def test_a_second_run_changes_nothing(planes: Planes) -> None:
    again = planes.made()
    assert not again["changed"] and again["differences"] == [], again
    assert [(node["name"], node["role"]) for node in again["nodes"]] == [*((node, "control-plane") for node in PLANES), (f"{CLUSTER}-worker", "worker")]
    assert planes.all_ready()


def test_controller_managers_one_after_the_other(planes: Planes) -> None:
    """Never are two of them away at once, and one of them has the lease again after each."""
    before, own = planes.manifests(), sha256(planes.program(MANAGER))
    binary, version = planes.other(MANAGER)
    predicted = planes.swap(MANAGER, binary, nodes=["control-plane"], serial=1, check=True, diff=True)
    assert [node["name"] for node in predicted["nodes"]] == list(PLANES) and planes.manifests() == before
    away: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            away.append(sum(planes.running(node, MANAGER) == [] for node in PLANES))
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        swapped = planes.swap(MANAGER, binary, nodes=["control-plane"], serial=1, diff=True)
    finally:
        done.set()
        watcher.join()
    assert swapped["changed"] and swapped["diff"] == predicted["diff"], swapped
    assert [(node["name"], node["result"], node["version"]) for node in swapped["nodes"]] == [(node, "changed", version) for node in PLANES]
    assert max(away) == 1, away
    for node in PLANES:
        assert planes.running(node, MANAGER) == [sha256(binary)]
    until(lambda: planes.holder() in PLANES)
    assert not planes.swap(MANAGER, binary)["changed"] and not planes.swap(MANAGER, binary, serial=1, check=True)["changed"]

    # it works: what only it makes is made
    planes.kubectl("create", "namespace", "controlled")
    until(lambda: "default" in planes.kubectl("-n", "controlled", "get", "serviceaccounts", "-o", "name"))
    planes.kubectl("delete", "namespace", "controlled")

    assert planes.swap(MANAGER, nodes=["control-plane2"])["changed"]
    assert [planes.running(node, MANAGER) for node in PLANES] == [[sha256(binary)], [own], [sha256(binary)]]
    back = planes.swap(MANAGER, nodes=["control-plane"], serial=1)
    assert [node["result"] for node in back["nodes"]] == ["changed", "unchanged", "changed"], back
    assert not planes.swap(MANAGER)["changed"]
    assert planes.manifests() == before and planes.all_ready()
    for node in PLANES:
        assert planes.running(node, MANAGER) == [own]
        left = planes.sh(node, "ls /kind/nodeforge 2>/dev/null", check=False)
        assert left == ("cluster.json" if node == PLANES[0] else "")


def test_the_first_that_fails_is_the_last_that_is_touched(planes: Planes, tmp_path: pathlib.Path) -> None:
    before, own = planes.manifests(), sha256(planes.program(MANAGER))
    source = tmp_path / "main.go"
    source.write_text(
        'package main\n\nimport "os"\n\nfunc main() {\n\tif len(os.Args) > 1 && os.Args[1] == "--version" {\n\t\tprintln("Kubernetes v1.99.0")\n'
        '\t\treturn\n\t}\n\tprintln("F1124 11:40:02.120000       1 main.go:12] it crashes on purpose")\n\tos.Exit(3)\n}\n'
    )
    environment = {**os.environ, "CGO_ENABLED": "0", "GO111MODULE": "off"}
    subprocess.run(["go", "build", "-o", tmp_path / MANAGER, source], check=True, env=environment)
    failed = planes.swap(MANAGER, tmp_path / MANAGER)
    assert failed.failed and [node["result"] for node in failed["nodes"]] == ["rolledback", "skipped", "skipped"], failed
    assert "it crashes on purpose" in failed["msg"] and "runs again" in failed["msg"]
    assert planes.manifests() == before and all(planes.running(node, MANAGER) == [own] for node in PLANES)


def test_api_servers_one_after_the_other(planes: Planes) -> None:
    """Whoever goes through the load balancer is served all the time."""
    before = planes.manifests()
    binary, version = planes.other("kube-apiserver")
    done = planes.swap("kube-apiserver", binary)
    assert done["changed"] and [node["result"] for node in done["nodes"]] == ["changed"] * 3, done
    for node in PLANES:
        told = planes.sh(node, "kubectl --kubeconfig /etc/kubernetes/admin.conf get --raw /version")
        assert json.loads(told)["gitVersion"] == version
    until(planes.all_ready)
    assert planes.swap("kube-apiserver")["changed"] and planes.manifests() == before
    until(planes.all_ready, 120)
