# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.nodeforge.kind.plugins.plugin_utils._live_log import _split


@pytest.mark.parametrize(
    "lines, about, log",
    [
        (["/tmp/x.log", "", "+++ Building"], ["/tmp/x.log", ""], ["+++ Building"]),
        (["/tmp/x.log", "waits for another"], ["/tmp/x.log", "waits for another"], []),
        ([], [], []),
        # broken off
        (["/tmp/x.log"], [], []),
        (["/tmp"], [], []),
    ],
)
def test_split(lines: list[str], about: list[str], log: list[str]) -> None:
    assert _split(lines) == (about, log)
