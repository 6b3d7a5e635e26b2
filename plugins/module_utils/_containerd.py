# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can change at any time.
"""containerd in a container: started for the work if it does not run, and stopped so that its database is whole.

All work is done by ``ctr`` through the engine's exec, in few calls: one call costs more than all that ctr does in it.
"""

from __future__ import annotations

import collections.abc as c
import hashlib
import re
import secrets
import shlex
import types
import typing as t

from ansible_collections.nodeforge.kind.plugins.module_utils._docker import Engine, EngineError, ExecResult
from ansible_collections.nodeforge.kind.plugins.module_utils._image_archive import (
    NONSENSE,
    Content,
    Missing,
    WrongPlatform,
    content_of,
)
from ansible_collections.nodeforge.kind.plugins.module_utils._signals import deferred

NAMESPACE = "k8s.io"
# What the kubelet's garbage collector heeds: a pinned image stays.
PIN_LABEL = "io.cri-containerd.pinned"
PINNED = f"{PIN_LABEL}=pinned"
# In memory in a build container; holds the log, the process id, and for the moment of a pull its credentials.
DIRECTORY = "/run/nodeforge"
SOCKET = "/run/containerd/containerd.sock"
# What is in containerd's root as soon as it has images.
METADATA = "io.containerd.metadata.v1.bolt/meta.db"
START_SECONDS = 60
STOP_SECONDS = 20

# Says what is there: nothing, a containerd that runs, one that an earlier run of ours left behind, or none that runs.
PROBE = r"""
command -v containerd >/dev/null && command -v ctr >/dev/null || { echo missing; exit 0; }
if [ -S "$2" ] && timeout 10 ctr version >/dev/null 2>&1; then
  if [ -f "$1/pid" ] && kill -0 "$(cat "$1/pid")" 2>/dev/null; then echo ours; else echo running; fi
else
  rm -rf "$1"; echo stopped
fi
"""

# The process itself, not a shell around it: the engine reaps it, so that it is seen to end. Remembers which directories it makes.
START = r"""
mkdir -p "$1" && echo $$ >"$1/pid" || exit
for n in containerd nri; do [ -e "/run/$n" ] || echo "$n" >>"$1/fresh"; done
exec containerd >"$1/log" 2>&1
"""

# For check mode: another containerd on a copy of the names, with the same content before it, which it never collects.
START_COPY = r"""
d=$1
mkdir -p "$d/root" && echo $$ >"$d/pid" || exit
[ -e /run/containerd ] || echo containerd >"$d/fresh"
root=$(containerd config dump 2>/dev/null | sed -n "s/^root = [\"']\(.*\)[\"']\$/\1/p" | head -n 1)
root=${root:-/var/lib/containerd}
if [ -d "$root/io.containerd.metadata.v1.bolt" ]; then cp -R "$root/io.containerd.metadata.v1.bolt" "$d/root/"; fi
if [ -d "$root/io.containerd.content.v1.content" ]; then
  ln -s "$root/io.containerd.content.v1.content" "$d/root/io.containerd.content.v1.content"
fi
cat >"$d/config.toml" <<'CONFIG'
version = 2
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri",
  "io.containerd.internal.v1.opt", "io.containerd.internal.v1.restart", "io.containerd.shim.v1.manager",
  "io.containerd.runtime.v1.linux", "io.containerd.runtime.v2.task", "io.containerd.sandbox.controller.v1.shim",
  "io.containerd.service.v1.tasks-service", "io.containerd.grpc.v1.tasks",
]
[plugins."io.containerd.gc.v1.scheduler"]
  startup_delay = "24h"
CONFIG
exec containerd --config "$d/config.toml" --root "$d/root" --state "$d/state" --address "$d/sock" >"$d/log" 2>&1
"""

WAIT = r"""
i=0
while [ "$i" -lt "$2" ]; do
  if [ -s "$1/pid" ]; then
    if [ -S "$3" ] && timeout 10 ctr version >/dev/null 2>&1; then exit 0; fi
    kill -0 "$(cat "$1/pid")" 2>/dev/null || break
  fi
  sleep 0.05; i=$((i + 1))
done
grep -E 'level=(fatal|error)|^containerd: ' "$1/log" 2>/dev/null | tail -n 1; tail -n 1 "$1/log"; exit 1
"""

# containerd writes its database at its end: it is waited for, then killed.
STOP = r"""
pid=$(cat "$1/pid" 2>/dev/null) || exit 0
kill "$pid" 2>/dev/null
i=0
while kill -0 "$pid" 2>/dev/null; do
  [ "$i" -eq "$2" ] && kill -9 "$pid"
  [ "$i" -gt $(($2 + 100)) ] && exit 1
  sleep 0.05; i=$((i + 1))
done
if [ -e "$1/fresh" ]; then while read -r n; do rm -rf "/run/$n"; done <"$1/fresh"; fi
[ -n "$3" ] || rm -f /run/containerd/containerd.sock*
rm -rf "$1"; rmdir "${1%/*}" 2>/dev/null
[ "$i" -le "$2" ] || echo killed
"""

# The images of these names, the blobs that are there, and the documents that the images begin with.
LIST = r"""
list=$(ctr images ls "$@") || exit
printf '%s\n' "$list"
printf '\n@blobs\n'; ctr content ls -q || exit
printf '%s\n' "$list" | while read -r name type digest rest; do
  case $digest in sha256:*) printf '\n@%s\n' "$digest"; ctr content get "$digest" 2>/dev/null;; esac
done
exit 0
"""

GET = r"""for d do printf '\n@%s\n' "$d"; ctr content get "$d" 2>/dev/null; done; exit 0"""

EXPORT = r"""for d do ctr content get "$d" || exit; done"""

# The hosts' configuration comes by standard input and goes at once, whatever happens.
FETCH = r"""
umask 077
d=$1 seconds=$2; shift 2
mkdir -p "$d" && tar -xf - -C "$d" && timeout -k 5 "$seconds" ctr content fetch --hosts-dir "$d" "$@" >/dev/null
rc=$?; rm -rf "$d"; rmdir "${d%/*}" "${d%/*/*}" 2>/dev/null; exit $rc
"""

# Imports without unpacking: the build container's own root is an overlay, on which none can be mounted. --local is faster
# where ctr has it, but takes no compressed archives. Then gives names: FROM TO ... -- NAME..., the latter to be removed.
LOAD = r"""
seconds=$1 platform=$2 label=$3 base=$4 local=$5; shift 5
[ -z "$local" ] || ctr images import --help | grep -q -e "$local" || local=
timeout -k 5 "$seconds" ctr images import --no-unpack $local --platform "$platform" \
  ${base:+--digests --base-name "$base"} - >/dev/null || exit
if [ -n "$base" ]; then
  names=$(ctr images ls -q "name~=\"^$base[:@]\"")
  [ -n "$names" ] || { echo "ctr: the archive holds no image" >&2; exit 1; }
  shift; set -- "$(printf '%s\n' "$names" | head -n 1)" "$@" $names
fi
while [ "$1" != -- ]; do
  [ "$1" = "$2" ] || ctr images tag --force "$1" "$2" >/dev/null || exit
  [ -z "$label" ] || ctr images label "$2" "$label" >/dev/null || exit
  shift 2
done
shift
[ $# -eq 0 ] || ctr images rm "$@" >/dev/null
"""

PIN = r"""label=$1; shift; for i do ctr images label "$i" "$label" >/dev/null || exit; done"""

REMOVE = r"""ctr images rm "$@" >/dev/null"""

# What broken transfers left: containerd forgets it when the lease of its client goes, but frees it only when some content
# goes, too. A poisoned rest would be the beginning of the next try.
COLLECT = r"""
lease=$1 all=$2 blob=$3; shift 3
ctr leases create --id "$lease" >/dev/null || exit
if [ -n "$all" ]; then
  ctr leases ls -q | while read -r other; do [ "$other" = "$lease" ] || ctr leases rm "$other" >/dev/null; done
fi
[ $# -eq 0 ] || ctr images rm "$@" >/dev/null
printf %s "$lease" | ctr content ingest "$lease" >/dev/null 2>&1
ctr content rm "$blob" >/dev/null 2>&1
ctr leases rm --sync "$lease" >/dev/null
"""

# Ends the transfers of this run, told from all other processes by their environment. Only ctr is killed: the shell around it
# removes what it left. Waits for the end of all.
ABORT = r"""
i=0 left=yes
while [ -n "$left" ] && [ "$i" -lt 200 ]; do
  left=
  for e in /proc/[0-9]*/environ; do
    if tr '\0' '\n' 2>/dev/null <"$e" | grep -q -x "$1"; then
      left=yes p=${e%/environ}
      [ "$(cat "$p/comm" 2>/dev/null)" != ctr ] || kill "${p#/proc/}" 2>/dev/null
    fi
  done
  i=$((i + 1))
done
exit 0
"""


class Record(t.NamedTuple):
    """An image's name in containerd: what it points to, and whether it is pinned."""

    digest: str
    pinned: bool


def parse_images(text: str) -> dict[str, Record]:
    """The table of ``ctr images ls``: REF TYPE DIGEST SIZE PLATFORMS LABELS."""
    images = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) > 2 and re.fullmatch(r"sha256:[0-9a-f]{64}", fields[2]):
            images[fields[0]] = Record(fields[2], PINNED in fields[-1].split(","))
    return images


def parse_sections(text: str) -> tuple[str, dict[str, str]]:
    """What stands before the first line of the form @NAME, and what follows each of them; the newline before it belongs to none."""
    first, *others = re.split(r"(?:^|\n)@", text)
    return first, {name: body for name, _newline, body in (part.partition("\n") for part in others)}


def name_filters(names: c.Iterable[str]) -> list[str]:
    """ctr's filters for exactly these names."""
    return [f'name=="{name}"' for name in names]


class Store:
    """What containerd had at one moment, for one platform."""

    def __init__(self, platform: str, images: dict[str, Record], blobs: set[str]) -> None:
        self.platform = platform
        self.images = images
        self.blobs = blobs
        self.documents: dict[str, bytes] = {}

    def _read(self, digest: str) -> bytes:
        if digest not in self.documents:
            raise Missing(digest)
        return self.documents[digest]

    def content(self, name: str) -> Content:
        """The image's content. Raises :class:`Missing` where a part is not there, :class:`WrongPlatform` where all of it is another's."""
        record = self.images.get(name)
        if record is None:
            raise Missing(name)
        content = content_of(record.digest, self._read, self.platform)
        for digest in content.blobs:
            if digest not in self.blobs:
                raise Missing(digest)
        return content

    def find(self, name: str) -> Content | None:
        """The image's content, or None where it is not whole."""
        try:
            return self.content(name)
        except (Missing, WrongPlatform, *NONSENSE):
            return None

    def pinned(self, names: c.Iterable[str]) -> Store:
        """The same with these images pinned."""
        store = Store(self.platform, {**self.images, **{name: self.images[name]._replace(pinned=True) for name in names}}, self.blobs)
        store.documents = self.documents
        return store

    def unread(self) -> set[str]:
        """Documents that must be read to know more."""
        wanted = set()
        for record in self.images.values():
            try:
                content_of(record.digest, self._read, self.platform)
            except Missing as e:
                wanted.add(str(e))
            except (WrongPlatform, *NONSENSE):
                pass
        return (wanted & self.blobs) - self.documents.keys()


class Containerd:
    """with Containerd(engine, "name") as containerd: it runs. ``read_only`` looks without changing anything."""

    def __init__(self, engine: Engine, container: str, *, read_only: bool = False) -> None:
        self.engine = engine
        self.container = container
        self.read_only = read_only
        self.started = False
        self._token = secrets.token_hex(8)
        self._directory = DIRECTORY
        self._environment = {"CONTAINERD_NAMESPACE": NAMESPACE, "CONTAINERD_ADDRESS": SOCKET}
        self._hosts = f"{DIRECTORY}/hosts-{self._token}"
        self._mark = f"NODEFORGE_TRANSFER={self._token}"

    # its life

    def __enter__(self) -> Containerd:
        state = self._run(PROBE, DIRECTORY, SOCKET).stdout.strip()
        if state == "missing":
            image = (self.engine.container(self.container) or {}).get("Config", {}).get("Image", "")
            raise EngineError(
                f'The container "{self.container}" has no containerd (containerd and ctr are looked for): '
                f'its image "{image}" is no base of kind nodes; use one, such as kindest/base'
            )
        if state not in ("running", "ours", "stopped"):
            raise EngineError(f'The container "{self.container}" cannot run a shell: its image is no base of kind nodes; use one, such as kindest/base')
        if state == "ours" and not self.read_only:
            # its run was killed: what that began would go on for hours, and hold what this one needs
            self.started = True
            self._run(ABORT, "NODEFORGE_TRANSFER=.*", timeout=30)
        if state == "stopped":
            try:
                self._start()
            except BaseException:
                self._stop()
                raise
        return self

    def _start(self) -> None:
        script = START
        if self.read_only:
            self._directory = f"{DIRECTORY}/check-{self._token}"
            self._environment["CONTAINERD_ADDRESS"] = f"{self._directory}/sock"
            script = START_COPY
        self.started = True
        self.engine.exec_detached(self.container, ["sh", "-c", script, "sh", self._directory])
        waited = self._run(WAIT, self._directory, str(START_SECONDS * 20), self._environment["CONTAINERD_ADDRESS"])
        if waited.rc:
            lines = [line for line in waited.stdout.splitlines() if line.strip()]
            raise EngineError(
                f'containerd does not start in the container "{self.container}": {log_message(lines[0]) if lines else waited.reason}; '
                "correct /etc/containerd/config.toml of its image, or use another base image"
            )

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None) -> None:
        try:
            with deferred():
                self._stop()
        except EngineError:
            # the first failure is the one to tell
            if error is None:
                raise

    def _stop(self) -> None:
        if not self.started:
            return
        self.started = False
        result = self._run(STOP, self._directory, str(STOP_SECONDS * 20), "copy" if self.read_only else "", timeout=STOP_SECONDS + 30)
        if result.rc:
            raise EngineError(f'containerd does not end in the container "{self.container}": remove the container and run again')
        if "killed" in result.stdout:
            raise EngineError(
                f'containerd in the container "{self.container}" had to be killed after {STOP_SECONDS} s, its database may be damaged: '
                "remove the container and run again"
            )

    # its work

    def _run(
        self,
        script: str,
        *arguments: str,
        stdin: c.Iterable[bytes] | None = None,
        stdin_size: int | None = 0,
        timeout: int | None = None,
        on_stdout: c.Callable[[bytes], None] | None = None,
        marked: bool = False,
        environment: c.Mapping[str, str] | None = None,
    ) -> ExecResult:
        environment = {**self._environment, **(environment or {})}
        if marked:
            name, _equals, value = self._mark.partition("=")
            environment[name] = value
        return self.engine.exec(
            self.container,
            ["sh", "-c", script, "sh", *arguments],
            stdin=stdin,
            stdin_size=stdin_size,
            environment=environment,
            timeout=timeout,
            on_stdout=on_stdout,
        )

    def _checked(self, doing: str, script: str, *arguments: str) -> ExecResult:
        result = self._run(script, *arguments)
        if result.rc:
            raise EngineError(f'{doing} in the container "{self.container}" failed: {result.reason}; run again, or begin with a new container')
        return result

    def store(self, names: c.Collection[str], platform: str) -> Store:
        """What is there of these images."""
        if not names:
            return Store(platform, {}, set())
        listed = self._checked("Listing the images", LIST, *name_filters(names)).stdout
        table, sections = parse_sections(listed)
        store = Store(platform, parse_images(table), set(sections.pop("blobs", "").split()))
        store.documents.update({digest: text.encode() for digest, text in sections.items() if text})
        while True:
            wanted = store.unread()
            if not wanted:
                return store
            _nothing, sections = parse_sections(self._checked("Reading the images", GET, *sorted(wanted)).stdout)
            for digest in wanted:
                if sections.get(digest):
                    store.documents[digest] = sections[digest].encode()
                else:
                    store.blobs.discard(digest)  # listed, but not to be read: as good as missing

    def fetch(self, name: str, platform: str, hosts: bytes, *, proxies: c.Mapping[str, str], pin: bool, timeout: int) -> ExecResult:
        """Pulls an image's content for a platform; ``hosts`` is a tar archive of hosts.toml files. ``proxies`` are for this one command."""
        arguments = ["--platform", platform, *(["--label", PINNED] if pin else []), name]
        directory = f"{self._hosts}/{secrets.token_hex(4)}"
        return self._run(
            FETCH,
            directory,
            str(timeout),
            *arguments,
            stdin=[hosts],
            stdin_size=len(hosts),
            timeout=timeout + 15,
            marked=True,
            environment=proxies,
        )

    def load(
        self,
        chunks: c.Iterable[bytes],
        size: int | None,
        platform: str,
        names: c.Mapping[str | None, str],
        *,
        drop: c.Iterable[str] = (),
        pin: bool,
        compressed: bool = False,
        timeout: int,
    ) -> ExecResult:
        """Imports an archive and gives its images their names: from the name in the archive, or None for a nameless image."""
        base = f"import-{secrets.token_hex(4)}" if None in names else ""
        pairs = [word for old, new in names.items() for word in (old or "", new)]
        return self._run(
            LOAD,
            str(timeout),
            platform,
            PINNED if pin else "",
            base,
            "" if compressed else "--local",
            *pairs,
            "--",
            *drop,
            stdin=chunks,
            stdin_size=size,
            timeout=timeout + 30,
            marked=True,
        )

    def export(self, digests: c.Iterable[str], sink: c.Callable[[bytes], None]) -> None:
        """Gives these blobs to ``sink``, one after the other."""
        result = self._run(EXPORT, *digests, on_stdout=sink, marked=True)
        if result.rc:
            raise EngineError(f'Reading content out of the container "{self.container}" failed: {result.reason}')

    def pin(self, names: c.Iterable[str]) -> None:
        self._checked("Pinning images", PIN, PINNED, *names)

    def remove(self, names: c.Iterable[str]) -> None:
        """Takes names away; the content goes with :meth:`collect`."""
        self._checked("Removing images", REMOVE, *names)

    def collect(self, *, all_transfers: bool = False) -> None:
        """Frees what no image needs, such as the rest of a broken transfer. Those that others have under way are never touched."""
        images = parse_images(self._run("ctr images ls").stdout)
        # CRI names each image by its id, too, but does not take that name away with the others
        named = {record.digest for name, record in images.items() if not name.startswith("sha256:")}
        orphans = [name for name, record in images.items() if record.digest not in named]
        lease = f"nodeforge-{secrets.token_hex(4)}"
        blob = "sha256:" + hashlib.sha256(lease.encode()).hexdigest()
        self._run(COLLECT, lease, "all" if all_transfers and self.started else "", blob, *orphans, timeout=60)

    def abort(self) -> None:
        """Ends the transfers that this object has under way."""
        self._run(ABORT, self._mark, timeout=30)


def log_message(line: str) -> str:
    """The message of a line of containerd's log: msg and error, or the line itself."""
    try:
        fields = dict(word.split("=", 1) for word in shlex.split(line) if "=" in word)
    except ValueError:
        fields = {}
    parts = [fields[key] for key in ("msg", "error") if fields.get(key)]
    return ": ".join(parts) or line.strip().replace("containerd: ", "", 1)
