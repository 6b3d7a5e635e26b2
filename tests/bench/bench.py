# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The figures: this collection and kind, on the same inputs, in turns, in one run.

    bench.py [--runs 5] [--cold | --inner-loop | --remote]

Both build the same tree, start from the same base, write the same binaries and manifests, and bring the same images into a node. kind finds its
add-ons in an archive (its container cannot reach a registry on the loopback address), and the `docker pull` of its base is answered at once, because
that base is in the engine. Where both would only ask make, compiling is left out on both sides ("assembly"); after an edit it counts on both.
Every figure is the median of the runs. They go to docs/benchmarks.json, docs/benchmarks.md and the README.

--cold builds with empty caches in a temporary directory instead, as on a fresh machine (no kind beside it).
--inner-loop edits one line of a component and has the change run: by a swap in the running cluster, and by kind build node-image, the old
cluster's end and a new cluster. Compiling counts on both sides; what it takes by itself is measured beside. The table goes to
docs/benchmarks-inner-loop.md.
--remote measures build hosts and other platforms, see fleet.py; its table goes to docs/benchmarks-remote.md.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import io
import json
import os
import pathlib
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import typing as t

import zstandard

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "nodeforge"
# the images that kind v0.33.0 wants besides kubeadm's; the names are kind's, the content is ours
KIND_ADDONS = {
    "docker.io/kindest/kindnetd:v20260820-69b56db7": "netd",
    "docker.io/kindest/local-path-provisioner:v20260820-69b56db7": "local-path-provisioner",
    "docker.io/kindest/local-path-helper:v20260131-7181c60a": "local-path-helper",
}
OURS, PEER = "kindest/node:bench", "kindest/node:bench-kind"
ENVIRONMENT = {**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_NOCOLOR": "1"}


def run(*command: str | pathlib.Path, **options: t.Any) -> str:
    """The output of a command that must succeed."""
    ended = subprocess.run([str(word) for word in command], text=True, capture_output=True, check=False, **options)
    if ended.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{ended.stdout[-3000:]}{ended.stderr[-3000:]}")
    return ended.stdout


class Play(t.NamedTuple):
    """One run of the playbook that builds."""

    seconds: float
    changed: int
    phases: dict[str, float]
    kubernetes: str
    peak: float  # MB, the largest process


def play(*options: str, environment: dict[str, str] | None = None) -> Play:
    """Runs the playbook."""
    began = time.monotonic()
    command = ["ansible-playbook", "build-node.yml", *options]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**ENVIRONMENT, **(environment or {})},
    ) as process:
        watch = Watch(process.pid)
        output = process.communicate()[0]
        peak = watch.peak()
    seconds = time.monotonic() - began
    text = re.search(r'"seconds\s+(.*?)"', output)
    changed = re.search(r"changed=(\d+)", output)
    kubernetes = re.search(r'"kubernetes\s+(\S+)"', output)
    if process.returncode or not text or not changed or not kubernetes:
        sys.exit(f"{' '.join(command)} failed:\n{output[-3000:]}")
    phases = dict(re.findall(r"(?:^|, )([a-z -]+?)\s+([\d.]+)", text.group(1)))
    return Play(
        seconds,
        int(changed.group(1)),
        {name: float(value) for name, value in phases.items()},
        kubernetes.group(1),
        peak,
    )


def refusal() -> float:
    """Seconds until an offline play with nothing in its cache has said what is missing."""
    began = time.monotonic()
    variables = json.dumps({"nodeforge_offline": True, "nodeforge_cache": "/nonexistent/cache"})
    ended = subprocess.run(
        ["ansible-playbook", "build-node.yml", "-e", variables],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT,
        check=False,
    )
    if "Run the play once with the network" not in ended.stdout + ended.stderr:
        sys.exit(f"the play did not say what is missing:\n{ended.stdout[-3000:]}{ended.stderr[-3000:]}")
    return time.monotonic() - began


def supplies(name: str = OURS) -> tuple[dict[str, str], pathlib.Path, str]:
    """What our image was made of: the add-ons by name, their OCI layout and the base image without them."""
    image = json.loads(run("docker", "image", "inspect", name))[0]
    labels = image["Config"]["Labels"]
    held = set(labels["io.nodeforge.images"].split(","))
    for images in CACHE.glob("supplies/set-*/images.json"):
        names, blobs = json.loads(images.read_text()), images.parent / "layout/blobs/sha256"
        if held >= set(names):
            manifest = json.loads((blobs / next(iter(names.values())).partition(":")[2]).read_text())
            config = json.loads((blobs / manifest["config"]["digest"].partition(":")[2]).read_text())
            if config["architecture"] == image["Architecture"]:
                # kind adds them itself
                base = json.loads(run("docker", "image", "inspect", labels["io.nodeforge.base"]))[0]["Config"]["Labels"]
                return names, images.parent / "layout", base["org.opencontainers.image.base.name"]
    sys.exit(f"the cache {CACHE} has no add-ons of {name}")


def load(layout: pathlib.Path, digest: str, tag: str, directory: pathlib.Path) -> None:
    """Has the engine load an add-on from the layout; older engines know no zstd, so its layers go there as they are."""
    manifest, archive = json.loads(blob(layout, digest).read_text()), directory / "addon.tar"
    config = blob(layout, manifest["config"]["digest"])
    layers = []
    with tarfile.open(archive, "w") as tar:
        for number, layer in enumerate(manifest["layers"]):
            plain = directory / "layer"
            with open(blob(layout, layer["digest"]), "rb") as packed, open(plain, "wb") as file:
                zstandard.ZstdDecompressor().copy_stream(packed, file)
            layers.append(f"{number}.tar")
            tar.add(plain, layers[-1])
            plain.unlink()
        tar.add(config, "config.json")
        text = json.dumps([{"Config": "config.json", "RepoTags": [tag], "Layers": layers}]).encode()
        entry = tarfile.TarInfo("manifest.json")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
    run("docker", "load", "-i", archive)
    archive.unlink()


def blob(layout: pathlib.Path, digest: str) -> pathlib.Path:
    return layout / "blobs" / digest.replace(":", "/")


def one_archive(images: dict[str, str], target: pathlib.Path, proxy: pathlib.Path, directory: pathlib.Path) -> None:
    """All images in one docker archive under the names in ``images`` (name -> tag in the engine), in place of kube-proxy's.

    kind reads the names from the first of `repositories` and `manifest.json` that it meets, and only the former names more
    than one image: it goes first.
    """
    run("docker", "load", "-i", proxy)
    with tarfile.open(proxy) as archive:
        own = json.load(t.cast(t.IO[bytes], archive.extractfile("manifest.json")))[0]["RepoTags"][0]
    for name, known in images.items():
        run("docker", "tag", known, name)
    saved = directory / "saved"
    saved.mkdir()
    with subprocess.Popen(["docker", "save", own, *images], stdout=subprocess.PIPE) as save:
        run("tar", "-x", "-C", saved, stdin=save.stdout)

    def full(name: str) -> str:
        return f"docker.io/{name}" if name.startswith(("kindest/", "nodeforge/")) else name

    repositories = json.loads((saved / "repositories").read_text())
    (saved / "repositories").write_text(json.dumps({full(name): tags for name, tags in repositories.items()}))
    manifest = json.loads((saved / "manifest.json").read_text())
    for entry in manifest:
        entry["RepoTags"] = [full(tag) for tag in entry["RepoTags"] or []]
    (saved / "manifest.json").write_text(json.dumps(manifest))
    first = ["repositories", "manifest.json"]
    run(
        "tar",
        "-c",
        "-f",
        target,
        "-C",
        saved,
        *first,
        *sorted(path.name for path in saved.iterdir() if path.name not in first),
    )
    shutil.rmtree(saved)
    run("docker", "rmi", own, *images)


class Watch:
    """The largest process of a program and its children, in MB, looked at ten times a second."""

    def __init__(self, root: int) -> None:
        self.root, self.largest, self.over = root, 0.0, threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self) -> None:
        while not self.over.wait(0.1):
            listed = subprocess.run(
                ["ps", "-e", "-o", "pid=,ppid=,rss="], capture_output=True, text=True, check=True
            ).stdout
            rows = [tuple(map(int, line.split())) for line in listed.splitlines()]
            family = {self.root}
            while grown := {pid for pid, parent, _rss in rows if parent in family} - family:
                family |= grown
            self.largest = max([self.largest, *(rss / 1000 for pid, _parent, rss in rows if pid in family)])

    def peak(self) -> float:
        self.over.set()
        self.thread.join()
        return self.largest


class KindBuild(t.NamedTuple):
    """One run of kind build node-image: all of it, its part after the compile, the largest process of that part in MB, and seconds by phase."""

    seconds: float
    assembly: float
    peak: float
    phases: dict[str, float]


# what kind says when a phase begins
KIND_PHASES = {"Finished building Kubernetes": "container and binaries", "Detected built images": "images and commit"}


class Peer:
    """kind, with a tree whose build is that of ours: there already, or made by ours. Its archive of kube-proxy has the add-ons, too."""

    def __init__(self, directory: pathlib.Path, tree: pathlib.Path, *, compiles: bool) -> None:
        self.kind, self.tree, self.shims = CACHE / "bin/kind", directory / "peer", shim(directory / "bin")
        images, layout, self.base = supplies()
        output, parts = tree / "_output", ("dockerized/bin/linux/amd64", "release-images/amd64")
        tagged: dict[str, str] = {}
        try:
            for ref, digest in images.items():
                path = ref.partition("/")[2]
                tag, part = f"nodeforge-bench/{path}", path.rpartition("/")[2].partition(":")[0]
                load(layout, digest, tag, directory)
                tagged[next((kinds for kinds, known in KIND_ADDONS.items() if part == known), ref)] = tag
            one_archive(tagged, directory / "all.tar", output / parts[1] / "kube-proxy.tar", directory)
        finally:
            if tagged:
                run("docker", "rmi", "-f", *tagged.values())
        (self.tree / "hack").mkdir(parents=True)
        (self.tree / "go.mod").write_text("module k8s.io/kubernetes\n")
        make = [
            f"@$(MAKE) -C '{tree}' quick-release-images" if compiles else "@true",
            # links, as copies would cost time that kind does not need
            *(
                f"@rm -rf _output/{part} && mkdir -p _output/{part} && cp -l '{output}/{part}/'* _output/{part}/"
                for part in parts
            ),
            f"@ln -f '{directory}/all.tar' _output/{parts[1]}/kube-proxy.tar",
        ]
        rule = "".join(f"\t{line}\n" for line in make)
        (self.tree / "Makefile").write_text(f".PHONY: quick-release-images\nquick-release-images:\n{rule}")
        status = self.tree / "hack/print-workspace-status.sh"
        status.write_text(f"#!/bin/sh\nexec '{tree}/hack/print-workspace-status.sh'\n")
        status.chmod(0o755)

    def build(self) -> KindBuild:
        """Runs kind build node-image."""
        environment = {**ENVIRONMENT, "PATH": f"{self.shims}{os.pathsep}{os.environ['PATH']}"}
        command = [self.kind, "build", "node-image", "-v", "1", "--base-image", self.base, "--image", PEER, self.tree]
        marks, began = [("compile", time.monotonic())], time.monotonic()
        with subprocess.Popen(
            [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        ) as process:
            lines, watch = [], None
            for line in t.cast(t.IO[str], process.stdout):
                lines.append(line)
                for text, phase in KIND_PHASES.items():
                    if text in line and phase not in dict(marks):
                        marks.append((phase, time.monotonic()))
                if len(marks) == 2 and not watch:
                    # from here on, no compiler runs
                    watch = Watch(process.pid)
            peak = watch.peak() if watch else 0
        ended = time.monotonic()
        if process.returncode or len(marks) < 2:
            sys.exit(f"kind failed:\n{''.join(lines)[-3000:]}")
        ends = [*(at for _phase, at in marks[1:]), ended]
        return KindBuild(
            ended - began, ended - marks[1][1], peak, {phase: end - at for (phase, at), end in zip(marks, ends)}
        )


def shim(directory: pathlib.Path) -> pathlib.Path:
    """A docker that has pulled already."""
    directory.mkdir()
    docker = directory / "docker"
    docker.write_text(f'#!/bin/sh\n[ "$1" = pull ] && exit 0\nexec {shutil.which("docker")} "$@"\n')
    docker.chmod(0o755)
    return directory


@contextlib.contextmanager
def scratch() -> t.Iterator[pathlib.Path]:
    """A directory beside what is compiled, which can be linked there."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=CACHE, ignore_cleanup_errors=True) as name:
        yield pathlib.Path(name)


def show(name: str, values: list[float], unit: str = "s") -> None:
    median = statistics.median(values)
    print(f"{name:<58} {median:8.2f} {unit}   ({min(values):.2f} to {max(values):.2f}, {len(values)} runs)", flush=True)


def cold() -> None:
    """`make node` on a fresh machine: nothing compiled, nothing downloaded."""
    with tempfile.TemporaryDirectory(prefix="nodeforge-bench-") as name:
        caches = {variable: f"{name}/{variable}" for variable in ("GOCACHE", "GOMODCACHE")}
        try:
            fresh = play("-e", "node_image_tag=bench", "-e", f"nodeforge_cache={name}/cache", environment=caches)
        finally:
            subprocess.run(["chmod", "-R", "u+w", name], check=False)
        print(f"{'cold caches, all of it':<58} {fresh.seconds:8.0f} s   ({fresh.phases})")
    run("docker", "rmi", "-f", OURS)


# What is edited: the component, a file of it, and a text in that which is logged.
EDITS = {
    "kubelet": ("vendor/k8s.io/kubernetes/pkg/kubelet/kubelet.go", "Starting kubelet main sync loop"),
    "kube-scheduler": ("vendor/k8s.io/kubernetes/cmd/kube-scheduler/app/server.go", "Starting Kubernetes Scheduler"),
    "kube-apiserver": ("vendor/k8s.io/kubernetes/cmd/kube-apiserver/app/server.go", "Golang settings"),
}


class Tree:
    """An embedded tree of the benchmark's own, whose version stays the same from now on: it is changed from the beginning."""

    def __init__(self, directory: pathlib.Path) -> None:
        # no edit is one of an earlier run: Go would know what it gives
        self.path, self.edits = directory / "tree", int(time.time())
        self.options = ["-e", json.dumps({"embedded_tree_path": str(self.path), "node_image_tag": "bench"})]
        play(*self.options)
        for component in EDITS:
            self.edit(component)
        play(*self.options)

    def edit(self, component: str) -> None:
        """Changes what one line of a component logs."""
        self.edits += 1
        file, text = EDITS[component]
        source = (self.path / file).read_text()
        if text not in source:
            sys.exit(f"{file} does not log {text!r}: EDITS has to name what it logs")
        (self.path / file).write_text(
            re.sub(f"{text}(, edited [0-9]+ times)?", f"{text}, edited {self.edits} times", source)
        )

    def compile(self, component: str) -> float:
        """Seconds that make takes for one component: Go compiles what was edited, and links."""
        return seconds("make", "-C", self.path, "all", f"WHAT=cmd/{component}")


def seconds(*command: t.Any, **options: t.Any) -> float:
    """How long a command takes that must succeed."""
    began = time.monotonic()
    run(*command, **options)
    return time.monotonic() - began


class Clusters:
    """Clusters of two nodes, made by kind from either image."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.kubeconfig = directory / "kubeconfig"
        names = {part: name for name, part in KIND_ADDONS.items()}
        # kind's manifest is for the program that kind has by that name
        cni = re.sub(
            r"docker.io/nodeforge/netd:[\w.-]+", names["netd"], (supplies()[1].parent / "default-cni.yaml").read_text()
        )
        self.cni = cni.replace("{{ .PodSubnet }}", "10.244.0.0/16")

    def create(self, image: str) -> float:
        """Seconds until all nodes are Ready."""
        began, name = time.monotonic(), self.name(image)
        document: dict[str, t.Any] = {
            "kind": "Cluster",
            "apiVersion": "kind.x-k8s.io/v1alpha4",
            "nodes": [{"role": "control-plane"}, {"role": "worker"}],
        }
        kubectl = (
            "docker",
            "exec",
            "-i",
            f"{name}-control-plane",
            "kubectl",
            "--kubeconfig",
            "/etc/kubernetes/admin.conf",
        )
        if image == PEER:
            document["networking"] = {"disableDefaultCNI": True}
        run(
            *(
                CACHE / "bin/kind",
                "create",
                "cluster",
                "--image",
                image,
                "--name",
                name,
                "--config",
                "-",
                "--kubeconfig",
                self.kubeconfig,
            ),
            input=json.dumps(document),
        )
        if image == PEER:
            run(*kubectl, "apply", "-f", "-", input=self.cni)
        run(*kubectl, "wait", "--for=condition=Ready", "node", "--all", "--timeout=3m")
        return time.monotonic() - began

    def delete(self, image: str) -> None:
        run(CACHE / "bin/kind", "delete", "cluster", "--name", self.name(image), "--kubeconfig", self.kubeconfig)

    @staticmethod
    def name(image: str) -> str:
        return "nodeforge-bench-kind" if image == PEER else "nodeforge-bench"


def inner_loop(runs: int) -> None:
    """From an edit to all nodes of a cluster that run it; writes docs/benchmarks-inner-loop.md."""
    lines = ["| work | ours | kind | kind / ours | at most |", "|---|---|---|---|---|"]

    def row(work: str, ours: list[float], kinds: list[float], limit: float | None) -> None:
        ratio = statistics.median(theirs / own for own, theirs in zip(ours, kinds))
        most = "–" if limit is None else f"{limit:.1f} s"
        lines.append(f"| {work} | {statistics.median(ours):.1f} s | {statistics.median(kinds):.1f} s | {ratio:.1f} | {most} |")
        print(lines[-1], flush=True)

    with scratch() as directory:
        tree = Tree(directory)
        peer = Peer(directory, tree.path, compiles=True)
        peer.build()
        clusters = Clusters(directory)
        try:
            row("a cluster of two nodes, until all are Ready", *([clusters.create(image)] for image in (OURS, PEER)), 30)
            for component, more in (("kubelet", 4), ("kube-scheduler", 8)):
                compiled, ours, kinds = [], [], []
                for dummy in range(runs):
                    tree.edit(component)
                    compiled.append(tree.compile(component))
                    tree.edit(component)
                    extra = ["-e", f"component={component}", "-e", "cluster=nodeforge-bench"]
                    ours.append(
                        seconds(
                            "ansible-playbook",
                            "nodeforge.kind.swap_component",
                            *tree.options,
                            *extra,
                            cwd=ROOT,
                            env=ENVIRONMENT,
                        )
                    )
                    tree.edit(component)
                    began = time.monotonic()
                    peer.build()
                    clusters.delete(PEER)
                    clusters.create(PEER)
                    kinds.append(time.monotonic() - began)
                compile_ = statistics.median(compiled)
                row(f"one line of {component} edited, until it runs on all its nodes", ours, kinds, compile_ + more)
                beyond = ([whole - made for whole, made in zip(side, compiled)] for side in (ours, kinds))
                row(f"the same beyond the compile of {compile_:.1f} s, which both need", *beyond, more)
        finally:
            for image in (OURS, PEER):
                clusters.delete(image)
            run("docker", "rmi", "-f", OURS, PEER)
    page("benchmarks-inner-loop", RUNS=counted(runs), TABLE="\n".join(lines))


def counted(runs: int) -> str:
    return "1 run" if runs == 1 else f"{runs} runs"


def page(name: str, **values: str) -> None:
    """Fills a template of this directory in and puts it into docs/."""
    engine = run("docker", "version", "--format", "{{.Server.Version}}").strip()
    values["MACHINE"] = f"{os.cpu_count()} processors, Docker {engine}, load {os.getloadavg()[0]:.1f} at the end"
    values["DATE"] = datetime.date.today().isoformat()
    text = (ROOT / f"tests/bench/{name}.md.in").read_text()
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    (ROOT / f"docs/{name}.md").write_text(text)


class Row:
    """One figure: what both sides were seen to take, run by run, and the most that ours is to take."""

    def __init__(self, work: str, unit: str) -> None:
        self.work, self.unit = work, unit
        self.ours: list[float] = []
        self.peer: list[float] = []
        self.limit: list[float] = []

    def add(self, ours: float, peer: float | None = None, limit: float | None = None) -> None:
        self.ours.append(ours)
        self.peer += [] if peer is None else [peer]
        self.limit += [] if limit is None else [limit]

    def figure(self) -> dict[str, t.Any]:
        """The medians, and ours / peer."""
        ours, peer, limit = (
            round(statistics.median(values), 3) if values else None for values in (self.ours, self.peer, self.limit)
        )
        ratio = round(ours / peer, 3) if ours is not None and peer else None
        return {"work": self.work, "ours": ours, "peer": peer, "limit": limit, "unit": self.unit, "ratio": ratio}


ASSEMBLY = "assembly, from compiled Kubernetes to the node image"


def written() -> float:
    """MB that were written to the disk of the engine since the machine started."""
    os.sync()
    device = os.stat(run("docker", "info", "--format", "{{.DockerRootDir}}").strip()).st_dev
    for line in pathlib.Path("/proc/diskstats").read_text().splitlines():
        major, minor, _name, *counts = line.split()
        if (int(major), int(minor)) == (os.major(device), os.minor(device)):
            return int(counts[6]) * 512 / 1e6
    sys.exit("/proc/diskstats does not tell of the engine's disk")


def received() -> float:
    """MB that came over this machine's networks, loopback and the engine's own left out."""
    total = 0
    for line in pathlib.Path("/proc/net/dev").read_text().splitlines()[2:]:
        name, _colon, counts = line.partition(":")
        if not re.match(r"\s*(lo|veth|br-|docker)", name):
            total += int(counts.split()[0])
    return total / 1e6


def extra_archives(directory: pathlib.Path, count: int, size: int) -> list[pathlib.Path]:
    """Images that nothing can compress, each in a docker archive with one layer of ``size`` bytes."""
    archives = []
    for number in range(count):
        layer = directory / "layer"
        with tarfile.open(layer, "w") as tar:
            entry = tarfile.TarInfo("data")
            entry.size = size
            with open("/dev/urandom", "rb") as random:
                tar.addfile(entry, random)
        with open(layer, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
        manifest = [
            {"Config": "config.json", "RepoTags": [f"nodeforge-bench/extra-{size}-{number}:1"], "Layers": ["layer.tar"]}
        ]
        archive = directory / f"extra-{size}-{number}.tar"
        with tarfile.open(archive, "w") as tar:
            for name, content in (("config.json", config), ("manifest.json", manifest)):
                text = json.dumps(content).encode()
                entry = tarfile.TarInfo(name)
                entry.size = len(text)
                tar.addfile(entry, io.BytesIO(text))
            tar.add(layer, "layer.tar")
        layer.unlink()
        archives.append(archive)
    return archives


def one_by_one(base: str, archives: list[pathlib.Path]) -> tuple[float, float]:
    """Seconds that containerd takes for the archives in a container of the base, as kind hands them over, one ctr each; and the commit after it."""
    made = ""
    container = run("docker", "run", "-d", "--rm", "--entrypoint", "sleep", base, "600").strip()
    try:
        run("docker", "exec", "-d", container, "containerd")
        deadline = time.monotonic() + 30
        while subprocess.run(
            ["docker", "exec", container, "ctr", "version"], capture_output=True, check=False
        ).returncode:
            if time.monotonic() > deadline:
                sys.exit("containerd did not start")
            time.sleep(0.1)
        began = time.monotonic()
        for archive in archives:
            with open(archive, "rb") as file:
                command = [
                    "ctr",
                    "--namespace=k8s.io",
                    "images",
                    "import",
                    "--all-platforms",
                    "--no-unpack",
                    "--digests",
                    "-",
                ]
                run("docker", "exec", "-i", container, *command, stdin=file)
        imported = time.monotonic()
        made = run("docker", "commit", container).strip()
        return imported - began, time.monotonic() - imported
    finally:
        run("docker", "rm", "-f", container)
        if made:
            run("docker", "image", "rm", made)


class Whole:
    """All figures of a run, in the order in which they are shown."""

    EXTRAS = ((10, 4_000_000), (50, 4_000_000), (1, 500_000_000), (1, 1_000_000_000), (1, 2_000_000_000))

    def __init__(self, runs: int) -> None:
        self.runs = runs
        self.rows: dict[str, Row] = {}
        self.phases: dict[str, list[dict[str, float]]] = {"ours": [], "kind": []}

    def row(self, work: str, unit: str = "s") -> Row:
        return self.rows.setdefault(work, Row(work, unit))

    def measure(self) -> None:
        with scratch() as directory:
            tree = Tree(directory)
            peer = Peer(directory, tree.path, compiles=True)
            peer.build()
            clusters = Clusters(directory)
            try:
                for dummy in range(self.runs):
                    self._assembly(tree, peer)
                for component in ("kubelet", "kube-apiserver"):
                    # an image made whole of what there is, so that this component alone is what differs
                    for more in (self._anew(), []):
                        play(*tree.options, *more)
                    for dummy in range(self.runs):
                        self._edit(component, tree, peer)
                for dummy in range(self.runs):
                    booted = []
                    for image in (OURS, PEER):
                        booted.append(clusters.create(image))
                        clusters.delete(image)
                    self.row("cluster of two nodes until all are Ready").add(*booted, limit=30)
                for count, size in self.EXTRAS:
                    self._extras(tree, peer, directory, count, size)
            finally:
                run("docker", "rmi", "-f", OURS, PEER)

    @staticmethod
    def _anew() -> list[str]:
        """What makes the play assemble the image anew: an input of no meaning."""
        return ["-e", json.dumps({"node_image_inputs": {"run": str(time.time())}})]

    def _assembly(self, tree: Tree, peer: Peer) -> None:
        anew = self._anew()
        marks = [(written(), received())]
        ours = play(*tree.options, *anew)
        marks.append((written(), received()))
        kinds = peer.build()
        marks.append((written(), received()))
        self.phases["ours"].append(ours.phases)
        self.phases["kind"].append(kinds.phases)
        self.row(ASSEMBLY).add(ours.phases["assembly"], kinds.assembly, 0.5 * kinds.assembly)
        again = play(*tree.options, *anew)
        if again.changed:
            sys.exit("a second run changed something")
        self.row("nothing changed, whole play").add(again.seconds, kinds.seconds, 5)
        sizes = [json.loads(run("docker", "image", "inspect", image))[0]["Size"] / 1e6 for image in (OURS, PEER)]
        self.row("node image", "MB").add(*sizes, limit=0.7 * sizes[1])
        self.row("largest process of the assembly", "MB").add(ours.peak, kinds.peak, 150)
        for index, work in enumerate(("written to disk for it", "received over the network for it")):
            self.row(work, "MB").add(*(after[index] - before[index] for before, after in zip(marks, marks[1:])))

    def _edit(self, component: str, tree: Tree, peer: Peer) -> None:
        tree.edit(component)
        compiled = tree.compile(component)
        tree.edit(component)
        ours = play(*tree.options).seconds
        tree.edit(component)
        self.row(f"one line of {component} edited, until the node image is there").add(
            ours, peer.build().seconds, compiled + 5
        )

    def _extras(self, tree: Tree, peer: Peer, directory: pathlib.Path, count: int, size: int) -> None:
        archives = extra_archives(directory, count, size)
        wanted = json.dumps({"node_image_extra_images": [{"archive": str(archive)} for archive in archives]})
        what = f"{count} more images of {size / 1e6:.0f} MB" if count > 1 else f"an image of {size / 1e9:.1f} GB more"
        without = statistics.median(self.rows[ASSEMBLY].ours)
        for dummy in range(self.runs):
            longer = play(*tree.options, *self._anew(), "-e", wanted).phases["assembly"] - without
            imported, committed = one_by_one(peer.base, archives)
            row = self.row(f"{what}: time that the assembly takes longer")
            if count > 1:
                # against the imports alone, although ours has the commit in it
                row.add(longer, imported, 0.5 * imported)
            else:
                row.add(longer, imported + committed)
        for archive in archives:
            archive.unlink()

    def report(self) -> None:
        """Writes the figures to docs/ and into the README."""
        figures = [row.figure() for row in self.rows.values()]
        (ROOT / "docs/benchmarks.json").write_text(json.dumps(figures, indent=2) + "\n")
        lines = ["| work | ours | kind | ours / kind | to reach |", "|---|---|---|---|---|"]
        for figure in figures:
            unit = figure["unit"]
            texts = [
                "–" if figure[key] is None else f"{figure[key]:.{1 if unit == 's' else 0}f} {unit}"
                for key in ("ours", "peer", "limit")
            ]
            lines.append(
                f"| {figure['work']} | {texts[0]} | {texts[1]} | {'–' if figure['ratio'] is None else format(figure['ratio'], '.2f')} | {texts[2]} |"
            )
        table = "\n".join(lines)
        longest = max(max(f["ours"], f["peer"] or 0) for f in figures if f["unit"] == "s")
        chart = []
        for figure in (figure for figure in figures if figure["unit"] == "s"):
            chart.append(figure["work"])
            for name, key in (("ours", "ours"), ("kind", "peer")):
                if figure[key] is not None:
                    chart.append(f"  {name} {'█' * max(1, round(figure[key] / longest * 60))} {figure[key]:.1f} s")
        phases = []
        for side, seen in self.phases.items():
            medians = {
                name: statistics.median(run_[name] for run_ in seen)
                for name in seen[0]
                if all(name in run_ for run_ in seen)
            }
            phases.append(f"- {side}: " + ", ".join(f"{name} {value:.1f} s" for name, value in medians.items()))
        page("benchmarks", RUNS=counted(self.runs), TABLE=table, CHART="\n".join(chart), PHASES="\n".join(phases))
        readme = (ROOT / "README.md").read_text()
        begin, end = "<!-- make bench writes from here -->\n", "<!-- to here -->"
        if begin not in readme or end not in readme:
            sys.exit("README.md has no place for the figures")
        head, rest = readme.split(begin)
        (ROOT / "README.md").write_text(
            f"{head}{begin}{table}\n\nMedians of {counted(self.runs)} of each side, on {os.cpu_count()} processors.\n{end}{rest.partition(end)[2]}"
        )
        print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--inner-loop", action="store_true")
    parser.add_argument("--remote", action="store_true")
    options = parser.parse_args()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}", flush=True)
    if options.cold:
        cold()
    elif options.inner_loop:
        inner_loop(options.runs)
    elif options.remote:
        import fleet  # needs what the tests of remote hosts need

        fleet.measure(options.runs)
    else:
        show(
            "offline, with an empty cache: until all that is missing is named",
            [refusal() for _run in range(options.runs)],
        )
        whole = Whole(options.runs)
        whole.measure()
        whole.report()
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
    print(f"{'largest process of all (compilers and linkers included)':<58} {peak:8.0f} MB")


if __name__ == "__main__":
    main()
