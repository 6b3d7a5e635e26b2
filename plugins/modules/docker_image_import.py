#!/usr/bin/python
# Copyright (c) 2026, nodeforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: docker_image_import
short_description: Have an image of another engine, of which only the layers come that are not here
version_added: 1.1.0
author: nodeforge contributors (@nodeforge)
description:
  - Loads an image that M(nodeforge.kind.docker_image_export) has written on another host. Layers that the engine has already, at the bottom of any of its
    images, need not be in the directory.
  - Without O(path), or in check mode, it only tells which layers are lacking.
  - The engine checks each layer's digest, and this module that the image is the very same as on the other host. The tag names it only then.
extends_documentation_fragment:
  - nodeforge.kind._attributes
  - nodeforge.kind._attributes.actiongroup_kind
  - nodeforge.kind._docker
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - Shows the id of the image that the tag names.
  idempotent:
    support: full
options:
  name:
    description: What the image is to be called here, as C(repository:tag).
    type: str
    required: true
  image:
    description: The image on the other host, as RV(nodeforge.kind.docker_image_export#module:image) tells it.
    type: dict
    required: true
  config:
    description: The digest of its configuration, RV(nodeforge.kind.docker_image_export#module:config). Needed with O(path).
    type: str
  path:
    description: The directory with what was written on the other host.
    type: path
  prune_previous:
    description: Whether to remove the image that the tag named before, if nothing needs it.
    type: bool
    default: false
seealso:
  - module: nodeforge.kind.docker_image_export
"""

EXAMPLES = r"""
- name: Look at the image
  nodeforge.kind.docker_image_export:
    image: kindest/node:main
    path: /var/tmp/node-image
  check_mode: true
  register: there

- name: Look which of its layers are not here
  nodeforge.kind.docker_image_import:
    name: kindest/node:main
    image: "{{ there.image }}"
  delegate_to: localhost
  register: wanted

- name: Load it, when its files have come here
  nodeforge.kind.docker_image_import:
    name: kindest/node:main
    image: "{{ there.image }}"
    config: "{{ written.config }}"
    path: /var/tmp/received
  delegate_to: localhost
"""

RETURN = r"""
lacking:
  description: The digests of the layers that are not here, or were not before.
  returned: success
  type: list
  elements: str
  sample: ["sha256:5f0e1f6f5e4d3c2b1a09f8e7d6c5b4a392817060f5e4d3c2b1a09f8e7d6c5b4a"]
up_to_date:
  description: Whether the tag names the image now.
  returned: success
  type: bool
  sample: true
id:
  description: The id of the image that the tag names now; V(null) for none.
  returned: success
  type: str
  sample: sha256:0f6f1b5d0c8a7a9b6f0d2c3e4a5b6c7d8e9f0a1b2c3d4e5f60718293a4b5c6d7
actions:
  description: What was done, or would be in check mode, one sentence each.
  returned: success
  type: list
  elements: str
  sample: ["Loaded \"kindest/node:main\", 1 of 6 layers of it new"]
diff:
  description: The id of the image that the tag names, before and after.
  returned: in diff mode
  type: dict
  sample: {before: {id: null}, after: {id: "sha256:0f6f1b5d0c8a7a9b6f0d2c3e4a5b6c7d8e9f0a1b2c3d4e5f60718293a4b5c6d7"}}
"""

import contextlib
import json
import os
import re
import tarfile
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nodeforge.kind.plugins.module_utils import _node_image as node
from ansible_collections.nodeforge.kind.plugins.module_utils._docker import (
    DOCKER_ARGS,
    Engine,
    EngineError,
    read_chunks,
)
from ansible_collections.nodeforge.kind.plugins.module_utils._signals import Interrupted, deferred, interruptible


class Importer:
    """Loads an image, if needed."""

    def __init__(self, module: AnsibleModule, engine: Engine) -> None:
        self.module, self.engine = module, engine
        reference = node.parse_reference(module.params["name"], "name")
        if reference.digest:
            raise node.BadInput(f'The name "{module.params["name"]}" has a digest, which an engine gives itself: write NAME:TAG')
        self.name = f"{reference.familiar}:{reference.tag}"
        self.wanted: dict[str, t.Any] = module.params["image"]
        self.path: str | None = module.params["path"]
        try:
            self.layers: list[str] = list(self.wanted["layers"])
            self.id: str = self.wanted["id"]
        except (KeyError, TypeError) as e:
            raise node.BadInput("The option image has no id and layers: give what docker_image_export returned as image") from e
        # they become names of files, and another host told them
        for digest in [self.id, *self.layers, *filter(None, [module.params["config"]])]:
            if not re.fullmatch(r"sha256:[0-9a-f]{64}", str(digest)):
                raise node.BadInput(f'"{digest}" is no digest of an image: give what docker_image_export returned')

    def run(self) -> dict[str, t.Any]:
        before = self.engine.image(self.name)
        lacking: list[str] = []
        actions = []
        after = before
        if not self._same(before):
            lacking = self._lacking()
            actions.append(f'Loaded "{self.name}", {len(lacking)} of {len(self.layers)} layers of it new')
            if self.path and not self.module.check_mode:
                self._load(self.path, lacking)
                after = self.engine.image(self.name)
                if before and after and before["Id"] != after["Id"] and self.module.params["prune_previous"]:
                    self._prune(before)
        result: dict[str, t.Any] = {
            "changed": bool(actions) and (self.module.check_mode or bool(self.path)),
            "actions": actions,
            "lacking": lacking,
            "up_to_date": self._same(after),
            "id": after and after["Id"],
        }
        if self.module._diff:
            result["diff"] = {"before": {"id": before and before["Id"]}, "after": {"id": self.id if actions else after and after["Id"]}}
        return result

    def _same(self, image: dict[str, t.Any] | None) -> bool:
        """Engines with different stores have different ids for the same image."""
        if image is None:
            return False
        facts = node.image_facts(image)
        return facts["id"] == self.id or (facts["layers"] == self.layers and facts["created"] == self.wanted.get("created"))

    def _lacking(self) -> list[str]:
        """A layer is kept together with all that lie under it, so what counts is how far another image is the same from the bottom on."""
        known = 0
        with self.engine.explained("Looking which layers are here"):
            # one that keeps images as they come from a registry takes whole images only
            if any("io.containerd" in str(pair) for pair in self.engine.api.info().get("DriverStatus") or []):
                return list(self.layers)
            images = {image["Id"] for image in self.engine.api.images(all=True)}
        for image in images:
            found = self.engine.image(image)
            there = (found and found["RootFS"].get("Layers")) or []
            same = next((number for number, pair in enumerate(zip(there, self.layers)) if pair[0] != pair[1]), min(len(there), len(self.layers)))
            known = max(known, same)
        return self.layers[known:]

    def _load(self, path: str, lacking: list[str]) -> None:
        config: str | None = self.module.params["config"]
        if not config:
            raise node.BadInput("The option config is missing: give what docker_image_export returned")
        blobs = os.path.join(path, "blobs", "sha256")
        files = {digest: os.path.join(blobs, digest.partition(":")[2]) for digest in [config, *lacking]}
        gone = [file for file in files.values() if not os.path.isfile(file)]
        if gone:
            raise EngineError(f'The directory "{path}" lacks {os.path.basename(gone[0])}, a part of "{self.name}": export and bring it again')
        listing = json.dumps([{"Config": f"{config.partition(':')[2]}.json", "RepoTags": None, "Layers": [self._member(d) for d in self.layers]}])
        doing = f'Loading "{self.name}"'
        with self.engine.explained(doing):
            api = self.engine.api
            response = api._post(api._url("/images/load"), data=self._archive(files, config, listing.encode()), params={"quiet": True}, stream=True)
            api._raise_for_status(response)
            for message in api._stream_helper(response, decode=True):
                if "error" in message:
                    self._discard(files.values())
                    hint = "free space on the engine's disk (docker system df) and run again" if "no space left" in message["error"] else "run again"
                    raise EngineError(f"{doing} failed: {message['error']}; {hint}, which brings all of it anew")
        # the engine's id of what it loaded is the configuration's digest, or one of its own
        made = self.engine.image(config) or self.engine.image(self.id)
        if not self._same(made):
            self._discard(files.values())
            raise EngineError(f"{doing} failed: it is another image than on the other host; run again, which brings all of it anew")
        repository, _colon, tag = self.name.rpartition(":")
        with deferred(), self.engine.explained(f'Tagging the image as "{self.name}"'):
            self.engine.api.tag(t.cast(t.Any, made)["Id"], repository, tag)

    @staticmethod
    def _member(digest: str) -> str:
        return f"{digest.partition(':')[2]}/layer.tar"

    def _archive(self, files: dict[str, str], config: str, listing: bytes) -> t.Iterator[bytes]:
        """A docker archive without the layers that are here: an engine does not look for what it has."""
        for digest, file in files.items():
            info = tarfile.TarInfo(f"{digest.partition(':')[2]}.json" if digest == config else self._member(digest))
            info.size = os.stat(file).st_size
            yield info.tobuf(tarfile.GNU_FORMAT)
            yield from read_chunks(file)
            yield b"\0" * (-info.size % tarfile.BLOCKSIZE)
        info = tarfile.TarInfo("manifest.json")
        info.size = len(listing)
        yield info.tobuf(tarfile.GNU_FORMAT) + listing + b"\0" * (-info.size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)

    @staticmethod
    def _discard(files: t.Iterable[str]) -> None:
        for file in files:
            with contextlib.suppress(OSError):
                os.unlink(file)

    def _prune(self, image: dict[str, t.Any]) -> None:
        """Removes the image that had the tag before, unless it has another one, or something needs it."""
        if image["RepoTags"] != [self.name]:
            return
        try:
            with self.engine.explained(f'Removing the image "{image["Id"]}"'):
                if not self.engine.api.containers(all=True, filters={"ancestor": image["Id"]}):
                    self.engine.api.remove_image(image["Id"])
        except EngineError as e:
            if getattr(e.__cause__, "status_code", None) not in (404, 409):
                raise


def main() -> None:
    """Runs the module."""
    module = AnsibleModule(
        argument_spec={
            **DOCKER_ARGS,
            "name": {"type": "str", "required": True},
            "image": {"type": "dict", "required": True},
            "config": {"type": "str"},
            "path": {"type": "path"},
            "prune_previous": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        engine = Engine(module)
        with interruptible():
            try:
                result = Importer(module, engine).run()
            except Interrupted as e:
                module.fail_json(msg=f"Interrupted by {e}: no tag was changed")
    except (EngineError, node.BadInput) as e:
        module.fail_json(msg=str(e))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
