# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How registries are asked, and what is made of their failures."""

from __future__ import annotations

import base64
import http.server
import io
import json
import pathlib
import sys
import tarfile
import threading

import pytest
from ansible_collections.nodeforge.kind.plugins.module_utils import _registry as registry
from ansible_collections.nodeforge.kind.plugins.module_utils._docker import EngineError

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = None


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("docker.io", "https://registry-1.docker.io"),
        ("registry.k8s.io", "https://registry.k8s.io"),
        ("localhost:5000", "http://localhost:5000"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("127.example.com", "https://127.example.com"),
    ],
)
def test_upstream(name: str, url: str) -> None:
    assert registry.upstream(name) == url


@pytest.mark.parametrize("url", ["mirror:5000", "ftp://x", "http://", "http://x:port", "http://x:99999", "http://x/?a=b", ""])
def test_bad_urls(url: str) -> None:
    with pytest.raises(EngineError, match="is not a URL"):
        registry.check_url(url)


def test_a_url_must_not_hold_a_password() -> None:
    with pytest.raises(EngineError) as error:
        registry.check_url("https://user:hidden@mirror.example.com")
    assert "hidden" not in str(error.value)
    assert registry.check_url("https://mirror.example.com/") == "https://mirror.example.com"


@pytest.mark.skipif(tomllib is None, reason="needs a TOML parser")
def test_hosts_toml() -> None:
    one = tomllib.loads(registry.hosts_toml(["http://127.0.0.1:5000"], {}))
    # no host but this one: the server is the last that containerd asks
    assert one == {"server": "http://127.0.0.1:5000", "capabilities": ["pull", "resolve"], "host": {}}
    urls = ["http://a:1", "https://harbor.example.com/v2/project", "https://registry.k8s.io"]
    three = tomllib.loads(registry.hosts_toml(urls, {urls[0]: 'Basic "x"', urls[2]: "Bearer y"}))
    assert three["server"] == urls[2] and three["header"] == {"Authorization": "Bearer y"} and three["capabilities"] == ["pull", "resolve"]
    assert list(three["host"]) == urls[:2]
    assert three["host"][urls[0]] == {"capabilities": ["pull", "resolve"], "header": {"Authorization": 'Basic "x"'}}
    trusted = tomllib.loads(registry.hosts_toml(urls, {}, {urls[0]: "ca-0.pem", urls[2]: "ca-1.pem"}))
    assert (trusted["ca"], trusted["host"][urls[0]]["ca"]) == ("ca-1.pem", "ca-0.pem") and "ca" not in trusted["host"][urls[1]]
    assert three["host"][urls[1]] == {"capabilities": ["pull", "resolve"], "override_path": True}


def test_hosts_files_are_for_root_only() -> None:
    with tarfile.open(fileobj=io.BytesIO(registry.hosts_archive({"a/hosts.toml": b"x"}))) as archive:
        (member,) = archive.getmembers()
        assert (member.name, member.mode, member.uid) == ("a/hosts.toml", 0o600, 0)


def test_basic_credentials() -> None:
    assert registry.Credentials("user", "pässword").basic == "Basic dXNlcjpww6Rzc3dvcmQ="


# containerd's own words, as they were met
HEAD = 'ctr: failed to resolve reference "r/x:1": '
OPEN = "ctr: failed to copy: httpReadSeeker: failed open: "
CAUSES = [
    (HEAD + 'failed to do request: Head "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused', "refused", True, "127.0.0.1:1"),
    (HEAD + 'failed to do request: Head "http://no.host:1/v2/": dial tcp: lookup no.host on 10.0.0.1:53: no such host', "not known", False, "no.host:1"),
    (HEAD + "r/x:1: not found", "it is not there (404)", False, None),
    (
        HEAD + "unexpected status from HEAD request to https://r/v2/x/manifests/1?ns=r: 500 Internal Server Error",
        "it has trouble of its own (500 Internal Server Error)",
        True,
        "r",
    ),
    (OPEN + "unexpected status from GET request to http://h:5/v2/x/blobs/sha256:8ffa: 503 Service Unavailable", "(503 Service Unavailable)", True, "h:5"),
    (OPEN + "unexpected status from GET request to http://h:5/v2/: 429 Too Many Requests", "limits requests (429)", True, "h:5"),
    (HEAD + "unexpected status from HEAD request to http://h:5/v2/: 401 Unauthorized", "wants credentials (401)", False, "h:5"),
    (HEAD + "unexpected status from HEAD request to http://h:5/v2/: 403 Forbidden", "denied (403)", False, "h:5"),
    (HEAD + "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope", "denied (403)", False, None),
    (OPEN + "could not fetch content descriptor sha256:8ffa (application/vnd.oci.image.config.v1+json) from remote: not found", "(404)", False, None),
    ("ctr: failed to copy: read tcp 127.0.0.1:52092->127.0.0.1:37469: read: connection reset by peer", "broke off", True, None),
    ("ctr: short read: expected 349 bytes but got 0: unexpected EOF", "broke off", True, None),
    (HEAD + 'failed to do request: Head "https://h/v2/": EOF', "broke off", True, "h"),
    (
        'ctr: failed commit on ref "layer-sha256:8f": commit failed: unexpected commit digest sha256:2c, expected sha256:8f: failed precondition',
        "does not match the digest",
        True,
        None,
    ),
    ("ctr: write /var/lib/containerd/x/data: no space left on device", "disk of the container engine is full", False, None),
    ("ctr: no match for platform in manifest: not found", "not there for this platform", False, None),
    (HEAD + 'Head "https://h/v2/": tls: failed to verify certificate: x509: certificate signed by unknown authority', "unknown authority", False, "h"),
    (HEAD + 'Head "https://h/v2/": http: server gave HTTP response to HTTPS client', "plain HTTP", False, "h"),
    (HEAD + 'Head "https://h/v2/": dial tcp 10.0.0.9:443: i/o timeout', "no answer in time", True, "h"),
    (HEAD + 'Head "https://h/v2/": dial tcp 10.0.0.9:443: connect: no route to host', "no route", True, "h"),
    ("ctr: something quite new", "something quite new", True, None),
    ("", "without a word", True, None),
]


@pytest.mark.parametrize(("words", "text", "retry", "host"), CAUSES)
def test_causes(words: str, text: str, retry: bool, host: str | None) -> None:
    error = registry.last_error(f'time="2026-01-01T00:00:00Z" level=info msg="trying next host"\n{words}\n' if words else "")
    cause = registry.cause_of(error)
    assert text in cause.text and cause.retry == retry and cause.remedy
    assert registry.blamed_host(error) == host


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("429 Too Many Requests\ntoomanyrequests: retry-after: 2.5s, allowed: 1/second", 2.5),
        ("429 Too Many Requests - Server message: toomanyrequests: retry-after: 211.09µs, allowed: 44000/minute", 0.00021109),
        ("429 Too Many Requests Retry-After: 30", 30),
        ("503 Service Unavailable retry-after: 2m", 120),
        ("429 Too Many Requests retry-after: 1500ms", 1.5),
        ("429 Too Many Requests", 0),
    ],
)
def test_a_registry_may_ask_for_a_pause(words: str, seconds: float) -> None:
    error = registry.last_error(f"ctr: failed to copy: unexpected status from GET request to http://h:5/v2/: {words}\n")
    assert registry.cause_of(error).wait == pytest.approx(seconds)
    assert registry.backoff(0, 0.1, wait=seconds) >= min(seconds, 300)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("docker.io", "docker.io"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
        ("https://mirror.example.com:5000/v2/project", "mirror.example.com:5000"),
        ("127.0.0.1:5000/", "127.0.0.1:5000"),
    ],
)
def test_registry_names(name: str, expected: str) -> None:
    assert registry.registry_name(name) == expected


def logins(*given: str, directory: str = "") -> registry.Logins:
    def run(command: list[str], text: str) -> tuple[int, str, str]:
        raise AssertionError(command)

    def warn(text: str) -> None:
        raise AssertionError(text)

    return registry.Logins({name: registry.Credentials("user", "password") for name in given}, directory, run, warn)


@pytest.mark.parametrize(
    ("realm", "url", "right"),
    [
        ("https://auth.docker.io/token", "https://registry-1.docker.io", True),
        ("https://gitlab.com/jwt/auth", "https://registry.gitlab.com", True),
        ("https://ghcr.io/token", "https://ghcr.io", True),
        ("https://harbor.example.com:8443/service/token", "https://harbor.example.com:5000", True),
        ("https://10.0.0.9/token", "https://10.0.0.9:5000", True),
        ("http://127.0.0.1:5001/token", "http://127.0.0.1:5000", True),
        ("https://named.example.org/token", "https://registry.example.com", True),
        ("http://auth.docker.io/token", "https://registry-1.docker.io", False),
        ("https://auth.docker.io.example.org/token", "https://registry-1.docker.io", False),
        ("https://notdocker.io/token", "https://registry-1.docker.io", False),
        ("https://10.0.1.9/token", "https://10.0.0.9", False),
        ("https://evil.io/token", "https://quay.io", False),
        ("http://127.0.0.1:5001/token", "https://registry.example.com", False),
        ("https://", "https://quay.io", False),
        ("https://[x/token", "https://quay.io", False),
        ("", "https://quay.io", False),
    ],
)
def test_token_services_have_to_belong_to_the_registry(realm: str, url: str, right: bool) -> None:
    assert registry._belongs(realm, url, logins("named.example.org")) is right


def test_logins_of_docker(tmp_path: pathlib.Path) -> None:
    auths = {
        "https://index.docker.io/v1/": {"auth": base64.b64encode(b"hub:with:colon").decode()},
        "bad.example.com": {"auth": "?"},
        "none.example.com": {},
        "odd.example.com": 3,
    }
    (tmp_path / "config.json").write_text(json.dumps({"auths": auths}))
    found = logins("given.example.com", directory=str(tmp_path))
    assert found.find("registry-1.docker.io") == ("hub", "with:colon")
    assert found.find("given.example.com") == ("user", "password")
    assert [found.find(name) for name in ("bad.example.com", "none.example.com", "odd.example.com", "other.example.com")] == [None] * 4
    for text in ("[]", "null", '{"auths": []}'):
        (tmp_path / "config.json").write_text(text)
        assert logins(directory=str(tmp_path)).find("docker.io") is None
    assert logins().find("docker.io") is None


def test_a_helper_is_asked_only_where_it_has_to_be(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"https://index.docker.io/v1/": {}}, "credHelpers": {"a.example.com": "none"}}))
    found = logins("given.example.com", directory=str(tmp_path))
    hosts = ("given.example.com", "a.example.com", "registry-1.docker.io", "b.example.com")
    assert [found.may_know(host) for host in hosts] == [True, True, True, False]
    (tmp_path / "config.json").write_text('{"credsStore": "none"}')
    assert logins(directory=str(tmp_path)).may_know("b.example.com") and not logins().may_know("b.example.com")


def test_no_netrc(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a user for everything on this machine, perhaps; the given one counts."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization"))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"token": "x"}')

        def log_message(self, *args: object) -> None:
            """Quiet."""

    (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password wrong\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        registry._open(f"http://127.0.0.1:{server.server_port}/token", None, {"Authorization": "Basic given"})
        server.shutdown()
    assert seen == ["Basic given"]


def test_only_wrong_data_makes_dirty() -> None:
    assert [registry.cause_of(registry.last_error(words)).dirty for words, *_rest in CAUSES].count(True) == 1


def test_backoff_doubles_up_to_a_minute() -> None:
    middle = [registry.backoff(n, 0.5, jitter=lambda: 0.5) for n in range(9)]
    assert middle == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert registry.backoff(0, 1, patience=4, jitter=lambda: 0.5) == 4
    assert registry.backoff(0, 1, jitter=lambda: 0) == 0.5 and registry.backoff(0, 1, jitter=lambda: 1) == 1.5
    assert 0.5 <= registry.backoff(0, 1) <= 1.5
