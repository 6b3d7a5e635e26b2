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
import shlex
import stat
import struct
import tarfile
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.nodeforge.kind.plugins.module_utils._alive import ALIVE_VARIABLE, QUICK_VARIABLE

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
# Inherited from the caller's shell, or from a make above this one (`make node VERSION=…`), they would change the result.
UNSET = " ".join((*RESERVED, ALIVE_VARIABLE, QUICK_VARIABLE))

# What the version script prints, and how a version file names it
VERSION_LINES = {
    "gitVersion": "KUBE_GIT_VERSION",
    "gitCommit": "KUBE_GIT_COMMIT",
    "gitTreeState": "KUBE_GIT_TREE_STATE",
    "gitMajor": "KUBE_GIT_MAJOR",
    "gitMinor": "KUBE_GIT_MINOR",
}
VERSION_SCRIPT = "hack/print-workspace-status.sh"
RUN_SCRIPT = "build/run.sh"
IMAGES = "_output/release-images"
STATE_DIRECTORY = "_output/nodeforge"
# of those that are written from programs
OWN_IMAGES = f"{STATE_DIRECTORY}/images"
# quick-release-images in its two steps, for trees whose script for it loses DBG. Variables are exported, as make would.
DEBUG_IMAGES = """set -o errexit -o nounset -o pipefail
for variable; do export "$variable"; done
source build/common.sh
source build/lib/release.sh
build/run.sh make all WHAT="${KUBE_SERVER_IMAGE_TARGETS[*]} $KUBE_EXTRA_WHAT" "$@"
kube::build::verify_prereqs
kube::release::build_server_images
"""
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


@dataclass(frozen=True)
class Features:
    """What a tree can do, and what it needs for that: as its own files say."""

    run_script: bool = False
    # its build container: of an image that it makes, with a data container and rsync (before 1.35), or with the tree mounted
    builder_image: bool = False
    mounted: bool = False
    # a mounted container is told the version that was found outside (from 1.35.4 on)
    version_file: bool = False
    # its image targets compile in the build container, and pass DBG on (from 1.26 on)
    container_images: bool = False
    image_debug: bool = True
    image_functions: bool = False
    static_overrides: bool = False
    buildx_builder: bool = False
    buildx_images: bool = False
    # the Go that it wishes for, how it fetches that unless told otherwise, and what it needs at least
    go_wanted: str = ""
    go_fetched: str = ""
    go_minimum: str = ""
    # its kubelets refuse cgroup v1 unless told otherwise (from 1.35 on)
    fails_cgroup_v1: bool = False

    def needs_buildx(self, images: bool) -> bool:
        return self.buildx_builder or (images and self.buildx_images)


def read_features(tree: str) -> Features:
    common, release = _code(tree, "build/common.sh"), _code(tree, "build/lib/release.sh")
    images, golang = _code(tree, "build/release-images.sh"), _code(tree, "hack/lib/golang.sh")
    minimum = [re.search(r"minimum_go_version=(?:go)?([\d.]+)", golang), re.search(r"^go ([\d.]+)", _code(tree, "go.mod"), re.M)]
    defaults = _code(tree, "pkg/kubelet/apis/config/v1beta1/defaults.go") or _code(
        tree, "vendor/k8s.io/kubernetes/pkg/kubelet/apis/config/v1beta1/defaults.go"
    )
    container_images = "kube::build::run_build_command" in images
    return Features(
        run_script=os.path.isfile(os.path.join(tree, RUN_SCRIPT)),
        builder_image="rsync" in common,
        mounted=bool(common) and "rsync" not in common,
        version_file="KUBE_GIT_VERSION_FILE" in common,
        container_images=container_images,
        # what compiles on the host has all of make's variables in its environment
        image_debug=not container_images or "DBG" in images,
        image_functions="kube::release::build_server_images" in release,
        static_overrides="KUBE_STATIC_OVERRIDES" in golang,
        buildx_builder="buildx" in common,
        buildx_images=container_images and "buildx" in release,
        go_wanted=_code(tree, ".go-version").strip(),
        go_fetched="toolchain" if "GOTOOLCHAIN" in golang else "gimme" if "gimme" in golang else "",
        go_minimum=max((match.group(1) for match in minimum if match), key=go_number, default=""),
        fails_cgroup_v1=bool(re.search(r"FailCgroupV1 = \S*\(true\)", defaults)),
    )


def _code(tree: str, name: str) -> str:
    """A file's text without lines of comment; empty when there is none."""
    try:
        with open(os.path.join(tree, name), encoding="utf-8", errors="replace") as file:
            lines = file.read(CHUNK).splitlines()
    except OSError:
        return ""
    return "\n".join(line for line in lines if not line.lstrip().startswith(("#", "//")))


def check_features(tree: str, features: Features, targets: c.Sequence[str], builder: str, debug: bool) -> None:
    """What would fail, or silently do something else, only after minutes of compiling."""
    images = bool(IMAGE_TARGETS.intersection(targets))
    if builder == "container" and not images and not features.run_script:
        raise TreeError(f'The tree "{tree}" has no {RUN_SCRIPT}, so it has no build container; use builder=host.')
    if images and debug and not features.image_debug and not _debug_in_steps(features, targets):
        raise TreeError(
            f'The tree "{tree}" does not pass DBG on to its images (Kubernetes before 1.26), so they would hold no debug '
            f"information; use targets=quick-release-images of a complete checkout, or targets=all and builder=container."
        )


def _debug_in_steps(features: Features, targets: c.Sequence[str]) -> bool:
    """The images of a tree that loses DBG can be made of binaries that were compiled with it."""
    return list(targets) == ["quick-release-images"] and features.run_script and features.image_functions


def check_engine(
    tree: str, features: Features, images: bool, docker_host: str, has_rsync: bool, has_buildx: c.Callable[[], bool]
) -> None:
    """What the tree's own container build needs besides the docker command."""
    if docker_host and not re.match(r"unix:|tcp://(localhost|127\.|\[::1\])", docker_host):
        raise TreeError(
            f'The tree "{tree}" cannot be compiled by the engine of another machine ({docker_host}), which does not see its files; '
            "run this module on that machine, or unset DOCKER_HOST."
        )
    if features.builder_image and not has_rsync:
        raise TreeError(f'This host has no rsync, with which the tree "{tree}" reaches its build container; install it.')
    if features.needs_buildx(images) and not has_buildx():
        what = "its images" if images else "the image of its build container"
        raise TreeError(
            f'The docker command of this host has no buildx, with which the tree "{tree}" makes {what}; install docker-buildx'
            f"{'' if images else ', or use builder=host'}."
        )


def check_container_version(tree: str, features: Features, told: bool) -> None:
    """A mounted build container asks git itself where the tree cannot hand the version in: then git must work in there."""
    if not features.mounted or features.version_file:
        return
    dot_git = os.path.join(tree, ".git")
    reason = ""
    if told:
        reason = "it does not take a given version along"
    elif os.path.isfile(dot_git):
        reason = "it is a git worktree, whose repository lies outside of it"
    elif os.path.exists(os.path.join(dot_git, "objects/info/alternates")):
        reason = "its git repository borrows objects from another one"
    elif os.path.isdir(dot_git) and os.stat(tree).st_uid != os.geteuid():
        reason = "it belongs to another user, whom git in there does not trust"
    if reason:
        raise TreeError(
            f'The build container of the tree "{tree}" would not know the version, because {reason} (Kubernetes 1.35.0 to 1.35.3); '
            "use a clone of its own, a later patch release, or builder=host."
        )


def go_number(version: str) -> tuple[int, ...]:
    """For comparisons: ``go1.26.8`` is (1, 26, 8), and so is ``1.26.8``."""
    match = re.match(r"(?:go)?(\d+)\.(\d+)(?:\.(\d+))?", version)
    return tuple(int(part or 0) for part in match.groups()) if match else ()


def go_decision(features: Features, host: str, environment: c.Mapping[str, str], at_hand: bool) -> tuple[str, str, str]:
    """Which Go compiles on the host: level, value and remedy. ``at_hand``: the wanted one needs no network."""
    given = environment.get("GOTOOLCHAIN", "")
    wanted = environment.get("GO_VERSION") or features.go_wanted
    host_only = given == "local" or (given in ("", "auto") and bool(environment.get("FORCE_HOST_GO")))
    fetched = features.go_fetched and wanted and not host_only
    if not host:
        return "stop", "none", "install Go, add its directory to PATH, or use builder=container"
    if given not in ("", "auto", "local"):
        return "ok", f"{given}, as GOTOOLCHAIN says", ""
    if fetched and go_number(wanted) == go_number(host):
        return "ok", f"{host}, which the tree wants", ""
    if fetched:
        value = f"{host}, but the tree takes its own {wanted}"
        if at_hand:
            return "ok", f"{value}, which is on this host", ""
        remedy = f"the build downloads Go {wanted}; where it cannot, use builder=container"
        if go_number(host) >= go_number(features.go_minimum):
            remedy += " or set FORCE_HOST_GO=y in environment to compile with this host's"
        return "warning", value, remedy
    if go_number(host) < go_number(features.go_minimum):
        remedy = f"install Go {features.go_minimum} or newer"
        if host_only:
            return "stop", f"{host}, but the tree needs {features.go_minimum}", remedy + ", or let the tree fetch its own (no FORCE_HOST_GO)"
        return "warning", f"{host}, but the tree needs {features.go_minimum}", remedy + ", or let Go download it"
    return "ok", host, ""


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


def git_environment(tree: str, environment: c.Mapping[str, str]) -> dict[str, str]:
    """Makes git take this tree and no other: one that belongs to another user, and none that lies around it."""
    real = os.path.realpath(tree)
    result = {"GIT_CEILING_DIRECTORIES": os.path.dirname(real)}
    count = int(environment.get("GIT_CONFIG_COUNT") or 0)
    for place in dict.fromkeys((tree, real)):
        result.update({f"GIT_CONFIG_KEY_{count}": "safe.directory", f"GIT_CONFIG_VALUE_{count}": place})
        count += 1
    return {**result, "GIT_CONFIG_COUNT": str(count)}


def builder_hash(host: str, tree: str, branch: str) -> str:
    """What a tree's scripts put into the names of their containers, kube-build-HASH-… and kube-rsync-HASH-…."""
    return hashlib.md5(f"{host}:{os.path.realpath(tree)}:{branch}".encode(), usedforsecurity=False).hexdigest()[:10]


def builder_containers(listing: str, name: str) -> set[str]:
    """Ids out of lines ``ID NAME``: those of a build, not the data container, which keeps what Go compiled."""
    result = set()
    for line in listing.splitlines():
        ident, dummy, container = line.partition(" ")
        if container.startswith((f"kube-build-{name}", f"kube-rsync-{name}")):
            result.add(ident)
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
    features: Features = Features()
    # writes images from the programs, where no target of the tree does
    image_tool: str | None = None

    @property
    def images(self) -> bool:
        """Whether the tree makes images."""
        return bool(IMAGE_TARGETS.intersection(self.targets))

    @property
    def in_container(self) -> bool:
        return self.builder == "container" and not self.images

    @property
    def uses_engine(self) -> bool:
        """Whether the tree's own scripts run a container."""
        return self.in_container or (self.images and self.features.container_images)

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
        return os.path.join(self.tree, OWN_IMAGES if self.image_tool else IMAGES, self.arch)

    @property
    def state_directory(self) -> str:
        return os.path.join(self.tree, STATE_DIRECTORY)

    @property
    def key(self) -> str:
        """Names the stamp and the log: what decides which outputs there are. What decides their content is in the stamp."""
        where = [sorted(self.targets), sorted(self.what), self.platform, self.in_container, *(["images"] if self.image_tool else [])]
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
        if self.features.static_overrides and not (self.images or self.in_container) and (not self.what or "cmd/kubelet" in self.what):
            result["KUBE_STATIC_OVERRIDES"] = "kubelet"
        result["KUBE_BUILD_PLATFORMS"] = self.platform
        result["KUBE_VERBOSE"] = "1"
        if self.debug:
            result["DBG"] = "1"
        result.update(self.params)
        return result

    def command(self, make: str = "make") -> list[str]:
        variables = [f"{name}={value}" for name, value in self.variables().items()]
        if self.images and self.debug and not self.features.image_debug:
            return ["bash", "-c", DEBUG_IMAGES, "bash", *variables]
        arguments = self.targets + variables
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

    def image_names(self, binaries: c.Collection[str]) -> list[str]:
        """The images that there have to be, with these programs."""
        return [name for name in SERVER_IMAGES if self.images or (self.image_tool and name in binaries)]

    def found_images(self) -> dict[str, str]:
        """The image archives that there are now."""
        if self.image_tool:
            paths = {name: os.path.join(self.image_directory, f"{name}.tar") for name in self.image_names(self.found_binaries())}
            return {name: path for name, path in paths.items() if os.path.isfile(path)}
        if not self.images:
            return {}
        try:
            names = sorted(os.listdir(self.image_directory))
        except OSError:
            return {}
        return {name[:-4]: os.path.join(self.image_directory, name) for name in names if name.endswith(".tar")}

    def missing(self, binaries: c.Collection[str], images: c.Container[str]) -> list[str]:
        """Paths that make promised and did not leave."""
        result = [os.path.join(self.binary_directory, name) for name in self.binary_names if name not in binaries]
        wanted = self.image_names([*self.binary_names, *binaries])
        result += [os.path.join(self.image_directory, f"{name}.tar") for name in wanted if name not in images]
        if not self.images and not self.what and not binaries:
            result.append(self.binary_directory)
        return result


# -- version -----------------------------------------------------------------------------------------------------------


def parse_status_lines(output: str) -> dict[str, str]:
    """gitVersion and its like out of what print-workspace-status.sh prints; one that there is none of is empty."""
    found = dict.fromkeys(VERSION_LINES, "")
    for line in output.splitlines():
        name, dummy, value = line.strip().partition(" ")
        if name in found:
            found[name] = value.strip()
    return found


def version_definitions(status: c.Mapping[str, str]) -> str:
    """What KUBE_GIT_VERSION_FILE holds."""
    return "".join(f"{variable}={shlex.quote(status[name])}\n" for name, variable in VERSION_LINES.items())


def check_version(version: str, tree: str, is_git: bool, is_shallow: bool, has_git: bool = True) -> str:
    remedy = "or write KUBE_GIT_VERSION and KUBE_GIT_COMMIT into a file outside the tree and name it as KUBE_GIT_VERSION_FILE in environment"
    if not version:
        if not is_git:
            raise TreeError(
                f'The tree "{tree}" has no version, because it is not a git checkout; clone it with git, {remedy}.'
            )
        if not has_git:
            raise TreeError(
                f'The tree "{tree}" has no version, because this host has no git to read it with; install git, {remedy}.'
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


# Go's, which ends with a checksum of the program; it is in the first note of one.
_BUILD_ID = re.compile(rb"[A-Za-z0-9_-]{20}(?:/[A-Za-z0-9_-]{20}){3}")


class HashCache:
    """sha256 of files, read once as long as the file stays the same one: gigabytes are not read again in a second run."""

    def __init__(self, known: c.Mapping[str, c.Sequence[t.Any]] | None = None) -> None:
        self.known = {path: list(entry) for path, entry in (known or {}).items()}
        self.used: dict[str, list[t.Any]] = {}

    def sha256(self, path: str, made: bool = False) -> str:
        """The digest of a file. ``made`` says that a compiler has just been asked for it: Go gives programs that it leaves as they are a new time."""
        with open(path, "rb") as file:
            before = os.fstat(file.fileno())
            identity = [before.st_size, before.st_mtime_ns, before.st_ctime_ns, before.st_ino]
            entry = self.known.get(path)
            if entry is not None and entry[:4] == identity:
                self.used[path] = entry
                return str(entry[4])
            chunk = file.read(CHUNK)
            found = _BUILD_ID.search(chunk, 0, 32 * 1024) if chunk.startswith(b"\x7fELF") else None
            build_id = found[0].decode() if found else ""
            if made and build_id and entry is not None and [entry[0], entry[3], *entry[5:]] == [identity[0], identity[3], build_id]:
                sha256 = str(entry[4])
            else:
                digest = hashlib.sha256()
                while chunk:
                    digest.update(chunk)
                    chunk = file.read(CHUNK)
                sha256 = digest.hexdigest()
        # A file written within the clock's last tick could be written again without a new time: then do not remember it.
        if time.time_ns() - max(before.st_mtime_ns, before.st_ctime_ns) > 50_000_000:
            self.used[path] = self.known[path] = [*identity, sha256, *([build_id] if build_id else [])]
        else:
            self.known.pop(path, None)
        return sha256


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
        # a repository inside the tree, which git counts as one entry whatever is in it
        if stat.S_ISDIR(status.st_mode):
            return f"directory {walk_fingerprint(path)}"
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
            # Kubernetes' scripts write the last one when they build in a container
            if path in ("_output", ".dockerized-kube-version-defs") or entry.name == ".git":
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
    (
        re.compile(r"^go: download go\S+ for|toolchain not available|unknown version.*gimme|gimme: ", re.I),
        "the Go that the tree wants cannot be downloaded, so install it, use builder=container, or set FORCE_HOST_GO=y in environment",
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
