#!/usr/bin/env bash
# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Makes the tree PATH: lay_out.sh PATH VERSION DIGEST; our own part of it is read as lines of file name, mode and content.
# Until the last step it is made beside PATH, so an interrupted run leaves nothing that looks like a tree.
set -euo pipefail
path=$1 version=$2 digest=$3
mapfile -t files # whatever comes: Ansible takes input that is left unread for an error
partial=$(dirname "$path")/.$(basename "$path").partial

# One at a time: what a killed play had begun may still be at work, and may even complete the tree.
mkdir -p "$(dirname "$path")"
exec 9<"$(dirname "$path")"
flock 9
if [[ $(cat "$path/.git/nodeforge-tree" 2>/dev/null) == "$version $digest" ]]; then exit; fi

# a run that was killed may have left some, too
clean() { rm -rf "$partial" "$partial.log" "$partial.old"; }
clean
trap clean EXIT
umask 022
mkdir -p "$partial"
for line in "${files[@]}"; do
  read -r file mode content <<<"$line"
  base64 -d <<<"$content" | install -D -m "$mode" /dev/stdin "$partial/$file"
done
# shellcheck source-path=SCRIPTDIR source=tree/hack/lib.sh
source "$partial/hack/lib.sh"
find_go
export GOFLAGS=-mod=mod

grep -q "^[[:space:]]k8s.io/kubernetes $version\$" go.mod || hack/update-go-mod.sh "$version"
go mod vendor 2>"$partial.log" ||
  die "The modules of Kubernetes $version cannot be had: check the Go module proxy and the disk (the Go command says: $(grep -v ': downloading ' "$partial.log" | tail -n 2 | paste -sd' '))"

# Everything in the commit is the same on every machine, and so are the commit and what is compiled from it.
GIT_AUTHOR_DATE=$(go list -m -f '{{.Time.Unix}}' k8s.io/kubernetes)' +0000'
export GIT_AUTHOR_DATE GIT_COMMITTER_DATE=$GIT_AUTHOR_DATE
export GIT_AUTHOR_NAME=nodeforge GIT_AUTHOR_EMAIL=nodeforge@localhost
export GIT_COMMITTER_NAME=nodeforge GIT_COMMITTER_EMAIL=nodeforge@localhost
{
  env GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null git init --quiet --template= --initial-branch=main .
  mkdir -p .git/info
  printf '* -text\n' >.git/info/attributes # no conversion of line ends, whatever dependencies say
  printf '/_output/\n/hack/nodeforge.mk\n' >.git/info/exclude
  # the modules' own lists of ignored files do not count
  repo -c core.looseCompression=1 add --all --force .
  repo commit --quiet --message "Kubernetes $version"
  repo tag "$version"
} >"$partial.log" 2>&1 || die "git could not record the tree $path: $(tail -n 2 "$partial.log" | paste -sd' ')"
printf '%s %s\n' "$version" "$digest" >.git/nodeforge-tree

cd /
if [[ -d $path/_output ]]; then
  mv "$path/_output" "$partial/"
fi
if [[ -e $path ]]; then
  mv -T "$path" "$partial.old"
fi
mv -T "$partial" "$path"
