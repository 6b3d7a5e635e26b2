# Copyright (c) 2026, nodeforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shows how far a download is while kube_artifacts runs. All options are documented in the module."""

from __future__ import annotations

import typing as t

from ansible_collections.nodeforge.kind.plugins.module_utils._alive import QUICK_VARIABLE
from ansible_collections.nodeforge.kind.plugins.plugin_utils._live_log import LiveLogActionBase


class ActionModule(LiveLogActionBase):
    """The module of the same name, with live progress."""

    # its own option is the patience with a silent server, and a slow line may take hours
    JOB_LIMIT = 7 * 24 * 3600
    WHAT = "what has arrived there is not loaded again"

    def _answer(self, task_vars: dict[str, t.Any]) -> dict[str, t.Any] | None:
        """For real, up to where it would take long: what a server says has to be remembered even where nothing changes."""
        result = self._execute_with({QUICK_VARIABLE: "1"}, task_vars=task_vars)
        return None if result.get("long") else result
