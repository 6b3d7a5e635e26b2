#!/usr/bin/python
# Copyright (c) 2026, nodeforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: docker_image_push
short_description: Have an image in a registry
version_added: 1.1.0
author: nodeforge contributors (@nodeforge)
description:
  - Pushes an image of the engine to a registry under any name, unless that names this very image already. Layers that the registry has are not sent.
  - The registry is asked for the digest afterwards. As with C(docker push), the image has that name in the engine, too, where the engine remembers
    the digest; after a failure the name is what it was before.
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
      - Shows the digest of what the name in the registry is; check mode cannot know the new one beforehand and gives V(unknown).
  idempotent:
    support: full
    details:
      - The engine remembers under which digest it pushed or pulled an image. An image that came into a registry by another way is pushed once more,
        which moves nothing.
options:
  image:
    description: The image, by name or id.
    type: str
    required: true
  destination:
    description: Its name in the registry, such as V(registry.example.com/team/node:main).
    type: str
    required: true
  credentials:
    description:
      - Users of registries. Without an entry for the registry, those that C(docker login) left in O(docker_config) are used.
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
seealso:
  - module: nodeforge.kind.docker_commit
"""

EXAMPLES = r"""
- name: Give the node image to the team
  nodeforge.kind.docker_image_push:
    image: kindest/node:main
    destination: registry.example.com/team/node:main
    credentials:
      - registry: registry.example.com
        username: builder
        password: "{{ vault_registry_password }}"
"""

RETURN = r"""
id:
  description: The image's id in the engine.
  returned: success
  type: str
  sample: sha256:0f6f1b5d0c8a7a9b6f0d2c3e4a5b6c7d8e9f0a1b2c3d4e5f60718293a4b5c6d7
digest:
  description: The digest that O(destination) has in the registry now; V(null) for none.
  returned: success
  type: str
  sample: sha256:6b5c4d3e2f1a0f9e8d7c6b5a493827160f5e4d3c2b1a09f8e7d6c5b4a3928170
actions:
  description: What was done, or would be in check mode, one sentence each.
  returned: success
  type: list
  elements: str
  sample: ["Pushed \"kindest/node:main\" to \"registry.example.com/team/node:main\""]
diff:
  description: The digest, before and after.
  returned: in diff mode
  type: dict
  sample: {before: {digest: null}, after: {digest: unknown}}
"""

import contextlib
import typing as t

from ansible.module_utils.basic import AnsibleModule, env_fallback
from ansible_collections.nodeforge.kind.plugins.module_utils import _node_image as node
from ansible_collections.nodeforge.kind.plugins.module_utils import _registry as registry
from ansible_collections.nodeforge.kind.plugins.module_utils._docker import (
    DOCKER_ARGS,
    Engine,
    EngineError,
)
from ansible_collections.nodeforge.kind.plugins.module_utils._signals import Interrupted, deferred, interruptible


class Pusher:
    """Pushes an image, if needed."""

    def __init__(self, module: AnsibleModule, engine: Engine) -> None:
        params = module.params
        self.module, self.engine = module, engine
        reference = node.parse_reference(params["destination"], "destination")
        if reference.digest:
            raise node.BadInput(f'The destination "{params["destination"]}" has a digest, which the registry gives itself: write NAME:TAG')
        self.repository: str = reference.familiar
        self.tag: str = t.cast(str, reference.tag)
        self.name = f"{self.repository}:{self.tag}"
        self.host: str = reference.registry
        given = {registry.registry_name(entry["registry"]): registry.Credentials(entry["username"], entry["password"]) for entry in params["credentials"]}
        logins = registry.Logins(given, params["docker_config"], self._ask_helper, module.warn)
        self.credentials = logins.find(self.host)
        self.auth = {"username": self.credentials.username, "password": self.credentials.password} if self.credentials else {}

    def _ask_helper(self, command: list[str], text: str) -> tuple[int, str, str]:
        return self.module.run_command(command, data=text, expand_user_and_vars=False)

    def run(self) -> dict[str, t.Any]:
        wanted: str = self.module.params["image"]
        image = self.engine.image(wanted)
        if image is None:
            raise EngineError(f'There is no image "{wanted}" at {self.engine.host}: build it or name another one')
        before = self._digest()
        known = {digest.partition("@")[2] for digest in image["RepoDigests"] or [] if digest.partition("@")[0] == self.repository}
        after = before
        actions = []
        if before is None or before not in known:
            actions.append(f'Pushed "{wanted}" to "{self.name}"')
            if not self.module.check_mode:
                pushed = self._push(image["Id"])
                after = self._digest()
                if pushed and after != pushed:
                    raise EngineError(f'"{self.name}" has the digest {after} after {pushed} was pushed: somebody else pushes there, too; run again')
        result = {"changed": bool(actions), "actions": actions, "id": image["Id"], "digest": after}
        if self.module._diff:
            result["diff"] = {"before": {"digest": before}, "after": {"digest": "unknown" if actions and self.module.check_mode else after}}
        return result

    def _digest(self) -> str | None:
        """What the registry has under the name, asked by the engine, which reaches it as it does for a push."""
        try:
            with self.engine.explained(f'Looking for "{self.name}"'):
                return self.engine.api.inspect_distribution(self.name, auth_config=self.auth)["Descriptor"]["digest"]
        except EngineError as e:
            text = str(e)
            # some registries say so of a repository that is not there yet, too; a push tells
            if any(words in text for words in ("manifest unknown", "not found", "no such manifest", "name unknown", "denied", "nauthorized")):
                return None
            raise EngineError(self._reason(text)) from e

    def _push(self, image: str) -> str:
        had = self.engine.image(self.name)
        digest = ""
        with deferred(), self.engine.explained(f'Tagging the image as "{self.name}"'):
            self.engine.api.tag(image, self.repository, self.tag)
        try:
            with self.engine.explained(f'Pushing "{self.name}"'):
                for message in self.engine.api.push(self.repository, self.tag, stream=True, decode=True, auth_config=self.auth):
                    if "error" in message:
                        raise EngineError(self._reason(message["error"]))
                    digest = (message.get("aux") or {}).get("Digest", digest)
        finally:
            if not digest:
                with contextlib.suppress(EngineError), deferred(), self.engine.explained("Restoring the name"):
                    if had:
                        self.engine.api.tag(had["Id"], self.repository, self.tag)
                    else:
                        self.engine.api.remove_image(self.name, noprune=True)
        return digest

    def _reason(self, error: str) -> str:
        cause = registry.cause_of(error)
        if self.credentials and ("401" in error or "nauthorized" in error):
            return registry.refused(self.host, self.credentials)
        remedy = cause.remedy
        if "HTTP response to HTTPS client" in error:
            remedy = f"add {self.host} to insecure-registries of the engine, or give the registry a certificate"
        return f'"{self.name}" cannot be pushed: {cause.text}; {remedy}'


def main() -> None:
    """Runs the module."""
    module = AnsibleModule(
        argument_spec={
            **DOCKER_ARGS,
            "image": {"type": "str", "required": True},
            "destination": {"type": "str", "required": True},
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
        },
        supports_check_mode=True,
    )
    try:
        engine = Engine(module)
        with interruptible():
            try:
                result = Pusher(module, engine).run()
            except Interrupted as e:
                module.fail_json(msg=f"Interrupted by {e}: layers that have arrived in the registry are not sent again")
    except (EngineError, node.BadInput) as e:
        module.fail_json(msg=str(e))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
