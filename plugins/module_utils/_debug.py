# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can change at any time.
"""A component under delve: what its program holds, how it is run in a node, and what an editor has to know.

What is done in a node is :data:`SCRIPT`, on the functions with which components are swapped: the same lock, the same health, the
same way back. All that it keeps lies in ``/kind/nodeforge/debug/COMPONENT``.
"""

from __future__ import annotations

import collections.abc as c
import copy
import json
import re
import struct
import typing as t

from ansible_collections.nodeforge.kind.plugins.module_utils import _component as component
from ansible_collections.nodeforge.kind.plugins.module_utils import _kind as kind

# How a component is debugged; the words are the script's, too.
EXEC, ATTACH, HOST = "exec", "attach", "host"
# One each, so that several can be debugged at once.
PORTS = {"kubelet": 2345, "kube-apiserver": 2346, "kube-controller-manager": 2347, "kube-scheduler": 2348, "kube-proxy": 2349}
HOSTED = ("kube-controller-manager", "kube-scheduler")

# Actions: look; debug MODE PORT WAIT MAPPED ELECTION SECONDS TOKEN SETTINGS DLV_SIZE DLV_SHA256 PROGRAM_SIZE PROGRAM_SHA256, with dlv and
# the program on its standard input; absent SECONDS TOKEN.
SCRIPT = (
    component.LIBRARY
    + r"""
dropin=/etc/systemd/system/$name.service.d/99-nodeforge-debug.conf
tracer=nodeforge-debug-$name.service door=nodeforge-door-$name.service
node_of() { sed -n "s/.*\"$1\": \"\{0,1\}\([^\",}]*\).*/\1/p" "$session/settings.json" "$session/pending.json" 2>/dev/null | head -n 1; }

# whether dlv answers at its port; a request that it answers also while the program runs
answers() {
  local told
  told=$({ exec 8<>"/dev/tcp/127.0.0.1/$port" && echo '{"method": "RPCServer.GetVersion", "params": [{}], "id": 1}' >&8 &&
    IFS= read -r -t 5 told <&8 && printf %s "$told"; } 2>/dev/null)
  case $told in *DelveVersion*) ;; *) why="dlv does not answer"; return 1 ;; esac
}
traced() { # traced PID: dlv is attached to it
  local by
  by=$(sed -n 's/^TracerPid:[[:space:]]*//p' "/proc/$1/status" 2>/dev/null)
  [ "${by:-0}" != 0 ] && [ "/proc/$by/exe" -ef "$session/dlv" ]
}
debugged_well() {
  local found
  answers || return
  case $mode in
    attach) process "" && traced "$pid" || { why=${why:-dlv is not attached}; return 1; } ;;
    exec)
      found=$(pids)
      if [ -n "$found" ]; then gone=0; else gone=$((gone + 1)); fi
      [ "$wait" = yes ] && [ -n "$found" ] || well "$1" "$2"
      ;;
  esac
}

# The unit's own ExecStart, as it would be without us. systemctl show keeps no quotes.
unit_command() {
  local line file= found= part=
  while IFS= read -r line; do
    case $line in "# /"*) file=${line#\# } ;; esac
    [ "$file" != "$dropin" ] || continue
    line=$part$line part=
    case $line in *\\) part=${line%\\} ;; ExecStart=*) found=${line#ExecStart=} ;; esac
  done < <(systemctl cat --no-pager "$name")
  found=${found#"${found%%[!-@:+!|]*}"}
  printf %s "${found#"${found%%[[:space:]]*}"}"
}
options() { # those of dlv, a line each
  printf '%s\n' --headless --accept-multiclient --api-version=2 "--listen=127.0.0.1:$port"
  [ "$wait" = yes ] || echo --continue
  # whoever comes through the door is nobody of this node
  [ "$mapped" = no ] || echo --only-same-user=false
}
# dlv keeps a configuration and would make a directory for it
home=/run/nodeforge-dlv
write_dropin() {
  mkdir -p "${dropin%/*}"
  # dlv ends the program along with itself on an interrupt; what is left then is killed
  cat >"$dropin" <<EOF
# Made by nodeforge.kind.kube_component_debug, which also removes it.
[Service]
Type=simple
WatchdogSec=0
Environment=XDG_CONFIG_HOME=$home
ExecStart=
ExecStart=$session/dlv exec $(options | tr '\n' ' ')$session/$name --$(unit_command)
KillMode=mixed
KillSignal=SIGINT
TimeoutStopSec=10
EOF
}
# No probe ends what stands at a breakpoint, and no lease is lost there.
debug_patch() {
  local flags elect=
  flags=$(kubectl patch --local -f "$session/original.yaml" -p '{}' -o "jsonpath={.spec.containers[?(@.name==\"$name\")].command}")
  case $flags in *'",'*) flags=", ${flags#*\",}" flags=${flags%]} ;; *) flags= ;; esac
  case $name in
    kube-controller-manager | kube-scheduler)
      if [ "$election" = off ]; then
        elect=', "--leader-elect=false"'
      else
        elect=', "--leader-elect-lease-duration=24h", "--leader-elect-renew-deadline=23h"'
      fi
      ;;
  esac
  printf '{"spec": {"containers": [{"name": "%s", "command": ["%s/dlv", "exec", %s "%s/%s", "--"%s%s],
    "livenessProbe": null, "readinessProbe": null, "startupProbe": null, "securityContext": {"seccompProfile": {"type": "Unconfined"}},
    "volumeMounts": [{"name": "nodeforge-debug", "mountPath": "%s", "readOnly": true}]}],
    "volumes": [{"name": "nodeforge-debug", "hostPath": {"path": "%s", "type": "Directory"}}]}}' \
    "$name" "$session" "$(options | sed 's/.*/"&",/' | tr '\n' ' ')" "$session" "$name" "$flags" "$elect" "$session" "$session"
}

# Where somebody changed the manifest meanwhile, only what is ours goes.
undebug_patch() {
  local part parts=
  for part in command livenessProbe readinessProbe startupProbe securityContext; do
    parts="$parts, \"$part\": $(kubectl patch --local -f "$session/original.yaml" -p '{}' -o "jsonpath={.spec.containers[?(@.name==\"$name\")].$part}" |
      grep . || echo null)"
  done
  printf '{"spec": {"containers": [{"name": "%s"%s, "volumeMounts": [{"$patch": "delete", "mountPath": "%s"}]}],
    "volumes": [{"$patch": "delete", "name": "nodeforge-debug"}]}}' "$name" "$parts" "$session"
}

# The door lets the gateway's packets, which is where a published port's come from, to dlv on the loopback; nobody else's.
write_door() {
  cat >"$session/door" <<'EOF'
#!/bin/bash
# door open|shut PORT
read -r dev dummy way dummy < <(grep -P '^\S+\s+00000000\s' /proc/net/route)
gateway=$(printf '%d.%d.%d.%d' "0x${way:6:2}" "0x${way:4:2}" "0x${way:2:2}" "0x${way:0:2}")
localnet=/proc/sys/net/ipv4/conf/$dev/route_localnet
to=(PREROUTING -i "$dev" -s "$gateway" -p tcp --dport "$2" -j DNAT --to-destination "127.0.0.1:$2")
guard=(PREROUTING -i "$dev" -d 127.0.0.0/8 -m comment --comment "nodeforge $2" -j DROP)
iptables -w -t nat -D "${to[@]}" 2>/dev/null
iptables -w -t mangle -D "${guard[@]}" 2>/dev/null
if [ "$1" = open ]; then
  iptables -w -t mangle -I "${guard[@]}" && echo 1 >"$localnet" && iptables -w -t nat -I "${to[@]}"
elif ! iptables -w -t mangle -S PREROUTING | grep -q '"nodeforge '; then
  echo 0 >"$localnet"
fi
EOF
  cat >"/etc/systemd/system/$door" <<EOF
# Made by nodeforge.kind.kube_component_debug, which also removes it.
[Unit]
Description=The way to dlv of $name
After=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/bash $session/door open $port
ExecStop=/bin/bash $session/door shut $port
[Install]
WantedBy=multi-user.target
EOF
  systemctl daemon-reload && systemctl -q enable --now "$door" 2>/dev/null ||
    { why="the node's iptables does not take the rule for dlv's port"; return 1; }
}
shut_door() {
  [ -e "/etc/systemd/system/$door" ] || return 0
  systemctl -q disable --now "$door" 2>/dev/null
  rm -f "/etc/systemd/system/$door" && systemctl daemon-reload
}

# the pods of this node that its DaemonSet made for dlv
debug_pods() {
  local told
  told=$(kube /etc/kubernetes/kubelet.conf -n kube-system get pods --field-selector "spec.nodeName=$HOSTNAME" -l "k8s-app=$name,@LABEL@" -o name) ||
    { why="its pods cannot be read: $told"; return 1; }
  grep '^pod/' <<<"$told" || true
}
# the DaemonSet, whose template is its own again, makes another pod once they are gone
remove_pods() {
  local found pod end=$((SECONDS + 60))
  until found=$(debug_pods) && [ -z "$found" ]; do
    for pod in $found; do kube /etc/kubernetes/kubelet.conf -n kube-system delete "$pod" --grace-period=3 --wait=false >/dev/null; done
    [ "$SECONDS" -lt "$end" ] || { why="the pod that ran it under dlv does not go away"; return 1; }
    sleep 0.3
  done
}

# step_aside: the pod is gone, its manifest kept
step_aside() {
  rm -f "$manifest"
  local i=0 p
  while p=$(pids) && [ -n "$p" ] && [ "$i" -lt 100 ]; do
    [ "$i" -lt 30 ] || kill -s KILL $p 2>/dev/null
    i=$((i + 1)) && sleep 0.1
  done
}
# whoever runs the program tells when it is well; where nobody does, it was broken off
await_host() {
  local go=/run/nodeforge-go-$1 end=$((SECONDS + $2 + 10))
  say aside "$name"
  until [ -e "$go" ]; do
    [ ! -e "$abort" ] || { why="it was interrupted"; return 1; }
    [ "$SECONDS" -lt "$end" ] || { why="nobody ran it"; return 1; }
    sleep 0.1
  done
  rm -f "$go"
}

receive() { # receive FILE SIZE SHA256
  [ "$2" -gt 0 ] || return 0
  head -c "$2" >"$session/.$1" && [ "$(sum "$session/.$1")" = "$3" ] && chmod 755 "$session/.$1" && mv -f "$session/.$1" "$session/$1"
}
forget() {
  rm -rf "$session" "$home" "/run/nodeforge-$name.err"
  rmdir "${session%/*}" "$base" 2>/dev/null
}
# What ran before runs again. What was replaced is known by what lies there, whatever became of who did it.
undo() {
  local seconds=$1 before
  check=well gone=0
  before=$(cat "$session/before" 2>/dev/null)
  shut_door
  case $(node_of mode) in
    attach)
      systemctl stop "$tracer" 2>/dev/null
      for p in $(pids); do ! traced "$p" || { why="dlv is still attached"; return 1; }; done
      return 0
      ;;
  esac
  case $how in
    unit)
      [ -e "$dropin" ] || return 0
      begin
      timeout -k 1 15 systemctl stop "$name" 2>/dev/null || systemctl kill -s KILL "$name"
      rm -f "$dropin"
      rmdir "${dropin%/*}" 2>/dev/null
      systemctl daemon-reload
      restart
      ;;
    pod)
      [ -e "$session/original.yaml" ] && ! cmp -s "$session/original.yaml" "$manifest" || return 0
      begin
      if [ -e "$manifest" ] && [ -e "$session/placed" ] && [ "$(sum "$manifest")" != "$(cat "$session/placed")" ]; then
        edit "$(undebug_patch)"
      else
        cp -p "$session/original.yaml" "$beside"
      fi && place || return
      ;;
    daemon)
      begin
      remove_pods || return
      [ "${before# }" ] || return 0 # it did not run
      ;;
  esac
  await "${before%% *}" "${before#* }" "$seconds"
}
begin_debug() {
  rm -f "$session/settings.json"
  printf '%s\n' "$settings" >"$session/pending.json"
  if [ ! -e "$session/before" ]; then # a second time, this is not what was there before
    local found
    found=$(pids | head -n 1)
    [ "$how" != pod ] || cp -p "$manifest" "$session/original.yaml"
    printf '%s %s\n' "$(sum "/proc/$found/exe")" "$([ -z "$found" ] || says "/proc/$found/exe" | version_in)" >"$session/before"
  fi
}
run_debugged() { # whatever its mode; why tells what went wrong
  shut_door
  [ "$mapped" = no ] || write_door || return
  case $mode in
    attach)
      systemctl stop "$tracer" 2>/dev/null
      pid=$(pids)
      case $pid in '' | *[!0-9]*) why="$name does not run"; return 1 ;; esac
      systemd-run -q --unit "$tracer" --collect -p KillSignal=SIGINT -p TimeoutStopSec=20 -E "XDG_CONFIG_HOME=$home" \
        "$session/dlv" attach "$pid" $(options) 2>"/run/nodeforge-$name.err" ||
        { why="dlv cannot be started: $(tail -n 1 "/run/nodeforge-$name.err")"; return 1; }
      ;;
    exec)
      case $how in
        unit) timeout -k 1 15 systemctl stop "$name" 2>/dev/null; write_dropin && systemctl daemon-reload && restart ;;
        pod) edit "$(debug_patch)" "$session/original.yaml" && place && sum "$manifest" >"$session/placed" ;;
        # whoever may change the DaemonSet replaces the pod
        daemon) await_host "$token" $((seconds + 20)) ;;
      esac
      ;;
    host) step_aside ;;
  esac
}
debug_log() {
  if [ "$mode" = attach ]; then echo @log; journalctl -u "$tracer" -n 50 -o cat --no-pager 2>/dev/null | cut -c1-500; else show_log; fi
}

case $action in
  look)
    say machine "$(uname -m)"
    say settings "$(cat "$session/settings.json" 2>/dev/null)"
    [ ! -e "$session/pending.json" ] || say pending yes
    if [ -e "$dropin" ] && [ ! -e "$session" ]; then say pending yes; fi
    if [ "$how" = daemon ] && [ ! -e "$session" ] && [ -n "$(debug_pods)" ]; then say pending yes; fi
    say swapping "$(note_of phase)"
    for pid in $(pids); do
      say pid "$pid"
      say running "$(sum "/proc/$pid/exe")"
      ! traced "$pid" || say traced "$pid"
    done
    port=$(node_of port)
    [ -z "$port" ] || ! answers || say answers yes
    [ "$how" != pod ] || [ -e "$manifest" ] || [ -e "$session" ] || say absent manifest
    ;;
  debug)
    mode=$1 port=$2 wait=$3 mapped=$4 election=$5 seconds=$6 token=$7 abort=/run/nodeforge-abort-$7 settings=$8
    lock $((2 * seconds + 60))
    trap 'rm -f "$abort" "/run/nodeforge-go-$7"; [ -e "$session/before" ] || forget' EXIT
    [ "$how" = unit ] || systemctl is-active -q kubelet || [ "$mode" = attach ] || refuse "the kubelet, which runs its pod, is not active"
    [ "$(note_of phase)" != swapping ] || refuse "a swap of it was broken off: run that again first"
    mkdir -p "$session"
    receive dlv "$9" "${10}" && receive "$name" "${11}" "${12}" || refuse "the programs did not arrive whole (is the disk full?)"
    version=
    if [ "$mode" = exec ]; then
      version=$(says "$session/$name" | version_in)
      [ -n "$version" ] || refuse "it does not tell its version in the node: $(says "$session/$name" | tail -n 1 | cut -c1-200)"
    fi
    said=$(XDG_CONFIG_HOME=$home timeout -k 1 20 "$session/dlv" version 2>&1 </dev/null) || [ "$mode" = host ] ||
      refuse "dlv does not run in the node: $(tail -n 1 <<<"$said" | cut -c1-200)"
    [ ! -e "$abort" ] || refuse "it was interrupted"
    [ ! -e "$session/pending.json" ] || undo "$seconds" || refuse "what was broken off before cannot be put back: $why"
    begin_debug
    begin forward
    check=debugged_well
    case $mode in
      host) run_debugged && await_host "$token" "$seconds" ;;
      *) run_debugged && await "${12}" "$version" "$seconds" forward ;;
    esac
    if [ $? = 0 ]; then
      mv -f "$session/pending.json" "$session/settings.json"
      say result changed
      say pid "$pid"
      exit
    fi
    say why "$why"
    log=$(debug_log)
    if undo "$seconds"; then forget; say result rolledback; else say result lost; say lost "$why"; fi
    printf '%s\n' "$log"
    ;;
  absent) # SECONDS TOKEN
    abort=/run/nodeforge-abort-$2
    lock $((2 * $1 + 60))
    if [ ! -e "$session" ] && [ ! -e "$dropin" ] && { [ "$how" != daemon ] || [ -z "$(debug_pods)" ]; }; then say result unchanged; exit; fi
    if undo "$1"; then forget; say result changed; else say result lost; say why "$why"; show_log; fi
    ;;
esac
"""
).replace("@LABEL@", component.DEBUG_LABEL)

# What is done to a DaemonSet, on a control plane. Its controller knows one template for all nodes: it has another one only until the pod of one
# node is made of it, and leaves that pod alone as long as pods are replaced by nobody but us (OnDelete). So all other pods stay as they are.
# Actions, which one after the other get their turn: replace NODE SECONDS GENERATION PATCH BACK; mend BACK; settle PATCH.
DAEMON_SCRIPT = r"""
set -u; export LC_ALL=C KUBECONFIG=/etc/kubernetes/admin.conf
action=$1 name=$2 why=; shift 2
say() { printf '%s %s\n' "$1" "$2"; }
kube() { kubectl -n kube-system --request-timeout=10s "$@" 2>&1; }
told() { why=$(tail -n 1 <<<"$1"); return 1; }
refuse() { say why "$why"; exit; }
change() { local said; said=$(kube patch daemonset "$name" --type=json -p "$1") || told "$said"; }
field() { kube get daemonset "$name" -o "jsonpath=$1"; }
# what the controller has not seen yet, it does not go by
observed() {
  local i=0 last seen
  until read -r last seen <<<"$(field '{.metadata.generation} {.status.observedGeneration}')" && [ "$last" = "$seen" ]; do
    [ "$i" -lt 40 ] || { why="kube-controller-manager does not see to its DaemonSet: have it run"; return 1; }
    i=$((i + 1)) && sleep 0.2
  done
}
# of those that are not on their way out
uids() {
  kube get pods -l "k8s-app=$name,@LABEL@" --field-selector "spec.nodeName=$1" \
    -o 'jsonpath={range .items[*]}{.metadata.uid} {.metadata.deletionTimestamp}{"\n"}{end}' | sed -n 's/^\([-0-9a-f]*\) $/\1/p'
}
replace() { # NODE SECONDS BEFORE
  local said end=$((SECONDS + $2))
  observed || return
  said=$(kube delete pods -l "k8s-app=$name" --field-selector "spec.nodeName=$1" --grace-period=3 --wait=false) || told "$said" || return
  until uids "$1" | grep -Fqvx -e "$3"; do
    [ "$SECONDS" -lt "$end" ] || { why="its pod is not made anew in $2 s: have kube-controller-manager and kube-scheduler run"; return 1; }
    sleep 0.2
  done
}

exec 9<"$KUBECONFIG"
flock -w 600 9 || { why="somebody else does not end changing its DaemonSet"; refuse; }
case $action in
  replace)
    [ "$(field '{.metadata.generation}')" = "$3" ] || { say result stale; exit; }
    before=$(uids "$1")
    change "$4" || refuse
    replace "$1" "$2" "${before:-none}" && failed= || failed=$why
    why=
    # the API server may be away for a moment
    i=0
    until change "$5"; do [ "$i" -lt 30 ] || refuse; i=$((i + 1)) && sleep 1; done
    observed
    failed=${failed:-$why}
    if [ -n "$failed" ]; then # none of them comes to a node later
      kube delete pods -l "k8s-app=$name,@LABEL@" --field-selector spec.nodeName= --wait=false >/dev/null
      why=$failed
      refuse
    fi
    say result changed
    ;;
  mend)
    case $(field '{.metadata.annotations}') in *'\"template\"'*) change "$1" && observed || refuse ;; esac
    say result changed
    ;;
  settle)
    found=$(kube get pods -l "k8s-app=$name,@LABEL@" -o name) || told "$found" || refuse
    if [ -z "$found" ] && field '{.metadata.annotations}' | grep -Fq '"@LABEL@"'; then
      change "$1" || refuse
      # else kubectl rollout undo would go there
      kube delete controllerrevisions -l "k8s-app=$name,@LABEL@" --wait=false >/dev/null
    fi
    say result changed
    ;;
esac
""".replace("@LABEL@", component.DEBUG_LABEL)


# programs


class Program:
    """What a program compiled by Go holds, read from its ELF file in small pieces, wherever that is."""

    def __init__(self, name: str, read: c.Callable[[int, int], bytes]) -> None:
        self.name = name
        self._read = read
        self._sections: dict[str, tuple[int, int]] = {}
        head = read(0, 64)
        self.is_elf = len(head) == 64 and head[:6] == b"\x7fELF\x02\x01"
        if self.is_elf:
            self.machine: int = struct.unpack_from("<H", head, 18)[0]
            self._sections = self._table(head)

    def _table(self, head: bytes) -> dict[str, tuple[int, int]]:
        at: int = struct.unpack_from("<Q", head, 0x28)[0]
        size, count, names = struct.unpack_from("<HHH", head, 0x3A)
        table = self._read(at, size * count) if at and size >= 64 else b""
        if len(table) < size * count or names >= count:
            return {}
        entries = [struct.unpack_from("<IIQQQQ", table, size * number) for number in range(count)]
        words = self._read(entries[names][4], entries[names][5])
        return {words[e[0] : words.find(b"\0", e[0])].decode("ascii", "replace"): (e[4], e[5]) for e in entries}

    @property
    def arch(self) -> str:
        """The machine in Go's words."""
        return next((arch for number, arch in component.MACHINES.values() if number == self.machine), f"another machine (ELF {self.machine})")

    @property
    def debuggable(self) -> bool:
        """Whether it holds what a debugger needs (DWARF)."""
        return any(name in self._sections for name in (".debug_info", ".zdebug_info"))

    def build(self) -> tuple[str, dict[str, str]]:
        """The version of Go that compiled it, and what was noted of the build; empty where Go did not compile it."""
        offset, size = self._sections.get(".go.buildinfo", (0, 0))
        data = self._read(offset, min(size, 1024 * 1024))
        # since Go 1.18 both texts follow the header, each after its length
        if data[:14] != b"\xff Go buildinf:" or len(data) < 33 or not data[15] & 2:
            return "", {}
        version, at = _text(data, 32)
        notes, dummy = _text(data, at)
        found = {}
        for line in notes[16:-16].decode("utf-8", "replace").splitlines():
            word, dummy2, rest = line.partition("\t")
            key, equals, value = rest.partition("=")
            if word == "mod":
                found["mod"] = rest.split("\t")[0]
                found["version"] = rest.split("\t")[1] if "\t" in rest else ""
            elif word == "build" and equals:
                found[key.strip('"')] = value
        return version.decode("ascii", "replace"), found

    def sources(self) -> list[str]:
        """The paths of its source files, as they are in it."""
        offset, size = self._sections.get(".gopclntab") or self._sections.get(".data.rel.ro.gopclntab") or (0, 0)
        head = self._read(offset, 72) if size else b""
        if len(head) < 72 or head[:4] not in (b"\xf0\xff\xff\xff", b"\xf1\xff\xff\xff"):
            return []
        begin, end = struct.unpack_from("<QQ", head, 48)
        data = self._read(offset + begin, end - begin) if begin < end <= size else b""
        return [path.decode("utf-8", "replace") for path in data.split(b"\0") if path]


def _text(data: bytes, at: int) -> tuple[bytes, int]:
    """A text after its length as a varint, and where the next one begins."""
    length = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return data[at : at + length], at + length


def roots(sources: c.Iterable[str], name: str) -> dict[str, str]:
    """Where the tree and Go itself were when a program was compiled; what cannot be told is left out.

    The component's own main package lies at the same place in every tree, whoever compiled it and wherever.
    """
    found: dict[str, str] = {}
    for path in sources:
        for key, pattern in (("tree", rf"(.*)/cmd/{re.escape(name)}/[^/]+\.go"), ("goroot", r"(.*)/src/runtime/proc\.go")):
            match = re.fullmatch(pattern, path)
            # the shortest: what is vendored may have a command of that name, too
            if match and (key not in found or len(match.group(1)) < len(found[key])):
                found[key] = match.group(1)
    return found


def minor(version: str) -> tuple[int, int]:
    """(1, 26) of go1.26.8 or v1.26.2; (0, 0) where it is no such version."""
    match = re.search(r"(\d+)\.(\d+)", version)
    return (int(match.group(1)), int(match.group(2))) if match else (0, 0)


def check_program(program: Program, machine: str) -> str:
    """That a program can be debugged in a node; returns the version of Go that compiled it."""
    path = program.name
    if not program.is_elf:
        raise kind.BadInput(f"{path} is not a program for Linux (no ELF file): give a compiled component")
    arch = component.MACHINES.get(machine, (0, machine))[1]
    if program.arch != arch:
        raise kind.BadInput(f"{path} is for {program.arch} and the node is {arch}: compile it for linux/{arch}")
    if not program.debuggable:
        raise kind.BadInput(f"{path} holds no debug information: compile it with DBG=1 (debug: true in kube_make)")
    return program.build()[0]


def check_dlv(dlv: Program, machine: str, go: str) -> str:
    """That a dlv runs in a node and knows what that Go compiles; returns its version."""
    arch = component.MACHINES.get(machine, (0, machine))[1]
    told = dlv.build()[1] if dlv.is_elf else {}
    if told.get("mod") != "github.com/go-delve/delve":
        raise kind.BadInput(f"{dlv.name} is not dlv: compile github.com/go-delve/delve/cmd/dlv")
    if dlv.arch != arch:
        raise kind.BadInput(f"{dlv.name} is for {dlv.arch} and the node is {arch}: compile it with GOARCH={arch}")
    version = told.get("version", "")
    if minor(version) != (0, 0) and minor(version) < minor(go):
        raise kind.BadInput(f"{dlv.name} is {version}, which does not know {go}: compile version v{'.'.join(map(str, minor(go)))} or newer")
    return version


# what is, and what has to be


class Seen(t.NamedTuple):
    """A component in a node, as far as debugging is concerned."""

    machine: str
    settings: dict[str, t.Any]
    pending: bool
    swapping: bool
    pids: list[str]
    running: list[str]
    traced: bool
    answers: bool
    absent: bool


def seen(text: str) -> Seen:
    """What the script's look tells."""
    values, dummy = component.parse(text)
    try:
        settings = json.loads(values.get("settings", [""])[0] or "{}")
    except ValueError:
        settings = {}
    return Seen(
        machine=values.get("machine", [""])[0],
        settings=settings,
        pending="pending" in values,
        swapping=values.get("swapping", [""])[0] == "swapping",
        pids=values.get("pid", []),
        running=values.get("running", []),
        traced="traced" in values,
        answers="answers" in values,
        absent="absent" in values,
    )


def needs(now: Seen, wanted: dict[str, t.Any] | None) -> str | None:
    """Why something has to be done in the node so that a component is debugged as wanted, or, for None, not at all."""
    if now.pending:
        return "it was broken off"
    if wanted is None:
        return "it is debugged" if now.settings else None
    if not now.settings:
        return "it is not debugged"
    if now.settings != wanted:
        return "it is debugged in another way"
    if wanted["mode"] == HOST:
        return None
    if wanted["mode"] == ATTACH:
        return None if now.traced and now.answers else "dlv is not attached any more"
    if now.running != [wanted["sha256"]]:
        return "it does not run"
    return None if now.answers else "dlv does not answer"


def options(port: int, wait: bool, mapped: bool = False) -> list[str]:
    """Those of dlv."""
    told = ["--headless", "--accept-multiclient", "--api-version=2", f"--listen=127.0.0.1:{port}"]
    # whoever comes through the door is nobody of the node
    return told + ([] if wait else ["--continue"]) + (["--only-same-user=false"] if mapped else [])


# a DaemonSet


def noted(daemonset: dict[str, t.Any]) -> dict[str, t.Any]:
    """What has to be put back in a DaemonSet; nothing where none of its pods was debugged."""
    found: dict[str, t.Any] = json.loads(daemonset["metadata"].get("annotations", {}).get(component.DEBUG_LABEL, "{}"))
    return found


def debugged(template: dict[str, t.Any], name: str, arguments: c.Sequence[str]) -> dict[str, t.Any]:
    """The template of a pod, which runs its component under dlv with those options, and without probes."""
    session = f"{kind.DIRECTORY}/debug/{name}"
    template = copy.deepcopy(template)
    template["metadata"].setdefault("labels", {})[component.DEBUG_LABEL] = "yes"
    template["spec"].setdefault("volumes", []).append({"name": "nodeforge-debug", "hostPath": {"path": session, "type": "Directory"}})
    container = next(entry for entry in template["spec"]["containers"] if entry["name"] == name)
    container["command"] = [f"{session}/dlv", "exec", *arguments, f"{session}/{name}", "--", *container.get("command", [])[1:]]
    container.setdefault("volumeMounts", []).append({"name": "nodeforge-debug", "mountPath": session, "readOnly": True})
    container["securityContext"] = {**container.get("securityContext", {}), "seccompProfile": {"type": "Unconfined"}}
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        container.pop(probe, None)
    return template


def patches(daemonset: dict[str, t.Any], template: dict[str, t.Any] | None = None) -> dict[str, str]:
    """Patches of a DaemonSet: ``begin`` to another template, ``mend`` back to its own, and ``settle`` to what it was before all."""
    spec, note, path = daemonset["spec"], noted(daemonset), "/metadata/annotations/" + component.DEBUG_LABEL.replace("/", "~1")
    own = note.get("template", spec["template"])
    strategy = {"updateStrategy": note.get("updateStrategy", spec["updateStrategy"])}
    found = {
        "begin": [
            {"op": "add", "path": path, "value": json.dumps({**strategy, "template": own})},
            {"op": "replace", "path": "/spec/updateStrategy", "value": {"type": "OnDelete"}},
            {"op": "replace", "path": "/spec/template", "value": template},
        ],
        "mend": [{"op": "replace", "path": "/spec/template", "value": own}, {"op": "add", "path": path, "value": json.dumps(strategy)}],
        "settle": [{"op": "replace", "path": "/spec/updateStrategy", "value": strategy["updateStrategy"]}, {"op": "remove", "path": path}],
    }
    return {word: json.dumps(patch) for word, patch in found.items()}


# a component on the host


def host_command(manifest: dict[str, t.Any], name: str, port: int) -> tuple[list[str], list[str]]:
    """The arguments of a static pod's component for the host, and the files that they name; their paths are the node's."""
    container = next(entry for entry in manifest["spec"]["containers"] if entry["name"] == name)
    arguments = [*container.get("command", [])[1:], *container.get("args", [])]
    files = [value for value in (argument.partition("=")[2] for argument in arguments) if value.startswith("/")]
    return [*arguments, "--leader-elect=false", f"--secure-port={port}"], sorted(set(files))


def moved(arguments: c.Iterable[str], files: c.Mapping[str, str]) -> list[str]:
    """The arguments with the paths at which the files are now."""
    return [f"{flag}{equals}{files.get(value, value)}" for flag, equals, value in (argument.partition("=") for argument in arguments)]


def pointed(kubeconfig: str, server: str) -> str:
    """A kubeconfig that goes to the API server another way."""
    return re.sub(r"(?m)^(\s*(?:- )?server:\s*).*$", lambda match: match.group(1) + server, kubeconfig)


# editors


class _Scanner:
    """Finds its way in JSON with comments, as Visual Studio Code writes it, without changing any of it."""

    _SKIP = re.compile(r"(?:\s+|//[^\n]*|/\*.*?\*/)*", re.S)
    _WORD = re.compile(r'"(?:[^"\\\n]|\\.)*"|[^\s,\[\]{}:"/]+')

    def __init__(self, text: str) -> None:
        self.text = text

    def skip(self, at: int) -> int:
        match = self._SKIP.match(self.text, at)
        return match.end() if match else at

    def value(self, at: int) -> tuple[t.Any, int]:
        """The value that begins there, and where it ends. Of lists and dictionaries also the places of what is in them."""
        if self.text[at : at + 1] not in ("{", "["):
            match = self._WORD.match(self.text, at)
            if not match:
                raise ValueError(f"line {self.text.count(chr(10), 0, at) + 1}")
            return json.loads(match.group()), match.end()
        is_list = self.text[at] == "["
        closing = "]" if is_list else "}"
        entries: list[tuple[t.Any, t.Any, int, int]] = []
        at += 1
        while True:
            at = self.skip(at)
            if self.text[at : at + 1] == closing:
                return (_List(entries, at) if is_list else _Dict(entries, at)), at + 1
            key = None
            if not is_list:
                key, at = self.value(at)
                at = self.skip(at)
                if self.text[at : at + 1] != ":":
                    raise ValueError(f"line {self.text.count(chr(10), 0, at) + 1}")
                at = self.skip(at + 1)
            begin = at
            value, at = self.value(at)
            entries.append((key, value, begin, at))
            at = self.skip(at)
            if self.text[at : at + 1] == ",":
                at += 1
            elif self.text[at : at + 1] != closing:
                raise ValueError(f"line {self.text.count(chr(10), 0, at) + 1}")


class _List(list):
    def __init__(self, entries: list[tuple[t.Any, t.Any, int, int]], end: int) -> None:
        super().__init__(entry[1] for entry in entries)
        self.places, self.end = [entry[2:] for entry in entries], end


class _Dict(dict):
    def __init__(self, entries: list[tuple[t.Any, t.Any, int, int]], end: int) -> None:
        super().__init__((entry[0], entry[1]) for entry in entries)
        self.places, self.end = {entry[0]: entry[2:] for entry in entries}, end


def merge_launch(text: str, entry: dict[str, t.Any]) -> str:
    """A launch.json with that configuration in it. All else, comments too, stays as it is, byte for byte."""
    if not text.strip():
        return json.dumps({"version": "0.2.0", "configurations": [entry]}, indent=2) + "\n"
    scanner = _Scanner(text)
    try:
        whole, end = scanner.value(scanner.skip(1 if text.startswith("\ufeff") else 0))
        if not isinstance(whole, dict) or scanner.skip(end) != len(text):
            raise ValueError("its beginning or its end")
    except (ValueError, RecursionError) as e:
        raise kind.BadInput(f"it is no JSON with comments ({e}): mend it") from e
    configurations = whole.get("configurations", _List([], 0))
    if not isinstance(configurations, list):
        raise kind.BadInput("its configurations are no list: mend it")

    def shown(depth: str) -> str:
        return json.dumps(entry, indent=2).replace("\n", "\n" + depth)

    if "configurations" not in whole:
        return _insert(text, scanner, whole, f'"configurations": [\n    {shown("    ")}\n  ]', "  ")
    for value, (begin, stop) in zip(configurations, configurations.places):
        if isinstance(value, dict) and value.get("name") == entry["name"]:
            return text if value == entry else text[:begin] + shown(_indent(text, begin)) + text[stop:]
    depth = _indent(text, configurations.places[-1][0]) if configurations else "    "
    return _insert(text, scanner, configurations, shown(depth), depth)


def _indent(text: str, at: int) -> str:
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip())]


def _insert(text: str, scanner: _Scanner, into: t.Any, what: str, depth: str) -> str:
    """The text with one more thing at the end of a list or dictionary."""
    places = list(into.places.values()) if isinstance(into, dict) else into.places
    if not places:
        return text[: into.end].rstrip() + f"\n{depth}{what}\n{depth[:-2]}" + text[into.end :]
    # what follows the last value, comments mostly, stays behind it; a comma that is there already is the one that is needed
    last = places[-1][1]
    at = scanner.skip(last)
    comma = "" if text[at : at + 1] == "," else ","
    rest = text[last : into.end]
    kept = rest.rstrip()
    space = rest[len(kept) :]
    return f"{text[:last]}{comma}{kept}\n{depth}{what}" + (space if "\n" in space else f"\n{depth[:-2]}") + text[into.end :]
