# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small programs that stand where those of Kubernetes do, compiled for both platforms: an _output that is made in seconds.

``python small_kube.py DIRECTORY`` makes one there, and starts a registry, whose address and process it writes beside.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import small_base

VERSION = "v1.37.2"
SERVERS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")
# what kubeadm of that version asks for
IMAGES = (*(f"registry.k8s.io/{name}:{VERSION}" for name in SERVERS), "registry.k8s.io/coredns/coredns:v1.14.6", "registry.k8s.io/pause:3.10.2")
IMAGES += ("registry.k8s.io/etcd:3.7.0-0",)
MAIN = """package main

import (
    "fmt"
    "os"
    "path/filepath"
    "strings"
)

func main() {
    if strings.Contains(strings.Join(os.Args, " "), "images list") {
        fmt.Print(`@IMAGES@`)
    } else if filepath.Base(os.Args[0]) == "kubelet" {
        fmt.Println("Kubernetes @VERSION@")
    } else {
        fmt.Println("@VERSION@")
    }
}
"""


def compiled(directory: pathlib.Path, arch: str) -> pathlib.Path:
    """The program, once for each architecture."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "main.go").write_text(MAIN.replace("@IMAGES@", "\n".join(IMAGES) + "\n").replace("@VERSION@", VERSION))
    env = {**os.environ, "GOARCH": arch, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off", "PATH": f"{os.environ['PATH']}:/usr/local/go/bin"}
    output = directory / arch
    subprocess.run(["go", "build", "-o", str(output), "main.go"], cwd=directory, env=env, check=True)
    return output


def artifacts(directory: pathlib.Path) -> pathlib.Path:
    """As a tree leaves them in its _output."""
    for arch in ("amd64", "arm64"):
        program = compiled(directory / "src", arch).read_bytes()
        binaries, images = directory / "dockerized/bin/linux" / arch, directory / "release-images" / arch
        for place in (binaries, images):
            place.mkdir(parents=True, exist_ok=True)
        for name in ("kubeadm", "kubectl", "kubelet"):
            (binaries / name).write_bytes(program)
            (binaries / name).chmod(0o755)
        for name in SERVERS:
            tree: small_base.Tree = {f"usr/local/bin/{name}": (program, 0o755)}
            (images / f"{name}.tar").write_bytes(small_base.archive(f"registry.k8s.io/{name}-{arch}:{VERSION}", tree, arch))
    return directory


if __name__ == "__main__":
    place = pathlib.Path(sys.argv[1])
    artifacts(place / "_output")
    registry = small_base.WritableRegistry(place)
    (place / "registry").write_text(f"{registry.address} {registry.process.pid}\n")
