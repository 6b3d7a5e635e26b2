#!/usr/bin/python
# Copyright (c) 2026, nodeforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kind_node_prepare
short_description: Start and fill the build container of a kind node image
version_added: 1.0.0
author: nodeforge contributors (@nodeforge)
description:
  - Starts a build container from a node base image and puts into it what makes a Kubernetes node, in one streamed archive - binaries,
    C(/kind/version), the manifests that kind applies, and any other file.
  - Lists the images that the node must hold before it boots (RV(required_images)) and those that were built (RV(built_images)), for
    M(nodeforge.kind.ctr_image_pull).
  - Computes one fingerprint over everything that decides the node image. Where O(node_image) already carries it, nothing is started.
  - The build container is not privileged, runs C(sleep) and nothing else, holds C(/run) and C(/tmp) in memory so that nothing in them reaches
    an image, and removes itself after O(ttl) seconds whatever happens to the play, or with O(owner).
  - Only containers that this module made are ever adopted, replaced or removed. Where it starts one, it also removes those that an earlier,
    killed run created but did not start.
extends_documentation_fragment:
  - nodeforge.kind._attributes
  - nodeforge.kind._attributes.actiongroup_kind
  - nodeforge.kind._docker
attributes:
  check_mode:
    support: full
    details:
      - To look into the base image, a container is created from it, never started, and removed at once.
      - Where the base image would first be pulled, and for a foreign O(platform) whose kubeadm does not run on this host, RV(required_images)
        cannot be known and is V(null).
  diff_mode:
    support: full
    details:
      - Files are shown by their SHA-256.
  idempotent:
    support: full
    details:
      - Where O(node_image) is up to date, nothing is started.
      - Otherwise, with O(name), a second run adopts the container of the first, compares its files by content and writes only those that differ.
      - Without O(name) each run starts a container of its own, so that two plays at the same time never share one.
options:
  state:
    description:
      - V(present) starts and fills the build container, unless O(node_image) is up to date.
      - V(absent) removes it, running or not.
    type: str
    choices: [present, absent]
    default: present
  name:
    description:
      - The name of the build container; needed with O(state=absent), where its id will do as well.
      - With O(state=absent), a name that ends in V(*) removes all build containers of this module whose names begin so; V(nodeforge-build-*)
        means all that got their names from this module.
      - By default a new name is made for each run. Removing the container is left to you, in the C(always) section of a block; O(ttl) is only the net
        below.
    type: str
  image:
    description:
      - The reference of the node base image, such as V(docker.io/kindest/base:v20260820-69b56db7), or of an existing node image.
      - It must hold containerd, C(/usr/local/bin/entrypoint) and C(/etc/containerd/config.toml), which names the sandbox image.
      - Required with O(state=present).
    type: str
  pull:
    description:
      - V(missing) pulls O(image) for O(platform) where the engine does not hold it.
      - V(always) asks its registry for a newer one each time.
      - V(never) fails where the engine does not hold it.
    type: str
    choices: [missing, always, never]
    default: missing
  platform:
    description:
      - The platform of the node. By default the engine's own.
      - For another one nothing of it is run with O(start=false) and O(kubeadm); else the engine's host must be able to run its programs (qemu-user-static).
    type: str
    choices: [linux/amd64, linux/arm64]
  version:
    description:
      - The version of Kubernetes as git tells it, such as V(v1.37.2) or V(v1.38.0-alpha.1.20+0123456789abcd-dirty).
      - Written to C(/kind/version), which kind hands to kubeadm, whose images of the control plane have it as their tag.
      - By default that of O(archives), where all images of the control plane are among them, and else the one of the base, if that is a
        node image. So it stays when only a binary, or one image of the control plane, is replaced.
      - Required with O(state=present) where neither tells it.
    type: str
  binaries:
    description:
      - The binaries for C(/usr/bin). A dictionary from name to either a path on this host or a dictionary with C(path) and optionally C(sha256), as
        M(nodeforge.kind.kube_make) returns in RV(nodeforge.kind.kube_make#module:outputs.binaries).
      - A node needs C(kubeadm), C(kubectl) and C(kubelet). All that are given are written; a base that is a node image has the others.
      - The fingerprint counts content. Where C(sha256) is given it is that of the content, and the module fails when it copies a file that has another one.
    type: dict
    default: {}
  archives:
    description:
      - The image archives that were built. A dictionary from name to either a path on this host or a dictionary with C(path) and optionally
        C(sha256) and C(ref), as M(nodeforge.kind.kube_make) returns in RV(nodeforge.kind.kube_make#module:outputs.images).
      - They are not imported here; M(nodeforge.kind.ctr_image_pull) does that. They decide RV(built_images) and the fingerprint.
      - Where the version is the base's (see O(version)), images of the control plane get it as their tag, because that is what kubeadm asks for.
        RV(archives) says so.
    type: dict
    default: {}
  cni_manifest:
    description: A file on this host that becomes C(/kind/manifests/default-cni.yaml). Its images are required ones. By default the base's.
    type: path
  storage_manifest:
    description: A file on this host that becomes C(/kind/manifests/default-storage.yaml). Its images are required ones. By default the base's.
    type: path
  files:
    description: Other files for the node, owned by root.
    type: list
    elements: dict
    default: []
    suboptions:
      src:
        description: A file on this host. Exactly one of O(files[].src) and O(files[].content) is needed.
        type: path
      content:
        description: The content itself.
        type: str
      dest:
        description: The absolute path in the node. Missing directories are made with mode V(0755).
        type: str
        required: true
      mode:
        description: The permissions, octal.
        type: raw
        default: "0644"
  extra_images:
    description:
      - Other images that the node must hold. Each is a reference, or a dictionary.
      - With C(archive), the path on this host of an image archive, and optionally C(ref) (its name in the node) and C(sha256) (verified).
      - Or with C(engine), an image that the engine holds, named by its tag, and optionally C(ref).
      - The fingerprint counts the content of archives and of images of the engine. A reference counts as it is written; with a digest, that is its content.
    type: list
    elements: raw
    default: []
  containerd_config:
    description:
      - Parts of containerd's configuration for the node. Each is an absolute path on this host, or the TOML text itself.
      - They become drop-ins in C(/etc/containerd/conf.d), and the base's C(/etc/containerd/config.toml) is made to import them. A later one overrides earlier
        ones and the base's own, its drop-ins included. Patches of a kind cluster configuration change the base's own part only.
      - The base's own containerd must understand them, or the module fails. It reads them in the build container, so check mode does not find that out.
      - A C(version) in them has to be that of the base's configuration. containerd before version 2 replaces a plugin's section as a whole.
    type: list
    version_added: 1.1.0
    elements: str
    default: []
  replaced_images:
    description:
      - Images that kubeadm asks for, each with the one that the node holds instead.
      - The cluster's kubeadm configuration has to name those.
      - They are told by the node image's label C(io.nodeforge.replaced-images). Empty takes those that the base tells so.
    type: dict
    default: {}
  node_image:
    description:
      - The reference of the node image that is to come.
      - Where the engine holds it and its label C(io.nodeforge.fingerprint) equals the fingerprint, RV(up_to_date) is V(true) and nothing is started.
    type: str
  incremental:
    description:
      - Where O(node_image) exists and differs from what is wanted only in O(binaries) and O(archives), bring no more than those that differ, as one
        more layer. An edit of a component then costs what that component weighs.
      - Such a layer always stands on the image that was made whole before, not on the last edit, so they never pile up. What it replaces stays
        in the layers below and counts for the image's size. Where more than half of the bytes differ, the image is made whole again.
      - V(false) makes an image whole that was made so, which is right for one that is handed to others.
      - With O(name) it has no effect.
    type: bool
    version_added: 1.1.0
    default: false
  inputs:
    description:
      - Whatever else decides the node image, for the fingerprint; for example the digests of add-ons.
    type: dict
    default: {}
  offline:
    description:
      - Do not pull the base image. Where the engine does not hold it, the module fails, and names with it all required images that are not at
        hand either, which are those in none of O(archives), O(extra_images), O(inputs) and O(cache_dir).
    type: bool
    version_added: 1.1.0
    default: false
  cache_dir:
    description: The O(nodeforge.kind.ctr_image_pull#module:cache_dir) from which the images will come, to be looked into with O(offline).
    type: path
    version_added: 1.1.0
  revision:
    description:
      - The commit of the sources, for the label C(org.opencontainers.image.revision). By default the commit that O(version) names, if any.
    type: str
  source:
    description: Where the sources come from, for the label C(org.opencontainers.image.source).
    type: str
  network_mode:
    description:
      - The network of the build container. V(host) lets it reach a registry on this host's loopback address.
    type: str
    default: default
  kubeadm:
    description:
      - A kubeadm that runs on this host, to be asked what images a node of this version needs. By default the one in O(binaries), which can be asked here
        where it is for this host's platform, and else in the build container, if that can run.
    type: path
    version_added: 1.1.0
  start:
    description:
      - Whether the build container has to run. V(false) is enough for M(nodeforge.kind.ctr_image_pull) with an importer and for
        M(nodeforge.kind.docker_commit), quicker, and works for platforms whose programs cannot run on this host.
      - It is started nevertheless where something has to run in it, which is containerd with O(containerd_config), and a kubeadm that this host cannot run
        (see O(kubeadm)).
      - One that was not started is filled only once, so a container that has the name already is replaced. It cannot end by itself, so after O(ttl)
        seconds the next run of this module removes it.
    type: bool
    version_added: 1.1.0
    default: true
  ttl:
    description: After how many seconds an abandoned build container ends and removes itself.
    type: int
    default: 7200
  owner:
    description:
      - The id of a process on this host, such as ansible-playbook's own, that the build container must not outlive. It is removed as soon as that
        process has ended, however it ended. A container that is adopted has several owners, and ends with the first.
    type: int
    version_added: 1.1.0
notes:
  - No proxy settings of the engine's client are passed to the container, as every container's environment becomes part of an image made from it.
seealso:
  - module: nodeforge.kind.kube_make
  - module: nodeforge.kind.ctr_image_pull
  - module: nodeforge.kind.docker_commit
"""

EXAMPLES = r"""
- name: Build a node image from what kube_make made
  block:
    - name: Prepare the build container
      nodeforge.kind.kind_node_prepare:
        image: docker.io/kindest/base:v20260820-69b56db7
        platform: linux/amd64
        version: "{{ kubernetes.version }}"
        binaries: "{{ kubernetes.outputs.binaries }}"
        archives: "{{ kubernetes.outputs.images }}"
        cni_manifest: /srv/manifests/cni.yaml
        storage_manifest: /srv/manifests/storage.yaml
        node_image: kindest/node:main
      register: node

    - name: Put the images in
      nodeforge.kind.ctr_image_pull:
        container: "{{ node.container.id }}"
        images: "{{ node.required_images }}"
        archives: "{{ kubernetes.outputs.images }}"
      when: not node.up_to_date

    - name: Make the node image
      nodeforge.kind.docker_commit:
        container: "{{ node.container.id }}"
        name: kindest/node:main
        changes: "{{ node.changes }}"
        labels: "{{ node.labels }}"
        fingerprint: "{{ node.fingerprint }}"
      when: not node.up_to_date
  always:
    - name: Remove the build container
      nodeforge.kind.kind_node_prepare:
        name: "{{ node.container.id }}"
        state: absent
      when: node.container | default(none) is not none

- name: Swap one kubelet into an existing node image, which keeps all else
  nodeforge.kind.kind_node_prepare:
    name: kubelet-with-my-change
    image: kindest/node:v1.37.2
    pull: never
    binaries:
      kubelet: /home/me/kubernetes/_output/local/bin/linux/amd64/kubelet
    files:
      - dest: /etc/motd
        content: "This node runs my kubelet.\n"

- name: Remove what killed plays left behind
  nodeforge.kind.kind_node_prepare:
    name: nodeforge-build-*
    state: absent
"""

RETURN = r"""
container:
  description: The build container, or V(null) where none runs, because the node image is up to date, in check mode, or with O(state=absent).
  returned: success
  type: dict
  contains:
    id:
      description: Its id.
      type: str
      sample: 0f6f1b5d0c8a7a9b6f0d2c3e4a5b6c7d8e9f0a1b2c3d4e5f60718293a4b5c6d7
    name:
      description: Its name.
      type: str
      sample: nodeforge-build-3c1f0a9d8b7e-5f2a91
required_images:
  description:
    - All images that must lie in the node before it boots, in full, without architecture suffix.
    - What kubeadm asks for, with the base's sandbox image instead of kubeadm's pause; the images of the manifests; O(extra_images); and those
      that the base says it holds (label C(io.nodeforge.images)), except for other tags of what kubeadm asks for.
    - Where the node image is up to date, the list that its label C(io.nodeforge.images) tells.
  returned: O(state=present)
  type: list
  elements: str
  sample: ["registry.k8s.io/kube-apiserver:v1.37.2", "registry.k8s.io/etcd:3.7.0-0", "registry.k8s.io/pause:3.10"]
built_images:
  description: The images in RV(archives), in full, without architecture suffix.
  returned: O(state=present)
  type: list
  elements: str
  sample: ["registry.k8s.io/kube-apiserver:v1.37.2"]
extra_archives:
  description:
    - The entries of O(extra_images) that no registry brings, each with the content that the fingerprint counts, to hand to
      O(nodeforge.kind.ctr_image_pull#module:archives) besides the built ones.
  returned: O(state=present)
  type: list
  elements: dict
  sample:
    - {path: /srv/app.tar, sha256: 9b0c1d2e3f405162738495a6b7c8d9eaf0b1c2d3e4f5061728394a5b6c7d8e9f}
    - {engine: "docker.io/team/app:dev", id: "sha256:5f0e1f6f5e4d3c2b1a09f8e7d6c5b4a392817060f5e4d3c2b1a09f8e7d6c5b4a"}
archives:
  description:
    - As O(archives), each with C(path) and, where the archive holds one image, C(ref), the name that it has to get.
    - To hand to M(nodeforge.kind.ctr_image_pull). With O(incremental) only those that differ.
  returned: O(state=present)
  type: dict
  sample:
    kube-apiserver: {path: /src/kubernetes/_output/release-images/amd64/kube-apiserver.tar, ref: "registry.k8s.io/kube-apiserver:v1.37.2"}
complete:
  description:
    - Whether the build container has all RV(required_images) already, as it was made from a node image of this module and no archive is to be
      imported, so that M(nodeforge.kind.ctr_image_pull) has nothing to do.
  returned: O(state=present)
  type: bool
  sample: false
version:
  description: What C(/kind/version) says in the node. V(null) where only the base tells and that is not here yet (see check mode).
  returned: O(state=present)
  type: str
  sample: v1.37.2
fingerprint:
  description: The SHA-256 over everything that decides the node image. V(null) where the base image is not known yet (see check mode).
  returned: O(state=present)
  type: str
  sample: 3c1f0a9d8b7e6f5a4b3c2d1e0f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f1a
up_to_date:
  description: Whether O(node_image) exists and was made from exactly these inputs.
  returned: O(state=present)
  type: bool
  sample: false
image:
  description: The node image, as M(nodeforge.kind.docker_commit) returns it. V(null) unless it is up to date.
  returned: O(state=present)
  type: dict
  sample: {id: "sha256:9b0c1d2e3f405162738495a6b7c8d9eaf0b1c2d3e4f5061728394a5b6c7d8e9f", size: 581000000}
labels:
  description: What the node image should tell about itself, to hand to M(nodeforge.kind.docker_commit). Empty where RV(fingerprint) is V(null).
  returned: O(state=present)
  type: dict
  sample:
    org.opencontainers.image.version: v1.37.2
    org.opencontainers.image.created: "2026-11-24T08:00:00Z"
    io.nodeforge.kubernetes-version: v1.37.2
    io.nodeforge.platform: linux/amd64
    io.nodeforge.base: docker.io/kindest/base:v20260820-69b56db7
    io.nodeforge.base-digest: sha256:5f0e1f6f5e4d3c2b1a09f8e7d6c5b4a392817060f5e4d3c2b1a09f8e7d6c5b4a
    io.nodeforge.images: registry.k8s.io/kube-apiserver:v1.37.2,registry.k8s.io/etcd:3.7.0-0
    io.nodeforge.parts: '{"archives":{},"binaries":{"kubelet":"9b0c1d2e3f40516273..."},"rest":"5f0e1f6f5e4d3c2b1a09..."}'
    io.nodeforge.fingerprint: 3c1f0a9d8b7e6f5a4b3c2d1e0f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f1a
changes:
  description: Dockerfile instructions that give the image the base's start-up command back, to hand to M(nodeforge.kind.docker_commit).
  returned: O(state=present)
  type: list
  elements: str
  sample: ['ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]', 'CMD []']
actions:
  description: What was done, or would be in check mode, one sentence each.
  returned: success
  type: list
  elements: str
  sample: ["Started the build container \"nodeforge-build-3c1f0a9d8b7e-5f2a91\" from \"docker.io/kindest/base:v20260820-69b56db7\" with 6 files"]
diff:
  description: The build container and its files by SHA-256, before and after. Files that stay as they are do not appear.
  returned: in diff mode
  type: dict
  sample:
    before: {container: null, files: {}}
    after:
      container: {name: nodeforge-build-3c1f0a9d8b7e-5f2a91, image: "docker.io/kindest/base:v20260820-69b56db7", platform: linux/amd64}
      files: {/usr/bin/kubelet: 9b0c1d2e3f405162738495a6b7c8d9eaf0b1c2d3e4f5061728394a5b6c7d8e9f}
"""

import collections.abc as c
import contextlib
import datetime
import json
import os
import platform
import re
import secrets
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.validation import check_type_path
from ansible.module_utils.service import fork_process
from ansible_collections.nodeforge.kind.plugins.module_utils import _alive
from ansible_collections.nodeforge.kind.plugins.module_utils import _node_image as node
from ansible_collections.nodeforge.kind.plugins.module_utils._background import began, owner_began
from ansible_collections.nodeforge.kind.plugins.module_utils._docker import (
    DOCKER_ARGS,
    Engine,
    EngineError,
)
from ansible_collections.nodeforge.kind.plugins.module_utils._image_archive import Cache
from ansible_collections.nodeforge.kind.plugins.module_utils._signals import Interrupted, deferred, interruptible

# What makes an image a node base: one path of each must be there.
NODE_BASE = {
    "containerd": ("/usr/bin/containerd", "/usr/local/bin/containerd"),
    node.ENTRYPOINT[0]: (node.ENTRYPOINT[0],),
    node.CONTAINERD_CONFIG: (node.CONTAINERD_CONFIG,),
}
# Listing images is instantaneous, and under emulation a matter of seconds.
KUBEADM_TIMEOUT = 120
# Bits of Go's file mode.
GO_MODE_DIRECTORY = 31
GO_MODE_SYMLINK = 27
# How often a container's owner is looked for, in seconds.
GUARD_INTERVAL = 0.5


class Inputs:
    """Everything that the options name, read and checked before anything is done."""

    def __init__(self, params: dict[str, t.Any], engine_platform: str, check: bool) -> None:
        self.check = check
        if not params["image"]:
            raise node.BadInput("The option image is missing: state=present needs it")
        self.image = node.parse_reference(params["image"], "base image")
        self.platform: str = params["platform"] or engine_platform
        if self.platform not in node.PLATFORMS:
            raise node.BadInput(f"The engine's platform {self.platform} is not supported: set platform to one of {', '.join(node.PLATFORMS)}")
        self.arch = self.platform.partition("/")[2]
        self.node_image = str(node.parse_reference(params["node_image"], "node image")) if params["node_image"] else None
        if self.node_image and "@" in self.node_image:
            raise node.BadInput(f'The node image "{params["node_image"]}" names a digest, which only exists afterwards: write NAME:TAG')
        if self.node_image == str(self.image):
            raise node.BadInput(f'The node image "{params["node_image"]}" is its own base, on which each run would put one more layer: give it another tag')
        if params["ttl"] < 1:
            raise node.BadInput(f"The ttl {params['ttl']} is too short: give it in seconds, such as 7200")
        owner_began(params["owner"])
        self.replaced_images = {
            str(node.parse_reference(asked, "image in replaced_images")): str(node.parse_reference(given, "image in replaced_images"))
            for asked, given in params["replaced_images"].items()
        }
        self.extra_archives: list[dict[str, str]] = []
        self.extra_images = [name for entry in params["extra_images"] for name in self._extra_image(entry)]
        self.binaries = {name: self._binary(name, value) for name, value in sorted(params["binaries"].items())}
        self.archives, self.references = self._archives(params["archives"])
        self.paths = {name: self._source("archive", name, value)["path"] for name, value in params["archives"].items()}
        # None leaves it to the base
        self.version = node.check_version(params["version"]) if params["version"] else node.control_plane_version(self.built_images(None))
        self.files = list(self.binaries.values())
        if self.version:
            self.files.append(node.file_from_content(self.version.encode(), node.VERSION_FILE, 0o644))
        self.manifest_images: list[str] = []
        self.templates: list[str] = []
        self.base_manifests: list[str] = []
        for option, dest in (("cni_manifest", node.CNI_MANIFEST), ("storage_manifest", node.STORAGE_MANIFEST)):
            if params[option]:
                self._manifest(params[option], dest, option)
            else:
                self.base_manifests.append(dest)
        self.drop_ins: list[node.File] = []
        self.containerd_config = [self._drop_in(number, entry) for number, entry in enumerate(params["containerd_config"])]
        for number, entry in enumerate(params["files"]):
            self.files.append(self._file(number, entry))
        destinations = [file.dest for file in self.files]
        for dest in destinations:
            if destinations.count(dest) > 1:
                raise node.BadInput(f'The destination "{dest}" is named twice: keep one of both')

    @staticmethod
    def _source(kind: str, name: str, value: t.Any) -> dict[str, t.Any]:
        if isinstance(value, str) and value:
            value = {"path": value}
        if not isinstance(value, dict) or not isinstance(value.get("path"), str):
            raise node.BadInput(f'The {kind} "{name}" has no path: give a path, or a dictionary with path as kube_make returns it')
        return {**value, "path": check_type_path(value["path"])}

    def _binary(self, name: str, value: t.Any) -> node.File:
        if os.path.basename(name) != name or name in ("", ".", ".."):
            raise node.BadInput(f'The binary name "{name}" is not a plain file name: write it like kubelet')
        source = self._source("binary", name, value)
        # check mode copies nothing, so it reads them
        told = None if self.check else source.get("sha256")
        file = node.file_from_path(source["path"], f"{node.BINARY_DIRECTORY}/{name}", 0o755, "binary", told)
        if source.get("sha256") not in (None, file.sha256):
            raise node.BadInput(f'The binary "{source["path"]}" has changed since it was built (its sha256 differs): run kube_make again')
        arch = node.binary_arch(source["path"])
        if arch not in (None, self.arch):
            raise node.BadInput(f'The binary "{source["path"]}" is for {arch}, the node for {self.platform}: build it for {self.platform}')
        return file

    def _archives(self, archives: dict[str, t.Any]) -> tuple[dict[str, str], dict[str, list[node.Reference]]]:
        """Of each archive its hash, and the images that it holds, without architecture suffix."""
        hashes: dict[str, str] = {}
        references: dict[str, list[node.Reference]] = {}
        for name, value in sorted(archives.items()):
            source = self._source("archive", name, value)
            path, sha256 = source["path"], source.get("sha256")
            if not os.path.isfile(path):
                raise node.BadInput(f'The image archive "{path}" is missing: build it or correct its path')
            hashes[name] = sha256 or node.file_from_path(path, "", 0, "image archive").sha256
            found = [source["ref"]] if source.get("ref") else node.archive_references(path)
            references[name] = [node.without_arch(node.parse_reference(reference, f"image in {path}"), self.arch) for reference in found]
        return hashes, references

    def built_images(self, inherited: str | None) -> list[str]:
        """The images in the archives; those of the control plane have an inherited version as their tag."""
        found = [reference for references in self.references.values() for reference in references]
        return list(dict.fromkeys(str(node.with_version(reference, inherited)) for reference in found))

    def named_archives(self, inherited: str | None) -> dict[str, dict[str, str]]:
        """The archives, as ctr_image_pull takes them."""
        return {
            name: {
                "path": self.paths[name],
                "sha256": self.archives[name],
                **({"ref": str(node.with_version(references[0], inherited))} if len(references) == 1 else {}),
            }
            for name, references in self.references.items()
        }

    def _extra_image(self, entry: t.Any) -> list[str]:
        """The names of an extra image in the node; those that no registry brings are noted."""
        what = "image in extra_images"
        if isinstance(entry, str):
            return [str(node.parse_reference(entry, what))]
        kinds = [kind for kind in ("archive", "engine") if isinstance(entry, dict) and isinstance(entry.get(kind), str)]
        if len(kinds) != 1 or entry.keys() - {"archive", "engine", "ref", "sha256"} or ("engine" in entry and "sha256" in entry):
            raise node.BadInput(
                f"extra_images holds {entry!r}: give a reference, or a dictionary with archive and optionally ref and sha256, or with engine and optionally ref"
            )
        ref = str(node.parse_reference(entry["ref"], what)) if entry.get("ref") else ""
        named = {"ref": ref} if ref else {}
        if "engine" in entry:
            reference = str(node.parse_reference(entry["engine"], what))
            self.extra_archives.append({"engine": reference, **named})
            return [ref or reference]
        path = check_type_path(entry["archive"])
        sha256 = node.file_from_path(path, "", 0, "image archive").sha256
        if entry.get("sha256") not in (None, sha256):
            raise node.BadInput(f'The image archive "{path}" is not the one that is wanted (its sha256 is {sha256}): correct sha256, or get it anew')
        self.extra_archives.append({"path": path, "sha256": sha256, **named})
        return [ref] if ref else [str(node.parse_reference(name, what)) for name in node.archive_references(path)]

    def _drop_in(self, number: int, entry: str) -> tuple[str, str]:
        """A part of containerd's configuration: what to call it in errors, and its text."""
        what, dest = f"entry {number} of containerd_config", f"{node.DROP_INS}/nodeforge-{number:02}.toml"
        text = entry
        if entry.startswith(("/", "~")):
            path = check_type_path(entry)
            what = f'"{path}" of containerd_config'
            node.file_from_path(path, dest, 0o644, "containerd_config")
            try:
                with open(path, encoding="utf-8") as file:
                    text = file.read()
            except UnicodeDecodeError as e:
                raise node.BadInput(f"The {what} is not text: name a TOML file") from e
        self.drop_ins.append(node.file_from_content(text.encode(), dest, 0o644))
        self.files.append(self.drop_ins[-1])
        return what, text

    def name_drop_ins(self, there: dict[str, bytes]) -> None:
        """Gives the parts of containerd's configuration names that leave those of the base alone. The base is known: the fingerprint tells it."""
        names = node.drop_in_names(there, [file.content for file in self.drop_ins])
        renamed = {file.dest: file._replace(dest=f"{node.DROP_INS}/{name}") for file, name in zip(self.drop_ins, names)}
        self.files = [renamed.get(file.dest, file) for file in self.files]
        self.drop_ins = list(renamed.values())

    def _manifest(self, path: str, dest: str, option: str) -> None:
        self.files.append(node.file_from_path(path, dest, 0o644, option))
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except UnicodeDecodeError as e:
            raise node.BadInput(f'The {option} "{path}" is not text: name a YAML manifest') from e
        self.add_manifest(text, path)

    def add_manifest(self, text: str, where: str) -> None:
        images, templates = node.manifest_images(text, where)
        self.manifest_images += images
        self.templates += [f"{template} in {where}" for template in templates]

    @staticmethod
    def _file(number: int, entry: dict[str, t.Any]) -> node.File:
        dest, mode = node.check_destination(entry["dest"]), node.parse_mode(entry["mode"])
        if (entry["src"] is None) == (entry["content"] is None):
            raise node.BadInput(f'The entry {number} of files ("{dest}") needs exactly one of src and content')
        if entry["content"] is not None:
            return node.file_from_content(entry["content"].encode(), dest, mode)
        return node.file_from_path(entry["src"], dest, mode)

    def fingerprint(self, base_id: str, others: dict[str, t.Any]) -> str:
        return node.fingerprint(
            {
                **self._rest(base_id, others, self.files),
                "archives": sorted(self.archives.values()),
                "built_images": sorted(self.built_images(None)),
            }
        )

    def parts(self, base_id: str, others: dict[str, t.Any]) -> node.Parts:
        return node.Parts(
            node.fingerprint(self._rest(base_id, others, self.files[len(self.binaries) :])),
            {name: file.sha256 for name, file in self.binaries.items()},
            {name: " ".join([sha256, *map(str, self.references[name])]) for name, sha256 in self.archives.items()},
        )

    def _rest(self, base_id: str, others: dict[str, t.Any], files: list[node.File]) -> dict[str, t.Any]:
        return {
            "base": base_id,
            "platform": self.platform,
            "version": self.version,
            "files": {file.dest: [file.mode, file.sha256] for file in files},
            "extra_images": sorted(self.extra_images),
            "extra_archives": sorted([entry.get("sha256") or entry["id"], entry.get("ref", "")] for entry in self.extra_archives),
            # an image of an earlier release does not tell them
            "replaced_images": {"told": self.replaced_images} if self.replaced_images else {},
            "others": others,
        }

    def weight(self, binaries: c.Collection[str], archives: c.Collection[str]) -> int:
        """Bytes of these."""
        return sum(self.binaries[name].size for name in binaries) + sum(os.path.getsize(self.paths[name]) for name in archives)

    def keep_only(self, binaries: c.Collection[str], archives: c.Collection[str]) -> None:
        """Leaves what a node image has already."""
        self.files = [file for name, file in self.binaries.items() if name in binaries]
        self.references = {name: references for name, references in self.references.items() if name in archives}
        self.extra_archives, self.containerd_config = [], []


class NodePreparer:
    """Prepares, adopts or removes a build container."""

    def __init__(self, module: AnsibleModule, engine: Engine) -> None:
        self.module = module
        self.params = module.params
        self.check: bool = module.check_mode
        self.engine = engine
        self.actions: list[str] = []
        self.before: dict[str, t.Any] = {}
        self.after: dict[str, t.Any] = {}
        # the container that this run created, until it is handed over
        self.created: str | None = None
        # the one that containerd has to name in the end
        self.sandbox: str | None = None
        # whether the build container runs
        self.runs = True
        # the node image that gets one more layer
        self.whole: dict[str, t.Any] | None = None

    def run(self) -> dict[str, t.Any]:
        result = self.absent() if self.params["state"] == "absent" else self.present()
        result.update(changed=bool(self.actions), actions=self.actions)
        if self.module._diff:
            result["diff"] = {"before": self.before, "after": self.after}
        return result

    # state=absent

    def absent(self) -> dict[str, t.Any]:
        name: str = self.params["name"] or ""
        if not name.strip("*"):
            raise node.BadInput("The option name is missing: state=absent needs the name or id of a build container, or nodeforge-build-*")
        if name.endswith("*"):
            containers = [c for c in self._build_containers() if c["Name"].lstrip("/").startswith(name[:-1])]
        else:
            container = self.engine.container(name)
            containers = [container] if container else []
        self.before, self.after = {"containers": []}, {"containers": []}
        for container in containers:
            if node.build_fingerprint(container) is None:
                raise node.BadInput(f'The container "{name}" was not made by this module, so it stays: remove it with docker rm if it is yours')
            own_name = container["Name"].lstrip("/")
            if self.check or self.engine.remove(container["Id"]):
                self.before["containers"].append(own_name)
                self.actions.append(f'Removed the build container "{own_name}"')
        return {"container": None}

    def _build_containers(self, *states: str) -> list[dict[str, t.Any]]:
        filters = {"label": node.BUILD_LABEL, **({"status": list(states)} if states else {})}
        with self.engine.explained("Listing the build containers"):
            ids = [c["Id"] for c in self.engine.api.containers(all=True, filters=filters)]
        containers = [self.engine.container(i) for i in ids]
        return [c for c in containers if c is not None and node.build_fingerprint(c)]

    # state=present

    def present(self) -> dict[str, t.Any]:
        inputs = self.inputs = Inputs(self.params, self.engine.platform, self.check)
        for entry in inputs.extra_archives:
            if "engine" in entry:
                entry["id"] = self._engine_image(entry["engine"])
        for template in inputs.templates:
            self.module.warn(f"The image {template} is a template: if the node needs it, name it in extra_images")
        base = self._base()
        result: dict[str, t.Any] = {
            "container": None,
            "required_images": None,
            **self._versioned(None),
            "extra_archives": inputs.extra_archives,
            "complete": False,
            "fingerprint": None,
            "up_to_date": False,
            "image": None,
            "labels": {},
            "changes": [],
        }
        if base is None:
            self._starts(self.params["name"] or "nodeforge-build-*")
            return result
        # a variant has the base's own, of which kubeadm knows nothing either
        inputs.replaced_images = inputs.replaced_images or node.told_replaced(_labels(base))
        entrypoint = (base["Config"] or {}).get("Entrypoint") or list(node.ENTRYPOINT)
        result["changes"] = [f"ENTRYPOINT {json.dumps(entrypoint)}", "CMD []"]
        others = {option: self.params[option] for option in ("inputs", "revision", "source")}
        fingerprint = result["fingerprint"] = inputs.fingerprint(base["Id"], others)
        self.parts = inputs.parts(base["Id"], others)

        made = self.engine.image(inputs.node_image) if inputs.node_image else None
        told = _labels(made)
        if made and told.get(node.FINGERPRINT_LABEL) == fingerprint and (self.params["incremental"] or not told.get(node.WHOLE_LABEL)):
            result.update(up_to_date=True, complete=True, image=node.image_facts(made), required_images=node.told_images(told))
            result.update(self._versioned(told.get("io.nodeforge.kubernetes-version")))
            result["labels"] = self._labels(base, result, told.get("org.opencontainers.image.created"))
            return result

        name = self.params["name"] or f"nodeforge-build-{fingerprint[:12]}-{secrets.token_hex(3)}"
        self.whole = self._whole(made) if made and self.params["incremental"] and not self.params["name"] else None
        if self.whole:
            result.update(self._versioned(None), extra_archives=inputs.extra_archives)
        self.runs = bool(self.params["start"] or inputs.containerd_config or not self._own_kubeadm())
        there = self._there(name, fingerprint) if self.params["name"] else None
        try:
            if there and self._adoptable(name, there, fingerprint):
                container_id = there["Id"]
                self._guard(container_id)
                result.update(self._versioned(self._base_version(container_id)))
                result["required_images"] = self._required(container_id, self._sandbox(container_id), base, result["version"], running=True)
                self._fill(container_id, adopted=True)
                result["container"] = {"id": container_id, "name": name}
            else:
                if there:
                    self.actions.append(f'Removed the build container "{name}" of other inputs')
                    self.before = {"container": {"name": name, "fingerprint": node.build_fingerprint(there)}, "files": {}}
                container_id = self._create(name, there, self.whole or base, fingerprint)
                sandbox = self._sandbox(container_id)
                result.update(self._versioned(self._base_version(container_id)))
                self._starts(name)
                if not self.check:
                    if self.runs:
                        self._start(container_id)
                    self._fill(container_id, adopted=False)
                    result["container"] = {"id": container_id, "name": name}
                result["required_images"] = self._required(container_id, sandbox, base, result["version"], running=not self.check)
            result["labels"] = self._labels(base, result, None)
            held = node.told_images(_labels(self.whole or base)) if _labels(self.whole or base).get(node.FINGERPRINT_LABEL) else None
            result["complete"] = not (result["archives"] or result["extra_archives"]) and set(result["required_images"] or [""]) <= set(held or [])
            if not self.check:
                if self.created and _alive.abandoned():
                    raise EngineError(f'The connection that waited for the build container "{name}" is gone, and so is that: run again')
                self.created = None
        finally:
            if self.created:
                with deferred():
                    self.engine.remove(self.created)
        return result

    def _whole(self, made: dict[str, t.Any]) -> dict[str, t.Any] | None:
        """The image that what differs can be put on; from then on, that is all that is wanted."""
        told = _labels(made)
        whole = made if told.get(node.PARTS_LABEL) else self.engine.image(told[node.WHOLE_LABEL]) if told.get(node.WHOLE_LABEL) else None
        differing = self.parts.differing(_labels(whole).get(node.PARTS_LABEL, "")) if whole else None
        inputs = self.inputs
        if differing is None or inputs.weight(*differing) * 2 > inputs.weight(inputs.binaries, inputs.archives):
            return None
        inputs.keep_only(*differing)
        return whole

    def _engine_image(self, reference: str) -> str:
        image = self.engine.image(reference)
        if image is None:
            raise EngineError(f'The image "{reference}" of extra_images is not in the engine at {self.engine.host}: build, load or pull it there')
        return image["Id"]

    def _missing(self) -> list[str]:
        """The required images that are not at hand, as far as they can be known without the base."""
        inputs, own = self.inputs, self._own_kubeadm()
        images = [*inputs.manifest_images, *inputs.extra_images]
        if inputs.version and own:
            command = ["timeout", "-k", "5", str(KUBEADM_TIMEOUT), own, "config", "images", "list"]
            rc, out, dummy = self.module.run_command([*command, "--kubernetes-version", inputs.version], expand_user_and_vars=False)
            asked = [inputs.replaced_images.get(line, line) for line in out.split()] if rc == 0 else []
            images += [image for image in asked if "/pause:" not in image]
        names = [*inputs.built_images(None)]
        for entry in inputs.extra_archives:
            names += [entry["ref"]] if "ref" in entry else [entry["engine"]] if "engine" in entry else node.archive_references(entry["path"])
        # inputs may tell anything, and images that are made here among it
        here = {*self.params["inputs"], *(node.store_name(node.parse_reference(name)) for name in names)}
        cache = Cache(self.params["cache_dir"], read_only=True) if self.params["cache_dir"] else None
        images = list(dict.fromkeys(node.store_name(node.parse_reference(image)) for image in images))
        return [image for image in images if image not in here and not (cache and cache.find(image, inputs.platform))]

    def _versioned(self, inherited: str | None) -> dict[str, t.Any]:
        """What depends on the version, where that may be the base's."""
        inherited = None if self.inputs.version else inherited
        return {
            "version": self.inputs.version or inherited,
            "built_images": self.inputs.built_images(inherited),
            "archives": self.inputs.named_archives(inherited),
        }

    def _base_version(self, container: str) -> str | None:
        """What the base says, which only a node image does; fails where nobody tells."""
        if self.inputs.version:
            return None
        text = (self.engine.read_file(container, node.VERSION_FILE) or b"").decode(errors="replace").strip()
        if not text:
            raise node.BadInput(
                f'The option version is missing: the base image "{self.inputs.image}" is no node image, whose {node.VERSION_FILE} would tell it, '
                "and archives has not all images of the control plane"
            )
        return node.check_version(text)

    def _base(self) -> dict[str, t.Any] | None:
        """The base image as the engine holds it for the platform; None where check mode would have to pull it first."""
        inputs, policy = self.inputs, self.params["pull"]
        reference = str(inputs.image)
        base = self.engine.image(reference)
        if self.params["offline"]:
            policy = "never"
        if base is None and self.params["offline"]:
            more = "".join(f", the image {image}" for image in self._missing())
            raise EngineError(f'With offline, these are missing: the base image "{reference}"{more}; load them, or run once with the network')
        if base is None and policy == "never":
            raise EngineError(f'The base image "{reference}" is not in the engine at {self.engine.host}: load or build it, or set pull=missing')
        if base is None or (policy == "always" and self._outdated(reference, base)):
            self.actions.append(f'Pulled the base image "{reference}" for {inputs.platform}')
            if self.check:
                return None
            self._pull(inputs.image)
            base = self.engine.image(reference)
        if base is None:
            raise EngineError(f'The base image "{reference}" went away while it was looked at: run again')
        is_for = f"{base['Os']}/{base['Architecture']}"
        if is_for != inputs.platform:
            raise EngineError(
                f'The base image "{reference}" in the engine is for {is_for}, the node for {inputs.platform}: '
                f"pull, load or build one for {inputs.platform}, under another tag"
            )
        for volume in (base["Config"] or {}).get("Volumes") or {}:
            if any(f"{path}/".startswith(f"{volume.rstrip('/')}/") for path in ("/usr/bin", "/kind", "/etc", "/var/lib/containerd")):
                raise EngineError(f'The base image "{reference}" declares the volume {volume}, which no image can hold: use a base without it')
        return base

    def _outdated(self, reference: str, base: dict[str, t.Any]) -> bool:
        with self.engine.explained(f'Asking for the base image "{reference}"'):
            digest = self.engine.api.inspect_distribution(reference)["Descriptor"]["digest"]
        return not any(known.endswith(f"@{digest}") for known in base.get("RepoDigests") or [])

    def _pull(self, image: node.Reference) -> None:
        remedy = "correct image, log in, or load it into the engine"
        try:
            with self.engine.explained(f'Pulling the base image "{image}" for {self.inputs.platform}'):
                # one line of progress at a time
                for line in self.engine.api.pull(
                    image.repository, tag=image.digest or image.tag, platform=self.inputs.platform, stream=True, decode=True
                ):
                    if "error" in line:
                        raise EngineError(f'Pulling the base image "{image}" for {self.inputs.platform} failed: {line["error"]}')
        except EngineError as e:
            raise EngineError(f'The base image "{image}" is not in the engine. {e}; {remedy}') from e

    def _there(self, name: str, fingerprint: str) -> dict[str, t.Any] | None:
        """The container of that name. One that another run has just created for the same inputs is about to be started: that is waited for."""
        patience = time.monotonic() + 10
        while True:
            container = self.engine.container(name)
            about_to_start = self.runs and container and container["State"]["Status"] == "created" and node.build_fingerprint(container) == fingerprint
            if not about_to_start or self.check or time.monotonic() > patience:
                return container
            time.sleep(0.1)

    def _adoptable(self, name: str, container: dict[str, t.Any], fingerprint: str) -> bool:
        made_from = node.build_fingerprint(container)
        if made_from is None:
            raise EngineError(f'The name "{name}" is taken by a container that this module did not make: choose another name or remove that container')
        return made_from == fingerprint and self.runs and container["State"]["Running"] and not container["State"].get("Paused")

    def _create(self, name: str, replaced: dict[str, t.Any] | None, base: dict[str, t.Any], fingerprint: str) -> str:
        """Creates the container; in check mode under a name of its own, for a look at the base."""
        if self.check:
            name = f"nodeforge-build-check-{secrets.token_hex(6)}"
        else:
            self._sweep()
            if replaced:
                self.engine.remove(replaced["Id"])
        api = self.engine.api
        config = api.create_container_config(
            base["Id"],
            entrypoint=["sleep"],
            command=[str(self.params["ttl"])],
            labels={node.BUILD_LABEL: node.build_label(name, fingerprint)},
            # with the host's network it would be the host's, and stay in the image
            hostname="nodeforge-build",
            host_config=api.create_host_config(
                auto_remove=True,
                network_mode=self.params["network_mode"],
                security_opt=["seccomp=unconfined"],
                tmpfs={path: "mode=1777" if path == "/tmp" else "mode=755" for path in node.VOLATILE},
            ),
        )
        patience = time.monotonic() + 10
        while not self.created:
            try:
                with deferred():
                    self.created = self.engine.create(name, self.inputs.platform, config)
            except EngineError as e:
                if getattr(e.__cause__, "status_code", None) != 409:
                    raise
                holder = self.engine.container(name)
                if time.monotonic() > patience or holder and holder["State"]["Status"] != "removing":
                    raise EngineError(f'The name "{name}" has just been taken by another container: choose another name or run again') from e
                # the engine frees a name a moment after its container has gone
                time.sleep(0.1)
        self._guard(self.created)
        return self.created

    def _guard(self, container: str) -> None:
        """Leaves a process behind that removes the container when its owner has ended: Ansible runs no always section after an interrupt."""
        owner: int | None = self.params["owner"]
        if owner is None or self.check:
            return
        mine = os.getpid()
        starter = 0
        try:
            with deferred():
                starter = fork_process()
                if starter:
                    os.waitpid(starter, 0)
                else:
                    self._watch(container, owner)
        finally:
            if os.getpid() != mine:
                os._exit(0)

    def _watch(self, container: str, owner: int) -> None:
        """Runs in a process of its own, to which signals are held back: what ends the owner may be sent to all."""
        # the connection is the module's, and all else that it or Ansible has open
        self.engine.api.close()
        os.closerange(3, 65536)
        moment = began(owner)
        while True:
            time.sleep(GUARD_INTERVAL)
            # an engine that starts anew answers later
            with contextlib.suppress(EngineError):
                if self.engine.container(container) is None:
                    return
                if not moment or began(owner) != moment:
                    self.engine.remove(container)

    def _sweep(self) -> None:
        """Removes what plays left that were killed between two requests; never a container that runs or has just been created."""
        stopped = self._build_containers("created", "exited", "dead")
        if not stopped:
            return
        with self.engine.explained("Asking the engine for its time"):
            now = _time(self.engine.api.info()["SystemTime"])
        for container in stopped:
            # one that need not run is in use until its play removes it: its time is over when that of one that runs would be
            ttl = datetime.timedelta(seconds=int(container["Config"]["Cmd"][-1]))
            if now - _time(container["Created"]) > ttl:
                self.engine.remove(container["Id"])

    def _sandbox(self, container: str) -> str:
        """The base's sandbox image; fails where the base is not one of a node."""
        base = f'The base image "{self.inputs.image}"'
        lacking = [what for what, paths in NODE_BASE.items() if not any(self.engine.stat(container, path) for path in paths)]
        if lacking:
            raise EngineError(f"{base} is not a node base, it lacks {' and '.join(lacking)}: use one like kindest/base or kindest/node")
        config = (self.engine.read_file(container, node.CONTAINERD_CONFIG) or b"").decode(errors="replace")
        texts = [config]
        if self.inputs.containerd_config or node.with_drop_ins(config) == config:
            there = self.engine.read_directory(container, node.DROP_INS)
            self.inputs.name_drop_ins(there)
            parts = {name: content for name, content in there.items() if name.endswith(".toml")}
            parts.update((os.path.basename(file.dest), file.content) for file in self.inputs.drop_ins)
            texts += [content.decode(errors="replace") for _name, content in sorted(parts.items())]
        if self.inputs.containerd_config:
            self._import_drop_ins(config)
        # the last one decides
        sandbox = self.sandbox = next((found for found in map(node.sandbox_image, reversed(texts)) if found), None)
        if not sandbox:
            raise EngineError(f"{base} names no sandbox image in {node.CONTAINERD_CONFIG}: set sandbox_image (or pinned_images.sandbox) there")
        return sandbox

    def _import_drop_ins(self, config: str) -> None:
        inputs = self.inputs
        for what, text in inputs.containerd_config:
            if node.config_version(text) not in (None, node.config_version(config)):
                raise node.BadInput(
                    f"The {what} is for version {node.config_version(text)} of containerd's configuration, but the base image \"{inputs.image}\" "
                    f"has one of version {node.config_version(config)}: write it for that"
                )
        merged = node.with_drop_ins(config)
        if any(file.dest == node.CONTAINERD_CONFIG for file in inputs.files):
            raise node.BadInput(f"files replaces {node.CONTAINERD_CONFIG}, for which containerd_config has parts: put all of it into one of both")
        if merged != config:
            inputs.files.append(node.file_from_content(merged.encode(), node.CONTAINERD_CONFIG, 0o644))

    def _check_containerd(self, container: str) -> None:
        """The base's own containerd has to take its configuration with the drop-ins: a node whose containerd does not start tells nobody why."""
        done = self.engine.exec(container, ["containerd", "config", "dump"], timeout=60)
        entries = self.inputs.containerd_config
        names = " or ".join(what for what, _text in entries)
        if done.rc != 0:
            raise EngineError(f"containerd of the base image does not take {names}: {done.reason.replace('containerd: ', '', 1)}; correct it")
        unknown = re.findall(r"Ignoring unknown key.*? key=[\"']?([^\s\"']+)", done.stderr)
        unknown = [key for key in unknown if any(key in text for _what, text in entries)]
        if unknown:
            raise EngineError(f"containerd of the base image does not know {', '.join(unknown)} in {names}: correct it")
        found = node.sandbox_image(done.stdout)
        if found and found != self.sandbox:
            raise EngineError(
                f"With {names}, containerd of the base image loses other settings, such as the sandbox image {self.sandbox}: repeat the "
                "whole section of the plugin as the base has it, because this containerd replaces it"
            )

    def _starts(self, name: str) -> None:
        files, reference = self.inputs.files, self.whole["Id"] if self.whole else str(self.inputs.image)
        self.before = self.before or {"container": None, "files": {}}
        self.after = {
            "container": {"name": name, "image": reference, "platform": self.inputs.platform},
            "files": {file.dest: file.sha256 for file in files},
        }
        self.actions.append(f'{"Started" if self.runs else "Created"} the build container "{name}" from "{reference}" with {len(files)} files')

    def _start(self, container: str) -> None:
        name = self.after["container"]["name"]
        with self.engine.explained(f'Starting the build container "{name}"'):
            self.engine.api.start(container)
            if self.inputs.platform != self.engine.platform:
                # a program that cannot run here ends only after the engine has said that it runs
                time.sleep(1)
            state = self.engine.container(container)
        if state is None or not state["State"]["Running"]:
            raise EngineError(f'The build container "{name}" ended at once: {self._foreign_hint()}')

    def _foreign_hint(self) -> str:
        if self.inputs.platform != self.engine.platform:
            return f"the engine's host cannot run programs for {self.inputs.platform}; install qemu-user-static there"
        return f'the base image "{self.inputs.image}" has no sleep that runs'

    def _fill(self, container: str, adopted: bool) -> None:
        """Writes the files that differ, in one archive."""
        files, folders = self.inputs.files, node.directories(self.inputs.files)
        paths = [*folders, *(file.dest for file in files)]
        found = self._listed(container, paths, adopted) if self.runs else self._looked_at(container, paths)
        changed = node.differing(files, found)
        if adopted and changed:
            self.before = {"files": {file.dest: found[file.dest].sha256 for file in changed}}
            self.after = {"files": {file.dest: file.sha256 for file in changed}}
            self.actions += [f"Wrote {file.dest}" for file in changed]
        if changed and not self.check:
            missing = {folder: 0o755 for folder in folders if found[folder].kind == "-"}
            self.engine.put_archive(container, "/", node.tar_stream(changed, missing))
        if self.inputs.containerd_config and not self.check:
            self._check_containerd(container)

    def _listed(self, container: str, paths: list[str], adopted: bool) -> dict[str, node.Found]:
        """What lies at these paths in a container that runs."""
        try:
            listing = self.engine.exec(container, ["sh", "-c", node.LISTING, "sh", *paths], timeout=600)
        except EngineError as e:
            if adopted or self.inputs.platform == self.engine.platform:
                raise
            raise EngineError(f"The build container ended at once: {self._foreign_hint()}") from e
        if listing.rc != 0 or len(listing.stdout.splitlines()) != len(paths):
            if not adopted and self.inputs.platform != self.engine.platform:
                raise EngineError(f"Looking at the files of the build container failed ({listing.reason}): {self._foreign_hint()}")
            raise EngineError(f"Looking at the files of the build container failed ({listing.reason}): use a base image with sh, stat and sha256sum")
        return node.parse_listing(paths, listing.stdout)

    def _looked_at(self, container: str, paths: list[str]) -> dict[str, node.Found]:
        """The kind of what lies at these paths, directories first, in one that does not."""
        found: dict[str, node.Found] = {}
        for path in paths:
            stat = None
            if all(found[parent].kind == "d" for parent in node.parents(path)):
                stat = self.engine.stat(container, path)
            if stat and stat["mode"] >> GO_MODE_SYMLINK & 1:
                # the engine tells where the link leads to in the end
                stat = self.engine.stat(container, stat["linkTarget"]) or stat
            mode = stat["mode"] if stat else 0
            found[path] = node.Found("-" if stat is None else "d" if mode >> GO_MODE_DIRECTORY & 1 else "o" if mode >> GO_MODE_SYMLINK & 1 else "f")
        return found

    def _own_kubeadm(self) -> str | None:
        """A kubeadm that runs on this very host: the one that is named for that, or that in binaries."""
        given: str | None = self.params["kubeadm"]
        if given:
            if not os.access(given, os.X_OK) or os.path.isdir(given):
                raise node.BadInput(f'The kubeadm "{given}" is no program: build it for {self.engine.platform}, or leave it out')
            return os.path.abspath(given)
        kubeadm = self.inputs.binaries.get("kubeadm")
        native = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}.get(platform.machine()) == self.inputs.platform
        return os.path.abspath(kubeadm.path) if kubeadm and kubeadm.path and native and os.access(kubeadm.path, os.X_OK) else None

    def _required(self, container: str, sandbox: str, base: dict[str, t.Any], version: str, running: bool) -> list[str] | None:
        """What kubeadm asks for and the manifests, the base and the user add. None where only a running container could tell."""
        inputs = self.inputs
        kubeadm, own = inputs.binaries.get("kubeadm"), self._own_kubeadm()
        arguments = ["config", "images", "list", "--kubernetes-version", version]
        if own:
            command = ["timeout", "-k", "5", str(KUBEADM_TIMEOUT), own, *arguments]
            rc, out, err = self.module.run_command(command, expand_user_and_vars=False)
        elif running:
            done = self.engine.exec(container, [f"{node.BINARY_DIRECTORY}/kubeadm", *arguments], timeout=KUBEADM_TIMEOUT)
            rc, out, err = done.rc, done.stdout, done.stderr
        else:
            return None
        if rc != 0:
            lines = [line.strip() for line in (err or out).splitlines() if line.strip()]
            why = f"no answer in {KUBEADM_TIMEOUT} s" if rc == 124 else lines[0] if lines else f"exit status {rc}"
            program = own or (kubeadm and kubeadm.path)
            what = f'The binary "{program}"' if program else f'{node.BINARY_DIRECTORY}/kubeadm of the base image "{inputs.image}"'
            raise EngineError(f"{what} does not list the images of {version} ({why}): give a kubeadm of that version")
        lines = [line.strip() for line in out.splitlines() if line.strip()]
        lines = [inputs.replaced_images.get(line, line) for line in lines]
        for path in inputs.base_manifests:
            text = self.engine.read_file(container, path)
            if text is not None:
                inputs.add_manifest(text.decode(errors="replace"), f"{path} of the base image")
        held = node.told_images(_labels(base)) or []
        return node.required_images(lines, sandbox, [*inputs.manifest_images, *inputs.extra_images], held)

    def _labels(self, base: dict[str, t.Any], result: dict[str, t.Any], created: str | None) -> dict[str, str]:
        inherited = _labels(self.whole or base).keys()
        digests = [digest.partition("@")[2] for digest in base.get("RepoDigests") or [] if digest.partition("@")[0] == self.inputs.image.familiar]
        told = node.labels(
            version=result["version"],
            platform=self.inputs.platform,
            base=str(self.inputs.image),
            base_digest=digests[0] if digests else base["Id"],
            fingerprint=result["fingerprint"],
            images=result["required_images"],
            replaced=self.inputs.replaced_images,
            created=created or datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            revision=self.params["revision"],
            source=self.params["source"],
        )
        told.update({node.WHOLE_LABEL: self.whole["Id"]} if self.whole else {node.PARTS_LABEL: self.parts.label()})
        # what the base tells about itself is not true of the node
        own = ("org.opencontainers.image.", node.PARTS_LABEL, node.WHOLE_LABEL)
        return {**{key: "" for key in inherited if key.startswith(own)}, **told}


def _labels(image: dict[str, t.Any] | None) -> dict[str, str]:
    return ((image or {}).get("Config") or {}).get("Labels") or {}


def _time(text: str) -> datetime.datetime:
    """The engine's timestamps, without their fraction and zone: both sides of a comparison are UTC or the same engine's."""
    moment = datetime.datetime.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")
    zone = text[-6:]
    if zone[0] in "+-":
        offset = datetime.timedelta(hours=int(zone[1:3]), minutes=int(zone[4:]))
        moment -= offset if zone[0] == "+" else -offset
    return moment


def main() -> None:
    """Runs the module."""
    module = AnsibleModule(
        argument_spec={
            **DOCKER_ARGS,
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "name": {"type": "str"},
            "image": {"type": "str"},
            "pull": {"type": "str", "choices": ["missing", "always", "never"], "default": "missing"},
            "platform": {"type": "str", "choices": list(node.PLATFORMS)},
            "version": {"type": "str"},
            "binaries": {"type": "dict", "default": {}},
            "archives": {"type": "dict", "default": {}},
            "cni_manifest": {"type": "path"},
            "storage_manifest": {"type": "path"},
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "src": {"type": "path"},
                    "content": {"type": "str"},
                    "dest": {"type": "str", "required": True},
                    "mode": {"type": "raw", "default": "0644"},
                },
            },
            "extra_images": {"type": "list", "elements": "raw", "default": []},
            "containerd_config": {"type": "list", "elements": "str", "default": []},
            "replaced_images": {"type": "dict", "default": {}},
            "node_image": {"type": "str"},
            "inputs": {"type": "dict", "default": {}},
            "incremental": {"type": "bool", "default": False},
            "offline": {"type": "bool", "default": False},
            "cache_dir": {"type": "path"},
            "revision": {"type": "str"},
            "source": {"type": "str"},
            "network_mode": {"type": "str", "default": "default"},
            "kubeadm": {"type": "path"},
            "start": {"type": "bool", "default": True},
            "ttl": {"type": "int", "default": 7200},
            "owner": {"type": "int"},
        },
        supports_check_mode=True,
    )
    try:
        with interruptible():
            result = NodePreparer(module, Engine(module)).run()
    except (EngineError, node.BadInput) as e:
        module.fail_json(msg=str(e))
    except Interrupted as e:
        module.fail_json(msg=f"Interrupted by {e}: the build container that this run started is removed")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
