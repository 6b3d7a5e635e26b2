# Copyright (c) 2026, nodeforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Asks a host something by a shell script. All options are documented in the module."""

from __future__ import annotations

import os
import shlex
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# What roles need of a host: lines of a name and a value, and after an empty line the environment.
FACTS = """
set -e
user=$(getent passwd "$(id -u)")
printf '%s\\n' "system $(uname -s)" "architecture $(uname -m)" "user_id $(id -un)" "effective_user_id $(id -u)" \\
  "user_dir $(printf %s "$user" | cut -d: -f6)" ''
env -0
"""


class ActionModule(ActionBase):
    """Runs the script over the task's connection, privileges included, and no Python there."""

    _requires_connection = True
    _supports_check_mode = True
    _supports_diff = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        super().run(tmp, task_vars)
        dummy, options = self.validate_argument_spec(
            {
                "script": {"type": "str"},
                "arguments": {"type": "list", "elements": "str", "default": []},
                "executable": {"type": "str", "default": "/bin/sh"},
            },
        )
        if options["script"] is None:
            return self._facts(task_vars or {})
        return {"changed": False, **self._ask(options["script"], options["arguments"], options["executable"])}

    def _ask(self, script: str, arguments: list[str], executable: str) -> dict[str, t.Any]:
        # read as a whole before the first line runs, so that no program takes the rest for its input
        whole = f"{{\n{script}\n}} </dev/null\n"
        environment = self._compute_environment_string()
        if self._connection.has_pipelining:
            words, stdin = [executable, "-s", "--", *arguments], whole.encode()
        else:
            words, stdin = [executable, "-c", whole, "sh", *arguments], None
        answer = self._low_level_execute_command(f"{environment} {shlex.join(words)}".strip(), in_data=stdin, executable="/bin/sh")
        if answer["rc"]:
            last = ([line for line in answer["stderr_lines"] if line.strip()] or ["it said nothing"])[-1]
            answer.update(failed=True, msg=f"The look at the host ended with status {answer['rc']}: {last}")
        return answer

    def _facts(self, task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        """The facts that take no Python, where its place is known; all of the smallest set of ansible.builtin.setup elsewhere."""
        python = str(self._templar.template(task_vars.get("ansible_python_interpreter") or ""))
        answer = self._ask(FACTS, [], "/bin/sh") if os.path.isabs(python) else {"failed": True}
        if answer.get("failed"):
            return self._execute_module("ansible.legacy.setup", {"gather_subset": ["min"]}, task_vars=task_vars)
        lines, _separator, environment = answer["stdout"].partition("\n\n")
        facts: dict[str, t.Any] = dict(line.split(" ", 1) for line in lines.splitlines())
        facts["effective_user_id"] = int(facts["effective_user_id"])
        facts["env"] = dict(entry.split("=", 1) for entry in environment.split("\0") if "=" in entry)
        facts["python"] = {"executable": python}
        if not facts["user_dir"]:
            raise AnsibleActionFail(f"The user {facts['user_id']} has no home directory on {task_vars.get('inventory_hostname')}: give it one")
        return {"changed": False, "ansible_facts": facts}
