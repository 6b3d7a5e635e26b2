# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can change at any time.
"""The signals that end a play, and what a module has to clean up when they come."""

from __future__ import annotations

import contextlib
import signal
import typing as t

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Interrupted(BaseException):
    """The module was told to stop (SIGTERM, SIGINT, SIGHUP); not an Exception, so that only clean-up sees it."""


@contextlib.contextmanager
def interruptible() -> t.Iterator[None]:
    """Turns the signals that end a play into :class:`Interrupted`, so that ``finally`` clauses run."""

    def stop(number: int, frame: t.Any) -> None:
        # once is enough: what follows is clean-up
        for other in STOPPING:
            signal.signal(other, signal.SIG_IGN)
        raise Interrupted(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def spawning() -> t.Iterator[t.Callable[[t.Any], None]]:
    """For a program that a thread starts, which would have the signals held back, too: gives what is to be called as soon as it is started."""
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)

    def started(dummy: t.Any) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        yield started
    finally:
        started(None)


@contextlib.contextmanager
def deferred() -> t.Iterator[None]:
    """Holds those signals back during a request whose answer must be known to clean up, such as a new container's id.

    Threads are started within it, too, and have them held back for good: where two signals come at once, as Ansible sends them, the kernel may give both
    to another thread than the main one. That one handles them, but only once it wakes, which nothing makes it do then.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
