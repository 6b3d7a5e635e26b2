# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""kube_make against a tree of each generation: real make, Go, git, rsync and container engine behind it."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time
import typing as t

import kube_trees
import pytest
from kube_trees import GENERATIONS, KubeTree
from small_base import ARCH, FOREIGN, PLATFORM

IMAGES: dict[str, t.Any] = {"targets": ["quick-release-images"], "what": ["cmd/kubeadm", "cmd/kubelet"]}


@pytest.fixture(scope="module", autouse=True)
def base() -> t.Iterator[None]:
    name = kube_trees.base_image()
    yield
    subprocess.run(["docker", "image", "rm", "--force", name], check=False, capture_output=True)


@pytest.fixture
def make_tree(tmp_path: pathlib.Path) -> t.Iterator[t.Callable[..., KubeTree]]:
    made: list[KubeTree] = []

    def make(generation: str, name: str = "kubernetes", **options: t.Any) -> KubeTree:
        made.append(KubeTree(tmp_path / name, generation, **options))
        return made[-1]

    yield make
    for tree in made:
        tree.remove()


@pytest.fixture
def run(run_module: t.Any) -> t.Callable[..., t.Any]:
    def call(tree: KubeTree | pathlib.Path, check: bool = False, env: dict[str, str] | None = None, **args: t.Any) -> t.Any:
        path = tree.path if isinstance(tree, KubeTree) else tree
        return run_module("kube_make", {"tree": str(path), "what": ["cmd/kubelet"], **args}, check=check, env=env)

    return call


def failure(result: t.Any) -> str:
    assert result.get("failed"), result
    message: str = result["msg"]
    assert message.endswith(".") and "\n" not in message and "Traceback" not in json.dumps(result), message
    return message


def says(result: t.Any, name: str = "kubelet") -> str:
    return subprocess.check_output([result["outputs"]["binaries"][name]["path"]], text=True).strip()


def sha256(path: str) -> str:
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def without(tmp_path: pathlib.Path, *programs: str) -> str:
    """A PATH that lacks the programs."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        for program in pathlib.Path(place).iterdir() if os.path.isdir(place) else []:
            if program.name not in programs and not (tools / program.name).exists():
                (tools / program.name).symlink_to(program)
    return str(tools)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_host(make_tree: t.Any, run: t.Any, generation: str) -> None:
    tree = make_tree(generation)
    first = run(tree)
    assert not first.failed, first
    kubelet = first["outputs"]["binaries"]["kubelet"]
    # not bound to this host's C library, as the tree alone would have made it
    assert kubelet["static"] is True and "KUBE_STATIC_OVERRIDES=kubelet" in first["cmd"]
    assert kubelet["path"] == str(tree.path / "_output/local/bin" / PLATFORM / "kubelet")
    assert says(first) == "kubelet v1.30.0" and "warnings" not in first
    assert not run(tree)["changed"]
    debug = run(tree, debug=True)["outputs"]["binaries"]["kubelet"]
    assert debug["debug"] is True and debug["static"] is True
    dynamic = run(tree, params={"KUBE_STATIC_OVERRIDES": ""})
    assert dynamic["outputs"]["binaries"]["kubelet"]["static"] is False and "needs the C library of this host" in json.dumps(dynamic["warnings"])
    tree.edit("hack/lib/golang.sh", "KUBE_STATIC_OVERRIDES", "KUBE_OTHER")
    assert not any("STATIC" in word for word in run(tree, check=True)["cmd"])


@pytest.mark.parametrize("generation", GENERATIONS)
def test_container(make_tree: t.Any, run: t.Any, generation: str) -> None:
    tree = make_tree(generation)
    tree.write("cmd/kubelet/more.go", "package main\n")
    commit = tree.commit()
    first = run(tree, builder="container", debug=True)
    assert not first.failed, first
    kubelet = first["outputs"]["binaries"]["kubelet"]
    assert first["cmd"][:3] == [str(tree.path / "build/run.sh"), "make", "all"] and "DBG=1" in first["cmd"]
    assert kubelet["path"] == str(tree.path / "_output/dockerized/bin" / PLATFORM / "kubelet") and kubelet["debug"] is True
    assert says(first) == f"kubelet {first['version']}" == f"kubelet v1.30.0-1+{commit[:14]}"
    assert b"/go/src/k8s.io/kubernetes/cmd/kubelet/main.go" in pathlib.Path(kubelet["path"]).read_bytes()
    # what stays: nothing, or the volumes with the sources and what Go compiled
    left = tree.containers()
    assert [name[:16] for name in left] == ([] if generation == "mount" else ["kube-build-data-"])
    assert not run(tree, builder="container", debug=True)["changed"]
    tree.write("cmd/kubelet/more.go", 'package main\n\nfunc init() { println("edited") }\n')
    edited = run(tree, builder="container", platform=f"linux/{FOREIGN}")
    assert edited["changed"] and edited["version"].endswith("-dirty") and edited["outputs"]["binaries"]["kubelet"]["debug"] is False
    assert tree.containers() == left


@pytest.mark.parametrize("generation", GENERATIONS)
def test_images(make_tree: t.Any, run: t.Any, tmp_path: pathlib.Path, generation: str) -> None:
    tree = make_tree(generation)
    tree.write("more", "")
    tag = f"v1.30.0-1_{tree.commit()[:14]}"
    first = run(tree, **IMAGES)
    assert not first.failed, first
    assert sorted(first["outputs"]["binaries"]) == ["kubeadm", "kubelet"]
    for name in kube_trees.SERVERS:
        image = first["outputs"]["images"][name]
        assert image["ref"] == f"registry.k8s.io/{name}-{ARCH}:{tag}"
        assert image["path"] == str(tree.path / "_output/release-images" / ARCH / f"{name}.tar")
    kept = first["outputs"]["images"]["kube-proxy"]
    inside = kube_trees.image_facts(kept["path"], tmp_path / "unpacked")
    assert subprocess.check_output([inside["file"]], text=True) == f"kube-proxy {first['version']}\n"
    assert ("kubectl" in first["outputs"]["images"]) is (generation != "rsync")
    # the tree's script deletes the archives of all platforms: those of this one survive the other's build, also one that fails
    foreign = run(tree, platform=f"linux/{FOREIGN}", **IMAGES)
    assert not foreign.failed, foreign
    assert foreign["changed"] and foreign["outputs"]["images"]["kube-proxy"]["ref"] == f"registry.k8s.io/kube-proxy-{FOREIGN}:{tag}"
    assert sha256(kept["path"]) == kept["sha256"] and not run(tree, **IMAGES)["changed"]
    assert not run(tree, platform=f"linux/{FOREIGN}", **IMAGES)["changed"]
    assert not (tree.path / "_output/nodeforge/kept-images").exists()
    # a build that was killed outright between deleting and making: the next one finds them
    place = tree.path / "_output/release-images" / ARCH
    shutil.copytree(place, tree.path / "_output/nodeforge/kept-images" / ARCH)
    shutil.rmtree(tree.path / "_output/release-images")
    tree.edit("build/lib/release.sh", "rm -rf _output/release-images", "rm -rf _output/release-images; echo error: broken >&2; exit 7")
    assert "broken" in failure(run(tree, platform=f"linux/{FOREIGN}", **IMAGES))
    assert sha256(kept["path"]) == kept["sha256"]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_debug_images(make_tree: t.Any, run: t.Any, tmp_path: pathlib.Path, generation: str) -> None:
    tree = make_tree(generation)
    result = run(tree, debug=True, **IMAGES)
    assert not result.failed, result
    assert result["outputs"]["binaries"]["kubelet"]["debug"] is True
    image = kube_trees.image_facts(result["outputs"]["images"]["kube-scheduler"]["path"], tmp_path / "unpacked")
    sections = subprocess.check_output(["readelf", "--sections", "--wide", image["file"]], text=True) if shutil.which("readelf") else ".debug_info"
    assert ".debug_info" in sections and b"cmd/kube-scheduler/main.go" in pathlib.Path(image["file"]).read_bytes()
    assert image["refs"] == [f"registry.k8s.io/kube-scheduler-{ARCH}:v1.30.0"]
    assert not run(tree, debug=True, **IMAGES)["changed"] and run(tree, check=True, **IMAGES)["changed"]


def test_debug_images_that_no_way_leads_to(make_tree: t.Any, run: t.Any) -> None:
    tree = make_tree("rsync")
    tree.edit("build/lib/release.sh", "kube::release::build_server_images", "kube::release::other")
    assert "does not pass DBG on" in failure(run(tree, debug=True, **IMAGES))
    # a comment is no forwarding
    tree.edit("build/release-images.sh", "kube::build::verify", "# DBG=1\nkube::build::verify")
    assert "does not pass DBG on" in failure(run(tree, debug=True, **IMAGES))
    assert not (tree.path / "_output/dockerized").exists()


@pytest.mark.parametrize("generation", GENERATIONS)
def test_worktree(make_tree: t.Any, run: t.Any, generation: str, tmp_path: pathlib.Path) -> None:
    """A worktree's repository lies outside of what a build container sees."""
    tree = make_tree(generation)
    tree.git("worktree", "add", "-q", "-b", "other", str(tmp_path / "worktree"))
    worktree = KubeTree.__new__(KubeTree)
    worktree.path, worktree.generation = tmp_path / "worktree", generation
    try:
        assert (worktree.path / ".git").is_file()
        result = run(worktree, builder="container")
        assert not result.failed and says(result) == "kubelet v1.30.0", result
        (worktree.path / "untracked").touch()
        assert says(run(worktree, builder="container")) == "kubelet v1.30.0-dirty"
    finally:
        worktree.remove()


def test_version_that_does_not_reach_the_container(make_tree: t.Any, run: t.Any, tmp_path: pathlib.Path) -> None:
    tree = make_tree("mount")
    text = (tree.path / "build/common.sh").read_text()
    tree.write("build/common.sh", text[: text.index("  # FORWARDING")] + text[text.index("  # END") :])
    tree.commit()
    tree.git("tag", "--force", "v1.30.0")
    assert says(run(tree, builder="container")) == "kubelet v1.30.0"
    tree.git("worktree", "add", "-q", "-b", "other", str(tmp_path / "worktree"))
    message = failure(run(tmp_path / "worktree", builder="container", check=True))
    assert "git worktree" in message and "builder=host" in message
    assert says(run(tmp_path / "worktree")) == "kubelet v1.30.0"
    assert "given version" in failure(run(tree, builder="container", environment={"KUBE_GIT_VERSION": "v1.31.0"}))


@pytest.mark.parametrize("generation", ["debug", "mount"])
def test_no_git_and_given_versions(make_tree: t.Any, run: t.Any, tmp_path: pathlib.Path, generation: str) -> None:
    tree = make_tree(generation, git=False)
    # a repository around the tree is not the tree's
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(tmp_path), *identity, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    subprocess.run(["git", "-C", str(tmp_path), "tag", "v9.9.9"], check=True)
    assert "it is not a git checkout" in failure(run(tree))
    file = tmp_path / "version"
    environment = {"KUBE_GIT_VERSION_FILE": str(file)}
    assert "is not a file" in failure(run(tree, environment=environment))
    file.write_text("KUBE_GIT_VERSION=v1.30.1+mine\nKUBE_GIT_COMMIT=abc\nKUBE_GIT_TREE_STATE=clean\n")
    assert says(run(tree, builder="container", environment=environment)) == "kubelet v1.30.1+mine"
    assert not run(tree, builder="container", environment=environment)["changed"]
    assert not run(tree, builder="container", environment=environment, check=True)["actions"]
    assert says(run(tree, environment=environment)) == "kubelet v1.30.1+mine"
    # the same through the name that the tree's own script copies to
    shutil.copy(file, tree.path / ".dockerized-kube-version-defs")
    environment = {"KUBE_GIT_VERSION_FILE": str(tree.path / ".dockerized-kube-version-defs")}
    assert says(run(tree, builder="container", rebuild="always", environment=environment)) == "kubelet v1.30.1+mine"


def test_tagless_shallow_and_without_the_program(make_tree: t.Any, run: t.Any, tmp_path: pathlib.Path) -> None:
    tree = make_tree("debug")
    assert "this host has no git" in failure(run(tree, environment={"PATH": without(tmp_path, "git")}))
    tree.git("tag", "--delete", "v1.30.0")
    assert "no tag of the form v1.2.3" in failure(run(tree))
    tree.git("worktree", "add", "-q", "-b", "other", str(tmp_path / "worktree"))
    assert "no tag of the form v1.2.3" in failure(run(tmp_path / "worktree"))
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{tree.path}", str(tmp_path / "shallow")], check=True)
    assert "it is a shallow clone without a tag" in failure(run(tmp_path / "shallow"))


@pytest.mark.skipif(os.geteuid() != 0, reason="changes to another user")
def test_another_users_tree_behind_a_link(make_tree: t.Any, run: t.Any, tmp_path: pathlib.Path) -> None:
    tree = make_tree("mount")
    for path in (tree.path, *tree.path.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    (tmp_path / "link").symlink_to(tree.path)
    assert says(run(tmp_path / "link")) == "kubelet v1.30.0"
    assert says(run(tree, builder="container")) == "kubelet v1.30.0", "git in the container does not trust the tree"


def test_go_of_the_tree(make_tree: t.Any, run: t.Any) -> None:
    tree = make_tree("mount")
    tree.write(".go-version", "1.99.9\n")
    offline = {"GOPROXY": "off"}
    predicted = run(tree, check=True, environment=offline)
    warning = json.dumps(predicted["warnings"])
    assert "the tree takes its own 1.99.9" in warning and "FORCE_HOST_GO=y" in warning
    assert "FORCE_HOST_GO=y" in failure(run(tree, environment=offline)), "the remedy is missing where the download failed"
    result = run(tree, environment={**offline, "FORCE_HOST_GO": "y"})
    assert says(result) == "kubelet v1.30.0-dirty" and "warnings" not in result
    assert "warnings" not in run(tree, check=True, builder="container")
    tree.edit("hack/lib/golang.sh", "go1.20", "go1.98")
    message = failure(run(tree, environment={"FORCE_HOST_GO": "y"}))
    assert "the tree needs 1.98" in message and "no FORCE_HOST_GO" in message


def test_engine_that_cannot_do_it(make_tree: t.Any, run: t.Any, tmp_path: pathlib.Path) -> None:
    tree = make_tree("debug")
    message = failure(run(tree, builder="container", environment={"DOCKER_HOST": "tcp://192.0.2.1:2375"}))
    assert "engine of another machine (tcp://192.0.2.1:2375)" in message
    assert "another machine" in failure(run(tree, env={"DOCKER_HOST": "ssh://somewhere"}, **IMAGES))
    assert "has no rsync" in failure(run(tree, builder="container", check=True, environment={"PATH": without(tmp_path, "rsync")}))
    tree.edit("build/lib/release.sh", "docker save", "docker buildx version; docker save")
    if subprocess.run(["docker", "buildx", "version"], capture_output=True, check=False).returncode:
        message = failure(run(tree, check=True, **IMAGES))
        assert "buildx" in message and "its images" in message
    assert not run(tree, builder="container", check=True).failed, "only images need it"
    assert not (tree.path / "_output/dockerized").exists()


def test_interrupted_builder_leaves_no_container(make_tree: t.Any, run_module: t.Any) -> None:
    """The tree is mounted nowhere in this generation, so that names have to tell the containers."""
    tree = make_tree("debug")
    args = {"tree": str(tree.path), "targets": ["stuck"], "what": ["kubelet"], "builder": "container"}
    process = run_module("kube_make", args, popen=True)
    deadline = time.monotonic() + 60
    while not any("-data-" not in name and name.startswith("kube-build-") for name in tree.containers()):
        assert time.monotonic() < deadline and process.poll() is None, process.stdout.read()
        time.sleep(0.2)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    assert "SIGTERM came" in json.loads(process.stdout.read())["msg"]
    assert process.wait(30) == 1
    assert [name[:16] for name in tree.containers()] == ["kube-build-data-"]


def test_nested_repository(make_tree: t.Any, run: t.Any) -> None:
    """git counts an untracked repository inside the tree as one entry, whatever is in it."""
    tree = make_tree("mount")
    nested = tree.path / "third_party/nested"
    nested.mkdir(parents=True)
    subprocess.run(["git", "init", "-q", str(nested)], check=True)
    (nested / "file.go").write_text("package nested\n")
    first = run(tree)
    assert not run(tree, check=True)["changed"]
    subprocess.run(["git", "-C", str(nested), "status"], check=True, capture_output=True)
    assert not run(tree, check=True)["changed"]
    (nested / "file.go").write_text("package nested // edited\n")
    edited = run(tree, check=True)
    assert edited["changed"] and "the sources changed" in edited["actions"][0] and edited["fingerprint"] != first["fingerprint"]


PLAY = """
- hosts: localhost
  gather_subset: [min]
  tasks:
    - ansible.builtin.include_role:
        name: nodeforge.kind.kube_binaries
    - ansible.builtin.debug:
        msg: "gave {{ (kube_binaries_outputs.images | list | sort + ['of', kube_binaries_version]) | join(' ') }}"
"""


@pytest.fixture
def role(ansible_env: dict[str, str], tmp_path: pathlib.Path) -> t.Callable[..., str]:
    def play(**variables: t.Any) -> str:
        (tmp_path / "play.yml").write_text(PLAY)
        command = ["ansible-playbook", "play.yml", "-e", json.dumps({f"kube_binaries_{name}": value for name, value in variables.items()})]
        run = subprocess.run(command, env=ansible_env, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    return play


@pytest.mark.parametrize("generation", ["debug", "mount"])
def test_no_image_of_a_program(make_tree: t.Any, role: t.Any, generation: str) -> None:
    """A tree's kubectl.tar is not for the node."""
    tree = make_tree(generation)
    assert "gave kube-proxy of v1.30.0" in role(source=str(tree.path), components=["kubectl", "kube-proxy"])
    assert (tree.path / "_output/release-images" / ARCH / "kubectl.tar").exists()
    assert f"gave {' '.join(kube_trees.SERVERS)} of v1.30.0" in role(tree=str(tree.path), what=["kubectl"])


def test_offline(make_tree: t.Any, role: t.Any) -> None:
    """Nothing that a tree would ask the network for, and the same build as with it."""
    tree = make_tree("mount")
    tree.edit("build/release-images.sh", "verify_prereqs\n", 'verify_prereqs\necho "asked ${GOPROXY-} ${KUBE_BUILD_PULL_LATEST_IMAGES-} ${GOFLAGS-}."\n')
    tree.commit()
    tree.git("tag", "--force", "v1.30.0")

    def asked() -> list[str]:
        (log,) = (tree.path / "_output/nodeforge").glob("*.log")
        return [line for line in log.read_text().splitlines() if line.startswith("asked ")]

    options = {"source": str(tree.path), "components": ["kubelet", "kube-proxy"]}
    flags = os.environ.get("GOFLAGS", "")
    assert "changed=1" in role(**options, offline=True)
    assert asked() == [f"asked off n {flags}."]
    assert "changed=0" in role(**options)
    mine = {"params": {"KUBE_BUILD_PULL_LATEST_IMAGES": "y"}, "environment": {"GOPROXY": "file:///srv/modules"}}
    assert "changed=1" in role(**options, **mine, offline=True)
    assert asked() == [f"asked file:///srv/modules y {flags}."]
