# Copyright (c) 2026, nodeforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this doc fragment is **PRIVATE** to the collection. It can change at any time.

from __future__ import annotations


class ModuleDocFragment:
    # What each attribute means; every module says for itself how far it supports them.
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and says truthfully what would change, without changing it.
  diff_mode:
    description: Returns details on what has changed (or would, in C(check_mode)) when in diff mode.
  idempotent:
    description: Run twice in a row with the same input, the second run changes nothing and says so.
"""

    # Membership of the action group, for module_defaults.
    ACTIONGROUP_KIND = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/nodeforge.kind.kind) in C(module_defaults) to set defaults for all modules of this collection.
    support: full
    membership:
      - nodeforge.kind.kind
"""
