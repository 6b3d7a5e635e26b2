# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""roles/image_transport: an image of a host's engine in the engine of this machine, and in a registry."""

from __future__ import annotations

import hashlib
import pathlib
import signal
import subprocess
import time
import typing as t

import docker
import pytest
import small_base

from remote import lab as lab_module
from remote.conftest import Player, note
from remote.lab import Lab, Relay

PREFIX = "nodeforge-remote-test"
IMAGE = f"{PREFIX}/node:main"
LAYER = 30_000_000
BUILD_HOST = {"ansible.builtin.include_role": {"name": "nodeforge.kind.build_host"}, "vars": {"build_host_go_minimum": ""}}
TRANSPORT = [
    {"ansible.builtin.include_role": {"name": "nodeforge.kind.image_transport"}},
    note("image_transport_result"),
]


@pytest.fixture(scope="module")
def host(lab: Lab, play: Player) -> lab_module.Host:
    """A host with an engine, which the role build_host has configured and started there."""
    made = lab.host("engine", go=True)
    play([BUILD_HOST], {"engine": made.variables()})
    assert "nodeforge" in made.sh("docker info --format '{{.DefaultRuntime}}'")
    tree: small_base.Tree = {**small_base.host_tools(), "base": (noise(0), 0o644)}
    made.load(small_base.archive(f"{PREFIX}/base:1", tree))
    return made


@pytest.fixture(scope="module")
def engine() -> t.Iterator[docker.DockerClient]:
    client = docker.from_env(timeout=120)
    small_base.remove_all(client, PREFIX)
    yield client
    small_base.remove_all(client, PREFIX)


def noise(seed: int, size: int = LAYER) -> bytes:
    """What cannot be compressed."""
    return hashlib.shake_128(str(seed).encode()).digest(size)


def edit(host: lab_module.Host, seed: int, size: int = LAYER, base: str = f"{PREFIX}/base:1") -> str:
    """The node image anew, with another kubelet; its id."""
    host.sh(f"docker rm -f edit >/dev/null 2>&1; docker create --name edit {base} /bin/sh >/dev/null")
    archive = small_base.layer({"kubelet": (noise(seed, size), 0o755)})
    subprocess.run(["docker", "exec", "-i", host.name, "docker", "cp", "-", "edit:/"], input=archive, check=True, capture_output=True)
    host.sh(f"docker commit edit {IMAGE}; docker rm edit")
    return host.sh(f"docker image inspect --format '{{{{.Id}}}}' {IMAGE}")


def left(host: lab_module.Host, play: Player) -> list[str]:
    """What lies in the caches of transfers on either side."""
    here = play.cache / "nodeforge/transfer"
    return host.sh("ls -A /root/.cache/nodeforge/transfer 2>/dev/null || :").split() + [path.name for path in here.glob("*")]


def test_only_the_changed_layer_moves(lab: Lab, play: Player, host: lab_module.Host, engine: docker.DockerClient) -> None:
    relay = Relay(host.address, 0.001)
    try:
        hosts = {"engine": host.variables(ansible_host="127.0.0.1", ansible_port=relay.port)}

        def bring(*options: str) -> t.Any:
            return play(TRANSPORT, hosts, *options, image_transport_mode="stream", image_transport_image=IMAGE)

        first = edit(host, 1)
        predicted = bring("--check")
        assert predicted.changed("engine") == 1 and len(predicted.facts["engine"]["lacking"]) == 2
        assert engine.images.list(IMAGE) == [] and left(host, play) == []
        brought = bring()
        assert brought.changed("engine") == 1 and brought.facts["engine"]["id"] == first == engine.images.get(IMAGE).id
        assert left(host, play) == []
        for options in ((), ("--check",)):
            assert bring(*options).changed("engine") == 0
        # another kubelet
        second = edit(host, 2)
        before = sum(relay.carried)
        started = time.monotonic()
        brought = bring()
        moved = sum(relay.carried) - before
        print(f"a layer of {LAYER} bytes: {moved} bytes moved ({moved / LAYER:.3f}), {time.monotonic() - started:.1f} s")
        assert brought.changed("engine") == 1 and engine.images.get(IMAGE).id == second
        assert moved <= 1.1 * LAYER
        with pytest.raises(docker.errors.ImageNotFound):
            engine.images.get(first)
        assert left(host, play) == []
        container = engine.containers.create(IMAGE, ["/bin/true"])
        try:
            stream, stat = container.get_archive("/kubelet")
            assert stat["size"] == LAYER and noise(2) in b"".join(stream)
        finally:
            container.remove()
    finally:
        relay.close()


def test_a_line_that_breaks(lab: Lab, play: Player, host: lab_module.Host, engine: docker.DockerClient) -> None:
    relay = Relay(host.address, 0.005)
    try:
        hosts = {"engine": host.variables(ansible_host="127.0.0.1", ansible_port=relay.port)}
        arguments = {"image_transport_mode": "stream", "image_transport_image": IMAGE}
        edit(host, 3)
        play(TRANSPORT, hosts, **arguments)
        before = engine.images.get(IMAGE).id
        edited = edit(host, 4)
        start = relay.carried[1]
        killed = play.start(TRANSPORT, hosts, **arguments)
        lab.until(lambda: relay.carried[1] - start > LAYER // 2, "half of the layer has come", 60)
        killed.send_signal(signal.SIGINT)
        play.ended(killed, check=False)
        relay.cut()
        assert engine.images.get(IMAGE).id == before
        between = relay.carried[1]
        relay.cut_after = sum(relay.carried) + LAYER // 4
        play(TRANSPORT, hosts, **arguments)
        assert engine.images.get(IMAGE).id == edited
        assert relay.carried[1] - between < LAYER * 0.75
        assert left(host, play) == []
    finally:
        relay.close()


def test_registry(play: Player, host: lab_module.Host) -> None:
    """Debian's registry, on the host's loopback address."""
    host.sh(
        "printf 'version: 0.1\\nstorage: {filesystem: {rootdirectory: /srv/registry}}\\nhttp: {addr: 127.0.0.1:5000}\\n' >/srv/registry.yml; "
        "setsid docker-registry serve /srv/registry.yml >/dev/null 2>&1 &"
    )
    id_ = edit(host, 5)
    destination = "127.0.0.1:5000/team/node:main"
    hosts = {"engine": host.variables()}

    def push(*options: str) -> t.Any:
        return play(
            TRANSPORT, hosts, *options, image_transport_mode="registry", image_transport_image=IMAGE, image_transport_destination=destination
        )

    predicted = push("--check")
    assert predicted.changed("engine") == 1 and predicted.facts["engine"]["digest"] is None
    pushed = push()
    assert pushed.changed("engine") == 1 and pushed.facts["engine"]["id"] == id_
    digest = pushed.facts["engine"]["digest"]
    stored = "/srv/registry/docker/registry/v2/repositories/team/node/_manifests/tags/main/current/link"
    assert host.sh(f"cat {stored}") == digest
    for options in ((), ("--check",)):
        assert push(*options).changed("engine") == 0
    # another engine, as one that has nothing, gets the very image
    host.sh(f"docker image rm -f {destination} {IMAGE}")
    assert id_ in host.sh(f"docker pull -q {destination} >/dev/null; docker image inspect --format '{{{{.Id}}}}' {destination}")
    # an edit: one layer, and its configuration
    host.sh(f"docker tag {destination} {IMAGE}")
    before = int(host.sh("du -sb /srv/registry | cut -f 1"))
    edit(host, 6)
    assert push().facts["engine"]["digest"] != digest
    assert int(host.sh("du -sb /srv/registry | cut -f 1")) - before < 1.1 * LAYER


def test_registry_with_a_password(play: Player, host: lab_module.Host) -> None:
    host.sh(
        "perl -e 'print \"builder:\" . crypt(\"secret\", \"\\$2y\\$05\\$abcdefghijklmnopqrstuu\") . \"\\n\"' >/srv/htpasswd; "
        "printf 'version: 0.1\\nstorage: {filesystem: {rootdirectory: /srv/closed}}\\nhttp: {addr: 127.0.0.1:5001}\\n"
        "auth: {htpasswd: {realm: test, path: /srv/htpasswd}}\\n' >/srv/closed.yml; "
        "setsid docker-registry serve /srv/closed.yml >/dev/null 2>&1 &"
    )
    edit(host, 7, 1_000_000)

    def push(password: str | None) -> t.Any:
        credentials = [{"registry": "127.0.0.1:5001", "username": "builder", "password": password}] if password else []
        return play(
            TRANSPORT,
            {"engine": host.variables()},
            image_transport_mode="registry",
            image_transport_image=IMAGE,
            image_transport_destination="127.0.0.1:5001/team/node:main",
            image_transport_credentials=credentials,
            check=False,
        )

    assert 'refused the credentials of the user "builder"' in push("wrong").message
    assert "it wants credentials (401)" in push(None).message
    assert host.sh("docker images -q 127.0.0.1:5001/team/node") == ""
    pushed = push("secret")
    assert pushed.rc == 0 and pushed.changed("engine") == 1 and '"secret"' not in pushed.output
    assert push("secret").changed("engine") == 0


def test_disks_that_are_full(play: Player, lab: Lab, host: lab_module.Host, engine: docker.DockerClient, tmp_path: pathlib.Path) -> None:
    edit(host, 8)
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], check=True)
    host.sh("mkdir -p /small; mount -t tmpfs -o size=8m tmpfs /small")
    arguments = {"image_transport_mode": "stream", "image_transport_image": IMAGE}
    try:
        here = play(TRANSPORT, {"engine": host.variables()}, image_transport_controller_cache=str(small), check=False, **arguments)
        assert f"the disk of the controller ({small}/transfer" in here.message
        there = play(TRANSPORT, {"engine": host.variables()}, image_transport_cache="/small", check=False, **arguments)
        assert "No space left on device; free space there and run again" in there.message
    finally:
        subprocess.run(["umount", str(small)], check=True)
        host.sh("umount /small")
    assert play(TRANSPORT, {"engine": host.variables()}, **arguments).changed("engine") == 1
    assert left(host, play) == []


def test_sentences(play: Player, host: lab_module.Host, engine: docker.DockerClient) -> None:
    hosts = {"engine": host.variables()}
    nothing = play(TRANSPORT, hosts, image_transport_mode="stream", image_transport_image=f"{PREFIX}/nothing:1", check=False)
    assert f'There is no image "{PREFIX}/nothing:1"' in nothing.message
    nowhere = play(TRANSPORT, hosts, image_transport_mode="registry", image_transport_image=IMAGE, check=False)
    assert "image_transport_destination does not say" in nowhere.message
    refused = play(
        TRANSPORT, hosts, image_transport_mode="registry", image_transport_image=IMAGE, image_transport_destination="127.0.0.1:9/team/node:1", check=False
    )
    assert "the connection was refused; start the registry" in refused.message
    assert host.sh("docker images -q 127.0.0.1:9/team/node") == ""
