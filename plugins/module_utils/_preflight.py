# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can change at any time.
"""What to say of a machine before minutes are spent on it: each decision is a function of values, without I/O."""

from __future__ import annotations

import collections.abc as c
import os
import posixpath
import re
import typing as t

from ansible_collections.nodeforge.kind.plugins.module_utils import _artifacts, _registry, _tree
from ansible_collections.nodeforge.kind.plugins.module_utils._tree import TreeError

LEVELS = ("ok", "warning", "stop")
GB = 1000**3
# What is made from the source lies where it is, or in the cache; a full checkout with debug information needs the most.
DISK_TREE = {"embedded": 8, "checkout": 20, "artifacts": 1, "release": 5}
DISK_ENGINE = 10
DISK_CACHE = 3
# Kubernetes' own documentation wants 8 GB; the linker may be killed with less.
MEMORY = {"embedded": 4, "checkout": 8, "artifacts": 2, "release": 2}
QEMU = {"linux/amd64": "qemu-x86_64", "linux/arm64": "qemu-aarch64"}


class Finding(t.NamedTuple):
    """One line of the report."""

    topic: str
    value: str
    level: str = "ok"
    remedy: str = ""


def from_error(topic: str, error: Exception, level: str = "stop") -> Finding:
    """Our sentences have two halves: what is wrong; what helps."""
    value, dummy, remedy = str(error).rstrip(".").partition("; ")
    return Finding(topic, value, level, remedy)


def worst(findings: c.Iterable[Finding]) -> str:
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")


def table(findings: c.Sequence[Finding]) -> list[str]:
    width = max((len(finding.topic) for finding in findings), default=0)
    return [
        f"{finding.level:<8} {finding.topic:<{width}}  {finding.value}{f' -> {finding.remedy}' if finding.remedy else ''}"
        for finding in findings
    ]


# -- the source -------------------------------------------------------------------------------------------------------


class Place(t.NamedTuple):
    """What a source is: a C(kind) (embedded, checkout, artifacts, release), where, and what is known without a look into it."""

    kind: str
    path: str
    version: str = ""
    parts: c.Collection[str] = ()


def classify(source: str, embedded: str, platform: str, components: c.Sequence[str] = _artifacts.COMPONENTS) -> Place:
    """As the role kube_binaries and the module kube_artifacts take it."""
    if source == "embedded":
        return Place("embedded", embedded)
    named, colon, rest = source.partition(":")
    if not colon or named not in ("tree", "artifacts"):
        named, rest = "", source
    if named == "tree":
        path = os.path.abspath(os.path.expanduser(rest))
        return Place(_tree_kind(path), path)
    parsed = _artifacts.parse_source(rest)
    if parsed.kind == "url":
        _artifacts.check_name(posixpath.basename(parsed.name), platform)
    if parsed.kind != "path":
        return Place("release", rest, parsed.name if parsed.is_version else "")
    path = parsed.name
    if not os.path.lexists(path):
        raise TreeError(f'There is no "{path}" on this host; name a Kubernetes tree, what was compiled of it, a release, or embedded.')
    if not named and os.path.isfile(os.path.join(path, _tree.VERSION_SCRIPT)):
        return Place(_tree_kind(path), path)
    if os.path.isdir(path):
        arch = platform.partition("/")[2]
        parts = _artifacts.find_parts(path, arch, components)
        if not named and not parts:
            raise TreeError(
                f'"{path}" is no Kubernetes tree, as it has no {_tree.VERSION_SCRIPT}, and holds no compiled components for {platform}; '
                "name the root of a checkout."
            )
        _artifacts.check_parts(parts, components, f'The directory "{path}"', platform)
        return Place("artifacts", path, parts=sorted(parts))
    if not _is_gzip(path):
        raise TreeError(f'"{path}" is neither a directory nor an archive of a release; name one of these.')
    return Place("release", path)


def _is_gzip(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"\x1f\x8b"
    except OSError as e:
        raise TreeError(f'"{path}" cannot be read ({e.strerror}); change its permissions or become its owner.') from e


def _tree_kind(place: str) -> str:
    try:
        with open(os.path.join(place, "go.mod"), encoding="utf-8", errors="replace") as file:
            # the role embedded_tree's own module, which has Kubernetes as a dependency
            return "embedded" if file.readline().split()[1:] == ["nodeforge.example/kubernetes"] else "checkout"
    except OSError:
        return "checkout"


def go_finding(level: str, value: str, remedy: str, offline: bool) -> Finding:
    """Whatever is to be warned of here is a download."""
    return Finding("go", value, "stop" if offline and level == "warning" else level, remedy)


def git_finding(lines: c.Mapping[str, str], is_git: bool, is_worktree: bool, is_shallow: bool, foreign: bool) -> Finding:
    if not is_git:
        return Finding("git", "not a git checkout; the version is a given one")
    state = lines["gitTreeState"] or "unknown"
    words = [f"{state} at {lines['gitCommit'][:12]}" if lines["gitCommit"] else state]
    words += ["a worktree"] if is_worktree else []
    words += ["shallow"] if is_shallow else []
    words += ["another user's"] if foreign else []
    return Finding("git", ", ".join(words))


# -- the machine ------------------------------------------------------------------------------------------------------


def disk_findings(places: c.Mapping[str, float], free: c.Mapping[str, tuple[int, float]]) -> list[Finding]:
    """``places``: path to gigabytes that it may take; ``free``: path to file system and free gigabytes. One finding a file system.

    Never a stop, and neither is memory: nobody knows how much of it is built already.
    """
    systems: dict[int, list[str]] = {}
    for path in places:
        if path in free:
            systems.setdefault(free[path][0], []).append(path)
    findings = []
    for paths in systems.values():
        have, want = free[paths[0]][1], sum(places[path] for path in paths)
        value = f"{have:.0f} GB free for {', '.join(paths)}"
        if have >= want:
            findings.append(Finding("disk", value))
        else:
            remedy = f"free some space, a build from the start wants {want:.0f} GB (docker system df tells what the engine holds)"
            findings.append(Finding("disk", value, "warning", remedy))
    return findings


def memory_finding(kind: str, available: float) -> Finding:
    value = f"{available:.1f} GB available"
    if available >= MEMORY[kind]:
        return Finding("memory", value)
    return Finding("memory", value, "warning", f"give this machine more, {MEMORY[kind]} GB are wanted")


def cgroup_finding(cgroup: str, refuses: bool, foreign_base: str) -> Finding:
    """``refuses``: kubelets of this version do not start with cgroup v1 unless their configuration says so."""
    value = f"v{cgroup} of the engine"
    if cgroup != "1" or not refuses:
        return Finding("cgroup", value)
    if not foreign_base:
        return Finding("cgroup", f"{value}, for which the base image configures the kubelet")
    return Finding(
        "cgroup",
        f"{value}, with which a kubelet of this version refuses to start in {foreign_base}",
        "warning",
        "boot the image on a host with cgroup v2, set failCgroupV1=false in KubeletConfiguration in kind's kubeadmConfigPatches, or use our base image",
    )


def refuses_cgroup_v1(version: str) -> bool:
    """By version, where there are no sources that tell."""
    match = re.match(r"v1\.(\d+)\.", version)
    return match is not None and int(match.group(1)) >= 35


def platform_finding(platform: str, engine: str, compiles: bool, emulated: bool | None) -> Finding:
    """``emulated``: whether the engine's host runs programs of the platform; None where that cannot be seen."""
    if platform == engine:
        return Finding("platform", f"{platform}, the engine's own")
    value = f"{platform}{', cross-compiled,' if compiles else ''} on an engine of {engine}: the node is assembled without running any of it"
    if emulated:
        return Finding("platform", f"{value}, though its host could")
    # rare enough to be no warning: a build that meets one of them says so itself
    return Finding("platform", f"{value}; only parts for containerd's configuration, and images that are not on the build host yet, need qemu-user-static")


def is_emulated(registered: c.Mapping[str, str], platform: str) -> bool:
    """``registered``: name to content of each entry of the kernel's binfmt_misc."""
    names = (QEMU[platform], f"{QEMU[platform]}-static")
    return any(registered.get(name, "").startswith("enabled") for name in names)


def builder_finding(reference: str, present: bool, offline: bool) -> Finding:
    if present:
        return Finding("builder", f"build container of {reference}, which the engine holds")
    value = f"build container of {reference}, which has to be pulled"
    if offline:
        return Finding("builder", value, "stop", "load it into the engine (docker load), or name another one by KUBE_CROSS_IMAGE in environment")
    return Finding("builder", value)


def registry_url(registry: str) -> str:
    """Where the API of a registry answers."""
    try:
        url = registry.rstrip("/") if "://" in registry else _registry.upstream(_registry.registry_name(registry))
    except ValueError:
        url = ""
    if not re.match(r"https?://([\w.-]+|\[[\da-fA-F:]+\])(:\d+)?(/.*)?\Z", url):
        raise TreeError(f'"{registry}" in registries is not a registry; name one as registry.k8s.io or http://127.0.0.1:5000.')
    return f"{url}/v2/"


def registry_finding(registry: str, status: int | None, error: str) -> Finding:
    topic = f"registry {registry}"
    if status in (200, 401, 403):
        return Finding(topic, f"answers ({status})" if status == 200 else f"answers ({status}), as it wants credentials")
    if status is not None:
        return Finding(topic, f"answers {status}", "warning", "is it a registry? check the address or the proxy before it")
    return Finding(topic, error, "warning", "check network, proxy and name, or name a mirror")
