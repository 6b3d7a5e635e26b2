# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kubernetes as a node image for another platform than this host's: what is in it, and that nothing of it was run. Compiles it once more."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import time
import typing as t

import docker
import pytest
import small_base
import zstandard
from e2e.conftest import Play, build
from small_base import ARCH, FOREIGN

TAG = f"e2e-{FOREIGN}"
IMAGE = f"kindest/node:{TAG}"
PLATFORM = f"linux/{FOREIGN}"
MACHINE = {"amd64": 62, "arm64": 183}[FOREIGN]
QEMU = {"amd64": "qemu-x86_64", "arm64": "qemu-aarch64"}[FOREIGN]
REGISTERED = pathlib.Path("/proc/sys/fs/binfmt_misc")
ROOT = "var/lib/containerd"


@pytest.fixture(scope="module")
def foreign(ansible_env: dict[str, str]) -> t.Iterator[Play]:
    before = sorted(REGISTERED.glob("qemu-*"))
    yield build(ansible_env, "-e", f"kube_platform={PLATFORM}", tag=TAG)
    assert sorted(REGISTERED.glob("qemu-*")) == before
    docker.from_env().images.remove(IMAGE, force=True)


@pytest.fixture(scope="module")
def engine() -> docker.DockerClient:
    return docker.from_env(timeout=300)


@pytest.fixture(scope="module")
def node(foreign: Play, engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The image's file system."""
    place = tmp_path_factory.mktemp("node")
    container = engine.containers.create(IMAGE, platform=PLATFORM)
    try:
        with subprocess.Popen(["docker", "export", container.id], stdout=subprocess.PIPE) as export:
            with tarfile.open(fileobj=export.stdout, mode="r|") as archive:
                archive.extractall(place, filter=lambda info, _path: None if info.isdev() else info.replace(mode=info.mode | 0o400, deep=False))
    finally:
        container.remove()
    return place


def test_the_platform_and_a_second_run(foreign: Play, ansible_env: dict[str, str], engine: docker.DockerClient) -> None:
    print("\n".join(f"{name:<10} {text}" for name, text in foreign.summary.items()))
    image = engine.images.get(IMAGE)
    assert (image.attrs["Os"], image.attrs["Architecture"]) == ("linux", FOREIGN)
    assert image.labels["io.nodeforge.platform"] == foreign.summary["platform"] == PLATFORM
    for options in ((), ("--check",)):
        again = build(ansible_env, "-e", f"kube_platform={PLATFORM}", *options, tag=TAG)
        assert again.recap["changed"] == 0, again.output[-3000:]
        print(f"second run {' '.join(options)}: {again.seconds:.1f} s")


def test_every_program_is_of_the_platform(node: pathlib.Path) -> None:
    programs = {}
    for path in node.rglob("*"):
        if path.is_file() and not path.is_symlink() and not path.is_relative_to(node / ROOT):
            with path.open("rb") as file:
                head = file.read(20)
            if head[:4] == b"\x7fELF":
                programs[str(path.relative_to(node))] = int.from_bytes(head[18:20], "little")
    assert {path: machine for path, machine in programs.items() if machine != MACHINE} == {}
    mine = {f"usr/bin/{name}" for name in ("kubelet", "kubeadm", "kubectl", "containerd")}
    assert mine | {"usr/sbin/runc", "usr/local/bin/crictl", "opt/cni/bin/ptp"} <= set(programs)
    assert len(programs) > 500
    # what the scripts of packages leave
    assert "systemd-network" in (node / "etc/passwd").read_text()
    assert (node / "etc/ssl/certs/ca-certificates.crt").stat().st_size > 100_000
    assert os.readlink(node / "etc/alternatives/iptables") == "/usr/sbin/iptables-nft"
    status = (node / "var/lib/dpkg/status").read_text()
    assert set(re.findall(r"^Architecture: (.*)$", status, re.M)) == {FOREIGN, "all"} and "not-installed" not in status
    audit = subprocess.run(["dpkg", f"--admindir={node}/var/lib/dpkg", "--audit"], capture_output=True, text=True, check=False)
    assert (audit.returncode, audit.stdout) == (0, ""), audit


@contextlib.contextmanager
def containerd(root: pathlib.Path, work: pathlib.Path) -> t.Iterator[t.Callable[..., str]]:
    """This host's own containerd on that directory, and its ctr."""
    programs = small_base.new_containerd()
    work.mkdir()
    (work / "config.toml").write_text("version = 3\n")
    command = ["--address", str(work / "sock")]
    server = subprocess.Popen(
        [str(programs / "containerd"), "--config", str(work / "config.toml"), "--root", str(root), "--state", str(work / "state"), *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def ctr(*arguments: str) -> str:
        ended = subprocess.run([str(programs / "ctr"), *command, "--namespace", "k8s.io", *arguments], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    try:
        deadline = time.monotonic() + 60
        while not (work / "sock").exists():
            assert time.monotonic() < deadline and server.poll() is None
            time.sleep(0.1)
        yield ctr
    finally:
        server.terminate()
        server.wait(60)


def test_images_are_whole_and_of_the_platform(node: pathlib.Path, engine: docker.DockerClient, tmp_path: pathlib.Path) -> None:
    wanted = engine.images.get(IMAGE).labels["io.nodeforge.images"].split(",")
    with containerd(node / ROOT, tmp_path / "containerd") as ctr:
        lines = [line.split() for line in ctr("images", "check").splitlines()[1:]]
        whole = {line[0]: line[2] for line in lines if line[3] == "complete"}
        assert set(wanted) <= set(whole) and all(line[3] == "complete" for line in lines), lines
        assert any("kube-apiserver:" in name for name in wanted) and any("etcd:" in name for name in wanted)
        for name in wanted:
            manifest = json.loads(ctr("content", "get", whole[name]))
            config = json.loads(ctr("content", "get", manifest["config"]["digest"]))
            assert (config["os"], config["architecture"]) == ("linux", FOREIGN), name
            for layer in manifest["layers"]:
                content = node / ROOT / "io.containerd.content.v1.content/blobs" / layer["digest"].replace(":", "/")
                assert content.stat().st_size == layer["size"], name
                assert layer["mediaType"].endswith("+zstd"), (name, layer)
                with content.open("rb") as file, tarfile.open(fileobj=zstandard.ZstdDecompressor().stream_reader(file), mode="r|") as archive:
                    for member in archive:
                        head = t.cast(t.IO[bytes], archive.extractfile(member)).read(20) if member.isreg() else b""
                        assert head[:4] != b"\x7fELF" or int.from_bytes(head[18:20], "little") == MACHINE, (name, member.name)


def test_its_own_containerd_lists_the_images(foreign: Play, ansible_env: dict[str, str]) -> None:
    """Emulated, by a program that is called by name."""
    program = small_base.program("qemu-user", QEMU)
    with_it = {**ansible_env, "PATH": f"{ansible_env['PATH']}:{program.parent}"}
    verified = build(with_it, "-e", f"kube_platform={PLATFORM}", "-e", "verify=emulated", tag=TAG)
    assert verified.recap["changed"] == 0 and "Compare them with those that it was made with" in verified.output
    if not shutil.which(QEMU) and not shutil.which(f"{QEMU}-static"):
        failed = build(ansible_env, "-e", f"kube_platform={PLATFORM}", "-e", "verify=emulated", tag=TAG, check=False)
        assert f"{QEMU}-static is not on this host: install qemu-user-static" in failed.output


def test_one_platform_does_not_evict_the_other(foreign: Play, ansible_env: dict[str, str]) -> None:
    """Native, foreign, native: each finds what it has compiled."""
    native = build(ansible_env, tag=f"e2e-{ARCH}")
    try:
        for platform, tag in ((PLATFORM, TAG), (f"linux/{ARCH}", f"e2e-{ARCH}")):
            again = build(ansible_env, "-e", f"kube_platform={platform}", tag=tag)
            assert again.recap["changed"] == 0, again.output[-3000:]
        assert native.summary["platform"] == f"linux/{ARCH}"
    finally:
        docker.from_env().images.remove(f"kindest/node:e2e-{ARCH}", force=True)
