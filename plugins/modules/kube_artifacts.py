#!/usr/bin/python
# Copyright (c) 2026, nodeforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kube_artifacts
short_description: Take Kubernetes that is already compiled
version_added: 1.1.0
description:
  - Finds the binaries and image archives of Kubernetes in a directory, or unpacks them from an archive of a release, which it downloads
    where it is not there yet, and returns them exactly as M(nodeforge.kind.kube_make) returns what it compiled.
  - A download goes on where an earlier one broke off, is tried again with growing delays and on other servers, and gets its name in the
    cache only when its checksum is right. What is in the cache is never downloaded again.
extends_documentation_fragment:
  - nodeforge.kind._attributes
  - nodeforge.kind._attributes.actiongroup_kind
attributes:
  check_mode:
    support: full
    details:
      - Small files (markers, checksums) are read from the server, archives are not. An archive that is there is read to its end, but not unpacked.
      - Where something would be downloaded or unpacked, RV(outputs) are empty.
  diff_mode:
    support: full
    details:
      - Shows the version and the checksum of each output, none of which is there before an archive is unpacked.
  idempotent:
    support: full
    details:
      - A change is what was downloaded or unpacked, not what the cache remembers of it. A directory is never changed.
      - A marker such as V(ci/latest) names another version at another time.
options:
  source:
    description:
      - A directory, such as a tree's C(_output) or a place with binaries and image archives side by side. Where several of its usual places
        hold a component, the file that was made last counts; places that name the platform go before those that do not.
      - The path or URL of C(kubernetes-server-linux-ARCH.tar.gz), or of C(kubernetes-node-linux-ARCH.tar.gz), which has binaries only.
      - A version, such as V(v1.34.4), or V(ci/v1.38.0-alpha.0.1+0123456789abcd) for a build that is no release.
      - A marker that names a version, such as V(release/stable-1.34), V(release/latest) or V(ci/latest).
      - Of what is named like a version or a marker, write a path with C(./) in front of it.
    type: str
    required: true
  components:
    description:
      - Which components to take, by default all that a node needs.
      - C(kubeadm), C(kubectl) and C(kubelet) are binaries, the others image archives. Only where one of those is among them the large
        archive of the server is downloaded. Where that is unpacked already, binaries are taken from it, too.
    type: list
    elements: str
    choices: [kubeadm, kubectl, kubelet, kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy]
    default: [kubeadm, kubectl, kubelet, kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy]
  platform:
    description:
      - The node's platform. The default is that of the host which runs the module.
      - Known are V(linux/amd64) and V(linux/arm64). Files for another one are refused.
    type: str
  version:
    description:
      - The version of the artifacts, where they cannot tell it.
      - By default what an archive says in its file C(version), else the tag of the image archives, else what the binaries print.
    type: str
  urls:
    description:
      - Release servers, which are asked in this order, each with the layout of V(https://dl.k8s.io) (C(release/v1.34.4/...), C(ci/latest.txt)).
      - Proxies come from the environment (E(https_proxy), E(no_proxy)), users and passwords from C(~/.netrc).
    type: list
    elements: str
    default: [https://dl.k8s.io]
  checksum:
    description:
      - What the archive must be, as V(sha256:) or V(sha512:) and hexadecimal digits.
      - By default what the server says in the file beside the archive, C(.sha512) or C(.sha256). An archive on this host is only compared if this is set.
    type: str
  cache_dir:
    description:
      - Where downloads and unpacked archives are kept, each under its checksum. All in it can be deleted at any time.
    type: path
    default: ~/.cache/nodeforge/artifacts
  offline:
    description:
      - Never use the network. What the cache holds is used, and a marker names the version that it named last.
    type: bool
    default: false
  ca_path:
    description: A file of certificates of authorities to trust, in PEM format, beside those that this host trusts.
    type: path
  timeout:
    description: Seconds for which a server may be silent.
    type: int
    default: 30
  retries:
    description:
      - How many times in a row to try a server again where that may help. A try that gets further than those before begins a new row.
    type: int
    default: 4
  retry_delay:
    description:
      - Seconds before the second try. Each further delay is twice as long, up to a minute, and all vary by half of it.
      - Where a server asks for a longer one (C(Retry-After)), that is heeded, up to five minutes.
    type: float
    default: 0.5
  progress:
    description:
      - What to show on standard error meanwhile. V(summary) is a line every 15 seconds, V(lines) is all there is to tell, V(none) is nothing.
      - Only seen with the collection's action plugin, so not in check mode nor in a task that uses C(async).
    type: str
    choices: [none, summary, lines]
    default: summary
seealso:
  - module: nodeforge.kind.kube_make
  - module: nodeforge.kind.kind_node_prepare
author:
  - nodeforge contributors (@nodeforge)
"""

EXAMPLES = r"""
- name: What was compiled elsewhere
  nodeforge.kind.kube_artifacts:
    source: ~/go/src/k8s.io/kubernetes/_output

- name: A release, through a mirror
  nodeforge.kind.kube_artifacts:
    source: v1.34.4
    urls:
      - https://mirror.example.com/kubernetes
      - https://dl.k8s.io
  register: kubernetes

- name: The newest build of the main branch, only its kubelet, for arm64
  nodeforge.kind.kube_artifacts:
    source: ci/latest
    components: [kubelet]
    platform: linux/arm64

- name: An archive from somewhere
  nodeforge.kind.kube_artifacts:
    source: https://example.com/builds/kubernetes-server-linux-amd64.tar.gz
    checksum: sha256:0b2c1f6b0bd0a0a1c1f0c9f6f5a3c8d1b8e5f4b1f6f8f7a1d0c9b8a7968574ab
"""

RETURN = r"""
outputs:
  description: What there is now, as RV(nodeforge.kind.kube_make#module:outputs). Empty in check mode where it would have to come first.
  returned: success
  type: dict
  contains:
    binaries:
      description: The binaries by name.
      type: dict
      sample:
        kubelet:
          path: /home/me/.cache/nodeforge/artifacts/unpacked/sha512-5d1c/kubelet
          sha256: 0b2c1f6b0bd0a0a1c1f0c9f6f5a3c8d1b8e5f4b1f6f8f7a1d0c9b8a7968574ab
          size: 61247672
          debug: false
          static: true
    images:
      description: The image archives by name, with the reference that each archive holds.
      type: dict
      sample:
        kube-proxy:
          path: /home/me/.cache/nodeforge/artifacts/unpacked/sha512-5d1c/kube-proxy.tar
          sha256: 5d1c1f6b0bd0a0a1c1f0c9f6f5a3c8d1b8e5f4b1f6f8f7a1d0c9b8a7968574ab
          size: 84021760
          ref: registry.k8s.io/kube-proxy-amd64:v1.34.4
version:
  description: The version of Kubernetes. V(null) where nobody knows it in check mode.
  returned: success
  type: str
  sample: v1.34.4
platform:
  description: The platform.
  returned: success
  type: str
  sample: linux/amd64
checksum:
  description: The archive's checksum; V(null) for a directory.
  returned: success
  type: str
  sample: sha512:5d1c1f6b0bd0a0a1c1f0c9f6f5a3c8d1b8e5f4b1f6f8f7a1d0c9b8a7968574ab5d1c1f6b0bd0a0a1c1f0c9f6f5a3c8d1b8e5f4b1f6f8f7a1d0c9b8a7968574ab
url:
  description: Where the archive came from, or would come from; V(null) where that was not asked.
  returned: success
  type: str
  sample: https://dl.k8s.io/release/v1.34.4/kubernetes-server-linux-amd64.tar.gz
actions:
  description: What was done, or would be done in check mode, in sentences.
  returned: success
  type: list
  elements: str
  sample: ["Downloaded https://dl.k8s.io/release/v1.34.4/kubernetes-server-linux-amd64.tar.gz"]
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import platform as host_platform
import posixpath
import shutil
import tempfile
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nodeforge.kind.plugins.module_utils import _alive
from ansible_collections.nodeforge.kind.plugins.module_utils import _artifacts as artifacts
from ansible_collections.nodeforge.kind.plugins.module_utils._download import (
    FULL,
    Downloader,
    DownloadError,
    Failed,
    check_authorities,
)
from ansible_collections.nodeforge.kind.plugins.module_utils._registry import Cause
from ansible_collections.nodeforge.kind.plugins.module_utils._signals import Interrupted, interruptible
from ansible_collections.nodeforge.kind.plugins.module_utils._tree import (
    MACHINES,
    VERSION,
    HashCache,
    TreeError,
    parse_platform,
)

# Seconds that a program may take to print its version
PRINT_TIMEOUT = 60
# Before 1.28 kubectl otherwise prints the version of its Kustomize as the first one that can be read
PRINT = {"kubelet": ["--version"], "kubeadm": ["version", "--output=short"], "kubectl": ["version", "--client", "--output=json"]}
WATCH_EVERY = 5
FACTS = "facts.json"
FORMAT = 1


class KubeArtifacts:
    """From the name of a source to outputs."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        params = self.params = module.params
        self.check: bool = module.check_mode
        self.source = artifacts.parse_source(params["source"])
        self.components = artifacts.check_components(params["components"])
        self.platform = parse_platform(params["platform"], host_platform.machine())
        self.arch = self.platform.partition("/")[2]
        self.servers = [artifacts.check_server(url) for url in params["urls"]]
        self.expected = artifacts.parse_checksum(params["checksum"]) if params["checksum"] else None
        if params["version"] and not VERSION.match(params["version"]):
            raise TreeError(f'The version "{params["version"]}" is not one of Kubernetes; write it like v1.37.2.')
        for option, least in (("timeout", 1), ("retries", 0), ("retry_delay", 0)):
            if params[option] < least:
                raise TreeError(f"{option} is {params[option]}; it must be at least {least}.")
        if self.source.kind == "release" and not self.servers:
            raise TreeError(f"urls is empty, so nobody can be asked for {self.source}; name a server.")
        self.cache: str = params["cache_dir"]
        self.log_path = ""
        self.watched = 0.0
        self.downloader = Downloader(
            timeout=params["timeout"],
            retries=params["retries"],
            delay=params["retry_delay"],
            ca_path=check_authorities(params["ca_path"]) if params["ca_path"] else None,
            tick=self._tick,
            log=self._log,
        )
        self.result: dict[str, t.Any] = {"changed": False, "actions": [], "platform": self.platform, "checksum": None, "url": None}

    def run(self) -> dict[str, t.Any]:
        try:
            if self.source.kind == "path" and os.path.isdir(self.source.name):
                self._directory(self.source.name)
            else:
                self._archive()
        except OSError as e:
            if e.errno in FULL:
                raise TreeError(
                    f'The disk of the cache_dir "{self.cache}" is full; free some space there (df -h), or name another cache_dir, and run this again: '
                    "a download goes on where it broke off."
                ) from e
            raise TreeError(f'"{e.filename or self.cache}" cannot be used ({e.strerror or e}); change its permissions, or name another cache_dir.') from e
        finally:
            self.downloader.close()
            if self.log_path:
                os.unlink(self.log_path)
        self.result["changed"] = bool(self.result["actions"])
        return self.result

    # -- while it takes long ---------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self.watched >= WATCH_EVERY:
            self.watched = now
            if _alive.abandoned():
                raise Interrupted("the end of the play that waited for it")

    def _log(self, line: str) -> None:
        if self.check:
            return
        if not self.log_path:
            os.makedirs(self.cache, exist_ok=True)
            handle, self.log_path = tempfile.mkstemp(dir=self.cache, prefix=".log-")
            os.close(handle)
            _alive.announce(self.log_path)
        with open(self.log_path, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    @contextlib.contextmanager
    def _lock(self, name: str) -> t.Iterator[None]:
        """One run at a time downloads or unpacks the same archive; others wait for its end and find it done."""
        if self.check:
            yield
            return
        with open(os.path.join(self.cache, f".lock-{name}"), "w", encoding="utf-8") as lock:
            told = False
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as e:
                    if e.errno not in (errno.EAGAIN, errno.EACCES):
                        raise
                if not told:
                    told = True
                    self._log("another run is getting the same archive, waiting for it")
                time.sleep(0.2)
                self._tick()
            yield

    # -- a directory -----------------------------------------------------------------------------------------------------

    def _directory(self, root: str) -> None:
        if self.expected:
            raise TreeError(f'checksum is for an archive, but source is the directory "{root}"; leave one out.')
        parts = artifacts.find_parts(root, self.arch, self.components)
        artifacts.check_parts(parts, self.components, f'The directory "{root}"', self.platform)
        hashes = self._hashes(root)
        outputs = self._outputs(parts, hashes, None, f'the directory "{root}"')
        with contextlib.suppress(OSError):  # it saves time, no more
            self._remember(root, hashes={**hashes.known, **hashes.used})
        # a directory may hold what was never made together
        for name, version in self._printed(outputs["binaries"]).items():
            if version != self.result["version"]:
                self.module.warn(f'{name} in "{root}" says that it is {version}, while the version is {self.result["version"]}: they were not built together.')
        self._diff(before=True)

    # -- an archive --------------------------------------------------------------------------------------------------------

    def _archive(self) -> None:
        if not self.check:
            for name in ("blobs", "unpacked", "refs"):
                os.makedirs(os.path.join(self.cache, name), exist_ok=True)
        if self.source.kind == "path":
            if not os.path.exists(self.source.name):
                raise TreeError(
                    f'There is no directory or archive "{self.source.name}" on this host; correct source (a version is written like v1.34.4, '
                    "a marker like release/stable-1.34)."
                )
            artifacts.check_name(posixpath.basename(self.source.name), self.platform)
            checksum = self._own_checksum(self.source.name)
            self._unpacked(checksum, None, lambda: self.source.name)
            return
        version, urls, key = self._address()
        checksum = self._expected(urls, key)
        self.result.update(url=urls[0])
        self._unpacked(checksum, version, lambda: self._download(urls, checksum))
        self._remember(key, checksum=str(checksum))

    def _own_checksum(self, path: str) -> artifacts.Checksum:
        """Read once, as long as it stays the same file. What it was expected to be holds for all of the same content."""
        hashes = self._hashes(path)
        checksum = artifacts.Checksum("sha256", hashes.sha256(path))
        proved = [checksum.digest, str(self.expected)]
        if self.expected and self._known(path).get("proved") != proved:
            found = checksum.digest if self.expected.algorithm == "sha256" else artifacts.hash_of(path, self.expected.algorithm)
            if found != self.expected.digest:
                raise TreeError(
                    f'The {self.expected.algorithm} of "{path}" is {found} instead of {self.expected.digest}; get the archive again, or correct checksum.'
                )
        elif not self.expected:
            proved = self._known(path).get("proved", [])
        self._remember(path, hashes=hashes.used, proved=proved)
        return checksum

    def _address(self) -> tuple[str | None, list[str], str]:
        """The version, where known; the URLs; and the name under which the cache remembers."""
        source = self.source
        if source.kind == "url":
            artifacts.check_name(posixpath.basename(source.name), self.platform)
            return None, [source.name], source.name
        version = source.name if source.is_version else self._marker()
        name = artifacts.archive_name(self.components, self.arch)
        if not self.expected:
            # where the archive of the server is unpacked, a smaller one has nothing to add
            whole = artifacts.archive_name(artifacts.COMPONENTS, self.arch)
            if self._has(f"{source.track}/{version}/{whole}"):
                name = whole
        urls = [artifacts.server_url(server, source.track, version, name) for server in self.servers]
        return version, urls, f"{source.track}/{version}/{name}"

    def _has(self, key: str) -> bool:
        """Whether the archive of that name is unpacked, with all that is wanted."""
        known = self._known(key).get("checksum")
        facts = self._facts(self._place(artifacts.parse_checksum(known))) if known else None
        return facts is not None and all(artifacts.file_name(name) in facts["files"] for name in self.components)

    def _place(self, checksum: artifacts.Checksum) -> str:
        return os.path.join(self.cache, "unpacked", checksum.file_name)

    def _marker(self) -> str:
        key, urls = str(self.source), [artifacts.server_url(server, self.source.track, f"{self.source.name}.txt") for server in self.servers]
        known = self._known(key).get("version")
        if self.params["offline"]:
            if not known:
                raise TreeError(f'offline is set, and the cache_dir "{self.cache}" does not know what version {key} names; run this once with the network.')
            return str(known)

        def read(text: str) -> str:
            named = text.strip()
            if not VERSION.match(named):
                raise Failed(Cause(f'it holds "{named[:60]}", which is not a version such as v1.37.2', False, "correct the marker or the server in urls"))
            return named

        try:
            version = self.downloader.text(urls, read)
        except DownloadError as e:
            if not known or not e.unreachable:
                raise
            self.module.warn(f"{e} Taking {known}, which {key} named last.")
            return str(known)
        self._remember(key, version=version)
        return version

    def _expected(self, urls: list[str], key: str) -> artifacts.Checksum:
        """What the archive must be: as told, as remembered of a version, which never changes, or as its server says."""
        if self.expected:
            return self.expected
        known = self._known(key).get("checksum")
        remembered = artifacts.parse_checksum(known) if known else None
        if remembered and (self.source.kind == "release" or self.params["offline"]):
            return remembered
        if self.params["offline"]:
            raise self._missing(urls)
        try:
            return self._published(urls)
        except DownloadError as e:
            if remembered is None or not e.unreachable:
                raise
            self.module.warn(f"{e} Taking {urls[0]} as it was when it came last.")
            return remembered

    def _published(self, urls: list[str]) -> artifacts.Checksum:
        failures: list[DownloadError] = []
        for url in urls:
            for algorithm in ("sha512", "sha256"):
                try:
                    return self.downloader.text([f"{url}.{algorithm}"], functools.partial(self._stated, algorithm, posixpath.basename(url)))
                except DownloadError as e:
                    failures.append(e)
                    if e.unreachable:
                        break
        if all(e.missing for e in failures):
            raise TreeError(
                f"{' and '.join(urls)}: not there, or without a checksum (.sha512 or .sha256) beside it; correct source, name in urls a server that has it, "
                "or give the checksum yourself."
            )
        raise next(e for e in failures if not e.missing)

    @staticmethod
    def _stated(algorithm: str, name: str, text: str) -> artifacts.Checksum:
        found = artifacts.checksum_in(text, algorithm, name)
        if found is None:
            raise Failed(Cause(f"it holds no {algorithm} of {name}", False, "give the checksum yourself, or name another server"))
        return found

    def _missing(self, urls: list[str]) -> TreeError:
        return TreeError(f'offline is set, and the cache_dir "{self.cache}" lacks {urls[0]}; run this once with the network, or name a file in source.')

    def _download(self, urls: list[str], checksum: artifacts.Checksum) -> str | None:
        """The archive in the cache, from where it has to come first; None where check mode would have to download it."""
        path = os.path.join(self.cache, "blobs", checksum.file_name)
        with self._lock(checksum.digest[:32]):
            if os.path.exists(path):
                self._log(f"checking {checksum.file_name[:24]}")
                if artifacts.hash_of(path, checksum.algorithm) == checksum.digest:
                    return path
                if not self.check:
                    os.unlink(path)  # damaged: as good as not there
            if self.params["offline"]:
                raise self._missing(urls)
            self.result["actions"].append(f"Downloaded {urls[0]}")
            if self.check:
                return None
            self._log(f"downloading {urls[0]}")
            self.result["url"] = self.downloader.file(urls, path, checksum)
            self.result["actions"][-1] = f"Downloaded {self.result['url']}"
        return path

    def _unpacked(self, checksum: artifacts.Checksum, version: str | None, get: t.Callable[[], str | None]) -> None:
        """The archive's parts, unpacked if they are not yet; ``get`` brings the archive."""
        self.result["checksum"] = str(checksum)
        directory = self._place(checksum)
        what = f'The archive of {self.source}' if self.source.kind != "path" else f'The archive "{self.source.name}"'
        facts = self._facts(directory)
        if facts is None:
            if _alive.quick() and not self.check:
                raise _alive.Long
            path = get()
            with self._lock(f"unpack-{checksum.digest[:32]}"):
                # another run may have done it meanwhile
                facts = self._facts(directory)
                if facts is None:
                    facts = self._unpack(path, directory, what)
        else:
            self.result["url"] = None
        if facts is None:
            self.result.update(outputs={"binaries": {}, "images": {}}, version=self.params["version"] or version)
            self._diff(before=False)
            return
        parts = {name: os.path.join(directory, artifacts.file_name(name)) for name in self.components}
        artifacts.check_parts([name for name in parts if artifacts.file_name(name) in facts["files"]], self.components, what, self.platform)
        self._outputs(parts, facts["hashes"], facts["version"] or version, what)
        self._diff(before=not self.result["actions"])

    def _facts(self, directory: str) -> dict[str, t.Any] | None:
        """What an unpacked archive holds, with its files' hashes; None where it is not there, or no longer what was unpacked."""
        try:
            with open(os.path.join(directory, FACTS), encoding="utf-8") as file:
                facts = json.load(file)
            if facts.get("format") != FORMAT:
                return None
            known = facts["hashes"]
            hashes = HashCache({os.path.join(directory, name): entry for name, entry in known.items()})
            sound = all(hashes.sha256(os.path.join(directory, name)) == digest for name, digest in facts["files"].items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        if not sound:
            return None
        # after a move the files are others, for all that one can tell without reading them
        facts["hashes"] = {**known, **{os.path.relpath(path, directory): entry for path, entry in hashes.used.items()}}
        if facts["hashes"] != known and not self.check:
            with contextlib.suppress(OSError):  # it saves time, no more
                self._write_facts(directory, facts)
        return {**facts, "hashes": hashes}

    @staticmethod
    def _write_facts(directory: str, facts: dict[str, t.Any]) -> None:
        handle, temporary = tempfile.mkstemp(dir=directory, prefix=".new-")
        with open(handle, "w", encoding="utf-8") as file:
            json.dump(facts, file, indent=1, sort_keys=True)
        os.chmod(temporary, 0o644)
        os.replace(temporary, os.path.join(directory, FACTS))

    def _unpack(self, path: str | None, directory: str, what: str) -> dict[str, t.Any] | None:
        self.result["actions"].append(f"Unpacked it into {directory}")
        if self.check:
            if path is not None:
                found = artifacts.unpack(path, None, self._tick)
                artifacts.check_parts([name for name in self.components if artifacts.file_name(name) in found], self.components, what, self.platform)
            return None
        self._log(f"unpacking {os.path.basename(str(path))}")
        prefix = f".new-{os.path.basename(directory)[:24]}-"
        place = os.path.dirname(directory)
        for left in os.listdir(place):
            if left.startswith(prefix):  # by a run that was killed: nobody else is here
                shutil.rmtree(os.path.join(place, left), ignore_errors=True)
        work = tempfile.mkdtemp(dir=place, prefix=prefix)
        try:
            os.chmod(work, 0o755)
            files = artifacts.unpack(str(path), work, self._tick)
            there = [name for name in artifacts.COMPONENTS if artifacts.file_name(name) in files]
            artifacts.check_parts(there, self.components, what, self.platform)
            hashes = {name: artifacts.known_hash(os.path.join(work, name), digest) for name, digest in files.items()}
            # a name is given only to what belongs on the platform
            parts = {name: os.path.join(work, artifacts.file_name(name)) for name in there}
            try:
                artifacts.describe(parts, self.platform, HashCache({os.path.join(work, name): known for name, known in hashes.items()}))
            except TreeError as e:
                raise TreeError(f"{what} is not usable: {str(e).replace(os.path.join(work, ''), '')}") from e
            version = None
            if files.pop("version", None):
                with open(os.path.join(work, "version"), encoding="utf-8", errors="replace") as file:
                    version = file.read(1000).strip()
                if not VERSION.match(version):
                    raise TreeError(f'{what} says "{version[:60]}" is its version, which is none of Kubernetes; give version.')
            self._write_facts(work, {"format": FORMAT, "version": version, "files": files, "hashes": hashes})
            shutil.rmtree(directory, ignore_errors=True)  # what is there is damaged
            os.rename(work, directory)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return self._facts(directory)

    # -- what the cache knows of names ---------------------------------------------------------------------------------------

    def _ref(self, key: str) -> str:
        return os.path.join(self.cache, "refs", hashlib.sha256(key.encode()).hexdigest()[:16] + ".json")

    def _known(self, key: str) -> dict[str, t.Any]:
        try:
            with open(self._ref(key), encoding="utf-8") as file:
                known = json.load(file)
            return known if known.get("key") == key else {}
        except (OSError, ValueError, AttributeError):
            return {}

    def _hashes(self, key: str) -> HashCache:
        try:
            return HashCache(self._known(key)["hashes"])
        except (KeyError, TypeError, AttributeError):
            return HashCache()

    def _remember(self, key: str, **facts: t.Any) -> None:
        """No change, as nothing but what is asked for next time depends on it."""
        known = {"key": key, **facts}
        if not self.check and self._known(key) != known:
            os.makedirs(os.path.join(self.cache, "refs"), exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=os.path.join(self.cache, "refs"), prefix=".new-")
            with open(handle, "w", encoding="utf-8") as file:
                json.dump(known, file)
            os.replace(temporary, self._ref(key))

    # -- outputs -----------------------------------------------------------------------------------------------------------

    def _outputs(self, parts: dict[str, str], hashes: HashCache, version: str | None, what: str) -> dict[str, dict[str, t.Any]]:
        outputs = artifacts.describe(parts, self.platform, hashes)
        version = self.params["version"] or version or artifacts.tagged_version(outputs["images"])
        if version is None:
            version = next(iter(self._printed(outputs["binaries"]).values()), None)
        if version is None:
            raise TreeError(f"The version of {what} cannot be told, as its binaries do not run here and no image has it as its tag; give version.")
        self.result.update(outputs=outputs, version=version)
        return outputs

    def _printed(self, binaries: dict[str, dict[str, t.Any]]) -> dict[str, str]:
        """What the binaries say, as far as they run here."""
        told: dict[str, str] = {}
        if self.platform != f"linux/{MACHINES.get(host_platform.machine())}":
            return told
        for name, arguments in PRINT.items():
            path = binaries.get(name, {}).get("path", "")
            if path and os.access(path, os.X_OK):
                command = ["timeout", "-k", "5", str(PRINT_TIMEOUT), path, *arguments]
                rc, out, dummy = self.module.run_command(command, expand_user_and_vars=False)
                version = artifacts.printed_version(out) if rc == 0 else None
                if version:
                    told[name] = version
        return told

    def _diff(self, before: bool) -> None:
        known = self.result["outputs"]
        outputs = {entry["path"]: entry["sha256"] for kind in known.values() for entry in kind.values()}
        after = {"version": self.result["version"], "outputs": outputs if outputs else "unknown"}
        self.result["diff"] = {"before": after if before else {"version": None, "outputs": {}}, "after": after}


def main() -> None:
    """Runs the module."""
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "str", "required": True},
            "components": {"type": "list", "elements": "str", "choices": list(artifacts.COMPONENTS), "default": list(artifacts.COMPONENTS)},
            "platform": {"type": "str"},
            "version": {"type": "str"},
            "urls": {"type": "list", "elements": "str", "default": [artifacts.SERVER]},
            "checksum": {"type": "str"},
            "cache_dir": {"type": "path", "default": "~/.cache/nodeforge/artifacts"},
            "offline": {"type": "bool", "default": False},
            "ca_path": {"type": "path"},
            "timeout": {"type": "int", "default": 30},
            "retries": {"type": "int", "default": 4},
            "retry_delay": {"type": "float", "default": 0.5},
            "progress": {"type": "str", "choices": ["none", "summary", "lines"], "default": "summary"},
        },
        supports_check_mode=True,
    )
    try:
        with interruptible():
            result = KubeArtifacts(module).run()
    except _alive.Long:
        result = {"changed": True, "long": True}  # for the action plugin alone
    except TreeError as e:
        module.fail_json(msg=str(e))
    except Interrupted as e:
        module.fail_json(msg=f"Interrupted by {e}: what was downloaded so far stays, run this again to go on.")
    finally:
        _alive.done()
    module.exit_json(**result)


if __name__ == "__main__":
    main()
