# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""kube_artifacts against a real server over a bad network, real archives and real files."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tarfile
import time
import typing as t

import pytest
import small_base
from release_server import (
    IMAGES,
    NAME,
    PROGRAMS,
    VERSION,
    Fault,
    ReleaseServer,
    image,
    pack,
    program,
    published,
    release,
)
from small_base import ARCH, FOREIGN

PATH = f"/release/{VERSION}/{NAME}"
ALL = {*PROGRAMS, *IMAGES}
# what the embedded tree of this machine has compiled
BUILT = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "nodeforge/trees/v1.37.2/_output"


def sha256(path: str | pathlib.Path) -> str:
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def checksums(result: dict[str, t.Any]) -> dict[str, str]:
    """Of the files that are there, not those that the result tells."""
    outputs = {**result["outputs"]["binaries"], **result["outputs"]["images"]}
    for entry in outputs.values():
        assert entry["sha256"] == sha256(entry["path"]) and entry["size"] == os.path.getsize(entry["path"])
    return {name: entry["sha256"] for name, entry in outputs.items()}


@pytest.fixture(scope="module")
def parts() -> dict[str, bytes]:
    return release()


@pytest.fixture(scope="module")
def archive(parts: dict[str, bytes]) -> bytes:
    return pack(parts, noise=3_000_000)


@pytest.fixture(scope="module")
def wanted(parts: dict[str, bytes]) -> dict[str, str]:
    """The checksum of each component."""
    names = {name: f"kubernetes/server/bin/{name}" for name in PROGRAMS}
    names.update({name: f"kubernetes/server/bin/{name}.tar" for name in IMAGES})
    return {name: hashlib.sha256(parts[path]).hexdigest() for name, path in names.items()}


@pytest.fixture
def server(archive: bytes) -> t.Iterator[ReleaseServer]:
    with ReleaseServer(published(PATH, archive)) as server:
        yield server


@pytest.fixture
def args(server: ReleaseServer, tmp_path: pathlib.Path) -> dict[str, t.Any]:
    return {"source": VERSION, "urls": [server.url], "cache_dir": str(tmp_path / "cache"), "retry_delay": 0.01, "timeout": 5}


def kept(args: dict[str, t.Any], *below: str) -> list[str]:
    """What the cache holds, but for locks."""
    root = pathlib.Path(args["cache_dir"]).joinpath(*below)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and not path.name.startswith(".lock"))


# directories


@pytest.mark.skipif(not BUILT.is_dir(), reason="the embedded tree is not compiled here")
def test_output_of_a_real_tree(run_module) -> None:
    result = run_module("kube_artifacts", {"source": str(BUILT)}, diff=True)
    assert not result["changed"] and result["version"] == "v1.37.2" and result["checksum"] is None
    assert set(checksums(result)) == ALL
    assert result["outputs"]["binaries"]["kubelet"]["static"] is True
    assert result["outputs"]["images"]["kube-proxy"]["ref"] == f"registry.k8s.io/kube-proxy-{ARCH}:v1.37.2"
    assert result["diff"]["before"] == result["diff"]["after"]
    assert run_module("kube_artifacts", {"source": str(BUILT)}, check=True)["outputs"] == result["outputs"]
    # the tree itself will do as well; without images the program itself is asked for its version
    result = run_module("kube_artifacts", {"source": str(BUILT.parent), "components": ["kubelet"]})
    assert list(checksums(result)) == ["kubelet"] and result["outputs"]["images"] == {} and result["version"] == "v1.37.2"


@pytest.mark.skipif(not BUILT.is_dir(), reason="the embedded tree is not compiled here")
def test_what_was_not_built_together(run_module, tmp_path) -> None:
    files = {f"{name}.tar": image(name, "v1.36.0") for name in IMAGES}
    for name in PROGRAMS:
        os.symlink(BUILT / f"dockerized/bin/linux/{ARCH}/{name}", tmp_path / name)
    result = run_module("kube_artifacts", {"source": lay(tmp_path, files)})
    assert result["version"] == "v1.36.0" and len(result["warnings"]) == 3
    assert f'kubelet in "{tmp_path}" says that it is v1.37.2, while the version is v1.36.0' in json.dumps(result["warnings"]).replace('\\"', '"')


def test_what_kubectl_prints_besides(run_module, tmp_path) -> None:
    """kubectl up to 1.27, where what it says first is no word of its own."""
    if not shutil.which("cc"):
        pytest.skip("no C compiler here")
    source = tmp_path / "kubectl.c"
    source.write_text(
        '''#include <stdio.h>
#include <string.h>
int main(int count, char **values) {
  for (int n = 1; n < count; n++)
    if (!strcmp(values[n], "--output=json")) return puts("{\\"clientVersion\\": {\\"gitVersion\\": \\"v1.25.16\\"}, \\"kustomizeVersion\\": \\"v4.5.7\\"}") < 0;
  return puts("Client Version: version.Info{Major:\\"1\\", GitVersion:\\"v1.25.16\\"}\\nKustomize Version: v4.5.7") < 0;
}
'''
    )
    subprocess.run(["cc", "-o", str(tmp_path / "kubectl"), str(source)], check=True)
    assert run_module("kube_artifacts", {"source": str(tmp_path), "components": ["kubectl"]})["version"] == "v1.25.16"


def lay(directory: pathlib.Path, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755)
    return str(directory)


@pytest.mark.parametrize("programs, images", [("", ""), ("bin", "images"), (f"linux/{ARCH}", f"images/{ARCH}"), ("kubernetes/server/bin",) * 2])
def test_a_directory(run_module, tmp_path, programs: str, images: str) -> None:
    files = {os.path.join(programs, name): program() for name in PROGRAMS}
    files.update({os.path.join(images, f"{name}.tar"): image(name, "v1.38.0-alpha.1.5+0123456789abcd") for name in IMAGES})
    result = run_module("kube_artifacts", {"source": lay(tmp_path, files)})
    assert set(checksums(result)) == ALL
    # the plus is an underscore in a tag
    assert not result["changed"] and result["version"] == "v1.38.0-alpha.1.5+0123456789abcd"


def test_the_file_made_last_counts(run_module, tmp_path) -> None:
    places = [tmp_path / f"{place}/bin/linux/{ARCH}/kubelet" for place in ("dockerized", "local")]
    for number, path in enumerate(places):
        lay(path.parent, {"kubelet": program() + bytes([number])})
    for newer in (0, 1):
        os.utime(places[newer])
        result = run_module("kube_artifacts", {"source": str(tmp_path), "components": ["kubelet"], "version": VERSION})
        assert result["outputs"]["binaries"]["kubelet"]["path"] == str(places[newer])
        time.sleep(0.02)


def test_bad_directories(run_module, tmp_path) -> None:
    def message(**options: t.Any) -> str:
        result = run_module("kube_artifacts", {"source": str(tmp_path), **options})
        assert result.failed
        return result["msg"]

    lay(tmp_path, {"kubelet": program(), "kubeadm": program(FOREIGN)})
    text = message()
    assert f'"{tmp_path}" has no kubectl and no image archive kube-apiserver.tar' in text and f"for linux/{ARCH}" in text and "components" in text
    assert f"is made for linux/{FOREIGN} and not for linux/{ARCH}; name the artifacts of that platform" in message(components=["kubeadm"])
    # it runs, but says nothing of a version
    assert "cannot be told" in message(components=["kubelet"]) and "give version" in message(components=["kubelet"])
    assert '"1.37" is not one of Kubernetes' in message(components=["kubelet"], version="1.37")
    assert "checksum is for an archive" in message(components=["kubelet"], checksum="0" * 64)
    (tmp_path / "kube-proxy.tar").write_bytes(b"no archive")
    assert "kube-proxy.tar" in message(components=["kube-proxy"])


@pytest.mark.parametrize(
    "options, words",
    [
        ({"source": "/nowhere/at/all"}, 'no directory or archive "/nowhere/at/all"'),
        ({"source": "v1.34"}, "a version is written like v1.34.4"),
        ({"source": ""}, "The source is empty"),
        ({"source": "ftp://x/y"}, "is not a URL of a file"),
        ({"source": "https://me:secret@x.example/y.tar.gz"}, "has credentials"),
        ({"source": "release/../x"}, "neither a version nor a marker"),
        ({"source": VERSION, "urls": ["dl.k8s.io"]}, "is not a URL"),
        ({"source": VERSION, "urls": []}, "urls is empty"),
        ({"source": VERSION, "urls": ["http://[bad"]}, '"http://[bad" in urls is not a URL'),
        ({"source": VERSION, "urls": ["http://x:99999"]}, '"http://x:99999" in urls is not a URL'),
        ({"source": "http://[::1/x"}, "is not a URL of a file"),
        ({"source": "https://x.example:port/y.tar.gz"}, "is not a URL of a file"),
        ({"source": VERSION, "ca_path": "/nowhere/ca.pem"}, 'certificates "/nowhere/ca.pem" of ca_path cannot be read (No such file or directory)'),
        ({"source": VERSION, "platform": "linux/s390x"}, "is not supported"),
        ({"source": VERSION, "checksum": "md5:1"}, "The checksum"),
        ({"source": VERSION, "retries": -1}, "retries is -1"),
        ({"source": VERSION, "components": []}, "components is empty"),
        ({"source": f"http://127.0.0.1:1/kubernetes-server-linux-{FOREIGN}.tar.gz", "platform": f"linux/{ARCH}"}, f"is made for linux/{FOREIGN}"),
    ],
)
def test_bad_input(run_module, tmp_path, options: dict[str, t.Any], words: str) -> None:
    for check in (True, False):
        result = run_module("kube_artifacts", {"cache_dir": str(tmp_path / "cache"), **options}, check=check)
        assert result.failed and words in result["msg"] and "secret" not in json.dumps(result["msg"])
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


# releases


def test_a_release(run_module, args, server, wanted) -> None:
    predicted = run_module("kube_artifacts", args, check=True, diff=True)
    assert predicted["changed"] and predicted["outputs"] == {"binaries": {}, "images": {}} and not os.path.exists(args["cache_dir"])
    assert server.asked(".tar.gz") == []
    first = run_module("kube_artifacts", args, diff=True)
    assert checksums(first) == wanted and first["version"] == VERSION and first["url"] == server.url + PATH
    for key in ("changed", "actions", "version", "checksum", "url"):
        assert predicted[key] == first[key], key
    assert first["checksum"].startswith("sha512:") and first["diff"]["before"]["outputs"] == {}
    assert all(os.access(entry["path"], os.X_OK) for entry in first["outputs"]["binaries"].values())
    assert not kept(args, "blobs")[0].endswith(".part") and len(kept(args, "blobs")) == 1

    # a version never changes: nobody is asked again
    server.requests.clear()
    for options in ({}, {"offline": True}, {"urls": ["http://127.0.0.1:1"]}):
        for check in (True, False):
            again = run_module("kube_artifacts", {**args, **options}, check=check, diff=True)
            assert not again["changed"] and again["outputs"] == first["outputs"] and again["version"] == VERSION
            assert again["diff"]["before"] == again["diff"]["after"]
    assert server.requests == []


def test_binaries_alone_need_the_small_archive(run_module, args, server) -> None:
    name = f"kubernetes-node-linux-{ARCH}.tar.gz"
    files = {path: content for path, content in release("kubernetes/node/bin", images=False).items() if not path.endswith("/version")}
    server.files.update(published(f"/release/{VERSION}/{name}", pack(files), "sha256"))
    result = run_module("kube_artifacts", {**args, "components": ["kubelet"]})
    assert set(checksums(result)) == {"kubelet"} and result["version"] == VERSION
    assert result["checksum"].startswith("sha256:") and server.asked(NAME) == []


def test_binaries_alone_are_taken_from_the_large_archive_that_is_there(run_module, args, server) -> None:
    whole = run_module("kube_artifacts", args)
    server.requests.clear()
    for options in ({"offline": True}, {}):
        result = run_module("kube_artifacts", {**args, **options, "components": ["kubelet", "kubeadm"]})
        assert not result["changed"] and result["checksum"] == whole["checksum"]
        assert result["outputs"]["binaries"] == {name: whole["outputs"]["binaries"][name] for name in ("kubelet", "kubeadm")}
    assert server.requests == []


def test_a_marker(run_module, args, server, archive) -> None:
    server.files["/release/stable-1.37.txt"] = f"{VERSION}\n".encode()
    args["source"] = "release/stable-1.37"
    first = run_module("kube_artifacts", args)
    assert first["changed"] and first["version"] == VERSION
    assert not run_module("kube_artifacts", args)["changed"]
    # no network: what it named last
    gone = run_module("kube_artifacts", {**args, "urls": ["http://127.0.0.1:1"]})
    assert gone["outputs"] == first["outputs"] and "which release/stable-1.37 named last" in json.dumps(gone["warnings"])
    assert run_module("kube_artifacts", {**args, "offline": True})["outputs"] == first["outputs"]
    # a server's own word is not overridden
    server.files["/release/stable-1.37.txt"] = b"<html>"
    assert 'holds "<html>", which is not a version' in run_module("kube_artifacts", args)["msg"]
    del server.files["/release/stable-1.37.txt"]
    assert "/release/stable-1.37.txt: it is not there (404" in run_module("kube_artifacts", args)["msg"]
    # a server that has something else there is passed by
    with ReleaseServer({"/release/stable-1.37.txt": b"<html>"}) as wrong:
        server.files["/release/stable-1.37.txt"] = VERSION.encode()
        assert run_module("kube_artifacts", {**args, "urls": [wrong.url, server.url]})["version"] == VERSION
    # it moves on
    other = release(version="v1.37.3")
    server.files["/release/stable-1.37.txt"] = b"v1.37.3"
    server.files.update(published(f"/release/v1.37.3/{NAME}", pack(other)))
    moved = run_module("kube_artifacts", args)
    assert moved["changed"] and moved["version"] == "v1.37.3"


@pytest.mark.parametrize("source", ["ci/latest", "ci:latest", "ci/v1.38.0-alpha.0.1+0123456789abcd"])
def test_ci(run_module, args, server, source: str) -> None:
    version = "v1.38.0-alpha.0.1+0123456789abcd"
    server.files["/ci/latest.txt"] = version.encode()
    server.files.update(published(f"/ci/{version.replace('+', '%2B')}/{NAME}", pack(release(version=version))))
    assert run_module("kube_artifacts", {**args, "source": source})["version"] == version


def test_a_url(run_module, args, server, archive, wanted) -> None:
    server.files.update({"/some/where/k.tgz": archive})
    args["source"] = f"{server.url}/some/where/k.tgz"
    assert "or without a checksum (.sha512 or .sha256) beside it" in run_module("kube_artifacts", args)["msg"]
    told = run_module("kube_artifacts", {**args, "checksum": hashlib.sha256(archive).hexdigest()})
    assert told["changed"] and checksums(told) == wanted and told["version"] == VERSION
    # the server's word is asked for each time, as what it names may change
    server.files["/some/where/k.tgz.sha256"] = f"{hashlib.sha256(archive).hexdigest()}  k.tgz\n".encode()
    assert not run_module("kube_artifacts", args)["changed"]
    new = pack(release(version="v1.37.9"))
    server.files.update(published("/some/where/k.tgz", new, "sha256"))
    assert run_module("kube_artifacts", args)["version"] == "v1.37.9"
    port = server.url.rpartition(":")[2]
    server.__exit__()
    gone = run_module("kube_artifacts", {**args, "retries": 0})
    assert gone["version"] == "v1.37.9" and port in json.dumps(gone["warnings"])


def test_through_a_proxy(run_module, args, server, wanted) -> None:
    args["urls"] = ["http://release.example"]
    result = run_module("kube_artifacts", args, env={"http_proxy": server.url, "no_proxy": ""})
    assert checksums(result) == wanted and result["url"] == f"http://release.example{PATH}"


def test_an_authority_of_ones_own(run_module, args, server, wanted, tmp_path) -> None:
    def secured(name: str) -> tuple[str, ssl.SSLContext]:
        certificate, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
        subprocess.run([*made, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        return str(certificate), context

    own, context = secured("own")
    public, public_context = secured("public")
    with ReleaseServer(server.files, context) as secure, ReleaseServer(server.files, public_context) as other:
        args["urls"] = [secure.url]
        assert "its certificate is not trusted" in run_module("kube_artifacts", args)["msg"]
        assert checksums(run_module("kube_artifacts", {**args, "ca_path": own})) == wanted
        # those whom the host trusts are trusted besides
        args.update(urls=[other.url], cache_dir=args["cache_dir"] + "2")
        assert "its certificate is not trusted" in run_module("kube_artifacts", {**args, "ca_path": own})["msg"]
        result = run_module("kube_artifacts", {**args, "ca_path": own}, env={"SSL_CERT_FILE": public, "SSL_CERT_DIR": "/nowhere"})
        assert checksums(result) == wanted and result["url"].startswith(other.url)


# archives on this host


def test_an_archive_of_this_host(run_module, args, server, archive, wanted, tmp_path) -> None:
    path = tmp_path / "here.tar.gz"
    path.write_bytes(archive)
    args["source"] = str(path)
    predicted = run_module("kube_artifacts", args, check=True)
    assert predicted["changed"] and not os.path.exists(args["cache_dir"])
    result = run_module("kube_artifacts", {**args, "checksum": f"sha512:{hashlib.sha512(archive).hexdigest()}"})
    assert checksums(result) == wanted and result["actions"] == predicted["actions"] and result["url"] is None
    assert not run_module("kube_artifacts", args)["changed"] and server.requests == []
    bad = run_module("kube_artifacts", {**args, "checksum": "0" * 64})
    assert f'The sha256 of "{path}" is {sha256(path)} instead of {"0" * 64}' in bad["msg"]
    # one that has all of the others' content, without a version: its images tell it
    path.write_bytes(pack({k: v for k, v in release(place="bin").items() if k != "kubernetes/version"}))
    assert run_module("kube_artifacts", args)["version"] == VERSION


def test_an_archive_is_read_once(run_module, args, archive, tmp_path) -> None:
    """What the cache knows of it is believed, so it was not read."""
    path = tmp_path / "here.tar.gz"
    path.write_bytes(archive)
    args["source"] = str(path)
    time.sleep(0.1)  # a file that was just written may be written again within the same tick
    quick = {"NODEFORGE_QUICK": "1"}
    assert run_module("kube_artifacts", args, env=quick)["long"] and kept(args, "unpacked") == []
    ref = pathlib.Path(args["cache_dir"], "refs", kept(args, "refs")[0])
    text, digest = ref.read_text(), sha256(path)
    ref.write_text(text.replace(digest, "0" * 64))
    assert run_module("kube_artifacts", args, check=True)["checksum"] == "sha256:" + "0" * 64
    ref.write_text(text)
    assert run_module("kube_artifacts", args)["changed"]
    assert run_module("kube_artifacts", args, env=quick)["checksum"] == f"sha256:{digest}"
    # in another algorithm, too, as long as the content is the same
    args["checksum"] = f"sha512:{hashlib.sha512(archive).hexdigest()}"
    for dummy in range(2):
        assert not run_module("kube_artifacts", args)["changed"]
    assert args["checksum"] in ref.read_text()
    assert "instead of " in run_module("kube_artifacts", {**args, "checksum": "sha512:" + "0" * 128})["msg"]
    path.write_bytes(archive[:-1])
    assert "instead of " in run_module("kube_artifacts", args)["msg"]


def test_an_archive_of_another_platform(run_module, args, archive, tmp_path) -> None:
    path = tmp_path / f"kubernetes-server-linux-{FOREIGN}.tar.gz"
    path.write_bytes(archive)
    for check in (True, False):
        result = run_module("kube_artifacts", {**args, "source": str(path)}, check=check)
        assert result.failed and f'"{path.name}" is made for linux/{FOREIGN} and not for linux/{ARCH}' in result["msg"]


def spoiled(archive: bytes, kind: str, parts: dict[str, bytes]) -> bytes:
    kubelet = "kubernetes/server/bin/kubelet"
    if kind == "damaged":
        return archive[: len(archive) // 2] + bytes(100) + archive[len(archive) // 2 + 100 :]
    if kind == "its checksum":
        return archive[:-8] + bytes(4) + archive[-4:]
    if kind == "truncated":
        return archive[: len(archive) // 2]
    if kind == "text":
        return b"<html>not found</html>"
    if kind == "empty":
        return b""
    if kind == "no tar":
        return gzip.compress(b"hello" * 1000)
    if kind == "no kubelet":
        return pack({name: content for name, content in parts.items() if name != kubelet})
    if kind == "outside":
        return pack({"../evil": b"x", **parts})
    if kind == "absolute":
        return pack({"/etc/evil": b"x", **parts})
    if kind == "link":
        return pack({name: content for name, content in parts.items() if name != kubelet}, links={kubelet: "/etc/passwd"})
    if kind == "foreign":
        return pack({**parts, kubelet: program(FOREIGN)})
    assert kind == "version"
    return pack({**parts, "kubernetes/version": b"newest"})


@pytest.mark.parametrize(
    "kind, words",
    [
        ("damaged", "damaged"),
        ("its checksum", "damaged"),
        ("truncated", "damaged or not whole"),
        ("text", "is no gzip archive"),
        ("empty", "damaged or not whole"),
        ("no tar", "damaged or not whole"),
        ("no kubelet", "has no kubelet for linux/"),
        ("outside", 'has the member "../evil", which lies outside'),
        ("absolute", 'has the member "/etc/evil", which lies outside'),
        ("link", 'its member "kubernetes/server/bin/kubelet" is not a plain file'),
        ("foreign", f"is made for linux/{FOREIGN}"),
        ("version", 'says "newest" is its version'),
    ],
)
def test_bad_archives(run_module, args, archive, parts, tmp_path, kind: str, words: str) -> None:
    path = tmp_path / "bad.tar.gz"
    path.write_bytes(spoiled(archive, kind, parts))
    args["source"] = str(path)
    result = run_module("kube_artifacts", args)
    assert result.failed and words in result["msg"] and str(path) in result["msg"] and ".new-" not in result["msg"]
    assert kept(args, "blobs") == [] and os.listdir(os.path.join(args["cache_dir"], "unpacked")) == []
    if kind not in ("foreign", "version"):
        assert run_module("kube_artifacts", args, check=True)["msg"] == result["msg"]


# bad networks


def test_goes_on_where_it_broke_off(run_module, args, server, wanted) -> None:
    server.faults = [Fault("cut", after=1_000_000), Fault("status", status=503), Fault("cut", after=1_000_000)]
    result = run_module("kube_artifacts", args)
    assert checksums(result) == wanted
    ranges = server.asked(".tar.gz")
    assert ranges[0] is None and len(ranges) == 4 and all(ranged and int(ranged[6:-1]) > 0 for ranged in ranges[1:]), ranges
    assert ranges[1] == ranges[2] != ranges[3]


def test_a_long_way_over_a_bad_line(run_module, args, server, wanted) -> None:
    """More cuts than retries: each try gets further."""
    server.faults = [Fault("cut", after=300_000, times=8)]
    assert checksums(run_module("kube_artifacts", {**args, "retries": 1})) == wanted
    server.faults = [Fault("cut", path=".sha512", after=0, times=-1), Fault("cut", path=".sha256", after=0, times=-1)]
    failed = run_module("kube_artifacts", {**args, "cache_dir": args["cache_dir"] + "2", "retries": 1})
    assert "the connection broke off" in failed["msg"]


def test_a_server_without_ranges(run_module, args, server, wanted) -> None:
    server.ranges = False
    server.faults = [Fault("cut", after=1_000_000, times=2)]
    assert checksums(run_module("kube_artifacts", args)) == wanted
    assert len(server.asked(".tar.gz")) == 3
    # but it does not get further, so this ends
    server.faults = [Fault("cut", after=1_000_000, times=-1)]
    server.requests.clear()
    failed = run_module("kube_artifacts", {**args, "cache_dir": args["cache_dir"] + "2", "retries": 2})
    assert "the connection broke off" in failed["msg"] and len(server.asked(".tar.gz")) in (3, 4)


@pytest.mark.parametrize("rest", ["whole", "too long", "another file's"])
def test_what_lies_in_the_part(run_module, args, server, archive, wanted, rest: str) -> None:
    """Of a run before: all of it, more than that, or something else."""
    blobs = pathlib.Path(args["cache_dir"]) / "blobs"
    blobs.mkdir(parents=True)
    content = {"whole": archive, "too long": archive + b"x", "another file's": os.urandom(500_000)}[rest]
    (blobs / f"sha512-{hashlib.sha512(archive).hexdigest()}.part").write_bytes(content)
    assert checksums(run_module("kube_artifacts", args)) == wanted
    assert len(kept(args, "blobs")) == 1


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_keeps_what_came(run_module, args, server, archive, wanted, sent: signal.Signals) -> None:
    server.faults = [Fault("slow", after=1_500_000, seconds=60)]
    process = run_module("kube_artifacts", args, popen=True)
    deadline = time.monotonic() + 30
    while not [name for name in kept(args, "blobs") if name.endswith(".part") and size(args, name) >= 1_500_000]:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(sent)
    result = json.loads(process.stdout.read())
    assert process.wait(10) != 0 and "what was downloaded so far stays" in result["msg"]
    assert checksums(run_module("kube_artifacts", args)) == wanted
    assert int(t.cast(str, server.asked(".tar.gz")[-1])[6:-1]) >= 1_500_000


def size(args: dict[str, t.Any], name: str) -> int:
    try:
        return os.path.getsize(os.path.join(args["cache_dir"], "blobs", name))
    except FileNotFoundError:
        return 0


def test_trouble_that_passes(run_module, args, server, wanted) -> None:
    server.faults = [Fault("status", path=".sha512", status=500), Fault("status", status=429, headers={"Retry-After": "1"}), Fault("cut", after=0)]
    started = time.monotonic()
    assert checksums(run_module("kube_artifacts", args)) == wanted
    assert time.monotonic() - started > 1


def test_mirrors(run_module, args, server, archive, wanted) -> None:
    with ReleaseServer({}) as empty, ReleaseServer(published(PATH, os.urandom(1000))) as wrong, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
        args["retries"] = 0
        result = run_module("kube_artifacts", {**args, "urls": [nobody, empty.url, server.url]})
        assert checksums(result) == wanted and result["url"] == server.url + PATH
        # a mirror with other content is passed by
        args["cache_dir"] += "2"
        result = run_module("kube_artifacts", {**args, "urls": [wrong.url, server.url], "checksum": hashlib.sha256(archive).hexdigest()})
        assert checksums(result) == wanted and result["url"] == server.url + PATH
        # so is one that has a page there instead of the checksum
        wrong.files = {f"{PATH}.{algorithm}": b"<html>sign in</html>" for algorithm in ("sha512", "sha256")}
        args["cache_dir"] += "3"
        assert checksums(run_module("kube_artifacts", {**args, "urls": [wrong.url, server.url]})) == wanted
        failed = run_module("kube_artifacts", {**args, "cache_dir": args["cache_dir"] + "4", "urls": [wrong.url]})
        assert f"it holds no sha512 of {NAME}; give the checksum yourself" in failed["msg"]
        # nobody has it
        failed = run_module("kube_artifacts", {**args, "source": "v9.9.9", "urls": [empty.url]})
        assert f"{empty.url}/release/v9.9.9/{NAME}: not there" in failed["msg"] and "correct source" in failed["msg"]
        failed = run_module("kube_artifacts", {**args, "source": "v9.9.9", "urls": [nobody]})
        assert "the connection was refused" in failed["msg"] and nobody in failed["msg"]


def test_a_wrong_checksum_keeps_nothing(run_module, args, server) -> None:
    result = run_module("kube_artifacts", {**args, "checksum": "sha256:" + "0" * 64})
    assert "its sha256 is " in result["msg"] and "0" * 64 in result["msg"] and "nothing of it was kept" in result["msg"]
    assert server.url + PATH in result["msg"] and len(server.asked(".tar.gz")) == 1
    assert kept(args) == []


def test_a_silent_server(run_module, args, server) -> None:
    server.faults = [Fault("hang", path=".sha512", times=-1)]
    started = time.monotonic()
    result = run_module("kube_artifacts", {**args, "timeout": 1, "retries": 1})
    assert "it gave no answer in time" in result["msg"] and time.monotonic() - started < 20


def test_offline_tells_what_is_missing(run_module, args, server) -> None:
    started = time.monotonic()
    for source, what in ((VERSION, server.url + PATH), ("ci/latest", "ci/latest")):
        result = run_module("kube_artifacts", {**args, "source": source, "offline": True})
        assert "offline is set" in result["msg"] and what in result["msg"] and args["cache_dir"] in result["msg"]
    assert time.monotonic() - started < 5 and server.requests == []


def test_two_at_once(run_module, args, server, wanted) -> None:
    server.faults = [Fault("slow", after=2_000_000, seconds=2)]
    runs = [run_module("kube_artifacts", args, popen=True) for _n in range(2)]
    results = [json.loads(run.stdout.read()) for run in runs]
    assert [run.wait() for run in runs] == [0, 0], results
    assert [checksums(result) for result in results] == [wanted, wanted]
    assert len(server.asked(".tar.gz")) == 1 and sorted(result["changed"] for result in results) == [False, True]


# the cache


def test_a_damaged_cache(run_module, args, server, wanted) -> None:
    first = run_module("kube_artifacts", args)
    kubelet = pathlib.Path(first["outputs"]["binaries"]["kubelet"]["path"])
    kubelet.write_bytes(b"other")
    assert run_module("kube_artifacts", args, check=True)["changed"]
    again = run_module("kube_artifacts", args)
    assert checksums(again) == wanted and len(again["actions"]) == 1 and len(server.asked(".tar.gz")) == 1
    # the archive, too
    kubelet.unlink()
    blob = pathlib.Path(args["cache_dir"], "blobs", kept(args, "blobs")[0])
    blob.write_bytes(b"x" + blob.read_bytes()[1:])
    again = run_module("kube_artifacts", args)
    assert checksums(again) == wanted and len(again["actions"]) == 2 and len(server.asked(".tar.gz")) == 2
    # nothing in it has to stay
    shutil.rmtree(args["cache_dir"])
    assert checksums(run_module("kube_artifacts", args)) == wanted


def test_a_moved_cache(run_module, args, server, wanted) -> None:
    run_module("kube_artifacts", args)
    moved = args["cache_dir"] + "-moved"
    shutil.copytree(args["cache_dir"], moved)
    shutil.rmtree(args["cache_dir"])
    args["cache_dir"] = moved
    time.sleep(0.1)
    assert checksums(run_module("kube_artifacts", {**args, "offline": True})) == wanted
    facts = pathlib.Path(moved, "unpacked", next(name for name in kept(args, "unpacked") if name.endswith("facts.json")))
    hashes = json.loads(facts.read_text())["hashes"]
    for name in (*PROGRAMS, *(f"{name}.tar" for name in IMAGES)):
        path = facts.parent / name
        status = path.stat()
        # as the file is now, so that the next run does not read it
        assert hashes[name] == [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, sha256(path)]
    before = facts.stat()
    assert not run_module("kube_artifacts", args)["changed"] and facts.stat() == before


def test_a_directory_is_read_once(run_module, args, tmp_path) -> None:
    root = tmp_path / "made"
    args.update(source=lay(root, {"kubelet": program(), "kube-proxy.tar": image("kube-proxy")}), components=["kubelet", "kube-proxy"])
    time.sleep(0.1)
    assert not os.path.exists(args["cache_dir"]) and run_module("kube_artifacts", args, check=True)["outputs"]
    assert not os.path.exists(args["cache_dir"])
    first = run_module("kube_artifacts", args)
    checksums(first)
    [name] = kept(args)
    ref = pathlib.Path(args["cache_dir"], name)
    ref.write_text(ref.read_text().replace(first["outputs"]["binaries"]["kubelet"]["sha256"], "0" * 64))
    for check in (True, False):
        assert run_module("kube_artifacts", args, check=check)["outputs"]["binaries"]["kubelet"]["sha256"] == "0" * 64
    # another file
    (root / "kubelet").write_bytes(program() + b"x")
    checksums(run_module("kube_artifacts", args))
    # no cache is needed
    (tmp_path / "file").write_text("")
    assert not run_module("kube_artifacts", {**args, "cache_dir": str(tmp_path / "file/cache")})["changed"]


def test_a_full_disk(run_module, args, server, archive, wanted, tmp_path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        args["cache_dir"] = str(disk / "cache")
        result = run_module("kube_artifacts", args)
        assert f'The disk of the cache_dir "{disk}/cache" is full' in result["msg"]
        # room for the archive, not for what is in it
        subprocess.run(["mount", "-o", f"remount,size={len(archive) + 80_000}", str(disk)], check=True)
        assert "is full" in run_module("kube_artifacts", args)["msg"]
        assert not os.listdir(disk / "cache/unpacked")
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        assert checksums(run_module("kube_artifacts", args)) == wanted and len(server.asked(".tar.gz")) <= 2
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_cache_that_cannot_be(run_module, args, tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    result = run_module("kube_artifacts", {**args, "cache_dir": str(tmp_path / "file" / "cache")})
    assert str(tmp_path / "file") in result["msg"] and "name another cache_dir" in result["msg"]


# the real thing


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A release archive of what the embedded tree has compiled."""
    if not BUILT.is_dir():
        pytest.skip("the embedded tree is not compiled here")
    path = tmp_path_factory.mktemp("real") / NAME
    place = pathlib.Path("kubernetes/server/bin")
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name in PROGRAMS:
            archive.add(BUILT / f"dockerized/bin/linux/{ARCH}/{name}", str(place / name))
        for name in IMAGES:
            archive.add(BUILT / f"release-images/{ARCH}/{name}.tar", str(place / f"{name}.tar"))
        version = path.with_name("version")
        version.write_text("v1.37.2\n")
        archive.add(version, "kubernetes/version")
    return path


def test_byte_identical_to_the_tree(run_module, peak_memory, args, real) -> None:
    with ReleaseServer(published(PATH, real)) as server:
        server.faults = [Fault("cut", after=50_000_000)]
        output, peak = peak_memory(run_module("kube_artifacts", {**args, "urls": [server.url]}, popen=True))
    result = json.loads(output)
    tree = run_module("kube_artifacts", {"source": str(BUILT)})
    assert checksums(result) == checksums(tree) and result["version"] == tree["version"]
    for kind in ("binaries", "images"):
        for name, entry in tree["outputs"][kind].items():
            assert {**result["outputs"][kind][name], "path": None} == {**entry, "path": None}
    assert peak < 150 * 1024, f"{peak} KiB"
    assert small_base.PLATFORM == result["platform"]


# the role, and what one sees meanwhile

PLAY = """
- hosts: localhost
  gather_facts: true
  gather_subset: [min]
  tasks:
    - ansible.builtin.include_tasks: one.yml
      loop: "{{ sources }}"
"""
ONE = """
- block:
    - ansible.builtin.include_role:
        name: nodeforge.kind.kube_binaries
      vars:
        kube_binaries_source: "{{ item.source }}"
        kube_binaries_components: "{{ item.components }}"
    - ansible.builtin.debug:
        msg: "{{ item.source }} gave {{ names | sort | join(',') }} of {{ kube_binaries_version }}"
      vars:
        names: "{{ kube_binaries_outputs.binaries | list + kube_binaries_outputs.images | list }}"
  rescue:
    - ansible.builtin.debug:
        msg: "{{ item.source }} failed: {{ ansible_failed_result.msg }}"
"""


def test_the_role_looks_what_the_source_is(ansible_env, args, server, archive, tmp_path) -> None:
    directory, tree = tmp_path / "directory", tmp_path / "tree"
    lay(directory, {name.rpartition("/")[2]: content for name, content in release().items()})
    # a tree is one by its script, or because it is called one
    lay(tree, {"hack/print-workspace-status.sh": b"#!/bin/sh\n", "kubelet": program()})
    good = [str(directory), f"artifacts:{directory}", VERSION, f"release:{VERSION}", f"{server.url}{PATH}"]
    sources = [{"source": source, "components": sorted(ALL)} for source in [*good, str(tree), f"tree:{directory}"]]
    sources.append({"source": f"release/{VERSION}", "components": ["kube-proxy"]})
    (tmp_path / "play.yml").write_text(PLAY)
    (tmp_path / "one.yml").write_text(ONE)
    variables = {"nodeforge_cache": str(tmp_path / "cache"), "kube_binaries_urls": args["urls"], "sources": sources}
    command = ["ansible-playbook", "play.yml", "-e", json.dumps(variables)]
    run = subprocess.run(command, env=ansible_env, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    for source in good:
        assert f"{source} gave {','.join(sorted(ALL))} of {VERSION}" in run.stdout, run.stdout
    for source, path in ((tree, tree), (f"tree:{directory}", directory)):
        assert re.search(f'{source} failed: .*{path}.* has no Makefile', run.stdout), run.stdout
    assert f"release/{VERSION} gave kube-proxy of {VERSION}" in run.stdout


def test_what_a_server_says_is_remembered_where_nothing_changes(ansible_env, run_module, args, server, archive, tmp_path) -> None:
    """With the action plugin, that is, which first looks whether there is something to watch."""
    assert run_module("kube_artifacts", args)["changed"]
    server.files["/release/stable-1.37.txt"] = VERSION.encode()
    server.files.update(published("/some/where/k.tgz", archive))
    sources = ["release/stable-1.37", f"{server.url}/some/where/k.tgz"]

    def play(offline: bool) -> None:
        tasks = []
        for source in sources:
            tasks.append({"nodeforge.kind.kube_artifacts": {**args, "source": source, "offline": offline}, "register": "taken"})
            tasks.append({"ansible.builtin.assert": {"that": ["taken is not changed", f"taken.version == '{VERSION}'", "'long' not in taken"]}})
        (tmp_path / "play.yml").write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
        run = subprocess.run(["ansible-playbook", "play.yml"], env=ansible_env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert run.returncode == 0, run.stdout + run.stderr

    play(offline=False)
    server.requests.clear()
    play(offline=True)
    assert server.requests == []


def test_progress_is_seen(ansible_env, args, server, tmp_path, interpreter) -> None:
    server.faults = [Fault("slow", after=1_200_000, seconds=5.5)]
    (tmp_path / "play.yml").write_text(
        "- hosts: localhost\n  gather_facts: false\n  tasks:\n    - nodeforge.kind.kube_artifacts: " + json.dumps({**args, "timeout": 30, "progress": "lines"})
    )
    command = ["ansible-playbook", "-e", interpreter, "play.yml"]
    run = subprocess.run(command, env=ansible_env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"[localhost] downloading {server.url}{PATH}" in run.stderr
    assert f"[localhost] {NAME}: " in run.stderr and " of 3 MB (" in run.stderr
    assert not [name for name in kept(args) if "log" in name]
