#!/usr/bin/python
# Copyright (c) 2026, nodeforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: docker_commit
short_description: Make an image from a container
version_added: 1.0.0
author: nodeforge contributors (@nodeforge)
description:
  - Makes an image from a container's present state and tags it, as C(docker commit) does, and tells truthfully whether that was needed.
  - The image is tagged only when it is complete. Until then, and after any failure, the tag names what it named before.
extends_documentation_fragment:
  - nodeforge.kind._attributes
  - nodeforge.kind._attributes.actiongroup_kind
  - nodeforge.kind._docker
attributes:
  check_mode:
    support: full
    details:
      - A container that is not there is taken for one that an earlier task would have started.
  diff_mode:
    support: full
    details:
      - Shows the image's id, which check mode cannot know beforehand and gives as V(unknown).
  idempotent:
    support: full
    details:
      - The image carries two labels. C(io.nodeforge.fingerprint) is O(fingerprint) or, by default, one of the container - its image, its configuration,
        and the path, size, mode and modification time of every file that differs from its image. C(io.nodeforge.commit) is one of O(changes),
        O(labels), O(author) and O(comment).
      - Where the tag names an image with both, nothing is done. A container whose files change while it runs gives a new image each time.
      - The label C(org.opencontainers.image.created) alone never makes a difference.
options:
  container:
    description:
      - The name or id of the container, running or not.
      - With O(fingerprint) it is only needed where an image has to be made.
    type: str
  name:
    description:
      - The image to make as C(repository:tag), such as V(kindest/node:main). Without tag it is V(latest).
      - Exactly one of O(name) and O(repository) is needed.
    type: str
  repository:
    description: The repository of the image to make, such as V(kindest/node).
    type: str
  tag:
    description: The tag of the image to make, together with O(repository). V(latest) by default.
    type: str
  fingerprint:
    description:
      - What identifies the content, such as RV(nodeforge.kind.kind_node_prepare#module:fingerprint).
      - By default it is computed from the container.
    type: str
  changes:
    description:
      - Dockerfile instructions to apply, one an entry - C(CMD), C(ENTRYPOINT), C(ENV), C(EXPOSE), C(HEALTHCHECK), C(LABEL), C(ONBUILD),
        C(USER), C(VOLUME), C(WORKDIR).
    type: list
    elements: str
    default: []
  labels:
    description:
      - Labels of the image. Values are taken literally.
      - Labels of the container remain; the label C(io.nodeforge.build) of a build container is emptied.
    type: dict
    default: {}
  author:
    description: The author of the image.
    type: str
  comment:
    description: A comment for the image's history.
    type: str
  pause:
    description: Whether to pause a running container meanwhile, so that its files stand still.
    type: bool
    default: true
  prune_previous:
    description:
      - Whether to remove the image that the tag named before, if now it has no other tag, and no container and no other image needs it.
      - By default it stays, without a name, as with C(docker commit).
    type: bool
    default: false
  remove:
    description:
      - Whether to remove the container afterwards, running or not, also where no image had to be made. It stays after a failure.
      - This saves a task, and so half a second, where a container is of no use but to become an image.
    type: bool
    default: false
    version_added: 1.1.0
  owner:
    description:
      - The id of a process on this host, such as ansible-playbook's own, for which the image is made. Where it has ended by the time the image is there,
        however it ended, the image goes and no tag is changed.
    type: int
    version_added: 1.1.0
seealso:
  - module: nodeforge.kind.kind_node_prepare
  - module: nodeforge.kind.ctr_image_pull
"""

EXAMPLES = r"""
- name: Make a node image from its build container
  nodeforge.kind.docker_commit:
    container: "{{ node.container.id }}"
    name: kindest/node:main
    changes: "{{ node.changes }}"
    labels: "{{ node.labels }}"
    fingerprint: "{{ node.fingerprint }}"
    prune_previous: true

- name: Keep the state of any container
  nodeforge.kind.docker_commit:
    container: database
    repository: registry.example.org/team/database
    tag: with-test-data
    changes:
      - CMD ["postgres", "-c", "fsync=off"]
      - ENV LANG=C.UTF-8
    labels:
      org.example.team: storage
    comment: With the test data of November
"""

RETURN = r"""
image:
  description: The image that the tag names now. In check mode, where an image would be made, the one before, or V(null).
  returned: success
  type: dict
  contains:
    id:
      description: Its id.
      type: str
      sample: sha256:0f6f1b5d0c8a7a9b6f0d2c3e4a5b6c7d8e9f0a1b2c3d4e5f60718293a4b5c6d7
    size:
      description: Its size in bytes, with all layers.
      type: int
      sample: 957415321
    layers:
      description: The digests of its layers, the lowest first.
      type: list
      elements: str
      sample: ["sha256:5f0e1f6f5e4d3c2b1a09f8e7d6c5b4a392817060f5e4d3c2b1a09f8e7d6c5b4a"]
    repo_tags:
      description: All its tags.
      type: list
      elements: str
      sample: ["kindest/node:main"]
    labels:
      description: Its labels.
      type: dict
      sample: {io.nodeforge.fingerprint: 3c1f0a9d8b7e6f5a4b3c2d1e0f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f1a}
    created:
      description: When it was made.
      type: str
      sample: "2026-11-24T08:00:00.123456789Z"
    platform:
      description: What it runs on.
      type: str
      sample: linux/amd64
fingerprint:
  description: The fingerprint that the image carries, or would; V(null) in check mode where neither it nor a container is there.
  returned: success
  type: str
  sample: 3c1f0a9d8b7e6f5a4b3c2d1e0f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f1a
actions:
  description: What was done, or would be in check mode, one sentence each.
  returned: success
  type: list
  elements: str
  sample: ["Committed the container \"nodeforge-build-3c1f0a9d8b7e-5f2a91\" as \"kindest/node:main\""]
diff:
  description: The id of the image that the tag names, before and after.
  returned: in diff mode
  type: dict
  sample: {before: {id: null}, after: {id: unknown}}
"""

import contextlib
import hashlib
import re
import socket
import sys
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nodeforge.kind.plugins.module_utils import _alive
from ansible_collections.nodeforge.kind.plugins.module_utils import _node_image as node
from ansible_collections.nodeforge.kind.plugins.module_utils._background import began, owner_began
from ansible_collections.nodeforge.kind.plugins.module_utils._docker import (
    DOCKER_ARGS,
    Engine,
    EngineError,
)
from ansible_collections.nodeforge.kind.plugins.module_utils._signals import Interrupted, deferred, interruptible

COMMIT_LABEL = "io.nodeforge.commit"
CREATED_LABEL = "org.opencontainers.image.created"
INSTRUCTIONS = ("CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD", "USER", "VOLUME", "WORKDIR")
# The engine mounts these into every container, so they are never part of an image.
MOUNTED = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev", "/proc", "/sys")
DELETED = 2


def check_changes(changes: list[str]) -> list[str]:
    """Each is one known instruction on one line: the engine takes them joined by newlines."""
    for change in changes:
        instruction, _space, rest = change.strip().partition(" ")
        if instruction.upper() not in INSTRUCTIONS or not rest.strip() or "\n" in change.strip() or change.rstrip().endswith("\\"):
            shown, allowed = " ".join(change.split()), ", ".join(INSTRUCTIONS)
            raise node.BadInput(f'The change "{shown}" is not one instruction that a commit takes: write one of {allowed} on one line')
    return [change.strip() for change in changes]


def label_text(key: str, value: t.Any) -> str:
    """A label's value as text."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]*", key):
        raise node.BadInput(f'The label "{key}" is not a label\'s name: use letters, digits, dots, slashes and hyphens')
    if isinstance(value, (dict, list)) or "\n" in str(value):
        raise node.BadInput(f'The value of the label "{key}" is not one line of text: join it first')
    return "" if value is None else str(value)


def label_change(key: str, value: str) -> str:
    """One label as a LABEL instruction. Dockerfiles expand and unescape within double quotes."""
    quoted = re.sub(r'(["\\$])', r"\\\1", value)
    return f'LABEL {key}="{quoted}"'


@contextlib.contextmanager
def alone(name: str) -> t.Iterator[None]:
    """One module of this host at a time looks at a tag and sets it. The lock is an address without a file, of any user, that goes with its process."""
    with socket.socket(socket.AF_UNIX) as lock:
        until = time.monotonic() + 30
        while sys.platform == "linux":
            try:
                lock.bind(f"\0nodeforge-tag-{hashlib.sha256(name.encode()).hexdigest()}")
                break
            except OSError:
                if time.monotonic() > until:
                    break
                time.sleep(0.05)
        yield


class Committer:
    """Makes an image from a container, if needed."""

    def __init__(self, module: AnsibleModule, engine: Engine) -> None:
        params = self.params = module.params
        self.module = module
        self.engine = engine
        self.actions: list[str] = []
        text: str = params["name"] if params["name"] is not None else f"{params['repository']}:{params['tag'] or 'latest'}"
        self.image = node.parse_reference(text, "image")
        if self.image.digest:
            raise node.BadInput(f'The image "{text}" names a digest, which only exists afterwards: write NAME:TAG')
        self.changes = check_changes(params["changes"])
        self.labels = {key: label_text(key, value) for key, value in params["labels"].items()}
        self.owner_began = owner_began(params["owner"])
        # what was asked of the commit itself; when it was asked makes no difference
        self.options = node.fingerprint(
            [self.changes, {**self.labels, CREATED_LABEL: ""}, params["author"] or "", params["comment"] or ""],
        )

    def run(self) -> dict[str, t.Any]:
        name = f"{self.image.familiar}:{self.image.tag}"
        before = self.engine.image(name)
        fingerprint: str | None = self.params["fingerprint"]
        container = None
        if not fingerprint:
            container = self._container(name)
            fingerprint = self._fingerprint(container) if container else None
        after = before
        if not fingerprint or not self._as_wanted(before, fingerprint):
            container = container or self._container(name)
            of = container["Name"].lstrip("/") if container else self.params["container"]
            self.actions.append(f'Committed the container "{of}" as "{name}"')
            replaced = before
            if container and fingerprint and not self.module.check_mode:
                replaced = self._commit(container, fingerprint, name)
                after = self.engine.image(name)
            if replaced and self.params["prune_previous"] and not self._below(replaced, container) and self._only_named(replaced, name):
                if self.module.check_mode or self._remove(replaced["Id"]):
                    self.actions.append(f'Removed the image "{replaced["Id"]}" that had the tag before')
        if self.params["remove"]:
            self._remove_container(container)
        changed = bool(self.actions)
        result: dict[str, t.Any] = {
            "changed": changed,
            "actions": self.actions,
            "fingerprint": fingerprint,
            "image": after and node.image_facts(after),
        }
        if self.module._diff:
            unknown = changed and self.module.check_mode
            result["diff"] = {
                "before": {"id": before and before["Id"]},
                "after": {"id": "unknown" if unknown else after and after["Id"]},
            }
        return result

    def _as_wanted(self, image: dict[str, t.Any] | None, fingerprint: str) -> bool:
        told = ((image or {}).get("Config") or {}).get("Labels") or {}
        return told.get(node.FINGERPRINT_LABEL) == fingerprint and told.get(COMMIT_LABEL) == self.options

    def _remove_container(self, container: dict[str, t.Any] | None) -> None:
        wanted: str | None = self.params["container"]
        container = container or (self.engine.container(wanted) if wanted else None)
        # check mode takes one that it would commit for one that is there
        if container or self.actions:
            self.actions.append(f'Removed the container "{container["Name"].lstrip("/") if container else wanted}"')
        if container and not self.module.check_mode:
            self.engine.remove(container["Id"])

    def _container(self, name: str) -> dict[str, t.Any] | None:
        """The container; None only in check mode, for one that would have been started."""
        wanted: str | None = self.params["container"]
        container = self.engine.container(wanted) if wanted else None
        if container or self.module.check_mode:
            return container
        if not wanted:
            raise node.BadInput(f'The option container is missing: "{name}" has to be made, as no image of that name has this fingerprint')
        raise EngineError(f'There is no container "{wanted}" at {self.engine.host}: start it or name another one')

    def _fingerprint(self, container: dict[str, t.Any]) -> str:
        """What the image would be made of, without reading files."""
        container_id = container["Id"]
        with self.engine.explained(f'Comparing the container "{self.params["container"]}" with its image'):
            differences = self.engine.api.diff(container_id) or []
        mounts = [*MOUNTED, *(mount["Destination"] for mount in container["Mounts"]), *(container["HostConfig"].get("Tmpfs") or {})]
        files = []
        for path, kind in sorted((difference["Path"], difference["Kind"]) for difference in differences):
            if any(f"{path}/".startswith(f"{mount}/") for mount in mounts):
                continue
            stat = None if kind == DELETED else self.engine.stat(container_id, path)
            # a directory is its entries, and those are listed; its time also moves when mounts come and go
            details = stat and [stat["mode"], stat["linkTarget"], *([] if kind_is_directory(stat) else [stat["size"], stat["mtime"]])]
            files.append([path, kind, details])
        config = {key: value for key, value in container["Config"].items() if key not in ("Hostname", "Image")}
        return node.fingerprint([container["Image"], config, files])

    def _commit(self, container: dict[str, t.Any], fingerprint: str, name: str) -> dict[str, t.Any] | None:
        """Makes the image without a name, and names it when it is there. Returns what had the name until then, unless that stays."""
        image = self.image
        labels = {**self.labels, node.FINGERPRINT_LABEL: fingerprint, COMMIT_LABEL: self.options}
        if (container["Config"].get("Labels") or {}).get(node.BUILD_LABEL):
            labels[node.BUILD_LABEL] = ""
        changes = [*self.changes, *(label_change(key, value) for key, value in sorted(labels.items()))]
        made: str | None = None
        try:
            with deferred():
                made = self.engine.commit(
                    container["Name"].lstrip("/"),
                    comment=self.params["comment"],
                    author=self.params["author"],
                    pause=self.params["pause"],
                    changes="\n".join(changes),
                )
            # Ansible's worker, and so this module, may outlive an ansible-playbook that was killed
            if self.owner_began and began(self.params["owner"]) != self.owner_began:
                raise EngineError(f"The owner {self.params['owner']} has ended: no tag was changed")
            # a signal between the tag and the note of it would remove the image with its new tag
            with deferred(), alone(name), self.engine.explained(f'Tagging the new image as "{name}"'):
                replaced = self.engine.image(name)
                if self._as_wanted(replaced, fingerprint):
                    # another play at the same time was quicker, and may use its image already
                    return None
                self.engine.api.tag(made, image.familiar, image.tag)
                made = None
                return replaced
        finally:
            if made:
                with deferred():
                    self._remove(made)

    def _below(self, image: dict[str, t.Any], container: dict[str, t.Any] | None) -> bool:
        """Whether the new image stands on that one, which then stays."""
        return image["Id"] in (self.labels.get(node.WHOLE_LABEL), container and container["Image"])

    def _only_named(self, image: dict[str, t.Any], name: str) -> bool:
        """Whether nothing but this tag holds an image: no other tag, no container of it or of its descendants."""
        with self.engine.explained(f'Listing the containers of the image "{name}"'):
            return image["RepoTags"] == [name] and not self.engine.api.containers(all=True, filters={"ancestor": image["Id"]})

    def _remove(self, image: str) -> bool:
        """Removes an image, unless something needs it."""
        try:
            with self.engine.explained(f'Removing the image "{image}"'):
                self.engine.api.remove_image(image)
        except EngineError as e:
            if getattr(e.__cause__, "status_code", None) in (404, 409):
                return False
            raise
        return True


def kind_is_directory(stat: dict[str, t.Any]) -> bool:
    """The topmost bit of Go's file mode."""
    return bool(stat["mode"] >> 31 & 1)


def main() -> None:
    """Runs the module."""
    module = AnsibleModule(
        argument_spec={
            **DOCKER_ARGS,
            "container": {"type": "str"},
            "name": {"type": "str"},
            "repository": {"type": "str"},
            "tag": {"type": "str"},
            "fingerprint": {"type": "str"},
            "changes": {"type": "list", "elements": "str", "default": []},
            "labels": {"type": "dict", "default": {}},
            "author": {"type": "str"},
            "comment": {"type": "str"},
            "pause": {"type": "bool", "default": True},
            "prune_previous": {"type": "bool", "default": False},
            "remove": {"type": "bool", "default": False},
            "owner": {"type": "int"},
        },
        mutually_exclusive=[("name", "repository"), ("name", "tag")],
        required_one_of=[("name", "repository")],
        required_by={"tag": "repository"},
        supports_check_mode=True,
    )
    committer: Committer | None = None
    try:
        engine = Engine(module)
        with interruptible():
            try:
                committer = Committer(module, engine)
                result = committer.run()
            except Interrupted as e:
                discarded = engine.discard(module.params["container"], node.build_fingerprint)
                module.fail_json(msg=f"Interrupted by {e}: no tag was changed{discarded}")
    except (EngineError, node.BadInput) as e:
        if committer and not module.check_mode and _alive.abandoned():
            # the connection broke: its play does not come back for the build container
            with contextlib.suppress(EngineError):
                committer.engine.discard(module.params["container"], node.build_fingerprint)
        module.fail_json(msg=str(e))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
