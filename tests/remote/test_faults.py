# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections that end in the middle of a phase, disks that are full, and two plays at once: one sentence, nothing half-made, and the next run succeeds."""

from __future__ import annotations

import hashlib
import pathlib
import subprocess
import typing as t

import docker
import pytest
import small_base
from small_base import ARCH

from remote import lab as lab_module
from remote.conftest import Play, Player, note
from remote.lab import Lab, Relay
from remote.test_image_transport import BUILD_HOST, TRANSPORT

PREFIX = "nodeforge-remote-fault"
IMAGE = f"{PREFIX}/node:main"
# Stands between the modules and the engine: holds the first request that matches what a file says, until that is gone.
GATE = r"""
import os, re, socket, socketserver, threading

class Gate(socketserver.BaseRequestHandler):
    def handle(self):
        far = socket.socket(socket.AF_UNIX)
        far.connect("/var/run/docker.sock")
        threading.Thread(target=self.back, args=(far,), daemon=True).start()
        while data := self.request.recv(65536):
            try:
                with open("/srv/hold") as file:
                    held = re.match(file.read(), data.split(b"\r\n")[0].decode(errors="replace"))
            except FileNotFoundError:
                held = None
            if held:
                with open("/srv/held", "w") as file:
                    file.write(held.group())
                while os.path.exists("/srv/hold"):
                    threading.Event().wait(0.05)
            far.sendall(data)
        far.shutdown(socket.SHUT_WR)

    def back(self, far):
        try:
            while data := far.recv(65536):
                self.request.sendall(data)
            self.request.shutdown(socket.SHUT_WR)
        except OSError:
            pass

class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 100

server = Server("/run/gate.sock", Gate)
os.chmod("/run/gate.sock", 0o666)
server.serve_forever()
"""
KUBEADM = "#!/bin/sh\necho registry.k8s.io/kube-apiserver:v1.37.2; echo registry.k8s.io/pause:3.10.2\n"
ASSEMBLE: list[dict[str, t.Any]] = [
    {"nodeforge.kind.host_look": {}},
    {"ansible.builtin.include_role": {"name": "nodeforge.kind.node_image"}},
    note("node_image_result"),
]
# what an assembly asks of the engine, in this order
REQUESTS = {"prepare": "PUT /[^ ]*/archive", "import": "PUT /[^ ]*/archive", "commit": "POST /[^ ]*/commit"}


def variables(more: bytes = b"", **others: t.Any) -> dict[str, t.Any]:
    """Of the role node_image. What is different makes another image."""
    repository, tag = IMAGE.rsplit(":", 1)
    return {
        "node_image_base": f"{PREFIX}/base:1",
        "node_image_repository": repository,
        "node_image_tag": tag,
        "node_image_version": "v1.37.2",
        "node_image_outputs": {
            "binaries": {name: f"/srv/in/{name}" for name in ("kubeadm", "kubectl", "kubelet")},
            "images": {"kube-apiserver": {"path": "/srv/in/kube-apiserver.tar"}},
        },
        "node_image_extra_images": [{"archive": "/srv/in/pause.tar"}],
        "node_image_importer": "/usr/local/bin/nodeforge-store",
        "node_image_network_mode": "none",
        "node_image_inputs": {"of": hashlib.sha256(more).hexdigest()},
        **others,
    }


class Faulty:
    """A host with an engine and all that a small node image is made of, behind a line that can be cut and a gate before its engine."""

    def __init__(self, lab: Lab, play: Player, name: str, options: t.Sequence[str] = (), disk: str = "") -> None:
        self.lab, self.play, self.name = lab, play, name
        self.host: lab_module.Host = lab.host(name, go=True, options=["--volume", f"{small_base.importer()}:/usr/local/bin/nodeforge-store:ro", *options])
        if disk:
            self.host.sh(f"mount -t tmpfs -o size={disk} tmpfs /var/lib/docker")
        play([BUILD_HOST], {name: self.host.variables()})
        self.host.load(small_base.archive(f"{PREFIX}/base:1", small_base.node_base()))
        archives = {
            "kube-apiserver.tar": small_base.archive(f"registry.k8s.io/kube-apiserver-{ARCH}:v1.37.2", {"x": (b"", 0o755)}),
            "pause.tar": small_base.archive("localhost/pause:1", {"pause": (b"", 0o755)}),
        }
        inputs: small_base.Tree = {name: (content, 0o644) for name, content in archives.items()}
        inputs.update({"kubeadm": (KUBEADM.encode(), 0o755), "kubectl": (b"#!/bin/sh\n", 0o755), "kubelet": (noise(0, 1_000_000), 0o755)})
        self.host.sh("mkdir -p /srv/in")
        self.put("/srv/in", inputs)
        self.put("/srv", {"gate.py": (GATE.encode(), 0o644)})
        self.host.sh("setsid python3 /srv/gate.py </dev/null >/dev/null 2>&1 & while [ ! -e /run/gate.sock ]; do sleep 0.1; done")
        # of who logs in from now on; a connection that Ansible has open is another one
        self.host.sh("echo DOCKER_HOST=unix:///run/gate.sock >>/etc/environment")
        self.relay = Relay(self.host.address, 0.001)

    def put(self, directory: str, tree: small_base.Tree) -> None:
        subprocess.run(["docker", "cp", "-", f"{self.host.name}:{directory}"], input=small_base.layer(tree), check=True, capture_output=True)

    @property
    def hosts(self) -> dict[str, t.Any]:
        return {self.name: self.host.variables(ansible_host="127.0.0.1", ansible_port=self.relay.port)}

    def hold(self, pattern: str) -> None:
        self.put("/srv", {"hold": (pattern.encode(), 0o644)})

    def held(self) -> bool:
        return self.host.sh("ls /srv/held 2>/dev/null || :") != ""

    def go_on(self) -> None:
        self.host.sh("rm -f /srv/hold /srv/held")

    def cut(self, how: str) -> None:
        """The line breaks, or the processes of sshd that serve it are killed."""
        if how == "cut":
            self.relay.cut()
        else:
            self.host.hang_up()

    def build_containers(self) -> list[str]:
        return self.host.sh("docker ps --all --quiet --filter label=io.nodeforge.build").split()

    def image(self, reference: str = IMAGE) -> str:
        return self.host.sh(f"docker image inspect --format '{{{{.Id}}}}' {reference} 2>/dev/null || :")

    def dangling(self) -> list[str]:
        return self.host.sh("docker images --quiet --filter dangling=true").split()

    def left(self) -> list[str]:
        """Files of a transfer, or of Ansible."""
        here = self.play.cache / "nodeforge/transfer"
        places = "$HOME/.cache/nodeforge/transfer $HOME/.ansible/tmp /home/other/.ansible/tmp"
        return self.host.sh(f"for place in {places}; do ls -A $place 2>/dev/null; done; :").split() + [path.name for path in here.glob("*")]

    def close(self) -> None:
        self.relay.close()


def noise(seed: int, size: int) -> bytes:
    """What cannot be compressed."""
    return hashlib.shake_128(str(seed).encode()).digest(size)


def one_sentence(message: str, *words: str) -> None:
    """A message for people: it is short, names the object, and what it is told to do."""
    assert all(word in message for word in words) and len(message) < 400 and "\n" not in message, message


def unreachable(ended: Play) -> str:
    """What a play says of a host that it has lost."""
    assert ended.rc != 0 and "UNREACHABLE!" in ended.output, ended.output[-3000:]
    return ended.message


@pytest.fixture(scope="module")
def faulty(lab: Lab, play: Player) -> t.Iterator[Faulty]:
    made = Faulty(lab, play, "faults")
    yield made
    made.close()


@pytest.fixture(scope="module")
def engine() -> t.Iterator[docker.DockerClient]:
    client = docker.from_env(timeout=120)
    small_base.remove_all(client, PREFIX)
    yield client
    small_base.remove_all(client, PREFIX)


@pytest.mark.parametrize("how", ["cut", "killed"])
@pytest.mark.parametrize("phase", REQUESTS)
def test_a_connection_in_the_middle_of_the_assembly(faulty: Faulty, play: Player, phase: str, how: str) -> None:
    """The build container goes by itself, a tag names a whole image or the one before, and the next run makes it."""
    before = faulty.image()
    wanted = variables(f"{phase} {how}".encode())
    started = play.start(ASSEMBLE, faulty.hosts, **wanted)
    # the second request like the first one is that of the import
    for number in range(2 if phase == "import" else 1):
        faulty.hold(REQUESTS[phase])
        faulty.lab.until(lambda: faulty.held() or started.poll() is not None, f"the engine is asked for {phase}", 120)
        assert started.poll() is None, started.communicate()[0]
        assert len(faulty.build_containers()) == 1
        if number == 0 and phase == "import":
            faulty.host.sh("rm /srv/held")
            # it is held again before the next request can come
            faulty.host.sh("mv /srv/hold /srv/passed; sleep 0.3; mv /srv/passed /srv/hold")
    faulty.cut(how)
    ended = play.ended(started, check=False)
    module = {"prepare": "kind_node_prepare", "import": "ctr_image_pull", "commit": "docker_commit"}[phase]
    one_sentence(unreachable(ended), "The connection to faults broke off", f"nodeforge.kind.{module}", "run this again")
    assert faulty.image() == before
    faulty.go_on()
    faulty.lab.until(lambda: not faulty.build_containers(), "the build container has gone")
    made = faulty.image()
    # what was complete when nobody waited any more is there, as a whole
    assert (made != before) == (phase == "commit") and faulty.dangling() == []
    again = play(ASSEMBLE, faulty.hosts, **wanted)
    assert again.facts["faults"]["id"] == faulty.image() != before
    assert again.changed("faults") == (0 if phase == "commit" else 3)
    assert faulty.build_containers() == [] and faulty.dangling() == [] and faulty.left() == []


def test_a_container_that_nobody_came_back_for(faulty: Faulty, play: Player) -> None:
    """Between two tasks nothing on the host notices that the line broke: the next run after the time to live removes it."""
    name = f"{PREFIX}-left"
    prepare = {"nodeforge.kind.kind_node_prepare": {"name": name, "image": f"{PREFIX}/base:1", "start": False, "ttl": 5, "version": "v1.37.2"}}
    prepare["nodeforge.kind.kind_node_prepare"]["binaries"] = {"kubeadm": "/srv/in/kubeadm"}
    play([prepare], faulty.hosts)
    (left,) = faulty.build_containers()
    faulty.host.sh("sleep 6")
    play(ASSEMBLE, faulty.hosts, **variables(b"after"))
    assert faulty.build_containers() == []


@pytest.mark.parametrize("how", ["cut", "killed"])
def test_a_connection_in_the_middle_of_an_export(faulty: Faulty, play: Player, engine: docker.DockerClient, how: str) -> None:
    play(ASSEMBLE, faulty.hosts, **variables(how.encode()))
    arguments = {"image_transport_mode": "stream", "image_transport_image": IMAGE}
    faulty.hold("GET /[^ ]*/images/[^ ]*/get")
    started = play.start(TRANSPORT, faulty.hosts, **arguments)
    faulty.lab.until(lambda: faulty.held() or started.poll() is not None, "the engine is asked for the image", 120)
    faulty.cut(how)
    ended = play.ended(started, check=False)
    one_sentence(unreachable(ended), "The connection to faults broke off", "docker_image_export", "run this again")
    faulty.go_on()
    brought = play(TRANSPORT, faulty.hosts, **arguments)
    assert brought.changed("faults") == 1 and engine.images.get(IMAGE).id == faulty.image()
    assert faulty.left() == []


def test_a_connection_in_the_middle_of_a_push(faulty: Faulty, play: Player) -> None:
    faulty.host.sh(
        "printf 'version: 0.1\\nstorage: {filesystem: {rootdirectory: /srv/registry}}\\nhttp: {addr: 127.0.0.1:5000}\\n' >/srv/registry.yml; "
        "setsid docker-registry serve /srv/registry.yml >/dev/null 2>&1 &"
    )
    play(ASSEMBLE, faulty.hosts, **variables(b"push"))
    destination = "127.0.0.1:5000/team/node:main"
    arguments = {"image_transport_mode": "registry", "image_transport_image": IMAGE, "image_transport_destination": destination}
    faulty.hold("POST /[^ ]*/push")
    started = play.start(TRANSPORT, faulty.hosts, **arguments)
    faulty.lab.until(lambda: faulty.held() or started.poll() is not None, "the engine is asked to push", 120)
    faulty.cut("cut")
    one_sentence(unreachable(play.ended(started, check=False)), "The connection to faults broke off", "docker_image_push", "run this again")
    faulty.go_on()
    pushed = play(TRANSPORT, faulty.hosts, **arguments)
    assert pushed.facts["faults"]["id"] == faulty.image() and pushed.facts["faults"]["digest"]
    assert play(TRANSPORT, faulty.hosts, **arguments).changed("faults") == 0
    faulty.host.sh(f"docker image rm {destination} >/dev/null 2>&1 || :")


def test_two_plays_for_one_tag(faulty: Faulty, play: Player) -> None:
    """Of the same user and of another one, at the same time: each succeeds, the tag names one whole image, nothing else is left."""
    wanted = variables(b"two plays")
    other = {"faults": {**faulty.hosts["faults"], "ansible_user": "other"}}
    # all of them come to the commit before one of them has made it
    faulty.hold(REQUESTS["commit"])
    started = [play.start(ASSEMBLE, hosts, **wanted) for hosts in (faulty.hosts, faulty.hosts, other)]
    faulty.lab.until(lambda: len(faulty.build_containers()) == 3 and faulty.held(), "each has a build container", 120)
    faulty.host.sh("sleep 5")
    faulty.go_on()
    ended = [play.ended(process) for process in started]
    assert {play_.facts["faults"]["id"] for play_ in ended} == {faulty.image()}
    assert faulty.build_containers() == [] and faulty.dangling() == [] and faulty.left() == []
    assert play(ASSEMBLE, faulty.hosts, **wanted).changed("faults") == 0


def test_two_plays_for_one_tag_with_other_contents(faulty: Faulty, play: Player) -> None:
    """The last one has the tag."""
    faulty.hold(REQUESTS["commit"])
    started = [play.start(ASSEMBLE, faulty.hosts, **variables(text)) for text in (b"one", b"another")]
    faulty.lab.until(lambda: len(faulty.build_containers()) == 2 and faulty.held(), "each has a build container", 120)
    faulty.host.sh("sleep 3")
    faulty.go_on()
    ended = [play.ended(process) for process in started]
    assert faulty.image() in {play_.facts["faults"]["id"] for play_ in ended}
    assert faulty.build_containers() == [] and faulty.dangling() == []


def test_two_plays_that_bring_one_image(faulty: Faulty, play: Player, engine: docker.DockerClient) -> None:
    """The second one waits for the first, and finds that it has nothing to do."""
    play(ASSEMBLE, faulty.hosts, **variables(b"to bring"))
    arguments = {"image_transport_mode": "stream", "image_transport_image": IMAGE}
    faulty.hold("GET /[^ ]*/images/[^ ]*/get")
    first = play.start(TRANSPORT, faulty.hosts, **arguments)
    faulty.lab.until(lambda: faulty.held() or first.poll() is not None, "the engine is asked for the image", 120)
    late = play(TRANSPORT, faulty.hosts, image_transport_wait=1, check=False, **arguments)
    one_sentence(late.message, IMAGE, "faults", f"another play (process {first.pid} of the controller)", "wait for its end")
    second = play.start(TRANSPORT, faulty.hosts, **arguments)
    told = ""
    for line in second.stdout:
        told += line
        if "Wait for another play that brings it" in line:
            faulty.go_on()
    results = [play.ended(process).facts["faults"] for process in (first, second)]
    assert [result["changed"] for result in results] == [True, False] and results[1]["up_to_date"], told
    assert engine.images.get(IMAGE).id == faulty.image()
    assert faulty.left() == []


# what fills a disk with the outputs of a compile
FILL = "\nfill: all\n\t@head -c 40000000 /dev/urandom >_output/local/bin/linux/$(shell go env GOARCH)/large && echo filled\n"
COMPILE: list[dict[str, t.Any]] = [
    {"ansible.builtin.include_role": {"name": "nodeforge.kind.tree_sync"}},
    {
        "nodeforge.kind.kube_make": {"tree": "{{ tree_sync_path }}", "targets": ["fill"], "what": ["cmd/kubelet"]},
        "register": "made",
        "environment": {"GOTOOLCHAIN": "local"},
    },
    note("made"),
]


def test_a_disk_that_is_full(lab: Lab, play: Player, engine: docker.DockerClient, tmp_path: pathlib.Path) -> None:
    """In each phase one sentence that names the disk; with more room the same run succeeds, and nothing of the first is left."""
    import kube_trees

    faulty = Faulty(lab, play, "full", options=["--tmpfs", "/small:size=8m,exec"], disk="120m")
    try:
        tree = kube_trees.KubeTree(tmp_path / "kubernetes", "mount")
        tree.write("Makefile", (tree.path / "Makefile").read_text() + FILL)
        tree.write("docs/large.bin", noise(1, 20_000_000).hex()[:20_000_000])
        tree.commit()
        arguments = {"tree_sync_source": str(tree.path), "tree_sync_cache": "/small/nodeforge"}

        def said(tasks: t.Any, **variables_: t.Any) -> str:
            ended = play(tasks, faulty.hosts, check=False, **variables_)
            assert ended.rc == 2, ended.output[-3000:]
            return ended.message

        def room(place: str, size: str) -> None:
            faulty.host.sh(f"mount -o remount,size={size} {place}")

        # sync
        one_sentence(said(COMPILE, **arguments), "the disk of full (/small/nodeforge) is full", "free space there and run again")
        room("/small", "40m")
        # compile
        one_sentence(said(COMPILE, **arguments), "make fill", "No space left on device", "the whole log")
        room("/small", "200m")
        made = play(COMPILE, faulty.hosts, **arguments).facts["full"]
        assert made["actions"][0].startswith("Ran make fill") and made["outputs"]["binaries"]["kubelet"]["path"].startswith("/small/nodeforge/synced/")
        assert faulty.host.sh("find /small -name '.*.??????' -o -path '*/partial/*' -o -name '*.new'") == ""
        # assembly: into the container, and into an image
        for size, doing in ((130_000_000, "Copying files into the container"), (80_000_000, "Committing the container")):
            faulty.put("/srv/in", {"kubelet": (noise(2, size), 0o755)})
            one_sentence(said(ASSEMBLE, **variables(doing.encode())), doing, "no space left on device", "free space on the engine's disk")
            assert faulty.build_containers() == [] and faulty.dangling() == [] and faulty.image() == ""
        # the images, made before they are put into the container
        large = small_base.archive("localhost/pause:1", {"x": (noise(3, 9_000_000), 0o644)})
        faulty.put("/srv/in", {"kubelet": (b"#!/bin/sh\n", 0o755), "pause.tar": (large, 0o644)})
        faulty.host.sh("mkdir -p ~/.ansible/tmp; mount -t tmpfs -o size=8m tmpfs ~/.ansible/tmp")
        one_sentence(said(ASSEMBLE, **variables(b"images")), "Importing", "no space left", "run again")
        assert faulty.build_containers() == [] and faulty.image() == ""
        faulty.host.sh("umount ~/.ansible/tmp")
        room("/var/lib/docker", "400m")
        made = play(ASSEMBLE, faulty.hosts, **variables(b"images")).facts["full"]
        assert made["id"] == faulty.image() and faulty.build_containers() == [] and faulty.left() == []
        # transfer: the files on the host
        arguments = {"image_transport_mode": "stream", "image_transport_image": IMAGE, "image_transport_cache": "/small/nodeforge"}
        room("/small", faulty.host.sh("df --output=used -B 1 /small | tail -n 1"))
        one_sentence(said(TRANSPORT, **arguments), "/small/nodeforge/transfer", "No space left on device", "free space there and run again")
        room("/small", "400m")
        assert play(TRANSPORT, faulty.hosts, **arguments).changed("full") == 1 and engine.images.get(IMAGE).id == faulty.image()
        assert faulty.host.sh("ls -A /small/nodeforge/transfer") == "" and faulty.left() == []
    finally:
        faulty.close()
