# Copyright (c) 2026, nodeforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: ssh_command
short_description: The SSH command that reaches a host as Ansible does
version_added: 1.1.0
author: nodeforge contributors (@nodeforge)
description:
  - Gives the command with which other programs of the controller, such as C(rsync) or a tunnel, reach the host that the task is about. It is made of
    what Ansible itself uses - the address, port, user and key, further arguments such as a C(ProxyJump) or C(ProxyCommand), from variables, the
    command line, the environment and C(ansible.cfg).
  - The command never asks for anything, and notices within a minute that a line is dead.
  - In a task with C(delegate_to), Ansible has the variables of the other host. Keep the command in a fact before that.
  - The play's keywords C(remote_user) and C(port) are not known here. Use the variables C(ansible_user) and C(ansible_port).
options:
  _terms:
    description: More arguments for C(ssh), before the host.
    type: list
    elements: str
  share:
    description: Use the connection that Ansible has open to the host, if it has one. Not for tunnels, which would outlive the command.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Keep how the host is reached
  ansible.builtin.set_fact:
    tunnel: "{{ query('nodeforge.kind.ssh_command', '-N', '-L', '127.0.0.1:8080:127.0.0.1:80') }}"

- name: Forward a port of it for a minute
  ansible.builtin.command:
    argv: "{{ ['timeout', '60'] + tunnel }}"
  delegate_to: localhost
"""

RETURN = r"""
_raw:
  description:
    - The words of the command, the last of which is the host.
    - Empty for a host that is reached without a network (C(ansible_connection) is V(local)).
  type: list
  elements: str
"""

import os
import shlex
import typing as t

from ansible import constants as C
from ansible.errors import AnsibleError
from ansible.plugins.loader import connection_loader
from ansible.plugins.lookup import LookupBase

OPTIONS = (
    *("host", "port", "remote_user", "private_key_file", "password", "host_key_checking", "timeout"),
    *("ssh_executable", "ssh_args", "ssh_common_args", "ssh_extra_args", "control_path", "control_path_dir"),
)


def control_path(options: dict[str, t.Any], name: t.Callable[..., str]) -> str:
    """Where Ansible's connection to the host listens for others; empty where it does not. ``name`` is how Ansible makes the name."""
    arguments = " ".join(str(options[key]) for key in ("ssh_args", "ssh_common_args", "ssh_extra_args"))
    if "ControlPersist" not in arguments or "ControlPath" in arguments:
        return ""
    path = options["control_path"] or name(options["host"], options["port"], options["remote_user"])
    return path % {"directory": os.path.expanduser(options["control_path_dir"])}


def ssh_command(options: dict[str, t.Any], more: list[str], shared: str = "") -> list[str]:
    """The words of the command. The first value of an option counts for ssh, so what Ansible puts first comes first here."""
    words = [options["ssh_executable"] or "ssh"]
    if shared:
        words += ["-o", "ControlMaster=no", "-o", f'ControlPath="{shared}"']
    words += shlex.split(options["ssh_args"] or "")
    if options["host_key_checking"] is False:
        words += ["-o", "StrictHostKeyChecking=no"]
    if options["port"]:
        words += ["-o", f"Port={options['port']}"]
    if options["private_key_file"]:
        words += ["-o", f'IdentityFile="{os.path.expanduser(options["private_key_file"])}"']
    if options["remote_user"]:
        words += ["-o", f'User="{options["remote_user"]}"']
    words += ["-o", f"ConnectTimeout={options['timeout'] or 10}"]
    words += shlex.split(options["ssh_common_args"] or "") + shlex.split(options["ssh_extra_args"] or "")
    return [*words, "-o", "BatchMode=yes", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3", *more, options["host"]]


class LookupModule(LookupBase):
    """The words of the command."""

    def run(self, terms: list[t.Any], variables: t.Any = None, **kwargs: t.Any) -> list[str]:
        self.set_options(var_options=variables, direct=kwargs)
        variables = variables or {}
        name = variables.get("inventory_hostname", "the host")
        connection = self._value(variables, "ansible_connection") or C.DEFAULT_TRANSPORT
        if connection.rpartition(".")[2] == "local":
            return []
        if connection.rpartition(".")[2] not in ("ssh", "smart", "paramiko", "paramiko_ssh"):
            raise AnsibleError(f'{name} is reached by the connection "{connection}", over which only Ansible works: use ssh')
        plugin = connection_loader.get("ssh", class_only=True)  # its options are known only then
        known = C.config.get_configuration_definitions("connection", "ssh")
        given = {}
        for option in OPTIONS:
            for entry in known[option].get("vars") or []:
                if entry["name"] in variables:
                    given[entry["name"]] = self._value(variables, entry["name"])
        options = {
            option: C.config.get_config_value_and_origin(option, plugin_type="connection", plugin_name="ssh", variables=given)[0]
            for option in OPTIONS
        }
        if options["password"]:
            raise AnsibleError(f"{name} is reached with a password, which rsync and tunnels cannot be given: use a key (ansible_ssh_private_key_file)")
        shared = control_path(options, plugin._create_control_path) if self.get_option("share") else ""
        return ssh_command(options, [str(term) for term in terms], shared)

    def _value(self, variables: t.Any, name: str) -> t.Any:
        value = variables.get(name)
        return self._templar.template(value) if isinstance(value, str) else value
