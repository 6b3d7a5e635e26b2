#!/usr/bin/python
# Copyright (c) 2026, nodeforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: docker_image_export
short_description: Put an image's layers into a directory, or only those that somebody lacks
version_added: 1.1.0
author: nodeforge contributors (@nodeforge)
description:
  - Writes an image of the engine into a directory, its configuration and each layer as a file that is named by its digest, as in an OCI image layout.
    With O(layers) only these layers are written, for an engine elsewhere that has the others, see M(nodeforge.kind.docker_image_import).
  - A file gets its name only when it is complete and matches its digest. What an interrupted run has left is not written again, and files that
    are not wanted any more are removed.
extends_documentation_fragment:
  - nodeforge.kind._attributes
  - nodeforge.kind._attributes.actiongroup_kind
  - nodeforge.kind._docker
attributes:
  check_mode:
    support: full
    details:
      - RV(image) is told in check mode, too.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  image:
    description: The image, by name or id.
    type: str
    required: true
  path:
    description: The directory. The files lie in C(blobs/sha256) in it, of which the names are all that counts.
    type: path
    required: true
  layers:
    description: The digests of the layers to write. By default all.
    type: list
    elements: str
seealso:
  - module: nodeforge.kind.docker_image_import
"""

EXAMPLES = r"""
- name: Write what changed in an image
  nodeforge.kind.docker_image_export:
    image: kindest/node:main
    path: /var/tmp/node-image
    layers: "{{ wanted.lacking }}"
"""

RETURN = r"""
image:
  description: The image.
  returned: success
  type: dict
  contains:
    id:
      description: Its id.
      type: str
      sample: sha256:0f6f1b5d0c8a7a9b6f0d2c3e4a5b6c7d8e9f0a1b2c3d4e5f60718293a4b5c6d7
    layers:
      description: The digests of its layers, the lowest first.
      type: list
      elements: str
      sample: ["sha256:5f0e1f6f5e4d3c2b1a09f8e7d6c5b4a392817060f5e4d3c2b1a09f8e7d6c5b4a"]
    size:
      description: Its size in bytes, with all layers.
      type: int
      sample: 957415321
    created:
      description: When it was made.
      type: str
      sample: "2026-11-24T08:00:00.123456789Z"
config:
  description: The digest of its configuration, which is one of the files. V(null) in check mode, where nothing was written.
  returned: success
  type: str
  sample: sha256:0f6f1b5d0c8a7a9b6f0d2c3e4a5b6c7d8e9f0a1b2c3d4e5f60718293a4b5c6d7
written:
  description: The size of what lies in the directory, in bytes.
  returned: success
  type: int
  sample: 89128960
actions:
  description: What was done, or would be in check mode, one sentence each.
  returned: success
  type: list
  elements: str
  sample: ["Wrote 1 of 6 layers of \"kindest/node:main\" to \"/var/tmp/node-image\""]
"""

import contextlib
import hashlib
import json
import os
import tarfile
import tempfile
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nodeforge.kind.plugins.module_utils import _image_archive
from ansible_collections.nodeforge.kind.plugins.module_utils import _node_image as node
from ansible_collections.nodeforge.kind.plugins.module_utils._docker import (
    CHUNK,
    DOCKER_ARGS,
    Engine,
    EngineError,
    Reader,
)
from ansible_collections.nodeforge.kind.plugins.module_utils._signals import Interrupted, interruptible

CONFIG = "config"


class Exporter:
    """Writes an image into a directory, if needed."""

    def __init__(self, module: AnsibleModule, engine: Engine) -> None:
        self.module, self.engine = module, engine
        self.image: str = module.params["image"]
        self.path: str = module.params["path"]
        self.blobs = os.path.join(self.path, "blobs", "sha256")

    def run(self) -> dict[str, t.Any]:
        image = self.engine.image(self.image)
        if image is None:
            raise EngineError(f'There is no image "{self.image}" at {self.engine.host}: build it or name another one')
        facts = node.image_facts(image)
        layers: list[str] = facts["layers"]
        wanted: list[str] = layers if self.module.params["layers"] is None else self.module.params["layers"]
        strange = [layer for layer in wanted if layer not in layers]
        if strange:
            raise EngineError(f'The image "{self.image}" has no layer {strange[0]}: look again which ones are wanted, it may have changed')
        config = self._config(image["Id"])
        lacking = [layer for layer in wanted if not self._has(layer)]
        changed = config is None or bool(lacking) or bool(self._others([config or "", *wanted]))
        actions = []
        if changed:
            actions.append(f'Wrote {len(wanted)} of {len(layers)} layers of "{self.image}" to "{self.path}"')
            if not self.module.check_mode:
                try:
                    config = self._write(image["Id"], layers, set(lacking), config)
                    for name in self._others([config, *wanted]):
                        os.unlink(os.path.join(self.blobs, name))
                except OSError as e:
                    hint = "free space there" if e.errno in (28, 122) else "choose a directory that you may write to"
                    raise EngineError(f'The directory "{self.path}" cannot be written: {e.strerror or e}; {hint} and run again') from e
        names = os.listdir(self.blobs) if os.path.isdir(self.blobs) else []
        return {
            "changed": changed,
            "actions": actions,
            "image": {key: facts[key] for key in ("id", "layers", "size", "created")},
            "config": config,
            "written": sum(os.stat(os.path.join(self.blobs, name)).st_size for name in names),
        }

    def _file(self, digest: str) -> str:
        return os.path.join(self.blobs, digest.partition(":")[2])

    def _has(self, digest: str) -> bool:
        return os.path.exists(self._file(digest))

    def _others(self, wanted: list[str]) -> list[str]:
        """Files that are not wanted, and what an interrupted run left."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(set(os.listdir(self.blobs)) - {digest.partition(":")[2] for digest in wanted})
        return []

    def _config(self, image: str) -> str | None:
        """The digest of the configuration, where it is there: most engines have it as the image's id, others note it beside."""
        if self._has(image):
            return image
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            with open(os.path.join(self.path, CONFIG), encoding="utf-8") as file:
                noted = json.load(file)
            if noted["image"] == image and self._has(noted["config"]):
                return noted["config"]
        return None

    def _write(self, image: str, layers: list[str], lacking: set[str], config: str | None) -> str:
        """Takes the engine's export apart as it comes. What a member is, its digest tells, as their names differ by the engine's version."""
        os.makedirs(self.blobs, exist_ok=True)
        documents: dict[str, bytes] = {}
        left = set(lacking)
        if left or config is None:
            stream = self.engine.export(image)
            with contextlib.closing(stream), tarfile.open(fileobj=t.cast(t.Any, Reader(stream)), mode="r|") as archive:
                for member in archive:
                    file = archive.extractfile(member) if member.isfile() else None
                    if file is None:
                        continue
                    named = "sha256:" + os.path.basename(member.name)
                    if named in layers and named not in left:
                        continue  # newer engines tell a layer's digest: one that nobody wants need not be read
                    if member.size <= _image_archive.MAX_DOCUMENT:
                        data = file.read()
                        documents[member.name] = data
                        digest = "sha256:" + hashlib.sha256(data).hexdigest()
                        if digest in left:
                            self._keep(digest, [data])
                            left.discard(digest)
                    else:
                        left.discard(self._keep(None, iter(lambda file=file: file.read(CHUNK), b""), left))
            if left:
                raise EngineError(f'The engine at {self.engine.host} did not export the layer {min(left)} of "{self.image}": run again')
            try:
                (listed,) = json.loads(documents["manifest.json"])
                data = documents[listed["Config"]]
                if json.loads(data)["rootfs"]["diff_ids"] != layers:
                    raise ValueError("layers")
            except (*_image_archive.NONSENSE,) as e:
                raise EngineError(f'What the engine at {self.engine.host} exports of "{self.image}" makes no sense: it is too new for this collection') from e
            config = "sha256:" + hashlib.sha256(data).hexdigest()
            self._keep(config, [data])
            if config != image:
                with open(os.path.join(self.path, CONFIG), "w", encoding="utf-8") as note:
                    json.dump({"image": image, "config": config}, note)
        return t.cast(str, config)

    def _keep(self, digest: str | None, chunks: t.Iterable[bytes], wanted: t.Container[str] = ()) -> str:
        """Writes a file under its digest: the given one, or if it is wanted, the one that it turns out to have."""
        found = hashlib.sha256()
        handle, temporary = tempfile.mkstemp(dir=self.blobs, prefix=".new-")
        try:
            with open(handle, "wb") as file:
                os.fchmod(handle, 0o644)
                for chunk in chunks:
                    found.update(chunk)
                    file.write(chunk)
            told = "sha256:" + found.hexdigest()
            if told == digest or told in wanted:
                os.replace(temporary, self._file(told))
            return told
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def main() -> None:
    """Runs the module."""
    module = AnsibleModule(
        argument_spec={
            **DOCKER_ARGS,
            "image": {"type": "str", "required": True},
            "path": {"type": "path", "required": True},
            "layers": {"type": "list", "elements": "str"},
        },
        supports_check_mode=True,
    )
    try:
        engine = Engine(module)
        with interruptible():
            try:
                result = Exporter(module, engine).run()
            except Interrupted as e:
                module.fail_json(msg=f"Interrupted by {e}: what is complete stays for the next run")
    except (EngineError, node.BadInput) as e:
        module.fail_json(msg=str(e))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
