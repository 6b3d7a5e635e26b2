# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can change at any time.
"""The host as a tree sees it: the environment of its scripts, the programs that are found there, and what they say."""

from __future__ import annotations

import collections.abc as c
import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nodeforge.kind.plugins.module_utils import _tree
from ansible_collections.nodeforge.kind.plugins.module_utils._tree import TreeError

GO_PLACES = ("/usr/local/go/bin", "/usr/lib/go/bin")


class SilentError(TreeError):
    """A program that gave no answer in time; it may work nevertheless."""


class TreeHost:
    """Runs programs in the environment in which the tree's own scripts run. ``patience`` in seconds limits each of them."""

    def __init__(self, module: AnsibleModule, tree: str, given: c.Mapping[str, str], patience: int = 0) -> None:
        self.module = module
        self.tree = tree
        self.given = given
        self.patience = patience
        self.environment = {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C.UTF-8", "LANGUAGE": "C"}
        path = given.get("PATH", os.environ.get("PATH", os.defpath))
        # a login that is not interactive often lacks the place where Go's own installation puts it
        places = [place for place in GO_PLACES if os.access(os.path.join(place, "go"), os.X_OK)]
        self.environment["PATH"] = os.pathsep.join(dict.fromkeys(path.split(os.pathsep) + places))
        self.environment.update(_tree.git_environment(tree, os.environ))
        self.environment.update({name: value for name, value in given.items() if name != "PATH"})

    def setting(self, name: str) -> str:
        return self.environment.get(name, os.environ.get(name, ""))

    def find(self, name: str) -> str | None:
        for directory in self.environment["PATH"].split(os.pathsep):
            path = os.path.join(directory, name)
            if directory and os.path.isfile(path) and os.access(path, os.X_OK):
                return path
        return None

    def program(self, name: str, purpose: str) -> str:
        path = self.find(name)
        if path is None:
            raise TreeError(
                f"This host has no {name}, which is needed {purpose}; install it or add its directory to PATH in environment."
            )
        return path

    def run(self, command: list[str], cwd: str | None = None, more: c.Mapping[str, str] | None = None) -> tuple[int, bytes, bytes]:
        timeout = self.find("timeout") if self.patience else None
        try:
            result: tuple[int, bytes, bytes] = self.module.run_command(
                [timeout, "-k", "1", str(self.patience), *command] if timeout else command,
                cwd=cwd,
                environ_update={**self.environment, **(more or {})},
                encoding=None,
                expand_user_and_vars=False,
                handle_exceptions=False,
            )
        except OSError as e:
            raise TreeError(f'"{command[0]}" cannot be run ({e.strerror}); repair it.') from e
        if timeout and result[0] == 124:
            raise SilentError(f'"{" ".join(command)}" gave no answer in {self.patience} s; raise timeout, or find out what it waits for.')
        return result

    def version_lines(self) -> dict[str, str]:
        """What the tree's own script says of its version; a sentence where that is none."""
        script = os.path.join(self.tree, _tree.VERSION_SCRIPT)
        if not os.path.isfile(script):
            raise TreeError(f'"{self.tree}" has no {_tree.VERSION_SCRIPT}; name the root of a Kubernetes source tree.')
        command = [script] if os.access(script, os.X_OK) else [self.program("bash", f"to run {_tree.VERSION_SCRIPT}"), script]
        given = self.setting("KUBE_GIT_VERSION_FILE")
        if given and not os.path.isfile(os.path.join(self.tree, given)):
            raise TreeError(f'KUBE_GIT_VERSION_FILE names "{given}", which is not a file on this host; write it first.')
        rc, out, err = self.run(command, cwd=self.tree)
        said = err.decode("utf-8", "replace").strip().splitlines() or ["no message"]
        # without git Kubernetes' script stumbles over the variable that it did not set
        if rc != 0 and "KUBE_GIT_VERSION: unbound variable" not in said[-1]:
            raise TreeError(
                f'{_tree.VERSION_SCRIPT} of the tree "{self.tree}" failed with exit status {rc} ({said[-1][:300]}); repair the checkout.'
            )
        lines = _tree.parse_status_lines(out.decode("utf-8", "replace"))
        git = self.find("git")
        shallow = bool(git and not lines["gitVersion"] and self.is_shallow(git))
        _tree.check_version(lines["gitVersion"], self.tree, os.path.exists(os.path.join(self.tree, ".git")), shallow, git is not None)
        return lines

    def is_shallow(self, git: str) -> bool:
        return self.run([git, "-C", self.tree, "rev-parse", "--is-shallow-repository"])[1].strip() == b"true"

    def go_decision(self, features: _tree.Features, params: c.Mapping[str, str]) -> tuple[str, str, str]:
        """Which Go will compile on the host: level, value and remedy."""
        settings = {**os.environ, **self.given, **params}
        wanted = settings.get("GO_VERSION") or features.go_wanted
        go = self.find("go")
        host = ""
        at_hand = False
        if go:
            # not what a newer Go would say of itself in the tree, and asked without the network
            host = self.run([go, "env", "GOVERSION"], cwd="/", more={"GOTOOLCHAIN": "local"})[1].decode().strip()
            if features.go_fetched == "toolchain" and _tree.go_number(wanted) != _tree.go_number(host):
                fetched = {"GOTOOLCHAIN": f"go{wanted}", "GOPROXY": "off", "GOFLAGS": ""}
                at_hand = self.run([go, "version"], cwd="/", more=fetched)[0] == 0
        return _tree.go_decision(features, host, settings, at_hand)

    def check_container_build(self, features: _tree.Features, images: bool) -> None:
        """What the tree's build container needs of this host, before minutes are spent in it."""
        docker = self.program("docker", "for the tree's build container")
        _tree.check_engine(
            self.tree,
            features,
            images,
            self.setting("DOCKER_HOST"),
            self.find("rsync") is not None,
            lambda: self.run([docker, "buildx", "version"])[0] == 0,
        )
        told = {"KUBE_GIT_VERSION", "KUBE_GIT_VERSION_FILE"} & {*os.environ, *self.given}
        _tree.check_container_version(self.tree, features, bool(told))
