# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A proxy before a real registry that fails on demand, the way networks and registries do."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import http.client
import http.server
import re
import socket
import struct
import threading
import time
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


class FaultyRegistry:
    """with FaultyRegistry("127.0.0.1:5000") as proxy: proxy.faults.append(Fault("status", status=500))"""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        # user:password; with `bearer`, a token service of its own takes them instead of the registry
        self.credentials: str | None = None
        self.bearer = False
        self._lock = threading.Lock()
        self._closing = threading.Event()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: t.Any) -> None:
                """Quiet."""

            def do_GET(self) -> None:
                with contextlib.suppress(OSError):
                    proxy._answer(self)

            do_HEAD = do_GET

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = "127.0.0.1:%d" % self.server.server_address[1]
        self.url = f"http://{self.address}"

    def __enter__(self) -> FaultyRegistry:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self._closing.set()
        self.server.shutdown()
        self.server.server_close()

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
            return self._send(request, fault.status, fault.headers)
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
                challenge = f'Bearer realm="{self.url}/token",service="test"'
            return self._send(request, 401, {"WWW-Authenticate": challenge})
        return self._forward(request, fault)

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

    def _forward(self, request: t.Any, fault: Fault | None) -> None:
        connection = http.client.HTTPConnection(self.upstream, timeout=60)
        headers = {n: request.headers[n] for n in ("Accept", "Range") if n in request.headers}
        connection.request(request.command, request.path, headers=headers)
        answer = connection.getresponse()
        length = int(answer.headers.get("Content-Length") or 0)
        request.send_response(answer.status)
        for name in ("Content-Type", "Content-Length", "Content-Range", "Docker-Content-Digest", "Location"):
            if name in answer.headers:
                request.send_header(name, answer.headers[name])
        request.end_headers()
        sent = 0
        while request.command != "HEAD":
            chunk = answer.read(65536)
            if not chunk:
                break
            if fault and fault.kind in ("reset", "truncate") and sent + len(chunk) > length // 2:
                request.wfile.flush()
                if fault.kind == "reset":
                    # lingering for no time turns close() into a reset
                    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    request.connection.shutdown(socket.SHUT_RDWR)
                request.close_connection = True
                if fault.kind == "reset":
                    request.rfile.close()
                    request.wfile.close()
                    request.connection.close()
                break
            if fault and fault.kind == "corrupt":
                chunk = bytes(b ^ 0xFF for b in chunk)
            if fault and fault.kind == "slow":
                if self._closing.wait(fault.seconds):
                    break
            request.wfile.write(chunk)
            sent += len(chunk)
        connection.close()


def main() -> None:
    """By hand: python faulty_registry.py UPSTREAM KIND PATH TIMES [STATUS]."""
    import sys

    upstream, kind, path, times, *status = sys.argv[1:]
    with FaultyRegistry(urllib.parse.urlsplit(upstream).netloc or upstream) as proxy:
        proxy.faults.append(Fault(kind, path, int(times), int(status[0]) if status else 500))
        sys.stdout.write(proxy.address + "\n")
        sys.stdout.flush()
        time.sleep(3600)


if __name__ == "__main__":
    main()
