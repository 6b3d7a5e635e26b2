# Copyright (c) 2026, nodeforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tells what becomes of kube_component_swap where the connection breaks. All options are documented in the module."""

from __future__ import annotations

from ansible_collections.nodeforge.kind.plugins.plugin_utils._lost import LostActionBase


class ActionModule(LostActionBase):
    """The module of the same name."""

    WHAT = "the nodes know what was replaced in them, and the next run goes on from there"
