# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this plugin util is **PRIVATE** to the collection. It can change at any time.
"""Shows the log of a long module while it runs.

Ansible shows a task's result when it is done, which for a compile is after many minutes. Here the module is started as an
asynchronous job on its host, and this plugin reads the growing log over the task's own connection, privileges included.
On this very host, with the user's own rights, the log can be read while Ansible waits for the module: that spares the job, which takes seconds
to start, to ask and to clear away.

The module and this plugin share one small file on the host. This plugin touches it as long as it waits, so the module
notices when nobody does any more, even after a broken connection. The module writes the log's path into it, and a second line that is
to be shown at once, and removes it at its end, so a look at the file is all that a round costs.

Who is told to end (an interrupt, a limit of the task) removes the file, and the module ends, too. Who is lost (a broken connection, a killed Ansible)
leaves it, and whether the module goes on is its own matter.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import secrets
import shlex
import signal
import tempfile
import threading
import time
import typing as t

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.utils.display import Display
from ansible_collections.nodeforge.kind.plugins.module_utils._alive import ALIVE_VARIABLE
from ansible_collections.nodeforge.kind.plugins.module_utils._signals import deferred
from ansible_collections.nodeforge.kind.plugins.plugin_utils import _lost
from ansible_collections.nodeforge.kind.plugins.plugin_utils._in_process import InProcessActionBase

display = Display()

# Seconds between two looks, growing from the first to the second; between two lines of a summary; without any answer.
INTERVAL = (0.3, 2.0)
SUMMARY_EVERY = 15
PATIENCE = 20
# A job that died without removing the file is noticed at the latest after this many seconds.
STATUS_EVERY = 20
MAX_LINES = 200
# Below what async_status adds to the module's own result
JOB_KEYS = (
    "ansible_job_id",
    "results_file",
    "started",
    "finished",
    "stdout",
    "stdout_lines",
    "stderr",
    "stderr_lines",
    "erased",
)
GONE = 44


class _Interrupted(BaseException):
    """Not an Exception, so that nothing between the signal and us takes it for an error and goes on."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def _signals_raise() -> t.Iterator[None]:
    """Ansible ends its workers by SIGTERM; the job on the host, which is no child of theirs, must be told first."""

    def interrupt(number: int, dummy_frame: t.Any) -> None:
        for name in previous:
            signal.signal(name, signal.SIG_IGN)
        raise _Interrupted(number)

    previous = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    for name in previous:
        signal.signal(name, interrupt)
    try:
        yield
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)


def _split(lines: list[str]) -> tuple[list[str], list[str]]:
    """The two lines about the log that come before it, and the log's. A slow host's answer may break off before both are there: then it is none."""
    return (lines[:2], lines[2:]) if len(lines) >= 2 else ([], [])


class _Lost(AnsibleError):
    """Nobody can wait for the job any more, and nobody has said that it is to end."""


class _Shown:
    """What of a log has been shown, as new lines or as a line now and then."""

    def __init__(self, progress: str, show: t.Callable[[list[str]], None]) -> None:
        self.progress = progress
        self.show = show
        self.line_number = 1
        # the log's path and a note about it
        self.about: list[str] = []
        self.started = self.last = time.monotonic()

    def read(self, file: t.Iterable[str]) -> list[str]:
        """The lines to look at; of all of them only whole ones, as the rest comes with the next look."""
        if self.progress != "lines":
            return list(collections.deque(file, 1))
        return [line for line in itertools.islice(file, self.line_number - 1, self.line_number - 1 + MAX_LINES) if line.endswith("\n")]

    def take(self, about: list[str], lines: list[str]) -> list[str]:
        """Shows what is new of these lines, and returns those that count."""
        if about and about != self.about:
            if about[1] and about[1:] != self.about[1:]:
                self.show([about[1]])
            if self.about and about[0] != self.about[0]:
                # another one, which was read from where the last one ended
                self.line_number, lines = 1, []
            self.about = about
        now = time.monotonic()
        if self.progress == "lines":
            self.line_number += len(lines)
            self.show(lines)
        elif lines and now - self.last >= SUMMARY_EVERY:
            self.last = now
            minutes, seconds = divmod(int(now - self.started), 60)
            self.show([f"{minutes}:{seconds:02d} {lines[-1]}"])
        return lines

    def rest(self, log: str, read: t.Callable[[int], list[str]]) -> None:
        """Shows what was written to the log since the last look."""
        if self.progress == "lines":
            self.show(read(self.line_number if not self.about or self.about[0] == log else 1))


class LiveLogActionBase(InProcessActionBase):
    """Runs the module of the same name. The module has options C(progress) and, unless JOB_LIMIT is set, C(timeout)."""

    _supports_check_mode = True
    _supports_async = True
    # Seconds; 0 derives it from the option timeout.
    JOB_LIMIT = 0
    # What becomes of the job where the connection breaks
    WHAT = ""

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        with _lost.explained(task_vars.get("inventory_hostname", "the host"), self._task.action, self.WHAT):
            return self._run(task_vars)

    def _run(self, task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        progress = self._task.args.get("progress", "summary")
        quiet = self._task.no_log or self._task.check_mode or self._task.async_val
        if quiet or progress not in ("summary", "lines"):
            return self._execute_module(task_vars=task_vars, wrap_async=self._task.async_val)
        self._prefix = f"[{task_vars.get('inventory_hostname', 'host')}]"
        if self._connection.transport == "local" and not self._connection.become:
            return self._beside(progress, task_vars)
        answer = self._answer(task_vars)
        if answer is not None:
            return answer
        interpreter = str(self._templar.template(task_vars.get("ansible_python_interpreter") or ""))
        if len(interpreter.split()) > 1:
            self._show([f"No progress is shown: Ansible starts no job with an interpreter that has a blank in its path ({interpreter})"])
            return self._execute_module(task_vars=task_vars)
        return self._follow(progress, task_vars)

    def _answer(self, task_vars: dict[str, t.Any]) -> dict[str, t.Any] | None:
        """The module's answer where it comes at once, as there is nothing to do, or the input is bad; None where it is to be watched."""
        self._task.check_mode = True
        try:
            predicted = self._execute_module(task_vars=task_vars)
        finally:
            self._task.check_mode = False
        return predicted if predicted.get("failed") or not predicted.get("changed") else None

    def _execute_with(self, variables: dict[str, str], **options: t.Any) -> dict[str, t.Any]:
        # as core tells a job where its own file lies; not options, because they are none of the user's
        environment = self._task.environment
        self._task.environment = [*environment, variables]
        try:
            return self._execute_module(**options)
        finally:
            self._task.environment = environment

    def _beside(self, progress: str, task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        """The module's result; a thread shows its log meanwhile."""
        handle, alive = tempfile.mkstemp(prefix="nodeforge-")
        os.close(handle)
        over = threading.Event()
        shown = _Shown(progress, self._show)
        watch = threading.Thread(target=self._read_beside, args=(shown, alive, over), daemon=True)
        result: dict[str, t.Any] | None = None
        try:
            with _signals_raise():
                try:
                    with deferred():
                        watch.start()
                    result = self._execute_with({ALIVE_VARIABLE: alive}, task_vars=task_vars)
                finally:
                    # without the file a module that still runs ends
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(alive)
                    over.set()
                    watch.join()
        except _Interrupted as e:
            os.kill(os.getpid(), e.number)  # now Ansible's own handler, which ends this process
        log = (result or {}).get("log_path")
        if result and log and (shown.about or "rc" in result):
            with contextlib.suppress(OSError), open(log, encoding="utf-8", errors="replace") as file:
                shown.rest(log, lambda line_number: list(itertools.islice(file, line_number - 1, None)))
        return result or {"failed": True, "msg": "The task was interrupted."}

    @staticmethod
    def _read_beside(shown: _Shown, alive: str, over: threading.Event) -> None:
        parent = os.getppid()
        while not over.wait(INTERVAL[0]) and os.getppid() == parent:
            # nothing is said yet, or it is over
            with contextlib.suppress(OSError, ValueError):
                os.utime(alive)
                with open(alive, encoding="utf-8") as file:
                    log, note = file.read().splitlines()[:2]
                with open(log, encoding="utf-8", errors="replace") as file:
                    shown.take([log, note], shown.read(file))

    def _follow(self, progress: str, task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        directory = self._remote_expand_user(self.get_shell_option("async_dir", default="~/.ansible_async"))
        alive = self._connection._shell.join_path(directory, f"nodeforge-{secrets.token_hex(8)}")
        self._sh(f"umask 77; mkdir -p {shlex.quote(directory)} && : > {shlex.quote(alive)}")
        result: dict[str, t.Any] | None = None
        lost = False
        try:
            with _signals_raise():
                try:
                    job = self._start(alive, task_vars)
                    if job.get("failed") or "ansible_job_id" not in job:
                        result = job
                    else:
                        job = {"jid": job["ansible_job_id"], "_async_dir": directory}
                        result = self._watch(progress, alive, job, task_vars)
                except (AnsibleConnectionFailure, _Lost):
                    lost = True
                    raise
                finally:
                    # whatever else ended this early (a limit of the task, the user): without the file the module ends too
                    if result is None and not lost:
                        with contextlib.suppress(AnsibleConnectionFailure):
                            self._sh(f"rm -f {shlex.quote(alive)}")
        except _Interrupted as e:
            os.kill(os.getpid(), e.number)  # now Ansible's own handler, which ends this process
        return result or {"failed": True, "msg": "The task was interrupted."}

    def _start(self, alive: str, task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        # the module has a time limit of its own; this one is for the case that it hangs
        self._task.async_val = self.JOB_LIMIT or int(self._task.args.get("timeout", 7200)) * 2 + 600
        try:
            return self._execute_with({ALIVE_VARIABLE: alive}, task_vars=task_vars, wrap_async=True)
        finally:
            self._task.async_val = 0

    def _watch(self, progress: str, alive: str, job: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        answered = asked = time.monotonic()
        interval = INTERVAL[0]
        shown = _Shown(progress, self._show)
        parent = os.getppid()
        while True:
            time.sleep(interval)
            if os.getppid() != parent:
                raise _Lost("Ansible itself was killed, so nobody waits for this task any more.")
            try:
                rc, lines = self._look(progress, alive, shown.line_number)
            except AnsibleConnectionFailure:
                # the job does not depend on this connection, and the module waits longer than this before it gives up
                if time.monotonic() - answered > PATIENCE:
                    raise
                continue
            answered = now = time.monotonic()
            lines = shown.take(*_split(lines))
            interval = INTERVAL[0] if len(lines) == MAX_LINES else min(interval * 1.3, INTERVAL[1])
            if rc == GONE or now - asked > STATUS_EVERY:
                asked = now
                status = self._job("status", job, task_vars)
                if status.get("finished"):
                    self._job("cleanup", job, task_vars)
                    log = status.get("log_path")
                    if log and (shown.about or "rc" in status):
                        shown.rest(log, lambda line_number, log=log: self._read(progress, f"log={shlex.quote(log)}", line_number)[1])
                    return {name: value for name, value in status.items() if name not in JOB_KEYS}

    def _look(self, progress: str, alive: str, line_number: int) -> tuple[int, list[str]]:
        """Touch the file, and read the log that it names, if there is one yet."""
        file = shlex.quote(alive)
        look = f"[ -e {file} ] || exit {GONE}; touch -c {file}; {{ read -r log && read -r note; }} < {file} || exit 0; "
        return self._read(progress, look + 'printf "%s\\n" "$log" "$note"', line_number)

    def _read(self, progress: str, prologue: str, line_number: int) -> tuple[int, list[str]]:
        """Only whole lines when all of them are wanted: the rest comes with the next look."""
        part = (
            f'tail -n +{line_number} "$log" | head -n {MAX_LINES} | cut -c 1-500'
            if progress == "lines"
            else 'tail -n 1 "$log" | cut -c 1-200'
        )
        result = self._sh(f"{prologue}; {part}")
        text = result.get("stdout", "")
        lines = text.splitlines()
        if progress == "lines" and lines and not text.endswith("\n"):
            lines.pop()
        return result["rc"], lines

    def _sh(self, script: str) -> dict[str, t.Any]:
        return self._low_level_execute_command(script, executable="/bin/sh")

    def _job(self, mode: str, job: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        return self._execute_module(
            module_name="ansible.legacy.async_status", module_args={**job, "mode": mode}, task_vars=task_vars
        )

    def _show(self, lines: list[str]) -> None:
        # not on stdout, which may be read by a program
        for line in lines:
            display.display(f"{self._prefix} {line.rstrip()[:500]}", stderr=True)
