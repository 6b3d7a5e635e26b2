# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is decided about debugging without a cluster: programs, paths, flags, what editors read, and processes of this host."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import struct
import subprocess
import time
import typing as t

import pytest
from ansible_collections.nodeforge.kind.plugins.module_utils import _background as background
from ansible_collections.nodeforge.kind.plugins.module_utils import _debug as debug
from ansible_collections.nodeforge.kind.plugins.module_utils._kind import BadInput

ENTRY = {"name": "kubelet of kind-worker", "type": "go", "port": 2345}


def elf(sections: dict[str, bytes], machine: int = 62) -> bytes:
    """An ELF file with those sections."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in [*sections, ".shstrtab"])
    content, table = b"", struct.pack("<IIQQQQ", 0, 0, 0, 0, 0, 0) + bytes(24)
    for name, data in [*sections.items(), (".shstrtab", names)]:
        table += struct.pack("<IIQQQQ", names.index(name.encode() + b"\0"), 1, 0, 0, 64 + len(content), len(data)) + bytes(24)
        content += data
    count = len(sections) + 2
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 0, 64 + len(content), 0, 64, 0, 0, 64, count, count - 1)
    return head + content + table


def program(data: bytes) -> debug.Program:
    return debug.Program('The program "x"', lambda at, size: data[at : at + size])


def buildinfo(version: str, notes: str) -> bytes:
    def text(content: bytes) -> bytes:
        length, out = len(content), b""
        while length > 127:
            out += bytes([length & 127 | 128])
            length >>= 7
        return out + bytes([length]) + content

    return b"\xff Go buildinf:\x08\x02" + bytes(16) + text(version.encode()) + text(bytes(16) + notes.encode() + bytes(16))


def pclntab(*paths: str) -> bytes:
    files = b"".join(path.encode() + b"\0" for path in paths)
    return b"\xf1\xff\xff\xff\0\0\x01\x08" + struct.pack("<8Q", 1, len(paths), 0, 72, 72, 72, 72 + len(files), 72 + len(files)) + files


def test_the_pod_of_a_daemonset() -> None:
    container = {
        "name": "kube-proxy", "command": ["/usr/local/bin/kube-proxy", "--config=/c", "--hostname-override=$(NODE_NAME)"],
        "securityContext": {"privileged": True}, "livenessProbe": {}, "volumeMounts": [{"name": "c", "mountPath": "/c"}],
    }  # fmt: skip
    template = {"metadata": {"labels": {"k8s-app": "kube-proxy"}}, "spec": {"containers": [container], "volumes": [{"name": "c"}]}}
    daemonset = {"metadata": {"annotations": {"mine": "x"}}, "spec": {"updateStrategy": {"type": "RollingUpdate"}, "template": template}}
    kept = json.dumps(daemonset)
    ours = debug.debugged(template, "kube-proxy", debug.options(2349, False, True))
    (made,) = ours["spec"]["containers"]
    session = "/kind/nodeforge/debug/kube-proxy"
    command = [f"{session}/dlv", "exec", "--headless", "--accept-multiclient", "--api-version=2", "--listen=127.0.0.1:2349", "--continue"]
    assert made["command"] == [*command, "--only-same-user=false", f"{session}/kube-proxy", "--", "--config=/c", "--hostname-override=$(NODE_NAME)"]
    assert "livenessProbe" not in made and made["securityContext"] == {"privileged": True, "seccompProfile": {"type": "Unconfined"}}
    assert [mount["mountPath"] for mount in made["volumeMounts"]] == ["/c", session] and ours["metadata"]["labels"]["nodeforge.io/debug"]
    assert json.dumps(daemonset) == kept
    begin = json.loads(debug.patches(daemonset, ours)["begin"])
    # somebody was broken off in the middle, or another node's is debugged already: its own is what is noted
    note = begin[0]["value"]
    meanwhile = {"metadata": {"annotations": {"nodeforge.io/debug": note}}, "spec": {"updateStrategy": {"type": "OnDelete"}, "template": ours}}
    found = {word: json.loads(patch) for word, patch in debug.patches(meanwhile).items()}
    assert found["mend"][0]["value"] == template and json.loads(found["mend"][1]["value"]) == {"updateStrategy": {"type": "RollingUpdate"}}
    assert [step.get("value") for step in found["settle"]] == [{"type": "RollingUpdate"}, None]
    assert debug.noted(daemonset) == {} and debug.noted({"metadata": {}}) == {}


DLV = "path\tgithub.com/go-delve/delve/cmd/dlv\nmod\tgithub.com/go-delve/delve\tv1.26.2\th1:x=\nbuild\tGOARCH=amd64\n"


def test_what_a_program_holds() -> None:
    files = pclntab("/t/cmd/kubelet/main.go", "/go/src/runtime/proc.go")
    held = program(elf({".debug_info": b"x", ".go.buildinfo": buildinfo("go1.26.8", DLV * 3), ".gopclntab": files}))
    assert held.is_elf and held.arch == "amd64" and held.debuggable
    version, notes = held.build()
    assert version == "go1.26.8" and notes["version"] == "v1.26.2" and notes["GOARCH"] == "amd64"
    assert debug.roots(held.sources(), "kubelet") == {"tree": "/t", "goroot": "/go"}
    assert debug.check_program(held, "x86_64") == "go1.26.8"
    assert debug.check_dlv(held, "x86_64", "go1.26.8") == "v1.26.2"


@pytest.mark.parametrize(
    ("data", "machine", "said"),
    [
        (b"#!/bin/sh\n", "x86_64", "no ELF file"),
        (elf({".text": b"x"}), "x86_64", "holds no debug information"),
        (elf({".debug_info": b"x"}, machine=183), "x86_64", "is for arm64 and the node is amd64"),
        (elf({".debug_info": b"x"}), "aarch64", "is for amd64 and the node is arm64"),
        (elf({".debug_info": b"x"})[:200], "x86_64", "holds no debug information"),
        (b"", "x86_64", "no ELF file"),
    ],
)
def test_programs_that_cannot_be_debugged(data: bytes, machine: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        debug.check_program(program(data), machine)


def test_dlv_that_will_not_do() -> None:
    dlv = elf({".go.buildinfo": buildinfo("go1.26.8", DLV)})
    with pytest.raises(BadInput, match=r"is v1\.26\.2, which does not know go1\.27rc1: compile version v1\.27 or newer"):
        debug.check_dlv(program(dlv), "x86_64", "go1.27rc1")
    with pytest.raises(BadInput, match="the node is arm64: compile it with GOARCH=arm64"):
        debug.check_dlv(program(dlv), "aarch64", "go1.26")
    with pytest.raises(BadInput, match="is not dlv"):
        debug.check_dlv(program(elf({".text": b"x"})), "x86_64", "go1.26")
    # one of a checkout tells no version: dlv itself says what it does not know
    devel = elf({".go.buildinfo": buildinfo("go1.26", DLV.replace("v1.26.2", "(devel)"))})
    assert debug.check_dlv(program(devel), "x86_64", "go1.26") == "(devel)"


@pytest.mark.parametrize(
    ("paths", "tree"),
    [
        (["/root/.cache/trees/v1/cmd/kubelet/main.go", "/root/.cache/trees/v1/vendor/k8s.io/kubernetes/cmd/kubelet/app/server.go"], "/root/.cache/trees/v1"),
        (["/go/src/k8s.io/kubernetes/cmd/kubelet/kubelet.go", "/go/src/k8s.io/kubernetes/vendor/x/cmd/kubelet/y.go"], "/go/src/k8s.io/kubernetes"),
        (["k8s.io/kubernetes/cmd/kubelet/kubelet.go"], "k8s.io/kubernetes"),
        (["/x/cmd/kubectl/kubectl.go"], None),
    ],
)
def test_roots_of_host_container_and_embedded_builds(paths: list[str], tree: str | None) -> None:
    assert debug.roots(paths, "kubelet").get("tree") == tree


WANTED = {"mode": "exec", "sha256": "aa", "port": 1}


@pytest.mark.parametrize(
    ("now", "wanted", "reason"),
    [
        ({}, None, None),
        ({}, WANTED, "it is not debugged"),
        ({"pending": True}, None, "it was broken off"),
        ({"settings": WANTED}, None, "it is debugged"),
        ({"settings": {**WANTED, "port": 2}}, WANTED, "it is debugged in another way"),
        ({"settings": WANTED, "running": ["bb"], "answers": True}, WANTED, "it does not run"),
        ({"settings": WANTED, "running": ["aa"]}, WANTED, "dlv does not answer"),
        ({"settings": WANTED, "running": ["aa"], "answers": True}, WANTED, None),
        ({"settings": {"mode": "attach"}, "answers": True}, {"mode": "attach"}, "dlv is not attached any more"),
        ({"settings": {"mode": "attach"}, "answers": True, "traced": True}, {"mode": "attach"}, None),
        ({"settings": {"mode": "host"}}, {"mode": "host"}, None),
    ],
)
def test_what_has_to_be_done(now: dict[str, t.Any], wanted: t.Any, reason: str | None) -> None:
    empty = debug.seen("machine x86_64\n")
    assert debug.needs(empty._replace(**now), wanted) == reason


def test_a_manifest_for_the_host() -> None:
    command = ["kube-scheduler", "--kubeconfig=/etc/kubernetes/scheduler.conf", "--feature-gates=A=true", "--leader-elect=true"]
    manifest = {"spec": {"containers": [{"name": "other"}, {"name": "kube-scheduler", "command": command, "args": ["--v=4"]}]}}
    arguments, files = debug.host_command(manifest, "kube-scheduler", 4000)
    assert files == ["/etc/kubernetes/scheduler.conf"] and arguments[-2:] == ["--leader-elect=false", "--secure-port=4000"]
    moved = debug.moved(arguments, {files[0]: "/private/scheduler.conf"})
    assert moved[:2] == ["--kubeconfig=/private/scheduler.conf", "--feature-gates=A=true"] and moved[3] == "--v=4"
    assert debug.pointed("clusters:\n- cluster:\n    server: https://a:6443\n  name: b\n", "https://127.0.0.1:1") == (
        "clusters:\n- cluster:\n    server: https://127.0.0.1:1\n  name: b\n"
    )


# launch.json


def plain(text: str) -> t.Any:
    """Its meaning, by other means than the ones under test: the texts here have no // in their strings."""
    lines = "\n".join(line.partition("//")[0] for line in text.splitlines())
    return json.loads(re.sub(r",(\s*[\]}])", r"\1", lines.replace("/* c */", "")))


LAUNCHES = [
    '{\n  // mine\n  "version": "0.2.0",\n  "configurations": [\n    {"name": "a"}, // last\n  ],\n}\n',
    '{\n  "version": "0.2.0",\n  "configurations": [\n    {"name": "a"} // last\n  ]\n}\n',
    '{"configurations": [{"name": "a"}]}',
    '{"configurations": []}',
    '{"version": "0.2.0"}\n',
    "{}",
    '{\n  "configurations": [\n    // none yet\n  ],\n  "compounds": [] /* c */\n}\n',
]


@pytest.mark.parametrize("text", LAUNCHES)
def test_one_more_entry_and_all_else_as_it_was(text: str) -> None:
    made = debug.merge_launch(text, ENTRY)
    before = plain(text)
    assert plain(made) == {**before, "configurations": [*before.get("configurations", []), ENTRY]}, made
    for line in text.splitlines():
        for word in ("// mine", "// last", "// none yet", "/* c */", '"version": "0.2.0"', '{"name": "a"}'):
            assert word not in line or word in made
    assert debug.merge_launch(made, ENTRY) == made
    # updated in its place
    other = debug.merge_launch(made, {**ENTRY, "port": 3})
    assert plain(other)["configurations"][-1]["port"] == 3 and other.replace('"port": 3', '"port": 2345') == made
    assert debug.merge_launch(other, ENTRY) == made


def test_an_entry_in_the_middle_is_updated_only() -> None:
    text = '{\n\t"configurations": [\n\t\t{ "name": "kubelet of kind-worker", "port": 1 }, // x\n\t\t{ "name": "b" }\n\t]\n}\n'
    made = debug.merge_launch(text, ENTRY)
    head, tail = text.split('{ "name": "kubelet of kind-worker", "port": 1 }')
    assert made.startswith(head) and made.endswith(tail) and plain(made.replace("\t", "  "))["configurations"] == [ENTRY, {"name": "b"}]


def test_a_new_file() -> None:
    assert json.loads(debug.merge_launch("", ENTRY)) == {"version": "0.2.0", "configurations": [ENTRY]}


@pytest.mark.parametrize("text", ["[]", "{", '{"configurations": {}}', '{"a" 1}', "{} x", '{"configurations": [}', "{'a': 1}", "[" * 100000])
def test_what_is_no_launch_json_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="mend it"):
        debug.merge_launch(text, ENTRY)


# processes


def test_a_process_is_found_again_and_ended_with_its_children(tmp_path: pathlib.Path) -> None:
    record, log = str(tmp_path / "record"), str(tmp_path / "log")
    script = "trap '' TERM; sleep 300 & echo $! >child; wait"
    pid = background.start(record, log, {"about": 1}, lambda: os.execv("/bin/sh", ["sh", "-c", f"cd {tmp_path}; {script}"]))
    assert background.recorded(record)["pid"] == pid and background.recorded(record)["about"] == 1
    assert os.getsid(pid) == pid != os.getsid(0)
    for dummy in range(100):
        if (tmp_path / "child").exists() and (tmp_path / "child").read_text():
            break
        time.sleep(0.05)
    child = int((tmp_path / "child").read_text())
    # what one that was killed leaves is ended, too
    os.kill(pid, signal.SIGKILL)
    for dummy in range(100):
        if not background.recorded(record):
            break
        time.sleep(0.05)
    assert pathlib.Path(f"/proc/{child}").exists()
    assert not background.end(record) and not os.path.exists(record)
    for dummy in range(100):
        if not background.began(child):
            break
        time.sleep(0.05)
    assert not background.began(child)


def test_another_process_with_that_id_is_left_alone(tmp_path: pathlib.Path) -> None:
    record = tmp_path / "record"
    other = subprocess.Popen(["sleep", "300"], start_new_session=True)
    try:
        known = {"pid": other.pid, "began": "1", "boot": background._boot()}
        record.write_text(json.dumps(known))
        assert not background.recorded(str(record)) and not background.end(str(record)) and other.poll() is None
        record.write_text(json.dumps({**known, "began": background.began(other.pid), "boot": "another"}))
        assert not background.recorded(str(record)) and not background.end(str(record)) and other.poll() is None
    finally:
        other.kill()
        other.wait()
