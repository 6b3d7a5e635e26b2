# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the root filesystem of another architecture without running anything of it.

The native root was made by its packages' scripts. What they left (users, links of alternatives, certificates, what is on and off) is of no
architecture and is taken as it is, as are owners and modes; what packages hold comes from the packages of the other architecture; and what was
removed from the native root or moved in it is removed and moved here, too. So the root is the one that the other architecture's own programs make, file
by file (tests/multiarch compares them). The linker's cache, which only they could make, is in neither.

usage: twin.py NATIVE.tar PACKAGES_DIRECTORY OUTPUT.tar
"""

from __future__ import annotations

import hashlib
import io
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import typing as t

# Debian's name of an architecture: the names of its directories, and the machine in the head of its programs
ARCHITECTURES = {"amd64": ("x86_64-linux-gnu", 62), "arm64": ("aarch64-linux-gnu", 183)}
DATABASE = "var/lib/dpkg"
# as dpkg writes them; others follow
FIELDS = """
Package Essential Protected Status Priority Section Installed-Size Origin Maintainer Bugs Architecture Multi-Arch Source Version Replaces Provides
Depends Pre-Depends Recommends Suggests Breaks Conflicts Enhances Conffiles Description
""".split()
# of no use, and in no root that is made as it is to be
LEFT_OUT = {"etc/ld.so.cache", f"{DATABASE}/status-old"}


class WrongRoot(Exception):
    """A sentence that says why there is no twin."""


class Entry(t.NamedTuple):
    """What an archive has under a name."""

    info: tarfile.TarInfo
    data: bytes


def path_of(name: str) -> str:
    return os.path.normpath("/" + name.lstrip("/"))[1:]


def read(stream: t.IO[bytes]) -> dict[str, Entry]:
    """An archive's entries by path; what is linked to has its data."""
    entries: dict[str, Entry] = {}
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for info in archive:
            if info.islnk():
                data = entries[path_of(info.linkname)].data
            else:
                data = t.cast(t.IO[bytes], archive.extractfile(info)).read() if info.isfile() else b""
            entries[path_of(info.name)] = Entry(info, data)
    return entries


def machine_of(data: bytes) -> int | None:
    """The machine of a program or library."""
    return int.from_bytes(data[18:20], "little") if data[:4] == b"\x7fELF" else None


class Package:
    """One of the other architecture."""

    def __init__(self, path: str) -> None:
        self.files = read(io.BytesIO(self._part(path, "--fsys-tarfile")))
        self.control = {name: entry.data for name, entry in read(io.BytesIO(self._part(path, "--ctrl-tarfile"))).items() if entry.info.isfile()}
        self.fields = self.control.pop("control").decode()
        self.name, self.arch = self._field("Package"), self._field("Architecture")
        # where dpkg keeps what it knows of it
        self.stem = f"{DATABASE}/info/{self.name}" + (f":{self.arch}" if self._field("Multi-Arch") == "same" else "")

    @staticmethod
    def _part(path: str, which: str) -> bytes:
        return subprocess.run(["dpkg-deb", which, path], stdout=subprocess.PIPE, check=True).stdout

    def _field(self, name: str) -> str:
        found = re.search(rf"^{name}: *(.*)$", self.fields, re.M)
        return found.group(1) if found else ""

    def status(self) -> str:
        """Its part of dpkg's status, installed."""
        fields = re.findall(r"^[^\s:]+:.*\n(?:[ \t].*\n)*", self.fields.strip("\n") + "\n", re.M)
        fields.append("Status: install ok installed\n")
        known = [self._conffile(line) for line in self.control.get("conffiles", b"").decode().splitlines() if line.strip()]
        if known:
            fields.append("Conffiles:\n" + "".join(f" {line}\n" for line in known))
        order = {name: number for number, name in enumerate(FIELDS)}
        return "".join(sorted(fields, key=lambda field: order.get(field.partition(":")[0], len(order))))

    def _conffile(self, line: str) -> str:
        """What dpkg knows of one: its checksum, or that it is none any more."""
        flag, _blank, path = line.strip().rpartition(" ")
        if flag:
            return f"{path} newconffile {flag}"
        return f"{path} {hashlib.md5(self.files[path_of(path)].data, usedforsecurity=False).hexdigest()}"

    def watched(self) -> list[str]:
        """The paths that it wants to hear of, as dpkg lists them."""
        found = re.findall(r"^interest(-await|-noawait)? +(/\S+)", self.control.get("triggers", b"").decode(), re.M)
        name = self.stem.rpartition("/")[2]
        return [f"{path} {name}{'/noawait' if how == '-noawait' else ''}\n" for how, path in found]

    def known(self) -> dict[str, bytes]:
        """Its files in dpkg's database."""
        listed = "".join("/" + (path or ".") + "\n" for path in self.files).encode()
        return {f"{self.stem}.list": listed, **{f"{self.stem}.{name}": data for name, data in self.control.items()}}


class Native:
    """The root that is there."""

    def __init__(self, path: str) -> None:
        with open(path, "rb") as stream:
            self.entries = read(stream)
        self.owned: set[str] = set()
        # what packages had where, by checksum
        self.origin: dict[str, str] = {}
        for name, entry in self.entries.items():
            if name.startswith(f"{DATABASE}/info/") and name.endswith(".list"):
                self.owned.update(path_of(line) for line in entry.data.decode().splitlines())
            elif name.startswith(f"{DATABASE}/info/") and name.endswith(".md5sums"):
                for line in entry.data.decode().splitlines():
                    md5, path = line.split(None, 1)
                    self.origin[md5] = path_of(path)
        # directories with something that no package has
        self.filled = {str(parent) for name in self.entries.keys() - self.owned for parent in pathlib.PurePath(name).parents}
        self.arch = self.entries[f"{DATABASE}/arch-native"].data.decode().strip()
        # of a package's own entries in dpkg's database
        stems = {name[: -len(".list")] for name in self.entries if name.startswith(f"{DATABASE}/info/") and name.endswith(".list")}
        self.database = {name for name in self.entries if name.startswith(f"{DATABASE}/info/") and name.rpartition(".")[0] in stems}


class Twin:
    """The root that is made."""

    def __init__(self, native: Native, packages: list[Package]) -> None:
        arches = {package.arch for package in packages} - {"all"}
        if len(arches) != 1 or not arches < ARCHITECTURES.keys() or native.arch not in ARCHITECTURES:
            raise WrongRoot(f"the packages are for {', '.join(sorted(arches)) or 'no architecture'}, the native root is for {native.arch}")
        self.native = native
        self.arch = arches.pop()
        self.files = {path: entry for package in packages for path, entry in package.files.items()}
        self.texts = {f"{DATABASE}/status": "\n".join(package.status() for package in packages).encode() + b"\n"}
        watched = sorted(line for package in packages for line in package.watched())
        if watched:
            self.texts[f"{DATABASE}/triggers/File"] = "".join(watched).encode()
        for package in packages:
            self.texts.update(package.known())
        there, self.machine = ARCHITECTURES[self.arch]
        self.words = {ARCHITECTURES[native.arch][0]: there, **{form.format(native.arch): form.format(self.arch) for form in (":{}", ".{}.", "_{}.")}}

    def named(self, text: str) -> str:
        """A path, link or list of the native root in the words of the other architecture."""
        for here, there in self.words.items():
            text = text.replace(here, there)
        return text

    def entries(self) -> t.Iterator[Entry]:
        """The native root's, each as the other architecture has it, and then those that only that has."""
        done: set[str] = set()
        native = self.native
        for path, entry in native.entries.items():
            if path in LEFT_OUT or path in native.database:
                continue
            made = self.texts.pop(path) if path in self.texts else None
            new = self._entry(path, entry) if made is None else Entry(entry.info, made)
            if new:
                done.add(path_of(new.info.name))
                yield new
        removed = {self.named(path) for path in native.owned}
        for path, entry in sorted(self.files.items()):
            # /usr/share is of no architecture: what one alone has there are its changelogs
            if path not in done and path not in removed and not path.startswith("usr/share/"):
                yield from self._parents(path, done)
                done.add(path)
                yield Entry(self._info(path, entry.info), entry.data)
        for path, data in sorted(self.texts.items()):
            info = tarfile.TarInfo("./" + path)
            info.mode = 0o755 if data[:2] == b"#!" else 0o644
            yield Entry(info, data)

    def _entry(self, path: str, entry: Entry) -> Entry | None:
        name = self.named(path)
        info = self._info(name, entry.info)
        info.linkname = self.named(info.linkname)
        found = self.files.get(name)
        if path in self.native.owned and found is None and path not in self.native.filled:
            return None
        if path in self.native.owned and found is not None and not info.isdir():
            if found.info.isdir():
                return Entry(info, b"")  # a script has made a link of it
            if found.info.issym():
                info.type, info.linkname = tarfile.SYMTYPE, found.info.linkname
            elif not info.islnk():
                info.type = tarfile.REGTYPE
            return Entry(info, found.data)
        if machine_of(entry.data) is not None:
            origin = self.native.origin.get(hashlib.md5(entry.data, usedforsecurity=False).hexdigest(), "")
            if not origin or self.named(origin) not in self.files:
                raise WrongRoot(f"/{path} of the native root is a program of no package")
            return Entry(info, self.files[self.named(origin)].data)
        if path in (f"{DATABASE}/arch", f"{DATABASE}/arch-native"):
            return Entry(info, f"{self.arch}\n".encode())
        if any(word.encode() in entry.data for word in self.words):
            if b"\0" in entry.data:
                raise WrongRoot(f"/{path} of the native root is of its architecture, and no package has it")
            return Entry(info, self.named(entry.data.decode()).encode())
        return Entry(info, entry.data)

    def _parents(self, path: str, done: set[str]) -> t.Iterator[Entry]:
        """The directories above that are not there yet."""
        parent = os.path.dirname(path)
        if parent and parent not in done:
            yield from self._parents(parent, done)
            done.add(parent)
            info = tarfile.TarInfo("./" + parent + "/")
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            yield Entry(info, b"")

    @staticmethod
    def _info(path: str, like: tarfile.TarInfo) -> tarfile.TarInfo:
        info = tarfile.TarInfo("./" + path + ("/" if like.isdir() and path else ""))
        info.type, info.mode, info.uid, info.gid, info.linkname = like.type, like.mode, like.uid, like.gid, like.linkname
        info.devmajor, info.devminor = like.devmajor, like.devminor
        return info

    def write(self, path: str) -> None:
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
            for info, data in self.entries():
                if machine_of(data) not in (None, self.machine):
                    raise WrongRoot(f"{info.name} of the packages is no program for {self.arch}")
                info.size = len(data) if info.isreg() else 0
                info.mtime = 0
                archive.addfile(info, io.BytesIO(data))


def main(native: str, packages: str, output: str) -> None:
    found = [Package(os.path.join(packages, name)) for name in os.listdir(packages)]
    Twin(Native(native), sorted(found, key=lambda package: package.name)).write(output)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except WrongRoot as e:
        sys.exit(f"twin: {e}")
