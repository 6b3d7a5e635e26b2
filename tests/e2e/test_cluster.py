# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof: a cluster of two nodes boots from the image, and real traffic flows."""

from __future__ import annotations

import json

import docker

from .conftest import CLUSTER, EXTRA, IMAGE, Cluster, Play

WORKLOAD = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  # the scheduler must place it: a claim waits for its choice
  nodeSelector: {kubernetes.io/hostname: NAME-worker}
  containers:
  - name: web
    image: HELPER
    imagePullPolicy: Never
    command: [sh, -c, "echo hello-from-the-claim > /data/index.html; exec httpd -f -p 8080 -h /data"]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  nodeName: NAME-control-plane
  tolerations: [{operator: Exists}]
  containers:
  - {name: client, image: HELPER, imagePullPolicy: Never, command: [sleep, "100000"]}
"""


def test_both_nodes_ready_with_the_built_version(cluster: Cluster, node_image: Play) -> None:
    cluster.check_version(node_image.summary["kubernetes"])
    assert len(cluster.kubectl("get", "nodes", "-o", "name").split()) == 2


def test_every_pod_becomes_ready(cluster: Cluster) -> None:
    cluster.kubectl("wait", "--for=condition=Ready", "pod", "--all", "-A", "--timeout=120s", timeout=150)


def test_traffic_dns_and_storage(cluster: Cluster, engine: docker.DockerClient) -> None:
    images = json.loads(cluster.node_exec(engine, "worker", "crictl", "images", "-o", "json"))["images"]
    helper = next(tag for image in images for tag in image["repoTags"] if "local-path-helper" in tag)
    cluster.kubectl("create", "-f", "-", stdin=WORKLOAD.replace("NAME", CLUSTER).replace("HELPER", helper))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/web", "pod/client", "--timeout=120s", timeout=150)
    assert cluster.kubectl("get", "pvc", "data", "-o", "jsonpath={.status.phase}") == "Bound"

    # CoreDNS answers a pod, with the Service's own address
    address = cluster.kubectl("get", "svc", "web", "-o", "jsonpath={.spec.clusterIP}")
    name = "web.default.svc.cluster.local"
    cluster.until(f"{name} resolves", lambda: address in cluster.kubectl("exec", "client", "--", "nslookup", name, check=False))

    # through the Service, by name, from one node to the other: kube-proxy, CNI and DNS in one
    def answer() -> str:
        return cluster.kubectl("exec", "client", "--", "wget", "-T2", "-qO-", f"http://{name}", check=False)

    cluster.until("the Service answers across nodes", lambda: answer().strip() == "hello-from-the-claim")

    # "Ready" once hid a kube-proxy that could not write its rules
    log = cluster.kubectl("-n", "kube-system", "logs", "-l", "k8s-app=kube-proxy", "--tail=-1")
    assert "Failed to execute" not in log and "Sync failed" not in log, log


def test_what_was_baked_in(cluster: Cluster, engine: docker.DockerClient) -> None:
    """An image that no registry has runs without a pull, and containerd has read its drop-in."""
    cluster.kubectl("run", "extra", f"--image={EXTRA}", "--image-pull-policy=Never", "--restart=Never", "--command", "--", "sleep", "100000")
    cluster.kubectl("wait", "--for=condition=Ready", "pod/extra", "--timeout=60s", timeout=90)
    for node in ("control-plane", "worker"):
        assert "max_container_log_line_size = 8192" in cluster.node_exec(engine, node, "containerd", "config", "dump")


def test_nodes_pulled_nothing(cluster: Cluster, engine: docker.DockerClient) -> None:
    cluster.check_no_pulls(engine, "control-plane", "worker")


def test_image_is_one_layer_on_its_base(node_image: Play, engine: docker.DockerClient) -> None:
    image = engine.images.get(IMAGE)
    # where an earlier run has left one that differs in a component only
    image = engine.images.get(image.labels.get("io.nodeforge.whole") or IMAGE)
    base = engine.images.get(image.labels["io.nodeforge.base-digest"])
    layers, below = image.attrs["RootFS"]["Layers"], base.attrs["RootFS"]["Layers"]
    assert layers[: len(below)] == below and len(layers) == len(below) + 1
