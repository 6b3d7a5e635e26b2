# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read from ctr, and decided from it."""

from __future__ import annotations

import hashlib
import json
import subprocess

import pytest
from ansible_collections.nodeforge.kind.plugins.module_utils import _containerd as containerd
from ansible_collections.nodeforge.kind.plugins.module_utils._image_archive import Missing, WrongPlatform

A, B, C = ("sha256:" + letter * 64 for letter in "abc")
# as ctr 2.1 prints it
TABLE = f"""REF                      TYPE                                       DIGEST SIZE    PLATFORMS LABELS
registry.k8s.io/etcd:3 application/vnd.oci.image.index.v1+json {A} 1 B linux/amd64,linux/arm64 io.cri-containerd.image=managed,io.cri-containerd.pinned=pinned
registry.k8s.io/pause:3  application/vnd.oci.image.manifest.v1+json {B} 4.8 MiB   linux/amd64             -
{C} application/vnd.oci.image.manifest.v1+json {B} 4.8 MiB linux/amd64 io.cri-containerd.image=managed
registry.k8s.io/broken:1 application/vnd.oci.image.manifest.v1+json {C} 0.0 B     -                       x=y
"""


def test_images() -> None:
    assert containerd.parse_images(TABLE) == {
        "registry.k8s.io/etcd:3": (A, True),
        "registry.k8s.io/pause:3": (B, False),
        C: (B, False),
        "registry.k8s.io/broken:1": (C, False),
    }
    assert containerd.parse_images("REF TYPE DIGEST SIZE PLATFORMS LABELS \n") == containerd.parse_images("") == {}


def test_sections() -> None:
    table, sections = containerd.parse_sections('REF TYPE\nx y\n\n@blobs\na\nb\n\n@sha256:1\n{"mail": "x@y"}\n\n@sha256:2\n')
    assert table.split() == ["REF", "TYPE", "x", "y"]
    assert sections == {"blobs": "a\nb\n", "sha256:1": '{"mail": "x@y"}\n', "sha256:2": ""}  # its own newline is a part of it


def test_filters_are_exact() -> None:
    assert containerd.name_filters(["a:1", "b@sha256:1"]) == ['name=="a:1"', 'name=="b@sha256:1"']


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def test_the_store_tells_what_is_whole() -> None:
    layer = digest_of(b"layer")
    config = json.dumps({"os": "linux", "architecture": "amd64"}).encode()
    manifest = json.dumps({"config": {"digest": digest_of(config), "size": len(config)}, "layers": [{"digest": layer, "size": 5}]}).encode()
    all_blobs = {layer, digest_of(config), digest_of(manifest)}
    store = containerd.Store("linux/amd64", {"x:1": containerd.Record(digest_of(manifest), False)}, set(all_blobs))
    # documents are read in turns: first the manifest, then what it names
    assert store.unread() == {digest_of(manifest)}
    store.documents[digest_of(manifest)] = manifest
    assert store.unread() == {digest_of(config)} and store.find("x:1") is None
    store.documents[digest_of(config)] = config
    assert store.unread() == set()
    content = store.content("x:1")
    assert content.blobs.keys() == all_blobs and content.size == len(manifest) + len(config) + 5
    assert store.pinned(["x:1"]).images["x:1"].pinned and not store.images["x:1"].pinned
    store.blobs.discard(layer)
    with pytest.raises(Missing, match=layer):
        store.content("x:1")
    with pytest.raises(Missing, match="y:1"):
        store.content("y:1")
    store.platform = "linux/arm64"
    with pytest.raises(WrongPlatform, match="linux/amd64"):
        store.content("x:1")
    # what cannot be read is not asked for without end
    store.documents.clear()
    store.blobs.clear()
    assert store.unread() == set() and store.find("x:1") is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('time="2026" level=fatal msg="failed to load" error="toml: expected \\"=\\""', 'failed to load: toml: expected "="'),
        ("containerd: failed to load TOML: /etc/config.toml: (1, 12): no value", "failed to load TOML: /etc/config.toml: (1, 12): no value"),
        ("panic: it's", "panic: it's"),
    ],
)
def test_log_messages(line: str, message: str) -> None:
    assert containerd.log_message(line) == message


SCRIPTS = [name for name in dir(containerd) if name.isupper() and "\n" in str(getattr(containerd, name))]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_plain_shell(name: str) -> None:
    ended = subprocess.run(["sh", "-n"], input=getattr(containerd, name), text=True, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 8
