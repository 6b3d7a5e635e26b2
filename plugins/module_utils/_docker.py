# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can change at any time.
"""The container engine, over the Docker SDK for Python.

One class, :class:`Engine`, and one exception for everything that a user can act on, :class:`EngineError`. Transfers are
streamed in chunks, so memory stays flat whatever the size of a file or an archive.
"""

from __future__ import annotations

import base64
import collections.abc as c
import contextlib
import json
import os
import socket
import sys
import tarfile
import threading
import time
import traceback
import typing as t

from ansible.module_utils.basic import AnsibleModule, env_fallback, missing_required_lib
from ansible_collections.nodeforge.kind.plugins.module_utils._signals import deferred

try:
    import docker
    import docker.errors
    import docker.tls
    import docker.utils.socket
    import requests.exceptions
except ImportError:
    HAS_DOCKER = False
    DOCKER_IMPORT_ERROR: str | None = traceback.format_exc()
else:
    HAS_DOCKER = True
    DOCKER_IMPORT_ERROR = None

# Engine API 1.41 is Docker 20.10 (2020): the oldest that takes a platform on container creation.
MINIMUM_API = (1, 41)
# What Debian 12 and Ubuntu 22.04 package.
MINIMUM_SDK = 5
CHUNK = 1024 * 1024
# What one command may print before it counts as broken: far above any list that we read, far below memory's limit.
MAX_OUTPUT = 8 * 1024 * 1024

DOCKER_ARGS: dict[str, dict[str, t.Any]] = {
    "docker_host": {
        "type": "str",
        "default": "unix:///var/run/docker.sock",
        "fallback": (env_fallback, ["DOCKER_HOST"]),
    },
    "api_version": {
        "type": "str",
        "default": "auto",
        "fallback": (env_fallback, ["DOCKER_API_VERSION"]),
        "aliases": ["docker_api_version"],
    },
    "timeout": {"type": "int", "default": 600, "fallback": (env_fallback, ["DOCKER_TIMEOUT"])},
    "ca_path": {"type": "path", "aliases": ["ca_cert", "tls_ca_cert", "cacert_path"]},
    "client_cert": {"type": "path", "aliases": ["tls_client_cert", "cert_path"]},
    "client_key": {"type": "path", "aliases": ["tls_client_key", "key_path"]},
    "tls": {"type": "bool", "default": False, "fallback": (env_fallback, ["DOCKER_TLS"])},
    "validate_certs": {
        "type": "bool",
        "default": False,
        "fallback": (env_fallback, ["DOCKER_TLS_VERIFY"]),
        "aliases": ["tls_verify"],
    },
}


class EngineError(Exception):
    """Something that the user can act on; the text is one sentence that names the object and the remedy."""


class BrokenInput(Exception):
    """What was to be streamed into a command could not be read to its end."""


class ExecResult(t.NamedTuple):
    """What a command in a container did: exit status and its output, decoded."""

    rc: int
    stdout: str
    stderr: str

    @property
    def reason(self) -> str:
        """The last line that says something: what a person would look at first."""
        lines = [line.strip() for line in (self.stderr or self.stdout).splitlines() if line.strip()]
        return lines[-1] if lines else f"exit status {self.rc}"


class Engine:
    """The engine that the module's options name. Raises :class:`EngineError` where it cannot be reached or is too old."""

    def __init__(self, module: AnsibleModule) -> None:
        if not HAS_DOCKER:
            module.fail_json(msg=missing_required_lib("docker"), exception=DOCKER_IMPORT_ERROR)
        if int(docker.__version__.partition(".")[0]) < MINIMUM_SDK:
            raise EngineError(
                f"The Docker SDK for Python is version {docker.__version__}; {MINIMUM_SDK}.0.0 or newer is needed: "
                f"install it for {sys.executable}, for example with pip"
            )
        self.module = module
        self.host: str = module.params["docker_host"]
        self._lock = threading.Lock()
        try:
            self.api = docker.APIClient(**self._connection(module.params))
            version = self.api.version(api_version=False)
        except (docker.errors.DockerException, requests.exceptions.RequestException, OSError, ValueError) as e:
            raise EngineError(self._unreachable(e)) from e
        self.version: str = version.get("Version", "unknown")
        offered = tuple(int(n) for n in version.get("ApiVersion", "0.0").split("."))
        if offered < MINIMUM_API:
            raise EngineError(
                f"The container engine at {self.host} is version {self.version} (API {version.get('ApiVersion')}); "
                f"API {'.'.join(map(str, MINIMUM_API))} or newer is needed: upgrade it to Docker 20.10 or later"
            )
        # the engine's own platform, in the words of images: linux/amd64, linux/arm64
        self.platform: str = f"{version.get('Os', 'linux')}/{version.get('Arch', '')}"

    @staticmethod
    def _connection(params: dict[str, t.Any]) -> dict[str, t.Any]:
        host: str = params["docker_host"]
        options: dict[str, t.Any] = {"base_url": host, "version": params["api_version"], "timeout": params["timeout"]}
        if params["tls"] or params["validate_certs"]:
            certificates = os.environ.get("DOCKER_CERT_PATH")

            def path(option: str, file: str) -> str | None:
                return params[option] or (os.path.join(certificates, file) if certificates else None)

            cert, key = path("client_cert", "cert.pem"), path("client_key", "key.pem")
            options["tls"] = docker.tls.TLSConfig(
                client_cert=(cert, key) if cert and key else None,
                ca_cert=path("ca_path", "ca.pem"),
                verify=params["validate_certs"],
            )
            options["base_url"] = host.replace("tcp://", "https://")
        return options

    def _unreachable(self, error: BaseException) -> str:
        text = str(error)
        what = f"The container engine at {self.host} cannot be reached"
        if "Permission denied" in text:
            return f"{what}: permission denied; add the user to the group that owns the socket (usually docker) or use become"
        if "No such file" in text or "Connection refused" in text:
            return f"{what}: nothing listens there; start it (or run the role nodeforge.kind.build_host), or set docker_host"
        return f"{what}: {text.splitlines()[0] if text else type(error).__name__}; check docker_host and the TLS options"

    @contextlib.contextmanager
    def explained(self, doing: str) -> t.Iterator[None]:
        """Turns whatever the SDK raises into one sentence: ``doing`` is its subject, such as 'Committing "x"'."""
        try:
            yield
        except docker.errors.APIError as e:
            text = e.explanation or str(e)
            if isinstance(text, bytes):
                text = text.decode(errors="replace")
            hint = ""
            if "no space left on device" in text:
                hint = "; free space on the engine's disk (docker system df) and run again"
            raise EngineError(f"{doing} failed: {text.strip()}{hint}") from e
        except requests.exceptions.Timeout as e:
            raise EngineError(
                f"{doing} failed: the engine at {self.host} gave no answer in {self.module.params['timeout']} s; raise timeout"
            ) from e
        except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as e:
            raise EngineError(f"{doing} failed: {e}") from e

    # images

    def image(self, reference: str) -> dict[str, t.Any] | None:
        """The image as ``docker image inspect`` shows it, or None."""
        with self.explained(f'Looking for the image "{reference}"'):
            try:
                return self.api.inspect_image(reference)
            except docker.errors.NotFound:
                return None

    def export(self, reference: str) -> t.Iterator[bytes]:
        """The image as ``docker save`` writes it, in chunks. Whoever takes them may stop early."""
        with self.explained(f'Exporting the image "{reference}"'):
            # by a client of its own: the engine takes as long as it likes to prepare an export, and others need not wait
            options = {**self._connection(self.module.params), "version": self.api.api_version}
            with contextlib.closing(docker.APIClient(**options)) as api:
                response = api._get(api._url("/images/{0}/get", reference), stream=True)
                with contextlib.closing(response):
                    api._raise_for_status(response)
                    # large chunks: each costs its reader in a container a process
                    yield from response.iter_content(4 * CHUNK)

    # containers

    def container(self, name: str) -> dict[str, t.Any] | None:
        """The container of that name or id as ``docker inspect`` shows it, or None."""
        with self.explained(f'Looking for the container "{name}"'):
            try:
                return self.api.inspect_container(name)
            except docker.errors.NotFound:
                return None

    def running(self, name: str) -> dict[str, t.Any]:
        """As :meth:`container`, for one that must be there and run."""
        container = self.container(name)
        if container is None:
            raise EngineError(f'There is no container "{name}" at {self.host}: start it with kind_node_prepare or name another one')
        if not container["State"]["Running"]:
            raise EngineError(f'The container "{name}" does not run ({container["State"]["Status"]}): start it and run again')
        return container

    def create(self, name: str, platform: str, config: dict[str, t.Any]) -> str:
        """Creates a container from a configuration that the SDK made, and returns its id.

        The SDK's own create_container adds the client's proxies to the environment, which becomes an image's, passwords
        and all; and only its version 6 knows platforms.
        """
        with self.explained(f'Creating the container "{name}"'):
            url = self.api._url("/containers/create")
            response = self.api._post_json(url, data=config, params={"name": name, "platform": platform})
            return self.api._result(response, True)["Id"]

    def commit(self, name: str, **params: t.Any) -> str:
        """Makes an image without a name from a container, and returns its id. Only version 7 of the SDK can do so without pausing."""
        with self.explained(f'Committing the container "{name}"'):
            response = self.api._post_json(self.api._url("/commit"), data=None, params={"container": name, **params})
            return self.api._result(response, True)["Id"]

    def remove(self, name: str) -> bool:
        """Removes a container with its anonymous volumes, running or not. False where there was none."""
        with self.explained(f'Removing the container "{name}"'):
            try:
                self.api.remove_container(name, force=True, v=True)
            except docker.errors.NotFound:
                return False
            except docker.errors.APIError as e:
                # auto-remove may have begun on its own: wait for its end
                if "already in progress" not in str(e):
                    raise
                for dummy in range(100):
                    if self.container(name) is None:
                        break
                    time.sleep(0.1)
        return True

    def discard(self, name: str | None, ours: c.Callable[[dict[str, t.Any]], t.Any]) -> str:
        """Removes a build container after an interrupt, as nobody comes back for it; what is not ``ours`` stays.

        Returns what to add to the message of the interrupt.
        """
        with deferred():
            container = self.container(name) if name else None
            if container is not None and ours(container) and self.remove(container["Id"]):
                return f'; the build container "{name}" is removed'
        return ""

    # commands in a container

    def exec(
        self,
        container: str,
        argv: c.Sequence[str],
        *,
        stdin: c.Iterable[bytes] | None = None,
        stdin_size: int | None = 0,
        environment: dict[str, str] | None = None,
        timeout: int | None = None,
        privileged: bool = False,
        on_stdout: c.Callable[[bytes], None] | None = None,
    ) -> ExecResult:
        """Runs a command in a container; never through a shell of the user's words.

        ``stdin`` is streamed and must hold ``stdin_size`` bytes: no transport but plain sockets can close one direction only,
        so ``head`` counts them instead; where the size is not known (None), chunk by chunk. ``timeout`` in seconds ends the
        command itself (status 124), not only the waiting. ``on_stdout`` takes what the command prints, of any size, instead
        of the result. Several may run at once, from threads.
        """
        command = list(argv)
        if stdin is not None:
            # the engine takes minutes to notice that nobody reads what it is sent: what the command leaves is read for it
            script = 'n=$1; shift; head -c "$n" | { "$@"; rc=$?; cat >/dev/null; exit $rc; }'
            if stdin_size is None:
                script = script.replace('head -c "$n"', 'while read -r n && [ "$n" -gt 0 ]; do head -c "$n" || break; done')
                stdin = _framed(stdin)
            command = ["sh", "-c", script, "sh", str(stdin_size), *command]
        if timeout:
            command = ["timeout", "-k", "5", str(timeout), *command]
        doing = f'Running {argv[0]} in the container "{container}"'
        with self.explained(doing):
            # the SDK's session is not made for several threads; the streams afterwards are apart from each other
            with self._lock:
                exec_id = self.api.exec_create(
                    container, command, stdin=stdin is not None, environment=environment, privileged=privileged
                )["Id"]
                response = self.api.exec_start(exec_id, socket=True)
            raw = getattr(response, "_sock", response)
            raw.settimeout((timeout + 30) if timeout else None)
            failure: list[BaseException] = []
            sender = None
            try:
                if stdin is not None:
                    sender = threading.Thread(target=self._send, args=(raw, stdin, failure), daemon=True)
                    with deferred():
                        sender.start()
                out: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
                for stream, chunk in docker.utils.socket.frames_iter(response, tty=False):
                    if on_stdout is not None and stream == 1:
                        on_stdout(chunk)
                        continue
                    if len(out[stream]) + len(chunk) > MAX_OUTPUT:
                        raise EngineError(f"{doing} failed: it printed more than {MAX_OUTPUT} bytes")
                    out[stream] += chunk
                if sender is not None:
                    sender.join()
            finally:
                with contextlib.suppress(OSError):
                    # the HTTP response owns the socket: closed apart from it, its own end would complain
                    getattr(response, "_response", response).close()
            with self._lock:
                rc = self.api.exec_inspect(exec_id)["ExitCode"]
        if failure and (rc == 0 or isinstance(failure[0], BrokenInput)):
            raise EngineError(f"{doing} failed: its input broke off ({failure[0]})")
        return ExecResult(
            # the engine knows no status only where the container itself has gone
            137 if rc is None else rc,
            out[1].decode(errors="replace"),
            out[2].decode(errors="replace"),
        )

    @staticmethod
    def _send(raw: t.Any, chunks: c.Iterable[bytes], failure: list[BaseException]) -> None:
        def whole() -> t.Iterator[bytes]:
            try:
                yield from chunks
            except Exception as e:
                raise BrokenInput(str(e)) from e

        try:
            for chunk in whole():
                raw.sendall(chunk)
        except BrokenInput as e:
            failure.append(e)
            # the command waits for the rest: nothing but the end of the connection tells it that none comes
            with contextlib.suppress(OSError):
                raw.shutdown(socket.SHUT_RDWR)
        except Exception as e:  # the reader's end tells the cause: the command ended before its input did
            failure.append(e)

    def tunnel(self, container: str, argv: c.Sequence[str], client: socket.socket) -> None:
        """Connects a command's standard input and output with a socket, until either of them ends."""
        with self.explained(f'Running {argv[0]} in the container "{container}"'):
            exec_id = self.api.exec_create(container, list(argv), stdin=True, stderr=False)["Id"]
            response = self.api.exec_start(exec_id, socket=True)
            raw = getattr(response, "_sock", response)
            raw.settimeout(None)

            def send() -> None:
                with contextlib.suppress(OSError):
                    for chunk in iter(lambda: client.recv(65536), b""):
                        raw.sendall(chunk)
                with contextlib.suppress(OSError):
                    raw.shutdown(socket.SHUT_RDWR)

            with deferred():
                threading.Thread(target=send, daemon=True).start()
            try:
                for dummy, chunk in docker.utils.socket.frames_iter(response, tty=False):
                    client.sendall(chunk)
            finally:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
                with contextlib.suppress(OSError):
                    getattr(response, "_response", response).close()

    def exec_detached(self, container: str, argv: c.Sequence[str], *, privileged: bool = False) -> None:
        """Starts a command in a container and leaves it running."""
        with self.explained(f'Starting {argv[0]} in the container "{container}"'):
            exec_id = self.api.exec_create(container, list(argv), stdout=False, stderr=False, privileged=privileged)["Id"]
            self.api.exec_start(exec_id, detach=True)

    # files in a container

    def put_archive(self, container: str, directory: str, chunks: c.Iterable[bytes]) -> None:
        """Unpacks a tar stream into a directory of the container."""
        with self.explained(f'Copying files into the container "{container}"'):
            self.api.put_archive(container, directory, chunks)

    def stat(self, container: str, path: str) -> dict[str, t.Any] | None:
        """Name, size, mode, mtime and linkTarget of a path in a container, running or not; None where there is nothing."""
        with self.explained(f'Looking at {path} in the container "{container}"'):
            url = self.api._url("/containers/{0}/archive", container)
            response = self.api.head(url, params={"path": path}, timeout=self.api.timeout)
            if response.status_code == 404:
                if self.container(container) is None:
                    raise EngineError(f'There is no container "{container}" at {self.host} any more: run again')
                return None
            self.api._raise_for_status(response)
            return json.loads(base64.b64decode(response.headers["X-Docker-Container-Path-Stat"]))

    def read_file(self, container: str, path: str, limit: int = CHUNK) -> bytes | None:
        """The content of one small file in a container, or None where there is none."""
        with self.explained(f'Reading {path} in the container "{container}"'):
            try:
                stream, _stat = self.api.get_archive(container, path)
            except docker.errors.NotFound:
                return None
            with tarfile.open(fileobj=Reader(stream), mode="r|") as archive:
                for member in archive:
                    file = archive.extractfile(member)
                    if file is not None:
                        return file.read(limit)
        return None

    def read_directory(self, container: str, path: str, limit: int = CHUNK) -> dict[str, bytes]:
        """The content of the small files right in a directory of a container, by their names; none where there is no such directory."""
        found: dict[str, bytes] = {}
        with self.explained(f'Reading {path} in the container "{container}"'):
            try:
                stream, _stat = self.api.get_archive(container, path)
            except docker.errors.NotFound:
                return found
            with tarfile.open(fileobj=Reader(stream), mode="r|") as archive:
                for member in archive:
                    file = archive.extractfile(member) if member.isfile() and member.name.count("/") == 1 else None
                    if file is not None:
                        found[member.name.partition("/")[2]] = file.read(limit)
        return found


def _framed(chunks: c.Iterable[bytes]) -> t.Iterator[bytes]:
    """Each chunk after a line with its length, and a last line for the end."""
    for chunk in chunks:
        if chunk:
            yield b"%d\n" % len(chunk)
            yield chunk
    yield b"0\n"


class Reader:
    """A file object over chunks, for ``tarfile``; holds no more than one chunk beyond what was asked for."""

    def __init__(self, chunks: c.Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._rest) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._rest += chunk
        size = len(self._rest) if size < 0 else size
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def read_chunks(path: str, size: int = CHUNK) -> t.Iterator[bytes]:
    """A file's content in chunks."""
    with open(path, "rb") as file:
        while True:
            chunk = file.read(size)
            if not chunk:
                return
            yield chunk
