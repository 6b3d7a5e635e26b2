# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""host_look over a real connection."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import typing as t

NAMES = ("system", "architecture", "user_id", "effective_user_id", "user_dir")


def play(env: dict[str, str], directory: pathlib.Path, tasks: list[dict[str, t.Any]], *options: str) -> tuple[str, dict[str, t.Any]]:
    """The output of a play, and what its tasks have registered as r0, r1, ..."""
    registered = {f"r{number}": f"{{{{ r{number} }}}}" for number in range(len(tasks))}
    kept = {"ansible.builtin.copy": {"content": "{{ kept | to_json }}", "dest": str(directory / "kept")}, "vars": {"kept": registered}, "check_mode": False}
    document = [{"hosts": "localhost", "gather_facts": False, "tasks": [*({**task, "register": f"r{n}"} for n, task in enumerate(tasks)), kept]}]
    (directory / "play.yml").write_text(json.dumps(document))
    run = subprocess.run(["ansible-playbook", str(directory / "play.yml"), *options], env=env, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr, json.loads((directory / "kept").read_text())


def test_facts_are_those_of_setup(ansible_env: dict[str, str], tmp_path: pathlib.Path) -> None:
    """Also of an environment that is hard to read."""
    env = {**ansible_env, "ODD": "one\n\ntwo = 2", "EMPTY": ""}
    own = {"nodeforge.kind.host_look": {}}
    _output, kept = play(env, tmp_path, [own, {"ansible.builtin.setup": {"gather_subset": ["min"]}}])
    ours, setup = (kept[name]["ansible_facts"] for name in ("r0", "r1"))
    assert ours == {**{name: setup[f"ansible_{name}"] for name in NAMES}, "env": ours["env"], "python": {"executable": setup["ansible_python"]["executable"]}}
    # but for what a shell and Ansible's own module say of themselves
    assert ours["env"]["ODD"] == env["ODD"] and ours["env"]["EMPTY"] == ""
    assert ours["env"]["PATH"] == setup["ansible_env"]["PATH"]
    assert not kept["r0"]["changed"]


def test_facts_where_pythons_place_is_not_known(ansible_env: dict[str, str], tmp_path: pathlib.Path) -> None:
    """Then all of setup's smallest set come, and the interpreter that it has found."""
    _output, kept = play(ansible_env, tmp_path, [{"nodeforge.kind.host_look": {}}], "-e", "ansible_python_interpreter=auto_silent")
    facts = kept["r0"]["ansible_facts"]
    assert facts["ansible_python"]["executable"].startswith("/") and "ansible_distribution" in facts


def test_script(ansible_env: dict[str, str], tmp_path: pathlib.Path) -> None:
    """Arguments and environment come as they are; nothing of the script is taken for a program's input, and check mode runs it."""
    script = "printf '%s|' \"$@\" \"$ODD\"\ncat\necho 'to stderr' >&2\nprintf last"
    words = ["-", "--x", "a  b", "$HOME", "it's", "", "line\nline", "ü"]
    task = {"nodeforge.kind.host_look": {"script": script, "arguments": words}, "environment": {"ODD": "$PATH 'x'"}}
    for options in ([], ["--check"]):
        _output, kept = play(ansible_env, tmp_path, [task], *options)
        answer = kept["r0"]
        assert answer["stdout"].split("|") == [*words, "$PATH 'x'", "last"]
        assert answer["stderr_lines"] == ["to stderr"] and answer["rc"] == 0 and not answer["changed"]


def test_failure(ansible_env: dict[str, str], tmp_path: pathlib.Path) -> None:
    tasks = [
        {"nodeforge.kind.host_look": {"script": "echo one >&2; echo 'no such thing' >&2; exit 3"}, "ignore_errors": True},
        {"nodeforge.kind.host_look": {"script": "{"}, "ignore_errors": True},
        {"nodeforge.kind.host_look": {"script": "[[ $1 == a* ]] && echo yes", "arguments": ["ab"], "executable": "bash"}},
        {"nodeforge.kind.host_look": {"script": "true", "executable": "/nowhere/sh"}, "ignore_errors": True},
    ]
    _output, kept = play(ansible_env, tmp_path, tasks)
    assert kept["r0"]["msg"] == "The look at the host ended with status 3: no such thing" and kept["r0"]["rc"] == 3
    assert kept["r1"]["failed"] and kept["r1"]["msg"].startswith("The look at the host ended with status")
    assert kept["r2"]["stdout_lines"] == ["yes"]
    assert kept["r3"]["failed"] and "/nowhere/sh" in kept["r3"]["msg"]


def test_a_connection_without_pipelining(ansible_env: dict[str, str], tmp_path: pathlib.Path) -> None:
    """The script then comes as a word."""
    (tmp_path / "connection_plugins").mkdir()
    (tmp_path / "connection_plugins/nopipe.py").write_text(
        "from ansible.plugins.connection.local import DOCUMENTATION as OF_LOCAL, Connection as Local\n"
        "DOCUMENTATION = OF_LOCAL.replace('name: local', 'name: nopipe')\n"
        "class Connection(Local):\n    has_pipelining = False\n    transport = 'nopipe'\n"
    )
    task = {"nodeforge.kind.host_look": {"script": "printf '%s|' \"$@\"", "arguments": ["-", "it's"]}}
    env = {**ansible_env, "ANSIBLE_CONNECTION_PLUGINS": str(tmp_path / "connection_plugins")}
    _output, kept = play(env, tmp_path, [task], "-e", "ansible_connection=nopipe", "-e", f"ansible_python_interpreter={sys.executable}")
    assert kept["r0"]["stdout"] == "-|it's|"
