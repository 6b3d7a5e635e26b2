# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The figures: this collection and kind, on the same inputs, in turns, in one run.

What is compared is the assembly, from compiled Kubernetes to a committed node image: both start a build container from the
same base, write the same binaries and manifests, and bring the same images into its containerd. Compiling is left out on both
sides. kind finds its add-ons in an archive (its container cannot reach a registry on the loopback address), and the `docker pull`
of its base is answered at once, because that base is in the engine.

    bench.py [--runs 3] [--cold]

--cold builds with empty caches in a temporary directory instead, as on a fresh machine (no kind beside it).
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
    """One run of the playbook."""

    seconds: float
    changed: int
    phases: dict[str, float]
    output: str


def play(*options: str, environment: dict[str, str] | None = None) -> Play:
    """Runs the playbook."""
    began = time.monotonic()
    output = run("ansible-playbook", "build-node.yml", *options, cwd=ROOT, env={**ENVIRONMENT, **(environment or {})})
    seconds = time.monotonic() - began
    text = re.search(r'"seconds\s+(.*?)"', output)
    changed = re.search(r"changed=(\d+)", output)
    if not text or not changed:
        sys.exit(f"the play printed no summary:\n{output[-3000:]}")
    phases = dict(re.findall(r"(?:^|, )([a-z -]+?)\s+([\d.]+)", text.group(1)))
    return Play(seconds, int(changed.group(1)), {name: float(value) for name, value in phases.items()}, output)


def refusal() -> float:
    """Seconds until an offline play with nothing in its cache has said what is missing."""
    began = time.monotonic()
    variables = json.dumps({"nodeforge_offline": True, "nodeforge_cache": "/nonexistent/cache"})
    ended = subprocess.run(["ansible-playbook", "build-node.yml", "-e", variables], capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT, check=False)
    if "Run the play once with the network" not in ended.stdout + ended.stderr:
        sys.exit(f"the play did not say what is missing:\n{ended.stdout[-3000:]}{ended.stderr[-3000:]}")
    return time.monotonic() - began


def supplies() -> tuple[dict[str, str], pathlib.Path, str]:
    """What the last play used: the add-ons by name, their OCI layout and the base image."""
    newest = max(CACHE.glob("supplies/set-*"), key=lambda path: path.stat().st_mtime)
    base = json.loads(run("docker", "image", "inspect", OURS))[0]["Config"]["Labels"]["io.nodeforge.base"]
    return json.loads((newest / "images.json").read_text()), newest / "layout", base


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


def peer_tree(directory: pathlib.Path, version: str) -> pathlib.Path:
    """A tree for kind whose build is already there."""
    tree = directory / "tree"
    output = CACHE / "trees" / version / "_output"
    (tree / "hack").mkdir(parents=True)
    (tree / "go.mod").write_text("module k8s.io/kubernetes\n")
    (tree / "Makefile").write_text(".PHONY: quick-release-images\nquick-release-images:\n\t@true\n")
    status = tree / "hack" / "print-workspace-status.sh"
    status.write_text(f"#!/bin/sh\necho gitVersion {version}\n")
    status.chmod(0o755)
    for part in ("dockerized/bin/linux/amd64", "release-images/amd64"):
        shutil.copytree(output / part, tree / "_output" / part)
    return tree


def kind_build(tree: pathlib.Path, base: str, shims: pathlib.Path) -> float:
    """Seconds from compiled Kubernetes to the committed image."""
    environment = {**ENVIRONMENT, "PATH": f"{shims}{os.pathsep}{os.environ['PATH']}"}
    command = [str(CACHE / "bin/kind"), "build", "node-image", "-v", "1", "--base-image", base, "--image", PEER, str(tree)]
    began = None
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as process:
        lines = []
        for line in t.cast(t.IO[str], process.stdout):
            lines.append(line)
            if "Finished building Kubernetes" in line:
                began = time.monotonic()
    ended = time.monotonic()
    if process.returncode or began is None:
        sys.exit(f"kind failed:\n{''.join(lines)[-3000:]}")
    return ended - began


def shim(directory: pathlib.Path) -> pathlib.Path:
    """A docker that has pulled already."""
    directory.mkdir()
    docker = directory / "docker"
    docker.write_text(f'#!/bin/sh\n[ "$1" = pull ] && exit 0\nexec {shutil.which("docker")} "$@"\n')
    docker.chmod(0o755)
    return directory


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
    version = re.search(r'"kubernetes\s+(\S+)"', first.output)
    images, layout, base = supplies()
    with tempfile.TemporaryDirectory(prefix="nodeforge-bench-") as name:
        directory = pathlib.Path(name)
        tree = peer_tree(directory, t.cast("re.Match[str]", version).group(1))
        with registry(layout, directory) as address:
            tagged = {}
            for ref in images:
                path = ref.partition("/")[2]
                run("docker", "pull", "-q", f"{address}/{path}")
                addon = next((kinds for kinds, part in KIND_ADDONS.items() if path.rpartition("/")[2].partition(":")[0] == part), ref)
                tagged[addon] = f"{address}/{path}"
        try:
            proxy = tree / "_output/release-images/amd64/kube-proxy.tar"
            one_archive(tagged, directory / "all.tar", proxy, directory)
            (directory / "all.tar").replace(proxy)
        finally:
            run("docker", "rmi", "-f", *tagged.values())
        ours, kinds, shims = [], [], shim(directory / "bin")
        for number in range(runs):
            ours.append(play("-e", "node_image_tag=bench", "-e", json.dumps({"node_image_inputs": {"run": f"{time.time()} {number}"}})))
            kinds.append(kind_build(tree, base, shims))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cold", action="store_true")
    options = parser.parse_args()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}", flush=True)
    if options.cold:
        cold()
    else:
        warm(options.runs)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
    print(f"{'largest process of all (compilers and linkers included)':<58} {peak:8.0f} MB")


if __name__ == "__main__":
    main()
