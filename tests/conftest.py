# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all tests share: the real modules, run as Ansible runs them, against the real engine."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import typing as t

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
COLLECTIONS = ROOT / ".collections"
# A run that is told to stop runs its fixtures' clean-up. SIGINT, too: a shell's background job starts with it ignored,
# and so would every program that a test interrupts.
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.default_int_handler)
# unit tests import the collection's code by its real name
sys.path.insert(0, str(COLLECTIONS))


class ModuleResult(dict):
    """A module's JSON result; ``failed`` is always there."""

    @property
    def failed(self) -> bool:
        return bool(self.get("failed"))


RunModule = t.Callable[..., ModuleResult]


@pytest.fixture(scope="session")
def run_module() -> RunModule:
    """run_module("docker_commit", {...}, check=False, diff=False, env=None, popen=False): runs the module in a process of its own."""

    def run(
        name: str,
        args: dict[str, t.Any],
        check: bool = False,
        diff: bool = False,
        env: dict[str, str] | None = None,
        popen: bool = False,
        timeout: float = 900,
    ) -> t.Any:
        payload = {"ANSIBLE_MODULE_ARGS": {**args, "_ansible_check_mode": check, "_ansible_diff": diff}}
        command = [sys.executable, "-m", f"ansible_collections.nodeforge.kind.plugins.modules.{name}"]
        environment = {**os.environ, "PYTHONPATH": str(COLLECTIONS), **(env or {})}
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        if popen:
            process.stdin.write(json.dumps(payload))
            process.stdin.close()
            return process
        out, err = process.communicate(json.dumps(payload), timeout=timeout)
        assert "Traceback" not in out + err, out + err
        result = ModuleResult(json.loads(out.strip().splitlines()[-1]))
        assert (process.returncode != 0) == result.failed, (process.returncode, result)
        return result

    return run


@pytest.fixture(scope="session")
def signals_reach_main() -> t.Callable[[int], int]:
    """signals_reach_main(pid): no thread of the process but its main one takes the signals that end a play; returns how many others there are."""
    stopping = sum(1 << (number - 1) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM))

    def look(pid: int) -> int:
        others = [thread for thread in pathlib.Path(f"/proc/{pid}/task").iterdir() if thread.name != str(pid)]
        for thread in others:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # one that ends meanwhile
                blocked = re.search(r"^SigBlk:\s*(\w+)$", (thread / "status").read_text(), re.MULTILINE)
                assert int(blocked[1], 16) & stopping == stopping, thread
        return len(others)

    return look


@pytest.fixture(scope="session")
def peak_memory() -> t.Callable[[t.Any], tuple[str, int]]:
    """peak_memory(run_module(..., popen=True)): waits for a module's end and returns its output and its peak in KiB."""

    def watch(process: t.Any) -> tuple[str, int]:
        peak = 0
        while process.poll() is None:
            # not what wait4 tells: that begins with the memory of the parent
            found = re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8"))
            peak = max(peak, int(found.group(1)) if found else 0)
            time.sleep(0.02)
        assert peak, "the module ended before its memory could be read"
        return process.stdout.read(), peak

    return watch


@pytest.fixture
def no_orphans(tmp_path: pathlib.Path) -> t.Iterator[None]:
    """For a test that kills ansible-playbook outright: its workers, in sessions of their own, would wait for it for ever."""
    yield
    for command in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = command.read_text(encoding="utf-8", errors="replace")
            if "ansible-playbook" in words and str(tmp_path) in words:
                os.kill(int(command.parent.name), signal.SIGKILL)


@pytest.fixture(scope="session")
def ansible_env() -> dict[str, str]:
    """The environment in which ansible-playbook finds this checkout as nodeforge.kind, and nothing else."""
    return {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        "ANSIBLE_FORCE_COLOR": "0",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_LOCALHOST_WARNING": "0",
        "ANSIBLE_INVENTORY_UNPARSED_WARNING": "0",
        "PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


@pytest.fixture(scope="session")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> str:
    """This Python as an option of ansible-playbook, by a path without blanks: with one Ansible starts no jobs (see kube_make)."""
    link = tmp_path_factory.mktemp("interpreter") / "venv"
    link.symlink_to(sys.prefix)
    return f"ansible_python_interpreter={link}/bin/python"
