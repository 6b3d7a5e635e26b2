# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""roles/build_host against real engines: the one of the machine, which it must leave alone, and one that it starts."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import typing as t

import pytest

PLAY = """
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.include_role:
        name: nodeforge.kind.build_host
        tasks_from: "{{ tasks_from | default('main') }}"
    - ansible.builtin.copy:
        content: "{{ {'kind': build_host_kind | default(''), 'platform': build_host_platform | default(''), 'missing': build_host_missing | default([]),
                      'cgroup': build_host_cgroup | default(0)} | to_json }}"
        dest: "{{ facts }}"
        mode: '0600'
      changed_when: false
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="starting an engine takes root")


class Play(t.NamedTuple):
    rc: int
    output: str
    changed: int
    facts: dict[str, t.Any]

    @property
    def message(self) -> str:
        """The sentence with which the play failed."""
        return " ".join(re.findall(r"^\[ERROR\]: Task failed: (?:Action failed: )?(.*?)(?=^Origin|^TASK|^\n)", self.output, re.S | re.M)[-1].split())


@pytest.fixture
def play(tmp_path: pathlib.Path, ansible_env: dict[str, str]) -> t.Callable[..., Play]:
    def run(*options: str, prefix: t.Sequence[str] = (), env: dict[str, str] | None = None, **variables: t.Any) -> Play:
        (tmp_path / "play.yml").write_text(PLAY)
        facts = tmp_path / "facts.json"
        facts.unlink(missing_ok=True)
        variables["facts"] = str(facts)
        ended = subprocess.run(
            [*prefix, "ansible-playbook", str(tmp_path / "play.yml"), "-e", json.dumps(variables), *options],
            env={**ansible_env, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        recap = re.search(r"changed=(\d+)", ended.stdout)
        told = json.loads(facts.read_text()) if facts.exists() else {}
        assert "Traceback" not in ended.stdout, ended.stdout
        return Play(ended.returncode, ended.stdout, int(recap.group(1)) if recap else -1, told)

    return run


def engine_of(socket: str = "/var/run/docker.sock") -> dict[str, t.Any]:
    """What identifies an engine that answers: it changes when the engine is restarted or configured."""
    told = subprocess.run(
        ["docker", "--host", f"unix://{socket}", "info", "--format", "{{json .}}"], check=True, stdout=subprocess.PIPE, text=True
    )
    info = json.loads(told.stdout)
    pid = pathlib.Path("/var/run/docker.pid")
    return {
        "id": info["ID"],
        "runtimes": sorted(info["Runtimes"]),
        "default": info["DefaultRuntime"],
        "pid": pid.read_text() if pid.exists() and os.access(pid, os.R_OK) else "",
        "daemon.json": pathlib.Path("/etc/docker/daemon.json").exists(),
    }


def test_an_engine_that_answers_is_left_alone(play: t.Callable[..., Play]) -> None:
    before = engine_of()
    first = play()
    assert first.rc == 0, first.output
    assert engine_of() == before
    assert first.facts["platform"] == {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}[os.uname().machine]
    assert first.facts["cgroup"] in (1, 2)
    version = subprocess.run([first.facts["kind"], "version", "-q"], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert tuple(int(part) for part in version.strip().split(".")[:2]) >= (0, 33)
    for options in ((), ("--check",)):
        again = play(*options)
        assert (again.rc, again.changed) == (0, 0), again.output
        assert again.facts == (first.facts if not options else {})


# An engine without a bridge of its own removes docker0 from its network namespace: not from the machine's.
APART = ["unshare", "--net"]


class Private(t.NamedTuple):
    """A place for an engine beside that of the machine, and the role's variables that say so."""

    root: pathlib.Path
    variables: dict[str, t.Any]

    @property
    def socket(self) -> str:
        return str(self.root / "docker.sock")

    def docker(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "--host", f"unix://{self.socket}", *arguments], capture_output=True, check=False, text=True, timeout=120
        )


@pytest.fixture
def private() -> t.Iterator[Private]:
    # Short, as a socket's path has at most 107 characters; on the disk of the machine, as overlayfs wants.
    root = pathlib.Path(tempfile.mkdtemp(prefix="nf-engine-", dir="/var/tmp"))
    place = Private(
        root,
        {
            "build_host_docker_host": f"unix://{root}/docker.sock",
            "build_host_engine_config": str(root / "etc" / "daemon.json"),
            "build_host_engine_log": str(root / "dockerd.log"),
            "build_host_engine_pidfile": str(root / "docker.pid"),
            "build_host_engine_exec_root": str(root / "run"),
            "build_host_engine_runtime": str(root / "nodeforge-runc"),
            "build_host_engine_options": [f"--data-root={root}/data", "--bridge=none", "--iptables=false"],
        },
    )
    yield place
    pid = root / "docker.pid"
    if pid.exists():
        number = int(pid.read_text())
        if pathlib.Path(f"/proc/{number}/comm").exists() and pathlib.Path(f"/proc/{number}/comm").read_text() == "dockerd\n":
            os.kill(number, signal.SIGTERM)
            end = time.monotonic() + 30
            while pathlib.Path(f"/proc/{number}").exists() and time.monotonic() < end:
                time.sleep(0.1)
    mounts = pathlib.Path("/proc/self/mounts").read_text().splitlines()
    for mounted in sorted((line.split()[1] for line in mounts if line.split()[1].startswith(f"{root}/")), reverse=True):
        subprocess.run(["umount", mounted], check=False)
    shutil.rmtree(root)


def bounding_set(status: str) -> int:
    return int(re.search(r"^CapBnd:\s*([0-9a-f]+)", status, re.M).group(1), 16)


@needs_root
def test_an_engine_is_started_without_a_service_manager(play: t.Callable[..., Play], private: Private) -> None:
    if pathlib.Path("/run/systemd/system").exists():
        pytest.skip("systemd runs here: the role starts its docker service instead")
    # One capability less than the machine has, so that the runtime is needed wherever this test runs.
    reduced = [*APART, "setpriv", "--bounding-set=-sys_time", "--inh-caps=-all"]
    held = bounding_set(subprocess.run([*reduced, "cat", "/proc/self/status"], check=True, stdout=subprocess.PIPE, text=True).stdout)
    assert not held & (1 << 25)
    # What somebody configured stays; process ids of an engine that is no more are no obstacle.
    (private.root / "etc").mkdir()
    (private.root / "etc" / "daemon.json").write_text('{"log-opts": {"max-size": "1m"}, "runtimes": {"other": {"path": "/bin/true"}}}')
    (private.root / "docker.pid").write_text(str(os.getpid()))
    machine = engine_of()

    predicted = play("--check", prefix=reduced, **private.variables)
    assert predicted.rc == 0, predicted.output
    assert not pathlib.Path(private.socket).exists()
    assert (private.root / "docker.pid").read_text() == str(os.getpid())

    first = play(prefix=reduced, **private.variables)
    assert first.rc == 0, first.output
    assert first.changed == predicted.changed > 0
    # It lives on, in a session of its own, with its words in the log.
    pid = int((private.root / "docker.pid").read_text())
    assert os.getsid(pid) == pid
    assert "API listen on" in (private.root / "dockerd.log").read_text()
    assert engine_of() == machine
    config = json.loads((private.root / "etc" / "daemon.json").read_text())
    assert config == {
        "log-opts": {"max-size": "1m"},
        "runtimes": {"other": {"path": "/bin/true"}, "nodeforge": {"path": str(private.root / "nodeforge-runc")}},
        "default-runtime": "nodeforge",
    }

    again = play(prefix=reduced, **private.variables)
    assert (again.rc, again.changed) == (0, 0), again.output
    assert int((private.root / "docker.pid").read_text()) == pid

    # An image of nothing but the machine's own programs, mounted.
    (private.root / "empty").mkdir()
    subprocess.run(["tar", "-cf", str(private.root / "empty.tar"), "-C", str(private.root / "empty"), "."], check=True)
    assert private.docker("import", str(private.root / "empty.tar"), "empty").returncode == 0
    programs = [option for name in ("bin", "lib", "lib64", "usr") if pathlib.Path(f"/{name}").exists() for option in ("-v", f"/{name}:/{name}:ro")]
    run = ["run", "--rm", "--network=none", *programs]
    status = ["cat", "/proc/self/status"]

    refused = private.docker(*run, "--privileged", "--runtime=runc", "empty", *status)
    assert refused.returncode != 0 and "apply caps" in refused.stderr, "runc alone would do: this proves nothing"
    privileged = private.docker(*run, "--privileged", "empty", *status)
    assert privileged.returncode == 0, privileged.stderr
    # Exactly what the machine holds, of what any Docker since 20.10 asks for: up to CAP_AUDIT_READ, 37.
    known = (1 << 38) - 1
    assert bounding_set(privileged.stdout) & known == held & known
    assert bounding_set(privileged.stdout) & ~held == 0
    # The names are taken from the capability lists only, and nobody gets more than they asked for.
    plain = private.docker(*run, "-e", "WORD=CAP_SYS_TIME", "empty", "echo", "CAP_SYS_TIME", '"CAP_SYS_TIME",')
    assert plain.stdout == 'CAP_SYS_TIME "CAP_SYS_TIME",\n', plain
    alone = private.docker(*run, "empty", *status), private.docker(*run, "--runtime=runc", "empty", *status)
    assert bounding_set(alone[0].stdout) == bounding_set(alone[1].stdout) != 0

    assert private.docker(*run[:1], "-d", "--name=sleeper", *run[2:], "empty", "sleep", "60").returncode == 0
    executed = private.docker("exec", "--privileged", "sleeper", *status)
    assert executed.returncode == 0, executed.stderr
    assert bounding_set(executed.stdout) == bounding_set(privileged.stdout)
    assert private.docker("rm", "-f", "sleeper").returncode == 0


@needs_root
def test_offline_an_engine_that_is_there_is_started(play: t.Callable[..., Play], private: Private) -> None:
    """After a reboot without a service manager: what it has is not missing, so it is asked. Packages are another matter."""
    if pathlib.Path("/run/systemd/system").exists():
        pytest.skip("systemd runs here: the role starts its docker service instead")
    refused = play(prefix=APART, tasks_from="missing", nodeforge_offline=True, **{**private.variables, "build_host_start": False})
    assert refused.rc != 0 and "No container engine answers at" in refused.message
    wanted = {**private.variables, "nodeforge_offline": True, "build_host_tools": {"nonesuch-tool": "nonesuch-package"}}
    told = play(prefix=APART, tasks_from="missing", **wanted)
    assert told.rc == 0 and told.facts["missing"] == ["nonesuch-tool"], told.output
    assert private.docker("version").returncode == 0
    lacking = play(prefix=APART, **wanted)
    assert "lacks nonesuch-tool" in lacking.message and "build_host_install is false" in lacking.message


def test_offline_an_older_go_that_fetches_others_is_not_missing(play: t.Callable[..., Play], tmp_path: pathlib.Path) -> None:
    (tmp_path / "bin").mkdir()
    go = tmp_path / "bin" / "go"
    for mode, missing in (("auto", []), ("local", ["Go 1.26"])):
        go.write_text(f"#!/bin/sh\necho go1.22.1\necho {mode}\n")
        go.chmod(0o755)
        path = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
        told = play(tasks_from="missing", env=path, nodeforge_offline=True, nodeforge_cache=str(tmp_path / "cache"), build_host_kind_version="")
        assert told.facts["missing"] == missing, told.output


@needs_root
def test_an_engine_that_does_not_start_is_quoted_and_not_left_behind(play: t.Callable[..., Play], private: Private) -> None:
    if pathlib.Path("/run/systemd/system").exists():
        pytest.skip("systemd runs here: the role starts its docker service instead")
    variables = {**private.variables, "build_host_engine_options": ["--storage-driver=nonesuch", f"--data-root={private.root}/data"]}
    ended = play(prefix=APART, **variables)
    assert ended.rc != 0
    assert "dockerd did not start on localhost, it ended: " in ended.message
    assert "graphdriver" in ended.message and str(private.root / "dockerd.log") in ended.message
    assert not (private.root / "docker.pid").exists()
    # A re-run succeeds once the cause is gone.
    assert play(prefix=APART, **private.variables).rc == 0

    shutil.copy(private.root / "docker.pid", private.root / "pid")
    os.kill(int((private.root / "pid").read_text()), signal.SIGTERM)
    while pathlib.Path(private.socket).exists() and private.docker("version").returncode == 0:
        time.sleep(0.1)
    (private.root / "etc").mkdir(exist_ok=True)
    (private.root / "etc" / "daemon.json").write_text("{not json")
    ended = play(prefix=APART, **private.variables)
    assert ended.rc != 0
    assert f"{private.root}/etc/daemon.json on localhost is not a JSON object" in ended.message


def test_no_engine_and_no_right_to_start_one_is_one_sentence(play: t.Callable[..., Play], tmp_path: pathlib.Path) -> None:
    nowhere = f"unix://{tmp_path}/none.sock"
    for variables in ({"build_host_engine": "present"}, {"build_host_install": False}):
        ended = play(build_host_docker_host=nowhere, **variables)
        assert ended.rc != 0
        assert f"No container engine answers at {nowhere} on localhost: start one there as root" in ended.message
        assert ended.changed == 0
    remote = play(build_host_docker_host="tcp://127.0.0.1:9")
    assert remote.rc != 0 and "No container engine answers at tcp://127.0.0.1:9" in remote.message


@needs_root
def test_an_ordinary_user_is_told_of_the_docker_group(play: t.Callable[..., Play], tmp_path: pathlib.Path) -> None:
    # Somebody who may read everything (this checkout may lie in root's home), but is no root and in no group.
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    nobody += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    home = pathlib.Path(tempfile.mkdtemp(prefix="nf-home-", dir="/var/tmp"))
    os.chown(home, 65534, 65534)
    env = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "ANSIBLE_HOME": str(home / "ansible"), "ANSIBLE_REMOTE_TMP": str(home / "tmp")}
    # which only they need, and which is not what is lacking here
    (home / "newuidmap").touch(0o755)
    env["PATH"] = f"{home}:{os.environ['PATH']}"
    try:
        ended = play(prefix=nobody, env=env, build_host_tools={})
        assert ended.rc != 0
        assert "nobody may not use the container engine at unix:///var/run/docker.sock on localhost" in ended.message
        assert "usermod -aG docker nobody" in ended.message
        lacking = play(prefix=nobody, env=env, build_host_tools={"nonesuch-tool": "nonesuch-package"})
        assert lacking.rc != 0
        assert 'lacks nonesuch-tool' in lacking.message and '"apt-get install nonesuch-package" there as root' in lacking.message
    finally:
        shutil.rmtree(home)


def test_a_newer_go_is_fetched_by_an_older_one(play: t.Callable[..., Play], tmp_path: pathlib.Path) -> None:
    # An older Go is the machine's, which says of itself that it is older until it has fetched its successor.
    cache = tmp_path / "cache"
    (cache / "bin").mkdir(parents=True)
    old = cache / "bin" / "go"
    real = subprocess.run(["go", "env", "GOROOT"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    old.write_text(f'#!/bin/sh\n[ "$*" != "env GOVERSION GOTOOLCHAIN" ] || exec printf "go1.20.1\\n\\n"\nexec "{real}/bin/go" "$@"\n')
    old.chmod(0o755)
    variables = {"build_host_cache": str(cache), "build_host_engine": "none", "build_host_kind_version": ""}
    predicted = play("--check", **variables)
    assert (predicted.rc, predicted.changed) == (0, 2), predicted.output
    assert not (cache / "go").exists()

    unknown = play(**variables, build_host_go_version="9.9.9")
    assert unknown.rc != 0
    assert "localhost needs Go 1.26 or newer, has 1.20.1, and could not fetch 9.9.9 (go: golang.org/toolchain@" in unknown.message
    assert list((cache / "go").iterdir()) == []

    first = play(**variables)
    assert (first.rc, first.changed) == (0, 2), first.output
    old.unlink()
    told = subprocess.run([str(cache / "go" / "current" / "bin" / "go"), "version"], check=True, stdout=subprocess.PIPE, text=True)
    assert told.stdout.startswith("go version go1.26.8 linux/")
    again = play(**variables)
    assert (again.rc, again.changed) == (0, 0), again.output


def test_kind_that_cannot_be_had_is_named(play: t.Callable[..., Play], tmp_path: pathlib.Path) -> None:
    unknown = play(build_host_kind_version="v999.0.0", build_host_cache=str(tmp_path / "cache"))
    assert unknown.rc != 0
    assert "kind v999.0.0 could not be compiled on localhost (go: " in unknown.message
    assert not (tmp_path / "cache" / "bin" / "kind").exists()
