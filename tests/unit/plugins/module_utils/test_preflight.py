# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a preflight makes of what it sees: the level of each finding, and that there is a remedy."""

from __future__ import annotations

import pathlib

import pytest
from ansible_collections.nodeforge.kind.plugins.module_utils import _preflight
from ansible_collections.nodeforge.kind.plugins.module_utils._preflight import Finding
from ansible_collections.nodeforge.kind.plugins.module_utils._tree import TreeError


def level(finding: Finding) -> str:
    """Whatever is not good has a remedy, and only that."""
    assert bool(finding.remedy) is (finding.level != "ok"), finding
    assert finding.level in _preflight.LEVELS and finding.value and not finding.remedy.endswith(".")
    return finding.level


# -- the source -------------------------------------------------------------------------------------------------------


PROGRAMS = ("kubeadm", "kubectl", "kubelet")
IMAGES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")


@pytest.fixture
def places(tmp_path: pathlib.Path) -> pathlib.Path:
    for name in ("checkout/hack/print-workspace-status.sh", "embedded/hack/print-workspace-status.sh", "file", "x.tar", "nothing/file", "part/kubelet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "server.tar.gz").write_bytes(b"\x1f\x8b")
    (tmp_path / "embedded/go.mod").write_text("module nodeforge.example/kubernetes\n")
    return tmp_path


@pytest.mark.parametrize(
    "source, kind, path, version",
    [
        ("embedded", "embedded", "/e", ""),
        ("v1.34.4", "release", "v1.34.4", "v1.34.4"),
        ("ci/latest", "release", "ci/latest", ""),
        ("release:stable", "release", "release:stable", ""),
        ("ci/v1.38.0-alpha.1+abc", "release", "ci/v1.38.0-alpha.1+abc", "v1.38.0-alpha.1+abc"),
        ("artifacts:v1.34.4", "release", "v1.34.4", "v1.34.4"),
        ("https://example.com/kubernetes-server-linux-arm64.tar.gz", "release", "https://example.com/kubernetes-server-linux-arm64.tar.gz", ""),
        ("@/server.tar.gz", "release", "@/server.tar.gz", ""),
        ("@/checkout", "checkout", "@/checkout", ""),
        ("@/checkout/", "checkout", "@/checkout", ""),
        ("@/embedded", "embedded", "@/embedded", ""),
        ("tree:@/nothing", "checkout", "@/nothing", ""),
    ],
)
def test_classify(places: pathlib.Path, source: str, kind: str, path: str, version: str) -> None:
    assert _preflight.classify(source.replace("@", str(places)), "/e", "linux/arm64") == (kind, path.replace("@", str(places)), version, ())


@pytest.mark.parametrize("named", ["", "artifacts:"])
@pytest.mark.parametrize(
    "programs, images",
    [
        ("", ""),
        ("bin", "bin"),
        ("linux/arm64", "images"),
        ("bin/linux/arm64", "images/arm64"),
        ("kubernetes/node/bin", "kubernetes/server/bin"),
        ("_output/local/bin/linux/arm64", "_output/release-images/arm64"),
        ("dockerized/bin/linux/arm64", "release-stage/server/linux-arm64/kubernetes/server/bin"),
    ],
)
def test_what_is_compiled(tmp_path: pathlib.Path, named: str, programs: str, images: str) -> None:
    """Where kube_artifacts finds them."""
    for place, names in ((programs, PROGRAMS), (images, [f"{name}.tar" for name in IMAGES])):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        for name in names:
            (tmp_path / place / name).touch()
    found = _preflight.classify(f"{named}{tmp_path}", "/e", "linux/arm64")
    assert found == ("artifacts", str(tmp_path), "", sorted(PROGRAMS + IMAGES))
    if "arm64" in programs:
        with pytest.raises(TreeError, match="for linux/amd64"):
            _preflight.classify(f"{named}{tmp_path}", "/e", "linux/amd64")


def test_only_what_is_wanted(places: pathlib.Path) -> None:
    assert _preflight.classify(f"{places}/part", "/e", "linux/arm64", ["kubelet"]).parts == ["kubelet"]
    with pytest.raises(TreeError, match="has no kubectl for linux/arm64"):
        _preflight.classify(f"{places}/part", "/e", "linux/arm64", ["kubelet", "kubectl"])


@pytest.mark.parametrize(
    "source, text",
    [
        ("@/absent", "There is no"),
        ("@/v1.34.4_x", "There is no"),
        ("v1.34.4_x", "There is no"),
        ("@/file", "neither a directory"),
        ("@/x.tar", "neither a directory"),
        ("@/nothing", "is no Kubernetes tree"),
        ("artifacts:@/checkout", "has no kubeadm"),
        ("release/Foo Bar", "neither a version nor a marker"),
        ("ftp://example.com/x.tar.gz", "is not a URL of a file"),
        ("https://example.com/kubernetes-server-linux-amd64.tar.gz", "not for linux/arm64"),
    ],
)
def test_classify_what_is_none(places: pathlib.Path, source: str, text: str) -> None:
    with pytest.raises(TreeError) as error:
        _preflight.classify(source.replace("@", str(places)), "/e", "linux/arm64")
    finding = _preflight.from_error("kubernetes", error.value)
    assert text in finding.value and level(finding) == "stop"


def test_go() -> None:
    assert level(_preflight.go_finding("ok", "go1.26.8", "", True)) == "ok"
    for given, offline, expected in (("warning", False, "warning"), ("warning", True, "stop"), ("stop", False, "stop")):
        assert level(_preflight.go_finding(given, "go1.26.8, but the tree takes its own 1.26.10", "use builder=container", offline)) == expected


def test_git() -> None:
    lines = {"gitTreeState": "dirty", "gitCommit": "0123456789abcdef"}
    assert _preflight.git_finding(lines, True, True, True, True).value == "dirty at 0123456789ab, a worktree, shallow, another user's"
    assert _preflight.git_finding({**lines, "gitTreeState": "clean"}, True, False, False, False).value == "clean at 0123456789ab"
    assert "not a git checkout" in _preflight.git_finding(lines, False, False, False, False).value


# -- the machine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "places, free, levels",
    [
        ({"/t": 20, "/d": 10}, {"/t": (1, 100), "/d": (2, 100)}, ["ok", "ok"]),
        ({"/t": 20, "/d": 10}, {"/t": (1, 25), "/d": (1, 25)}, ["warning"]),
        ({"/t": 20, "/d": 10}, {"/t": (1, 30), "/d": (1, 30)}, ["ok"]),
        ({"/t": 20, "/d": 10}, {"/t": (1, 5), "/d": (1, 5)}, ["warning"]),
        ({"/t": 20, "/d": 10}, {"/t": (1, 0.1), "/d": (2, 9)}, ["warning", "warning"]),
        ({"/t": 20}, {}, []),
    ],
)
def test_disk(places: dict[str, float], free: dict[str, tuple[int, float]], levels: list[str]) -> None:
    assert [level(finding) for finding in _preflight.disk_findings(places, free)] == levels


@pytest.mark.parametrize(
    "kind, available, expected",
    [("checkout", 16, "ok"), ("checkout", 7.9, "warning"), ("checkout", 0.5, "warning"), ("embedded", 5, "ok"), ("release", 2, "ok")],
)
def test_memory(kind: str, available: float, expected: str) -> None:
    assert level(_preflight.memory_finding(kind, available)) == expected


@pytest.mark.parametrize(
    "cgroup, refuses, base, expected",
    [("2", True, "base:x", "ok"), ("1", False, "base:x", "ok"), ("1", True, "", "ok"), ("1", True, "base:x", "warning"), ("", True, "x", "ok")],
)
def test_cgroup(cgroup: str, refuses: bool, base: str, expected: str) -> None:
    assert level(_preflight.cgroup_finding(cgroup, refuses, base)) == expected


@pytest.mark.parametrize(
    "version, refuses",
    [("v1.34.9", False), ("v1.35.0", True), ("v1.35.0-alpha.1", True), ("v1.125.0", True), ("v2.1.0", False), ("", False), ("ci/latest", False)],
)
def test_versions_that_refuse_cgroup_v1(version: str, refuses: bool) -> None:
    assert _preflight.refuses_cgroup_v1(version) is refuses


@pytest.mark.parametrize("platform, emulated", [("linux/amd64", False), ("linux/arm64", True), ("linux/arm64", None), ("linux/arm64", False)])
@pytest.mark.parametrize("compiles", [True, False])
def test_platform(platform: str, emulated: bool | None, compiles: bool) -> None:
    finding = _preflight.platform_finding(platform, "linux/amd64", compiles, emulated)
    assert level(finding) == "ok"
    assert ("cross-compiled" in finding.value) is (compiles and platform == "linux/arm64")
    assert ("qemu" in finding.value) is (platform == "linux/arm64" and not emulated)


def test_emulation() -> None:
    assert _preflight.is_emulated({"qemu-aarch64": "enabled\ninterpreter /usr/bin/qemu\n"}, "linux/arm64")
    assert _preflight.is_emulated({"qemu-x86_64-static": "enabled\n"}, "linux/amd64")
    assert not _preflight.is_emulated({"qemu-aarch64": "disabled\n"}, "linux/arm64")
    assert not _preflight.is_emulated({"qemu-arm": "enabled\n"}, "linux/arm64")


def test_builder() -> None:
    assert level(_preflight.builder_finding("r/kube-cross:1", True, True)) == "ok"
    assert level(_preflight.builder_finding("r/kube-cross:1", False, False)) == "ok"
    assert level(_preflight.builder_finding("r/kube-cross:1", False, True)) == "stop"


@pytest.mark.parametrize(
    "registry, url",
    [
        ("registry.k8s.io", "https://registry.k8s.io/v2/"),
        ("docker.io", "https://registry-1.docker.io/v2/"),
        ("index.docker.io", "https://registry-1.docker.io/v2/"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000/v2/"),
        ("localhost", "http://localhost/v2/"),
        ("localhost.example.com", "https://localhost.example.com/v2/"),
        ("http://mirror.example.com:80/prefix/", "http://mirror.example.com:80/prefix/v2/"),
        ("[::1]:5000", "http://[::1]:5000/v2/"),
    ],
)
def test_registry_url(registry: str, url: str) -> None:
    assert _preflight.registry_url(registry) == url


@pytest.mark.parametrize("registry", ["", "a b", "http://", "user@host", "host:port", "[::1", "ftp://host"])
def test_registry_that_is_none(registry: str) -> None:
    with pytest.raises(TreeError, match="is not a registry"):
        _preflight.registry_url(registry)


@pytest.mark.parametrize("status, expected", [(200, "ok"), (401, "ok"), (403, "ok"), (404, "warning"), (502, "warning"), (None, "warning")])
def test_registry(status: int | None, expected: str) -> None:
    assert level(_preflight.registry_finding("r", status, "cannot be reached")) == expected


def test_table() -> None:
    findings = [Finding("go", "go1.26.8"), Finding("registry x", "answers 502", "warning", "check it")]
    assert _preflight.table(findings) == ["ok       go          go1.26.8", "warning  registry x  answers 502 -> check it"]
    assert _preflight.worst(findings) == "warning" and _preflight.worst([]) == "ok"
