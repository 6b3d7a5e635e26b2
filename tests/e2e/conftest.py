# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node image built by the playbook, and a cluster of two nodes booted from it."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time
import typing as t

import docker
import pytest
import yaml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import small_base  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
# another tag than a user's own image: a test must not replace it
TAG = os.environ.get("E2E_TAG", "e2e")
IMAGE = f"kindest/node:{TAG}"
CLUSTER = "nodeforge-e2e"
# what a user bakes in: an image that only the engine has, and a part of containerd's configuration
EXTRA = "nodeforge-e2e/extra:1"
BAKED = {
    "node_image_extra_images": [{"engine": EXTRA}],
    "node_image_containerd_config": ['[plugins."io.containerd.grpc.v1.cri"]\n  max_container_log_line_size = 8192\n'],
}


class Play(t.NamedTuple):
    """One run of the playbook: its output, its summary and what Ansible counted for localhost."""

    output: str
    seconds: float
    recap: dict[str, int]

    @property
    def summary(self) -> dict[str, str]:
        """The summary at the play's end: name -> text."""
        text = re.search(r"TASK \[Summary\].*?\"msg\": \[(.*?)\]", self.output, re.S)
        assert text, self.output[-3000:]
        lines = json.loads(f"[{text.group(1)}]")
        return {line.split(None, 1)[0]: line.split(None, 1)[1] for line in lines}


def build(env: dict[str, str], *extra: str, check: bool = True, playbook: str = "build-node.yml", tag: str = TAG) -> Play:
    """Runs the playbook as a user does, from the checkout."""
    started = time.monotonic()
    run = subprocess.run(
        ["ansible-playbook", playbook, "-e", json.dumps({"node_image_tag": tag, **(BAKED if tag == TAG else {})}), *extra],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=4500,
        check=False,
    )
    output = run.stdout + run.stderr
    if check:
        # the reason is on the one, the progress that a compile makes on the other
        assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-1000:]
    recap = re.search(r"^localhost\s*:\s*(.*)$", output, re.M)
    counts = dict(re.findall(r"(\w+)=(\d+)", recap.group(1))) if recap else {}
    return Play(output, time.monotonic() - started, {name: int(count) for name, count in counts.items()})


@pytest.fixture(scope="session")
def engine() -> docker.DockerClient:
    return docker.from_env(timeout=300)


@pytest.fixture(scope="session")
def node_image(ansible_env: dict[str, str], engine: docker.DockerClient) -> t.Iterator[Play]:
    """The node image, built (or found up to date) by the playbook."""
    small_base.load(engine, EXTRA, small_base.host_tools())
    yield build(ansible_env)
    engine.images.remove(EXTRA, force=True)


class Cluster:
    """A kind cluster, spoken to with the kubectl that was built."""

    def __init__(self, name: str, kubeconfig: pathlib.Path, kubectl: str, kind: str) -> None:
        self.name, self.kubeconfig, self._kubectl, self.kind = name, kubeconfig, kubectl, kind

    def node_exec(self, engine: docker.DockerClient, node: str, *argv: str) -> str:
        """What a command prints in a node, named by its part after the cluster's name."""
        code, output = engine.containers.get(f"{self.name}-{node}").exec_run(list(argv))
        assert code == 0, output
        return output.decode()

    def check_version(self, version: str) -> None:
        """All nodes are Ready, and every one of them, the API server and kubectl are of this version."""
        self.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=90s")
        nodes = json.loads(self.kubectl("get", "nodes", "-o", "json"))["items"]
        assert {node["status"]["nodeInfo"]["kubeletVersion"] for node in nodes} == {version}
        told = json.loads(self.kubectl("version", "-o", "json"))
        assert told["serverVersion"]["gitVersion"] == version
        assert told["clientVersion"]["gitVersion"] == version

    def check_no_pulls(self, engine: docker.DockerClient, *nodes: str) -> None:
        """All that ran so far was in the image: no node asked its containerd for a pull."""
        events = json.loads(self.kubectl("get", "events", "-A", "-o", "json"))["items"]
        started = [event["message"] for event in events if event["reason"] == "Pulled"]
        assert started, "no event tells where images came from"
        assert [message for message in started if "already present on machine" not in message] == []
        for node in nodes:
            journal = self.node_exec(engine, node, "journalctl", "-u", "containerd", "--no-pager", "-o", "cat")
            assert journal
            assert [line for line in journal.splitlines() if "PullImage" in line] == []

    def kubectl(self, *args: str, stdin: str | None = None, check: bool = True, timeout: float = 120) -> str:
        run = subprocess.run(
            [self._kubectl, "--kubeconfig", str(self.kubeconfig), *args],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check:
            assert run.returncode == 0, f"kubectl {' '.join(args)}: {run.stdout}{run.stderr}"
        return run.stdout

    def until(self, what: str, holds: t.Callable[[], bool], seconds: float = 90) -> None:
        """Waits for something to become true; where it does not, the cluster's state is the failure's text."""
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                state = self.kubectl("get", "nodes,pods,pvc", "-A", "-o", "wide", check=False)
                events = self.kubectl("get", "events", "-A", check=False)[-3000:]
                pytest.fail(f"not within {seconds} s: {what}\n{state}\n{events}")
            time.sleep(0.5)


def from_image(engine: docker.DockerClient, image: str, path: str, directory: pathlib.Path) -> pathlib.Path:
    """A file out of an image."""
    container = engine.containers.create(image)
    try:
        stream, _stat = container.get_archive(path)
        subprocess.run(["tar", "-x", "-C", str(directory)], input=b"".join(stream), check=True)
    finally:
        container.remove(force=True)
    return directory / pathlib.Path(path).name


@contextlib.contextmanager
def boot(play: Play, directory: pathlib.Path, engine: docker.DockerClient, name: str, *, workers: int = 0) -> t.Iterator[Cluster]:
    """A cluster, booted by the command that the play printed, only with workers. It is gone afterwards, whatever happens."""
    kubeconfig, config = directory / "kubeconfig", directory / "kind.yaml"
    command = shlex.split(play.summary["boot"])
    if "--config" in command:  # what the image asks of kubeadm
        at = command.index("--config")
        settings = yaml.safe_load(pathlib.Path(command[at + 1]).read_text())
        del command[at : at + 2]
    else:
        settings = {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4"}
    config.write_text(yaml.safe_dump({**settings, "nodes": [{"role": "control-plane"}, *[{"role": "worker"}] * workers]}))
    kind = command[0]
    kubectl = from_image(engine, play.summary["image"], "/usr/bin/kubectl", directory)
    subprocess.run([kind, "delete", "cluster", "--name", name], capture_output=True, check=False)
    try:
        run = subprocess.run(
            [*command, "--name", name, "--config", str(config), "--kubeconfig", str(kubeconfig), "--wait", "3m", "--retain"],
            capture_output=True,
            text=True,
            timeout=420,
            check=False,
        )
        if run.returncode != 0:
            logs = directory / "logs"
            subprocess.run([kind, "export", "logs", str(logs), "--name", name], capture_output=True, check=False)
            journal = "".join(p.read_text(errors="replace")[-4000:] for p in sorted(logs.glob("*/kubelet.log")))
            pytest.fail(f"{run.stdout}\n{run.stderr}\n{journal}")
        yield Cluster(name, kubeconfig, str(kubectl), kind)
    finally:
        subprocess.run([kind, "delete", "cluster", "--name", name], capture_output=True, check=False)
        assert not engine.api.containers(all=True, filters={"name": name})


@pytest.fixture(scope="session")
def cluster(node_image: Play, tmp_path_factory: pytest.TempPathFactory, engine: docker.DockerClient) -> t.Iterator[Cluster]:
    """A control plane and a worker."""
    with boot(node_image, tmp_path_factory.mktemp("cluster"), engine, CLUSTER, workers=1) as booted:
        yield booted
