# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build hosts of our own: Debian with sshd, Python, git, make and an engine of its own, each a container on a network of its own.

Nothing of the machine is mounted but Go and its caches. A host is reached by SSH with a key that is made for the session, either directly,
through a bastion, or over a long and narrow line: a relay delays what goes through, and ``tc`` limits the host's rate.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import shutil
import socket
import subprocess
import threading
import time
import typing as t

SUITE = "trixie"
PACKAGES = (
    "openssh-server openssh-client sudo python3 python3-docker rsync git make docker.io docker-cli iptables iproute2 procps ca-certificates docker-registry"
).split()
PREFIX = "nodeforge-remote"
# a user of its own, who may do everything with sudo; another one who may use the engine and nothing else
USERS = ("builder", "other")
SETUP = f"""
set -eu
chroot "$1" sh -c 'for user in {" ".join(USERS)}; do useradd --create-home --shell /bin/bash --groups docker $user; done'
echo 'builder ALL=(ALL) NOPASSWD: ALL' >"$1/etc/sudoers.d/builder"
mkdir -p "$1/run/sshd"
printf 'PermitRootLogin prohibit-password\\nUseDNS no\\nMaxStartups 100\\n' >"$1/etc/ssh/sshd_config.d/test.conf"
rm -f "$1"/etc/ssh/ssh_host_*
rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*
"""
# Go first, as in a login of a user who has it
BOOT = """
set -eu
mkdir -p /run/sshd; ssh-keygen -A >/dev/null
for home in /root /home/builder /home/other; do
  mkdir -p $home/.ssh; printf '%s\\n' "$KEY" >$home/.ssh/authorized_keys
  chmod 700 $home/.ssh; chown -R --reference=$home $home/.ssh
done
echo "PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" >/etc/environment
env | grep ^GO >>/etc/environment || :
exec /usr/sbin/sshd -D -e
"""


def run(*command: str, check: bool = True, **options: t.Any) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert ended.returncode == 0 or not check, f"{command}: {ended.stdout[-3000:]}{ended.stderr[-3000:]}"
    return ended


def apt_source() -> str:
    """The mirror is the one that this host uses ..."""
    targets = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").stdout.split("\n")
    mirror = next(target for target in targets if target.rstrip("/").endswith("/debian"))
    return f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} {SUITE} main"


def apt_options() -> list[str]:
    """... and so is the way to it, for mmdebstrap."""
    dump = run("apt-config", "dump").stdout.splitlines()
    ways = [line for line in dump if line.startswith("Acquire::http") and any(word in line for word in ("Proxy", "CaInfo", "Verify", "Timeout"))]
    return [f"--aptopt={line}" for line in ways] + ["--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/doc/*"]


def image() -> str:
    """The hosts' file system as an image, made once."""
    recipe = hashlib.sha256(repr((SUITE, PACKAGES, SETUP)).encode()).hexdigest()[:12]
    name = f"{PREFIX}-host:{SUITE}-{recipe}"
    if run("docker", "image", "inspect", name, check=False).returncode == 0:
        return name
    setup = f"--customize-hook={SETUP}"
    make = subprocess.Popen(
        ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}", *apt_options(), setup, SUITE, "-", apt_source()],
        stdout=subprocess.PIPE,
    )
    load = run("docker", "import", "-", name, check=False, stdin=make.stdout)
    assert make.wait() == 0 and load.returncode == 0, load.stderr
    return name


def go_settings() -> str:
    """How this machine's Go reaches its modules, for the Go of a host."""
    told = run("go", "env", "GOPROXY", "GOSUMDB", "GONOSUMDB", "GOFLAGS").stdout.split("\n")
    return "".join(f"{name}={value}\n" for name, value in zip(("GOPROXY", "GOSUMDB", "GONOSUMDB", "GOFLAGS"), told) if value)


class Host:
    """A running host. ``go`` mounts Go, its modules (read-only) and root's build cache."""

    def __init__(self, lab: Lab, name: str, go: bool = False, options: t.Sequence[str] = ()) -> None:
        self.lab, self.name = lab, f"{PREFIX}-{lab.ident}-{name}"
        mounts = []
        if go:
            root, modules, cache = run("go", "env", "GOROOT", "GOMODCACHE", "GOCACHE").stdout.split()
            mounts = [f"{root}:/usr/local/go:ro", f"{modules}:/srv/go/modules:ro", f"{cache}:/srv/go/cache"]
        volumes = [word for mount in [*mounts, "/var/lib/docker"] for word in ("--volume", mount)]
        run(
            *("docker", "run", "--detach", "--privileged", "--hostname", name, "--name", self.name, "--network", lab.network),
            *("--label", PREFIX, "--env", f"KEY={lab.key.with_suffix('.pub').read_text().strip()}"),
            *(*volumes, *options, image(), "sh", "-c", BOOT),
        )
        if go:
            for home in ("/root", "/home/builder", "/home/other"):
                more = "GOMODCACHE=/srv/go/modules\n" + ("GOCACHE=/srv/go/cache\n" if home == "/root" else "")
                self.sh(f"mkdir -p {home}/.config/go; cat >{home}/.config/go/env; chown -R --reference={home} {home}/.config", go_settings() + more)
        form = "{{(index .NetworkSettings.Networks \"" + lab.network + "\").IPAddress}}"
        self.address = run("docker", "inspect", "--format", form, self.name).stdout.strip()
        lab.until(lambda: reachable(self.address, 22), f"{self.name}'s sshd answers")

    def sh(self, script: str, stdin: str | None = None, check: bool = True, user: str = "root") -> str:
        """What a shell there prints, not by way of SSH."""
        login = "PATH=/usr/local/go/bin:$PATH; cd; "
        home = "/root" if user == "root" else f"/home/{user}"
        command = ["docker", "exec", "-i", "--user", user, "--env", f"HOME={home}", self.name, "sh", "-c", login + script]
        return run(*command, check=check, input=stdin).stdout.strip()

    def variables(self, **more: t.Any) -> dict[str, t.Any]:
        """How Ansible reaches it."""
        return {
            "ansible_host": self.address,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.lab.key),
            "ansible_ssh_common_args": self.lab.ssh_options,
            "ansible_python_interpreter": "/usr/bin/python3",
            **more,
        }

    def hang_up(self) -> None:
        """Kills sshd's processes that serve connections, and leaves what these have started."""
        self.sh("for pid in $(pgrep -f '^sshd-session: '); do kill -9 $pid; done")

    def narrow(self, rate: str = "100mbit") -> None:
        """Limits both directions: what leaves the host, and what leaves this machine for it."""
        link = self.sh("cat /sys/class/net/eth0/iflink")
        (peer,) = [p.parent.name for p in pathlib.Path("/sys/class/net").glob("*/ifindex") if p.read_text().strip() == link]
        limit = f"root tbf rate {rate} burst 128kb latency 100ms"
        self.sh(f"tc qdisc replace dev eth0 {limit}")
        run("tc", "qdisc", "replace", "dev", peer, *limit.split())

    def received(self) -> int:
        """Bytes that came in since it started."""
        return int(self.sh("cat /sys/class/net/eth0/statistics/rx_bytes"))

    def sent(self) -> int:
        """Bytes that went out since it started."""
        return int(self.sh("cat /sys/class/net/eth0/statistics/tx_bytes"))

    def load(self, archive: bytes) -> None:
        """An image into its engine."""
        ended = subprocess.run(["docker", "exec", "-i", self.name, "docker", "load"], input=archive, capture_output=True, check=False)
        assert ended.returncode == 0, ended.stderr


class Lab:
    """The hosts of a session, and their network. All of it is gone afterwards."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self.ident = f"{os.getpid():x}"
        self.network = f"{PREFIX}-{self.ident}"
        self.hosts: dict[str, Host] = {}
        self.key = directory / "key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(self.key))
        # the hosts' own keys are made anew each time, and a user's known_hosts is none of a test's business
        self.ssh_options = f"-o StrictHostKeyChecking=no -o UserKnownHostsFile={directory}/known_hosts"
        run("docker", "network", "create", "--label", PREFIX, self.network)

    def host(self, name: str, go: bool = False, options: t.Sequence[str] = ()) -> Host:
        """The host of that name, started when it is asked for first."""
        if name not in self.hosts:
            self.hosts[name] = Host(self, name, go, options)
        return self.hosts[name]

    def through(self, bastion: Host, host: Host) -> dict[str, t.Any]:
        """How Ansible reaches a host behind a bastion: by a name that only there means anything."""
        jump = f"ssh -i {self.key} {self.ssh_options} -W %h:%p builder@{bastion.address}"
        return host.variables(ansible_host=host.name, ansible_ssh_common_args=f"{self.ssh_options} -o 'ProxyCommand={jump}'")

    def until(self, holds: t.Callable[[], t.Any], what: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
            time.sleep(0.05)

    def close(self) -> None:
        names = run("docker", "ps", "--all", "--quiet", "--filter", f"network={self.network}").stdout.split()
        if names:
            run("docker", "rm", "--force", "--volumes", *names)
        run("docker", "network", "rm", self.network)
        shutil.rmtree(self.directory / "cp", ignore_errors=True)


def reachable(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), 1) as connection:
        return connection.recv(4) == b"SSH-"
    return False


class Relay:
    """Carries connections to an address on, everything in either direction so many seconds late. It can be cut, as a line is."""

    def __init__(self, address: str, delay: float, port: int = 22) -> None:
        self.address, self.delay, self.target = address, delay, port
        self.carried = [0, 0]  # to the host, and back
        self.open: set[socket.socket] = set()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.server.getsockname()[1]
        self.cut_after: int | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _peer = self.server.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        time.sleep(self.delay * 2)  # the handshake of TCP
        far = socket.create_connection((self.address, self.target))
        self.open |= {near, far}
        for number, (source, sink) in enumerate(((near, far), (far, near))):
            sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            queue: list[tuple[float, bytes]] = []
            ready = threading.Condition()
            threading.Thread(target=self._read, args=(source, queue, ready, number), daemon=True).start()
            threading.Thread(target=self._write, args=(sink, queue, ready), daemon=True).start()

    def _read(self, source: socket.socket, queue: list[tuple[float, bytes]], ready: threading.Condition, number: int) -> None:
        data = b"-"
        while data:
            try:
                data = source.recv(65536)
            except OSError:
                data = b""
            self.carried[number] += len(data)
            with ready:
                # what is under way is bounded, as it is on a line: what is sent waits
                ready.wait_for(lambda: len(queue) < 256)
                queue.append((time.monotonic() + self.delay, data))
                ready.notify_all()
            if self.cut_after is not None and sum(self.carried) > self.cut_after:
                self.cut_after = None
                self.cut()

    @staticmethod
    def _write(sink: socket.socket, queue: list[tuple[float, bytes]], ready: threading.Condition) -> None:
        with contextlib.suppress(OSError):
            while True:
                with ready:
                    ready.wait_for(lambda: queue)
                    due, data = queue.pop(0)
                    ready.notify_all()
                time.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    break
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """All connections end without a word."""
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
                connection.close()
        self.open.clear()

    def close(self) -> None:
        # closed alone, it would accept one more
        with contextlib.suppress(OSError):
            self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        self.cut()
