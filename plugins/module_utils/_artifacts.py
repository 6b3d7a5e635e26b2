# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can change at any time.
"""Kubernetes that somebody has already compiled: how a source is named, where its parts lie, and what they are.

Decisions are pure; what reads and writes files is small and apart. What the user can put right is a :class:`TreeError`,
as for trees, whose outputs these are.
"""

from __future__ import annotations

import collections.abc as c
import contextlib
import gzip
import hashlib
import json
import os
import posixpath
import re
import tarfile
import typing as t
import urllib.parse
import zlib

from ansible_collections.nodeforge.kind.plugins.module_utils._registry import split_url
from ansible_collections.nodeforge.kind.plugins.module_utils._tree import (
    CHUNK,
    SERVER_IMAGES,
    VERSION,
    HashCache,
    TreeError,
    archive_facts,
    elf_facts,
)

# What a node needs: three programs, and the control plane as images.
BINARIES = ("kubeadm", "kubectl", "kubelet")
COMPONENTS = (*BINARIES, *SERVER_IMAGES)
SERVER = "https://dl.k8s.io"
HEX = {"sha256": 64, "sha512": 128}
# Below the root of a directory or archive, in the order in which they are looked at; {arch} is the platform's.
ARCHIVE_PLACES = ("kubernetes/server/bin", "kubernetes/node/bin", "kubernetes/client/bin", "server/bin", "node/bin", "client/bin", "bin", "")
BINARY_PLACES = (
    "dockerized/bin/linux/{arch}",
    "local/bin/linux/{arch}",
    "release-stage/server/linux-{arch}/kubernetes/server/bin",
    "bin/linux/{arch}",
    "linux/{arch}",
    *ARCHIVE_PLACES,
)
IMAGE_PLACES = (
    "release-images/{arch}",
    "nodeforge/images/{arch}",
    "release-stage/server/linux-{arch}/kubernetes/server/bin",
    "images/{arch}",
    "images",
    *ARCHIVE_PLACES,
)
VERSION_FILES = ("kubernetes/version", "version")
WRONG_PLATFORM = "name the artifacts of that platform, or set platform"


# -- how a source is named -------------------------------------------------------------------------------------------------


class Source(t.NamedTuple):
    """A source, as its name tells: a C(path), a C(url), or a C(release) of a server (track is release or ci)."""

    kind: str
    name: str
    track: str = ""

    @property
    def is_version(self) -> bool:
        """Whether the name is a version itself, not a marker that names one."""
        return bool(VERSION.match(self.name))

    def __str__(self) -> str:
        return f"{self.track}/{self.name}" if self.track else self.name


def parse_source(text: str) -> Source:
    """``v1.34.4``, ``release/stable-1.34``, ``ci/latest`` (or with a colon), a URL, or else a path."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        parts = split_url(text)
        if parts is None:
            raise TreeError(f'The source "{text}" is not a URL of a file; write it like https://example.com/kubernetes-server-linux-amd64.tar.gz.')
        if parts.username or parts.password:
            raise TreeError(f'The URL at "{parts.hostname}" in source has credentials, which logs would show; put them into ~/.netrc.')
        return Source("url", text)
    if VERSION.match(text):
        return Source("release", text, "release")
    track = re.match(r"(release|ci)[:/](.*)\Z", text)
    if track:
        if not re.match(r"[a-z0-9][A-Za-z0-9.+-]*\Z", track.group(2)):
            raise TreeError(f'The source "{text}" names neither a version nor a marker; write it like release/v1.34.4, release/stable-1.34 or ci/latest.')
        return Source("release", track.group(2), track.group(1))
    if not text.strip():
        raise TreeError("The source is empty; name a directory, an archive, a URL, a version or a marker.")
    return Source("path", os.path.abspath(os.path.expanduser(text)))


def archive_name(components: c.Iterable[str], arch: str) -> str:
    """The smaller archive where no images are wanted."""
    return f"kubernetes-{'server' if set(components) & set(SERVER_IMAGES) else 'node'}-linux-{arch}.tar.gz"


def check_name(name: str, platform: str) -> None:
    """Kubernetes names its archives by platform: another one's is not downloaded in vain."""
    found = re.search(r"\b(linux|darwin|windows)-(amd64|arm64|arm|386|ppc64le|s390x)\b", name)
    if found and f"{found.group(1)}/{found.group(2)}" != platform:
        raise TreeError(f'"{name}" is made for {found.group(1)}/{found.group(2)} and not for {platform}; {WRONG_PLATFORM}.')


def check_components(names: c.Sequence[str]) -> list[str]:
    for name in names:
        if name not in COMPONENTS:
            raise TreeError(f'"{name}" in components is none that a node needs; choose from {", ".join(COMPONENTS)}.')
    if not names:
        raise TreeError(f"components is empty; choose from {', '.join(COMPONENTS)}.")
    return list(dict.fromkeys(names))


def server_url(server: str, *path: str) -> str:
    """The plus of a version has a meaning of its own in some servers' paths."""
    return "/".join([server.rstrip("/"), *(urllib.parse.quote(part) for part in path)])


def check_server(url: str) -> str:
    parts = split_url(url)
    if parts is None:
        raise TreeError(f'"{url}" in urls is not a URL; write it like {SERVER}.')
    if parts.username or parts.password:
        raise TreeError(f'The URL at "{parts.hostname}" in urls has credentials, which logs would show; put them into ~/.netrc.')
    return url.rstrip("/")


# -- checksums -------------------------------------------------------------------------------------------------------------


class Checksum(t.NamedTuple):
    """What a file's content must be."""

    algorithm: str
    digest: str

    @property
    def file_name(self) -> str:
        return f"{self.algorithm}-{self.digest}"

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.digest}"


def parse_checksum(text: str) -> Checksum:
    """``sha256:HEX``, ``sha512:HEX``, or only the digits, whose number tells."""
    algorithm, colon, digest = text.strip().lower().rpartition(":")
    if not colon:
        algorithm = {length: name for name, length in HEX.items()}.get(len(digest), "")
    if HEX.get(algorithm) != len(digest) or not re.match(r"[0-9a-f]+\Z", digest):
        raise TreeError(f'The checksum "{text[:80]}" is none; write it as sha256: or sha512: and its {HEX["sha256"]} or {HEX["sha512"]} hexadecimal digits.')
    return Checksum(algorithm, digest)


def checksum_in(text: str, algorithm: str, name: str) -> Checksum | None:
    """What a ``.sha256`` or ``.sha512`` file says: the digits alone, or lines as sha256sum writes them."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    named = [line[0] for line in lines if len(line) == 2 and posixpath.basename(line[1].lstrip("*")) == name]
    alone = [line[0] for line in lines if len(line) == 1 or len(lines) == 1]
    for digest in named or alone[:1]:
        if re.match(r"[0-9a-fA-F]+\Z", digest) and len(digest) == HEX[algorithm]:
            return Checksum(algorithm, digest.lower())
    return None


def hash_of(path: str, algorithm: str = "sha256") -> str:
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def known_hash(path: str, digest: str) -> list[t.Any]:
    """A file's entry for HashCache, where its digest is known already."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, digest]


# -- where the parts lie ---------------------------------------------------------------------------------------------------


def file_name(component: str) -> str:
    """Of a component as a node takes it."""
    return component if component in BINARIES else f"{component}.tar"


def find_parts(root: str, arch: str, components: c.Iterable[str]) -> dict[str, str]:
    """Component to path in a directory. Where several places hold one, the file that was made last counts.

    Places that name the platform go first: what lies in others may be any platform's, such as that which was built last.
    """
    inner = os.path.join(root, "_output")
    found = {}
    for component in components:
        named, others = [], []
        for base in (root, inner):
            for place in BINARY_PLACES if component in BINARIES else IMAGE_PLACES:
                path = os.path.join(base, place.format(arch=arch), file_name(component))
                if os.path.isfile(path):
                    (named if "{arch}" in place else others).append(path)
        if not named and len(others) > 1:
            named = [path for path in others if _belongs(component, path, f"linux/{arch}")]
        paths = named or others
        if paths:
            found[component] = os.path.normpath(max(paths, key=lambda path: os.stat(path).st_mtime_ns))
    return found


def _belongs(component: str, path: str, platform: str) -> bool:
    try:
        _facts(component, path, platform)
    except (TreeError, OSError):
        return False
    return True


def _facts(component: str, path: str, platform: str) -> dict[str, t.Any]:
    return elf_facts(path, platform, WRONG_PLATFORM) if component in BINARIES else {"ref": archive_facts(path, platform, WRONG_PLATFORM)}


def member_part(name: str) -> str | None:
    """The file that a member of an archive is for us: a component's, or ``version``; None for all others."""
    path = posixpath.normpath(name)
    if path.startswith(("/", "../")) or path == "..":
        raise TreeError(f'it has the member "{name}", which lies outside')
    if path in VERSION_FILES:
        return "version"
    place, base = posixpath.split(path)
    return base if place in ARCHIVE_PLACES and base in {file_name(component) for component in COMPONENTS} else None


def check_parts(found: c.Container[str], components: c.Iterable[str], what: str, platform: str) -> None:
    missing = [name for name in components if name not in found]
    if missing:
        names = [f"no {name}" if name in BINARIES else f"no image archive {name}.tar" for name in missing]
        raise TreeError(f"{what} has {' and '.join(names)} for {platform}; complete it, or name in components only what you want of it.")


# -- what they are ---------------------------------------------------------------------------------------------------------


def describe(parts: c.Mapping[str, str], platform: str, hashes: HashCache) -> dict[str, dict[str, t.Any]]:
    """The outputs, as kube_make returns them."""
    outputs: dict[str, dict[str, t.Any]] = {"binaries": {}, "images": {}}
    for name, path in parts.items():
        try:
            entry = {"path": path, "sha256": hashes.sha256(path), "size": os.path.getsize(path)}
            outputs["binaries" if name in BINARIES else "images"][name] = {**entry, **_facts(name, path, platform)}
        except OSError as e:
            raise TreeError(f'"{path}" cannot be read ({e.strerror}); change its permissions or become its owner.') from e
    return outputs


def tagged_version(images: c.Mapping[str, c.Mapping[str, t.Any]]) -> str | None:
    """The version that all images have as their tag, in which an underscore stands for the plus."""
    tags = {image["ref"].rpartition(":")[2].replace("_", "+") for image in images.values()}
    version = tags.pop() if len(tags) == 1 else ""
    return version if VERSION.match(version) else None


def printed_version(text: str) -> str | None:
    """What kubelet --version and its like print, or kubectl as JSON."""
    if text.lstrip().startswith("{"):
        try:
            text = str(json.loads(text)["clientVersion"]["gitVersion"])
        except (ValueError, KeyError, TypeError):
            return None
    return next((word for word in text.split() if VERSION.match(word)), None)


# -- unpacking -------------------------------------------------------------------------------------------------------------


def unpack(path: str, directory: str | None, tick: t.Callable[[], None] = lambda: None) -> dict[str, str]:
    """What we want of an archive, each file flat into the directory: name to SHA-256. Without a directory all is only read.

    As a stream: an archive of any size takes no memory, and all of it is read, so that damage anywhere is noticed.
    """
    found: dict[str, str] = {}
    try:
        with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK) as archive:
            for member in archive:
                tick()
                part = member_part(member.name)
                if part is None or part in found:
                    continue
                source = archive.extractfile(member) if member.isfile() else None
                if source is None:
                    raise TreeError(f'its member "{member.name}" is not a plain file')
                found[part] = _keep(source, os.path.join(directory, part) if directory else None, 0o755 if part in BINARIES else 0o644, tick)
            while stream.read(CHUNK):  # up to the checksum at its end
                tick()
    except TreeError as e:
        raise TreeError(f'The archive "{path}" is not one of Kubernetes: {e}; name another one.') from e
    except gzip.BadGzipFile as e:
        raise TreeError(f'The archive "{path}" is no gzip archive, or damaged ({e}); get it again.') from e
    except (tarfile.TarError, EOFError, zlib.error) as e:
        raise TreeError(f'The archive "{path}" is damaged or not whole ({e}); get it again.') from e
    return found


def _keep(source: t.IO[bytes], destination: str | None, mode: int, tick: t.Callable[[], None]) -> str:
    digest = hashlib.sha256()
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(destination, "wb")) if destination else None
        for chunk in iter(lambda: source.read(CHUNK), b""):
            tick()
            digest.update(chunk)
            if file:
                file.write(chunk)
        if file:
            os.fchmod(file.fileno(), mode)
    return digest.hexdigest()
