# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""docker_commit against the real engine."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import time
import typing as t

import docker
import pytest
import small_base

PREFIX = f"nodeforge-test-c{os.getpid()}"
BASE = f"{PREFIX}:base"
FINGERPRINT = "f" * 64


@pytest.fixture(scope="module")
def client() -> t.Iterator[docker.DockerClient]:
    client = docker.from_env()
    small_base.load(client, BASE, small_base.host_tools(), Env=["PATH=/usr/bin"], Labels={"of": "the base"}, StopSignal="SIGRTMIN+3")
    yield client
    small_base.remove_all(client, PREFIX)
    for image in client.images.list(filters={"dangling": True, "label": "io.nodeforge.commit"}):
        if image.labels.get("of") == "the base":
            client.images.remove(image.id, force=True)
    client.close()


@pytest.fixture
def container(client: docker.DockerClient, tmp_path: pathlib.Path) -> t.Iterator[t.Any]:
    container = client.containers.run(
        BASE,
        ["sh", "-c", "echo hello >/hello; mkdir /new; echo x >/new/x; rm /usr/bin/touch; exec sleep 600"],
        name=f"{PREFIX}-{tmp_path.name}",
        detach=True,
        network_mode="none",
        tmpfs={"/run": ""},
    )
    deadline = time.monotonic() + 30
    while container.exec_run(["cat", "/usr/bin/touch"]).exit_code == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    yield container
    container.remove(force=True)


@pytest.fixture
def args(container: t.Any, tmp_path: pathlib.Path) -> dict[str, t.Any]:
    return {"container": container.name, "name": f"{PREFIX}-image:{tmp_path.name}"}


def dangling(client: docker.DockerClient) -> set[str]:
    return {image.id for image in client.images.list(filters={"dangling": True, "label": "io.nodeforge.commit"})}


def test_first_and_second_run(run_module, args, client, container) -> None:
    before = dangling(client)
    predicted = run_module("docker_commit", args, check=True, diff=True)
    assert predicted["changed"] and predicted["image"] is None
    assert predicted["diff"] == {"before": {"id": None}, "after": {"id": "unknown"}}
    assert not client.images.list(args["name"])

    first = run_module("docker_commit", args, diff=True)
    assert first["changed"] and first["actions"] == predicted["actions"] == [f'Committed the container "{container.name}" as "{args["name"]}"']
    assert first["fingerprint"] == predicted["fingerprint"]
    image = client.images.get(args["name"])
    assert first["diff"] == {"before": {"id": None}, "after": {"id": image.id}}
    facts = first["image"]
    assert facts["id"] == image.id and facts["size"] == image.attrs["Size"] and facts["repo_tags"] == [args["name"]]
    assert facts["layers"] == image.attrs["RootFS"]["Layers"] and len(facts["layers"]) == 2
    assert facts["labels"]["of"] == "the base" and facts["platform"] == small_base.PLATFORM and facts["created"]
    assert client.containers.run(image, ["cat", "/hello", "/new/x"], remove=True, network_mode="none") == b"hello\nx\n"

    for check in (True, False):
        second = run_module("docker_commit", args, check=check, diff=True)
        assert not second["changed"] and second["actions"] == []
        assert second["image"] == facts
        assert second["diff"] == {"before": {"id": image.id}, "after": {"id": image.id}}
    container.reload()
    assert container.status == "running"
    assert dangling(client) == before


def test_what_counts_as_a_change(run_module, args, client, container) -> None:
    def commit(**more: t.Any) -> bool:
        predicted = run_module("docker_commit", {**args, **more}, check=True)["changed"]
        result = run_module("docker_commit", {**args, **more})
        assert result["changed"] == predicted
        return t.cast(bool, predicted)

    def do(script: str) -> None:
        assert container.exec_run(["sh", "-c", script]).exit_code == 0

    assert commit()
    # what no image holds: mounts, and reading
    do("echo x >/run/x; cat /hello /etc/hosts")
    container.pause()
    assert not commit()
    container.unpause()
    container.stop(timeout=1)
    assert not commit()
    container.start()
    for script in ("echo other >/hello", "rm /hello", "mkdir /empty", "rm -r /new"):
        time.sleep(0.1)
        do(script)
        assert commit(), script
        assert not commit(), script
    assert commit(changes=["ENV A=b"])
    assert commit(changes=["ENV A=c"])
    assert not commit(changes=["ENV A=c"])
    assert commit(changes=["ENV A=c"], labels={"a": 1})
    assert not commit(changes=["ENV A=c"], labels={"a": 1, "org.opencontainers.image.created": "at another time"})
    assert commit(author="me")
    assert commit(author="me", comment="why")
    assert commit()


def test_fingerprint_of_the_caller(run_module, args, client, container) -> None:
    args["fingerprint"] = FINGERPRINT
    assert run_module("docker_commit", args)["changed"]
    container.exec_run(["sh", "-c", "echo other >/hello"])
    assert not run_module("docker_commit", args)["changed"]
    # then no container is needed
    for gone in (f"{PREFIX}-none", None, ""):
        result = run_module("docker_commit", {**args, "container": gone})
        assert not result["changed"] and result["image"]["labels"]["io.nodeforge.fingerprint"] == FINGERPRINT
    other = {**args, "container": f"{PREFIX}-none", "fingerprint": "other"}
    # in check mode, one may be there when its time comes
    assert run_module("docker_commit", other, check=True)["changed"]
    assert run_module("docker_commit", {**other, "fingerprint": None}, check=True)["changed"]
    assert f'There is no container "{PREFIX}-none"' in run_module("docker_commit", other)["msg"]
    assert run_module("docker_commit", {**args, "fingerprint": "other"})["changed"]
    missing = run_module("docker_commit", {**args, "container": None})
    assert f'The option container is missing: "{args["name"]}" has to be made' in missing["msg"]


def test_image_options(run_module, args, client) -> None:
    nasty = "a \"b\" 'c' $HOME ${X} \\ back\\slash # no comment, ünïcode; `x` %d"
    args.update(
        changes=['ENTRYPOINT ["/bin/sh", "-c"]', "  cmd []  ", 'ENV A=b C="d e"', "WORKDIR /new", "HEALTHCHECK NONE"],
        labels={"org.example/x-y.z": nasty, "number": 5, "empty": None, "of": "the image"},
        author="Somebody <somebody@example.org>",
        comment="What\nfor",
        pause=False,
    )
    labels = run_module("docker_commit", args)["image"]["labels"]
    assert labels["org.example/x-y.z"] == nasty
    assert (labels["number"], labels["empty"], labels["of"]) == ("5", "", "the image")
    image = client.images.get(args["name"]).attrs
    assert image["Config"]["Entrypoint"] == ["/bin/sh", "-c"] and not image["Config"]["Cmd"]
    assert set(image["Config"]["Env"]) == {"PATH=/usr/bin", "A=b", "C=d e"}
    assert image["Config"]["WorkingDir"] == "/new" and image["Config"]["Healthcheck"] == {"Test": ["NONE"]}
    assert image["Author"] == args["author"] and image["Comment"] == args["comment"]


def test_stop_signal_remains(run_module, args, client) -> None:
    run_module("docker_commit", {**args, "changes": ["CMD []"]})
    assert client.images.get(args["name"]).attrs["Config"]["StopSignal"] == "SIGRTMIN+3"


def test_repository_and_tag(run_module, args, client) -> None:
    del args["name"]
    assert run_module("docker_commit", {**args, "repository": f"{PREFIX}-r"})["image"]["repo_tags"] == [f"{PREFIX}-r:latest"]
    tagged = run_module("docker_commit", {**args, "repository": f"localhost:5000/{PREFIX}-r", "tag": "V1_x"})
    assert f"localhost:5000/{PREFIX}-r:V1_x" in tagged["image"]["repo_tags"]
    # in full, it is the same image
    assert not run_module("docker_commit", {**args, "name": f"docker.io/library/{PREFIX}-r"})["changed"]


def test_build_label(run_module, args, client, tmp_path) -> None:
    made = client.containers.create(BASE, ["sh"], name=f"{PREFIX}-b", labels={"io.nodeforge.build": f"{PREFIX}-b abc", "mine": "yes"})
    labels = run_module("docker_commit", {**args, "container": made.id})["image"]["labels"]
    assert labels["io.nodeforge.build"] == "" and labels["mine"] == "yes"
    made.remove()


def test_previous_image(run_module, args, client, container) -> None:
    first = run_module("docker_commit", args)["image"]["id"]
    container.exec_run(["sh", "-c", "echo 2 >/hello"])
    second = run_module("docker_commit", args)["image"]["id"]
    # by default, it stays without a name
    assert client.images.get(first).tags == [] and client.images.get(args["name"]).id == second
    client.images.remove(first)

    prune = {**args, "prune_previous": True}
    container.exec_run(["sh", "-c", "echo 3 >/hello"])
    predicted = run_module("docker_commit", prune, check=True)
    third = run_module("docker_commit", prune)
    assert third["actions"] == predicted["actions"]
    assert third["actions"][1] == f'Removed the image "{second}" that had the tag before'
    assert not client.images.list(second) and second not in dangling(client)

    # not while something needs it: another tag, a container
    client.images.get(args["name"]).tag(f"{PREFIX}-other", "x")
    container.exec_run(["sh", "-c", "echo 4 >/hello"])
    fourth = run_module("docker_commit", prune)
    assert len(fourth["actions"]) == 1 and client.images.get(third["image"]["id"]).tags == [f"{PREFIX}-other:x"]
    user = client.containers.create(args["name"], name=f"{PREFIX}-user")
    container.exec_run(["sh", "-c", "echo 5 >/hello"])
    predicted = run_module("docker_commit", prune, check=True)
    assert predicted["actions"] == run_module("docker_commit", prune)["actions"] and len(predicted["actions"]) == 1
    assert client.images.get(fourth["image"]["id"]).tags == []
    user.remove()
    client.images.remove(fourth["image"]["id"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupt(run_module, args, client, container, number: signal.Signals) -> None:
    """Whenever the signal comes: the tag names what it named before, and no image without a name is left."""
    first = run_module("docker_commit", args)["image"]["id"]
    before = dangling(client)
    assert container.exec_run(["sh", "-c", "head -c 300000000 /dev/zero >/big"]).exit_code == 0
    process = run_module("docker_commit", args, popen=True)
    deadline = time.monotonic() + 60
    while not paused(client, container) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    result = json.loads(process.stdout.read())
    assert process.wait() != 0
    assert f"Interrupted by {number.name}: no tag was changed" in result["msg"]
    assert client.images.get(args["name"]).id == first
    assert dangling(client) == before
    container.reload()
    assert container.status == "running"
    assert run_module("docker_commit", args)["changed"]


def test_owner(run_module, args, client, container) -> None:
    """Ansible's worker goes on when ansible-playbook itself is killed: what nobody waits for replaces nothing."""
    with subprocess.Popen(["sleep", "600"]) as owner:
        args["owner"] = owner.pid
        first = run_module("docker_commit", args)["image"]["id"]
        before = dangling(client)
        assert container.exec_run(["sh", "-c", "head -c 300000000 /dev/zero >/big"]).exit_code == 0
        process = run_module("docker_commit", args, popen=True)
        deadline = time.monotonic() + 60
        while not paused(client, container) and time.monotonic() < deadline:
            time.sleep(0.01)
        owner.kill()
        result = json.loads(process.stdout.read())
        assert process.wait() != 0
    assert result["msg"] == f"The owner {owner.pid} has ended: no tag was changed"
    assert client.images.get(args["name"]).id == first
    assert dangling(client) == before


def test_remove(run_module, args, client, tmp_path) -> None:
    """With the image, and also where that is there already; a container that is not committed stays."""
    args = {**args, "container": f"{PREFIX}-{tmp_path.name}-removed", "remove": True}
    client.containers.run(BASE, ["sleep", "600"], name=args["container"], detach=True, network_mode="none")
    assert run_module("docker_commit", {**args, "changes": ["EXPOSE nothing"]}).failed
    predicted = run_module("docker_commit", args, check=True)
    assert client.containers.get(args["container"]).status == "running"
    made = run_module("docker_commit", args)
    assert made["actions"] == predicted["actions"] and made["actions"][1:] == [f'Removed the container "{args["container"]}"']
    with pytest.raises(docker.errors.NotFound):
        client.containers.get(args["container"])
    # with a fingerprint, no container is needed
    known = {**args, "fingerprint": made["fingerprint"]}
    assert not run_module("docker_commit", known)["changed"]
    client.containers.create(BASE, ["true"], name=args["container"])
    again = run_module("docker_commit", known)
    assert again["actions"] == [f'Removed the container "{args["container"]}"'] and again["image"]["id"] == made["image"]["id"]
    assert not client.containers.list(all=True, filters={"name": args["container"]})


def paused(client: docker.DockerClient, container: t.Any) -> bool:
    return t.cast(bool, client.api.inspect_container(container.id)["State"]["Paused"])


def test_memory(run_module, peak_memory, args, container) -> None:
    """Many files, and some of them large."""
    script = "mkdir /many; i=0; while [ $i -lt 3000 ]; do echo $i >/many/$i; i=$((i+1)); done; head -c 500000000 /dev/zero >/big"
    assert container.exec_run(["sh", "-c", script]).exit_code == 0
    process = run_module("docker_commit", args, popen=True)
    output, peak = peak_memory(process)
    assert process.returncode == 0, output
    assert peak < 150 * 1024, f"{peak} KiB"
    assert not run_module("docker_commit", args)["changed"]


BAD: list[tuple[dict[str, t.Any], str]] = [
    ({"container": "nodeforge-test-none"}, 'There is no container "nodeforge-test-none" at'),
    ({"container": None}, "The option container is missing"),
    ({"name": None}, "one of the following is required: name, repository"),
    ({"name": ""}, "The image is empty"),
    ({"name": "a", "repository": "b"}, "mutually exclusive"),
    ({"name": "Upper/Case:x"}, 'write "upper/case:x"'),
    ({"name": "a:b:c"}, 'The image "a:b:c" is not an image reference'),
    ({"name": "a:v1.37.0+dirty"}, 'The image "a:v1.37.0+dirty" is not an image reference'),
    ({"name": "0a" * 32}, "is an id"),
    ({"name": "a@sha256:" + "0a" * 32}, "names a digest"),
    ({"name": None, "repository": "a:b", "tag": "c"}, 'The image "a:b:c" is not an image reference'),
    ({"name": None, "repository": "a", "tag": "b c"}, 'The image "a:b c" is not an image reference'),
    ({"changes": ["STOPSIGNAL 9"]}, 'The change "STOPSIGNAL 9" is not one instruction'),
    ({"changes": ["ENV A=b \\"]}, "is not one instruction"),
    ({"changes": ["FROM scratch"]}, 'The change "FROM scratch" is not one instruction'),
    ({"changes": ["ENV"]}, 'The change "ENV" is not one instruction'),
    ({"changes": ["ENV A=b\nRUN x"]}, "is not one instruction"),
    ({"changes": ["EXPOSE nothing"]}, "Committing the container"),
    ({"labels": {"a b": "x"}}, 'The label "a b" is not'),
    ({"labels": {"a": ["x"]}}, 'The value of the label "a" is not one line'),
    ({"labels": {"a": "x\ny"}}, 'The value of the label "a" is not one line'),
    ({"owner": 0}, "The owner 0 is no process of this host"),
    ({"docker_host": "unix:///nodeforge/none.sock"}, "The container engine at unix:///nodeforge/none.sock cannot be reached"),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_bad_input(run_module, args, client, number: int) -> None:
    change, says = BAD[number]
    before = dangling(client)
    result = run_module("docker_commit", {k: v for k, v in {**args, **change}.items() if v is not None})
    assert result.failed and says in result["msg"], result
    assert "\n" not in result["msg"]
    assert not client.images.list(args["name"]) and dangling(client) == before


@pytest.fixture
def small_engine(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[docker.DockerClient]:
    """A second engine on a disk of 60 MB, in namespaces of its own so that the machine's network and engine see nothing of it."""
    if os.getuid() != 0 or not shutil.which("dockerd"):
        pytest.skip("only root can start an engine on a small disk")
    root = tmp_path_factory.mktemp("engine")
    script = """
        mount -t tmpfs -o size=60m tmpfs "$1/data" && mount -t tmpfs tmpfs /run || exit 1
        exec dockerd --data-root "$1/data" --exec-root /run/docker --pidfile /run/docker.pid --host "unix://$1/sock" \\
          --bridge none --iptables=false --ip-forward=false --storage-driver overlay2
    """
    (root / "data").mkdir()
    with open(root / "log", "wb") as log:
        engine = subprocess.Popen(["unshare", "--net", "--mount", "sh", "-c", script, "sh", str(root)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                client = docker.DockerClient(f"unix://{root}/sock", timeout=60)
                break
            except docker.errors.DockerException:
                if engine.poll() is not None or time.monotonic() > deadline:
                    pytest.skip("no second engine starts here: " + (root / "log").read_text()[-500:])
                time.sleep(0.2)
        yield client
        client.close()
    finally:
        # its containerd and shims end with it
        engine.send_signal(signal.SIGTERM)
        try:
            engine.wait(30)
        except subprocess.TimeoutExpired:
            engine.kill()
            engine.wait()


def test_full_disk(run_module, small_engine, tmp_path) -> None:
    """One sentence, nothing half-made, and once there is space the same call works. Both modules, as one fills what the other empties."""
    host = "unix://" + small_engine.api._custom_adapter.socket_path
    small_base.load(small_engine, BASE, small_base.node_base())
    big = tmp_path / "kubelet"
    big.write_bytes(os.urandom(70_000_000))
    prepare = {"docker_host": host, "name": "full", "image": BASE, "version": "v1.37.2", "network_mode": "none"}
    kubeadm = tmp_path / "kubeadm"
    kubeadm.write_text("#!/bin/sh\necho registry.k8s.io/etcd:1\n")
    kubeadm.chmod(0o755)
    result = run_module("kind_node_prepare", {**prepare, "binaries": {"kubeadm": str(kubeadm), "kubelet": str(big)}})
    assert result.failed and "Copying files into the container" in result["msg"] and "docker system df" in result["msg"], result
    assert not small_engine.containers.list(all=True)

    # fits once, in the container, not a second time in an image
    big.write_bytes(os.urandom(35_000_000))
    made = run_module("kind_node_prepare", {**prepare, "binaries": {"kubeadm": str(kubeadm), "kubelet": str(big)}})
    assert made["changed"], made
    commit = {"docker_host": host, "container": "full", "name": "full:x"}
    result = run_module("docker_commit", commit)
    assert result.failed and "no space left on device" in result["msg"] and "docker system df" in result["msg"], result
    assert not small_engine.images.list("full") and not small_engine.images.list(filters={"dangling": True})
    small_engine.containers.get("full").exec_run(["rm", "/usr/bin/kubelet"])
    assert run_module("docker_commit", commit)["changed"]
    small_engine.containers.get("full").remove(force=True)


def test_a_container_that_was_never_started(run_module, client, tmp_path: pathlib.Path) -> None:
    container = client.containers.create(BASE, ["sleep", "600"], name=f"{PREFIX}-created")
    try:
        container.put_archive("/", small_base.layer({"hello": (b"hello\n", 0o644)}))
        args = {"container": container.name, "name": f"{PREFIX}-image:{tmp_path.name}", "changes": ['ENTRYPOINT ["cat"]', 'CMD ["/hello"]']}
        assert run_module("docker_commit", args, check=True)["changed"]
        assert run_module("docker_commit", args)["changed"] and not run_module("docker_commit", args)["changed"]
        made = client.containers.create(args["name"])
        try:
            made.start()
            assert made.wait(timeout=60)["StatusCode"] == 0 and made.logs() == b"hello\n"
        finally:
            made.remove(force=True)
    finally:
        container.remove(force=True)
