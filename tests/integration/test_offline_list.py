# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the roles' entry point missing tells of images: all that lacks, and nothing that does not."""

from __future__ import annotations

import json
import os
import pathlib
import pwd
import subprocess
import typing as t

import docker
import pytest
import small_base

PREFIX = f"nodeforge-test-o{os.getpid()}"
DIGEST = f"sha256:{'1' * 64}"
PLAY = """
- hosts: localhost
  gather_facts: true
  gather_subset: [min]
  tasks:
    - ansible.builtin.include_role: {name: nodeforge.kind.node_image, tasks_from: missing}
    - ansible.builtin.copy: {content: "{{ node_image_missing | to_json }}", dest: "{{ told }}", mode: '0600'}
"""
Missing = t.Callable[..., list[str]]


@pytest.fixture(scope="module")
def client() -> t.Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    small_base.remove_all(client, PREFIX)
    client.close()


@pytest.fixture
def missing(tmp_path: pathlib.Path, ansible_env: dict[str, str]) -> Missing:
    """missing(images, variable=value, ...), with the cache in the form that it has by default: ~/.cache/nodeforge, only elsewhere."""
    home = pwd.getpwuid(os.getuid()).pw_dir
    images = tmp_path / ".cache" / "nodeforge" / "images"
    images.mkdir(parents=True)
    names = ["docker.io/library/kept:latest", "docker.io/library/kept:1", f"example.com/kept@{DIGEST}"]
    index = {"manifests": [{"annotations": {"org.opencontainers.image.ref.name": name}} for name in names]}
    (images / "index.json").write_text(json.dumps(index))
    (tmp_path / "play.yml").write_text(PLAY)

    def look(wanted: list[t.Any], **variables: t.Any) -> list[str]:
        variables = {"node_image_tag": f"{PREFIX}-none", **variables, "node_image_extra_images": wanted, "told": str(tmp_path / "told.json")}
        environment = {**ansible_env, "XDG_CACHE_HOME": f"~/{os.path.relpath(tmp_path / '.cache', home)}"}
        command = ["ansible-playbook", "-i", "localhost,", "-c", "local", str(tmp_path / "play.yml"), "-e", json.dumps(variables)]
        run = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
        return t.cast("list[str]", json.loads((tmp_path / "told.json").read_text()))

    return look


def test_only_what_the_cache_has_not_is_missing(missing: Missing) -> None:
    kept = ["kept", "docker.io/kept", "index.docker.io/kept:1", "docker.io/library/kept:1", f"example.com/kept:3@{DIGEST}"]
    lacking = missing([*kept, "docker.io/other", "example.com/kept:1"])
    assert [line.split()[2] for line in lacking] == ["docker.io/library/other:latest", "example.com/kept:1"]
    assert "~" not in lacking[0] and lacking[0].endswith("/.cache/nodeforge/images")


def test_what_this_machine_serves_is_not_missing(missing: Missing) -> None:
    wanted = ["other", "localhost:5000/x:1", "127.0.0.1:5000/x:1", "quay.io/x:1"]
    mirrors = {"docker.io": ["https://mirror.example.com", "http://127.0.0.1:5000"], "quay.io": "http://mirror.example.com"}
    assert [line.split()[2] for line in missing(wanted, node_image_mirrors=mirrors)] == ["quay.io/x:1"]


def test_what_an_image_holds_is_not_missing(missing: Missing, client: docker.DockerClient) -> None:
    wanted = ["held:1", f"example.com/held:2@{DIGEST}", "held:2"]
    told = ",".join(["docker.io/library/held:1", f"example.com/held:2@{DIGEST}"])
    node = small_base.load(client, f"{PREFIX}:node", {"x": (b"", 0o644)}, Labels={"io.nodeforge.images": told})
    foreign = small_base.load(client, f"{PREFIX}:foreign", {"x": (b"1", 0o644)})
    repository, tag = node.rsplit(":", 1)
    for variables in ({"node_image_base": node}, {"node_image_repository": repository, "node_image_tag": tag}):
        assert [line.split()[2] for line in missing(wanted, **variables)] == ["docker.io/library/held:2"]
    # nobody knows without a look into it: main refuses where it has to
    assert missing(wanted, node_image_base=foreign) == []
    assert len(missing(wanted, node_image_base=f"{PREFIX}:none")) == 4
