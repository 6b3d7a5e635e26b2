# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""kube_make against small trees of Kubernetes' layout: real make, real Go, real git, real container engine."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import typing as t

import kube_trees
import pytest

COLLECTIONS = pathlib.Path(__file__).resolve().parents[2] / ".collections"

MAKEFILE = r"""
# Kubernetes' contract in small: WHAT, DBG, KUBE_BUILD_PLATFORMS, KUBE_EXTRA_WHAT
KUBE_BUILD_PLATFORMS ?= linux/$(shell go env GOARCH)
KUBE_OUTPUT_SUBPATH ?= local
WHAT ?= cmd/kubelet cmd/kubeadm
OUT = _output/$(KUBE_OUTPUT_SUBPATH)/bin/$(KUBE_BUILD_PLATFORMS)
ifeq ($(DBG),1)
FLAGS = -gcflags 'all=-N -l'
else
FLAGS = -trimpath -ldflags '-s -w'
endif
SERVERS = kube-apiserver kube-controller-manager kube-scheduler kube-proxy
ARCH = $(notdir $(KUBE_BUILD_PLATFORMS))

.PHONY: all quick-release-images stubborn lazy chatty wrong secret
all:
    @echo run >> $(COUNTER)
    @echo "+++ Building $(WHAT) for $(KUBE_BUILD_PLATFORMS)"
    @mkdir -p $(OUT)
    @set -e; for what in $(WHAT); do \
      CGO_ENABLED=0 GOOS=linux GOARCH=$(ARCH) go build -buildvcs=false $(FLAGS) -o $(OUT)/$$(basename $$what) ./$$what; done

quick-release-images:
    @rm -rf _output/release-images
    @$(MAKE) --no-print-directory all WHAT="cmd/kubelet $(KUBE_EXTRA_WHAT)" KUBE_OUTPUT_SUBPATH=dockerized
    @mkdir -p _output/release-images/$(ARCH)
    @set -e; for name in $(SERVERS); do \
      cp _output/dockerized/bin/$(KUBE_BUILD_PLATFORMS)/kubelet _output/stage-$$name; \
      sh hack/image.sh $$name $(ARCH) _output/release-images/$(ARCH)/$$name.tar; done

stubborn:
    @sh -c 'trap "" TERM; echo $$$$ > _output/pid; while :; do sleep 0.1; done'

lazy:
    @sh -c 'echo $$$$ > _output/pid; exec sleep 600'

chatty:
    @head -c 300000000 /dev/zero | tr '\0' 'x' | fold -w 120

wrong:
    @true

secret:
    @echo "the token is $$MY_TOKEN"
""".replace("\n    ", "\n\t")

VERSION_SCRIPT = r"""#!/usr/bin/env bash
cd "$(dirname "$0")/.." || exit 1
if [ -n "$KUBE_GIT_VERSION_FILE" ]; then . "$KUBE_GIT_VERSION_FILE"
elif [ -e .git ]; then
  KUBE_GIT_VERSION=$(git describe --tags --match='v*' --dirty 2>/dev/null)
elif [ -e version.txt ]; then KUBE_GIT_VERSION=$(cat version.txt)
fi
echo "STABLE_BUILD_GIT_COMMIT unknown"
echo "gitVersion $KUBE_GIT_VERSION"
"""

# Kubernetes' build/run.sh in small: a container in which the tree is mounted
RUN_SCRIPT = r"""#!/usr/bin/env bash
set -e
tree=$(cd "$(dirname "$0")/.." && pwd)
exec docker run --rm --network none --user "$(id -u):$(id -g)" --env KUBE_OUTPUT_SUBPATH=dockerized --env HOME=/tmp \
  --volume "$tree:/go/src/k8s.io/kubernetes" --workdir /go/src/k8s.io/kubernetes BUILDER "$@"
"""

# A docker archive, written by hand: config, one layer, manifest
IMAGE_SCRIPT = r"""
name=$1 arch=$2 out=$3
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cp "_output/stage-$name" "$work/$name"
common='--sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=ustar'
tar -C "$work" $common -cf "$work/layer.tar" "$name"
printf '{"architecture":"%s","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
  "$arch" "$(sha256sum "$work/layer.tar" | cut -d' ' -f1)" > "$work/config.json"
printf '[{"Config":"config.json","RepoTags":["registry.k8s.io/%s-%s:v1.37.2"],"Layers":["layer.tar"]}]' "$name" "$arch" > "$work/manifest.json"
tar -C "$work" $common -cf "$out" config.json layer.tar manifest.json
"""

PROGRAM = 'package main\n\nimport "fmt"\n\nfunc main() { fmt.Println("%s says hello") }\n'


class Tree:
    """A tree on disk, and a count of how often make really ran."""

    def __init__(self, path: pathlib.Path, git: bool = True, version: str = "v1.37.2") -> None:
        self.path = path
        self.counter = path.parent / f"{path.name}.count"
        for name in ("kubelet", "kubeadm"):
            self.write(f"cmd/{name}/main.go", PROGRAM % name)
        self.write("go.mod", "module k8s.io/kubernetes\n\ngo 1.20\n")
        self.write("Makefile", MAKEFILE.replace("$(COUNTER)", str(self.counter)))
        self.write("hack/print-workspace-status.sh", VERSION_SCRIPT, 0o755)
        self.write("hack/image.sh", IMAGE_SCRIPT)
        self.write(".gitignore", "/_output/\n")
        if git:
            self.git("init", "-q", "-b", "main")
            self.commit()
            self.git("tag", version)
        else:
            self.write("version.txt", version)

    def write(self, name: str, text: str, mode: int = 0o644) -> pathlib.Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        return path

    def git(self, *args: str) -> str:
        identity = [
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.org",
            "-c",
            "commit.gpgsign=false",
            "-c",
            f"safe.directory={self.path}",
        ]
        return subprocess.run(
            ["git", "-C", str(self.path), *identity, *args], check=True, capture_output=True, text=True
        ).stdout

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "-q", "-m", "change")

    @property
    def runs(self) -> int:
        return len(self.counter.read_text().splitlines()) if self.counter.exists() else 0

    def output(self, name: str) -> pathlib.Path:
        return next((self.path / "_output").glob(f"*/bin/linux/*/{name}"))


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> Tree:
    return Tree(tmp_path / "kubernetes")


@pytest.fixture
def make(run_module: t.Any, tree: Tree) -> t.Callable[..., t.Any]:
    def call(check: bool = False, diff: bool = False, **args: t.Any) -> t.Any:
        return run_module(
            "kube_make", {"tree": str(tree.path), "what": ["cmd/kubelet"], **args}, check=check, diff=diff
        )

    return call


def failure(result: t.Any) -> str:
    """The message of a failure: one sentence, and never a traceback."""
    assert result.get("failed"), result
    message: str = result["msg"]
    assert message.endswith(".") and "\n" not in message and "Traceback" not in json.dumps(result), message
    return message


def sha256(path: str | os.PathLike[str]) -> str:
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def gone(pid: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def children(pid: int) -> list[int]:
    return [int(child) for file in pathlib.Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]


def wait_for(condition: t.Callable[[], t.Any], seconds: float = 20) -> t.Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {condition}")


# -- truth of changed, check and diff -----------------------------------------------------------------------------------


def test_first_and_second_run(tree: Tree, make: t.Any) -> None:
    predicted = make(check=True, diff=True)
    assert predicted["changed"] and tree.runs == 0
    assert predicted["outputs"] == {"binaries": {}, "images": {}} and predicted["log_path"] is None
    assert not (tree.path / "_output").exists(), "check mode wrote something"
    first = make(diff=True)
    assert first["changed"] and tree.runs == 1
    kubelet = first["outputs"]["binaries"]["kubelet"]
    assert kubelet["sha256"] == sha256(kubelet["path"]) and kubelet["size"] == os.path.getsize(kubelet["path"])
    assert kubelet["path"] == str(tree.path / "_output/local/bin" / first["platform"] / "kubelet")
    assert kubelet["static"] is True and kubelet["debug"] is False
    assert subprocess.check_output([kubelet["path"]], text=True) == "kubelet says hello\n"
    assert first["version"] == "v1.37.2" and first["outputs"]["images"] == {}
    assert first["diff"]["before"] == {"version": None, "outputs": {}}
    assert first["diff"]["after"] == {"version": "v1.37.2", "outputs": {kubelet["path"]: kubelet["sha256"]}}
    assert predicted["diff"]["after"]["outputs"] == {kubelet["path"]: "unknown"}
    assert predicted["cmd"] == first["cmd"] and "WHAT=cmd/kubelet" in first["cmd"]
    assert any("Building cmd/kubelet" in line for line in first["tail"])
    assert "Building cmd/kubelet" in pathlib.Path(first["log_path"]).read_text()

    second = make(diff=True)
    assert not second["changed"] and second["actions"] == [] and tree.runs == 1
    assert second["outputs"] == first["outputs"] and second["version"] == first["version"]
    assert second["diff"]["before"] == second["diff"]["after"] == first["diff"]["after"]
    assert not make(check=True)["changed"]
    # the spelling of a component makes no difference
    assert not make(what=["k8s.io/kubernetes/cmd/kubelet", "./cmd/kubelet", "kubelet"])["changed"] and tree.runs == 1


@pytest.mark.parametrize("git", [True, False], ids=["git", "no-git"])
def test_edit_is_built_and_touch_is_not_a_change(tmp_path: pathlib.Path, run_module: t.Any, git: bool) -> None:
    tree = Tree(tmp_path / "tree", git=git)
    args = {"tree": str(tree.path), "what": ["cmd/kubelet"]}
    first = run_module("kube_make", args)
    assert first["changed"] and not run_module("kube_make", args)["changed"] and tree.runs == 1

    main = tree.path / "cmd/kubelet/main.go"
    os.utime(main)
    touched = run_module("kube_make", args)
    # git tells by content; without it make has to run, and finds nothing new
    assert not touched["changed"] and tree.runs == (1 if git else 2)
    runs = tree.runs

    main.write_text(PROGRAM % "another kubelet")
    predicted = run_module("kube_make", args, check=True)
    assert predicted["changed"] and "the sources changed" in predicted["actions"][0] and tree.runs == runs
    assert predicted["outputs"] == first["outputs"]
    edited = run_module("kube_make", args)
    assert edited["changed"] and tree.runs == runs + 1
    assert edited["version"] == ("v1.37.2-dirty" if git else "v1.37.2")
    assert edited["outputs"]["binaries"]["kubelet"]["sha256"] != first["outputs"]["binaries"]["kubelet"]["sha256"]
    assert not run_module("kube_make", args)["changed"]

    if git:
        # the same content again, as at first: built again, and byte for byte what it was
        tree.git("checkout", "-q", "--", ".")
        back = run_module("kube_make", args)
        assert back["changed"] and back["outputs"] == {**first["outputs"], "binaries": back["outputs"]["binaries"]}
        assert back["outputs"]["binaries"]["kubelet"]["sha256"] == first["outputs"]["binaries"]["kubelet"]["sha256"]


def test_untracked_deleted_and_ignored_files(tree: Tree, make: t.Any) -> None:
    make()
    tree.write("cmd/kubelet/with a space.go", "package main\n\nfunc init() { println(1) }\n")
    assert make(check=True)["changed"]
    (tree.path / "cmd/kubelet/with a space.go").unlink()
    assert not make(check=True)["changed"]
    (tree.path / "_output/anything").write_text("x")
    assert not make(check=True)["changed"]
    os.chmod(tree.path / "hack/image.sh", 0o755)
    assert make(check=True)["changed"]


def test_outputs_altered_or_missing_are_built_again(tree: Tree, make: t.Any) -> None:
    first = make()
    path = pathlib.Path(first["outputs"]["binaries"]["kubelet"]["path"])
    status = path.stat()
    # same size, same time of change: still noticed
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "no longer what was built" in make(check=True)["actions"][0]
    path.unlink()
    assert "is missing" in make(check=True)["actions"][0]
    assert make()["changed"] and sha256(path) == first["outputs"]["binaries"]["kubelet"]["sha256"]


def test_parameters_toolchain_environment_and_inputs_count(tree: Tree, make: t.Any, tmp_path: pathlib.Path) -> None:
    base = tmp_path / "base.tar"
    base.write_bytes(b"1")
    args: dict[str, t.Any] = {"inputs": [str(base)], "environment": {"NAME": "value"}}
    make(**args)
    assert not make(**args)["changed"]
    assert "NEW changed" in make(check=True, **args, params={"NEW": 1})["actions"][0]
    assert "environment changed" in make(check=True, inputs=args["inputs"], environment={"NAME": "other"})["actions"][0]
    assert (
        "toolchain GOFLAGS changed"
        in make(check=True, **{**args, "environment": {"NAME": "value", "GOFLAGS": "-p=1"}})["actions"][0]
    )
    base.write_bytes(b"2")
    assert f"input {base} changed" in make(check=True, **args)["actions"][0]
    assert tree.runs == 1
    assert not make(**args, rebuild="always")["changed"] and tree.runs == 2


def test_debug_binary(tree: Tree, make: t.Any) -> None:
    plain = make()["outputs"]["binaries"]["kubelet"]
    predicted = make(check=True, debug=True)
    assert "DBG changed" in predicted["actions"][0]
    result = make(debug=True)
    kubelet = result["outputs"]["binaries"]["kubelet"]
    assert result["changed"] and "DBG=1" in result["cmd"]
    assert kubelet["debug"] is True and kubelet["size"] > plain["size"]
    # back again: a debug binary is not taken for the plain one
    assert make()["outputs"]["binaries"]["kubelet"]["sha256"] == plain["sha256"]


def test_foreign_platform_and_everything(tree: Tree, make: t.Any) -> None:
    result = make(what=[], platform="linux/arm64")
    (tree.path / "_output/local/bin/linux/arm64/notes").write_text("not built")
    assert sorted(result["outputs"]["binaries"]) == ["kubeadm", "kubelet"]
    assert pathlib.Path(result["outputs"]["binaries"]["kubelet"]["path"]).read_bytes()[18] == 183
    assert not make(what=[], platform="linux/arm64")["changed"] and tree.runs == 1


def test_images(tree: Tree, make: t.Any) -> None:
    args: dict[str, t.Any] = {
        "targets": ["quick-release-images"],
        "what": ["cmd/kubeadm", "cmd/kubelet"],
        "platform": "linux/amd64",
    }
    first = make(**args)
    assert {"KUBE_EXTRA_WHAT=cmd/kubeadm cmd/kubelet", "KUBE_BUILD_PLATFORMS=linux/amd64"} <= set(first["cmd"])
    assert sorted(first["outputs"]["binaries"]) == ["kubeadm", "kubelet"]
    images = first["outputs"]["images"]
    assert sorted(images) == ["kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler"]
    assert images["kube-proxy"]["ref"] == "registry.k8s.io/kube-proxy-amd64:v1.37.2"
    assert images["kube-proxy"]["sha256"] == sha256(images["kube-proxy"]["path"])
    assert "/_output/dockerized/bin/linux/amd64/" in first["outputs"]["binaries"]["kubelet"]["path"]
    assert not make(**args)["changed"] and tree.runs == 1
    # the other platform's build wipes these archives; they are kept, but what is gone nevertheless is missed
    assert make(**{**args, "platform": "linux/arm64"})["changed"]
    assert not make(**args)["changed"] and tree.runs == 2
    pathlib.Path(images["kube-proxy"]["path"]).unlink()
    assert "is missing" in make(**args, check=True)["actions"][0]
    again = make(**args)
    assert again["changed"] and again["outputs"] == first["outputs"]


@pytest.fixture(scope="module")
def image_tool(tmp_path_factory: pytest.TempPathFactory) -> str:
    tool = tmp_path_factory.mktemp("tool") / "nodeforge-image"
    source = COLLECTIONS.parent / "roles/supplies/files/src/image"
    subprocess.run(["go", "build", "-o", str(tool), "."], cwd=source, env={**os.environ, "CGO_ENABLED": "0"}, check=True)
    return str(tool)


@pytest.fixture
def proxy_base(tmp_path: pathlib.Path) -> pathlib.Path:
    """The root file system below kube-proxy's program."""
    base, marker = tmp_path / "base.tar", tmp_path / "marker"
    marker.write_text("root of kube-proxy's image")
    with tarfile.open(base, "w") as root:
        root.add(marker, "etc/marker")
    return base


def test_images_from_programs(tree: Tree, make: t.Any, image_tool: str, proxy_base: pathlib.Path) -> None:
    """Without an image target of the tree, and only those of what is compiled."""
    for name in ("kube-scheduler", "kube-proxy"):
        tree.write(f"cmd/{name}/main.go", PROGRAM % name)
    tree.commit()
    tree.git("tag", "v1.37.3-1+abc")
    args = {"what": ["kubelet", "kube-scheduler", "kube-proxy"], "image_tool": image_tool, "kube_proxy_base": str(proxy_base)}
    predicted = make(check=True, diff=True, **args)
    assert predicted["changed"] and not (tree.path / "_output/nodeforge/images").exists()
    assert sum(path.endswith(".tar") for path in predicted["diff"]["after"]["outputs"]) == 2
    first = make(diff=True, **args)
    images = first["outputs"]["images"]
    arch = first["platform"].partition("/")[2]
    assert {name: image["ref"] for name, image in images.items()} == {
        name: f"registry.k8s.io/{name}-{arch}:v1.37.3-1_abc" for name in ("kube-scheduler", "kube-proxy")
    }
    assert first["changed"] and first["diff"]["after"]["outputs"].keys() == predicted["diff"]["after"]["outputs"].keys()
    for name, image in images.items():
        assert image["sha256"] == sha256(image["path"])
        with tarfile.open(image["path"]) as archive:
            layers = json.load(t.cast(t.IO[bytes], archive.extractfile("manifest.json")))[0]["Layers"]
            content = tarfile.open(fileobj=archive.extractfile(layers[-1]))
            program = content.getmember(f"usr/local/bin/{name}")
            assert program.mode == 0o755 and len(layers) == (2 if name == "kube-proxy" else 1)
            copy = t.cast(t.IO[bytes], content.extractfile(program)).read()
            assert hashlib.sha256(copy).hexdigest() == first["outputs"]["binaries"][name]["sha256"]
    paths = {name: pathlib.Path(image["path"]) for name, image in images.items()}

    def written() -> set[str]:
        now = {name: (path.stat().st_ino, path.stat().st_mtime_ns) for name, path in paths.items()}
        changed = {name for name, identity in now.items() if identity != seen.get(name)}
        seen.update(now)
        return changed

    seen: dict[str, tuple[int, int]] = {}
    written()
    runs = tree.runs
    assert not make(**args)["changed"] and tree.runs == runs and written() == set()
    # the image of what was edited
    tree.write("cmd/kube-scheduler/main.go", PROGRAM % "another kube-scheduler")
    tree.commit()
    tree.git("tag", "-f", "v1.37.3-1+abc")
    edited = make(**args)
    assert edited["changed"] and written() == {"kube-scheduler"}
    assert edited["outputs"]["images"]["kube-scheduler"]["sha256"] != images["kube-scheduler"]["sha256"]
    # one that was altered or is gone, or whose base is another one
    paths["kube-scheduler"].write_bytes(b"x")
    assert make(**args)["outputs"] == edited["outputs"] and written() == {"kube-scheduler"}
    paths["kube-scheduler"].unlink()
    assert make(check=True, **args)["changed"]
    assert make(**args)["outputs"] == edited["outputs"] and written() == {"kube-scheduler"}
    with tarfile.open(proxy_base, "a") as root:
        root.add(__file__, "etc/more")
    assert make(**args)["changed"] and written() == {"kube-proxy"}
    assert sorted(path.name for path in paths["kube-proxy"].parent.iterdir()) == ["kube-proxy.tar", "kube-scheduler.tar"]


def test_images_from_programs_refused(tree: Tree, make: t.Any, image_tool: str, proxy_base: pathlib.Path, tmp_path: pathlib.Path) -> None:
    tree.write("cmd/kube-proxy/main.go", PROGRAM % "kube-proxy")
    args = {"what": ["kube-proxy"], "image_tool": image_tool, "kube_proxy_base": str(proxy_base)}
    assert "is no program" in failure(make(**{**args, "image_tool": str(proxy_base)}))
    assert "leave one of both out" in failure(make(**args, targets=["quick-release-images"]))
    assert "missing parameter(s) required by 'kube_proxy_base': image_tool" in make(**{**args, "image_tool": None})["msg"]
    assert "needs iptables" in failure(make(**{**args, "kube_proxy_base": None}))
    absent = {"image_tool": str(tmp_path / "no-tool"), "kube_proxy_base": str(tmp_path / "none")}
    for option, path in absent.items():
        assert f'The {option} "{path}" is no ' in failure(make(**{**args, option: path}))
    # check mode may be before what makes them
    assert make(check=True, **{**args, **absent})["changed"]
    broken = tmp_path / "broken-tool"
    broken.write_text("#!/bin/sh\necho first >&2\necho 'no space left' >&2\nexit 1\n")
    broken.chmod(0o755)
    assert "kube-proxy could not be written (no space left)" in failure(make(**{**args, "image_tool": str(broken)}))
    stuck = tmp_path / "stuck-tool"
    stuck.write_text("#!/bin/sh\nfor last; do :; done\ntouch \"$(dirname \"$last\")/.part\"\nexec sleep 600\n")
    stuck.chmod(0o755)
    assert "not done in time" in failure(make(**{**args, "image_tool": str(stuck)}, timeout=8))
    assert {path.name for path in (tree.path / "_output/nodeforge/images").rglob("*")} <= {"amd64", "arm64"}
    # none of that stands in the way
    assert make(**args)["outputs"]["images"].keys() == {"kube-proxy"}


def test_secrets_and_memory(tree: Tree, make: t.Any, run_module: t.Any) -> None:
    (tree.path / "_output").mkdir()
    failed = make(targets=["chatty"], rebuild="always", environment={"MY_TOKEN": "very-secret-value"})
    assert "made no" in failure(failed)
    assert os.path.getsize(failed["log_path"]) > 290_000_000 and len(json.dumps(failed)) < 20_000
    os.truncate(failed["log_path"], 0)
    result = make(
        targets=["all"], environment={"MY_TOKEN": "very-secret-value", "HTTPS_PROXY": "http://me:pass@proxy:3128"}
    )
    for text in (json.dumps(result), *(path.read_text() for path in (tree.path / "_output/nodeforge").glob("*.json"))):
        assert "very-secret" not in text and "me:pass" not in text
    said = make(targets=["secret"], environment={"MY_TOKEN": "very-secret-value"})
    assert os.stat(said["log_path"]).st_mode & 0o777 == 0o600 and "very-secret" not in json.dumps(said)


def test_make_above_does_not_interfere(tree: Tree, run_module: t.Any) -> None:
    """`make node WHAT=… DBG=1` runs this module below another make, whose variables must not leak in."""
    environment = {"MAKEFLAGS": " -n -- DBG=1 WHAT=cmd/nothing", "MAKELEVEL": "1", "DBG": "1", "WHAT": "cmd/nothing"}
    result = run_module("kube_make", {"tree": str(tree.path), "what": ["kubelet"]}, env=environment)
    assert tree.runs == 1 and result["outputs"]["binaries"]["kubelet"]["debug"] is False


# -- in a container --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def builder_image() -> t.Iterator[str]:
    """An image that sees the host's own tools: nothing is pulled, nothing but an empty directory is stored."""
    name = f"nodeforge-test-builder:{os.getpid()}"
    subprocess.run(["docker", "import", "-", name], input=kube_trees.empty_root(), check=True, capture_output=True)
    yield name
    subprocess.run(["docker", "image", "rm", "--force", name], check=True, capture_output=True)


@pytest.fixture
def container_tree(tree: Tree, builder_image: str) -> Tree:
    goroot = subprocess.check_output(["go", "env", "GOROOT"], text=True).strip()
    mounts = [pathlib.Path(place) for place in ("/usr", "/bin", "/lib", "/lib64", "/etc/alternatives", goroot)]
    volumes = " ".join(f"--volume {place.resolve()}:{place}:ro" for place in mounts if place.exists())
    script = RUN_SCRIPT.replace("BUILDER", f"{volumes} --env PATH={goroot}/bin:/usr/bin:/bin {builder_image}")
    tree.write("build/run.sh", script, 0o755)
    makefile = (tree.path / "Makefile").read_text().replace(str(tree.counter), "_output/count")
    tree.write("Makefile", makefile)
    tree.counter = tree.path / "_output/count"
    tree.commit()
    tree.git("tag", "--force", "v1.37.2")
    return tree


def containers(tree: Tree) -> list[str]:
    return subprocess.check_output(
        ["docker", "ps", "--all", "--quiet", "--filter", f"volume={tree.path}"], text=True
    ).split()


def test_container(container_tree: Tree, make: t.Any) -> None:
    (container_tree.path / "_output").mkdir()
    first = make(builder="container", debug=True)
    assert first["cmd"][:3] == [str(container_tree.path / "build/run.sh"), "make", "all"]
    assert first["cmd"][-1] == "DBG=1"
    kubelet = first["outputs"]["binaries"]["kubelet"]
    assert "/_output/dockerized/bin/" in kubelet["path"] and kubelet["debug"] is True
    assert b"/go/src/k8s.io/kubernetes/cmd/kubelet/main.go" in pathlib.Path(kubelet["path"]).read_bytes()
    assert not make(builder="container", debug=True)["changed"] and container_tree.runs == 1
    assert containers(container_tree) == []


def test_container_ends_with_the_build(container_tree: Tree, make: t.Any) -> None:
    (container_tree.path / "_output").mkdir()
    result = make(builder="container", targets=["stubborn"], timeout=4)
    assert "was not done after" in failure(result)
    assert (container_tree.path / "_output/pid").exists(), "the container never ran"
    assert containers(container_tree) == []


# -- bad input ---------------------------------------------------------------------------------------------------------------


def test_what_is_no_tree(tree: Tree, make: t.Any, tmp_path: pathlib.Path) -> None:
    assert f'There is no tree "{tmp_path}/absent"' in failure(make(tree=str(tmp_path / "absent")))
    (tmp_path / "file").touch()
    assert "is not a directory" in failure(make(tree=str(tmp_path / "file")))
    (tmp_path / "empty").mkdir()
    assert "has no Makefile" in failure(make(tree=str(tmp_path / "empty")))
    assert list((tmp_path / "empty").iterdir()) == []


def test_what_cannot_be_built(tree: Tree, make: t.Any) -> None:
    message = failure(make(what=["cmd/kublet"]))
    assert '"cmd/kublet"' in message and "cmd/kubeadm, cmd/kubelet" in message
    message = failure(make(platform="linux/s390x"))
    assert '"linux/s390x"' in message and "linux/amd64 or linux/arm64" in message
    assert "All=1" in failure(make(params={"All=1": 1}))
    assert "option debug" in failure(make(params={"DBG": 1}))
    assert "option what" in failure(make(environment={"WHAT": "cmd/kubelet"}))
    assert "mixes quick-release-images" in failure(make(targets=["all", "quick-release-images"]))
    assert "build/run.sh" in failure(make(builder="container"))
    assert "image.tar" in failure(make(inputs=["/nowhere/image.tar"]))
    assert '"nothing"' in failure(make(targets=["nothing"]))
    assert tree.runs == 0 and not (tree.path / "_output/local").exists()


def test_versions_that_are_none(tree: Tree, make: t.Any, tmp_path: pathlib.Path, run_module: t.Any) -> None:
    tree.git("tag", "-d", "v1.37.2")
    assert "fetch --tags" in failure(make())
    tree.git("tag", "v1.37")
    message = failure(make())
    assert '"v1.37"' in message and "KUBE_GIT_VERSION_FILE" in message
    tree.write("another", "x")
    tree.commit()
    tree.git("tag", "v1.36.0", "HEAD~1")
    clone = tmp_path / "shallow"
    subprocess.run(
        ["git", "clone", "-q", "--depth", "1", f"file://{tree.path}", str(clone)], check=True, capture_output=True
    )
    message = failure(run_module("kube_make", {"tree": str(clone), "what": ["kubelet"]}))
    assert "shallow clone" in message and "--unshallow" in message
    # and the remedy works
    (tmp_path / "version").write_text("KUBE_GIT_VERSION=v1.37.0+mine\n")
    args = {
        "tree": str(clone),
        "what": ["kubelet"],
        "environment": {"KUBE_GIT_VERSION_FILE": str(tmp_path / "version")},
    }
    assert run_module("kube_make", args)["version"] == "v1.37.0+mine"
    assert "not a git checkout" in failure(
        run_module("kube_make", {"tree": str(Tree(tmp_path / "plain", git=False, version="").path)})
    )
    tree.write("hack/print-workspace-status.sh", "#!/bin/sh\necho broken >&2\nexit 3\n", 0o755)
    assert "exit status 3 (broken)" in failure(make())
    (tree.path / "hack/print-workspace-status.sh").unlink()
    assert "no hack/print-workspace-status.sh" in failure(make())


def test_compile_error_then_mended(tree: Tree, make: t.Any) -> None:
    good = make()
    tree.write("cmd/kubelet/main.go", "package main\n\nfunc main() { undefinedThing() }\n")
    result = make()
    message = failure(result)
    assert "cmd/kubelet/main.go:3:15: undefined: undefinedThing" in message and result["log_path"] in message
    assert result["rc"] == 2 and any("undefinedThing" in line for line in result["tail"])
    assert "the sources changed" in make(check=True)["actions"][0], "a failed build was taken for a good one"
    tree.git("checkout", "-q", "--", ".")
    assert make()["outputs"] == good["outputs"]


def test_programs_missing(tree: Tree, run_module: t.Any, tmp_path: pathlib.Path) -> None:
    for missing in ("make", "timeout"):
        tools = tmp_path / f"without-{missing}"
        tools.mkdir()
        for place in ("/bin", "/usr/bin"):
            for program in pathlib.Path(place).iterdir():
                if program.name != missing and not (tools / program.name).exists():
                    (tools / program.name).symlink_to(program)
        args = {"tree": str(tree.path), "environment": {"PATH": str(tools)}}
        assert f"This host has no {missing}" in failure(run_module("kube_make", args))


def test_output_that_is_no_program(tree: Tree, make: t.Any) -> None:
    assert "made no" in failure(make(targets=["wrong"]))
    kubelet = tree.write(
        f"_output/local/bin/linux/{os.uname().machine.replace('x86_64', 'amd64').replace('aarch64', 'arm64')}/kubelet",
        "text",
    )
    assert "not a complete Linux program" in failure(make(targets=["wrong"]))
    kubelet.unlink()
    result = make(targets=["wrong"], platform="linux/arm64", check=True)
    assert result["changed"] and result["outputs"]["binaries"] == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="changes to another user")
def test_another_users_tree(tree: Tree, run_module: t.Any, make: t.Any) -> None:
    for path in (tree.path, *tree.path.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(["git", "-C", str(tree.path), "status"], check=True, capture_output=True)
    result = make()
    assert result["version"] == "v1.37.2" and not make()["changed"] and tree.runs == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="changes to another user")
def test_tree_without_rights() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        tree = Tree(pathlib.Path(directory) / "tree")
        tree.path.chmod(0o700)
        assert f'The tree "{tree.path}" cannot be read by user id 65534' in failure(as_nobody(tree))
        tree.path.chmod(0o755)
        assert f'"{tree.path}/_output/nodeforge" cannot be written by user id 65534' in failure(as_nobody(tree))


def as_nobody(tree: Tree) -> t.Any:
    """The module, run by a user without rights; what it imports may lie where that user cannot read."""
    code = (
        "import os; from ansible_collections.nodeforge.kind.plugins.modules import kube_make; import ansible.module_utils.errors;"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); os.chdir('/'); kube_make.main()"
    )
    payload = json.dumps({"ANSIBLE_MODULE_ARGS": {"tree": str(tree.path), "what": ["kubelet"]}})
    environment = {**os.environ, "PYTHONPATH": str(COLLECTIONS)}
    process = subprocess.run(
        [sys.executable, "-c", code], input=payload, capture_output=True, check=False, text=True, env=environment
    )
    assert "Traceback" not in process.stderr, process.stderr
    return json.loads(process.stdout)


def test_timeout_ends_all_of_it(tree: Tree, make: t.Any) -> None:
    (tree.path / "_output").mkdir()
    started = time.monotonic()
    result = make(targets=["lazy"], timeout=2)
    assert "was not done after 2 s" in failure(result) and time.monotonic() - started < 10
    assert gone(int((tree.path / "_output/pid").read_text()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupt(tree: Tree, run_module: t.Any, number: signal.Signals) -> None:
    (tree.path / "_output").mkdir()
    process = run_module("kube_make", {"tree": str(tree.path), "targets": ["lazy"], "what": ["kubelet"]}, popen=True)
    pid = int(
        wait_for(lambda: (tree.path / "_output/pid").exists() and (tree.path / "_output/pid").read_text().strip())
    )
    process.send_signal(number)
    result = json.loads(process.stdout.read())
    assert process.wait(20) == 1 and f"{number.name} came" in result["msg"]
    assert gone(pid) and list((tree.path / "_output/nodeforge").glob("*.json*")) == []


def test_nobody_waits_any_more(tree: Tree, run_module: t.Any) -> None:
    """What happens to a task over ssh when its connection breaks: the pipes close, and no signal comes."""
    (tree.path / "_output").mkdir()
    process = run_module("kube_make", {"tree": str(tree.path), "targets": ["lazy"], "what": ["kubelet"]}, popen=True)
    pid = int(
        wait_for(lambda: (tree.path / "_output/pid").exists() and (tree.path / "_output/pid").read_text().strip())
    )
    process.stdout.close()
    wait_for(lambda: gone(pid), 15)
    process.wait(20)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="util-linux has no setpriv here")
def test_killed_outright(tree: Tree, run_module: t.Any) -> None:
    (tree.path / "_output").mkdir()
    process = run_module("kube_make", {"tree": str(tree.path), "targets": ["lazy"], "what": ["kubelet"]}, popen=True)
    pid = int(
        wait_for(lambda: (tree.path / "_output/pid").exists() and (tree.path / "_output/pid").read_text().strip())
    )
    process.kill()
    process.wait(20)
    wait_for(lambda: gone(pid), 15)


def test_two_at_once(tree: Tree, run_module: t.Any, make: t.Any) -> None:
    args = {"tree": str(tree.path), "what": ["cmd/kubelet"]}
    processes = [run_module("kube_make", args, popen=True) for dummy in range(2)]
    results = [json.loads(process.stdout.read()) for process in processes]
    assert [process.wait(60) for process in processes] == [0, 0], results
    # the outputs were not there when either began
    assert [result["changed"] for result in results] == [True, True] and tree.runs == 1
    (waited,) = [result["actions"][0] for result in results if not result["actions"][0].startswith("Ran")]
    # one that was over at the second look has not told what it was
    assert re.fullmatch(r"Waited for (another build of the tree|make all for linux/\w+ of \w+, process \d+, since [\d:]+)", waited)
    assert results[0]["outputs"] == results[1]["outputs"]

    holder = run_module("kube_make", {**args, "targets": ["lazy"]}, popen=True)
    wait_for((tree.path / "_output/pid").exists)
    message = failure(make(timeout=1))
    assert f'Another build of the tree "{tree.path}" (make lazy for linux/' in message and f"process {holder.pid}," in message
    assert not make(check=True)["changed"], "check mode needs no lock"
    holder.terminate()
    holder.stdout.read()
    assert holder.wait(20) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_full_disk(tree: Tree, make: t.Any) -> None:
    output = tree.path / "_output"
    output.mkdir()
    if (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(output)], capture_output=True, check=False
        ).returncode
        != 0
    ):
        pytest.skip("this machine does not let us mount a tmpfs")
    try:
        assert "the disk is full" in failure(make())
        assert list((output / "nodeforge").glob("*.json*")) == []
    finally:
        subprocess.run(["umount", str(output)], check=True)
    assert make()["changed"]


def test_memory_stays_flat(tree: Tree, make: t.Any) -> None:
    """Outputs are hashed in pieces: the module stays under 150 MB whatever their size."""
    kubelet = make()["outputs"]["binaries"]["kubelet"]["path"]
    os.truncate(kubelet, 2 << 30)
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[2:], input=sys.argv[1], check=True, text=True, stdout=subprocess.DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    payload = json.dumps(
        {"ANSIBLE_MODULE_ARGS": {"tree": str(tree.path), "what": ["kubelet"], "_ansible_check_mode": True}}
    )
    command = [
        sys.executable,
        "-c",
        code,
        payload,
        sys.executable,
        "-m",
        "ansible_collections.nodeforge.kind.plugins.modules.kube_make",
    ]
    out = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(COLLECTIONS)}
    ).stdout
    assert int(out) < 150 * 1024


# -- through Ansible: the action plugin --------------------------------------------------------------------------------------


def play(tree: Tree, options: str = "", keywords: str = "") -> str:
    return f"""
- hosts: localhost
  gather_facts: false
  tasks:
    - nodeforge.kind.kube_make: {{tree: "{tree.path}", what: [kubelet], {options}}}
      {keywords}
      register: result
    - ansible.builtin.copy: {{content: "{{{{ result | to_json }}}}", dest: "{tree.path.parent}/result", mode: "0600"}}
      check_mode: false
"""


@pytest.fixture(params=["started", "in process"])
def playbook(tree: Tree, ansible_env: dict[str, str], interpreter: str, request: pytest.FixtureRequest) -> t.Iterator[t.Callable[..., t.Any]]:
    """Runs the play, with the module in a Python of its own as on other hosts, or in Ansible's as it is here."""
    path = tree.path.parent / "play.yml"
    python = interpreter if request.param == "started" else json.dumps({"ansible_python_interpreter": sys.executable})
    command = [
        "ansible-playbook",
        "-i",
        "localhost,",
        "-c",
        "local",
        "-e",
        python,
        str(path),
    ]

    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, options: str = "", keywords: str = "", popen: bool = False) -> t.Any:
        path.write_text(play(tree, options, keywords))
        if "-i" not in arguments:
            arguments = (*arguments, "-i", "localhost,", "-c", "local")
        pipes: dict[str, t.Any] = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "env": ansible_env,
        }
        if popen:
            started.append(subprocess.Popen([*command, *arguments], start_new_session=True, **pipes))
            return started[-1]
        return subprocess.run([*command, *arguments], timeout=120, check=False, **pipes)

    yield run
    for process in started:  # of a test that failed
        if process.poll() is None:
            process.kill()
            process.wait()


def talk(tree: Tree) -> None:
    """A target that says something for three seconds."""
    makefile = (tree.path / "Makefile").read_text()
    tree.write("Makefile", makefile + "\ntalk: all\n\t@for i in 1 2 3; do echo word $$i; sleep 1; done\n")
    tree.commit()
    tree.git("tag", "--force", "v1.37.2")


def result_of(tree: Tree) -> t.Any:
    return json.loads((tree.path.parent / "result").read_text())


def test_live_lines(tree: Tree, playbook: t.Any) -> None:
    talk(tree)
    process = playbook(options="targets: [talk], progress: lines", popen=True)
    seen: dict[str, float] = {}
    for line in process.stderr:
        seen[line.strip()] = time.monotonic()
    out = process.stdout.read()
    assert process.wait(60) == 0, out
    # as they are said, not all at the end
    assert seen["[localhost] word 3"] - seen["[localhost] word 1"] > 1
    # whoever reads stdout as data is not disturbed
    assert "word" not in out
    result = result_of(tree)
    assert result["changed"] and result["rc"] == 0 and tree.runs == 1
    assert not {"ansible_job_id", "finished", "results_file", "stdout"} & set(result)
    again = playbook(options="targets: [talk], progress: lines")
    assert (
        again.returncode == 0
        and "word" not in again.stderr
        and "changed=0" in again.stdout.replace("changed=1  ", "changed=0")
    )
    assert not result_of(tree)["changed"] and tree.runs == 1


@pytest.mark.parametrize(
    "arguments, options, keywords, changed, runs",
    [
        ((), "", "", True, 1),
        ((), "progress: none", "", True, 1),
        (("--check",), "progress: lines", "", True, 0),
        ((), "progress: lines", "{async: 60, poll: 1}", True, 1),
        ((), "progress: lines", "no_log: true", True, 1),
    ],
    ids=["summary", "none", "check", "async", "no_log"],
)
def test_ways_to_run(
    tree: Tree, playbook: t.Any, arguments: tuple[str, ...], options: str, keywords: str, changed: bool, runs: int
) -> None:
    process = playbook(*arguments, options=options, keywords="\n      ".join(keywords.strip("{}").split(", ")))
    assert process.returncode == 0, process.stdout + process.stderr
    assert "Building" not in process.stderr
    assert result_of(tree)["changed"] is changed and tree.runs == runs


@pytest.mark.parametrize("there", [False, True], ids=["here", "by ssh"])
def test_interpreter_with_a_blank_in_its_path(tree: Tree, playbook: t.Any, tmp_path: pathlib.Path, request: pytest.FixtureRequest, there: bool) -> None:
    """As in the virtual environment of a checkout whose path has one: Ansible cannot start jobs with it."""
    talk(tree)
    (tmp_path / "my venv").symlink_to(sys.prefix)
    interpreter = str(tmp_path / "my venv/bin/python")
    arguments = ["-e", json.dumps({"ansible_python_interpreter": interpreter}), *(request.getfixturevalue("ssh") if there else [])]
    process = playbook(*arguments, options="targets: [talk], progress: lines")
    assert process.returncode == 0, process.stdout + process.stderr
    assert ("No progress is shown" in process.stderr, "[localhost] word 3" in process.stderr) == (there, not there)
    assert result_of(tree)["changed"] and tree.runs == 1


def test_failure_through_ansible(tree: Tree, playbook: t.Any) -> None:
    tree.write("cmd/kubelet/main.go", "package main\n\nfunc main() { undefinedThing() }\n")
    process = playbook(keywords="ignore_errors: true")
    result = result_of(tree)
    assert result["failed"] and "undefined: undefinedThing" in failure(result), process.stdout
    process = playbook(options="platform: linux/s390x", keywords="ignore_errors: true")
    assert '"linux/s390x"' in failure(result_of(tree)) and tree.runs == 1


@pytest.mark.parametrize("progress, there", [("summary", False), ("none", False), ("summary", True)])
def test_interrupt_through_ansible(
    tree: Tree, playbook: t.Any, request: pytest.FixtureRequest, signals_reach_main: t.Callable[[int], int], progress: str, there: bool
) -> None:
    (tree.path / "_output").mkdir()
    arguments = request.getfixturevalue("ssh") if there else []
    process = playbook(*arguments, options=f"targets: [lazy], progress: {progress}", popen=True)
    pid = int(
        wait_for(lambda: (tree.path / "_output/pid").exists() and (tree.path / "_output/pid").read_text().strip(), 60)
    )
    time.sleep(1)
    workers = [child for child in children(process.pid) if "ansible-playbook" in pathlib.Path(f"/proc/{child}/cmdline").read_text()]
    # the thread that shows the log
    assert [signals_reach_main(worker) for worker in workers] == [0 if there or progress == "none" else 1]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    wait_for(lambda: gone(pid), 45)
    assert list((tree.path / "_output/nodeforge").glob("*.json*")) == []


@pytest.mark.parametrize("there", [False, True], ids=["here", "by ssh"])
def test_time_limit_of_the_task(tree: Tree, playbook: t.Any, request: pytest.FixtureRequest, there: bool) -> None:
    (tree.path / "_output").mkdir()
    process = playbook(*(request.getfixturevalue("ssh") if there else []), options="targets: [lazy]", keywords="timeout: 8")
    assert process.returncode != 0
    pid = int((tree.path / "_output/pid").read_text())
    wait_for(lambda: gone(pid), 45)


@pytest.mark.usefixtures("no_orphans")
def test_the_next_run_takes_over(tree: Tree, playbook: t.Any, tmp_path: pathlib.Path) -> None:
    """A killed Ansible does not end make, and the next one waits for that instead of starting another."""
    go_on = tmp_path / "go on"
    makefile = (tree.path / "Makefile").read_text()
    tree.write("Makefile", f"{makefile}\nhold: all\n\t@echo holding; while [ ! -e '{go_on}' ]; do sleep 0.1; done; echo released\n")
    tree.commit()
    first = playbook(options="targets: [hold]", popen=True)
    wait_for(lambda: [log for log in tree.path.glob("_output/nodeforge/*.log") if "holding" in log.read_text()], 60)
    first.kill()
    first.communicate(timeout=60)
    second = playbook(options="targets: [hold], progress: lines", popen=True)
    seen = []
    for line in second.stderr:
        seen.append(line.strip())
        if "holding" in line:
            go_on.touch()
    assert second.wait(60) == 0, second.stdout.read()
    shown = [line for line in seen if line.startswith("[localhost] ")]
    assert shown[0].startswith("[localhost] Waits for make hold for linux/") and "[localhost] released" in shown, seen
    result = result_of(tree)
    assert result["changed"] and tree.runs == 1 and result["actions"][0].startswith("Waited for make hold")
    assert result["diff"]["before"]["outputs"] == {} and result["diff"]["after"]["outputs"] == {
        result["outputs"]["binaries"]["kubelet"]["path"]: result["outputs"]["binaries"]["kubelet"]["sha256"]
    }


def test_sources_that_change_meanwhile(tree: Tree, run_module: t.Any, make: t.Any, tmp_path: pathlib.Path) -> None:
    """What was made of a mixture is not taken for what either of its sources gives."""
    go_on = tmp_path / "go on"
    makefile = (tree.path / "Makefile").read_text()
    tree.write("Makefile", f"{makefile}\nhold:\n\t@touch _output/holds; while [ ! -e '{go_on}' ]; do sleep 0.1; done; $(MAKE) all\n")
    tree.commit()
    text = (tree.path / "cmd/kubelet/main.go").read_text()
    process = run_module("kube_make", {"tree": str(tree.path), "targets": ["hold"], "what": ["kubelet"]}, popen=True)
    wait_for((tree.path / "_output/holds").exists)
    tree.write("cmd/kubelet/main.go", text.replace("says", "said"))
    go_on.touch()
    result = json.loads(process.stdout.read())
    assert process.wait(20) == 0 and "changed while they were compiled" in json.dumps(result["warnings"])
    tree.write("cmd/kubelet/main.go", text)
    assert make(targets=["hold"])["changed"] and not make(targets=["hold"])["changed"]


@pytest.fixture
def ssh(tmp_path: pathlib.Path) -> t.Iterator[list[str]]:
    """A real sshd on this machine, for us alone; what ansible-playbook needs to come in by it."""
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if sshd is None or shutil.which("ssh") is None:
        pytest.skip("there is no sshd on this machine")
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/key.pub\n"
        f"PidFile {tmp_path}/pid\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
    )
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)
    with open(tmp_path / "sshd.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen([sshd, "-D", "-e", "-f", str(tmp_path / "config")], stdout=log, stderr=log)
    wait_for(lambda: (tmp_path / "pid").exists() or process.poll() is not None)
    options = (
        f"-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ControlPath={tmp_path}/%h -o ControlPersist=5"
    )
    inventory = tmp_path / "hosts"
    inventory.write_text(
        f"localhost ansible_connection=ssh ansible_host=127.0.0.1 ansible_port={port} "
        f"ansible_ssh_private_key_file={tmp_path}/key ansible_ssh_common_args='{options}' "
        # an sshd of an ordinary user cannot hand out terminals
        f"ansible_ssh_use_tty={'yes' if os.geteuid() == 0 else 'no'}\n"
    )
    yield ["-i", str(inventory), "-c", "ssh"]
    process.terminate()
    process.wait(20)


def test_over_ssh(tree: Tree, playbook: t.Any, ssh: list[str]) -> None:
    talk(tree)
    first = playbook(*ssh, options="targets: [talk], progress: lines")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "[localhost] word 3" in first.stderr and result_of(tree)["changed"]
    second = playbook(*ssh, options="targets: [talk]")
    assert second.returncode == 0 and not result_of(tree)["changed"] and tree.runs == 1


def test_broken_connection(tree: Tree, playbook: t.Any, ssh: list[str], tmp_path: pathlib.Path) -> None:
    """Without live progress the task is one connection; when that breaks, make ends on its host."""
    (tree.path / "_output").mkdir()
    process = playbook(*ssh, options="targets: [lazy], progress: none", popen=True)
    pid = int(
        wait_for(lambda: (tree.path / "_output/pid").exists() and (tree.path / "_output/pid").read_text().strip(), 60)
    )
    # all of sshd between make and the one that listens
    above = pid
    while above > 1 and above != int((tmp_path / "pid").read_text()):
        name, dummy, fields = pathlib.Path(f"/proc/{above}/stat").read_text().partition(" (")[2].rpartition(") ")
        if name.startswith("sshd"):
            os.kill(above, signal.SIGKILL)
        above = int(fields.split()[1])
    wait_for(lambda: gone(pid), 45)
    process.communicate(timeout=60)
    assert process.returncode != 0
