// Copyright (c) 2026, nodeforge contributors
// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"io"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	o, err := parse("logs", commands["logs"], []string{"abc", "--tail=5", "-f"})
	if err != nil || o.tail != 5 || !o.follow || o.args[0] != "abc" {
		t.Errorf("flags after the operand: %+v, %v", o, err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"exec", "abc"}, `no command "exec"`},
		{[]string{"images", "-o", "yaml"}, `output "yaml"`},
		{[]string{"inspecti"}, "inspecti wants IMAGE"},
		{[]string{"ps", "web"}, `unexpected argument "web"`},
	} {
		err := run(c.args, io.Discard)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: want one sentence with %q, got %v", c.args, c.want, err)
		}
	}
}

func TestLogText(t *testing.T) {
	for line, want := range map[string]string{
		"2026-01-01T00:00:00Z stdout F hello world\n": "hello world\n",
		"2026-01-01T00:00:00Z stderr P half a\n":      "half a",
		"2026-01-01T00:00:00Z stdout F \n":            "\n",
		"garbage\n":                                   "garbage\n",
	} {
		if got := logText(line); got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}

func TestWord(t *testing.T) {
	if got := word("CONTAINER_RUNNING"); got != "Running" {
		t.Error(got)
	}
}
