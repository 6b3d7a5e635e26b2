# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry over an OCI image layout that fails on demand, the way registries and networks do; and such a layout."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import gzip
import hashlib
import http.client
import http.server
import io
import json
import pathlib
import re
import socket
import ssl
import struct
import subprocess
import tarfile
import threading
import typing as t
import urllib.parse


@dataclasses.dataclass
class Fault:
    """What happens to the next ``times`` requests whose path matches; negative: to all of them."""

    kind: str  # status, reset, truncate, corrupt, hang, slow
    path: str = "/blobs/"
    times: int = 1
    status: int = 500
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 60
    method: str = "GET"
    body: bytes = b""


class FaultyRegistry:
    """with FaultyRegistry(layout) as registry: registry.faults.append(Fault("status", status=500))

    ``certificate``, a file of certificate and key, makes it speak TLS.
    """

    def __init__(self, layout: Layout, host: str = "127.0.0.1", certificate: pathlib.Path | None = None) -> None:
        self.layout = layout
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        # transfers of blobs at the same time, at most
        self.peak = 0
        self._active = 0
        # user:password; with `bearer`, a token service of its own takes them instead of the registry
        self.credentials: str | None = None
        self.bearer = False
        # where it says that its token service is
        self.realm = ""
        self._lock = threading.Lock()
        self._closing = threading.Event()
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: t.Any) -> None:
                """Quiet."""

            def do_GET(self) -> None:
                with contextlib.suppress(OSError), registry._counted(self.path):
                    registry._answer(self)

            do_HEAD = do_GET

        self.server = http.server.ThreadingHTTPServer((host, 0), Handler)
        self.server.daemon_threads = True
        self.address = f"{host}:{self.server.server_address[1]}"
        self.url = f"http://{self.address}"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            # a failed handshake must not end the one thread that takes connections
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
            self.url = f"https://{self.address}"

    def __enter__(self) -> FaultyRegistry:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self._closing.set()
        self.server.shutdown()
        self.server.server_close()

    @contextlib.contextmanager
    def _counted(self, path: str) -> t.Iterator[None]:
        with self._lock:
            self._active += "/blobs/" in path
            self.peak = max(self.peak, self._active)
        try:
            yield
        finally:
            with self._lock:
                self._active -= "/blobs/" in path

    def _fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.requests.append(f"{method} {path}")
            for fault in self.faults:
                if fault.times and re.search(fault.path, path) and fault.method in (method, "*"):
                    fault.times -= 1
                    return fault
        return None

    def _answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        path = request.path
        fault = self._fault(request.command, path)
        if fault and fault.kind == "status":
            return self._send(request, fault.status, fault.headers, fault.body)
        if fault and fault.kind == "hang":
            self._closing.wait(fault.seconds)
            request.close_connection = True
            return None
        if path.startswith("/token"):
            if request.headers.get("Authorization") != self._basic():
                return self._send(request, 401, {})
            return self._send(request, 200, {"Content-Type": "application/json"}, b'{"token": "%s"}' % self._token().encode())
        if self.credentials and request.headers.get("Authorization") != self._expected():
            challenge = 'Basic realm="test"'
            if self.bearer:
                challenge = f'Bearer realm="{self.realm or self.url + "/token"}",service="test"'
            return self._send(request, 401, {"WWW-Authenticate": challenge})
        return self._serve(request, fault)

    def _basic(self) -> str:
        return "Basic " + base64.b64encode((self.credentials or "").encode()).decode()

    def _token(self) -> str:
        return "token-" + base64.b64encode((self.credentials or "").encode()).decode()

    def _expected(self) -> str:
        return f"Bearer {self._token()}" if self.bearer else self._basic()

    @staticmethod
    def _send(request: t.Any, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)

    def _serve(self, request: t.Any, fault: Fault | None) -> None:
        found = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/([^/?]+)(?:\?.*)?", request.path)
        blob = self.layout.find(*found.groups()) if found else b"{}" if request.path == "/v2/" else None
        if blob is None:
            return self._send(request, 404, {})
        start = int((request.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        headers = {"Content-Length": str(len(blob) - start), "Docker-Content-Digest": digest_of(blob)}
        if found and found.group(2) == "manifests":
            headers["Content-Type"] = json.loads(blob)["mediaType"]
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(blob) - 1}/{len(blob)}"
        request.send_response(206 if start else 200)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            self._body(request, blob[start:], fault)
        return None

    def _body(self, request: t.Any, body: bytes, fault: Fault | None) -> None:
        if fault and fault.kind == "corrupt":
            body = body[:-1] + bytes([body[-1] ^ 0xFF])
        if fault and fault.kind == "slow":
            for byte in range(len(body)):
                request.wfile.write(body[byte : byte + 1])
                if self._closing.wait(fault.seconds / len(body)):
                    return
            return
        if fault and fault.kind in ("reset", "truncate"):
            body = body[: len(body) // 2]
        request.wfile.write(body)
        if fault and fault.kind in ("reset", "truncate"):
            request.wfile.flush()
            if fault.kind == "reset":
                # lingering for no time turns the close into a reset
                request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.close_connection = True


class Proxy:
    """An HTTP proxy that brings every request and every tunnel to one server, whatever host it names, and wants a password where told so."""

    def __init__(self, server: str, password: str = "") -> None:
        self.requests: list[str] = []
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: t.Any) -> None:
                """Quiet."""

            def allowed(self) -> bool:
                proxy.requests.append(self.path)
                right = "Basic " + base64.b64encode(f"user:{password}".encode()).decode()
                if not password or self.headers.get("Proxy-Authorization") == right:
                    return True
                self.send_response(407)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return False

            def do_CONNECT(self) -> None:
                if not self.allowed():
                    return
                host, _colon, port = server.rpartition(":")
                with socket.create_connection((host, int(port))) as far:
                    self.send_response(200)
                    self.end_headers()
                    back = threading.Thread(target=self.carry, args=(far, self.connection), daemon=True)
                    back.start()
                    self.carry(self.connection, far)
                    back.join()
                self.close_connection = True

            @staticmethod
            def carry(source: socket.socket, target: socket.socket) -> None:
                with contextlib.suppress(OSError):
                    while data := source.recv(65536):
                        target.sendall(data)
                    target.shutdown(socket.SHUT_WR)

            def do_GET(self) -> None:
                if not self.allowed():
                    return
                connection = http.client.HTTPConnection(server, timeout=10)
                path = urllib.parse.urlsplit(self.path)
                connection.request(self.command, path.path, headers={k: v for k, v in self.headers.items() if not k.startswith("Proxy-")})
                answer = connection.getresponse()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.read())

            do_HEAD = do_GET

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        self.url = f"http://user:{password}@{self.address}" if password else f"http://{self.address}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def certificate(directory: pathlib.Path, name: str) -> pathlib.Path:
    """A new certificate for this name, such as IP:192.0.2.1, which nobody trusts yet, and its key, in one file."""
    path = directory / "certificate.pem"
    names = ["-subj", "/CN=test", "-addext", f"subjectAltName={name}"]
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", *names]
    subprocess.run([*made, "-keyout", str(directory / "key.pem"), "-out", str(path)], check=True, capture_output=True)
    with open(path, "a", encoding="ascii") as file:
        file.write((directory / "key.pem").read_text(encoding="ascii"))
    return path


# images


INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Layout:
    """An OCI image layout on disk."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        (path / "blobs" / "sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        self.names: dict[str, str] = {}

    def blob(self, content: bytes) -> dict[str, t.Any]:
        digest = digest_of(content)
        (self.path / "blobs" / "sha256" / digest[7:]).write_bytes(content)
        return {"digest": digest, "size": len(content)}

    def find(self, repository: str, kind: str, name: str) -> bytes | None:
        """As a registry asks: by tag or by digest."""
        digest = name if name.startswith("sha256:") else self.names.get(f"{repository}:{name}")
        path = self.path / "blobs" / "sha256" / (digest or "none")[7:]
        return path.read_bytes() if path.is_file() else None

    def add(self, reference: str, platforms: t.Sequence[str], layers: t.Sequence[bytes], index: bool | None = None) -> str:
        """An image with these layers (as tar), for one platform or, by an index, for several. Returns its digest."""
        manifests = []
        for platform in platforms:
            os_name, arch = platform.split("/")
            # no two platforms have all layers in common
            own = [*layers, layers[-1] + arch.encode().ljust(512, b"\0")]
            config = {"os": os_name, "architecture": arch, "config": {}, "rootfs": {"type": "layers", "diff_ids": [digest_of(x) for x in own]}}
            described = [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **self.blob(gzip.compress(x, 1, mtime=0))} for x in own]
            manifest = {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **self.blob(json.dumps(config).encode())},
                "layers": described,
            }
            platform_of = {"os": os_name, "architecture": arch}
            manifests.append({"mediaType": MANIFEST, **self.blob(json.dumps(manifest).encode()), "platform": platform_of})
        top = manifests[0]
        if index or (index is None and len(manifests) > 1):
            document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
            top = {"mediaType": INDEX, **self.blob(json.dumps(document).encode())}
        self.names[reference.partition("/")[2]] = top["digest"]
        return top["digest"]

    def archive(self, reference: str, annotations: dict[str, str]) -> bytes:
        """One image as an OCI archive, with all blobs of the layout."""
        digest = self.names[reference.partition("/")[2]]
        media = json.loads((self.path / "blobs" / "sha256" / digest[7:]).read_bytes())["mediaType"]
        size = (self.path / "blobs" / "sha256" / digest[7:]).stat().st_size
        manifests = [{"mediaType": media, "digest": digest, "size": size, "annotations": annotations}]
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            index = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
            files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": index}
            files.update({f"blobs/sha256/{path.name}": path.read_bytes() for path in (self.path / "blobs" / "sha256").iterdir()})
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return buffer.getvalue()
