# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds the helpers of the other tests."""

from __future__ import annotations

import pathlib
import sys

for place in ("integration", ""):
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / place))
