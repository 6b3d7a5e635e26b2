# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plays against hosts that are reached by SSH."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
import time
import typing as t

import pytest
import yaml

from remote import lab as lab_module

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))


# What a host of the lab has already
HERE = {"build_host_kind_version": "", "build_host_tools": {"git": "git", "make": "make", "rsync": "rsync"}}


class Play(t.NamedTuple):
    """What a run of a playbook did: Ansible's own count by host, and the facts that the play wrote down by host."""

    rc: int
    output: str
    seconds: float
    recap: dict[str, dict[str, int]]
    facts: dict[str, t.Any]

    @property
    def message(self) -> str:
        """The last sentence with which a task failed."""
        return " ".join(re.findall(r"^\[ERROR\]: Task failed: (?:Action failed: )?(.*?)(?=^Origin|^TASK|^\n)", self.output, re.S | re.M)[-1].split())

    def changed(self, host: str) -> int:
        return self.recap[host]["changed"]


class Player:
    """Runs plays against an inventory of hosts."""

    def __init__(self, directory: pathlib.Path, env: dict[str, str]) -> None:
        self.directory = directory
        # connections of its own: one that another test left behind would hide what a line does
        self.env = {**env, "ANSIBLE_SSH_CONTROL_PATH_DIR": str(directory / "cp"), "ANSIBLE_PIPELINING": "1"}
        # what this machine keeps of trees and images under way
        self.cache = directory / "cache"
        self.env["XDG_CACHE_HOME"] = str(self.cache)
        self.number = 0
        self.places: dict[int, pathlib.Path] = {}

    def command(self, tasks: t.Any, hosts: dict[str, dict[str, t.Any]], *options: str, play: dict[str, t.Any] | None = None, **variables: t.Any) -> list[str]:
        self.number += 1
        place = self.directory / str(self.number)
        (place / "facts").mkdir(parents=True)
        (place / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
        if isinstance(tasks, str):
            playbook = tasks
        else:
            (place / "play.yml").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks, **(play or {})}]))
            playbook = str(place / "play.yml")
        variables["facts"] = str(place / "facts")
        return ["ansible-playbook", "-i", str(place / "hosts.yml"), playbook, "-e", json.dumps(variables), *options]

    def start(self, *arguments: t.Any, **options: t.Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self.command(*arguments, **options), env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.places[process.pid] = self.directory / str(self.number)
        return process

    def ended(self, process: subprocess.Popen[str], check: bool = True, timeout: float = 900) -> Play:
        started = time.monotonic()
        output, _none = process.communicate(timeout=timeout)
        assert "Traceback" not in output, output
        assert process.returncode == 0 or not check, output[-6000:]
        recap = {
            host: {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", counts)}
            for host, counts in re.findall(r"^(\S+)\s+:\s+(ok=.*)$", output, re.M)
        }
        facts = {path.name: json.loads(path.read_text()) for path in (self.places[process.pid] / "facts").iterdir()}
        return Play(process.returncode, output, time.monotonic() - started, recap, facts)

    def __call__(self, *arguments: t.Any, check: bool = True, **options: t.Any) -> Play:
        return self.ended(self.start(*arguments, **options), check)


def note(expression: str) -> dict[str, t.Any]:
    """A task that writes down what an expression is on each host."""
    return {
        "ansible.builtin.copy": {"content": "{{ (" + expression + ") | to_json }}", "dest": "{{ facts }}/{{ inventory_hostname }}"},
        "delegate_to": "localhost",
        "vars": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable},
        "become": False,
        "check_mode": False,
        "diff": False,
        "changed_when": False,
    }


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[lab_module.Lab]:
    made = lab_module.Lab(tmp_path_factory.mktemp("lab"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def play(tmp_path_factory: pytest.TempPathFactory, ansible_env: dict[str, str]) -> Player:
    env = {**ansible_env, "ANSIBLE_CONFIG": str(pathlib.Path(__file__).resolve().parents[2] / "ansible.cfg")}
    # a socket's path has at most 107 characters
    return Player(tmp_path_factory.mktemp("p"), env)


@pytest.fixture(scope="session")
def builder(lab: lab_module.Lab) -> lab_module.Host:
    return supplied(lab, "node")


def supplied(lab: lab_module.Lab, name: str, *options: str) -> lab_module.Host:
    """A host that has what the role supplies makes, which is not what is tested here."""
    supplies = pathlib.Path.home() / ".cache/nodeforge/supplies"
    host = lab.host(name, go=True, options=["--volume", f"{supplies}:/srv/supplies:ro", *options])
    host.sh(
        "mkdir -p ~/.cache/nodeforge/supplies ~/.cache/nodeforge/bin; cd /srv/supplies; "
        "for name in *; do case $name in run|modules|recipe-*) ;; *) cp -rs /srv/supplies/$name ~/.cache/nodeforge/supplies/ ;; esac; done"
    )
    return host
