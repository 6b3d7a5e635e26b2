# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can change at any time.
"""Files by HTTP over bad networks: tried again, continued where they broke off, and kept only when they are what they should be."""

from __future__ import annotations

import collections.abc as c
import contextlib
import errno
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import tempfile
import time
import typing as t
import urllib.error
import urllib.parse

from ansible.module_utils.urls import open_url
from ansible_collections.nodeforge.kind.plugins.module_utils._artifacts import Checksum, hash_of
from ansible_collections.nodeforge.kind.plugins.module_utils._registry import Cause, backoff, host_of
from ansible_collections.nodeforge.kind.plugins.module_utils._tree import TreeError

CHUNK = 256 * 1024
# Checksums and markers are lines; whatever is larger is none.
MAX_TEXT = 64 * 1024
# Seconds between two lines of progress
REPORT_EVERY = 5
CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
MISSING = "it is not there"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# a ValueError is what a redirect to no URL ends in
NETWORK = (urllib.error.URLError, http.client.HTTPException, OSError, ValueError)

Read = t.TypeVar("Read")


class Failed(Exception):
    """One try that came to nothing."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.text)
        self.cause = cause


class DownloadError(TreeError):
    """No server gave the file."""

    def __init__(self, text: str, causes: c.Sequence[Cause]) -> None:
        super().__init__(text)
        # all servers said so themselves
        self.missing = all(cause.text.startswith(MISSING) for cause in causes)
        # none had an answer: what was learned earlier may still do
        self.unreachable = all(cause.retry for cause in causes)


def size_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def content_range(value: str | None) -> tuple[int | None, int | None]:
    """Start and total of a Content-Range header; None where it does not tell."""
    match = re.match(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)\Z", (value or "").strip())
    if match is None:
        return None, None
    return (int(match.group(1)) if match.group(1) else None), (int(match.group(2)) if match.group(2) != "*" else None)


def validator(headers: t.Any) -> str | None:
    """What If-Range takes: a strong ETag, else the time of the last change."""
    etag = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def cause_of(error: BaseException) -> Cause:
    """Why a request failed, whether another try may help, and what to do about it."""
    if isinstance(error, urllib.error.HTTPError):
        told = f"{error.code} {error.reason or http.client.responses.get(error.code, '')}".strip()
        if error.code in (404, 410):
            return Cause(f"{MISSING} ({told})", False, "correct source, or name in urls a server that has it")
        if error.code in (401, 403, 407):
            return Cause(f"it is not given to everybody ({told})", False, "put the user and password for that host into ~/.netrc, or name another server")
        if error.code == 429:
            return Cause(f"it limits requests ({told})", True, "wait, or name another server", patience=4, wait=retry_after(error))
        again = error.code in (408, 425) or error.code >= 500
        return Cause(f"the server answered {told}", again, "try again later, or name another server", wait=retry_after(error))
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        why = getattr(reason, "verify_message", reason)
        return Cause(f"its certificate is not trusted ({why})", False, "name the authority's certificate in ca_path")
    if isinstance(reason, ssl.SSLError):
        return Cause(f"TLS failed ({reason.reason or reason})", False, "write the URL with http:// if that is what the server speaks")
    if isinstance(reason, socket.gaierror):
        return Cause("the name of its host is not known", reason.errno == socket.EAI_AGAIN, "correct the URL, or mend name resolution or the proxy")
    if isinstance(reason, socket.timeout):
        return Cause("it gave no answer in time", True, "mend the network, or name another server")
    if isinstance(reason, ConnectionRefusedError):
        return Cause("the connection was refused", True, "start the server, or correct the URL or the proxy")
    if isinstance(reason, (http.client.InvalidURL, ValueError)) and not isinstance(reason, OSError):
        return Cause(f"it leads to what is no URL ({reason})", False, "correct the URL, or name another server")
    if isinstance(reason, (http.client.HTTPException, ConnectionError)):
        return Cause("the connection broke off", True, "mend the network, or name another server")
    return Cause(str(getattr(reason, "strerror", None) or reason or type(error).__name__), True, "mend the network, or name another server")


def retry_after(error: urllib.error.HTTPError) -> float:
    """Seconds that the server asks to wait."""
    value = str(error.headers.get("Retry-After", "") if error.headers else "").strip()
    return float(value) if re.match(r"[0-9]{1,9}\Z", value) else 0.0


def check_authorities(path: str) -> str:
    """A file that ca_path names."""
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError as e:
        raise TreeError(f'The file "{path}" of ca_path holds no certificate; give one in PEM format.') from e
    except OSError as e:
        raise TreeError(f'The certificates "{path}" of ca_path cannot be read ({e.strerror or e}); correct the path.') from e
    return path


def authorities(path: str) -> str:
    """Certificates in this file and of this host, as one text: with a file Ansible trusts nobody else."""
    paths = ssl.get_default_verify_paths()
    files = [path, paths.cafile or ""]
    for directory in os.environ.get(paths.openssl_capath_env, paths.openssl_capath).split(os.pathsep):
        with contextlib.suppress(OSError):
            files += [os.path.join(directory, name) for name in sorted(os.listdir(directory))]
    found: dict[str, None] = {}
    for file in dict.fromkeys(os.path.realpath(file) for file in files):
        with contextlib.suppress(OSError), open(file, encoding="utf-8", errors="replace") as certificates:
            found.update(dict.fromkeys(CERTIFICATE.findall(certificates.read())))
    return "\n".join([*found, ""])


class Downloader:
    """Requests with retries. ``tick`` is called often and may end everything by raising; ``log`` takes lines of progress."""

    def __init__(
        self,
        *,
        timeout: float,
        retries: int,
        delay: float,
        ca_path: str | None = None,
        tick: t.Callable[[], None] = lambda: None,
        log: t.Callable[[str], None] = lambda line: None,
        sleep: t.Callable[[float], None] = time.sleep,
    ) -> None:
        self.timeout, self.retries, self.delay, self.ca_path = timeout, retries, delay, ca_path
        self.bundle: t.Any = None
        self.tick, self.log, self.sleep = tick, log, sleep

    # -- one server after the other ------------------------------------------------------------------------------------

    def text(self, urls: c.Sequence[str], read: t.Callable[[str], Read]) -> Read:
        """What ``read`` finds in a small file of the first server that has it; it raises Failed where that is not what was asked for."""
        return self._first(urls, lambda url: read(self._text(url)))[0]

    def file(self, urls: c.Sequence[str], destination: str, checksum: Checksum) -> str:
        """A file under its name, once it is whole and right; the URL that gave it. What came of it stays in ``.part`` after a failure."""
        return self._first(urls, lambda url: self._file(url, destination, checksum))[1]

    def _first(self, urls: c.Sequence[str], get: t.Callable[[str], Read]) -> tuple[Read, str]:
        failures: list[tuple[str, Cause]] = []
        for url in urls:
            try:
                return get(url), url
            except Failed as e:
                failures.append((url, e.cause))
                self.log(f"{url}: {e.cause.text}")
        told = "; ".join(f"{url}: {cause.text}" for url, cause in failures)
        raise DownloadError(f"{told}; {failures[-1][1].remedy}.", [cause for dummy, cause in failures])

    # -- one server, several tries -----------------------------------------------------------------------------------------

    def _tried(self, attempt: int, failure: Failed) -> int:
        """Waits before the next try, or gives up."""
        if not failure.cause.retry or attempt >= self.retries:
            raise failure
        wait = backoff(attempt, self.delay, failure.cause.patience, wait=failure.cause.wait)
        self.log(f"{failure.cause.text}, trying again in {wait:.1f} s")
        while wait > 0:
            self.sleep(min(wait, 1))
            self.tick()
            wait -= 1
        return attempt + 1

    def close(self) -> None:
        """Removes what was needed for the connections."""
        if self.bundle:
            self.bundle.close()

    @contextlib.contextmanager
    def _open(self, url: str, headers: dict[str, str]) -> t.Iterator[t.Any]:
        if self.ca_path and self.bundle is None:
            self.bundle = tempfile.NamedTemporaryFile("w", suffix=".pem", encoding="utf-8")  # gone with close()
            self.bundle.write(authorities(self.ca_path))
            self.bundle.flush()
        # no encoding on the way: what is counted and continued is the file itself
        response = open_url(
            url,
            headers={"Accept-Encoding": "identity", **headers},
            timeout=self.timeout,
            ca_path=self.bundle.name if self.bundle else None,
            decompress=False,
            http_agent="nodeforge.kind",
        )
        try:
            yield response
        finally:
            response.close()

    def _text(self, url: str) -> str:
        attempt = 0
        while True:
            try:
                with self._open(url, {}) as response:
                    text: bytes = response.read(MAX_TEXT)
                return text.decode("utf-8", "replace")
            except NETWORK as e:
                attempt = self._tried(attempt, Failed(cause_of(e)))

    def _file(self, url: str, destination: str, checksum: Checksum) -> str:
        part = f"{destination}.part"
        attempt = furthest = 0
        continued = size_of(part) > 0
        while True:
            try:
                try:
                    self._transfer(url, part)
                except NETWORK as e:
                    if not isinstance(e, urllib.error.URLError) and (getattr(e, "filename", None) or getattr(e, "errno", 0) in FULL):
                        raise  # not the network's, but of the file here
                    raise Failed(cause_of(e)) from e
            except Failed as e:
                # as long as something comes each time, a long way over a bad line has no fixed number of tries
                if size_of(part) > furthest:
                    attempt, furthest = 0, size_of(part)
                attempt = self._tried(attempt, e)
                continued = size_of(part) > 0
                continue
            found = hash_of(part, checksum.algorithm)
            if found == checksum.digest:
                os.replace(part, destination)
                self._forget(part)
                return url
            self._drop(part)
            if not continued:
                remedy = "correct the checksum, or name another server: this one, or a proxy on the way, alters files"
                raise Failed(Cause(f"its {checksum.algorithm} is {found} instead of {checksum.digest}, so nothing of it was kept", False, remedy))
            # its beginning may have been another file's
            self.log("what came does not match the checksum, starting again")
            continued = False

    # -- one try -----------------------------------------------------------------------------------------------------------

    def _transfer(self, url: str, part: str) -> None:
        offset = size_of(part)
        headers = {}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            known = self._validator(part, url)
            if known:
                headers["If-Range"] = known
        try:
            with self._open(url, headers) as response:
                start, dummy = content_range(response.headers.get("Content-Range"))
                if response.status != 206:
                    start = 0  # it does not continue files, or has another one now
                elif start != offset:
                    self._drop(part)
                    raise http.client.HTTPException("another range than was asked for")
                self._remember(part, url, validator(response.headers))
                length = response.headers.get("Content-Length") or ""
                self._receive(response, part, start or 0, int(length) if length.isdigit() else None, url)
        except urllib.error.HTTPError as e:
            if e.code != 416 or not offset:
                raise
            # nothing is left to send: it is whole, or it is not this file
            if content_range(e.headers.get("Content-Range"))[1] != offset:
                self._drop(part)
                raise http.client.HTTPException("the range is not there") from e

    def _receive(self, response: t.Any, part: str, start: int, length: int | None, url: str) -> None:
        free = shutil.disk_usage(os.path.dirname(part)).free + (size_of(part) - start)
        if length is not None and length > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), part)
        name = posix_name(url)
        got, began = 0, time.monotonic()
        reported = began
        with open(part, "ab" if start else "wb", buffering=0) as file:
            if not start:
                file.truncate(0)
            while True:
                chunk = response.read1(CHUNK)
                if not chunk:
                    break
                view = memoryview(chunk)
                while view:
                    view = view[file.write(view) :]
                got += len(chunk)
                self.tick()
                now = time.monotonic()
                if now - reported >= REPORT_EVERY:
                    reported = now
                    self.log(progress(name, start + got, None if length is None else start + length, got / (now - began)))
        if length is not None and got != length:
            raise http.client.HTTPException(f"{got} of {length} bytes came")

    # -- what is known of a part -------------------------------------------------------------------------------------------

    @staticmethod
    def _remember(part: str, url: str, value: str | None) -> None:
        with open(f"{part}.json", "w", encoding="utf-8") as file:
            json.dump({"url": url, "validator": value}, file)

    @staticmethod
    def _validator(part: str, url: str) -> str | None:
        """Only of the same URL: another server's file is the same by its checksum, not by its ETag."""
        try:
            with open(f"{part}.json", encoding="utf-8") as file:
                known = json.load(file)
            return known["validator"] if known["url"] == url else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @staticmethod
    def _forget(part: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(f"{part}.json")

    def _drop(self, part: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(part)
        self._forget(part)


def posix_name(url: str) -> str:
    return urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2]) or host_of(url)


def progress(name: str, got: int, total: int | None, speed: float) -> str:
    """One line: what, how far, how fast."""
    of = f" of {total / 1e6:.0f}" if total else ""
    share = f" ({100 * got // total} %)" if total else ""
    return f"{name}: {got / 1e6:.0f}{of} MB{share}, {speed / 1e6:.1f} MB/s"
