# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""roles/supplies against the real mirror, compiler and engine, in the cache that the other tests and the user share."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import time
import typing as t
import urllib.error
import urllib.request
import uuid

import pytest

ROLE = pathlib.Path(__file__).resolve().parents[2] / "roles" / "supplies"
FACTS = [
    "supplies_registry",
    "supplies_mirrors",
    "supplies_base_image",
    "supplies_images",
    "supplies_cni_manifest",
    "supplies_storage_manifest",
    "supplies_kubeadm_patches",
    "supplies_replaced_images",
]
PLAY = """
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.include_role:
        name: nodeforge.kind.build_host
      vars:
        build_host_engine: "{{ engine | default('present') }}"
        build_host_kind_version: ''
    - ansible.builtin.include_role:
        name: nodeforge.kind.supplies
        tasks_from: tools
    - when: not (tools_only | default(false))
      block:
        - ansible.builtin.include_role:
            name: nodeforge.kind.supplies
        - ansible.builtin.copy:
            content: "{{ dict(names | zip(query('ansible.builtin.vars', *names))) | to_json }}"
            dest: "{{ facts }}"
            mode: '0600'
          changed_when: false
          check_mode: false
        - ansible.builtin.wait_for:
            path: "{{ hold }}"
            state: absent
            timeout: 3600
          when: hold is defined
      always:
        - ansible.builtin.include_role:
            name: nodeforge.kind.supplies
            tasks_from: stop
"""


class Played(t.NamedTuple):
    rc: int
    output: str
    changed: int
    facts: dict[str, t.Any]


class Play:
    """The play in a process; what it holds for ends with its ``hold`` file."""

    def __init__(self, directory: pathlib.Path, env: dict[str, str]) -> None:
        self.directory, self.env = directory, env
        (directory / "play.yml").write_text(PLAY)

    def start(self, *options: str, **variables: t.Any) -> tuple[subprocess.Popen, pathlib.Path]:
        facts = self.directory / f"{uuid.uuid4()}.json"
        variables.update(facts=str(facts), names=FACTS)
        process = subprocess.Popen(
            ["ansible-playbook", str(self.directory / "play.yml"), "-e", json.dumps(variables), *options],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return process, facts

    def end(self, process: subprocess.Popen, facts: pathlib.Path) -> Played:
        output = process.communicate(timeout=1800)[0]
        changed = re.search(r"changed=(\d+)", output)
        assert "Traceback" not in output, output
        return Played(
            process.returncode,
            output,
            int(changed[1]) if changed else -1,
            json.loads(facts.read_text()) if facts.exists() else {},
        )

    def __call__(self, *options: str, **variables: t.Any) -> Played:
        return self.end(*self.start(*options, **variables))


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory, ansible_env: dict[str, str]) -> Play:
    return Play(tmp_path_factory.mktemp("supplies"), ansible_env)


class Supplied(t.NamedTuple):
    facts: dict[str, t.Any]
    cache: pathlib.Path


@pytest.fixture(scope="module")
def supplied(play: Play, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Supplied]:
    """The role has run, and its registry serves until the module's tests are over."""
    hold = tmp_path_factory.mktemp("hold") / "hold"
    hold.touch()
    process, facts = play.start(hold=str(hold))
    try:
        deadline = time.monotonic() + 1800
        while not facts.exists():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.2)
        time.sleep(0.5)
        found = json.loads(facts.read_text())
        yield Supplied(found, pathlib.Path(found["supplies_cni_manifest"]).parents[2])
    finally:
        hold.unlink()
        ended = play.end(process, facts)
    assert ended.rc == 0, ended.output


def http(method: str, url: str, **headers: str) -> tuple[int, bytes, t.Mapping[str, str]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method, headers=headers), timeout=10) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as e:
        return e.code, e.read(), e.headers


class DockerError(Exception):
    """What the engine said instead."""


def docker(*args: str, **options: t.Any) -> str:
    ended = subprocess.run(["docker", *args], capture_output=True, text=True, timeout=300, check=False, **options)
    if ended.returncode != 0:
        raise DockerError(ended.stderr.strip())
    return ended.stdout.strip()


@pytest.mark.parametrize("module", ["image", "addons", "store"])
def test_go(module: str, supplied: Supplied) -> None:
    """The Go programs' own tests: decisions, and netd's routes and rules in the real kernel."""
    ended = subprocess.run(
        ["go", "test", "./..."],
        cwd=ROLE / "files" / "src" / module,
        env={**os.environ, "GOFLAGS": "-buildvcs=false", "PATH": f"{os.environ['PATH']}:/usr/local/go/bin"},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "ok" in ended.stdout


def test_every_file_has_a_say() -> None:
    """What decides the names of what is made must see every file of the role."""
    directories = (ROLE / "vars" / "main.yml").read_text()
    for file in (ROLE / "files").rglob("*"):
        if file.is_file():
            assert re.search(
                rf"[ \[]{re.escape(str(file.parent.relative_to(ROLE / 'files')))}(,|\]|\n)", directories
            ), file


def test_second_run(play: Play, supplied: Supplied) -> None:
    again = play()
    assert again.rc == 0, again.output
    assert again.changed == 0, again.output
    assert {k: v for k, v in again.facts.items() if k not in ("supplies_registry", "supplies_mirrors")} == {
        k: v for k, v in supplied.facts.items() if k not in ("supplies_registry", "supplies_mirrors")
    }
    # that play had a registry of its own, which is gone; the other one still serves
    assert again.facts["supplies_registry"] != supplied.facts["supplies_registry"]
    with pytest.raises(urllib.error.URLError):
        http("GET", f"http://{again.facts['supplies_registry']}/v2/")
    assert http("GET", f"http://{supplied.facts['supplies_registry']}/v2/")[0] == 200


def test_check_mode_of_a_second_run(play: Play, supplied: Supplied) -> None:
    check = play("--check")
    assert (check.rc, check.changed) == (0, 0), check.output
    assert check.facts["supplies_base_image"] == supplied.facts["supplies_base_image"]


def test_check_mode_of_a_first_run(play: Play, tmp_path: pathlib.Path) -> None:
    check = play("--check", nodeforge_cache=str(tmp_path / "cache"))
    assert check.rc == 0, check.output
    assert check.changed > 0
    assert check.facts["supplies_mirrors"] == {} and check.facts["supplies_registry"] == ""
    assert not (tmp_path / "cache").exists()


def test_registry_serves_every_image(supplied: Supplied) -> None:
    assert set(supplied.facts["supplies_mirrors"]) == {"registry.k8s.io", "docker.io"}
    for ref, digest in supplied.facts["supplies_images"].items():
        host, path = ref.split("/", 1)
        repository, tag = path.rsplit(":", 1)
        url = supplied.facts["supplies_mirrors"][host][0] + f"/v2/{repository}"
        status, manifest, headers = http("GET", f"{url}/manifests/{tag}?ns={host}")
        assert status == 200, ref
        assert headers["Docker-Content-Digest"] == digest == f"sha256:{hashlib.sha256(manifest).hexdigest()}"
        parsed = json.loads(manifest)
        for blob in [parsed["config"], *parsed["layers"]]:
            status, content, _headers = http("GET", f"{url}/blobs/{blob['digest']}")
            assert (status, len(content)) == (200, blob["size"])
            assert blob["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert http("PUT", f"http://{supplied.facts['supplies_registry']}/v2/x/manifests/y")[0] == 405
    assert http("GET", f"http://{supplied.facts['supplies_registry']}/v2/etcd/manifests/0.0.0")[0] == 404


def test_manifests_name_what_is_served(supplied: Supplied) -> None:
    for manifest in (supplied.facts["supplies_cni_manifest"], supplied.facts["supplies_storage_manifest"]):
        text = pathlib.Path(manifest).read_text()
        images = set(re.findall(r"docker\.io/[^\s\"]+", text))
        assert images
        assert images <= set(supplied.facts["supplies_images"])
        assert "@" not in text
    cni = pathlib.Path(supplied.facts["supplies_cni_manifest"]).read_text()
    assert "would you kindly template this file" in cni
    assert "{{ .PodSubnet }}" in cni


def test_base_image(supplied: Supplied) -> None:
    base = supplied.facts["supplies_base_image"]
    config = json.loads(docker("image", "inspect", base))[0]["Config"]
    assert config["Entrypoint"] == ["/usr/local/bin/entrypoint", "/sbin/init"]
    assert config["StopSignal"] == "SIGRTMIN+3"
    assert {"org.opencontainers.image.version", "io.nodeforge.platform", "io.nodeforge.fingerprint"} <= set(
        config["Labels"]
    )

    def run(*command: str) -> str:
        return docker("run", "--rm", "--network", "none", "--entrypoint", command[0], base, *command[1:])

    assert int(re.search(r" v?(\d+)\.\d+\.\d+", run("containerd", "--version"))[1]) >= 2
    # kind finds the sandbox image by this very pattern
    sandbox = re.search(r'sandbox_image\s+=\s+"([^\n]+)"', run("cat", "/etc/containerd/config.toml"))[1]
    assert sandbox in supplied.facts["supplies_images"]
    assert sandbox in run("containerd", "config", "dump")
    assert set(run("ls", "/opt/cni/bin").split()) >= {"ptp", "host-local", "portmap", "loopback"}
    # nothing of the machine that made it
    assert (
        run("sh", "-c", "cat /etc/apt/sources.list /etc/apt/sources.list.d/* /etc/machine-id 2>/dev/null || true") == ""
    )
    with pytest.raises(DockerError, match=r"^crictl: .*frobnicate.*$"):
        run("crictl", "frobnicate")


def test_base_image_boots(supplied: Supplied) -> None:
    """systemd comes up as kind waits for it, and containerd answers crictl; no kubelet without a cluster."""
    name = f"nodeforge-test-supplies-{uuid.uuid4().hex[:8]}"
    docker("network", "create", name)
    docker(
        *[
            "run",
            "--detach",
            "--network",
            name,
            "--tty",
            "--privileged",
            "--name",
            name,
            "--hostname",
            name,
            "--tmpfs",
            "/run",
            "--tmpfs",
            "/tmp",
        ],
        *[
            "--volume",
            "/var",
            "--security-opt",
            "seccomp=unconfined",
            "--cgroupns",
            "private",
            supplied.facts["supplies_base_image"],
        ],
    )
    try:
        deadline = time.monotonic() + 120
        while "Multi-User System" not in (log := docker("logs", name)):
            assert time.monotonic() < deadline, log
            time.sleep(0.5)
        assert docker("exec", name, "systemctl", "is-active", "containerd") == "active"
        assert docker("exec", name, "systemctl", "--failed", "--plain", "--no-legend") == ""
        assert "RuntimeName:  containerd" in docker("exec", name, "crictl", "version")
        ready = json.loads(docker("exec", name, "crictl", "info"))["status"]["conditions"]
        assert {"RuntimeReady": True}.items() <= {c["type"]: c["status"] for c in ready}.items()
        images = json.loads(docker("exec", name, "crictl", "images", "-o", "json"))["images"]
        assert {tag for image in images for tag in image["repoTags"]} == set(supplied.facts["supplies_images"])
        # docker's resolver serves the node through an address that pods reach, too
        assert "127.0.0.11" not in docker("exec", name, "cat", "/etc/resolv.conf")
        assert docker("exec", name, "getent", "ahostsv4", name).split()[0].count(".") == 3
        identity = docker("exec", name, "cat", "/etc/machine-id", "/kind/product_uuid")
        docker("restart", name)
        assert docker("exec", name, "cat", "/etc/machine-id", "/kind/product_uuid") == identity
    finally:
        docker("rm", "--force", "--volumes", name)
        docker("network", "rm", name)


def test_iptables_root(supplied: Supplied) -> None:
    """kube-proxy's programs run, with the extensions that every two-endpoint service needs."""
    archive = supplied.cache / "supplies" / f"iptables-{docker('version', '--format', '{{.Server.Arch}}')}.tar"
    image = f"nodeforge-test-iptables:{uuid.uuid4().hex[:8]}"
    with archive.open("rb") as root:
        docker("import", "-", image, stdin=root)
    try:
        for command in (
            "iptables -t nat -A OUTPUT -m statistic --mode random --probability 0.5 -m comment --comment ok -j RETURN",
            "ip6tables-nft-save",
            "iptables-legacy --version",
            "nft list ruleset",
            "conntrack --version",
        ):
            docker(
                "run",
                "--rm",
                "--network",
                "none",
                "--cap-add",
                "NET_ADMIN",
                "--entrypoint",
                f"/usr/sbin/{command.split()[0]}",
                image,
                *command.split()[1:],
            )
    finally:
        docker("rmi", image)


@contextlib.contextmanager
def registry(supplied: Supplied, runs: pathlib.Path, ttl: int) -> t.Iterator[dict[str, t.Any]]:
    script = ["sh", str(ROLE / "files" / "scripts" / "registry.sh")]
    layout = pathlib.Path(supplied.facts["supplies_cni_manifest"]).parent
    started = json.loads(
        subprocess.run(
            [*script, "start", str(supplied.cache / "bin" / "nodeforge-image"), str(layout), str(runs), str(ttl)],
            check=True,
            capture_output=True,
            timeout=60,
        ).stdout
    )
    try:
        yield started
    finally:
        for dummy in range(2):  # a second stop does no harm
            subprocess.run([*script, "stop", started["run"]], check=True, timeout=60)


def test_what_killed_plays_left_is_removed(supplied: Supplied, tmp_path: pathlib.Path) -> None:
    """Of the directories without a server only one that is being made right now stays."""
    for name, minutes, port in (("killed", 5, False), ("serving", 5, True), ("starting", 0, False)):
        (tmp_path / name).mkdir()
        if port:
            (tmp_path / name / "port").touch()
        when = time.time() - 60 * minutes
        os.utime(tmp_path / name, (when, when))
    with registry(supplied, tmp_path, 3600):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"serving", "starting"}


def test_registries_end(supplied: Supplied, tmp_path: pathlib.Path) -> None:
    with registry(supplied, tmp_path, 3600) as one, registry(supplied, tmp_path, 1) as two:
        assert one["images"] == supplied.facts["supplies_images"]
        time.sleep(2)
        with pytest.raises(urllib.error.URLError):  # its time is up
            http("GET", f"http://127.0.0.1:{two['port']}/v2/")
        assert http("GET", f"http://127.0.0.1:{one['port']}/v2/")[0] == 200
    with pytest.raises(urllib.error.URLError):
        http("GET", f"http://127.0.0.1:{one['port']}/v2/")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def private_cache(supplied: Supplied, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The shared cache's supplies in a place where nobody else works."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:  # another file system
            shutil.copy2(source, target)

    cache = tmp_path_factory.mktemp("cache") / "cache"
    shutil.copytree(
        supplied.cache / "supplies", cache / "supplies", copy_function=link, ignore=shutil.ignore_patterns("run")
    )
    (cache / "bin").mkdir()
    (cache / "bin" / "nodeforge-image").symlink_to(os.readlink(supplied.cache / "bin" / "nodeforge-image"))
    (cache / "supplies" / "run").mkdir()
    return cache


@pytest.mark.usefixtures("no_orphans")
def test_registry_of_a_killed_play_ends(play: Play, supplied: Supplied, tmp_path: pathlib.Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    process, facts = play.start(hold=str(hold))
    try:
        while not facts.exists() or not facts.read_text():
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.2)
        url = f"http://{json.loads(facts.read_text())['supplies_registry']}/v2/"
        assert http("GET", url)[0] == 200
        process.kill()
        process.wait(30)
        deadline = time.monotonic() + 10
        with pytest.raises(urllib.error.URLError):
            while time.monotonic() < deadline:
                http("GET", url)
                time.sleep(0.2)
    finally:
        hold.unlink()
        process.kill()
        process.stdout.close()


COMPLETE = re.compile(
    r"modules|run|iptables-\w+\.tar|(recipe|set|tool)-[0-9a-f]{12}|(rootfs|iptables-\w+)-[0-9a-f]{12}\.tar"
)


def half_made(supplies: pathlib.Path) -> list[str]:
    """What has no name of something complete, and what is in a complete one's place without being it."""
    return [
        path.name
        for path in supplies.iterdir()
        if not COMPLETE.fullmatch(path.name)
        or (path.name.startswith("set-") and not (path / "images.json").exists())
        or (path.name.startswith("tool-") and [file.name for file in path.iterdir()] not in ([], ["nodeforge-image"], ["nodeforge-store"]))
        or (path.name == "modules" and not all((made / "go.sum").exists() for made in path.iterdir()))
        or (path.name == "run" and list(path.iterdir()))
    ]


def kubeadm(directory: pathlib.Path, etcd: str, coredns: str) -> str:
    """Stands for the kubeadm of another Kubernetes version, of which only the list of images is asked."""
    program = directory / "kubeadm"
    program.write_text(
        f"#!/bin/sh\nprintf 'registry.k8s.io/coredns/coredns:{coredns}\\nregistry.k8s.io/etcd:{etcd}\\n'\n"
    )
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("variables", "replaced", "tags"),
    [
        ({}, {}, {}),
        ({"supplies_etcd_version": "3.6.5", "supplies_coredns_version": "v1.12.1"}, {}, {}),
        (
            {"supplies_etcd_version": "3.7.0"},
            {"registry.k8s.io/etcd:3.6.5-0": "registry.k8s.io/etcd:3.7.0-0"},
            {"etcd": {"local": {"imageTag": "3.7.0-0"}}},
        ),
        (
            {"supplies_coredns_version": "1.14.6"},
            {"registry.k8s.io/coredns/coredns:v1.12.1": "registry.k8s.io/coredns/coredns:v1.14.6"},
            {"dns": {"imageTag": "v1.14.6"}},
        ),
    ],
)
def test_versions(
    play: Play,
    tmp_path: pathlib.Path,
    supplied: Supplied,
    variables: dict[str, str],
    replaced: dict[str, str],
    tags: dict[str, t.Any],
) -> None:
    """Check mode tells which images would be there, and what kubeadm has to be told."""
    played = play("--check", supplies_kubeadm=kubeadm(tmp_path, "3.6.5-0", "v1.12.1"), **variables)
    assert played.rc == 0, played.output
    assert played.facts["supplies_replaced_images"] == replaced
    assert len(played.facts["supplies_kubeadm_patches"]) == bool(replaced)
    for patch in map(json.loads, played.facts["supplies_kubeadm_patches"]):
        assert patch == {"kind": "ClusterConfiguration", **tags}


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"supplies_etcd_version": "3.99.0"}, r"go\.etcd\.io/etcd/server/v3@v3\.99\.0: set supplies_etcd_version"),
        ({"supplies_kubeadm": "/nowhere/kubeadm"}, r"supplies_kubeadm names /nowhere/kubeadm, which is no program"),
        (
            {"supplies_platform": "linux/s390x"},
            r"supplies_platform must be one of: linux/amd64, linux/arm64, got: linux/s390x",
        ),
        (
            {"supplies_keyring": "/nowhere.gpg", "supplies_refresh": "new"},
            r"keyring /nowhere\.gpg does not exist: correct supplies_keyring",
        ),
        (
            {"supplies_mirror": "http://127.0.0.1:9/debian", "supplies_refresh": "new"},
            r"could not make a trixie root .* from http://127\.0\.0\.1:9/debian",
        ),
        ({"supplies_extra_packages": ["no-such-package"]}, r"could not make a trixie root .*no-such-package"),
        (
            {"supplies_environment": {"DOCKER_HOST": "tcp://127.0.0.1:9", "PATH": os.environ["PATH"]}},
            r"the container engine did not take the base image .*: is it running",
        ),
    ],
)
def test_bad_input(play: Play, private_cache: pathlib.Path, variables: dict[str, t.Any], sentence: str) -> None:
    """One sentence that names the object and the remedy, and nothing is left half-made."""
    failed = play(nodeforge_cache=str(private_cache), **variables)
    assert failed.rc != 0
    assert re.search(sentence, " ".join(failed.output.split())), failed.output
    assert half_made(private_cache / "supplies") == []
