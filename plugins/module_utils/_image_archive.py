# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can change at any time.
"""Images outside of containerd: what an image consists of, archives of them, and the cache, which is an OCI image layout."""

from __future__ import annotations

import collections.abc as c
import contextlib
import fcntl
import hashlib
import json
import os
import posixpath
import tarfile
import tempfile
import typing as t
import zlib

from ansible_collections.nodeforge.kind.plugins.module_utils._docker import CHUNK, EngineError, read_chunks
from ansible_collections.nodeforge.kind.plugins.module_utils._node_image import BadInput, parse_reference

# Manifests and configurations are small; whatever is larger is none.
MAX_DOCUMENT = 4 * 1024 * 1024
NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"
# What reading a document of an unknown shape may raise.
NONSENSE = (ValueError, KeyError, TypeError, AttributeError)


class Missing(Exception):
    """A part of an image is not there; the digest is the only argument."""


class WrongPlatform(Exception):
    """The image is for other platforms only; they are the arguments."""


class Content(t.NamedTuple):
    """An image for one platform: all its blobs with their sizes, documents first."""

    digest: str
    config: str
    blobs: dict[str, int]

    @property
    def size(self) -> int:
        return sum(self.blobs.values())


def split_platform(platform: str) -> tuple[str, str, str]:
    """os, architecture and variant; the variant that everybody means by default is none."""
    os_name, arch, variant = (platform.split("/") + ["", ""])[:3]
    return os_name, arch, "" if (arch, variant) in (("arm64", "v8"), ("amd64", "v1")) else variant


def _platform_of(document: c.Mapping[str, t.Any]) -> str:
    return "/".join(p for p in (document.get("os", ""), document.get("architecture", ""), document.get("variant", "")) if p)


def content_of(digest: str, read: c.Callable[[str], bytes], platform: str) -> Content:
    """Follows an image from its index or manifest down to its layers. ``read`` raises :class:`Missing` for unknown digests."""
    raw = read(digest)
    document = json.loads(raw)
    if "manifests" in document:
        there = [m for m in document["manifests"] if m.get("platform")] or document["manifests"]
        for manifest in there:
            if "platform" not in manifest or split_platform(_platform_of(manifest["platform"])) == split_platform(platform):
                inner = content_of(manifest["digest"], read, platform)
                return Content(digest, inner.config, {digest: len(raw), **inner.blobs})
        # what builders attach (attestations) is for the platform unknown/unknown
        raise WrongPlatform(*sorted({_platform_of(m["platform"]) for m in there} - {"unknown/unknown"}))
    config = document["config"]
    found = _platform_of(json.loads(read(config["digest"])))
    if split_platform(found) != split_platform(platform):
        raise WrongPlatform(found)
    blobs = {digest: len(raw), config["digest"]: config["size"], **{layer["digest"]: layer["size"] for layer in document["layers"]}}
    return Content(digest, config["digest"], blobs)


# archives


class Archived(t.NamedTuple):
    """An image in an archive: the name that it has there, and its configuration's digest, which tells its whole content."""

    name: str | None
    config: str


def read_archive(path: str, platform: str) -> list[Archived]:
    """The images in a docker or OCI archive for a platform, without reading its layers."""
    documents: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                # images are told by small files; their layers are skipped, not read
                if member.isfile() and member.size <= MAX_DOCUMENT:
                    file = archive.extractfile(member)
                    head = file.read(1) if file else b""
                    if file and head in (b"{", b"["):
                        documents[posixpath.normpath(member.name)] = head + file.read()
    except OSError as e:
        raise EngineError(f'The image archive "{path}" cannot be read: {e.strerror or e}; build it again or correct its path') from e
    except (tarfile.TarError, EOFError, zlib.error) as e:
        raise EngineError(f'The image archive "{path}" is no whole tar archive ({e}): build it again') from e

    def read(digest: str) -> bytes:
        try:
            return documents["blobs/" + digest.replace(":", "/")]
        except KeyError:
            raise Missing(digest) from None

    try:
        if "index.json" in documents:
            images = []
            for manifest in json.loads(documents["index.json"])["manifests"]:
                annotations = manifest.get("annotations") or {}
                images.append(Archived(annotations.get(NAME), content_of(manifest["digest"], read, platform).config))
            return images
        if "manifest.json" in documents:
            images = []
            for image in json.loads(documents["manifest.json"]):
                config = documents[posixpath.normpath(image["Config"])]
                found = _platform_of(json.loads(config))
                if split_platform(found) != split_platform(platform):
                    raise WrongPlatform(found)
                digest = "sha256:" + hashlib.sha256(config).hexdigest()
                # containerd completes these names, such as busybox:latest, and takes all others as they are
                images += [Archived(str(parse_reference(name)) if name else None, digest) for name in image.get("RepoTags") or [None]]
            return images
    except WrongPlatform as e:
        raise EngineError(
            f'The image archive "{path}" is for {", ".join(e.args) or "no platform"}, not for {platform}: build it for that platform'
        ) from e
    except Missing as e:
        raise EngineError(f'The image archive "{path}" lacks a part of its image ({e}): build it again') from e
    except (BadInput, *NONSENSE) as e:
        raise EngineError(f'The image archive "{path}" is broken, its list of images makes no sense: build it again') from e
    raise EngineError(f'The file "{path}" is no image archive: it is not what docker save or make quick-release-images write')


def sha256_of(path: str) -> str:
    """A file's hash, in chunks."""
    digest = hashlib.sha256()
    for chunk in read_chunks(path):
        digest.update(chunk)
    return digest.hexdigest()


# the cache


class Cache:
    """Pulled images on this host, as an OCI image layout: blobs named by their digest, so each one proves itself.

    Other tools read it as well, and whatever is deleted from it is pulled anew.
    """

    def __init__(self, directory: str, *, read_only: bool = False) -> None:
        self.directory = directory
        try:
            if not read_only:
                os.makedirs(os.path.join(directory, "blobs", "sha256"), exist_ok=True)
                if not os.access(directory, os.W_OK):
                    raise PermissionError(None, "permission denied")
        except OSError as e:
            raise EngineError(f'The cache_dir "{directory}" cannot be used: {e.strerror or e}; choose a directory that you may write to') from e
        self._damaged: set[str] = set()

    def blob(self, digest: str) -> str:
        """Where a blob lies or would lie."""
        return os.path.join(self.directory, "blobs", *digest.split(":", 1))

    def find(self, name: str, platform: str) -> Content | None:
        """The image, if all of it is there for the platform. Sizes are looked at, hashes are not: see :meth:`damage`."""
        for manifest in self._index()["manifests"]:
            if (manifest.get("annotations") or {}).get(REF_NAME) == name:
                try:
                    content = content_of(manifest["digest"], self._read, platform)
                    if all(self._size(digest) == size for digest, size in content.blobs.items()):
                        return content
                except (Missing, WrongPlatform, *NONSENSE):
                    return None
        return None

    def damage(self, content: Content) -> str | None:
        """The first blob that is not what its name says, or cannot be read; it is removed, so that the next pull brings it anew."""
        for digest in content.blobs:
            with contextlib.suppress(OSError):
                if "sha256:" + sha256_of(self.blob(digest)) == digest:
                    continue
            with contextlib.suppress(OSError):
                os.unlink(self.blob(digest))
            return digest
        return None

    def missing(self, content: Content) -> dict[str, int]:
        """The blobs of an image that are not in the cache yet, with their sizes."""
        return {digest: size for digest, size in content.blobs.items() if self._size(digest) != size}

    def add(self, name: str, content: Content) -> None:
        """Makes an image known whose blobs are all there."""
        entry = {
            "mediaType": json.loads(self._read(content.digest)).get("mediaType", "application/vnd.oci.image.manifest.v1+json"),
            "digest": content.digest,
            "size": content.blobs[content.digest],
            "annotations": {REF_NAME: name, NAME: name},
        }
        with open(os.path.join(self.directory, ".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            index = self._index()
            index["manifests"] = [m for m in index["manifests"] if (m.get("annotations") or {}).get(REF_NAME) != name]
            index["manifests"].append(entry)
            self._write("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
            self._write("index.json", json.dumps(index, indent=1).encode())

    @contextlib.contextmanager
    def receive(self, blobs: c.Mapping[str, int]) -> t.Iterator[c.Callable[[bytes], None]]:
        """Takes these blobs as one stream, one after the other; what does not match its digest is not kept."""
        splitter = _Splitter(self, blobs)
        try:
            yield splitter.feed
            splitter.finish()
        finally:
            splitter.close()

    def stream(self, name: str, content: Content) -> tuple[t.Iterator[bytes], int]:
        """The image as an OCI archive in chunks, and its size in bytes."""
        index = {
            "schemaVersion": 2,
            "manifests": [
                {
                    "mediaType": json.loads(self._read(content.digest)).get("mediaType", "application/vnd.oci.image.manifest.v1+json"),
                    "digest": content.digest,
                    "size": content.blobs[content.digest],
                    "annotations": {NAME: name},
                }
            ],
        }
        files: list[tuple[str, bytes | str, int]] = []
        for path, data in (("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'), ("index.json", json.dumps(index).encode())):
            files.append((path, data, len(data)))
        files += [(posixpath.join("blobs", *digest.split(":", 1)), self.blob(digest), size) for digest, size in content.blobs.items()]
        total = sum(tarfile.BLOCKSIZE + size + -size % tarfile.BLOCKSIZE for _path, _data, size in files) + 2 * tarfile.BLOCKSIZE

        def chunks() -> t.Iterator[bytes]:
            for path, data, size in files:
                info = tarfile.TarInfo(path)
                info.size = size
                yield info.tobuf(tarfile.GNU_FORMAT)
                yield from [data] if isinstance(data, bytes) else read_chunks(data)
                yield b"\0" * (-size % tarfile.BLOCKSIZE)
            yield b"\0" * 2 * tarfile.BLOCKSIZE

        return chunks(), total

    def _index(self) -> dict[str, t.Any]:
        try:
            with open(os.path.join(self.directory, "index.json"), encoding="utf-8") as file:
                index = json.load(file)
            # what makes no sense in it is left out
            index["manifests"] = [m for m in index["manifests"] if isinstance(m, dict) and isinstance(m.get("annotations") or {}, dict)]
            return index
        except (OSError, ValueError, KeyError, TypeError):
            pass  # an unreadable list is an empty one: images are pulled and listed anew
        return {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}

    def _size(self, digest: str) -> int | None:
        try:
            return os.stat(self.blob(digest)).st_size
        except OSError:
            return None

    def _read(self, digest: str) -> bytes:
        try:
            with open(self.blob(digest), "rb") as file:
                return file.read(MAX_DOCUMENT)
        except OSError:
            raise Missing(digest) from None

    def _write(self, name: str, data: bytes) -> None:
        handle, temporary = tempfile.mkstemp(dir=self.directory, prefix=".new-")
        try:
            with open(handle, "wb") as file:
                os.fchmod(handle, 0o644)
                file.write(data)
            os.replace(temporary, os.path.join(self.directory, name))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


class _Splitter:
    """Cuts one stream into blobs of known sizes and digests."""

    def __init__(self, cache: Cache, blobs: c.Mapping[str, int]) -> None:
        self._cache = cache
        self._todo = list(blobs.items())
        self._file: t.Any = None
        self._temporary = ""
        self._left = 0
        self._hash = hashlib.sha256()

    def feed(self, chunk: bytes) -> None:
        while chunk:
            if self._file is None:
                if not self._todo:
                    raise EngineError("Filling the cache failed: more came than was asked for")
                self._left = self._todo[0][1]
                self._hash = hashlib.sha256()
                handle, self._temporary = tempfile.mkstemp(dir=os.path.join(self._cache.directory, "blobs"), prefix=".new-")
                self._file = open(handle, "wb", buffering=CHUNK)
            part, chunk = chunk[: self._left], chunk[self._left :]
            self._file.write(part)
            self._hash.update(part)
            self._left -= len(part)
            if not self._left:
                self._keep()

    def _keep(self) -> None:
        digest, _size = self._todo.pop(0)
        os.fchmod(self._file.fileno(), 0o644)
        self._file.close()
        self._file = None
        if "sha256:" + self._hash.hexdigest() != digest:
            raise EngineError(f"Filling the cache failed: the blob {digest} in the container is damaged")
        os.replace(self._temporary, self._cache.blob(digest))

    def finish(self) -> None:
        if self._file is not None or self._todo:
            raise EngineError(f"Filling the cache failed: the blob {self._todo[0][0]} broke off")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._temporary:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
