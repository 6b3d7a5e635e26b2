# Copyright (c) 2026, nodeforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: launch_json
short_description: A launch.json of Visual Studio Code with one more configuration
version_added: 1.1.0
author: nodeforge contributors (@nodeforge)
description:
  - Adds a configuration to the text of a C(launch.json), or updates the one of the same name. All else, comments too, stays as it is, byte for byte.
positional: _input, entry
options:
  _input:
    description: The text, which may have comments and trailing commas. Empty for a new file.
    type: str
    required: true
  entry:
    description: The configuration, with a C(name).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Have an entry for the kubelet
  ansible.builtin.copy:
    content: "{{ lookup('ansible.builtin.file', '.vscode/launch.json', rstrip=false) | nodeforge.kind.launch_json(entry) }}"
    dest: .vscode/launch.json
    mode: "0644"
  vars:
    entry: {name: kubelet, type: go, request: attach, mode: remote, host: 127.0.0.1, port: 2345}
"""

RETURN = r"""
_value:
  description: The text.
  type: str
  sample: '{"version": "0.2.0", "configurations": []}'
"""

import collections.abc as c
import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.nodeforge.kind.plugins.module_utils._debug import merge_launch
from ansible_collections.nodeforge.kind.plugins.module_utils._kind import BadInput


def launch_json(text: t.Any, entry: t.Any) -> str:
    """A launch.json with that configuration in it."""
    if not isinstance(entry, c.Mapping) or "name" not in entry:
        raise AnsibleFilterError("launch_json wants a configuration with a name")
    try:
        return merge_launch(str(text), {str(key): value for key, value in entry.items()})
    except BadInput as e:
        raise AnsibleFilterError(f"The launch.json cannot be merged with, as {e}") from e


class FilterModule:
    """The filter."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"launch_json": launch_json}
