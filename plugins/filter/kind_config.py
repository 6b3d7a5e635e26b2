# Copyright (c) 2026, nodeforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: kind_config
short_description: The configuration of a kind cluster from a few wishes
version_added: 1.1.0
author: nodeforge contributors (@nodeforge)
description:
  - Makes a configuration for M(nodeforge.kind.kind_cluster) from a dictionary of wishes. It knows how each is told to kind, and which versions
    of kubeadm want it in which way.
positional: _input
options:
  _input:
    description:
      - The wishes, all of them optional.
      - C(control_planes) (1) and C(workers) (0) - how many nodes. More than one control plane needs kind's image of a load balancer.
      - C(feature_gates) and C(runtime_config) - dictionaries.
      - C(verbosity) - the log level of the control plane and of the kubelets.
      - C(admission_plugins) - a list, beside those that Kubernetes enables by itself.
      - C(port_mappings) and C(debug_ports) - lists of C(HOST:NODE), of one number for both, or of kind's own dictionaries. They are published by
        the first node, on 127.0.0.1.
      - C(cgroup_v1) - lets kubelets of Kubernetes 1.35 and newer run where there is only cgroup v1.
      - C(replaced_images) - a dictionary of images that kubeadm asks for, each with the one that the node image has instead.
      - C(kubeadm_patches) - a list of further patches, text or dictionaries.
      - C(config) - a configuration to begin with. Nodes in it are kept, and counts are ignored then.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Have a cluster that is talkative
  nodeforge.kind.kind_cluster:
    config: "{{ {'workers': 1, 'verbosity': 4, 'port_mappings': ['8080:80']} | nodeforge.kind.kind_config }}"
"""

RETURN = r"""
_value:
  description: The configuration, for O(nodeforge.kind.kind_cluster#module:config).
  type: dict
  sample: {nodes: [{role: control-plane}, {role: worker}]}
"""

import collections.abc as c
import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.nodeforge.kind.plugins.module_utils._kind import BadInput, cluster_config


def kind_config(wishes: t.Any) -> dict[str, t.Any]:
    """A configuration from wishes."""
    if not isinstance(wishes, c.Mapping):
        raise AnsibleFilterError("kind_config wants a dictionary of wishes")
    try:
        return cluster_config(dict(wishes))
    except (BadInput, ValueError) as e:
        raise AnsibleFilterError(str(e)) from e


class FilterModule:
    """The filter."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"kind_config": kind_config}
