# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lookup ssh_command: how Ansible's options become words."""

from __future__ import annotations

import os
import typing as t

import pytest
from ansible_collections.nodeforge.kind.plugins.lookup.ssh_command import OPTIONS, control_path, ssh_command

NOTHING: dict[str, t.Any] = {**dict.fromkeys(OPTIONS), "host": "192.0.2.7"}
ALWAYS = ["-o", "BatchMode=yes", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3"]


def test_little_is_given() -> None:
    assert ssh_command(NOTHING, []) == ["ssh", "-o", "ConnectTimeout=10", *ALWAYS, "192.0.2.7"]


def test_all_is_given() -> None:
    given = {
        **NOTHING,
        "port": 2222,
        "remote_user": "builder",
        "private_key_file": "~/key",
        "host_key_checking": False,
        "ssh_executable": "/opt/ssh",
        "ssh_args": "-C -o ControlMaster=auto",
        "ssh_common_args": "-o 'ProxyCommand=ssh -W %h:%p jump'",
        "ssh_extra_args": "-4",
        "timeout": 30,
    }
    assert ssh_command(given, ["-N", "-L", "1:localhost:2"]) == [
        *("/opt/ssh", "-C", "-o", "ControlMaster=auto", "-o", "StrictHostKeyChecking=no", "-o", "Port=2222"),
        *("-o", f'IdentityFile="{os.path.expanduser("~/key")}"', "-o", 'User="builder"', "-o", "ConnectTimeout=30"),
        *("-o", "ProxyCommand=ssh -W %h:%p jump", "-4", *ALWAYS, "-N", "-L", "1:localhost:2", "192.0.2.7"),
    ]


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"ssh_args": "-o ControlPersist=60s"}, "/cp/192.0.2.7-None-None"),
        ({"ssh_args": "-o ControlPersist=60s", "control_path": "%(directory)s/mine"}, "/cp/mine"),
        ({"ssh_args": "-o ControlPersist=60s", "ssh_common_args": "-o ControlPath=/tmp/x"}, ""),
        ({"ssh_args": "-C"}, ""),
    ],
)
def test_a_connection_that_is_open(arguments: dict[str, t.Any], path: str) -> None:
    options = {**NOTHING, "control_path_dir": "/cp", **arguments}
    shared = control_path(options, lambda *parts: "%(directory)s/" + "-".join(map(str, parts)))
    assert shared == path
    words = ssh_command(options, [], shared)
    assert ("ControlMaster=no" in words) == bool(path)
    if path:  # the first value counts
        assert words[1:5] == ["-o", "ControlMaster=no", "-o", f'ControlPath="{path}"']
