# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What two images have in common: everything about every file, and containerd's records, but no time."""

from __future__ import annotations

import hashlib
import pathlib
import struct
import tarfile
import typing as t

METADATA = "var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db"
# containerd's names of its records' times
TIMES = {b"createdat", b"updatedat"}


class File(t.NamedTuple):
    """What is under a path, less its time."""

    kind: str
    mode: str
    owner: str
    link: str
    size: int
    sha256: str
    attributes: tuple[tuple[str, str], ...]


KINDS = {tarfile.REGTYPE: "file", tarfile.SYMTYPE: "link", tarfile.DIRTYPE: "directory", tarfile.CHRTYPE: "device", tarfile.FIFOTYPE: "pipe"}


def files(archive: pathlib.Path) -> tuple[dict[str, File], bytes]:
    """The files of an archive, hard links as the files that they are; and the data of containerd's database."""
    found: dict[str, File] = {}
    metadata = b""
    with tarfile.open(archive) as tar:
        for info in tar:
            path = info.name.strip("./")
            if info.islnk():
                found[path] = found[info.linkname.strip("./")]
                continue
            data = t.cast(t.IO[bytes], tar.extractfile(info)).read() if info.isreg() else b""
            if path == METADATA:
                metadata = data
                continue  # it is compared record by record
            attributes = tuple(sorted((name, text) for name, text in info.pax_headers.items() if name.startswith("SCHILY.xattr.")))
            device = f" {info.devmajor}:{info.devminor}" if info.ischr() else ""
            link = info.linkname + device
            owner = f"{info.uid}:{info.gid}"
            # older engines put the kind into the mode, too
            found[path] = File(KINDS[info.type], oct(info.mode & 0o7777), owner, link, info.size, hashlib.sha256(data).hexdigest(), attributes)
    return found, metadata


def records(database: bytes) -> dict[tuple[bytes, ...], bytes]:
    """All records of a bolt database by the names of their buckets, but for times. An empty bucket is one, too."""
    size = struct.unpack_from("<I", database, 16 + 8)[0]
    metas = [struct.unpack_from("<IIIIQQQQQ", database, number * size + 16) for number in (0, 1)]
    assert all(meta[0] == 0xED0CDAED and meta[1] == 2 for meta in metas)
    found: dict[tuple[bytes, ...], bytes] = {}

    def page(data: bytes, start: int, above: tuple[bytes, ...]) -> None:
        _number, flags, count, _overflow = struct.unpack_from("<QHHI", data, start)
        for index in range(count):
            element = start + 16 + index * 16
            if flags & 1:  # a branch
                _position, _length, child = struct.unpack_from("<IIQ", data, element)
                page(database, child * size, above)
                continue
            assert flags & 2
            kind, position, key_length, length = struct.unpack_from("<IIII", data, element)
            key = data[element + position : element + position + key_length]
            value = data[element + position + key_length : element + position + key_length + length]
            name = (*above, key)
            if not kind & 1:
                if key not in TIMES:
                    found[name] = value
                continue
            found[name] = b""
            root = struct.unpack_from("<Q", value)[0]
            if root:
                page(database, root * size, name)
            else:
                page(value, 16, name)

    page(database, max(metas, key=lambda meta: meta[7])[4] * size, ())
    return found


def differences(one: dict[t.Any, t.Any], other: dict[t.Any, t.Any]) -> dict[t.Any, tuple[t.Any, t.Any]]:
    """By path or name what both have, where it differs."""
    return {key: (one.get(key), other.get(key)) for key in sorted(one.keys() | other.keys()) if one.get(key) != other.get(key)}
