#!/usr/bin/python
# Copyright (c) 2026, nodeforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kube_component_debug
short_description: Have a component of Kubernetes in a running kind cluster debugged by delve
version_added: 1.1.0
author: nodeforge contributors (@nodeforge)
description:
  - Has one component of one node run under C(dlv), to which editors connect at 127.0.0.1 of this host, and puts everything back.
  - The kubelet gets a drop-in beside its unit, a component of the control plane another command in the manifest of its static pod, C(kube-proxy)
    another pod on that node. The program that is there otherwise, the image's or one that M(nodeforge.kind.kube_component_swap) has put there, is
    not touched.
  - With O(attach), C(dlv) attaches to the component that runs already, which goes on running afterwards.
  - With O(host), a controller manager or a scheduler runs on this host, under C(dlv), instead of in its static pod.
  - In the node C(dlv) listens on the loopback only. The port of this host is carried there by a process on this host, or by a port mapping of
    the node on 127.0.0.1 where there is one for it, to which then only the node's gateway comes through.
  - What undoes it is kept in the node, in C(/kind/nodeforge/debug), so it survives a restart of the node and anybody can undo it.
extends_documentation_fragment:
  - nodeforge.kind._attributes
  - nodeforge.kind._attributes.actiongroup_kind
  - nodeforge.kind._docker
attributes:
  check_mode:
    support: full
    details:
      - Whether the programs run in the node is not tried.
  diff_mode:
    support: full
    details:
      - Shows how the component runs, before and after.
  idempotent:
    support: full
    details:
      - Nothing is done where the component is debugged already in the same way, with the same programs, and C(dlv) answers.
options:
  cluster:
    description: The name of the kind cluster.
    type: str
    default: kind
    aliases: [name]
  component:
    description: The component.
    type: str
    choices: [kubelet, kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy]
    required: true
  node:
    description:
      - The node, with or without the cluster's name before it.
      - By default the first worker, as pods are there, or the control plane where there is no worker; for components of the control plane the
        first control plane.
      - Several nodes are debugged at once by a task for each, with another O(port).
    type: str
  state:
    description:
      - V(present) has the component debugged.
      - V(absent) has run again what ran before.
    type: str
    choices: [present, absent]
    default: present
  binary:
    description:
      - The program on this host, compiled for debugging (O(nodeforge.kind.kube_make#module:debug=true)).
      - Required with O(state=present), except with O(attach).
    type: path
  dlv:
    description:
      - C(dlv) on this host, for the platform of the node and not linked to libraries. Its minor version must not be below that of the Go that
        compiled the component.
      - Required with O(state=present).
    type: path
  port:
    description:
      - The port on 127.0.0.1 of this host, and in the node.
      - Where the node has a port mapping on 127.0.0.1 from this port, its port in the node is used, and nothing runs on this host.
      - The default is V(2345) for the kubelet, and for C(kube-apiserver), C(kube-controller-manager), C(kube-scheduler) and C(kube-proxy) the next four.
    type: int
  wait_for_client:
    description:
      - Whether the component stands at its first instruction until a client has it continue.
      - What counts as healthy then is only that C(dlv) answers.
    type: bool
    default: false
  attach:
    description:
      - Attach to the component that runs already. It must have been compiled for debugging, which a swap may have done.
      - It ends with the component or the node. Probes and leader election stay as they are, so the kubelet restarts a static pod that stands at a
        breakpoint for long.
    type: bool
    default: false
  host:
    description:
      - Run C(kube-controller-manager) or C(kube-scheduler) on this host, with the flags of its manifest, copies of the files that they name, and
        without leader election.
      - For clusters with one control plane.
    type: bool
    default: false
  health_timeout:
    description: Seconds within which the component has to become healthy. Where it does not, what ran before is put back.
    type: int
    default: 120
  directory:
    description:
      - A directory for what belongs to processes on this host, each in a private directory in it.
      - The default is C(nodeforge/debug) in C(XDG_CACHE_HOME) or C(~/.cache).
    type: path
notes:
  - With one control plane, leader election is off while a component is debugged. With several, it stays on, and the lease is held for a day, so
    that a breakpoint does not lose it; the component waits for it first, like any other.
  - A component that ends by itself is not started again. C(dlv) tells what happened, and its C(restart) starts it.
  - The DaemonSet of C(kube-proxy) has another template only until the pod of the node is made of it. While one is debugged, the DaemonSet replaces no
    pod by itself (C(OnDelete)), so those of other nodes stay, and nobody swaps C(kube-proxy). What it was before is kept in its annotation
    C(nodeforge.io/debug), the pods of that label are those that are debugged.
  - On this host only processes of the same user, or of root, may connect, unless the port is one that the node publishes.
seealso:
  - module: nodeforge.kind.kube_make
  - module: nodeforge.kind.kube_component_swap
"""

EXAMPLES = r"""
- name: Compile the kubelet for debugging
  nodeforge.kind.kube_make:
    tree: ~/go/src/k8s.io/kubernetes
    what: [cmd/kubelet]
    debug: true
  register: build

- name: Have the worker's kubelet debugged
  nodeforge.kind.kube_component_debug:
    component: kubelet
    binary: "{{ build.outputs.binaries.kubelet.path }}"
    dlv: ~/go/bin/dlv

- name: Run the controller manager on this host, and wait for an editor
  nodeforge.kind.kube_component_debug:
    component: kube-controller-manager
    binary: _output/bin/kube-controller-manager
    dlv: ~/go/bin/dlv
    host: true
    wait_for_client: true

- name: Put it back
  nodeforge.kind.kube_component_debug:
    component: kube-controller-manager
    state: absent

- name: Have the kube-proxy of one node debugged, those of the others go on
  nodeforge.kind.kube_component_debug:
    component: kube-proxy
    node: worker2
    binary: _output/bin/kube-proxy
    dlv: ~/go/bin/dlv
"""

RETURN = r"""
node:
  description: The node.
  returned: when it was found
  type: str
  sample: kind-worker
address:
  description: Where editors connect.
  returned: with O(state=present)
  type: str
  sample: 127.0.0.1:2345
port:
  description: The port on 127.0.0.1 of this host.
  returned: with O(state=present)
  type: int
  sample: 2345
mode:
  description: V(exec), V(attach) or V(host).
  returned: with O(state=present)
  type: str
  sample: exec
pid:
  description: The id of the component's process in the node, or, with O(host), that of C(dlv) on this host. Empty in check mode.
  returned: with O(state=present)
  type: str
  sample: "3291"
go_version:
  description: The version of Go that compiled the component.
  returned: with O(state=present)
  type: str
  sample: go1.26.8
dlv_version:
  description: The version of C(dlv).
  returned: with O(state=present)
  type: str
  sample: v1.26.2
roots:
  description:
    - Where sources were when the component was compiled, as its program holds it. C(tree) is that of Kubernetes, C(goroot) that of Go.
    - What cannot be told is left out.
  returned: with O(state=present)
  type: dict
  sample: {tree: /go/src/k8s.io/kubernetes, goroot: /usr/local/go}
reason:
  description: Why something had to be done; empty where nothing had.
  returned: success
  type: str
  sample: it is not debugged
log:
  description: The last lines of the component's log, where it did not become healthy.
  returned: failure
  type: list
  elements: str
  sample: ["F1124 11:40:02.120000    2310 main.go:12] no"]
actions:
  description: What was done, or would be in check mode, one sentence each.
  returned: success
  type: list
  elements: str
  sample: ["Had the kubelet of \"kind-worker\" run under dlv"]
diff:
  description: How the component runs, before and after.
  returned: in diff mode
  type: dict
  sample: {before: {}, after: {mode: exec, port: 2345}}
"""

import base64
import collections.abc as c
import concurrent.futures
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import threading
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url
from ansible_collections.nodeforge.kind.plugins.module_utils import _background as background
from ansible_collections.nodeforge.kind.plugins.module_utils import _component as component
from ansible_collections.nodeforge.kind.plugins.module_utils import _debug as debug
from ansible_collections.nodeforge.kind.plugins.module_utils import _kind as kind
from ansible_collections.nodeforge.kind.plugins.module_utils._docker import (
    DOCKER_ARGS,
    Engine,
    EngineError,
    ExecResult,
    read_chunks,
)
from ansible_collections.nodeforge.kind.plugins.module_utils._signals import Interrupted, deferred, interruptible


class Given(t.NamedTuple):
    """A program on this host."""

    path: str
    size: int
    program: debug.Program

    def digest(self) -> str:
        """The checksum of its content."""
        digest = hashlib.sha256()
        try:
            for chunk in read_chunks(self.path):
                digest.update(chunk)
        except OSError as e:
            raise kind.BadInput(f'The program "{self.path}" cannot be read: {e.strerror or e}; correct its permissions or its path') from e
        return digest.hexdigest()


class Failed(Exception):
    """It did not become healthy; the text is the reason."""

    def __init__(self, why: str, log: c.Sequence[str] = ()) -> None:
        super().__init__(why)
        self.log = list(log)


class Debugger:
    """Has one component of one node debugged, or no longer."""

    def __init__(self, module: AnsibleModule, engine: Engine) -> None:
        params = self.params = module.params
        self.module = module
        self.engine = engine
        self.component: str = params["component"]
        self.how = component.COMPONENTS[self.component]
        self.cluster: str = params["cluster"]
        self.token = secrets.token_hex(8)
        self.port: int = params["port"] or debug.PORTS[self.component]
        self.mode = debug.HOST if params["host"] else debug.ATTACH if params["attach"] else debug.EXEC
        self.result: dict[str, t.Any] = {"reason": ""}
        self.given: dict[str, Given] = {}
        if not 0 < self.port < 65536 or params["health_timeout"] < 1:
            raise kind.BadInput("The option port must be one of TCP, and health_timeout at least 1")
        if params["state"] == "present":
            if params["attach"] and params["host"]:
                raise kind.BadInput("The options attach and host exclude each other: give one of them")
            if self.mode == debug.HOST and self.component not in debug.HOSTED:
                raise kind.BadInput(f"{self.component} belongs to its node: only {' and '.join(debug.HOSTED)} can run on the host")

    @property
    def seconds(self) -> str:
        return str(self.params["health_timeout"])

    def run(self) -> dict[str, t.Any]:
        self.known = kind.nodes(self.engine, self.cluster)
        self.node = self._choose(self.known)
        self.result["node"] = self.node.name
        self.container = self.engine.running(self.node.name)
        self.directory = os.path.join(self._base(), f"{self.node.name}-{self.component}")
        now = self._look()
        if self.params["state"] == "absent":
            return self._absent(now)
        if now.absent:
            raise kind.BadInput(f'The node "{self.node.name}" has no manifest of {self.component}: it runs in another way there; name another node')
        if now.swapping:
            raise kind.BadInput(f'A swap of the {self.component} of "{self.node.name}" was broken off: run that again first (kube_component_swap)')
        return self._present(now)

    def _base(self) -> str:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.environ.get("HOME", "/"), ".cache")
        return os.path.abspath(self.params["directory"] or os.path.join(cache, "nodeforge", "debug"))

    def _choose(self, known: c.Sequence[kind.Node]) -> kind.Node:
        able = [node for node in known if self.how != component.POD or node.role == kind.CONTROL_PLANE]
        if not self.params["node"]:
            workers = [node for node in able if node.role == kind.WORKER]
            return (workers or able)[0]
        chosen = kind.select(known, self.cluster, [self.params["node"]])
        if len(chosen) != 1:
            raise kind.BadInput(f'"{self.params["node"]}" is not one node: name one of {", ".join(node.name for node in able)}')
        if chosen[0] not in able:
            raise kind.BadInput(f'The node "{chosen[0].name}" does not run {self.component}, only control planes do: name one of them')
        return chosen[0]

    def _script(self, action: str, *arguments: str, **options: t.Any) -> ExecResult:
        argv = ["bash", "-c", debug.SCRIPT, "nodeforge", action, self.component, self.how, *arguments]
        return self.engine.exec(self.node.name, argv, **options)

    def _look(self) -> debug.Seen:
        told = self._script("look", timeout=60)
        for dummy in range(2):
            if told.rc == 0 and not told.stdout:  # an engine under load loses what a command prints
                told = self._script("look", timeout=60)
        if told.rc != 0 or not told.stdout:
            raise EngineError(f'The node "{self.node.name}" cannot be looked at: {told.reason}; it must be a node of kind, with bash and systemd')
        return debug.seen(told.stdout)

    # what is wanted

    def _give(self, option: str, what: str) -> Given:
        path: str | None = self.params[option]
        try:
            if not path or not os.path.isfile(path):
                raise kind.BadInput(f'There is no file "{path or ""}" on this host: {what}')

            def read(at: int, size: int) -> bytes:
                with open(path, "rb") as file:
                    file.seek(at)
                    return file.read(size)

            return Given(path, os.path.getsize(path), debug.Program(f'The program "{path}"', read))
        except OSError as e:
            raise kind.BadInput(f'The program "{path}" cannot be read: {e.strerror or e}; correct its permissions or its path') from e

    def _running(self, now: debug.Seen) -> debug.Program:
        """The program that runs in the node."""
        if len(now.pids) != 1:
            raise kind.BadInput(f'{self.component} does not run in "{self.node.name}", so nothing can attach to it: start it first')
        path = f"/proc/{now.pids[0]}/exe"

        def read(at: int, size: int) -> bytes:
            script = 'dd if="$1" iflag=skip_bytes,count_bytes skip="$2" count="$3" bs=64K status=none | base64 -w 0'
            told = self.engine.exec(self.node.name, ["bash", "-c", script, "nodeforge", path, str(at), str(size)], timeout=60)
            return base64.b64decode(told.stdout)

        return debug.Program(f'The {self.component} that runs in "{self.node.name}"', read)

    def _wanted(self, now: debug.Seen) -> dict[str, t.Any]:
        """What the node notes of it; programs are looked at, too."""
        self.given["dlv"] = self._give("dlv", "compile github.com/go-delve/delve/cmd/dlv and name its path in dlv")
        if self.mode == debug.ATTACH:
            program = self._running(now)
        else:
            self.given["program"] = self._give("binary", f"compile {self.component} with DBG=1 and name its path in binary")
            program = self.given["program"].program
        go = debug.check_program(program, now.machine)
        self.result["go_version"] = go
        self.result["dlv_version"] = debug.check_dlv(self.given["dlv"].program, now.machine, go)
        self.result["roots"] = debug.roots(program.sources(), self.component)
        planes = [node for node in self.known if node.role == kind.CONTROL_PLANE]
        if self.mode == debug.HOST and len(planes) > 1:
            raise kind.BadInput(f'The cluster "{self.cluster}" has {len(planes)} control planes, whose own {self.component} would go on: leave host out')
        inside = None if self.mode == debug.HOST else self._mapping()
        return {
            "component": self.component,
            "mode": self.mode,
            "port": inside or self.port,
            "host_port": self.port,
            "wait": "yes" if self.params["wait_for_client"] else "no",
            "mapped": "yes" if inside else "no",
            "election": "off" if len(planes) == 1 else "on",
            "sha256": now.running[0] if self.mode == debug.ATTACH else self.given["program"].digest(),
            "dlv": self.given["dlv"].digest(),
            **({"host": socket.gethostname()} if self.mode == debug.HOST else {}),
        }

    def _mapping(self) -> int | None:
        """The node's port that is published as our port on 127.0.0.1, and only there."""
        for inside, published in (self.container["NetworkSettings"]["Ports"] or {}).items():
            number, dummy, protocol = inside.partition("/")
            if protocol == "tcp" and any(entry == {"HostIp": "127.0.0.1", "HostPort": str(self.port)} for entry in published or []):
                return int(number)
        return None

    # processes on this host

    def _record(self, what: str) -> str:
        return os.path.join(self.directory, f"{what}.pid")

    def _about(self, wanted: dict[str, t.Any]) -> dict[str, t.Any]:
        return {"container": self.container["Id"], "wanted": wanted}

    def _runs(self, what: str, wanted: dict[str, t.Any]) -> bool:
        known = background.recorded(self._record(what))
        return {key: known.get(key) for key in ("container", "wanted")} == self._about(wanted)

    def _local_needs(self, wanted: dict[str, t.Any]) -> str | None:
        """Why something has to be done on this host."""
        if self.mode == debug.HOST:
            return None if self._runs("host", wanted) and self._answers() else "it does not run on this host"
        if wanted["mapped"] == "yes" or self._runs("forwarder", wanted):
            return None
        return "its port is not forwarded"

    def _answers(self) -> bool:
        """Whether dlv answers at the port of this host."""
        with contextlib.suppress(OSError, ValueError), socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(b'{"method": "RPCServer.GetVersion", "params": [{}], "id": 1}\n')
            with connection.makefile("rb") as file:
                return "DelveVersion" in json.loads(file.readline(65536))["result"]
        return False

    def _free(self) -> socket.socket:
        """The port of this host, which is ours from here on."""
        listener = background.listen(self.port)
        if listener is None:
            raise kind.BadInput(f"The port {self.port} of 127.0.0.1 on this host is in use by something else: end that, or name another port")
        return listener

    # present

    def _present(self, now: debug.Seen) -> dict[str, t.Any]:
        before = now.settings
        if before.get("mode", self.mode) != self.mode:
            raise kind.BadInput(f'The {self.component} of "{self.node.name}" is debugged in another way ({before["mode"]}): end that first (state=absent)')
        if self._has_daemonset(now) and not self._daemonset():
            raise kind.BadInput(f'The cluster "{self.cluster}" has no DaemonSet {self.component}: it runs in another way there, or not at all; attach to it')
        wanted = self._wanted(now)
        local = self._local_needs(wanted)
        reason = debug.needs(now, wanted) or (local if self.mode == debug.HOST else None)
        what = {
            debug.EXEC: f'Had the {self.component} of "{self.node.name}" run under dlv',
            debug.ATTACH: f'Attached dlv to the {self.component} of "{self.node.name}"',
            debug.HOST: f'Had {self.component} run on this host under dlv, instead of in "{self.node.name}"',
        }[self.mode]
        actions = [what] if reason else []
        forward = self.mode != debug.HOST and local is not None
        if forward:
            actions.append(f'Forwarded the port {self.port} to "{self.node.name}"')
        if wanted["election"] == "on" and self.component in debug.HOSTED:
            self.module.warn(f"{self.component} of several control planes only works while it holds its lease, which may be another node's")
        # what holds the port may be our own of before
        records = [self._record(name) for name in ("forwarder", "host")]
        mine = [record for record in records if background.recorded(record)]
        listener = None
        if not mine and (forward or (self.mode == debug.HOST and reason)):
            listener = self._free()
        if listener and (self.module.check_mode or self.mode == debug.HOST):
            listener.close()
        if not self.module.check_mode and actions:
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            for record in records:
                # also what one that was killed has left
                if forward or self.mode == debug.HOST:
                    background.end(record, signal.SIGINT)
            self._act(now, wanted, bool(reason), forward, listener)
            now = self._look()
        self.result.update(
            changed=bool(actions),
            actions=actions,
            reason=reason or (local or ""),
            port=self.port,
            address=f"127.0.0.1:{self.port}",
            mode=self.mode,
            pid=self._pid(now),
        )
        self._diff(before, wanted)
        return self.result

    def _pid(self, now: debug.Seen) -> str:
        if self.mode == debug.HOST:
            return str(background.recorded(self._record("host")).get("pid", ""))
        return now.pids[0] if len(now.pids) == 1 and not self.module.check_mode else ""

    def _act(self, now: debug.Seen, wanted: dict[str, t.Any], in_node: bool, forward: bool, listener: socket.socket | None) -> None:
        try:
            if in_node:
                self._debug(wanted)
            if forward:
                # dlv's first connection shows that the way is open, too
                with listener or self._free() as bound:
                    self._forward(wanted, bound)
            deadline = time.monotonic() + 10
            while not self._answers():
                if time.monotonic() > deadline:
                    raise Failed(f"dlv does not answer at 127.0.0.1:{self.port}")
                time.sleep(0.1)
        except (Failed, EngineError, Interrupted) as e:
            # the node has put back by itself what it began; this is for what comes after it
            told = "what ran before runs again"
            try:
                self._restore()
            except (Failed, EngineError) as worse:
                told = f"what ran before was put back, but is not healthy either: {worse}"
            if isinstance(e, Interrupted):
                self.module.fail_json(msg=f"Interrupted by {e}: {told}", **self.result)
            log = getattr(e, "log", [])
            said = kind.reason(log)
            why = f"{e}" + (f' (its log: "{said}")' if said else "")
            self.module.fail_json(
                msg=f'The {self.component} of "{self.node.name}" could not be debugged: {why}; {told}', **{**self.result, "log": log[-40:]}
            )

    def _forward(self, wanted: dict[str, t.Any], listener: socket.socket) -> None:
        def connect() -> Engine:
            return Engine(self.module)

        def run() -> None:
            background.forward(listener, connect, self.container["Id"], wanted["port"], f"{kind.DIRECTORY}/debug/{self.component}")

        record = self._record("forwarder")
        background.start(record, os.path.join(self.directory, "forwarder.log"), self._about(wanted), run, [listener.fileno()])

    def _debug(self, wanted: dict[str, t.Any]) -> None:
        """Runs the script, which undoes what it did where that does not become healthy; so does it where we go away."""
        running: concurrent.futures.Future[ExecResult] | None = None
        replacing: concurrent.futures.Future[None] | None = None
        files = [self.given[name] if name in self.given and self.mode != debug.HOST else None for name in ("dlv", "program")]
        arguments = [self.mode, str(wanted["port"]), wanted["wait"], wanted["mapped"], wanted["election"], self.seconds, self.token, json.dumps(wanted)]
        for file, checksum in zip(files, (wanted["dlv"], wanted["sha256"])):
            arguments += [str(file.size) if file else "0", checksum]
        out = bytearray()
        aside = threading.Event()

        def heard(chunk: bytes) -> None:
            out.extend(chunk)
            if b"aside " in out:
                aside.set()

        def chunks() -> t.Iterator[bytes]:
            for file in files:
                if file:
                    yield from read_chunks(file.path)

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            try:
                with deferred():
                    running = pool.submit(
                        self._script,
                        "debug",
                        *arguments,
                        stdin=chunks(),
                        stdin_size=sum(file.size for file in files if file),
                        timeout=6 * self.params["health_timeout"] + 300,
                        on_stdout=heard,
                    )
                daemon = self.how == component.DAEMON and self.mode == debug.EXEC
                if self.mode == debug.HOST:
                    self._prepare_host()
                while (daemon or self.mode == debug.HOST) and not aside.wait(0.1) and not running.done():
                    pass
                if aside.is_set() and not running.done():
                    if daemon:
                        with deferred():
                            replacing = pool.submit(self._replace, wanted)
                        concurrent.futures.wait([replacing])
                        replacing.result()
                    else:
                        self._run_host(wanted)
                    self._touch("go")
                concurrent.futures.wait([running])
            except (Interrupted, Failed, EngineError, OSError) as e:
                # the pod that the node has to take away again must be there first
                concurrent.futures.wait([replacing] if replacing else [])
                self._touch("abort")
                concurrent.futures.wait([running] if running else [])
                self._end_host()
                if isinstance(e, OSError):
                    raise Failed(f"it cannot run on this host: {e}") from e
                raise
            told = running.result()
        values, log = component.parse(out.decode(errors="replace"))
        if values.get("result") != ["changed"]:
            self._end_host()
            raise Failed(values.get("why", [told.reason])[0], log)
        self.result["pid"] = values["pid"][0]

    def _touch(self, word: str) -> None:
        self.engine.exec(self.node.name, ["touch", f"/run/nodeforge-{word}-{self.token}"])

    # the DaemonSet of kube-proxy

    def _has_daemonset(self, now: debug.Seen) -> bool:
        """Whether it counts: who attaches does not touch it."""
        mode = self.mode if self.params["state"] == "present" else debug.EXEC
        return self.how == component.DAEMON and now.settings.get("mode", mode) != debug.ATTACH

    def _on_plane(self, argv: c.Sequence[str], seconds: int) -> ExecResult:
        plane = next(node for node in self.known if node.role == kind.CONTROL_PLANE)
        return self.engine.exec(plane.name, argv, timeout=seconds)

    def _get(self, *arguments: str) -> dict[str, t.Any]:
        told = self._on_plane(["kubectl", "--kubeconfig", kind.ADMIN_CONF, "-n", "kube-system", "get", *arguments, "-o", "json"], 60)
        with contextlib.suppress(ValueError):
            if told.rc == 0:
                found: dict[str, t.Any] = json.loads(told.stdout)
                return found
        if "(NotFound)" in told.stderr:
            return {}
        raise EngineError(f'The DaemonSet {self.component} of the cluster "{self.cluster}" cannot be read: {told.reason}')

    def _daemonset(self) -> dict[str, t.Any]:
        """As it is; nothing where there is none."""
        return self._get("daemonset", self.component)

    def _change(self, action: str, *arguments: str) -> str:
        argv = ["bash", "-c", debug.DAEMON_SCRIPT, "nodeforge", action, self.component, *arguments]
        told = self._on_plane(argv, self.params["health_timeout"] + 900)
        values, dummy = component.parse(told.stdout)
        if "result" not in values:
            raise Failed(values.get("why", [told.reason])[0])
        return values["result"][0]

    def _mend(self) -> dict[str, t.Any]:
        """The DaemonSet, which has its own template, also where somebody was broken off."""
        found = self._daemonset()
        if found and "template" in debug.noted(found):
            self._change("mend", debug.patches(found)["mend"])
            found = self._daemonset()
        return found

    def _replace(self, wanted: dict[str, t.Any]) -> None:
        """Has the node's pod made anew, with dlv."""
        options = debug.options(wanted["port"], wanted["wait"] == "yes", wanted["mapped"] == "yes")
        for dummy in range(5):
            found = self._mend()
            patches = debug.patches(found, debug.debugged(found["spec"]["template"], self.component, options))
            generation = str(found["metadata"]["generation"])
            if self._change("replace", self.node.name, self.seconds, generation, patches["begin"], patches["mend"]) == "changed":
                return
        raise Failed("its DaemonSet is changed by somebody else again and again")

    def _left(self) -> str | None:
        """Why something has to be put back in the DaemonSet."""
        note = debug.noted(self._daemonset() or {"metadata": {}})
        left = note and ("template" in note or not self._get("pods", "-l", component.DEBUG_LABEL)["items"])
        return "it was broken off" if left else None

    # on this host

    def _prepare_host(self) -> None:
        """Copies what the component needs into the private directory, and notes how it is run."""
        find = f"{kind.DIRECTORY}/debug/{self.component}/original.yaml"
        script = 'f=$1; [ -e "$f" ] || f=$2; kubectl patch --local -f "$f" -p "{}" -o json'
        argv = ["bash", "-c", script, "nodeforge", find, f"/etc/kubernetes/manifests/{self.component}.yaml"]
        told = self.engine.exec(self.node.name, argv, timeout=60)
        if told.rc != 0:
            raise Failed(f"its manifest cannot be read: {told.reason}")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.secure: int = free.getsockname()[1]
        arguments, names = debug.host_command(json.loads(told.stdout), self.component, self.secure)
        server = self._server()
        files = {}
        for name in names:
            content = self.engine.read_file(self.node.name, name)
            if content is None:
                continue
            here = os.path.join(self.directory, "files", name.lstrip("/"))
            os.makedirs(os.path.dirname(here), mode=0o700, exist_ok=True)
            if b"kind: Config" in content:
                content = debug.pointed(content.decode(), server).encode()
            with open(os.open(here, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(content)
            files[name] = here
        self.arguments = debug.moved(arguments, files)

    def _server(self) -> str:
        """The API server's address as this host reaches it."""
        for container in self.engine.api.containers(filters={"label": f"{kind.CLUSTER_LABEL}={self.cluster}"}):
            if container["Labels"].get(kind.ROLE_LABEL) in (kind.CONTROL_PLANE, "external-load-balancer"):
                for port in container["Ports"]:
                    if port["PrivatePort"] == 6443 and port.get("PublicPort"):
                        host = port.get("IP") or "127.0.0.1"
                        return f"https://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port['PublicPort']}"
        raise Failed("the API server is not published on this host")

    def _run_host(self, wanted: dict[str, t.Any]) -> None:
        options = debug.options(self.port, self.params["wait_for_client"])
        argv = [self.given["dlv"].path, "exec", *options, self.given["program"].path, "--", *self.arguments]
        log = os.path.join(self.directory, "host.log")
        environment = {**os.environ, "XDG_CONFIG_HOME": os.path.join(self.directory, "config")}
        background.start(self._record("host"), log, self._about(wanted), lambda: os.execve(argv[0], argv, environment))
        deadline = time.monotonic() + self.params["health_timeout"]
        why = ""
        while not self._well():
            if not background.recorded(self._record("host")):
                why = "dlv ended"
            elif time.monotonic() > deadline:
                why = f"it does not become healthy after {self.seconds} s"
            if why:
                with open(log, encoding="utf-8", errors="replace") as file:
                    raise Failed(why, kind.tail(file.read(), 200))
            time.sleep(0.1)

    def _well(self) -> bool:
        if not self._answers():
            return False
        if self.params["wait_for_client"]:
            return True
        with contextlib.suppress(Exception):
            address = f"https://127.0.0.1:{self.secure}/healthz"
            return open_url(address, validate_certs=False, use_proxy=False, timeout=3).getcode() == 200
        return False

    def _end_host(self) -> bool:
        return background.end(self._record("host"), signal.SIGINT)

    # absent

    def _restore(self) -> None:
        background.end(self._record("forwarder"))
        self._end_host()
        found = self._mend() if self._has_daemonset(self._look()) else {}
        told = self._script("absent", self.seconds, self.token, timeout=6 * self.params["health_timeout"] + 300)
        values, log = component.parse(told.stdout)
        if values.get("result", [""])[0] not in ("changed", "unchanged"):
            raise Failed(values.get("why", [told.reason])[0], log)
        if found and debug.noted(found):
            self._change("settle", debug.patches(found)["settle"])
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.directory)
        with contextlib.suppress(OSError):
            os.rmdir(self._base())

    def _absent(self, now: debug.Seen) -> dict[str, t.Any]:
        reason = debug.needs(now, None) or (self._left() if self._has_daemonset(now) else None)
        local = os.path.isdir(self.directory)
        actions = []
        if reason:
            actions.append(f'Had the {self.component} of "{self.node.name}" run as before')
        if local:
            actions.append("Ended and removed what belonged to it on this host")
        elsewhere = now.settings.get("host")
        if elsewhere and elsewhere != socket.gethostname():
            self.module.warn(f"{self.component} was run on {elsewhere}: end its dlv there")
        if actions and not self.module.check_mode:
            try:
                self._restore()
            except Failed as e:
                said = kind.reason(e.log)
                self.module.fail_json(
                    msg=f'The {self.component} of "{self.node.name}" was put back, but is not healthy: {e}' + (f' (its log: "{said}")' if said else ""),
                    **self.result,
                    log=e.log[-40:],
                )
        self.result.update(changed=bool(actions), actions=actions, reason=reason or "")
        self._diff(now.settings, {})
        return self.result

    def _diff(self, before: dict[str, t.Any], after: dict[str, t.Any]) -> None:
        if self.module._diff:
            keys = ("mode", "host_port", "wait", "sha256")
            self.result["diff"] = {word: {key: side[key] for key in keys if key in side} for word, side in (("before", before), ("after", after))}


def main() -> None:
    """Runs the module."""
    module = AnsibleModule(
        argument_spec={
            **DOCKER_ARGS,
            "cluster": {"type": "str", "default": "kind", "aliases": ["name"]},
            "component": {"type": "str", "choices": list(debug.PORTS), "required": True},
            "node": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "binary": {"type": "path"},
            "dlv": {"type": "path"},
            "port": {"type": "int"},
            "wait_for_client": {"type": "bool", "default": False},
            "attach": {"type": "bool", "default": False},
            "host": {"type": "bool", "default": False},
            "health_timeout": {"type": "int", "default": 120},
            "directory": {"type": "path"},
        },
        required_if=[("state", "present", ["dlv"])],
        supports_check_mode=True,
    )
    try:
        engine = Engine(module)
        with interruptible():
            try:
                result = Debugger(module, engine).run()
            except Interrupted as e:
                module.fail_json(msg=f"Interrupted by {e}: run again")
    except (EngineError, kind.BadInput) as e:
        module.fail_json(msg=str(e))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
