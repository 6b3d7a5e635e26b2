# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""roles/tree_sync: a tree of the controller on hosts that are reached by SSH."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import typing as t

import kube_trees
import pytest

from remote import lab as lab_module
from remote.conftest import Player, note
from remote.lab import Lab, Relay

SYNC: list[dict[str, t.Any]] = [{"ansible.builtin.include_role": {"name": "nodeforge.kind.tree_sync"}}, note("tree_sync_path")]
# what a build asks the tree for, and what git says of its files
VERSION = "hack/print-workspace-status.sh"
STATUS = ["status", "--porcelain=v2", "--no-renames", "--untracked-files=all"]


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> kube_trees.KubeTree:
    made = kube_trees.KubeTree(tmp_path / "kubernetes", "mount")
    made.write("docs/note.md", "one\n")
    made.commit()
    made.write("_output/local/bin/kubelet", "compiled here")
    return made


def version_there(host: lab_module.Host, path: str, user: str = "root") -> str:
    return host.sh(f"cd {path} && {VERSION}", user=user)


def version_here(tree: kube_trees.KubeTree) -> str:
    return subprocess.run([str(tree.path / VERSION)], cwd=tree.path, capture_output=True, text=True, check=True).stdout.strip()


def same(tree: kube_trees.KubeTree, host: lab_module.Host, path: str, user: str = "root") -> None:
    """The host has the very files with their times, and its git tells the very same."""
    listing = "find . -path ./.git -prune -o -path './_output' -prune -o -printf '%y %m %P %l ' -type f -printf '%s %T@ ' -o -printf '\\n' | sort"
    here = subprocess.run(["sh", "-c", listing], cwd=tree.path, capture_output=True, text=True, check=True).stdout.strip()
    assert host.sh(f"cd {path} && {listing}", user=user) == here
    assert version_there(host, path, user) == version_here(tree)
    assert host.sh(f"cd {path} && git {' '.join(STATUS)}", user=user) == tree.git(*STATUS)


def test_edits_arrive_and_nothing_else(lab: Lab, play: Player, tree: kube_trees.KubeTree) -> None:
    host = lab.host("plain", go=True)
    hosts = {"plain": host.variables()}

    def sync(*options: str) -> t.Any:
        return play(SYNC, hosts, *options, tree_sync_source=str(tree.path))

    predicted = sync("--check")
    assert predicted.changed("plain") == 1
    assert host.sh("ls -A /root/.cache/nodeforge/synced 2>/dev/null || true") == ""
    first = sync()
    path = first.facts["plain"]
    assert first.changed("plain") == 1
    same(tree, host, path)
    assert "gitTreeState clean" in version_there(host, path)
    for options in ((), ("--check",)):
        assert sync(*options).changed("plain") == 0
    # an edit, a new file, one less; what the host compiled stays, what the controller compiled does not come
    host.sh(f"mkdir -p {path}/_output/there; touch {path}/_output/there/program")
    tree.edit("cmd/kubelet/main.go", "kubelet", "edited kubelet")
    tree.write("cmd/kubelet/new file.go", "package main\n")
    (tree.path / "docs/note.md").unlink()
    predicted = sync("--check", "--diff")
    assert predicted.changed("plain") == 1
    for name in ("cmd/kubelet/main.go", "cmd/kubelet/new file.go", "deleting   docs/note.md"):
        assert name in predicted.output
    assert "gitTreeState clean" in version_there(host, path)
    assert sync().changed("plain") == 1
    same(tree, host, path)
    assert "gitTreeState dirty" in version_there(host, path)
    assert host.sh(f"ls {path}/_output") == "there"
    # commits and tags, without their files' content
    tree.commit()
    assert sync().changed("plain") == 1
    same(tree, host, path)
    assert "gitTreeState clean" in version_there(host, path)
    assert "-2-g" in tree.git("describe", "--tags") and host.sh(f"git -C {path} describe --tags") == tree.git("describe", "--tags")
    tree.git("tag", "-a", "-m", "a release", "v1.31.0-alpha.1")
    tree.git("checkout", "-q", "-b", "topic/one")
    assert sync().changed("plain") == 1
    same(tree, host, path)
    assert host.sh(f"git -C {path} symbolic-ref HEAD") == "refs/heads/topic/one"
    # only staged; and then all of it taken back, with the history
    tree.write("docs/staged.md", "new\n")
    tree.git("add", "docs/staged.md")
    sync()
    same(tree, host, path)
    tree.git("reset", "-q", "--hard", "HEAD~2")
    tree.git("tag", "-d", "v1.31.0-alpha.1")
    sync()
    same(tree, host, path)
    assert sync().changed("plain") == 0


def test_kinds_of_repositories(lab: Lab, play: Player, tree: kube_trees.KubeTree, tmp_path: pathlib.Path) -> None:
    """A worktree with merges and a tag far below, a shallow clone, and a tree without git."""
    host = lab.host("plain", go=True)
    for number in range(3):
        tree.git("checkout", "-q", "-b", f"side{number}", "HEAD~1" if number else "HEAD")
        tree.write(f"docs/side{number}.md", "text\n")
        tree.commit()
        tree.git("checkout", "-q", "main")
        tree.git("merge", "-q", "--no-ff", "-m", "merge", f"side{number}")
    tree.git("worktree", "add", "-q", "--detach", str(tmp_path / "worktree"))
    tree.git("clone", "-q", "--depth=1", f"file://{tree.path}", str(tmp_path / "shallow"))
    subprocess.run(["cp", "-r", str(tree.path), str(tmp_path / "plain")], check=True)
    subprocess.run(["rm", "-rf", str(tmp_path / "plain/.git")], check=True)
    paths = set()
    for kind in ("worktree", "shallow", "plain"):
        other = object.__new__(kube_trees.KubeTree)
        other.path = tmp_path / kind
        ended = play(SYNC, {"plain": host.variables()}, tree_sync_source=str(other.path))
        path = ended.facts["plain"]
        paths.add(path)
        if kind == "plain":
            assert host.sh(f"test ! -e {path}/.git && echo none") == "none"
        else:
            same(other, host, path)
        assert play(SYNC, {"plain": host.variables()}, tree_sync_source=str(other.path)).changed("plain") == 0
    assert len(paths) == 3


def test_become_bastion_and_two_users_at_once(lab: Lab, play: Player, tree: kube_trees.KubeTree) -> None:
    """An ordinary user who becomes root, another one who does not, and a host behind a bastion, in one play: each has a tree of its own."""
    host, bastion = lab.host("plain", go=True), lab.host("bastion")
    behind = lab.through(bastion, host)
    hosts = {
        "becomes": host.variables(ansible_user="builder", ansible_become=True),
        "ordinary": host.variables(ansible_user="other"),
        "behind": {**behind, "ansible_user": "builder"},
    }
    ended = play(SYNC, hosts, tree_sync_source=str(tree.path))
    name = pathlib.PurePath(ended.facts["becomes"]).parent.name
    homes = {"becomes": ("/root", "root"), "ordinary": ("/home/other", "other"), "behind": ("/home/builder", "builder")}
    for inventory_name, (home, user) in homes.items():
        assert ended.facts[inventory_name] == f"{home}/.cache/nodeforge/synced/{name}/tree"
        same(tree, host, ended.facts[inventory_name], user)
    assert host.sh("stat -c %U " + ended.facts["ordinary"]) == "other"
    again = play(SYNC, hosts, tree_sync_source=str(tree.path))
    assert {again.changed(inventory_name) for inventory_name in hosts} == {0}


def test_a_play_brings_the_tree_by_itself(lab: Lab, play: Player, tree: kube_trees.KubeTree) -> None:
    """kube_source is a path of this machine, unless kube_source_on says that it is one of the host."""
    host = lab.host("plain", go=True)
    tree.write("docs/note.md", "not committed\n")
    arguments = {"target": "plain", "preflight_report_only": True}

    def look(**variables: t.Any) -> t.Any:
        return play("nodeforge.kind.preflight", {"plain": host.variables()}, **arguments, **variables)

    commit = tree.git("describe", "--tags", "--abbrev=12").rpartition("-g")[2]
    told = look(kube_source=str(tree.path))
    assert told.changed("plain") == 1 and "dirty" in told.output and commit in told.output, told.output
    # the same path on the host, which has nothing there
    there = look(kube_source=str(tree.path), kube_source_on="host")
    assert there.changed("plain") == 0 and commit not in there.output
    # as the host has it already, it need not come
    name = host.sh("ls -dt /root/.cache/nodeforge/synced/kubernetes-*/tree").split()[0]
    there = look(kube_source=f"tree:{name}", kube_source_on="host")
    assert there.changed("plain") == 0 and commit in there.output


def test_two_plays_at_once(lab: Lab, play: Player, tree: kube_trees.KubeTree) -> None:
    """They follow each other on the host, and the tree is whole after each."""
    host = lab.host("plain", go=True)
    (tree.path / "docs/large.bin").write_bytes(os.urandom(20_000_000))
    both = [play.start(SYNC, {"plain": host.variables()}, tree_sync_source=str(tree.path)) for _number in range(2)]
    first, second = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], first + second
    ended = play(SYNC, {"plain": host.variables()}, tree_sync_source=str(tree.path))
    assert ended.changed("plain") == 0
    same(tree, host, ended.facts["plain"])


def test_a_line_that_breaks(lab: Lab, play: Player, tree: kube_trees.KubeTree) -> None:
    """What has arrived is not sent again, whether the same play tries again or a later one."""
    host = lab.host("plain", go=True)
    relay = Relay(host.address, 0.005)
    try:
        size = 30_000_000
        (tree.path / "docs/large.bin").write_bytes(os.urandom(size))
        hosts = {"plain": host.variables(ansible_host="127.0.0.1", ansible_port=relay.port)}
        relay.cut_after = size // 2
        ended = play(SYNC, hosts, tree_sync_source=str(tree.path))
        same(tree, host, ended.facts["plain"])
        assert relay.carried[0] < size * 1.15, relay.carried
        # sshd's processes are killed in the middle of it
        (tree.path / "docs/large.bin").write_bytes(os.urandom(size))
        before = relay.carried[0]
        started = play.start(SYNC, hosts, tree_sync_source=str(tree.path))
        lab.until(lambda: relay.carried[0] - before > size // 2, "half of the file has arrived", 120)
        host.hang_up()
        ended = play.ended(started)
        same(tree, host, ended.facts["plain"])
        assert relay.carried[0] - before < size * 1.15, (relay.carried, before)
        # a play that is killed in the middle of it
        (tree.path / "docs/large.bin").write_bytes(os.urandom(size))
        before = relay.carried[0]
        killed = play.start(SYNC, hosts, tree_sync_source=str(tree.path))
        lab.until(lambda: relay.carried[0] - before > size // 2, "half of the file has arrived")
        killed.send_signal(signal.SIGINT)
        play.ended(killed, check=False)
        relay.cut()
        sent = relay.carried[0]
        ended = play(SYNC, hosts, tree_sync_source=str(tree.path))
        same(tree, host, ended.facts["plain"])
        assert relay.carried[0] - sent < size * 0.75, (relay.carried[0], sent, before)
        assert host.sh(f"find {ended.facts['plain']}/.. -name '.*.??????' -o -path '*/partial/*'") == ""
    finally:
        relay.close()


def test_sentences(lab: Lab, play: Player, tree: kube_trees.KubeTree, tmp_path: pathlib.Path) -> None:
    host = lab.host("small", options=["--tmpfs", "/small:size=12m"])
    hosts = {"small": host.variables()}

    def said(**variables: t.Any) -> str:
        ended = play(SYNC, variables.pop("hosts", hosts), check=False, **{"tree_sync_source": str(tree.path), **variables})
        assert ended.rc == 2, ended.output
        return ended.message

    assert "there is no directory" in said(tree_sync_source=str(tmp_path / "nowhere"))
    assert "is no tree of Kubernetes" in said(tree_sync_source=str(tmp_path))
    (tree.path / "docs/large.bin").write_bytes(os.urandom(20_000_000))
    assert "the disk of small (/small/nodeforge) is full" in said(tree_sync_cache="/small/nodeforge")
    host.sh("mv /usr/bin/rsync /usr/bin/rsync.away")
    try:
        assert "small has no rsync" in said()
    finally:
        host.sh("mv /usr/bin/rsync.away /usr/bin/rsync")
    host.sh("echo 'other ALL=(ALL) ALL' >/etc/sudoers.d/other; echo other:secret | chpasswd")
    asked = host.variables(ansible_user="other", ansible_become=True, ansible_become_password="secret")
    assert "with a password, which rsync cannot be given" in said(hosts={"small": asked})


@pytest.mark.skipif(not (pathlib.Path.home() / ".cache/nodeforge/trees/v1.37.2/.git").exists(), reason="the embedded tree was never made here")
def test_a_large_tree_over_a_long_line(lab: Lab, play: Player) -> None:
    """100 Mbit/s and 50 ms: a tree that did not change costs three seconds at most."""
    host = lab.host("far")
    host.narrow()
    relay = Relay(host.address, 0.025)
    try:
        hosts = {"far": host.variables(ansible_host="127.0.0.1", ansible_port=relay.port)}
        tree = pathlib.Path.home() / ".cache/nodeforge/trees/v1.37.2"
        walls = []
        # the role's own time, after a first task that opens Ansible's connection
        begin = {"ansible.builtin.set_fact": {"began": "{{ now().timestamp() }}"}}
        end = {"ansible.builtin.set_fact": {"ended": "{{ now().timestamp() }}"}}
        timed = [begin, SYNC[0], end, note("{'path': tree_sync_path, 'seconds': ended | float - began | float}")]
        for number in range(3):
            before = sum(relay.carried)
            ended = play(timed, hosts, tree_sync_source=str(tree), play={"gather_facts": True, "gather_subset": ["min"]})
            walls.append(ended.facts["far"]["seconds"])
            print(f"run {number}: {walls[-1]:.1f} s, {sum(relay.carried) - before} bytes, changed {ended.changed('far')}")
        assert ended.changed("far") == 0
        # on a machine that has something else to do, as much longer
        busy = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        assert min(walls[1:]) <= 3 * busy, (walls, busy)
        assert host.sh(f"git -C {ended.facts['far']['path']} describe --tags") == "v1.37.2"
    finally:
        relay.close()
