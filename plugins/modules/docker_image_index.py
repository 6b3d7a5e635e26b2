#!/usr/bin/python
# Copyright (c) 2026, nodeforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: docker_image_index
short_description: Publish one name for the images of several platforms
version_added: 1.1.0
author: nodeforge contributors (@nodeforge)
description:
  - Puts an OCI image index into a registry, under whose name each client finds the image of its own platform.
  - The images are in the same repository already, where M(nodeforge.kind.docker_image_push) has pushed them. Each is looked at there first. Unless all
    of them are there, and each is for the platform that it is given for, nothing is published.
  - The registry is asked for the digest afterwards.
  - It speaks to the registry itself, with no container engine.
extends_documentation_fragment:
  - nodeforge.kind._attributes
  - nodeforge.kind._attributes.actiongroup_kind
attributes:
  check_mode:
    support: full
    details:
      - The images are looked at, too, so one that is missing fails in check mode as well.
  diff_mode:
    support: full
    details:
      - Shows the digest of what the name is.
  idempotent:
    support: full
    details:
      - By digest. The same images make the same index.
options:
  name:
    description: The name of the index in the registry, such as V(registry.example.com/team/node:main).
    type: str
    required: true
  images:
    description:
      - Platform to digest of its image, such as C(linux/amd64) to C(sha256:0f6f1b...), as M(nodeforge.kind.docker_image_push) returns it in
        RV(nodeforge.kind.docker_image_push#module:digest).
      - A platform without a digest is one that is missing. It is named, and nothing is published.
    type: dict
    required: true
  credentials:
    description:
      - Users of registries. Without an entry for the registry, those that C(docker login) left in O(docker_config) are used.
      - They go only over TLS, or to this very machine.
    type: list
    elements: dict
    default: []
    suboptions:
      registry:
        description: The registry, with its port if it has one.
        type: str
        required: true
      username:
        description: The user.
        type: str
        required: true
      password:
        description: The password or access token.
        type: str
        required: true
  docker_config:
    description:
      - The directory on the build host with the C(config.json) that C(docker login) writes.
      - The default is E(DOCKER_CONFIG), or V(~/.docker). Empty means none.
    type: path
    default: ~/.docker
  ca_file:
    description: A file on the build host with certificates of authorities in PEM format, to be trusted besides those that it trusts already.
    type: path
  insecure:
    description: Speak to the registry without TLS. That is so anyway for one of this very machine.
    type: bool
    default: false
seealso:
  - module: nodeforge.kind.docker_image_push
"""

EXAMPLES = r"""
- name: One name for both platforms
  nodeforge.kind.docker_image_index:
    name: registry.example.com/team/node:main
    images:
      linux/amd64: "{{ pushed_amd64.digest }}"
      linux/arm64: "{{ pushed_arm64.digest }}"
"""

RETURN = r"""
digest:
  description: The digest of the index.
  returned: success
  type: str
  sample: sha256:6b5c4d3e2f1a0f9e8d7c6b5a493827160f5e4d3c2b1a09f8e7d6c5b4a3928170
images:
  description: Platform to digest of what the index names.
  returned: success
  type: dict
  sample: {linux/amd64: "sha256:0f6f1b5d0c8a7a9b6f0d2c3e4a5b6c7d8e9f0a1b2c3d4e5f60718293a4b5c6d7"}
actions:
  description: What was done, or would be in check mode, one sentence each.
  returned: success
  type: list
  elements: str
  sample: ["Published \"registry.example.com/team/node:main\" for linux/amd64 and linux/arm64"]
diff:
  description: The digest, before and after.
  returned: in diff mode
  type: dict
  sample:
    before: {digest: null}
    after: {digest: "sha256:6b5c4d3e2f1a0f9e8d7c6b5a493827160f5e4d3c2b1a09f8e7d6c5b4a3928170"}
"""

import hashlib
import json
import re
import typing as t

from ansible.module_utils.basic import AnsibleModule, env_fallback
from ansible_collections.nodeforge.kind.plugins.module_utils import _node_image as node
from ansible_collections.nodeforge.kind.plugins.module_utils import _registry as registry
from ansible_collections.nodeforge.kind.plugins.module_utils._docker import EngineError
from ansible_collections.nodeforge.kind.plugins.module_utils._image_archive import split_platform

INDEX = "application/vnd.oci.image.index.v1+json"


def index_of(manifests: dict[str, tuple[str, str, int]]) -> bytes:
    """The document for platform to media type, digest and size, the same for the same images."""
    entries = []
    for platform, (kind, digest, size) in sorted(manifests.items()):
        os_name, arch, variant = split_platform(platform)
        described = {"architecture": arch, "os": os_name, **({"variant": variant} if variant else {})}
        entries.append({"mediaType": kind, "digest": digest, "size": size, "platform": described})
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}, separators=(",", ":")).encode()


class Publisher:
    """Publishes an index, if needed."""

    def __init__(self, module: AnsibleModule) -> None:
        params = module.params
        self.module = module
        reference = node.parse_reference(params["name"], "index")
        if reference.digest:
            raise node.BadInput(f'The name "{params["name"]}" has a digest, which the index gives itself: write NAME:TAG')
        self.name, self.tag = str(reference), t.cast(str, reference.tag)
        self.images: dict[str, str] = params["images"]
        self._check_images()
        given = {registry.registry_name(entry["registry"]): registry.Credentials(entry["username"], entry["password"]) for entry in params["credentials"]}
        logins = registry.Logins(given, params["docker_config"], self._ask_helper, module.warn)
        self.repository = registry.Repository(reference.registry, reference.path, logins, params["ca_file"], params["insecure"])

    def _ask_helper(self, command: list[str], text: str) -> tuple[int, str, str]:
        return self.module.run_command(command, data=text, expand_user_and_vars=False)

    def _check_images(self) -> None:
        for platform, digest in self.images.items():
            if not re.fullmatch(r"[a-z0-9]+(/[a-z0-9]+){1,2}", platform):
                raise node.BadInput(f'images names the platform "{platform}", which is none: write it like linux/arm64')
            if digest and not re.fullmatch(r"sha256:[0-9a-f]{64}", str(digest)):
                raise node.BadInput(f'images gives "{digest}" for {platform}, which is no digest: give what docker_image_push returns')
        missing = [platform for platform, digest in self.images.items() if not digest]
        if missing or not self.images:
            what = f"the image for {' and that for '.join(missing)} is missing" if missing else "there are no images"
            raise node.BadInput(f'"{self.name}" is not published, because {what}: build and push it first')

    def run(self) -> dict[str, t.Any]:
        manifests = {platform: self._manifest(platform, digest) for platform, digest in self.images.items()}
        index = index_of(manifests)
        digest = f"sha256:{hashlib.sha256(index).hexdigest()}"
        before = self._published()
        actions = []
        if before != digest:
            actions.append(f'Published "{self.name}" for {" and ".join(sorted(manifests))}')
            if not self.module.check_mode:
                self.repository.request("PUT", f"manifests/{self.tag}", data=index, headers={"Content-Type": INDEX})
                after = self._published()
                if after != digest:
                    raise EngineError(f'"{self.name}" has the digest {after} after {digest} was published: somebody else publishes there, too; run again')
        result: dict[str, t.Any] = {"changed": bool(actions), "actions": actions, "digest": digest, "images": self.images}
        if self.module._diff:
            result["diff"] = {"before": {"digest": before}, "after": {"digest": digest}}
        return result

    def _manifest(self, platform: str, digest: str) -> tuple[str, str, int]:
        """Media type, digest and size of an image that is in the repository, for the platform, with all that it consists of."""
        found = self.repository.request("GET", f"manifests/{digest}", headers={"Accept": registry.MANIFESTS})
        if found is None:
            raise EngineError(f'"{self.name}" is not published, because its image for {platform}, {digest}, is not in the registry: push it there first')
        if hashlib.sha256(found.body).hexdigest() != digest.partition(":")[2]:
            raise EngineError(f'"{self.name}" is not published, because the registry gives something else for {digest}: push the image again')
        manifest = json.loads(found.body)
        if "config" not in manifest:
            raise node.BadInput(f'"{self.name}" is not published, because {digest} is no image but an index itself: give the image of {platform}')
        config = self.repository.request("GET", f"blobs/{manifest['config']['digest']}")
        told = json.loads(config.body) if config else {}
        made_for = "/".join(part for part in (told.get("os"), told.get("architecture"), told.get("variant")) if part)
        if split_platform(made_for or "/") != split_platform(platform):
            raise node.BadInput(
                f'"{self.name}" is not published, because {digest} is for {made_for or "no platform"} and not for {platform}: give the image of that platform'
            )
        return manifest.get("mediaType") or found.kind, digest, len(found.body)

    def _published(self) -> str | None:
        """What the registry has under the name."""
        found = self.repository.request("GET", f"manifests/{self.tag}", headers={"Accept": registry.MANIFESTS})
        return f"sha256:{hashlib.sha256(found.body).hexdigest()}" if found else None


def main() -> None:
    """Runs the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "images": {"type": "dict", "required": True},
            "credentials": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "registry": {"type": "str", "required": True},
                    "username": {"type": "str", "required": True},
                    "password": {"type": "str", "required": True, "no_log": True},
                },
            },
            "docker_config": {"type": "path", "default": "~/.docker", "fallback": (env_fallback, ["DOCKER_CONFIG"])},
            "ca_file": {"type": "path"},
            "insecure": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        result = Publisher(module).run()
    except (EngineError, node.BadInput) as e:
        module.fail_json(msg=str(e))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
