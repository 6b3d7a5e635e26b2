# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""docker_image_export, docker_image_import and docker_image_push against the real engine: layers go out, and only those that lack come back."""

from __future__ import annotations

import hashlib
import json
import pathlib
import signal
import time
import typing as t

import docker
import pytest
import small_base

PREFIX = "nodeforge-test-images"
BASE, IMAGE = f"{PREFIX}/base:1", f"{PREFIX}/node:main"


def large(seed: int, size: int = 6_000_000) -> bytes:
    return hashlib.shake_128(str(seed).encode()).digest(size)


def edited(engine: docker.DockerClient, base: str, reference: str, seed: int, size: int = 6_000_000) -> str:
    """An image with one more layer of random bytes."""
    container = engine.containers.create(base, ["/bin/true"])
    try:
        container.put_archive("/", small_base.layer({f"file{seed}": (large(seed, size), 0o644)}))
        return container.commit(*reference.split(":")).id
    finally:
        container.remove()


@pytest.fixture(scope="module")
def engine() -> t.Iterator[docker.DockerClient]:
    client = docker.from_env(timeout=120)
    small_base.remove_all(client, PREFIX)
    yield client
    small_base.remove_all(client, PREFIX)


@pytest.fixture
def images(engine: docker.DockerClient) -> t.Iterator[docker.DockerClient]:
    small_base.load(engine, BASE, {"base": (large(0), 0o644)})
    edited(engine, BASE, IMAGE, 1)
    yield engine
    small_base.remove_all(engine, PREFIX)


def files(path: pathlib.Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in (path / "blobs/sha256").iterdir()}


def test_all_of_an_image_goes_out_and_comes_back(images: docker.DockerClient, run_module: t.Any, tmp_path: pathlib.Path) -> None:
    id_ = images.images.get(IMAGE).id
    predicted = run_module("docker_image_export", {"image": IMAGE, "path": str(tmp_path / "out")}, check=True)
    assert predicted["changed"] and predicted["config"] is None and not (tmp_path / "out").exists()
    written = run_module("docker_image_export", {"image": IMAGE, "path": str(tmp_path / "out")})
    assert written["changed"] and written["image"]["id"] == written["config"] == id_ and len(written["image"]["layers"]) == 2
    for name in files(tmp_path / "out"):
        assert hashlib.sha256((tmp_path / "out/blobs/sha256" / name).read_bytes()).hexdigest() == name
    assert written["written"] == sum(files(tmp_path / "out").values()) > 12_000_000
    for check in (False, True):
        assert not run_module("docker_image_export", {"image": IMAGE, "path": str(tmp_path / "out")}, check=check)["changed"]
    # the images go, and with them their layers
    small_base.remove_all(images, PREFIX)
    wanted = {"name": IMAGE, "image": written["image"]}
    look = run_module("docker_image_import", wanted)
    assert not look["changed"] and not look["up_to_date"] and look["lacking"] == written["image"]["layers"]
    whole = {**wanted, "config": written["config"], "path": str(tmp_path / "out")}
    predicted = run_module("docker_image_import", whole, check=True, diff=True)
    assert predicted["changed"] and predicted["diff"] == {"before": {"id": None}, "after": {"id": id_}}
    loaded = run_module("docker_image_import", whole, diff=True)
    assert loaded["changed"] and loaded["diff"] == predicted["diff"] and loaded["up_to_date"] and loaded["id"] == id_
    assert images.images.get(IMAGE).id == id_
    for check in (False, True):
        again = run_module("docker_image_import", whole, check=check)
        assert not again["changed"] and again["up_to_date"] and again["actions"] == [] and again["lacking"] == []


def test_only_what_lacks_moves(images: docker.DockerClient, run_module: t.Any, tmp_path: pathlib.Path) -> None:
    """The base is here under another name; the layer above it is not."""
    written = run_module("docker_image_export", {"image": IMAGE, "path": str(tmp_path / "out")})
    images.images.remove(IMAGE)
    look = run_module("docker_image_import", {"name": IMAGE, "image": written["image"]})
    assert look["lacking"] == written["image"]["layers"][1:]
    # another image that ends like it, on another base, is of no use to the engine
    edited(images, BASE, f"{PREFIX}/other:1", 7)
    assert run_module("docker_image_import", {"name": IMAGE, "image": written["image"]})["lacking"] == look["lacking"]
    less = run_module("docker_image_import", {"name": IMAGE, "image": written["image"], "config": written["config"], "path": str(tmp_path / "out")})
    assert less["id"] == written["image"]["id"]
    # what is not wanted any more goes, what is wanted stays
    base = written["image"]["layers"][0].partition(":")[2]
    shrunk = run_module("docker_image_export", {"image": IMAGE, "path": str(tmp_path / "out"), "layers": look["lacking"]})
    assert shrunk["changed"] and base not in files(tmp_path / "out") and len(files(tmp_path / "out")) == 2
    assert shrunk["written"] < 6_000_000 * 1.1
    alone = tmp_path / "alone"
    run_module("docker_image_export", {"image": IMAGE, "path": str(alone), "layers": look["lacking"]})
    assert files(alone) == files(tmp_path / "out")
    # now from those alone, with an older image under the tag, which goes
    before = edited(images, BASE, IMAGE, 8)
    args = {"name": IMAGE, "image": written["image"], "config": written["config"], "path": str(alone), "prune_previous": True}
    assert run_module("docker_image_import", args)["id"] == written["image"]["id"]
    with pytest.raises(docker.errors.ImageNotFound):
        images.images.get(before)


def test_damage_and_sentences(images: docker.DockerClient, run_module: t.Any, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out"
    written = run_module("docker_image_export", {"image": IMAGE, "path": str(out)})
    small_base.remove_all(images, PREFIX)
    args = {"name": IMAGE, "image": written["image"], "config": written["config"], "path": str(out)}
    top = out / "blobs/sha256" / written["image"]["layers"][1].partition(":")[2]
    content = bytearray(top.read_bytes())
    content[3_000_000] ^= 1
    top.write_bytes(content)
    failed = run_module("docker_image_import", args)
    assert failed.failed and "run again, which brings all of it anew" in failed["msg"]
    assert not top.exists() and images.images.list(IMAGE) == []
    assert "lacks" in run_module("docker_image_import", args)["msg"]
    assert "There is no image" in run_module("docker_image_export", {"image": IMAGE, "path": str(out)})["msg"]
    assert "has no id and layers" in run_module("docker_image_import", {"name": IMAGE, "image": {"id": "x"}})["msg"]
    for odd in ({**args, "config": "sha256:../../../x"}, {**args, "image": {**args["image"], "layers": ["sha256:../x"]}}):
        assert "is no digest of an image" in run_module("docker_image_import", odd)["msg"]
    assert "write NAME:TAG" in run_module("docker_image_import", {"name": f"{PREFIX}/x@sha256:{'0' * 64}", "image": written["image"]})["msg"]
    small_base.load(images, BASE, {"base": (b"x", 0o644)})
    odd = run_module("docker_image_export", {"image": BASE, "path": str(out), "layers": ["sha256:00"]})
    assert "has no layer sha256:00" in odd["msg"]


def test_interrupted_export(images: docker.DockerClient, run_module: t.Any, tmp_path: pathlib.Path) -> None:
    """Nothing half-made has a digest's name, and the next run goes on."""
    edited(images, IMAGE, IMAGE, 2, 150_000_000)
    out = tmp_path / "out"
    process = run_module("docker_image_export", {"image": IMAGE, "path": str(out)}, popen=True)
    deadline = time.monotonic() + 60
    while not any(size > 10_000_000 for size in (files(out) if (out / "blobs/sha256").exists() else {}).values()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert "Interrupted" in json.loads(process.stdout.read())["msg"]
    assert process.wait(30) != 0
    assert [name for name in files(out) if name.startswith(".")] == []
    written = run_module("docker_image_export", {"image": IMAGE, "path": str(out)})
    assert {f"sha256:{name}" for name in files(out)} == {written["config"], *written["image"]["layers"]}


def test_memory_stays_flat(images: docker.DockerClient, run_module: t.Any, peak_memory: t.Any, tmp_path: pathlib.Path) -> None:
    edited(images, IMAGE, IMAGE, 3, 300_000_000)
    out = tmp_path / "out"
    output, peak = peak_memory(run_module("docker_image_export", {"image": IMAGE, "path": str(out)}, popen=True))
    assert peak < 100_000
    written = json.loads(output)
    small_base.remove_all(images, PREFIX)
    args = {"name": IMAGE, "image": written["image"], "config": written["config"], "path": str(out)}
    output, peak = peak_memory(run_module("docker_image_import", args, popen=True))
    assert json.loads(output)["id"] == written["image"]["id"] and peak < 100_000
