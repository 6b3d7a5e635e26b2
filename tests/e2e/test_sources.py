# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Other sources than a tree: a release archive from a server, and a node image of which two components are replaced."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import pathlib
import shutil
import tarfile
import threading
import typing as t

import docker
import pytest

from .conftest import IMAGE, TAG, Play, boot, build, from_image

RELEASED, VARIANT = f"{TAG}-release", f"{TAG}-variant"
NEW = "v1.37.2-variant"
PROGRAMS = ("kubeadm", "kubectl", "kubelet")
IMAGES = ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler")


@pytest.fixture(scope="module")
def tree(node_image: Play) -> pathlib.Path:
    """The embedded tree that the node image was compiled from."""
    kind = pathlib.Path(node_image.summary["boot"].split()[0])
    caches = [kind.parent.parent, pathlib.Path.home() / ".cache/nodeforge"]
    return next(path for path in (cache / "trees" / node_image.summary["kubernetes"] for cache in caches) if path.is_dir())


@pytest.fixture(scope="module", autouse=True)
def no_images(engine: docker.DockerClient) -> t.Iterator[None]:
    yield
    for tag in (RELEASED, VARIANT):
        if engine.images.list(f"kindest/node:{tag}"):
            engine.images.remove(f"kindest/node:{tag}")


@pytest.fixture(scope="module")
def release_url(tree: pathlib.Path, node_image: Play, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[str]:
    """A release server that has the tree's own build."""
    root = tmp_path_factory.mktemp("server")
    version, arch = node_image.summary["kubernetes"], node_image.summary["platform"].rpartition("/")[2]
    path = root / "release" / version / f"kubernetes-server-linux-{arch}.tar.gz"
    path.parent.mkdir(parents=True)
    (root / "version").write_text(version)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name in PROGRAMS:
            archive.add(tree / f"_output/dockerized/bin/linux/{arch}/{name}", f"kubernetes/server/bin/{name}")
        for name in IMAGES:
            archive.add(tree / f"_output/release-images/{arch}/{name}.tar", f"kubernetes/server/bin/{name}.tar")
        archive.add(root / "version", "kubernetes/version")
    path.with_name(f"{path.name}.sha512").write_text(hashlib.sha512(path.read_bytes()).hexdigest())

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: t.Any) -> None:
            super().__init__(*args, directory=str(root))

        def log_message(self, *args: t.Any) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_release_archive(
    node_image: Play, release_url: str, ansible_env: dict[str, str], engine: docker.DockerClient, tmp_path: pathlib.Path
) -> None:
    version = node_image.summary["kubernetes"]
    cache = str(tmp_path / "cache")
    options = json.dumps({"kube_source": version, "kube_binaries_urls": [release_url], "kube_binaries_cache": cache, "node_image_tag": RELEASED})
    play = build(ansible_env, "-e", options)
    assert play.summary["kubernetes"] == version
    assert build(ansible_env, "-e", options).recap["changed"] == 0
    image = f"kindest/node:{RELEASED}"
    for name in PROGRAMS:
        digests = set()
        for number, whose in enumerate((image, IMAGE)):
            (tmp_path / f"{name}{number}").mkdir()
            digests.add(hashlib.sha256(from_image(engine, whose, f"/usr/bin/{name}", tmp_path / f"{name}{number}").read_bytes()).hexdigest())
        assert len(digests) == 1, name
    # all else decides the image, too: the same inputs give the same fingerprint
    labels = [engine.images.get(whose).labels for whose in (image, IMAGE)]
    assert labels[0]["io.nodeforge.fingerprint"] != "" and labels[0]["io.nodeforge.images"] == labels[1]["io.nodeforge.images"]
    with boot(play, tmp_path, engine, f"nodeforge-{RELEASED}") as cluster:
        cluster.check_version(version)
        cluster.check_no_pulls(engine, "control-plane")


def test_images_of_programs_are_those_of_the_tree(
    tree: pathlib.Path, node_image: Play, ansible_env: dict[str, str], request: pytest.FixtureRequest
) -> None:
    """They are written without an image target, from programs that were compiled without one: the node image that is there is the one that is wanted."""
    made = [tree / "_output" / path for path in ("local", "bin", "nodeforge/images")]
    there = [path for path in made if os.path.lexists(path)]

    def remove() -> None:
        for path in made:
            if path not in there:
                path.unlink() if path.is_symlink() else shutil.rmtree(path, ignore_errors=True)

    request.addfinalizer(remove)
    options = ("-e", "kube_binaries_image_source=programs")
    play = build(ansible_env, *options)
    assert play.summary["id"] == node_image.summary["id"]
    names = sorted(path.name for path in (made[2] / node_image.summary["platform"].rpartition("/")[2]).iterdir())
    assert names == ["kube-apiserver.tar", "kube-controller-manager.tar", "kube-proxy.tar", "kube-scheduler.tar"]
    assert build(ansible_env, *options).recap["changed"] == 0


@pytest.fixture(scope="module")
def another(tree: pathlib.Path, node_image: Play, run_module: t.Any, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A directory with a kubelet that was linked as another version, and another scheduler's image of that version."""
    directory = tmp_path_factory.mktemp("another")
    copy = directory / "tree"
    shutil.copytree(tree, copy, symlinks=True, ignore=lambda where, names: ["_output"] if where == str(tree) else [])
    built = run_module("kube_make", {"tree": str(copy), "what": ["kubelet"], "environment": {"KUBE_GIT_VERSION": NEW, "KUBE_GIT_TREE_STATE": "clean"}})
    assert built["version"] == NEW, built
    parts = directory / "parts"
    parts.mkdir()
    shutil.copy2(built["outputs"]["binaries"]["kubelet"]["path"], parts)
    arch = node_image.summary["platform"].rpartition("/")[2]
    with tarfile.open(tree / f"_output/release-images/{arch}/kube-scheduler.tar") as old, tarfile.open(parts / "kube-scheduler.tar", "w") as new:
        (manifest,) = json.load(t.cast(t.IO[bytes], old.extractfile("manifest.json")))
        for member in old:
            content = old.extractfile(member).read() if member.isfile() else b""  # type: ignore[union-attr]
            if member.name == manifest["Config"]:
                config = json.loads(content)
                config.setdefault("config", {})["Labels"] = {"test": "another"}
                content = json.dumps(config).encode()
                member.name = f"{hashlib.sha256(content).hexdigest()}.json"
            elif member.name == "manifest.json":
                continue
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
        configs = [name for name in new.getnames() if name.endswith(".json")]
        document = json.dumps([{**manifest, "Config": configs[0], "RepoTags": [f"registry.k8s.io/kube-scheduler-{arch}:{NEW}"]}]).encode()
        info = tarfile.TarInfo("manifest.json")
        info.size = len(document)
        new.addfile(info, io.BytesIO(document))
    return parts


def test_a_variant(node_image: Play, another: pathlib.Path, ansible_env: dict[str, str], engine: docker.DockerClient, tmp_path: pathlib.Path) -> None:
    version = node_image.summary["kubernetes"]
    options = json.dumps(
        {
            "kube_base": IMAGE,
            "kube_source": str(another),
            "kube_components": ["kubelet", "kube-scheduler"],
            "kube_binaries_artifacts_version": NEW,
            "node_image_tag": VARIANT,
            "node_image_files": [{"dest": "/etc/variant", "content": "yes\n"}],
        }
    )
    predicted = build(ansible_env, "--check", "-e", options, playbook="nodeforge.kind.build_variant")
    assert predicted.recap["changed"] > 0 and not engine.images.list(f"kindest/node:{VARIANT}")
    play = build(ansible_env, "-e", options, playbook="nodeforge.kind.build_variant")
    assert "TASK [nodeforge.kind.supplies" not in play.output
    again = build(ansible_env, "-e", options, playbook="nodeforge.kind.build_variant")
    assert again.recap["changed"] == 0, again.output

    image, base = engine.images.get(f"kindest/node:{VARIANT}"), engine.images.get(IMAGE)
    below = base.attrs["RootFS"]["Layers"]
    assert image.attrs["RootFS"]["Layers"][:-1] == below and image.attrs["Config"]["Entrypoint"] == base.attrs["Config"]["Entrypoint"]
    assert image.labels["io.nodeforge.kubernetes-version"] == play.summary["kubernetes"] == version
    assert set(image.labels["io.nodeforge.images"].split(",")) == set(base.labels["io.nodeforge.images"].split(","))
    # a kubelet and a scheduler more, not a node more
    assert image.attrs["Size"] - base.attrs["Size"] < 150_000_000

    with boot(play, tmp_path, engine, f"nodeforge-{VARIANT}") as cluster:
        cluster.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=90s")
        cluster.kubectl("wait", "--for=condition=Ready", "pod", "--all", "-A", "--timeout=120s", timeout=150)
        (node,) = json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]
        assert node["status"]["nodeInfo"]["kubeletVersion"] == NEW
        assert json.loads(cluster.kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"] == version
        assert cluster.node_exec(engine, "control-plane", "cat", "/etc/variant") == "yes\n"
        # the scheduler runs under the name that kubeadm knows, and is the other one
        (pod,) = json.loads(cluster.kubectl("get", "pods", "-n", "kube-system", "-l", "component=kube-scheduler", "-o", "json"))["items"]
        name = f"registry.k8s.io/kube-scheduler:{version}"
        assert pod["spec"]["containers"][0]["image"] == name
        images = json.loads(cluster.node_exec(engine, "control-plane", "crictl", "images", "-o", "json"))["images"]
        assert [image["id"] for image in images if name in image["repoTags"]] == [f"sha256:{another_scheduler(another)}"]
        cluster.check_no_pulls(engine, "control-plane")


def another_scheduler(parts: pathlib.Path) -> str:
    """The digest of its image's configuration, which is the image's id."""
    with tarfile.open(parts / "kube-scheduler.tar") as archive:
        (config,) = [name for name in archive.getnames() if name.endswith(".json") and name != "manifest.json"]
    return config[:-5]
