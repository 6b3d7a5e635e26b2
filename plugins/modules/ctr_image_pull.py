#!/usr/bin/python
# Copyright (c) 2026, nodeforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ctr_image_pull
short_description: Pull and import images into the containerd of a container
version_added: 1.0.0
description:
  - Brings images into the containerd inside a container, such as the build container of a kind node image. They are pulled from
    registries or mirrors, imported from archives, or taken from a cache on the build host.
  - Afterwards each image of O(images) and O(archives) is there under its plain name, complete for O(platform), and pinned. The module
    fails otherwise.
  - Only content is stored, nothing is unpacked, which is what a node image needs. containerd unpacks images when the node first uses them.
  - If containerd does not run in the container, it is started, and stopped again when all is done, also after a failure. The
    container needs C(containerd), C(ctr), C(sh), C(tar) and C(timeout), as all bases of kind nodes have them. Only one run at a time
    may work on a container.
extends_documentation_fragment:
  - nodeforge.kind._attributes
  - nodeforge.kind._attributes.actiongroup_kind
  - nodeforge.kind._docker
attributes:
  check_mode:
    support: full
    details:
      - If containerd does not run, the images are read by another containerd, on a copy of its list of images that lies in C(/run) and is
        removed again. Nothing is changed, neither in the container nor in the cache.
      - A container that does not exist is taken for an empty one, because the task that makes it has not done so in check mode.
      - Registries of other machines are not asked, so a pull that would fail is predicted as C(pulled).
  diff_mode:
    support: full
    details:
      - Shows digest and pin of each image. In check mode the digest of an image that would come is V(unknown).
  idempotent:
    support: full
    details:
      - An image that is complete is not pulled again, even if the registry has moved its tag since. Name images by digest, or begin
        with a new container, where this matters.
      - An archive is compared by the digest of its image's configuration, which stands for all of the image's content.
options:
  container:
    description:
      - Name or id of the container. It has to run, except with O(importer).
    type: str
    required: true
  images:
    description:
      - The images that must be there, such as V(registry.k8s.io/etcd:3.6.4-0) or V(docker.io/kindest/kindnetd@sha256:...).
      - Short names are completed as Docker does, V(busybox) is V(docker.io/library/busybox:latest). Of a name with tag and digest only
        the digest counts, as for the kubelet.
      - Those that an archive brings need not be named, but may be. Then they are required, too.
    type: list
    elements: str
    default: []
  archives:
    description:
      - Image archives on the build host, as C(docker save) or C(make quick-release-images) write them, and with containerd 2 also compressed by gzip.
      - A list of paths, or of dictionaries with C(path), and optionally C(ref) (the name for the image, necessary if the archive has none)
        and C(sha256) (verified before the import). Or a dictionary of such dictionaries, as RV(nodeforge.kind.kube_make#module:outputs)
        has under C(images).
      - An entry with C(engine) instead of C(path) is an image of the container engine, named by its tag, as C(docker build) left it there. The
        engine's own export of it is streamed into the container. It may have C(ref), too, and C(id), which the engine's image must have.
      - An architecture at the end of the name, as in V(registry.k8s.io/kube-proxy-amd64:v1.37.2), is dropped, because kubeadm asks for
        V(registry.k8s.io/kube-proxy:v1.37.2). It stays where O(images) names it so.
    type: raw
    default: []
  layouts:
    description:
      - Directories on the build host with OCI image layouts, whose images are named by the annotation C(org.opencontainers.image.ref.name).
      - An image of O(images) that one of them has is imported from there and asked for nowhere else.
    type: list
    elements: path
    version_added: 1.1.0
    default: []
  importer:
    description:
      - The program C(nodeforge-store) on the build host, which the role P(nodeforge.kind.supplies#role) makes. It does what
        C(ctr images import) does, without a containerd, and compresses what a docker archive holds uncompressed (zstd), where that makes it smaller.
      - So it can fill a container that does not run (O(nodeforge.kind.kind_node_prepare#module:start=false)), also one of another platform,
        where all images that it has not come from files of the build host (O(archives), O(layouts), O(cache_dir)).
        Otherwise such a container is started.
      - Content that an image of the container does not need any more stays in it until containerd runs there and collects it.
    type: path
    version_added: 1.1.0
  platform:
    description:
      - The platform of the images, such as V(linux/amd64) or V(linux/arm64). Images for another one are refused.
      - If not set, that of the container's own image.
    type: str
  mirrors:
    description:
      - "Registry name to list of URLs, such as V({\"registry.k8s.io\": [\"http://127.0.0.1:5000\"]}). They are asked in this order."
      - Mirrors replace the registry. It is asked as well only if its own URL is in the list, for example C(https://registry.k8s.io) at
        its end.
      - An address with V(http://) is used without TLS, and without credentials unless it is this very machine. A path with C(/v2/) in it, such as
        V(https://harbor.example.com/v2/project), is used as it is.
    type: dict
    default: {}
  ca_files:
    description:
      - "Host of a registry or mirror, with its port if it has one, to a file on the build host with certificates of authorities in PEM format,
        such as V({\"mirror.example.com:5000\": \"/etc/ssl/our-ca.pem\"})."
      - They are trusted besides those that the container trusts, for that host only.
    type: dict
    version_added: 1.1.0
    default: {}
  hosts_dir:
    description:
      - A directory on the build host with the layout of containerd's C(/etc/containerd/certs.d), for what O(mirrors) cannot say, such as
        client certificates. It is copied into the container for the time of each pull.
      - A certificate's path must be relative to its C(hosts.toml). A registry that has one here takes its credentials from there, too.
    type: path
  credentials:
    description:
      - Users of registries or mirrors. They are given only to the host that they are for, and reach neither a command line nor an image.
      - They go only over TLS or to this very machine, and to a token service only where it belongs to the same domain or has an entry here, too.
      - For hosts that have no entry here, those of O(docker_config) are used.
      - A host that refuses its user fails the image, but only where that host had to be asked.
    type: list
    elements: dict
    default: []
    suboptions:
      registry:
        description: Registry or host of a mirror, with its port if it has one, such as V(docker.io) or V(mirror.example.com:5000).
        type: str
        required: true
      username:
        description: The user.
        type: str
        required: true
      password:
        description: The password or access token.
        type: str
        required: true
  docker_config:
    description:
      - The directory on the build host with the C(config.json) that C(docker login) writes. Its users are given to the registries that they are for, be they in
        the file itself (C(auths)) or with a credential helper (C(credsStore), C(credHelpers)).
      - Where a user of it cannot be used, or is refused, the registry is asked without one, and there is a warning.
      - The default is E(DOCKER_CONFIG), or V(~/.docker). Empty means none.
    type: path
    version_added: 1.1.0
    default: ~/.docker
  offline:
    description:
      - Ask no other machine. Images come from O(archives), from O(cache_dir) and from registries of this very machine (mirrors with a loopback address), if the
        container has the machine's network.
      - Where others would be needed, the module fails before it transfers anything, and names all of them.
    type: bool
    version_added: 1.1.0
    default: false
  retries:
    description:
      - How many times to try again where that may help, which is the case for broken connections, for time-outs and overloaded registries
        (429, 500 to 599) and for data that does not match its digest.
      - Missing images, refused credentials and full disks fail at once.
    type: int
    default: 4
  retry_delay:
    description:
      - Seconds before the second try. Each further delay is twice as long, up to a minute, and all vary by half of it, so that
        many clients do not come back at the same moment. After 429 it is four times as long.
      - A registry that asks for a longer pause (retry-after in its message) gets it, up to five minutes.
    type: float
    default: 0.5
  transfer_timeout:
    description: Seconds that one try of one image may take, and those of O(importer) for all of them.
    type: int
    default: 600
  concurrency:
    description: How many images are transferred at the same time.
    type: int
    default: 4
  pin:
    description: Protect the images from the kubelet's garbage collection.
    type: bool
    default: true
  cache_dir:
    description:
      - A directory on the build host that keeps what was pulled, as an OCI image layout. Images in it are imported instead of pulled,
        so that later runs need no network.
      - What a registry of this very machine has (a mirror with a loopback address, and a container with the network V(host)) comes from there, and is
        not kept a second time. Where that fails, it comes from here or from the other mirrors.
      - Whatever is in it can be deleted at any time. A damaged image is noticed, dropped and pulled anew.
    type: path
notes:
  - Pulls use the proxies that the module's own environment names (E(HTTPS_PROXY), E(HTTP_PROXY), E(NO_PROXY), as C(environment) of the task or the host sets
    them). They are in the environment of the pulling process only, not in that of the container or of an image.
seealso:
  - module: nodeforge.kind.kind_node_prepare
  - module: nodeforge.kind.docker_commit
author:
  - nodeforge contributors (@nodeforge)
"""

EXAMPLES = r"""
- name: Import the built images, pull the others
  nodeforge.kind.ctr_image_pull:
    container: "{{ prepared.container.name }}"
    images: "{{ prepared.required_images }}"
    archives: "{{ built.outputs.images }}"

- name: Bake an image of our own into a node, through a mirror that wants a password
  nodeforge.kind.ctr_image_pull:
    container: nodeforge-build
    images:
      - registry.example.com/team/app:1.2
    mirrors:
      registry.example.com:
        - https://mirror.example.com:5000
        - https://registry.example.com
    credentials:
      - registry: mirror.example.com:5000
        username: builder
        password: "{{ vault_mirror_password }}"

- name: Bake in what docker build made, and an image from a registry with a certificate of our own
  nodeforge.kind.ctr_image_pull:
    container: nodeforge-build
    archives:
      - engine: team/app:dev
    images:
      - registry.example.com/team/base:1
    ca_files:
      registry.example.com: /etc/ssl/our-ca.pem

- name: Pull once, then work without a network
  nodeforge.kind.ctr_image_pull:
    container: nodeforge-build
    platform: linux/arm64
    images:
      - registry.k8s.io/etcd:3.6.4-0
    cache_dir: ~/.cache/nodeforge/images

- name: Import an archive under a name of one's own
  nodeforge.kind.ctr_image_pull:
    container: nodeforge-build
    archives:
      - path: /tmp/app.tar
        ref: docker.io/team/app:dev
"""

RETURN = r"""
images:
  description: All images, those of O(images) first. Also returned on failure, then with what was reached.
  returned: always, except for failures before any work
  type: list
  elements: dict
  contains:
    ref:
      description: The name in containerd, in full.
      type: str
      sample: registry.k8s.io/etcd:3.6.4-0
    action:
      description:
        - How it came. V(present) was there already, V(pulled) came from a registry, V(imported) from an archive, V(cached) from
          O(cache_dir). V(failed) has its reason in RV(images[].msg).
      type: str
      sample: pulled
    digest:
      description: What the name points to (index or manifest). V(unknown) in check mode for images that would come.
      type: str
      sample: sha256:e36c081683425b5b3bc1425bc508b37e7107bb65dfa9367bf5a80125d431fa19
    size:
      description: Bytes of the image's content for the platform. Null where unknown.
      type: int
      sample: 58938593
    attempts:
      description: How often it was tried.
      returned: for images that were pulled or failed
      type: int
      sample: 1
    msg:
      description: Why it failed.
      returned: for failed images
      type: str
platform:
  description: The platform of the images.
  returned: success
  type: str
  sample: linux/amd64
actions:
  description: What was done, or would be, one sentence each, in the order of the images.
  returned: success
  type: list
  elements: str
  sample: ["Pulled image registry.k8s.io/etcd:3.6.4-0"]
diff:
  description: Digest and pin of each image, before and after.
  returned: in diff mode
  type: dict
  sample:
    before: {images: {}}
    after:
      images:
        registry.k8s.io/etcd:3.6.4-0: {digest: "sha256:e36c081683425b5b3bc1425bc508b37e7107bb65dfa9367bf5a80125d431fa19", pinned: true}
"""

import collections.abc as c
import concurrent.futures
import contextlib
import json
import os
import re
import tempfile
import threading
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule, env_fallback
from ansible.module_utils.common.validation import check_type_path
from ansible_collections.nodeforge.kind.plugins.module_utils import _alive
from ansible_collections.nodeforge.kind.plugins.module_utils import _registry as registry
from ansible_collections.nodeforge.kind.plugins.module_utils._containerd import METADATA, Containerd, Record, Store
from ansible_collections.nodeforge.kind.plugins.module_utils._docker import (
    DOCKER_ARGS,
    Engine,
    EngineError,
    ExecResult,
    read_chunks,
)
from ansible_collections.nodeforge.kind.plugins.module_utils._image_archive import (
    NONSENSE,
    Cache,
    Content,
    Missing,
    WrongPlatform,
    read_archive,
    sha256_of,
    split_platform,
)
from ansible_collections.nodeforge.kind.plugins.module_utils._node_image import (
    CONTAINERD_CONFIG,
    BadInput,
    File,
    Reference,
    build_fingerprint,
    containerd_root,
    parse_reference,
    store_name,
    tar_stream,
    without_arch,
)
from ansible_collections.nodeforge.kind.plugins.module_utils._signals import (
    Interrupted,
    deferred,
    interruptible,
    spawning,
)

# hosts.toml files and certificates: all of them go into each pull.
# Of containerd's database, which has no content and so is a fraction of this.
MAX_METADATA = 64 * 1024 * 1024
MAX_HOSTS_DIR = 4 * 1024 * 1024
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")


class Failed(Exception):
    """A transfer that came to nothing; the text is the whole sentence."""


class Archive(t.NamedTuple):
    """An archive to import, or an image of the engine, which exports it as one."""

    # of a file, or None
    path: str | None
    sha256: str | None
    # name in the archive (None: it has none) to name in containerd
    names: dict[str | None, str]
    # names that must not stay
    drop: list[str]
    # name in containerd to the digest of the image's configuration
    configs: dict[str, str]
    # its reference in the engine, if it is an image of that
    engine: str = ""

    def __str__(self) -> str:
        return f'the image archive "{self.path}"' if self.path else f'the image "{self.engine}" of the engine'

    def holds(self, ref: str, content: Content | None) -> bool:
        """Whether the content is the archive's. An engine's image id is the digest of the configuration, or of the index where containerd is its store."""
        return content is not None and (content.config == self.configs[ref] or bool(self.engine) and content.digest == self.configs[ref])


class Image:
    """One image on its way."""

    def __init__(self, ref: str) -> None:
        self.ref = ref
        self.action = "present"
        self.content: Content | None = None
        self.attempts = 0
        self.come = False
        # a registry of this very machine has it
        self.local = False
        self.msg = ""
        # what was done for it: images come at once, and are told in the order given
        self.done: list[str] = []

    def result(self) -> dict[str, t.Any]:
        """As returned."""
        known = {
            "ref": self.ref,
            "action": self.action,
            "digest": self.content.digest if self.content else "unknown",
            # of one that lies in a lower layer it is not known
            "size": (self.content.size or None) if self.content else None,
        }
        if self.attempts:
            known["attempts"] = self.attempts
        if self.msg:
            known["msg"] = self.msg
        return known


class ImagePuller:
    """The module's work: what is there, what must come, and whether all has come."""

    def __init__(self, module: AnsibleModule, engine: Engine) -> None:
        self.module = module
        self.engine = engine
        params = module.params
        self.container: str = params["container"]
        self.pin: bool = params["pin"]
        self.check: bool = module.check_mode
        self.timeout: int = params["transfer_timeout"]
        self._validate(params)
        # check mode does not need it, and it may be made by the play
        if params["importer"] and not self.check and not os.access(params["importer"], os.X_OK):
            raise EngineError(f'The importer "{params["importer"]}" is no program: have the role supplies make it, or leave it out')
        # such a URL is refused, but the options are part of the result
        module.no_log_values.update(filter(None, map(_password, re.findall(r"\w+://[^\s\"',]+", json.dumps(params["mirrors"])))))
        self.mirrors = self._mirrors(params["mirrors"])
        given = {registry.registry_name(entry["registry"]): registry.Credentials(entry["username"], entry["password"]) for entry in params["credentials"]}
        self.logins = registry.Logins(given, params["docker_config"], self._ask_helper, module.warn)
        self.proxies = {name: os.environ[name] for name in PROXIES if os.environ.get(name)}
        # a proxy's URL may hold a password
        module.no_log_values.update(filter(None, map(_password, self.proxies.values())))
        self.offline: bool = params["offline"]
        self.authorities = self._authorities(params["ca_files"])
        self.hosts_files = self._hosts_dir(params["hosts_dir"])
        self.required = list(dict.fromkeys(store_name(parse_reference(ref, "image")) for ref in params["images"]))
        there = engine.container(self.container)
        self.exists = there is not None or not self.check
        # whether the loopback address is the same one in the container as here; one that is not there yet will have what is asked for
        self.same_loopback = engine.host.startswith("unix:") and (there is None or there["HostConfig"]["NetworkMode"] == "host")
        self.platform: str = params["platform"] or self._own_platform()
        if split_platform(self.platform)[0] != "linux" or not split_platform(self.platform)[1]:
            raise EngineError(f'The platform "{self.platform}" is not one of Linux: write it like linux/amd64 or linux/arm64')
        self.archives = [self._archive(entry) for entry in _archive_entries(params["archives"])]
        self.cache = self._cache(params["cache_dir"])
        self.layouts = [self._layout(directory) for directory in params["layouts"]]
        self.images = {ref: Image(ref) for ref in [*self.required, *(ref for archive in self.archives for ref in archive.configs)]}
        self.planned = False
        self._warned: set[str] = set()
        self._stopping = threading.Event()

    # options

    @staticmethod
    def _validate(params: dict[str, t.Any]) -> None:
        for option, least in (("retries", 0), ("retry_delay", 0), ("transfer_timeout", 1), ("concurrency", 1)):
            if params[option] < least:
                raise EngineError(f"{option} is {params[option]}: it must be at least {least}")

    @staticmethod
    def _mirrors(mirrors: dict[str, t.Any]) -> dict[str, list[str]]:
        result = {}
        for name, urls in mirrors.items():
            urls = [urls] if isinstance(urls, str) else urls
            if not isinstance(urls, list) or not urls or not all(isinstance(url, str) for url in urls):
                raise EngineError(f'The mirrors of "{name}" are not a list of URLs: write them like ["http://127.0.0.1:5000"]')
            result[registry.registry_name(name)] = [registry.check_url(url) for url in urls]
        return result

    def _ask_helper(self, command: list[str], text: str) -> tuple[int, str, str]:
        with spawning() as started:
            return self.module.run_command(command, data=text, expand_user_and_vars=False, before_communicate_callback=started)

    @staticmethod
    def _authorities(files: dict[str, t.Any]) -> dict[str, tuple[str, bytes]]:
        """Host to file and content."""
        result = {}
        for host, path in files.items():
            path = check_type_path(path)
            try:
                with open(path, "rb") as file:
                    content = file.read(MAX_HOSTS_DIR)
            except OSError as e:
                raise EngineError(f'The certificates "{path}" of ca_files cannot be read: {e.strerror}; correct the path') from e
            if b"-----BEGIN CERTIFICATE-----" not in content:
                raise EngineError(f'The file "{path}" of ca_files holds no certificate: give one in PEM format')
            result[registry.registry_name(host)] = (path, content)
        return result

    @staticmethod
    def _hosts_dir(directory: str | None) -> dict[str, bytes]:
        files: dict[str, bytes] = {}
        if directory is None:
            return files
        if not os.path.isdir(directory):
            raise EngineError(f'The hosts_dir "{directory}" is not a directory: name one with the layout of /etc/containerd/certs.d')
        total = 0
        for parent, __, names in os.walk(directory):
            for name in names:
                path = os.path.join(parent, name)
                try:
                    total += os.path.getsize(path)
                    if total > MAX_HOSTS_DIR:
                        raise EngineError(f'The hosts_dir "{directory}" holds more than {MAX_HOSTS_DIR} bytes: it should hold hosts.toml files only')
                    with open(path, "rb") as file:
                        files[os.path.relpath(path, directory)] = file.read()
                except OSError as e:
                    raise EngineError(f'The file "{path}" in hosts_dir cannot be read: {e.strerror}; correct its permissions') from e
        return files

    def _own_platform(self) -> str:
        container = self.engine.container(self.container)
        image = self.engine.image(container["Image"]) if container else None
        return f"{image['Os']}/{image['Architecture']}" if image else self.engine.platform

    def _engine_image(self, entry: dict[str, t.Any]) -> Archive:
        reference = parse_reference(entry["engine"], "engine image")
        if reference.digest:
            raise EngineError(f'The engine image "{reference}" is named by a digest, which its export does not keep: name it by its tag')
        image = self.engine.image(str(reference))
        if image is None:
            raise EngineError(f'The image "{reference}" is not in the engine at {self.engine.host}: build, load or pull it there')
        found = "/".join(part for part in (image["Os"], image["Architecture"], image.get("Variant")) if part)
        if split_platform(found) != split_platform(self.platform):
            raise EngineError(f'The image "{reference}" in the engine is for {found}, not for {self.platform}: build it for that platform')
        if entry.get("id") not in (None, image["Id"]):
            raise EngineError(f'The image "{reference}" in the engine has another id than the one that is wanted ({entry["id"]}): run again')
        ref = store_name(parse_reference(entry["ref"], f'ref of the engine image "{reference}"')) if entry.get("ref") else str(reference)
        return Archive(None, None, {str(reference): ref}, [str(reference)] if ref != str(reference) else [], {ref: image["Id"]}, str(reference))

    def _archive(self, entry: dict[str, t.Any]) -> Archive:
        if "engine" in entry:
            return self._engine_image(entry)
        path = entry["path"]
        found = read_archive(path, self.platform)
        wanted = str(parse_reference(entry["ref"], f'ref of the archive "{path}"')) if entry.get("ref") else None
        arch = split_platform(self.platform)[1]
        plain = {image.name: self._plain(image.name, arch) for image in found if image.name}
        if wanted and wanted not in plain and self._plain(wanted, arch) not in plain.values():
            if len(found) != 1:
                raise EngineError(f'The image archive "{path}" holds {", ".join(plain) or "several images"}, but not "{wanted}": correct its ref')
            plain = {found[0].name: self._plain(wanted, arch)}
        if None in {image.name for image in found} and None not in plain:
            raise EngineError(f'The image archive "{path}" has an image without a name: give it one with ref, or save it with its tag')
        if len(plain) > 1 and None in plain:
            raise EngineError(f'The image archive "{path}" holds several images without a name: save them with their tags')
        if not plain:
            raise EngineError(f'The image archive "{path}" holds no image: build it again')
        return Archive(
            path,
            entry.get("sha256"),
            t.cast("dict[str | None, str]", plain),
            [name for name, ref in plain.items() if name and name != ref],
            {plain[image.name]: image.config for image in found},
        )

    def _plain(self, name: str, arch: str) -> str:
        reference = parse_reference(name, "image in an archive")
        plain = store_name(without_arch(reference, arch))
        return store_name(reference) if plain != store_name(reference) and store_name(reference) in self.required else plain

    def _cache(self, directory: str | None) -> Cache | None:
        if directory is None or (self.check and not os.path.isdir(directory)):
            return None
        return Cache(directory, read_only=self.check)

    @staticmethod
    def _layout(directory: str) -> Cache:
        try:
            with open(os.path.join(directory, "index.json"), encoding="utf-8") as file:
                if isinstance(json.load(file)["manifests"], list):
                    return Cache(directory, read_only=True)
        except OSError as e:
            raise EngineError(f'The directory "{directory}" of layouts cannot be read as an OCI image layout: {e.strerror}; correct its path') from e
        except NONSENSE:
            pass
        raise EngineError(f'The directory "{directory}" of layouts is no OCI image layout, its index.json lists no manifests: correct its path')

    # the run

    def run(self) -> dict[str, t.Any]:
        """Does all of it and returns the module's result."""
        if self.exists and self.images and self.module.params["importer"] and not self._runs():
            root, metadata = self._store_there()
            filled = self._filled(root, metadata)
            if filled:
                return filled
            if self.check and metadata is None:
                # it would be started, and is empty
                self.exists = False
            elif not self.check:
                self._start()
        if self.exists:
            self.engine.running(self.container)
        if not self.images:
            return self._result(Store(self.platform, {}, set()), Store(self.platform, {}, set()))
        if not self.exists:
            before = Store(self.platform, {}, set())
            self._plan(before)
            return self._result(before, None)
        with Containerd(self.engine, self.container, read_only=self.check) as containerd:
            before = containerd.store(self.images, self.platform)
            jobs = self._plan(before)
            if self.check:
                return self._result(before, None)
            after = before
            try:
                if jobs:
                    self._transfer(containerd, jobs)
                    after = self._verify(containerd, before)
                if self.pin:
                    loose = [ref for ref, record in after.images.items() if not record.pinned]
                    if loose:
                        containerd.pin(loose)
                        after = after.pinned(loose)
                self._fill_cache(containerd)
            except BaseException:
                containerd.collect(all_transfers=True)
                raise
            replaced = [ref for ref, record in after.images.items() if ref in before.images and before.images[ref].digest != record.digest]
            if replaced or any(image.attempts > 1 for image in self.images.values()):
                containerd.collect(all_transfers=True)
        return self._result(before, after)

    # a container that does not run

    def _runs(self) -> bool:
        container = self.engine.container(self.container)
        # one that is not there is told of in the usual way
        return container is None or container["State"]["Running"]

    def _start(self) -> None:
        with self.engine.explained(f'Starting the container "{self.container}"'):
            self.engine.api.start(self.container)
            if self.platform != self.engine.platform:
                # a program that cannot run here ends only after the engine has said that it runs
                time.sleep(1)
        if not self._runs():
            foreign = self.platform != self.engine.platform
            raise EngineError(
                f'The container "{self.container}" has to run, as it has images already or not all come from files of this host, but it ended at once: '
                + (f"give all as archives or layouts, or install qemu-user-static for {self.platform}" if foreign else "correct its command")
            )

    def _store_there(self) -> tuple[str, bytes | None]:
        """Where containerd's images lie, and its metadata, if there are some already."""
        config = (self.engine.read_file(self.container, CONTAINERD_CONFIG) or b"").decode(errors="replace")
        root = containerd_root(config)
        return root, self.engine.read_file(self.container, f"{root}/{METADATA}", MAX_METADATA)

    def _sources(self, held: c.Mapping[str, Record]) -> list[dict[str, t.Any]] | None:
        """All images that are not held already, as the importer is told of them; None where some are in no file of this host, or damaged."""
        sources: list[dict[str, t.Any]] = []
        brought: set[str] = set()
        for archive in self.archives:
            if not archive.path or _compressed(archive.path):
                return None
            names = {name or "": ref for name, ref in archive.names.items()}
            sources.append({"archive": archive.path, "sha256": archive.sha256 or "", "names": names})
            brought |= archive.configs.keys()
        for ref in self.required:
            if ref in brought:
                continue
            found = self._laid_out(ref)
            # a complete image is not looked for anywhere else, unless this very content is asked for
            if ref in held and not (found and found[1].digest != held[ref].digest):
                continue
            if not found and self.cache and not self._at_hand(ref):
                content = self.cache.find(ref, self.platform)
                if content and (self.check or not self.cache.damage(content)):
                    found = self.cache, content
            if not found:
                return None
            self.images[ref].action = "cached" if found[0] is self.cache else "imported"
            sources.append({"layout": found[0].directory, "names": {ref: ref}})
        for ref in brought:
            self.images[ref].action = "imported"
        return sources

    def _filled(self, root: str, metadata: bytes | None) -> dict[str, t.Any] | None:
        """The result, where the importer can bring all: what it makes on this host goes into the container as one stream."""
        with tempfile.TemporaryDirectory(prefix="store-", dir=self.module.tmpdir) as directory:
            held = self._held(directory, metadata) if metadata is not None else {}
            sources = None if held is None else self._sources(held)
            if held is None or sources is None:
                return None
            before = Store(self.platform, {ref: held[ref] for ref in self.images if ref in held}, set())
            after = Store(self.platform, dict(before.images), set())
            self.planned = True
            if self.check and metadata is None:
                return self._result(before, None)
            come = {ref for source in sources for ref in source["names"].values()}
            wanted = {"platform": self.platform, "pin": self.pin, "held": [ref for ref in self.images if ref not in come], "sources": sources}
            try:
                told = self._imported(directory, json.dumps(wanted))
            except EngineError as e:
                if metadata is not None and not self.check and self.platform == self.engine.platform:
                    # it may want content that only the container has, and containerd there tells all else, too
                    for image in self.images.values():
                        image.action = "present"
                    return None
                for image in self.images.values():
                    self._fail(image, e)
                raise
            for ref, image in self.images.items():
                image.come = True
                after.images[ref] = Record(told[ref]["digest"], self.pin or ref in held and held[ref].pinned)
                image.content = Content(told[ref]["digest"], told[ref]["config"], {told[ref]["digest"]: told[ref]["size"]})
                if ref in held and held[ref].digest == told[ref]["digest"]:
                    image.action = "present"
            for archive in self.archives:
                for ref in archive.configs:
                    if self.images[ref].action != "present" and not archive.holds(ref, self.images[ref].content):
                        raise EngineError(f'The image "{ref}" is in several archives with different content: name one of them')
            if after.images != before.images and not self.check:
                self._put(directory, root)
        for ref, image in self.images.items():
            if image.action != "present" and not self.check:
                where = "the cache" if image.action == "cached" else next(s.get("archive") or s["layout"] for s in sources if ref in s["names"].values())
                image.done.append(f"Imported image {ref} from {where}")
        return self._result(before, None if self.check else after)

    def _held(self, directory: str, metadata: bytes) -> dict[str, Record] | None:
        """The images that the container has, by their names, whose content need not come to this host; None where the importer cannot tell."""
        importer: str = self.module.params["importer"]
        file = os.path.join(directory, METADATA)
        if len(metadata) == MAX_METADATA or not os.access(importer, os.X_OK):
            return None
        os.makedirs(os.path.dirname(file), 0o711)
        with open(file, "wb") as copy:
            copy.write(metadata)
        rc, out, dummy = self.module.run_command(["timeout", "-k", "5", str(self.timeout), importer, "list", directory], expand_user_and_vars=False)
        return {name: Record(**record) for name, record in json.loads(out).items()} if rc == 0 else None

    def _put(self, directory: str, root: str) -> None:
        """Directories that the container has keep their owner and mode."""
        files, folders = [], {}
        for parent, __, names in sorted(os.walk(directory)):
            inside = os.path.normpath(os.path.join(root, os.path.relpath(parent, directory)))
            if self.engine.stat(self.container, inside) is None:
                folders[inside] = os.stat(parent).st_mode & 0o777
            for name in sorted(names):
                stat = os.stat(os.path.join(parent, name))
                files.append(File(f"{inside}/{name}", stat.st_mode & 0o777, stat.st_size, "", int(stat.st_mtime), path=os.path.join(parent, name)))
        self.engine.put_archive(self.container, "/", tar_stream(files, folders))

    def _imported(self, directory: str, wanted: str) -> dict[str, dict[str, t.Any]]:
        importer: str = self.module.params["importer"]
        command = ["timeout", "-k", "5", str(self.timeout), importer, "import", directory]
        processes: list[t.Any] = []
        try:
            rc, out, err = self.module.run_command(
                command, data=wanted, binary_data=True, expand_user_and_vars=False, before_communicate_callback=processes.append
            )
        except Interrupted:
            # it would go on; timeout hands this on
            for process in processes:
                process.terminate()
                process.wait()
            raise
        if rc in (124, 137, -9):
            raise EngineError(f"Importing the images took longer than {self.timeout} s: raise transfer_timeout")
        if rc:
            why = err.strip().splitlines()[-1:] or [f"exit status {rc}"]
            reason = why[0].partition("nodeforge-store: ")[2] or f"by {importer} failed: {why[0]}"
            cause = registry.cause_of(reason)
            remedy = cause.remedy if "disk" in cause.text else "build or fetch it again"
            raise EngineError(f"Importing {reason}; {remedy}")
        return json.loads(out)

    def _plan(self, store: Store) -> list[c.Callable[[Containerd], None]]:
        """Decides on each image, and returns the jobs that bring those that are not there."""
        jobs: list[c.Callable[[Containerd], None]] = []
        brought = set()
        for archive in self.archives:
            brought |= archive.configs.keys()
            for ref in archive.configs:
                self.images[ref].content = content = store.find(ref)
                if not archive.holds(ref, content):
                    self.images[ref].action = "imported"
                    self.images[ref].content = None
            if any(self.images[ref].action != "present" for ref in archive.configs):
                jobs.append(self._bind(self._import, archive))
        for ref in self.required:
            if ref in brought:
                continue
            image = self.images[ref]
            image.content = store.find(ref)
            if image.content is None and self._laid_out(ref):
                image.action = "imported"
                jobs.append(self._bind(self._from_layout, image))
            elif image.content is None:
                image.local = bool(self.cache or self.offline) and self._at_hand(ref)
                image.action = "cached" if self.cache and not image.local and self.cache.find(ref, self.platform) else "pulled"
                jobs.append(self._bind(self._bring, image))
        self.planned = True
        lacking = [image for image in self.images.values() if image.action == "pulled" and not image.local] if self.offline else []
        for image in lacking:
            self._fail(image, self._offline([image.ref]))
        if lacking:
            # the others have neither come nor failed
            self.images = {ref: image for ref, image in self.images.items() if image.action in ("present", "failed")}
            raise self._offline([image.ref for image in lacking])
        return jobs

    def _offline(self, refs: list[str]) -> Failed:
        where = f'the cache "{self.module.params["cache_dir"]}"' if self.module.params["cache_dir"] else "a cache"
        verb = "is" if len(refs) == 1 else "are"
        return Failed(
            f"With offline, {', '.join(refs)} {verb} missing for {self.platform}, neither in {where} nor at a registry of this machine: "
            "run once with the network and the same cache_dir, or give archives"
        )

    def _urls(self, reference: Reference) -> list[str]:
        return self.mirrors.get(reference.registry) or [registry.upstream(reference.registry)]

    def _here(self, url: str) -> bool:
        """Whether it is this very machine, also for the container, where the pull runs."""
        return self.same_loopback and registry.is_local(url)

    def _at_hand(self, ref: str) -> bool:
        """Whether a registry of this very machine has the image."""
        reference = parse_reference(ref)
        urls = [] if self.hosts_files else [url for url in self._urls(reference) if self._here(url)]
        with contextlib.suppress(EngineError):  # a wrong password is told by the pull
            return any(registry.has(url, reference.path, reference.digest or reference.tag, self._header(url, reference.path)) for url in urls)
        return False

    def _header(self, url: str, path: str, authority: str | None = None) -> str | None:
        """The Authorization header for a repository; what is derived from secrets is secret, too."""
        credentials = self.logins.find(registry.host_of(url))
        if credentials:
            self.module.no_log_values.update(filter(None, (credentials.password, credentials.basic.split()[1])))
        try:
            header = registry.authorization(url, path, self.logins, authority)
        except EngineError as e:
            host = registry.registry_name(url)
            if host in self.logins.given:
                raise
            # docker login was for something else, perhaps long ago
            if host not in self._warned:
                self._warned.add(host)
                self.module.warn(f'{host} is asked without what docker login left in "{self.module.params["docker_config"]}". {e}')
            return None
        if header:
            self.module.no_log_values.add(header.split()[1])
        return header

    def reached(self) -> dict[str, t.Any]:
        """What is known on failure: nothing before the plan, and afterwards no image counts as come that has not."""
        for image in self.images.values():
            if image.action not in ("present", "failed") and not image.come:
                image.action, image.msg = "failed", "interrupted"
        return {"images": [image.result() for image in self.images.values()]} if self.planned else {}

    @staticmethod
    def _bind(job: c.Callable[..., None], item: t.Any) -> c.Callable[[Containerd], None]:
        return lambda containerd: job(containerd, item)

    def _transfer(self, containerd: Containerd, jobs: list[c.Callable[[Containerd], None]]) -> None:
        pool = concurrent.futures.ThreadPoolExecutor(max_workers=self.module.params["concurrency"])
        try:
            with deferred():
                futures = [pool.submit(job, containerd) for job in jobs]
            for future in futures:
                future.result()
        except BaseException:
            self._stopping.set()
            containerd.abort()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _import(self, containerd: Containerd, archive: Archive) -> None:
        doing = f"Importing {archive}"
        try:
            size, compressed, chunks = None, False, self.engine.export(archive.engine)
            if archive.path:
                if archive.sha256 and sha256_of(archive.path) != archive.sha256:
                    raise Failed(f"{doing} failed: its content is not that of its sha256 any more; build it again")
                size, chunks = os.path.getsize(archive.path), read_chunks(archive.path)
                compressed = _compressed(archive.path)
            result = containerd.load(
                self._until_stopped(chunks),
                size,
                self.platform,
                archive.names,
                # a name may be wanted by another entry
                drop=[name for name in archive.drop if name not in self.images],
                pin=self.pin,
                compressed=compressed,
                timeout=self.timeout,
            )
            if result.rc:
                remedy = "unpack it with gunzip, or use containerd 2 or newer" if compressed else "build it again"
                raise Failed(f"{doing} failed: {self._why(result.rc, result.stderr, remedy)}")
            for ref in archive.configs:
                self.images[ref].come = True
                self.images[ref].done.append(f"Imported image {ref} from {archive.path or 'the engine'}")
        except (Failed, EngineError, OSError) as e:
            for ref in archive.configs:
                self._fail(self.images[ref], e if not isinstance(e, OSError) else Failed(f"{doing} failed: {e.strerror}; build it again"))

    def _until_stopped(self, chunks: c.Iterable[bytes]) -> t.Iterator[bytes]:
        for chunk in chunks:
            if self._stopping.is_set():
                raise EngineError("interrupted")
            yield chunk

    def _why(self, rc: int, stderr: str, remedy: str) -> str:
        """For what has no host to blame."""
        error = registry.last_error(stderr)
        cause = registry.cause_of(error)
        if "disk" in cause.text:
            return f"{cause.text}; {cause.remedy}"
        if rc in (124, 137, 143) and not error:
            return f"it took longer than {self.timeout} s; raise transfer_timeout"
        return f"{error or f'ctr ended with status {rc}'}; {remedy}"

    def _bring(self, containerd: Containerd, image: Image) -> None:
        try:
            if not self._from_here(containerd, image) and not self._from_cache(containerd, image):
                image.action = "pulled"
                self._pull(containerd, image)
                image.done.append(f"Pulled image {image.ref}")
            image.come = True
        except (Failed, EngineError) as e:
            self._fail(image, e)

    def _from_here(self, containerd: Containerd, image: Image) -> bool:
        """From a registry of this machine that has it: no other one is asked, not even for a token. Where that fails, the usual ways are left."""
        if not image.local:
            return False
        reference = parse_reference(image.ref)
        urls = [url for url in self._urls(reference) if self._here(url)]
        image.attempts += 1
        result, dummy = self._fetch(containerd, image.ref, reference, urls)
        if result.rc:
            if self._stopping.is_set():
                raise EngineError("interrupted")
            image.local = False
            return False
        image.done.append(f"Pulled image {image.ref}")
        return True

    def _laid_out(self, ref: str) -> tuple[Cache, Content] | None:
        """The layout that has the image, and what of it."""
        for layout in self.layouts:
            content = layout.find(ref, self.platform)
            if content:
                return layout, content
        return None

    def _from_layout(self, containerd: Containerd, image: Image) -> None:
        layout, content = t.cast("tuple[Cache, Content]", self._laid_out(image.ref))
        doing = f'Importing the image "{image.ref}" from the layout "{layout.directory}"'
        try:
            chunks, size = layout.stream(image.ref, content)
            names: dict[str | None, str] = {image.ref: image.ref}
            result = containerd.load(self._until_stopped(chunks), size, self.platform, names, pin=self.pin, timeout=self.timeout)
            if result.rc:
                raise Failed(f"{doing} failed: {self._why(result.rc, result.stderr, 'make the layout anew')}")
            image.come = True
            image.done.append(f"Imported image {image.ref} from {layout.directory}")
        except OSError as e:
            self._fail(image, Failed(f"{doing} failed: {e.strerror}; make the layout anew"))
        except (Failed, EngineError, Missing) as e:
            self._fail(image, e)

    def _from_cache(self, containerd: Containerd, image: Image) -> bool:
        content = self.cache.find(image.ref, self.platform) if self.cache else None
        if self.cache is None or content is None:
            return False
        damaged = self.cache.damage(content)
        if damaged:
            image.done.append(f"Dropped the damaged blob {damaged} of image {image.ref} from the cache")
            return False
        gone: list[OSError] = []
        try:
            chunks, size = self.cache.stream(image.ref, content)
            chunks = self._until_stopped(_noting(chunks, gone))
            result = containerd.load(chunks, size, self.platform, {image.ref: image.ref}, pin=self.pin, timeout=self.timeout)
        except (EngineError, Missing) as e:
            # somebody deletes what is in it right now
            if gone or isinstance(e, Missing):
                return False
            raise
        if result.rc:
            raise Failed(
                f'Importing the image "{image.ref}" from the cache "{self.cache.directory}" failed: '
                + self._why(result.rc, result.stderr, "delete the cache and run again")
            )
        image.action = "cached"
        image.done.append(f"Imported image {image.ref} from the cache")
        return True

    def _pull(self, containerd: Containerd, image: Image) -> None:
        reference = parse_reference(image.ref)
        urls = [url for url in self._urls(reference) if self._here(url) or not self.offline]
        if not urls:
            raise self._offline([image.ref])
        retries: int = self.module.params["retries"]
        while True:
            image.attempts += 1
            result, cause = self._fetch(containerd, image.ref, reference, urls)
            if cause is None:
                return
            error = registry.last_error(result.stderr)
            if self._stopping.is_set() or not cause.retry or image.attempts > retries:
                tries = f" ({image.attempts} tries)" if image.attempts > 1 else ""
                raise Failed(f'Pulling "{image.ref}" for {self.platform} from {self._blamed(urls, error)} failed{tries}: {cause.text}; {cause.remedy}')
            self._stopping.wait(registry.backoff(image.attempts - 1, self.module.params["retry_delay"], cause.patience, wait=cause.wait))

    def _fetch(self, containerd: Containerd, ref: str, reference: Reference, urls: list[str]) -> tuple[ExecResult, registry.Cause | None]:
        """One try at these hosts, in their order, and why it failed. Another one may help where it may with any of them.

        containerd goes from host to host by itself. But a login is for its host only, so one that needs it is asked apart, after those before it.
        """
        groups: list[list[str]] = []
        for url in urls:
            if not groups or (not self.hosts_files and self.logins.may_know(registry.host_of(url))):
                groups.append([])
            groups[-1].append(url)
        retry = False
        for group in groups:
            hosts = self._hosts(reference, group)
            began = time.monotonic()
            result = containerd.fetch(ref, self.platform, hosts, proxies=self.proxies, pin=self.pin, timeout=self.timeout)
            if result.rc == 0:
                return result, None
            cause = registry.cause_of(registry.last_error(result.stderr))
            if result.rc in (124, 137, 143) and time.monotonic() - began >= self.timeout:
                remedy = "mend the network, use another mirror or raise transfer_timeout"
                cause = registry.Cause(f"it took longer than {self.timeout} s", True, remedy, dirty=True)
            if self._stopping.is_set():
                break
            retry = retry or cause.retry
            if cause.dirty:
                containerd.collect()
        return result, cause._replace(retry=retry)

    def _hosts(self, reference: Reference, urls: list[str]) -> bytes:
        files = dict(self.hosts_files)
        named = {reference.registry, reference.registry.replace(":", "_") + "_", "_default"}
        if not any(os.path.dirname(name) in named for name in files):
            headers: dict[str, str] = {}
            authorities: dict[str, str] = {}
            for url in urls:
                host = registry.registry_name(url)
                path, content = self.authorities.get(host, (None, b""))
                if path:
                    authorities[url] = f"ca-{len(authorities)}.pem"
                    files[f"{reference.registry}/{authorities[url]}"] = content
                header = self._header(url, reference.path, path)
                if header:
                    headers[url] = header
            files[f"{reference.registry}/hosts.toml"] = registry.hosts_toml(urls, headers, authorities).encode()
        return registry.hosts_archive(files)

    def _blamed(self, urls: list[str], error: str) -> str:
        hosts = [registry.host_of(url) for url in urls]
        blamed = registry.blamed_host(error)
        if self.hosts_files:
            return blamed or "the hosts of hosts_dir"
        return ", ".join(hosts) if blamed is None or blamed in hosts else f"{', '.join(hosts)} (by way of {blamed})"

    @staticmethod
    def _fail(image: Image, error: Exception) -> None:
        image.action, image.msg = "failed", str(error)

    def _verify(self, containerd: Containerd, before: Store) -> Store:
        """All images must be whole now; names that point to anything else are taken away."""
        after = containerd.store(self.images, self.platform)
        wrong = []
        for image in self.images.values():
            problem = ""
            try:
                image.content = after.content(image.ref)
            except WrongPlatform as e:
                problem = f'The image "{image.ref}" is for {", ".join(e.args) or "no platform"}, not for {self.platform}: choose another platform or image'
            except Missing as e:
                problem = f'The image "{image.ref}" is not complete, {e} is missing: run again'
            except NONSENSE:
                problem = f'The image "{image.ref}" has a manifest of an unknown kind: use an image in OCI or Docker format'
            if problem and image.ref in after.images and before.images.get(image.ref) != after.images[image.ref]:
                wrong.append(image.ref)
            if image.action == "failed":
                continue
            if problem:
                self._fail(image, Failed(problem))
            for archive in self.archives:
                if image.content and image.ref in archive.configs and not archive.holds(image.ref, image.content):
                    self._fail(image, Failed(f'The image "{image.ref}" is in several archives with different content: name one of them'))
        if wrong:
            containerd.remove(wrong)
            for ref in wrong:
                after.images.pop(ref)
        failed = [image for image in self.images.values() if image.action == "failed"]
        if failed:
            more = f" (and {len(failed) - 1} more, see images)" if len({image.msg for image in failed}) > 1 else ""
            raise EngineError(failed[0].msg + more)
        return after

    def _fill_cache(self, containerd: Containerd) -> None:
        """Keeps what was pulled. A cache that cannot be filled is worth a warning, not a failure: the images are there."""
        for image in self.images.values():
            if self.cache is None or image.action != "pulled" or image.local or image.content is None:
                continue
            try:
                missing = self.cache.missing(image.content)
                if missing:
                    with self.cache.receive(missing) as sink:
                        containerd.export(missing, sink)
                self.cache.add(image.ref, image.content)
            except (EngineError, OSError, Missing) as e:
                self.module.warn(f'The image "{image.ref}" is not kept in the cache "{self.cache.directory}": {e}')

    def _result(self, before: Store, after: Store | None) -> dict[str, t.Any]:
        come = [image for image in self.images.values() if image.action != "present"]
        loose = [ref for ref, record in before.images.items() if self.pin and not record.pinned and self.images[ref].action == "present"]
        if after is None:
            verbs = {"pulled": "Would pull image {0}", "imported": "Would import image {0}", "cached": "Would import image {0} from the cache"}
            for image in come:
                image.done = [verbs[image.action].format(image.ref)]
        for ref in loose:
            self.images[ref].done.append(f"{'Would pin' if after is None else 'Pinned'} image {ref}")
        result: dict[str, t.Any] = {
            "changed": bool(come or loose),
            "images": [image.result() for image in self.images.values()],
            "platform": self.platform,
            "actions": [action for image in self.images.values() for action in image.done],
        }
        if self.module._diff:
            result["diff"] = {"before": {"images": self._shown(before)}, "after": {"images": self._shown(after) if after else self._predicted(before)}}
        return result

    @staticmethod
    def _shown(store: Store) -> dict[str, dict[str, t.Any]]:
        return {ref: {"digest": record.digest, "pinned": record.pinned} for ref, record in sorted(store.images.items())}

    def _predicted(self, before: Store) -> dict[str, dict[str, t.Any]]:
        shown = self._shown(before)
        for image in self.images.values():
            if image.action != "present":
                shown[image.ref] = {"digest": "unknown", "pinned": self.pin}
            elif self.pin:
                shown[image.ref]["pinned"] = True
        return dict(sorted(shown.items()))


def _password(url: str) -> str:
    return url.partition("://")[2].rpartition("@")[0].partition(":")[2]


def _compressed(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _noting(chunks: c.Iterable[bytes], failures: list[OSError]) -> t.Iterator[bytes]:
    """The chunks; and why they could not be read, which is not the fault of whoever takes them."""
    try:
        yield from chunks
    except OSError as e:
        failures.append(e)
        raise


def _archive_entries(archives: t.Any) -> list[dict[str, t.Any]]:
    entries = list(archives.values()) if isinstance(archives, dict) and not {"path", "engine"} & archives.keys() else archives
    entries = entries if isinstance(entries, list) else [entries]
    result = []
    for entry in entries:
        entry = {"path": entry} if isinstance(entry, str) else entry
        if isinstance(entry, dict) and isinstance(entry.get("engine"), str) and "path" not in entry:
            result.append(entry)
            continue
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
            raise EngineError(f"archives holds {entry!r}: give paths, or dictionaries with path (or engine) and optionally ref and sha256")
        result.append({**entry, "path": check_type_path(entry["path"])})
    return result


def main() -> None:
    """Runs the module."""
    module = AnsibleModule(
        argument_spec={
            **DOCKER_ARGS,
            "container": {"type": "str", "required": True},
            "images": {"type": "list", "elements": "str", "default": []},
            "archives": {"type": "raw", "default": []},
            "layouts": {"type": "list", "elements": "path", "default": []},
            "importer": {"type": "path"},
            "platform": {"type": "str"},
            "mirrors": {"type": "dict", "default": {}},
            "ca_files": {"type": "dict", "default": {}},
            "hosts_dir": {"type": "path"},
            "credentials": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "registry": {"type": "str", "required": True},
                    "username": {"type": "str", "required": True},
                    "password": {"type": "str", "required": True, "no_log": True},
                },
            },
            "docker_config": {"type": "path", "default": "~/.docker", "fallback": (env_fallback, ["DOCKER_CONFIG"])},
            "offline": {"type": "bool", "default": False},
            "retries": {"type": "int", "default": 4},
            "retry_delay": {"type": "float", "default": 0.5},
            "transfer_timeout": {"type": "int", "default": 600},
            "concurrency": {"type": "int", "default": 4},
            "pin": {"type": "bool", "default": True},
            "cache_dir": {"type": "path"},
        },
        mutually_exclusive=[("mirrors", "hosts_dir"), ("ca_files", "hosts_dir")],
        supports_check_mode=True,
    )
    puller: ImagePuller | None = None
    problem = ""
    result: dict[str, t.Any] | None = None
    try:
        engine = Engine(module)
        with interruptible():
            try:
                puller = ImagePuller(module, engine)
                result = puller.run()
            except Interrupted as e:
                problem = f"Interrupted by {e}"
                discarded = engine.discard(module.params["container"], build_fingerprint)
                problem += discarded or ": the images that had come are there, the others are not; run again"
    except (EngineError, BadInput, Failed) as e:
        problem = str(e)
    if puller and not module.check_mode and _alive.abandoned():
        # the connection broke: its play does not come back for the build container
        with contextlib.suppress(EngineError):
            puller.engine.discard(module.params["container"], build_fingerprint)
    if result is not None:
        module.exit_json(**result)
    module.fail_json(msg=problem, **(puller.reached() if puller else {}))


if __name__ == "__main__":
    main()
