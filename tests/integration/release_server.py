# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A release server over HTTP that has bad days; and small releases."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.server
import io
import os
import pathlib
import re
import shutil
import socket
import ssl
import struct
import tarfile
import threading
import time
import typing as t

import small_base

VERSION = "v1.37.2"
IMAGES = ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler")
PROGRAMS = ("kubeadm", "kubectl", "kubelet")
NAME = f"kubernetes-server-linux-{small_base.ARCH}.tar.gz"


@dataclasses.dataclass
class Fault:
    """What happens to the next ``times`` requests whose path ends so; negative: to all of them."""

    kind: str  # status, cut, hang, slow
    path: str = ".tar.gz"
    times: int = 1
    status: int = 500
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    # cut: bytes sent before; slow: bytes sent at a time, with so many seconds between
    after: int = 0
    seconds: float = 0.0


class ReleaseServer:
    """with ReleaseServer({"/release/v1/x": b"..." or a path}) as server: server.faults.append(Fault("cut", after=1000))"""

    def __init__(self, files: dict[str, bytes | pathlib.Path], tls: ssl.SSLContext | None = None) -> None:
        self.files = files
        self.faults: list[Fault] = []
        # path and Range of each request
        self.requests: list[tuple[str, str | None]] = []
        self.ranges = True
        self._closing = threading.Event()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: t.Any) -> None:
                """Quiet."""

            def do_GET(self) -> None:
                with contextlib.suppress(OSError):
                    server._answer(self)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> ReleaseServer:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self._closing.set()
        self.server.shutdown()
        self.server.server_close()

    def asked(self, ending: str) -> list[str | None]:
        """The Range of each request for it."""
        return [ranged for path, ranged in self.requests if path.endswith(ending)]

    def _answer(self, handler: t.Any) -> None:
        # as a proxy it is asked for whole URLs
        path = re.sub(r"^http://[^/]+", "", handler.path)
        self.requests.append((path, handler.headers.get("Range")))
        fault = next((f for f in self.faults if f.times and path.endswith(f.path)), None)
        if fault:
            fault.times -= 1
        if fault and fault.kind == "hang":
            self._closing.wait(60)
            handler.close_connection = True
            return
        if fault and fault.kind == "status":
            return self._send(handler, fault.status, fault.headers, b"trouble")
        content = self.files.get(path)
        if content is None:
            return self._send(handler, 404, {}, b"not here")
        body = content if isinstance(content, bytes) else content.read_bytes()
        tag = '"' + hashlib.sha256(body).hexdigest()[:16] + '"'
        status, headers, start = 200, {"ETag": tag}, 0
        ranged = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range") or "")
        if self.ranges and ranged and handler.headers.get("If-Range") in (None, tag):
            start = int(ranged.group(1))
            if start >= len(body):
                return self._send(handler, 416, {"Content-Range": f"bytes */{len(body)}"}, b"")
            status, headers["Content-Range"] = 206, f"bytes {start}-{len(body) - 1}/{len(body)}"
        self._send(handler, status, headers, body[start:], fault)

    def _send(self, handler: t.Any, status: int, headers: dict[str, str], body: bytes, fault: Fault | None = None) -> None:
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if fault and fault.kind == "cut":
            handler.wfile.write(body[: fault.after])
            # a reset, as a broken line shows itself
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            handler.close_connection = True
            return
        if fault and fault.kind == "slow":
            while len(body) > fault.after:
                handler.wfile.write(body[: fault.after])
                self._closing.wait(fault.seconds)
                body = body[fault.after :]
        handler.wfile.write(body)


def program(arch: str = small_base.ARCH) -> bytes:
    """A real program of this machine, for another one only by its header."""
    content = bytearray(pathlib.Path(os.path.realpath(t.cast(str, shutil.which("true")))).read_bytes())
    content[18] = {"amd64": 62, "arm64": 183}[arch]
    return bytes(content)


def image(name: str, version: str = VERSION, arch: str = small_base.ARCH) -> bytes:
    tag = version.replace("+", "_")
    return small_base.archive(f"registry.k8s.io/{name}-{arch}:{tag}", {name: (os.urandom(1000), 0o755)}, arch)


def release(place: str = "kubernetes/server/bin", version: str = VERSION, arch: str = small_base.ARCH, images: bool = True) -> dict[str, bytes]:
    """The files of a release archive by their member names, with others among them that nobody wants."""
    files = {f"{place}/{name}": program(arch) + name.encode() for name in (*PROGRAMS, "kube-apiserver", "mounter")}
    if images:
        files.update({f"{place}/{name}.tar": image(name, version, arch) for name in IMAGES})
        files[f"{place}/kube-apiserver.docker_tag"] = version.encode()
    return {"kubernetes/version": version.encode(), **files, "kubernetes/LICENSES": b"free"}


def pack(files: dict[str, bytes], links: dict[str, str] | None = None, noise: int = 0) -> bytes:
    """A gzip archive, larger by some noise at its end."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, content in {**files, **({"kubernetes/kubernetes-src.tar.gz": os.urandom(noise)} if noise else {})}.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(content), 0o755, int(time.time())
            archive.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return buffer.getvalue()


def published(path: str, content: bytes | pathlib.Path, algorithm: str = "sha512") -> dict[str, bytes | pathlib.Path]:
    """A file on a server, with its checksum beside it."""
    body = content if isinstance(content, bytes) else content.read_bytes()
    return {path: content, f"{path}.{algorithm}": hashlib.new(algorithm, body).hexdigest().encode() + b"\n"}
