# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can change at any time.
"""Registries as containerd meets them: which hosts are asked for a reference, with what credentials, and what went wrong."""

from __future__ import annotations

import base64
import collections.abc as c
import io
import json
import random
import re
import tarfile
import typing as t
import urllib.error
import urllib.parse

from ansible.module_utils.urls import open_url
from ansible_collections.nodeforge.kind.plugins.module_utils._docker import EngineError

# Docker Hub's name is not its address.
HUB, HUB_HOST = "docker.io", "registry-1.docker.io"
# A token service is asked twice at most; it answers at once or not at all.
LOGIN_TIMEOUT = 20


class Credentials(t.NamedTuple):
    """A user of one registry."""

    username: str
    password: str

    @property
    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


# hosts


def check_url(url: str) -> str:
    """A mirror's address, without a slash at its end."""
    try:
        parts = urllib.parse.urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not (parts.query or parts.fragment)
    except ValueError:
        sound = False
    if not sound:
        raise EngineError(f'The mirror "{url}" is not a URL: write it like http://127.0.0.1:5000 or https://mirror.example.com')
    if parts.username or parts.password:
        raise EngineError(f'The mirror at "{parts.hostname}" has credentials in its URL, where logs would show them: give them in credentials')
    return url.rstrip("/")


def host_of(url: str) -> str:
    """The host, and its port where it names one."""
    return urllib.parse.urlsplit(url).netloc


def upstream(registry: str) -> str:
    """The registry's own URL; without TLS where it is this very machine, as every client does."""
    host = HUB_HOST if registry == HUB else registry
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    local = name in ("localhost", "[::1]") or re.fullmatch(r"127(\.\d+){3}", name)
    return f"{'http' if local else 'https'}://{host}"


def hosts_toml(urls: c.Sequence[str], headers: c.Mapping[str, str]) -> str:
    """A hosts.toml that asks these hosts in this order, and no other one.

    containerd always asks the server after all hosts, so the last one is that: the registry itself is asked only where listed.
    ``headers`` holds an Authorization header by URL.
    """
    *others, last = urls
    lines = [f"server = {_quoted(last)}", *_settings(last)]
    if last in headers:
        lines += ["[header]", f"  Authorization = {_quoted(headers[last])}"]
    for url in others:
        lines += [f"[host.{_quoted(url)}]", *("  " + line for line in _settings(url))]
        if url in headers:
            lines += [f"  [host.{_quoted(url)}.header]", f"    Authorization = {_quoted(headers[url])}"]
    if not others:
        lines.append("[host]")  # containerd 1.x takes no file without such a table
    return "\n".join(lines) + "\n"


def _settings(url: str) -> list[str]:
    settings = ['capabilities = ["pull", "resolve"]']
    if "/v2/" in urllib.parse.urlsplit(url).path + "/":
        # such as https://harbor.example.com/v2/project: the path is whole, none is added
        settings.append("override_path = true")
    return settings


def _quoted(text: str) -> str:
    return json.dumps(text)


def hosts_archive(files: c.Mapping[str, bytes]) -> bytes:
    """A small tar archive of configuration files, for root's eyes only."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o600
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


# credentials


def authorization(url: str, path: str, credentials: Credentials) -> str:
    """The Authorization header for pulling the repository ``path`` from the host at ``url``.

    containerd takes a header from a file, but a user and a password only from its command line, where all processes see
    them. So a token is fetched here where the host wants one. Raises where it refuses the credentials; a host that cannot
    be reached from here gets them as they are.
    """
    base, _slash, prefix = url.partition("/v2/")
    challenge = _challenge(base.rstrip("/") + "/v2/")
    scheme, _space, rest = challenge.partition(" ")
    if scheme.lower() != "bearer":
        return credentials.basic
    fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
    repository = f"{prefix.strip('/')}/{path}".lstrip("/")
    query = {"scope": f"repository:{repository}:pull", "account": credentials.username}
    if "service" in fields:
        query["service"] = fields["service"]
    realm = fields.get("realm", "")
    token_url = realm + ("&" if "?" in realm else "?") + urllib.parse.urlencode(query)
    try:
        answer = json.load(open_url(token_url, headers={"Authorization": credentials.basic}, timeout=LOGIN_TIMEOUT))
        return "Bearer " + (answer.get("token") or answer["access_token"])
    except urllib.error.HTTPError as e:
        if e.code in (401, 403):
            raise EngineError(refused(host_of(url), credentials)) from e
    except Exception:  # the pull itself tells what is wrong with the host
        pass
    return credentials.basic


def _challenge(url: str) -> str:
    try:
        open_url(url, timeout=LOGIN_TIMEOUT)
    except urllib.error.HTTPError as e:
        return e.headers.get("WWW-Authenticate") or "" if e.code == 401 else ""
    except Exception:  # as above
        pass
    return ""


def refused(host: str, credentials: Credentials) -> str:
    """The sentence for a wrong password."""
    return f'{host} refused the credentials of the user "{credentials.username}": correct them in credentials'


# failures


class Cause(t.NamedTuple):
    """Why a transfer failed, whether another try may help, and what the user can do about it."""

    text: str
    retry: bool
    remedy: str
    # what was received is wrong and must not be used for the next try
    dirty: bool = False
    # how much longer than usual to wait before the next try
    patience: int = 1


_CAUSES: tuple[tuple[str, Cause], ...] = (
    (
        r"no space left on device|disk quota exceeded",
        Cause("the disk of the container engine is full", False, "free space there (docker system df) and run again"),
    ),
    (
        r"unexpected commit digest|unexpected commit size|failed size validation|digest mismatch",
        Cause("what it sent does not match the digest", True, "the registry or a proxy on the way alters images: use another mirror", dirty=True),
    ),
    (
        r"no match for platform|does not provide the specified platform",
        Cause("the image is not there for this platform", False, "choose another platform or an image that is made for it"),
    ),
    (r"\b401 Unauthorized|authorization failed|no basic auth", Cause("it wants credentials (401)", False, "give or correct them in credentials")),
    (
        r"\b403 Forbidden|insufficient_scope|denied:",
        Cause("access is denied (403)", False, "the user in credentials needs the right to pull it, or the image does not exist there"),
    ),
    (
        r"\b429 Too Many Requests",
        Cause("it limits requests (429)", True, "wait, give credentials, or use a mirror", patience=4),
    ),
    (r"\b(5\d\d [A-Z][A-Za-z ]+)", Cause("it has trouble of its own ({0})", True, "try again later or use another mirror")),
    (r": not found|\b404 Not Found", Cause("it is not there (404)", False, "correct the reference, or add the image to that registry")),
    (r"no such host", Cause("the name of the host is not known", False, "correct the reference or the mirror, or mend name resolution")),
    (r"connection refused", Cause("the connection was refused", True, "start the registry, or correct the mirror or the reference")),
    (
        r"no route to host|network is unreachable",
        Cause("there is no route to it", True, "mend the network, or name a mirror that the container reaches"),
    ),
    (
        r"x509: (.+)",
        Cause("its certificate is not trusted ({0})", False, "put the authority's certificate into hosts_dir (ca in hosts.toml)"),
    ),
    (
        r"server gave HTTP response to HTTPS client|does not look like a TLS handshake",
        Cause("it speaks plain HTTP", False, "write the mirror's URL with http://"),
    ),
    (
        r"connection reset|broken pipe|unexpected EOF|\bEOF$|short read|server closed|GOAWAY",
        Cause("the connection broke off", True, "mend the network or use another mirror"),
    ),
    (
        r"timeout|deadline exceeded|temporary failure in name resolution|server misbehaving",
        Cause("it gave no answer in time", True, "mend the network or use another mirror"),
    ),
)


def last_error(stderr: str) -> str:
    """What ctr says at its end, without its log."""
    lines = [line for line in stderr.splitlines() if line.startswith("ctr: ")] or [line for line in stderr.splitlines() if line.strip()]
    return lines[-1][5:].strip() if lines and lines[-1].startswith("ctr: ") else (lines[-1].strip() if lines else "")


def cause_of(error: str) -> Cause:
    """Classifies containerd's own words. An unknown cause is quoted, and tried again: most unknown things pass."""
    for pattern, cause in _CAUSES:
        match = re.search(pattern, error, re.IGNORECASE | re.MULTILINE)
        if match:
            return cause._replace(text=cause.text.format(*match.groups())) if match.groups() else cause
    return Cause(error or "ctr ended without a word", True, "see containerd's words and run again")


def blamed_host(error: str) -> str | None:
    """The host in the last URL that containerd mentions."""
    hosts = re.findall(r"https?://([^/\s\"]+)", error)
    return hosts[-1] if hosts else None


def backoff(attempt: int, delay: float, patience: int = 1, jitter: c.Callable[[], float] = random.random) -> float:
    """Seconds before the next try after the ``attempt``-th (from 0): doubled each time, at most a minute, never in step with others."""
    return min(60.0, delay * patience * 2**attempt) * (0.5 + jitter())
