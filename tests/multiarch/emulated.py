# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Debian build host of the other architecture, under qemu-user: everything in it, its engine included, is a program of that architecture.

It is a user namespace of its own, in which alone qemu is registered for such programs (Linux 6.7 or newer): nothing is registered with the kernel for
anybody else, and the host's root may do nothing elsewhere. A network namespace on a network of the engine, a process namespace with which all ends.
The one program of this machine's own in it is runc, as qemu cannot make namespaces: the engine's containers are emulated all the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import time
import typing as t

import small_base
from remote import lab as lab_module
from remote.lab import run
from small_base import FOREIGN

MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}[FOREIGN]
# the head of its programs; any but an executable or library is none of qemu's business
NUMBER = {"amd64": 0x3E, "arm64": 0xB7}[FOREIGN]
HEAD = b"\x7fELF\x02\x01\x01" + bytes(9) + bytes([2, 0, NUMBER, 0])
MASK = b"\xff" * 7 + b"\0" + b"\xff" * 8 + b"\xfe\xff\xff\xff"
# golang-go is what the role build_host fetches a newer one with
PACKAGES = (*(name for name in lab_module.PACKAGES if name != "docker-registry"), "mmdebstrap", "debian-archive-keyring", "golang-go", "curl")
# where its engine makes the groups of its containers, among this machine's own
GROUP = f"{lab_module.PREFIX}-emulated"
# Runs in the new namespaces; waits until ids are mapped, which only this machine's root may do.
ENTER = """
set -eu
read -r mapped
mount -t proc proc /proc
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
printf '%s' "$REGISTER" >/proc/sys/fs/binfmt_misc/register
unset REGISTER
exec "$@"
"""
# What a root needs of this machine's, before it is entered. The engine makes its containers' groups in the machine's cgroups.
MOUNTS = """
set -eu
root=$1
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$WORK/upper,workdir=$WORK/work" "$root"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm"
for name in null zero full random urandom tty; do : >"$root/dev/$name"; mount --bind "/dev/$name" "$root/dev/$name"; done
ln -s /proc/self/fd "$root/dev/fd"; ln -s pts/ptmx "$root/dev/ptmx"
while read -r source target above; do
  mkdir -p "$root/$target"
  if [ -z "$above" ]; then mount --bind "$source" "$root/$target"; continue; fi
  mkdir -p "$above/upper" "$above/work"
  mount -t overlay overlay -o "lowerdir=$source,upperdir=$above/upper,workdir=$above/work" "$root/$target"
done <<LIST
$VOLUMES
LIST
exec unshare --user --mount --net --pid --ipc --uts --fork --kill-child --propagation private sh -c "$ENTER" enter sh -c "$BOOT" boot "$root"
"""
# A root that is pivoted to, not merely changed: whoever enters the namespace of a container there by its number, as exec does, gets the namespace's root.
BOOT = """
set -eu
hostname "$NAME"
mount --rbind "$1" "$1"
mount -t proc proc "$1/proc"
mount -t sysfs sysfs "$1/sys"
mount --rbind /sys/fs/cgroup "$1/sys/fs/cgroup"
mount --rbind /proc/sys/fs/binfmt_misc "$1/proc/sys/fs/binfmt_misc"
mount -t tmpfs -o mode=1777 tmpfs "$1/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$1/dev/pts"
mount -t tmpfs -o mode=755 tmpfs "$1/run"
until [ -e "$1/sys/class/net/eth0" ]; do sleep 0.05; done
cd "$1"
pivot_root . mnt
cd /
umount --lazy /mnt
exec sh -c "$START"
"""
# The engine has runc call the engine again, by a link that is qemu's in truth.
RUNC = r"""#!/bin/sh
previous=
for argument; do
  if [ "$previous" = --bundle ]; then sed -i 's,"path": *"/proc/[0-9]*/exe","path":"/usr/sbin/dockerd",' "$argument/config.json"; fi
  previous=$argument
done
exec /usr/local/lib/native-runc "$@"
"""
START = """
set -eu
cd /
mkdir -p /run/sshd /run/lock; ssh-keygen -q -A
mkdir -p /root/.ssh; printf '%s\\n' "$KEY" >/root/.ssh/authorized_keys; chmod -R go= /root/.ssh
echo "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" >/etc/environment
printf '127.0.0.1 localhost\\n127.0.1.1 %s\\n' "$NAME" >/etc/hosts
exec /usr/sbin/sshd -D -e
"""


def registration() -> str:
    """For binfmt_misc: opened once (F), so that it is there in every container; a program keeps the name that it is called by (P)."""
    program = small_base.program("qemu-user", f"qemu-{MACHINE}")

    def escaped(data: bytes) -> str:
        return "".join(f"\\x{byte:02x}" for byte in data)

    return f":qemu-{MACHINE}:M::{escaped(HEAD)}:{escaped(MASK)}:{program}:OCFP"


def why_not() -> str:
    """What this machine lacks for it."""
    release = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in os.uname().release.split(".")[:2])
    if release < (6, 7):
        return f"Linux {os.uname().release} knows one binfmt_misc for all namespaces (6.7 or newer is needed)"
    return "" if os.geteuid() == 0 else "only root maps the ids of others"


def enter(process: subprocess.Popen[t.Any]) -> int:
    """Maps the ids of the namespace that it makes, and lets it go on. Returns a process of the namespace."""
    mine = os.readlink("/proc/self/ns/user")
    deadline = time.monotonic() + 30
    while True:
        assert process.poll() is None and time.monotonic() < deadline, "unshare has not come far"
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{process.pid}/ns/user") != mine:
                break
        time.sleep(0.01)
    for name in ("uid_map", "gid_map"):
        pathlib.Path(f"/proc/{process.pid}/{name}").write_text("0 0 65536\n")
    stdin = t.cast(t.IO[bytes], process.stdin)
    stdin.write(b"mapped\n")
    stdin.flush()
    return process.pid


def root() -> pathlib.Path:
    """Its file system, made once: by the packages' own scripts, which are run under qemu."""
    setup = lab_module.SETUP
    recipe = hashlib.sha256(repr((lab_module.SUITE, PACKAGES, setup, RUNC, FOREIGN)).encode()).hexdigest()[:12]
    kept = small_base.CACHE / f"emulated-{FOREIGN}-{recipe}"
    if kept.exists():
        return kept
    new = kept.with_name(kept.name + ".new")
    subprocess.run(["rm", "-rf", "--one-file-system", str(new)], check=True)
    new.mkdir(parents=True)
    new.chmod(0o755)
    command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={','.join(PACKAGES)}", f"--architectures={FOREIGN}"]
    command += ["--skip=check/qemu,output/dev,output/mknod", *lab_module.apt_options(), f"--customize-hook={setup}", "--format=directory"]
    process = subprocess.Popen(
        ["unshare", "--user", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "sh", "-c", ENTER, "enter"]
        + [*command, lab_module.SUITE, str(new), lab_module.apt_source()],
        env={**os.environ, "REGISTER": registration()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    enter(process)
    output, _none = process.communicate(timeout=3000)
    assert process.returncode == 0, output[-3000:]
    native_runc(new)
    new.rename(kept)
    return kept


def native_runc(place: pathlib.Path) -> None:
    """This machine's runc, before the emulated one on PATH, with its loader and libraries, which lie beside those of the other architecture."""
    program = os.path.realpath(t.cast(str, shutil.which("runc")))
    libraries = re.findall(r"(/\S+) \(0x", run("ldd", program).stdout)
    (place / "usr/local/sbin/runc").write_text(RUNC)
    (place / "usr/local/sbin/runc").chmod(0o755)
    for source, target in [(program, "/usr/local/lib/native-runc"), *((library, re.sub("^/(usr/)?", "/usr/", library)) for library in libraries)]:
        copy = place / target[1:]
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        copy.chmod(0o755)
    for name in {library.split("/")[1] for library in libraries} - {"usr"}:
        if not (place / name).exists():
            (place / name).symlink_to(f"usr/{name}")


class Emulated:
    """A running one. ``volumes``: directories of this machine that it has, by the place where; with a second one, what it writes goes there."""

    def __init__(self, lab: lab_module.Lab, name: str, volumes: dict[str, list[pathlib.Path]]) -> None:
        self.lab, self.name = lab, name
        self.work = lab.directory / name
        for part in ("upper/etc/ssl/certs", "work", "root", "docker"):
            (self.work / part).mkdir(parents=True)
        self.work.chmod(0o755)
        # whom this machine asks for names, and whom it trusts
        for file in ("resolv.conf", "ssl/certs/ca-certificates.crt"):
            shutil.copy(f"/etc/{file}", self.work / "upper/etc" / file)
        # an overlay on an overlay is refused to the engine's containers
        mounts = {"var/lib/docker": [self.work / "docker"], **volumes}
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            **{"ENTER": ENTER, "BOOT": BOOT, "START": START, "REGISTER": registration(), "NAME": name, "LOWER": str(root()), "WORK": str(self.work)},
            "KEY": lab.key.with_suffix(".pub").read_text().strip(),
            "VOLUMES": "\n".join(f"{places[0]} {target} {''.join(map(str, places[1:]))}" for target, places in mounts.items()),
        }
        with (self.work / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-c", MOUNTS, "mounts", str(self.work / "root")],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            enter(self.process)
            self._connect()
            lab.until(lambda: lab_module.reachable(self.address, 22), f"{name}'s sshd answers, which said: {(self.work / 'log').read_text()}", 60)
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        """To the lab's network, as the engine does it with a container."""
        network = json.loads(run("docker", "network", "inspect", self.lab.network).stdout)[0]
        subnet = ipaddress.ip_network(network["IPAM"]["Config"][0]["Subnet"])
        # far from those that the engine gives
        self.address = str(subnet[200])
        inside = ["nsenter", "--net", f"--target={self.process.pid}"]
        link = f"nfe{self.process.pid}"
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(self.process.pid))
        run("ip", "link", "set", link, "master", f"br-{network['Id'][:12]}", "up")
        for command in (
            f"address add {self.address}/{subnet.prefixlen} dev eth0",
            "link set eth0 up",
            "link set lo up",
            f"route add default via {network['IPAM']['Config'][0].get('Gateway') or subnet[1]}",
        ):
            run(*inside, "ip", *command.split())

    def ssh(self, script: str) -> list[str]:
        """A command that has the script run there."""
        return ["ssh", "-i", str(self.lab.key), *shlex.split(self.lab.ssh_options), "-o", "LogLevel=ERROR", f"root@{self.address}", script]

    def sh(self, script: str, check: bool = True, **options: t.Any) -> str:
        """What a shell there prints."""
        return run(*self.ssh(script), check=check, **options).stdout.strip()

    def read(self, path: str, length: int) -> bytes:
        """The head of a file."""
        return subprocess.run(self.ssh(f"head -c {length} {shlex.quote(path)}"), stdout=subprocess.PIPE, check=True).stdout

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

    def close(self) -> None:
        # the first process of its namespace ends all others; qemu's flag for credentials has it outlive unshare, whatever that has asked for
        for pid in run("pgrep", "--parent", str(self.process.pid), check=False).stdout.split():
            os.kill(int(pid), signal.SIGKILL)
        self.process.kill()
        self.process.wait(30)
        subprocess.run(["find", "/sys/fs/cgroup", "-depth", "-type", "d", "-path", f"*/{GROUP}*", "-delete"], capture_output=True, check=False)
        subprocess.run(["rm", "-rf", "--one-file-system", str(self.work)], check=False)
