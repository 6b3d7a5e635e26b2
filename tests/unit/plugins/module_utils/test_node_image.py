# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pure decisions of a node image."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
from ansible_collections.nodeforge.kind.plugins.module_utils import _node_image as node

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("kindest/node:main", "docker.io/kindest/node:main"),
        ("docker.io/busybox:1", "docker.io/library/busybox:1"),
        ("index.docker.io/kindest/base", "docker.io/kindest/base:latest"),
        ("registry.k8s.io/etcd:3.7.0-0", "registry.k8s.io/etcd:3.7.0-0"),
        ("localhost/pause:1", "localhost/pause:1"),
        ("localhost:5000/a/b/c", "localhost:5000/a/b/c:latest"),
        ("127.0.0.1:5000/x:v1", "127.0.0.1:5000/x:v1"),
        ("[::1]:5000/x:v1", "[::1]:5000/x:v1"),
        (f"kindest/node:v1@{DIGEST}", f"docker.io/kindest/node:v1@{DIGEST}"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        ("a__b/c-d--e.f:T_1.x", "docker.io/a__b/c-d--e.f:T_1.x"),
    ],
)
def test_reference(text: str, full: str) -> None:
    reference = node.parse_reference(text)
    assert str(reference) == full
    # what is full stays as it is
    assert node.parse_reference(full) == reference


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        (1.2, "image 1.2 is not text"),
        ("0a" * 32, "is an id"),
        (DIGEST, "is an id"),
        ("kindest/Node:main", 'write "kindest/node:main"'),
        ("Kindest/node", 'write "kindest/node"'),
        ("kindest/node:", "is not an image reference"),
        (":main", "is not an image reference"),
        ("kindest//node", "is not an image reference"),
        ("/node", "is not an image reference"),
        ("node/", "is not an image reference"),
        ("a:b:c", "is not an image reference"),
        ("a b", "is not an image reference"),
        ("-a", "is not an image reference"),
        ("a:-b", "is not an image reference"),
        ("a:v1+x", "is not an image reference"),
        ("a@sha256:12", "is not an image reference"),
        ("a@", "is not an image reference"),
        ("https://registry.k8s.io/etcd", "is not an image reference"),
        ("a" * 300, "is not an image reference"),
        ("a:" + "b" * 129, "is not an image reference"),
    ],
)
def test_reference_refused(text: str, says: str) -> None:
    with pytest.raises(node.BadInput) as error:
        node.parse_reference(text, "node image")
    assert says in str(error.value)
    assert str(error.value).startswith("The node image")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "familiar"),
    [("busybox", "busybox"), ("docker.io/kindest/node:x", "kindest/node"), ("registry.k8s.io/pause:3", "registry.k8s.io/pause")],
)
def test_familiar(text: str, familiar: str) -> None:
    assert node.parse_reference(text).familiar == familiar


@pytest.mark.parametrize(
    ("text", "arch", "plain"),
    [
        ("registry.k8s.io/kube-apiserver-amd64:v1", "amd64", "registry.k8s.io/kube-apiserver:v1"),
        ("registry.k8s.io/kube-apiserver-amd64:v1", "arm64", "registry.k8s.io/kube-apiserver-amd64:v1"),
        ("registry.k8s.io/kube-apiserver:v1-amd64", "amd64", "registry.k8s.io/kube-apiserver:v1-amd64"),
        ("x-amd64/y:1", "amd64", "docker.io/x-amd64/y:1"),
    ],
)
def test_without_arch(text: str, arch: str, plain: str) -> None:
    assert str(node.without_arch(node.parse_reference(text), arch)) == plain


@pytest.mark.parametrize("version", ["v1.37.2", "v1.37.0-alpha.0.1+sha-dirty", "v1.34.4-rc.1", "v1.38.0-alpha.1.20+0123456789abcd-dirty", "v0.0.0+x"])
def test_version(version: str) -> None:
    assert node.check_version(version) == version


@pytest.mark.parametrize("version", ["", "1.37.2", "v1.37", "v1.37.2.1", "v01.2.3", "v1.37.2+", "v1.37.2 ", "latest", "v1.37.2\n", "v1.37.2+a_b"])
def test_version_refused(version: str) -> None:
    with pytest.raises(node.BadInput, match="is not one of Kubernetes"):
        node.check_version(version)


MANIFEST = """
# image: in/comment:1
apiVersion: apps/v1
kind: DaemonSet
spec:
  clusterImage: not/an-image:1
  template:
    spec:
      initContainers:
      - image: one/plain:1    # image: behind/plain:1
        name: a
      - name: b
        image: "two/quoted:2"
      - image: 'three/single:3'
      - {name: flow, image: four/flow:4, imagePullPolicy: IfNotPresent}
      - {name: flow, image: "five/flow:5"}
      - image: &anchor six/anchor:6
      - image: *anchor
      - image: {{ .Registry }}/seven:7
      - image: "{{ .Eight }}"
      - image: one/plain:1
      - image: docker.io/digest/nine:9@DIGEST
      - image:
          repository: not/an-image
          type: string
      - image: ""
      - image: null
        args:
        - --helper-image
        - ten/argument:10
        - "--helper-image=eleven/argument:11"
        - {a: [local-path, --helper-image, "twelve/argument:12"]}
{{- if .X }}
  json: {"image": "thirteen/json:13"}
{{- end }}
data:
  helperPod.yaml: |-
      containers:
      - image: fourteen/config-map:14
        pod_image: not/an-image:2
        sub-image: not/an-image:3
""".replace("DIGEST", DIGEST)


def test_manifest_images() -> None:
    images, templates = node.manifest_images(MANIFEST, "cni.yaml")
    assert sorted(images) == sorted(
        [
            "docker.io/one/plain:1",
            "docker.io/two/quoted:2",
            "docker.io/three/single:3",
            "docker.io/four/flow:4",
            "docker.io/five/flow:5",
            "docker.io/six/anchor:6",
            f"docker.io/digest/nine:9@{DIGEST}",
            "docker.io/ten/argument:10",
            "docker.io/eleven/argument:11",
            "docker.io/twelve/argument:12",
            "docker.io/thirteen/json:13",
            "docker.io/fourteen/config-map:14",
        ]
    )
    assert templates == ["{{ .Registry }}/seven:7", "{{ .Eight }}"]


def test_manifest_image_refused() -> None:
    with pytest.raises(node.BadInput, match='The image in cni.yaml "UPPER/Case:1"'):
        node.manifest_images("- image: UPPER/Case:1\n", "cni.yaml")


@pytest.mark.parametrize(
    ("config", "image"),
    [
        ('[plugins."io.containerd.grpc.v1.cri"]\n  # sandbox_image = "no"\n  sandbox_image = "a/pause:3"\n', "a/pause:3"),
        ("version = 3\n[plugins.'io.containerd.cri.v1.images'.pinned_images]\n  sandbox = 'a/pause:1' # ours\n", "a/pause:1"),
        ("version = 4\n[plugins.'io.containerd.cri.v1.images']\n  pinned_images = { sandbox = \"a/pause:2\" }\n", "a/pause:2"),
        ("[plugins.'io.containerd.cri.v1.images'.registry]\nsandbox = 'a/pause:1'\n", None),
        ('[plugins."io.containerd.grpc.v1.cri"]\nsandbox_image = ""\n', None),
        ("", None),
    ],
)
def test_sandbox_image(config: str, image: str | None) -> None:
    assert (node.sandbox_image(config) or None) == image


def test_required_images() -> None:
    kubeadm = ["registry.k8s.io/kube-proxy:v1", "registry.k8s.io/pause:3.10.2", "registry.k8s.io/etcd:3.7.0-0"]
    assert node.required_images(kubeadm, "localhost/pause:1", ["netd:1", "docker.io/library/netd:1", "registry.k8s.io/etcd:3.7.0-0"]) == [
        "registry.k8s.io/kube-proxy:v1",
        "registry.k8s.io/etcd:3.7.0-0",
        "localhost/pause:1",
        "docker.io/library/netd:1",
    ]
    with pytest.raises(node.BadInput, match="sandbox image"):
        node.required_images(kubeadm, "Not A Reference", [])


def _archive(path, members: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def test_archive_references(tmp_path) -> None:
    docker = json.dumps([{"RepoTags": ["a:1", "b:1"]}, {"RepoTags": None}]).encode()
    assert node.archive_references(_archive(tmp_path / "d.tar", {"layer": b"x", "manifest.json": docker})) == ["a:1", "b:1"]
    oci = json.dumps({"manifests": [{"annotations": {"io.containerd.image.name": "c:1"}}]}).encode()
    assert node.archive_references(_archive(tmp_path / "o.tar", {"./index.json": oci})) == ["c:1"]


@pytest.mark.parametrize(
    ("members", "says"),
    [({"x": b""}, "names no image"), ({"manifest.json": b"{"}, "is broken"), ({"manifest.json": b"[1]"}, "is broken"), (None, "is broken")],
)
def test_archive_refused(tmp_path, members, says: str) -> None:
    path = tmp_path / "a.tar"
    if members is None:
        path.write_bytes(b"not a tar")
    else:
        _archive(path, members)
    with pytest.raises(node.BadInput, match=says) as error:
        node.archive_references(str(path))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("dest", ["relative", "/", "/a/../b", "/a/", "//a", "/run/x", "/tmp", "/var/run/x", "/proc/1", ""])
def test_destination_refused(dest: str) -> None:
    with pytest.raises(node.BadInput, match="The destination"):
        node.check_destination(dest)


def test_destination() -> None:
    assert node.check_destination("/running/x") == "/running/x"


@pytest.mark.parametrize(("mode", "number"), [("0644", 0o644), ("755", 0o755), (420, 0o644), ("4755", 0o4755)])
def test_mode(mode, number: int) -> None:
    assert node.parse_mode(mode) == number


@pytest.mark.parametrize("mode", ["u+x", "9", None, -1, "77777", [], ""])
def test_mode_refused(mode) -> None:
    with pytest.raises(node.BadInput, match="is not octal"):
        node.parse_mode(mode)


def test_tar_stream(tmp_path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"z" * (2 * node.CHUNK + 1))
    files = [
        node.file_from_path(str(big), "/usr/bin/kubelet", 0o755),
        node.file_from_content(b"v1.37.2", node.VERSION_FILE, 0o644),
        node.file_from_content(b"", "/" + "long/" * 40 + "empty", 0o600),
    ]
    chunks = list(node.tar_stream(files, {"/kind": 0o711}))
    assert max(map(len, chunks)) <= node.CHUNK
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        assert [m.name for m in archive] == ["kind", *(file.dest[1:] for file in files)]
        assert {(m.uid, m.gid) for m in archive} == {(0, 0)}
        assert [m.mode for m in archive] == [0o711, 0o755, 0o644, 0o600]
        assert archive.extractfile("usr/bin/kubelet").read() == big.read_bytes()
        assert archive.extractfile("kind/version").read() == b"v1.37.2"


def test_shrinking_file(tmp_path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    file = node.file_from_path(str(path), "/x", 0o644)
    path.write_bytes(b"123")
    with pytest.raises(node.BadInput, match="became shorter"):
        b"".join(node.tar_stream([file], {}))


def test_differing() -> None:
    same = node.file_from_content(b"a", "/etc/a/same", 0o644)
    other = node.file_from_content(b"b", "/etc/a/other", 0o644)
    new = node.file_from_content(b"c", "/new/dir/new", 0o644)
    files = [same, other, new]
    paths = [*node.directories(files), *(file.dest for file in files)]
    assert paths == ["/etc", "/etc/a", "/new", "/new/dir", "/etc/a/same", "/etc/a/other", "/new/dir/new"]
    found = node.parse_listing(paths, f"d\nd\n-\n-\nf 644 0 0 {same.sha256}  -\nf 644 0 0 {same.sha256}  -\n-\n")
    assert node.differing(files, found) == [other, new]
    # content alone does not make it the same
    for line in (f"f 755 0 0 {same.sha256}  -", f"f 644 1 0 {same.sha256}  -", "o"):
        assert node.differing([same], node.parse_listing(["/etc", "/etc/a", same.dest], f"d\nd\n{line}\n")) == [same]
    with pytest.raises(node.BadInput, match="is a directory in the node"):
        node.differing([same], node.parse_listing(["/etc", "/etc/a", same.dest], "d\nd\nd\n"))
    with pytest.raises(node.BadInput, match="/etc/a is not a directory"):
        node.differing([same], node.parse_listing(["/etc", "/etc/a", same.dest], "d\no\n-\n"))


def test_fingerprint() -> None:
    assert node.fingerprint({"a": 1, "b": [2]}) == node.fingerprint({"b": [2], "a": 1})
    assert node.fingerprint({"a": 1}) != node.fingerprint({"a": 2})
    assert len(node.fingerprint(None)) == 64


def test_labels() -> None:
    told = {"platform": "linux/amd64", "base": "b", "base_digest": DIGEST, "fingerprint": "f", "images": ["x:1", "y:2"], "created": "now", "source": None}
    replaced = {"a/etcd:1": "a/etcd:2"}
    labels = node.labels(version="v1.38.0-alpha.1.20+0123abc-dirty", revision=None, replaced=replaced, **told)
    assert labels["org.opencontainers.image.revision"] == "0123abc-dirty"
    assert labels["io.nodeforge.images"] == "x:1,y:2"
    assert labels["io.nodeforge.fingerprint"] == "f"
    assert node.told_replaced(labels) == replaced and node.told_replaced({}) == {}
    assert node.REPLACED_LABEL not in node.labels(version="v1.37.2", revision=None, replaced={}, **told)
    assert "org.opencontainers.image.source" not in labels
    assert "org.opencontainers.image.revision" not in node.labels(version="v1.37.2", revision=None, replaced={}, **told)
    assert node.labels(version="v1.37.2", revision="abc", replaced={}, **told)["org.opencontainers.image.revision"] == "abc"


def test_build_label() -> None:
    container = {"Name": "/me", "Config": {"Labels": {node.BUILD_LABEL: node.build_label("me", "f")}}}
    assert node.build_fingerprint(container) == "f"
    # a container of an image that was made from one
    assert node.build_fingerprint({**container, "Name": "/kind-worker"}) is None
    assert node.build_fingerprint({"Name": "/me", "Config": {"Labels": None}}) is None
    assert node.build_fingerprint({"Name": "/me", "Config": {"Labels": {node.BUILD_LABEL: ""}}}) is None


def test_binary_arch(tmp_path) -> None:
    path = tmp_path / "x"
    for content, arch in [(b"\x7fELF" + b"\0" * 14 + b"\x3e\0", "amd64"), (b"\x7fELF" + b"\0" * 14 + b"\xb7\0", "arm64"), (b"#!/bin/sh", None), (b"", None)]:
        path.write_bytes(content)
        assert node.binary_arch(str(path)) == arch
    path.write_bytes(b"\x7fELF" + b"\0" * 16)
    assert node.binary_arch(str(path)) == "another architecture"


GLOB = '"/etc/containerd/conf.d/*.toml"'


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("version = 2\n[debug]\n", f"imports = [{GLOB}]\nversion = 2\n[debug]\n"),
        ("", f"imports = [{GLOB}]\n"),
        ('version = 2\nimports = ["/a"]\n[debug]\n', f'version = 2\nimports = [{GLOB}, "/a"]\n[debug]\n'),
        ("imports = []\n", f"imports = [{GLOB}, ]\n"),
        (f"imports = [\n  {GLOB},\n]\n", f"imports = [\n  {GLOB},\n]\n"),
        ("imports = ['/etc/containerd/conf.d/*.toml']\n", "imports = ['/etc/containerd/conf.d/*.toml']\n"),
        # of a table, or no setting at all
        (f"# imports = [{GLOB}]\n[x]\nimports = [{GLOB}]\n", f"imports = [{GLOB}]\n# imports = [{GLOB}]\n[x]\nimports = [{GLOB}]\n"),
    ],
)
def test_drop_ins_are_imported_once(config: str, expected: str) -> None:
    assert node.with_drop_ins(config) == expected
    assert node.with_drop_ins(expected) == expected


@pytest.mark.parametrize(
    ("there", "texts", "numbers"),
    [
        ([], [b"a", b"b"], [0, 1]),
        ([b"a", b"b"], [b"a", b"b"], [0, 1]),
        ([b"x"], [b"a", b"b"], [1, 2]),
        ([b"x", b"a", b"b"], [b"a", b"b"], [1, 2]),
        # the base's second would override it
        ([b"a", b"b"], [b"a"], [2]),
        ([b"a", b"b", b"a"], [b"a"], [2]),
        ([b"a"], [b"a", b"b"], [0, 1]),
        ([b"x"], [], []),
    ],
)
def test_drop_ins_go_after_the_bases(there: list[bytes], texts: list[bytes], numbers: list[int]) -> None:
    found = {"other.toml": b"a", **{f"nodeforge-{n:02}.toml": content for n, content in enumerate(there)}}
    names = node.drop_in_names(found, texts)
    assert names == [f"nodeforge-{n:02}.toml" for n in numbers]
    # a second look at what has them by now
    assert node.drop_in_names({**found, **dict(zip(names, texts))}, texts) == names


def test_config_version() -> None:
    assert node.config_version("# x\nversion = 3 # y\n[a]\n") == 3
    assert node.config_version("[a]\nversion = 3\n") is None


def test_version_of_the_control_plane() -> None:
    names = ["kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler"]

    def images(*versions: str) -> list[str]:
        return [f"registry.k8s.io/{name}:{version}" for name, version in zip(names, versions)]

    assert node.control_plane_version(images(*["v1.37.2"] * 4)) == "v1.37.2"
    assert node.control_plane_version(images(*["v1.38.0-alpha.1_abc"] * 4) + ["docker.io/x/y:z"]) == "v1.38.0-alpha.1+abc"
    assert node.control_plane_version(images(*["v1.37.2"] * 3)) is None
    assert node.control_plane_version(images(*["v1.37.2"] * 3, "v1.37.3")) is None
    assert node.control_plane_version(images(*["main"] * 4)) is None
    assert node.control_plane_version([]) is None


def test_names_by_which_kubeadm_asks() -> None:
    scheduler, other = node.parse_reference("registry.k8s.io/kube-scheduler:v1.38.0"), node.parse_reference("registry.k8s.io/etcd:3")
    assert str(node.with_version(scheduler, "v1.37.2+a.b")) == "registry.k8s.io/kube-scheduler:v1.37.2_a.b"
    assert node.with_version(scheduler, None) == scheduler and node.with_version(other, "v1.37.2") == other


def test_what_the_base_holds_is_kept() -> None:
    held = ["registry.k8s.io/etcd:3.6.0-0", "docker.io/x/extra:1", "localhost/pause:1"]
    images = node.required_images(["registry.k8s.io/etcd:3.7.0-0", "registry.k8s.io/pause:3.10"], "localhost/pause:1", [], held)
    assert images == ["registry.k8s.io/etcd:3.7.0-0", "localhost/pause:1", "docker.io/x/extra:1"]
