# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""kube_tree_info and the role preflight, against real trees, the real engine and a real registry."""

from __future__ import annotations

import json
import pathlib
import shutil
import socket
import subprocess
import time
import typing as t

import pytest
from kube_trees import KubeTree
from small_base import FOREIGN, PLATFORM, Registry

LAID_OUT = pathlib.Path("~/.cache/nodeforge/trees/v1.37.2").expanduser()


@pytest.fixture
def info(run_module: t.Any) -> t.Callable[..., t.Any]:
    def call(source: t.Any, check: bool = False, env: dict[str, str] | None = None, **args: t.Any) -> t.Any:
        began = time.monotonic()
        result = run_module("kube_tree_info", {"source": str(source), **args}, check=check, env=env)
        result["seconds"] = time.monotonic() - began
        if not result.failed:
            assert result["changed"] is False and len(result["table"]) == len(result["findings"])
            for finding in result["findings"]:
                assert bool(finding["remedy"]) is (finding["level"] != "ok"), finding
            result["by"] = {finding["topic"]: finding for finding in result["findings"]}
        return result

    return call


def test_embedded(info: t.Any, tmp_path: pathlib.Path) -> None:
    absent = info("embedded", embedded_path=str(tmp_path / "trees/v1"))
    assert absent["kind"] == "embedded" and "first build lays out" in absent["by"]["kubernetes"]["value"]
    assert absent["by"]["engine"]["level"] == absent["by"]["platform"]["level"] == "ok"
    if not LAID_OUT.is_dir():
        pytest.skip("no tree is laid out on this machine")
    result = info("embedded", embedded_path=str(LAID_OUT), directories=["~/.cache/nodeforge", "/tmp"])
    assert result["level"] != "stop" and result["version"].startswith("v1.37.2"), result
    # the best of three, as other tests may keep this machine busy
    assert min(info("embedded", embedded_path=str(LAID_OUT))["seconds"] for dummy in range(3)) < 1.5
    assert [finding["topic"] for finding in result["findings"]][:5] == ["kubernetes", "git", "go", "engine", "cgroup"]
    assert info(LAID_OUT)["kind"] == "embedded"


@pytest.mark.parametrize("generation", ["rsync", "mount"])
def test_checkouts(info: t.Any, run_module: t.Any, tmp_path: pathlib.Path, generation: str) -> None:
    tree = KubeTree(tmp_path / "kubernetes", generation)
    # as the releases since 1.20 make their images
    tree.edit("build/lib/release.sh", "kube::release::build_server_images", "BUILD='docker buildx build'\nkube::release::build_server_images")
    tree.commit()
    tree.git("tag", "--force", "v1.30.0")
    before = sorted(str(path) for path in tree.path.rglob("*"))
    result = info(tree.path, targets=["all"])
    assert result["kind"] == "checkout" and result["version"] == "v1.30.0" and "clean at" in result["by"]["git"]["value"]
    assert "go" in result["by"] and "builder" not in result["by"], result["table"]
    images = info(tree.path)
    assert "go" not in images["by"]
    if subprocess.run(["docker", "buildx", "version"], capture_output=True, check=False).returncode != 0:
        assert images["by"]["builder"]["level"] == "stop" and "buildx" in images["by"]["builder"]["value"]
        # the build itself says the same, in check mode, too
        made = run_module("kube_make", {"tree": str(tree.path), "targets": ["quick-release-images"], "what": ["cmd/kubelet"]}, check=True)
        assert made.failed and "buildx" in made["msg"]
    assert "builder" in info(tree.path, targets=["all"], builder="container", offline=True)["by"]
    assert sorted(str(path) for path in tree.path.rglob("*")) == before, "something was written"
    (tree.path / "untracked").touch()
    assert info(tree.path)["version"] == "v1.30.0-dirty"
    shutil.rmtree(tree.path / ".git")
    gone = info(tree.path)
    assert gone["by"]["version"]["level"] == "stop" and "KUBE_GIT_VERSION_FILE" in gone["by"]["version"]["remedy"]


def test_small_trees(info: t.Any, tmp_path: pathlib.Path) -> None:
    tree = KubeTree(tmp_path / "kubernetes", "rsync")
    assert info(tree.path)["level"] != "stop"
    # what the build would refuse, is refused here
    tree.edit("build/lib/release.sh", "kube::release::build_server_images", "kube::release::other")
    assert info(tree.path, debug=True)["by"]["targets"]["level"] == "stop"
    assert info(tree.path, targets=["nothing"])["by"]["targets"]["level"] == "stop"
    tree.write(".go-version", "1.99.9\n")
    go = info(tree.path, targets=["all"])["by"]["go"]
    assert go["level"] == "warning" and "FORCE_HOST_GO=y" in go["remedy"]
    assert info(tree.path, targets=["all"], offline=True)["by"]["go"]["level"] == "stop"
    assert info(tree.path, targets=["all"], offline=True, environment={"FORCE_HOST_GO": "y"})["by"]["go"]["level"] == "ok"
    remote = info(tree.path, env={"DOCKER_HOST": "tcp://127.0.0.2:9"}, timeout=1)
    assert remote["by"]["engine"]["level"] == "stop" and remote["seconds"] < 3
    (tmp_path / "tools").mkdir()
    missing = info(tree.path, targets=["all"], environment={"PATH": str(tmp_path / "tools")})
    assert missing["level"] == "stop", missing["table"]
    slow = tree.write("hack/print-workspace-status.sh", "#!/bin/sh\nsleep 60\n", 0o755)
    late = info(tree.path, timeout=1)
    # it may be this machine that is slow
    assert late["by"]["version"]["level"] == "warning" and "no answer in 1 s" in late["by"]["version"]["value"] and late["seconds"] < 5
    assert late["level"] == "warning", late["table"]
    assert slow.exists()


def test_what_is_compiled_already(info: t.Any, tmp_path: pathlib.Path) -> None:
    place = tmp_path / "_output/dockerized/bin" / PLATFORM
    place.mkdir(parents=True)
    (place / "kubelet").touch()
    result = info(tmp_path / "_output", components=["kubelet"], check=True)
    assert result["kind"] == "artifacts" and "(kubelet)" in result["by"]["kubernetes"]["value"] and "go" not in result["by"]
    assert "has no kubeadm" in info(tmp_path / "_output")["by"]["kubernetes"]["value"]
    assert "no compiled components" in info(tmp_path / "_output", platform=f"linux/{FOREIGN}")["by"]["kubernetes"]["value"]
    release = info("v1.36.3", base_image="kindest/base:not-here")
    assert release["kind"] == "release" and release["version"] == "v1.36.3"


def test_bad_input(info: t.Any, tmp_path: pathlib.Path) -> None:
    for source, text in ((tmp_path / "absent", "There is no"), (tmp_path, "is no Kubernetes tree")):
        result = info(source)
        assert result["level"] == "stop" and text in result["by"]["kubernetes"]["value"] and result["kind"] == ""
        assert result["by"]["engine"]["level"] == "ok", "the rest is looked at nevertheless"
    (tmp_path / "tree").mkdir()
    assert "has no Makefile" in info(f"tree:{tmp_path}/tree")["by"]["kubernetes"]["value"]
    assert "timeout" in info(tmp_path, timeout=0)["msg"]
    assert "is decided by the option" in info(tmp_path, environment={"DBG": "1"})["msg"]
    no_engine = info("v1.34.4", docker_host="unix:///nowhere/docker.sock")
    assert no_engine["by"]["engine"]["level"] == "stop" and "cgroup" not in no_engine["by"]


def test_a_silent_engine(info: t.Any, tmp_path: pathlib.Path) -> None:
    """One that is there, but busy, is not in the way of a build, whose patience is longer."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "sock"))
        sock.listen()
        result = info("v1.34.4", docker_host=f"unix://{tmp_path}/sock", timeout=1)
    assert result["by"]["engine"]["level"] == "warning" and result["level"] == "warning", result["table"]


def test_foreign_platform(info: t.Any) -> None:
    registered = pathlib.Path("/proc/sys/fs/binfmt_misc") / {"arm64": "qemu-aarch64", "amd64": "qemu-x86_64"}[FOREIGN]
    finding = info("v1.34.4", platform=f"linux/{FOREIGN}")["by"]["platform"]
    assert finding["level"] == "ok" and ("qemu" in finding["value"]) is not registered.exists(), finding


def test_registries(info: t.Any) -> None:
    with socket.socket() as silent, socket.socket() as closed, Registry({}) as registry:
        for sock in (silent, closed):
            sock.bind(("127.0.0.1", 0))
        silent.listen()
        names = [registry.address, f"127.0.0.1:{silent.getsockname()[1]}", f"http://127.0.0.1:{closed.getsockname()[1]}", "a b"]
        result = info("v1.34.4", registries=names)
        levels = [result["by"][f"registry {name}"]["level"] for name in names]
        assert levels == ["ok", "warning", "warning", "stop"], result["table"]
        port = silent.getsockname()[1]
        hanging = info("v1.34.4", registries=[f"{host}:{port}" for host in ("127.0.0.1", "http://127.0.0.1", "localhost", "http://localhost")])
        assert hanging["seconds"] < 3.5, "they were not asked at once"
        # nothing of this machine is asked by way of a proxy
        cut = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"), f"http://{names[1]}")
        local = info("v1.34.4", registries=names[:1], env={**cut, "no_proxy": "", "NO_PROXY": ""})
        assert local["by"][f"registry {names[0]}"]["level"] == "ok", local["table"]
        offline = info("v1.34.4", registries=names, offline=True)
        assert "not asked" in offline["by"]["registries"]["value"] and not [name for name in offline["by"] if name.startswith("registry ")]


def test_role(ansible_env: dict[str, str], tmp_path: pathlib.Path, interpreter: str) -> None:
    base = ["ansible-playbook", "-i", "localhost,", "-c", "local", "-e", interpreter]

    def play(*options: str, **variables: t.Any) -> subprocess.CompletedProcess[str]:
        command = [*base, *options, "-e", json.dumps({"nodeforge_cache": str(tmp_path / "cache"), **variables}), "nodeforge.kind.preflight"]
        return subprocess.run(command, env=ansible_env, capture_output=True, text=True, check=False)

    good = play()
    assert good.returncode == 0 and "embedded" in good.stdout and "changed=0" in good.stdout, good.stdout
    # the version that the role embedded_tree lays out
    assert f"embedded {tmp_path}/cache/trees/{LAID_OUT.name}, which" in good.stdout
    assert f"embedded {tmp_path}/cache/trees/v1.34.4, which" in play(embedded_tree_version="v1.34.4").stdout
    bad = play(kube_source=str(tmp_path))
    assert bad.returncode == 2 and "is no Kubernetes tree" in bad.stdout and "name the root of a checkout" in bad.stdout
    assert "preflight_report_only" in bad.stdout
    reported = play(kube_source=str(tmp_path), preflight_report_only=True)
    assert reported.returncode == 0 and "is no Kubernetes tree" in reported.stdout
    # on a new machine nothing is installed yet in check mode
    new = play("--check", kube_source=str(tmp_path))
    assert new.returncode == 0 and "is no Kubernetes tree" in new.stdout


def test_build_node_stops_before_the_compile(ansible_env: dict[str, str], tmp_path: pathlib.Path, interpreter: str) -> None:
    """A checkout is looked at before anything is made of it."""
    tree = KubeTree(tmp_path / "kubernetes", "mount")
    tree.git("tag", "--delete", "v1.30.0")
    command = ["ansible-playbook", "-i", "localhost,", "-c", "local", "-e", interpreter]
    # from an inventory: the play's own variables do not hide it
    (tmp_path / "hosts").write_text(f"localhost kube_source={tree.path}\n")
    command[2] = str(tmp_path / "hosts")
    ended = subprocess.run([*command, "nodeforge.kind.build_node"], env=ansible_env, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and "Begin nothing that cannot end well" in ended.stdout, ended.stdout
    assert "no tag of the form v1.2.3" in ended.stdout and not (tree.path / "_output").exists()
