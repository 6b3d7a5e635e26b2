# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What images consist of, and the cache."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pathlib
import tarfile
import typing as t

import pytest
from ansible_collections.nodeforge.kind.plugins.module_utils import _image_archive as images
from ansible_collections.nodeforge.kind.plugins.module_utils._docker import EngineError

AMD64, ARM64 = "linux/amd64", "linux/arm64"


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Blobs(dict[str, bytes]):
    """Blobs by digest."""

    def put(self, content: t.Any) -> dict[str, t.Any]:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self[digest_of(raw)] = raw
        return {"digest": digest_of(raw), "size": len(raw)}

    def image(self, layer: bytes, **platform: str) -> dict[str, t.Any]:
        config = self.put(platform)
        return {**self.put({"mediaType": "m", "config": config, "layers": [self.put(layer)]}), "platform": platform}

    def read(self, digest: str) -> bytes:
        if digest not in self:
            raise images.Missing(digest)
        return self[digest]


@pytest.mark.parametrize(
    ("platform", "parts"),
    [
        ("linux/amd64", ("linux", "amd64", "")),
        ("linux/arm64/v8", ("linux", "arm64", "")),
        ("linux/arm/v7", ("linux", "arm", "v7")),
        ("linux", ("linux", "", "")),
    ],
)
def test_platforms(platform: str, parts: tuple[str, str, str]) -> None:
    assert images.split_platform(platform) == parts


def test_the_content_of_an_index_is_that_of_one_platform() -> None:
    blobs = Blobs()
    amd64 = blobs.image(b"one", os="linux", architecture="amd64")
    arm64 = blobs.image(b"two", os="linux", architecture="arm64", variant="v8")
    attestation = {**blobs.put(b"{}"), "platform": {"os": "unknown", "architecture": "unknown"}}
    index = blobs.put({"manifests": [attestation, amd64, arm64]})
    content = images.content_of(index["digest"], blobs.read, ARM64)
    assert content.digest == index["digest"]
    assert content.config == json.loads(blobs[arm64["digest"]])["config"]["digest"]
    assert list(content.blobs) == [index["digest"], arm64["digest"], content.config, digest_of(b"two")]
    assert content.size == sum(len(blobs[digest]) for digest in content.blobs)
    with pytest.raises(images.WrongPlatform) as error:
        images.content_of(index["digest"], blobs.read, "linux/s390x")
    assert error.value.args == (AMD64, "linux/arm64/v8")
    # an index in an index
    outer = blobs.put({"manifests": [index]})
    assert images.content_of(outer["digest"], blobs.read, AMD64).blobs.keys() >= {outer["digest"], index["digest"], amd64["digest"]}


def test_a_manifest_without_an_index_is_told_by_its_configuration() -> None:
    blobs = Blobs()
    manifest = blobs.image(b"one", os="linux", architecture="amd64")
    assert images.content_of(manifest["digest"], blobs.read, AMD64).blobs[manifest["digest"]] == manifest["size"]
    with pytest.raises(images.WrongPlatform, match=AMD64):
        images.content_of(manifest["digest"], blobs.read, ARM64)
    del blobs[json.loads(blobs[manifest["digest"]])["config"]["digest"]]
    with pytest.raises(images.Missing):
        images.content_of(manifest["digest"], blobs.read, AMD64)


def tar(path: pathlib.Path, files: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def docker_archive(path: pathlib.Path, tags: list[str] | None, arch: str = "amd64", config: str = "config.json") -> str:
    manifest = [{"Config": config, "RepoTags": tags, "Layers": ["l"]}]
    files = {config: json.dumps({"os": "linux", "architecture": arch}).encode(), "l": b"layer", "./manifest.json": json.dumps(manifest).encode()}
    return tar(path, files)


def test_docker_archives(tmp_path: pathlib.Path) -> None:
    config = digest_of(json.dumps({"os": "linux", "architecture": "amd64"}).encode())
    for name in ("config.json", config, config[7:] + ".json"):
        assert images.read_archive(docker_archive(tmp_path / "a", ["x:1", "y:1"], config=name), AMD64) == [
            ("docker.io/library/x:1", config),
            ("docker.io/library/y:1", config),
        ]
    assert images.read_archive(docker_archive(tmp_path / "a", None), AMD64) == [(None, config)]
    with pytest.raises(EngineError, match="is for linux/arm64, not for linux/amd64: build it for that platform"):
        images.read_archive(docker_archive(tmp_path / "a", ["x:1"], "arm64"), AMD64)


def test_oci_archives(tmp_path: pathlib.Path) -> None:
    blobs = Blobs()
    manifest = blobs.image(b"one", os="linux", architecture="amd64")
    config = json.loads(blobs[manifest["digest"]])["config"]["digest"]
    entries = [{**manifest, "annotations": {images.NAME: "r.io/x:1", images.REF_NAME: "1"}}, {**manifest, "annotations": {images.REF_NAME: "1"}}]
    files = {"blobs/sha256/" + digest[7:]: content for digest, content in blobs.items()}
    files["index.json"] = json.dumps({"manifests": entries}).encode()
    assert images.read_archive(tar(tmp_path / "a", files), AMD64) == [("r.io/x:1", config), (None, config)]
    del files["blobs/sha256/" + config[7:]]
    with pytest.raises(EngineError, match=f"lacks a part of its image .{config}."):
        images.read_archive(tar(tmp_path / "a", files), AMD64)


@pytest.mark.parametrize("manifest", [b"{", b"[1]", b'[{"Config": "none"}]', b"[null]"])
def test_archives_that_make_no_sense(tmp_path: pathlib.Path, manifest: bytes) -> None:
    with pytest.raises(EngineError, match="is broken, its list of images makes no sense: build it again"):
        images.read_archive(tar(tmp_path / "a", {"manifest.json": manifest}), AMD64)


def test_a_damaged_compressed_archive(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.tar.gz"
    whole = bytearray(gzip.compress(pathlib.Path(tar(tmp_path / "a", {"manifest.json": b"[]", "layer": bytes(range(256)) * 4000})).read_bytes()))
    for place in range(200, len(whole) - 20):
        whole[place] ^= 0x55
    path.write_bytes(whole)
    with pytest.raises(EngineError, match="is no whole tar archive|cannot be read"):
        images.read_archive(str(path), AMD64)


# the cache


@pytest.fixture
def cache(tmp_path: pathlib.Path) -> images.Cache:
    return images.Cache(str(tmp_path / "cache"))


def fill(cache: images.Cache, name: str, layer: bytes = b"layer") -> tuple[Blobs, images.Content]:
    blobs = Blobs()
    manifest = blobs.image(layer, os="linux", architecture="amd64")
    content = images.content_of(manifest["digest"], blobs.read, AMD64)
    with cache.receive(cache.missing(content)) as sink:
        stream = b"".join(blobs[digest] for digest in cache.missing(content))
        # in pieces that have nothing to do with the blobs' borders
        for start in range(0, len(stream), 7):
            sink(stream[start : start + 7])
    cache.add(name, content)
    return blobs, content


def test_the_cache_gives_what_it_got(cache: images.Cache) -> None:
    blobs, content = fill(cache, "r.io/x:1")
    assert cache.find("r.io/x:1", AMD64) == content and not cache.missing(content) and cache.damage(content) is None
    assert cache.find("r.io/x:1", ARM64) is None and cache.find("r.io/x:2", AMD64) is None
    chunks, size = cache.stream("r.io/x:1", content)
    data = b"".join(chunks)
    assert len(data) == size
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive}
    assert {name: files["blobs/sha256/" + name[7:]] for name in blobs} == dict(blobs)
    assert json.loads(files["index.json"])["manifests"][0]["annotations"] == {images.NAME: "r.io/x:1"}
    # a moved tag replaces the old one
    _blobs, moved = fill(cache, "r.io/x:1", b"other")
    assert cache.find("r.io/x:1", AMD64) == moved
    assert len(json.loads(pathlib.Path(cache.directory, "index.json").read_text())["manifests"]) == 1
    assert not list(pathlib.Path(cache.directory).rglob(".new-*"))


def test_damage_is_found_and_removed(cache: images.Cache) -> None:
    _blobs, content = fill(cache, "r.io/x:1")
    layer = list(content.blobs)[-1]
    pathlib.Path(cache.blob(layer)).write_bytes(b"LAYER")
    # the size is right, so only the hash tells
    assert cache.find("r.io/x:1", AMD64) == content
    assert cache.damage(content) == layer
    assert cache.find("r.io/x:1", AMD64) is None and cache.missing(content) == {layer: 5}


@pytest.mark.parametrize("how", ["gone", "unreadable"])
def test_what_cannot_be_read_is_damaged(cache: images.Cache, how: str) -> None:
    _blobs, content = fill(cache, "r.io/x:1")
    layer = list(content.blobs)[-1]
    os.unlink(cache.blob(layer))
    if how == "unreadable":  # by nobody, root or not
        os.symlink("/proc/self/mem", cache.blob(layer))
    assert cache.damage(content) == layer and not os.path.lexists(cache.blob(layer))


@pytest.mark.parametrize(("stream", "text"), [(b"wrong", "is damaged"), (b"lay", "broke off"), (b"layerX", "more came")])
def test_wrong_streams_are_not_kept(cache: images.Cache, stream: bytes, text: str) -> None:
    digest = digest_of(b"layer")
    with pytest.raises(EngineError, match=text), cache.receive({digest: 5}) as sink:
        sink(stream)
    left = [path.name for path in pathlib.Path(cache.directory, "blobs").rglob("*") if path.is_file()]
    assert left == ([digest[7:]] if text == "more came" else [])


@pytest.mark.parametrize("annotations", [[1], "x", 3])
def test_a_broken_entry_is_left_out(cache: images.Cache, annotations: t.Any) -> None:
    (pathlib.Path(cache.directory) / "index.json").write_text(json.dumps({"manifests": [3, None, {"annotations": annotations}]}))
    assert cache.find("r.io/x:1", AMD64) is None


@pytest.mark.parametrize("index", ["", "{", "[]", '{"manifests": 3}', '{"manifests": [{"annotations": {"org.opencontainers.image.ref.name": "r.io/x:1"}}]}'])
def test_a_broken_list_is_an_empty_one(cache: images.Cache, index: str) -> None:
    pathlib.Path(cache.directory, "index.json").write_text(index)
    assert cache.find("r.io/x:1", AMD64) is None
    fill(cache, "r.io/x:1")
    assert cache.find("r.io/x:1", AMD64)


def test_a_cache_that_cannot_be(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="cannot be used: Not a directory; choose a directory"):
        images.Cache(str(tmp_path / "file" / "cache"))
