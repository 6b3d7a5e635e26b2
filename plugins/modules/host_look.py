#!/usr/bin/python
# Copyright (c) 2026, nodeforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_look
short_description: Ask a host something by a shell script, without starting Python there
version_added: 1.1.0
author: nodeforge contributors (@nodeforge)
description:
  - Runs a script that only looks, and returns what it prints. It takes a tenth of the time of a module, as no Python is started on the host.
  - Without O(script), it returns the few facts that the roles of this collection need.
extends_documentation_fragment:
  - nodeforge.kind._attributes
  - nodeforge.kind._attributes.actiongroup_kind
attributes:
  check_mode:
    support: full
    details:
      - The script runs in check mode, too. It must not change anything.
  diff_mode:
    support: none
    details:
      - Nothing is changed.
  idempotent:
    support: full
options:
  script:
    description:
      - The script. It comes by standard input, and what it runs has none.
      - Without it, the facts C(system), C(architecture), C(user_id), C(effective_user_id), C(user_dir), C(env) and C(python.executable) are gathered.
        Where C(ansible_python_interpreter) is no path, or the host has no C(getent), ansible.builtin.setup gathers them with its smallest subset.
    type: str
  arguments:
    description: The script's arguments. They are never taken for a part of it.
    type: list
    elements: str
    default: []
  executable:
    description: The shell that runs it.
    type: str
    default: /bin/sh
notes:
  - The module is an action; it has no part that runs on the host.
seealso:
  - module: ansible.builtin.raw
  - module: ansible.builtin.setup
"""

EXAMPLES = r"""
- name: Gather the few facts that are needed
  nodeforge.kind.host_look:

- name: Look which files are there
  nodeforge.kind.host_look:
    script: for file; do [ -e "$file" ] && echo "$file"; done; true
    arguments: [/kind/version, /etc/crictl.yaml]
  register: seen
"""

RETURN = r"""
stdout:
  description: What the script printed.
  returned: with O(script)
  type: str
  sample: "/kind/version\n"
stdout_lines:
  description: The same in lines.
  returned: with O(script)
  type: list
  elements: str
  sample: ["/kind/version"]
stderr:
  description: What it printed as errors.
  returned: with O(script)
  type: str
  sample: ""
rc:
  description: Its exit status. The task fails where that is not 0.
  returned: with O(script)
  type: int
  sample: 0
ansible_facts:
  description: The facts.
  returned: without O(script)
  type: dict
  sample: {"system": "Linux", "architecture": "x86_64", "effective_user_id": 1000, "user_dir": "/home/builder"}
"""
