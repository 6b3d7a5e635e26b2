# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can change at any time.
"""What a node image is made of: references, versions, manifests, required images, labels, fingerprint.

Decisions only: nothing here talks to an engine. Whatever the user can put right is raised as :class:`BadInput`.
"""

from __future__ import annotations

import collections.abc as c
import hashlib
import json
import os
import posixpath
import re
import tarfile
import typing as t
import zlib

# Part of every fingerprint: raise it when the same inputs give another node image than before.
RECIPE = 1
CHUNK = 1024 * 1024

PLATFORMS = ("linux/amd64", "linux/arm64")
CONTAINERD_CONFIG = "/etc/containerd/config.toml"
# Where parts of that configuration lie; containerd reads them in the order of their names.
DROP_INS = "/etc/containerd/conf.d"
ENTRYPOINT = ("/usr/local/bin/entrypoint", "/sbin/init")
VERSION_FILE = "/kind/version"
CNI_MANIFEST = "/kind/manifests/default-cni.yaml"
STORAGE_MANIFEST = "/kind/manifests/default-storage.yaml"
BINARY_DIRECTORY = "/usr/bin"
# Held in memory in the build container, so that nothing written there reaches an image.
VOLATILE = ("/run", "/tmp")

FINGERPRINT_LABEL = "io.nodeforge.fingerprint"
# What a node image was made of, so that the next one need only bring what differs; and the id of the image on which one stands that was made so.
PARTS_LABEL = "io.nodeforge.parts"
WHOLE_LABEL = "io.nodeforge.whole"
REPLACED_LABEL = "io.nodeforge.replaced-images"
# On a build container only: its own name and its fingerprint. An image made from it carries the label on, and so does
# every container of that image; the name tells the build container from all of them.
BUILD_LABEL = "io.nodeforge.build"


class BadInput(Exception):
    """Something that the user gave; the text is one sentence that names the object and the remedy."""


# image references

_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_DOMAIN = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ID = re.compile(r"(?:sha256:)?[0-9a-f]{64}")


class Reference(t.NamedTuple):
    """An image reference in full: docker.io/library/busybox:latest for busybox."""

    registry: str
    path: str
    tag: str
    digest: str

    @property
    def repository(self) -> str:
        return f"{self.registry}/{self.path}"

    @property
    def familiar(self) -> str:
        """The repository as the engine shows it: without the parts that Docker adds by itself."""
        if self.registry != "docker.io":
            return self.repository
        return self.path[len("library/") :] if self.path.startswith("library/") else self.path

    def __str__(self) -> str:
        return self.repository + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse_reference(text: str, what: str = "image") -> Reference:
    """Takes NAME, NAME:TAG, NAME@DIGEST and NAME:TAG@DIGEST by the rules of Docker. ``what`` names the option in errors."""
    remedy = "write NAME:TAG, such as kindest/node:main"
    if not isinstance(text, str):
        raise BadInput(f"The {what} {text!r} is not text: {remedy}, in quotes")
    if not text:
        raise BadInput(f"The {what} is empty: {remedy}")
    if _ID.fullmatch(text):
        raise BadInput(f'The {what} "{text}" is an id, not a reference: {remedy}')
    name, _at, digest = text.partition("@")
    # a colon before the last slash is a registry's port
    head, slash, last = name.rpartition("/")
    last, colon, tag = last.partition(":")
    registry, slash, path = f"{head}{slash}{last}".partition("/")
    if not (slash and ("." in registry or ":" in registry or registry == "localhost")):
        registry, path = "docker.io", f"{registry}{slash}{path}"
    if registry in ("docker.io", "index.docker.io"):
        registry, path = "docker.io", path if "/" in path else f"library/{path}"
    if path != path.lower():
        raise BadInput(f'The {what} "{text}" has upper-case letters in its name, which no registry takes: write "{text.replace(path, path.lower())}"')
    if (
        not _DOMAIN.fullmatch(registry)
        or not all(_PATH.fullmatch(part) for part in path.split("/"))
        or len(registry) + len(path) > 254
        or (colon and not _TAG.fullmatch(tag))
        or ("@" in text and not _DIGEST.fullmatch(digest))
    ):
        raise BadInput(f'The {what} "{text}" is not an image reference: {remedy}')
    return Reference(registry, path, tag or ("" if digest else "latest"), digest)


def store_name(reference: Reference) -> str:
    """The name under which the kubelet will look: a digest makes the tag meaningless."""
    return str(reference._replace(tag="") if reference.digest else reference)


def without_arch(reference: Reference, arch: str) -> Reference:
    """Kubernetes builds kube-apiserver-amd64; kubeadm asks for kube-apiserver."""
    suffix = f"-{arch}"
    return reference._replace(path=reference.path[: -len(suffix)]) if reference.path.endswith(suffix) else reference


def archive_references(path: str) -> list[str]:
    """The images that an archive names: RepoTags of a docker archive, or the annotations of an OCI one."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = posixpath.normpath(member.name)
                if name not in ("manifest.json", "index.json"):
                    continue
                file = archive.extractfile(member)
                document = json.loads(file.read(CHUNK)) if file else None
                if name == "manifest.json":
                    return [tag for image in document for tag in image.get("RepoTags") or []]
                annotations = [manifest.get("annotations") or {} for manifest in document["manifests"]]
                names = [a.get("io.containerd.image.name") or a.get("org.opencontainers.image.ref.name") for a in annotations]
                if all(names):
                    return t.cast("list[str]", names)
    except OSError as e:
        raise BadInput(f'The image archive "{path}" cannot be read: {_why(e)}; build it or correct its path') from e
    except (tarfile.TarError, EOFError, zlib.error) as e:
        raise BadInput(f'The image archive "{path}" is broken: it is no whole tar archive; build it again') from e
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise BadInput(f'The image archive "{path}" is broken: its list of images makes no sense; build it again') from e
    raise BadInput(f'The archive "{path}" names no image: it is not what docker save or make quick-release-images write')


# versions

_VERSION = re.compile(r"v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-[0-9A-Za-z.-]+)?(?:\+([0-9A-Za-z.-]+))?")


def check_version(text: str) -> str:
    """A Kubernetes version as git knows it: v1.37.2, v1.38.0-alpha.1.20+0123456789abcd-dirty."""
    if not _VERSION.fullmatch(text):
        raise BadInput(
            f'The version "{text}" is not one of Kubernetes: write it as "kubelet --version" tells it, '
            "such as v1.37.2 or v1.38.0-alpha.1.20+0123456789abcd-dirty"
        )
    return text


# The tag of each is the version in /kind/version: kind hands that to kubeadm, which asks for them by it.
CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")


def control_plane_version(images: c.Iterable[str]) -> str | None:
    """The version that all images of the control plane have as their tag; None where some are missing, or of another version."""
    references = [parse_reference(image) for image in images]
    tags = {reference.path.rpartition("/")[2]: reference.tag for reference in references}
    versions = {tags.get(name, "").replace("_", "+") for name in CONTROL_PLANE}
    version = versions.pop() if len(versions) == 1 else ""
    return version if _VERSION.fullmatch(version) else None


def with_version(reference: Reference, version: str | None) -> Reference:
    """An image of the control plane under the tag by which kubeadm asks for it; all others, and without a version, as they are."""
    if version is None or reference.path.rpartition("/")[2] not in CONTROL_PLANE:
        return reference
    return reference._replace(tag=re.sub(r"[^-\w.]", "_", version), digest="")


# manifests and configuration of the node

_IMAGE_KEY = re.compile(
    r"""(?:^|[\s{,"'])image(?:["'][ \t]*:[ \t]*|[ \t]*:[ \t]+)(?:&\S+\s+)?"""
    r"""(?:"([^"]*)"|'([^']*)'|(\{\{.*?\}\}\S*|[^\s,}\]"'{\[&*!|>#~][^\s,}]*))""",
    re.MULTILINE,
)
_HELPER_IMAGE = re.compile(r"""--helper-image(?:=|["']?\s*,?\s*(?:-\s+)?)["']?(\{\{.*?\}\}[^\s"',\]}]*|[^\s"',\]}]+)""")
_COMMENT = re.compile(r"(?:^|\s)#.*$", re.MULTILINE)


def manifest_images(text: str, where: str) -> tuple[list[str], list[str]]:
    """The images that a manifest needs, in full and in order; and those that only a template could tell.

    A manifest may be a Go template, so it need not be YAML: what looks like a container's image counts.
    """
    text = _COMMENT.sub("", text)
    found = [next(g for g in match.groups() if g is not None) for match in _IMAGE_KEY.finditer(text)]
    found += [match.group(1) for match in _HELPER_IMAGE.finditer(text)]
    found = [image for image in found if image not in ("", "null")]
    templates = [image for image in found if "{{" in image]
    images = [str(parse_reference(image, f"image in {where}")) for image in found if "{{" not in image]
    return _unique(images), _unique(templates)


_SECTION = re.compile(r"\s*\[+\s*(.*?)\s*\]+\s*(?:#.*)?")
_SETTING = re.compile(r"""\s*["']?(sandbox_image|sandbox)["']?\s*=\s*(?:"([^"]*)"|'([^']*)')\s*(?:#.*)?""")
_INLINE = re.compile(r"""\s*["']?pinned_images["']?\s*=\s*\{[^}#]*?\bsandbox["']?\s*=\s*(?:"([^"]*)"|'([^']*)')""")


def sandbox_image(config: str) -> str | None:
    """The image of every pod's sandbox, by containerd's configuration of version 2, 3 or 4; None where it names none."""
    section = ""
    for line in config.splitlines():
        header = _SECTION.fullmatch(line)
        if header:
            section = header.group(1)
            continue
        inline = _INLINE.match(line)
        if inline:
            return inline.group(1) or inline.group(2)
        setting = _SETTING.fullmatch(line)
        if setting and (setting.group(1) == "sandbox_image" or section.endswith("pinned_images")):
            return setting.group(2) or setting.group(3)
    return None


_TABLE = re.compile(r"^\s*\[", re.MULTILINE)
_CONFIG_VERSION = re.compile(r"^\s*version\s*=\s*(\d+)", re.MULTILINE)
_IMPORTS = re.compile(r"^\s*imports\s*=\s*\[", re.MULTILINE)


_ROOT = re.compile(r"^\s*root\s*=\s*[\"']([^\"']+)[\"']", re.MULTILINE)


def containerd_root(config: str) -> str:
    """Where containerd keeps its images, by its configuration."""
    found = _ROOT.search(_TABLE.split(config, maxsplit=1)[0])
    return found.group(1) if found else "/var/lib/containerd"


def config_version(config: str) -> int | None:
    """The version that a configuration of containerd, or a part of one, says it has."""
    found = _CONFIG_VERSION.search(_TABLE.split(config, maxsplit=1)[0])
    return int(found.group(1)) if found else None


def with_drop_ins(config: str) -> str:
    """containerd's configuration, which then reads the drop-ins as well. What stands before the first table is all of the file's own."""
    wanted = f'"{DROP_INS}/*.toml"'
    head = _TABLE.split(config, maxsplit=1)[0]
    imports = _IMPORTS.search(head)
    if imports is None:
        return f"imports = [{wanted}]\n{config}"
    if wanted.strip('"') in head[imports.end() :]:
        return config
    return f"{config[: imports.end()]}{wanted}, {config[imports.end() :]}"


def drop_in_names(there: c.Mapping[str, bytes], texts: c.Sequence[bytes]) -> list[str]:
    """Names in :data:`DROP_INS` for these parts: after those that a base has, which they are to override.

    Those that are there already as the last of all, in the same order, keep their names: a second look changes nothing.
    """
    ours = sorted(name for name in there if _DROP_IN.fullmatch(name))
    kept = next(n for n in range(len(ours) + 1) if [there[name] for name in ours[n:]] == list(texts[: len(ours) - n]))
    names = ours[kept:]
    number = int(ours[-1][len("nodeforge-") : -len(".toml")]) + 1 if ours else 0
    return names + [f"nodeforge-{number + n:02}.toml" for n in range(len(texts) - len(names))]


_DROP_IN = re.compile(r"nodeforge-\d+\.toml")


def required_images(kubeadm: c.Iterable[str], sandbox: str, others: c.Iterable[str], held: c.Iterable[str] = ()) -> list[str]:
    """All images that must lie in a node: kubeadm's list, but the sandbox image that containerd will really use.

    ``held`` are those that the base says it holds; another tag of what kubeadm asks for is not needed any more.
    """
    references = [parse_reference(line, "image that kubeadm asks for") for line in kubeadm]
    images = [str(reference) for reference in references if reference.path.rpartition("/")[2] != "pause"]
    images.append(str(parse_reference(sandbox, f"sandbox image in {CONTAINERD_CONFIG} of the base image")))
    asked = {reference.repository for reference in references}
    kept = [image for image in held if parse_reference(image, "image in the base's labels").repository not in asked]
    return _unique([*images, *(str(parse_reference(other)) for other in others), *kept])


def _unique(items: c.Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))


# files

_MACHINES = {0x3E: "amd64", 0xB7: "arm64"}


class File(t.NamedTuple):
    """A file for the node: from a path or from content."""

    dest: str
    mode: int
    size: int
    sha256: str
    mtime: int
    path: str | None = None
    content: bytes = b""
    # whether somebody else has told the hash
    told: bool = False

    def chunks(self) -> t.Iterator[bytes]:
        """Exactly ``size`` bytes, as a tar header has promised them. A hash that was told is compared on the way: no file is read twice."""
        if self.path is None:
            yield self.content
            return
        left = self.size
        digest = hashlib.sha256()
        with open(self.path, "rb") as file:
            while left:
                chunk = file.read(min(CHUNK, left))
                if not chunk:
                    raise BadInput(f'The file "{self.path}" became shorter while it was copied: let its build end and run again')
                left -= len(chunk)
                if self.told:
                    digest.update(chunk)
                yield chunk
        if self.told and digest.hexdigest() != self.sha256:
            raise BadInput(f'The file "{self.path}" has changed since it was built (its sha256 differs): run kube_make again')


def file_from_path(path: str, dest: str, mode: int, what: str = "file", sha256: str | None = None) -> File:
    """Reads a file once, for its hash; not at all where ``sha256`` tells it, which is compared when the file is copied."""
    digest = hashlib.sha256()
    size = 0
    try:
        if os.path.isdir(path):
            raise BadInput(f'The {what} "{path}" is a directory: name a file')
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            if sha256:
                return File(dest, mode, stat.st_size, sha256, int(stat.st_mtime), path=path, told=True)
            for chunk in iter(lambda: file.read(CHUNK), b""):
                size += len(chunk)
                digest.update(chunk)
    except OSError as e:
        raise BadInput(f'The {what} "{path}" cannot be read: {_why(e)}; build it or correct its path') from e
    return File(dest, mode, size, digest.hexdigest(), int(stat.st_mtime), path=path)


def file_from_content(content: bytes, dest: str, mode: int) -> File:
    return File(dest, mode, len(content), hashlib.sha256(content).hexdigest(), 0, content=content)


def binary_arch(path: str) -> str | None:
    """The architecture of an ELF file, None for others (scripts)."""
    with open(path, "rb") as file:
        header = file.read(20)
    return _MACHINES.get(int.from_bytes(header[18:20], "little"), "another architecture") if header[:4] == b"\x7fELF" else None


def check_destination(dest: str) -> str:
    """An absolute path in the node that an image can hold."""
    if not dest.startswith("/") or dest != "/" + posixpath.normpath(dest).lstrip("/") or dest == "/":
        raise BadInput(f'The destination "{dest}" is not a plain absolute path: write it like /etc/motd')
    for directory in (*VOLATILE, "/var/run", "/proc", "/sys", "/dev"):
        if dest == directory or dest.startswith(directory + "/"):
            raise BadInput(f'The destination "{dest}" lies under {directory}, which no image holds: choose another directory')
    return dest


def parse_mode(mode: t.Any) -> int:
    """Permissions: a string is octal, a number is what YAML made of 0644."""
    try:
        number = int(mode, 8) if isinstance(mode, str) else int(mode)
    except (TypeError, ValueError):
        number = -1
    if not 0 <= number <= 0o7777:
        raise BadInput(f'The mode "{mode}" is not octal: write it as a string like "0644"')
    return number


def parents(dest: str) -> list[str]:
    """All directories above a path but the root, from the top."""
    parts = dest.split("/")[1:-1]
    return ["/" + "/".join(parts[: n + 1]) for n in range(len(parts))]


def directories(files: c.Iterable[File]) -> list[str]:
    """All directories that hold files, from the top."""
    return sorted({parent for file in files for parent in parents(file.dest)})


# One line for each path: d(irectory), f(ile) with its mode, owner and hash, o(ther), or - for nothing.
LISTING = r"""for p do
  if [ -d "$p" ]; then echo d
  elif [ -f "$p" ] && [ ! -L "$p" ]; then echo "f $(stat -c '%a %u %g' "$p") $(sha256sum <"$p")"
  elif [ -e "$p" ] || [ -L "$p" ]; then echo o
  else echo -; fi
done"""


class Found(t.NamedTuple):
    """What lies at a path in the node."""

    kind: str
    mode: int = 0
    owned_by_root: bool = False
    sha256: str | None = None


def parse_listing(paths: c.Sequence[str], output: str) -> dict[str, Found]:
    """What :data:`LISTING` printed for these paths."""
    lines = output.splitlines()
    if len(lines) != len(paths):
        raise ValueError(f"{len(paths)} lines expected, {len(lines)} found")
    found = {}
    for path, line in zip(paths, lines):
        kind, *rest = line.split()
        found[path] = Found(kind, int(rest[0], 8), rest[1:3] == ["0", "0"], rest[3]) if kind == "f" else Found(kind)
    return found


def differing(files: c.Iterable[File], found: c.Mapping[str, Found]) -> list[File]:
    """The files to write. Raises where something of another kind is in the way."""
    changed = []
    for file in files:
        for parent in parents(file.dest):
            if found[parent].kind not in "d-":
                raise BadInput(f'The destination "{file.dest}" cannot be written: {parent} is not a directory in the node')
        there = found[file.dest]
        if there.kind == "d":
            raise BadInput(f'The destination "{file.dest}" is a directory in the node: name the file in it')
        if there != Found("f", file.mode, True, file.sha256):
            changed.append(file)
    return changed


def tar_stream(files: c.Iterable[File], new_directories: c.Mapping[str, int]) -> t.Iterator[bytes]:
    """A tar archive in chunks. Only new directories get an entry, with their mode: an existing one keeps its owner and mode."""
    for directory, mode in new_directories.items():
        info = tarfile.TarInfo(directory.lstrip("/"))
        info.type, info.mode = tarfile.DIRTYPE, mode
        yield info.tobuf(tarfile.GNU_FORMAT)
    for file in files:
        info = tarfile.TarInfo(file.dest.lstrip("/"))
        info.size, info.mode, info.mtime = file.size, file.mode, file.mtime
        yield info.tobuf(tarfile.GNU_FORMAT)
        yield from file.chunks()
        yield b"\0" * (-file.size % tarfile.BLOCKSIZE)
    yield b"\0" * 2 * tarfile.BLOCKSIZE


# fingerprint and labels


def fingerprint(inputs: t.Any) -> str:
    """One hash over everything that decides what comes out, and over the recipe itself."""
    canonical = json.dumps({"recipe": RECIPE, "inputs": inputs}, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


def labels(
    *,
    version: str,
    platform: str,
    base: str,
    base_digest: str,
    fingerprint: str,
    images: c.Iterable[str] | None,
    replaced: c.Mapping[str, str],
    created: str,
    revision: str | None,
    source: str | None,
) -> dict[str, str]:
    """What a node image tells about itself. Unknown things are left out."""
    commit = _VERSION.fullmatch(version)
    told = {
        "org.opencontainers.image.version": version,
        # between tags, git's own description of the tree is part of the version
        "org.opencontainers.image.revision": revision or (commit.group(4) if commit else None),
        "org.opencontainers.image.source": source,
        "org.opencontainers.image.created": created,
        "io.nodeforge.kubernetes-version": version,
        "io.nodeforge.platform": platform,
        "io.nodeforge.base": base,
        "io.nodeforge.base-digest": base_digest,
        "io.nodeforge.images": None if images is None else ",".join(images),
        REPLACED_LABEL: ",".join(f"{asked}={given}" for asked, given in replaced.items()) or None,
        FINGERPRINT_LABEL: fingerprint,
    }
    return {key: value for key, value in told.items() if value is not None}


class Parts(t.NamedTuple):
    """What of a node image an edit can change, the binaries and built images, by name and content; and all else as one fingerprint."""

    rest: str
    binaries: dict[str, str]
    archives: dict[str, str]

    def label(self) -> str:
        return json.dumps(self._asdict(), sort_keys=True, separators=(",", ":"))

    def differing(self, label: str) -> tuple[set[str], set[str]] | None:
        """The binaries and archives that differ from those of another image, by that one's label; None where that is not all that differs."""
        try:
            other = Parts(**json.loads(label))
            if other.rest != self.rest or other.binaries.keys() != self.binaries.keys() or other.archives.keys() != self.archives.keys():
                return None
            return (
                {name for name, sha256 in self.binaries.items() if other.binaries[name] != sha256},
                {name for name, sha256 in self.archives.items() if other.archives[name] != sha256},
            )
        except (ValueError, TypeError, AttributeError):
            return None


def told_images(labels: c.Mapping[str, str]) -> list[str] | None:
    """The images that an image of ours says it holds; None where it says nothing."""
    told = labels.get("io.nodeforge.images")
    return told.split(",") if told else None


def told_replaced(labels: c.Mapping[str, str]) -> dict[str, str]:
    """The images that kubeadm asks for, each with the one that an image of ours has instead."""
    told = (labels.get(REPLACED_LABEL) or "").split(",")
    return {asked: given for asked, equals, given in (pair.partition("=") for pair in told) if asked and given}


def build_label(name: str, fingerprint: str) -> str:
    return f"{name} {fingerprint}"


def build_fingerprint(container: c.Mapping[str, t.Any]) -> str | None:
    """The fingerprint of a build container of ours (as ``docker inspect`` shows it), or None for anybody else's container."""
    name, _space, made_from = ((container["Config"].get("Labels") or {}).get(BUILD_LABEL) or "").partition(" ")
    return made_from if made_from and name == container["Name"].lstrip("/") else None


def _why(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)


def image_facts(image: dict[str, t.Any]) -> dict[str, t.Any]:
    """What modules return of an image, from the engine's description of it."""
    return {
        "id": image["Id"],
        "size": image["Size"],
        "layers": image["RootFS"].get("Layers") or [],
        "repo_tags": image["RepoTags"] or [],
        "labels": (image["Config"] or {}).get("Labels") or {},
        "created": image["Created"],
        "platform": f"{image['Os']}/{image['Architecture']}",
    }
