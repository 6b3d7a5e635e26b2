# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can change at any time.
"""Processes on this host that outlive the module which started them, and the one that forwards a port into a container.

A process is known by a record of its id and of the moment at which it began, so that no other one is ever taken for it.
"""

from __future__ import annotations

import collections.abc as c
import contextlib
import json
import os
import select
import signal
import socket
import threading
import time
import traceback
import typing as t

from ansible_collections.nodeforge.kind.plugins.module_utils._docker import Engine, EngineError

# What carries a connection in the container: bash can open one, and nothing else has to be there.
CARRIER = 'exec 3<>"/dev/tcp/127.0.0.1/$1" || exit; cat <&0 >&3 & cat <&3 & wait -n; kill $(jobs -p) 2>/dev/null'
# How often the forwarder looks whether it is still needed, in seconds.
PERIOD = 5


def began(pid: int) -> str:
    """The moment at which a process began, in the kernel's ticks; empty where there is none, or it has ended."""
    if pid < 1:
        return ""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        # one that nobody has waited for has ended, too
        return "" if fields[0] in ("Z", "X") else fields[19]
    except ProcessLookupError:
        return ""
    except OSError:
        if os.path.exists("/proc/self"):
            return ""
    # no Linux: as good as it gets
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return ""
    except PermissionError:
        pass
    return "runs"


def owner_began(pid: int | None) -> str:
    """The moment at which the owner of a build began; empty where none is named. Raises :class:`EngineError` for one that does not run."""
    moment = "" if pid is None else began(pid)
    if pid is not None and not moment:
        raise EngineError(f"The owner {pid} is no process of this host: give the id of one that runs here, or leave owner out")
    return moment


def _boot() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def _known(record: str) -> dict[str, t.Any]:
    """What a record tells of a process of this boot, whether it runs or not."""
    try:
        with open(record, encoding="utf-8") as file:
            known = json.load(file)
        return known if known["began"] and known["pid"] > 1 and known["boot"] == _boot() else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def recorded(record: str) -> dict[str, t.Any]:
    """What a record tells of a process that still runs; nothing where it does not."""
    known = _known(record)
    return known if known and began(known["pid"]) == known["began"] else {}


def end(record: str, sent: int = signal.SIGTERM, seconds: float = 10) -> bool:
    """Ends the process of a record, in the end with all that is in its session. False where it does not run."""
    known = _known(record)
    runs = bool(recorded(record))
    if runs:
        with contextlib.suppress(ProcessLookupError):
            os.kill(known["pid"], sent)
        until = time.monotonic() + seconds
        while recorded(record) and time.monotonic() < until:
            time.sleep(0.05)
    # A debugger that was killed leaves what it debugged. As long as that is in its session, nobody else gets the debugger's id.
    if known and began(known["pid"]) in ("", known["began"]):
        for other in _session(known["pid"]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(other, signal.SIGKILL)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(record)
    return runs


def _session(pid: int) -> t.Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if os.getsid(int(name)) == pid:
                    yield int(name)


def start(record: str, log: str, about: dict[str, t.Any], run: c.Callable[[], None], keep: c.Collection[int] = ()) -> int:
    """Runs something in a process of its own, which nothing of the module's holds and which holds nothing of the module."""
    told, tell = os.pipe()
    first = os.fork()
    if first == 0:
        try:
            if os.fork():
                os._exit(0)
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            os.chdir("/")
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
            nothing = os.open(os.devnull, os.O_RDONLY)
            for here, there in ((nothing, 0), (output, 1), (output, 2)):
                os.dup2(here, there)
            pid = os.getpid()
            with open(record + ".new", "w", encoding="utf-8") as file:
                json.dump({"pid": pid, "began": began(pid), "boot": _boot(), **about}, file)
            os.rename(record + ".new", record)
            os.write(tell, b"%d" % pid)
            kept = sorted(keep)
            for low, high in zip([2, *kept], [*kept, 65536]):
                os.closerange(low + 1, high)
            run()
        except BaseException:
            with contextlib.suppress(OSError):
                os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(tell)
    os.waitpid(first, 0)
    with open(told, "rb") as file:
        word = file.read()
    if not word:
        raise EngineError(f'A process could not be started on this host: see "{log}"')
    return int(word)


def listen(port: int) -> socket.socket | None:
    """A socket that listens on that port of 127.0.0.1, or None where somebody else's does."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(16)
    except OSError:
        listener.close()
        return None
    return listener


def forward(listener: socket.socket, connect: c.Callable[[], Engine], container: str, port: int, while_there: str) -> None:
    """Carries each connection into the container, until that is gone, or what lies at ``while_there`` in it is."""
    engine = connect()
    misses, next_look = 0, time.monotonic() + PERIOD
    while misses < 3:
        readable, dummy, dummy2 = select.select([listener], [], [], max(next_look - time.monotonic(), 0))
        if readable:
            client, dummy3 = listener.accept()
            threading.Thread(target=_carry, args=(client, connect, container, port), daemon=True).start()
        if time.monotonic() >= next_look:
            try:
                there = engine.stat(container, while_there) is not None
            except EngineError:
                # an engine that restarts comes back
                there = False
            misses, next_look = 0 if there else misses + 1, time.monotonic() + PERIOD


def _ours(client: socket.socket) -> bool:
    """Whether a connection of this host comes from this user, or root: whoever reaches a debugger is what it debugs."""
    here, there = (f":{name[1]:04X}" for name in (client.getsockname(), client.getpeername()))
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError), open(table, encoding="ascii") as file:
            for line in file:
                fields = line.split()
                if fields[1].endswith(there) and fields[2].endswith(here):
                    return int(fields[7]) in (0, os.getuid())
    return False


def _carry(client: socket.socket, connect: c.Callable[[], Engine], container: str, port: int) -> None:
    with client, contextlib.suppress(EngineError, OSError):
        if not _ours(client):
            return
        connect().tunnel(container, ["bash", "-c", CARRIER, "nodeforge", str(port)], client)
