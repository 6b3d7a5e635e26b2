# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook build_multiarch on this host for both platforms, with small programs in Kubernetes' place and Debian's registry."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import typing as t

import docker
import pytest
import small_base
import small_kube
from small_base import ARCH, FOREIGN

ROOT = pathlib.Path(__file__).resolve().parents[2]
TAG = "nodeforge-multiarch-test"


class Multiarch:
    """Runs the playbook."""

    def __init__(self, directory: pathlib.Path, env: dict[str, str], interpreter: str) -> None:
        self.directory, self.env = directory, env
        self.artifacts = small_kube.artifacts(directory / "_output")
        self.registry = small_base.WritableRegistry(directory)
        self.destination = f"{self.registry.address}/team/node:{TAG}"
        # two hosts, each this machine: what is not built on the first can be on no other, as both are of one platform
        self.inventory = directory / "hosts"
        self.inventory.write_text(f"first ansible_connection=local {interpreter}\nsecond ansible_connection=local {interpreter}\n")

    def __call__(self, *options: str, check: bool = True, **variables: t.Any) -> dict[str, t.Any]:
        given = {
            "kube_source": f"artifacts:{self.artifacts}",
            "multiarch_destination": self.destination,
            "target": "all",
            "build_host_kind_version": "",
            "node_image_build_container": TAG,
            **variables,
        }
        run = subprocess.run(
            ["ansible-playbook", "nodeforge.kind.build_multiarch", "-i", str(self.inventory), "-e", json.dumps(given), *options],
            cwd=ROOT,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=3000,
            check=False,
        )
        assert "Traceback" not in run.stdout + run.stderr, run.stdout + run.stderr
        assert run.returncode == 0 or not check, run.stdout[-6000:] + run.stderr[-3000:]
        return {
            "output": run.stdout + run.stderr,
            "rc": run.returncode,
            "changed": sum(map(int, re.findall(r"^\S+\s+:.*changed=(\d+)", run.stdout, re.M))),
        }

    def digest(self) -> str | None:
        """What the registry has under the name."""
        link = self.directory / "store/docker/registry/v2/repositories/team/node/_manifests/tags" / TAG / "current/link"
        return link.read_text() if link.exists() else None


@pytest.fixture(scope="module")
def multiarch(tmp_path_factory: pytest.TempPathFactory, ansible_env: dict[str, str], interpreter: str) -> t.Iterator[Multiarch]:
    engine = docker.from_env(timeout=300)
    small_base.remove_all(engine, TAG)
    made = Multiarch(tmp_path_factory.mktemp("multiarch"), ansible_env, interpreter)
    yield made
    made.registry.close()
    small_base.remove_all(engine, TAG)
    small_base.remove_all(engine, f"{made.registry.address}/")


def test_in_part_nothing_is_published(multiarch: Multiarch) -> None:
    """Whichever platform it is that fails, it is named, and the other one is built all the same where it can be."""
    for arch in (FOREIGN, ARCH):
        kubelet = multiarch.artifacts / "dockerized/bin/linux" / arch / "kubelet"
        kubelet.rename(kubelet.with_name("hidden"))
        try:
            failed = multiarch(check=False)
        finally:
            kubelet.with_name("hidden").rename(kubelet)
        assert failed["rc"] != 0
        missing = "linux/amd64 and that for linux/arm64" if arch == ARCH else f"linux/{FOREIGN}"
        assert f'"{multiarch.destination}" is not published, because the image for {missing} is missing' in failed["output"], failed["output"][-3000:]
        assert multiarch.digest() is None
        assert docker.from_env().api.containers(all=True, filters={"name": TAG}) == []


def test_both_under_one_name(multiarch: Multiarch) -> None:
    made = multiarch()
    digest = multiarch.digest()
    assert digest and re.search(rf"digest +{digest}", made["output"]), made["output"][-3000:]
    engine = docker.from_env(timeout=300)
    name, _colon, tag = multiarch.destination.rpartition(":")
    for arch in (ARCH, FOREIGN):
        built = engine.images.get(f"kindest/node:{TAG}-{arch}")
        pulled = engine.images.pull(name, tag=tag, platform=f"linux/{arch}")
        assert pulled.id == built.id and pulled.attrs["Architecture"] == arch
        assert pulled.labels["io.nodeforge.platform"] == f"linux/{arch}"
        engine.images.remove(multiarch.destination)
    for options in ((), ("--check",)):
        again = multiarch(*options)
        assert again["changed"] == 0 and multiarch.digest() == digest, again["output"][-3000:]
    # another kubelet for one of both
    kubelet = multiarch.artifacts / "dockerized/bin/linux" / FOREIGN / "kubelet"
    kubelet.write_bytes(kubelet.read_bytes() + b"edited")
    predicted = multiarch("--check")
    assert predicted["changed"] > 0 and multiarch.digest() == digest
    multiarch()
    assert multiarch.digest() not in (None, digest)
    assert engine.images.get(f"kindest/node:{TAG}-{ARCH}").id and multiarch()["changed"] == 0


def test_bad_input(multiarch: Multiarch) -> None:
    for variables in ({"multiarch_destination": "team/node:main"}, {"kube_platforms": ["linux/arm"]}, {"kube_platform": "linux/arm64"}):
        failed = multiarch(check=False, **variables)
        assert failed["rc"] != 0 and "write the first like registry.example.com/team/node:main" in " ".join(failed["output"].split())
