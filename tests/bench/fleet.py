# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of build hosts and of other platforms: bench.py --remote.

The hosts are those of tests/remote: containers with sshd and an engine of their own, each limited to one processor, so that two do not fight for the
same one. One play builds an edited tree on one host, and on both. A line of 100 Mbit/s and 50 ms leads to the first one for what is synchronised.
The foreign platform is built on this very machine. Beside it is what kind would do there, as far as it can be done here: the foreign base's own
containerd, emulated by qemu-user, imports the same images, with the same binaries copied and the container committed.
"""

from __future__ import annotations

import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
import typing as t

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1]), str(pathlib.Path(__file__).resolve().parents[1] / "integration")]

import small_base
from bench import CACHE, EDITS, counted, page, play, run, scratch, supplies
from remote.conftest import HERE, Player, note, supplied
from remote.lab import Lab, Relay

TREE = CACHE / "trees/v1.37.2"
TAG = "bench-remote"
IMAGE = f"kindest/node:{TAG}"
FOREIGN = {"x86_64": "arm64", "aarch64": "amd64"}[platform.machine()]
QEMU = {"arm64": "qemu-aarch64", "amd64": "qemu-x86_64"}[FOREIGN]
SYNC: list[dict[str, t.Any]] = [
    # the role's own time, after a first task that opens Ansible's connection
    {"nodeforge.kind.host_look": {}},
    {"ansible.builtin.set_fact": {"began": "{{ now().timestamp() }}"}},
    {"ansible.builtin.include_role": {"name": "nodeforge.kind.tree_sync"}},
    note("now().timestamp() - began | float"),
]


class Figure(t.NamedTuple):
    """One row: what was measured, what beside it (nothing where it is measured by itself), and the most that it is to be of that."""

    work: str
    ours: list[float]
    beside: str
    others: list[float]
    limit: float | None
    unit: str = "s"

    def row(self) -> str:
        ours = statistics.median(self.ours)
        if not self.others:
            return f"| {self.work} | {ours:.1f} {self.unit} | – | – | {self.limit:g} {self.unit} |"
        other = statistics.median(self.others)
        ratio = statistics.median(own / theirs for own, theirs in zip(self.ours, self.others))
        return f"| {self.work} | {ours:.1f} {self.unit} | {other:.1f} {self.unit}: {self.beside} | {ratio:.2f} | {self.limit or '–'} |"


def hosts_of_the_lab(directory: pathlib.Path, runs: int) -> list[Figure]:
    lab = Lab(directory)
    names = ("first", "second")
    relay = None
    try:
        hosts = {name: supplied(lab, name, "--cpuset-cpus", str(number)) for number, name in enumerate(names)}
        inventory = {name: host.variables() for name, host in hosts.items()}
        player = Player(directory, {**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_FORCE_COLOR": "0"})
        tree = directory / "v1.37.2"
        run("rsync", "-a", "--exclude=/_output*", "--exclude=/hack/nodeforge.mk", f"{TREE}/", tree)
        # no edit is one of an earlier run: Go would know what it gives
        edits = int(time.time())

        def build(target: str) -> float:
            variables = {"target": target, "kube_source": str(tree), "node_image_tag": TAG, "preflight": False, **HERE}
            return player("nodeforge.kind.build_node", inventory, **variables).seconds

        def edited(target: str) -> float:
            nonlocal edits
            edits += 1
            file, text = EDITS["kubelet"]
            source = (TREE / file).read_text()
            if text not in source:
                sys.exit(f"{file} does not log {text!r}: EDITS has to name what it logs")
            (tree / file).write_text(source.replace(text, f"{text}, edited {edits} times"))
            return build(target)

        build("all")
        edited("all")
        one, both = [], []
        for dummy in range(runs):
            one.append(edited("first"))
            both.append(edited("all"))
            print(f"one host {one[-1]:.1f} s, two {both[-1]:.1f} s", flush=True)
        relay = Relay(hosts["first"].address, 0.025)
        far = {"first": hosts["first"].variables(ansible_host="127.0.0.1", ansible_port=relay.port)}
        moved, layers = [], []
        for number in range(runs + 1):
            edited("first")
            before = sum(relay.carried)
            arguments = {"image_transport_mode": "stream", "image_transport_image": IMAGE}
            player([{"nodeforge.kind.host_look": {}}, {"ansible.builtin.include_role": {"name": "nodeforge.kind.image_transport"}}], far, **arguments)
            # the first one brings all of it
            if number:
                moved.append((sum(relay.carried) - before) / 1e6)
                size = hosts["first"].sh(f"docker history --human=false --format '{{{{.Size}}}}' {IMAGE} | head -n 1")
                layers.append(float(size) / 1e6)
        hosts["first"].narrow()
        synced = [player(SYNC, far, tree_sync_source=str(tree)).facts["first"] for dummy in range(runs)]
        return [
            Figure("one line of kubelet edited, until two hosts have the node image", both, "one host", one, 1.15),
            Figure("an unchanged tree of 1 GB synchronised again, 100 Mbit/s and 50 ms", synced, "", [], 3),
            Figure("moved for the image of an edited kubelet", moved, "the changed layer", layers, 1.1, "MB"),
        ]
    finally:
        if relay:
            relay.close()
        lab.close()
        subprocess.run(["docker", "image", "rm", IMAGE], capture_output=True, check=False)


def emulated(image: str) -> float:
    """Seconds that an assembly takes with the foreign containerd emulated: as kind does it, where qemu-user is registered with the kernel."""
    names, layout, base = supplies(image)
    outputs = TREE / "_output"
    binaries = [outputs / f"dockerized/bin/linux/{FOREIGN}/{name}" for name in ("kubeadm", "kubectl", "kubelet")]
    archives = sorted((outputs / f"release-images/{FOREIGN}").glob("*.tar"))
    if not names or not archives:
        sys.exit(f"there are no images for {FOREIGN} in {outputs}")
    qemu, emulator = small_base.program("qemu-user", QEMU), "/nodeforge-emulator"
    began = time.monotonic()
    container = run(
        *("docker", "run", "--detach", "--platform", f"linux/{FOREIGN}", "--tmpfs", "/run", "--tmpfs", "/tmp", "--volume", f"{qemu}:{emulator}:ro"),
        *("--entrypoint", emulator, base, "/usr/bin/sleep", "1800"),
    ).strip()
    try:
        for binary in binaries:
            run("docker", "cp", binary, f"{container}:/usr/bin/{binary.name}")
        run("docker", "exec", "--detach", container, emulator, "/usr/bin/containerd")
        ctr = [emulator, "/usr/bin/ctr", "--namespace=k8s.io"]
        while subprocess.run(["docker", "exec", container, *ctr, "version"], capture_output=True, check=False).returncode:
            if time.monotonic() - began > 120:
                sys.exit("the emulated containerd did not start")
            time.sleep(0.1)
        load = [*ctr, "images", "import", "--all-platforms", "--no-unpack", "--digests", "-"]
        for archive in archives:
            with open(archive, "rb") as file:
                run("docker", "exec", "-i", container, *load, stdin=file)
        with subprocess.Popen(["tar", "-c", "-C", str(layout), "."], stdout=subprocess.PIPE) as addons:
            run("docker", "exec", "-i", container, *load, stdin=addons.stdout)
        made = run("docker", "commit", container).strip()
        seconds = time.monotonic() - began
        run("docker", "image", "rm", made)
        return seconds
    finally:
        run("docker", "rm", "-f", container)


def foreign(runs: int) -> list[Figure]:
    tags = {"native": "bench-native", FOREIGN: f"bench-{FOREIGN}"}
    took: dict[str, list[float]] = {tag: [] for tag in tags.values()}
    kind: list[float] = []

    def assembly(tag: str) -> float:
        variables: dict[str, t.Any] = {"node_image_tag": tag, "node_image_inputs": {"run": str(time.time())}}
        if tag == tags[FOREIGN]:
            variables["kube_platform"] = f"linux/{FOREIGN}"
        return play("-e", json.dumps(variables)).phases["assembly"]

    try:
        for tag in tags.values():
            assembly(tag)  # compiles what has to be
        for dummy in range(runs):
            for tag in tags.values():
                took[tag].append(assembly(tag))
            kind.append(emulated(f"kindest/node:{tags[FOREIGN]}"))
            print(f"assembly: native {took[tags['native']][-1]:.1f} s, {FOREIGN} {took[tags[FOREIGN]][-1]:.1f} s, emulated {kind[-1]:.1f} s", flush=True)
    finally:
        subprocess.run(["docker", "image", "rm", *(f"kindest/node:{tag}" for tag in tags.values())], capture_output=True, check=False)
    return [
        Figure(f"assembly for {FOREIGN} on this host", took[tags[FOREIGN]], "native assembly", took[tags["native"]], 1.2),
        Figure(f"assembly for {FOREIGN} on this host", took[tags[FOREIGN]], "as kind does it, emulated", kind, None),
    ]


def measure(runs: int) -> None:
    with scratch() as directory:
        figures = [*foreign(runs), *hosts_of_the_lab(directory, runs)]
    lines = ["| work | ours | beside | ours / beside | at most |", "|---|---|---|---|---|", *(figure.row() for figure in figures)]
    page("benchmarks-remote", RUNS=counted(runs), TABLE="\n".join(lines))
    print("\n".join(lines))
