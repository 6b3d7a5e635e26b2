# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a source is by its name, where parts lie, what checksums and servers say."""

from __future__ import annotations

import errno
import http.client
import os
import pathlib
import socket
import ssl
import typing as t
import urllib.error
from email.message import Message

import pytest
from ansible_collections.nodeforge.kind.plugins.module_utils import _artifacts as artifacts
from ansible_collections.nodeforge.kind.plugins.module_utils import _download as download
from ansible_collections.nodeforge.kind.plugins.module_utils._registry import Cause
from ansible_collections.nodeforge.kind.plugins.module_utils._tree import TreeError


@pytest.mark.parametrize(
    "text, source",
    [
        ("v1.34.4", ("release", "v1.34.4", "release")),
        ("v1.38.0-alpha.1.20+0123456789abcd", ("release", "v1.38.0-alpha.1.20+0123456789abcd", "release")),
        ("release/stable-1.34", ("release", "stable-1.34", "release")),
        ("release:v1.34.4", ("release", "v1.34.4", "release")),
        ("ci/latest", ("release", "latest", "ci")),
        ("ci:v1.38.0-alpha.0.1+abc", ("release", "v1.38.0-alpha.0.1+abc", "ci")),
        ("https://x.example/a/k.tar.gz", ("url", "https://x.example/a/k.tar.gz", "")),
        ("/a/b/../c", ("path", "/a/c", "")),
        ("~/k", ("path", os.path.expanduser("~/k"), "")),
        ("./v1.34.4", ("path", os.path.abspath("v1.34.4"), "")),
        ("v1.34", ("path", os.path.abspath("v1.34"), "")),
        ("releases/x", ("path", os.path.abspath("releases/x"), "")),
    ],
)
def test_sources(text: str, source: tuple[str, str, str]) -> None:
    assert artifacts.parse_source(text) == source


BAD_URLS = ["http://[::1/x", "http://[bad", "http://x:99999/y", "http://x:port/y", "http://x:0/y", "https://a b/y"]


@pytest.mark.parametrize("url", BAD_URLS)
def test_no_servers(url: str) -> None:
    with pytest.raises(TreeError, match="in urls is not a URL; write it like"):
        artifacts.check_server(url)


@pytest.mark.parametrize(
    "text", ["", " ", "ftp://x/y", "https:///y", "https://x/y?z", "https://a:b@x/y", "release/", "ci/../x", "ci/a b", "file:///x", *BAD_URLS]
)
def test_no_sources(text: str) -> None:
    with pytest.raises(TreeError) as e:
        artifacts.parse_source(text)
    assert str(e.value).endswith(".") and "a:b@" not in str(e.value)


def test_archive_names() -> None:
    assert artifacts.archive_name(["kubelet", "kubeadm"], "arm64") == "kubernetes-node-linux-arm64.tar.gz"
    assert artifacts.archive_name(["kubelet", "kube-proxy"], "amd64") == "kubernetes-server-linux-amd64.tar.gz"
    artifacts.check_name("kubernetes-server-linux-arm64.tar.gz", "linux/arm64")
    artifacts.check_name("whatever.tar.gz", "linux/arm64")
    for name in ("kubernetes-server-linux-amd64.tar.gz", "kubernetes-client-darwin-arm64.tar.gz", "kubernetes-server-linux-s390x.tar.gz"):
        with pytest.raises(TreeError, match="and not for linux/arm64"):
            artifacts.check_name(name, "linux/arm64")
    assert artifacts.server_url("https://x/", "ci", "v1.38.0-alpha.0.1+abc", "k") == "https://x/ci/v1.38.0-alpha.0.1%2Babc/k"


A, B = "a" * 64, "b" * 128


@pytest.mark.parametrize(
    "text, algorithm, digest",
    [(A, "sha256", A), (B, "sha512", B), (f"sha256:{A.upper()}", "sha256", A), (f" sha512:{B}\n", "sha512", B)],
)
def test_checksums(text: str, algorithm: str, digest: str) -> None:
    assert artifacts.parse_checksum(text) == (algorithm, digest)


@pytest.mark.parametrize("text", ["", "sha256", "sha256:", f"sha512:{A}", f"md5:{A}", "g" * 64, A[1:]])
def test_no_checksums(text: str) -> None:
    with pytest.raises(TreeError, match="write it as sha256"):
        artifacts.parse_checksum(text)


@pytest.mark.parametrize(
    "text, found",
    [
        (A, A),
        (f"{A}\n", A),
        (f"{A}  k.tar.gz\n", A),
        (f"{A} *dir/k.tar.gz", A),
        (f"{'c' * 64}  other\n{A}  k.tar.gz\n", A),
        (f"{A}  another-name\n", A),
        (f"{'c' * 64}  other\n{A}  third\n", None),
        ("<html>", None),
        ("", None),
        (B, None),
    ],
)
def test_checksum_files(text: str, found: str | None) -> None:
    assert artifacts.checksum_in(text, "sha256", "k.tar.gz") == (("sha256", found) if found else None)


def test_members() -> None:
    for name, part in {
        "kubernetes/server/bin/kubelet": "kubelet",
        "./kubernetes/node/bin/kubeadm": "kubeadm",
        "bin/kube-proxy.tar": "kube-proxy.tar",
        "kubelet": "kubelet",
        "kubernetes/version": "version",
        "kubernetes/server/bin/kube-apiserver": None,
        "kubernetes/server/bin/kube-apiserver.docker_tag": None,
        "elsewhere/kubelet": None,
        "kubernetes/kubernetes-src.tar.gz": None,
    }.items():
        assert artifacts.member_part(name) == part, name
    for name in ("../x", "/x", "a/../../x", ".."):
        with pytest.raises(TreeError, match="outside"):
            artifacts.member_part(name)


def test_parts_of_both_platforms(tmp_path: pathlib.Path) -> None:
    for arch in ("amd64", "arm64"):
        for place in (f"dockerized/bin/linux/{arch}/kubelet", f"release-images/{arch}/kube-proxy.tar"):
            (tmp_path / "_output" / place).parent.mkdir(parents=True)
            (tmp_path / "_output" / place).touch()
    for root in (tmp_path, tmp_path / "_output"):
        found = artifacts.find_parts(str(root), "arm64", artifacts.COMPONENTS)
        assert found == {
            "kubelet": f"{tmp_path}/_output/dockerized/bin/linux/arm64/kubelet",
            "kube-proxy": f"{tmp_path}/_output/release-images/arm64/kube-proxy.tar",
        }
    with pytest.raises(TreeError, match=r"^X has no kubeadm and no image archive kube-scheduler.tar for linux/arm64; "):
        artifacts.check_parts(found, ["kubeadm", "kubelet", "kube-scheduler"], "X", "linux/arm64")


def test_places_of_no_platform_do_not_hide_those_of_one(tmp_path: pathlib.Path) -> None:
    def lay(place: str, age: int, arch: str = "") -> str:
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ELF + bytes([{"amd64": 62, "arm64": 183}[arch], 0]) + bytes(100) if arch else b"")
        os.utime(path, (1000 - age, 1000 - age))
        return str(path)

    def kubelet(arch: str) -> str | None:
        return artifacts.find_parts(str(tmp_path), arch, ["kubelet"]).get("kubelet")

    ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00"
    # as make leaves it, with bin for the platform that was built last
    older, newer = lay("_output/local/bin/linux/amd64/kubelet", 3), lay("_output/local/bin/linux/arm64/kubelet", 2)
    last = lay("_output/bin/kubelet", 1, "arm64")
    assert kubelet("amd64") == older and kubelet("arm64") == newer
    # none names its platform: that which is of another one is passed by, unless it is the only one
    os.unlink(older)
    other = lay("kubelet", 4, "amd64")
    assert kubelet("amd64") == other
    os.unlink(other)
    assert kubelet("amd64") == last


def test_versions() -> None:
    def images(*tags: str) -> dict[str, dict[str, str]]:
        return {str(number): {"ref": f"registry.k8s.io/x-amd64:{tag}"} for number, tag in enumerate(tags)}

    assert artifacts.tagged_version(images("v1.37.2", "v1.37.2")) == "v1.37.2"
    assert artifacts.tagged_version(images("v1.38.0-alpha.0.1_abc-dirty")) == "v1.38.0-alpha.0.1+abc-dirty"
    for tags in (("v1.37.2", "v1.37.3"), ("main",), ()):
        assert artifacts.tagged_version(images(*tags)) is None
    assert artifacts.printed_version("Kubernetes v1.37.2\n") == "v1.37.2"
    for version in ("v1.25.16", "v1.38.0-alpha.0.1+abc"):
        assert artifacts.printed_version(f'{{"kustomizeVersion": "v4.5.7",\n "clientVersion": {{"major": "1", "gitVersion": "{version}"}}}}\n') == version
    for text in ("{", "{}", '{"clientVersion": null}', '{"clientVersion": {"gitVersion": "main"}}'):
        assert artifacts.printed_version(text) is None
    assert artifacts.printed_version("usage: true") is None


# servers


def answer(code: int, **headers: str) -> urllib.error.HTTPError:
    message = Message()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return urllib.error.HTTPError("http://x/y", code, "", message, None)


@pytest.mark.parametrize(
    "error, words, retry",
    [
        (answer(404), "it is not there", False),
        (answer(403), "not given to everybody", False),
        (answer(429), "limits requests", True),
        (answer(503), "answered 503", True),
        (answer(416), "answered 416", False),
        (answer(400), "answered 400", False),
        (urllib.error.URLError(ConnectionRefusedError(errno.ECONNREFUSED, "x")), "refused", True),
        (urllib.error.URLError(socket.gaierror(socket.EAI_NONAME, "x")), "name of its host", False),
        (urllib.error.URLError(socket.gaierror(socket.EAI_AGAIN, "x")), "name of its host", True),
        (urllib.error.URLError(socket.timeout()), "no answer in time", True),
        (socket.timeout(), "no answer in time", True),
        (ConnectionResetError(errno.ECONNRESET, "x"), "broke off", True),
        (http.client.IncompleteRead(b""), "broke off", True),
        (urllib.error.URLError(ssl.SSLCertVerificationError("x")), "not trusted", False),
        (http.client.InvalidURL("nonnumeric port: 'x'"), "what is no URL", False),
        (ValueError("Invalid IPv6 URL"), "what is no URL", False),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "No route to host", True),
    ],
)
def test_causes(error: Exception, words: str, retry: bool) -> None:
    cause = download.cause_of(error)
    assert words in cause.text and cause.retry is retry and cause.remedy


def test_headers() -> None:
    assert download.content_range("bytes 10-19/20") == (10, 20)
    assert download.content_range("bytes 10-19/*") == (10, None)
    assert download.content_range("bytes */20") == (None, 20)
    assert download.content_range("pages 1-2/3") == download.content_range(None) == (None, None)
    assert download.retry_after(answer(429, Retry_After="7")) == 7
    assert download.cause_of(answer(503, Retry_After="7")).wait == download.cause_of(answer(429, Retry_After=" 7 ")).wait == 7
    assert download.retry_after(answer(429, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT")) == download.retry_after(answer(429)) == 0
    assert download.validator({"ETag": '"x"', "Last-Modified": "y"}) == '"x"'
    assert download.validator({"ETag": 'W/"x"', "Last-Modified": "y"}) == "y"
    assert download.validator({}) is None


def test_waiting_between_tries() -> None:
    slept: list[float] = []
    lines: list[str] = []
    worker = download.Downloader(timeout=1, retries=2, delay=1, sleep=slept.append, log=lines.append)
    later = Cause("trouble", True, "wait")
    assert worker._tried(0, download.Failed(later._replace(wait=2.5))) == 1
    assert slept == [1, 1, 0.5] and "trying again in 2.5 s" in lines[0]
    slept.clear()
    # the least, not instead of the delay; and no longer than somebody waits
    worker._tried(1, download.Failed(download.cause_of(answer(503, Retry_After="0"))))
    assert 1 <= sum(slept) <= 3
    slept.clear()
    worker._tried(0, download.Failed(download.cause_of(answer(503, Retry_After="99999"))))
    assert sum(slept) == 300
    slept.clear()
    worker._tried(1, download.Failed(later))
    assert 1 <= sum(slept) <= 3
    for attempt, cause in ((2, later), (0, later._replace(retry=False))):
        with pytest.raises(download.Failed):
            worker._tried(attempt, download.Failed(cause))


def test_what_all_servers_say() -> None:
    def failing(*causes: Cause) -> download.DownloadError:
        left = list(causes)

        def get(url: str) -> t.Any:
            raise download.Failed(left.pop(0))

        with pytest.raises(download.DownloadError) as e:
            download.Downloader(timeout=1, retries=0, delay=0)._first([f"http://{n}" for n in range(len(causes))], get)
        return e.value

    gone, refused = download.cause_of(answer(404)), download.cause_of(ConnectionRefusedError())
    assert failing(gone).missing and not failing(gone).unreachable
    assert failing(refused).unreachable and not failing(refused).missing
    both = failing(refused, gone)
    assert not both.missing and not both.unreachable and str(both).startswith("http://0: the connection was refused; http://1: it is not there (404")


def test_progress_lines() -> None:
    assert download.progress("k", 50_000_000, 200_000_000, 1_500_000) == "k: 50 of 200 MB (25 %), 1.5 MB/s"
    assert download.progress("k", 50_000_000, None, 1_500_000) == "k: 50 MB, 1.5 MB/s"
    assert download.posix_name("https://x/a/b%2Bc.tar.gz") == "b+c.tar.gz" and download.posix_name("https://x/") == "x"


def test_authorities_of_ones_own_and_of_the_host(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    def certificate(name: str) -> str:
        return f"-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----"

    names = {"own.pem": certificate("own") + "\n" + certificate("own2"), "host.pem": "words\n" + certificate("host"), "dir/a.0": certificate("dir")}
    (tmp_path / "dir").mkdir()
    for name, text in names.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "dir/b.0").symlink_to("a.0")
    (tmp_path / "dir/key").write_text("-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "host.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path}/nowhere:{tmp_path}/dir")
    expected = [certificate(name) for name in ("own", "own2", "host", "dir")]
    assert download.authorities(str(tmp_path / "own.pem")) == "\n".join([*expected, ""])
    with pytest.raises(TreeError, match='nowhere" of ca_path cannot be read'):
        download.check_authorities(str(tmp_path / "nowhere"))
    with pytest.raises(TreeError, match='key" of ca_path holds no certificate'):
        download.check_authorities(str(tmp_path / "dir/key"))
