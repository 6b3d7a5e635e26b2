# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this plugin util is **PRIVATE** to the collection. It can change at any time.
"""Runs this collection's modules within the process that Ansible has made for the task, where that is the same as what it would start.

Ansible packs a module and all that it imports, starts a Python for it, and that one compiles it: 0.4 s for each task, of which the work is often
the smaller part. On this very host, by the user's own rights and with Ansible's own Python, the task's process can call the module itself. Its
arguments, its result, its warnings, its environment and its directory are the same, and what ends a task ends it after its clean-up.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import signal
import sys
import tempfile
import traceback
import typing as t

from ansible import constants as C
from ansible.plugins.action import ActionBase
from ansible.release import __version__

try:
    from ansible.module_utils import _internal, basic
    from ansible.module_utils.common import warnings
    from ansible.module_utils.common.json import Direction, get_module_encoder

    # With it comes the Docker SDK, once for all tasks of a play: their processes are forks of the one that reads this.
    from ansible_collections.nodeforge.kind.plugins.module_utils import _docker  # noqa: F401 pylint: disable=unused-import
except Exception:
    # another core, or a broken SDK of this host: modules tell of it where they need it
    READY = False
else:
    READY = sys.platform == "linux"

COLLECTION = "nodeforge.kind."
# How a module's arguments and result are written, as Ansible has it for all Python modules.
PROFILE = "legacy"
# A module is told of its arguments in a way that may change: with a core that has not been seen to work, Ansible starts it as ever.
KNOWN_CORES = ("2.19.", "2.20.", "2.21.")
# A variable of the user that has modules started as ever.
SWITCH = "nodeforge_in_process"


class InProcessActionBase(ActionBase):
    """Runs the module of the same name here if it can, else as Ansible does."""

    def _execute_module(
        self, module_name: str | None = None, module_args: dict[str, t.Any] | None = None, *, task_vars: dict[str, t.Any] | None = None, **options: t.Any
    ) -> dict[str, t.Any]:
        name = str(module_name or self._task.resolved_action or self._task.action)
        if any(options.values()) or not self._is_at_home(name, task_vars or {}):
            return super()._execute_module(module_name=module_name, module_args=module_args, task_vars=task_vars, **options)
        arguments = self._task.args if module_args is None else module_args
        self._update_module_args(module_name or self._task.action, arguments, task_vars)
        environment: dict[str, str] = {}
        self._compute_environment_string(environment)
        # in a directory that Ansible removes at its end, also one that is killed
        with _signals_later(), tempfile.TemporaryDirectory(prefix="module-", dir=C.DEFAULT_LOCAL_TMP) as directory:
            arguments["_ansible_tmpdir"] = directory
            with contextlib.chdir(self._loader.get_basedir()), _surroundings({key: str(value) for key, value in environment.items()}):
                answer = _answer(name.removeprefix(COLLECTION), arguments)
        result = self._parse_returned_data(answer, PROFILE)
        if isinstance(result, dict):  # before 2.21
            return {key: value for key, value in result.items() if not key.startswith("_ansible_") or key == "_ansible_parsed"}
        result.remove_internal_keys()
        return result.as_result_dict(for_round_trip=True)

    def _is_at_home(self, name: str, task_vars: dict[str, t.Any]) -> bool:
        """Whether the module would be started on this host, by this user and with this Python, and nobody wants to see how."""
        task = self._task
        return (
            READY
            and name.startswith(COLLECTION)
            and __version__.startswith(KNOWN_CORES)
            and self._connection.transport == "local"
            and not (self._connection.become or task.async_val or task.timeout or task.delegate_to or C.DEFAULT_KEEP_REMOTE_FILES)
            and _is_ours(str(self._templar.template(task_vars.get("ansible_python_interpreter") or "")))
            and basic.boolean(self._templar.template(task_vars.get(SWITCH, True)))
        )


def _is_ours(interpreter: str) -> bool:
    """Whether it is this Python, also by another of its names in the same virtual environment, which decides what it imports."""
    return (
        os.path.dirname(interpreter) == os.path.dirname(sys.executable) and os.path.exists(interpreter) and os.path.samefile(interpreter, sys.executable)
    )


@contextlib.contextmanager
def _signals_later() -> t.Iterator[None]:
    """Gives the signals that a module took for its own to the handlers before it: whoever sent them wants the task to end, not only the module."""
    reader, writer = os.pipe()
    for end in (reader, writer):
        os.set_blocking(end, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        with contextlib.suppress(BlockingIOError):
            came = os.read(reader, 4096)
            for number in {signal.SIGINT, signal.SIGTERM} & {*came}:
                os.kill(os.getpid(), number)
        for end in (reader, writer):
            os.close(end)


@contextlib.contextmanager
def _surroundings(environment: dict[str, str]) -> t.Iterator[None]:
    """The environment of the task, and a module's idea of warnings, which are a part of its result instead of going to the terminal."""
    before = dict(os.environ)
    try:
        os.environ.update(environment)
        tempfile.tempdir = None  # it may be of the environment
        _internal.is_controller = False
        warnings._global_warnings.clear()
        warnings._global_deprecations.clear()
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        tempfile.tempdir = None
        _internal.is_controller = True


def _answer(name: str, arguments: dict[str, t.Any]) -> dict[str, t.Any]:
    """What Ansible would have read from the module: its output, its errors and its status."""
    output, errors, status = io.StringIO(), io.StringIO(), 0
    encoder = get_module_encoder(PROFILE, Direction.CONTROLLER_TO_MODULE)
    try:
        basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": arguments}, cls=encoder).encode()
        basic._ANSIBLE_PROFILE = PROFILE
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            importlib.import_module(f"ansible_collections.{COLLECTION}plugins.modules.{name}").main()
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else 1
    except Exception as e:
        output = io.StringIO(json.dumps({"failed": True, "msg": f"The module {COLLECTION}{name} failed: {type(e).__name__}: {e}"}))
        errors.write(traceback.format_exc())
        status = 1
    finally:
        basic._ANSIBLE_ARGS = basic._ANSIBLE_PROFILE = None
    texts = {"stdout": output.getvalue(), "stderr": errors.getvalue()}
    return {"rc": status, **texts, **{f"{key}_lines": text.splitlines() for key, text in texts.items()}}
