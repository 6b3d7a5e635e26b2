# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""docker_image_index against Debian's registry: one name, under which each platform finds its own image."""

from __future__ import annotations

import json
import pathlib
import typing as t
import urllib.request

import docker
import pytest
import small_base
from small_base import ARCH, FOREIGN

PREFIX = "nodeforge-test-index"
INDEX = "application/vnd.oci.image.index.v1+json"


class Platforms(t.NamedTuple):
    """A repository of a registry with an image for each platform."""

    repository: str
    digests: dict[str, str]

    @property
    def name(self) -> str:
        return f"{self.repository}:main"

    def published(self) -> dict[str, t.Any]:
        host, path = self.repository.split("/", 1)
        request = urllib.request.Request(f"http://{host}/v2/{path}/manifests/main", headers={"Accept": INDEX})
        with urllib.request.urlopen(request) as answer:
            assert answer.headers["Content-Type"] == INDEX
            return json.load(answer)


@pytest.fixture(scope="module")
def engine() -> t.Iterator[docker.DockerClient]:
    client = docker.from_env(timeout=120)
    small_base.remove_all(client, PREFIX)
    yield client
    small_base.remove_all(client, PREFIX)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[str]:
    made = small_base.WritableRegistry(tmp_path_factory.mktemp("registry"))
    yield made.address
    made.close()


@pytest.fixture
def platforms(engine: docker.DockerClient, registry: str, run_module: t.Any, request: pytest.FixtureRequest) -> t.Iterator[Platforms]:
    made = Platforms(f"{registry}/{PREFIX}/{request.node.name.replace('_', '-')}", {})
    for arch in (ARCH, FOREIGN):
        image = small_base.load(engine, f"{PREFIX}/{arch}:1", {"arch": (arch.encode(), 0o644)}, arch)
        pushed = run_module("docker_image_push", {"image": image, "destination": f"{made.name}-{arch}"})
        made.digests[f"linux/{arch}"] = pushed["digest"]
    yield made
    for arch in (ARCH, FOREIGN):
        engine.images.remove(f"{made.name}-{arch}")


def test_each_platform_finds_its_own(engine: docker.DockerClient, platforms: Platforms, run_module: t.Any) -> None:
    wanted = {"name": platforms.name, "images": platforms.digests}
    predicted = run_module("docker_image_index", wanted, check=True, diff=True)
    assert predicted["changed"] and predicted["diff"]["before"] == {"digest": None}
    with pytest.raises(urllib.error.HTTPError):
        platforms.published()
    made = run_module("docker_image_index", wanted, diff=True)
    assert made["changed"] and made["diff"] == predicted["diff"] and made["digest"] == predicted["digest"]
    assert made["actions"] == [f'Published "{platforms.name}" for linux/amd64 and linux/arm64']
    told = {f"{entry['platform']['os']}/{entry['platform']['architecture']}": entry["digest"] for entry in platforms.published()["manifests"]}
    assert told == platforms.digests
    for arch in (ARCH, FOREIGN):
        image = engine.images.pull(platforms.repository, tag="main", platform=f"linux/{arch}")
        try:
            assert image.attrs["Architecture"] == arch and image.id == engine.images.get(f"{PREFIX}/{arch}:1").id
        finally:
            engine.images.remove(platforms.name)
    for check in (False, True):
        again = run_module("docker_image_index", wanted, check=check, diff=True)
        assert not again["changed"] and again["actions"] == [] and again["diff"]["before"] == again["diff"]["after"] == {"digest": made["digest"]}
    # another image for one of both: another index
    other = small_base.load(engine, f"{PREFIX}/{FOREIGN}:1", {"arch": (b"edited", 0o644)}, FOREIGN)
    pushed = run_module("docker_image_push", {"image": other, "destination": f"{platforms.name}-{FOREIGN}"})
    edited = run_module("docker_image_index", {**wanted, "images": {**platforms.digests, f"linux/{FOREIGN}": pushed["digest"]}})
    assert edited["changed"] and edited["digest"] != made["digest"]


def test_nothing_is_published_in_part(platforms: Platforms, run_module: t.Any) -> None:
    amd64, arm64 = platforms.digests["linux/amd64"], platforms.digests["linux/arm64"]
    for images, sentence in (
        ({"linux/amd64": amd64, "linux/arm64": None}, "the image for linux/arm64 is missing: build and push it first"),
        ({"linux/amd64": "", "linux/arm64": ""}, "the image for linux/amd64 and that for linux/arm64 is missing"),
        ({}, "there are no images"),
        ({"linux/amd64": amd64, "linux/arm64": f"sha256:{'0' * 64}"}, f"its image for linux/arm64, sha256:{'0' * 64}, is not in the registry"),
        ({"linux/amd64": amd64, "linux/arm64": amd64}, f"{amd64} is for linux/amd64 and not for linux/arm64"),
        ({"linux/amd64": amd64, "arm64": arm64}, 'the platform "arm64", which is none: write it like linux/arm64'),
        ({"linux/amd64": "main"}, 'images gives "main" for linux/amd64, which is no digest'),
    ):
        for check in (False, True):
            failed = run_module("docker_image_index", {"name": platforms.name, "images": images}, check=check)
            assert failed.failed and sentence in failed["msg"], failed["msg"]
    with pytest.raises(urllib.error.HTTPError):
        platforms.published()
    whole = run_module("docker_image_index", {"name": platforms.name, "images": platforms.digests})
    nested = run_module("docker_image_index", {"name": platforms.name, "images": {"linux/amd64": whole["digest"]}})
    assert "is no image but an index itself" in nested["msg"]
    named = run_module("docker_image_index", {"name": f"{platforms.name}@{amd64}", "images": platforms.digests})
    assert "write NAME:TAG" in named["msg"]


def test_users(engine: docker.DockerClient, run_module: t.Any, tmp_path: pathlib.Path) -> None:
    closed = small_base.WritableRegistry(tmp_path, "builder", "secret")
    name = f"{closed.address}/{PREFIX}/node:main"
    try:
        image = small_base.load(engine, f"{PREFIX}/{ARCH}:1", {"arch": (b"x", 0o644)})

        def credentials(password: str) -> list[dict[str, str]]:
            return [{"registry": closed.address, "username": "builder", "password": password}]

        pushed = run_module("docker_image_push", {"image": image, "destination": name + "-x", "credentials": credentials("secret")})
        engine.images.remove(f"{name}-x")
        wanted = {"name": name, "images": {f"linux/{ARCH}": pushed["digest"]}, "docker_config": ""}
        assert "does not let somebody unknown write" in run_module("docker_image_index", wanted)["msg"]
        refused = run_module("docker_image_index", {**wanted, "credentials": credentials("wrong")})
        assert f'{closed.address} refused the credentials of the user "builder"' in refused["msg"] and "wrong" not in json.dumps(refused)
        made = run_module("docker_image_index", {**wanted, "credentials": credentials("secret")})
        assert made["changed"] and "secret" not in json.dumps(made)
    finally:
        closed.close()
    gone = run_module("docker_image_index", wanted)
    assert "cannot be used: the connection was refused" in gone["msg"]
