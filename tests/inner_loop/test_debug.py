# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Components of a real cluster of two nodes under delve, with clients that stop them at lines of the sources, and every way back."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import typing as t

import docker
import pytest
import yaml
from e2e.conftest import ROOT, build
from inner_loop.test_inner_loop import BROKEN, CLUSTER, PLANE, WORKER, Inner, sha256, until

COMPONENTS = ("kubelet", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "nodeforge"
TREE = CACHE / "trees" / "v1.37.2"
KUBERNETES = TREE / "vendor/k8s.io/kubernetes"
ROLE = ROOT / "roles/kube_component_debug"


@contextlib.contextmanager
def lent(tree: pathlib.Path) -> t.Iterator[None]:
    """A tree that others use, too: what is compiled there meanwhile goes afterwards, and what had been compiled is there again."""
    places = {place: place.with_name(f".{place.name}-before") for place in (tree / "_output/local", tree / "_output/bin")}

    def forget(place: pathlib.Path) -> None:
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    for place, kept in places.items():
        if os.path.lexists(kept):  # of a run that was killed
            forget(place)
        elif os.path.lexists(place):
            place.rename(kept)
    try:
        yield
    finally:
        for place, kept in places.items():
            forget(place)
            if os.path.lexists(kept):
                kept.rename(place)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def line_of(file: pathlib.Path, text: str) -> int:
    """The number of the only line with that text."""
    (number,) = [number for number, line in enumerate(file.read_text().splitlines(), 1) if text in line]
    return number


class Rpc:
    """A client of delve's JSON-RPC."""

    def __init__(self, port: int, timeout: float = 60) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.file = self.socket.makefile("rwb")
        self.numbers = itertools.count()

    def send(self, method: str, **params: t.Any) -> int:
        number = next(self.numbers)
        self.file.write(json.dumps({"method": f"RPCServer.{method}", "params": [params], "id": number}).encode() + b"\n")
        self.file.flush()
        return number

    def receive(self, number: int) -> t.Any:
        answer = json.loads(self.file.readline())
        assert answer["id"] == number and not answer["error"], answer
        return answer["result"]

    def call(self, method: str, **params: t.Any) -> t.Any:
        return self.receive(self.send(method, **params))

    def stop_at(self, file: pathlib.Path, text: str, condition: str, do: t.Callable[[], t.Any]) -> t.Any:
        """Sets a breakpoint, lets the program run, does something, and returns the state in which it stops there."""
        self.call("Command", name="halt")
        point = self.call("CreateBreakpoint", Breakpoint={"file": str(file), "line": line_of(file, text), "Cond": condition})["Breakpoint"]
        number = self.send("Command", name="continue")
        do()
        state = self.receive(number)["State"]
        assert state["currentThread"]["breakPoint"]["id"] == point["id"], state
        self.call("ClearBreakpoint", Id=point["id"])
        return state

    def value(self, state: t.Any, expression: str) -> str:
        scope = {"GoroutineID": state["currentThread"]["goroutineID"], "Frame": 0}
        return self.call("Eval", Scope=scope, Expr=expression, Cfg={"MaxStringLen": 200})["Variable"]["value"]

    def go(self) -> None:
        """Lets it run on, and goes away."""
        self.send("Command", name="continue")
        time.sleep(0.3)
        self.file.close()
        self.socket.close()


class Dap:
    """A client of the Debug Adapter Protocol, which is what editors speak."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 60)
        self.file = self.socket.makefile("rwb")
        self.numbers = itertools.count(1)
        self.events: list[t.Any] = []

    def send(self, command: str, **arguments: t.Any) -> int:
        number = next(self.numbers)
        data = json.dumps({"seq": number, "type": "request", "command": command, "arguments": arguments}).encode()
        self.file.write(b"Content-Length: %d\r\n\r\n" % len(data) + data)
        self.file.flush()
        return number

    def read(self) -> t.Any:
        length = 0
        while header := self.file.readline().strip():
            length = int(header.split(b":")[1])
        assert length, "delve has closed the connection"
        return json.loads(self.file.read(length))

    def call(self, command: str, **arguments: t.Any) -> t.Any:
        number = self.send(command, **arguments)
        while True:
            message = self.read()
            if message["type"] == "event":
                self.events.append(message)
            elif message["request_seq"] == number:
                assert message["success"], message
                return message.get("body")

    def event(self, name: str) -> t.Any:
        while True:
            for message in self.events:
                if message["event"] == name:
                    self.events.remove(message)
                    return message.get("body", {})
            message = self.read()
            if message["type"] == "event":
                self.events.append(message)


class Debug(Inner):
    """The cluster, and what is debugged in it."""

    published = 0
    dlv: pathlib.Path
    programs: dict[str, pathlib.Path]

    def debug(self, component: str, **options: t.Any) -> t.Any:
        flags = {key: options.pop(key) for key in ("check", "diff", "popen") if key in options}
        arguments = {"cluster": CLUSTER, "component": component, "directory": str(self.directory / "debug"), **options}
        if options.get("state") != "absent":
            arguments.setdefault("dlv", str(self.dlv))
            if not options.get("attach") and component in self.programs:
                arguments.setdefault("binary", str(self.programs[component]))
        return self._run("kube_component_debug", {key: value for key, value in arguments.items() if value is not None}, **flags)

    def picture(self, node: str) -> str:
        """All that debugging may touch in a node."""
        places = "/etc/kubernetes/manifests/* /etc/systemd/system/kubelet.service /etc/systemd/system/kubelet.service.d/* /usr/bin/kubelet"
        rules = "iptables -t nat -S PREROUTING; iptables -t mangle -S PREROUTING"
        places_of_dlv = "ls -A /root /etc/systemd/system /etc/kubernetes; find /run -maxdepth 1 -name 'nodeforge-*'"
        # kubectl's own cache, which any use of it makes, does not count; nor the port of docker's resolver, another one after a restart
        other = "-e '^.kube$' -e '127[.]0[.]0[.]11:'"
        look = f"{{ sha256sum {places}; stat -c '%a %U %n' {places}; {rules}; {places_of_dlv}; }}"
        return self.sh(node, f"{look} 2>/dev/null | grep -v {other}", check=False)

    def gone(self, before: dict[str, str]) -> None:
        """Everything is as it was, in the nodes and here."""
        assert {node: self.picture(node) for node in before} == before
        self.untouched()
        assert not (self.directory / "debug").exists()
        for command in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                assert str(self.directory / "debug") not in command.read_text(errors="replace")

    def pictures(self) -> dict[str, str]:
        return {node: self.picture(node) for node in (PLANE, WORKER)}

    def pid(self, node: str, component: str) -> str:
        return self.sh(node, f"pgrep -x {component[:15]}")

    def daemonset(self) -> t.Any:
        return json.loads(self.kubectl("-n", "kube-system", "get", "daemonset", "kube-proxy", "-o", "json"))

    def proxies(self) -> dict[str, t.Any]:
        """The DaemonSet of kube-proxy and all that belongs to it, as far as somebody may have changed it."""
        found = self.daemonset()
        found["metadata"]["annotations"].pop("deprecated.daemonset.template.generation")
        labelled = self.kubectl("-n", "kube-system", "get", "pods,controllerrevisions", "-l", "nodeforge.io/debug", "-o", "name")
        return {"spec": found["spec"], "annotations": found["metadata"]["annotations"], "labels": found["metadata"]["labels"], "labelled": labelled}

    def pod(self, name: str, node: str | None = None) -> None:
        spec = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {**({"nodeName": node} if node else {}), "terminationGracePeriodSeconds": 0, "containers": [{"name": "pause", "image": self.pause}]},
        }
        self.create(spec)

    def create(self, spec: t.Any) -> None:
        self.sh(PLANE, f"kubectl --kubeconfig /etc/kubernetes/admin.conf create -f - <<'EOF'\n{json.dumps(spec)}\nEOF")

    def phase(self, name: str) -> str:
        return self.kubectl("get", "pod", name, "-o", "jsonpath={.status.phase}")

    pause = ""


@pytest.fixture(scope="module", autouse=True)
def tree() -> t.Iterator[pathlib.Path]:
    """The embedded tree, for which the cache of Go is warm."""
    with lent(TREE):
        yield TREE


@pytest.fixture(scope="module")
def loop(tree: pathlib.Path, ansible_env: dict[str, str], run_module: t.Any, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Debug]:
    image = os.environ.get("INNER_IMAGE") or build(ansible_env, tag="inner-loop").summary["image"]
    directory = tmp_path_factory.mktemp("debug")
    loop = Debug(docker.from_env(timeout=300), run_module, image, directory)
    # kept apart from what other tests compile there: a debug build is another build of the same file
    made = run_module("kube_make", {"tree": str(tree), "targets": ["all"], "what": [f"cmd/{name}" for name in COMPONENTS], "debug": True}, timeout=3600)
    assert not made.failed, made
    loop.programs = {}
    for name in COMPONENTS:
        loop.programs[name] = directory / "compiled" / name
        loop.programs[name].parent.mkdir(exist_ok=True)
        # the playbook compiles one of them there once more
        shutil.copyfile(made["outputs"]["binaries"][name]["path"], loop.programs[name])
        loop.programs[name].chmod(0o755)
    loop.dlv = compiled_dlv(loop.programs["kubelet"])
    loop.published = free_port()
    mapping = {"listenAddress": "127.0.0.1", "hostPort": loop.published, "containerPort": 23450}
    config = {"nodes": [{"role": "control-plane", "extraPortMappings": [mapping]}, {"role": "worker"}]}
    try:
        cluster = loop.cluster(config=config)
        assert not cluster.failed and cluster["changed"], cluster
        loop.pause = loop.sh(PLANE, "ctr -n k8s.io images ls -q | grep -m 1 /pause:")
        for node in (PLANE, WORKER):  # the network is as it stays
            until(lambda node=node: "KUBE-SERVICES" in loop.sh(node, "iptables -t nat -S PREROUTING"))
        yield loop
    finally:
        gone = loop.cluster(state="absent", config=config)
        assert not gone.failed


def compiled_dlv(program: pathlib.Path, platform: str = "linux/amd64" if os.uname().machine == "x86_64" else "linux/arm64") -> pathlib.Path:
    """dlv from where the role keeps it; made as the role does where it is not there."""
    told = subprocess.run(["go", "version", program], check=True, capture_output=True, text=True).stdout
    version = "v" + re.search(r"go(1\.\d+)", told).group(1)
    path = CACHE / "dlv" / f"{version}-{platform.replace('/', '-')}" / "dlv"
    if not path.exists():
        subprocess.run(["sh", ROLE / "files/build-dlv.sh", version, platform, path], check=True)
    return path


# what is refused


def test_bad_input_touches_nothing(loop: Debug, tmp_path: pathlib.Path) -> None:
    before = loop.pictures()

    def refused(component: str = "kubelet", **options: t.Any) -> str:
        failed = loop.debug(component, **options)
        assert failed.failed and "\n" not in failed["msg"], failed
        return failed["msg"]

    def altered(path: pathlib.Path, *pairs: tuple[bytes, bytes]) -> str:
        content = path.read_bytes()
        for old, new in pairs:
            assert old in content
            content = content.replace(old, new)
        (tmp_path / path.name).write_bytes(content)
        return str(tmp_path / path.name)

    own = loop.program("kubelet")
    assert "holds no debug information: compile it with DBG=1" in refused(binary=str(own))
    assert "holds no debug information" in refused(attach=True)
    foreign = loop.programs["kubelet"].read_bytes()
    machine = struct.unpack_from("<H", foreign, 18)[0]
    other = {62: (183, "arm64"), 183: (62, "amd64")}[machine]
    (tmp_path / "foreign").write_bytes(foreign[:18] + struct.pack("<H", other[0]) + foreign[20:])
    assert f"is for {other[1]} and the node is" in refused(binary=str(tmp_path / "foreign"))
    assert "no ELF file" in refused(binary=str(ROOT / "Makefile"))
    assert "There is no file" in refused(binary="/nowhere")
    assert "name its path in dlv" in refused(dlv="/nowhere")
    assert "is not dlv" in refused(dlv=str(own))
    assert "which does not know go1." in refused(dlv=altered(loop.dlv, (b"go-delve/delve\tv1.", b"go-delve/delve\tv0.")))
    assert "control planes do" in refused("kube-scheduler", node="worker")
    assert "has no node" in refused(node="nowhere")
    assert "is not one node" in refused(node="all")
    assert "belongs to its node" in refused(host=True)
    assert "holds no debug information" in refused("kube-proxy", binary=str(loop.program("kube-proxy")))
    assert "belongs to its node" in refused("kube-proxy", host=True)
    assert "exclude each other" in refused("kube-scheduler", attach=True, host=True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "is in use by something else" in refused(port=taken.getsockname()[1])
    loop.gone(before)


# the three cases of the issue


def test_kubelet_stops_at_a_line_for_an_editor(loop: Debug) -> None:
    before = loop.pictures()
    port = free_port()
    predicted = loop.debug("kubelet", port=port, check=True, diff=True)
    assert predicted["changed"] and loop.pictures() == before
    done = loop.debug("kubelet", port=port, diff=True)
    assert done["changed"] and done["diff"] == predicted["diff"] and done["actions"] == predicted["actions"], done
    assert done["node"] == WORKER and done["roots"]["tree"] == str(TREE)
    for check in (True, False):
        assert loop.debug("kubelet", port=port, check=check)["actions"] == []
    assert loop.running(WORKER, "kubelet") == [sha256(loop.programs["kubelet"])] and loop.ready()
    unit = "sha256sum /etc/systemd/system/kubelet.service /etc/systemd/system/kubelet.service.d/[!9]* /usr/bin/kubelet"
    assert set(loop.sh(WORKER, unit).splitlines()) <= set(before[WORKER].splitlines())
    # dlv listens on the node's loopback, and on nothing else
    assert "0100007F" in loop.sh(WORKER, f"grep -h :{port:04X} /proc/net/tcp /proc/net/tcp6 | grep ' 0A ' | cut -c7-14", check=False)

    # nobody else on this host comes through
    request = json.dumps({"method": "RPCServer.GetVersion", "params": [{}], "id": 1})
    ask = f"exec 3<>/dev/tcp/127.0.0.1/{port}; echo '{request}' >&3; read -rt 5 line <&3; echo \"$line\""
    for user in [os.getuid(), *([65534] if os.getuid() == 0 else [])]:
        told = subprocess.run(["bash", "-c", ask], user=user, capture_output=True, text=True, check=False).stdout
        assert ("DelveVersion" in told) == (user == os.getuid()), told

    # a swap of what is debugged is refused, naming the remedy
    binary, dummy = loop.other("kubelet")
    for check in (True, False):
        assert "end that first (kube_component_debug with state=absent)" in loop.swap("kubelet", binary, check=check)["msg"]

    stop_the_kubelet(loop, port, "first")

    # the way in is opened again where it was lost; that is all that is done
    (record,) = (loop.directory / "debug").glob("*/forwarder.pid")
    os.kill(json.loads(record.read_text())["pid"], signal.SIGKILL)
    until(lambda: not _connects(port))
    assert loop.debug("kubelet", port=port)["actions"] == [f'Forwarded the port {port} to "{WORKER}"'] and _connects(port)

    # a restart of the node ends neither
    loop.engine.api.restart(WORKER, timeout=5)
    until(lambda: loop.running(WORKER, "kubelet") == [sha256(loop.programs["kubelet"])] and loop.ready())
    until(lambda: _answers(port))
    stop_the_kubelet(loop, port, "second")

    predicted = loop.debug("kubelet", state="absent", check=True, diff=True)
    ended = loop.debug("kubelet", state="absent", diff=True)
    assert ended["changed"] and ended["diff"] == predicted["diff"] and ended["actions"] == predicted["actions"], ended
    assert not loop.debug("kubelet", state="absent")["changed"] and not loop.debug("kubelet", state="absent", check=True)["changed"]
    assert loop.running(WORKER, "kubelet") == [sha256(loop.program("kubelet"))] and loop.ready()
    assert not _connects(port)
    loop.gone(before)


def _connects(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError, ValueError):
        rpc = Rpc(port, 5)
        return "DelveVersion" in rpc.call("GetVersion")
    return False


@contextlib.contextmanager
def stopped(
    port: int, source: pathlib.Path, text: str, do: t.Callable[[], t.Any], condition: str = "", paths: t.Sequence[t.Any] = ()
) -> t.Iterator[tuple[t.Callable[[str], str], t.Any]]:
    """As an editor does: a breakpoint by file and line, something done that leads there, and at the end on. Gives what tells values, and the frame."""
    dap = Dap(port)
    assert dap.call("initialize", adapterID="go", linesStartAt1=True, pathFormat="path")["supportsConditionalBreakpoints"]
    dap.send("attach", mode="remote", stopOnEntry=False, substitutePath=list(paths))
    dap.event("initialized")
    line = line_of(source, text)
    points = dap.call("setBreakpoints", source={"path": str(source)}, breakpoints=[{"line": line, "condition": condition}])["breakpoints"]
    assert points[0]["verified"] and points[0]["line"] == line, points
    dap.call("configurationDone")
    do()
    at = dap.event("stopped")
    assert at["reason"] == "breakpoint", at
    (frame, *dummy) = dap.call("stackTrace", threadId=at["threadId"], levels=5)["stackFrames"]
    assert frame["source"]["path"] == str(source) and frame["line"] == line, frame
    yield lambda expression: dap.call("evaluate", expression=expression, frameId=frame["id"], context="watch")["result"], frame
    dap.call("setBreakpoints", source={"path": str(source)}, breakpoints=[])
    dap.call("continue", threadId=at["threadId"])
    dap.send("disconnect", terminateDebuggee=False)


def stop_the_kubelet(loop: Debug, port: int, name: str) -> None:
    """A pod stops it; its name is read there, and the pod then runs."""
    source = KUBERNETES / "pkg/kubelet/kubelet.go"
    condition = f'pod.ObjectMeta.Name == "{name}"'
    with stopped(port, source, 'Info("SyncPod enter"', lambda: loop.pod(name, WORKER), condition) as (value, frame):
        assert frame["name"].endswith("(*Kubelet).SyncPod")
        assert value("pod.ObjectMeta.Name") == f'"{name}"'
        assert loop.phase(name) == "Pending"
    until(lambda: loop.phase(name) == "Running")
    loop.kubectl("delete", "pod", name, "--now")
    assert loop.ready()


def test_api_server_in_its_static_pod(loop: Debug) -> None:
    """All of the cluster asks it, so whatever asks while it stands is answered afterwards."""
    before, name, port = loop.pictures(), "kube-apiserver", free_port()
    predicted = loop.debug(name, port=port, check=True, diff=True)
    assert predicted["changed"] and loop.pictures() == before
    done = loop.debug(name, port=port, diff=True)
    assert done["changed"] and done["diff"] == predicted["diff"] and done["actions"] == predicted["actions"], done
    assert loop.running(PLANE, name) == [sha256(loop.programs[name])]
    for check in (True, False):
        assert loop.debug(name, port=port, check=check)["actions"] == []
    manifest = yaml.safe_load(loop.sh(PLANE, f"cat /etc/kubernetes/manifests/{name}.yaml"))
    (container,) = manifest["spec"]["containers"]
    assert not [key for key in container if key.endswith("Probe")] and container["command"][1] == "exec"

    create = threading.Thread(target=lambda: loop.kubectl("create", "configmap", "stops-it", "--from-literal=word=told"))
    source = KUBERNETES / "pkg/registry/core/configmap/strategy.go"
    with stopped(port, source, "return validation.ValidateConfigMap(cfg)", create.start) as (value, frame):
        assert frame["name"].endswith("configmap.strategy.Validate")
        assert value("cfg.ObjectMeta.Name") == '"stops-it"' and value('cfg.Data["word"]') == '"told"'
        assert create.is_alive()
    create.join(30)
    assert loop.kubectl("get", "configmap", "stops-it", "-o", "jsonpath={.data.word}") == "told"
    loop.kubectl("delete", "configmap", "stops-it")

    assert loop.debug(name, state="absent")["changed"] and not loop.debug(name, state="absent")["changed"]
    assert loop.running(PLANE, name) == [sha256(loop.program(name))]
    loop.gone(before)
    # everything that asks it is well, too
    until(loop.ready)
    loop.pod("after")
    until(lambda: loop.phase("after") == "Running")
    loop.kubectl("delete", "pod", "after", "--now")


def test_attached_to_kube_proxy(loop: Debug) -> None:
    """A DaemonSet's pod goes on under dlv, on one node only, and goes on without it."""
    name, port = "kube-proxy", free_port()
    own = sha256(loop.program(name))
    before = loop.pictures()
    assert loop.swap(name, loop.programs[name], nodes=["worker"])["changed"]
    until(lambda: loop.running(PLANE, name) == [own])
    pid = loop.pid(WORKER, name)
    done = loop.debug(name, node="worker", port=port, attach=True)
    assert done["changed"] and done["pid"] == pid and done["roots"]["tree"] == str(TREE), done
    assert loop.debug(name, node="worker", port=port, attach=True)["actions"] == []
    source = KUBERNETES / "pkg/proxy/iptables/proxier.go"

    def create() -> None:
        loop.kubectl("create", "service", "clusterip", "stops-it", "--tcp=80:80")

    with stopped(port, source, "proxier.OnServiceUpdate(nil, service)", create, 'service.ObjectMeta.Name == "stops-it"') as (value, frame):
        assert frame["name"].endswith("(*Proxier).OnServiceAdd")
        address = value("service.Spec.ClusterIP").strip('"')
        assert address == loop.kubectl("get", "service", "stops-it", "-o", "jsonpath={.spec.clusterIP}")
        # the other node's, which nobody stops, knows the service already
        until(lambda: address in loop.sh(PLANE, "iptables-save"))
        assert address not in loop.sh(WORKER, "iptables-save")
    until(lambda: address in loop.sh(WORKER, "iptables-save"))
    loop.kubectl("delete", "service", "stops-it")
    assert loop.debug(name, node="worker", state="absent")["changed"]
    assert loop.pid(WORKER, name) == pid and "TracerPid:\t0" in loop.sh(WORKER, f"cat /proc/{pid}/status")
    assert loop.swap(name)["changed"]
    loop.gone(before)
    for node in (PLANE, WORKER):
        assert loop.running(node, name) == [own]


def stop_the_proxy(loop: Debug, port: int, name: str) -> None:
    """A service stops the worker's kube-proxy where it writes rules, and works afterwards; the other node's goes on meanwhile."""
    source = KUBERNETES / "pkg/proxy/iptables/proxier.go"
    spec = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "kube-system"},
        # CoreDNS tells over HTTP that it is well
        "spec": {"selector": {"k8s-app": "kube-dns"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    condition = f'svcName.NamespacedName.Name == "{name}"'
    with stopped(port, source, "svcPortNameString := svcInfo.nameString", lambda: loop.create(spec), condition) as (value, frame):
        assert frame["name"].endswith("(*Proxier).syncProxyRules")
        assert value("svcName.NamespacedName.Namespace") == '"kube-system"'
        assert value("svcInfo.nameString") == f'"kube-system/{name}"'
        address = loop.kubectl("-n", "kube-system", "get", "service", name, "-o", "jsonpath={.spec.clusterIP}")
        until(lambda: address in loop.sh(PLANE, "iptables-save"))
        assert address not in loop.sh(WORKER, "iptables-save")
    until(lambda: loop.sh(WORKER, f"curl -sf -m 2 http://{address}/health", check=False) == "OK")
    loop.kubectl("-n", "kube-system", "delete", "service", name)
    until(lambda: address not in loop.sh(WORKER, "iptables-save"))


def test_kube_proxy_of_one_node_under_dlv(loop: Debug) -> None:
    """The others go on with their own, in the very same pods, and the DaemonSet is as it was, also meanwhile."""
    name, port = "kube-proxy", free_port()
    own = sha256(loop.program(name))
    before, proxies, other = loop.pictures(), loop.proxies(), loop.pid(PLANE, name)
    predicted = loop.debug(name, port=port, check=True, diff=True)
    assert predicted["changed"] and loop.pictures() == before and loop.proxies() == proxies
    done = loop.debug(name, port=port, diff=True)
    assert done["changed"] and done["diff"] == predicted["diff"] and done["actions"] == predicted["actions"], done
    assert done["node"] == WORKER and done["mode"] == "exec" and done["roots"]["tree"] == str(TREE)
    assert loop.running(WORKER, name) == [sha256(loop.programs[name])] and done["pid"] == loop.pid(WORKER, name)
    for check in (True, False):
        assert loop.debug(name, port=port, check=check)["actions"] == []
    # a pod that any other node gets now is a plain one
    meanwhile = loop.proxies()
    assert meanwhile["spec"] == {**proxies["spec"], "updateStrategy": {"type": "OnDelete"}}
    assert json.loads(meanwhile["annotations"]["nodeforge.io/debug"]) == {"updateStrategy": proxies["spec"]["updateStrategy"]}
    # dlv listens on the node's loopback, and on nothing else
    assert loop.sh(WORKER, f"grep -h :{port:04X} /proc/net/tcp /proc/net/tcp6 | grep ' 0A ' | cut -c7-14") == "0100007F"
    binary, dummy = loop.other(name)
    for nodes in (["worker"], ["control-plane"]):
        for check in (True, False):
            assert "end that first (kube_component_debug with state=absent)" in loop.swap(name, binary, nodes=nodes, check=check)["msg"]
    stop_the_proxy(loop, port, "first")

    # a restart of the node ends it not
    loop.engine.api.restart(WORKER, timeout=5)
    until(lambda: loop.running(WORKER, name) == [sha256(loop.programs[name])] and loop.ready(), 120)
    until(lambda: _answers(port))
    stop_the_proxy(loop, port, "second")
    until(lambda: not loop.debug(name, port=port, check=True)["changed"])

    # somebody deletes the pod: there is a plain one, until it is asked for again
    loop.kubectl("-n", "kube-system", "delete", "pod", "-l", "nodeforge.io/debug")
    until(lambda: loop.running(WORKER, name) == [own])
    assert loop.debug(name, port=port)["changed"] and loop.running(WORKER, name) == [sha256(loop.programs[name])]
    # also one that stands at a breakpoint goes
    rpc = Rpc(port)
    rpc.call("Command", name="halt")

    predicted = loop.debug(name, state="absent", check=True, diff=True)
    ended = loop.debug(name, state="absent", diff=True)
    assert ended["changed"] and ended["diff"] == predicted["diff"] and ended["actions"] == predicted["actions"], ended
    for check in (True, False):
        assert not loop.debug(name, state="absent", check=check)["changed"]
    assert loop.running(WORKER, name) == [own] and loop.pid(PLANE, name) == other
    assert loop.proxies() == proxies and not _connects(port)
    loop.gone(before)


def test_kube_proxies_of_two_nodes_on_top_of_a_swap(loop: Debug) -> None:
    name, port = "kube-proxy", free_port()
    before, proxies = loop.pictures(), loop.proxies()
    binary, dummy = loop.other(name)
    assert loop.swap(name, binary, nodes=["worker"])["changed"]
    own, debugged = sha256(loop.program(name)), sha256(loop.programs[name])
    until(lambda: loop.running(PLANE, name) == [own])
    swapped = loop.proxies()
    done = loop.debug(name, node="worker", port=port, wait_for_client=True)
    assert done["changed"], done
    rpc = Rpc(port)
    assert not rpc.call("State", NonBlocking=True)["State"]["Running"]  # it waits for a client
    rpc.go()
    until(lambda: loop.sh(WORKER, "curl -sf -m 2 http://localhost:10256/healthz", check=False))
    # the other one over a port that the node publishes
    done = loop.debug(name, node=PLANE, port=loop.published)
    assert done["actions"] == [f'Had the kube-proxy of "{PLANE}" run under dlv'] and _answers(loop.published), done
    for node in (PLANE, WORKER):
        assert loop.running(node, name) == [debugged]
    assert not loop.debug(name, node=PLANE, port=loop.published)["changed"]
    assert loop.debug(name, node="worker", state="absent")["changed"] and loop.running(WORKER, name) == [sha256(binary)]
    assert _answers(loop.published) and loop.running(PLANE, name) == [debugged]
    assert loop.debug(name, node=PLANE, state="absent")["changed"] and loop.running(PLANE, name) == [own]
    assert loop.proxies() == swapped and not loop.swap(name, binary, nodes=["worker"])["changed"]
    assert loop.swap(name)["changed"] and loop.proxies() == proxies
    loop.gone(before)


def test_scheduler_in_its_static_pod(loop: Debug) -> None:
    """On top of a swap, which is there again afterwards."""
    before = loop.pictures()
    binary, dummy = loop.other("kube-scheduler")
    assert loop.swap("kube-scheduler", binary)["changed"]
    swapped = loop.sh(PLANE, "sha256sum /etc/kubernetes/manifests/*")
    port = free_port()
    predicted = loop.debug("kube-scheduler", port=port, check=True, diff=True)
    done = loop.debug("kube-scheduler", port=port, diff=True)
    assert done["changed"] and done["diff"] == predicted["diff"], done
    assert loop.running(PLANE, "kube-scheduler") == [sha256(loop.programs["kube-scheduler"])]
    for check in (True, False):
        assert loop.debug("kube-scheduler", port=port, check=check)["actions"] == []
    manifest = loop.sh(PLANE, "cat /etc/kubernetes/manifests/kube-scheduler.yaml")
    assert "Probe" not in manifest and "--leader-elect=false" in manifest

    rpc = Rpc(port)
    source = KUBERNETES / "pkg/scheduler/schedule_one.go"
    state = rpc.stop_at(source, "sched.scheduleOnePod(ctx, specificEntity)", "", lambda: loop.pod("scheduled"))
    assert rpc.value(state, "specificEntity.PodInfo.Pod.ObjectMeta.Name") == "scheduled"
    time.sleep(6)  # no probe and no lease is lost
    assert loop.phase("scheduled") == "Pending"
    rpc.go()
    until(lambda: loop.phase("scheduled") == "Running")
    loop.kubectl("delete", "pod", "scheduled", "--now")

    assert loop.debug("kube-scheduler", state="absent")["changed"] and not loop.debug("kube-scheduler", state="absent")["changed"]
    assert loop.sh(PLANE, "sha256sum /etc/kubernetes/manifests/*") == swapped
    assert loop.running(PLANE, "kube-scheduler") == [sha256(binary)]
    assert not loop.swap("kube-scheduler", binary)["changed"] and loop.swap("kube-scheduler")["changed"]
    loop.gone(before)


def test_a_manifest_that_somebody_changed_meanwhile(loop: Debug) -> None:
    manifest = "/etc/kubernetes/manifests/kube-scheduler.yaml"
    before, text = loop.pictures(), loop.sh(PLANE, f"cat {manifest}")
    assert loop.debug("kube-scheduler", port=free_port(), wait_for_client=True)["changed"]
    loop.sh(PLANE, f"cp {manifest} /root/m && sed -i 's/^  labels:/  labels:\\n    mine: yes-it-is/' /root/m && mv /root/m {manifest}")
    assert loop.debug("kube-scheduler", state="absent")["changed"]
    changed = loop.sh(PLANE, f"cat {manifest}")
    assert yaml.safe_load(changed.replace("mine: yes-it-is", "")) == yaml.safe_load(text) and "mine: yes-it-is" in changed, changed
    loop.sh(PLANE, f"grep -v yes-it-is {manifest} >/root/m; chmod 600 /root/m; mv /root/m {manifest}")
    until(lambda: loop.running(PLANE, "kube-scheduler") == [sha256(loop.program("kube-scheduler"))])
    loop.gone(before)


def test_controller_manager_on_the_host(loop: Debug) -> None:
    before = loop.pictures()
    name, port = "kube-controller-manager", free_port()
    predicted = loop.debug(name, port=port, host=True, check=True, diff=True)
    assert predicted["changed"] and loop.pictures() == before
    done = loop.debug(name, port=port, host=True, diff=True)
    assert done["changed"] and done["diff"] == predicted["diff"] and done["mode"] == "host", done
    assert loop.running(PLANE, name) == []
    for check in (True, False):
        assert loop.debug(name, port=port, host=True, check=check)["actions"] == []
    assert "debugged in another way" in loop.debug(name, port=port)["msg"]
    # copies are the user's alone
    (private,) = (loop.directory / "debug").iterdir()
    assert private.stat().st_mode & 0o777 == 0o700
    key = private / "files/etc/kubernetes/pki/sa.key"
    assert key.read_text().strip() == loop.sh(PLANE, "cat /etc/kubernetes/pki/sa.key") and key.stat().st_mode & 0o777 == 0o600
    command = pathlib.Path(f"/proc/{done['pid']}/cmdline").read_text().split("\0")
    assert "--leader-elect=false" in command and "--cluster-cidr=10.244.0.0/16" in command and str(loop.programs[name]) in command

    rpc = Rpc(port)
    spec = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": "hosted"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "hosted"}},
            "template": {
                "metadata": {"labels": {"app": "hosted"}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "pause", "image": loop.pause}]},
            },
        },
    }
    source = KUBERNETES / "pkg/controller/replicaset/replica_set.go"
    text = "if err := rsc.consistencyStore.EnsureReady(rsNamespacedName); err != nil {"
    state = rpc.stop_at(source, text, 'name == "hosted"', lambda: loop.create(spec))
    assert rpc.value(state, "namespace") == "default" and rpc.value(state, "name") == "hosted"
    pods = ("get", "pods", "-l", "app=hosted", "-o", "jsonpath={.items[*].status.phase}")
    assert loop.kubectl(*pods) == ""
    rpc.go()
    until(lambda: loop.kubectl(*pods) == "Running")
    loop.kubectl("delete", "replicaset", "hosted")

    # it is run again where it ended, and nothing is left of it
    os.kill(done["pid"] and int(done["pid"]), signal.SIGKILL)
    assert loop.debug(name, port=port, host=True, check=True)["reason"] == "it does not run on this host"
    again = loop.debug(name, port=port, host=True)
    assert again["changed"] and again["pid"] != done["pid"], again
    ended = loop.debug(name, state="absent")
    assert ended["changed"] and not loop.debug(name, state="absent")["changed"]
    assert loop.running(PLANE, name) == [sha256(loop.program(name))]
    loop.gone(before)


# other ways


def test_attached_and_detached_it_goes_on(loop: Debug) -> None:
    before = loop.pictures()
    assert loop.swap("kubelet", loop.programs["kubelet"], nodes=["worker"])["changed"]
    pid, port = loop.pid(WORKER, "kubelet"), free_port()
    predicted = loop.debug("kubelet", port=port, attach=True, check=True, diff=True)
    done = loop.debug("kubelet", port=port, attach=True, diff=True)
    assert done["changed"] and done["diff"] == predicted["diff"] and done["pid"] == pid, done
    assert loop.debug("kubelet", port=port, attach=True)["actions"] == []
    stop_the_kubelet(loop, port, "attached")
    # also one that stands at a breakpoint goes on
    rpc = Rpc(port)
    source = KUBERNETES / "pkg/kubelet/kubelet.go"
    rpc.stop_at(source, 'Info("SyncPod enter"', 'pod.ObjectMeta.Name == "standing"', lambda: loop.pod("standing", WORKER))
    assert loop.debug("kubelet", state="absent")["changed"]
    assert loop.pid(WORKER, "kubelet") == pid and "TracerPid:\t0" in loop.sh(WORKER, f"cat /proc/{pid}/status")
    until(lambda: loop.phase("standing") == "Running")
    loop.kubectl("delete", "pod", "standing", "--now")
    assert loop.pid(WORKER, "kubelet") == pid and loop.ready()
    assert not loop.debug("kubelet", state="absent")["changed"]
    assert loop.swap("kubelet")["changed"]
    loop.gone(before)


def test_a_published_port_lets_the_gateway_through_only(loop: Debug) -> None:
    before = loop.pictures()
    done = loop.debug("kubelet", node=PLANE, port=loop.published, wait_for_client=True)
    assert done["actions"] == [f'Had the kubelet of "{PLANE}" run under dlv'], done
    assert not loop.debug("kubelet", node=PLANE, port=loop.published, wait_for_client=True)["changed"]
    rpc = Rpc(loop.published)
    assert not rpc.call("State", NonBlocking=True)["State"]["Running"]  # it waits for a client
    # its sources are those that were read from the program
    held = rpc.call("ListSources", Filter="cmd/kubelet/")["Sources"]
    assert f"{done['roots']['tree']}/cmd/kubelet/main.go" in held, held
    address = loop.engine.api.inspect_container(PLANE)["NetworkSettings"]["Networks"]["kind"]["IPAddress"]
    api = f"exec 3<>/dev/tcp/{address}/6443"
    dlv = f"exec 3<>/dev/tcp/{address}/23450"
    pods = "for p in $(pgrep -x coredns); do nsenter -t $p -n timeout 3 bash -c '%s' 2>/dev/null && echo in; done; true"
    for node in (PLANE, WORKER):
        inside = loop.sh(node, pods % api)
        assert loop.sh(node, pods % dlv) == "" and (inside or node == WORKER), node
        assert loop.sh(node, f"timeout 3 bash -c '{dlv}' 2>/dev/null && echo in", check=False) == ""
    rpc.go()
    until(loop.ready)
    loop.engine.api.restart(PLANE, timeout=5)
    until(lambda: _answers(loop.published), 120)
    rpc = Rpc(loop.published)
    rpc.go()
    until(lambda: loop.sh(PLANE, "kubectl --kubeconfig /etc/kubernetes/admin.conf get --raw /readyz", check=False) == "ok", 120)
    assert loop.debug("kubelet", node=PLANE, state="absent")["changed"]
    until(loop.ready)
    loop.gone(before)


# Sources that are elsewhere than the program says.


SMALL = """package main

import (
    "fmt"
    "os"
    "time"
)

func main() {
    if len(os.Args) > 1 && os.Args[1] == "--version" {
        fmt.Println("Kubernetes v1.99.0-small")
        return
    }
    for count := 0; ; count++ {
        step(count)
    }
}

func step(count int) {
    time.Sleep(100 * time.Millisecond) // here
}
"""


@pytest.mark.parametrize(
    ("flags", "held"),
    [
        # as the build container of Kubernetes has it, and as without any path of a machine
        (["-gcflags=all=-N -l", "-gcflags=k8s.io/kubernetes/...=-N -l -trimpath={tree}=>/go/src/k8s.io/kubernetes"], "/go/src/k8s.io/kubernetes"),
        (["-trimpath", "-gcflags=all=-N -l"], "k8s.io/kubernetes"),
    ],
    ids=["container", "trimmed"],
)
def test_editors_have_the_sources_elsewhere(
    loop: Debug, ansible_env: dict[str, str], tmp_path: pathlib.Path, flags: list[str], held: str
) -> None:
    """What editors are told is computed from what the program holds; with it they stop at a line of a file that only they have."""
    name, port, there, here = "kube-scheduler", free_port(), tmp_path / "there", tmp_path / "here"
    for tree in (there, here):
        (tree / "cmd" / name).mkdir(parents=True)
        (tree / "go.mod").write_text("module k8s.io/kubernetes\n\ngo 1.20\n")
        (tree / "cmd" / name / "main.go").write_text(SMALL)
    binary = tmp_path / "compiled" / name
    build = ["go", "build", *(flag.format(tree=there) for flag in flags), "-o", binary, f"./cmd/{name}"]
    subprocess.run(build, cwd=there, check=True, env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"})
    shutil.rmtree(there)

    before = loop.pictures()
    play = tmp_path / "play.yml"
    variables = {
        "kube_component_debug_component": name,
        "kube_component_debug_cluster": CLUSTER,
        "kube_component_debug_binary": str(binary),
        "kube_component_debug_dlv": str(loop.dlv),
        "kube_component_debug_port": port,
        "kube_component_debug_wait_for_client": True,
        "kube_component_debug_directory": str(loop.directory / "debug"),
        "kube_component_debug_local_tree": str(here),
    }
    role = {"ansible.builtin.include_role": {"name": "nodeforge.kind.kube_component_debug"}}
    play.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "vars": variables, "tasks": [role]}]))

    def run(*extra: str) -> None:
        ended = subprocess.run(["ansible-playbook", play, *extra], env=ansible_env, capture_output=True, text=True, timeout=300, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr

    try:
        run()
        (entry,) = json.loads((here / ".vscode/launch.json").read_text())["configurations"]
        assert entry["substitutePath"] == [{"from": str(here), "to": held}] and entry["port"] == port, entry
        source = here / "cmd" / name / "main.go"
        # dlv's own words for the same
        init = tmp_path / "init"
        init.write_text((here / f".nodeforge/{name}.dlv").read_text() + f"break {source}:{line_of(source, '// here')}\nclearall\nquit -c\n")
        told = subprocess.run(
            [loop.dlv, "connect", f"127.0.0.1:{port}", "--init", init],
            input="n\n", capture_output=True, text=True, env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config")}, timeout=60, check=False,
        )  # fmt: skip
        assert re.search(r"Breakpoint 1 set at .* for main\.step\(\)", told.stdout), told
        until(lambda: _answers(port))
        with stopped(port, source, "// here", lambda: None, "count > 2", entry["substitutePath"]) as (value, frame):
            assert frame["name"] == "main.step" and int(value("count")) > 2
    finally:
        run("-e", "kube_component_debug_state=absent")
    assert loop.running(PLANE, name) == [sha256(loop.program(name))]
    loop.gone(before)


# what goes wrong


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """Programs that tell a version and then crash, or hang; with what a debugger needs."""
    made = {}
    for word in ("crash", "hang"):
        directory = tmp_path_factory.mktemp(word)
        (directory / "main.go").write_text(BROKEN.replace("WORD", word))
        made[word] = directory / "kubelet"
        subprocess.run(
            ["go", "build", "-o", made[word], "main.go"], cwd=directory, check=True, env={**os.environ, "CGO_ENABLED": "0", "GO111MODULE": "off"}
        )
    return made


@pytest.mark.parametrize("word", ["crash", "hang"])
def test_what_does_not_become_healthy_is_put_back(loop: Debug, broken: dict[str, pathlib.Path], word: str) -> None:
    before = loop.pictures()
    failed = loop.debug("kubelet", binary=str(broken[word]), port=free_port(), health_timeout=12)
    assert failed.failed and "what ran before runs again" in failed["msg"], failed
    if word == "crash":
        assert "it ended" in failed["msg"] and "it crashes on purpose" in failed["msg"]
    assert loop.running(WORKER, "kubelet") == [sha256(loop.program("kubelet"))] and loop.ready()
    loop.gone(before)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_one_that_is_broken_off_is_put_back(
    loop: Debug, broken: dict[str, pathlib.Path], signals_reach_main: t.Callable[[int], int], sent: signal.Signals
) -> None:
    before = loop.pictures()
    process = loop.debug("kubelet", binary=str(broken["hang"]), port=free_port(), health_timeout=15, popen=True)
    until(lambda: loop.running(WORKER, "kubelet") == [sha256(broken["hang"])])
    assert signals_reach_main(process.pid) >= 1
    process.send_signal(sent)
    output = process.stdout.read()
    process.wait(60)
    if sent == signal.SIGTERM:
        assert "Interrupted by SIGTERM: what ran before runs again" in output, output
    else:  # the node does it by itself; whoever ends it waits for that
        loop.debug("kubelet", state="absent")
    assert loop.running(WORKER, "kubelet") == [sha256(loop.program("kubelet"))] and loop.ready()
    loop.gone(before)


def test_a_kube_proxy_that_crashes_is_put_back(loop: Debug, broken: dict[str, pathlib.Path]) -> None:
    before, proxies, name = loop.pictures(), loop.proxies(), "kube-proxy"
    failed = loop.debug(name, binary=str(broken["crash"]), port=free_port(), health_timeout=20)
    assert failed.failed and "what ran before runs again" in failed["msg"] and "it crashes on purpose" in failed["msg"], failed
    assert loop.running(WORKER, name) == [sha256(loop.program(name))] and loop.proxies() == proxies
    loop.gone(before)


@pytest.mark.parametrize("while_its_pod_is_replaced", [True, False])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_kube_proxy_that_is_broken_off_is_put_back(
    loop: Debug, broken: dict[str, pathlib.Path], sent: signal.Signals, while_its_pod_is_replaced: bool
) -> None:
    before, proxies, name, hang = loop.pictures(), loop.proxies(), "kube-proxy", broken["hang"]
    process = loop.debug(name, binary=str(hang), port=free_port(), health_timeout=15, popen=True)
    if while_its_pod_is_replaced:
        until(lambda: "template" in loop.daemonset()["metadata"]["annotations"].get("nodeforge.io/debug", ""))
    else:
        until(lambda: loop.running(WORKER, name) == [sha256(hang)])
    process.send_signal(sent)
    output = process.stdout.read()
    process.wait(120)
    if sent == signal.SIGTERM:
        assert "Interrupted by SIGTERM: what ran before runs again" in output, output
    else:  # the node does it by itself; whoever ends it waits for that
        assert loop.debug(name, state="absent")["changed"]
    assert loop.running(WORKER, name) == [sha256(loop.program(name))] and loop.proxies() == proxies
    loop.gone(before)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_host_that_is_broken_off_gives_the_pod_back(loop: Debug, sent: signal.Signals) -> None:
    before = loop.pictures()
    name = "kube-controller-manager"
    process = loop.debug(name, port=free_port(), host=True, health_timeout=10, popen=True)
    until(lambda: loop.running(PLANE, name) == [])
    process.send_signal(sent)
    process.stdout.read()
    process.wait(120)
    if sent == signal.SIGKILL:
        assert loop.debug(name, state="absent")["changed"]
    assert loop.running(PLANE, name) == [sha256(loop.program(name))]
    loop.gone(before)


def test_the_forwarder_ends_with_what_it_is_for(loop: Debug) -> None:
    """Whoever puts the component back, from wherever, ends it."""
    port = free_port()
    assert loop.debug("kubelet", port=port)["changed"]
    elsewhere = loop.debug("kubelet", state="absent", directory=str(loop.directory / "elsewhere"))
    assert elsewhere["changed"]
    until(lambda: not _connects(port), 30)
    assert loop.debug("kubelet", state="absent")["actions"] == ["Ended and removed what belonged to it on this host"]


# the play


def test_dlv_for_another_platform(loop: Debug, tmp_path: pathlib.Path) -> None:
    other = "linux/arm64" if os.uname().machine == "x86_64" else "linux/amd64"
    path = compiled_dlv(loop.programs["kubelet"], other)
    content = path.read_bytes()
    assert struct.unpack_from("<H", content, 18)[0] == {"linux/arm64": 183, "linux/amd64": 62}[other]
    assert f"the node is {'amd64' if other == 'linux/arm64' else 'arm64'}" in loop.debug("kubelet", dlv=str(path))["msg"]


LAUNCH = """{
  // mine
  "version": "0.2.0",
  "configurations": [
    {"name": "mine", "type": "go", "program": "."}, // and a comment
  ],
}
"""


@contextlib.contextmanager
def ssh_host(directory: pathlib.Path) -> t.Iterator[tuple[int, pathlib.Path]]:
    """This machine as a remote host: a daemon of its own, on 127.0.0.1, with its own keys."""
    port = free_port()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
    (directory / "authorized").write_text((directory / "user.pub").read_text())
    (directory / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\nAuthorizedKeysFile {directory}/authorized\nPidFile none\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
    )
    pathlib.Path("/run/sshd").mkdir(exist_ok=True)
    daemon = subprocess.Popen([shutil.which("sshd", path="/usr/sbin:/usr/bin"), "-D", "-e", "-f", directory / "sshd_config"], stderr=subprocess.DEVNULL)
    try:
        until(lambda: _connects(port), 10)
        yield port, directory / "user"
    finally:
        daemon.terminate()
        daemon.wait(10)


@pytest.mark.skipif(not shutil.which("sshd", path="/usr/sbin:/usr/bin") or os.getuid() != 0, reason="needs sshd (apt-get install openssh-server), as root")
def test_the_playbook_for_a_remote_host(loop: Debug, ansible_env: dict[str, str], tmp_path: pathlib.Path) -> None:
    """The whole of it as a user does it: compiled, run, forwarded over SSH, editors told; and all of it undone."""
    workspace, here, remote = tmp_path / "work", free_port(), free_port()
    (workspace / ".vscode").mkdir(parents=True)
    (workspace / ".vscode/launch.json").write_text(LAUNCH)
    with ssh_host(tmp_path) as (port, key):
        options = f"-o UserKnownHostsFile={tmp_path}/known -o StrictHostKeyChecking=accept-new"
        inventory = tmp_path / "hosts.yml"
        variables = {
            "ansible_host": "127.0.0.1",
            "ansible_port": port,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(key),
            "ansible_ssh_common_args": options,
            "ansible_python_interpreter": sys.executable,
        }
        inventory.write_text(json.dumps({"all": {"hosts": {"builder": variables}}}))
        more = {
            "component": "kube-scheduler",
            "cluster": CLUSTER,
            "target": "builder",
            "kube_component_debug_port": remote,
            "kube_component_debug_local_port": here,
            "debug_component_local_tree": str(workspace),
            "kube_component_debug_directory": str(loop.directory / "debug"),
        }
        command = ["ansible-playbook", "nodeforge.kind.debug_component", "-i", str(inventory), "-e", json.dumps(more)]

        def play(*extra: str) -> str:
            ended = subprocess.run([*command, *extra], cwd=ROOT, env=ansible_env, capture_output=True, text=True, timeout=1800, check=False)
            assert ended.returncode == 0, ended.stdout + ended.stderr
            return ended.stdout

        before = loop.pictures()
        try:
            play("--check", "--diff")
            assert loop.pictures() == before and (workspace / ".vscode/launch.json").read_text() == LAUNCH and not _connects(here)
            assert "changed=0" not in play()
            assert _answers(here) and "changed=0" in play()
            launch = (workspace / ".vscode/launch.json").read_text()
            assert launch.startswith(LAUNCH.rpartition("  ],")[0]) and f'"port": {here}' in launch
            paths = f'"from": "{workspace}",\n          "to": "{TREE}"'
            assert paths in launch, launch
            assert f"config substitute-path {TREE} {workspace}" in (workspace / ".nodeforge/kube-scheduler.dlv").read_text()
            assert f"port = {here}" in (workspace / ".nodeforge/kube-scheduler.lua").read_text()
            # the init file is one that dlv takes
            script = tmp_path / "init"
            script.write_text((workspace / ".nodeforge/kube-scheduler.dlv").read_text() + "config -list\nquit -c\n")
            environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config")}
            # the real dlv over the way
            client = [loop.dlv, "connect", f"127.0.0.1:{here}", "--init", script]
            told = subprocess.run(client, input="n\n", capture_output=True, text=True, env=environment, timeout=60, check=False)
            assert f"{{{TREE} {workspace}" in told.stdout, told
            until(lambda: _answers(here))
        finally:
            ended = play("-e", "state=absent")
        assert "changed=0" not in ended
        assert not _connects(here) and "changed=0" in play("-e", "state=absent")
    loop.gone(before)
