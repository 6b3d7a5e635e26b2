# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The main job: the playbook makes a node image, a second run changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import time

import docker
import pytest

from .conftest import BAKED, IMAGE, ROOT, TAG, Play, build


def leftovers(engine: docker.DockerClient) -> list[str]:
    # the API itself: the client's list inspects each container, and one may be gone by then
    return [c["Names"][0] for c in engine.api.containers(all=True, filters={"name": "nodeforge-build-"})]


def test_summary_tells_the_truth(node_image: Play, engine: docker.DockerClient) -> None:
    image = engine.images.get(IMAGE)
    summary = node_image.summary
    assert summary["image"] == IMAGE
    assert summary["id"] == image.id
    assert summary["kubernetes"] == image.labels["org.opencontainers.image.version"]
    assert summary["platform"] == f"{image.attrs['Os']}/{image.attrs['Architecture']}"
    assert "assembly" in summary["seconds"]
    assert leftovers(engine) == []


def printed(engine: docker.DockerClient, *argv: str) -> str:
    """What a program of the node image prints. The client's own run() follows a log that the engine may not have opened yet."""
    container = engine.containers.create(IMAGE, list(argv[1:]), entrypoint=argv[0])
    try:
        container.start()
        assert container.wait(timeout=60)["StatusCode"] == 0
        return container.logs().decode()
    finally:
        container.remove(force=True)


def test_binaries_report_the_version(node_image: Play, engine: docker.DockerClient) -> None:
    version = node_image.summary["kubernetes"]
    for argv in (["kubelet", "--version"], ["kubeadm", "version", "-o", "short"], ["kubectl", "version", "--client"]):
        out = printed(engine, f"/usr/bin/{argv[0]}", *argv[1:])
        assert version in out.split(), out
    assert printed(engine, "cat", "/kind/version") == version


def test_second_run_changes_nothing(node_image: Play, ansible_env: dict[str, str], engine: docker.DockerClient) -> None:
    before = engine.images.get(IMAGE).id
    # a checkout's own path, which make puts on PATH, may hold a blank
    again = build({**ansible_env, "PATH": f"/nowhere/my checkout/bin:{ansible_env['PATH']}"})
    assert again.recap["changed"] == 0, again.output
    assert again.summary["id"] == before
    assert engine.images.get(IMAGE).id == before
    assert leftovers(engine) == []


def test_check_mode_agrees(node_image: Play, ansible_env: dict[str, str]) -> None:
    assert build(ansible_env, "--check", "--diff").recap["changed"] == 0


def test_playbook_by_its_full_name(node_image: Play, ansible_env: dict[str, str]) -> None:
    assert build(ansible_env, playbook="nodeforge.kind.build_node").recap["changed"] == 0


def test_the_users_manifests_and_base_go_before_the_supplies(node_image: Play, ansible_env: dict[str, str], tmp_path: pathlib.Path) -> None:
    """Also where an inventory names them, whose variables have less weight than those that a play hands to a role."""
    (tmp_path / "cni.yaml").write_text("- image: example.com/mine:1\n")
    own = {"node_image_cni_manifest": str(tmp_path / "cni.yaml"), "node_image_base": IMAGE, "node_image_extra_images": []}
    inventory = {"all": {"hosts": {"localhost": {"ansible_connection": "local", **own}}}}
    (tmp_path / "hosts.json").write_text(json.dumps(inventory))
    play = build(ansible_env, "--check", "--diff", "-i", str(tmp_path / "hosts.json"), tag="e2e-own")
    assert f'"image": "docker.io/{IMAGE}"' in play.output
    assert hashlib.sha256((tmp_path / "cni.yaml").read_bytes()).hexdigest() in play.output


def test_what_else_an_inventory_says_of_the_image(node_image: Play, ansible_env: dict[str, str], tmp_path: pathlib.Path) -> None:
    """What the play itself gives is added to it: the first run is predicted to make another image, with all of it."""
    own = {"node_image_inputs": {"mine": "1"}, "node_image_replaced_images": {"registry.k8s.io/mine:1": "registry.k8s.io/mine:2"}}
    inventory = {"all": {"hosts": {"localhost": {"ansible_connection": "local", **own}}}}
    (tmp_path / "hosts.json").write_text(json.dumps(inventory))
    play = build(ansible_env, "--check", "-vv", "-i", str(tmp_path / "hosts.json"))
    assert play.recap["changed"] > 0
    assert '"io.nodeforge.replaced-images": "registry.k8s.io/mine:1=registry.k8s.io/mine:2"' in play.output


def test_check_mode_where_the_add_ons_are_not_made(node_image: Play, ansible_env: dict[str, str], tmp_path: pathlib.Path) -> None:
    """Kubernetes is compiled, the rest is not: what depends on the rest is said to be made, and nothing fails."""
    play = build(ansible_env, "--check", "-e", "supplies_etcd_version=3.99.0", "-e", "node_image_tag=e2e-predicted")
    assert "The node image kindest/node:e2e-predicted would be made" in play.output
    assert play.recap["changed"] > 0 and play.recap["failed"] == 0


def test_check_mode_predicts_a_new_image(node_image: Play, ansible_env: dict[str, str], engine: docker.DockerClient) -> None:
    """A tag that is not there yet: check mode says so and makes nothing."""
    play = build(ansible_env, "--check", "-e", "node_image_tag=e2e-predicted")
    assert play.recap["changed"] > 0
    assert not engine.images.list("kindest/node:e2e-predicted")
    assert leftovers(engine) == []


def importing(engine: docker.DockerClient) -> bool:
    """Whether a containerd runs in a build container."""
    for name in leftovers(engine):
        try:
            processes = engine.api.top(name)["Processes"]
        except docker.errors.APIError:  # not started yet, or gone
            continue
        if any("containerd" in " ".join(process) for process in processes):
            return True
    return False


@pytest.mark.parametrize(
    ("sent", "moment"),
    [
        # as Ctrl-C does it, also where no module of ours works
        (signal.SIGINT, "Import the built images"),
        (signal.SIGTERM, "Import the built images"),
        (signal.SIGINT, "Commit the node image"),
        (signal.SIGINT, "containerd"),
        (signal.SIGKILL, "containerd"),
    ],
)
def test_an_interrupted_play_leaves_nothing(
    sent: signal.Signals, moment: str, node_image: Play, ansible_env: dict[str, str], engine: docker.DockerClient
) -> None:
    """The build container and the half-made image go, the old image stays."""
    before = engine.images.get(IMAGE).id
    # with what is baked in, a containerd has to run
    wanted = {**(BAKED if moment == "containerd" else {}), "node_image_inputs": {"another": str(time.time())}, "node_image_tag": TAG}
    command = ["ansible-playbook", "build-node.yml", "-e", json.dumps(wanted)]
    with subprocess.Popen(command, cwd=ROOT, env=ansible_env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True) as play:
        if moment == "containerd":
            deadline = time.monotonic() + 600
            while not importing(engine):
                assert play.poll() is None and time.monotonic() < deadline, "the play came to no build container with a containerd"
                time.sleep(0.05)
        else:
            for line in play.stdout:
                if moment in line:
                    break
            assert leftovers(engine), "the play came to no build container"
        # to all processes of the terminal, and again: Ansible may lose an interrupt that comes just as it starts a task
        for dummy in range(240):
            if play.poll() is not None:
                break
            os.killpg(play.pid, sent)
            time.sleep(0.5)
        play.communicate(timeout=120)
        assert play.returncode != 0
    deadline = time.monotonic() + 60
    while leftovers(engine):
        assert time.monotonic() < deadline, leftovers(engine)
        time.sleep(0.2)
    assert engine.images.get(IMAGE).id == before
