// Copyright (c) 2026, nodeforge contributors
// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
)

const (
	confFile = "/etc/cni/net.d/10-nodeforge.conflist"
	table    = "nodeforge-netd"
	// protocol marks the routes that are ours, so that stale ones are known.
	protocol = netlink.RouteProtocol(110)
)

// A peer is a node as the network sees it.
type peer struct {
	name             string
	cidrs, addresses []string
}

// reconcile makes this node fit the cluster's nodes.
func reconcile(self string, peers []peer) error {
	mtu, err := linkMTU()
	if err != nil {
		return err
	}
	for _, p := range peers {
		if p.name == self && len(p.cidrs) > 0 {
			conf, err := conflist(p.cidrs, mtu)
			if err != nil {
				return err
			}
			if err := replaceFile(confFile, conf); err != nil {
				return err
			}
		}
	}
	want, err := routes(self, peers)
	if err != nil {
		return err
	}
	return setRoutes(want)
}

// routes tells through which node each other node's pods are reached.
func routes(self string, peers []peer) (map[netip.Prefix]netip.Addr, error) {
	want := map[netip.Prefix]netip.Addr{}
	for _, p := range peers {
		if p.name == self {
			continue
		}
		cidrs, err := parseCIDRs(p.cidrs)
		if err != nil {
			return nil, fmt.Errorf("node %s: %w", p.name, err)
		}
		for _, c := range cidrs {
			for _, s := range p.addresses {
				// The first address of the same family; a node that has none yet gets no route.
				if a, err := netip.ParseAddr(s); err == nil && a.Is4() == c.Addr().Is4() {
					want[c] = a
					break
				}
			}
		}
	}
	return want, nil
}

// setRoutes adds the wanted routes and removes ours that nobody wants any more.
func setRoutes(want map[netip.Prefix]netip.Addr) error {
	have, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: protocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return err
	}
	missing := map[netip.Prefix]netip.Addr{}
	for dst, via := range want {
		missing[dst] = via
	}
	var failed []error
	for _, r := range have {
		if r.Dst == nil {
			continue
		}
		dst := prefixOf(r.Dst)
		if via, ok := want[dst]; ok && r.Gw.Equal(net.IP(via.AsSlice())) {
			delete(missing, dst)
		} else if !ok {
			log.Printf("netd: removing route to %s via %s", dst, r.Gw)
			failed = append(failed, netlink.RouteDel(&r))
		}
	}
	for dst, via := range missing {
		log.Printf("netd: route to %s via %s", dst, via)
		err := netlink.RouteReplace(&netlink.Route{
			Dst:      &net.IPNet{IP: dst.Addr().AsSlice(), Mask: net.CIDRMask(dst.Bits(), dst.Addr().BitLen())},
			Gw:       via.AsSlice(),
			Protocol: protocol,
		})
		if err != nil {
			err = fmt.Errorf("route to %s via %s: %w", dst, via, err)
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// conflist is the CNI configuration of a node: a veth pair per pod, addresses
// from the node's pod CIDRs, and host ports.
func conflist(podCIDRs []string, mtu int) ([]byte, error) {
	cidrs, err := parseCIDRs(podCIDRs)
	if err != nil {
		return nil, err
	}
	type object = map[string]any
	var ranges [][]object
	var defaults []object
	for _, c := range cidrs {
		everywhere := "0.0.0.0/0"
		if c.Addr().Is6() {
			everywhere = "::/0"
		}
		ranges = append(ranges, []object{{"subnet": c.String()}})
		defaults = append(defaults, object{"dst": everywhere})
	}
	return json.MarshalIndent(object{
		"cniVersion": "1.0.0",
		"name":       "nodeforge",
		"plugins": []object{{
			"type": "ptp", "ipMasq": false, "mtu": mtu,
			"ipam": object{
				// Leases end with the node's run, as its pods do.
				"type": "host-local", "dataDir": "/run/cni-ipam-state",
				"ranges": ranges, "routes": defaults,
			},
		}, {
			"type": "portmap", "capabilities": object{"portMappings": true},
		}},
	}, "", "  ")
}

// linkMTU is that of the link that the default route leaves by.
func linkMTU() (int, error) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := netlink.RouteList(nil, family)
		if err != nil {
			return 0, err
		}
		for _, r := range list {
			if r.Dst != nil && prefixOf(r.Dst).Bits() > 0 || r.LinkIndex == 0 {
				continue
			}
			l, err := netlink.LinkByIndex(r.LinkIndex)
			if err != nil {
				return 0, err
			}
			return l.Attrs().MTU, nil
		}
	}
	return 1500, nil // a network without a way out
}

// masquerade gives the node's address to what leaves the pod network, so that
// the world outside can answer. Pods keep theirs among each other.
func masquerade(subnets []netip.Prefix) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	for _, f := range []struct {
		family   nftables.TableFamily
		six      bool
		src, dst uint32 // where the addresses lie in the header
	}{
		{nftables.TableFamilyIPv4, false, 12, 16},
		{nftables.TableFamilyIPv6, true, 8, 24},
	} {
		var rules [][]expr.Any
		for _, s := range subnets {
			if s.Addr().Is6() == f.six {
				e := append(match(s, f.src, expr.CmpOpEq), match(s, f.dst, expr.CmpOpNeq)...)
				rules = append(rules, append(e, &expr.Counter{}, &expr.Masq{}))
			}
		}
		if len(rules) == 0 {
			continue
		}
		t := c.AddTable(&nftables.Table{Name: table, Family: f.family})
		c.FlushTable(t)
		chain := c.AddChain(&nftables.Chain{
			Name: "postrouting", Table: t, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
		})
		for _, e := range rules {
			c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: e})
		}
	}
	return c.Flush()
}

// match compares the address at an offset of the header with a subnet.
func match(s netip.Prefix, offset uint32, op expr.CmpOp) []expr.Any {
	size := uint32(s.Addr().BitLen() / 8)
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size,
			Mask: net.CIDRMask(s.Bits(), s.Addr().BitLen()), Xor: make([]byte, size)},
		&expr.Cmp{Op: op, Register: 1, Data: s.Masked().Addr().AsSlice()},
	}
}

func parseCIDRs(list []string) ([]netip.Prefix, error) {
	var parsed []netip.Prefix
	for _, s := range list {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("%q is not a CIDR", s)
		}
		parsed = append(parsed, p.Masked())
	}
	return parsed, nil
}

func prefixOf(n *net.IPNet) netip.Prefix {
	a, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits)
}

// replaceFile writes a file whole, and only when its content changes:
// containerd reads the directory as soon as something happens in it.
func replaceFile(file string, content []byte) error {
	if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, content) {
		return nil
	}
	log.Printf("netd: writing %s", file)
	tmp := filepath.Join(filepath.Dir(file), "."+filepath.Base(file)+".tmp")
	if err := os.WriteFile(tmp, content, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}
