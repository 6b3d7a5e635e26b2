#!/usr/bin/python
# Copyright (c) 2026, nodeforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kube_component_swap
short_description: Replace a component of Kubernetes in a running kind cluster
version_added: 1.1.0
author: nodeforge contributors (@nodeforge)
description:
  - Puts a freshly compiled component into the nodes of a running kind cluster, without a new node image and without a new cluster, and puts
    the image's own one back.
  - The kubelet is replaced and its unit restarted. C(kube-apiserver), C(kube-controller-manager) and C(kube-scheduler) get the program as a
    mount in the manifest of their static pod, C(kube-proxy) in its DaemonSet. C(kubeadm) and C(kubectl) are files.
  - A node counts as done when the component's process has exactly the content of O(binary) and is healthy. Where it is not so in time, the
    previous program is put back and the module fails with the reason.
  - What is needed to undo a swap is kept in the node, in C(/kind/nodeforge), so it survives a restart of the node, and anybody can undo it from
    anywhere. With O(state=original) nothing of it is left.
  - Any kind cluster will do, however it was made and whatever its node image.
extends_documentation_fragment:
  - nodeforge.kind._attributes
  - nodeforge.kind._attributes.actiongroup_kind
  - nodeforge.kind._docker
attributes:
  check_mode:
    support: full
    details:
      - Whether the program runs in the node is not tried.
  diff_mode:
    support: full
    details:
      - Shows the checksum of the component's program by node; V(original) is the image's where its checksum is not known.
  idempotent:
    support: full
    details:
      - Nothing is done in a node whose process has the content of O(binary) already, and would have it after a restart.
options:
  cluster:
    description: The name of the kind cluster.
    type: str
    default: kind
    aliases: [name]
  component:
    description: The component.
    type: str
    choices: [kubelet, kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy, kubeadm, kubectl]
    required: true
  binary:
    description:
      - The program on this host, such as RV(nodeforge.kind.kube_make#module:outputs.binaries) tells its C(path).
      - It must be static, or find its libraries in the node (and a static pod's in its image).
      - Required with O(state=present).
    type: path
  state:
    description:
      - V(present) has O(binary) run.
      - V(original) has run what ran before the first swap, after any number of them.
    type: str
    choices: [present, original]
    default: present
  nodes:
    description:
      - The nodes. V(all), a role (V(control-plane), V(worker)), or names, with or without the cluster's before it.
      - V(all) means those that run the component; for components of the control plane, the control planes.
    type: list
    elements: str
    default: [all]
  serial:
    description:
      - How many nodes to swap at once. After a node that failed, no further ones are begun.
      - V(0) is one after the other for the static pods of control planes, which are each other's reserve, and all of them for the others.
    type: int
    default: 0
  health_timeout:
    description:
      - Seconds within which the component has to become healthy in a node, and again for the previous one after it did not.
      - The kubelet - its unit is active, C(healthz) is ok and the node has been reported Ready, with the new version, by the new process.
        A node that was not Ready before need not be.
      - C(kube-apiserver) - C(readyz) is ok and it tells its version. C(kube-controller-manager), C(kube-scheduler) - C(healthz) is ok and
        the lease is held, no longer by the one before. C(kube-proxy) - C(healthz) is ok.
      - A component that ends again and again is given up earlier.
    type: int
    default: 60
notes:
  - The first swap of C(kube-proxy) restarts it on all nodes, since its DaemonSet gets a mount; nodes that are not swapped go on with their own.
    It is removed with the last swap.
  - An interrupted swap is rolled back. Where the module itself is killed, the node goes on by itself, to the new program if it becomes healthy
    and else to the previous one.
seealso:
  - module: nodeforge.kind.kube_make
  - module: nodeforge.kind.kind_cluster
"""

EXAMPLES = r"""
- name: Compile the kubelet
  nodeforge.kind.kube_make:
    tree: ~/go/src/k8s.io/kubernetes
    what: [cmd/kubelet]
  register: build

- name: Run it on all nodes
  nodeforge.kind.kube_component_swap:
    component: kubelet
    binary: "{{ build.outputs.binaries.kubelet.path }}"

- name: Try a scheduler that may take its time
  nodeforge.kind.kube_component_swap:
    cluster: try
    component: kube-scheduler
    binary: _output/bin/kube-scheduler
    health_timeout: 180

- name: Go back to the image's kubelet on the workers, two at a time
  nodeforge.kind.kube_component_swap:
    component: kubelet
    state: original
    nodes: [worker]
    serial: 2
"""

RETURN = r"""
nodes:
  description: What became of each node, in the order in which they were swapped. Also on failure.
  returned: when the nodes were found
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
      sample: kind-worker
    result:
      description:
        - V(changed) or V(unchanged); V(rolledback), where the previous program runs again; V(refused), where nothing was touched;
          V(lost), where not even the previous one became healthy; V(skipped), where it was not begun.
      type: str
      sample: changed
    reason:
      description: Why the swap was needed, or why it failed.
      type: str
      sample: another program runs
    sha256:
      description: The checksum of the program that runs now.
      type: str
      sample: 6a1baa8f8356339681824fc642dba4d1bcdd55e44dd3f1b71ffe5dad70f6be5b
    version:
      description: The version that O(binary) tells, where it was tried in the node.
      type: str
      sample: v1.37.2-dirty
    previous:
      description: The checksum of the program that ran before.
      type: str
      sample: 0f6f1b5d0c8a7a9b6f0d2c3e4a5b6c7d8e9f0a1b2c3d4e5f60718293a4b5c6d7
    previous_version:
      description: The version of the program that ran before, where a swap failed.
      type: str
      sample: v1.37.2
    lost:
      description: Why the previous program did not become healthy either, where it did not.
      type: str
      sample: the node is not Ready
    said:
      description: The line of the component's log that tells the most, where a swap failed.
      type: str
      sample: F1124 11:40:02.120000    2310 main.go:12] no
    seconds:
      description: How long the swap took.
      type: float
      sample: 1.7
    log:
      description: The last lines of the component's log, where it did not become healthy.
      type: list
      elements: str
      sample: ["F1124 11:40:02.120000    2310 main.go:12] no"]
sha256:
  description: The checksum of O(binary).
  returned: with O(state=present)
  type: str
  sample: 6a1baa8f8356339681824fc642dba4d1bcdd55e44dd3f1b71ffe5dad70f6be5b
actions:
  description: What was done, or would be in check mode, one sentence each.
  returned: success
  type: list
  elements: str
  sample: ["Replaced the kubelet of \"kind-worker\" by v1.37.2-dirty (6a1baa8f8356) in 1.7 s"]
diff:
  description: The checksums of the component's program by node, before and after.
  returned: in diff mode
  type: dict
  sample: {before: {kind-worker: original}, after: {kind-worker: 6a1baa8f8356339681824fc642dba4d1bcdd55e44dd3f1b71ffe5dad70f6be5b}}
"""

import collections.abc as c
import concurrent.futures
import hashlib
import json
import os
import secrets
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nodeforge.kind.plugins.module_utils import _component as component
from ansible_collections.nodeforge.kind.plugins.module_utils import _kind as kind
from ansible_collections.nodeforge.kind.plugins.module_utils._docker import (
    DOCKER_ARGS,
    Engine,
    EngineError,
    ExecResult,
    read_chunks,
)
from ansible_collections.nodeforge.kind.plugins.module_utils._signals import Interrupted, deferred, interruptible

# Enough for the header and the table of segments.
HEAD = 4096


class Swapper:
    """Has one program run as a component in some nodes."""

    def __init__(self, module: AnsibleModule, engine: Engine) -> None:
        params = self.params = module.params
        self.module = module
        self.engine = engine
        self.component: str = params["component"]
        self.how = component.COMPONENTS[self.component]
        self.cluster: str = params["cluster"]
        self.token = secrets.token_hex(8)
        self.wanted = component.ORIGINAL
        self.size = 0
        self.results: list[dict[str, t.Any]] = []
        self.interrupted: str | None = None
        if params["serial"] < 0 or params["health_timeout"] < 1:
            raise kind.BadInput("The option serial must be at least 0, and health_timeout at least 1")

    def run(self) -> dict[str, t.Any]:
        known = kind.nodes(self.engine, self.cluster)
        chosen = self._choose(known)
        for node in known if self.how == component.DAEMON else chosen:
            self.engine.running(node.name)
        # both read a program
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            with deferred():
                reading = pool.submit(self._read) if self.params["state"] == "present" else None
            before = dict(zip(chosen, self._each(self._look, chosen)))
            head = reading.result() if reading else b""
        for node, now in before.items():
            if now.absent:
                raise kind.BadInput(f'The node "{node.name}" has no manifest of {self.component}: it runs in another way there; name other nodes')
            if now.debugged and component.needs(self.how, now, self.wanted):
                raise kind.BadInput(
                    f'The {self.component} of "{node.name}" is being debugged: end that first (kube_component_debug with state=absent)'
                )
            if self.params["state"] == "present":
                component.check_program(self.params["binary"], head, self.size, now.machine)
        reasons = {node: component.needs(self.how, now, self.wanted) for node, now in before.items()}
        if self.how == component.DAEMON and any(reasons.values()) and self._debugged(known):
            raise kind.BadInput(
                f'The {self.component} of a node of the cluster "{self.cluster}" is being debugged, for which its DaemonSet stays as it is: end that first '
                "(kube_component_debug with state=absent)"
            )
        actions: list[str] = []
        todo = [node for node in chosen if reasons[node]]
        for node, now in before.items():
            entry = {"name": node.name, "result": "unchanged", "sha256": now.sha256, "previous": now.sha256}
            if self.module.check_mode and node in todo:
                entry.update(result="changed", reason=reasons[node], sha256=now.target(self.wanted))
            self.results.append(entry)
        if self.module.check_mode:
            actions = [f'Replaced the {self.component} of "{node.name}"' for node in todo]
        elif todo:
            actions = self._swap(known, todo, reasons)
        result: dict[str, t.Any] = {"changed": bool(actions), "actions": actions, "nodes": self.results}
        if self.params["state"] == "present":
            result["sha256"] = self.wanted
        if self.module._diff:
            shown = {node.name: now.sha256 or now.current for node, now in before.items()}
            result["diff"] = {"before": shown, "after": {**shown, **{node.name: before[node].target(self.wanted) or self.wanted for node in todo}}}
        return result

    def _choose(self, known: c.Sequence[kind.Node]) -> list[kind.Node]:
        able = [node for node in known if self.how != component.POD or node.role == kind.CONTROL_PLANE]
        chosen = kind.select(known, self.cluster, self.params["nodes"])
        if self.params["nodes"] == ["all"]:
            return able
        for node in chosen:
            if node not in able:
                raise kind.BadInput(f'The node "{node.name}" does not run {self.component}, only control planes do: name one of them, or all')
        return chosen

    def _read(self) -> bytes:
        """The beginning of the program; its checksum and size are noted."""
        path: str | None = self.params["binary"]
        digest = hashlib.sha256()
        head = b""
        try:
            if not path or not os.path.isfile(path):
                raise kind.BadInput(f'There is no file "{path}" on this host: compile {self.component} or name its path in binary')
            for chunk in read_chunks(path):
                head = head or chunk[:HEAD]
                digest.update(chunk)
                self.size += len(chunk)
        except OSError as e:
            raise kind.BadInput(f'The program "{path}" cannot be read: {e.strerror or e}; correct its permissions or its path') from e
        self.wanted = digest.hexdigest()
        return head

    def _script(self, node: kind.Node, action: str, *arguments: str, **options: t.Any) -> ExecResult:
        return self.engine.exec(node.name, ["bash", "-c", component.SCRIPT, "nodeforge", action, self.component, self.how, *arguments], **options)

    def _look(self, node: kind.Node) -> component.Seen:
        told = self._script(node, "look", timeout=60)
        for dummy in range(2):
            if told.rc == 0 and not told.stdout:  # an engine under load loses what a command prints
                told = self._script(node, "look", timeout=60)
        if told.rc != 0 or not told.stdout:
            raise EngineError(f'The node "{node.name}" cannot be looked at: {told.reason}; it must be a node of kind, with bash and systemd')
        return component.seen(told.stdout)

    @staticmethod
    def _each(do: c.Callable[[kind.Node], t.Any], nodes: c.Sequence[kind.Node]) -> list[t.Any]:
        with concurrent.futures.ThreadPoolExecutor(max(len(nodes), 1)) as pool:
            with deferred():
                found = pool.map(do, nodes)
            return list(found)

    # swapping

    def _swap(self, known: c.Sequence[kind.Node], todo: c.Sequence[kind.Node], reasons: dict[kind.Node, str | None]) -> list[str]:
        if self.how == component.DAEMON:
            self._mount(known)
        entries = {entry["name"]: entry for entry in self.results}
        actions: list[str] = []
        failed: list[dict[str, t.Any]] = []
        waiting = list(todo)
        serial = self.params["serial"] or (1 if self.how == component.POD else len(todo))
        while waiting and not failed and not self.interrupted:
            batch, waiting = waiting[:serial], waiting[serial:]
            for node in batch:
                entries[node.name]["reason"] = reasons[node]
            self._batch(batch, entries)
            for node in batch:
                entry = entries[node.name]
                if entry["result"] == "changed":
                    what = f"by {entry['version']} ({self.wanted[:12]})" if self.wanted != component.ORIGINAL else "by the original one"
                    actions.append(f'Replaced the {self.component} of "{node.name}" {what} in {entry["seconds"]} s')
                elif entry["result"] != "unchanged":
                    failed.append(entry)
        for node in waiting:
            entries[node.name]["result"] = "skipped"
        if self.how == component.DAEMON:
            self._unmount(known)
        if failed or self.interrupted:
            self.module.fail_json(
                msg=self._why(failed),
                changed=bool(actions),
                actions=actions,
                nodes=self.results,
            )
        return actions

    def _batch(self, batch: c.Sequence[kind.Node], entries: dict[str, dict[str, t.Any]]) -> None:
        with concurrent.futures.ThreadPoolExecutor(len(batch)) as pool:
            running: list[concurrent.futures.Future[None]] = []
            try:
                with deferred():
                    running = [pool.submit(self._one, node, entries[node.name]) for node in batch]
                concurrent.futures.wait(running)
            except Interrupted as e:
                self.interrupted = str(e)
                # each node puts the previous program back by itself, which is waited for
                for node in batch:
                    self.engine.exec(node.name, ["touch", f"/run/nodeforge-abort-{self.token}"])
                concurrent.futures.wait(running)
            for future in running:
                future.result()

    def _one(self, node: kind.Node, entry: dict[str, t.Any]) -> None:
        began = time.monotonic()
        seconds = str(self.params["health_timeout"])
        # a net below the script's own limits
        limit = 6 * self.params["health_timeout"] + 300
        if self.wanted == component.ORIGINAL:
            told = self._script(node, "original", seconds, self.token, timeout=limit)
        else:
            path: str = self.params["binary"]
            told = self._script(
                node, "swap", self.wanted, seconds, self.token, stdin=read_chunks(path), stdin_size=self.size, timeout=limit
            )  # fmt: skip
        values, log = component.parse(told.stdout)

        def value(key: str) -> str:
            return values.get(key, [""])[0]

        entry["seconds"] = round(time.monotonic() - began, 1)
        entry["result"] = value("result") or "lost"
        for key in ("version", "previous"):
            entry[key] = value(key) or entry.get(key)
        if entry["result"] == "changed":
            entry["sha256"] = self.wanted if self.wanted != component.ORIGINAL else self._look(node).sha256
        elif entry["result"] != "unchanged":
            entry["reason"] = value("why") or told.reason
            entry["previous_version"] = value("previous_version")
            entry["lost"] = value("lost")
            entry["said"] = kind.reason(log)
            entry["log"] = log[-40:]

    def _why(self, failed: c.Sequence[dict[str, t.Any]]) -> str:
        """One sentence a node: what happened, why, and what runs now."""
        sentences = []
        for entry in failed:
            what = f'The {self.component} of "{entry["name"]}"'
            said = entry["said"]
            why = entry["reason"] + (f' (its log: "{said}")' if said else "")
            before = f"the previous one{' (' + entry['previous_version'] + ')' if entry['previous_version'] else ''}"
            if entry["result"] == "refused":
                sentences.append(f"{what} was not replaced: {why}; {before} was not touched")
            elif entry["result"] == "rolledback":
                sentences.append(f"{what} did not become healthy: {why}; {before} runs again")
            else:
                lost = entry["lost"] or "its state is unknown"
                sentences.append(f"{what} did not become healthy: {why}; {before} was put back, but is not healthy either: {lost}")
        text = ". ".join(sentences)
        if self.interrupted:
            text = f"Interrupted by {self.interrupted}" + (f": {text}" if text else "; what was begun is complete")
        return text

    # the DaemonSet of kube-proxy

    def _kubectl(self, known: c.Sequence[kind.Node], *arguments: str) -> str:
        node = next(node for node in known if node.role == kind.CONTROL_PLANE)
        told = self.engine.exec(node.name, ["kubectl", "--kubeconfig", kind.ADMIN_CONF, "-n", "kube-system", *arguments], timeout=60)
        if told.rc != 0:
            raise EngineError(f'The DaemonSet of {self.component} in the cluster "{self.cluster}" cannot be changed: {told.reason}')
        return told.stdout

    def _mounted(self, known: c.Sequence[kind.Node]) -> bool:
        return "nodeforge" in self._kubectl(known, "get", "daemonset", self.component, "-o", "jsonpath={.spec.template.spec.volumes[*].name}").split()

    def _debugged(self, known: c.Sequence[kind.Node]) -> bool:
        return component.DEBUG_LABEL in json.loads(self._kubectl(known, "get", "daemonset", self.component, "-o", "json"))["metadata"].get("annotations", {})

    def _mount(self, known: c.Sequence[kind.Node]) -> None:
        """All pods of the DaemonSet mount what their node has in place, which so far is their own."""
        for node, told in zip(known, self._each(lambda node: self._script(node, "prepare", timeout=400), known)):
            values, dummy = component.parse(told.stdout)
            if told.rc != 0 or "why" in values:
                raise EngineError(f'The node "{node.name}" cannot be prepared: {values.get("why", [told.reason])[0]}')
        if not self._mounted(known):
            self._kubectl(known, "patch", "daemonset", self.component, "--type=strategic", "-p", component.daemon_patch(True))

    def _unmount(self, known: c.Sequence[kind.Node]) -> None:
        """The mount goes with the last swap."""
        if any(now.current != component.ORIGINAL for now in self._each(self._look, known)):
            return
        if self._mounted(known):
            self._kubectl(known, "patch", "daemonset", self.component, "--type=strategic", "-p", component.daemon_patch(False))
            self._kubectl(known, "rollout", "status", "daemonset", self.component, f"--timeout={self.params['health_timeout'] * len(known)}s")
        self._each(lambda node: self._script(node, "forget", str(self.params["health_timeout"]), timeout=600), known)


def main() -> None:
    """Runs the module."""
    module = AnsibleModule(
        argument_spec={
            **DOCKER_ARGS,
            "cluster": {"type": "str", "default": "kind", "aliases": ["name"]},
            "component": {"type": "str", "choices": list(component.COMPONENTS), "required": True},
            "binary": {"type": "path"},
            "state": {"type": "str", "choices": ["present", "original"], "default": "present"},
            "nodes": {"type": "list", "elements": "str", "default": ["all"]},
            "serial": {"type": "int", "default": 0},
            "health_timeout": {"type": "int", "default": 60},
        },
        required_if=[("state", "present", ["binary"])],
        supports_check_mode=True,
    )
    try:
        engine = Engine(module)
        with interruptible():
            swapper = Swapper(module, engine)
            try:
                result = swapper.run()
            except Interrupted as e:
                done = [entry["name"] for entry in swapper.results if entry["result"] == "changed"]
                module.fail_json(
                    msg=f"Interrupted by {e}: " + (f"only {', '.join(done)} swapped" if done else "no component was swapped"),
                    nodes=swapper.results,
                )
    except (EngineError, kind.BadInput) as e:
        module.fail_json(msg=str(e))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
