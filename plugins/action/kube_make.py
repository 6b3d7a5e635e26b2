# Copyright (c) 2026, nodeforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shows what make says while kube_make runs. All options are documented in the module."""

from __future__ import annotations

from ansible_collections.nodeforge.kind.plugins.plugin_utils._live_log import LiveLogActionBase


class ActionModule(LiveLogActionBase):
    """The module of the same name, with live progress."""

    WHAT = "a compile that had begun there goes on and is taken over"
