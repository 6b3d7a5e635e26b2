# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster on a host that is reached by SSH: the controller reaches it through a tunnel, and its components are swapped and debugged there."""

from __future__ import annotations

import contextlib
import pathlib
import re
import shutil
import socket
import subprocess
import typing as t

import pytest

from remote import lab as lab_module
from remote.conftest import Play, Player
from remote.lab import Lab, Relay

CACHE = pathlib.Path.home() / ".cache/nodeforge"
TREE = CACHE / "trees/v1.37.2"
IMAGE = "kindest/node:main"
KIND = shutil.which("kind") or str(CACHE / "bin/kind")
EDITED = "vendor/k8s.io/kubernetes/cmd/kube-scheduler/app/server.go"

pytestmark = pytest.mark.skipif(
    subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False).returncode != 0 or not (TREE / ".git").exists(),
    reason="make node was never run here",
)


@pytest.fixture(scope="module")
def host(lab: Lab, play: Player) -> lab_module.Host:
    """A host with an engine, kind and the node image; containers in containers need the runtime that build_host registers."""
    made = lab.host("cluster", go=True, options=["--volume", f"{KIND}:/usr/local/bin/kind:ro"])
    tools = {"ansible.builtin.include_role": {"name": "nodeforge.kind.build_host"}, "vars": {"build_host_kind_version": "", "build_host_tools": {}}}
    play([tools], {"cluster": made.variables()})
    with subprocess.Popen(["docker", "save", IMAGE], stdout=subprocess.PIPE) as saved:
        subprocess.run(["docker", "exec", "-i", made.name, "docker", "load"], stdin=saved.stdout, check=True, capture_output=True)
    return made


@pytest.fixture(scope="module")
def line(host: lab_module.Host) -> t.Iterator[Relay]:
    relay = Relay(host.address, 0.001)
    yield relay
    relay.close()


@pytest.fixture(scope="module")
def cluster(play: Player, host: lab_module.Host, line: Relay) -> t.Iterator[t.Callable[..., Play]]:
    """cluster("--check", kind_cluster_state="absent"): runs create_cluster for the host; afterwards there is none."""
    hosts = {"cluster": host.variables(ansible_host="127.0.0.1", ansible_port=line.port)}

    def run(*options: str, **variables: t.Any) -> Play:
        return play("nodeforge.kind.create_cluster", hosts, *options, target="cluster", **variables)

    try:
        yield run
    finally:
        run(kind_cluster_state="absent")


def kubeconfig(play: Player) -> pathlib.Path:
    return play.cache / "nodeforge/kubeconfigs/cluster-kind"


def kubectl(play: Player, *arguments: str) -> str:
    """What kubectl of this machine says, through the tunnel."""
    program = shutil.which("kubectl") or str(TREE / "_output/dockerized/bin/linux/amd64/kubectl")
    ended = subprocess.run([program, "--kubeconfig", str(kubeconfig(play)), "--request-timeout=20s", *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def port(play: Player) -> int:
    return int(re.search(r"server: https://127\.0\.0\.1:(\d+)", kubeconfig(play).read_text()).group(1))


def listeners(number: int) -> list[str]:
    """The addresses of this machine that listen on a port."""
    told = subprocess.run(["ss", "-Hltn", f"sport = :{number}"], capture_output=True, text=True, check=True).stdout
    return [line.split()[3] for line in told.splitlines()]


def left(play: Player) -> list[str]:
    return [str(path) for name in ("ssh", "kubeconfigs") for path in (play.cache / "nodeforge" / name).glob("*")]


def test_the_controller_reaches_it(play: Player, host: lab_module.Host, line: Relay, cluster: t.Callable[..., Play]) -> None:
    predicted = cluster("--check")
    assert predicted.changed("cluster") == 1 and left(play) == []
    made = cluster()
    assert f"kubectl --kubeconfig {kubeconfig(play)} get nodes" in made.output
    assert re.search(r"kind-control-plane\s+Ready", kubectl(play, "get", "nodes"))
    assert listeners(port(play)) == [f"127.0.0.1:{port(play)}"]
    assert kubeconfig(play).stat().st_mode & 0o777 == 0o600 and "certificate-authority-data" in kubeconfig(play).read_text()
    # on the host, too, nothing listens to others but sshd
    assert [name for name in host.sh("ss -Hltn | awk '{ print $4 }'").split() if not name.startswith("127.")] == ["0.0.0.0:22", "[::]:22"]
    for options in ((), ("--check",)):
        assert cluster(*options).changed("cluster") == 0
    # the keys are in no output
    assert "key-data" not in cluster("--diff", "-vvv").output


def test_a_line_that_broke_and_a_port_that_is_taken(play: Player, line: Relay, lab: Lab, cluster: t.Callable[..., Play]) -> None:
    cluster()
    before = port(play)
    line.cut()
    lab.until(lambda: listeners(before) == [], "the tunnel has ended")
    with socket.create_server(("127.0.0.1", before)):
        assert cluster("--check").changed("cluster") > 0
        assert cluster().changed("cluster") == 2  # the tunnel, and the file that names its port
        assert port(play) != before and "kind-control-plane" in kubectl(play, "get", "nodes")
    assert cluster().changed("cluster") == 0
    # without it, and with it again
    assert cluster("--check", kind_cluster_tunnel="absent").changed("cluster") == 2
    assert cluster(kind_cluster_tunnel="absent").changed("cluster") == 2
    assert left(play) == [] and listeners(before) == []
    assert cluster(kind_cluster_tunnel="absent").changed("cluster") == 0
    assert cluster().changed("cluster") == 2 and port(play) == before


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the embedded tree, to edit."""
    copy = tmp_path / "v1.37.2"
    subprocess.run(["rsync", "-a", "--exclude=/_output*", "--exclude=/hack/nodeforge.mk", f"{TREE}/", str(copy)], check=True)
    return copy


def test_swap(play: Player, host: lab_module.Host, cluster: t.Callable[..., Play], tree: pathlib.Path) -> None:
    """The tree of this machine is brought there and compiled there, and what runs in the cluster is that."""
    cluster()
    hosts = {"cluster": host.variables()}

    def run(playbook: str, *options: str, **variables: t.Any) -> Play:
        arguments = {"target": "cluster", "kube_source": str(tree), "component": "kube-scheduler", **variables}
        return play(f"nodeforge.kind.{playbook}", hosts, *options, **arguments)

    text = (tree / EDITED).read_text()
    (tree / EDITED).write_text(text.replace('"Starting Kubernetes Scheduler"', '"Starting a scheduler of mine"'))
    assert text != (tree / EDITED).read_text()
    assert run("swap_component").changed("cluster") > 0
    logs = ("logs", "-n", "kube-system", "kube-scheduler-kind-control-plane")
    assert "Starting a scheduler of mine" in kubectl(play, *logs)
    assert run("swap_component").changed("cluster") == 0
    assert run("swap_component", state="original").changed("cluster") > 0
    assert "Starting a scheduler of mine" not in kubectl(play, *logs)


@pytest.mark.skipif(not (CACHE / "dlv").exists(), reason="no component was ever debugged here")
def test_debug(play: Player, host: lab_module.Host, cluster: t.Callable[..., Play], tree: pathlib.Path) -> None:
    """delve of the host's cluster on this machine's loopback."""
    cluster()
    hosts = {"cluster": host.variables()}

    def run(*options: str, **variables: t.Any) -> Play:
        return play("nodeforge.kind.debug_component", hosts, *options, target="cluster", component="kube-scheduler", **variables)

    # a tree of this machine would be brought
    assert re.search(r"TASK \[nodeforge.kind.tree_sync : Synchronise\].*\n(ok|changed): \[cluster -> localhost\]", run("--check", kube_source=str(tree)).output)
    # what is debugged is the host's own, at the path that Go's cache knows; and the host cannot fetch dlv into Go's cache, which is this machine's
    with subprocess.Popen(["tar", "-C", str(CACHE), "--exclude=_output", "-c", "trees/v1.37.2", "dlv"], stdout=subprocess.PIPE) as packed:
        unpack = ["docker", "exec", "-i", host.name, "sh", "-c", "mkdir -p ~/.cache/nodeforge; tar -C ~/.cache/nodeforge -x"]
        subprocess.run(unpack, stdin=packed.stdout, check=True)
    before = left(play)
    here = {"debug_component_local_tree": str(tree)}
    try:
        debugged = run(**here)
        assert re.search(r"kube-scheduler of kind-control-plane waits at 127\.0\.0\.1:2348", debugged.output), debugged.output
        assert listeners(2348) == ["127.0.0.1:2348"] and len(left(play)) == len(before) + 1
        assert answers(2348)
        assert f'"from": "{tree}"' in (tree / ".vscode/launch.json").read_text()
        assert run(**here).changed("cluster") == 0
    finally:
        run(state="absent")
    assert listeners(2348) == [] and left(play) == before
    assert run(state="absent").changed("cluster") == 0


def answers(number: int) -> bool:
    """Whether a debugger speaks there: delve answers a request that it does not know with an error."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", number), 10) as connection:
        connection.settimeout(10)
        connection.sendall(b'{"method":"RPCServer.GetVersion","params":[{}],"id":1}\n')
        return b"DelveVersion" in connection.recv(4096)
    return False


def test_it_all_goes_with_the_cluster(play: Player, host: lab_module.Host, cluster: t.Callable[..., Play]) -> None:
    cluster()
    before = port(play)
    predicted = cluster("--check", kind_cluster_state="absent")
    assert kubectl(play, "get", "nodes")
    gone = cluster(kind_cluster_state="absent")
    assert gone.changed("cluster") == predicted.changed("cluster") == 3
    assert left(play) == [] and listeners(before) == []
    assert host.sh("docker ps --all --quiet") == ""
    assert cluster(kind_cluster_state="absent").changed("cluster") == 0
