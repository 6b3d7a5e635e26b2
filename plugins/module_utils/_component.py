# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can change at any time.
"""The components of Kubernetes in a running node: how each is run, found, replaced, checked and put back.

What is done in a node is one shell script, :data:`SCRIPT`, run by one exec: it holds the node's lock, puts the previous
program back by itself where the new one does not become healthy, and goes on to its end where whoever started it is gone.
Python decides, and tells.
"""

from __future__ import annotations

import collections.abc as c
import json
import struct
import typing as t

from ansible_collections.nodeforge.kind.plugins.module_utils import _kind as kind

# How a component is run; the words are the script's, too.
UNIT, POD, DAEMON, FILE = "unit", "pod", "daemon", "file"
COMPONENTS: dict[str, str] = {
    "kubelet": UNIT,
    "kube-apiserver": POD,
    "kube-controller-manager": POD,
    "kube-scheduler": POD,
    "kube-proxy": DAEMON,
    "kubeadm": FILE,
    "kubectl": FILE,
}
ORIGINAL = "original"
# Pods of a DaemonSet that are debugged bear this label; its annotation holds what is put back when none is debugged any more.
DEBUG_LABEL = "nodeforge.io/debug"
# What the machine's word for itself (uname -m) is in an ELF header and in Go.
MACHINES = {"x86_64": (62, "amd64"), "aarch64": (183, "arm64")}

# Functions for scripts with the arguments ACTION COMPONENT HOW, then those of the action. They print "key value" lines, then the log's
# tail after "@log".
LIBRARY = r"""
set -u; umask 022; export LC_ALL=C
action=$1 name=$2 how=$3; shift 3
base=/kind/nodeforge dir=/kind/nodeforge/$name file=/usr/bin/$name manifest=/etc/kubernetes/manifests/$name.yaml
session=/kind/nodeforge/debug/$name check=well gone=0
why= pid= exe= began= log_since= logs_before= held= written= come=

say() { printf '%s %s\n' "$1" "$2"; }
sum() { local line; line=$(sha256sum "$1" 2>/dev/null) && printf %s "${line%% *}"; }
note_of() { sed -n "s/.*\"$1\": \"\([^\"]*\)\".*/\1/p" "$dir/state.json" 2>/dev/null; }
kube() { kubectl --kubeconfig "$1" --request-timeout=5s "${@:2}" 2>&1; }

# note PHASE CURRENT VERSION: what whoever comes next has to know
note() {
  printf '{"component": "%s", "phase": "%s", "original": "%s", "current": "%s", "version": "%s", "manifest": "%s"}\n' \
    "$name" "$1" "$original" "$2" "$3" "$written" >"$dir/.state" &&
    mv -f "$dir/.state" "$dir/state.json"
}

# the component's own processes; not those of somebody's pod that runs the same program
pids() {
  local link
  find /proc/[0-9]*/exe -maxdepth 0 \( -lname "*/$name" -o -lname "*/$name (deleted)" \) 2>/dev/null | while read -r link; do
    case $how in
      unit) [ "${link%/exe}/ns/mnt" -ef /proc/1/ns/mnt ] ;;
      pod) grep -Eqs "/pods/[0-9a-f]{32}/containers/$name/" "${link%/exe}/mountinfo" ;;
      daemon) grep -qs "/containers/$name/" "${link%/exe}/mountinfo" ;;
      *) false ;;
    esac && link=${link%/exe} && printf '%s\n' "${link#/proc/}"
  done
}
running() { local p; for p in $(pids); do sum_of "/proc/$p/exe" && echo; done | sort -u; }
# of a program that may be the file itself, whose checksum is known
sum_of() { if [ -n "${disk:-}" ] && [ "$1" -ef "$file" ]; then printf %s "$disk"; else sum "$1"; fi; }

mounted() { sed -n "s|.*path: *\"\{0,1\}$dir/\([0-9a-f]\{64\}\)/$name\"\{0,1\} *$|\1|p" "$manifest" 2>/dev/null | head -n 1; }
# what would run after a restart: a checksum, or original where nothing of ours is in place
on_disk() {
  local found
  case $how in
    pod) found=$(mounted); printf %s "${found:-original}" ;;
    daemon) if [ -e "$dir/current" ]; then sum "$dir/current"; else printf original; fi ;;
    *) sum "$file" ;;
  esac
}

# in_place FILE CHECKSUM: whether that file, which has the checksum, is what would run after a restart; another one differs soon
in_place() {
  case $how in
    pod) [ "$(mounted)" = "$2" ] ;;
    daemon) cmp -s "$1" "$dir/current" ;;
    *) cmp -s "$1" "$file" ;;
  esac
}

# what a program says of itself; also whether it runs here at all
says() {
  case $name in
    kubectl) timeout -k 1 20 "$1" version --client ;;
    kubeadm) timeout -k 1 20 "$1" version -o short ;;
    *) timeout -k 1 20 "$1" --version ;;
  esac 2>&1 </dev/null
}
version_in() { grep -Eo 'v[0-9]+\.[0-9]+\.[0-9]+[-+.0-9A-Za-z]*' | head -n 1; }

# give FROM TO: the same file under another name, at once
give() {
  [ "$1" -ef "$2" ] && return
  { ln -f "$1" "$2.nodeforge" 2>/dev/null || cp -pf "$1" "$2.nodeforge"; } && mv -f "$2.nodeforge" "$2"
}

# Static pods get the program as a mount; its path holds the checksum, so that another program is another pod. kubectl
# knows the structure of a manifest, whoever wrote it.
beside=/etc/kubernetes/.nodeforge-$name.yaml
edit() { # edit PATCH [MANIFEST]: the manifest, changed, beside its directory
  kubectl patch --local -f "${2:-$manifest}" -o yaml -p "$1" >"$beside" 2>"/run/nodeforge-$name.err" ||
    { why="its manifest cannot be changed: $(tail -n 1 "/run/nodeforge-$name.err")"; return 1; }
}
mount_at() {
  local command
  command=$(sed -n '/^ *-* *command:/{n;s/^ *- *//p;q}' "$manifest")
  case $command in /*) printf %s "$command" ;; *) printf /usr/local/bin/%s "$name" ;; esac
}
mount_patch() {
  printf '{"spec": {"containers": [{"name": "%s", "volumeMounts": [{"name": "nodeforge", "mountPath": "%s", "readOnly": true}]}],
    "volumes": [{"name": "nodeforge", "hostPath": {"path": "%s", "type": "File"}}]}}' "$name" "$(mount_at)" "$dir/$1/$name"
}
unmount_patch() {
  printf '{"spec": {"containers": [{"name": "%s", "volumeMounts": [{"$patch": "delete", "mountPath": "%s"}]}],
    "volumes": [{"$patch": "delete", "name": "nodeforge"}]}}' "$name" "$(mount_at)"
}

# place: the manifest beside its directory into it, by a rename, so that the kubelet sees it whole. A pod that takes
# another's place would wait 10 s for it (the kubelet's back-off): so the other has to be gone. It may close down, but an API
# server waits for its watchers to leave.
place() {
  local grace=30 i=0 p uid
  [ "$name" != kube-apiserver ] || grace=3
  chmod 600 "$beside" && rm -f "$manifest"
  while p=$(pids) && [ -n "$p" ] && [ "$i" -lt 100 ]; do
    [ "$i" -lt "$grace" ] || kill -s KILL $p 2>/dev/null
    i=$((i + 1)) && sleep 0.1
  done
  for uid in /var/log/pods/kube-system_"$name-$HOSTNAME"_*; do
    while [ "$i" -lt 150 ] && find /sys/fs/cgroup -type d -name "*pod${uid##*_}*" | grep -q .; do i=$((i + 1)) && sleep 0.1; done
  done
  sleep 0.5 # the kubelet's last steps leave no trace
  mv -f "$beside" "$manifest"
}

# put CHECKSUM|original: that one is what runs after the next restart
put() {
  local from=$dir/$1/$name
  [ "$1" != original ] || from=$dir/original
  case $how in
    pod)
      if [ "$1" != original ]; then
        edit "$(mount_patch "$1")"
      elif [ -e "$dir/original.yaml" ] && [ "$(sum "$manifest")" = "$(note_of manifest)" ]; then
        cp -p "$dir/original.yaml" "$beside"
      else # somebody changed it meanwhile: only what is ours goes
        edit "$(unmount_patch)"
      fi && place
      ;;
    daemon) give "$from" "$dir/current" ;;
    *) give "$from" "$file" ;;
  esac
}

restart() {
  case $how in
    unit)
      [ "${1:-}" != hard ] || systemctl kill --kill-who=main -s KILL "$name" 2>/dev/null
      timeout -k 1 15 systemctl stop "$name" 2>/dev/null || systemctl kill --kill-who=main -s KILL "$name"
      log_since=$(date +%s.%N)
      timeout -k 1 15 systemctl start "$name" 2>/dev/null
      ;;
    daemon) # a node may delete the pods that it runs
      kube /etc/kubernetes/kubelet.conf -n kube-system get pods --field-selector "spec.nodeName=$HOSTNAME" -l k8s-app=kube-proxy -o name |
        while read -r pod; do kube /etc/kubernetes/kubelet.conf -n kube-system delete "$pod" --wait=false >/dev/null; done
      ;;
  esac
  true # what came of it, its health tells
}

# health

get() { curl -sfkg -m 3 "$@" 2>/dev/null; }
argument() { tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | sed -n "s/^--$1=//p" | tail -n 1; }

process() { # process CHECKSUM: exactly one, and its program is that one
  local found
  found=$(pids)
  case $found in
    '') why="$name does not run"; return 1 ;;
    *[!0-9]*) why="the $name before has not ended yet"; return 1 ;;
  esac
  if [ "$found" != "$pid" ]; then
    # the very file that has just come whole need not be read again
    if [ -n "$1" ] && [ "$1" = "$come" ] && [ "/proc/$found/exe" -ef "$dir/$1/$name" ]; then exe=$1; else exe=$(sum "/proc/$found/exe"); fi
    pid=$found since=$SECONDS
  fi
  [ -z "$1" ] || [ "$exe" = "$1" ] || { why="the $name before still runs"; return 1; }
}

unit_well() {
  local port answer ready beat
  port=$(sed -n 's/^healthzPort: *//p' /var/lib/kubelet/config.yaml 2>/dev/null)
  get "http://localhost:${port:-10248}/healthz" >/dev/null || { why="its healthz does not answer ok"; return 1; }
  answer='{.status.nodeInfo.kubeletVersion}{range .status.conditions[?(@.type=="Ready")]} {.status} {.lastHeartbeatTime} {.message}{end}'
  answer=$(kube /etc/kubernetes/kubelet.conf get node "$HOSTNAME" -o "jsonpath=$answer") || { why="the node cannot be read: $answer"; return 1; }
  read -r reported ready beat answer <<<"$answer"
  # the word of the kubelet before does not count, whatever its version
  [ "$(date -d "${beat:-1970-01-01}" +%s)" -ge "$began" ] || { why="it has not reported the node's state yet"; return 1; }
  [ "$ready" = True ] || [ "$ready" = "$ready_before" ] || { why="the node is not Ready: $answer"; return 1; }
  [ -z "$1" ] || [ "$reported" = "$1" ] || { why="the node reports $reported, not $1"; return 1; }
}
node_ready() {
  kube /etc/kubernetes/kubelet.conf get node "$HOSTNAME" -o jsonpath='{range .status.conditions[?(@.type=="Ready")]}{.status}{end}' | grep -x False
}

apiserver_well() {
  local at keys=/etc/kubernetes/pki/apiserver-kubelet-client answer
  at=$(argument secure-port)
  at=https://localhost:${at:-6443}
  get --cert "$keys.crt" --key "$keys.key" "$at/readyz" >/dev/null || { why="its readyz does not answer ok"; return 1; }
  answer=$(get --cert "$keys.crt" --key "$keys.key" "$at/version" | sed -n 's/.*"gitVersion": *"\([^"]*\)".*/\1/p')
  [ -z "$1" ] || [ "$answer" = "$1" ] || { why="it reports $answer, not $1"; return 1; }
}

lease() { kube /etc/kubernetes/admin.conf -n kube-system get lease "$name" -o jsonpath='{.spec.holderIdentity} {.metadata.resourceVersion}'; }
controller_well() {
  local port holder
  port=$(argument secure-port)
  if [ -z "$port" ]; then case $name in kube-scheduler) port=10259 ;; *) port=10257 ;; esac; fi
  get "https://localhost:$port/healthz" >/dev/null || { why="its healthz does not answer ok"; return 1; }
  if [ "$(argument leader-elect)" = false ]; then
    [ $((SECONDS - since)) -ge 3 ] || { why="it has run for a moment only"; return 1; }
    return
  fi
  holder=$(lease) || { why="its lease cannot be read: $holder"; return 1; }
  holder=${holder%% *}
  case $held in
    "$HOSTNAME"_*) [ "$holder" != "$held" ] ;;
  esac && [ -n "$holder" ] || { why="it does not hold its lease"; return 1; }
}
# One that was killed keeps its lease for 15 s, in which nobody controls: it is given up for it, once it has ended.
release() {
  local holder version
  case $held in "$HOSTNAME"_*) ;; *) return ;; esac
  [ -z "$released" ] && { [ -z "$pid_before" ] || [ ! -e "/proc/$pid_before" ]; } || return
  read -r holder version <<<"$(lease)"
  if [ "$holder" = "$held" ]; then
    kube /etc/kubernetes/admin.conf -n kube-system patch lease "$name" --type=merge \
      -p "{\"metadata\": {\"resourceVersion\": \"$version\"}, \"spec\": {\"holderIdentity\": null}}" >/dev/null || return
  fi
  released=1
}

well() { # well CHECKSUM VERSION
  [ "$how" != file ] || { [ -n "$(says "$file" | version_in)" ] || { why="it does not run"; return 1; }; return; }
  case $name in kube-controller-manager | kube-scheduler) release ;; esac
  process "$1" || return
  case $name in
    kubelet) unit_well "$2" ;;
    kube-apiserver) apiserver_well "$2" ;;
    kube-proxy) get http://localhost:10256/healthz >/dev/null || { why="its healthz does not answer ok"; return 1; } ;;
    *) controller_well ;;
  esac
}

logs() { find /var/log/pods/kube-system_"$name"-*/"$name" -name '*.log' 2>/dev/null | sort; }
new_logs() { comm -13 <(printf '%s\n' "$logs_before") <(logs); }
# where it ends again and again, nothing more is to be waited for
hopeless() {
  [ "$gone" -lt 20 ] || { why="it ended"; return 0; } # what runs it stays
  case $how in
    unit) [ "$(systemctl show -p NRestarts --value "$name")" -ge 4 ] && why="it ended again and again" ;;
    pod | daemon) # logs are numbered by the starts of the container, and old ones go
      local log number before
      for log in $(new_logs); do
        number=${log##*/} before=$(grep -F "${log%/*}/" <<<"$logs_before" | sed 's|.*/||;s|[.]log||' | sort -n | tail -n 1)
        [ "${number%.log}" -lt $((${before:--1} + 3)) ] || { why="it ended again and again"; return 0; }
      done
      false
      ;;
    *) true ;;
  esac
}
show_log() {
  local log
  echo @log
  case $how in
    unit) journalctl "_SYSTEMD_UNIT=$name.service" --since "@$log_since" -n 200 -o cat --no-pager 2>/dev/null ;;
    pod | daemon)
      log=$(new_logs | xargs -r ls -tr | xargs -r cat | tail -n 200)
      if [ -n "$log" ]; then
        cut -d' ' -f4- <<<"$log"
      else
        journalctl -u kubelet --since "@$began" -o cat --no-pager 2>/dev/null | grep -- "$name" | tail -n 20
      fi
      ;;
  esac | cut -c1-500
}

# begin: what must be known of the time before a restart
begin() {
  pid_before=$(pids | head -n 1) released= began=$(date +%s) logs_before=$(logs) ready_before=True
  pid=$pid_before exe=before
  [ "${1:-}" = forward ] || pid=
  case $name in
    kubelet) ready_before=$(node_ready) || ready_before=True ;;
    kube-controller-manager | kube-scheduler) held=$(lease) && held=${held%% *} || held= ;;
  esac
}
# await CHECKSUM VERSION SECONDS [forward]
await() {
  local end=$((SECONDS + $3))
  until "$check" "$1" "$2"; do
    if [ "${4:-}" = forward ]; then
      [ ! -e "$abort" ] || { why="it was interrupted"; return 1; }
      ! hopeless || return
    fi
    [ "$SECONDS" -lt "$end" ] || { why="$why after $3 s"; return 1; }
    sleep 0.1
  done 2>/dev/null
}

refuse() { say result refused; say why "$1"; exit; }
lock() {
  exec 9>/run/nodeforge.lock
  flock -w "$1" 9 || refuse "another swap in this node did not end in $1 s"
}
# tidy KEEP: of all programs kept here only that one is needed
tidy() {
  local kept
  for kept in "$dir"/*/; do
    kept=${kept%/}
    [ "${kept##*/}" = "$1" ] || rm -rf "$kept"
  done
  rm -f "$dir/previous.yaml"
}
settle() { # settle CHECKSUM|original VERSION
  if [ "$1" = original ] && [ "$how" != daemon ]; then rm -rf "$dir"; else note settled "$1" "$2"; tidy "$1"; fi
}
checksum_of() { if [ "$1" = original ]; then printf %s "$original"; else printf %s "$1"; fi; }

back() { cp -p "$dir/previous.yaml" "$beside" && place; }
# turn TARGET VERSION SECONDS: to that program, or back to the one before
turn() {
  local target=$1 version=$2 seconds=$3 log written_before=$written
  [ "$how" = unit ] || [ "$how" = file ] || systemctl is-active -q kubelet || refuse "the kubelet, which runs its pod, is not active"
  begin forward
  note swapping "$previous" "$previous_version"
  if [ "$how" = pod ]; then
    # one that is there already is from a swap that was broken off: that is undone first
    if [ -e "$dir/previous.yaml" ]; then back; else cp -p "$manifest" "$dir/previous.yaml"; fi
  fi
  if put "$target" && restart && await "$(checksum_of "$target")" "$version" "$seconds" forward; then
    [ "$how" != pod ] || written=$(sum "$manifest")
    settle "$target" "$version"
    say result changed
    say pid "$pid"
    return
  fi
  say why "$why"
  log=$(show_log)
  written=$written_before
  begin
  if [ "$how" = pod ]; then back; else put "$previous"; fi
  restart hard
  if await "$(checksum_of "$previous")" "$previous_version" "$seconds"; then
    settle "$previous" "$previous_version"
    say result rolledback
  else
    say result lost
    say lost "$why"
  fi
  printf '%s\n' "$log"
}

# what was settled last; where nothing ever was, the image's own is kept
recall() {
  original=$(note_of original) previous=$(note_of current) previous_version=$(note_of version) written=$(note_of manifest)
  [ -z "$previous" ] || return 0
  previous=original
  mkdir -p "$dir"
  case $how in
    pod)
      original=$(running) previous_version=$(says "/proc/$(pids | head -n 1)/exe" | version_in)
      case $original in *[!0-9a-f]*) original= ;; esac
      if [ -n "$(mounted)" ]; then # the note is lost
        edit "$(unmount_patch)" && mv -f "$beside" "$dir/original.yaml" && original=
      else
        cp -p "$manifest" "$dir/original.yaml"
      fi
      ;;
    unit | file)
      { ln -f "$file" "$dir/original" || cp -pf "$file" "$dir/original"; } 2>/dev/null
      original=$(sum "$dir/original") previous_version=$(says "$dir/original" | version_in)
      ;;
  esac
}
"""

SCRIPT = (
    LIBRARY
    + r"""
undebugged() { [ ! -e "$session" ] || refuse "it is being debugged: end that first (kube_component_debug with state=absent)"; }

case $action in
  look)
    [ ! -e "$session" ] || say debugged yes
    say machine "$(uname -m)"
    say state "$(cat "$dir/state.json" 2>/dev/null)"
    disk=$(on_disk)
    say disk "$disk"
    case $how in unit | file) ;; *) disk= ;; esac
    running | while read -r one; do say running "$one"; done
    [ "$how" != pod ] || [ -e "$manifest" ] || [ -e "$dir/previous.yaml" ] || say absent manifest
    ;;
  prepare) # for the DaemonSet: every node has a file that its pod mounts
    lock 300
    [ -e "$dir/current" ] && exit
    mkdir -p "$dir"
    found=$(pids | head -n 1)
    [ -n "$found" ] && cp "/proc/$found/exe" "$dir/.original" && chmod 755 "$dir/.original" && mv "$dir/.original" "$dir/original" ||
      refuse "kube-proxy does not run, so its program cannot be kept"
    original=$(sum "$dir/original")
    note settled original "$(says "$dir/original" | version_in)"
    give "$dir/original" "$dir/current"
    ;;
  forget) # after the DaemonSet has its own program again
    lock 300
    original=$(note_of original)
    began=$(date +%s)
    await "$original" "" "$1" || refuse "$why"
    rm -rf "$dir"
    rmdir "$base" 2>/dev/null
    ;;
  swap) # SHA256 SECONDS TOKEN, and the program comes in
    abort=/run/nodeforge-abort-$3
    mkdir -p "$base"
    new=$(mktemp -d "$base/.new.XXXXXX") || refuse "there is no place for the program in $base"
    trap 'rm -rf "$new" "$abort"; rmdir "$base" 2>/dev/null' EXIT
    chmod 755 "$new"
    got=$(set -o pipefail; tee "$new/$name" 2>/dev/null | sha256sum) && [ "${got%% *}" = "$1" ] ||
      refuse "the program did not arrive whole (is the disk full, or is it being written?)"
    chmod 755 "$new/$name"
    told=$(says "$new/$name")
    version=$(version_in <<<"$told")
    [ -n "$version" ] ||
      refuse "it does not tell its version in the node: $(tail -n 1 <<<"${told:-it says nothing}" | cut -c1-200)"
    say version "$version"
    lock $((2 * $2 + 30))
    undebugged
    [ ! -e "$abort" ] || refuse "it was interrupted"
    recall
    say previous "$(checksum_of "$previous")"
    say previous_version "$previous_version"
    if [ "$(note_of phase)" = settled ] && in_place "$new/$name" "$1" && { [ "$how" = file ] || [ "$(running)" = "$1" ]; }; then
      say result unchanged
      exit
    fi
    if [ "$(sum "$dir/$1/$name")" != "$1" ]; then rm -rf "${dir:?}/$1"; mv "$new" "$dir/$1"; fi
    come=$1
    turn "$1" "$version" "$2"
    ;;
  original) # SECONDS TOKEN
    abort=/run/nodeforge-abort-$2
    trap 'rm -f "$abort"; rmdir "$base" 2>/dev/null' EXIT
    lock $((2 * $1 + 30))
    undebugged
    [ ! -e "$abort" ] || refuse "it was interrupted"
    if [ ! -e "$dir/state.json" ] && { [ "$how" != pod ] || [ -z "$(mounted)" ]; }; then say result unchanged; exit; fi
    recall
    say previous "$(checksum_of "$previous")"
    say previous_version "$previous_version"
    version=
    [ "$how" = pod ] || version=$(says "$dir/original" | version_in)
    say version "$version"
    turn original "$version" "$1"
    ;;
esac
"""
)


class Seen(t.NamedTuple):
    """A component in a node as it is."""

    machine: str
    state: dict[str, str]
    disk: str
    running: list[str]
    absent: bool
    debugged: bool = False

    @property
    def current(self) -> str:
        """The checksum of what is in place, or ``original``."""
        return self.state.get("current") or (ORIGINAL if self.disk == ORIGINAL or not self.state else self.disk)

    def target(self, wanted: str) -> str | None:
        """The checksum that is meant; None for an original that nobody has seen."""
        return (self.state.get("original") or None) if wanted == ORIGINAL else wanted

    @property
    def sha256(self) -> str | None:
        """The checksum of what runs, or of the file where nothing has to run."""
        if len(self.running) == 1:
            return self.running[0]
        return self.disk if self.disk != ORIGINAL and not self.running else None


def parse(text: str) -> tuple[dict[str, list[str]], list[str]]:
    """What the script printed: the values of each key, and the log's lines."""
    told, dummy, log = text.partition("@log\n")
    values: dict[str, list[str]] = {}
    for line in told.splitlines():
        key, dummy, value = line.partition(" ")
        values.setdefault(key, []).append(value)
    return values, kind.tail(log, 200)


def seen(text: str) -> Seen:
    """What the script's look tells."""
    values, dummy = parse(text)
    try:
        state = json.loads(values.get("state", [""])[0] or "{}")
    except ValueError:
        # cut off by a full disk: what is in place cannot be told from it
        state = {"phase": "unknown"}
    return Seen(
        values.get("machine", [""])[0], state, values.get("disk", [""])[0], values.get("running", []), "absent" in values, "debugged" in values
    )


def needs(how: str, now: Seen, wanted: str) -> str | None:
    """Why something has to be done so that ``wanted``, a checksum or ``original``, is what runs; None where it does."""
    phase = now.state.get("phase", "settled")
    if phase != "settled":
        return "an earlier swap was broken off"
    if wanted == ORIGINAL:
        if how == DAEMON:
            return "another program is in place" if now.state.get("current", ORIGINAL) != ORIGINAL else None
        return "another program is in place" if now.state or (how == POD and now.disk != ORIGINAL) else None
    if how == FILE:
        return None if now.disk == wanted else "another program is in place"
    if now.running != [wanted]:
        return "another program runs" if now.running else "it does not run"
    # the image's own program needs no mount
    if now.disk not in (wanted, ORIGINAL):
        return "another program would run after a restart"
    return None


def check_program(path: str, head: bytes, size: int, machine: str) -> None:
    """That a file is a program for the node, as far as its header tells: an ELF file, of that machine, with all its segments."""
    if head[:4] != b"\x7fELF":
        raise kind.BadInput(f'The file "{path}" is not a program for Linux (no ELF file): give a compiled component')
    if len(head) < 64 or head[4] != 2 or head[5] != 1:
        raise kind.BadInput(f'The program "{path}" is not one for a 64-bit machine: compile it for the platform of the node')
    number, arch = MACHINES.get(machine, (0, machine))
    has: int = struct.unpack_from("<H", head, 18)[0]
    if has != number:
        names = dict(MACHINES.values())
        raise kind.BadInput(
            f'The program "{path}" is for {names.get(has, f"another machine (ELF {has})")} and the node is {arch}: compile it for linux/{arch}'
        )
    offset: int = struct.unpack_from("<Q", head, 32)[0]
    entry, count = struct.unpack_from("<HH", head, 54)
    for at in range(offset, offset + entry * count, entry):
        if at + 56 > len(head):
            break
        begins, in_file = struct.unpack_from("<Q", head, at + 8)[0], struct.unpack_from("<Q", head, at + 32)[0]
        if begins + in_file > size:
            raise kind.BadInput(f'The program "{path}" is cut off: it has {size} bytes and needs {begins + in_file}; compile or copy it again')


def daemon_patch(mounted: bool, node: c.Sequence[str] = ("kube-proxy", "/usr/local/bin/kube-proxy")) -> str:
    """What mounts the node's own kube-proxy into the pods of its DaemonSet, or takes the mount away."""
    name, path = node
    mount: dict[str, t.Any] = {"name": "nodeforge", "mountPath": path, "readOnly": True}
    volume: dict[str, t.Any] = {"name": "nodeforge", "hostPath": {"path": f"{kind.DIRECTORY}/{name}/current", "type": "File"}}
    if not mounted:
        mount, volume = {"$patch": "delete", "mountPath": path}, {"$patch": "delete", "name": "nodeforge"}
    spec = {"containers": [{"name": name, "volumeMounts": [mount]}], "volumes": [volume]}
    return json.dumps({"spec": {"template": {"spec": spec}}})
