# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the scenario multiarch left: one name in the registry, under which each platform finds its own image."""

from __future__ import annotations

import json
import os

import pytest
from testinfra.host import Host

testinfra_hosts = ["ansible://localhost"]
PLATFORMS = ("amd64", "arm64")


@pytest.fixture
def name(host: Host) -> str:
    place = f"{os.environ['MOLECULE_EPHEMERAL_DIRECTORY']}/small/registry"
    return f"{host.file(place).content_string.split()[0]}/team/node:molecule"


def inspect(host: Host, image: str) -> dict:
    return json.loads(host.check_output("docker image inspect %s", image))[0]


def test_the_name_is_an_index_of_both(host: Host, name: str) -> None:
    registry, path = name.split("/", 1)
    url = f"http://{registry}/v2/{path.replace(':', '/manifests/')}"
    index = json.loads(host.check_output("curl -fsS -H 'Accept: application/vnd.oci.image.index.v1+json' %s", url))
    assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    assert [entry["platform"] for entry in index["manifests"]] == [{"architecture": arch, "os": "linux"} for arch in PLATFORMS]


@pytest.mark.parametrize("arch", PLATFORMS)
def test_each_platform_finds_its_own(host: Host, name: str, arch: str) -> None:
    host.check_output("docker pull --quiet --platform %s %s", f"linux/{arch}", name)
    image = inspect(host, name)
    assert image["Architecture"] == arch and image["Config"]["Labels"]["io.nodeforge.platform"] == f"linux/{arch}"
    assert image["Id"] == inspect(host, f"kindest/node:molecule-{arch}")["Id"]


def test_nothing_is_left_behind(host: Host) -> None:
    # a name of the scenario's own: others may build on this machine at the same time
    assert host.check_output("docker ps -aq --filter name=^nodeforge-molecule-multiarch") == ""
