# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a reader of the code would complain about: linters, licences, changelog, documentation, ansible-test sanity."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
CHECKS = {
    "yamllint": ["yamllint", "--strict", "."],
    "ruff": ["ruff", "check", "."],
    "reuse": ["reuse", "lint"],
    "changelog": ["antsibull-changelog", "lint"],
    "docs": ["antsibull-docs", "lint-collection-docs", "--plugin-docs", "--validate-collection-refs=self", "."],
    "ansible-lint": ["ansible-lint", "--offline", "--strict"],
    "sanity": ["tests/sanity/run.sh"],
}


@pytest.mark.parametrize("check", CHECKS)
def test_quality(check: str, ansible_env: dict[str, str]) -> None:
    ended = subprocess.run(
        CHECKS[check],
        cwd=ROOT,
        env={**ansible_env, "PYTHON": sys.executable, "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=2400,
        check=False,
    )
    output = ROOT / "tests" / "output"
    output.mkdir(exist_ok=True)
    (output / f"{check}.log").write_text(ended.stdout)
    if ended.returncode:
        pytest.fail(f"{check} ended with {ended.returncode}:\n{ended.stdout[-8000:]}", pytrace=False)


def test_the_collection_works_from_its_artifact(tmp_path: pathlib.Path, ansible_env: dict[str, str]) -> None:
    """What is built and installed has all that a play needs, and nothing that belongs to a checkout only."""
    galaxy = [str(pathlib.Path(sys.executable).parent / "ansible-galaxy"), "collection"]
    (tmp_path / "ansible.cfg").touch()
    environment = {**ansible_env, "ANSIBLE_COLLECTIONS_PATH": str(tmp_path), "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg")}

    def run(*command: str) -> None:
        ended = subprocess.run(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert ended.returncode == 0, ended.stdout

    run(*galaxy, "build", "--output-path", str(tmp_path), str(ROOT))
    (artifact,) = tmp_path.glob("nodeforge-kind-*.tar.gz")
    assert artifact.stat().st_size < 5_000_000
    run(*galaxy, "install", "--offline", "-p", str(tmp_path), str(artifact))
    installed = tmp_path / "ansible_collections" / "nodeforge" / "kind"
    assert not [name for name in (".cache", ".git", ".collections", "tests/output") if (installed / name).exists()]
    for playbook in ("build_host", "build_multiarch", "build_node", "build_variant", "clean", "create_cluster", "debug_component", "swap_component"):
        run("ansible-playbook", "--syntax-check", f"nodeforge.kind.{playbook}")
