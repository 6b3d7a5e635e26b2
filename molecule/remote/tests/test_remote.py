# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the scenario left on the build host and here: the same image on both, and nothing of the way."""

from __future__ import annotations

import json
import os
import pathlib

import pytest
import testinfra
from testinfra.host import Host

IMAGE = "kindest/node:molecule-remote"


def inspect(host: Host) -> dict:
    return json.loads(host.check_output("docker image inspect %s", IMAGE))[0]


@pytest.fixture(scope="module")
def here() -> Host:
    return testinfra.get_host("local://")


def test_the_same_image_on_both_sides(host: Host, here: Host) -> None:
    there = inspect(host)
    assert there["Id"] == inspect(here)["Id"]
    assert host.check_output("hostname") != here.check_output("hostname")
    assert there["Config"]["Labels"]["io.nodeforge.platform"] == f"linux/{there['Architecture']}"


def test_its_programs_run_here(here: Host) -> None:
    version = here.check_output(f"docker run --rm --entrypoint cat {IMAGE} /kind/version")
    assert here.check_output(f"docker run --rm --entrypoint kubelet {IMAGE} --version") == f"Kubernetes {version}"


def test_the_tree_was_compiled_there(host: Host) -> None:
    (tree,) = host.check_output("ls -d ~/.cache/nodeforge/synced/*/tree").split()
    source = pathlib.Path(os.environ["REMOTE_SOURCE"])
    assert host.file(f"{tree}/go.mod").content_string == (source / "go.mod").read_text(encoding="utf-8")
    assert host.file(f"{tree}/_output/dockerized/bin/linux/{inspect(host)['Architecture']}/kubelet").exists


def test_nothing_is_left_behind(host: Host, here: Host) -> None:
    assert host.check_output("docker ps -aq --filter name=nodeforge-build-") == ""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    for machine, where in ((host, "~/.cache"), (here, str(cache))):
        assert machine.check_output(f"ls -A {where}/nodeforge/transfer 2>/dev/null || true") == ""
    assert host.check_output("ls ~/.ansible_async 2>/dev/null | grep nodeforge- || true") == ""
