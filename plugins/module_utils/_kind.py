# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can change at any time.
"""A kind cluster: its configuration, and its nodes as the engine sees them.

What kind knows about a cluster it keeps in labels of containers, so whoever made it, everything is found through them.
"""

from __future__ import annotations

import collections.abc as c
import json
import re
import typing as t

from ansible_collections.nodeforge.kind.plugins.module_utils._docker import Engine, EngineError

CLUSTER_LABEL = "io.x-k8s.kind.cluster"
ROLE_LABEL = "io.x-k8s.kind.role"
CONTROL_PLANE, WORKER = "control-plane", "worker"
# The load balancer of several control planes is a container of the cluster, but no node.
NODE_ROLES = (CONTROL_PLANE, WORKER)
ADMIN_CONF = "/etc/kubernetes/admin.conf"
# What we remember in nodes. It belongs to the container itself, so it is there after a restart and gone with the node.
DIRECTORY = "/kind/nodeforge"

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


class BadInput(Exception):
    """Something that the user gave; the text is one sentence that names the object and the remedy."""


class Node(t.NamedTuple):
    """A container of a cluster."""

    name: str
    role: str
    running: bool
    image: str
    image_id: str


def check_name(name: str) -> str:
    """A cluster's name, by kind's rules."""
    if not _NAME.fullmatch(name) or len(name) > 50:
        raise BadInput(f'The cluster name "{name}" is not one that kind takes: use up to 50 lower-case letters, digits, hyphens and dots')
    return name


def _order(name: str, role: str) -> tuple[int, int, str]:
    """Control planes first, and the tenth worker after the second."""
    number = re.search(r"\d+$", name[name.rfind("-") :]) if role in NODE_ROLES else None
    return ((*NODE_ROLES, role).index(role), int(number.group()) if number else 1, name)


def containers(engine: Engine, cluster: str) -> list[Node]:
    """The containers of a cluster, running or not, in kind's own order."""
    with engine.explained(f'Looking for the nodes of the cluster "{cluster}"'):
        found = engine.api.containers(all=True, filters={"label": f"{CLUSTER_LABEL}={cluster}"})
    listed = [
        Node(
            name=container["Names"][0].lstrip("/"),
            role=container["Labels"].get(ROLE_LABEL, ""),
            running=container["State"] == "running",
            image=container["Image"],
            image_id=container["ImageID"],
        )
        for container in found
    ]
    return sorted(listed, key=lambda node: _order(node.name, node.role))


def nodes(engine: Engine, cluster: str) -> list[Node]:
    """The nodes of a cluster that is there."""
    found = [node for node in containers(engine, cluster) if node.role in NODE_ROLES]
    if not found:
        raise EngineError(f'There is no cluster "{cluster}" at {engine.host}: make it with kind_cluster, or name another one ("kind get clusters")')
    return found


def select(known: c.Sequence[Node], cluster: str, wanted: c.Sequence[str]) -> list[Node]:
    """The nodes that are meant: all, a role's, or those of a name, with or without the cluster's before it."""
    chosen: list[Node] = []
    for word in wanted:
        found = [node for node in known if word in ("all", node.role)] or [node for node in known if node.name in (word, f"{cluster}-{word}")]
        if not found:
            names = ", ".join(node.name for node in known)
            raise BadInput(f'The cluster "{cluster}" has no node "{word}": write all, {" or ".join(NODE_ROLES)}, or one of {names}')
        chosen += found
    return [node for node in known if node in chosen]


# configuration

API_VERSION = "kind.x-k8s.io/v1alpha4"


def check_config(config: dict[str, t.Any], name: str) -> dict[str, t.Any]:
    """A document of kind's configuration as kind takes it, with the cluster's name."""
    for key, value in (("kind", "Cluster"), ("apiVersion", API_VERSION)):
        if config.get(key, value) != value:
            raise BadInput(f'The config has {key} "{config[key]}": kind takes {value}')
    if config.get("name", name) != name:
        raise BadInput(f'The config names the cluster "{config["name"]}" and the option name "{name}": give one of them')
    listed = config.get("nodes")
    if listed is not None and not (isinstance(listed, list) and all(isinstance(node, dict) for node in listed)):
        raise BadInput("The config's nodes are no list of dictionaries: write - role: control-plane")
    for node in listed or []:
        if node.get("role", CONTROL_PLANE) not in NODE_ROLES:
            raise BadInput(f'The config has a node with role "{node["role"]}": kind knows {" and ".join(NODE_ROLES)}')
    return {"kind": "Cluster", "apiVersion": API_VERSION, **config, "name": name}


def planned(config: dict[str, t.Any], image: str | None) -> list[tuple[str, str, str | None]]:
    """Name, role and image of each node that kind would make of a configuration."""
    count = {role: 0 for role in NODE_ROLES}
    plan: list[tuple[str, str, str | None]] = []
    for node in config.get("nodes") or [{}]:
        role = node.get("role", CONTROL_PLANE)
        count[role] += 1
        plan.append((f"{config['name']}-{role}{count[role] if count[role] > 1 else ''}", role, image or node.get("image")))
    return sorted(plan, key=lambda entry: _order(entry[0], entry[1]))


def _ports(mappings: c.Iterable[t.Any]) -> list[dict[str, t.Any]]:
    """Port mappings on 127.0.0.1: 8080, "8080:80", or kind's own dictionary."""
    found = []
    for mapping in mappings:
        if isinstance(mapping, dict):
            found.append({"listenAddress": "127.0.0.1", **mapping})
            continue
        host, colon, port = str(mapping).partition(":")
        port = port if colon else host
        if not (host.isdigit() and port.isdigit() and 0 < int(host) < 65536 and 0 < int(port) < 65536):
            raise BadInput(f'The port mapping "{mapping}" is none: write HOST:NODE, such as 8080:80, or a dictionary as kind takes it')
        found.append({"listenAddress": "127.0.0.1", "hostPort": int(host), "containerPort": int(port)})
    return found


def _patch(kind: str, api_version: str, content: dict[str, t.Any]) -> str:
    """A patch as kind takes it. JSON is YAML."""
    return json.dumps({"kind": kind, "apiVersion": api_version, **content}, sort_keys=True)


def _argument_patches(arguments: dict[str, dict[str, str]], base: dict[str, t.Any]) -> list[str]:
    """Arguments of the control plane's components, for each version of kubeadm's configuration that kind writes.

    Up to v1beta3 they are a dictionary, which is merged. From v1beta4 on they are a list, which is replaced: it repeats
    what kind would write itself.
    """
    if not any(arguments.values()):
        return []
    gates = ",".join(f"{gate}={str(on).lower()}" for gate, on in sorted((base.get("featureGates") or {}).items()))
    runtime = ",".join(f"{name}={value}" for name, value in sorted((base.get("runtimeConfig") or {}).items()))
    ipv6 = (base.get("networking") or {}).get("ipFamily") == "ipv6"
    own: dict[str, dict[str, str]] = {
        "apiServer": {"runtime-config": runtime},
        "controllerManager": {"enable-hostpath-provisioner": "true", **({"bind-address": "::"} if ipv6 else {})},
        "scheduler": {"bind-address": "::1"} if ipv6 else {},
    }
    merged = {part: {"extraArgs": more} for part, more in arguments.items() if more}
    whole = {
        part: {
            "extraArgs": [
                {"name": key, "value": value} for key, value in {**own[part], **({"feature-gates": gates} if gates else {}), **more}.items()
            ]
        }
        for part, more in arguments.items()
        if more
    }
    return [
        _patch("ClusterConfiguration", "kubeadm.k8s.io/v1beta3", merged),
        _patch("ClusterConfiguration", "kubeadm.k8s.io/v1beta4", whole),
    ]


# Where kubeadm's configuration names the images that it asks for.
_IMAGES = {"etcd": ("etcd", "local"), "coredns": ("dns",)}


def replaced_patches(replaced: c.Mapping[str, str]) -> list[str]:
    """What kubeadm has to be told where a node image has other versions of images than it asks for."""
    content: dict[str, t.Any] = {}
    for asked, given in replaced.items():
        directory, dummy, name = asked.partition("@")[0].rpartition(":")[0].rpartition("/")
        repository, dummy, tag = given.partition("@")[0].rpartition(":")
        own = repository.rpartition("/")
        if name not in _IMAGES or own[2] != name:
            # kubeadm cannot be told of it
            continue
        told = {"imageTag": tag, **({} if own[0] == directory else {"imageRepository": own[0]})}
        for key in reversed(_IMAGES[name]):
            told = {key: told}
        content.update(told)
    # without an apiVersion it is one for each that kind writes
    return [json.dumps({"kind": "ClusterConfiguration", **content}, sort_keys=True)] if content else []


def cluster_config(presets: dict[str, t.Any]) -> dict[str, t.Any]:
    """A configuration from a few wishes: the one place that knows how each of them is told to kind and kubeadm."""
    known = {
        "control_planes", "workers", "feature_gates", "runtime_config", "verbosity", "admission_plugins", "port_mappings", "debug_ports",
        "cgroup_v1", "kubeadm_patches", "replaced_images", "config",
    }  # fmt: skip
    for key in presets:
        if key not in known:
            raise BadInput(f'There is no preset "{key}": choose from {", ".join(sorted(known))}')
    config: dict[str, t.Any] = dict(presets.get("config") or {})
    planes, workers = int(presets.get("control_planes", 1)), int(presets.get("workers", 0))
    if planes < 1 or workers < 0:
        raise BadInput(f"A cluster of {planes} control planes and {workers} workers cannot be: at least one control plane is needed")
    nodes_: list[dict[str, t.Any]] = config.get("nodes") or [{"role": CONTROL_PLANE} for dummy in range(planes)] + [
        {"role": WORKER} for dummy in range(workers)
    ]
    nodes_ = [dict(node) for node in nodes_]
    # a port of this machine is one node's
    ports = _ports([*(presets.get("port_mappings") or []), *(presets.get("debug_ports") or [])])
    if ports:
        nodes_[0]["extraPortMappings"] = [*(nodes_[0].get("extraPortMappings") or []), *ports]
    config["nodes"] = nodes_
    for option, key in (("feature_gates", "featureGates"), ("runtime_config", "runtimeConfig")):
        if presets.get(option):
            config[key] = {**(config.get(key) or {}), **presets[option]}
    if "runtimeConfig" in config:
        config["runtimeConfig"] = {name: str(value).lower() for name, value in config["runtimeConfig"].items()}
    arguments: dict[str, dict[str, str]] = {"apiServer": {}, "controllerManager": {}, "scheduler": {}}
    kubelet: dict[str, t.Any] = {}
    level = presets.get("verbosity")
    if level not in (None, ""):
        for more in arguments.values():
            more["v"] = str(int(t.cast("str", level)))
        kubelet["logging"] = {"verbosity": int(t.cast("str", level))}
    if presets.get("admission_plugins"):
        arguments["apiServer"]["enable-admission-plugins"] = ",".join(presets["admission_plugins"])
    if presets.get("cgroup_v1"):
        kubelet["failCgroupV1"] = False
    patches = _argument_patches(arguments, config)
    if kubelet:
        patches.append(_patch("KubeletConfiguration", "kubelet.config.k8s.io/v1beta1", kubelet))
    patches += replaced_patches(presets.get("replaced_images") or {})
    patches += [patch if isinstance(patch, str) else json.dumps(patch) for patch in presets.get("kubeadm_patches") or []]
    if patches:
        config["kubeadmConfigPatches"] = [*patches, *(config.get("kubeadmConfigPatches") or [])]
    return config


# what a person would look at first

def tail(text: str, lines: int = 20, width: int = 500) -> list[str]:
    """The last lines that say something, none longer than a screen."""
    return [line.rstrip()[:width] for line in text.splitlines() if line.strip()][-lines:]


_KLOG = re.compile(r"[EF]\d{4} [\d:.]+\s+\d+ \S+?:\d+\] ")
_TOLD = re.compile(r"panic: |fatal error: |[Ee]rror: |command failed|cannot execute|Failed to |No such file", re.ASCII)


def reason(lines: c.Sequence[str]) -> str:
    """The line of a component's log that tells why it ended: its last fatal or error line, or simply the last one."""
    for pattern in (re.compile(r"panic: |fatal error: |F\d{4} "), _KLOG, _TOLD):
        for line in reversed(lines):
            if pattern.match(line) or (pattern is _TOLD and pattern.search(line)):
                return line.strip()[:300]
    return lines[-1].strip()[:300] if lines else ""
