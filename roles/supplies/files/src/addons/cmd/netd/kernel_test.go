// Copyright (c) 2026, nodeforge contributors
// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"net/netip"
	"runtime"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNamespace gives the test a network of its own with one link, 192.0.2.1/24.
func inNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("a network namespace wants root: %v", err)
	}
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", MTU: 1442}, PeerName: "eth1"}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	addr, _ := netlink.ParseAddr("192.0.2.1/24")
	if err := netlink.AddrAdd(link, addr); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"eth0", "eth1"} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(l); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSetRoutes(t *testing.T) {
	inNamespace(t)
	p := netip.MustParsePrefix
	a := netip.MustParseAddr
	foreign := &netlink.Route{Dst: netlink.NewIPNet([]byte{198, 51, 100, 1}), Gw: []byte{192, 0, 2, 9}}
	if err := netlink.RouteAdd(foreign); err != nil {
		t.Fatal(err)
	}
	for _, want := range []map[netip.Prefix]netip.Addr{
		{p("10.244.1.0/24"): a("192.0.2.2"), p("10.244.2.0/24"): a("192.0.2.3")},
		{p("10.244.1.0/24"): a("192.0.2.4")}, // one moved, one went
		{p("10.244.1.0/24"): a("192.0.2.4")}, // nothing to do
		{},
	} {
		if err := setRoutes(want); err != nil {
			t.Fatal(err)
		}
		have, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: protocol}, netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			t.Fatal(err)
		}
		if len(have) != len(want) {
			t.Fatalf("have %v, want %v", have, want)
		}
		for _, r := range have {
			if via := want[prefixOf(r.Dst)]; via.String() != r.Gw.String() {
				t.Errorf("%s goes via %s, not %s", r.Dst, r.Gw, via)
			}
		}
	}
	if have, _ := netlink.RouteListFiltered(netlink.FAMILY_V4, foreign, netlink.RT_FILTER_DST); len(have) != 1 {
		t.Error("somebody else's route is gone")
	}
	if err := setRoutes(map[netip.Prefix]netip.Addr{p("10.244.9.0/24"): a("203.0.113.1")}); err == nil {
		t.Error("a gateway that cannot be reached must be an error")
	}
}

func TestLinkMTU(t *testing.T) {
	inNamespace(t)
	if mtu, err := linkMTU(); err != nil || mtu != 1500 {
		t.Errorf("without a default route: %d, %v", mtu, err)
	}
	if err := netlink.RouteAdd(&netlink.Route{Gw: []byte{192, 0, 2, 254}}); err != nil {
		t.Fatal(err)
	}
	if mtu, err := linkMTU(); err != nil || mtu != 1442 {
		t.Errorf("got %d, %v", mtu, err)
	}
}

func TestMasquerade(t *testing.T) {
	inNamespace(t)
	subnets, err := parseCIDRs([]string{"10.244.0.0/16", " fd00:10:244::/56"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // a daemon that starts again leaves the same rules, not twice as many
		if err := masquerade(subnets); err != nil {
			t.Fatal(err)
		}
		for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
			chains, err := c.ListChainsOfTableFamily(family)
			if err != nil || len(chains) != 1 {
				t.Fatalf("family %d: %d chains, %v", family, len(chains), err)
			}
			rules, err := c.GetRules(chains[0].Table, chains[0])
			if err != nil || len(rules) != 1 {
				t.Errorf("family %d: %d rules, %v", family, len(rules), err)
			}
		}
	}
}
