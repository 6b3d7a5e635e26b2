# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can change at any time.
"""The module's side of the small file that plugin_utils/_live_log.py shares with it: where the log is, and who waits."""

from __future__ import annotations

import contextlib
import os
import select
import time

# How the action plugin names the file that it shares with the module; see plugin_utils/_live_log.py.
ALIVE_VARIABLE = "NODEFORGE_ALIVE"
# Set for a run that is to end where it would take long, so that another one can be watched.
QUICK_VARIABLE = "NODEFORGE_QUICK"
# How long a module goes on when nobody does.
PATIENCE = 120
# A job is by itself what a module beside Ansible becomes here: what ends a terminal or is typed there is for those who wait to hand on.
if os.environ.get(ALIVE_VARIABLE):
    with contextlib.suppress(OSError):
        os.setsid()


def _file() -> str:
    """The action plugin touches it as long as it waits; empty where a module runs without that plugin."""
    return os.environ.get(ALIVE_VARIABLE, "")


def quick() -> bool:
    """Whether to end where it would take long."""
    return bool(os.environ.get(QUICK_VARIABLE))


def announce(log_path: str, note: str = "") -> None:
    """Tells where the log is, which must exist, and something to show at once. The file is never made anew: gone means that nobody waits."""
    if alive := _file():
        with contextlib.suppress(FileNotFoundError), open(alive, "r+", encoding="utf-8") as file:
            file.write(f"{log_path}\n{note}\n")
            file.truncate()


class Long(Exception):
    """The module would take long from here on; with quick() its result is no more than that, and it is run again."""


def abandoned(lasting: bool = False) -> bool:
    """Whether nobody waits any more: the file is old or gone, or Ansible has closed the pipe of a task that it gave up.

    What is lasting goes on when whoever waited was lost, for the next one who comes. It ends only with those who say so, by removing the file.
    """
    if alive := _file():
        try:
            return time.time() - os.stat(alive).st_mtime > PATIENCE and not lasting
        except OSError:
            return True
    poll = select.poll()
    poll.register(1, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for dummy, event in poll.poll(0))


def done() -> None:
    """The module's end; the plugin asks for its result then."""
    if alive := _file():
        with contextlib.suppress(OSError):
            os.unlink(alive)
