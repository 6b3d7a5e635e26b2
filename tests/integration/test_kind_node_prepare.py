# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""kind_node_prepare against the real engine: small bases of this machine's own files, so nothing has to be pulled."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import typing as t

import docker
import pytest
import small_base
from small_base import ARCH, FOREIGN, PLATFORM

PREFIX = f"nodeforge-test-d{os.getpid()}"
BASE = f"{PREFIX}:base"
# Under emulation nothing runs here: what pretends to be of the other platform is a script.
KUBEADM = """#!/bin/sh
if [ "$5" != v1.37.2 ]; then echo "version \\"$5\\" is unknown here" >&2; exit 1; fi
for i in kube-apiserver:v1.37.2 pause:3.10.2 etcd:3.7.0-0; do echo "registry.k8s.io/$i"; done
"""
CREATED = "org.opencontainers.image.created"
LABELS = {"org.opencontainers.image.revision": "of the base", "io.nodeforge.fingerprint": "of the base"}
REQUIRED = ["registry.k8s.io/kube-apiserver:v1.37.2", "registry.k8s.io/etcd:3.7.0-0", "localhost/pause:1"]


@pytest.fixture(scope="module")
def client() -> t.Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    small_base.remove_all(client, PREFIX)
    client.close()


@pytest.fixture(scope="module")
def base(client: docker.DockerClient) -> str:
    return small_base.load(client, BASE, small_base.node_base(), Entrypoint=["/usr/local/bin/entrypoint", "/sbin/init"], Labels=LABELS)


@pytest.fixture
def args(base: str, tmp_path: pathlib.Path, client: docker.DockerClient) -> t.Iterator[dict[str, t.Any]]:
    """Options that work, of their own for each test; afterwards none of its containers may be left by itself."""
    for name in ("kubeadm", "kubectl", "kubelet"):
        path = tmp_path / name
        path.write_text(KUBEADM if name == "kubeadm" else f"#!/bin/sh\necho {name} {tmp_path}\n")
        path.chmod(0o755)
    (tmp_path / "cni.yaml").write_text("- image: docker.io/test/netd:v1\n- image: {{ .Other }}\n")
    (tmp_path / "storage.yaml").write_text("- {name: x, image: 'docker.io/test/storage:v1'}\n")
    (tmp_path / "kube-apiserver.tar").write_bytes(small_base.archive(f"registry.k8s.io/kube-apiserver-{ARCH}:v1.37.2", {"x": (b"", 0o755)}))
    yield {
        "name": f"{PREFIX}-{tmp_path.name}",
        "image": base,
        "version": "v1.37.2",
        "binaries": {name: str(tmp_path / name) for name in ("kubeadm", "kubectl", "kubelet")},
        "archives": {"kube-apiserver": {"path": str(tmp_path / "kube-apiserver.tar")}},
        "cni_manifest": str(tmp_path / "cni.yaml"),
        "storage_manifest": str(tmp_path / "storage.yaml"),
        "files": [{"dest": "/etc/containerd/new/motd", "content": "hello\n", "mode": "0600"}],
        "extra_images": ["busybox:1"],
        "node_image": f"{PREFIX}-node:{tmp_path.name}",
        "network_mode": "none",
        "ttl": 300,
    }
    for container in ours(client):
        container.remove(force=True)


def ours(client: docker.DockerClient) -> list[t.Any]:
    """The build containers of these tests, by their name and base."""
    bases = (PREFIX, base_id(client))
    containers = client.containers.list(all=True, ignore_removed=True)
    return [c for c in containers if c.name.startswith((PREFIX, "nodeforge-build-")) and c.attrs["Config"]["Image"].startswith(bases)]


def base_id(client: docker.DockerClient) -> str:
    return t.cast(str, client.images.get(BASE).id)


def shell(container: t.Any, script: str) -> str:
    status, output = container.exec_run(["sh", "-c", script])
    assert status == 0, output
    return output.decode()


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_first_and_second_run(run_module, args, client, tmp_path) -> None:
    predicted = run_module("kind_node_prepare", args, check=True, diff=True)
    assert predicted["changed"] and predicted["container"] is None
    assert ours(client) == []

    first = run_module("kind_node_prepare", args, diff=True)
    for key in ("changed", "actions", "diff", "required_images", "built_images", "fingerprint", "up_to_date", "changes"):
        assert predicted[key] == first[key], key
    assert first["required_images"] == [*REQUIRED, "docker.io/test/netd:v1", "docker.io/test/storage:v1", "docker.io/library/busybox:1"]
    assert first["built_images"] == ["registry.k8s.io/kube-apiserver:v1.37.2"]
    assert "{{ .Other }} in" in json.dumps(first["warnings"])
    assert first["labels"]["io.nodeforge.images"].split(",") == first["required_images"]
    assert first["labels"]["io.nodeforge.fingerprint"] == first["fingerprint"]
    assert first["labels"]["io.nodeforge.base-digest"] == base_id(client)
    # not the base's own
    assert first["labels"]["org.opencontainers.image.revision"] == ""
    assert first["changes"] == ['ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]', "CMD []"]
    assert first["diff"]["before"] == {"container": None, "files": {}}
    assert first["diff"]["after"]["files"]["/kind/version"] == sha256("v1.37.2")

    container = client.containers.get(first["container"]["id"])
    paths = "/usr/bin/kube* /kind/version /kind/manifests /kind/manifests/* /etc/containerd /etc/containerd/new /etc/containerd/new/motd"
    listing = shell(container, f"stat -c '%a %u:%g %n' {paths}")
    assert listing.splitlines() == [
        "755 0:0 /usr/bin/kubeadm",
        "755 0:0 /usr/bin/kubectl",
        "755 0:0 /usr/bin/kubelet",
        "644 0:0 /kind/version",
        "755 0:0 /kind/manifests",
        "644 0:0 /kind/manifests/default-cni.yaml",
        "644 0:0 /kind/manifests/default-storage.yaml",
        "700 0:0 /etc/containerd",
        "755 0:0 /etc/containerd/new",
        "600 0:0 /etc/containerd/new/motd",
    ]
    assert shell(container, "cat /kind/version") == "v1.37.2"
    assert shell(container, "/usr/bin/kubelet") == f"kubelet {tmp_path}\n"
    host = container.attrs["HostConfig"]
    assert host["AutoRemove"] and not host["Privileged"] and host["SecurityOpt"] == ["seccomp=unconfined"]
    assert set(host["Tmpfs"]) == {"/run", "/tmp"}

    for check in (True, False):
        second = run_module("kind_node_prepare", args, check=check, diff=True)
        assert not second["changed"] and second["actions"] == []
        assert second["container"] == first["container"]
        assert second["required_images"] == first["required_images"]
        assert second["diff"] == {"before": {}, "after": {}}


def exported(container: t.Any) -> dict[str, tuple[t.Any, ...]]:
    """What is in a container, without what the engine itself puts there."""
    with tempfile.TemporaryFile() as file:
        for chunk in container.export():
            file.write(chunk)
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:
            return {
                member.name: (member.type, member.mode, member.uid, member.gid, member.size, member.linkname)
                for member in archive
                if not member.name.startswith((".dockerenv", "dev", "etc/host", "etc/resolv", "etc/mtab", "proc", "run", "sys", "tmp"))
            }


def test_without_starting_it(run_module, args, client) -> None:
    """The same container comes of it, whatever is in the way, and the same is told."""
    args["files"] += [{"dest": "/linked/deep/x", "content": "x"}, {"dest": "/usr/local/bin/entrypoint", "content": "mine", "mode": "0755"}]
    tree = {**small_base.node_base(), "other": 0o700, "linked": "/other"}
    args["image"] = small_base.load(client, f"{PREFIX}:linked", tree)
    running = run_module("kind_node_prepare", args, diff=True)
    name = args["name"]
    args.update(start=False, name=f"{name}-still")
    predicted = run_module("kind_node_prepare", args, check=True, diff=True)
    still = run_module("kind_node_prepare", args, diff=True)
    for key in ("changed", "actions", "diff", "required_images", "fingerprint"):
        assert predicted[key] == still[key], key
    for key in ("changed", "required_images", "fingerprint", "labels", "changes", "version"):
        values = [{**one[key], CREATED: ""} if key == "labels" else one[key] for one in (running, still)]
        assert values[0] == values[1], key
    assert still["actions"] == [action.replace("Started", "Created").replace(name, f"{name}-still") for action in running["actions"]]
    container = client.containers.get(still["container"]["id"])
    assert container.status == "created"
    contents = exported(client.containers.get(running["container"]["id"]))
    assert exported(container) == contents and contents["other/deep/x"][4] == 1

    # one that is there is filled anew
    again = run_module("kind_node_prepare", args)
    assert again["changed"] and again["container"]["id"] != still["container"]["id"]

    def names() -> list[str]:
        return sorted(c.name for c in client.containers.list(all=True, ignore_removed=True) if c.name.startswith(name))

    assert names() == [name, f"{name}-still"]
    for dest, said in (("/etc/containerd", "is a directory in the node"), ("/usr/local/bin/entrypoint/x", "is not a directory in the node")):
        failed = run_module("kind_node_prepare", {**args, "files": [{"dest": dest, "content": ""}]})
        assert said in failed["msg"], failed
        assert names() == [name]
    client.containers.get(name).remove(force=True)


def test_it_is_started_where_it_has_to_be(run_module, args, client) -> None:
    """kubeadm is asked in the container where this host has none of its own."""
    args["start"] = False
    pathlib.Path(args["binaries"]["kubeadm"]).chmod(0o644)
    result = run_module("kind_node_prepare", args)
    assert "Started the build container" in result["actions"][0] and "registry.k8s.io/etcd:3.7.0-0" in result["required_images"]
    assert ours(client)[0].status == "running"


def test_another_platform_runs_nothing(run_module, args, client) -> None:
    """A kubeadm of this host is asked in place of the node's, which could not run here."""
    args["image"] = small_base.load(client, f"{PREFIX}:foreign", small_base.node_base(), FOREIGN)
    args.update(start=False, platform=f"linux/{FOREIGN}", kubeadm=args["binaries"]["kubeadm"], archives={})
    result = run_module("kind_node_prepare", args)
    assert "Created the build container" in result["actions"][0] and result["required_images"][:2] == ["registry.k8s.io/kube-apiserver:v1.37.2", REQUIRED[1]]
    container = client.containers.get(args["name"])
    assert container.status == "created"
    container.remove(force=True)
    assert 'The kubeadm "/proc" is no program' in run_module("kind_node_prepare", {**args, "kubeadm": "/proc"})["msg"]


def test_only_what_differs_is_written(run_module, args, client) -> None:
    first = run_module("kind_node_prepare", args)
    container = client.containers.get(first["container"]["id"])
    shell(container, "echo other >/usr/bin/kubelet; touch /usr/bin/kubectl")
    touched = shell(container, "stat -c %Y /usr/bin/kubectl")
    after = {"/usr/bin/kubelet": hashlib.sha256(pathlib.Path(args["binaries"]["kubelet"]).read_bytes()).hexdigest()}
    for check in (True, False):
        result = run_module("kind_node_prepare", args, check=check, diff=True)
        assert result["changed"] and result["actions"] == ["Wrote /usr/bin/kubelet"]
        assert result["container"] == first["container"]
        assert result["diff"] == {"before": {"files": {"/usr/bin/kubelet": sha256("other\n")}}, "after": {"files": after}}
    assert shell(container, "/usr/bin/kubelet").startswith("kubelet ")
    assert shell(container, "stat -c %Y /usr/bin/kubectl") == touched
    assert not run_module("kind_node_prepare", args)["changed"]


def test_other_inputs_replace_the_container(run_module, args, client) -> None:
    first = run_module("kind_node_prepare", args)
    pathlib.Path(args["binaries"]["kubelet"]).write_text("#!/bin/sh\necho new\n")
    predicted = run_module("kind_node_prepare", args, check=True, diff=True)
    assert client.containers.get(first["container"]["id"]).status == "running"
    second = run_module("kind_node_prepare", args, diff=True)
    assert second["changed"] and second["container"]["id"] != first["container"]["id"]
    assert second["fingerprint"] != first["fingerprint"]
    assert (predicted["actions"], predicted["diff"]) == (second["actions"], second["diff"])
    assert second["diff"]["before"]["container"]["fingerprint"] == first["fingerprint"]
    assert [c.name for c in ours(client)] == [args["name"]]


@pytest.mark.parametrize("change", ["version", "extra_images", "inputs", "source", "files", "cni_manifest", "archives", "platform"])
def test_fingerprint_counts_everything(run_module, args, client, change: str, tmp_path) -> None:
    before = run_module("kind_node_prepare", args, check=True)["fingerprint"]
    pathlib.Path(args["binaries"]["kubeadm"]).touch()
    again = {**args, "network_mode": "host", "ttl": 77, "name": f"{PREFIX}-x", "pull": "never"}
    assert run_module("kind_node_prepare", again, check=True)["fingerprint"] == before
    if change == "version":
        args["version"] = "v1.37.2-rc.0"
        pathlib.Path(args["binaries"]["kubeadm"]).write_text(KUBEADM.replace("v1.37.2", "v1.37.2-rc.0"))
    elif change == "extra_images":
        args["extra_images"] = ["busybox:2"]
    elif change == "inputs":
        args["inputs"] = {"etcd": {"digest": "sha256:1"}}
    elif change == "source":
        args["source"] = "elsewhere"
    elif change == "files":
        args["files"][0]["mode"] = "0644"
    elif change == "cni_manifest":
        pathlib.Path(args["cni_manifest"]).write_text("- image: docker.io/test/netd:v2\n")
    elif change == "archives":
        args["archives"]["kube-apiserver"]["sha256"] = "1" * 64
    elif change == "platform":
        args["image"] = small_base.load(client, f"{PREFIX}:foreign", small_base.node_base(), FOREIGN)
        args["platform"] = f"linux/{FOREIGN}"
    assert run_module("kind_node_prepare", args, check=True)["fingerprint"] != before


def test_up_to_date(run_module, args, client) -> None:
    first = run_module("kind_node_prepare", args)
    commit = {"container": first["container"]["id"], "name": args["node_image"]}
    commit.update({key: first[key] for key in ("changes", "labels", "fingerprint")})
    assert run_module("docker_commit", commit)["changed"]
    run_module("kind_node_prepare", {"name": args["name"], "state": "absent"})
    for check in (True, False):
        again = run_module("kind_node_prepare", args, check=check, diff=True)
        assert again["up_to_date"] and not again["changed"] and again["container"] is None
        assert again["image"]["id"] == client.images.get(args["node_image"]).id
        for key in ("required_images", "built_images", "fingerprint", "labels"):
            assert again[key] == first[key], key
    # made from other inputs, the same image is not up to date
    args["extra_images"] = []
    assert not run_module("kind_node_prepare", args, check=True)["up_to_date"]

    # a container of the image carries the build container's label on, but is not one
    image = client.images.get(args["node_image"])
    assert image.attrs["Config"]["Entrypoint"] == ["/usr/local/bin/entrypoint", "/sbin/init"]
    assert not image.attrs["Config"]["Cmd"] and not image.attrs["Config"]["Env"]
    node = client.containers.run(image, entrypoint=["sleep"], command=["300"], name=f"{PREFIX}-cluster", detach=True, network_mode="none")
    refused = run_module("kind_node_prepare", {"name": node.name, "state": "absent"})
    assert "was not made by this module" in refused["msg"]
    run_module("kind_node_prepare", {"name": f"{PREFIX}*", "state": "absent"})
    node.reload()
    assert node.status == "running"


def test_an_edit_puts_one_layer_on_the_whole(run_module, args, client, tmp_path) -> None:
    del args["name"]
    args.update(incremental=True, start=False)
    for name in ("kubectl", "kubeadm"):
        (tmp_path / name).write_text(KUBEADM + "#" * 50_000)
    (tmp_path / "kube-proxy.tar").write_bytes(small_base.archive(f"registry.k8s.io/kube-proxy-{ARCH}:v1.37.2", {"x": (b"1", 0o755)}))
    args["archives"]["kube-proxy"] = str(tmp_path / "kube-proxy.tar")

    def build(**options: t.Any) -> t.Any:
        """One layer for each run that makes something, as the role does it."""
        wanted = {**args, **options}
        predicted = run_module("kind_node_prepare", wanted, check=True, diff=True)
        made = run_module("kind_node_prepare", wanted, diff=True)
        for key in ("changed", "required_images", "built_images", "archives", "complete", "fingerprint", "up_to_date"):
            assert predicted[key] == made[key], key
        if not made["up_to_date"]:
            assert predicted["diff"]["after"]["files"] == made["diff"]["after"]["files"]
            commit = {"container": made["container"]["id"], "name": args["node_image"], "remove": True, "prune_previous": True}
            commit.update({key: made[key] for key in ("changes", "labels", "fingerprint")})
            made["layers"] = run_module("docker_commit", commit)["image"]["layers"]
        return made

    def edit(name: str, text: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\necho {text}\n")

    whole = build()
    assert not whole["complete"] and len(whole["archives"]) == 2 and "io.nodeforge.whole" not in whole["labels"]
    first_id = client.images.get(args["node_image"]).id
    for text in ("one", "two"):
        edit("kubelet", text)
        edited = build()
        # never on the last edit
        assert edited["layers"][:-1] == whole["layers"] and edited["labels"]["io.nodeforge.whole"] == first_id
        assert list(edited["diff"]["after"]["files"]) == ["/usr/bin/kubelet"] and edited["complete"] and edited["archives"] == {}
        assert edited["required_images"] == whole["required_images"]
        container = client.containers.create(args["node_image"])
        content = b"".join(container.get_archive("/usr/bin")[0])
        container.remove()
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            assert archive.extractfile("bin/kubelet").read() == f"#!/bin/sh\necho {text}\n".encode()
            assert archive.getmember("bin/kubectl").size == len(KUBEADM) + 50_000
        assert build()["up_to_date"]
    # an image goes through as a binary does, with what was edited before
    (tmp_path / "kube-proxy.tar").write_bytes(small_base.archive(f"registry.k8s.io/kube-proxy-{ARCH}:v1.37.2", {"x": (b"2", 0o755)}))
    image = build()
    assert list(image["archives"]) == ["kube-proxy"] and not image["complete"] and image["layers"][:-1] == whole["layers"]
    assert list(image["diff"]["after"]["files"]) == ["/usr/bin/kubelet"] and image["built_images"] == ["registry.k8s.io/kube-proxy:v1.37.2"]
    # whoever wants it whole gets it so, and then the next edit stands on that
    again = build(incremental=False)
    assert not again["up_to_date"] and len(again["diff"]["after"]["files"]) > 4 and len(again["layers"]) == len(whole["layers"])
    assert build()["up_to_date"]
    edit("kubelet", "three")
    assert build()["layers"][:-1] == again["layers"]
    # what else differs, or that much, makes it whole
    assert len(build(files=[])["archives"]) == 2
    for name in ("kubectl", "kubeadm"):
        (tmp_path / name).write_text(KUBEADM + "#" + "+" * 50_000)
    most = build(files=[])
    assert len(most["archives"]) == 2 and len(most["layers"]) == len(whole["layers"])
    # nothing of the images before is left
    assert not client.images.list(filters={"dangling": True, "label": f"io.nodeforge.base=docker.io/library/{BASE}"})


def test_nothing_volatile_in_the_image(run_module, args, client) -> None:
    container = client.containers.get(run_module("kind_node_prepare", args)["container"]["id"])
    shell(container, "echo secret >/run/secret; echo secret >/tmp/secret")
    assert not [d for d in container.diff() if "secret" in d["Path"]]


def test_proxies_stay_out(run_module, args, client, tmp_path) -> None:
    """The SDK would put the client's proxies into every container, and so into the image."""
    (tmp_path / "config.json").write_text(json.dumps({"proxies": {"default": {"httpProxy": "http://me:secret@proxy:3128"}}}))
    environment = {"DOCKER_CONFIG": str(tmp_path), "http_proxy": "http://me:secret@proxy:3128"}
    container = client.containers.get(run_module("kind_node_prepare", args, env=environment)["container"]["id"])
    assert not [line for line in container.attrs["Config"]["Env"] or [] if "proxy" in line.lower()]


def test_symlinked_directory(run_module, args, client) -> None:
    args["files"] = [{"dest": "/bin/hello", "content": "#!/bin/sh\necho hello\n", "mode": "0755"}]
    container = client.containers.get(run_module("kind_node_prepare", args)["container"]["id"])
    assert shell(container, "/usr/bin/hello; stat -c %F /bin") == "hello\nsymbolic link\n"
    assert not run_module("kind_node_prepare", args)["changed"]


def test_name_taken_by_somebody_else(run_module, args, client) -> None:
    other = client.containers.run(BASE, entrypoint=["sleep"], command=["300"], name=args["name"], detach=True, network_mode="none")
    for check in (True, False):
        result = run_module("kind_node_prepare", args, check=check)
        assert f'The name "{args["name"]}" is taken by a container that this module did not make' in result["msg"]
        result = run_module("kind_node_prepare", {"name": args["name"], "state": "absent"}, check=check)
        assert f'"{args["name"]}" was not made by this module' in result["msg"]
    other.reload()
    assert other.status == "running"
    other.remove(force=True)
    assert run_module("kind_node_prepare", args)["changed"]


def test_absent(run_module, args, client) -> None:
    absent = {"name": args["name"], "state": "absent"}
    assert not run_module("kind_node_prepare", absent, diff=True)["changed"]
    made = run_module("kind_node_prepare", args)["container"]
    predicted = run_module("kind_node_prepare", absent, check=True, diff=True)
    assert predicted["changed"] and ours(client)
    removed = run_module("kind_node_prepare", absent, diff=True)
    assert {k: removed[k] for k in ("changed", "actions", "diff")} == {k: predicted[k] for k in ("changed", "actions", "diff")}
    assert not ours(client)
    assert not run_module("kind_node_prepare", {**absent, "name": made["id"]})["changed"]

    made = [run_module("kind_node_prepare", {**args, "name": f"{PREFIX}-all-{n}"})["container"] for n in "ab"]
    assert run_module("kind_node_prepare", {**absent, "name": made[0]["id"]})["changed"]
    result = run_module("kind_node_prepare", {**absent, "name": f"{PREFIX}-all-*"}, diff=True)
    assert result["diff"]["before"] == {"containers": [f"{PREFIX}-all-b"]}
    assert not ours(client)
    for name in (None, "", "*"):
        assert "The option name is missing" in run_module("kind_node_prepare", {"name": name, "state": "absent"})["msg"]


def test_two_at_once(run_module, args, client) -> None:
    del args["name"]
    plays = [run_module("kind_node_prepare", args, popen=True) for _n in range(2)]
    results = [json.loads(play.stdout.read()) for play in plays]
    assert [play.wait() for play in plays] == [0, 0]
    names = {result["container"]["name"] for result in results}
    assert len(names) == 2
    for name in names:
        assert name.startswith("nodeforge-build-")
        assert client.containers.get(name).status == "running"
    # removing one leaves the other
    run_module("kind_node_prepare", {"name": names.pop(), "state": "absent"})
    assert [c.name for c in ours(client)] == list(names)


def test_two_at_once_under_one_name(run_module, args, client) -> None:
    """The later one adopts a container that runs, or says that the name is taken; the earlier one is not disturbed."""
    plays = [run_module("kind_node_prepare", args, popen=True) for _n in range(2)]
    results = [json.loads(play.stdout.read()) for play in plays]
    codes = [play.wait() for play in plays]
    assert 0 in codes, results
    for code, result in zip(codes, results):
        assert code == 0 or "has just been taken" in result["msg"], result
    assert [c.name for c in ours(client)] == [args["name"]]
    assert not run_module("kind_node_prepare", args)["changed"]


def test_ttl(run_module, args, client) -> None:
    run_module("kind_node_prepare", {**args, "ttl": 3})
    deadline = time.monotonic() + 30
    while ours(client):
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture(scope="module")
def gigabyte(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("big") / "kubelet"
    with open(path, "wb") as file:
        file.truncate(1024**3)
    return str(path)


def test_memory(run_module, peak_memory, args, client, gigabyte: str) -> None:
    args["binaries"]["kubelet"] = gigabyte
    process = run_module("kind_node_prepare", args, popen=True)
    output, peak = peak_memory(process)
    assert process.returncode == 0, output
    assert peak < 150 * 1024, f"{peak} KiB"
    assert shell(client.containers.get(args["name"]), "stat -c %s /usr/bin/kubelet") == f"{1024**3}\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_interrupt(run_module, args, client, gigabyte: str, number: signal.Signals) -> None:
    args["binaries"]["kubelet"] = gigabyte
    process = run_module("kind_node_prepare", args, popen=True)
    while not [c for c in ours(client) if c.status == "running"]:
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(number)
    result = json.loads(process.stdout.read())
    assert process.wait() != 0
    assert f"Interrupted by {number.name}" in result["msg"]
    assert ours(client) == []
    # a re-run has the name for itself
    args["binaries"]["kubelet"] = args["binaries"]["kubectl"]
    assert run_module("kind_node_prepare", args)["changed"]


def guards() -> set[int]:
    """The processes of this module that run, by their ids."""
    found = set()
    for cmdline in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = cmdline.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"plugins.modules.kind_node_prepare" in command:
            found.add(int(cmdline.parent.name))
    return found


def until(holds: t.Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_owner(run_module, args, client) -> None:
    """The container does not outlive its owner, however that ends, and nothing outlives the container."""
    others = guards()
    with subprocess.Popen(["sleep", "600"]) as owner:
        args["owner"] = owner.pid
        assert run_module("kind_node_prepare", args)["changed"]
        watching = guards() - others
        assert len(watching) == 1
        # what ends all at once does not end it, and who comes next adopts the container
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(*watching, number)
        time.sleep(1)
        assert not run_module("kind_node_prepare", args)["changed"]
        assert guards() - others >= watching
        assert len(ours(client)) == 1
        owner.kill()
        # not even as long as nobody has waited for it
        until(lambda: not ours(client) and not guards() - others)

    with subprocess.Popen(["sleep", "600"]) as owner:
        args["owner"] = owner.pid
        assert run_module("kind_node_prepare", args)["changed"]
        assert run_module("kind_node_prepare", {"name": args["name"], "state": "absent"})["changed"]
        until(lambda: not guards() - others)
        assert owner.poll() is None
        owner.kill()

    assert f"The owner {owner.pid} is no process of this host" in run_module("kind_node_prepare", args)["msg"]
    args["owner"] = 0
    assert "The owner 0 is no process of this host" in run_module("kind_node_prepare", args)["msg"]
    assert ours(client) == []


def test_failure_in_the_middle(run_module, args, client) -> None:
    args["files"] = [{"dest": "/etc/containerd", "content": ""}]
    assert 'The destination "/etc/containerd" is a directory in the node' in run_module("kind_node_prepare", args)["msg"]
    args["files"] = [{"dest": "/usr/bin/sh/x", "content": ""}]
    assert "/usr/bin/sh is not a directory in the node" in run_module("kind_node_prepare", args)["msg"]
    assert ours(client) == []


def test_sweep(args, client) -> None:
    """What a killed play left that was not started goes, once its time is over; what is young may be another play's."""
    from ansible_collections.nodeforge.kind.plugins.module_utils import _docker
    from ansible_collections.nodeforge.kind.plugins.modules import kind_node_prepare

    class Module:
        params = {key: option.get("default") for key, option in _docker.DOCKER_ARGS.items()}
        check_mode = False

    def leave(name: str, label: str, ttl: int = 0) -> str:
        return client.containers.create(BASE, [str(ttl)], name=name, labels={"io.nodeforge.build": label}, network_mode="none").id

    young = leave(f"{PREFIX}-young", f"{PREFIX}-young abc", 3600)
    old = leave(f"{PREFIX}-left", f"{PREFIX}-left abc")
    others = leave(f"{PREFIX}-node", f"{PREFIX}-other abc")
    runs = {"name": f"{PREFIX}-runs", "labels": {"io.nodeforge.build": f"{PREFIX}-runs abc"}}
    running = client.containers.run(BASE, ["300"], entrypoint=["sleep"], detach=True, network_mode="none", **runs).id
    preparer = kind_node_prepare.NodePreparer(Module(), _docker.Engine(Module()))
    # the engine's time has no fractions
    time.sleep(1)
    preparer._sweep()
    left = {c.id for c in client.containers.list(all=True, ignore_removed=True)}
    assert old not in left and left >= {young, others, running}


def test_real_node(run_module, args, client) -> None:
    """Compiled Kubernetes in the base image of the role supplies, if this machine has made both."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "nodeforge"
    outputs = sorted(cache.glob(f"trees/v1.37.2/_output/*/bin/linux/{ARCH}/kubeadm"))
    bases = [tag for image in client.images.list("nodeforge/base") if image.attrs["Architecture"] == ARCH for tag in image.tags]
    if not outputs or not bases:
        pytest.skip("no compiled Kubernetes or no base image of the role supplies is here: make node makes them")
    args.update(
        image=bases[0],
        binaries={name: str(outputs[0].parent / name) for name in ("kubeadm", "kubectl", "kubelet")},
    )
    del args["archives"]
    predicted = run_module("kind_node_prepare", args, check=True, diff=True)
    made = run_module("kind_node_prepare", args, diff=True)
    for key in ("actions", "diff", "required_images", "fingerprint"):
        assert predicted[key] == made[key], key
    assert "registry.k8s.io/kube-proxy:v1.37.2" in made["required_images"]
    assert [image for image in made["required_images"] if "pause" in image] == [
        line.partition('"')[2].rstrip('"')
        for line in shell(client.containers.get(args["name"]), "cat /etc/containerd/config.toml").splitlines()
        if "sandbox_image" in line
    ]
    assert shell(client.containers.get(args["name"]), "kubelet --version") == "Kubernetes v1.37.2\n"
    assert not run_module("kind_node_prepare", args)["changed"]
    commit = {"container": args["name"], "name": args["node_image"], **{key: made[key] for key in ("changes", "labels", "fingerprint")}}
    assert run_module("docker_commit", commit)["changed"]
    assert not run_module("docker_commit", commit)["changed"]
    assert run_module("kind_node_prepare", args)["up_to_date"]
    config = client.images.get(args["node_image"]).attrs["Config"]
    assert config["Entrypoint"] == ["/usr/local/bin/entrypoint", "/sbin/init"] and config["StopSignal"] == "SIGRTMIN+3"


# a node image as base

SERVERS = ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler")
HELD = ["registry.k8s.io/kube-apiserver:v1.37.2", "registry.k8s.io/etcd:3.7.0-0", "localhost/pause:1", "docker.io/test/extra:v7"]


@pytest.fixture
def node_base(args, client, tmp_path) -> dict[str, t.Any]:
    """Options for a variant of a node image that has all a node has."""
    tree = {
        **small_base.node_base(),
        "kind/version": (b"v1.37.2", 0o644),
        "kind/manifests/default-cni.yaml": (b"- image: docker.io/test/cni-of-the-base:v3\n", 0o644),
        "usr/bin/kubelet": (b"#!/bin/sh\necho the base's\n", 0o755),
        "usr/bin/kubeadm": (KUBEADM.encode(), 0o755),
    }
    labels = {"io.nodeforge.images": ",".join(HELD), "io.nodeforge.kubernetes-version": "v1.37.2"}
    args["image"] = small_base.load(client, f"{PREFIX}:nodeimage", tree, Entrypoint=["/usr/local/bin/entrypoint", "/sbin/init"], Labels=labels)
    for option in ("version", "cni_manifest", "storage_manifest", "extra_images", "archives"):
        del args[option]
    args["binaries"] = {"kubelet": args["binaries"]["kubelet"]}
    args["files"] = []
    return args


def server_archives(tmp_path: pathlib.Path, version: str, *names: str) -> dict[str, str]:
    for name in names:
        content = small_base.archive(f"registry.k8s.io/{name}-{ARCH}:{version.replace('+', '_')}", {"x": (name.encode(), 0o755)})
        (tmp_path / f"{name}.tar").write_bytes(content)
    return {name: str(tmp_path / f"{name}.tar") for name in names}


def test_a_variant_keeps_all_else(run_module, node_base, client, tmp_path) -> None:
    predicted = run_module("kind_node_prepare", node_base, check=True, diff=True)
    made = run_module("kind_node_prepare", node_base, diff=True)
    for key in ("changed", "actions", "diff", "fingerprint", "version", "archives", "built_images"):
        assert predicted[key] == made[key], key
    assert predicted["required_images"] is None  # only a container that runs could tell
    assert made["version"] == made["labels"]["org.opencontainers.image.version"] == "v1.37.2"
    # kubeadm's, the base's own manifest's, and what else the base holds
    assert made["required_images"] == [*REQUIRED, "docker.io/test/cni-of-the-base:v3", "docker.io/test/extra:v7"]
    assert list(made["diff"]["after"]["files"]) == ["/usr/bin/kubelet"]
    container = client.containers.get(made["container"]["id"])
    assert shell(container, "/usr/bin/kubelet; cat /kind/version") == f"kubelet {tmp_path}\nv1.37.2"
    assert not run_module("kind_node_prepare", node_base)["changed"]

    commit = {"container": made["container"]["id"], "name": node_base["node_image"], **{key: made[key] for key in ("changes", "labels", "fingerprint")}}
    assert run_module("docker_commit", commit)["changed"]
    run_module("kind_node_prepare", {"name": node_base["name"], "state": "absent"})
    again = run_module("kind_node_prepare", node_base)
    assert again["up_to_date"] and {key: again[key] for key in ("version", "required_images", "archives")} == {
        key: made[key] for key in ("version", "required_images", "archives")
    }


def test_a_variant_keeps_the_replaced_images(run_module, node_base, client) -> None:
    """kubeadm of the base asks for another etcd than the base has: so does that of a variant, and of a variant of that."""
    replaced = {"registry.k8s.io/etcd:3.7.0-0": "registry.k8s.io/etcd:3.8.0-0"}
    first = run_module("kind_node_prepare", {**node_base, "replaced_images": replaced})
    assert "registry.k8s.io/etcd:3.8.0-0" in first["required_images"]
    commit = {"container": first["container"]["id"], "name": node_base["node_image"], **{key: first[key] for key in ("changes", "labels", "fingerprint")}}
    assert run_module("docker_commit", commit)["changed"]
    variant = {**node_base, "image": node_base["node_image"], "node_image": f"{node_base['node_image']}-variant"}
    second = run_module("kind_node_prepare", variant)
    assert second["labels"]["io.nodeforge.replaced-images"] == first["labels"]["io.nodeforge.replaced-images"] != ""
    etcd = [image for image in second["required_images"] if "/etcd:" in image]
    assert etcd == ["registry.k8s.io/etcd:3.8.0-0"]
    given = run_module("kind_node_prepare", {**variant, "replaced_images": {"registry.k8s.io/etcd:3.7.0-0": "registry.k8s.io/etcd:3.9.0-0"}})
    assert [image for image in given["required_images"] if "/etcd:" in image] == ["registry.k8s.io/etcd:3.9.0-0"]


def test_a_part_of_the_control_plane_goes_by_the_old_name(run_module, node_base, tmp_path) -> None:
    node_base["archives"] = server_archives(tmp_path, "v1.38.0-alpha.1+abc", "kube-apiserver", "kube-proxy")
    made = run_module("kind_node_prepare", node_base)
    assert made["version"] == "v1.37.2"
    assert made["built_images"] == ["registry.k8s.io/kube-apiserver:v1.37.2", "registry.k8s.io/kube-proxy:v1.37.2"]
    assert {name: entry["ref"] for name, entry in made["archives"].items()} == {
        "kube-apiserver": "registry.k8s.io/kube-apiserver:v1.37.2",
        "kube-proxy": "registry.k8s.io/kube-proxy:v1.37.2",
    }


def test_all_of_the_control_plane_brings_its_version(run_module, node_base, client, tmp_path) -> None:
    node_base["archives"] = server_archives(tmp_path, "v1.37.3+abc", *SERVERS)
    (tmp_path / "kubeadm").write_text(KUBEADM.replace("v1.37.2", "v1.37.3+abc").replace("apiserver:v1.37.3+abc", "apiserver:v1.37.3_abc"))
    node_base["binaries"]["kubeadm"] = str(tmp_path / "kubeadm")
    made = run_module("kind_node_prepare", node_base)
    assert made["version"] == "v1.37.3+abc" and "registry.k8s.io/kube-proxy:v1.37.3_abc" in made["built_images"]
    assert shell(client.containers.get(made["container"]["id"]), "cat /kind/version") == "v1.37.3+abc"
    # the old one is not needed any more
    apiservers = [image for image in made["required_images"] if "apiserver" in image]
    assert apiservers == ["registry.k8s.io/kube-apiserver:v1.37.3_abc"]
    # a version that is given wins
    (tmp_path / "kubeadm").write_text(KUBEADM)
    assert run_module("kind_node_prepare", {**node_base, "version": "v1.37.2"})["version"] == "v1.37.2"


def test_an_image_is_not_its_own_base(run_module, node_base) -> None:
    for check in (True, False):
        result = run_module("kind_node_prepare", {**node_base, "node_image": node_base["image"]}, check=check)
        assert "is its own base" in result["msg"] and "another tag" in result["msg"]


# another platform


def test_foreign_platform(run_module, args, client) -> None:
    """The base only says that it is foreign, so it runs; kubeadm is asked within."""
    args["platform"] = f"linux/{FOREIGN}"
    refused = run_module("kind_node_prepare", args)
    assert f'The base image "docker.io/library/{BASE}" in the engine is for {PLATFORM}, the node for linux/{FOREIGN}' in refused["msg"]
    args["image"] = small_base.load(client, f"{PREFIX}:foreign", small_base.node_base(), FOREIGN)
    predicted = run_module("kind_node_prepare", args, check=True)
    assert predicted["changed"] and predicted["required_images"] is None
    made = run_module("kind_node_prepare", args)
    assert made["required_images"][:3] == REQUIRED
    assert made["fingerprint"] == predicted["fingerprint"]
    client.containers.get(args["name"]).remove(force=True)

    # a program that this machine cannot run
    elf = bytearray(pathlib.Path(sys.executable).resolve().read_bytes()[:4096])
    elf[18:20] = {"arm64": b"\xb7\0", "amd64": b"\x3e\0"}[FOREIGN]
    args["image"] = small_base.load(client, f"{PREFIX}:alien", {**small_base.node_base(), "usr/bin/sleep": (bytes(elf), 0o755)}, FOREIGN)
    failed = run_module("kind_node_prepare", args)
    assert "qemu-user-static" in failed["msg"]
    assert not [c for c in client.containers.list(all=True) if c.name == args["name"]]


def test_binary_of_another_platform(run_module, args, client, tmp_path) -> None:
    elf = bytearray(pathlib.Path(sys.executable).resolve().read_bytes()[:4096])
    elf[18:20] = {"arm64": b"\xb7\0", "amd64": b"\x3e\0"}[FOREIGN]
    (tmp_path / "kubelet").write_bytes(elf)
    result = run_module("kind_node_prepare", args)
    assert f'kubelet" is for {FOREIGN}, the node for {PLATFORM}' in result["msg"]


# bad input


def bad(path: str) -> list[t.Any]:
    """Option, value, what the sentence says."""
    return [
        ({"version": "1.37.2"}, 'The version "1.37.2" is not one of Kubernetes'),
        ({"version": None}, "The option version is missing: the base image"),
        ({"image": None}, "The option image is missing"),
        ({"image": ""}, "The option image is missing"),
        ({"image": "Not/Lower:1"}, 'write "not/lower:1"'),
        ({"image": "sha256:" + "0a" * 32}, "is an id"),
        ({"image": "a b"}, 'The base image "a b" is not an image reference'),
        ({"node_image": "kindest/node:x:y"}, 'The node image "kindest/node:x:y" is not an image reference'),
        ({"node_image": "kindest/node@sha256:" + "0a" * 32}, "names a digest"),
        ({"platform": "linux/riscv64"}, "linux/arm64"),
        ({"ttl": 0}, "The ttl 0 is too short"),
        ({"extra_images": ["UPPER"]}, 'The image in extra_images "UPPER"'),
        ({"binaries": {"kubelet": f"{path}/none"}}, f'The binary "{path}/none" cannot be read: No such file or directory'),
        ({"binaries": {"kubelet": path}}, "is a directory: name a file"),
        ({"binaries": {"../kubelet": path}}, "is not a plain file name"),
        ({"binaries": {"kubelet": {"sha256": "x"}}}, 'The binary "kubelet" has no path'),
        ({"binaries": {"kubelet": 5}}, 'The binary "kubelet" has no path'),
        ({"binaries": {"kubelet": {"path": f"{path}/kubelet", "sha256": "0" * 64}}}, "has changed since it was built"),
        ({"binaries": {"kubelet": f"{path}/kubelet"}}, "/usr/bin/kubeadm of the base image"),
        ({"binaries": {"kubeadm": f"{path}/kubelet"}}, 'The image that kubeadm asks for "kubelet'),
        ({"version": "v1.0.0"}, f'The binary "{path}/kubeadm" does not list the images of v1.0.0 (version "v1.0.0" is unknown here)'),
        ({"archives": {"x": f"{path}/none.tar"}}, f'The image archive "{path}/none.tar" is missing'),
        ({"archives": {"x": f"{path}/kubelet"}}, f'The image archive "{path}/kubelet" is broken'),
        ({"cni_manifest": f"{path}/none.yaml"}, f'The cni_manifest "{path}/none.yaml" cannot be read: No such file'),
        ({"storage_manifest": "/bin/sh"}, 'The storage_manifest "/bin/sh" is not text'),
        ({"files": [{"dest": "/x"}]}, "needs exactly one of src and content"),
        ({"files": [{"dest": "/x", "src": f"{path}/none"}]}, f'The file "{path}/none" cannot be read'),
        ({"files": [{"dest": "x", "content": ""}]}, 'The destination "x" is not a plain absolute path'),
        ({"files": [{"dest": "/run/x", "content": ""}]}, "lies under /run"),
        ({"files": [{"dest": "/x", "content": "", "mode": "u=rw"}]}, 'The mode "u=rw" is not octal'),
        ({"files": [{"dest": "/usr/bin/kubelet", "content": ""}]}, 'The destination "/usr/bin/kubelet" is named twice'),
        ({"network_mode": "nodeforge-test-none"}, "nodeforge-test-none"),
        ({"image": f"{PREFIX}:none", "pull": "never"}, f'The base image "docker.io/library/{PREFIX}:none" is not in the engine'),
    ]


@pytest.mark.parametrize("number", range(len(bad(""))))
def test_bad_input(run_module, args, client, tmp_path, number: int) -> None:
    change, says = bad(str(tmp_path))[number]
    result = run_module("kind_node_prepare", {**args, **change})
    assert result.failed and says in result["msg"], result
    assert "\n" not in result["msg"]
    assert ours(client) == []
    # the cause gone, it works
    if number % 8 == 0:
        result = run_module("kind_node_prepare", args)
        assert not result.failed and result["changed"], result


@pytest.mark.parametrize(
    ("lacks", "says"),
    [
        (["usr/local/bin/containerd"], "it lacks containerd:"),
        (["usr/local/bin/entrypoint"], "it lacks /usr/local/bin/entrypoint:"),
        (["etc/containerd/config.toml", "usr/local/bin/entrypoint"], "it lacks /usr/local/bin/entrypoint and /etc/containerd/config.toml:"),
        (None, "names no sandbox image in /etc/containerd/config.toml"),
        (["usr/bin/sleep"], "Starting the build container"),
        (["usr/bin/timeout"], "Looking at the files of the build container failed"),
    ],
)
def test_not_a_node_base(run_module, args, client, lacks: list[str] | None, says: str) -> None:
    tree = small_base.node_base()
    if lacks is None:
        tree["etc/containerd/config.toml"] = (b"version = 2\n", 0o644)
    for path in lacks or []:
        del tree[path]
    args["image"] = small_base.load(client, f"{PREFIX}:not-a-base", tree)
    result = run_module("kind_node_prepare", args)
    assert result.failed and says in result["msg"], result
    if lacks != ["usr/bin/sleep"] and lacks != ["usr/bin/timeout"]:
        assert run_module("kind_node_prepare", args, check=True)["msg"] == result["msg"]
    assert not [c for c in client.containers.list(all=True) if c.name.startswith((args["name"], "nodeforge-build-check-"))]


def test_base_with_volume(run_module, args, client) -> None:
    args["image"] = small_base.load(client, f"{PREFIX}:volume", small_base.node_base(), Volumes={"/var/lib": {}})
    assert "declares the volume /var/lib," in run_module("kind_node_prepare", args)["msg"]


def test_config_of_version_3(run_module, args, client) -> None:
    tree = small_base.node_base()
    tree["etc/containerd/config.toml"] = (b"version = 3\n[plugins.'io.containerd.cri.v1.images'.pinned_images]\n  sandbox = 'localhost/pause:3'\n", 0o644)
    args["image"] = small_base.load(client, f"{PREFIX}:v3", tree)
    assert "localhost/pause:3" in run_module("kind_node_prepare", args, check=True)["required_images"]


def test_pull(run_module, args, client) -> None:
    with small_base.Registry(small_base.node_base()) as registry:
        args["image"] = f"{registry.address}/{PREFIX}:base"
        predicted = run_module("kind_node_prepare", args, check=True)
        assert predicted["changed"] and predicted["fingerprint"] is None and predicted["required_images"] is None
        pulled = run_module("kind_node_prepare", args)
        assert pulled["actions"][0] == predicted["actions"][0] == f'Pulled the base image "{args["image"]}" for {PLATFORM}'
        assert pulled["labels"]["io.nodeforge.base-digest"] == registry.digest
        assert not run_module("kind_node_prepare", args)["changed"]
        # nothing newer is there
        assert not run_module("kind_node_prepare", {**args, "pull": "always"})["changed"]
        args["image"] = f"{registry.address}/{PREFIX}@{registry.digest}"
        assert not run_module("kind_node_prepare", args)["changed"]

        args["image"] = f"{registry.address}/{PREFIX}:none"
        assert f'The base image "{args["image"]}" is not in the engine' in run_module("kind_node_prepare", args)["msg"]
    # nobody answers there any more
    refused = run_module("kind_node_prepare", args)["msg"]
    assert f'The base image "{args["image"]}" is not in the engine' in refused and "connection refused" in refused


def test_pull_breaks_off(run_module, args, client) -> None:
    # other content, or the engine would already hold the layer
    with small_base.Registry({**small_base.node_base(), "etc/other": (os.urandom(100000), 0o644)}) as registry:
        args["image"] = f"{registry.address}/{PREFIX}/broken/x:broken"
        result = run_module("kind_node_prepare", args)
    assert f'The base image "{args["image"]}" is not in the engine. Pulling' in result["msg"]
    assert "\n" not in result["msg"]
    assert not client.images.list(args["image"])


# engine


def test_engine_unreachable(run_module, args, tmp_path) -> None:
    host = f"unix://{tmp_path}/none.sock"
    result = run_module("kind_node_prepare", {**args, "docker_host": host})
    assert f"The container engine at {host} cannot be reached: nothing listens there" in result["msg"]


def test_engine_forbidden(tmp_path) -> None:
    """A socket that we may not write to; root may, unless it lacks the capability to override that."""
    collections = pathlib.Path(__file__).resolve().parents[2] / ".collections"
    command = [sys.executable, "-m", "ansible_collections.nodeforge.kind.plugins.modules.kind_node_prepare"]
    if os.getuid() == 0:
        command = ["setpriv", "--bounding-set=-dac_override", *command]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "engine.sock"))
        listener.listen()
        (tmp_path / "engine.sock").chmod(0)
        options = {"state": "absent", "name": "x", "docker_host": f"unix://{tmp_path}/engine.sock"}
        run = subprocess.run(
            command,
            input=json.dumps({"ANSIBLE_MODULE_ARGS": options}),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(collections)},
        )
    assert "permission denied; add the user to the group that owns the socket" in json.loads(run.stdout)["msg"]


def test_engine_too_old(run_module, args) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args: t.Any) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            body = b'{"Version": "19.03.1", "ApiVersion": "1.40", "Os": "linux", "Arch": "amd64"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        result = run_module("kind_node_prepare", {**args, "docker_host": f"tcp://127.0.0.1:{server.server_address[1]}"})
        server.shutdown()
    assert "is version 19.03.1 (API 1.40)" in result["msg"]


# extra images


def test_extra_images_count_by_content(run_module, args, client, tmp_path) -> None:
    """Of an archive and of an image of the engine; where it lies, or when it was built, does not count."""
    reference = f"{PREFIX}-app:1"
    small_base.load(client, reference, {"app": (b"one", 0o755)})
    archives = [tmp_path / "a.tar", tmp_path / "b.tar"]
    for path in archives:
        path.write_bytes(small_base.archive("example.com/team/app-one:1", {"app": (b"one", 0o755)}))

    def prepare(*entries: t.Any, **more: t.Any) -> t.Any:
        return run_module("kind_node_prepare", {**args, "extra_images": entries, **more}, check=True)

    first = prepare({"archive": str(archives[0])}, {"engine": reference}, {"archive": str(archives[1]), "ref": "app:2"}, "busybox")
    assert not first.failed, first
    names = ["example.com/team/app-one:1", f"docker.io/library/{reference}", "docker.io/library/app:2", "docker.io/library/busybox:latest"]
    assert first["required_images"][-4:] == names
    digest = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    assert first["extra_archives"] == [
        {"path": str(archives[0]), "sha256": digest},
        {"engine": f"docker.io/library/{reference}", "id": client.images.get(reference).id},
        {"path": str(archives[1]), "sha256": digest, "ref": "docker.io/library/app:2"},
    ]
    before = prepare({"archive": str(archives[0])})["fingerprint"]
    assert prepare({"archive": str(archives[1]), "sha256": digest})["fingerprint"] == before
    archives[1].write_bytes(small_base.archive("example.com/team/app-one:1", {"app": (b"two", 0o755)}))
    assert prepare({"archive": str(archives[1])})["fingerprint"] != before
    before = prepare({"engine": reference})["fingerprint"]
    assert prepare({"engine": reference})["fingerprint"] == before
    small_base.load(client, reference, {"app": (b"two", 0o755)})
    assert prepare({"engine": reference})["fingerprint"] != before


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"archive": "/nowhere/x.tar"}, 'The image archive "/nowhere/x.tar" cannot be read: No such file or directory'),
        ({"archive": __file__}, f'The image archive "{__file__}" is broken: it is no whole tar archive'),
        ({"archive": __file__, "sha256": "0" * 64}, "is not the one that is wanted (its sha256 is "),
        ({"engine": f"{PREFIX}-none:1"}, f'The image "docker.io/library/{PREFIX}-none:1" of extra_images is not in the engine at '),
        ({"engine": "a", "archive": "b"}, "give a reference, or a dictionary with archive"),
        ({"path": "b"}, "extra_images holds {'path': 'b'}: give a reference"),
        (3, "extra_images holds 3: give a reference"),
        ("a:b:c", 'The image in extra_images "a:b:c" is not an image reference'),
    ],
)
def test_bad_extra_images(run_module, args, entry, text) -> None:
    result = run_module("kind_node_prepare", {**args, "extra_images": [entry]})
    assert result.failed and text in result["msg"], result


# containerd's configuration


def containerd_base(client: docker.DockerClient, tag: str, directory: pathlib.Path) -> str:
    tree = {**small_base.node_base(), **small_base.host_tools(str(directory / "containerd"))}
    del tree["usr/local/bin/containerd"]
    return small_base.load(client, f"{PREFIX}:{tag}", tree)


@pytest.fixture(scope="module")
def new_base(client: docker.DockerClient, base: str) -> str:
    return containerd_base(client, "containerd", small_base.new_containerd())


LINES = '[plugins."io.containerd.grpc.v1.cri"]\n  max_container_log_line_size = 1234\n'


def test_containerd_reads_the_drop_ins(run_module, args, client, new_base, tmp_path) -> None:
    (tmp_path / "debug.toml").write_text('[debug]\n  level = "debug"\n')
    args = {**args, "image": new_base, "containerd_config": [str(tmp_path / "debug.toml"), LINES]}
    predicted = run_module("kind_node_prepare", args, check=True, diff=True)
    first = run_module("kind_node_prepare", args, diff=True)
    assert not first.failed and predicted["diff"] == first["diff"], first
    assert "/etc/containerd/config.toml" in first["diff"]["after"]["files"]
    container = client.containers.get(first["container"]["id"])
    dump = shell(container, "containerd config dump")
    assert "max_container_log_line_size = 1234" in dump and "level = 'debug'" in dump and "localhost/pause:1" in dump
    for check in (True, False):
        assert not run_module("kind_node_prepare", args, check=check)["changed"]
    other = run_module("kind_node_prepare", {**args, "containerd_config": [LINES]}, check=True)
    assert other["fingerprint"] != first["fingerprint"]
    # another sandbox image is one that the node must hold
    sandbox = LINES + '  sandbox_image = "example.com/pause:2"\n'
    result = run_module("kind_node_prepare", {**args, "containerd_config": [sandbox]})
    assert "example.com/pause:2" in result["required_images"] and "localhost/pause:1" not in result["required_images"]


def test_drop_ins_of_a_base_stay(run_module, args, client, new_base) -> None:
    """A base that is a node image with parts of its own: those of a variant come after them, whatever they are called."""
    sandbox = '[plugins."io.containerd.grpc.v1.cri"]\n  sandbox_image = "example.com/pause:2"\n'
    first = run_module("kind_node_prepare", {**args, "image": new_base, "containerd_config": [sandbox]})
    commit = {"container": first["container"]["id"], "name": args["node_image"], **{key: first[key] for key in ("changes", "labels", "fingerprint")}}
    assert run_module("docker_commit", commit)["changed"]
    plain = {**args, "image": args["node_image"], "node_image": f"{args['node_image']}-variant"}
    variant = {**plain, "containerd_config": [LINES]}
    predicted = run_module("kind_node_prepare", variant, check=True, diff=True)
    second = run_module("kind_node_prepare", variant, diff=True)
    assert not second.failed and predicted["diff"] == second["diff"], second
    assert "example.com/pause:2" in second["required_images"] and "localhost/pause:1" not in second["required_images"]
    container = client.containers.get(second["container"]["id"])
    assert shell(container, "cd /etc/containerd/conf.d; cat nodeforge-00.toml nodeforge-01.toml") == sandbox + LINES
    dump = shell(container, "containerd config dump")
    assert "max_container_log_line_size = 1234" in dump and "example.com/pause:2" in dump
    for check in (True, False):
        assert not run_module("kind_node_prepare", variant, check=check)["changed"]
    # one without parts of its own reads them as well
    assert "example.com/pause:2" in run_module("kind_node_prepare", plain)["required_images"]


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        (["[x\n"], "containerd of the base image does not take entry 0 of containerd_config: "),
        ([LINES, LINES.replace("1234", '"x"')], "containerd of the base image does not take entry 0 of containerd_config or entry 1 of containerd_config: "),
        ([LINES.replace("max_container", "max_nonsense")], "does not know max_nonsense_log_line_size in entry 0 of containerd_config: correct it"),
        (["version = 3\n"], "The entry 0 of containerd_config is for version 3 of containerd's configuration, but the base image "),
        (["/nowhere/x.toml"], 'The containerd_config "/nowhere/x.toml" cannot be read: No such file or directory'),
    ],
)
def test_bad_containerd_configuration(run_module, args, client, new_base, entries, text) -> None:
    result = run_module("kind_node_prepare", {**args, "image": new_base, "containerd_config": entries})
    assert result.failed and text in result["msg"] and result["msg"].count("\n") == 0, result
    assert ours(client) == []


def test_an_older_containerd_takes_whole_sections_only(run_module, args, client, base) -> None:
    mine = shutil.which("containerd")
    if not mine or small_base.version_of(mine) >= (2, 0):
        pytest.skip("this host has no containerd 1.x")
    args = {**args, "image": containerd_base(client, "containerd-1", pathlib.Path(mine).parent)}
    result = run_module("kind_node_prepare", {**args, "containerd_config": [LINES]})
    assert result.failed and "loses other settings, such as the sandbox image localhost/pause:1: repeat the whole section" in result["msg"], result
    assert not run_module("kind_node_prepare", {**args, "containerd_config": [f'{LINES}  sandbox_image = "localhost/pause:1"\n']}).failed


# without a network


def test_offline_names_all_that_is_missing(run_module, args, tmp_path) -> None:
    args = {**args, "image": f"{PREFIX}-none:1", "offline": True, "cache_dir": str(tmp_path / "none"), "inputs": {"docker.io/test/netd:v1": "sha256:0"}}
    began = time.monotonic()
    for check in (True, False):
        result = run_module("kind_node_prepare", args, check=check)
        assert result.failed and result["msg"] == (
            f'With offline, these are missing: the base image "docker.io/library/{PREFIX}-none:1", the image docker.io/test/storage:v1, '
            "the image docker.io/library/busybox:1, the image registry.k8s.io/etcd:3.7.0-0; load them, or run once with the network"
        ), result
    assert time.monotonic() - began < 5
    assert not (tmp_path / "none").exists()
    # at hand, though by other names
    (tmp_path / "busybox.tar").write_bytes(small_base.archive("busybox:1.36", {"x": (b"", 0o755)}))
    digest = f"sha256:{'1' * 64}"
    images = [{"archive": str(tmp_path / "busybox.tar")}, f"example.com/app:1@{digest}"]
    inputs = {**args["inputs"], f"example.com/app@{digest}": ""}
    told = run_module("kind_node_prepare", {**args, "extra_images": images, "inputs": inputs})["msg"]
    assert "busybox" not in told and "example.com/app" not in told and "docker.io/test/storage:v1" in told, told
    assert not run_module("kind_node_prepare", {**args, "image": BASE}).failed
