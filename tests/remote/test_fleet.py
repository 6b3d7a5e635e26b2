# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""build_node over several hosts ends in one table, whatever became of each."""

from __future__ import annotations

import json
import re
import typing as t

from remote.conftest import Player
from remote.lab import Lab

COLUMNS = ["host", "platform", "id", "host and base", "compile", "add-ons", "assembly", "transport", "state"]


def rows(output: str) -> dict[str, dict[str, str]]:
    """The one table of a play, by host."""
    (lines,) = re.findall(r'TASK \[Table\].*?"msg": (\[.*?\])', output, re.S)
    head, *body = json.loads(lines)
    assert re.split(" {2,}", head) == COLUMNS
    table = [dict(zip(COLUMNS, re.split(" {2,}", line), strict=True)) for line in body]
    return {row["host"]: row for row in table}


def build(play: Player, hosts: dict[str, dict[str, t.Any]], **variables: t.Any) -> t.Any:
    return play("nodeforge.kind.build_node", hosts, check=False, target="all", build_host_kind_version="", build_host_tools={}, **variables)


def test_failures_have_their_place(lab: Lab, play: Player) -> None:
    """One host is not there, the other one lacks what is to be built; the table comes although nobody is left."""
    host = lab.host("plain", go=True)
    hosts = {"there": host.variables(), "nowhere": host.variables(ansible_host="127.0.0.1", ansible_port=9)}
    ended = build(play, hosts, kube_source="tree:/nowhere", kube_source_on="host", preflight=False, supplies_mirror="http://127.0.0.1:9/debian")
    assert ended.rc != 0 and ended.output.count("TASK [Table]") == 1
    table = rows(ended.output)
    assert table["nowhere"] == {**dict.fromkeys(COLUMNS, "-"), "host": "nowhere", "state": "failed at host and base"}
    assert table["there"]["platform"] == "linux/amd64" and table["there"]["state"] == "failed at host and base"
    # that is all that it does on this machine
    assert ended.recap["localhost"]["ok"] == 1, ended.recap


def test_one_host_has_no_table(lab: Lab, play: Player) -> None:
    host = lab.host("plain", go=True)
    ended = build(play, {"there": host.variables()}, kube_source="tree:/nowhere", kube_source_on="host")
    assert ended.rc != 0 and "TASK [Table]" not in ended.output
