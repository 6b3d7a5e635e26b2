# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can change at any time.
"""Registries as containerd meets them: which hosts are asked for a reference, with what credentials, and what went wrong."""

from __future__ import annotations

import base64
import collections.abc as c
import contextlib
import io
import json
import os
import random
import re
import tarfile
import threading
import typing as t
import urllib.error
import urllib.parse

from ansible.module_utils.urls import open_url
from ansible_collections.nodeforge.kind.plugins.module_utils._docker import EngineError

# Docker Hub's name is not its address.
HUB, HUB_HOST = "docker.io", "registry-1.docker.io"
# A token service is asked twice at most; it answers at once or not at all.
LOGIN_TIMEOUT = 20
# This machine's own registries.
LOCAL_TIMEOUT = 2
# What an image's name may be.
MANIFESTS = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in ("oci.image.index.v1", "oci.image.manifest.v1", "docker.distribution.manifest.list.v2", "docker.distribution.manifest.v2")
)


class Credentials(t.NamedTuple):
    """A user of one registry."""

    username: str
    password: str

    @property
    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def registry_name(name: str) -> str:
    """A registry as credentials and mirrors name it: its host and port, whatever of a URL is around it; docker.io for all of that one's hosts."""
    name = name.split("://", 1)[-1].split("/", 1)[0]
    return HUB if name in (HUB_HOST, "index.docker.io") else name


class Logins:
    """Who is who where: the given credentials, then those that ``docker login`` left, in its file or with a credential helper."""

    def __init__(
        self,
        given: dict[str, Credentials],
        directory: str,
        run: c.Callable[[list[str], str], tuple[int, str, str]],
        warn: c.Callable[[str], None],
    ) -> None:
        """``run`` runs a command with a text as its input; ``directory`` is Docker's, empty for none."""
        self.given = given
        self._known: dict[str, Credentials | None] = dict(given)
        self._path = os.path.join(directory, "config.json") if directory else ""
        self._run = run
        self._warn = warn
        self._config: dict[str, t.Any] | None = None
        self._lock = threading.Lock()

    def find(self, host: str) -> Credentials | None:
        name = registry_name(host)
        with self._lock:
            if name not in self._known:
                self._known[name] = self._stored(name)
            return self._known[name]

    def may_know(self, host: str) -> bool:
        """Whether somebody may be known there; no helper is asked."""
        name = registry_name(host)
        with self._lock:
            if name in self._known:
                return self._known[name] is not None
            config = self._read()
            return bool(config["credHelpers"].get(name) or config["credsStore"] or any(registry_name(key) == name for key in config["auths"]))

    def _stored(self, name: str) -> Credentials | None:
        config = self._read()
        helper = config["credHelpers"].get(name) or config["credsStore"]
        # what Docker itself calls its registry
        server = "https://index.docker.io/v1/" if name == HUB else name
        if helper:
            return self._ask(str(helper), server)
        for key, entry in config["auths"].items():
            if registry_name(key) == name and isinstance(entry, dict):
                if entry.get("identitytoken"):
                    self._warn(f'"{self._path}" has an identity token for {name}, which is of no use here: give credentials')
                    return None
                with contextlib.suppress(ValueError):
                    username, colon, password = base64.b64decode(entry.get("auth") or "", validate=True).decode().partition(":")
                    if colon and username:
                        return Credentials(username, password.rstrip("\0"))
        return None

    def _read(self) -> dict[str, t.Any]:
        if self._config is None:
            found: t.Any = {}
            try:
                with open(self._path, encoding="utf-8") as file:
                    found = json.load(file)
            except FileNotFoundError:
                pass
            except (OSError, ValueError) as e:
                self._warn(f'"{self._path}" cannot be read ({getattr(e, "strerror", None) or e}), so its credentials are not used: correct it')
            found = found if isinstance(found, dict) else {}
            self._config = {
                "auths": found.get("auths") if isinstance(found.get("auths"), dict) else {},
                "credHelpers": found.get("credHelpers") if isinstance(found.get("credHelpers"), dict) else {},
                "credsStore": found.get("credsStore"),
            }
        return self._config

    def _ask(self, helper: str, server: str) -> Credentials | None:
        program = f"docker-credential-{helper}"
        # a helper may want to ask a person, who is not there
        rc, out, err = self._run(["timeout", "-k", "5", str(LOGIN_TIMEOUT), program, "get"], server)
        try:
            answer = json.loads(out)
            if rc == 0 and answer["Username"] and answer["Username"] != "<token>":
                return Credentials(answer["Username"], answer["Secret"])
        except (ValueError, KeyError, TypeError):
            pass
        if "credentials not found" not in out + err:
            # its words are not shown: they may hold what it keeps
            self._warn(f'{program}, which "{self._path}" names, gives no user and password for {server} (status {rc}): mend it, or give credentials')
        return None


# hosts


def split_url(url: str) -> urllib.parse.SplitResult | None:
    """The parts of a plain URL; None for what is none, of which urllib tells by halves only, and late."""
    try:
        parts = urllib.parse.urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not (parts.query or parts.fragment or re.search(r"\s", url))
    except ValueError:
        return None
    return parts if sound else None


def check_url(url: str) -> str:
    """A mirror's address, without a slash at its end."""
    parts = split_url(url)
    if parts is None:
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
    return f"{'http' if is_local(f'http://{host}') else 'https'}://{host}"


def is_local(url: str) -> bool:
    """Whether it is this very machine, where nothing goes over a network."""
    name = urllib.parse.urlsplit(url).hostname or ""
    return name in ("localhost", "::1") or bool(re.fullmatch(r"127(\.\d+){3}", name))


def hosts_toml(urls: c.Sequence[str], headers: c.Mapping[str, str], authorities: c.Mapping[str, str] | None = None) -> str:
    """A hosts.toml that asks these hosts in this order, and no other one.

    containerd always asks the server after all hosts, so the last one is that: the registry itself is asked only where listed.
    ``headers`` holds an Authorization header by URL, ``authorities`` a file of certificates beside the hosts.toml.
    """
    *others, last = urls
    authorities = authorities or {}
    lines = [f"server = {_quoted(last)}", *_settings(last, authorities)]
    if last in headers:
        lines += ["[header]", f"  Authorization = {_quoted(headers[last])}"]
    for url in others:
        lines += [f"[host.{_quoted(url)}]", *("  " + line for line in _settings(url, authorities))]
        if url in headers:
            lines += [f"  [host.{_quoted(url)}.header]", f"    Authorization = {_quoted(headers[url])}"]
    if not others:
        lines.append("[host]")  # containerd 1.x takes no file without such a table
    return "\n".join(lines) + "\n"


def _settings(url: str, authorities: c.Mapping[str, str]) -> list[str]:
    settings = ['capabilities = ["pull", "resolve"]']
    if url in authorities:
        settings.append(f"ca = {_quoted(authorities[url])}")
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


def authorization(url: str, path: str, logins: Logins, authority: str | None = None, actions: str = "pull") -> str | None:
    """The Authorization header for ``actions`` on the repository ``path`` from the host at ``url``; None where nobody is known there.

    containerd takes a header from a file, but a user and a password only from its command line, where all processes see
    them. So a token is fetched here where the host wants one. Raises where it refuses the credentials, or where others could
    read them; a host that cannot be reached from here gets them as they are. ``authority`` is a file of certificates.
    """
    credentials = logins.find(host_of(url))
    if credentials is None:
        return None
    if not url.startswith("https:") and not is_local(url):
        raise EngineError(
            f'The password of "{credentials.username}" would go to {host_of(url)} without TLS, for all to read: write its URL with https://, '
            "or give no credentials for it"
        )
    base, _slash, prefix = url.partition("/v2/")
    challenge = _challenge(base.rstrip("/") + "/v2/", authority)
    scheme, _space, rest = challenge.partition(" ")
    if scheme.lower() != "bearer":
        return credentials.basic
    fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
    repository = f"{prefix.strip('/')}/{path}".lstrip("/")
    query = {"scope": f"repository:{repository}:{actions}", "account": credentials.username}
    if "service" in fields:
        query["service"] = fields["service"]
    realm = fields.get("realm", "")
    if not _belongs(realm, url, logins):
        raise EngineError(
            f'{host_of(url)} sends logins to "{realm[:200]}", where the password of "{credentials.username}" does not go: it has to be https:// and '
            "a host of the same domain; if it is right, name that host in credentials, too"
        )
    token_url = realm + ("&" if "?" in realm else "?") + urllib.parse.urlencode(query)
    try:
        answer = json.load(_open(token_url, authority, {"Authorization": credentials.basic}))
        return "Bearer " + (answer.get("token") or answer["access_token"])
    except urllib.error.HTTPError as e:
        if e.code in (401, 403):
            raise EngineError(refused(host_of(url), credentials)) from e
    except Exception:  # the pull itself tells what is wrong with the host
        pass
    return credentials.basic


def _belongs(realm: str, url: str, logins: Logins) -> bool:
    """Whether a token service may have the password that is for the registry at ``url``."""
    try:
        service, registry = urllib.parse.urlsplit(realm).hostname or "", urllib.parse.urlsplit(url).hostname or ""
    except ValueError:
        return False
    if not service or not (realm.startswith("https://") or (realm.startswith("http://") and is_local(realm) and is_local(url))):
        return False
    if service == registry or registry_name(realm) in logins.given:
        return True
    # auth.docker.io for registry-1.docker.io, gitlab.com for registry.gitlab.com; an address has no domain
    domain = registry.partition(".")[2] if registry.count(".") > 1 else registry
    return not re.fullmatch(r"[\d.]+|.*:.*", registry) and (service == domain or service.endswith(f".{domain}"))


def _open(
    url: str,
    authority: str | None,
    headers: dict[str, str] | None = None,
    method: str = "GET",
    timeout: float = LOGIN_TIMEOUT,
    data: bytes | None = None,
) -> t.Any:
    # a redirect would take the password along
    follow = "none" if headers else "urllib2"
    # like containerd, never by way of a proxy to this very machine; and ~/.netrc would put its own user in the header's place
    return open_url(
        url,
        method=method,
        data=data,
        headers=headers,
        timeout=timeout,
        ca_path=authority,
        follow_redirects=follow,
        use_proxy=not is_local(url),
        use_netrc=False,
    )


def has(url: str, path: str, name: str, header: str | None) -> bool:
    """Whether the registry at ``url``, one of this machine, has the image ``path`` under this tag or digest. It answers at once."""
    base = url if "/v2/" in url + "/" else f"{url}/v2"
    try:
        headers = {"Accept": MANIFESTS, **({"Authorization": header} if header else {})}
        return _open(f"{base}/{path}/manifests/{name}", None, headers, "HEAD", LOCAL_TIMEOUT).status == 200
    except Exception:  # whatever it is, the image does not come from there
        return False


class Answer(t.NamedTuple):
    """What a registry has given."""

    body: bytes
    kind: str


class Repository:
    """A repository of a registry, to read from and to write small documents to."""

    def __init__(self, host: str, path: str, logins: Logins, authority: str | None = None, insecure: bool = False) -> None:
        url = upstream(host)
        self._url = f"http://{host_of(url)}" if insecure else url
        self._name, self._path, self._authority, self._logins = f"{host}/{path}", path, authority, logins
        self._header = authorization(self._url, path, logins, authority, "pull,push")

    def request(self, method: str, what: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> Answer | None:
        """None for what is not there. What a registry has elsewhere is asked for there, without the password."""
        url = f"{self._url}/v2/{self._path}/{what}"
        sent = {**(headers or {}), **({"Authorization": self._header} if self._header else {})}
        try:
            try:
                answer = _open(url, self._authority, sent, method, data=data)
            except urllib.error.HTTPError as e:
                if method != "GET" or e.code not in (301, 302, 303, 307, 308):
                    raise
                answer = _open(urllib.parse.urljoin(url, e.headers["Location"]), self._authority)
            return Answer(answer.read(), answer.headers.get("Content-Type") or "")
        except urllib.error.HTTPError as e:
            if e.code == 404 and method == "GET":
                return None
            raise EngineError(self._refusal(e)) from e
        except Exception as e:  # open_url lets through whatever a connection may end with
            cause = cause_of(str(getattr(e, "reason", e)))
            raise EngineError(f"{self._name} cannot be used: {cause.text}; {cause.remedy}") from e

    def _refusal(self, error: urllib.error.HTTPError) -> str:
        known = self._logins.find(host_of(self._url))
        if error.code == 401 and known:
            return refused(host_of(self._url), known)
        if error.code in (401, 403):
            return f"{host_of(self._url)} does not let {known.username if known else 'somebody unknown'} write to {self._name}: log in as one who may"
        told = " ".join(error.read(300).decode(errors="replace").split())
        return f"{host_of(self._url)} refuses a request for {self._name} ({error.code} {told}): see the registry's log and run again"


def _challenge(url: str, authority: str | None) -> str:
    try:
        _open(url, authority)
    except urllib.error.HTTPError as e:
        return e.headers.get("WWW-Authenticate") or "" if e.code == 401 else ""
    except Exception:  # as above
        pass
    return ""


def refused(host: str, credentials: Credentials) -> str:
    """The sentence for a wrong password."""
    return f'{host} refused the credentials of the user "{credentials.username}": correct them in credentials, or with docker login'


# failures


class Cause(t.NamedTuple):
    """Why a transfer failed, whether another try may help, and what the user can do about it."""

    text: str
    retry: bool
    remedy: str
    # what was received is wrong and must not be used for the next try
    dirty: bool = False
    # how much longer than usual to wait before the next try, and how many seconds at least
    patience: int = 1
    wait: float = 0


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
    (r"proxyconnect tcp: |Proxy Authentication Required", Cause("the proxy on the way does not let it through", True, "correct HTTPS_PROXY or NO_PROXY")),
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
        Cause("its certificate is not trusted ({0})", False, "give the authority's certificate in ca_files"),
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
    """What ctr says at its end, without its log. What a registry said stands on lines of its own."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if line.startswith("ctr: ")]
    return " ".join(lines[starts[-1] :])[5:] if starts else (lines or [""])[-1]


def cause_of(error: str) -> Cause:
    """Classifies containerd's own words. An unknown cause is quoted, and tried again: most unknown things pass."""
    for pattern, cause in _CAUSES:
        match = re.search(pattern, error, re.IGNORECASE | re.MULTILINE)
        if match:
            return cause._replace(text=cause.text.format(*match.groups()) if match.groups() else cause.text, wait=_asked_wait(error))
    return Cause(error or "ctr ended without a word", True, "see containerd's words and run again")


def _asked_wait(error: str) -> float:
    """Seconds to wait where the registry's words tell them, such as "retry-after: 1.5s"."""
    match = re.search(r"retry[- ]after[\"']?[:= ]+[\"']?(\d+(?:\.\d+)?)(ms|[µu]s|ns|m(?!\w)|)", error, re.IGNORECASE)
    factors = {"ms": 1e-3, "µs": 1e-6, "us": 1e-6, "ns": 1e-9, "m": 60}
    return float(match.group(1)) * factors.get(match.group(2).lower(), 1) if match else 0


def blamed_host(error: str) -> str | None:
    """The host in the last URL that containerd mentions."""
    hosts = re.findall(r"https?://([^/\s\"]+)", error)
    return hosts[-1] if hosts else None


def backoff(attempt: int, delay: float, patience: int = 1, jitter: c.Callable[[], float] = random.random, wait: float = 0) -> float:
    """Seconds before the next try after the ``attempt``-th (from 0): doubled each time, at most a minute, never in step with others.

    ``wait`` is what the registry asks for: no less than that, up to five minutes.
    """
    return max(min(60.0, delay * patience * 2**attempt) * (0.5 + jitter()), min(300.0, wait))
