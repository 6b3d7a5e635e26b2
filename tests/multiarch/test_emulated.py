# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules and roles on a host of the other architecture, reached by SSH; and what it builds for its own platform beside what is built here for it."""

from __future__ import annotations

import base64
import io
import json
import pathlib
import re
import subprocess
import sys
import tarfile
import typing as t

import docker
import pytest
import small_base
import small_kube
import test_kube_make
import yaml
from emulated import GROUP, MACHINE, NUMBER, Emulated, why_not
from remote.conftest import Player, note
from remote.lab import Lab, go_settings, run
from same import differences, files, records
from small_base import ARCH, FOREIGN

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())
PLATFORM = f"linux/{FOREIGN}"
TAG = "nodeforge-emulated-test"
CACHE = pathlib.Path.home() / ".cache/nodeforge"
ROLE = pathlib.Path(__file__).resolve().parents[2] / "roles/supplies"
# what the host keeps for the next run, and where its role supplies does
HOME = small_base.CACHE / f"emulated-{FOREIGN}-home"
THERE = HOME / "cache/nodeforge/supplies"
# its engine makes no network: qemu does not know how the kernel is asked for one
HOST = {
    "build_host_kind_version": "",
    "build_host_engine_options": ["--bridge=none", "--iptables=false", "--ip6tables=false", f"--cgroup-parent=/{GROUP}"],
    "build_host_engine_wait": 180,
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory, ansible_env: dict[str, str]) -> Player:
    return Player(tmp_path_factory.mktemp("p"), {**ansible_env, "ANSIBLE_CONFIG": str(pathlib.Path(__file__).resolve().parents[2] / "ansible.cfg")})


@pytest.fixture(scope="module")
def host(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Emulated]:
    """What it has made is kept for the next run: its Go, what that has compiled, the root filesystem of nodes."""
    for name in ("cache", "modules"):
        (HOME / name).mkdir(parents=True, exist_ok=True)
    modules = pathlib.Path(run("go", "env", "GOMODCACHE").stdout.strip())
    supplies = {"srv/supplies": [CACHE / "supplies", tmp_path_factory.mktemp("above")]}
    made = Emulated(lab, "emulated", {"root/.cache": [HOME / "cache"], "root/go/pkg/mod": [modules, HOME / "modules"], **supplies})
    # the very Go of this machine, which Debian's fetches there
    toolchain = f"GOTOOLCHAIN={run('go', 'env', 'GOVERSION').stdout.strip()}+auto\n"
    made.sh("mkdir -p ~/.config/go; cat >~/.config/go/env", input=go_settings() + toolchain)
    yield made
    made.close()


@pytest.fixture(scope="module")
def ready(host: Emulated, play: Player) -> dict[str, t.Any]:
    """What the role build_host tells of it, after it has seen to engine and Go."""
    wanted = "{'platform': build_host_platform, 'path': build_host_environment.PATH, 'facts': ansible_facts}"
    ended = play([{"ansible.builtin.include_role": {"name": "nodeforge.kind.build_host"}}, note(wanted)], {"emulated": host.variables()}, **HOST)
    print(f"build_host: {ended.seconds:.0f} s, changed {ended.changed('emulated')}")
    return t.cast(dict[str, t.Any], ended.facts["emulated"])


def machine(head: bytes) -> int:
    assert head[:4] == b"\x7fELF"
    return int.from_bytes(head[18:20], "little")


def test_facts(host: Emulated, play: Player) -> None:
    """Both ways to gather them, and nothing in it is of this machine."""
    tasks = [{"nodeforge.kind.host_look": {}}, note("ansible_facts")]
    quick = play(tasks, {"emulated": host.variables()}).facts["emulated"]
    tasks[0] = {"ansible.builtin.setup": {"gather_subset": ["min"]}}
    full = play(tasks, {"emulated": host.variables()}).facts["emulated"]
    assert quick["architecture"] == full["architecture"] == MACHINE
    assert {name: full[name] for name in quick if name not in ("env", "python")} == {name: quick[name] for name in quick if name not in ("env", "python")}
    assert host.sh("dpkg --print-architecture") == FOREIGN
    assert machine(host.read("/usr/bin/python3", 20)) == machine(host.read("/usr/sbin/dockerd", 20)) == NUMBER


def test_the_role_build_host(host: Emulated, ready: dict[str, t.Any], play: Player) -> None:
    assert ready["platform"] == PLATFORM
    engine = json.loads(host.sh("docker version --format '{{json .Server}}'"))
    assert (engine["Os"], engine["Arch"]) == ("linux", FOREIGN), engine
    assert host.sh("docker info --format '{{.Architecture}}'") == MACHINE
    assert f"linux/{FOREIGN}" in host.sh(f"PATH={ready['path']} go version")
    again = play([{"ansible.builtin.include_role": {"name": "nodeforge.kind.build_host"}}], {"emulated": host.variables()}, **HOST)
    assert again.changed("emulated") == 0, again.output[-3000:]


@pytest.fixture(scope="module")
def tree(host: Emulated, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small Go program as a Kubernetes tree, on the host."""
    made = test_kube_make.Tree(tmp_path_factory.mktemp("tree") / "kubernetes")
    made.write("Makefile", test_kube_make.MAKEFILE.replace("$(COUNTER)", "/root/kubernetes.count"))
    made.git("add", "--all")
    made.git("commit", "-q", "--amend", "--no-edit")
    made.git("tag", "--force", "v1.37.2")
    pack = subprocess.Popen(["tar", "-C", str(made.path.parent), "--owner=0", "--group=0", "-cf", "-", "kubernetes"], stdout=subprocess.PIPE)
    host.sh("rm -rf kubernetes*; tar -xf -", stdin=pack.stdout)
    assert pack.wait() == 0
    return "/root/kubernetes"


def test_a_small_tree(host: Emulated, ready: dict[str, t.Any], tree: str, play: Player) -> None:
    """Looked at, compiled by a Go of the host's own, and taken as it is."""
    hosts = {"emulated": host.variables()}
    environment = {"environment": {"PATH": ready["path"]}}
    look = {"nodeforge.kind.kube_tree_info": {"source": tree, "targets": ["all"]}, "register": "look"}
    findings = {found["topic"]: found for found in play([look, note("look.findings")], hosts, play=environment).facts["emulated"]}
    assert findings["platform"]["value"] == f"{PLATFORM}, the engine's own", findings
    assert findings["go"]["level"] == "ok" and "v1.37.2" in findings["kubernetes"]["value"], findings

    images: dict[str, t.Any] = {"tree": tree, "targets": ["quick-release-images"], "what": ["cmd/kubeadm", "cmd/kubectl", "cmd/kubelet"]}
    host.sh(f"cd {tree}; [ -e cmd/kubectl ] || cp -r cmd/kubeadm cmd/kubectl; rm -rf _output")
    make = [{"nodeforge.kind.kube_make": images, "register": "made"}, note("made")]
    first = play(make, hosts, play=environment)
    print(f"kube_make: {first.seconds:.0f} s")
    made = first.facts["emulated"]
    assert made["changed"] and made["platform"] == PLATFORM and f"KUBE_BUILD_PLATFORMS={PLATFORM}" in made["cmd"]
    for name, binary in made["outputs"]["binaries"].items():
        assert binary["path"] == f"{tree}/_output/dockerized/bin/{PLATFORM}/{name}"
        assert machine(host.read(binary["path"], 20)) == NUMBER and binary["static"]
        assert host.sh(f"sha256sum {binary['path']}").split()[0] == binary["sha256"]
        assert host.sh(binary["path"]).endswith("says hello")
    assert made["outputs"]["images"]["kube-proxy"]["ref"] == f"registry.k8s.io/kube-proxy-{FOREIGN}:v1.37.2"
    for options in ((), ("--check",)):
        assert play(make, hosts, *options, play=environment).changed("emulated") == 0
    # for this machine's platform, which is the foreign one there
    images["platform"] = f"linux/{ARCH}"
    other = play(make, hosts, play=environment).facts["emulated"]
    assert machine(host.read(other["outputs"]["binaries"]["kubelet"]["path"], 20)) != NUMBER

    take: dict[str, t.Any] = {"source": f"{tree}/_output", "cache_dir": "/root/artifacts"}
    taken = play([{"nodeforge.kind.kube_artifacts": take, "register": "taken"}, note("taken")], hosts, play=environment).facts["emulated"]
    assert taken["platform"] == PLATFORM and taken["version"] == "v1.37.2" and not taken["changed"]
    assert taken["outputs"]["binaries"]["kubelet"]["sha256"] == made["outputs"]["binaries"]["kubelet"]["sha256"]
    assert taken["outputs"]["images"]["kube-proxy"]["sha256"] == made["outputs"]["images"]["kube-proxy"]["sha256"]


# What is built for the platform, here and there


class Built(t.NamedTuple):
    """A node image: where it lies, unpacked nowhere, and what the engine and the play say of it."""

    archive: pathlib.Path
    image: dict[str, t.Any]


class Both:
    """The same image for the other platform, made here without running anything of it, and made by the host that is of it."""

    def __init__(self, host: Emulated, play: Player, directory: pathlib.Path) -> None:
        self.host, self.play, self.directory = host, play, directory
        # the same path on both
        self.artifacts = small_kube.artifacts(directory / "_output")
        pack = subprocess.Popen(["tar", "-C", "/", "-cf", "-", str(self.artifacts)[1:]], stdout=subprocess.PIPE)
        host.sh("tar -C / -xf -", stdin=pack.stdout)
        assert pack.wait() == 0
        self.here = {"localhost": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}}
        self.given = {"kube_platform": PLATFORM, "kube_source": f"artifacts:{self.artifacts}", "kube_source_on": "host"}
        self.supplies = self._supplies()
        self._lay_out()

    def _supplies(self) -> dict[str, str]:
        """The base image and add-ons made here."""
        wanted = "{'layout': supplies_layout, 'importer': supplies_importer, 'tool': supplies_tools[0], 'base': supplies_base_image, "
        wanted += "'twin': __supplies_rootfs, 'native': __supplies_native_rootfs}"
        tasks = [
            {"ansible.builtin.include_role": {"name": "nodeforge.kind.build_host"}},
            {"ansible.builtin.include_role": {"name": "nodeforge.kind.supplies", "tasks_from": "tools"}},
            {"ansible.builtin.include_role": {"name": "nodeforge.kind.supplies", "public": True}, "vars": {"supplies_serve": False}},
            note(wanted),
        ]
        kubeadm = self.artifacts / "dockerized/bin/linux" / ARCH / "kubeadm"
        made = self.play(tasks, self.here, kube_platform=PLATFORM, build_host_kind_version="", supplies_kubeadm=str(kubeadm), nodeforge_cache=str(CACHE))
        return t.cast(dict[str, str], made.facts["localhost"])

    def _lay_out(self) -> None:
        """What would take the emulated Go an hour comes from here: our tools, the add-ons, and the base image. Its root, and what Go makes, are compared."""
        role = ROLE / "files"
        for name, source in (("image", self.supplies["tool"]), ("store", self.supplies["importer"])):
            program = pathlib.Path(source).resolve()
            target = THERE / program.parent.name / program.name
            target.parent.mkdir(parents=True, exist_ok=True)
            script = '. "$1/scripts/go.sh"; GOOS=linux GOARCH=$4; export GOOS GOARCH; build "$1/src/$2" "$3" .'
            subprocess.run(["sh", "-c", script, str(role / "scripts/x"), str(role), name, str(target), FOREIGN], check=True)
        add_ons = pathlib.Path(self.supplies["layout"]).parent.name
        self.host.sh(f"cd ~/.cache/nodeforge/supplies; [ -e {add_ons} ] || cp -rs /srv/supplies/{add_ons} .")
        save = subprocess.Popen(["docker", "save", self.supplies["base"]], stdout=subprocess.PIPE)
        self.host.sh("docker load", stdin=save.stdout)
        assert save.wait() == 0

    def build(self, where: str, name: str, **variables: t.Any) -> Built:
        hosts, more = self.here, {"build_host_kind_version": "", "nodeforge_cache": str(CACHE)}
        if where == "there":
            hosts, more = {"emulated": self.host.variables()}, HOST
        # a tag for each: an image that is there already would not be made again, however it is to be made
        tag = f"{TAG}-{name}"
        ended = self.play("nodeforge.kind.build_node", hosts, target=next(iter(hosts)), node_image_tag=tag, **self.given, **more, **variables)
        assert ended.changed(next(iter(hosts))) > 0
        print(f"{name}: {ended.seconds:.0f} s, of which {re.findall('seconds +(.*)', ended.output)[-1]}")
        return self.taken(where, f"kindest/node:{tag}", name)

    def taken(self, where: str, image: str, name: str) -> Built:
        """The image's files as an archive here."""
        archive = self.directory / f"{name}.tar"
        script = f"id=$(docker create --platform {PLATFORM} --network none {image} x) && docker export $id && docker rm $id >/dev/null"
        look = f"docker image inspect {image}"
        with archive.open("wb") as file:
            subprocess.run(self.host.ssh(script) if where == "there" else ["sh", "-c", script], stdout=file, check=True)
        told = self.host.sh(look) if where == "there" else run("sh", "-c", look).stdout
        return Built(archive, json.loads(told)[0])


@pytest.fixture(scope="module")
def both(host: Emulated, ready: dict[str, t.Any], play: Player, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Both]:
    yield Both(host, play, tmp_path_factory.mktemp("both"))
    small_base.remove_all(docker.from_env(), f"kindest/node:{TAG}")


def versions(root: pathlib.Path) -> list[str]:
    """Packages of a root."""
    status = run("tar", "-xOf", str(root), "./var/lib/dpkg/status").stdout
    return re.findall(r"^(?:Package|Version): .*$", status, re.M)


def same_roots(one: str, other: str) -> None:
    mine, others = files(pathlib.Path(one))[0], files(pathlib.Path(other))[0]
    # which of both has this one is up to the version of mmdebstrap; each image has it
    for root in (mine, others):
        root.pop("dev", None)
    found = differences(mine, others)
    print(f"{len(mine)} files of {one} compared, {len(found)} differ")
    assert found == {} and len(mine) > 4000


def test_roots(both: Both, tmp_path: pathlib.Path) -> None:
    """twin.py beside the packages' own scripts, which the host of the other architecture runs: in both directions, each file is the same."""
    native = THERE / pathlib.Path(both.supplies["twin"]).name
    # the mirror may have had other packages when an earlier run of these tests made it
    if native.exists() and versions(native) != versions(pathlib.Path(both.supplies["twin"])):
        native.unlink()
    roles = [{"ansible.builtin.include_role": {"name": "nodeforge.kind.build_host"}}]
    roles.append({"ansible.builtin.include_role": {"name": "nodeforge.kind.supplies", "tasks_from": "tools"}})
    made = both.play(roles, {"emulated": both.host.variables()}, **HOST)
    print(f"the root there: {made.seconds:.0f} s")
    same_roots(both.supplies["twin"], str(native))
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    words = [defaults[f"supplies_{name}_suite"] for name in ("debian", "containerd")]
    words += [",".join(defaults["supplies_containerd_packages"]), ",".join(sorted(defaults["supplies_packages"]))]
    back = tmp_path / "back.tar"
    run("sh", str(ROLE / "files/scripts/rootfs.sh"), str(back), ARCH, *words, "", "", str(native), sys.executable)
    same_roots(both.supplies["native"], str(back))


def told(image: dict[str, t.Any]) -> dict[str, t.Any]:
    """What an image says of itself, but for times and ids."""
    config = image["Config"]
    labels = {name: text for name, text in config["Labels"].items() if name != "org.opencontainers.image.created"}
    kept = {name: config.get(name) for name in ("User", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "StopSignal", "ExposedPorts", "Hostname")}
    return {**{f"label {name}": text for name, text in labels.items()}, **kept, **{name: image[name] for name in ("Os", "Architecture", "Author", "Comment")}}


def test_programs(both: Both, ready: dict[str, t.Any], tmp_path: pathlib.Path) -> None:
    """Whose Go compiles it does not matter."""
    script = '. "$1/files/scripts/go.sh"; GOOS=linux GOARCH=$2; export GOOS GOARCH; build "$1/files/src/addons" "$3" ./cmd/pause'
    here = tmp_path / "pause"
    run("sh", "-c", script, str(ROLE / "files/scripts/x"), str(ROLE), FOREIGN, str(here))
    sources = io.BytesIO()
    with tarfile.open(fileobj=sources, mode="w") as tar:
        tar.add(ROLE / "files", "files")
    both.host.sh("rm -rf /root/role && mkdir /root/role && base64 -d | tar -C /root/role -x", input=base64.b64encode(sources.getvalue()).decode())
    sha256 = both.host.sh(
        f"PATH={ready['path']} sh -c '{script}' /root/role/files/scripts/x /root/role {FOREIGN} /root/pause; sha256sum /root/pause; rm -rf /root/role"
    ).split()[0]
    assert machine(here.read_bytes()[:20]) == NUMBER and test_kube_make.sha256(here) == sha256


def compared(one: Built, other: Built, by_containerd: bool = False) -> dict[t.Any, t.Any]:
    mine, my_database = files(one.archive)
    others, other_database = files(other.archive)
    tables = [records(my_database), records(other_database)]
    found = {}
    if by_containerd:
        # it leaves the layers of an archive as they are, while ours compresses them: an image's configuration tells what is in its layers
        found = differences(*(contents(built.archive, table) for built, table in zip((one, other), tables)))
        mine = {path: file for path, file in mine.items() if not path.startswith(BLOBS)}
        others = {path: file for path, file in others.items() if path in mine or not path.startswith(OF_CONTAINERD)}
        # its view of an image: named by its configuration, too, and with what the archive said of it
        tables = [{name: value for name, value in table.items() if not OF_RUN.intersection(name) and not about_digest(name)} for table in tables]
    found |= {**differences(mine, others), **differences(*tables), **differences(told(one.image), told(other.image))}
    for name, (first, second) in found.items():
        print(name, first, second, sep="\n  ")
    print(f"{len(mine)} files, {len(tables[0])} records of containerd and what the image says of itself compared, {len(found)} differ")
    assert len(mine) > 4000 and len(images_of(tables[0])) > 8
    return found


def contents(archive: pathlib.Path, table: dict[tuple[bytes, ...], bytes]) -> dict[bytes, str]:
    """The digest of each image's configuration, by the image's name, where all of the image is there."""
    found = {}
    with tarfile.open(archive) as tar:
        for name in images_of(table):
            if not name.startswith(b"sha256:"):
                target = table[b"v1", b"k8s.io", b"images", name, b"target", b"digest"].decode()
                manifest = json.loads(t.cast(t.IO[bytes], tar.extractfile(f"{BLOBS}/{target.replace(':', '/')}")).read())
                for part in (manifest["config"], *manifest["layers"]):
                    assert tar.getmember(f"{BLOBS}/{part['digest'].replace(':', '/')}").size == part["size"], (name, part)
                found[name] = manifest["config"]["digest"]
    return found


# what a containerd that has run leaves in its directory besides content and names
OF_CONTAINERD = ("opt/containerd", "var/lib/containerd/io.containerd.", "var/lib/containerd/tmpmounts")
OF_RUN = {b"annotations", b"io.cri-containerd.image", b"leases", b"content", b"target"}
BLOBS = "var/lib/containerd/io.containerd.content.v1.content/blobs"


def about_digest(name: tuple[bytes, ...]) -> bool:
    return name[2:3] == (b"images",) and name[3:4] != () and name[3].startswith(b"sha256:")


def images_of(table: dict[tuple[bytes, ...], bytes]) -> set[bytes]:
    return {name[3] for name in table if name[2:3] == (b"images",) and len(name) > 3}


def test_foreign_and_native(both: Both) -> None:
    """Nothing differs but times and ids: neither a file, nor a record of containerd, nor what the image says of itself."""
    here = both.build("here", "here")
    assert compared(here, both.build("there", "there")) == {}
    # and where the node's own containerd, which is emulated, imports: it has the same content under the same names
    assert compared(here, both.build("there", "by-containerd", node_image_importer=""), by_containerd=True) == {}
