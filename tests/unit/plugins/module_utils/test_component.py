# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to be done in a node, and which files are programs."""

from __future__ import annotations

import json
import pathlib
import struct
import subprocess

import pytest
from ansible_collections.nodeforge.kind.plugins.module_utils import _component as component
from ansible_collections.nodeforge.kind.plugins.module_utils import _kind as kind

A, B = "a" * 64, "b" * 64


def look(disk: str, running: list[str], phase: str | None = None, current: str = "original", original: str = B) -> component.Seen:
    state = {"phase": phase, "current": current, "original": original} if phase else {}
    lines = ["machine x86_64", f"state {json.dumps(state) if state else ''}", f"disk {disk}", *(f"running {one}" for one in running)]
    return component.seen("\n".join(lines))


@pytest.mark.parametrize(
    ("how", "now", "wanted", "why"),
    [
        # the image's own, nothing ever swapped
        (component.UNIT, look(B, [B]), A, "another program runs"),
        (component.UNIT, look(B, [B]), B, None),
        (component.UNIT, look(B, [B]), component.ORIGINAL, None),
        (component.UNIT, look(B, []), B, "it does not run"),
        (component.POD, look("original", [B]), B, None),
        (component.POD, look("original", [B]), A, "another program runs"),
        (component.FILE, look(B, []), B, None),
        (component.FILE, look(B, []), A, "another program is in place"),
        # swapped
        (component.UNIT, look(A, [A], "settled", A), A, None),
        (component.UNIT, look(B, [A], "settled", A), A, "another program would run after a restart"),
        (component.UNIT, look(A, [B], "settled", A), A, "another program runs"),
        (component.UNIT, look(A, [A, B], "settled", A), A, "another program runs"),
        (component.UNIT, look(A, [A], "settled", A), component.ORIGINAL, "another program is in place"),
        (component.POD, look(A, [A], "settled", A), A, None),
        (component.POD, look(A, [A]), component.ORIGINAL, "another program is in place"),
        (component.FILE, look(A, [], "settled", A), component.ORIGINAL, "another program is in place"),
        # the DaemonSet mounts what is the node's own
        (component.DAEMON, look(B, [B], "settled"), component.ORIGINAL, None),
        (component.DAEMON, look(A, [A], "settled", A), component.ORIGINAL, "another program is in place"),
        # broken off
        (component.UNIT, look(A, [A], "swapping"), A, "an earlier swap was broken off"),
        (component.POD, look("original", [B], "swapping"), component.ORIGINAL, "an earlier swap was broken off"),
    ],
)
def test_needs(how: str, now: component.Seen, wanted: str, why: str | None) -> None:
    assert component.needs(how, now, wanted) == why


def test_seen() -> None:
    now = look(A, [A], "settled", A)
    assert (now.current, now.sha256, now.target(component.ORIGINAL), now.target(B)) == (A, A, B, B)
    assert look("original", []).sha256 is None and look("original", [B]).current == component.ORIGINAL
    assert component.seen("machine x\nstate {broken\ndisk original\nabsent manifest").absent
    assert component.needs(component.UNIT, component.seen("state {broken"), A) == "an earlier swap was broken off"


def test_parse() -> None:
    values, log = component.parse("version v1\nwhy it is\nresult rolledback\n@log\na\n\nb\n")
    assert values == {"version": ["v1"], "why": ["it is"], "result": ["rolledback"]} and log == ["a", "b"]


def elf(machine: int = 62, kind_: int = 2, end: int = 4096) -> bytes:
    """A header with one segment that ends there."""
    header = b"\x7fELF" + bytes([kind_, 1, 1]) + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0x400000, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0x400000, end, end, 4096)


def test_check_program() -> None:
    component.check_program("p", elf(), 4096, "x86_64")
    component.check_program("p", elf(183), 4096, "aarch64")
    for head, size, said in (
        (b"#!/bin/sh\n", 10, "no ELF file"),
        (b"", 0, "no ELF file"),
        (elf(kind_=1), 4096, "64-bit"),
        (elf()[:40], 40, "64-bit"),
        (elf(183), 4096, 'is for arm64 and the node is amd64: compile it for linux/amd64'),
        (elf(8), 4096, "another machine"),
        (elf(), 4095, "cut off: it has 4095 bytes and needs 4096"),
    ):
        with pytest.raises(kind.BadInput, match=said):
            component.check_program("p", head, size, "x86_64")


def test_a_real_program_passes() -> None:
    path = pathlib.Path("/bin/sh").resolve()
    machine = subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True).stdout.strip()
    component.check_program(str(path), path.read_bytes()[:4096], path.stat().st_size, machine)


def test_the_script_is_sound(tmp_path: pathlib.Path) -> None:
    """Bash takes it, and what it does with checksums and files does what it says."""
    subprocess.run(["bash", "-n"], input=component.SCRIPT, text=True, check=True)
    functions = component.SCRIPT[: component.SCRIPT.index("case $action in\n  look)")]
    probe = f"""
cd {tmp_path}; echo a >a; echo b >b
give a c; give b c; give b c; cmp b c; [ b -ef c ]; echo $?
printf 'x 1\\ny v1.37.2-inner+abc-dirty z' | version_in
base={tmp_path} dir={tmp_path} how=unit written=; original=o; note settled cur v1; note_of current; note_of original; note_of manifest; echo
mkdir {A} {B}; tidy {A}; ls -d {tmp_path}/*/
"""
    ran = subprocess.run(["bash", "-c", functions + probe, "x", "none", "kubelet", "unit"], capture_output=True, text=True, check=True)
    lines = ran.stdout.split()
    assert lines == ["0", "v1.37.2-inner+abc-dirty", "cur", "o", f"{tmp_path}/{A}/"], ran


def test_daemon_patch() -> None:
    spec = json.loads(component.daemon_patch(True))["spec"]["template"]["spec"]
    assert spec["volumes"][0]["hostPath"] == {"path": "/kind/nodeforge/kube-proxy/current", "type": "File"}
    assert spec["containers"][0]["volumeMounts"][0]["mountPath"] == "/usr/local/bin/kube-proxy"
    undo = json.loads(component.daemon_patch(False))["spec"]["template"]["spec"]
    assert undo["volumes"] == [{"$patch": "delete", "name": "nodeforge"}]
