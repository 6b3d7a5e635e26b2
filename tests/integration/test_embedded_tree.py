# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""roles/embedded_tree with the real Go command, git, compiler and engine: the tree, what it compiles, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import tarfile
import time
import typing as t

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
VERSION = "v1.37.2"
PATCH = ROOT / "docs" / "examples" / "kubelet-log-line.patch"
KUBELET = "vendor/k8s.io/kubernetes/pkg/kubelet/kubelet.go"
PLAY = """
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.include_role:
        name: nodeforge.kind.embedded_tree
"""
# compiled in a second, unlike the seven: what a user may add, and what shows how programs are compiled
HELLO = """
package main

import (
    "fmt"

    "k8s.io/component-base/version"
)

func main() { fmt.Println(version.Get().GitVersion, version.Get().GitTreeState, version.Get().BuildDate) }
"""


class Play(t.NamedTuple):
    rc: int
    output: str
    changed: int


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory, ansible_env: dict[str, str]) -> t.Callable[..., Play]:
    """play(*options, env=None, **variables): the role on this machine; the output is one line, so sentences can be found in it."""
    book = tmp_path_factory.mktemp("play") / "play.yml"
    book.write_text(PLAY)
    default_cache = tmp_path_factory.mktemp("cache")  # one for all, so that hack/nodeforge.mk does not change

    def run(*options: str, env: dict[str, str] | None = None, popen: bool = False, **variables: t.Any) -> t.Any:
        variables.setdefault("embedded_tree_cache", str(default_cache))
        command = ["ansible-playbook", "-i", "localhost,", "-c", "local", str(book), "-e", json.dumps(variables), *options]
        environment = {**ansible_env, **(env or {})}
        if popen:
            return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False, text=True, timeout=900)
        output = " ".join((done.stdout + done.stderr).split())
        assert "Traceback" not in output
        return Play(done.returncode, output, int((re.findall(r"changed=(\d+)", output) or [0])[-1]))

    return run


@pytest.fixture(scope="module")
def tree(play: t.Callable[..., Play], tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A tree of the default version; tests leave it as they find it."""
    place = tmp_path_factory.mktemp("trees") / VERSION
    made = play(embedded_tree_path=str(place))
    assert made.rc == 0, made.output
    assert made.changed
    return place


@pytest.fixture
def copy(tree: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A tree to be changed."""
    place = tmp_path / "copy"
    subprocess.run(["cp", "-a", "--reflink=auto", str(tree), str(place)], check=True)
    shutil.rmtree(place / "_output", ignore_errors=True)
    return place


def run(tree: pathlib.Path, *command: str, check: bool = True, **env: str) -> str:
    """The output, on one line, of a command in the tree."""
    done = subprocess.run(
        command, cwd=tree, env={**os.environ, **env}, stdin=subprocess.DEVNULL, capture_output=True, check=False, text=True, timeout=900
    )
    output = " ".join((done.stdout + done.stderr).split())
    assert (done.returncode == 0) == check, output
    return output


def status(tree: pathlib.Path) -> dict[str, str]:
    lines = subprocess.run(["hack/print-workspace-status.sh"], cwd=tree, check=True, capture_output=True, text=True).stdout
    return dict(line.split(" ", 1) for line in lines.splitlines())


def arch() -> str:
    return "arm64" if os.uname().machine in ("aarch64", "arm64") else "amd64"


def add_hello(tree: pathlib.Path) -> None:
    (tree / "cmd" / "hello").mkdir()
    (tree / "cmd" / "hello" / "main.go").write_text(HELLO)


class Elf:
    """What a 64-bit little-endian program's headers tell."""

    def __init__(self, path: pathlib.Path) -> None:
        data = path.read_bytes()
        self.machine = {62: "amd64", 183: "arm64"}[struct.unpack_from("<H", data, 18)[0]]
        start, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
        self.static = 3 not in [struct.unpack_from("<I", data, start + n * size)[0] for n in range(count)]  # no PT_INTERP
        self.debug = b"\0.debug_info\0" in data
        self.symbols = b"\0.symtab\0" in data


def sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# The tree itself


def test_check_mode_tells_and_does_nothing(play: t.Callable[..., Play], tmp_path: pathlib.Path) -> None:
    looked = play("--check", embedded_tree_cache=str(tmp_path))
    assert looked.rc == 0, looked.output
    assert looked.changed == 1
    assert list(tmp_path.iterdir()) == []


def test_layout(tree: pathlib.Path) -> None:
    assert {d.name for d in (tree / "cmd").iterdir()} == {
        "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubeadm", "kubectl", "kubelet",
    }  # fmt: skip
    assert (tree / KUBELET).is_file()
    assert (tree / "vendor/k8s.io/client-go/kubernetes/clientset.go").is_file()
    assert os.access(tree / "build/run.sh", os.X_OK)
    assert "GO := /" in (tree / "hack/nodeforge.mk").read_text()
    told = status(tree)
    assert told["gitVersion"] == VERSION
    assert told["gitTreeState"] == "clean"
    assert (told["gitMajor"], told["gitMinor"]) == ("1", "37")
    assert re.fullmatch(r"[0-9a-f]{40}", told["gitCommit"])
    # the release's own date, so that the same sources give the same programs
    assert told["buildDate"].startswith("2026-")
    assert [p.name for p in tree.parent.iterdir()] == [VERSION]


def test_second_run_changes_nothing(play: t.Callable[..., Play], tree: pathlib.Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*") if ".git/" not in str(path)}
    # not even a proxy is needed
    again = play(embedded_tree_path=str(tree), env={"GOPROXY": "off"})
    assert (again.rc, again.changed) == (0, 0), again.output
    assert {path: path.stat().st_mtime_ns for path in tree.rglob("*") if ".git/" not in str(path)} == before
    looked = play("--check", "--diff", embedded_tree_path=str(tree))
    assert (looked.rc, looked.changed) == (0, 0), looked.output


@pytest.mark.usefixtures("no_orphans")
def test_an_interrupted_run_is_repaired(play: t.Callable[..., Play], tmp_path: pathlib.Path) -> None:
    running = play(popen=True, embedded_tree_cache=str(tmp_path))
    partial = tmp_path / "trees" / f".{VERSION}.partial"
    limit = time.monotonic() + 120
    while not (partial / "vendor" / "k8s.io").is_dir():
        assert running.poll() is None and time.monotonic() < limit
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "trees" / VERSION).exists()
    # what the killed play had begun is still at work
    repaired = play(embedded_tree_cache=str(tmp_path))
    assert repaired.rc == 0, repaired.output
    assert [p.name for p in (tmp_path / "trees").iterdir()] == [VERSION]
    assert status(tmp_path / "trees" / VERSION)["gitVersion"] == VERSION


def test_made_anew_only_without_edits(play: t.Callable[..., Play], copy: pathlib.Path) -> None:
    """As after an upgrade of the collection: the tree would be made differently."""
    stamp = copy / ".git" / "nodeforge-tree"
    fresh = stamp.read_text()
    (copy / "_output").mkdir()
    (copy / "_output" / "kept").touch()

    stamp.write_text(f"{VERSION} {'0' * 64}\n")
    source = copy / KUBELET
    original = source.read_text()
    source.write_text(original + "// mine\n")
    kept = play(embedded_tree_path=str(copy))
    assert (kept.rc, kept.changed) == (0, 0)
    assert "holds edits of yours, so it is kept" in kept.output
    assert source.read_text().endswith("// mine\n")

    source.write_text(original)
    assert play("--check", embedded_tree_path=str(copy)).changed == 1
    anew = play(embedded_tree_path=str(copy))
    assert anew.rc == 0, anew.output
    assert anew.changed
    assert stamp.read_text() == fresh
    assert (copy / "_output" / "kept").is_file()  # so the next compile only links what changed
    assert "NODEFORGE_IMAGE := " in (copy / "hack" / "nodeforge.mk").read_text()
    assert [p.name for p in copy.parent.iterdir()] == ["copy"]


@pytest.mark.parametrize(
    ("variables", "env", "sentence"),
    [
        ({"embedded_tree_version": "1.37"}, {}, 'embedded_tree_version is "1.37", which is no Kubernetes version: write it like v1.37.2'),
        ({"embedded_tree_version": "v1.37.999"}, {}, "Kubernetes v1.37.999 cannot be had from the Go module proxy"),
        ({"embedded_tree_version": "v1.33.1"}, {"GOPROXY": "http://127.0.0.1:1"}, "Kubernetes v1.33.1 cannot be had from the Go module proxy"),
        ({}, {"GOPROXY": "off", "GOMODCACHE": "{tmp}/none"}, f"The modules of Kubernetes {VERSION} cannot be had"),
        ({"embedded_tree_path": "trees/mine"}, {}, 'embedded_tree_path is "trees/mine", which is not absolute'),
        ({"embedded_tree_patches": ["/no/such.patch"]}, {}, "embedded_tree_patches names /no/such.patch, which is not on the controller"),
        ({}, {"PATH": "{tmp}/bin"}, "is not on PATH of localhost; install it"),
    ],
)
def test_bad_input_leaves_nothing(
    play: t.Callable[..., Play], tmp_path: pathlib.Path, variables: dict[str, t.Any], env: dict[str, str], sentence: str
) -> None:
    env = {name: value.format(tmp=tmp_path) for name, value in env.items()}
    if "PATH" in env:
        # all that Ansible needs, and no git
        (tmp_path / "bin").mkdir()
        for name in ("bash", "sh", "env", "cat", "ls", "python3"):
            (tmp_path / "bin" / name).symlink_to(shutil.which(name) or f"/bin/{name}")
        variables = {**variables, "embedded_tree_environment": {"PATH": env.pop("PATH")}}
    failed = play(env=env, embedded_tree_cache=str(tmp_path / "cache"), **variables)
    assert failed.rc != 0
    assert sentence in failed.output
    assert not list((tmp_path / "cache").glob("trees/*"))
    assert not list((tmp_path / "cache").glob("trees/.*"))


def test_what_is_not_our_tree_is_refused(play: t.Callable[..., Play], tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "precious").touch()
    foreign = play(embedded_tree_path=str(tmp_path))
    assert foreign.rc != 0
    assert f"{tmp_path} is there already and no tree that this role made" in foreign.output
    assert (tmp_path / "precious").exists()
    other = play(embedded_tree_path=str(tree), embedded_tree_version="v1.34.4")
    assert other.rc != 0
    assert f"{tree} is the tree of {VERSION}, not of v1.34.4; name another embedded_tree_path" in other.output


# What it compiles


def test_version_is_stamped(tree: pathlib.Path) -> None:
    run(tree, "make", "all", "WHAT=./cmd/kubectl cmd/kubeadm/")
    binaries = tree / "_output" / "local" / "bin" / "linux" / arch()
    assert (tree / "_output" / "bin").resolve() == binaries
    told = json.loads(run(tree, "_output/bin/kubectl", "version", "--client", "-o", "json"))["clientVersion"]
    expected = status(tree)
    for name in ("gitVersion", "gitCommit", "gitTreeState", "buildDate", "major", "minor"):
        assert told[name] == expected[{"major": "gitMajor", "minor": "gitMinor"}.get(name, name)]
    assert run(tree, "_output/bin/kubeadm", "version", "-o", "short") == VERSION
    assert Elf(binaries / "kubeadm").static
    before = sha256(binaries / "kubectl")
    run(tree, "make", "all", "WHAT=cmd/kubectl")
    assert sha256(binaries / "kubectl") == before
    assert list((tree / "_output" / "local" / "go").iterdir()) == []


def test_bad_make_variables_are_refused_before_any_compile(copy: pathlib.Path) -> None:
    said = run(copy, "make", "all", "WHAT=cmd/kubectl cmd/kubelot", check=False)
    assert "error: WHAT names cmd/kubelot, which this tree does not compile: choose from cmd/kube-apiserver, " in said
    said = run(copy, "make", "all", "WHAT=cmd/kubectl", "KUBE_BUILD_PLATFORMS=linux/mips", check=False)
    assert "error: KUBE_BUILD_PLATFORMS names the platform linux/mips, which is not supported" in said
    said = run(copy, "make", "quick-release-images", check=False)
    assert "nodeforge-image is not there: run role nodeforge.kind.supplies with tasks_from: tools" in said
    said = run(copy, "make", "quick-release-images", "NODEFORGE_IMAGE=/bin/true", "KUBE_PROXY_BASE=/no/@ARCH@.tar", check=False)
    assert f"The root of kube-proxy's image for linux/{arch()}, /no/{arch()}.tar, is not there" in said
    said = run(copy, "make", "all", "WHAT=cmd/kubectl", "KUBE_GIT_VERSION=latest", check=False)
    assert 'error: "latest" is not a version' in said
    assert not (copy / "_output").exists()


def test_debug_edits_platforms_and_versions(copy: pathlib.Path) -> None:
    add_hello(copy)
    binary = copy / "_output" / "bin" / "hello"
    run(copy, "make", "all", "WHAT=cmd/hello")
    assert not Elf(binary).debug and not Elf(binary).symbols
    # an untracked file is an edit, as with Kubernetes
    assert run(copy, str(binary)).split()[:2] == [f"{VERSION}-dirty", "dirty"]

    run(copy, "make", "all", "WHAT=cmd/hello", "DBG=1")
    assert Elf(binary).debug and Elf(binary).symbols
    assert f"{copy}/cmd/hello/main.go".encode() in binary.read_bytes()  # the debugger finds the source

    git = ["git", "-c", "user.name=me", "-c", "user.email=me@example.com"]
    run(copy, *git, "add", "-A")
    run(copy, *git, "commit", "-qm", "hello")
    commit = run(copy, "git", "rev-parse", "HEAD")
    run(copy, "make", "all", "WHAT=cmd/hello")
    assert run(copy, str(binary)).split()[:2] == [f"{VERSION}-1+{commit[:14]}", "clean"]
    run(copy, "git", "tag", "v1.38.0-alpha.0")
    run(copy, *git, "commit", "-qm", "more", "--allow-empty")
    assert re.fullmatch(r"v1\.38\.0-alpha\.0\.1\+[0-9a-f]{14}", status(copy)["gitVersion"])
    run(copy, "make", "all", "WHAT=cmd/hello", "KUBE_GIT_VERSION=v1.99.0+mine", "SOURCE_DATE_EPOCH=86400")
    assert run(copy, str(binary)) == "v1.99.0+mine clean 1970-01-02T00:00:00Z"

    run(copy, "make", "all", "WHAT=cmd/hello", "KUBE_BUILD_PLATFORMS=linux/amd64 linux/arm64")
    for machine in ("amd64", "arm64"):
        assert Elf(copy / f"_output/local/bin/linux/{machine}/hello").machine == machine


def test_a_new_package_is_seen(copy: pathlib.Path) -> None:
    add_hello(copy)
    package = copy / "vendor/k8s.io/kubernetes/pkg/mine/inner"
    package.mkdir(parents=True)
    (package / "mine.go").write_text('package inner\n\nconst Text = "from my own package"\n')
    main = copy / "cmd" / "hello" / "main.go"
    main.write_text(main.read_text().replace('"fmt"', '"fmt"\n\t"k8s.io/kubernetes/pkg/mine/inner"').replace("Println(", "Println(inner.Text, "))
    run(copy, "make", "all", "WHAT=cmd/hello")
    assert "from my own package" in run(copy, "_output/bin/hello")


def test_release_images(tree: pathlib.Path, tmp_path: pathlib.Path, request: pytest.FixtureRequest, run_module: t.Any) -> None:
    tool, base = tmp_path / "nodeforge-image", tmp_path / "base.tar"
    subprocess.run(
        ["go", "build", "-o", str(tool), "."], cwd=ROOT / "roles/supplies/files/src/image", env={**os.environ, "CGO_ENABLED": "0"}, check=True
    )
    (tmp_path / "marker").write_text("root of kube-proxy's image")
    with tarfile.open(base, "w") as root:
        root.add(tmp_path / "marker", "etc/marker")
    command = ["make", "quick-release-images", "KUBE_EXTRA_WHAT=cmd/kubectl", f"KUBE_BUILD_PLATFORMS=linux/{arch()}", "KUBE_BUILD_CONFORMANCE=n"]
    # the tree knows them from a file, as the role leaves it
    settings = tree / "hack" / "nodeforge.mk"
    original = settings.read_text()
    changed = original.replace("NODEFORGE_IMAGE := ", f"NODEFORGE_IMAGE := {tool}\n# ")
    settings.write_text(changed.replace("KUBE_PROXY_BASE := ", f"KUBE_PROXY_BASE := {base}\n# "))
    request.addfinalizer(lambda: settings.write_text(original))
    run(tree, *command)
    binaries, images = tree / f"_output/dockerized/bin/linux/{arch()}", tree / f"_output/release-images/{arch()}"
    components = ["kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler"]
    assert sorted(p.name for p in binaries.iterdir()) == [*components, "kubectl"]
    assert sorted(p.name for p in images.glob("*.tar")) == [f"{name}.tar" for name in components]
    for name in components:
        with tarfile.open(images / f"{name}.tar") as archive:
            manifest = json.load(t.cast(t.IO[bytes], archive.extractfile("manifest.json")))
        assert manifest[0]["RepoTags"] == [f"registry.k8s.io/{name}-{arch()}:{VERSION}"]
        assert len(manifest[0]["Layers"]) == (2 if name == "kube-proxy" else 1)
    before = {path: (path.stat().st_mtime_ns, sha256(path)) for path in images.iterdir()}
    run(tree, *command)
    assert {path: (path.stat().st_mtime_ns, sha256(path)) for path in images.iterdir()} == before
    # written anew, they are the same
    (images / "kube-proxy.tar").unlink()
    run(tree, *command)
    assert sha256(images / "kube-proxy.tar") == before[images / "kube-proxy.tar"][1]
    # and so are those that kube_make writes from programs
    names = ["kube-proxy", "kube-scheduler"]
    written = run_module("kube_make", {"tree": str(tree), "what": names, "image_tool": str(tool), "kube_proxy_base": str(base)})["outputs"]["images"]
    assert {name: image["sha256"] for name, image in written.items()} == {name: before[images / f"{name}.tar"][1] for name in names}


def test_builder_container(tree: pathlib.Path) -> None:
    run(tree, "build/run.sh", "make", "all", "WHAT=cmd/kubeadm")
    run(tree, "make", "all", "WHAT=cmd/kubeadm")
    inside = tree / f"_output/dockerized/bin/linux/{arch()}/kubeadm"
    assert inside.stat().st_uid == os.geteuid()
    # the same sources, Go and flags: the same program, wherever it is compiled
    assert sha256(inside) == sha256(tree / "_output/bin/kubeadm")
    said = run(tree, "build/run.sh", "make", "all", "WHAT=cmd/kubelot", check=False)
    assert "WHAT names cmd/kubelot, which this tree does not compile" in said
    assert f"gitVersion {VERSION}" in run(tree, "build/run.sh", "hack/print-workspace-status.sh")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_builder_container_does_not_outlive_an_interrupt(tree: pathlib.Path, sent: signal.Signals) -> None:
    def containers() -> set[str]:
        listed = subprocess.run(["docker", "ps", "-aq", "--filter", "name=^nodeforge-builder-"], check=True, capture_output=True, text=True)
        return set(listed.stdout.split())

    before = containers()
    running = subprocess.Popen(["build/run.sh", "sleep", "600"], cwd=tree, start_new_session=True, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 180
    while not (mine := containers() - before):
        assert running.poll() is None and time.monotonic() < limit
        time.sleep(0.1)
    time.sleep(1)
    os.killpg(running.pid, sent)
    assert running.wait(timeout=60) != 0
    assert not mine & containers()


# Patches


def test_patches(play: t.Callable[..., Play], copy: pathlib.Path, tmp_path: pathlib.Path) -> None:
    text = "Starting kubelet main sync loop, changed with nodeforge"
    mine = copy / "vendor/k8s.io/kubernetes/pkg/kubelet/config/config.go"
    mine.write_text(mine.read_text() + "// mine\n")
    patched = {"embedded_tree_path": str(copy), "embedded_tree_patches": [str(PATCH)]}

    looked = play("--check", **patched)
    assert (looked.rc, looked.changed) == (0, 1), looked.output
    assert text not in (copy / KUBELET).read_text()
    applied = play(**patched)
    assert (applied.rc, applied.changed) == (0, 1), applied.output
    assert text in (copy / KUBELET).read_text()
    assert play(**patched).changed == 0
    assert play("--check", **patched).changed == 0

    # an edit beside the patch stays
    assert mine.read_text().endswith("// mine\n")
    assert re.fullmatch(re.escape(VERSION) + r"-1\+[0-9a-f]{14}-dirty", status(copy)["gitVersion"])
    mine.write_text(mine.read_text().removesuffix("// mine\n"))
    first = status(copy)["gitVersion"]
    assert re.fullmatch(re.escape(VERSION) + r"-1\+[0-9a-f]{14}", first)
    run(copy, "make", "all", "WHAT=cmd/kubelet")
    assert run(copy, "_output/bin/kubelet", "--version") == f"Kubernetes {first}"
    assert text.encode() in (copy / "_output/bin/kubelet").read_bytes()

    # off the list, out of the tree; on it again, the same version
    assert play(embedded_tree_path=str(copy)).changed == 1
    assert status(copy)["gitVersion"] == VERSION
    assert text not in (copy / KUBELET).read_text()
    assert play(**patched).changed == 1
    assert status(copy)["gitVersion"] == first


def test_patches_as_pull_requests_have_them(play: t.Callable[..., Play], copy: pathlib.Path, tmp_path: pathlib.Path) -> None:
    patch = tmp_path / "pull.patch"
    patch.write_text(
        """From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001
Subject: [PATCH] a library of the staging area, the tree itself, a new package, and what no program contains

---
diff --git a/staging/src/k8s.io/component-base/version/mine.go b/staging/src/k8s.io/component-base/version/mine.go
new file mode 100644
--- /dev/null
+++ b/staging/src/k8s.io/component-base/version/mine.go
@@ -0,0 +1,3 @@
+package version
+
+const Mine = "in staging"
diff --git a/pkg/kubelet/mine/mine.go b/pkg/kubelet/mine/mine.go
new file mode 100644
--- /dev/null
+++ b/pkg/kubelet/mine/mine.go
@@ -0,0 +1,3 @@
+package mine
+
+const Mine = "in pkg"
diff --git a/pkg/kubelet/mine/mine_test.go b/pkg/kubelet/mine/mine_test.go
--- a/pkg/kubelet/mine/mine_test.go
+++ b/pkg/kubelet/mine/mine_test.go
@@ -10,2 +10,2 @@ func TestMine(t *testing.T) {
-diff --git a/not/a/header b/not/a/header
+--- a/not/a/header
 }
diff --git a/cmd/hello/main.go b/cmd/hello/main.go
new file mode 100644
--- /dev/null
+++ b/cmd/hello/main.go
@@ -0,0 +1,10 @@
+package main
+
+import (
+	"fmt"
+
+	"k8s.io/component-base/version"
+	"k8s.io/kubernetes/pkg/kubelet/mine"
+)
+
+func main() { fmt.Println(version.Mine, mine.Mine) }
--
2.39.5
"""
    )
    applied = play(embedded_tree_path=str(copy), embedded_tree_patches=[str(patch)])
    assert (applied.rc, applied.changed) == (0, 1), applied.output
    run(copy, "make", "all", "WHAT=cmd/hello")
    assert run(copy, "_output/bin/hello") == "in staging in pkg"
    assert not run(copy, "git", "status", "--porcelain")


def test_patches_refused(play: t.Callable[..., Play], copy: pathlib.Path, tmp_path: pathlib.Path) -> None:
    stale = tmp_path / "stale.patch"
    stale.write_text(PATCH.read_text().replace('-\tlogger.Info("Starting', '-\tlogger.Info("Begin'))
    before = run(copy, "git", "rev-parse", "HEAD")
    # the good one is not applied either
    for options in ([], ["--check"]):
        failed = play(*options, embedded_tree_path=str(copy), embedded_tree_patches=[str(PATCH), str(stale)])
        assert failed.rc != 0
        assert "stale.patch does not apply to the tree of v1.37.2: refresh it for this version" in failed.output
        assert run(copy, "git", "rev-parse", "HEAD") == before
        assert status(copy)["gitTreeState"] == "clean"
    (tmp_path / "empty.patch").write_text("not a diff\n")
    failed = play(embedded_tree_path=str(copy), embedded_tree_patches=[str(tmp_path / "empty.patch")])
    assert failed.rc != 0 and "changes no file that is compiled" in failed.output

    source = copy / KUBELET
    source.write_text(source.read_text() + "// mine\n")
    for options in ([], ["--check"]):
        failed = play(*options, embedded_tree_path=str(copy), embedded_tree_patches=[str(PATCH)])
        assert failed.rc != 0
        assert f"holds edits of your own in {KUBELET}, which the patches change too" in failed.output
        assert source.read_text().endswith("// mine\n")
    assert run(copy, "git", "rev-parse", "HEAD") == before


# Another version


def test_another_version(play: t.Callable[..., Play], tmp_path: pathlib.Path) -> None:
    made = play(embedded_tree_cache=str(tmp_path), embedded_tree_version="v1.34.4")
    assert made.rc == 0, made.output
    other = tmp_path / "trees" / "v1.34.4"
    assert re.search(r"^\tk8s.io/kubernetes v1\.34\.4$", (other / "go.mod").read_text(), re.M)
    assert "k8s.io/api => k8s.io/api v0.34.4" in (other / "go.mod").read_text()
    assert re.search(r"^k8s.io/kubernetes v1\.34\.4 h1:", (other / "go.sum").read_text(), re.M)
    run(other, "make", "all", "WHAT=cmd/kubectl")
    assert "Client Version: v1.34.4" in run(other, "_output/bin/kubectl", "version", "--client")
    again = play(embedded_tree_cache=str(tmp_path), embedded_tree_version="v1.34.4", env={"GOPROXY": "off"})
    assert (again.rc, again.changed) == (0, 0), again.output
