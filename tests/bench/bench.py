# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The figures: this collection and kind, on the same inputs, in turns, in one run.

What is compared is the assembly, from compiled Kubernetes to a committed node image: both start a build container from the
same base, write the same binaries and manifests, and bring the same images into its containerd. Compiling is left out on both
sides. kind finds its add-ons in an archive (its container cannot reach a registry on the loopback address), and the `docker pull`
of its base is answered at once, because that base is in the engine.

    bench.py [--runs 3] [--cold | --inner-loop]

--cold builds with empty caches in a temporary directory instead, as on a fresh machine (no kind beside it).
--inner-loop edits one line of a component and has the change run: by a swap in the running cluster, and by kind build node-image, the old
cluster's end and a new cluster. Compiling counts on both sides; what it takes by itself is measured beside.
"""

from __future__ import annotations

import argparse
import contextlib
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
import time
import typing as t

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


def play(*options: str, environment: dict[str, str] | None = None) -> Play:
    """Runs the playbook."""
    began = time.monotonic()
    output = run("ansible-playbook", "build-node.yml", *options, cwd=ROOT, env={**ENVIRONMENT, **(environment or {})})
    seconds = time.monotonic() - began
    text = re.search(r'"seconds\s+(.*?)"', output)
    changed = re.search(r"changed=(\d+)", output)
    kubernetes = re.search(r'"kubernetes\s+(\S+)"', output)
    if not text or not changed or not kubernetes:
        sys.exit(f"the play printed no summary:\n{output[-3000:]}")
    phases = dict(re.findall(r"(?:^|, )([a-z -]+?)\s+([\d.]+)", text.group(1)))
    return Play(seconds, int(changed.group(1)), {name: float(value) for name, value in phases.items()}, kubernetes.group(1))


def refusal() -> float:
    """Seconds until an offline play with nothing in its cache has said what is missing."""
    began = time.monotonic()
    variables = json.dumps({"nodeforge_offline": True, "nodeforge_cache": "/nonexistent/cache"})
    ended = subprocess.run(["ansible-playbook", "build-node.yml", "-e", variables], capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT, check=False)
    if "Run the play once with the network" not in ended.stdout + ended.stderr:
        sys.exit(f"the play did not say what is missing:\n{ended.stdout[-3000:]}{ended.stderr[-3000:]}")
    return time.monotonic() - began


def supplies() -> tuple[dict[str, str], pathlib.Path, str]:
    """What our image was made of: the add-ons by name, their OCI layout and the base image."""
    image = json.loads(run("docker", "image", "inspect", OURS))[0]
    labels = image["Config"]["Labels"]
    held = set(labels["io.nodeforge.images"].split(","))
    for images in CACHE.glob("supplies/set-*/images.json"):
        names, blobs = json.loads(images.read_text()), images.parent / "layout/blobs/sha256"
        if held >= set(names):
            manifest = json.loads((blobs / next(iter(names.values())).partition(":")[2]).read_text())
            config = json.loads((blobs / manifest["config"]["digest"].partition(":")[2]).read_text())
            if config["architecture"] == image["Architecture"]:
                return names, images.parent / "layout", labels["io.nodeforge.base"]
    sys.exit(f"the cache {CACHE} has no add-ons of {OURS}")


@contextlib.contextmanager
def registry(layout: pathlib.Path, directory: pathlib.Path) -> t.Iterator[str]:
    """The add-ons, served on the loopback address."""
    alive, port = directory / "alive", directory / "port"
    alive.touch()
    command = [CACHE / "bin/nodeforge-image", "serve", "--layout", layout, "--address", "127.0.0.1:0", "--port-file", port]
    with subprocess.Popen([*map(str, command), "--until-gone", str(alive), "--ttl", "1h"]) as server:
        try:
            while not (port.exists() and port.read_text().strip()):
                if server.poll() is not None:
                    sys.exit("the registry did not start")
                time.sleep(0.05)
            yield f"127.0.0.1:{port.read_text().strip()}"
        finally:
            alive.unlink()


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
    run("tar", "-c", "-f", target, "-C", saved, *first, *sorted(path.name for path in saved.iterdir() if path.name not in first))
    shutil.rmtree(saved)
    run("docker", "rmi", own, *images)


class Peer:
    """kind, with a tree whose build is that of ours: there already, or made by ours. Its archive of kube-proxy has the add-ons, too."""

    def __init__(self, directory: pathlib.Path, tree: pathlib.Path, *, compiles: bool) -> None:
        self.kind, self.tree, self.shims = CACHE / "bin/kind", directory / "peer", shim(directory / "bin")
        images, layout, self.base = supplies()
        output, parts = tree / "_output", ("dockerized/bin/linux/amd64", "release-images/amd64")
        tagged: dict[str, str] = {}
        try:
            with registry(layout, directory) as address:
                for ref in images:
                    path = ref.partition("/")[2]
                    run("docker", "pull", "-q", f"{address}/{path}")
                    addon = next((kinds for kinds, part in KIND_ADDONS.items() if path.rpartition("/")[2].partition(":")[0] == part), ref)
                    tagged[addon] = f"{address}/{path}"
            one_archive(tagged, directory / "all.tar", output / parts[1] / "kube-proxy.tar", directory)
        finally:
            if tagged:
                run("docker", "rmi", "-f", *tagged.values())
        (self.tree / "hack").mkdir(parents=True)
        (self.tree / "go.mod").write_text("module k8s.io/kubernetes\n")
        make = [
            f"@$(MAKE) -C '{tree}' quick-release-images" if compiles else "@true",
            # links, as copies would cost time that kind does not need
            *(f"@rm -rf _output/{part} && mkdir -p _output/{part} && cp -l '{output}/{part}/'* _output/{part}/" for part in parts),
            f"@ln -f '{directory}/all.tar' _output/{parts[1]}/kube-proxy.tar",
        ]
        rule = "".join(f"\t{line}\n" for line in make)
        (self.tree / "Makefile").write_text(f".PHONY: quick-release-images\nquick-release-images:\n{rule}")
        status = self.tree / "hack/print-workspace-status.sh"
        status.write_text(f"#!/bin/sh\nexec '{tree}/hack/print-workspace-status.sh'\n")
        status.chmod(0o755)

    def build(self) -> tuple[float, float]:
        """Seconds that the build took, and those from compiled Kubernetes to the committed image."""
        environment = {**ENVIRONMENT, "PATH": f"{self.shims}{os.pathsep}{os.environ['PATH']}"}
        command = [self.kind, "build", "node-image", "-v", "1", "--base-image", self.base, "--image", PEER, self.tree]
        compiled, began = None, time.monotonic()
        with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as process:
            lines = []
            for line in t.cast(t.IO[str], process.stdout):
                lines.append(line)
                if "Finished building Kubernetes" in line:
                    compiled = time.monotonic()
        ended = time.monotonic()
        if process.returncode or compiled is None:
            sys.exit(f"kind failed:\n{''.join(lines)[-3000:]}")
        return ended - began, ended - compiled


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


def warm(runs: int) -> None:
    """The figures with warm caches."""
    first = play("-e", "node_image_tag=bench")
    again = [play("-e", "node_image_tag=bench") for _run in range(runs)]
    if any(run_.changed for run_ in again):
        sys.exit("a second run changed something")
    show("second run, nothing changed", [run_.seconds for run_ in again])
    show("offline, with an empty cache: until all that is missing is named", [refusal() for _run in range(runs)])
    with scratch() as directory:
        peer = Peer(directory, CACHE / "trees" / first.kubernetes, compiles=False)
        ours, kinds = [], []
        for number in range(runs):
            ours.append(play("-e", "node_image_tag=bench", "-e", json.dumps({"node_image_inputs": {"run": f"{time.time()} {number}"}})))
            kinds.append(peer.build()[1])
    assembly = [run_.phases["assembly"] for run_ in ours]
    show("assembly: prepare, pull, import, commit", assembly)
    show("kind build node-image, its part after the compile", kinds)
    show("ratio kind / ours, pair by pair", [peer / own for peer, own in zip(kinds, assembly)], "x")
    sizes = [json.loads(run("docker", "image", "inspect", image))[0]["Size"] / 1e6 for image in (OURS, PEER)]
    print(f"{'size of the node image: ours, of kind':<58} {sizes[0]:8.0f} MB, {sizes[1]:.0f} MB")
    run("docker", "rmi", "-f", OURS, PEER)


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
}


def inner_loop(runs: int) -> None:
    """From an edit to all nodes of a cluster that run it."""
    with scratch() as directory:
        tree, kubeconfig, config = directory / "tree", directory / "kubeconfig", directory / "kind.yaml"
        config.write_text(json.dumps({"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": [{"role": "control-plane"}, {"role": "worker"}]}))
        mine = ["-e", json.dumps({"embedded_tree_path": str(tree), "node_image_tag": "bench"})]
        count = 0

        def edit(component: str) -> None:
            nonlocal count
            count += 1
            file, text = EDITS[component]
            source = (tree / file).read_text()
            if text not in source:
                sys.exit(f"{file} does not log {text!r}: EDITS has to name what it logs")
            (tree / file).write_text(re.sub(f"{text}(, edited [0-9]+ times)?", f"{text}, edited {count} times", source))

        def seconds(*command: t.Any, **options: t.Any) -> float:
            began = time.monotonic()
            run(*command, **options)
            return time.monotonic() - began

        def create(image: str, name: str) -> None:
            document = json.loads(config.read_text())
            kubectl = ("docker", "exec", "-i", f"{name}-control-plane", "kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf")
            if image == PEER:
                # kind's manifest is for the program that kind has by that name
                document["networking"] = {"disableDefaultCNI": True}
            run(
                *(CACHE / "bin/kind", "create", "cluster", "--image", image, "--name", name, "--config", "-", "--kubeconfig", kubeconfig),
                input=json.dumps(document),
            )
            if image == PEER:
                run(*kubectl, "apply", "-f", "-", input=cni)
            run(*kubectl, "wait", "--for=condition=Ready", "node", "--all", "--timeout=3m")

        def delete(name: str) -> None:
            run(CACHE / "bin/kind", "delete", "cluster", "--name", name, "--kubeconfig", kubeconfig)

        # the tree is changed from the beginning, so that its version stays the same
        play(*mine)
        for component in EDITS:
            edit(component)
        play(*mine)
        peer = Peer(directory, tree, compiles=True)
        peer.build()
        names = {part: name for name, part in KIND_ADDONS.items()}
        cni = re.sub(r"docker.io/nodeforge/netd:[\w.-]+", names["netd"], (supplies()[1].parent / "default-cni.yaml").read_text())
        cni = cni.replace("{{ .PodSubnet }}", "10.244.0.0/16")
        try:
            booted = []
            for image, name in ((OURS, "nodeforge-bench"), (PEER, "nodeforge-bench-kind")):
                began = time.monotonic()
                create(image, name)
                booted.append(time.monotonic() - began)
            print(f"{'cluster of two nodes until all are Ready: ours, of kind':<58} {booted[0]:8.1f} s, {booted[1]:.1f} s", flush=True)
            for component in EDITS:
                compiled, ours, kinds = [], [], []
                for dummy in range(runs):
                    edit(component)
                    compiled.append(seconds("make", "-C", tree, "all", f"WHAT=cmd/{component}"))
                    edit(component)
                    extra = ["-e", f"component={component}", "-e", "cluster=nodeforge-bench"]
                    ours.append(seconds("ansible-playbook", "nodeforge.kind.swap_component", *mine, *extra, cwd=ROOT, env=ENVIRONMENT))
                    edit(component)
                    began = time.monotonic()
                    peer.build()
                    delete("nodeforge-bench-kind")
                    create(PEER, "nodeforge-bench-kind")
                    kinds.append(time.monotonic() - began)
                show(f"{component}: one line edited, make all WHAT=cmd/{component}", compiled)
                show(f"{component}: one line edited -> it runs on all its nodes", ours)
                show("  beyond the compile", [own - made for own, made in zip(ours, compiled)])
                show(f"{component}: kind build, delete, create", kinds)
                show("  beyond the compile", [peers - made for peers, made in zip(kinds, compiled)])
                show("ratio kind / ours, pair by pair", [peers / own for peers, own in zip(kinds, ours)], "x")
        finally:
            for name in ("nodeforge-bench", "nodeforge-bench-kind"):
                delete(name)
            run("docker", "rmi", "-f", OURS, PEER)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--inner-loop", action="store_true")
    options = parser.parse_args()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}", flush=True)
    if options.cold:
        cold()
    elif options.inner_loop:
        inner_loop(options.runs)
    else:
        warm(options.runs)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
    print(f"{'largest process of all (compilers and linkers included)':<58} {peak:8.0f} MB")


if __name__ == "__main__":
    main()
