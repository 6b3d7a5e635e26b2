# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A module that Ansible's own process runs, and the same one in a Python of its own: nobody can tell by what comes of it."""

from __future__ import annotations

import getpass
import json
import pathlib
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
import typing as t

import pytest
from conftest import ROOT
from kube_trees import KubeTree

MAKEFILE = """
talk:
\t@mkdir -p _output; pid=$$$$; while [ "$$pid" -gt 1 ]; do tr '\\0' ' ' <"/proc/$$pid/cmdline"; echo; \\
\t  pid=$$(sed 's/.*) . \\([0-9]*\\) .*/\\1/' "/proc/$$pid/stat"); done >_output/parents
\t@echo "$$SAID"
\t@exit $${STATUS:-0}
"""


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> KubeTree:
    tree = KubeTree(tmp_path / "tree", "1.34")
    tree.write("Makefile", (tree.path / "Makefile").read_text() + MAKEFILE)
    tree.commit()
    return tree


def play(env: dict[str, str], directory: pathlib.Path, tasks: list[dict[str, t.Any]], *options: str) -> tuple[str, list[dict[str, t.Any]]]:
    """The output of a play, and what each of its tasks has registered."""
    kept = {
        "ansible.builtin.copy": {"content": "{{ kept | to_json }}", "dest": str(directory / "kept")},
        "vars": {"kept": [f"{{{{ r{number} }}}}" for number in range(len(tasks))]},
        "check_mode": False,
        "diff": False,
    }
    shared = {"hosts": "localhost", "connection": "local", "gather_facts": False, "environment": {"OUTER": "1"}}
    document = [{**shared, "tasks": [*({"ignore_errors": True, **task, "register": f"r{number}"} for number, task in enumerate(tasks)), kept]}]
    (directory / "play.yml").write_text(json.dumps(document))
    own = json.dumps({"ansible_python_interpreter": sys.executable})
    command = ["ansible-playbook", "-i", "localhost,", "-e", own, *options, str(directory / "play.yml")]
    elsewhere = directory / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    run = subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout, json.loads((directory / "kept").read_text())


def python_above(tree: KubeTree) -> str:
    """The command line of the Python that has started make."""
    lines = (tree.path / "_output/parents").read_text().splitlines()
    return next(line for line in lines if "python" in line.split(" ")[0])


def without_times(results: list[dict[str, t.Any]]) -> list[dict[str, t.Any]]:
    return [{key: value for key, value in result.items() if key != "seconds"} for result in results]


@pytest.mark.parametrize("options", [(), ("--check", "--diff")], ids=["real", "check and diff"])
def test_same_answers(ansible_env: dict[str, str], tmp_path: pathlib.Path, tree: KubeTree, options: tuple[str, ...]) -> None:
    """Also of a task that fails, of bad input, with warnings, and without a log."""
    make = {"tree": str(tree.path), "targets": ["all"], "what": ["kubelet"], "progress": "none"}
    tasks: list[dict[str, t.Any]] = [
        {"nodeforge.kind.kube_make": make, "environment": {"GOFLAGS": "-buildvcs=false"}},
        {"nodeforge.kind.kube_make": make, "no_log": True},
        {"nodeforge.kind.kube_make": {**make, "targets": ["talk"], "environment": {"STATUS": "3"}}},
        # beside the playbook, wherever it was called
        {"nodeforge.kind.kube_make": {**make, "tree": "tree"}},
        {"nodeforge.kind.kube_make": {"tree": str(tree.path), "targts": ["all"]}},
        {"nodeforge.kind.docker_commit": {"container": "nodeforge-none", "repository": "nodeforge-none", "tag": "x"}},
        {"nodeforge.kind.kind_cluster": {"name": "nodeforge-none", "state": "absent"}},
    ]
    seen = []
    for here in (True, False):
        subprocess.run(["rm", "-rf", str(tree.path / "_output")], check=True)
        output, results = play(ansible_env, tmp_path, tasks, "-e", json.dumps({"nodeforge_in_process": here}), *options)
        seen.append((output, without_times(results)))
    assert seen[0][1] == seen[1][1]
    shown = [re.sub(r"[0-9.]+ s\b|\"seconds\": [0-9.]+", "", output.partition("TASK [ansible.builtin.copy]")[0]) for output, _results in seen]
    assert shown[0] == shown[1]
    assert [result.get("failed", False) for result in seen[0][1]] == [False, False, not options, False, True, not options, False]
    assert [result["changed"] for result in seen[0][1][:2]] == [True, bool(options)]


def test_where_it_runs(ansible_env: dict[str, str], tmp_path: pathlib.Path, tree: KubeTree) -> None:
    """In Ansible's process only where the module would be started here, by this user, and with this Python."""
    make = {"tree": str(tree.path), "targets": ["talk"], "what": ["kubelet"], "rebuild": "always", "progress": "none"}
    task = {"nodeforge.kind.kube_make": make, "environment": {"SAID": "of the task"}}
    ways: list[tuple[dict[str, t.Any], list[str], bool]] = [
        (task, [], True),
        (task, ["-e", "nodeforge_in_process=false"], False),
        (task, ["-e", "ansible_python_interpreter=/usr/bin/python3"], False),
        ({**task, "async": 60, "poll": 1}, [], False),
        ({**task, "timeout": 60}, [], False),
        ({**task, "delegate_to": "localhost"}, [], False),
    ]
    if getpass.getuser() == "root":
        ways.append(({**task, "become": True, "become_method": "ansible.builtin.su"}, [], False))
    for way, options, here in ways:
        (tree.path / "_output/parents").unlink(missing_ok=True)
        _output, (result,) = play(ansible_env, tmp_path, [way], *options)
        assert "of the task" in pathlib.Path(result["log_path"]).read_text(), result
        assert ("ansible-playbook" in python_above(tree)) == here, (way, options)


def test_nothing_stays_of_a_task(ansible_env: dict[str, str], tmp_path: pathlib.Path, tree: KubeTree) -> None:
    """Neither its environment for the next one, nor a file."""
    make = {"tree": str(tree.path), "targets": ["talk"], "what": ["kubelet"], "rebuild": "always", "progress": "none"}
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    first = {"nodeforge.kind.kube_make": make, "environment": {"SAID": "once"}}
    logs = []
    for tasks in ([first], [first, {"nodeforge.kind.kube_make": make}]):
        _output, results = play({**ansible_env, "TMPDIR": str(temporary)}, tmp_path, tasks)
        logs.append(pathlib.Path(results[-1]["log_path"]).read_text())
    assert "once" in logs[0] and "once" not in logs[1]
    # certificates for a server that is not there, which lie in a file meanwhile
    source = {"source": "https://127.0.0.1:1/kubernetes-server-linux-amd64.tar.gz", "ca_path": ssl.get_default_verify_paths().cafile}
    fetch = {"nodeforge.kind.kube_artifacts": {**source, "cache_dir": str(tmp_path / "cache"), "timeout": 1}}
    _output, (result,) = play({**ansible_env, "TMPDIR": str(temporary)}, tmp_path, [fetch])
    assert result["failed"] and "127.0.0.1:1" in result["msg"]
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("progress", ["none", "summary"])
def test_an_interrupt_ends_the_task(ansible_env: dict[str, str], tmp_path: pathlib.Path, tree: KubeTree, progress: str) -> None:
    """Not only the module: neither the next of a loop nor another try begins."""
    tree.write("Makefile", (tree.path / "Makefile").read_text() + "\nlazy:\n\t@mkdir -p _output; echo >>_output/times; sleep 600\n")
    tree.commit()
    make = {"tree": str(tree.path), "targets": ["lazy"], "params": {"N": "{{ item }}"}, "progress": progress}
    tasks = [{"nodeforge.kind.kube_make": make, "loop": ["1", "2"], "retries": 2, "delay": 0, "until": "result is success", "register": "result"}]
    (tmp_path / "play.yml").write_text(json.dumps([{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}]))
    own = json.dumps({"ansible_python_interpreter": sys.executable})
    command = ["ansible-playbook", "-i", "localhost,", "-e", own, str(tmp_path / "play.yml")]
    local = tmp_path / "local"
    env = {**ansible_env, "ANSIBLE_LOCAL_TEMP": str(local)}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    times = tree.path / "_output/times"
    until = time.monotonic() + 60
    while not times.exists():
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _errors = process.communicate(timeout=30)
    assert process.returncode not in (0, None), output
    time.sleep(2)
    assert times.read_text() == "\n"
    assert list(local.iterdir()) == []


def test_a_module_that_crashes(ansible_env: dict[str, str], tmp_path: pathlib.Path) -> None:
    """It says why, in one sentence."""
    copy = tmp_path / "collections/ansible_collections/nodeforge/kind"
    shutil.copytree(ROOT / "plugins", copy / "plugins")
    for name in ("galaxy.yml", "meta"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(copy)], check=True)
    module = copy / "plugins/modules/kube_tree_info.py"
    module.write_text(module.read_text().replace("def main() -> None:\n", "def main() -> None:\n    raise RuntimeError('no luck today')\n", 1))
    env = {**ansible_env, "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections")}
    output, (result,) = play(env, tmp_path, [{"nodeforge.kind.kube_tree_info": {"source": str(tmp_path)}}])
    assert result["failed"] and result["msg"] == "The module nodeforge.kind.kube_tree_info failed: RuntimeError: no luck today"
    assert "Traceback" not in output
