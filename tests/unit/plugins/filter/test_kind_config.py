# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter hands wishes on, and its errors are Ansible's."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.nodeforge.kind.plugins.filter.kind_config import FilterModule

kind_config = FilterModule().filters()["kind_config"]


def test_wishes() -> None:
    assert kind_config({"workers": "1"}) == {"nodes": [{"role": "control-plane"}, {"role": "worker"}]}


@pytest.mark.parametrize(("wishes", "said"), [([], "dictionary"), ({"workers": "many"}, "many"), ({"nodes": 1}, "no preset"), ({"verbosity": "x"}, "'x'")])
def test_errors(wishes: object, said: str) -> None:
    with pytest.raises(AnsibleFilterError, match=said):
        kind_config(wishes)
