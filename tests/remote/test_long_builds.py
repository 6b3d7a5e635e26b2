# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A compile on a host goes on when the line breaks or Ansible is killed, and the next run takes it over; trees of others are not held up."""

from __future__ import annotations

import pathlib
import re
import typing as t

import kube_trees
import pytest

from remote import lab as lab_module
from remote.conftest import Play, Player, note
from remote.lab import Lab, Relay

# where a compile waits until a file appears
HOLD = "\nhold: all\n\t@echo holding; while [ ! -e $(HOME)/go-on ]; do sleep 0.1; done; echo released\n"
TASKS: list[dict[str, t.Any]] = [
    {"ansible.builtin.include_role": {"name": "nodeforge.kind.tree_sync"}},
    {
        "nodeforge.kind.kube_make": {"tree": "{{ tree_sync_path }}", "targets": ["hold"], "what": ["cmd/kubelet"], "progress": "lines"},
        "register": "made",
        # the Go that is there
        "environment": {"GOTOOLCHAIN": "local"},
    },
    note("made"),
]


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> kube_trees.KubeTree:
    made = kube_trees.KubeTree(tmp_path / "kubernetes", "mount")
    made.write("Makefile", (made.path / "Makefile").read_text() + HOLD)
    made.commit()
    return made


class Builds:
    """Builds of a tree on a host, and what goes on there."""

    def __init__(self, lab: Lab, play: Player, tree: kube_trees.KubeTree) -> None:
        self.lab, self._play, self.tree = lab, play, tree
        self.host: lab_module.Host = lab.host("builds", go=True)
        self.hosts = {"builds": self.host.variables()}

    def start(self, hosts: dict[str, t.Any] | None = None, **variables: t.Any) -> t.Any:
        return self._play.start(TASKS, hosts or self.hosts, play={"any_errors_fatal": True}, tree_sync_source=str(self.tree.path), **variables)

    def ended(self, process: t.Any, check: bool = True) -> Play:
        return self._play.ended(process, check=check, timeout=180)

    def makes(self) -> list[str]:
        """The makes that run."""
        return self.host.sh("pgrep -x make || :").split()

    def holds(self) -> None:
        logs = "/root/.cache/nodeforge/synced/*/tree/_output/nodeforge/*.log"
        self.lab.until(lambda: self.host.sh(f"cat {logs} 2>/dev/null | tail -n 1") == "holding", "it holds", 90)

    def go_on(self, user: str = "root") -> None:
        self.host.sh("touch ~/go-on", user=user)


@pytest.fixture
def builds(lab: Lab, play: Player, tree: kube_trees.KubeTree) -> t.Iterator[Builds]:
    made = Builds(lab, play, tree)
    yield made
    made.host.sh("touch ~/go-on; touch /home/other/go-on")
    lab.until(lambda: not made.makes(), "nothing is compiled any more")
    made.host.sh("rm -rf ~/go-on /home/other/go-on ~/.cache/nodeforge/synced")
    # what told who waits is gone
    assert made.host.sh("ls ~/.ansible_async | grep nodeforge- || :") == ""


def test_a_line_that_breaks(builds: Builds) -> None:
    relay = Relay(builds.host.address, 0.001)
    first = builds.start({"builds": builds.host.variables(ansible_host="127.0.0.1", ansible_port=relay.port)})
    builds.holds()
    before = builds.makes()
    assert before
    relay.close()
    lost = builds.ended(first, check=False)
    assert lost.rc != 0 and builds.makes() == before
    assert "The connection to builds broke off in nodeforge.kind.kube_make" in lost.message, lost.output
    assert "run this again; a compile that had begun there goes on and is taken over" in lost.message
    second = builds.start()
    for line in second.stdout:
        if line.strip() == "[builds] holding":
            builds.go_on()
    ended = builds.ended(second)
    made = ended.facts["builds"]
    assert made["changed"] and re.match(r"Waited for make hold for linux/\w+ of root, process \d+, since ", made["actions"][0]), made
    assert builds.host.sh(made["outputs"]["binaries"]["kubelet"]["path"]) != ""
    assert not builds.ended(builds.start()).facts["builds"]["changed"]


def test_a_connection_that_is_killed(builds: Builds) -> None:
    """The very play opens another one and goes on, as long as the host can be reached."""
    first = builds.start()
    builds.holds()
    before = builds.makes()
    builds.host.hang_up()
    builds.host.sh("sleep 3")
    assert builds.makes() == before and first.poll() is None
    builds.go_on()
    made = builds.ended(first).facts["builds"]
    assert made["changed"] and made["actions"][0].startswith("Ran make hold")


def test_another_state_of_the_tree_waits(builds: Builds) -> None:
    """The compile that goes on sees the files with which it began; the edit comes after it."""
    first = builds.start()
    builds.holds()
    first.kill()
    first.communicate(timeout=60)
    text = (builds.tree.path / "cmd/kubelet/main.go").read_text()
    builds.tree.write("cmd/kubelet/main.go", text + "\n// an edit\n")
    there = "cat /root/.cache/nodeforge/synced/*/tree/cmd/kubelet/main.go"
    second = builds.start()
    told = ""
    for line in second.stdout:
        told += line
        if "FAILED - RETRYING" in line:
            assert "an edit" not in builds.host.sh(there)
            builds.go_on()
    ended = builds.ended(second)
    assert re.search(r"Waits for make hold for linux/\w+ of root, process \d+, since [\d:]+ on builds, as the tree has changed since", told), told
    assert builds.host.sh(there).endswith("// an edit")
    assert ended.facts["builds"]["actions"][0].startswith("Ran make hold"), ended.facts


def test_a_time_limit_names_whom_it_waits_for(builds: Builds) -> None:
    first = builds.start()
    builds.holds()
    builds.tree.write("docs/note.md", "edited\n")
    late = builds.ended(builds.start(tree_sync_wait=5), check=False)
    assert re.search(r"it is compiled there \(make hold for linux/\w+ of root, process \d+, since [\d:]+\): wait for its end", late.message)
    builds.go_on()
    assert builds.ended(first).facts["builds"]["changed"]


def test_two_users_on_one_host(builds: Builds) -> None:
    """The tree of another user is another one: nobody waits."""
    first = builds.start()
    builds.holds()
    builds.go_on("other")
    other = builds.ended(builds.start({"other": builds.host.variables(ansible_user="other")}))
    made = other.facts["other"]
    assert made["changed"] and made["outputs"]["binaries"]["kubelet"]["path"].startswith("/home/other/.cache/nodeforge/synced/")
    assert made["actions"][0].startswith("Ran make hold") and builds.makes()
    builds.go_on()
    assert builds.ended(first).facts["builds"]["actions"][0].startswith("Ran make hold")
