# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this plugin util is **PRIVATE** to the collection. It can change at any time.
"""What a user is told where the connection to a host breaks while a long module runs there."""

from __future__ import annotations

import contextlib
import typing as t

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action.normal import ActionModule as NormalAction
from ansible_collections.nodeforge.kind.plugins.plugin_utils._in_process import InProcessActionBase


def lost(name: str, action: str, error: Exception, what: str) -> AnsibleConnectionFailure:
    """One sentence. What Ansible says alone tells neither what ran nor what to do now."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "Warning: Permanently added" not in line]
    why = (lines[0] if lines else "it was silent").rstrip(".")
    return AnsibleConnectionFailure(f"The connection to {name} broke off in {action} ({why}): see that {name} can be reached, and run this again; {what}")


@contextlib.contextmanager
def explained(name: str, action: str, what: str) -> t.Iterator[None]:
    """Has a connection that fails be told of so. ``what`` becomes of that which runs on the host."""
    try:
        yield
    except AnsibleConnectionFailure as e:
        # with its cause, Ansible would show both
        raise lost(name, action, e, what) from None


class LostActionBase(InProcessActionBase, NormalAction):
    """Runs the module of the same name, as Ansible itself does."""

    WHAT = ""

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        with explained((task_vars or {}).get("inventory_hostname", "the host"), self._task.action, self.WHAT):
            return super().run(tmp, task_vars)
