# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The container engine, where a real one cannot be made to take its time."""

from __future__ import annotations

import http.server
import threading
import types
import typing as t

import pytest
from ansible_collections.nodeforge.kind.plugins.module_utils import _docker

pytest.importorskip("docker")


class SlowEngine(http.server.ThreadingHTTPServer):
    """Begins an export only when it may, and notes when its reader has gone."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.may_begin, self.reader_gone = threading.Event(), threading.Event(), threading.Event()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SlowEngine

    def do_GET(self) -> None:
        if not self.path.endswith("/get"):
            answer = b'{"ApiVersion": "1.41", "Version": "20.10", "Os": "linux", "Arch": "amd64", "Id": "x"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
            return
        self.server.asked.set()
        self.server.may_begin.wait(20)
        self.send_response(200)
        self.send_header("Content-Length", str(1 << 40))
        self.end_headers()
        try:
            while True:
                self.wfile.write(bytes(1 << 20))
        except OSError:
            self.server.reader_gone.set()

    def log_message(self, *args: t.Any) -> None:
        """Quiet."""


@pytest.fixture
def slow() -> t.Iterator[SlowEngine]:
    with SlowEngine() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.may_begin.set()
        server.shutdown()


def test_an_export_keeps_nobody_waiting(slow: SlowEngine) -> None:
    params = {name: spec.get("default") for name, spec in _docker.DOCKER_ARGS.items()}
    params["docker_host"] = f"tcp://127.0.0.1:{slow.server_port}"
    engine = _docker.Engine(t.cast("t.Any", types.SimpleNamespace(params=params)))
    chunks = engine.export("busybox")
    first: list[bytes] = []
    reader = threading.Thread(target=lambda: first.append(next(chunks)), daemon=True)
    reader.start()
    assert slow.asked.wait(10)
    # what every command in a container needs
    assert engine._lock.acquire(timeout=5)
    engine._lock.release()
    assert engine.image("other")
    slow.may_begin.set()
    reader.join(20)
    assert first
    t.cast("t.Any", chunks).close()
    assert slow.reader_gone.wait(10)
