# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can change at any time.
"""A Kubernetes-shaped source tree: what it is, what make needs, where its outputs lie, what they are.

Decisions are pure functions of text and values; what reads files is small and apart. One exception,
:class:`TreeError`, carries one sentence that names the object and the remedy. Features are read from the tree's own
files, never guessed from a version number: a user's tree is usually between tags.
"""

from __future__ import annotations

import collections.abc as c
import hashlib
import json
import os
import re
import stat
import struct
import tarfile
import time
import typing as t
from dataclasses import dataclass, field

# ELF e_machine of each platform that a node can have
PLATFORMS: dict[str, int] = {"linux/amd64": 62, "linux/arm64": 183}
MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}

# These make image archives; they choose their own builder, and put binaries where a container build puts them.
IMAGE_TARGETS = frozenset({"quick-release-images", "release-images"})
SERVER_IMAGES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")

# Options decide these; two ways to set one thing would make results untrue.
RESERVED = {"WHAT": "what", "KUBE_EXTRA_WHAT": "what", "DBG": "debug", "KUBE_BUILD_PLATFORMS": "platform"}
RESERVED.update(
    dict.fromkeys(("MAKEFLAGS", "MFLAGS", "GNUMAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MAKEFILES"), "params")
)
# How the action plugin names the file that it shares with the module; see plugin_utils/_live_log.py.
ALIVE_VARIABLE = "NODEFORGE_ALIVE"
# Inherited from the caller's shell, or from a make above this one (`make node VERSION=…`), they would change the result.
UNSET = " ".join((*RESERVED, ALIVE_VARIABLE))

VERSION_SCRIPT = "hack/print-workspace-status.sh"
RUN_SCRIPT = "build/run.sh"
STATE_DIRECTORY = "_output/nodeforge"
STAMP_FORMAT = 1

CHUNK = 1024 * 1024
MAX_LINE = 16 * 1024
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
VERSION = re.compile(r"v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?\Z")


class TreeError(Exception):
    """One sentence for the user."""


# -- the tree ---------------------------------------------------------------------------------------------------------


def check_tree(tree: str) -> str:
    """The text of the tree's Makefile; a sentence when the directory is no tree that can be built."""
    if not os.path.lexists(tree):
        raise TreeError(f'There is no tree "{tree}" on this host; clone Kubernetes there or name another directory.')
    if not os.path.isdir(tree):
        raise TreeError(f'"{tree}" is not a directory; name the root of a Kubernetes source tree.')
    if not os.access(tree, os.R_OK | os.X_OK):
        raise TreeError(
            f'The tree "{tree}" cannot be read by {user_name()}; change its permissions or become its owner.'
        )
    for name in ("GNUmakefile", "makefile", "Makefile"):
        path = os.path.join(tree, name)
        if os.path.isfile(path):
            try:
                with open(path, encoding="utf-8", errors="replace") as file:
                    return file.read(4 * CHUNK)
            except OSError as e:
                raise TreeError(
                    f'"{path}" cannot be read ({e.strerror}); change its permissions or become its owner.'
                ) from e
    raise TreeError(f'"{tree}" has no Makefile; name the root of a Kubernetes source tree.')


def user_name() -> str:
    return f"user id {os.geteuid()}"


def makefile_targets(text: str) -> tuple[set[str], bool]:
    """The targets that a Makefile names itself, and whether these are all (no includes, patterns or computed names)."""
    targets: set[str] = set()
    complete = True
    for line in text.replace("\\\n", " ").splitlines():
        if re.match(r"\s*-?(s?include)\s|\s*\$[({](eval|foreach|call)\b", line):
            complete = False
        elif line[:1] in ("\t", "#"):
            continue
        match = re.match(r"([^=#]+?)\s*::?(?![=:])", line)
        if match is None:
            continue
        names = match.group(1)
        if "$" in names or "%" in names:
            complete = False
        else:
            targets.update(name for name in names.split() if not name.startswith("."))
    return targets, complete


def check_targets(tree: str, targets: c.Sequence[str], makefile: str) -> None:
    if not targets:
        raise TreeError("targets is empty; name at least one, for example all.")
    known, complete = makefile_targets(makefile)
    for target in targets:
        if not re.match(r"[A-Za-z0-9_][A-Za-z0-9_./-]*\Z", target):
            raise TreeError(
                f'"{target}" in targets is not the name of a make target; make variables belong into params.'
            )
        if complete and target not in known and not os.path.exists(os.path.join(tree, "cmd", target)):
            names = ", ".join(sorted(known)) or "none"
            raise TreeError(f'The Makefile of "{tree}" has no target "{target}"; it has {names}.')
    images = IMAGE_TARGETS.intersection(targets)
    if images and len(images) != len(set(targets)):
        raise TreeError(
            f"targets mixes {' and '.join(sorted(images))} with others, which put their binaries elsewhere; "
            "give each a task of its own."
        )


def check_features(tree: str, targets: c.Sequence[str], builder: str, debug: bool) -> None:
    """What would fail, or silently do something else, only after minutes of compiling."""
    images = bool(IMAGE_TARGETS.intersection(targets))
    if builder == "container" and not images and not os.path.isfile(os.path.join(tree, RUN_SCRIPT)):
        raise TreeError(f'The tree "{tree}" has no {RUN_SCRIPT}, so it has no build container; use builder=host.')
    script = os.path.join(tree, "build/release-images.sh")
    if images and debug and os.path.isfile(script):
        with open(script, encoding="utf-8", errors="replace") as file:
            if "DBG" not in file.read(CHUNK):
                raise TreeError(
                    f'The tree "{tree}" does not pass DBG on to its images (Kubernetes before 1.26), so they would hold no debug '
                    "information; build debug binaries with targets=all and builder=container."
                )


def parse_platform(platform: str | None, machine: str) -> str:
    """``linux/ARCH``; that of the machine when none is named."""
    if not platform:
        arch = MACHINES.get(machine.lower())
        if arch is None:
            raise TreeError(
                f'This host is a "{machine}", for which no node images exist; set platform to {known_platforms()}.'
            )
        return f"linux/{arch}"
    if platform not in PLATFORMS:
        raise TreeError(f'The platform "{platform}" is not supported; use {known_platforms()}.')
    return platform


def known_platforms() -> str:
    return " or ".join(sorted(PLATFORMS))


def components(tree: str) -> list[str]:
    """All ``cmd/*`` of the tree that are Go programs."""
    names = []
    try:
        with os.scandir(os.path.join(tree, "cmd")) as entries:
            for entry in entries:
                if entry.is_dir() and any(name.endswith(".go") for name in os.listdir(entry.path)):
                    names.append(entry.name)
    except OSError:
        pass
    return sorted(names)


def normalise_what(tree: str, what: c.Iterable[str]) -> list[str]:
    """Each component as the path that make's WHAT wants; ``kubelet``, ``./cmd/kubelet`` and the import path are the same."""
    result: list[str] = []
    for name in what:
        path = name.strip().rstrip("/")
        while path.startswith("./"):
            path = path[2:]
        if path.startswith("k8s.io/kubernetes/"):
            path = path[len("k8s.io/kubernetes/") :]
        if not re.match(r"[A-Za-z0-9_][A-Za-z0-9_./-]*\Z", path) or ".." in path:
            raise TreeError(f'"{name}" in what is not a component; name one as cmd/kubelet.')
        # k8s.io/… lies under staging or vendor, X.test stands for the tests of package X
        package = os.path.dirname(path) if path.endswith(".test") else path
        if "/" not in path:
            path = package = f"cmd/{path}"
        places = (package, f"staging/src/{package}", f"vendor/{package}")
        if not any(os.path.isdir(os.path.join(tree, place)) for place in places):
            known = ", ".join(f"cmd/{component}" for component in components(tree)) or "nothing under cmd"
            raise TreeError(f'The tree "{tree}" has no component "{name}"; it has {known}.')
        if path not in result:
            result.append(path)
    return result


def check_variables(variables: c.Mapping[str, t.Any], option: str) -> dict[str, str]:
    """Names and values as text; a sentence for what make or a shell could not take."""
    result = {}
    for name, value in variables.items():
        if not VARIABLE.match(str(name)):
            raise TreeError(f'"{name}" in {option} is not a name of a variable; use letters, digits and underscores.')
        if name in RESERVED:
            raise TreeError(f"{name} in {option} is decided by the option {RESERVED[name]}; set that one.")
        if isinstance(value, bool):
            text = "true" if value else "false"
        elif isinstance(value, (list, tuple)):
            text = " ".join(str(item) for item in value)
        elif value is None:
            text = ""
        elif isinstance(value, dict):
            raise TreeError(f"{name} in {option} is a dictionary; give it as text.")
        else:
            text = str(value)
        if "\0" in text or "\n" in text:
            raise TreeError(f"{name} in {option} has more than one line, which make cannot take; give it as one line.")
        result[name] = text
    return result


# -- what make is asked, and what it leaves ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """One build, fully decided."""

    tree: str
    targets: list[str]
    what: list[str]
    platform: str
    debug: bool = False
    builder: str = "host"
    params: dict[str, str] = field(default_factory=dict)

    @property
    def images(self) -> bool:
        return bool(IMAGE_TARGETS.intersection(self.targets))

    @property
    def in_container(self) -> bool:
        return self.builder == "container" and not self.images

    @property
    def arch(self) -> str:
        return self.platform.partition("/")[2]

    @property
    def binary_names(self) -> list[str]:
        return [os.path.basename(path) for path in self.what]

    @property
    def binary_directory(self) -> str:
        place = "dockerized" if self.in_container or self.images else "local"
        return os.path.join(self.tree, "_output", place, "bin", self.platform)

    @property
    def image_directory(self) -> str:
        return os.path.join(self.tree, "_output/release-images", self.arch)

    @property
    def state_directory(self) -> str:
        return os.path.join(self.tree, STATE_DIRECTORY)

    @property
    def key(self) -> str:
        """Names the stamp and the log: what decides which outputs there are. What decides their content is in the stamp."""
        where = [sorted(self.targets), sorted(self.what), self.platform, self.in_container]
        return hashlib.sha256(json.dumps(where).encode()).hexdigest()[:12]

    def variables(self) -> dict[str, str]:
        """The make variables, as arguments and never as environment: so they work in a build container of every version."""
        result: dict[str, str] = {}
        if self.images:
            result["KUBE_EXTRA_WHAT"] = " ".join(self.what)
            result["KUBE_BUILD_CONFORMANCE"] = "n"
        elif self.what:
            result["WHAT"] = " ".join(self.what)
            # Linked against the host's glibc, a kubelet does not start in a node with an older one.
            if not self.in_container and "cmd/kubelet" in self.what:
                result["KUBE_STATIC_OVERRIDES"] = "kubelet"
        result["KUBE_BUILD_PLATFORMS"] = self.platform
        result["KUBE_VERBOSE"] = "1"
        if self.debug:
            result["DBG"] = "1"
        result.update(self.params)
        return result

    def command(self, make: str = "make") -> list[str]:
        arguments = self.targets + [f"{name}={value}" for name, value in self.variables().items()]
        if self.in_container:
            return [os.path.join(self.tree, RUN_SCRIPT), "make"] + arguments
        return [make, "-C", self.tree] + arguments

    def found_binaries(self) -> dict[str, str]:
        """The binaries that there are now, whoever made them."""
        paths = {name: os.path.join(self.binary_directory, name) for name in self.binary_names}
        if not self.what and not self.images:
            try:
                names = sorted(os.listdir(self.binary_directory))
            except OSError:
                names = []
            # whatever was built, and not what else lies there
            paths = {name: os.path.join(self.binary_directory, name) for name in names}
            paths = {name: path for name, path in paths.items() if _is_elf(path)}
        return {name: path for name, path in paths.items() if os.path.isfile(path)}

    def found_images(self) -> dict[str, str]:
        if not self.images:
            return {}
        try:
            names = sorted(os.listdir(self.image_directory))
        except OSError:
            return {}
        return {name[:-4]: os.path.join(self.image_directory, name) for name in names if name.endswith(".tar")}

    def missing(self, binaries: c.Container[str], images: c.Container[str]) -> list[str]:
        """Paths that make promised and did not leave."""
        result = [os.path.join(self.binary_directory, name) for name in self.binary_names if name not in binaries]
        if self.images:
            result += [
                os.path.join(self.image_directory, f"{name}.tar") for name in SERVER_IMAGES if name not in images
            ]
        elif not self.what and not binaries:
            result.append(self.binary_directory)
        return result


# -- version -----------------------------------------------------------------------------------------------------------


def parse_version(output: str) -> str:
    """gitVersion out of what print-workspace-status.sh prints; empty when there is none."""
    for line in output.splitlines():
        name, dummy, value = line.strip().partition(" ")
        if name == "gitVersion":
            return value.strip()
    return ""


def check_version(version: str, tree: str, is_git: bool, is_shallow: bool) -> str:
    remedy = "or write KUBE_GIT_VERSION and KUBE_GIT_COMMIT into a file outside the tree and name it as KUBE_GIT_VERSION_FILE in environment"
    if not version:
        if not is_git:
            raise TreeError(
                f'The tree "{tree}" has no version, because it is not a git checkout; clone it with git, {remedy}.'
            )
        if is_shallow:
            raise TreeError(
                f'The tree "{tree}" has no version, because it is a shallow clone without a tag; '
                f"run git -C {tree} fetch --unshallow --tags, {remedy}."
            )
        raise TreeError(
            f'The tree "{tree}" has no version, because no tag of the form v1.2.3 can be reached from its commit; '
            f"run git -C {tree} fetch --tags, {remedy}."
        )
    if not VERSION.match(version):
        raise TreeError(
            f'{VERSION_SCRIPT} of the tree "{tree}" says "{version[:80]}", which is not a version such as v1.37.2; correct the tag, {remedy}.'
        )
    return version


# -- fingerprint of the sources ----------------------------------------------------------------------------------------

Run = t.Callable[["list[str]"], "tuple[int, bytes, bytes]"]


class HashCache:
    """sha256 of files, read once as long as the file stays the same one: gigabytes are not read again in a second run."""

    def __init__(self, known: c.Mapping[str, c.Sequence[t.Any]] | None = None) -> None:
        self.known = {path: list(entry) for path, entry in (known or {}).items()}
        self.used: dict[str, list[t.Any]] = {}

    def sha256(self, path: str) -> str:
        with open(path, "rb") as file:
            before = os.fstat(file.fileno())
            identity = [before.st_size, before.st_mtime_ns, before.st_ctime_ns, before.st_ino]
            entry = self.known.get(path)
            if entry is not None and entry[:4] == identity:
                self.used[path] = entry
                return str(entry[4])
            digest = hashlib.sha256()
            for chunk in iter(lambda: file.read(CHUNK), b""):
                digest.update(chunk)
        # A file written within the clock's last tick could be written again without a new time: then do not remember it.
        if time.time_ns() - max(before.st_mtime_ns, before.st_ctime_ns) > 50_000_000:
            self.used[path] = self.known[path] = identity + [digest.hexdigest()]
        else:
            self.known.pop(path, None)
        return digest.hexdigest()


def parse_status(output: bytes) -> tuple[str, list[bytes]]:
    """HEAD and the paths that differ from it, out of ``git status --porcelain=v2 --branch -z --no-renames``."""
    head = ""
    paths: list[bytes] = []
    # number of fields before the path in each kind of entry
    fields = {b"1": 8, b"u": 10, b"?": 1}
    for entry in output.split(b"\0"):
        if entry.startswith(b"# branch.oid "):
            head = entry[len(b"# branch.oid ") :].decode()
        count = fields.get(entry[:1])
        if count is not None:
            paths.append(entry.split(b" ", count)[count])
    return head, sorted(paths)


def git_fingerprint(tree: str, git: str, run: Run, hashes: HashCache) -> str:
    """HEAD, and the content of every file that differs from it; what git ignores, and _output, do not count."""
    rc, out, err = run(
        [
            git,
            "-C",
            tree,
            "status",
            "--porcelain=v2",
            "--branch",
            "-z",
            "--no-renames",
            "--untracked-files=all",
            "--",
            ".",
            ":(exclude,top)_output",
        ]
    )
    if rc != 0:
        text = err.decode("utf-8", "replace")
        if "dubious ownership" in text or "safe.directory" in text:
            raise TreeError(
                f'git does not trust the tree "{tree}", because it belongs to somebody else; '
                f"run git config --global --add safe.directory {tree}, or become its owner."
            )
        line = (text.strip().splitlines() or ["no message"])[0]
        raise TreeError(f'git cannot read the tree "{tree}" ({line}); repair the checkout.')
    head, paths = parse_status(out)
    digest = hashlib.sha256(f"git {head}\n".encode())
    for path in paths:
        digest.update(path + b"\0" + _content(os.path.join(tree, os.fsdecode(path)), hashes).encode() + b"\n")
    return digest.hexdigest()


def _content(path: str, hashes: HashCache) -> str:
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            return "link " + os.fsdecode(os.readlink(path))
        if stat.S_ISREG(status.st_mode):
            # git knows of modes only whether a file can be executed; so should we
            return f"file {bool(status.st_mode & 0o100)} {hashes.sha256(path)}"
        return "other"
    except FileNotFoundError:
        return "gone"
    except OSError as e:
        raise TreeError(f'"{path}" cannot be read ({e.strerror}); change its permissions or become its owner.') from e


def walk_fingerprint(tree: str) -> str:
    """Without git: path, size, time of change and mode of every file. A touched file counts as changed."""
    digest = hashlib.sha256(b"walk\n")
    pending = [""]
    while pending:
        directory = pending.pop()
        try:
            with os.scandir(os.path.join(tree, directory)) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except FileNotFoundError:
            continue
        except OSError as e:
            raise TreeError(
                f'"{e.filename}" cannot be read ({e.strerror}); change its permissions or become its owner.'
            ) from e
        for entry in entries:
            path = os.path.join(directory, entry.name)
            if path in ("_output", ".git"):
                continue
            if entry.is_dir(follow_symlinks=False):
                pending.append(path)
                continue
            try:
                status = entry.stat(follow_symlinks=False)
                link = os.readlink(entry.path) if entry.is_symlink() else ""
            except FileNotFoundError:
                continue
            digest.update(
                os.fsencode(f"{path}\0{link}\0")
                + f"{status.st_size} {status.st_mtime_ns} {status.st_mode:o}\n".encode()
            )
    return digest.hexdigest()


def inputs_digest(paths: c.Iterable[str], hashes: HashCache) -> dict[str, str]:
    """Files outside the sources that decide the outputs too."""
    result = {}
    for path in paths:
        if not os.path.isfile(path):
            raise TreeError(f'"{path}" in inputs is not a file on this host; make it first or take it out of inputs.')
        try:
            result[path] = hashes.sha256(path)
        except OSError as e:
            raise TreeError(f'"{path}" in inputs cannot be read ({e.strerror}); change its permissions.') from e
    return result


# -- the stamp ----------------------------------------------------------------------------------------------------------


def read_stamp(path: str) -> dict[str, t.Any] | None:
    """A stamp; None when there is none, or none that this version of the code understands."""
    try:
        with open(path, encoding="utf-8") as file:
            stamp = json.load(file)
    except (OSError, ValueError):
        return None
    if not isinstance(stamp, dict) or stamp.get("format") != STAMP_FORMAT:
        return None
    return stamp


def reasons_to_build(
    stamp: c.Mapping[str, t.Any] | None, wanted: c.Mapping[str, t.Any], current: c.Mapping[str, str | None]
) -> list[str]:
    """Why make has to run; empty when the outputs are what this request would make. ``current``: path to sha256 of each output."""
    if stamp is None:
        return ["it was not built here with these parameters before"]
    reasons = []
    if stamp["fingerprint"] != wanted["fingerprint"]:
        reasons.append("the sources changed")
    if stamp["version"] != wanted["version"]:
        reasons.append(f"the version changed from {stamp['version']} to {wanted['version']}")
    for what in ("parameters", "inputs", "toolchain"):
        before, after = stamp[what], wanted[what]
        for name in sorted(set(before) | set(after)):
            if before.get(name) != after.get(name):
                reasons.append(
                    f"{name} changed"
                    if what == "parameters"
                    else f"{what[:-1] if what == 'inputs' else what} {name} changed"
                )
    for outputs in stamp["outputs"].values():
        for output in outputs.values():
            sha256 = current.get(output["path"])
            if sha256 is None:
                reasons.append(f"{output['path']} is missing")
            elif sha256 != output["sha256"]:
                reasons.append(f"{output['path']} is no longer what was built")
    return reasons


# -- what outputs are ------------------------------------------------------------------------------------------------------


def _is_elf(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False


def elf_facts(
    path: str,
    platform: str,
    remedy: str = "the tree ignores KUBE_BUILD_PLATFORMS, so build on a host of that platform",
) -> dict[str, bool]:
    """Static or dynamic, with or without debug information; a sentence when the file does not belong on the platform."""
    not_elf = TreeError(f'"{path}" is not a complete Linux program; delete it and build again.')
    with open(path, "rb") as file:
        ident = file.read(16)
        if len(ident) < 16 or ident[:4] != b"\x7fELF" or ident[4] not in (1, 2) or ident[5] not in (1, 2):
            raise not_elf
        order = "<" if ident[5] == 1 else ">"
        wide = ident[4] == 2
        try:
            header = struct.Struct(order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"))
            fields = header.unpack(file.read(header.size))
            machine, phoff, shoff = fields[1], fields[4], fields[5]
            phentsize, phnum, shentsize, shnum, shstrndx = fields[8:13]
            if machine != PLATFORMS[platform]:
                names = {number: name for name, number in PLATFORMS.items()}
                raise TreeError(
                    f'"{path}" is made for {names.get(machine, f"ELF machine {machine}")} and not for {platform}; {remedy}.'
                )
            interpreted = False
            for index in range(phnum):
                file.seek(phoff + index * phentsize)
                # PT_INTERP names the loader of dynamic libraries
                interpreted = interpreted or struct.unpack(order + "I", file.read(4))[0] == 3
            return {
                "static": not interpreted,
                "debug": _has_debug_info(file, order, wide, shoff, shentsize, shnum, shstrndx),
            }
        except struct.error as e:
            raise not_elf from e


def _has_debug_info(
    file: t.BinaryIO, order: str, wide: bool, shoff: int, shentsize: int, shnum: int, shstrndx: int
) -> bool:
    section = struct.Struct(order + ("IIQQQQ" if wide else "IIIIII"))

    def read(index: int) -> tuple[t.Any, ...]:
        file.seek(shoff + index * shentsize)
        return section.unpack(file.read(section.size))

    if shoff == 0 or shnum == 0:
        return False
    dummy, dummy, dummy, dummy, offset, size = read(shstrndx)
    file.seek(offset)
    names = file.read(min(size, CHUNK))
    wanted = (b".debug_info", b".zdebug_info")
    return any(
        names[start : names.find(b"\0", start)] in wanted for start in (read(index)[0] for index in range(shnum))
    )


def archive_facts(path: str, platform: str, remedy: str = "build it again for that platform") -> str:
    """The reference in a docker archive. Only headers and two small files are read, whatever the archive's size."""

    def small(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], name: str) -> t.Any:
        member = members[name]
        content = archive.extractfile(member)
        if content is None or member.size > CHUNK:
            raise ValueError(name)
        return json.loads(content.read())

    try:
        with tarfile.open(path, "r:") as archive:
            members: dict[str, tarfile.TarInfo] = {}
            for member in archive:
                members[member.name] = member
            manifest = small(archive, members, "manifest.json")[0]
            config = small(archive, members, manifest["Config"])
            reference = str(manifest["RepoTags"][0])
            made_for = f"{config['os']}/{config['architecture']}"
    except (OSError, tarfile.TarError, ValueError, KeyError, IndexError, TypeError) as e:
        raise TreeError(
            f'"{path}" is not an image archive with a tag as docker save writes it; delete it and build again.'
        ) from e
    if made_for != platform:
        raise TreeError(
            f'The image {reference} in "{path}" is made for {made_for} and not for {platform}; {remedy}.'
        )
    return reference


# -- logs -------------------------------------------------------------------------------------------------------------------

# The first that is found tells the cause; the order is that of usefulness.
CAUSES: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"no space left on device", re.I),
        "the disk is full, so free some space (df -h tells where) and run this again",
    ),
    (
        re.compile(r"signal: killed|cannot allocate memory|out of memory", re.I),
        "memory ran out, so give this host more of it or build fewer components at once",
    ),
    (re.compile(r"^\s*(vet: )?[^\s:]+\.(go|s|c|h):\d+(:\d+)?: \S"), ""),
    (
        re.compile(
            r"No rule to make target|permission denied|cannot connect to the docker daemon|command not found", re.I
        ),
        "",
    ),
    (re.compile(r"^(\S+: )?(error|fatal|panic|go): \S|^!!! (\[.*?\] )?(?!\s*Call tree|\[|\s)\S", re.I), ""),
    (re.compile(r"\berror\b", re.I), ""),
)


def explain(lines: c.Iterable[str]) -> str:
    """What a log says about a failure: up to three lines of the best kind that there is, or its last line."""
    found: list[list[str]] = [[] for dummy in CAUSES]
    last = ""
    for line in lines:
        text = line.strip()
        if not text:
            continue
        last = text[:500]
        for index, (pattern, dummy) in enumerate(CAUSES):
            if pattern.search(line):
                if len(found[index]) < 3:
                    found[index].append(last)
                break
    for index, texts in enumerate(found):
        if texts:
            remedy = CAUSES[index][1]
            return f"{texts[0]} ({remedy})" if remedy else "; ".join(texts)
    return last or "it said nothing"


def log_lines(path: str) -> c.Iterator[str]:
    """Lines of a log, one at a time and cut where they are absurdly long."""
    with open(path, "rb") as file:
        for line in iter(lambda: file.readline(MAX_LINE), b""):
            yield line.decode("utf-8", "replace").rstrip("\n")


def log_tail(path: str, count: int) -> list[str]:
    """The last lines of a log."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 64 * 1024))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return [line[:1000] for line in lines[-count:]] if count > 0 else []
