# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""ctr_image_pull against real containerds in real containers, and a registry that fails on demand."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import ipaddress
import json
import os
import pathlib
import shutil
import signal
import socket
import tarfile
import threading
import time
import typing as t

import docker
import pytest
import small_base
from faulty_registry import Fault, FaultyRegistry, Layout, Proxy, certificate
from small_base import ARCH, FOREIGN, PLATFORM

PREFIX = f"nodeforge-test-e{os.getpid()}"
TOOLS = "chmod cp find grep ln ls mv rmdir sed tail tar tr"
ETCD, PAUSE, FOREIGN_ONLY, HUB = (
    "registry.k8s.io/etcd:3.7.0-0",
    "registry.k8s.io/pause:3.10",
    "registry.k8s.io/foreign:1",
    "docker.io/library/tool:latest",
)
KUBE_PROXY = "registry.k8s.io/kube-proxy:v1.37.2"
PIN = "io.cri-containerd.pinned=pinned"
Args = dict[str, t.Any]


# what is tested: a container whose containerd is at least version 2, and one with this host's own where that is older


@pytest.fixture(scope="session")
def client() -> t.Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    small_base.remove_all(client, PREFIX)
    client.close()


def make_base(client: docker.DockerClient, name: str, binaries: pathlib.Path | None) -> str:
    more = f"{binaries / 'containerd'} {binaries / 'ctr'}" if binaries else ""
    tree: small_base.Tree = {**small_base.host_tools(f"{TOOLS} {more}"), "var": 0o755, "var/run": "/run"}
    tree.update({"etc/containerd": 0o755, "etc/containerd/config.toml": (small_base.CONTAINERD_CONFIG.encode(), 0o644)})
    return small_base.load(client, f"{PREFIX}:{name}", tree)


@pytest.fixture(scope="session")
def base(client: docker.DockerClient) -> str:
    return make_base(client, "base", small_base.new_containerd())


@pytest.fixture(scope="session")
def old_base(client: docker.DockerClient) -> str:
    mine = shutil.which("containerd")
    if not mine or small_base.version_of(mine) >= (2, 0):
        pytest.skip("this host has no containerd 1.x")
    return make_base(client, "old", pathlib.Path(mine).parent)


class Node:
    """A container, and a look into its containerd that is independent of the module."""

    def __init__(self, container: t.Any) -> None:
        self.container = container
        self.name: str = container.name

    def run(self, *command: str, check: bool = True) -> str:
        ended = self.container.exec_run(list(command), demux=True)
        assert not check or ended.exit_code == 0, (command, ended)
        return (ended.output[0] or b"").decode()

    def processes(self) -> list[str]:
        """Those of this container, by their command lines."""
        return [" ".join(process[-1:]) for process in self.container.top(ps_args="-eo pid,args")["Processes"]]

    @contextlib.contextmanager
    def containerd(self) -> t.Iterator[None]:
        self.container.exec_run(["containerd"], detach=True)
        for __ in range(200):
            if self.container.exec_run(["ctr", "version"]).exit_code == 0:
                break
            time.sleep(0.05)
        yield
        self.run("sh", "-c", 'for p in /proc/[0-9]*; do grep -q "^containerd$" $p/comm && kill ${p#/proc/}; done; exit 0')
        while any(process.startswith("containerd") for process in self.processes()):
            time.sleep(0.05)
        self.run("rm", "-rf", "/run/containerd", "/run/nri")

    def ctr(self, *command: str, check: bool = True) -> str:
        return self.run("ctr", "-n", "k8s.io", *command, check=check)

    def images(self) -> dict[str, bool]:
        """Name to pinned or not; without the names that CRI makes by itself."""
        lines = self.ctr("images", "ls").splitlines()[1:]
        return {line.split()[0]: PIN in line for line in lines if not line.startswith("sha256:")}

    def leftovers(self) -> list[str]:
        """What neither a node nor the next run should find."""
        found = [p for p in self.processes() if "sleep 3600" not in p]
        return found + self.run("find", "/run", "/tmp", "-mindepth", "1").split()


@pytest.fixture
def start(client: docker.DockerClient) -> t.Iterator[t.Callable[..., Node]]:
    nodes = []

    def begin(image: str, **options: t.Any) -> Node:
        options = {"tmpfs": {"/run": "", "/tmp": ""}, "network_mode": "host", **options}
        nodes.append(Node(client.containers.run(image, ["sleep", "3600"], name=f"{PREFIX}-{len(nodes)}", detach=True, **options)))
        return nodes[-1]

    yield begin
    for node in nodes:
        node.container.remove(force=True, v=True)


@pytest.fixture
def node(start: t.Callable[..., Node], base: str) -> Node:
    return start(base)


def layer(seed: int, size: int = 20000) -> bytes:
    return small_base.layer({f"file-{seed}": (bytes((seed * i * i) % 251 for i in range(size)), 0o644)})


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    layout = Layout(tmp_path_factory.mktemp("layout") / "images")
    layout.add(ETCD, [PLATFORM, f"linux/{FOREIGN}"], [layer(1), layer(2)])
    layout.add(PAUSE, [PLATFORM], [layer(3)])
    layout.add(FOREIGN_ONLY, [f"linux/{FOREIGN}"], [layer(4)])
    layout.add("registry.k8s.io/foreign-index:1", [f"linux/{FOREIGN}"], [layer(4)], index=True)
    layout.add(HUB, [PLATFORM], [layer(5)])
    for n in range(6):
        layout.add(f"registry.k8s.io/many-{n}:1", [PLATFORM], [layer(10 + n)])
    return layout


@pytest.fixture
def registry(layout: Layout) -> t.Iterator[FaultyRegistry]:
    with FaultyRegistry(layout) as registry:
        yield registry


@pytest.fixture
def address(client: docker.DockerClient) -> str:
    """An address of this machine that is not its loopback address, as that of another one."""
    config = client.networks.get("bridge").attrs["IPAM"]["Config"][0]
    # the first start of an engine does not tell it
    return config.get("Gateway") or str(ipaddress.ip_network(config["Subnet"])[1])


@pytest.fixture
def far(layout: Layout, address: str) -> t.Iterator[FaultyRegistry]:
    """A registry that is not one of this machine's own."""
    with FaultyRegistry(layout, address) as registry:
        yield registry


def mirrors(registry: FaultyRegistry) -> dict[str, list[str]]:
    return {"registry.k8s.io": [registry.url], "docker.io": [registry.url]}


@pytest.fixture
def archive(tmp_path: pathlib.Path) -> t.Callable[..., str]:
    """Writes a docker archive and returns its path."""

    def write(reference: str | None, seed: int = 7, arch: str = ARCH, name: str = "image.tar") -> str:
        content = layer(seed)
        config = small_base.image_config(content, arch, {})
        manifest = [{"Config": "config.json", "RepoTags": [reference] if reference else None, "Layers": ["layer.tar"]}]
        path = tmp_path / name
        path.write_bytes(
            small_base.layer(
                {"config.json": (config, 0o644), "layer.tar": (content, 0o644), "manifest.json": (json.dumps(manifest).encode(), 0o644)}
            )
        )
        return str(path)

    return write


@pytest.fixture
def pull(run_module: t.Callable[..., t.Any], node: Node, registry: FaultyRegistry) -> t.Callable[..., t.Any]:
    """Runs the module on the node; after each run nothing of it may be left there."""

    def run(check: bool = False, diff: bool = False, **args: t.Any) -> t.Any:
        args = {"container": node.name, "retry_delay": 0.05, **args}
        if "mirrors" not in args and "hosts_dir" not in args:
            args["mirrors"] = mirrors(registry)
        result = run_module("ctr_image_pull", args, check=check, diff=diff)
        assert node.leftovers() == []
        return result

    return run


def actions(result: t.Any) -> dict[str, str]:
    return {image["ref"]: image["action"] for image in result["images"]}


# the main thing


def test_everything_comes_once(pull: t.Any, node: Node, archive: t.Any, layout: Layout) -> None:
    args = {
        "images": [ETCD, PAUSE, "tool", KUBE_PROXY],
        "archives": {"kube-proxy": {"path": archive(f"registry.k8s.io/kube-proxy-{ARCH}:v1.37.2"), "ref": f"registry.k8s.io/kube-proxy-{ARCH}:v1.37.2"}},
    }
    come = {ETCD: "pulled", PAUSE: "pulled", HUB: "pulled", KUBE_PROXY: "imported"}
    changes = [change["Path"] for change in node.container.diff() or []]

    predicted = pull(check=True, diff=True, **args)
    assert predicted["changed"] and actions(predicted) == come
    assert predicted["diff"]["before"] == {"images": {}}
    assert predicted["diff"]["after"]["images"] == {ref: {"digest": "unknown", "pinned": True} for ref in come}
    assert [change["Path"] for change in node.container.diff() or []] == changes

    first = pull(diff=True, **args)
    assert first["changed"] and actions(first) == come
    assert sorted(first["actions"]) == sorted(
        [*(f"Pulled image {ref}" for ref in (ETCD, PAUSE, HUB)), f"Imported image {KUBE_PROXY} from {args['archives']['kube-proxy']['path']}"]
    )
    by_ref = {image["ref"]: image for image in first["images"]}
    assert by_ref[ETCD]["digest"] == layout.names["etcd:3.7.0-0"]
    assert by_ref[ETCD]["attempts"] == 1
    # both layers, configuration, manifest and index, of one platform
    assert 1000 < by_ref[ETCD]["size"] < 100000
    assert first["diff"]["after"]["images"] == {i["ref"]: {"digest": i["digest"], "pinned": True} for i in first["images"]}
    with node.containerd():
        assert node.images() == dict.fromkeys(come, True)
        complete = [line for line in node.ctr("images", "check").splitlines()[1:] if "complete (" in line]
        assert len([line for line in complete if not line.startswith("sha256:")]) == len(come)

    for check in (True, False):
        again = pull(check=check, diff=True, **args)
        assert not again["changed"] and set(actions(again).values()) == {"present"} and again["actions"] == []
        assert again["diff"]["before"] == again["diff"]["after"] == first["diff"]["after"]
        assert [image["digest"] for image in again["images"]] == [image["digest"] for image in first["images"]]


def test_nothing_to_do_is_nothing(pull: t.Any) -> None:
    result = pull()
    assert not result["changed"] and result["images"] == []


def test_missing_pins_are_a_change_of_their_own(pull: t.Any, node: Node) -> None:
    assert pull(images=[ETCD, PAUSE], pin=False)["changed"]
    with node.containerd():
        assert node.images() == {ETCD: False, PAUSE: False}
    assert not pull(images=[ETCD, PAUSE], pin=False)["changed"]
    predicted = pull(check=True, images=[ETCD, PAUSE])
    assert predicted["changed"] and predicted["actions"] == [f"Would pin image {ETCD}", f"Would pin image {PAUSE}"]
    result = pull(images=[ETCD, PAUSE])
    assert result["changed"] and set(actions(result).values()) == {"present"}
    assert result["actions"] == [f"Pinned image {ETCD}", f"Pinned image {PAUSE}"]
    assert not pull(images=[ETCD, PAUSE])["changed"]


def test_a_damaged_image_is_completed(pull: t.Any, node: Node, layout: Layout) -> None:
    pull(images=[PAUSE])
    manifest = json.loads(layout.find("pause", "manifests", "3.10") or b"")
    with node.containerd():
        node.ctr("content", "rm", manifest["layers"][0]["digest"])
    assert actions(pull(check=True, images=[PAUSE])) == {PAUSE: "pulled"}
    assert actions(pull(images=[PAUSE])) == {PAUSE: "pulled"}
    assert not pull(images=[PAUSE])["changed"]


def test_a_name_with_tag_and_digest(pull: t.Any, node: Node, layout: Layout) -> None:
    digest = layout.names["pause:3.10"]
    result = pull(images=[f"{PAUSE}@{digest}"])
    assert actions(result) == {f"registry.k8s.io/pause@{digest}": "pulled"}
    assert not pull(images=[f"{PAUSE}@{digest}"])["changed"]


def test_a_running_containerd_stays(run_module: t.Any, node: Node, registry: FaultyRegistry) -> None:
    with node.containerd():
        for changed in (True, False):
            for check in (True, False):
                result = run_module("ctr_image_pull", {"container": node.name, "images": [PAUSE], "mirrors": mirrors(registry)}, check=check)
                assert result["changed"] == changed, result
        assert node.images() == {PAUSE: True}
        assert [p for p in node.processes() if p.startswith("containerd")] == ["containerd"]
        assert node.run("ls", "/run").split() == ["containerd", "nri"]


def test_an_older_containerd_does(run_module: t.Any, start: t.Any, old_base: str, far: FaultyRegistry, archive: t.Any, tmp_path: pathlib.Path) -> None:
    node = start(old_base)
    args = {
        "container": node.name,
        "images": [ETCD, KUBE_PROXY],
        "archives": [archive(f"registry.k8s.io/kube-proxy-{ARCH}:v1.37.2"), {"path": archive(None, 8, name="b.tar"), "ref": "example.com/b:1"}],
        "mirrors": mirrors(far),
        "cache_dir": str(tmp_path / "cache"),
    }
    for check, changed in ((True, True), (False, True), (True, False), (False, False)):
        result = run_module("ctr_image_pull", args, check=check)
        assert result.get("changed") == changed, result
        assert node.leftovers() == []
    with node.containerd():
        assert node.images() == {ETCD: True, KUBE_PROXY: True, "example.com/b:1": True}
    other = start(old_base, network_mode="none")
    assert actions(run_module("ctr_image_pull", {**args, "container": other.name}))[ETCD] == "cached"


def test_images_come_side_by_side(pull: t.Any, registry: FaultyRegistry) -> None:
    registry.faults.append(Fault("slow", times=-1, seconds=0.7))
    pull(images=[f"registry.k8s.io/many-{n}:1" for n in range(6)], concurrency=6)
    # each image has two blobs
    assert registry.peak > 4


# archives


def test_archives_of_all_kinds(pull: t.Any, node: Node, archive: t.Any, layout: Layout, tmp_path: pathlib.Path) -> None:
    named = tmp_path / "oci.tar"
    named.write_bytes(layout.archive(PAUSE, {"io.containerd.image.name": "example.com/oci:1"}))
    nameless = tmp_path / "nameless.tar"
    nameless.write_bytes(layout.archive(ETCD, {"org.opencontainers.image.ref.name": "latest"}))
    packed = tmp_path / "packed.tar.gz"
    packed.write_bytes(gzip.compress(pathlib.Path(archive("example.com/packed:1", 21)).read_bytes()))
    args = {
        "archives": [
            str(named),
            {"path": str(nameless), "ref": "example.com/nameless:1"},
            str(packed),
            {"path": archive(None, 22, name="a.tar"), "ref": f"example.com/docker-nameless-{ARCH}:1"},
            {"path": archive("example.com/renamed:0", 23, name="b.tar"), "ref": "example.com/renamed:1"},
            archive(f"example.com/kept-{ARCH}:1", 24, name="c.tar"),
        ],
        "images": [f"example.com/kept-{ARCH}:1"],
    }
    names = [f"example.com/kept-{ARCH}:1", *(f"example.com/{n}:1" for n in ("oci", "nameless", "packed", "docker-nameless", "renamed"))]
    result = pull(**args)
    assert actions(result) == dict.fromkeys(names, "imported")
    with node.containerd():
        assert node.images() == dict.fromkeys(names, True)
    assert not pull(check=True, **args)["changed"]
    assert not pull(**args)["changed"]


def test_a_rebuilt_archive_replaces_its_image(pull: t.Any, node: Node, archive: t.Any) -> None:
    old = pull(archives=[archive(KUBE_PROXY, 30)])["images"][0]
    with node.containerd():
        blobs = set(node.ctr("content", "ls", "-q").split())
    path = archive(KUBE_PROXY, 31)
    assert actions(pull(check=True, archives=[path])) == {KUBE_PROXY: "imported"}
    new = pull(archives=[path])["images"][0]
    assert new["digest"] != old["digest"]
    with node.containerd():
        assert node.images() == {KUBE_PROXY: True}
        # what the old one had is gone: it would be committed
        assert not blobs & set(node.ctr("content", "ls", "-q").split())


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ({"archives": ["/nowhere/x.tar"]}, 'The image archive "/nowhere/x.tar" cannot be read: No such file or directory; build it again or correct its path'),
        ({"archives": [3]}, "archives holds 3: give paths"),
        ({"images": ["UPPER:1"]}, 'The image "UPPER:1" has upper-case letters'),
        ({"images": ["a:b:c"]}, 'The image "a:b:c" is not an image reference'),
        ({"images": [PAUSE], "platform": "amd64"}, 'The platform "amd64" is not one of Linux: write it like linux/amd64'),
        ({"images": [PAUSE], "mirrors": {"registry.k8s.io": ["127.0.0.1:5000"]}}, 'The mirror "127.0.0.1:5000" is not a URL'),
        ({"images": [PAUSE], "mirrors": {"registry.k8s.io": ["http://u:hidden@x:5000"]}}, 'The mirror at "x" has credentials in its URL'),
        ({"images": [PAUSE], "mirrors": {"registry.k8s.io": []}}, 'The mirrors of "registry.k8s.io" are not a list of URLs'),
        ({"images": [PAUSE], "hosts_dir": "/nowhere"}, 'The hosts_dir "/nowhere" is not a directory'),
        ({"images": [PAUSE], "cache_dir": "/proc/x"}, 'The cache_dir "/proc/x" cannot be used'),
        ({"images": [PAUSE], "retries": -1}, "retries is -1: it must be at least 0"),
    ],
)
def test_bad_input(pull: t.Any, args: Args, text: str) -> None:
    result = pull(**args)
    assert result.failed and text in result["msg"] and "hidden" not in json.dumps(result), result


def test_bad_archives(pull: t.Any, node: Node, archive: t.Any, tmp_path: pathlib.Path) -> None:
    good = archive("example.com/a:1")
    (tmp_path / "text.tar").write_text("not a tar")
    with tarfile.open(tmp_path / "other.tar", "w") as other:
        other.addfile(tarfile.TarInfo("x"), io.BytesIO())
    cut = tmp_path / "cut.tar"
    cut.write_bytes(pathlib.Path(good).read_bytes()[:15000])
    cases: list[tuple[t.Any, str]] = [
        (str(tmp_path / "text.tar"), 'text.tar" is no whole tar archive'),
        (str(tmp_path / "other.tar"), 'other.tar" is no image archive'),
        (str(cut), 'cut.tar" is no'),
        ({"path": good, "sha256": "0" * 64}, 'Importing the image archive "' + good + '" failed: its content is not that of its sha256 any more'),
        (archive(None, name="n.tar"), 'n.tar" has an image without a name: give it one with ref'),
        (archive("example.com/f:1", arch=FOREIGN, name="f.tar"), f'f.tar" is for linux/{FOREIGN}, not for {PLATFORM}: build it for that platform'),
    ]
    for entry, text in cases:
        result = pull(archives=[entry])
        assert result.failed and text in result["msg"], (text, result)
    with node.containerd():
        assert node.images() == {}


# platforms


def test_a_foreign_platform(pull: t.Any, node: Node) -> None:
    args = {"images": [ETCD, FOREIGN_ONLY], "platform": f"linux/{FOREIGN}"}
    assert pull(**args)["changed"]
    assert not pull(**args)["changed"]
    # the same names for another platform: what is missing comes, too
    assert actions(pull(check=True, images=[ETCD])) == {ETCD: "pulled"}
    assert pull(images=[ETCD])["changed"]


@pytest.mark.parametrize("ref", [FOREIGN_ONLY, "registry.k8s.io/foreign-index:1"])
def test_an_image_for_other_platforms_only(pull: t.Any, node: Node, ref: str) -> None:
    result = pull(images=[PAUSE, ref])
    assert result.failed and f'"{ref}"' in result["msg"] and PLATFORM in result["msg"] and "platform" in result["msg"], result
    assert actions(result) == {PAUSE: "pulled", ref: "failed"}
    with node.containerd():
        assert node.images() == {PAUSE: True}


# registries that fail

PASSING = [
    Fault("status", "/manifests/", 4, 500, method="*"),
    Fault("status", times=4, status=503),
    Fault("status", "/manifests/", 8, 429, {"Retry-After": "1"}, method="*"),
    Fault("reset", times=2),
    Fault("truncate", times=9),
    Fault("corrupt", times=2),
    Fault("corrupt", "/manifests/sha256", 1),
    Fault("hang", times=1),
]


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: f"{fault.kind}-{fault.status}-{fault.path}")
def test_trouble_that_passes(pull: t.Any, node: Node, registry: FaultyRegistry, fault: Fault) -> None:
    registry.faults.append(Fault(**vars(fault)))
    result = pull(images=[PAUSE], transfer_timeout=3)
    assert not result.failed, (result, registry.requests)
    # containerd itself goes on after some of them
    assert result["images"][0]["attempts"] > (0 if fault.kind in ("reset", "truncate") else 1)
    assert registry.faults[0].times < fault.times
    with node.containerd():
        assert node.images() == {PAUSE: True}
        assert node.ctr("content", "active").splitlines()[1:] == []
        assert node.ctr("leases", "ls", "-q") == ""


LASTING = [
    (Fault("status", "/manifests/", status=500, method="*"), "failed (2 tries): it has trouble of its own (500 Internal Server Error)", 2),
    (Fault("status", status=429), "failed (2 tries): it limits requests (429); wait, give credentials, or use a mirror", 2),
    (Fault("status", "/manifests/", status=401, method="*"), "failed: it wants credentials (401); give or correct them in credentials", 1),
    (Fault("status", "/manifests/", status=403, method="*"), "failed: access is denied (403)", 1),
    (Fault("status", "/manifests/", status=404, method="*"), "failed: it is not there (404); correct the reference", 1),
    (Fault("status", status=404), "failed: it is not there (404)", 1),
    (Fault("reset"), "failed (2 tries): the connection broke off; mend the network or use another mirror", 2),
    (Fault("truncate"), "failed (2 tries): the connection broke off", 2),
    (Fault("corrupt"), "failed (2 tries): what it sent does not match the digest; the registry or a proxy on the way alters images", 2),
    (Fault("hang"), "failed (2 tries): it took longer than 2 s; mend the network, use another mirror or raise transfer_timeout", 2),
]


@pytest.mark.parametrize(("fault", "text", "attempts"), LASTING, ids=[f"{f.kind}-{f.status}-{f.path}" for f, _text, _attempts in LASTING])
def test_trouble_that_lasts(pull: t.Any, node: Node, registry: FaultyRegistry, fault: Fault, text: str, attempts: int) -> None:
    registry.faults.append(Fault(**{**vars(fault), "times": -1}))
    result = pull(images=[PAUSE], retries=1, transfer_timeout=2)
    assert result.failed and f'Pulling "{PAUSE}" for {PLATFORM} from {registry.address} {text}' in result["msg"], result
    assert actions(result) == {PAUSE: "failed"} and result["images"][0]["attempts"] == attempts
    with node.containerd():
        assert node.images() == {}
        assert node.ctr("content", "active").splitlines()[1:] == []
        assert node.ctr("leases", "ls", "-q") == ""
        assert node.ctr("content", "ls", "-q") == ""
    registry.faults.clear()
    assert actions(pull(images=[PAUSE])) == {PAUSE: "pulled"}


def test_a_registry_tells_how_long_to_wait(pull: t.Any, registry: FaultyRegistry) -> None:
    body = json.dumps({"errors": [{"code": "TOOMANYREQUESTS", "message": "retry-after: 2.5s, allowed: 1/second"}]}).encode()
    registry.faults.append(Fault("status", times=20, status=429, headers={"Content-Type": "application/json"}, body=body))
    began = time.monotonic()
    assert pull(images=[PAUSE])["images"][0]["attempts"] > 1
    assert time.monotonic() - began > 2.5


def test_one_failure_does_not_hide_what_came(pull: t.Any, node: Node) -> None:
    refs = [PAUSE, "registry.k8s.io/no:1", "registry.k8s.io/no:2"]
    result = pull(images=refs)
    assert result.failed and 'Pulling "registry.k8s.io/no:1"' in result["msg"] and result["msg"].endswith("(and 1 more, see images)"), result
    assert [image["action"] for image in result["images"]] == ["pulled", "failed", "failed"]
    assert 'Pulling "registry.k8s.io/no:2"' in result["images"][2]["msg"]
    with node.containerd():
        assert node.images() == {PAUSE: True}


def test_hosts_that_cannot_be_reached(pull: t.Any) -> None:
    result = pull(images=[PAUSE], mirrors={"registry.k8s.io": ["http://127.0.0.1:1"]}, retries=0)
    assert f'Pulling "{PAUSE}" for {PLATFORM} from 127.0.0.1:1 failed: the connection was refused; start the registry' in result["msg"]
    result = pull(images=[PAUSE], mirrors={"registry.k8s.io": ["http://nodeforge.invalid"]}, retries=0)
    assert "from nodeforge.invalid failed: " in result["msg"] and ("name of the host is not known" in result["msg"] or "no answer" in result["msg"])


def test_tls_where_there_is_none(pull: t.Any, registry: FaultyRegistry) -> None:
    result = pull(images=[PAUSE], mirrors={"registry.k8s.io": [registry.url.replace("http:", "https:")]})
    assert f"from {registry.address} failed: it speaks plain HTTP; write the mirror's URL with http://" in result["msg"], result


def test_the_second_mirror_steps_in(pull: t.Any, registry: FaultyRegistry) -> None:
    assert pull(images=[PAUSE], mirrors={"registry.k8s.io": ["http://127.0.0.1:1", registry.url]})["changed"]
    result = pull(images=[ETCD], mirrors={"registry.k8s.io": [registry.url, "http://127.0.0.1:1"]}, retries=0)
    assert result["changed"]
    registry.faults.append(Fault("status", "/manifests/", -1, 404, method="*"))
    result = pull(images=["tool"], mirrors={"docker.io": ["http://127.0.0.1:1", registry.url]})
    assert f"from 127.0.0.1:1, {registry.address} failed: it is not there (404)" in result["msg"]


def test_hosts_dir(pull: t.Any, registry: FaultyRegistry, tmp_path: pathlib.Path) -> None:
    (tmp_path / "certs.d" / "registry.k8s.io").mkdir(parents=True)
    (tmp_path / "certs.d" / "registry.k8s.io" / "hosts.toml").write_text(f'server = "{registry.url}"\n')
    assert actions(pull(images=[PAUSE], hosts_dir=str(tmp_path / "certs.d"))) == {PAUSE: "pulled"}
    result = pull(images=["registry.k8s.io/no:1"], hosts_dir=str(tmp_path / "certs.d"))
    assert f'Pulling "registry.k8s.io/no:1" for {PLATFORM} from the hosts of hosts_dir failed: it is not there (404)' in result["msg"], result


# credentials

SECRET = "s3cret-word"


@contextlib.contextmanager
def watched(*where: str) -> t.Iterator[list[str]]:
    """Collects all command lines and environments of this machine that hold the secret, while it lasts."""
    found: list[str] = []
    end = threading.Event()
    encoded = [word.encode() for word in (SECRET, "dXNlcjpzM2NyZXQtd29yZA")]

    def watch() -> None:
        while not end.is_set():
            for process in pathlib.Path("/proc").glob("[0-9]*"):
                for name in where or ("cmdline", "environ"):
                    with contextlib.suppress(OSError):
                        content = (process / name).read_bytes()
                        if any(word in content for word in encoded):
                            found.append(content.decode(errors="replace"))

    thread = threading.Thread(target=watch)
    thread.start()
    yield found
    end.set()
    thread.join()


@pytest.mark.parametrize("bearer", [False, True], ids=["basic", "bearer"])
def test_credentials(pull: t.Any, node: Node, registry: FaultyRegistry, bearer: bool) -> None:
    registry.credentials, registry.bearer = f"user:{SECRET}", bearer
    registry.faults.append(Fault("slow", times=1, seconds=1))
    result = pull(images=[PAUSE])
    assert result.failed and "it wants credentials (401)" in result["msg"]
    wrong = [{"registry": registry.address, "username": "user", "password": "wr0ng"}]
    result = pull(images=[PAUSE], credentials=wrong)
    assert result.failed and ("refused the credentials" in result["msg"] if bearer else "(401)" in result["msg"]), result
    with watched() as seen:
        result = pull(images=[PAUSE], credentials=[{"registry": registry.address, "username": "user", "password": SECRET}])
    assert actions(result) == {PAUSE: "pulled"}, result
    assert seen == []
    told = json.dumps(result) + json.dumps(node.container.attrs)
    for word in (SECRET, "dXNlcjpzM2NyZXQtd29yZA", "token-"):
        assert word not in told
        # neither in a file nor in a database of the container
        assert node.run("grep", "-r", "-l", word, "/run", "/tmp", "/var", "/etc", check=False) == ""
    image = node.container.commit(f"{PREFIX}:committed")
    saved = b"".join(image.save(chunk_size=1 << 20))
    assert SECRET.encode() not in saved and b"dXNlcjpzM2NyZXQtd29yZA" not in saved and b"io.cri-containerd.pinned" in saved


def test_credentials_go_to_their_host_only(pull: t.Any, registry: FaultyRegistry) -> None:
    registry.credentials = f"user:{SECRET}"
    result = pull(images=[PAUSE], credentials=[{"registry": "registry.k8s.io", "username": "user", "password": SECRET}])
    assert result.failed and "(401)" in result["msg"]


@pytest.mark.parametrize("kind", ["auths", "store", "helper"])
def test_credentials_of_docker(pull: t.Any, node: Node, registry: FaultyRegistry, tmp_path: pathlib.Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.credentials, registry.bearer = f"user:{SECRET}", True
    # what the helper is asked, and its answer
    helper = tmp_path / "docker-credential-test"
    helper.write_text(
        f'#!/bin/sh\ngrep SigBlk /proc/self/status >"{tmp_path}/blocked"\nread host\n'
        f'[ "$1 $host" = "get {registry.address}" ] && cat "{tmp_path}/secret" || echo "credentials not found"\n'
    )
    helper.chmod(0o755)
    (tmp_path / "secret").write_text(json.dumps({"ServerURL": registry.address, "Username": "user", "Secret": SECRET}))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    configs = {
        "auths": {"auths": {f"http://{registry.address}/v1/": {"auth": "dXNlcjpzM2NyZXQtd29yZA=="}, "https://index.docker.io/v1/": {}}},
        "store": {"credsStore": "test"},
        "helper": {"credsStore": "none", "credHelpers": {registry.address: "test"}},
    }
    (tmp_path / "config.json").write_text(json.dumps(configs[kind]))
    with watched() as seen:
        result = pull(images=[PAUSE], docker_config=str(tmp_path))
    assert actions(result) == {PAUSE: "pulled"} and "warnings" not in result, result
    assert seen == [] and SECRET not in json.dumps(result)
    # its time limit is a signal, which it gets, while the module's thread that asks it does not
    assert kind == "auths" or int((tmp_path / "blocked").read_text().split()[1], 16) == 0
    assert node.run("grep", "-r", "-l", SECRET, "/run", "/tmp", "/var", "/etc", check=False) == ""
    # given ones go before
    wrong = [{"registry": registry.address, "username": "user", "password": "wr0ng"}]
    assert "refused the credentials" in pull(images=[ETCD], docker_config=str(tmp_path), credentials=wrong)["msg"]


def test_docker_credentials_that_are_of_no_use(pull: t.Any, tmp_path: pathlib.Path, registry: FaultyRegistry) -> None:
    """A warning, not a failure: the registry may need none."""
    for config, text in (
        ("{", "config.json\" cannot be read"),
        ('{"credsStore": "nodeforge-none"}', "docker-credential-nodeforge-none, which "),
        (json.dumps({"auths": {registry.address: {"identitytoken": "x"}}}), f"has an identity token for {registry.address}"),
    ):
        (tmp_path / "config.json").write_text(config)
        result = pull(images=[f"registry.k8s.io/many-{len(text) % 6}:1"], docker_config=str(tmp_path))
        assert not result.failed and text in json.dumps(result["warnings"]).replace("\\", ""), result


def test_passwords_go_only_where_nobody_reads_them(pull: t.Any, registry: FaultyRegistry, far: FaultyRegistry) -> None:
    far.credentials = registry.credentials = f"user:{SECRET}"
    given = [{"registry": host.address, "username": "user", "password": SECRET} for host in (far, registry)]
    result = pull(images=[PAUSE], mirrors=mirrors(far), credentials=given)
    assert result.failed and f'The password of "user" would go to {far.address} without TLS, for all to read: write its URL with https://' in result["msg"]
    assert far.requests == []
    registry.bearer = True
    for realm in ("https://tokens.example.com/token", f"{far.url}/token", "", "nonsense", "file:///etc/passwd"):
        registry.realm = realm or " "
        result = pull(images=[PAUSE], credentials=given[1:])
        assert result.failed and f"{registry.address} sends logins to " in result["msg"] and "name that host in credentials, too" in result["msg"], result
    assert far.requests == [] and SECRET not in json.dumps(result)


def test_only_hosts_that_are_asked_need_a_login(pull: t.Any, registry: FaultyRegistry, far: FaultyRegistry, address: str, tmp_path: pathlib.Path) -> None:
    with socket.socket() as silent:
        silent.bind((address, 0))
        silent.listen()
        mute = f"{address}:{silent.getsockname()[1]}"
        both: Args = {"mirrors": {"registry.k8s.io": [registry.url, f"https://{mute}", far.url]}}
        given = [{"registry": host, "username": "user", "password": "wr0ng"} for host in (mute, far.address)]
        began = time.monotonic()
        result = pull(images=[PAUSE], credentials=given, **both)
        assert actions(result) == {PAUSE: "pulled"} and time.monotonic() - began < 15
    # in their order, each with its own
    both = {"mirrors": {"registry.k8s.io": [far.url, registry.url]}}
    far.faults.append(Fault("status", times=-1, status=404, method="*"))
    registry.credentials, registry.bearer = f"user:{SECRET}", True
    assert actions(pull(images=[ETCD], credentials=[{"registry": registry.address, "username": "user", "password": SECRET}], **both)) == {ETCD: "pulled"}
    result = pull(images=["registry.k8s.io/many-0:1"], credentials=[{"registry": registry.address, "username": "user", "password": "wr0ng"}], **both)
    assert result.failed and f'{registry.address} refused the credentials of the user "user"' in result["msg"], result
    # what docker login left may be old, or for something else: a registry that needs none does without
    far.faults.clear()
    for host in (registry, far):
        auths = {"auths": {host.address: {"auth": base64.b64encode(b"user:old").decode()}}}
        (tmp_path / "config.json").write_text(json.dumps(auths))
        if host is far:
            registry.credentials = ""
        result = pull(images=[f"registry.k8s.io/many-{1 if host is far else 2}:1"], docker_config=str(tmp_path), mirrors=mirrors(host), retries=0)
        assert f"{host.address} is asked without what docker login left in" in json.dumps(result["warnings"]), result
        assert result.failed == (host is registry) and (not result.failed or "(401)" in result["msg"]), result


def test_an_authority_of_ones_own(pull: t.Any, node: Node, layout: Layout, address: str, tmp_path: pathlib.Path) -> None:
    path = certificate(tmp_path, f"IP:{address}")
    with FaultyRegistry(layout, address, path) as registry:
        result = pull(images=[PAUSE], mirrors=mirrors(registry), retries=0)
        assert result.failed and "its certificate is not trusted (" in result["msg"] and "give the authority's certificate in ca_files" in result["msg"], result
        args: Args = {"mirrors": {"registry.k8s.io": ["https://127.0.0.1:1", registry.url]}, "ca_files": {registry.address: str(path)}}
        assert actions(pull(images=[PAUSE], **args)) == {PAUSE: "pulled"}
        # its token service is behind the same authority
        registry.credentials, registry.bearer = f"user:{SECRET}", True
        credentials = [{"registry": registry.address, "username": "user", "password": SECRET}]
        assert actions(pull(images=[ETCD], credentials=credentials, **args)) == {ETCD: "pulled"}
    for given, text in (("/nowhere", "cannot be read: No such file or directory"), (str(tmp_path / "key.pem"), "holds no certificate")):
        result = pull(images=[PAUSE], ca_files={"x": given})
        assert result.failed and text in result["msg"], result


# the cache


def test_the_cache_replaces_the_network(
    pull: t.Any, run_module: t.Any, start: t.Any, base: str, layout: Layout, far: FaultyRegistry, tmp_path: pathlib.Path
) -> None:
    cache = tmp_path / "a" / "cache"
    args = {"images": [ETCD, PAUSE], "cache_dir": str(cache), "mirrors": mirrors(far)}
    assert actions(pull(check=True, **args)) == {ETCD: "pulled", PAUSE: "pulled"}
    assert not cache.exists()
    online = pull(**args)
    assert actions(online) == {ETCD: "pulled", PAUSE: "pulled"} and "warnings" not in online
    assert not [path for path in cache.rglob("*") if path.name.startswith(".new")]
    assert {json.dumps(m["annotations"]) for m in json.loads((cache / "index.json").read_text())["manifests"]}
    assert not pull(**args)["changed"]

    other = start(base, network_mode="none")
    offline = {**args, "container": other.name, "mirrors": {"registry.k8s.io": ["http://127.0.0.1:1"]}, "retries": 0}
    for check in (True, False):
        result = run_module("ctr_image_pull", offline, check=check)
        assert actions(result) == {ETCD: "cached", PAUSE: "cached"}, result
    # the very same images as from the registry, index and all
    assert [image["digest"] for image in result["images"]] == [image["digest"] for image in online["images"]]
    assert [image["size"] for image in result["images"]] == [image["size"] for image in online["images"]]
    with other.containerd():
        assert other.images() == {ETCD: True, PAUSE: True}
    assert not run_module("ctr_image_pull", offline)["changed"]
    assert other.leftovers() == []

    # damaged on disk, with its size kept: dropped and pulled anew
    manifest = json.loads(layout.find("pause", "manifests", "3.10") or b"")
    blob = cache / "blobs" / "sha256" / manifest["layers"][0]["digest"][7:]
    content = blob.read_bytes()
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    third = start(base)
    result = run_module("ctr_image_pull", {**offline, "container": third.name})
    assert result.failed and actions(result) == {ETCD: "cached", PAUSE: "failed"}
    assert not blob.exists()
    result = run_module("ctr_image_pull", {**offline, "container": third.name, "mirrors": {}, "images": [ETCD]})
    assert not result["changed"]
    result = run_module("ctr_image_pull", {**offline, "container": third.name, "mirrors": mirrors(far)})
    assert actions(result) == {ETCD: "present", PAUSE: "pulled"}
    assert blob.read_bytes() == content


def test_a_damaged_cache_is_told(pull: t.Any, node: Node, tmp_path: pathlib.Path, start: t.Any, base: str, run_module: t.Any, far: FaultyRegistry) -> None:
    args = {"images": [PAUSE], "cache_dir": str(tmp_path / "cache"), "mirrors": mirrors(far)}
    pull(**args)
    largest = max((tmp_path / "cache" / "blobs").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    largest.write_bytes(bytes(largest.stat().st_size))
    result = run_module("ctr_image_pull", {**args, "container": start(base).name})
    assert actions(result) == {PAUSE: "pulled"}
    assert result["actions"] == [f"Dropped the damaged blob sha256:{largest.name} of image {PAUSE} from the cache", f"Pulled image {PAUSE}"]
    # a list of images that makes no sense is an empty one, in whole or in part
    (tmp_path / "cache" / "index.json").write_text('{"manifests": [3, {"annotations": []}, {"annotations": "x"}]}')
    assert actions(run_module("ctr_image_pull", {**args, "container": start(base).name})) == {PAUSE: "pulled"}
    (tmp_path / "cache" / "index.json").write_text("{")
    assert actions(run_module("ctr_image_pull", {**args, "container": start(base).name})) == {PAUSE: "pulled"}


def test_check_mode_makes_no_cache(pull: t.Any, tmp_path: pathlib.Path) -> None:
    assert pull(check=True, images=[PAUSE], cache_dir=str(tmp_path))["changed"]
    assert list(tmp_path.iterdir()) == []


def test_a_loopback_address_is_the_containers_own(
    run_module: t.Any, start: t.Any, base: str, registry: FaultyRegistry, far: FaultyRegistry, tmp_path: pathlib.Path
) -> None:
    """A container with a network of its own does not reach this machine's: that an image is there is of no use."""
    node = start(base, network_mode="bridge")
    args: Args = {"container": node.name, "images": [PAUSE], "cache_dir": str(tmp_path), "retry_delay": 0.05, "retries": 0}
    result = run_module("ctr_image_pull", {**args, "mirrors": mirrors(registry), "offline": True})
    assert result.failed and f"With offline, {PAUSE} is missing" in result["msg"], result
    result = run_module("ctr_image_pull", {**args, "mirrors": {"registry.k8s.io": [registry.url, far.url]}})
    assert actions(result) == {PAUSE: "pulled"}, result
    assert registry.requests == [] and (tmp_path / "index.json").exists()
    result = run_module("ctr_image_pull", {**args, "container": start(base, network_mode="bridge").name, "mirrors": mirrors(registry)})
    assert actions(result) == {PAUSE: "cached"}, result


def test_where_this_machines_registry_fails_the_others_are_asked(
    pull: t.Any, start: t.Any, base: str, registry: FaultyRegistry, far: FaultyRegistry, tmp_path: pathlib.Path
) -> None:
    registry.faults.append(Fault("status", "/blobs/", times=-1, status=404))
    args: Args = {"images": [PAUSE], "cache_dir": str(tmp_path)}
    assert pull(**args, offline=True).failed
    assert actions(pull(**args, mirrors={"registry.k8s.io": [registry.url, far.url]})) == {PAUSE: "pulled"}
    assert [request for request in far.requests if "/blobs/" in request]
    # what came from another machine is kept, and is there for the next time
    far.requests.clear()
    assert actions(pull(**args, container=start(base).name)) == {PAUSE: "cached"}
    assert far.requests == []


def test_what_this_machine_serves_is_not_cached(pull: t.Any, registry: FaultyRegistry, far: FaultyRegistry, tmp_path: pathlib.Path) -> None:
    args = {"images": [ETCD, PAUSE], "cache_dir": str(tmp_path), "mirrors": {"registry.k8s.io": [registry.url, far.url]}}
    registry.faults.append(Fault("status", "/etcd/manifests/", -1, 404, method="*"))
    assert actions(pull(**args)) == {ETCD: "pulled", PAUSE: "pulled"}
    names = [m["annotations"]["org.opencontainers.image.ref.name"] for m in json.loads((tmp_path / "index.json").read_text())["manifests"]]
    assert names == [ETCD]
    # nor is another machine asked for it, not even for a token
    assert not [request for request in far.requests if "/pause/" in request]


def test_a_registry_of_this_machine_that_wants_a_password(pull: t.Any, registry: FaultyRegistry, tmp_path: pathlib.Path) -> None:
    registry.credentials, registry.bearer = f"user:{SECRET}", True
    args = {"images": [PAUSE], "offline": True, "cache_dir": str(tmp_path)}
    assert f"With offline, {PAUSE} is missing" in pull(**args)["msg"]
    assert f"With offline, {PAUSE} is missing" in pull(**args, credentials=[{"registry": registry.address, "username": "user", "password": "wr0ng"}])["msg"]
    assert actions(pull(**args, credentials=[{"registry": registry.address, "username": "user", "password": SECRET}])) == {PAUSE: "pulled"}
    assert not (tmp_path / "index.json").exists()


def test_offline(
    pull: t.Any, node: Node, registry: FaultyRegistry, far: FaultyRegistry, archive: t.Any, tmp_path: pathlib.Path, start: t.Any, base: str
) -> None:
    """Other machines are not asked; all that is missing is named at once, before anything has come."""
    args: Args = {"images": [ETCD, PAUSE, "tool", KUBE_PROXY], "archives": [archive(KUBE_PROXY)], "offline": True}
    args.update(cache_dir=str(tmp_path / "cache"), mirrors={"registry.k8s.io": [far.url], "docker.io": [registry.url]})
    began = time.monotonic()
    for check in (True, False):
        result = pull(check=check, **args)
        assert result.failed and f"With offline, {ETCD}, {PAUSE} are missing for {PLATFORM}, neither in the cache" in result["msg"], result
    assert time.monotonic() - began < 10
    # the others have neither come nor failed
    assert actions(result) == dict.fromkeys([ETCD, PAUSE], "failed")
    assert far.requests == []
    with node.containerd():
        assert node.images() == {}
    assert pull(**{**args, "offline": False})["changed"]
    far.requests.clear()
    expected = {ETCD: "cached", PAUSE: "cached", HUB: "pulled", KUBE_PROXY: "imported"}
    assert actions(pull(**{**args, "container": start(base).name})) == expected
    assert far.requests == []


def test_the_second_run_needs_no_registry(pull: t.Any, layout: Layout, address: str, tmp_path: pathlib.Path, start: t.Any, base: str) -> None:
    with FaultyRegistry(layout, address) as far:
        args = {"images": [ETCD, PAUSE, "tool"], "cache_dir": str(tmp_path), "mirrors": mirrors(far)}
        assert pull(**args)["changed"]
    assert set(actions(pull(**{**args, "container": start(base).name})).values()) == {"cached"}


# the engine's own images


def test_images_of_the_engine(pull: t.Any, node: Node, client: docker.DockerClient, archive: t.Any, tmp_path: pathlib.Path) -> None:
    short = f"{PREFIX}-app:1"
    full = f"docker.io/library/{short}"
    small_base.load(client, short, {"app": (b"one" * 1000000, 0o755)})
    args = {"archives": [{"engine": short}, {"engine": short, "ref": "example.com/other:1"}], "images": [short]}
    assert actions(pull(check=True, **args)) == {full: "imported", "example.com/other:1": "imported"}
    result = pull(**args)
    assert actions(result) == {full: "imported", "example.com/other:1": "imported"}
    assert f"Imported image {full} from the engine" in result["actions"]
    with node.containerd():
        assert node.images() == {full: True, "example.com/other:1": True}
    assert not pull(**args)["changed"]
    # as docker save names it in a file of its own
    saved = tmp_path / "saved.tar"
    saved.write_bytes(b"".join(client.images.get(short).save(named=True)))
    assert not pull(archives=[str(saved)])["changed"]
    # built anew
    wanted = client.images.get(short).id
    small_base.load(client, short, {"app": (b"two", 0o755)})
    result = pull(archives=[{"engine": short, "id": wanted}])
    assert result.failed and f'The image "{full}" in the engine has another id than the one that is wanted ({wanted})' in result["msg"]
    assert actions(pull(archives=[{"engine": short}])) == {full: "imported"}
    with node.containerd():
        manifest = json.loads(node.ctr("content", "get", next(line.split()[2] for line in node.ctr("images", "ls").splitlines() if full in line)))
    assert manifest["config"]["digest"] == client.images.get(short).id


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"engine": f"{PREFIX}-none:1"}, f'The image "docker.io/library/{PREFIX}-none:1" is not in the engine at '),
        ({"engine": f"x@sha256:{'0' * 64}"}, "is named by a digest, which its export does not keep: name it by its tag"),
        ({"engine": "sha256:" + "0" * 64}, "is an id, not a reference"),
        ({"engine": 3}, "archives holds {'engine': 3}: give paths, or dictionaries with path (or engine)"),
        ({"engine": f"{PREFIX}-foreign:1"}, f"in the engine is for linux/{FOREIGN}, not for {PLATFORM}: build it for that platform"),
    ],
)
def test_bad_images_of_the_engine(pull: t.Any, client: docker.DockerClient, entry: Args, text: str) -> None:
    small_base.load(client, f"{PREFIX}-foreign:1", {"app": (b"x", 0o755)}, FOREIGN)
    result = pull(archives=entry)
    assert result.failed and text in result["msg"], result


# proxies


def test_proxies(run_module: t.Any, node: Node, registry: FaultyRegistry, tmp_path: pathlib.Path) -> None:
    args = {"container": node.name, "images": [PAUSE], "mirrors": {"registry.k8s.io": ["http://registry.test"]}, "retries": 0}
    with Proxy(registry.address, SECRET) as proxy:
        env = {"HTTP_PROXY": proxy.url, "http_proxy": "", "NO_PROXY": "", "no_proxy": ""}
        result = run_module("ctr_image_pull", args, env={**env, "HTTP_PROXY": f"http://{proxy.address}"})
        assert result.failed and "the proxy on the way does not let it through; correct HTTPS_PROXY or NO_PROXY" in result["msg"], result
        with watched("cmdline") as seen:
            result = run_module("ctr_image_pull", args, env=env)
        assert actions(result) == {PAUSE: "pulled"}, result
        assert seen == [] and SECRET not in json.dumps(result)
        assert any(path.startswith("http://registry.test/v2/pause/blobs/") for path in proxy.requests)
    # it was for the pull only
    assert "PROXY" not in json.dumps(node.container.attrs).upper()
    assert node.run("grep", "-r", "-l", SECRET, "/run", "/tmp", "/var", "/etc", check=False) == ""
    dead = {"HTTPS_PROXY": "http://127.0.0.1:1", "https_proxy": ""}
    result = run_module("ctr_image_pull", {**args, "images": [ETCD], "mirrors": {}}, env=dead)
    assert result.failed and "from registry.k8s.io failed: the proxy on the way does not let it through" in result["msg"], result
    # a registry of this machine is never asked by way of it
    assert run_module("ctr_image_pull", {**args, "images": [ETCD], "mirrors": mirrors(registry)}, env={**dead, "HTTP_PROXY": "http://127.0.0.1:1"})["changed"]


def test_a_proxy_for_tls(run_module: t.Any, node: Node, layout: Layout, tmp_path: pathlib.Path) -> None:
    """The usual case: a registry far away, a tunnel that wants a password, credentials, and an authority of one's own."""
    path = certificate(tmp_path, "DNS:registry.test")
    with FaultyRegistry(layout, certificate=path) as registry, Proxy(registry.address, SECRET) as proxy:
        registry.credentials, registry.bearer, registry.realm = "user:other-word", True, "https://registry.test/token"
        args = {
            "container": node.name,
            "images": [PAUSE],
            "mirrors": {"registry.k8s.io": ["https://registry.test"]},
            "ca_files": {"registry.test": str(path)},
            "credentials": [{"registry": "registry.test", "username": "user", "password": "other-word"}],
        }
        env = {"HTTPS_PROXY": proxy.url, "https_proxy": proxy.url, "NO_PROXY": "", "no_proxy": ""}
        with watched("cmdline") as seen:
            result = run_module("ctr_image_pull", args, env=env)
        assert actions(result) == {PAUSE: "pulled"}, result
        assert seen == [] and set(proxy.requests) == {"registry.test:443"}
        result = run_module("ctr_image_pull", {**args, "images": [ETCD]}, env={**env, "NO_PROXY": "registry.test", "no_proxy": "registry.test"})
        assert result.failed and "from registry.test failed" in result["msg"], result


# containers


def test_a_container_that_is_not_there(run_module: t.Any, registry: FaultyRegistry) -> None:
    args = {"container": f"{PREFIX}-none", "images": [PAUSE], "mirrors": mirrors(registry)}
    result = run_module("ctr_image_pull", args)
    assert result.failed and f'There is no container "{PREFIX}-none"' in result["msg"] and "images" not in result
    assert actions(run_module("ctr_image_pull", args, check=True)) == {PAUSE: "pulled"}


def test_a_container_without_containerd(run_module: t.Any, client: docker.DockerClient, start: t.Any) -> None:
    bare = make_base(client, "bare", None)
    node = start(bare)
    result = run_module("ctr_image_pull", {"container": node.name, "images": [PAUSE]})
    assert result.failed and f'The container "{node.name}" has no containerd' in result["msg"] and bare in result["msg"], result
    node.container.stop(timeout=0)
    result = run_module("ctr_image_pull", {"container": node.name, "images": [PAUSE]})
    assert result.failed and "does not run (exited)" in result["msg"], result


def test_a_containerd_that_does_not_start(pull: t.Any, node: Node) -> None:
    node.run("sh", "-c", "echo 'nonsense = [' >/etc/containerd/config.toml")
    result = pull(images=[PAUSE])
    assert result.failed and f'containerd does not start in the container "{node.name}": ' in result["msg"], result
    assert "toml" in result["msg"] and result["msg"].count("\n") == 0, result


def test_a_full_disk(run_module: t.Any, start: t.Any, base: str, registry: FaultyRegistry, tmp_path: pathlib.Path) -> None:
    node = start(base, tmpfs={"/run": "", "/tmp": "", "/var/lib/containerd": "size=3m"})
    big = tmp_path / "big.tar"
    write_big_archive(big, "example.com/big:1", 8)
    began = time.monotonic()
    result = run_module("ctr_image_pull", {"container": node.name, "archives": [str(big)], "images": [PAUSE], "mirrors": mirrors(registry)})
    assert result.failed and time.monotonic() - began < 15
    assert f'Importing the image archive "{big}" failed: the disk of the container engine is full; free space' in json.dumps(result["images"]).replace("\\", "")
    assert node.leftovers() == []
    # and once there is space again, it goes on
    node.container.exec_run(["rm", "-rf", "/var/lib/containerd/io.containerd.content.v1.content/ingest"])
    assert not run_module("ctr_image_pull", {"container": node.name, "images": [PAUSE], "mirrors": mirrors(registry)}).failed


def test_a_containerd_left_by_a_killed_run_is_ended(run_module: t.Any, node: Node, registry: FaultyRegistry) -> None:
    registry.faults.append(Fault("hang", times=1, seconds=30))
    args = {"container": node.name, "images": [PAUSE], "mirrors": mirrors(registry)}
    process = run_module("ctr_image_pull", args, popen=True)
    wait_for(lambda: any("/blobs/" in request for request in registry.requests))
    process.kill()
    process.wait()
    assert any(p.startswith("containerd") for p in node.processes())
    assert run_module("ctr_image_pull", args)["changed"]
    wait_for(lambda: node.leftovers() == [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("running", [False, True], ids=["started", "running"])
def test_an_interrupt(
    run_module: t.Any, node: Node, registry: FaultyRegistry, signals_reach_main: t.Callable[[int], int], number: int, running: bool
) -> None:
    registry.faults.append(Fault("hang", times=-1, seconds=30))
    args = {"container": node.name, "images": [PAUSE, ETCD], "mirrors": mirrors(registry)}
    with node.containerd() if running else contextlib.nullcontext():
        process = run_module("ctr_image_pull", args, popen=True)
        wait_for(lambda: sum("/blobs/" in request for request in registry.requests) >= 2)
        assert signals_reach_main(process.pid) >= 2
        began = time.monotonic()
        process.send_signal(number)
        out = process.stdout.read()
        process.wait()
        assert time.monotonic() - began < 8
        result = json.loads(out.strip().splitlines()[-1])
        assert result["failed"] and result["msg"].startswith(f"Interrupted by {signal.Signals(number).name}"), result
        assert actions(result) == {PAUSE: "failed", ETCD: "failed"}
        assert not [p for p in node.processes() if p.startswith(("ctr", "timeout"))]
        if running:
            assert node.images() == {}
    assert node.leftovers() == []
    registry.faults.clear()
    assert not run_module("ctr_image_pull", args).failed
    with node.containerd():
        assert node.images() == {PAUSE: True, ETCD: True}


def test_an_interrupted_import(run_module: t.Any, node: Node, tmp_path: pathlib.Path) -> None:
    big = tmp_path / "big.tar"
    write_big_archive(big, "example.com/big:1", 512)
    process = run_module("ctr_image_pull", {"container": node.name, "archives": [str(big)]}, popen=True)
    wait_for(lambda: "tar-layer.tar" in node.run("sh", "-c", "cat /var/lib/containerd/*content*/ingest/*/ref; exit 0"))
    began = time.monotonic()
    process.terminate()
    assert json.loads(process.stdout.read().strip().splitlines()[-1])["msg"].startswith("Interrupted by SIGTERM")
    assert time.monotonic() - began < 8
    assert node.leftovers() == []
    # not a half of it is in the container's way
    assert node.run("find", "/var/lib/containerd/io.containerd.content.v1.content/ingest", "-mindepth", "1") == ""


def test_an_import_that_takes_too_long(pull: t.Any, node: Node, tmp_path: pathlib.Path) -> None:
    big = tmp_path / "big.tar"
    write_big_archive(big, "example.com/big:1", 512)
    result = pull(archives=[str(big)], transfer_timeout=1)
    assert f'Importing the image archive "{big}" failed: it took longer than 1 s; raise transfer_timeout' in result["msg"], result
    with node.containerd():
        assert node.images() == {} and node.ctr("content", "ls", "-q") == ""


def wait_for(condition: t.Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


# memory


def write_big_archive(path: pathlib.Path, reference: str, megabytes: int) -> None:
    """A docker archive whose only layer has this size; what does not compress, made without holding it."""
    config = small_base.image_config(b"", ARCH, {})
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"]}]).encode()
    block = os.urandom(1024 * 1024)
    with open(path, "wb") as file:
        for name, content in (("config.json", config), ("manifest.json", manifest)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.write(info.tobuf() + content + bytes(-len(content) % 512))
        info = tarfile.TarInfo("layer.tar")
        info.size = megabytes * len(block)
        file.write(info.tobuf())
        for __ in range(megabytes):
            file.write(block)
        file.write(bytes(1024))


def test_memory_stays_flat(run_module: t.Any, peak_memory: t.Any, node: Node, layout: Layout, tmp_path: pathlib.Path, registry: FaultyRegistry) -> None:
    big = tmp_path / "big.tar"
    write_big_archive(big, "example.com/big:1", 1024)
    process = run_module("ctr_image_pull", {"container": node.name, "archives": [str(big)]}, popen=True)
    out, peak = peak_memory(process)
    big.unlink()
    assert actions(json.loads(out.strip().splitlines()[-1])) == {"example.com/big:1": "imported"}, out
    assert 20 * 1024 < peak < 150 * 1024, f"{peak} KB"


# layouts, and containers that do not run


@pytest.fixture(scope="session")
def importer() -> str:
    return small_base.importer()


@pytest.fixture
def laid_out(pull: t.Any, far: FaultyRegistry, tmp_path: pathlib.Path) -> str:
    """An image layout with two images: what a cache is."""
    pull(images=[ETCD, PAUSE], cache_dir=str(tmp_path / "layout"), mirrors=mirrors(far))
    return str(tmp_path / "layout")


@pytest.fixture
def stopped(client: docker.DockerClient, base: str) -> t.Iterator[Node]:
    """A container that was never started, as a build container of kind_node_prepare with start=false."""
    container = client.containers.create(base, ["sleep", "3600"], name=f"{PREFIX}-stopped", tmpfs={"/run": "", "/tmp": ""}, network_mode="host")
    yield Node(container)
    container.remove(force=True, v=True)


def status(node: Node) -> str:
    node.container.reload()
    return node.container.status


def changes(node: Node) -> list[str]:
    return [change["Path"] for change in node.container.diff() or [] if "/containerd/" in change["Path"]]


def blobs(node: Node) -> set[str]:
    """The content that a container has and its image has not."""
    return {path.rpartition("/")[2] for path in changes(node) if "/blobs/sha256/" in path}


def test_layouts_go_before_registries(start: t.Any, base: str, laid_out: str, run_module: t.Any, tmp_path: pathlib.Path) -> None:
    node = start(base, network_mode="none")
    args = {"container": node.name, "images": [ETCD, PAUSE], "layouts": [laid_out]}
    assert actions(run_module("ctr_image_pull", args, check=True)) == {ETCD: "imported", PAUSE: "imported"}
    first = run_module("ctr_image_pull", args)
    assert actions(first) == {ETCD: "imported", PAUSE: "imported"}
    assert first["actions"] == [f"Imported image {ref} from {laid_out}" for ref in (ETCD, PAUSE)]
    assert not run_module("ctr_image_pull", args)["changed"]
    with node.containerd():
        assert node.images() == {ETCD: True, PAUSE: True}
    assert 'The directory "/proc" of layouts cannot be read' in run_module("ctr_image_pull", {**args, "layouts": ["/proc"]})["msg"]
    (tmp_path / "index.json").write_text("[]")
    assert "its index.json lists no manifests" in run_module("ctr_image_pull", {**args, "layouts": [str(tmp_path)]})["msg"]


def test_a_container_that_does_not_run_is_filled(
    run_module: t.Any, pull: t.Any, node: Node, stopped: Node, laid_out: str, archive: t.Any, tmp_path: pathlib.Path, importer: str, layout: Layout
) -> None:
    """The images are those that containerd itself imports, and the container is not even started."""
    path = archive(f"registry.k8s.io/kube-proxy-{ARCH}:v1.37.2")
    os.rename(laid_out, tmp_path / "cache")
    digest = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    # as skopeo writes them
    other = tmp_path / "oci.tar"
    other.write_bytes(layout.archive(PAUSE, {"org.opencontainers.image.ref.name": "1"}))
    args: Args = {
        "images": [ETCD, KUBE_PROXY, "example.com/b:1", PAUSE],
        "archives": [
            {"path": path, "sha256": digest},
            {"path": archive(None, 8, name="b.tar"), "ref": "example.com/b:1"},
            {"path": str(other), "ref": "example.com/c:1"},
        ],
        "cache_dir": str(tmp_path / "cache"),
        "importer": importer,
    }
    come = {ETCD: "cached", KUBE_PROXY: "imported", "example.com/b:1": "imported", PAUSE: "cached", "example.com/c:1": "imported"}
    here = {"container": stopped.name, **args}
    predicted = run_module("ctr_image_pull", here, check=True, diff=True)
    assert predicted["changed"] and actions(predicted) == come and changes(stopped) == []
    first = run_module("ctr_image_pull", here, diff=True)
    assert first["changed"] and actions(first) == come and status(stopped) == "created"
    assert [action.replace("Imported", "Would import").partition(" from ")[0] for action in first["actions"]] == [
        action.partition(" from ")[0] for action in predicted["actions"]
    ]
    # a containerd that runs has been given the same, but that it leaves plain layers of docker archives as they are
    by_ctr, ours = ({image["ref"]: image for image in result["images"]} for result in (pull(**args), first))
    packed = {KUBE_PROXY, "example.com/b:1"}
    for told in ("digest", "size"):
        assert {ref for ref in come if by_ctr[ref][told] != ours[ref][told]} == packed

    stopped.container.start()
    assert not run_module("ctr_image_pull", here)["changed"]
    with stopped.containerd(), node.containerd():
        assert stopped.images() == dict.fromkeys(come, True)
        complete = [line for line in stopped.ctr("images", "check").splitlines()[1:] if "complete (" in line]
        assert len([line for line in complete if not line.startswith("sha256:")]) == len(come)
        # nothing that the other one does not have, labels of its garbage collector among it
        listed = [sorted(line.split() for line in one.ctr("content", "ls").splitlines()[1:]) for one in (stopped, node)]
        contents = [{(line[0], line[1], labels) for line in lines for labels in line[-1].split(",") if "gc.ref" in labels} for lines in listed]
        more = {digest for digest, _size, _labels in contents[0] - contents[1]}
        assert more == {ours[ref]["digest"] for ref in packed} and len(contents[0]) > len(more)
        for ref in packed:
            mine, others = (json.loads(one.ctr("content", "get", told[ref]["digest"])) for one, told in ((stopped, ours), (node, by_ctr)))
            assert mine["config"]["digest"] == others["config"]["digest"]
            assert [layer["mediaType"].rpartition("+")[2] for layer in mine["layers"]] == ["zstd"] * len(others["layers"])


def test_one_of_another_platform_is_filled(
    run_module: t.Any, client: docker.DockerClient, node: Node, archive: t.Any, laid_out: str, importer: str, layout: Layout
) -> None:
    """Nothing of that platform is run; a containerd of this one finds it complete."""
    foreign = small_base.load(
        client,
        f"{PREFIX}:foreign",
        {"etc/containerd": 0o755, "etc/containerd/config.toml": (b'version = 2\nroot = "/var/lib/other"\n', 0o644), "bin/sleep": (b"x", 0o755)},
        arch=FOREIGN,
    )
    container = client.containers.create(foreign, ["sleep", "1"], name=f"{PREFIX}-foreign", platform=f"linux/{FOREIGN}")
    try:
        path = archive(f"registry.k8s.io/kube-proxy-{FOREIGN}:v1.37.2", arch=FOREIGN)
        args = {"container": container.name, "images": [KUBE_PROXY], "archives": [path], "importer": importer, "platform": f"linux/{FOREIGN}"}
        assert actions(run_module("ctr_image_pull", args)) == {KUBE_PROXY: "imported"}
        # the layout has etcd for this platform only, so the container would have to run
        failed = run_module("ctr_image_pull", {**args, "images": [ETCD], "archives": []})["msg"]
        assert "has to run" in failed and "give all as archives or layouts" in failed
        stream, dummy = container.get_archive("/var/lib/other")
        node.run("rm", "-rf", "/var/lib/containerd")
        node.container.put_archive("/var/lib", b"".join(stream))
        node.run("mv", "/var/lib/other", "/var/lib/containerd")
        with node.containerd():
            assert node.images() == {KUBE_PROXY: True}
            assert f"linux/{FOREIGN}" in node.ctr("images", "ls")
            assert node.ctr("images", "export", "--platform", f"linux/{FOREIGN}", "/tmp/x.tar", KUBE_PROXY) == ""
    finally:
        container.remove(force=True)


def test_what_a_lower_layer_has_is_left_there(
    run_module: t.Any, client: docker.DockerClient, pull: t.Any, node: Node, stopped: Node, laid_out: str, archive: t.Any, importer: str
) -> None:
    """Only what is new goes into the container of an image that has images already, and it need not run either."""
    old, other = archive(KUBE_PROXY, 8, name="old.tar"), archive("example.com/b:1", 9, name="b.tar")
    first: Args = {"images": [PAUSE], "archives": [old, other], "layouts": [laid_out], "importer": importer}
    below = {image["ref"]: image for image in run_module("ctr_image_pull", {"container": stopped.name, **first})["images"]}
    stopped.container.commit(f"{PREFIX}", "filled")
    container = client.containers.create(f"{PREFIX}:filled", ["sleep", "3600"], name=f"{PREFIX}-upper", tmpfs={"/run": "", "/tmp": ""}, network_mode="host")
    try:
        upper = Node(container)
        args: Args = {**first, "images": [PAUSE, ETCD], "archives": [archive(KUBE_PROXY, 10, name="new.tar"), other], "container": upper.name}
        come = {PAUSE: "present", ETCD: "imported", KUBE_PROXY: "imported", "example.com/b:1": "present"}
        predicted = run_module("ctr_image_pull", args, check=True, diff=True)
        assert predicted["changed"] and actions(predicted) == come and container.diff() is None
        made = run_module("ctr_image_pull", args, diff=True)
        assert made["changed"] and actions(made) == come and status(upper) == "created"
        digests = {image["ref"]: image["digest"] for image in made["images"]}
        assert all((image["size"] is None) == (image["action"] == "present") for image in made["images"])
        assert made["diff"]["before"]["images"][KUBE_PROXY]["digest"] == below[KUBE_PROXY]["digest"] != digests[KUBE_PROXY]
        assert digests[PAUSE] == below[PAUSE]["digest"] and digests["example.com/b:1"] == below["example.com/b:1"]["digest"]
        new = blobs(upper)
        assert not new & blobs(stopped) and digests[ETCD].partition(":")[2] in new
        for check in (True, False):
            again = run_module("ctr_image_pull", args, check=check)
            assert not again["changed"] and set(actions(again).values()) == {"present"} and status(upper) == "created"
        by_ctr = {image["ref"]: image["digest"] for image in pull(images=[PAUSE, ETCD], archives=args["archives"], layouts=[laid_out])["images"]}
        assert {ref for ref in come if digests[ref] != by_ctr[ref]} == {KUBE_PROXY, "example.com/b:1"}
        with node.containerd():
            of_ctr = {digest.partition(":")[2] for digest in node.ctr("content", "ls", "-q").split()}
        container.start()
        with upper.containerd():
            assert upper.images() == dict.fromkeys(come, True)
            packed = json.loads(upper.ctr("content", "get", digests[KUBE_PROXY]))["layers"]
            assert new - of_ctr == {digest.partition(":")[2] for digest in (digests[KUBE_PROXY], *(layer["digest"] for layer in packed))}
            complete = [line for line in upper.ctr("images", "check").splitlines()[1:] if "complete (" in line]
            assert len([line for line in complete if not line.startswith("sha256:")]) == len(come)
        assert not run_module("ctr_image_pull", args)["changed"]
    finally:
        container.remove(force=True)


def test_it_is_started_where_something_has_to_be_pulled(
    run_module: t.Any, stopped: Node, registry: FaultyRegistry, archive: t.Any, importer: str
) -> None:
    args = {
        "container": stopped.name,
        "images": [PAUSE],
        "archives": [archive(f"registry.k8s.io/kube-proxy-{ARCH}:v1.37.2")],
        "importer": importer,
        "mirrors": mirrors(registry),
    }
    for check, state in ((True, "created"), (False, "running")):
        assert actions(run_module("ctr_image_pull", args, check=check)) == {PAUSE: "pulled", KUBE_PROXY: "imported"}
        assert status(stopped) == state
    assert not run_module("ctr_image_pull", args)["changed"]


def test_a_container_that_does_not_run_and_bad_input(
    run_module: t.Any, stopped: Node, laid_out: str, archive: t.Any, importer: str, tmp_path: pathlib.Path
) -> None:
    path = archive(f"registry.k8s.io/kube-proxy-{ARCH}:v1.37.2")
    good: Args = {"container": stopped.name, "images": [PAUSE], "archives": [path], "layouts": [laid_out], "importer": importer}
    assert "does not run (created)" in run_module("ctr_image_pull", {**good, "importer": None})["msg"]
    assert 'The importer "/no/such" is no program' in run_module("ctr_image_pull", {**good, "importer": "/no/such"})["msg"]
    changed = run_module("ctr_image_pull", {**good, "archives": [{"path": path, "sha256": "0" * 64}]})
    assert f'"{path}"' in changed["msg"] and "its sha256 any more; build or fetch it again" in changed["msg"]
    assert {image["msg"] for image in changed["images"]} == {changed["msg"]}
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(0o755)
    late = run_module("ctr_image_pull", {**good, "importer": str(slow), "transfer_timeout": 1})
    assert "took longer than 1 s: raise transfer_timeout" in late["msg"]
    for blob in pathlib.Path(laid_out, "blobs/sha256").iterdir():
        if not blob.read_bytes().startswith(b"{"):
            blob.write_bytes(bytes(blob.stat().st_size))
    damaged = run_module("ctr_image_pull", good)["msg"]
    assert laid_out in damaged and PAUSE in damaged and "\n" not in damaged
    assert changes(stopped) == [] and status(stopped) == "created"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_while_it_is_filled(
    run_module: t.Any, stopped: Node, tmp_path: pathlib.Path, number: signal.Signals, archive: t.Any
) -> None:
    """The importer ends with the module, and nothing has come."""
    slow = tmp_path / "slow"
    slow.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\nexec sleep 600\n")
    slow.chmod(0o755)
    path = archive(f"registry.k8s.io/kube-proxy-{ARCH}:v1.37.2")
    process = run_module("ctr_image_pull", {"container": stopped.name, "archives": [path], "importer": str(slow)}, popen=True)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    assert f"Interrupted by {number.name}" in json.loads(process.stdout.read())["msg"]
    assert process.wait() != 0
    importer = pathlib.Path("/proc", (tmp_path / "pid").read_text().strip())
    deadline = time.monotonic() + 30
    while importer.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert changes(stopped) == []
