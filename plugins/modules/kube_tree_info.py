#!/usr/bin/python
# Copyright (c) 2026, nodeforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kube_tree_info
short_description: Tell what a build of Kubernetes would meet on this host
version_added: 1.1.0
description:
  - Looks at a source of Kubernetes and at the host before minutes are spent - what the source is, its version and git state, Go or the build
    container, the engine, disk, memory, cgroups, a foreign platform, registries - and returns one finding for each with its remedy.
  - Never fails for what it finds, and takes about a second. Nothing is changed, compiled, pulled or downloaded.
extends_documentation_fragment:
  - nodeforge.kind._attributes
  - nodeforge.kind._attributes.actiongroup_kind
  - nodeforge.kind._docker
attributes:
  check_mode:
    support: full
    details:
      - Changes nothing in any mode.
  diff_mode:
    support: N/A
    details:
      - Changes nothing, so there is nothing to compare.
  idempotent:
    support: full
    details:
      - Changes nothing. What it finds is the state of the moment.
options:
  source:
    description:
      - V(embedded) for the tree that the role P(nodeforge.kind.embedded_tree#role) lays out.
      - The path of a tree, of a directory with what was compiled, or of an archive of a release. V(tree:PATH) and V(artifacts:PATH) say which.
      - A URL, a version such as V(v1.34.4), or a marker such as V(release/stable) or V(ci/latest), for a release. It is not looked up.
    type: str
    required: true
  embedded_path:
    description: Where the embedded tree lies, or will. Only read with O(source=embedded).
    type: path
  components:
    description: Which components a directory of what was compiled has to have, as in M(nodeforge.kind.kube_artifacts). By default all that a node needs.
    type: list
    elements: str
    choices: [kubeadm, kubectl, kubelet, kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy]
    default: [kubeadm, kubectl, kubelet, kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy]
  targets:
    description: Targets of C(make) that the build is to have, as in M(nodeforge.kind.kube_make).
    type: list
    elements: str
    default: [quick-release-images]
  builder:
    description: Where other targets are to be compiled, as in M(nodeforge.kind.kube_make).
    type: str
    choices: [host, container]
    default: host
  debug:
    description: Whether the build is to have debug information.
    type: bool
    default: false
  platform:
    description: The node's platform. By default the engine's own.
    type: str
    choices: [linux/amd64, linux/arm64]
  environment:
    description: Environment variables of the build, as in M(nodeforge.kind.kube_make).
    type: dict
    default: {}
  base_image:
    description: The base image of the node, if it is not the one that the role P(nodeforge.kind.supplies#role) makes.
    type: str
    default: ""
  directories:
    description: Directories in which the build keeps things, such as caches. Space is looked for where they lie or will lie.
    type: list
    elements: path
    default: []
  registries:
    description:
      - Registries that have to be reached, such as V(registry.k8s.io) or V(http://127.0.0.1:5000). Asked at once, for a second each.
    type: list
    elements: str
    default: []
  offline:
    description: The network is not to be used. Registries are not asked then, and a Go or an image that the build would have to fetch is a V(stop).
    type: bool
    default: false
  timeout:
    description: How many seconds the engine, git or another program may take for one answer. One that takes longer is a V(warning).
    type: int
    default: 5
requirements:
  - "Docker SDK for Python (C(docker)) 5.0.0 or newer; where it lacks, that is a finding"
seealso:
  - module: nodeforge.kind.kube_make
author:
  - nodeforge contributors (@nodeforge)
"""

EXAMPLES = r"""
- name: Look before a long build
  nodeforge.kind.kube_tree_info:
    source: ~/go/src/k8s.io/kubernetes
    registries: [registry.k8s.io, docker.io]
  register: preflight

- name: Show it
  ansible.builtin.debug:
    var: preflight.table

- name: Do not begin what cannot end well
  ansible.builtin.fail:
    msg: "{{ preflight.findings | selectattr('level', 'eq', 'stop') | map(attribute='remedy') | join(', ') }}"
  when: preflight.level == 'stop'
"""

RETURN = r"""
findings:
  description: What was found, in the order in which a build would meet it.
  returned: success
  type: list
  elements: dict
  contains:
    topic:
      description: What it is about.
      type: str
      sample: go
    value:
      description: What there is.
      type: str
      sample: go1.26.8, but the tree takes its own 1.26.10
    level:
      description: V(ok), V(warning) when it may go wrong or take long, V(stop) when the build cannot succeed.
      type: str
      sample: warning
    remedy:
      description: What to do about it. Empty with V(ok).
      type: str
      sample: the build downloads Go 1.26.10; where it cannot, use builder=container
table:
  description: The findings as lines of text.
  returned: success
  type: list
  elements: str
  sample: ["ok       kubernetes  checkout /src/kubernetes, v1.37.2"]
level:
  description: The worst level of all findings.
  returned: success
  type: str
  sample: ok
kind:
  description: What the source is, V(embedded), V(checkout), V(artifacts) or V(release). Empty when it is none of them.
  returned: success
  type: str
  sample: checkout
version:
  description: The version that the source says it has. Empty where that cannot be known yet.
  returned: success
  type: str
  sample: v1.37.2
"""

import os
import platform as host_platform
import threading
import time
import typing as t
import urllib.error

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nodeforge.kind.plugins.module_utils import _artifacts, _docker, _preflight, _registry, _tree
from ansible_collections.nodeforge.kind.plugins.module_utils._preflight import GB, Finding
from ansible_collections.nodeforge.kind.plugins.module_utils._signals import deferred
from ansible_collections.nodeforge.kind.plugins.module_utils._tree import TreeError
from ansible_collections.nodeforge.kind.plugins.module_utils._tree_host import SilentError, TreeHost

REGISTRY_PATIENCE = 1.0
BINFMT = "/proc/sys/fs/binfmt_misc"


class Registries:
    """Asks all of them at once; a thread that hangs, for example in the resolver, is not waited for."""

    def __init__(self, names: list[str]) -> None:
        self.names = list(dict.fromkeys(names))
        self.found: dict[str, Finding] = {}
        self.began = time.monotonic()
        self.threads = [threading.Thread(target=self._ask, args=(name,), daemon=True) for name in self.names]
        with deferred():
            for thread in self.threads:
                thread.start()

    def _ask(self, name: str) -> None:
        status: int | None = None
        error = ""
        try:
            url = _preflight.registry_url(name)
            status = _registry._open(url, None, method="HEAD", timeout=REGISTRY_PATIENCE).status
        except TreeError as e:
            self.found[name] = _preflight.from_error(f"registry {name}", e)
            return
        except urllib.error.HTTPError as e:
            status = e.code
        # whatever it is, the thread's end must not be silent
        except Exception as e:  # pylint: disable=broad-exception-caught
            error = f"cannot be reached ({getattr(e, 'reason', None) or e})"
        self.found[name] = _preflight.registry_finding(name, status, error)

    def findings(self) -> list[Finding]:
        for thread in self.threads:
            thread.join(max(0.0, self.began + REGISTRY_PATIENCE + 0.2 - time.monotonic()))
        silent = f"gives no answer in {REGISTRY_PATIENCE:.0f} s"
        return [self.found.get(name) or _preflight.registry_finding(name, None, silent) for name in self.names]


def _late(error: BaseException | None) -> bool:
    """Whether the engine was there, but gave no answer in time."""
    while error is not None and not isinstance(error, _docker.requests.exceptions.ReadTimeout):
        error = error.__cause__ or error.__context__
    return error is not None


class Preflight:
    """Gathers values; what they mean is decided in _preflight."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.findings: list[Finding] = []
        self.engine: _docker.Engine | None = None
        self.info: dict[str, t.Any] = {}
        self.kind = self.version = self.place = ""
        self.features = _tree.Features()
        self.machine = f"linux/{_tree.MACHINES.get(host_platform.machine().lower(), 'amd64')}"
        self.local = self.params["docker_host"].startswith("unix:")

    def add(self, topic: str, value: str, level: str = "ok", remedy: str = "") -> None:
        self.findings.append(Finding(topic, value, level, remedy))

    def run(self) -> dict[str, t.Any]:
        registries = Registries([] if self.params["offline"] else self.params["registries"])
        environment = _tree.check_variables(self.params["environment"], "environment")
        # asked first, as much depends on it, but reported in its turn
        engine = self._engine()
        platform = self.params["platform"] or (self._engine_platform() if self.engine else self.machine)
        self._source(environment, platform)
        self.findings += engine
        if self.engine is not None:
            self._node(platform)
        self._disk()
        self._memory()
        if self.params["offline"] and self.params["registries"]:
            self.add("registries", "not asked, as offline is true")
        self.findings += registries.findings()
        return {
            "changed": False,
            "findings": [finding._asdict() for finding in self.findings],
            "table": _preflight.table(self.findings),
            "level": _preflight.worst(self.findings),
            "kind": self.kind,
            "version": self.version,
        }

    # -- the source -----------------------------------------------------------------------------------------------------

    def _error(self, topic: str, error: TreeError) -> None:
        self.findings.append(_preflight.from_error(topic, error, "warning" if isinstance(error, SilentError) else "stop"))

    def _source(self, environment: dict[str, str], platform: str) -> None:
        try:
            components = _artifacts.check_components(self.params["components"])
            self.kind, self.place, self.version, parts = _preflight.classify(
                self.params["source"], self.params["embedded_path"] or "", platform, components
            )
            if self.kind == "release":
                size = f", {os.path.getsize(self.place) / GB:.1f} GB" if os.path.isfile(self.place) else ""
                self.add("kubernetes", f"release {self.place}{size}; nothing is compiled")
            elif self.kind == "artifacts":
                self.add("kubernetes", f"artifacts {self.place} ({', '.join(parts)}); nothing is compiled")
            elif self.kind == "embedded" and not os.path.isdir(self.place):
                self.add("kubernetes", f"embedded{f' {self.place}' if self.place else ''}, which the first build lays out")
            else:
                self._tree(environment, platform)
        except TreeError as e:
            self._error("kubernetes", e)

    def _tree(self, environment: dict[str, str], platform: str) -> None:
        makefile = _tree.check_tree(self.place)
        host = TreeHost(self.module, self.place, environment, patience=self.params["timeout"])
        self.features = _tree.read_features(self.place)
        lines: dict[str, str] = {}
        try:
            lines = host.version_lines()
            self.version = lines["gitVersion"]
            self.add("kubernetes", f"{self.kind} {self.place}, {self.version}")
        except TreeError as e:
            self.add("kubernetes", f"{self.kind} {self.place}")
            self._error("version", e)
        dot_git = os.path.join(self.place, ".git")
        git = host.find("git")
        if lines:
            try:
                shallow = bool(git and os.path.exists(dot_git) and host.is_shallow(git))
                foreign = os.stat(self.place).st_uid != os.geteuid()
                self.findings.append(_preflight.git_finding(lines, os.path.exists(dot_git), os.path.isfile(dot_git), shallow, foreign))
            except TreeError as e:
                self._error("git", e)
        targets = self.params["targets"]
        try:
            _tree.check_targets(self.place, targets, makefile)
            _tree.check_features(self.place, self.features, targets, self.params["builder"], self.params["debug"])
        except TreeError as e:
            self._error("targets", e)
            return
        missing = [name for name in ("make", "bash", "git", "tar", "timeout") if host.find(name) is None]
        if missing:
            self.add("tools", f"no {', no '.join(missing)}", "stop", "install what lacks, or run the role nodeforge.kind.build_host")
        request = _tree.Request(self.place, targets, [], platform, builder=self.params["builder"], features=self.features)
        try:
            if request.uses_engine:
                host.check_container_build(self.features, request.images)
                needs = {"rsync": self.features.builder_image, "buildx": self.features.needs_buildx(request.images)}
                self.add("tools", ", ".join(["docker", *(name for name, needed in needs.items() if needed)]))
                self._builder(host)
            else:
                self.findings.append(_preflight.go_finding(*host.go_decision(self.features, {}), self.params["offline"]))
        except TreeError as e:
            self._error("builder" if request.uses_engine else "go", e)

    def _builder(self, host: TreeHost) -> None:
        """The image that Kubernetes' own build container is, or is made from."""
        try:
            with open(os.path.join(self.place, "build/build-image/cross/VERSION"), encoding="utf-8") as file:
                tag = host.setting("KUBE_CROSS_VERSION") or file.read(200).strip()
        except OSError:
            self.add("builder", "the tree's own build container")
            return
        registry = host.setting("KUBE_BASE_IMAGE_REGISTRY") or "registry.k8s.io/build-image"
        reference = f"{host.setting('KUBE_CROSS_IMAGE') or registry + '/kube-cross'}:{tag}"
        try:
            present = self.engine is not None and self.engine.image(reference) is not None
        except _docker.EngineError as e:
            self.findings.append(_preflight.from_error("builder", e))
            return
        self.findings.append(_preflight.builder_finding(reference, present, self.params["offline"]))

    # -- the machine ----------------------------------------------------------------------------------------------------

    def _engine(self) -> list[Finding]:
        if not _docker.HAS_DOCKER:
            remedy = "install it for the Python that Ansible uses here (python3-docker, or pip install docker)"
            return [Finding("engine", "the Docker SDK for Python is not installed", "stop", remedy)]
        try:
            self.engine = _docker.Engine(self.module)
            with self.engine.explained("Asking the engine what it is"):
                self.info = self.engine.api.info()
        except _docker.EngineError as e:
            # its sentences have a colon before the remedy where they have no semicolon
            value, dummy, remedy = str(e).partition("; " if "; " in str(e) else ": ")
            self.engine = None
            return [Finding("engine", value, "warning" if _late(e) else "stop", remedy or "start it, or set docker_host")]
        driver = self.info.get("Driver", "unknown")
        return [Finding("engine", f"Docker {self.engine.version}, API {self.engine.api.api_version}, {driver}, at {self.engine.host}")]

    def _engine_platform(self) -> str:
        found = self.engine.platform if self.engine else ""
        return found if found in _tree.PLATFORMS else self.machine

    def _node(self, platform: str) -> None:
        refuses = self.features.fails_cgroup_v1 or _preflight.refuses_cgroup_v1(self.version)
        self.findings.append(_preflight.cgroup_finding(str(self.info.get("CgroupVersion", "")), refuses, self._foreign_base()))
        registered: dict[str, str] = {}
        try:
            for name in os.listdir(BINFMT):
                if name.startswith("qemu-"):
                    with open(os.path.join(BINFMT, name), encoding="utf-8", errors="replace") as file:
                        registered[name] = file.read(200)
        except OSError:
            pass
        emulated = _preflight.is_emulated(registered, platform) if self.local else None
        compiles = self.kind in ("embedded", "checkout")
        self.findings.append(_preflight.platform_finding(platform, self._engine_platform(), compiles, emulated))

    def _foreign_base(self) -> str:
        name = self.params["base_image"]
        try:
            image = self.engine.image(name) if name and self.engine else None
        except _docker.EngineError:
            image = None
        labels = ((image or {}).get("Config") or {}).get("Labels") or {}
        return "" if "io.nodeforge.fingerprint" in labels else name

    def _disk(self) -> None:
        places: dict[str, float] = {}
        if self.place and os.path.isabs(self.place):
            places[self.place] = _preflight.DISK_TREE[self.kind]
        for path in self.params["directories"]:
            places.setdefault(os.path.abspath(path), _preflight.DISK_CACHE)
        if self.local and self.info.get("DockerRootDir"):
            places.setdefault(self.info["DockerRootDir"], _preflight.DISK_ENGINE)
        free: dict[str, tuple[int, float]] = {}
        for path in places:
            existing = path
            while not os.path.exists(existing):
                existing = os.path.dirname(existing)
            try:
                system = os.statvfs(existing)
                free[path] = (os.stat(existing).st_dev, system.f_bavail * system.f_frsize / GB)
            except OSError as e:
                self.add("disk", f"{path} cannot be looked at ({e.strerror})", "warning", "make it readable, or name another directory")
        self.findings += _preflight.disk_findings(places, free)

    def _memory(self) -> None:
        try:
            with open("/proc/meminfo", encoding="ascii") as file:
                values = dict(line.split(":", 1) for line in file)
            available = int(values["MemAvailable"].split()[0]) * 1024 / GB
        except (OSError, KeyError, ValueError):
            self.add("memory", "unknown")
            return
        if self.kind:
            self.findings.append(_preflight.memory_finding(self.kind, available))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_docker.DOCKER_ARGS,
            "source": {"type": "str", "required": True},
            "embedded_path": {"type": "path"},
            "components": {"type": "list", "elements": "str", "choices": list(_artifacts.COMPONENTS), "default": list(_artifacts.COMPONENTS)},
            "targets": {"type": "list", "elements": "str", "default": ["quick-release-images"]},
            "builder": {"type": "str", "choices": ["host", "container"], "default": "host"},
            "debug": {"type": "bool", "default": False},
            "platform": {"type": "str", "choices": ["linux/amd64", "linux/arm64"]},
            "environment": {"type": "dict", "default": {}},
            "base_image": {"type": "str", "default": ""},
            "directories": {"type": "list", "elements": "path", "default": []},
            "registries": {"type": "list", "elements": "str", "default": []},
            "offline": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 5},
        },
        supports_check_mode=True,
    )
    if module.params["timeout"] < 1:
        module.fail_json(msg="timeout must be at least 1 second.")
    try:
        module.exit_json(**Preflight(module).run())
    except TreeError as e:
        module.fail_json(msg=str(e))


if __name__ == "__main__":
    main()
