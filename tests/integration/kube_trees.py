# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small trees of our own that behave as Kubernetes' do, one for each way that its build has worked.

==========  =======================================================================================================
``rsync``   before 1.26: an image of its own, a data container that keeps the sources and what Go compiled, rsync in
            and out; image targets lose DBG
``debug``   1.26 to 1.34: the same, but image targets pass DBG on, and make an image of kubectl, too (from 1.28 on)
``mount``   from 1.35: the tree is mounted into the build container, which is told the version by a file
==========  =======================================================================================================

make, Go, git, rsync and the container engine are the real ones. The build containers see the host's own tools, so that no
image has to come from anywhere.
"""

from __future__ import annotations

import io
import json
import os
import pathlib
import subprocess
import tarfile
import typing as t

GENERATIONS = ("rsync", "debug", "mount")
SERVERS = ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler")
COMPONENTS = (*SERVERS, "kubeadm", "kubectl", "kubelet")
# The file system of the builders: empty, as all that they need is mounted.
BASE = "nodeforge-test-cross"

MAKEFILE = """
.EXPORT_ALL_VARIABLES:
.PHONY: all quick-release-images stuck
all:
\t@hack/make-rules/build.sh $(WHAT)
quick-release-images:
\t@build/release-images.sh
stuck:
\t@trap '' TERM; echo stuck; while :; do sleep 0.1; done
"""

VERSION = r"""
kube::version::get_version_vars() {
  if [[ -n ${KUBE_GIT_VERSION_FILE-} ]]; then source "$KUBE_GIT_VERSION_FILE"; return; fi
  [[ -n ${KUBE_GIT_COMMIT-} ]] || KUBE_GIT_COMMIT=$(git --work-tree "$KUBE_ROOT" rev-parse 'HEAD^{commit}' 2>/dev/null) || return 0
  local state
  KUBE_GIT_TREE_STATE=dirty
  if state=$(git --work-tree "$KUBE_ROOT" status --porcelain 2>/dev/null) && [[ -z $state ]]; then KUBE_GIT_TREE_STATE=clean; fi
  [[ -n ${KUBE_GIT_VERSION-} ]] ||
    KUBE_GIT_VERSION=$(git --work-tree "$KUBE_ROOT" describe --tags --match='v*' --abbrev=14 2>/dev/null) || return 0
  KUBE_GIT_VERSION=$(sed -E 's/^(v[0-9.]+-[a-z]+\.[0-9]+)-([0-9]+)-g/\1.\2+/; s/^(v[0-9.]+-[0-9]+)-g/\1+/' <<<"$KUBE_GIT_VERSION")
  [[ $KUBE_GIT_TREE_STATE == clean ]] || KUBE_GIT_VERSION+=-dirty
}
kube::version::save() {
  printf "%s='%s'\n" KUBE_GIT_COMMIT "${KUBE_GIT_COMMIT-}" KUBE_GIT_TREE_STATE "${KUBE_GIT_TREE_STATE-}" \
    KUBE_GIT_VERSION "${KUBE_GIT_VERSION-}" >"$1"
}
"""

STATUS = r"""#!/usr/bin/env bash
set -o errexit -o nounset
KUBE_ROOT=$(dirname "${BASH_SOURCE[0]}")/..
source "$KUBE_ROOT/hack/lib/version.sh"
kube::version::get_version_vars
cat <<LINES
gitCommit ${KUBE_GIT_COMMIT-}
gitTreeState ${KUBE_GIT_TREE_STATE-}
STABLE_DOCKER_TAG ${KUBE_GIT_VERSION/+/_}
gitVersion ${KUBE_GIT_VERSION-}
LINES
"""

GOLANG = r"""
KUBE_SERVER_IMAGE_TARGETS=(cmd/kube-apiserver cmd/kube-controller-manager cmd/kube-proxy cmd/kube-scheduler@KUBECTL@)
IFS=' ' read -ra KUBE_SERVER_PLATFORMS <<<"${KUBE_BUILD_PLATFORMS:-linux/$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')}"
minimum_go_version=go1.20
kube::golang::toolchain() {
  if [[ ${GOTOOLCHAIN:-auto} != auto ]]; then return; fi
  if [[ -n ${FORCE_HOST_GO:-} ]]; then export GOTOOLCHAIN=local; else export GOTOOLCHAIN=go$(cat "$KUBE_ROOT/.go-version"); fi
}
# a kubelet is linked to the C library unless KUBE_STATIC_OVERRIDES names it; one that needs a loader stands for that here
kube::golang::mode() {
  if [[ $1 == kubelet && " ${KUBE_STATIC_OVERRIDES:-} " != *" kubelet "* ]]; then echo -buildmode=pie; else echo -buildmode=exe; fi
}
"""

BUILD = r"""#!/usr/bin/env bash
set -o errexit -o nounset -o pipefail
KUBE_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
cd "$KUBE_ROOT"
source hack/lib/version.sh
source hack/lib/golang.sh
kube::golang::toolchain
kube::version::get_version_vars
echo "+++ Building $* for ${KUBE_BUILD_PLATFORMS:-this platform}"
for platform in "${KUBE_SERVER_PLATFORMS[@]}"; do
  out=${KUBE_OUTPUT_SUBPATH:-_output/local}/bin/$platform
  mkdir -p "$out"
  for what; do
    name=$(basename "$what")
    if [[ ${DBG:-} == 1 ]]; then flags=(-gcflags=all='-N -l' -ldflags "-X main.version=${KUBE_GIT_VERSION-v0.0.0-master}")
    else flags=(-trimpath -ldflags "-s -w -X main.version=${KUBE_GIT_VERSION-v0.0.0-master}"); fi
    CGO_ENABLED=0 GOOS=linux GOARCH=${platform#*/} go build -buildvcs=false "$(kube::golang::mode "$name")" "${flags[@]}" -o "$out/$name" "./$what"
  done
done
"""

RELEASE = r"""
kube::release::build_server_images() {
  rm -rf _output/release-images
  local platform arch name stage tag=${KUBE_GIT_VERSION/+/_}
  [[ -n $tag ]] || { echo "git version information missing"; return 1; }
  for platform in "${KUBE_SERVER_PLATFORMS[@]}"; do
    arch=${platform#*/} stage=_output/release-stage/server/linux-${platform#*/}
    rm -rf "$stage"
    mkdir -p "$stage" "_output/release-images/$arch"
    for name in "${KUBE_SERVER_IMAGE_TARGETS[@]##*/}"; do
      printf 'FROM scratch\nCOPY %s /\nENTRYPOINT ["/%s"]\n' "$name" "$name" |
        DOCKER_BUILDKIT=0 docker build --quiet --platform "linux/$arch" -t "registry.k8s.io/$name-$arch:$tag" \
          -f - "_output/dockerized/bin/$platform" >/dev/null 2>&1
      docker save -o "$stage/$name.tar" "registry.k8s.io/$name-$arch:$tag"
      ln "$stage/$name.tar" "_output/release-images/$arch/"
      docker rmi "registry.k8s.io/$name-$arch:$tag" >/dev/null
    done
  done
}
"""

COMMON = r"""
set -o errexit -o nounset -o pipefail
KUBE_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$KUBE_ROOT"
source hack/lib/version.sh
source hack/lib/golang.sh
REMOTE=/go/src/k8s.io/kubernetes
KUBE_ROOT_HASH=$(echo -n "${HOSTNAME:-}:$KUBE_ROOT:$(git symbolic-ref --short -q HEAD 2>/dev/null || true)" | md5sum | cut -c1-10)
TOOLS=(@TOOLS@)
kube::build::verify_prereqs() {
  docker info >/dev/null
  kube::version::get_version_vars
  kube::version::save .dockerized-kube-version-defs
}
kube::build::destroy_container() { docker kill "$1" >/dev/null 2>&1 || true; docker rm -f -v "$1" >/dev/null 2>&1 || true; }
kube::build::run() { # NAME OPTION... -- COMMAND...
  local name=$1 options=(); shift
  while [[ $1 != -- ]]; do options+=("$1"); shift; done; shift
  kube::build::destroy_container "$name"
  docker run --name "$name" --network none --user "$(id -u):$(id -g)" --workdir "$REMOTE" --env KUBE_OUTPUT_SUBPATH=_output/dockerized \
    --env "KUBE_BUILD_PLATFORMS=${KUBE_BUILD_PLATFORMS:-}" --env HOME=/tmp --env "PATH=@PATH@" --env GOCACHE=/go/cache "${options[@]}" "$@"
  kube::build::destroy_container "$name"
}
"""

COMMON_RSYNC = r"""
KUBE_BUILD_IMAGE=kube-build:build-$KUBE_ROOT_HASH-5-test
DATA=kube-build-data-$KUBE_ROOT_HASH-5-test
kube::build::build_image() {
  mkdir -p _output/images
  cp build/build-image/Dockerfile build/build-image/rsyncd.sh _output/images/
  DOCKER_BUILDKIT=0 docker build --quiet -t "$KUBE_BUILD_IMAGE" _output/images >/dev/null 2>&1
  docker inspect "$DATA" >/dev/null 2>&1 ||
    docker run --name "$DATA" --network none --volume "$REMOTE" "${TOOLS[@]}" "$KUBE_BUILD_IMAGE" chown "$(id -u):$(id -g)" "$REMOTE"
  kube::build::rsync -a --delete --exclude=/.git --exclude=/_output "$KUBE_ROOT/" "rsync://k8s@ADDRESS/k8s/"
}
kube::build::rsync() {
  local name=kube-rsync-$KUBE_ROOT_HASH-5-test try
  kube::build::destroy_container "$name"
  docker run --detach --name "$name" --publish 127.0.0.1::8730 --volumes-from "$DATA" "$KUBE_BUILD_IMAGE" /rsyncd.sh >/dev/null
  local address; address=$(docker port "$name" 8730 | head -n 1)
  for try in $(seq 50); do rsync "rsync://k8s@$address/" >/dev/null 2>&1 && break; sleep 0.1; done
  rsync "${@/ADDRESS/$address}"
  kube::build::destroy_container "$name"
}
kube::build::copy_output() {
  kube::build::rsync -a --prune-empty-dirs --include=/_output --include=/_output/dockerized --include='/_output/dockerized/bin/***' --exclude='*' \
    "rsync://k8s@ADDRESS/k8s/" "$KUBE_ROOT/"
}
kube::build::run_build_command() {
  kube::build::run "kube-build-$KUBE_ROOT_HASH-5-test" --volumes-from "$DATA" "$KUBE_BUILD_IMAGE" -- "$@"
}
"""

COMMON_MOUNT = r"""
kube::build::run_build_command() {
  local options=(--volume "$KUBE_ROOT:$REMOTE" "${TOOLS[@]}")
  # FORWARDING
  if [[ -n ${KUBE_GIT_VERSION_FILE:-} ]]; then
    cp "$KUBE_GIT_VERSION_FILE" .dockerized-kube-version-defs
    options+=(--env "KUBE_GIT_VERSION_FILE=$REMOTE/.dockerized-kube-version-defs")
  fi
  # END
  kube::build::run "kube-build-$KUBE_ROOT_HASH-6" "${options[@]}" @BASE@ -- "$@"
}
"""

RSYNCD = """#!/bin/sh
printf 'uid = 0\\ngid = 0\\nuse chroot = no\\nlog file = /dev/null\\n[k8s]\\npath = /go/src/k8s.io/kubernetes\\nread only = no\\n' >/rsyncd.conf
exec rsync --no-detach --daemon --port 8730 --config=/rsyncd.conf
"""

RUN = """#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
kube::build::verify_prereqs
"""

PROGRAM = 'package main\n\nimport "os"\n\nvar version string\n\nfunc main() { os.Stdout.WriteString("%s " + version + "\\n") }\n'


def empty_root() -> bytes:
    """A root file system with nothing in it but a place for everybody's files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        directory = tarfile.TarInfo("tmp")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o1777
        archive.addfile(directory)
    return buffer.getvalue()


def base_image() -> str:
    """An image that builders are started from."""
    subprocess.run(["docker", "import", "-", BASE], input=empty_root(), check=True, capture_output=True)
    return BASE


class KubeTree:
    """A tree on disk, of one generation."""

    def __init__(self, path: pathlib.Path, generation: str, version: str = "v1.30.0", git: bool = True) -> None:
        self.path = path
        self.generation = generation
        go = {name: subprocess.check_output(["go", "env", name], text=True).strip() for name in ("GOROOT", "GOCACHE", "GOVERSION")}
        mounts = [f"{pathlib.Path(p).resolve()}:{p}:ro" for p in ("/usr", "/bin", "/lib", "/lib64", go["GOROOT"]) if os.path.exists(p)]
        tools = " ".join(f"--volume {mount}" for mount in [*mounts, f"{go['GOCACHE']}:/go/cache"])
        common = COMMON + (COMMON_MOUNT if generation == "mount" else COMMON_RSYNC)
        common = common.replace("@TOOLS@", tools).replace("@PATH@", f"{go['GOROOT']}/bin:/usr/bin:/bin").replace("@BASE@", BASE)
        for name in COMPONENTS:
            self.write(f"cmd/{name}/main.go", PROGRAM % name)
        self.write("go.mod", "module k8s.io/kubernetes\n\ngo 1.20\n")
        self.write(".go-version", go["GOVERSION"].replace("go", "") + "\n")
        self.write(".gitignore", "/_output/\n.dockerized-kube-version-defs\n")
        self.write("Makefile", MAKEFILE)
        self.write("hack/lib/version.sh", VERSION)
        self.write("hack/lib/golang.sh", GOLANG.replace("@KUBECTL@", "" if generation == "rsync" else " cmd/kubectl"))
        self.write("hack/print-workspace-status.sh", STATUS, 0o755)
        self.write("hack/make-rules/build.sh", BUILD, 0o755)
        self.write("build/common.sh", common)
        self.write("build/lib/release.sh", RELEASE)
        before, after = ("", "") if generation == "mount" else ("kube::build::build_image\n", "kube::build::copy_output\n")
        debug = "" if generation == "rsync" else ' DBG="${DBG:-}"'
        self.write("build/run.sh", f'{RUN}{before}kube::build::run_build_command "$@"\n{after}', 0o755)
        images = (
            f'kube::build::run_build_command make all WHAT="${{KUBE_SERVER_IMAGE_TARGETS[*]}} ${{KUBE_EXTRA_WHAT:-}}" '
            f'KUBE_BUILD_PLATFORMS="${{KUBE_SERVER_PLATFORMS[*]}}"{debug}'
        )
        release = 'source "$KUBE_ROOT/build/lib/release.sh"\n'
        self.write("build/release-images.sh", f"{RUN}{release}{before}{images}\n{after}kube::release::build_server_images\n", 0o755)
        if generation != "mount":
            defs = "ENV KUBE_GIT_VERSION_FILE=/go/src/k8s.io/kubernetes/.dockerized-kube-version-defs"
            self.write("build/build-image/Dockerfile", f"FROM {BASE}\nADD rsyncd.sh /\n{defs}\n")
            self.write("build/build-image/rsyncd.sh", RSYNCD, 0o755)
            self.write("build/build-image/VERSION", "5\n")
        if git:
            self.git("init", "-q", "-b", "main")
            self.commit()
            self.git("tag", version)

    def write(self, name: str, text: str, mode: int = 0o644) -> pathlib.Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        return path

    def edit(self, name: str, before: str, after: str) -> None:
        text = (self.path / name).read_text(encoding="utf-8")
        assert before in text, before
        self.write(name, text.replace(before, after), (self.path / name).stat().st_mode & 0o777)

    def git(self, *args: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", "-C", str(self.path), *identity, *args], check=True, capture_output=True, text=True).stdout.strip()

    def commit(self) -> str:
        self.git("add", "--all")
        self.git("commit", "-q", "-m", "change")
        return self.git("rev-parse", "HEAD")

    def containers(self) -> list[str]:
        """Names of the containers that builds of this tree left."""
        branch = subprocess.run(
            ["git", "-C", str(self.path), "symbolic-ref", "--short", "-q", "HEAD"],
            # as kube_make does: no repository around the tree
            env={**os.environ, "GIT_CEILING_DIRECTORIES": str(self.path.parent)},
            check=False,
            capture_output=True,
            text=True,
        ).stdout.strip()
        host = os.environ.get("HOSTNAME") or os.uname().nodename
        ident = subprocess.run(["md5sum"], input=f"{host}:{self.path}:{branch}", check=True, capture_output=True, text=True).stdout[:10]
        listing = ["docker", "ps", "--all", "--format", "{{.Names}}", "--filter"]
        found = [subprocess.check_output([*listing, f"{what}"], text=True).split() for what in (f"name={ident}", f"volume={self.path}")]
        return sorted({name for names in found for name in names})

    def remove(self) -> None:
        """Whatever builds of this tree left in the engine."""
        for name in self.containers():
            subprocess.run(["docker", "rm", "--force", "--volumes", name], check=False, capture_output=True)
            if name.startswith("kube-build-data-"):
                image = "kube-build:build-" + name[len("kube-build-data-") :]
                subprocess.run(["docker", "image", "rm", "--force", image], check=False, capture_output=True)


def image_facts(archive: str, work: pathlib.Path) -> dict[str, t.Any]:
    """The reference in an image archive, and the path of its only layer's only file, unpacked below ``work``."""
    with tarfile.open(archive) as outer:
        manifest = json.load(t.cast(t.Any, outer.extractfile("manifest.json")))[0]
        with tarfile.open(fileobj=outer.extractfile(manifest["Layers"][0])) as layer:
            (name,) = layer.getnames()
            file, member = work / name, layer.getmember(name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(t.cast(t.Any, layer.extractfile(member)).read())
            file.chmod(member.mode)
    return {"refs": manifest["RepoTags"], "file": str(work / name)}
