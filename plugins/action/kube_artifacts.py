# Copyright (c) 2026, nodeforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shows how far a download is while kube_artifacts runs. All options are documented in the module."""

from __future__ import annotations

from ansible_collections.nodeforge.kind.plugins.plugin_utils._live_log import LiveLogActionBase


class ActionModule(LiveLogActionBase):
    """The module of the same name, with live progress."""

    # its own option is the patience with a silent server, and a slow line may take hours
    JOB_LIMIT = 7 * 24 * 3600
