# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decisions about a tree: what it can build, with which command, where outputs lie, and when make has to run."""

from __future__ import annotations

import io
import json
import os
import pathlib
import re
import struct
import subprocess
import tarfile
import time
import typing as t

import pytest
from ansible_collections.nodeforge.kind.plugins.module_utils import _tree
from ansible_collections.nodeforge.kind.plugins.module_utils._tree import Features, Request, TreeError


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> str:
    for name in (
        "cmd/kubelet/kubelet.go",
        "cmd/kubeadm/main.go",
        "staging/src/k8s.io/base/logs/runner/main.go",
        "test/e2e/e2e_test.go",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.touch()
    (tmp_path / "cmd/OWNERS").touch()
    (tmp_path / "cmd/empty").mkdir()
    return str(tmp_path)


# -- platform, components, variables --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "platform, machine, expected",
    [
        ("linux/amd64", "aarch64", "linux/amd64"),
        ("linux/arm64", "x86_64", "linux/arm64"),
        (None, "x86_64", "linux/amd64"),
        (None, "AMD64", "linux/amd64"),
        (None, "aarch64", "linux/arm64"),
        ("", "arm64", "linux/arm64"),
    ],
)
def test_platform(platform: str | None, machine: str, expected: str) -> None:
    assert _tree.parse_platform(platform, machine) == expected


@pytest.mark.parametrize(
    "platform, machine",
    [("linux/s390x", "x86_64"), ("amd64", "x86_64"), ("linux/amd64/v2", "x86_64"), (None, "riscv64")],
)
def test_platform_unknown(platform: str | None, machine: str) -> None:
    with pytest.raises(TreeError, match="linux/amd64 or linux/arm64") as error:
        _tree.parse_platform(platform, machine)
    assert f'"{platform or machine}"' in str(error.value)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("cmd/kubelet", "cmd/kubelet"),
        ("./cmd/kubelet/", "cmd/kubelet"),
        ("k8s.io/kubernetes/cmd/kubelet", "cmd/kubelet"),
        ("kubelet", "cmd/kubelet"),
        (" kubelet ", "cmd/kubelet"),
        ("k8s.io/base/logs/runner", "k8s.io/base/logs/runner"),
        ("staging/src/k8s.io/base/logs/runner", "staging/src/k8s.io/base/logs/runner"),
        ("test/e2e/e2e.test", "test/e2e/e2e.test"),
    ],
)
def test_what(tree: str, name: str, expected: str) -> None:
    assert _tree.normalise_what(tree, [name]) == [expected]


def test_what_twice_and_in_order(tree: str) -> None:
    assert _tree.normalise_what(tree, ["kubelet", "cmd/kubeadm", "./cmd/kubelet"]) == ["cmd/kubelet", "cmd/kubeadm"]


@pytest.mark.parametrize(
    "name", ["cmd/kublet", "kublet", "k8s.io/kubernetes/cmd/kublet", "cmd/kubelet2", "k8s.io/other"]
)
def test_what_unknown(tree: str, name: str) -> None:
    with pytest.raises(TreeError) as error:
        _tree.normalise_what(tree, [name])
    assert f'"{name}"' in str(error.value) and str(error.value).endswith("it has cmd/kubeadm, cmd/kubelet.")


@pytest.mark.parametrize(
    "name",
    ["", "/", "../etc", "cmd/../../etc", "cmd/kubelet; rm -rf /", "-n", "cmd/kubelet cmd/kubeadm", "$(shell id)"],
)
def test_what_malformed(tree: str, name: str) -> None:
    with pytest.raises(TreeError, match="is not a component"):
        _tree.normalise_what(tree, [name])


def test_variables() -> None:
    given = {"A": 1, "B": True, "C": ["x", "y"], "D": None, "_e": "a=b c", "F": False}
    assert _tree.check_variables(given, "params") == {
        "A": "1",
        "B": "true",
        "C": "x y",
        "D": "",
        "_e": "a=b c",
        "F": "false",
    }


@pytest.mark.parametrize(
    "name, value, text",
    [
        ("1A", 1, "not a name"),
        ("A-B", 1, "not a name"),
        ("A=B", 1, "not a name"),
        ("", 1, "not a name"),
        ("A\n", 1, "not a name"),
        ("DBG", 1, "option debug"),
        ("WHAT", "x", "option what"),
        ("KUBE_BUILD_PLATFORMS", "x", "option platform"),
        ("A", {"b": 1}, "dictionary"),
        ("A", "two\nlines", "more than one line"),
    ],
)
def test_variables_refused(name: str, value: t.Any, text: str) -> None:
    with pytest.raises(TreeError, match=text):
        _tree.check_variables({name: value}, "params")


# -- targets ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, targets, complete",
    [
        ("all: a b\n\techo x: y\na b:\n.PHONY: all\n", {"all", "a", "b"}, True),
        ("X := a\nY ?= b:c\nZ = d\nall::\n", {"all"}, True),
        ("a \\\n b:\n", {"a", "b"}, True),
        ("# not: this\nall:\n", {"all"}, True),
        ("include more.mk\nall:\n", {"all"}, False),
        ("-include more.mk\n", set(), False),
        ("$(CMD_TARGET): x\nall:\n", {"all"}, False),
        ("%.o: %.c\n", set(), False),
        ("$(eval $(call X))\n", set(), False),
    ],
)
def test_makefile_targets(text: str, targets: set[str], complete: bool) -> None:
    assert _tree.makefile_targets(text) == (targets, complete)


def test_targets(tree: str) -> None:
    _tree.check_targets(tree, ["all"], "all:\n")
    _tree.check_targets(tree, ["kubelet"], "all:\n")  # as Kubernetes has a target for each directory below cmd
    _tree.check_targets(tree, ["anything"], "include x\n")
    _tree.check_targets(tree, ["quick-release-images", "quick-release-images"], "quick-release-images:\n")
    for targets, text in (
        ([], "targets is empty"),
        (["nothing"], 'no target "nothing"; it has all, release-images'),
        (["-n"], "not the name"),
        (["A=b"], "not the name"),
        (["all", "release-images"], "mixes release-images"),
    ):
        with pytest.raises(TreeError, match=text):
            _tree.check_targets(tree, targets, "all release-images:\n")


def test_images_that_would_silently_be_stripped(tree: str) -> None:
    script = pathlib.Path(tree) / "build/release-images.sh"
    script.parent.mkdir()

    def check(targets: list[str], builder: str, debug: bool) -> None:
        _tree.check_features(tree, _tree.read_features(tree), targets, builder, debug)

    # compiles on the host, where make's variables are in its environment
    script.write_text('make all WHAT="${x}"\n')
    check(["quick-release-images"], "host", True)
    script.write_text('# DBG\nkube::build::run_build_command make all WHAT="${x}"\n')
    check(["quick-release-images"], "host", False)
    with pytest.raises(TreeError, match="before 1.26"):
        check(["quick-release-images"], "host", True)
    script.write_text('kube::build::run_build_command make all DBG="${DBG:-}"\n')
    check(["quick-release-images"], "host", True)
    with pytest.raises(TreeError, match="builder=host"):
        check(["all"], "container", False)
    # its two steps can be taken one by one
    old = Features(run_script=True, image_debug=False, image_functions=True)
    _tree.check_features(tree, old, ["quick-release-images"], "host", True)
    with pytest.raises(TreeError, match="before 1.26"):
        _tree.check_features(tree, old, ["release-images"], "host", True)


KUBERNETES = pathlib.Path(os.environ.get("GOMODCACHE", os.path.expanduser("~/go/pkg/mod"))) / "k8s.io"


@pytest.mark.parametrize(
    "version, features",
    [
        ("v1.34.4", {"builder_image": True, "mounted": False, "fails_cgroup_v1": False, "go_wanted": "1.24.12", "buildx_builder": True}),
        ("v1.37.2", {"builder_image": False, "mounted": True, "version_file": True, "fails_cgroup_v1": True, "go_wanted": "1.26.10"}),
    ],
)
def test_features_of_kubernetes_itself(version: str, features: dict[str, t.Any]) -> None:
    """Its own scripts, where Go has them: what we read out of files is in its files."""
    tree = KUBERNETES / f"kubernetes@{version}"
    if not tree.is_dir():
        pytest.skip(f"Go has not downloaded Kubernetes {version}")
    found = _tree.read_features(str(tree))
    always = {"run_script", "container_images", "image_debug", "image_functions", "static_overrides", "buildx_images", "go_fetched"}
    assert {name for name in always if not getattr(found, name)} == set()
    assert {name: getattr(found, name) for name in features} == features
    assert found.buildx_builder is found.builder_image and found.go_minimum.startswith(features["go_wanted"][:4])


def test_features_of_no_kubernetes(tree: str) -> None:
    assert _tree.read_features(tree) == Features()


@pytest.mark.parametrize(
    "features, images, host, rsync, buildx, text",
    [
        ({}, False, "tcp://192.0.2.1:2376", True, True, "engine of another machine"),
        ({}, False, "ssh://me@host", True, True, "engine of another machine"),
        ({}, False, "tcp://127.0.0.1:2375", True, False, ""),
        ({}, False, "unix:///run/user/1/docker.sock", False, False, ""),
        ({"builder_image": True}, True, "", False, True, "has no rsync"),
        ({"buildx_images": True}, True, "", True, False, "makes its images; install docker-buildx."),
        ({"buildx_images": True}, False, "", True, False, ""),
        ({"buildx_builder": True}, False, "", True, False, "image of its build container; install docker-buildx, or use builder=host"),
        ({"buildx_builder": True, "buildx_images": True, "builder_image": True}, True, "", True, True, ""),
    ],
)
def test_engine(features: dict[str, bool], images: bool, host: str, rsync: bool, buildx: bool, text: str) -> None:
    if not text:
        _tree.check_engine("/t", Features(**features), images, host, rsync, lambda: buildx)
        return
    with pytest.raises(TreeError, match=re.escape(text)):
        _tree.check_engine("/t", Features(**features), images, host, rsync, lambda: buildx)


PINNED = Features(go_wanted="1.26.10", go_fetched="toolchain", go_minimum="1.26")


@pytest.mark.parametrize(
    "features, host, environment, at_hand, level, value",
    [
        (PINNED, "go1.26.10", {}, False, "ok", "go1.26.10, which the tree wants"),
        (PINNED, "go1.26.8", {}, True, "ok", "go1.26.8, but the tree takes its own 1.26.10, which is on this host"),
        (PINNED, "go1.26.8", {}, False, "warning", "go1.26.8, but the tree takes its own 1.26.10"),
        (PINNED, "go1.26.8", {"GOTOOLCHAIN": "auto"}, False, "warning", "go1.26.8, but the tree takes its own 1.26.10"),
        (PINNED, "go1.26.8", {"FORCE_HOST_GO": "y"}, False, "ok", "go1.26.8"),
        (PINNED, "go1.26.8", {"GOTOOLCHAIN": "local"}, False, "ok", "go1.26.8"),
        (PINNED, "go1.25.9", {"FORCE_HOST_GO": "y"}, False, "stop", "go1.25.9, but the tree needs 1.26"),
        (PINNED, "go1.25.9", {"GOTOOLCHAIN": "go1.27.0"}, False, "ok", "go1.27.0, as GOTOOLCHAIN says"),
        (PINNED, "go1.26.8", {"GO_VERSION": "1.26.8"}, False, "ok", "go1.26.8, which the tree wants"),
        (PINNED, "", {"FORCE_HOST_GO": "y"}, False, "stop", "none"),
        (Features(go_minimum="1.26.0"), "go1.26.8", {}, False, "ok", "go1.26.8"),
        (Features(go_minimum="1.26.0"), "go1.24.1", {}, False, "warning", "go1.24.1, but the tree needs 1.26.0"),
        (Features(), "go1.20", {}, False, "ok", "go1.20"),
        (Features(), "", {}, False, "stop", "none"),
    ],
)
def test_go(features: Features, host: str, environment: dict[str, str], at_hand: bool, level: str, value: str) -> None:
    found = _tree.go_decision(features, host, environment, at_hand)
    assert found[:2] == (level, value) and bool(found[2]) is (level != "ok")
    # only where the host's own Go would do
    assert ("set FORCE_HOST_GO" in found[2]) is (level == "warning" and features is PINNED)


def test_container_version(tmp_path: pathlib.Path) -> None:
    mounted = Features(mounted=True)
    for features, told in ((Features(builder_image=True), True), (Features(mounted=True, version_file=True), True), (mounted, False)):
        _tree.check_container_version(str(tmp_path), features, told)
    with pytest.raises(TreeError, match="given version"):
        _tree.check_container_version(str(tmp_path), mounted, True)
    (tmp_path / ".git/objects/info").mkdir(parents=True)
    _tree.check_container_version(str(tmp_path), mounted, False)
    (tmp_path / ".git/objects/info/alternates").touch()
    with pytest.raises(TreeError, match="borrows objects"):
        _tree.check_container_version(str(tmp_path), mounted, False)


def test_builder_containers() -> None:
    name = _tree.builder_hash("host", "/t", "main")
    assert re.fullmatch("[0-9a-f]{10}", name) and name != _tree.builder_hash("host", "/t", "other")
    lines = [f"1 kube-build-{name}-5-v1", f"2 kube-build-data-{name}-5-v1", f"3 kube-rsync-{name}-5-v1", f"4 mine-{name}", "5 kube-build-0"]
    assert _tree.builder_containers("\n".join(lines), name) == {"1", "3"}


def test_version_definitions() -> None:
    status = _tree.parse_status_lines("gitVersion v1.30.0-1+abc\ngitCommit abc\ngitTreeState it's\nbuildDate x\n")
    text = _tree.version_definitions(status)
    assert "KUBE_GIT_VERSION=v1.30.0-1+abc\n" in text and "KUBE_GIT_MAJOR=''\n" in text
    shell = subprocess.run(["sh", "-c", text + 'printf %s "$KUBE_GIT_TREE_STATE"'], check=True, capture_output=True, text=True)
    assert shell.stdout == "it's"


def test_git_environment(tmp_path: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "tree")
    found = _tree.git_environment(str(tmp_path / "link"), {"GIT_CONFIG_COUNT": "1"})
    assert found["GIT_CONFIG_COUNT"] == "3" and found["GIT_CEILING_DIRECTORIES"] == os.path.realpath(tmp_path)
    assert {found["GIT_CONFIG_VALUE_1"], found["GIT_CONFIG_VALUE_2"]} == {str(tmp_path / "link"), os.path.realpath(tmp_path / "tree")}


# -- command and outputs -----------------------------------------------------------------------------------------------------


def request(**changes: t.Any) -> Request:
    features = Features(static_overrides=True)
    given = {"tree": "/t", "targets": ["all"], "what": ["cmd/kubelet"], "platform": "linux/arm64", "features": features}
    return Request(**{**given, **changes})


@pytest.mark.parametrize(
    "changes, command, binaries",
    [
        (
            {},
            [
                "make",
                "-C",
                "/t",
                "all",
                "WHAT=cmd/kubelet",
                "KUBE_STATIC_OVERRIDES=kubelet",
                "KUBE_BUILD_PLATFORMS=linux/arm64",
                "KUBE_VERBOSE=1",
            ],
            "/t/_output/local/bin/linux/arm64",
        ),
        (
            {"features": Features()},
            ["make", "-C", "/t", "all", "WHAT=cmd/kubelet", "KUBE_BUILD_PLATFORMS=linux/arm64", "KUBE_VERBOSE=1"],
            "/t/_output/local/bin/linux/arm64",
        ),
        (
            {"what": [], "debug": True, "params": {"KUBE_VERBOSE": "0", "X": "y"}},
            [
                *("make", "-C", "/t", "all", "KUBE_STATIC_OVERRIDES=kubelet", "KUBE_BUILD_PLATFORMS=linux/arm64"),
                *("KUBE_VERBOSE=0", "DBG=1", "X=y"),
            ],
            "/t/_output/local/bin/linux/arm64",
        ),
        (
            {"builder": "container", "debug": True},
            [
                "/t/build/run.sh",
                "make",
                "all",
                "WHAT=cmd/kubelet",
                "KUBE_BUILD_PLATFORMS=linux/arm64",
                "KUBE_VERBOSE=1",
                "DBG=1",
            ],
            "/t/_output/dockerized/bin/linux/arm64",
        ),
        (
            # image targets choose their own builder
            {"targets": ["quick-release-images"], "builder": "container", "what": ["cmd/kubeadm", "cmd/kubelet"]},
            [
                *(
                    "make",
                    "-C",
                    "/t",
                    "quick-release-images",
                    "KUBE_EXTRA_WHAT=cmd/kubeadm cmd/kubelet",
                    "KUBE_BUILD_CONFORMANCE=n",
                ),
                *("KUBE_BUILD_PLATFORMS=linux/arm64", "KUBE_VERBOSE=1"),
            ],
            "/t/_output/dockerized/bin/linux/arm64",
        ),
    ],
)
def test_command(changes: dict[str, t.Any], command: list[str], binaries: str) -> None:
    assert request(**changes).command() == command
    assert request(**changes).binary_directory == binaries


def test_key_tells_apart_what_makes_other_files() -> None:
    same = [{}, {"debug": True}, {"params": {"A": "b"}}]
    assert len({request(**changes).key for changes in same}) == 1
    other = [
        {},
        {"what": []},
        {"platform": "linux/amd64"},
        {"builder": "container"},
        {"targets": ["quick-release-images"]},
        {"image_tool": "/tool"},
    ]
    assert len({request(**changes).key for changes in other}) == len(other)
    assert request(what=["cmd/a", "cmd/b"]).key == request(what=["cmd/b", "cmd/a"]).key


def test_missing_outputs() -> None:
    assert request().missing({}, {}) == ["/t/_output/local/bin/linux/arm64/kubelet"]
    assert request().missing({"kubelet"}, {}) == []
    assert request(what=[]).missing({}, {}) == ["/t/_output/local/bin/linux/arm64"]
    missing = request(targets=["release-images"]).missing({"kubelet"}, {"kube-proxy", "kube-apiserver"})
    assert [path.rpartition("/")[2] for path in missing] == ["kube-controller-manager.tar", "kube-scheduler.tar"]
    # images that are written from programs
    both = ["cmd/kubelet", "cmd/kube-proxy"]
    assert request(what=both).missing({"kubelet", "kube-proxy"}, {}) == []
    images = request(what=both, image_tool="/tool")
    assert images.missing({"kubelet", "kube-proxy"}, {}) == ["/t/_output/nodeforge/images/arm64/kube-proxy.tar"]
    assert images.missing({"kubelet", "kube-proxy"}, {"kube-proxy"}) == []
    assert request(what=[], image_tool="/tool").missing({"kubelet", "kube-scheduler"}, {}) == ["/t/_output/nodeforge/images/arm64/kube-scheduler.tar"]


# -- version -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "version",
    [
        "v1.37.2",
        "v1.37.0-alpha.0",
        "v1.37.2-dirty",
        "v1.37.0-alpha.0.1+106241a057b9ea-dirty",
        "v1.37.0-1+58dde307543006",
        "v1.37.0+mine",
    ],
)
def test_version(version: str) -> None:
    output = f"STABLE_BUILD_SCM_REVISION x\ngitCommit abc\n gitVersion {version}\nbuildDate now\n"
    assert _tree.check_version(_tree.parse_status_lines(output)["gitVersion"], "/t", True, False) == version


@pytest.mark.parametrize(
    "output, is_git, is_shallow, text",
    [
        ("gitCommit abc\n", False, False, "not a git checkout"),
        ("gitVersion \n", True, True, "shallow clone"),
        ("gitVersion\n", True, False, "no tag"),
        ("gitVersion 1.37.2\n", True, False, '"1.37.2", which is not a version'),
        ("gitVersion v1.37\n", True, False, '"v1.37", which is not a version'),
        ("gitVersion v1.37.2 x\n", True, False, "is not a version"),
        ("gitVersion v0.0.0-master+$Format:%H$\n", True, False, "is not a version"),
    ],
)
def test_version_that_is_none(output: str, is_git: bool, is_shallow: bool, text: str) -> None:
    with pytest.raises(TreeError) as error:
        _tree.check_version(_tree.parse_status_lines(output)["gitVersion"], "/t", is_git, is_shallow)
    assert text in str(error.value) and "KUBE_GIT_VERSION_FILE" in str(error.value)
    with pytest.raises(TreeError, match="this host has no git"):
        _tree.check_version("", "/t", True, False, has_git=False)


# -- fingerprint and stamp -------------------------------------------------------------------------------------------------------


def test_status() -> None:
    output = (
        b"# branch.oid 0123\0# branch.head main\0"
        b"1 .M N... 100644 100644 100644 aaaa aaaa cmd/a b.go\0"
        b"u UU N... 100644 100644 100644 100644 a b c both.go\0"
        b"? new\nline\0"
        b"1 A. N... 000000 100644 100644 0000 aaaa \xff.go\0"
    )
    assert _tree.parse_status(output) == ("0123", [b"both.go", b"cmd/a b.go", b"new\nline", b"\xff.go"])
    assert _tree.parse_status(b"") == ("", [])


STAMP: dict[str, t.Any] = {
    "format": _tree.STAMP_FORMAT,
    "fingerprint": "f",
    "version": "v1",
    "parameters": {"WHAT": "a"},
    "inputs": {"/i": "1"},
    "toolchain": {"GOVERSION": "go1.26"},
    "outputs": {"binaries": {"kubelet": {"path": "/k", "sha256": "1"}}, "images": {}},
}


@pytest.mark.parametrize(
    "stamp, wanted, current, reason",
    [
        (STAMP, {}, {"/k": "1"}, None),
        (STAMP, {}, {"/k": "1", "/other": "2"}, None),
        (None, {}, {"/k": "1"}, "not built here"),
        (STAMP, {"fingerprint": "g"}, {"/k": "1"}, "sources changed"),
        (STAMP, {"version": "v2"}, {"/k": "1"}, "from v1 to v2"),
        (STAMP, {"parameters": {"WHAT": "a", "DBG": "1"}}, {"/k": "1"}, "DBG changed"),
        (STAMP, {"parameters": {}}, {"/k": "1"}, "WHAT changed"),
        (STAMP, {"inputs": {"/i": "2"}}, {"/k": "1"}, "input /i changed"),
        (STAMP, {"toolchain": {"GOVERSION": "go1.27"}}, {"/k": "1"}, "toolchain GOVERSION changed"),
        (STAMP, {}, {"/k": "2"}, "/k is no longer what was built"),
        (STAMP, {}, {"/k": None}, "/k is missing"),
        (STAMP, {}, {}, "/k is missing"),
    ],
)
def test_reasons(stamp: t.Any, wanted: dict[str, t.Any], current: dict[str, str | None], reason: str | None) -> None:
    reasons = _tree.reasons_to_build(stamp, {**STAMP, **wanted}, current)
    assert reasons == [] if reason is None else len(reasons) == 1 and reason in reasons[0]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 0}', "\x00\xff"])
def test_stamp_that_is_none(tmp_path: pathlib.Path, text: str) -> None:
    path = tmp_path / "stamp"
    path.write_bytes(text.encode("latin-1"))
    assert _tree.read_stamp(str(path)) is None
    assert _tree.read_stamp(str(tmp_path / "absent")) is None


def test_hash_cache(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    status = path.stat()
    identity = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    # a known file is not read: this wrong sum proves it
    cache = _tree.HashCache({str(path): identity + ["known"]})
    assert cache.sha256(str(path)) == "known" and cache.used == {str(path): identity + ["known"]}
    for position in range(4):
        other = list(identity)
        other[position] += 1
        assert _tree.HashCache({str(path): other + ["known"]}).sha256(str(path)) != "known"


def test_hash_cache_of_what_go_leaves_as_it_is(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "program"
    build_id = b"/".join(letter * 20 for letter in (b"a", b"b", b"c", b"d"))
    program = b"\x7fELF" + build_id + b"one"
    cache = _tree.HashCache()

    def ask(made: bool = False) -> str:
        time.sleep(0.06)  # one that is too new is not remembered
        answer = cache.sha256(str(path), made)
        # this wrong sum proves it if the file is not read
        cache.known[str(path)][4] = "known"
        return answer

    path.write_bytes(program)
    real = ask()
    os.utime(path, (2, 2))
    assert ask(made=True) == "known" == cache.used[str(path)][4]
    os.utime(path, (3, 3))
    assert ask() == real
    path.write_bytes(program.replace(b"d", b"e"))
    assert ask(made=True) not in ("known", real)
    path.with_suffix(".new").write_bytes(path.read_bytes())
    path.with_suffix(".new").rename(path)
    assert ask(made=True) not in ("known", real)
    for dummy in range(2):
        path.write_bytes(b"...." + build_id + b"one")
        assert ask(made=True) not in ("known", real)


def test_walk(tree: str) -> None:
    first = _tree.walk_fingerprint(tree)
    output = pathlib.Path(tree) / "_output"
    output.mkdir()
    (output / "x").touch()
    assert _tree.walk_fingerprint(tree) == first
    (pathlib.Path(tree) / "cmd/link").symlink_to("a")
    second = _tree.walk_fingerprint(tree)
    assert second != first
    (pathlib.Path(tree) / "cmd/OWNERS").write_text("x")
    third = _tree.walk_fingerprint(tree)
    assert third not in (first, second)
    # what git keeps for itself, also in a repository inside, is not the tree
    (pathlib.Path(tree) / "cmd/.git").mkdir()
    (pathlib.Path(tree) / "cmd/.git/index").touch()
    assert _tree.walk_fingerprint(tree) == third


# -- what outputs are ---------------------------------------------------------------------------------------------------------------


def elf(
    machine: int = 62,
    interpreter: bool = False,
    sections: tuple[bytes, ...] = (b".text",),
    ident: bytes = b"\x7fELF\x02\x01\x01",
) -> bytes:
    """A small but whole ELF file: header, one program header, section headers, their names."""
    names = b"\0" + b"\0".join((*sections, b".shstrtab")) + b"\0"
    phoff, shoff = 64, 64 + 56
    count = len(sections) + 2
    names_at = shoff + 64 * count
    header = ident.ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 2, machine, 1, 0, phoff, shoff, 0, 64, 56, 1, 64, count, count - 1
    )
    program = struct.pack("<II", 3 if interpreter else 1, 4).ljust(56, b"\0")
    table = bytes(64)
    for name in (*sections, b".shstrtab"):
        table += struct.pack("<IIQQQQ", names.index(name), 1, 0, 0, names_at, len(names)).ljust(64, b"\0")
    return header + program + table + names


@pytest.mark.parametrize(
    "content, platform, facts",
    [
        (elf(), "linux/amd64", {"static": True, "debug": False}),
        (elf(183, sections=(b".text", b".debug_info")), "linux/arm64", {"static": True, "debug": True}),
        (elf(interpreter=True, sections=(b".zdebug_info",)), "linux/amd64", {"static": False, "debug": True}),
        (elf(sections=(b".debug_info_not",)), "linux/amd64", {"static": True, "debug": False}),
    ],
)
def test_elf(tmp_path: pathlib.Path, content: bytes, platform: str, facts: dict[str, bool]) -> None:
    path = tmp_path / "program"
    path.write_bytes(content)
    assert _tree.elf_facts(str(path), platform) == facts


@pytest.mark.parametrize(
    "content, text",
    [
        (b"", "not a complete"),
        (b"#!/bin/sh\n", "not a complete"),
        (elf()[:40], "not a complete"),
        (elf()[:100], "not a complete"),
        (elf()[:150], "not a complete"),
        (elf(183), "made for linux/arm64 and not for linux/amd64"),
        (elf(22), "ELF machine 22"),
    ],
)
def test_elf_refused(tmp_path: pathlib.Path, content: bytes, text: str) -> None:
    path = tmp_path / "program"
    path.write_bytes(content)
    with pytest.raises(TreeError, match=text):
        _tree.elf_facts(str(path), "linux/amd64")


def archive(path: pathlib.Path, manifest: t.Any, config: t.Any = None) -> str:
    with tarfile.open(path, "w") as tar:
        for name, content in (
            ("layer.tar", b"\0" * 4096),
            ("c.json", json.dumps(config).encode()),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(path)


AMD64 = {"os": "linux", "architecture": "amd64"}


def test_archive(tmp_path: pathlib.Path) -> None:
    path = archive(
        tmp_path / "x.tar",
        [{"Config": "c.json", "RepoTags": ["registry.k8s.io/kube-proxy-amd64:v1_x", "other"]}],
        AMD64,
    )
    assert _tree.archive_facts(path, "linux/amd64") == "registry.k8s.io/kube-proxy-amd64:v1_x"
    with pytest.raises(TreeError, match="made for linux/amd64 and not for linux/arm64"):
        _tree.archive_facts(path, "linux/arm64")


@pytest.mark.parametrize(
    "manifest",
    [
        [],
        {},
        [{}],
        [{"Config": "c.json", "RepoTags": None}],
        [{"Config": "c.json", "RepoTags": []}],
        [{"Config": "absent", "RepoTags": ["a"]}],
    ],
)
def test_archive_refused(tmp_path: pathlib.Path, manifest: t.Any) -> None:
    with pytest.raises(TreeError, match="not an image archive"):
        _tree.archive_facts(archive(tmp_path / "x.tar", manifest, AMD64), "linux/amd64")


@pytest.mark.parametrize("content", [b"", b"text", b"\0" * 10240])
def test_archive_that_is_none(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    with pytest.raises(TreeError, match="not an image archive"):
        _tree.archive_facts(str(path), "linux/amd64")


# -- logs -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines, expected",
    [
        (
            [
                "+++ Building",
                "# k8s.io/kubernetes/cmd/kubelet",
                "cmd/kubelet/main.go:3:15: undefined: x",
                "make: *** [all] Error 1",
            ],
            "cmd/kubelet/main.go:3:15: undefined: x",
        ),
        (["a.go:1:1: a", "b.go:2:2: b", "c.go:3:3: c", "d.go:4:4: d"], "a.go:1:1: a; b.go:2:2: b; c.go:3:3: c"),
        (
            ["x.go:1:1: y", "write $WORK/b001: no space left on device"],
            "write $WORK/b001: no space left on device (the disk is full",
        ),
        (["/usr/lib/go/link: signal: killed"], "signal: killed (memory ran out"),
        (["make: *** No rule to make target 'x'.  Stop."], "No rule to make target"),
        (
            ["go: downloading x", "go: x@v1: dial tcp: no route", "make: *** [all] Error 1"],
            "go: x@v1: dial tcp: no route",
        ),
        (
            [
                "!!! [1124 07:35:00] Can't connect to docker",
                "!!! [1124 07:35:00] Call tree:",
                "!!! [1124 07:35:00]  1: x.sh",
            ],
            "Can't connect",
        ),
        (
            ["error: The image tool is not there: run this", "make: *** [Makefile:19: all] Error 1"],
            "error: The image tool is not there: run this",
        ),
        (["k8s.io/x/errors", "go.uber.org/error/y", "k8s.io/last"], "go.uber.org/error/y"),
        (["only this"], "only this"),
        ([], "it said nothing"),
    ],
)
def test_explain(lines: list[str], expected: str) -> None:
    assert expected in _tree.explain(lines)


def test_log(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 1_000_000 + b"\n" + b"".join(b"line %d \xff\n" % number for number in range(10)))
    assert _tree.log_tail(str(path), 3) == ["line 7 \ufffd", "line 8 \ufffd", "line 9 \ufffd"]
    assert _tree.log_tail(str(path), 0) == []
    assert all(len(line) <= 1000 for line in _tree.log_tail(str(path), 50))
    assert max(len(line) for line in _tree.log_lines(str(path))) <= _tree.MAX_LINE
