# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inner loop on a real cluster of two nodes: it is made and compared, its components are swapped, and every swap is undone.

Other programs are the node's own with another version in them, so nothing is compiled but two small broken ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import tarfile
import threading
import time
import typing as t

import docker
import pytest
from e2e.conftest import ROOT, build

CLUSTER = os.environ.get("INNER_CLUSTER", "nodeforge-inner")
CONFIG = {"nodes": [{"role": "control-plane"}, {"role": "worker"}]}
PLANE, WORKER = f"{CLUSTER}-control-plane", f"{CLUSTER}-worker"
STATIC = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")

BROKEN = """package main

import (
    "fmt"
    "os"
    "os/signal"
    "syscall"
    "time"
)

func main() {
    for _, argument := range os.Args[1:] {
        if argument == "--version" {
            fmt.Println("Kubernetes v1.99.0-WORD")
            return
        }
    }
    if "WORD" == "crash" {
        fmt.Fprintln(os.Stderr, "F1124 11:40:02.120000       1 main.go:12] it crashes on purpose")
        os.Exit(3)
    }
    signal.Ignore(syscall.SIGTERM)
    for {
        time.Sleep(time.Hour)
    }
}
"""


class Inner:
    """The cluster, and what tests ask of it."""

    def __init__(self, engine: docker.DockerClient, run_module: t.Any, image: str, directory: pathlib.Path) -> None:
        self.engine, self._run, self.image, self.directory = engine, run_module, image, directory
        self.kubeconfig = directory / "kubeconfig"

    def cluster(self, **options: t.Any) -> t.Any:
        flags = {key: options.pop(key) for key in ("check", "diff", "popen") if key in options}
        arguments = {"name": CLUSTER, "image": self.image, "config": CONFIG, "kubeconfig": str(self.kubeconfig), **options}
        return self._run("kind_cluster", arguments, **flags)

    def swap(self, component: str, binary: pathlib.Path | None = None, **options: t.Any) -> t.Any:
        flags = {key: options.pop(key) for key in ("check", "diff", "popen") if key in options}
        arguments: dict[str, t.Any] = {"cluster": CLUSTER, "component": component, **options}
        if binary:
            arguments["binary"] = str(binary)
        else:
            arguments["state"] = "original"
        return self._run("kube_component_swap", arguments, **flags)

    def sh(self, node: str, script: str, check: bool = True) -> str:
        return self._exec(node, ["bash", "-c", script], check)

    def kubectl(self, *arguments: str) -> str:
        return self._exec(PLANE, ["kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", *arguments])

    def _exec(self, node: str, argv: list[str], check: bool = True) -> str:
        for dummy in range(3):
            code, output = self.engine.containers.get(node).exec_run(["bash", "-c", '"$@"; code=$?; echo "@end"; exit $code', "bash", *argv])
            told, end, dummy2 = output.decode(errors="replace").rpartition("@end")
            # an engine under load loses what a command prints, all of it
            if end or code != 0:
                break
        assert code == 0 or not check, output
        return (told if end else output.decode(errors="replace")).strip()

    def running(self, node: str, component: str) -> list[str]:
        """The checksums of the component's processes, by another way than the module's."""
        names = f'for e in /proc/[0-9]*/exe; do case $(readlink $e) in */{component}|*/{component}" (deleted)") sha256sum $e;; esac; done'
        return [line.split()[0] for line in self.sh(node, names).splitlines()]

    def version(self, node: str) -> str:
        return self.kubectl("get", "node", node, "-o", "jsonpath={.status.nodeInfo.kubeletVersion}")

    def ready(self) -> bool:
        form = r'jsonpath={range .items[*].status.conditions[?(@.type=="Ready")]}{.status} {end}'
        return self.kubectl("get", "nodes", "-o", form).split() == ["True", "True"]

    def untouched(self) -> None:
        """Nothing of ours is left but the note of what the cluster was made of."""
        left = {node: self.sh(node, "ls /kind/nodeforge 2>/dev/null; ls -A /etc/kubernetes | grep nodeforge", check=False) for node in (PLANE, WORKER)}
        assert left == {PLANE: "cluster.json", WORKER: ""}

    def program(self, component: str) -> pathlib.Path:
        """The node's own, copied out."""
        path = self.directory / component
        if not path.exists():
            if component in STATIC or component == "kube-proxy":
                self.sh(PLANE, f"for e in /proc/[0-9]*/exe; do case $(readlink $e) in */{component}) cp $e /root/{component}; break;; esac; done")
                source = f"/root/{component}"
            else:
                source = f"/usr/bin/{component}"
            stream, dummy = self.engine.containers.get(PLANE).get_archive(source)
            with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
                content = archive.extractfile(component)
                assert content
                path.write_bytes(content.read())
            path.chmod(0o755)
            self.sh(PLANE, f"rm -f /root/{component}")
            if component == "kubelet":
                (self.directory / "version").write_text(self.sh(PLANE, "kubelet --version").split()[1])
        return path

    def other(self, component: str, digit: str = "8") -> tuple[pathlib.Path, str]:
        """The same program with another version of the same length, and that version."""
        mine = self.program(component)
        version = self.program("kubelet").with_name("version").read_text()
        another = re.sub(r"^(v\d+\.\d+\.\d*)\d", rf"\g<1>{digit}", version)
        assert another != version
        path = self.directory / digit / component
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(mine.read_bytes().replace(version.encode(), another.encode()))
        path.chmod(0o755)
        return path, another


def sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def engine() -> docker.DockerClient:
    return docker.from_env(timeout=300)


@pytest.fixture(scope="module")
def inner(
    ansible_env: dict[str, str], run_module: t.Any, engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> t.Iterator[Inner]:
    image = os.environ.get("INNER_IMAGE") or build(ansible_env, tag="inner-loop").summary["image"]
    inner = Inner(engine, run_module, image, tmp_path_factory.mktemp("inner"))
    try:
        made = inner.cluster()
        assert not made.failed and made["changed"], made
        yield inner
    finally:
        gone = inner.cluster(state="absent")
        assert not gone.failed and not engine.api.containers(all=True, filters={"label": f"io.x-k8s.kind.cluster={CLUSTER}"})


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """Programs that tell a version and then crash, or hang."""
    made = {}
    for word in ("crash", "hang"):
        directory = tmp_path_factory.mktemp(word)
        (directory / "main.go").write_text(BROKEN.replace("WORD", word))
        made[word] = directory / "kubelet"
        subprocess.run(
            ["go", "build", "-o", made[word], "main.go"], cwd=directory, check=True, env={**os.environ, "CGO_ENABLED": "0", "GO111MODULE": "off"}
        )
    return made


# the cluster


def test_a_second_run_changes_nothing(inner: Inner) -> None:
    for check in (False, True):
        again = inner.cluster(check=check, diff=True)
        assert not again["changed"] and again["differences"] == [] and again["diff"]["before"] == again["diff"]["after"]
    assert [(node["name"], node["role"]) for node in again["nodes"]] == [(PLANE, "control-plane"), (WORKER, "worker")]
    assert inner.ready()


def test_a_difference_is_told_and_applied_by_recreated_only(inner: Inner) -> None:
    before = [container.id for container in inner.engine.containers.list(filters={"label": f"io.x-k8s.kind.cluster={CLUSTER}"})]
    config = {"nodes": [{"role": "control-plane"}], "featureGates": {"AllAlpha": False}}
    present = inner.cluster(config=config, diff=True)
    assert not present["changed"] and len(present["differences"]) == 2, present
    assert "featureGates, nodes" in present["differences"][1]
    assert present["diff"]["before"] != present["diff"]["after"]
    predicted = inner.cluster(config=config, state="recreated", check=True)
    assert predicted["actions"] == [f'Deleted the cluster "{CLUSTER}"', f'Created the cluster "{CLUSTER}" of 1 node']
    assert [container.id for container in inner.engine.containers.list(filters={"label": f"io.x-k8s.kind.cluster={CLUSTER}"})] == before
    assert not inner.cluster(state="recreated")["changed"]


def test_a_cluster_made_by_hand_is_compared_by_its_nodes(inner: Inner) -> None:
    record = inner.sh(PLANE, "cat /kind/nodeforge/cluster.json; mv /kind/nodeforge/cluster.json /root")
    try:
        assert json.loads(record)["config"]["nodes"] == CONFIG["nodes"]
        same = inner.cluster(config={**CONFIG, "featureGates": {"AllAlpha": False}})
        assert not same["changed"] and same["differences"] == []
        assert len(inner.cluster(config={})["differences"]) == 1
        # one that never came to be
        inner.sh(PLANE, "mv /etc/kubernetes/admin.conf /root")
        predicted = inner.cluster(state="recreated", check=True)
        assert predicted["changed"] and "was left half-made" in inner.cluster()["differences"][0]
    finally:
        inner.sh(PLANE, "mv /root/cluster.json /kind/nodeforge/; mv /root/admin.conf /etc/kubernetes", check=False)


def test_lost_access_is_written_again(inner: Inner) -> None:
    text = inner.kubeconfig.read_text()
    inner.kubeconfig.unlink()
    assert inner.cluster(check=True)["changed"] and not inner.kubeconfig.exists()
    assert inner.cluster()["changed"] and inner.kubeconfig.read_text() == text
    assert not inner.cluster()["changed"]


def test_a_cluster_that_cannot_be_made_leaves_nothing(inner: Inner, tmp_path: pathlib.Path) -> None:
    """The kubelet refuses its configuration: the reason, the node's last words and the logs are there, and the nodes are gone."""
    logs = tmp_path / "logs"
    patches = [
        {"kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1", "featureGates": {"NoSuchGate": True}},
        {"kind": "InitConfiguration", "apiVersion": "kubeadm.k8s.io/v1beta4", "timeouts": {"kubeletHealthCheck": "8s"}},
    ]
    failed = inner.cluster(
        name=f"{CLUSTER}-bad",
        config={"kubeadmConfigPatches": [json.dumps(patch) for patch in patches]},
        kubeconfig=str(tmp_path / "config"),
        logs_directory=str(logs),
    )
    assert failed.failed and "could not be created" in failed["msg"] and "NoSuchGate" in failed["msg"], failed
    assert failed["node"] == f"{CLUSTER}-bad-control-plane" and failed["journal"]
    assert failed["logs"] == str(logs) and list(logs.rglob("kubelet.log"))
    assert not inner.engine.api.containers(all=True, filters={"label": f"io.x-k8s.kind.cluster={CLUSTER}-bad"})


# the kubelet


def test_kubelet_swapped_and_swapped_again(inner: Inner) -> None:
    own = sha256(inner.program("kubelet"))
    for digit in ("8", "9"):
        binary, version = inner.other("kubelet", digit)
        predicted = inner.swap("kubelet", binary, check=True, diff=True)
        assert predicted["changed"] and set(predicted["diff"]["after"].values()) == {sha256(binary)}
        done = inner.swap("kubelet", binary, diff=True)
        assert done["changed"] and done["diff"] == predicted["diff"], done
        assert [node["version"] for node in done["nodes"]] == [version, version]
        for node in (PLANE, WORKER):
            assert inner.running(node, "kubelet") == [sha256(binary)]
            assert inner.version(node) == version
        assert inner.ready()
        assert not inner.swap("kubelet", binary)["changed"] and not inner.swap("kubelet", binary, check=True)["changed"]
    back = inner.swap("kubelet", nodes=["worker"])
    assert [node["name"] for node in back["nodes"]] == [WORKER] and inner.running(WORKER, "kubelet") == [own]
    assert inner.running(PLANE, "kubelet") == [sha256(binary)]
    assert inner.swap("kubelet")["changed"] and not inner.swap("kubelet")["changed"]
    assert inner.running(PLANE, "kubelet") == [own]
    inner.untouched()


@pytest.mark.parametrize("word", ["crash", "hang"])
def test_a_kubelet_that_does_not_become_healthy_is_rolled_back(inner: Inner, broken: dict[str, pathlib.Path], word: str) -> None:
    binary, version = inner.other("kubelet")
    assert inner.swap("kubelet", binary, nodes=["worker"])["changed"]
    failed = inner.swap("kubelet", broken[word], nodes=["worker"], health_timeout=12)
    assert failed.failed and not failed["changed"] and failed["nodes"][0]["result"] == "rolledback", failed
    assert f"the previous one ({version}) runs again" in failed["msg"]
    if word == "crash":
        assert "it ended again and again" in failed["msg"] and "it crashes on purpose" in failed["msg"]
    assert inner.running(WORKER, "kubelet") == [sha256(binary)] and inner.ready()
    assert not inner.swap("kubelet", binary, nodes=["worker"])["changed"]
    # the first swap of all, and rolled back: nothing is left
    inner.swap("kubelet")
    assert inner.swap("kubelet", broken[word], nodes=["worker"], health_timeout=12).failed
    inner.untouched()


def test_what_is_no_program_is_refused(inner: Inner, tmp_path: pathlib.Path) -> None:
    own = inner.program("kubelet")
    files = {"text": b"#!/bin/sh\nexit 1\n", "truncated": own.read_bytes()[:5_000_000], "empty": b""}
    foreign = bytearray(own.read_bytes()[:4096])
    foreign[18:20] = b"\xf7\x00"  # eBPF
    files["foreign"] = bytes(foreign)
    said = {"text": "no ELF file", "truncated": "is cut off", "empty": "no ELF file", "foreign": "another machine"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        failed = inner.swap("kubelet", tmp_path / name)
        assert failed.failed and said[name] in failed["msg"], failed
    failed = inner.swap("kubelet", tmp_path / "none")
    assert "There is no file" in failed["msg"]
    # an ELF file that is another program
    odd = tmp_path / "odd"
    subprocess.run(["cp", "/bin/true", odd], check=True)
    failed = inner.swap("kubelet", odd, nodes=["worker"])
    assert failed["nodes"][0]["result"] == "refused" and "was not touched" in failed["msg"], failed
    assert inner.running(WORKER, "kubelet") == [sha256(own)]
    inner.untouched()


def test_bad_input(inner: Inner) -> None:
    own = inner.program("kubelet")
    assert f"one of {PLANE}, {WORKER}" in inner.swap("kubelet", own, nodes=["workers"])["msg"]
    assert "only control planes do" in inner.swap("kube-apiserver", own, nodes=["worker"])["msg"]
    assert "There is no cluster" in inner.swap("kubelet", own, cluster="none-such")["msg"]


def until(what: t.Callable[[], t.Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_swap_that_is_broken_off(
    inner: Inner, broken: dict[str, pathlib.Path], signals_reach_main: t.Callable[[int], int], sent: signal.Signals
) -> None:
    """Told to stop, the module has the node roll back; killed, the node does so by itself."""
    own = sha256(inner.program("kubelet"))
    hang = sha256(broken["hang"])
    process = inner.swap("kubelet", broken["hang"], nodes=["worker"], health_timeout=15, popen=True)
    until(lambda: inner.running(WORKER, "kubelet") == [hang])
    assert signals_reach_main(process.pid) >= 1
    process.send_signal(sent)
    output = process.stdout.read()
    process.wait(60)
    if sent == signal.SIGTERM:
        assert "Interrupted by SIGTERM" in output and "it was interrupted" in output and "runs again" in output, output
        assert inner.running(WORKER, "kubelet") == [own]
    # whoever comes next waits for the node's lock
    binary, dummy = inner.other("kubelet")
    assert inner.swap("kubelet", binary, nodes=["worker"])["changed"]
    assert inner.running(WORKER, "kubelet") == [sha256(binary)]
    assert inner.swap("kubelet")["changed"]
    inner.untouched()


def test_the_node_dies_in_the_middle_of_a_swap(inner: Inner, broken: dict[str, pathlib.Path]) -> None:
    process = inner.swap("kubelet", broken["hang"], nodes=["worker"], popen=True)
    until(lambda: inner.running(WORKER, "kubelet") == [sha256(broken["hang"])])
    inner.engine.api.restart(WORKER, timeout=1)
    process.wait(120)
    assert json.loads(process.stdout.read())["failed"]
    assert json.loads(inner.sh(WORKER, "cat /kind/nodeforge/kubelet/state.json"))["phase"] == "swapping"
    assert inner.swap("kubelet", check=True)["nodes"][1]["reason"] == "an earlier swap was broken off"
    assert inner.swap("kubelet")["changed"]
    assert inner.running(WORKER, "kubelet") == [sha256(inner.program("kubelet"))]
    inner.untouched()


def test_two_swaps_at_once_on_one_node(inner: Inner) -> None:
    programs = [inner.other("kubelet", digit)[0] for digit in ("8", "9")]
    results: list[t.Any] = []
    threads = [threading.Thread(target=lambda p=p: results.append(inner.swap("kubelet", p, nodes=["worker"]))) for p in programs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result["changed"] for result in results] == [True, True], results
    # one after the other: the second saw the first's program
    assert {results[0]["nodes"][0]["previous"], results[1]["nodes"][0]["previous"]} & {sha256(p) for p in programs}
    assert len(inner.running(WORKER, "kubelet")) == 1 and inner.ready()
    assert inner.swap("kubelet")["changed"]


# the others


@pytest.mark.parametrize("component", STATIC)
def test_static_pods_swapped_and_back(inner: Inner, component: str) -> None:
    manifest = f"/etc/kubernetes/manifests/{component}.yaml"
    before = inner.sh(PLANE, f"sha256sum {manifest}; stat -c '%a %U' {manifest}")
    own = sha256(inner.program(component))
    binary, version = inner.other(component)
    done = inner.swap(component, binary)
    assert done["changed"] and done["nodes"][0]["version"] == version and len(done["nodes"]) == 1, done
    assert inner.running(PLANE, component) == [sha256(binary)]
    if component == "kube-apiserver":
        assert json.loads(inner.kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"] == version
    assert not inner.swap(component, binary)["changed"]
    # somebody changes the manifest meanwhile: that stays
    inner.sh(PLANE, f"cp {manifest} /root/m && sed -i 's/^  labels:/  labels:\\n    mine: yes-it-is/' /root/m && mv /root/m {manifest}")
    assert inner.swap(component)["changed"] and not inner.swap(component)["changed"]
    assert inner.running(PLANE, component) == [own]
    text = inner.sh(PLANE, f"cat {manifest}")
    assert "mine: yes-it-is" in text and "/kind/nodeforge" not in text and "name: nodeforge\n" not in text
    # and without that, it is the very same file
    inner.sh(PLANE, f"grep -v yes-it-is {manifest} >/root/m; mv /root/m {manifest}; chmod 600 {manifest}")
    until(lambda: inner.running(PLANE, component) == [own])
    other = inner.sh(PLANE, f"sha256sum {manifest}; stat -c '%a %U' {manifest}")
    assert inner.swap(component, binary)["changed"] and inner.swap(component)["changed"]
    assert inner.sh(PLANE, f"sha256sum {manifest}; stat -c '%a %U' {manifest}") == other == before
    inner.untouched()


def test_the_node_dies_while_its_manifest_is_away(inner: Inner) -> None:
    manifest = "/etc/kubernetes/manifests/kube-scheduler.yaml"
    before = inner.sh(PLANE, f"sha256sum {manifest}")
    binary, dummy = inner.other("kube-scheduler")
    process = inner.swap("kube-scheduler", binary, popen=True)
    until(lambda: inner.sh(PLANE, f"ls {manifest} 2>/dev/null", check=False) == "")
    inner.engine.api.kill(PLANE)
    process.wait(120)
    inner.engine.api.start(PLANE)
    until(lambda: inner.sh(PLANE, "kubectl --kubeconfig /etc/kubernetes/admin.conf get --raw /readyz", check=False) == "ok", 120)
    assert inner.swap("kube-scheduler", check=True)["nodes"][0]["reason"] == "an earlier swap was broken off"
    done = inner.swap("kube-scheduler", binary)
    assert done["changed"] and inner.running(PLANE, "kube-scheduler") == [sha256(binary)], done
    assert inner.swap("kube-scheduler")["changed"] and inner.sh(PLANE, f"sha256sum {manifest}") == before
    inner.untouched()


def test_a_static_pod_that_crashes_is_rolled_back(inner: Inner, broken: dict[str, pathlib.Path]) -> None:
    before = inner.sh(PLANE, "sha256sum /etc/kubernetes/manifests/*")
    failed = inner.swap("kube-scheduler", broken["crash"])
    assert failed["nodes"][0]["result"] == "rolledback" and "it crashes on purpose" in failed["msg"], failed
    assert inner.running(PLANE, "kube-scheduler") == [sha256(inner.program("kube-scheduler"))]
    assert inner.sh(PLANE, "sha256sum /etc/kubernetes/manifests/*") == before
    inner.untouched()


def test_kube_proxy_of_one_node(inner: Inner) -> None:
    own = sha256(inner.program("kube-proxy"))
    binary, dummy = inner.other("kube-proxy")
    done = inner.swap("kube-proxy", binary, nodes=["worker"])
    assert done["changed"] and inner.running(WORKER, "kube-proxy") == [sha256(binary)], done
    until(lambda: inner.running(PLANE, "kube-proxy") == [own])
    assert not inner.swap("kube-proxy", binary, nodes=["worker"])["changed"]
    assert inner.swap("kube-proxy")["changed"] and not inner.swap("kube-proxy")["changed"]
    for node in (PLANE, WORKER):
        assert inner.running(node, "kube-proxy") == [own]
    assert "nodeforge" not in inner.kubectl("-n", "kube-system", "get", "daemonset", "kube-proxy", "-o", "jsonpath={.spec}")
    inner.untouched()


def test_tools_are_files(inner: Inner) -> None:
    binary, version = inner.other("kubectl")
    done = inner.swap("kubectl", binary, nodes=[WORKER, "control-plane"], serial=2)
    assert done["changed"] and version in inner.sh(WORKER, "kubectl version --client")
    assert not inner.swap("kubectl", binary)["changed"]
    assert inner.swap("kubectl")["changed"]
    inner.untouched()


def test_swaps_survive_a_restart(inner: Inner) -> None:
    kubelet, version = inner.other("kubelet")
    scheduler, dummy = inner.other("kube-scheduler")
    assert inner.swap("kubelet", kubelet)["changed"] and inner.swap("kube-scheduler", scheduler)["changed"]
    for node in (WORKER, PLANE):
        inner.engine.api.stop(node, timeout=5)
    assert not inner.swap("kubelet", kubelet).get("changed")
    started = inner.cluster()
    assert started["actions"] == [f'Started the node "{PLANE}"', f'Started the node "{WORKER}"'], started
    until(lambda: inner.running(PLANE, "kube-scheduler") == [sha256(scheduler)], 120)
    assert inner.running(WORKER, "kubelet") == [sha256(kubelet)] and inner.version(WORKER) == version
    assert not inner.swap("kubelet", kubelet)["changed"] and not inner.swap("kube-scheduler", scheduler)["changed"]
    assert inner.swap("kubelet")["changed"] and inner.swap("kube-scheduler")["changed"]
    inner.untouched()


def test_the_playbook_compiles_and_swaps(inner: Inner, ansible_env: dict[str, str], tmp_path: pathlib.Path) -> None:
    """The wiring, with a tree whose compiler is cp."""
    binary, dummy = inner.other("kubelet")
    tree = tmp_path / "tree"
    arch = inner.sh(PLANE, "uname -m").replace("x86_64", "amd64").replace("aarch64", "arm64")
    files = {
        "Makefile": f"all:\n\tmkdir -p _output/local/bin/linux/{arch}\n\tcp {binary} _output/local/bin/linux/{arch}/kubelet\n",
        "hack/print-workspace-status.sh": "#!/bin/sh\necho gitVersion v1.37.8\n",
        "cmd/kubelet/main.go": "package main\n\nfunc main() {}\n",
        "go.mod": "module k8s.io/kubernetes\n\ngo 1.20\n",
    }
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    (tree / "hack/print-workspace-status.sh").chmod(0o755)
    command = ["ansible-playbook", "nodeforge.kind.swap_component", "-e", "component=kubelet", "-e", f"cluster={CLUSTER}"]

    def play(*extra: str) -> str:
        ended = subprocess.run([*command, *extra], cwd=ROOT, env=ansible_env, capture_output=True, text=True, timeout=600, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    source = f"kube_source={tree}"
    play("-e", source, "--check")
    assert inner.running(WORKER, "kubelet") != [sha256(binary)]
    assert "changed=2" in play("-e", source)
    assert inner.running(WORKER, "kubelet") == [sha256(binary)] == inner.running(PLANE, "kubelet")
    assert "changed=0" in play("-e", source)
    assert "changed=1" in play("-e", "state=original")
    inner.untouched()


def test_an_interrupted_creation_leaves_nothing(inner: Inner, tmp_path: pathlib.Path) -> None:
    name = f"{CLUSTER}-cut"
    process = inner.cluster(name=name, kubeconfig=str(tmp_path / "config"), popen=True)

    def nodes() -> t.Any:
        return inner.engine.api.containers(all=True, filters={"label": f"io.x-k8s.kind.cluster={name}"})

    try:
        until(nodes)
        process.send_signal(signal.SIGTERM)
        output = process.stdout.read()
        process.wait(60)
        assert "Interrupted by SIGTERM" in output and "is removed" in output, output
        assert not nodes()
    finally:
        with contextlib.suppress(OSError):
            process.kill()
        inner.cluster(name=name, state="absent", kubeconfig=str(tmp_path / "config"))
