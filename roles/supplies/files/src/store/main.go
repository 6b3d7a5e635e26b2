// Copyright (c) 2026, nodeforge contributors
// SPDX-License-Identifier: GPL-3.0-or-later

// nodeforge-store fills the directory of a containerd that does not run, by
// containerd's own libraries: for a node of any platform, on any.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/containerd/log"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	log.SetLevel("error") // whether the file system has fs-verity is no news
	if err := run(ctx, os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "nodeforge-store: %s\n", strings.ReplaceAll(err.Error(), "\n", " "))
		os.Exit(1)
	}
}

// run lists what is there by name, or reads what is wanted and writes what has come.
func run(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	if len(args) == 2 && args[0] == "list" {
		s, err := open(args[1])
		if err != nil {
			return err
		}
		found, err := s.list(ctx)
		if err := errors.Join(err, s.close()); err != nil {
			return err
		}
		return json.NewEncoder(out).Encode(found)
	}
	if len(args) != 2 || args[0] != "import" {
		return errors.New("usage: nodeforge-store list ROOT, or import ROOT <WANTED, a JSON document with platform, pin, held and sources")
	}
	var w wanted
	if err := json.NewDecoder(in).Decode(&w); err != nil {
		return fmt.Errorf("the document of what is wanted is none: %w", err)
	}
	s, err := open(args[1])
	if err != nil {
		return err
	}
	come, err := s.bring(ctx, w)
	if err := errors.Join(err, s.close()); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(come)
}
