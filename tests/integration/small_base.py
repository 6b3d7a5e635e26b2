# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small images of this machine's own files: what a node base needs to be prepared and committed, without any registry."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import io
import json
import os
import pathlib
import platform
import re
import shutil
import socket
import subprocess
import tarfile
import threading
import time
import typing as t

import docker

ARCH = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
FOREIGN = {"amd64": "arm64", "arm64": "amd64"}[ARCH]
PLATFORM = f"linux/{ARCH}"
CONTAINERD_CONFIG = 'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\n  sandbox_image = "localhost/pause:1"\n'
# A link is its target; a directory is its mode; a file is content and mode.
Entry = t.Union[str, int, tuple[bytes, int]]
Tree = dict[str, Entry]


def host_tools(more: str = "") -> Tree:
    """A shell and the tools that exec needs, and more of them by name or path, with their libraries."""
    tree: Tree = {"run": 0o755, "tmp": 0o1777, "bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}
    for tool in f"sh sleep timeout head stat sha256sum cat mkdir rm touch {more}".split():
        source = os.path.realpath(t.cast(str, shutil.which(tool)))
        tool = os.path.basename(tool)
        with open(source, "rb") as file:
            tree[f"usr/bin/{tool}"] = (file.read(), 0o755)
        needs = subprocess.run(["ldd", source], capture_output=True, text=True, check=False).stdout
        for library in re.findall(r"(/\S+) \(0x", needs):
            with open(library, "rb") as file:
                tree[re.sub(r"^/(usr/)?", "usr/", library)] = (file.read(), 0o755)
    return tree


def node_base() -> Tree:
    """Enough of a node base to be prepared; containerd need not run."""
    return {
        **host_tools(),
        "etc/containerd": 0o700,
        "etc/containerd/config.toml": (CONTAINERD_CONFIG.encode(), 0o644),
        "usr/local/bin/containerd": (b"#!/bin/sh\n", 0o755),
        "usr/local/bin/entrypoint": (b"#!/bin/sh\n", 0o755),
        "kind": 0o755,
    }


# what is tested with: a containerd that is at least version 2, and this host's own where that is older


CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "nodeforge" / "tests"


def version_of(containerd: str) -> tuple[int, ...]:
    words = subprocess.run([containerd, "--version"], capture_output=True, text=True, check=True).stdout.split()
    return tuple(int(n) for n in re.findall(r"\d+", words[2])[:2])


def new_containerd() -> pathlib.Path:
    """The directory of containerd and ctr, version 2 or newer: this host's, or those of Debian's packages, kept for the next run."""
    mine = shutil.which("containerd")
    return pathlib.Path(mine).parent if mine and version_of(mine) >= (2, 0) else program("containerd", "ctr").parent


def program(package: str, name: str) -> pathlib.Path:
    """A program of a Debian package, kept for the next run; it is not installed."""
    kept = CACHE / f"{package}-{ARCH}"
    if (kept / "usr" / "bin" / name).exists():
        return kept / "usr" / "bin" / name
    work = kept.with_name(kept.name + ".new")
    shutil.rmtree(work, ignore_errors=True)
    for directory in ("lists/partial", "cache/archives/partial"):
        (work / "apt" / directory).mkdir(parents=True)

    def run(*command: str) -> str:
        return subprocess.run(command, cwd=work / "apt", check=True, text=True, stdout=subprocess.PIPE).stdout

    # the mirror is the one that this host uses
    targets = run("apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages").split("\n")
    mirror = next(target.split()[1] for target in targets if target.startswith("Debian ") and "security" not in target)
    (work / "apt" / "sources").write_text(f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} sid main\n")
    options = ["-o", "Dir::Etc::sourceparts=-", "-o", f"Dir::Etc::sourcelist={work}/apt/sources", "-o", "APT::Sandbox::User="]
    options += ["-o", f"Dir::State::Lists={work}/apt/lists", "-o", f"Dir::Cache={work}/apt/cache", "-o", "Acquire::Languages=none"]
    run("apt-get", *options, "-qq", "update")
    run("apt-get", *options, "-qq", "download", package)
    (archive_,) = (work / "apt").glob(f"{package}_*.deb")
    run("dpkg", "-x", str(archive_), str(work))
    shutil.rmtree(work / "apt")
    shutil.rmtree(kept, ignore_errors=True)
    work.rename(kept)
    return kept / "usr" / "bin" / name


class WritableRegistry:
    """Debian's registry on the loopback address, to push to; with ``user`` and ``password`` nobody else may. Its store lies in ``directory``."""

    def __init__(self, directory: pathlib.Path, user: str = "", password: str = "") -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        settings: dict[str, t.Any] = {
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": str(directory / "store")}, "delete": {"enabled": True}},
            "http": {"addr": self.address},
        }
        if user:
            script = 'print crypt($ARGV[0], "\\$2y\\$05\\$abcdefghijklmnopqrstuu")'
            crypted = subprocess.run(["perl", "-e", script, password], check=True, capture_output=True, text=True).stdout
            (directory / "users").write_text(f"{user}:{crypted}\n")
            settings["auth"] = {"htpasswd": {"realm": "test", "path": str(directory / "users")}}
        # JSON is YAML
        (directory / "settings").write_text(json.dumps(settings))
        command = [str(program("docker-registry", "docker-registry")), "serve", str(directory / "settings")]
        with (directory / "log").open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        host, port = self.address.split(":")
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection((host, int(port)), 1).close()
                return
            except OSError:
                assert time.monotonic() < deadline and self.process.poll() is None
                time.sleep(0.05)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def importer() -> str:
    """nodeforge-store, of this checkout's sources. Go knows whether they are compiled."""
    role = pathlib.Path(__file__).resolve().parents[2] / "roles/supplies/files"
    output = CACHE / "nodeforge-store"
    output.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["sh", str(role / "scripts/tool.sh"), str(role / "src/store"), str(output)], check=True, timeout=1200)
    return str(output)


def layer(tree: Tree) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, entry in tree.items():
            info = tarfile.TarInfo(path)
            content = b""
            if isinstance(entry, str):
                info.type, info.linkname = tarfile.SYMTYPE, entry
            elif isinstance(entry, int):
                info.type, info.mode = tarfile.DIRTYPE, entry
            else:
                content, info.mode = entry
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def image_config(content: bytes, arch: str, config: dict[str, t.Any]) -> bytes:
    return json.dumps(
        {
            "os": "linux",
            "architecture": arch,
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(content).hexdigest()]},
        }
    ).encode()


def archive(reference: str, tree: Tree, arch: str = ARCH, **config: t.Any) -> bytes:
    """A docker archive, as docker save writes it."""
    content = layer(tree)
    return layer(
        {
            "config.json": (image_config(content, arch, config), 0o644),
            "layer.tar": (content, 0o644),
            "manifest.json": (json.dumps([{"Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"]}]).encode(), 0o644),
        }
    )


def load(client: docker.DockerClient, reference: str, tree: Tree, arch: str = ARCH, **config: t.Any) -> str:
    with contextlib.suppress(docker.errors.ImageNotFound):
        client.images.remove(reference, force=True)
    client.images.load(archive(reference, tree, arch, **config))
    return reference


class Registry:
    """A registry on the loopback address with one image under any name. Other tags than "base" answer 404; "broken" breaks off."""

    def __init__(self, tree: Tree, arch: str = ARCH) -> None:
        content = layer(tree)
        blobs = [image_config(content, arch, {}), gzip.compress(content)]
        self.blobs = {"sha256:" + hashlib.sha256(blob).hexdigest(): blob for blob in blobs}
        kinds = ("application/vnd.docker.container.image.v1+json", "application/vnd.docker.image.rootfs.diff.tar.gzip")
        described = [{"mediaType": kind, "digest": d, "size": len(b)} for kind, (d, b) in zip(kinds, self.blobs.items())]
        self.media = "application/vnd.docker.distribution.manifest.v2+json"
        self.manifest = json.dumps({"schemaVersion": 2, "mediaType": self.media, "config": described[0], "layers": described[1:]}).encode()
        self.digest = "sha256:" + hashlib.sha256(self.manifest).hexdigest()
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            broken = False

            def log_message(self, *args: t.Any) -> None:
                """Quiet."""

            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                body: bytes | None = b"{}" if self.path == "/v2/" else registry.blobs.get(name)
                if "/manifests/" in self.path and name in ("base", "broken", registry.digest):
                    body = registry.manifest
                self.send_response(200 if body is not None else 404)
                self.send_header("Content-Length", str(len(body or b"")))
                if "/manifests/" in self.path:
                    self.send_header("Content-Type", registry.media)
                    self.send_header("Docker-Content-Digest", registry.digest)
                self.end_headers()
                if self.command == "HEAD" or not body:
                    return
                if "/broken/" in self.path and "/blobs/" in self.path:
                    self.wfile.write(body[: len(body) // 2])
                    self.close_connection = True
                    return
                self.wfile.write(body)

            do_HEAD = do_GET

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Registry:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def remove_all(client: docker.DockerClient, prefix: str) -> None:
    """Removes the containers and images whose names begin with the prefix."""
    for container in client.containers.list(all=True, ignore_removed=True):
        if container.name.startswith(prefix):
            with contextlib.suppress(docker.errors.APIError):  # auto-remove may be faster
                container.remove(force=True, v=True)
    # the plain list: the SDK's other one looks at each image, of which others may remove one meanwhile
    for image in client.api.images():
        # what was pulled is also known by its digest, which stays when its tag goes
        for name in [*(image["RepoTags"] or []), *(image["RepoDigests"] or [])]:
            if prefix in name:
                with contextlib.suppress(docker.errors.ImageNotFound):
                    client.images.remove(name, force=True)
