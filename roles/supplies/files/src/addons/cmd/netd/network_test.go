// Copyright (c) 2026, nodeforge contributors
// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"encoding/json"
	"maps"
	"net/netip"
	"strings"
	"testing"
)

func TestConflist(t *testing.T) {
	b, err := conflist([]string{"10.244.1.0/24", "fd00:10:244:1::/64"}, 1400)
	if err != nil {
		t.Fatal(err)
	}
	var conf struct {
		CNIVersion, Name string
		Plugins          []struct {
			Type string
			MTU  int
			IPAM struct {
				Ranges [][]struct{ Subnet string }
				Routes []struct{ Dst string }
			}
		}
	}
	if err := json.Unmarshal(b, &conf); err != nil {
		t.Fatal(err)
	}
	ptp := conf.Plugins[0]
	if ptp.Type != "ptp" || conf.Plugins[1].Type != "portmap" || ptp.MTU != 1400 {
		t.Errorf("unexpected plugins: %s", b)
	}
	if ptp.IPAM.Ranges[0][0].Subnet != "10.244.1.0/24" || ptp.IPAM.Ranges[1][0].Subnet != "fd00:10:244:1::/64" {
		t.Errorf("each family wants a range of its own: %s", b)
	}
	if ptp.IPAM.Routes[0].Dst != "0.0.0.0/0" || ptp.IPAM.Routes[1].Dst != "::/0" {
		t.Errorf("each family wants a default route: %s", b)
	}
	if _, err := conflist([]string{"10.244.1.0"}, 1500); err == nil || !strings.Contains(err.Error(), "10.244.1.0") {
		t.Errorf("a bad CIDR must be named, got %v", err)
	}
}

func TestRoutes(t *testing.T) {
	got, err := routes("a", []peer{
		{"a", []string{"10.244.0.0/24"}, []string{"172.18.0.2"}},
		{"b", []string{"10.244.1.0/24", "fd00:1::/64"}, []string{"172.18.0.3", "fc00::3"}},
		{"c", []string{"10.244.2.0/24"}, nil}, // no address yet
		{"d", nil, []string{"172.18.0.5"}},    // no CIDR yet
		{"e", []string{"10.244.4.0/24"}, []string{"fc00::6"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[netip.Prefix]netip.Addr{
		netip.MustParsePrefix("10.244.1.0/24"): netip.MustParseAddr("172.18.0.3"),
		netip.MustParsePrefix("fd00:1::/64"):   netip.MustParseAddr("fc00::3"),
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, err := routes("a", []peer{{"b", []string{"nonsense"}, nil}}); err == nil || !strings.Contains(err.Error(), "node b") {
		t.Errorf("a bad CIDR must name its node, got %v", err)
	}
}
