#!/usr/bin/python
# Copyright (c) 2026, nodeforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kube_make
short_description: Compile Kubernetes from a source tree
version_added: 1.0.0
description:
  - Runs C(make) in a Kubernetes source tree, on the host or in the tree's own build container, and returns what it made,
    binaries and image archives, each with its path, size and checksum.
  - A stamp beside the outputs remembers the sources, parameters and toolchain that made them. As long as all of them are the same
    and the outputs are untouched, C(make) is not run at all.
  - A build whose connection breaks, or whose C(ansible-playbook) is killed, goes on on its host. The next run with the same tree and options waits for
    it, shows its log and takes what it made, also as a change. A build with other options waits for its end. An interrupt (SIGINT or SIGTERM of
    C(ansible-playbook)) or a limit of the task ends the build, and so do a broken connection or the end of Ansible where nothing is shown (O(progress)).
extends_documentation_fragment:
  - nodeforge.kind._attributes
  - nodeforge.kind._attributes.actiongroup_kind
attributes:
  check_mode:
    support: full
    details:
      - Says whether C(make) would run, and why. A build that would run is reported as a change, because only the compiler knows whether
        other sources give other outputs; a touched file of a tree without git, or a new comment, can turn out not to.
  diff_mode:
    support: full
    details:
      - Shows the version and the checksum of each output. In check mode those that would be built again are V(unknown).
  idempotent:
    support: full
    details:
      - With O(rebuild=always) C(make) always runs, and the result is a change only when an output's content changed.
      - A tree's files must decide its outputs. Name other files that do in O(inputs), such as those that git ignores.
options:
  tree:
    description:
      - The root of the Kubernetes source tree, or of a tree that has its layout.
    type: path
    required: true
  targets:
    description:
      - Targets of the tree's C(Makefile).
      - V(quick-release-images) and V(release-images) make image archives of the control plane and the components of O(what). They
        cannot be mixed with others, because the binaries lie elsewhere.
      - Kubernetes' scripts delete the image archives of all platforms when they make those of one; the module keeps the others.
    type: list
    elements: str
    default: [all]
  what:
    description:
      - Components to build, for example V(cmd/kubelet). V(kubelet), V(./cmd/kubelet) and V(k8s.io/kubernetes/cmd/kubelet) are the same.
      - Given to C(make) as C(WHAT), or as C(KUBE_EXTRA_WHAT) for image targets.
      - Empty builds all that the tree has, which takes hours with a full checkout of Kubernetes.
    type: list
    elements: str
    default: []
  debug:
    description:
      - Build without optimisation and with debug information (C(DBG=1)), as a debugger needs it.
      - For V(quick-release-images) of trees that do not pass this on to their images (before Kubernetes 1.26) the binaries are compiled
        and made to images in two steps.
      - Fails when the tree cannot do so for the target, rather than leaving stripped binaries.
    type: bool
    default: false
  platform:
    description:
      - Platform to build for. The default is that of the host which runs the module.
      - Known are V(linux/amd64) and V(linux/arm64).
    type: str
  builder:
    description:
      - Where to compile. V(host) uses the host's Go, V(container) the tree's own build container (C(build/run.sh make)).
      - Image targets choose their own builder; for them this option means nothing.
      - On the host Kubernetes compiles with the Go of its file C(.go-version), which it downloads where the host has another one.
        The module says so in a warning. C(FORCE_HOST_GO=y) in O(environment) makes it take the host's own.
      - On the host a kubelet is linked statically (C(KUBE_STATIC_OVERRIDES=kubelet)) where the tree knows how to, so that it runs in
        nodes with an older C library; name the variable in O(params) to have it otherwise.
    type: str
    choices: [host, container]
    default: host
  params:
    description:
      - More make variables, such as C(KUBE_STATIC_OVERRIDES) or C(GOFLAGS). Given as arguments to C(make), so visible in the process list and
        in RV(cmd); put secrets into O(environment).
      - Variables that an option decides (C(WHAT), C(KUBE_EXTRA_WHAT), C(DBG), C(KUBE_BUILD_PLATFORMS)) are refused.
    type: dict
    default: {}
  environment:
    description:
      - Environment variables for C(make), such as proxies or C(KUBE_GIT_VERSION_FILE). Only a checksum of them is stored, and a change
        of one makes C(make) run again.
      - Values of names with C(TOKEN), C(PASSWORD), C(SECRET) and the like, and addresses with a password in them, are hidden in all
        that the module returns.
      - With O(builder=container) they reach C(build/run.sh), which decides what goes into the container.
    type: dict
    default: {}
  inputs:
    description:
      - Files outside the sources, or ignored by git, whose content decides the outputs too, for example a base image of the tree's images.
    type: list
    elements: path
    default: []
  image_tool:
    description:
      - The program C(nodeforge-image), which the role P(nodeforge.kind.supplies#role) makes (C(tasks_from=tools)). With it, the images of the control
        plane's components that are compiled are written from their programs, in seconds, by no engine and without C(buildx).
      - Such an image has nothing but the program, that of kube-proxy also O(kube_proxy_base); V(quick-release-images) of Kubernetes itself takes bases
        from a registry.
      - For targets that make no images of their own.
    type: path
    version_added: 1.1.0
  kube_proxy_base:
    description:
      - The root file system with iptables and nft below kube-proxy's program in its image, a tar archive for the platform. The same tasks make one.
    type: path
    version_added: 1.1.0
  rebuild:
    description:
      - V(auto) runs C(make) only when something changed since the stamp was written, V(always) in any case.
    type: str
    choices: [auto, always]
    default: auto
  log_path:
    description:
      - File for all that C(make) says; overwritten by each run. The default is a file below C(_output/nodeforge) in the tree.
    type: path
  tail:
    description:
      - How many of the log's last lines to return.
    type: int
    default: 20
  timeout:
    description:
      - Seconds after which C(make) and all that it started are ended. Waiting for another build of the same tree counts.
    type: int
    default: 7200
  progress:
    description:
      - What to show on standard error while C(make) runs. V(summary) is a line every 15 seconds with the time gone and the log's
        last line, V(lines) is the log itself, as it grows, V(none) is nothing.
      - Only seen with the collection's action plugin, so not in check mode nor in a task that uses C(async).
      - Where nothing is shown, the build is bound to the connection.
    type: str
    choices: [none, summary, lines]
    default: summary
requirements:
  - C(make), C(timeout) and whatever the tree needs, at least C(bash) and C(git)
  - Go, with O(builder=host)
  - the C(docker) command and its engine on the same host, with O(builder=container) and for the image targets of Kubernetes itself;
    C(buildx) and C(rsync) where the tree uses them
seealso:
  - module: nodeforge.kind.kind_node_prepare
  - module: community.general.make
author:
  - nodeforge contributors (@nodeforge)
"""

EXAMPLES = r"""
- name: Compile the kubelet
  nodeforge.kind.kube_make:
    tree: ~/go/src/k8s.io/kubernetes
    what: [cmd/kubelet]

- name: Compile a kubelet for a debugger, for arm64, in the tree's build container
  nodeforge.kind.kube_make:
    tree: ~/go/src/k8s.io/kubernetes
    what: [cmd/kubelet]
    debug: true
    platform: linux/arm64
    builder: container

- name: Make all that a kind node image needs
  nodeforge.kind.kube_make:
    tree: ~/go/src/k8s.io/kubernetes
    targets: [quick-release-images]
    what: [cmd/kubeadm, cmd/kubectl, cmd/kubelet]
    timeout: 10800
  register: build

- name: Compile the scheduler and write its image without the tree's own image build
  nodeforge.kind.kube_make:
    tree: ~/go/src/k8s.io/kubernetes
    what: [cmd/kube-scheduler]
    image_tool: ~/.cache/nodeforge/bin/nodeforge-image

- name: Tell what was made
  ansible.builtin.debug:
    msg: "{{ build.version }}: {{ build.outputs.binaries.kubelet.path }} and {{ build.outputs.images | length }} images"
"""

RETURN = r"""
outputs:
  description: What there is now. In check mode, what there was before.
  returned: success
  type: dict
  contains:
    binaries:
      description: The components of O(what), or all that were built, by name.
      type: dict
      sample:
        kubelet:
          path: /src/kubernetes/_output/local/bin/linux/amd64/kubelet
          sha256: 0b2c1f6b0bd0a0a1c1f0c9f6f5a3c8d1b8e5f4b1f6f8f7a1d0c9b8a7968574ab
          size: 61247672
          debug: false
          static: true
    images:
      description: The image archives by name, with the reference that each archive holds. Empty unless the target or O(image_tool) makes images.
      type: dict
      sample:
        kube-proxy:
          path: /src/kubernetes/_output/release-images/amd64/kube-proxy.tar
          sha256: 5d1c1f6b0bd0a0a1c1f0c9f6f5a3c8d1b8e5f4b1f6f8f7a1d0c9b8a7968574ab
          size: 84021760
          ref: registry.k8s.io/kube-proxy-amd64:v1.37.2
version:
  description: The tree's version as its own C(hack/print-workspace-status.sh) tells it (C(gitVersion)).
  returned: success
  type: str
  sample: v1.37.2-dirty
platform:
  description: The platform that was built for.
  returned: success
  type: str
  sample: linux/amd64
fingerprint:
  description: Checksum of the sources, the same as long as they are.
  returned: success
  type: str
  sample: 8e5f4b1f6f8f7a1d0c9b8a7968574ab0b2c1f6b0bd0a0a1c1f0c9f6f5a3c8d1b
cmd:
  description: The command that was run, would be run, or was not needed.
  returned: always, once the options are found good
  type: list
  elements: str
  sample: [make, -C, /src/kubernetes, all, WHAT=cmd/kubelet, KUBE_BUILD_PLATFORMS=linux/amd64]
rc:
  description: Exit status of C(make).
  returned: when it was run
  type: int
  sample: 0
seconds:
  description: How long C(make) took; 0 when it was not run.
  returned: success
  type: float
  sample: 12.4
log_path:
  description: The log of C(make), of this run or the last one; none when there is no log.
  returned: always, once the options are found good
  type: str
  sample: /src/kubernetes/_output/nodeforge/3f786850e387.log
tail:
  description: The last lines of the log.
  returned: when it was run
  type: list
  elements: str
  sample: ["+++ [1124 07:35:00] Building go targets for linux/amd64"]
diff:
  description:
    - The version and the checksum of each output by path, before and after. In check mode what would be built again is V(unknown).
  returned: success
  type: dict
  sample:
    before: {version: v1.37.2, outputs: {/src/kubernetes/_output/local/bin/linux/amd64/kubelet: 0b2c1f6b0bd0}}
    after: {version: v1.37.2-dirty, outputs: {/src/kubernetes/_output/local/bin/linux/amd64/kubelet: 5d1c1f6b0bd0}}
actions:
  description: What was done, or would be done in check mode, in sentences.
  returned: success
  type: list
  elements: str
  sample: ["Ran make all, because the sources changed", "kubelet changed"]
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform as host_platform
import pwd
import shutil
import signal
import socket
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nodeforge.kind.plugins.module_utils import _alive, _tree
from ansible_collections.nodeforge.kind.plugins.module_utils._tree import TreeError
from ansible_collections.nodeforge.kind.plugins.module_utils._tree_host import TreeHost

# Constant text: everything variable comes as an argument of the shell, so nothing needs quoting.
REDIRECT = f'unset {_tree.UNSET}; log=$1; shift; exec "$@" </dev/null >"$log" 2>&1'
GO_SETTINGS = ("GOVERSION", "GOFLAGS", "GOEXPERIMENT", "GOTOOLCHAIN", "CGO_ENABLED", "GOAMD64", "GOARM64")
# Where kubeadm's manifests expect a component's program to be found.
IMAGE_PATH = "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
SECRET_NAMES = ("TOKEN", "PASSWORD", "PASSWD", "SECRET", "CREDENTIAL", "_KEY", "APIKEY")
KILL_AFTER = 10
# How often a running build looks whether somebody still waits for it.
WATCH_EVERY = 5


class KubeMake:
    """One build: first what has to be done, then doing it, then what there is."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.started = time.monotonic()
        params = module.params
        tree = os.path.abspath(params["tree"])
        makefile = _tree.check_tree(tree)
        targets = list(dict.fromkeys(params["targets"]))
        _tree.check_targets(tree, targets, makefile)
        self.features = _tree.read_features(tree)
        self.request = _tree.Request(
            tree=tree,
            targets=targets,
            platform=_tree.parse_platform(params["platform"], host_platform.machine()),
            what=_tree.normalise_what(tree, params["what"]),
            debug=params["debug"],
            builder=params["builder"],
            params=_tree.check_variables(params["params"], "params"),
            features=self.features,
            image_tool=params["image_tool"] and os.path.abspath(params["image_tool"]),
        )
        self.proxy_base = params["kube_proxy_base"] and os.path.abspath(params["kube_proxy_base"])
        self._check_image_tool()
        self.given_environment = _tree.check_variables(params["environment"], "environment")
        self._hide_secrets()
        _tree.check_features(tree, self.features, targets, self.request.builder, self.request.debug)
        if params["timeout"] < 1:
            raise TreeError("timeout must be at least 1 second.")
        self.stamp_path = os.path.join(self.request.state_directory, f"{self.request.key}.json")
        self.log_path = params["log_path"] or os.path.join(self.request.state_directory, f"{self.request.key}.log")
        if params["log_path"] and not os.path.isdir(os.path.dirname(os.path.abspath(self.log_path))):
            raise TreeError(f'The directory of the log_path "{self.log_path}" does not exist; create it first.')
        self.host = TreeHost(module, tree, self.given_environment)
        self.make = self.host.program("make", f'to build the tree "{tree}"')
        self.timeout_program = self.host.program("timeout", "to end a build that takes too long")
        self.result: dict[str, t.Any] = {"changed": False, "actions": [], "platform": self.request.platform}
        self.result["cmd"] = self.request.command(self.make)
        self.version_lines: dict[str, str] = {}
        self.process: t.Any = None
        self.ended_by = ""
        # of each image that is written from a program: what it was written from
        self.image_keys: dict[str, str] = {}
        # the outputs by path as the last build left them, before another one that was waited for; None where none was
        self.earlier: dict[str, str] | None = None

    # -- surroundings -------------------------------------------------------------------------------------------------

    def _hide_secrets(self) -> None:
        """Ansible shows a module's arguments with -vvv; values that are secret by their name or form must not be among them."""
        for name, value in self.given_environment.items():
            secret = any(part in name.upper() for part in SECRET_NAMES) or ("://" in value and "@" in value)
            if secret and len(value) >= 6:
                self.module.no_log_values.add(value)

    def _check_image_tool(self) -> None:
        tool, base = self.request.image_tool, self.proxy_base
        if not tool:
            return
        if self.request.images:
            raise TreeError("image_tool writes images from programs, and the target makes images, too: leave one of both out.")
        remedy = "tasks_from=tools of the role nodeforge.kind.supplies makes it"
        if not base and (not self.request.what or "kube-proxy" in self.request.binary_names):
            raise TreeError(f"kube_proxy_base is missing, for kube-proxy's image needs iptables: {remedy}.")
        for option, path, mode in (("image_tool", tool, os.X_OK), ("kube_proxy_base", base, os.R_OK)):
            # check mode may run before what makes it
            if path and not (os.path.isfile(path) and os.access(path, mode)) and not (self.module.check_mode and not os.path.lexists(path)):
                raise TreeError(f'The {option} "{path}" is no {"program" if mode == os.X_OK else "readable file"} on this host: {remedy}.')

    # -- what has to be done --------------------------------------------------------------------------------------------

    def _toolchain(self) -> dict[str, str]:
        """What compiles, apart from what the tree itself says. A build container's image is named by the tree's files."""
        if self.request.uses_engine:
            return {"builder": "container"}
        go = self.host.find("go")
        if go is None:
            if self.request.images:
                return {"builder": "the tree's own"}
            raise TreeError(
                "This host has no Go, which is needed to compile; install it, add its directory to PATH in environment, or use builder=container."
            )
        # outside the tree, so that Go does not download the toolchain that the tree's go.mod wishes for
        rc, out, err = self.host.run([go, "env", *GO_SETTINGS], cwd="/")
        if rc != 0:
            raise TreeError(
                f"{go} does not work ({err.decode('utf-8', 'replace').strip()[:200]}); repair the installation of Go."
            )
        return dict(zip(GO_SETTINGS, out.decode().splitlines()))

    def _check_builder(self) -> None:
        """What would end the build only after a while, or make it do something unexpected."""
        request = self.request
        if request.uses_engine:
            self.host.check_container_build(self.features, request.images)
        elif not request.images:
            level, value, remedy = self.host.go_decision(self.features, request.params)
            if level == "stop":
                raise TreeError(f'The tree "{request.tree}" cannot be compiled by this host\'s Go ({value}); {remedy}.')
            if level == "warning":
                self.module.warn(f"Go: {value}; {remedy}.")

    def _fingerprint(self) -> str:
        tree = self.request.tree
        git = self.host.find("git") if os.path.exists(os.path.join(tree, ".git")) else None
        return _tree.git_fingerprint(tree, git, self.host.run, self.hashes) if git else _tree.walk_fingerprint(tree)

    def _wanted(self) -> dict[str, t.Any]:
        """All that decides the outputs' content."""
        request = self.request
        fingerprint = self._fingerprint()
        environment = json.dumps(self.given_environment, sort_keys=True).encode()
        self.version_lines = self.host.version_lines()
        return {
            "fingerprint": fingerprint,
            "version": self.version_lines["gitVersion"],
            "toolchain": self._toolchain(),
            "inputs": self._inputs(),
            "parameters": {**request.variables(), "environment": hashlib.sha256(environment).hexdigest()},
        }

    def _inputs(self) -> dict[str, str]:
        own = [path for path in (self.request.image_tool, self.proxy_base) if self.request.image_tool and path]
        there = [path for path in own if os.path.exists(path)]
        return {**dict.fromkeys(own, "missing"), **_tree.inputs_digest([*self.module.params["inputs"], *there], self.hashes)}

    def _known_hashes(self) -> dict[str, t.Any]:
        known: dict[str, t.Any] = {}
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(self.request.state_directory)):
                if name.endswith(".json"):
                    known.update(
                        (_tree.read_stamp(os.path.join(self.request.state_directory, name)) or {}).get("hashes", {})
                    )
        return known

    def _digests(self) -> dict[str, str | None]:
        """sha256 of each output that there is, or that the stamp says there was, by path."""
        paths = {*self.request.found_binaries().values(), *self.request.found_images().values()}
        for outputs in (self.stamp or {}).get("outputs", {}).values():
            paths.update(output["path"] for output in outputs.values())
        digests: dict[str, str | None] = {}
        for path in sorted(paths):
            try:
                digests[path] = self.hashes.sha256(path)
            except FileNotFoundError:
                digests[path] = None
            except OSError as e:
                raise TreeError(
                    f'The output "{path}" cannot be read ({e.strerror}); delete it or become its owner.'
                ) from e
        return digests

    # -- doing it -----------------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, t.Any]:
        with contextlib.ExitStack() as stack:
            if not self.module.check_mode:
                stack.enter_context(self._lock())
                stack.enter_context(self._signals())
            self.stamp = _tree.read_stamp(self.stamp_path)
            self.hashes = _tree.HashCache(self._known_hashes())
            wanted = self._wanted()
            before = self._digests()
            reasons = _tree.reasons_to_build(self.stamp, wanted, before)
            if not reasons and self.module.params["rebuild"] == "always":
                reasons = ["rebuild is always"]
            self.result.update(version=wanted["version"], fingerprint=wanted["fingerprint"], seconds=0.0)
            if reasons:
                self._build(wanted, reasons, before)
            else:
                self.result["outputs"] = self.stamp["outputs"] if self.stamp else {}
                # what was there when this began, not when the other build was done
                earlier = before if self.earlier is None else {path: self.earlier.get(path) for path in before}
                self._tell_changes(earlier, before)
                self._diff(earlier, before, wanted["version"])
            self.result["log_path"] = self.log_path if os.path.exists(self.log_path) else None
        return self.result

    def _build(self, wanted: dict[str, t.Any], reasons: list[str], before: dict[str, str | None]) -> None:
        because = " and ".join(reasons[:3]) + (f" and {len(reasons) - 3} more" if len(reasons) > 3 else "")
        command = f"make {' '.join(self.request.targets)} for {self.request.platform}"
        self._check_builder()
        if self.module.check_mode:
            self.result["changed"] = True
            self.result["actions"].append(f"Would run {command}, because {because}")
            self.result["outputs"] = self._outputs(strict=False)
            self._diff(before, None, wanted["version"])
            return
        self._make()
        self._write_images(wanted, before)
        outputs = self._outputs(strict=True)
        after = {output["path"]: output["sha256"] for kind in outputs.values() for output in kind.values()}
        self.result["outputs"] = outputs
        self.result["actions"].append(f"Ran {command}, because {because}")
        kubelet = outputs["binaries"].get("kubelet")
        if kubelet and not kubelet["static"] and not (self.request.in_container or self.request.images):
            self.module.warn(
                f"{kubelet['path']} needs the C library of this host, and a node may have an older one; where the tree knows it, set "
                "KUBE_STATIC_OVERRIDES=kubelet in params, else use builder=container."
            )
        self._tell_changes(before, after)
        self._diff(before, after, wanted["version"])
        if self._fingerprint() != wanted["fingerprint"]:
            self.module.warn(f'The sources in "{self.request.tree}" changed while they were compiled; run it again.')
            # no sources are known to give these outputs
            wanted = {**wanted, "fingerprint": ""}
        self._write_stamp({"format": _tree.STAMP_FORMAT, **wanted, "outputs": outputs, "images": self.image_keys, "hashes": self.hashes.used})

    def _tell_changes(self, before: dict[str, str | None], after: dict[str, str | None]) -> None:
        for path in sorted({*before, *after}):
            if before.get(path) != after.get(path):
                self.result["changed"] = True
                self.result["actions"].append(f"{path} {'changed' if path in after else 'is gone'}")

    def _write_images(self, wanted: dict[str, t.Any], before: dict[str, str | None]) -> None:
        """The images of the control plane's programs, each a layer with the program; one whose ingredients are the same is left alone."""
        request, stamp = self.request, self.stamp or {}
        programs = request.found_binaries()
        epoch = request.params.get("SOURCE_DATE_EPOCH") or self.host.setting("SOURCE_DATE_EPOCH")
        for name in request.image_names(programs) if request.image_tool else []:
            path = os.path.join(request.image_directory, f"{name}.tar")
            ref = f"registry.k8s.io/{name}-{request.arch}:{wanted['version'].replace('+', '_')}"
            base = self.proxy_base if name == "kube-proxy" else None
            if not base and not _tree.elf_facts(programs[name], request.platform)["static"]:
                raise TreeError(f'"{programs[name]}" needs a C library, which its image would not have; link it statically, or have the tree make its image.')
            inputs = [wanted["inputs"][file] for file in (request.image_tool, base) if file]
            key = hashlib.sha256(json.dumps([ref, self.hashes.sha256(programs[name], made=True), epoch, *inputs]).encode()).hexdigest()
            self.image_keys[name] = key
            written = stamp.get("outputs", {}).get("images", {}).get(name, {}).get("sha256")
            if key == stamp.get("images", {}).get(name) and written and before.get(path) == written:
                continue
            command = [request.image_tool, "build", "--platform", request.platform, "--ref", ref, *(["--base", base] if base else [])]
            command += ["--file", f"{name}=/usr/local/bin/{name}:0755", "--env", IMAGE_PATH]
            self._write_image(name, path, [*command, "--label", f"org.opencontainers.image.version={wanted['version']}"], epoch)

    def _write_image(self, name: str, path: str, command: list[t.Any], epoch: str) -> None:
        remaining = max(1, round(self.module.params["timeout"] - (time.monotonic() - self.started)))
        # all that the tool writes, also where it is killed
        work = f"{path}.new"
        shutil.rmtree(work, ignore_errors=True)
        try:
            os.makedirs(work)
            rc, dummy, err = self.module.run_command(
                [*self._bound_to_us(), self.timeout_program, "-k", str(KILL_AFTER), str(remaining), *command, "--archive", os.path.join(work, "image.tar")],
                cwd=self.request.binary_directory,
                environ_update={"SOURCE_DATE_EPOCH": epoch},
                expand_user_and_vars=False,
                handle_exceptions=False,
                before_communicate_callback=self._started,
            )
            self.process = None
            if self.ended_by:
                raise TreeError(f"The build was interrupted, because {self.ended_by}; run it again to go on.")
            if rc != 0:
                why = "it was not done in time" if rc == 124 else (err.strip().splitlines() or [f"exit status {rc}"])[-1]
                raise TreeError(f"The image of {name} could not be written ({why[:300]}); mend that and run this again.")
            os.replace(os.path.join(work, "image.tar"), path)
        except OSError as e:
            raise TreeError(f'The image "{path}" could not be written ({e.strerror}); mend that and run this again.') from e
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _make(self) -> None:
        """Run make with its output in the log. ``timeout`` leads a process group of its own and ends all of it."""
        params = self.module.params
        remaining = max(1, round(params["timeout"] - (time.monotonic() - self.started)))
        containers = self._containers()
        command = [self.timeout_program, "-k", str(KILL_AFTER), str(remaining), *self.result["cmd"]]
        try:
            # its owner's alone: a tree's scripts may say what their environment holds
            os.close(os.open(self.log_path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
            _alive.announce(self.log_path)
        except OSError as e:
            raise TreeError(
                f'The log "{self.log_path}" cannot be written ({e.strerror}); name another log_path.'
            ) from e
        started = time.monotonic()
        with self._others_images():
            rc = self.module.run_command(
                ["/bin/sh", "-c", REDIRECT, "sh", self.log_path, *self._bound_to_us(), *command],
                cwd=self.request.tree,
                environ_update={**self.host.environment, **self._told_version()},
                expand_user_and_vars=False,
                handle_exceptions=False,
                before_communicate_callback=self._started,
            )[0]
        self.process = None
        seconds = time.monotonic() - started
        self.result.update(rc=rc, seconds=round(seconds, 3), log_path=self.log_path)
        self.result["tail"] = _tree.log_tail(self.log_path, params["tail"])
        what = f'make {" ".join(self.request.targets)} for {self.request.platform} in "{self.request.tree}"'
        # timeout's own statuses; its last resort, SIGKILL to the group, takes itself along
        late = rc in (124, 128 + signal.SIGKILL, -signal.SIGKILL) and seconds >= remaining
        if self.ended_by or late:
            self._remove_containers(containers)
        if self.ended_by:
            raise TreeError(f"{what} was ended after {seconds:.0f} s, because {self.ended_by}; run it again to go on.")
        if late:
            raise TreeError(
                f"{what} was not done after {remaining} s and was ended; give it more by timeout (the whole log: {self.log_path})."
            )
        if rc != 0:
            cause = _tree.explain(_tree.log_lines(self.log_path))
            raise TreeError(f"{what} failed with exit status {rc}: {cause} (the whole log: {self.log_path}).")

    def _told_version(self) -> dict[str, str]:
        """A mounted build container cannot ask git in a worktree or another user's tree, and takes only a file along."""
        if not (self.request.uses_engine and self.features.mounted and self.features.version_file):
            return {}
        path = os.path.join(self.request.state_directory, "version")
        try:
            with open(path, "w", encoding="utf-8") as file:
                file.write(_tree.version_definitions(self.version_lines))
        except OSError as e:
            raise TreeError(f'The version file "{path}" cannot be written ({e.strerror}); mend that and run this again.') from e
        return {"KUBE_GIT_VERSION_FILE": path}

    @contextlib.contextmanager
    def _others_images(self) -> t.Iterator[None]:
        """Kubernetes begins an image build by deleting the archives of all platforms: links keep those of the others."""
        place = os.path.join(self.request.tree, _tree.IMAGES)
        kept = os.path.join(self.request.state_directory, "kept-images")

        @contextlib.contextmanager
        def explained() -> t.Iterator[None]:
            try:
                yield
            except (OSError, shutil.Error) as e:
                raise TreeError(
                    f'The image archives of other platforms cannot be kept between "{place}" and "{kept}" ({e}); mend that or move them away.'
                ) from e

        def put_back() -> None:
            for arch in os.listdir(kept) if os.path.isdir(kept) else []:
                if not os.path.exists(os.path.join(place, arch)):
                    os.makedirs(place, exist_ok=True)
                    os.rename(os.path.join(kept, arch), os.path.join(place, arch))
            shutil.rmtree(kept, ignore_errors=True)

        if not self.request.images:
            yield
            return
        with explained():
            # of a build that was killed outright
            put_back()
            for arch in os.listdir(place) if os.path.isdir(place) else []:
                if arch != self.request.arch and os.path.isdir(os.path.join(place, arch)):
                    shutil.copytree(os.path.join(place, arch), os.path.join(kept, arch), copy_function=os.link)
        try:
            yield
        finally:
            with explained():
                put_back()

    def _bound_to_us(self) -> list[str]:
        """make must not outlive this module even when that is killed outright, where util-linux is there to see to it."""
        setpriv = self.host.find("setpriv")
        return [setpriv, "--pdeathsig", "TERM"] if setpriv else []

    def _outputs(self, strict: bool) -> dict[str, dict[str, t.Any]]:
        request = self.request
        binaries, images = request.found_binaries(), request.found_images()
        missing = request.missing(binaries, images)
        if strict and missing:
            raise TreeError(
                f"make said it succeeded, but made no {' and no '.join(missing)} (the whole log: {self.log_path})."
            )
        result: dict[str, dict[str, t.Any]] = {"binaries": {}, "images": {}}
        for kind, paths in (("binaries", binaries), ("images", images)):
            for name, path in paths.items():
                try:
                    facts: dict[str, t.Any] = (
                        _tree.elf_facts(path, request.platform)
                        if kind == "binaries"
                        else {"ref": _tree.archive_facts(path, request.platform)}
                    )
                    entry = {"path": path, "sha256": self.hashes.sha256(path, made=strict), "size": os.path.getsize(path), **facts}
                except (TreeError, OSError):
                    if strict:
                        raise
                    continue
                result[kind][name] = entry
                if strict and request.debug and facts.get("debug") is False:
                    raise TreeError(
                        f'"{path}" holds no debug information though debug is true; the tree does not heed DBG=1 for this target.'
                    )
        return result

    def _write_stamp(self, stamp: dict[str, t.Any]) -> None:
        """Whole or not at all: the name appears only after the content is there."""
        temporary = f"{self.stamp_path}.new"
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(stamp, file, indent=1, sort_keys=True)
            os.replace(temporary, self.stamp_path)
        except OSError as e:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise TreeError(
                f'The outputs are made, but the stamp "{self.stamp_path}" cannot be written ({e.strerror}); mend that and run this again.'
            ) from e

    def _diff(self, before: dict[str, str | None], after: dict[str, str | None] | None, version: str) -> None:
        """``after`` is None when only a build could tell."""
        old_version = self.stamp["version"] if self.stamp and any(before.values()) else None
        sides: dict[str, dict[str, t.Any]] = {
            "before": {"version": old_version, "outputs": {path: sha256 for path, sha256 in before.items() if sha256}},
            "after": {"version": version, "outputs": after if after is not None else dict.fromkeys(before, "unknown")},
        }
        if after is None:
            names = [os.path.join(self.request.binary_directory, name) for name in self.request.binary_names]
            names += [os.path.join(self.request.image_directory, f"{name}.tar") for name in self.request.image_names(self.request.binary_names)]
            sides["after"]["outputs"].update(dict.fromkeys(names, "unknown"))
        self.result["diff"] = sides

    # -- lock, signals, what a killed build leaves ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _lock(self) -> t.Iterator[None]:
        """One build of a tree at a time: two of them write the same files."""
        path = os.path.join(self.request.state_directory, "lock")
        try:
            os.makedirs(self.request.state_directory, exist_ok=True)
            lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as e:
            raise TreeError(
                f'"{self.request.state_directory}" cannot be written by {_tree.user_name()} ({e.strerror}); mend that or become the owner of the tree.'
            ) from e
        try:
            deadline = self.started + self.module.params["timeout"]
            whose: list[str] = []
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as e:
                    if e.errno not in (errno.EAGAIN, errno.EACCES):
                        raise TreeError(
                            f'"{path}" cannot be locked ({e.strerror}); put the tree on a file system with locks.'
                        ) from e
                    whose = self._await(path, whose)
                    if time.monotonic() >= deadline:
                        raise TreeError(
                            f'Another build of the tree "{self.request.tree}"{f" ({whose[0]})" if whose else ""} has been running for '
                            f'{self.module.params["timeout"]} s; wait for its end, or end it, and run this again.'
                        ) from e
                    time.sleep(0.2)
            if self.earlier is not None:
                self.result["actions"].append(f"Waited for {whose[0] if whose else 'another build of the tree'}")
            os.truncate(lock, 0)
            os.write(lock, f"{self._description()}\n{self.log_path}\n".encode())
            try:
                yield
            finally:
                os.truncate(lock, 0)
        finally:
            os.close(lock)

    def _description(self) -> str:
        """Of this build, for those who wait for it."""
        what = f"make {' '.join(self.request.targets)} for {self.request.platform}"
        try:
            user = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            user = _tree.user_name()
        return f"{what} of {user}, process {os.getpid()}, since {time.strftime('%H:%M:%S')}"

    def _await(self, path: str, whose: list[str]) -> list[str]:
        """Tells for whom this waits, and shows the log of that build. Returns these two, which may come only after a while."""
        if self.earlier is None:
            stamp = _tree.read_stamp(self.stamp_path) or {}
            self.earlier = {output["path"]: output["sha256"] for kind in stamp.get("outputs", {}).values() for output in kind.values()}
        found: list[str] = []
        with contextlib.suppress(OSError), open(path, encoding="utf-8") as file:
            found = file.read().splitlines()
        if len(found) != 2:
            return whose
        # there is none yet, or it is another user's
        if not os.access(found[1], os.R_OK):
            found[1] = os.devnull
        if found != whose:
            _alive.announce(found[1], f"Waits for {found[0]}")
        return found

    @contextlib.contextmanager
    def _signals(self) -> t.Iterator[None]:
        """An interrupt, or nobody waiting any more, ends make first and then this module."""
        names = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        previous = {
            name: signal.signal(name, lambda number, frame: self._end(f"{signal.Signals(number).name} came"))
            for name in names
        }
        previous[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._watch)
        signal.setitimer(signal.ITIMER_REAL, WATCH_EVERY, WATCH_EVERY)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for name, handler in previous.items():
                signal.signal(name, handler)

    def _end(self, reason: str) -> None:
        if self.ended_by:
            return
        self.ended_by = reason
        if self.process is None:
            raise TreeError(f"The build was interrupted, because {reason}; run it again.")
        # timeout passes it on to its whole group, and kills what is left after a while
        self.process.terminate()

    def _started(self, process: t.Any) -> None:
        self.process = process
        if self.ended_by:
            process.terminate()

    def _watch(self, dummy_number: int, dummy_frame: t.Any) -> None:
        if _alive.abandoned(lasting=True):
            self._end("nobody waits for it any more")

    def _containers(self) -> set[str]:
        """Containers of a build of this tree: an ended ``docker run`` does not end its container."""
        docker = self.host.find("docker") if self.request.in_container or self.request.images else None
        if docker is None:
            return set()
        listing = [docker, "ps", "--no-trunc", "--format", "{{.ID}} {{.Names}}", "--filter"]
        rc, out, dummy = self.host.run([*listing, f"volume={self.request.tree}"])
        result = {line.split()[0] for line in out.decode().splitlines()} if rc == 0 else set()
        git = self.host.find("git")
        if self.features.builder_image and git:
            # these have no part of the tree mounted; the tree's scripts name them by host, path and branch
            branch = self.host.run([git, "symbolic-ref", "--short", "-q", "HEAD"], cwd=self.request.tree)[1].decode().strip()
            name = _tree.builder_hash(os.environ.get("HOSTNAME") or socket.gethostname(), self.request.tree, branch)
            rc, out, dummy = self.host.run([*listing, f"name={name}"])
            result |= _tree.builder_containers(out.decode(), name) if rc == 0 else set()
        return result

    def _remove_containers(self, before: set[str]) -> None:
        left = sorted(self._containers() - before)
        if left:
            self.host.run([self.host.program("docker", "to remove build containers"), "rm", "--force", "--volumes", *left])


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "tree": {"type": "path", "required": True},
            "targets": {"type": "list", "elements": "str", "default": ["all"]},
            "what": {"type": "list", "elements": "str", "default": []},
            "debug": {"type": "bool", "default": False},
            "platform": {"type": "str"},
            "builder": {"type": "str", "choices": ["host", "container"], "default": "host"},
            "params": {"type": "dict", "default": {}},
            "environment": {"type": "dict", "default": {}},
            "inputs": {"type": "list", "elements": "path", "default": []},
            "image_tool": {"type": "path"},
            "kube_proxy_base": {"type": "path"},
            "rebuild": {"type": "str", "choices": ["auto", "always"], "default": "auto"},
            "log_path": {"type": "path"},
            "tail": {"type": "int", "default": 20},
            "timeout": {"type": "int", "default": 7200},
            "progress": {"type": "str", "choices": ["none", "summary", "lines"], "default": "summary"},
        },
        required_by={"kube_proxy_base": "image_tool"},
        supports_check_mode=True,
    )
    worker: KubeMake | None = None
    try:
        worker = KubeMake(module)
        module.exit_json(**worker.run())
    except TreeError as e:
        known = worker.result if worker is not None else {}
        module.fail_json(
            msg=str(e), **{name: known[name] for name in ("cmd", "rc", "log_path", "tail", "seconds") if name in known}
        )
    finally:
        _alive.done()


if __name__ == "__main__":
    main()
