#!/usr/bin/python
# Copyright (c) 2026, nodeforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kind_cluster
short_description: Create, compare and delete a kind cluster
version_added: 1.1.0
author: nodeforge contributors (@nodeforge)
description:
  - Has a kind cluster that runs a node image with a configuration, or none. kind itself makes it.
  - What it was made of is kept in its first control plane, in C(/kind/nodeforge/cluster.json), and compared the next time. Of a cluster that
    somebody made by hand, the nodes, their roles and their images are compared.
  - Where a cluster cannot be made, the reason is told with the last lines of the failing node, its logs are exported, and nothing is left behind.
extends_documentation_fragment:
  - nodeforge.kind._attributes
  - nodeforge.kind._attributes.actiongroup_kind
  - nodeforge.kind._docker
attributes:
  check_mode:
    support: full
    details:
      - Whether nodes are Ready is not waited for.
  diff_mode:
    support: full
    details:
      - Shows the configuration, and the image of each node. What was not recorded is not shown.
  idempotent:
    support: full
    details:
      - The same image id and the same configuration change nothing. Components that were replaced by M(nodeforge.kind.kube_component_swap) are no difference.
options:
  name:
    description: The name of the cluster.
    type: str
    default: kind
  state:
    description:
      - V(present) makes the cluster where there is none. One that is there stays as it is, except that nodes that do not run are started.
        What differs is told in RV(differences) and in diff mode, and as a warning.
      - V(recreated) is V(present), but a cluster that differs, or that was left half-made, is deleted and made anew.
      - V(absent) deletes it.
    type: str
    choices: [present, absent, recreated]
    default: present
  image:
    description:
      - The node image, such as V(kindest/node:main), for all nodes. Images in O(config) do not count then.
      - By default those in O(config), or kind's own, which is not compared.
      - Where a node image of this collection has another version of etcd or CoreDNS than kubeadm asks for, which its labels tell, kubeadm is told.
    type: str
  config:
    description:
      - The configuration as kind's documentation has it (C(kind.x-k8s.io/v1alpha4)). C(kind), C(apiVersion) and C(name) may be left out.
      - The filter P(nodeforge.kind.kind_config#filter) makes one from a few wishes.
    type: dict
    default: {}
  wait:
    description:
      - Seconds within which all nodes have to be Ready. V(0) does not wait, as a cluster without a CNI needs it.
    type: int
    default: 180
  kubeconfig:
    description:
      - The file on this host that gets the access to the cluster, and loses it with the cluster. By default kind's own choice, the first of
        E(KUBECONFIG) or C(~/.kube/config).
      - Where it lacks the access to a cluster that is there, or has that to one of the same name before, it gets it.
    type: path
  retain:
    description: Whether to leave the nodes of a cluster that could not be made, to look into them.
    type: bool
    default: false
  logs_directory:
    description: Where logs are exported to when a cluster cannot be made. By default a new temporary directory.
    type: path
  kind:
    description: The kind program. By default it is looked for in E(PATH), and then where the role P(nodeforge.kind.build_host#role) puts it.
    type: path
requirements:
  - kind
  - the C(docker) command, which kind needs
seealso:
  - module: nodeforge.kind.kube_component_swap
  - plugin: nodeforge.kind.kind_config
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Have a cluster of the image that was built
  nodeforge.kind.kind_cluster:
    image: kindest/node:main

- name: Have one with two workers that follows the image
  nodeforge.kind.kind_cluster:
    name: try
    state: recreated
    image: kindest/node:main
    config:
      nodes:
        - role: control-plane
        - role: worker
        - role: worker
      featureGates:
        InPlacePodVerticalScaling: true
    kubeconfig: ~/try.kubeconfig

- name: Delete it
  nodeforge.kind.kind_cluster:
    name: try
    state: absent
    kubeconfig: ~/try.kubeconfig
"""

RETURN = r"""
nodes:
  description: The nodes of the cluster, control planes first. Empty where there is none, also in check mode where one would be made.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
      sample: try-worker
    role:
      description: Its role.
      type: str
      sample: worker
    image:
      description: The image that it was made of, as it was named.
      type: str
      sample: kindest/node:main
    image_id:
      description: The id of that image.
      type: str
      sample: sha256:3df57be39f96a5e0c1f4b7c2d8e9f0a1b2c3d4e5f60718293a4b5c6d7e8f9a0b
differences:
  description: What differs between the cluster that is there and the one that is wanted, one sentence each. Empty after it was made anew.
  returned: success
  type: list
  elements: str
  sample: ["The node \"try-worker\" was made of another image than \"kindest/node:main\" is now"]
kubeconfig:
  description: The option O(kubeconfig).
  returned: success
  type: str
  sample: /root/try.kubeconfig
actions:
  description: What was done, or would be in check mode, one sentence each.
  returned: success
  type: list
  elements: str
  sample: ["Created the cluster \"try\" of 3 nodes in 24.1 s"]
logs:
  description: The directory with the exported logs.
  returned: when a cluster could not be made and had nodes
  type: str
  sample: /tmp/kind-try-ab12cd34
node:
  description: The node that failed, as far as can be told.
  returned: when a cluster could not be made and had nodes
  type: str
  sample: try-control-plane
journal:
  description: The last lines of its kubelet, or of the container where that does not run.
  returned: when a cluster could not be made and had nodes
  type: list
  elements: str
  sample: ["E1124 11:40:02.120000  231 run.go:72] \"command failed\" err=\"failed to run Kubelet\""]
diff:
  description: The configuration and the images of the nodes, before and after.
  returned: in diff mode
  type: dict
  sample: {before: {}, after: {nodes: {try-control-plane: kindest/node:main}}}
"""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import tarfile
import tempfile
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nodeforge.kind.plugins.module_utils import _kind as kind
from ansible_collections.nodeforge.kind.plugins.module_utils._docker import (
    DOCKER_ARGS,
    Engine,
    EngineError,
)
from ansible_collections.nodeforge.kind.plugins.module_utils._node_image import told_replaced
from ansible_collections.nodeforge.kind.plugins.module_utils._signals import Interrupted, deferred, interruptible

RECORD = f"{kind.DIRECTORY}/cluster.json"


class Failure(EngineError):
    """A cluster that could not be made, with what helps to see why."""

    def __init__(self, text: str, **details: t.Any) -> None:
        super().__init__(text)
        self.details = details


class Keeper:
    """Has a cluster be as it is wanted."""

    def __init__(self, module: AnsibleModule, engine: Engine) -> None:
        params = self.params = module.params
        self.module = module
        self.engine = engine
        self.name = kind.check_name(params["name"])
        self.config = kind.check_config(params["config"], self.name)
        self.image: str | None = params["image"]
        self.actions: list[str] = []
        self.process: t.Any = None
        self._program: str | None = None
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.environ.get("HOME", "/"), ".cache")
        self.cache = os.path.join(cache, "nodeforge", "bin")

    def run(self) -> dict[str, t.Any]:
        there = kind.containers(self.engine, self.name)
        record = self._record(there)
        before = self._shown(there, record)
        differences: list[str] = []
        if self.params["state"] == "absent":
            if there:
                self._delete()
        else:
            differences = self._differences(there, record) if there else []
            if there and differences and self.params["state"] == "recreated":
                self._delete()
                there, differences = [], []
            if not there:
                self._create()
            else:
                for difference in differences:
                    self.module.warn(f"{difference}; the state recreated would make the cluster anew")
                self._start(there)
                self._access(there)
        check = self.module.check_mode
        after = kind.containers(self.engine, self.name) if not check else ([] if self.params["state"] == "absent" else there)
        result: dict[str, t.Any] = {
            "changed": bool(self.actions),
            "actions": self.actions,
            "differences": differences,
            "kubeconfig": self.params["kubeconfig"],
            "nodes": [{key: value for key, value in node._asdict().items() if key != "running"} for node in after if node.role in kind.NODE_ROLES],
        }
        if self.module._diff:
            wanted = {} if self.params["state"] == "absent" else self._wanted(before)
            result["diff"] = {"before": before, "after": wanted}
        return result

    # what is there, and what is wanted

    def _record(self, there: list[kind.Node]) -> dict[str, t.Any] | None:
        """What we noted in the cluster when we made it; None for one that was made by hand."""
        first = next((node for node in there if node.role == kind.CONTROL_PLANE), None)
        text = self.engine.read_file(first.name, RECORD) if first else None
        try:
            return json.loads(text) if text else None
        except ValueError:
            return None

    @staticmethod
    def _shown(there: list[kind.Node], record: dict[str, t.Any] | None) -> dict[str, t.Any]:
        if not there:
            return {}
        shown: dict[str, t.Any] = {"nodes": {node.name: node.image_id for node in there if node.role in kind.NODE_ROLES}}
        if record:
            shown["config"] = record.get("config")
        return shown

    def _image_id(self, reference: str | None) -> str | None:
        image = self.engine.image(reference) if reference else None
        return image["Id"] if image else None

    def _wanted(self, before: dict[str, t.Any]) -> dict[str, t.Any]:
        nodes = {}
        for name, dummy_role, reference in kind.planned(self.config, self.image):
            known = before.get("nodes", {}).get(name)
            nodes[name] = self._image_id(reference) or reference or known or "kind's own"
        wanted: dict[str, t.Any] = {"nodes": nodes}
        if not before or "config" in before:
            wanted["config"] = self.config
        return wanted

    def _differences(self, there: list[kind.Node], record: dict[str, t.Any] | None) -> list[str]:
        found = []
        nodes = {node.name: node for node in there if node.role in kind.NODE_ROLES}
        plan = kind.planned(self.config, self.image)
        if [(node.name, node.role) for node in nodes.values()] != [(name, role) for name, role, dummy in plan]:
            found.append(
                f'The cluster "{self.name}" has the nodes {", ".join(nodes) or "none"}; wanted are {", ".join(name for name, dummy, dummy2 in plan)}'
            )
        for name, dummy_role, reference in plan:
            image_id = self._image_id(reference)
            if name in nodes and image_id and nodes[name].image_id != image_id:
                found.append(f'The node "{name}" was made of another image than "{reference}" is now')
        if record and record.get("config") != self.config:
            keys = sorted(key for key in {*record["config"], *self.config} if record["config"].get(key) != self.config.get(key))
            found.append(f'The cluster "{self.name}" was made with another configuration: {", ".join(keys)}')
        if not record:
            first = next((node for node in nodes.values() if node.role == kind.CONTROL_PLANE), None)
            if first is None or self.engine.stat(first.name, kind.ADMIN_CONF) is None:
                found.append(f'The cluster "{self.name}" was left half-made')
        return found

    # acting

    def _kind(self, *arguments: str) -> tuple[int, str, str]:
        """Runs kind against the same engine; an interrupt ends it, too."""
        if self._program is None:
            path = os.pathsep.join([os.environ.get("PATH", os.defpath), self.cache])
            program: str | None = self.params["kind"] or shutil.which("kind", path=path)
            if not program or not os.access(program, os.X_OK):
                where = f'at "{program}"' if program else "on PATH"
                raise kind.BadInput(f"There is no kind {where}: install it (the role nodeforge.kind.build_host does) or name it in the option kind")
            self._program = program
        environment = {"DOCKER_HOST": self.params["docker_host"]}
        if self.params["tls"] or self.params["validate_certs"]:
            environment["DOCKER_TLS_VERIFY"] = "1" if self.params["validate_certs"] else ""
            if self.params["ca_path"]:
                environment["DOCKER_CERT_PATH"] = os.path.dirname(self.params["ca_path"])

        def started(process: t.Any) -> None:
            self.process = process

        try:
            return self.module.run_command(
                # a group of its own, as the commands that kind runs would go on without it
                ["setsid", self._program, *arguments],
                environ_update=environment,
                before_communicate_callback=started,
                handle_exceptions=False,
            )
        except OSError as e:
            raise kind.BadInput(f'The program "{self._program}" cannot be run: {e.strerror or e}; name kind in the option kind') from e
        except Interrupted:
            self._end_kind()
            raise

    def _end_kind(self) -> None:
        """Also what it has started and does not wait for: where one node fails, it ends while it makes others."""
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _with_kubeconfig(self, *arguments: str) -> list[str]:
        return [*arguments, "--name", self.name, *(["--kubeconfig", self.params["kubeconfig"]] if self.params["kubeconfig"] else [])]

    def _delete(self) -> None:
        if not self.module.check_mode:
            rc, out, err = self._kind(*self._with_kubeconfig("delete", "cluster"))
            if rc != 0 or kind.containers(self.engine, self.name):
                raise EngineError(f'The cluster "{self.name}" could not be deleted: {self._error(out, err)}')
        self.actions.append(f'Deleted the cluster "{self.name}"')

    def _told(self) -> dict[str, t.Any]:
        """The configuration, with what kubeadm has to be told of the images of nodes: they say so themselves, so it is no part of what is wanted."""
        replaced: dict[str, str] = {}
        for dummy, dummy2, reference in kind.planned(self.config, self.image):
            image = self.engine.image(reference) if reference else None
            replaced.update(told_replaced(((image or {}).get("Config") or {}).get("Labels") or {}))
        patches = kind.replaced_patches(replaced)
        # what the user says comes last
        return {**self.config, "kubeadmConfigPatches": [*patches, *(self.config.get("kubeadmConfigPatches") or [])]} if patches else self.config

    def _create(self) -> None:
        plan = kind.planned(self.config, self.image)
        began = time.monotonic()
        if not self.module.check_mode:
            # a file, as kind may end before it has read all of its input; JSON is YAML
            document = os.path.join(self.module.tmpdir, f"{self.name}.yaml")
            with open(document, "w", encoding="utf-8") as file:
                json.dump(self._told(), file)
            command = self._with_kubeconfig("create", "cluster", "--config", document, "--wait", "0s", "--retain")
            if self.image:
                command += ["--image", self.image]
            try:
                rc, out, err = self._kind(*command)
                if rc != 0:
                    self._end_kind()
                    raise EngineError(f'The cluster "{self.name}" could not be created: {self._balancer(err) or self._error(out, err)}')
                self._await_ready()
                self._note()
            except EngineError as e:
                raise self._failure(str(e)) from e
            except Interrupted as e:
                if self.params["retain"]:
                    raise EngineError(f'Interrupted by {e}: the half-made cluster "{self.name}" is retained') from e
                with deferred():
                    self._remove_all()
                raise EngineError(f'Interrupted by {e}: the half-made cluster "{self.name}" is removed') from e
        seconds = "" if self.module.check_mode else f" in {time.monotonic() - began:.1f} s"
        self.actions.append(f'Created the cluster "{self.name}" of {len(plan)} node{"s" if len(plan) > 1 else ""}{seconds}')

    def _balancer(self, err: str) -> str:
        """What to do where kind lacks the image of the load balancer, which nobody names: kind knows it by itself."""
        plan = kind.planned(self.config, self.image)
        planes = sum(role == kind.CONTROL_PLANE for dummy, role, dummy2 in plan)
        # what docker and podman say of it
        match = re.search(r"""(?:Unable to find image '|unable to copy from source docker://|failed to pull image ")([^\s'":]+:[\w.-]+)""", err)
        if planes < 2 or not match or self.engine.image(match.group(1)):
            return ""
        if match.group(1) in [reference for dummy, dummy2, reference in plan]:
            return ""
        return (
            f'{planes} control planes need a load balancer, whose image "{match.group(1)}" the engine neither has nor can pull: bring it there under '
            "that name (docker save, docker load), or wish for one control plane"
        )

    @staticmethod
    def _error(out: str, err: str) -> str:
        """What kind says about its failure, without its progress."""
        lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip() for line in (err or out).splitlines()]
        useful = [line for line in lines if line and not line.startswith(("✓", "✗", "•", "Stack Trace"))]
        for line, after in zip(useful, [*useful[1:], ""]):
            if line.startswith("ERROR: "):
                return (line[len("ERROR: ") :] + (f" {after}" if line.endswith(":") else ""))[:400]
        return (useful or ["it says nothing"])[-1][:400]

    def _await_ready(self) -> None:
        """All nodes have to be Ready: kind itself waits for control planes only, and its time-out is no failure."""
        if not self.params["wait"]:
            return
        first = next(node for node in kind.nodes(self.engine, self.name) if node.role == kind.CONTROL_PLANE)
        form = r'{range .items[*]}{.metadata.name}{range .status.conditions[?(@.type=="Ready")]}{" "}{.status}{" "}{.message}{end}{"\n"}{end}'
        command = ["kubectl", "--kubeconfig", kind.ADMIN_CONF, "--request-timeout=10s", "get", "nodes", "-o", f"jsonpath={form}"]
        expected = {name for name, dummy, dummy2 in kind.planned(self.config, self.image)}
        deadline = time.monotonic() + self.params["wait"]
        while True:
            told = self.engine.exec(first.name, command, timeout=30)
            states = {name: rest for name, dummy, rest in (line.partition(" ") for line in told.stdout.splitlines())}
            late = sorted(name for name in expected if not states.get(name, "").startswith("True"))
            if not late:
                return
            if time.monotonic() > deadline:
                said = states.get(late[0], "").partition(" ")[2] or ("it has not joined" if told.rc == 0 else told.reason)
                raise EngineError(f'The node "{late[0]}" is not Ready after {self.params["wait"]} s: {said}')
            time.sleep(0.3)

    def _note(self) -> None:
        """Leaves in the cluster what it was made of."""
        first = next(node for node in kind.nodes(self.engine, self.name) if node.role == kind.CONTROL_PLANE)
        content = json.dumps({"image": self.image, "config": self.config}, indent=1, sort_keys=True).encode()
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            member = tarfile.TarInfo(RECORD.lstrip("/"))
            member.size, member.mode, member.mtime = len(content), 0o644, int(time.time())
            archive.addfile(member, io.BytesIO(content))
        self.engine.put_archive(first.name, "/", iter([buffer.getvalue()]))

    def _start(self, there: list[kind.Node]) -> None:
        stopped = [node for node in there if not node.running]
        for node in stopped:
            if not self.module.check_mode:
                with self.engine.explained(f'Starting the node "{node.name}"'):
                    self.engine.api.start(node.name)
            self.actions.append(f'Started the node "{node.name}"')
        if stopped and not self.module.check_mode:
            self._await_ready()

    def _access(self, there: list[kind.Node]) -> None:
        """That the file given gives access to this very cluster."""
        path: str | None = self.params["kubeconfig"]
        first = next((node for node in there if node.role == kind.CONTROL_PLANE), None)
        admin = self.engine.read_file(first.name, kind.ADMIN_CONF) if path and first else None
        if not path or not admin:
            return
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except OSError:
            text = ""
        keys = re.findall(r"(?:certificate-authority|client-certificate)-data: (\S+)", admin.decode())
        if all(key in text for key in keys) and f"kind-{self.name}" in text:
            return
        if not self.module.check_mode:
            rc, out, err = self._kind(*self._with_kubeconfig("export", "kubeconfig"))
            if rc != 0:
                raise EngineError(f'The access to the cluster "{self.name}" could not be written to "{path}": {self._error(out, err)}')
        self.actions.append(f'Wrote the access to the cluster "{self.name}" to "{path}"')

    # failing

    def _failure(self, text: str) -> Failure:
        """Looks why, keeps the logs, and leaves nothing behind."""
        details: dict[str, t.Any] = {}
        there = kind.containers(self.engine, self.name)
        nodes = [node for node in there if node.role in kind.NODE_ROLES]
        with contextlib.suppress(EngineError):
            if nodes:
                node, journal = self._journal(nodes, text)
                details = {"node": node.name, "journal": journal[-40:]}
                said = kind.reason(journal)
                if said and said not in text:
                    text += f'; the node "{node.name}" says: {said}'
        if nodes:
            directory: str = self.params["logs_directory"] or tempfile.mkdtemp(prefix=f"kind-{self.name}-")
            rc, dummy_out, dummy_err = self._kind("export", "logs", directory, "--name", self.name)
            if rc == 0 or os.listdir(directory):
                details["logs"] = directory
                text += f"; all logs are in {directory}"
        if there and self.params["retain"]:
            text += "; the nodes are retained"
        else:
            # also what the engine only begins to make
            with deferred():
                self._remove_all()
        return Failure(text, **details)

    def _journal(self, nodes: list[kind.Node], text: str) -> tuple[kind.Node, list[str]]:
        """The node that is to blame, and its last words."""
        for node in nodes:
            if not node.running:
                with self.engine.explained(f'Reading the log of "{node.name}"'):
                    return node, kind.tail(self.engine.api.logs(node.name, tail=200).decode(errors="replace"), 200)
        blamed = next((node for node in nodes if f'"{node.name}"' in text or f" {node.name} " in text), None)
        if blamed is None:
            inactive = [node for node in nodes if self.engine.exec(node.name, ["systemctl", "is-active", "-q", "kubelet"], timeout=10).rc != 0]
            blamed = (inactive or nodes)[0]
        unit = "_SYSTEMD_UNIT=kubelet.service"
        told = self.engine.exec(blamed.name, ["journalctl", unit, "-n", "200", "-o", "cat", "--no-pager"], timeout=30)
        return blamed, kind.tail(told.stdout, 200)

    def _remove_all(self) -> None:
        """As kind deletes, and what the engine was still making."""
        self._kind(*self._with_kubeconfig("delete", "cluster"))
        quiet = 0
        for dummy in range(60):
            left = kind.containers(self.engine, self.name)
            for node in left:
                self.engine.remove(node.name)
            quiet = 0 if left else quiet + 1
            if quiet == 4:
                return
            time.sleep(0.5)


def main() -> None:
    """Runs the module."""
    module = AnsibleModule(
        argument_spec={
            **DOCKER_ARGS,
            "name": {"type": "str", "default": "kind"},
            "state": {"type": "str", "choices": ["present", "absent", "recreated"], "default": "present"},
            "image": {"type": "str"},
            "config": {"type": "dict", "default": {}},
            "wait": {"type": "int", "default": 180},
            "kubeconfig": {"type": "path"},
            "retain": {"type": "bool", "default": False},
            "logs_directory": {"type": "path"},
            "kind": {"type": "path"},
        },
        supports_check_mode=True,
    )
    try:
        engine = Engine(module)
        with interruptible():
            try:
                result = Keeper(module, engine).run()
            except Interrupted as e:
                module.fail_json(msg=f"Interrupted by {e}")
    except Failure as e:
        module.fail_json(msg=str(e), **e.details)
    except (EngineError, kind.BadInput) as e:
        module.fail_json(msg=str(e))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
