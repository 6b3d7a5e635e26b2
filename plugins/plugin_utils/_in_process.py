# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this plugin util is **PRIVATE** to the collection. It can change at any time.
"""Runs this collection's modules within the process that Ansible has made for the task, where that is the same as what it would start.

Ansible packs a module and all that it imports, starts a Python for it, and that one compiles it: 0.4 s for each task, of which the work is often
the smaller part. On this very host, by the user's own rights and with Ansible's own Python, the task's process can call the module itself: its
arguments, its result, its warnings and its environment are the same, and the process ends with the task.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sys
import tempfile
import traceback
import typing as t

from ansible import constants as C
from ansible.module_utils import basic
from ansible.module_utils.common.json import Direction, get_module_encoder
from ansible.plugins.action import ActionBase
from ansible.release import __version__

# With it comes the Docker SDK, once for all tasks of a play: their processes are forks of the one that reads this.
from ansible_collections.nodeforge.kind.plugins.module_utils._docker import Interrupted

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
        if not self._is_at_home(name, task_vars or {}) or any(options.values()):
            return super()._execute_module(module_name=module_name, module_args=module_args, task_vars=task_vars, **options)
        try:
            return self._call(name, module_args, task_vars)
        except Interrupted:
            # cleaned up, and now what Ansible does
            os._exit(1)

    def _call(self, name: str, module_args: dict[str, t.Any] | None, task_vars: dict[str, t.Any] | None) -> dict[str, t.Any]:
        with tempfile.TemporaryDirectory(prefix="nodeforge-module-") as directory:
            arguments = self._task.args if module_args is None else module_args
            self._update_module_args(name, arguments, task_vars)
            arguments["_ansible_tmpdir"] = directory
            environment: dict[str, str] = {}
            self._compute_environment_string(environment)
            answer = _answer(name.removeprefix(COLLECTION), arguments, {key: str(value) for key, value in environment.items()})
        result = self._parse_returned_data(answer, PROFILE)
        if isinstance(result, dict):
            # before 2.21
            for key in [key for key in result if key.startswith("_ansible_") and key != "_ansible_parsed"]:
                del result[key]
            return result
        result.remove_internal_keys()
        return result.as_result_dict(for_round_trip=True)

    def _is_at_home(self, name: str, task_vars: dict[str, t.Any]) -> bool:
        """Whether the module would be started on this host, by this user and with this Python, and nobody wants to see how."""
        task = self._task
        return (
            name.startswith(COLLECTION)
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


def _answer(name: str, arguments: dict[str, t.Any], environment: dict[str, str]) -> dict[str, t.Any]:
    """What Ansible would have read from the module: its output, its errors and its status."""
    output, errors, status = io.StringIO(), io.StringIO(), 0
    before = dict(os.environ)
    os.environ.update(environment)
    encoder = get_module_encoder(PROFILE, Direction.CONTROLLER_TO_MODULE)
    basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": arguments}, cls=encoder).encode()
    basic._ANSIBLE_PROFILE = PROFILE
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            importlib.import_module(f"ansible_collections.{COLLECTION}plugins.modules.{name}").main()
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else 1
    except Exception:
        errors.write(traceback.format_exc())
        status = 1
    finally:
        os.environ.clear()
        os.environ.update(before)
        basic._ANSIBLE_ARGS = basic._ANSIBLE_PROFILE = None
    texts = {"stdout": output.getvalue(), "stderr": errors.getvalue()}
    return {"rc": status, **texts, **{f"{key}_lines": text.splitlines() for key, text in texts.items()}}
