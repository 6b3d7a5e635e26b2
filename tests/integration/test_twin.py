# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""roles/supplies/files/scripts/twin.py: the root that it makes is what dpkg itself makes of the other architecture's packages."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import tarfile
import typing as t

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "roles/supplies/files/scripts/twin.py"
TRIPLETS = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
MACHINES = {"amd64": 62, "arm64": 183}
# what packages want to hear of: one of each architecture's own, and one that is no path
TRIGGERS = {
    "tool": "interest-noawait /usr/share/things\ninterest update-tool\n",
    "library": "# of the compiler\ninterest /usr/lib/@triplet@/plugins\ninterest-await /usr/lib/plugins\nactivate-noawait ldconfig\n",
}


def program(arch: str, what: str) -> bytes:
    """The head of a program, and something of its own."""
    return b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00" + MACHINES[arch].to_bytes(2, "little") + what.encode()


def package(directory: pathlib.Path, arch: str, name: str, files: dict[str, bytes | str], **fields: str) -> pathlib.Path:
    """A real one. A file's content of type str is a link."""
    root = directory / f"{name}-{arch}"
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            (root / path).symlink_to(content)
        else:
            (root / path).write_bytes(content)
            (root / path).chmod(0o755 if content[:4] == b"\x7fELF" else 0o644)
    (root / "DEBIAN").mkdir()
    control = {"Package": name, "Version": "1", "Architecture": arch, "Maintainer": "nobody", **fields, "Description": "a test\n of two lines"}
    (root / "DEBIAN/control").write_text("".join(f"{key}: {value}\n" for key, value in control.items()))
    conffiles = [f"/{path}\n" for path in files if path.startswith("etc/")]
    if conffiles:
        (root / "DEBIAN/conffiles").write_text("".join(conffiles) + "remove-on-upgrade /etc/of-old.conf\n")
    if name in TRIGGERS:
        (root / "DEBIAN/triggers").write_text(TRIGGERS[name].replace("@triplet@", TRIPLETS.get(arch, "")))
    (root / "DEBIAN/md5sums").write_text(
        subprocess.run("find * -path DEBIAN -prune -o -type f -exec md5sum {} +", shell=True, cwd=root, capture_output=True, text=True, check=True).stdout
    )
    output = directory / arch / f"{name}.deb"
    output.parent.mkdir(exist_ok=True)
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", str(root), str(output)], check=True, capture_output=True)
    return output


def packages(directory: pathlib.Path, arch: str) -> pathlib.Path:
    triplet = TRIPLETS[arch]
    tool: dict[str, bytes | str] = {"usr/bin/tool": program(arch, "tool"), "usr/lib/tool/moved": program(arch, "moved")}
    package(directory, arch, "tool", {**tool, "etc/tool.conf": b"of the package\n"})
    only = {"amd64": "usr/bin/only-amd64", "arm64": "usr/libexec/only/arm64"}[arch]
    library = {f"usr/lib/{triplet}/lib.so.1": program(arch, "lib"), f"usr/lib/{triplet}/lib.so": "lib.so.1", only: program(arch, "only")}
    library[f"usr/share/doc/library/changelog.Debian.{arch}.gz"] = b"of no use in a node"
    package(directory, arch, "library", library, **{"Multi-Arch": "same"})
    if not (directory / "all.deb").exists():
        shutil.copy(package(directory, "all", "data", {"usr/share/data": b"the same for all\n"}), directory / "all.deb")
    shutil.copy(directory / "all.deb", directory / arch / "all.deb")
    return directory / arch


def installed(directory: pathlib.Path, arch: str, debs: pathlib.Path) -> pathlib.Path:
    """A root that dpkg has made, and what scripts and hooks did to it."""
    root = directory / f"root-{arch}"
    for path in ("var/lib/dpkg/info", "var/lib/dpkg/updates", "etc"):
        (root / path).mkdir(parents=True)
    (root / "var/lib/dpkg/status").touch()
    subprocess.run(
        ["dpkg", f"--root={root}", "--force-architecture", "--force-script-chrootless", "--log=/dev/null", "--install", *map(str, sorted(debs.glob("*.deb")))],
        check=True,
        capture_output=True,
    )
    for name in ("arch", "arch-native"):
        (root / "var/lib/dpkg" / name).write_text(f"{arch}\n")
    for name in ("lock", "lock-frontend", "status-old"):
        (root / "var/lib/dpkg" / name).unlink(missing_ok=True)
    # as the hook of rootfs.sh does it
    watched = root / "var/lib/dpkg/triggers/File"
    watched.write_text("".join(sorted(watched.read_text().splitlines(keepends=True))))
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (root / "etc/alternatives").mkdir()
    (root / "etc/alternatives/tool").symlink_to("/usr/bin/tool")
    (root / "etc/alternatives/lib").symlink_to(f"/usr/lib/{TRIPLETS[arch]}/lib.so")
    (root / "usr/bin/tool").chmod(0o4755)
    (root / "opt/bin").mkdir(parents=True)
    (root / "usr/lib/tool/moved").rename(root / "opt/bin/moved")
    (root / "usr/lib/tool").rmdir()
    shutil.rmtree(root / "usr/share/doc")
    return root


def packed(root: pathlib.Path) -> pathlib.Path:
    archive = root.with_suffix(".tar")
    subprocess.run(["tar", "-C", str(root), "-cf", str(archive), "."], check=True)
    return archive


def content(archive: pathlib.Path) -> dict[str, t.Any]:
    """What is where."""
    with tarfile.open(archive) as tar:
        found = {}
        for info in tar:
            data = tar.extractfile(info).read() if info.isfile() else b""
            name = info.name.strip("./")
            found[name] = (info.type, oct(info.mode), info.uid, info.gid, info.linkname, data)
        return found


def twin(native: pathlib.Path, debs: pathlib.Path, output: pathlib.Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), str(native), str(debs), str(output)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("here, there", [("amd64", "arm64"), ("arm64", "amd64")])
def test_the_twin_is_what_dpkg_makes(tmp_path: pathlib.Path, here: str, there: str) -> None:
    debs = {arch: packages(tmp_path, arch) for arch in TRIPLETS}
    roots = {arch: packed(installed(tmp_path, arch, debs[arch])) for arch in TRIPLETS}
    # the cache of the linker, which only a program of the architecture could make
    cached = tmp_path / "root-cached"
    shutil.copytree(tmp_path / f"root-{here}", cached, symlinks=True)
    (cached / "etc/ld.so.cache").write_bytes(f"\0/usr/lib/{TRIPLETS[here]}\0".encode())
    ended = twin(packed(cached), debs[there], tmp_path / "twin.tar")
    assert ended.returncode == 0, ended.stderr
    made, real = content(tmp_path / "twin.tar"), content(roots[there])
    assert set(made) == set(real)
    assert {name: (made[name], real[name]) for name in real if made[name] != real[name]} == {}
    # and the second time, byte by byte
    first = (tmp_path / "twin.tar").read_bytes()
    assert twin(cached.with_suffix(".tar"), debs[there], tmp_path / "twin.tar").returncode == 0
    assert (tmp_path / "twin.tar").read_bytes() == first


def test_what_cannot_be_a_twin(tmp_path: pathlib.Path) -> None:
    debs = {arch: packages(tmp_path, arch) for arch in TRIPLETS}
    root = installed(tmp_path, "amd64", debs["amd64"])
    output = tmp_path / "twin.tar"

    def refused(**files: bytes) -> str:
        for name, data in files.items():
            (root / name).write_bytes(data)
        ended = twin(packed(root), debs["arm64"], output)
        for name in files:
            (root / name).unlink()
        assert ended.returncode == 1 and "Traceback" not in ended.stderr
        return ended.stderr

    assert "twin: /stray of the native root is a program of no package" in refused(stray=program("amd64", "stray"))
    assert "twin: /cache of the native root is of its architecture, and no package has it" in refused(cache=b"\0/usr/lib/x86_64-linux-gnu\0")
    package(tmp_path, "arm64", "wrong", {"usr/bin/wrong": program("amd64", "wrong")})
    assert "twin: ./usr/bin/wrong of the packages is no program for arm64" in refused()
    (tmp_path / "arm64/wrong.deb").unlink()
    (debs["amd64"] / "tool.deb").rename(debs["arm64"] / "other.deb")
    assert "twin: the packages are for amd64, arm64, the native root is for amd64" in refused()
