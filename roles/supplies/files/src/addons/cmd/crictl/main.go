// Copyright (c) 2026, nodeforge contributors
// SPDX-License-Identifier: GPL-3.0-or-later

// crictl is a stand-in for the tool of that name, which the Go module proxy does
// not serve: it answers, on the runtime's own API and with the
// same flags and output, what kind and people in a node ask most.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const defaultEndpoint = "unix:///run/containerd/containerd.sock"

// A client holds the runtime's services and what all commands share.
type client struct {
	ctx     context.Context
	images  cri.ImageServiceClient
	runtime cri.RuntimeServiceClient
	out     io.Writer
}

// options are the flags of a command; each command reads those it knows.
type options struct {
	all, quiet  bool
	output      string
	name, state string
	pod         string
	namespace   string
	tail        int
	follow      bool
	args        []string
}

// A command says which flags it takes, how many operands, and what it does.
type command struct {
	flags    string
	operands string // "", IMAGE, …; a trailing … allows several
	run      func(*client, *options) error
}

var commands = map[string]command{
	"images":   {"qo", "", listImages},
	"inspecti": {"o", "IMAGE", inspectImage},
	"pull":     {"", "IMAGE", pullImage},
	"rmi":      {"", "IMAGE…", removeImages},
	"ps":       {"aqonspN", "", listContainers},
	"inspect":  {"o", "CONTAINER", inspectContainer},
	"logs":     {"tf", "CONTAINER", logs},
	"pods":     {"qonsN", "", listPods},
	"inspectp": {"o", "POD", inspectPod},
	"info":     {"o", "", info},
	"version":  {"", "", version},
}

var aliases = map[string]string{"image": "images", "img": "images", "v": "version"}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "crictl:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	endpoint := os.Getenv("CONTAINER_RUNTIME_ENDPOINT")
	global := flag.NewFlagSet("crictl", flag.ContinueOnError)
	global.SetOutput(io.Discard)
	timeout := 10 * time.Second
	for _, n := range []string{"r", "runtime-endpoint", "i", "image-endpoint"} {
		global.StringVar(&endpoint, n, endpoint, "")
	}
	global.DurationVar(&timeout, "t", timeout, "")
	global.DurationVar(&timeout, "timeout", timeout, "")
	if err := global.Parse(args); err != nil && !errors.Is(err, flag.ErrHelp) {
		return err
	}
	known := make([]string, 0, len(commands))
	for n := range commands {
		known = append(known, n)
	}
	slices.Sort(known)
	if global.NArg() == 0 || global.Arg(0) == "help" {
		fmt.Fprintf(out, "a stand-in for crictl; commands: %s\n", strings.Join(known, ", "))
		return nil
	}
	name := global.Arg(0)
	if a, ok := aliases[name]; ok {
		name = a
	}
	c, ok := commands[name]
	if !ok {
		return fmt.Errorf("this stand-in has no command %q, only %s", global.Arg(0), strings.Join(known, ", "))
	}
	o, err := parse(global.Arg(0), c, global.Args()[1:])
	if err != nil {
		return err
	}
	if endpoint == "" {
		endpoint = defaultEndpoint
	}
	if strings.HasPrefix(endpoint, "/") {
		endpoint = "unix://" + endpoint
	}
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return fmt.Errorf("endpoint %s: %w", endpoint, err)
	}
	defer conn.Close()
	ctx := context.Background()
	if name != "pull" && name != "logs" { // those take what they take
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	return c.run(&client{ctx, cri.NewImageServiceClient(conn), cri.NewRuntimeServiceClient(conn), out}, o)
}

// parse reads a command's flags, which may stand before and after its operands.
func parse(name string, c command, args []string) (*options, error) {
	o := &options{tail: -1}
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	for _, f := range c.flags {
		switch f {
		case 'a':
			fs.BoolVar(&o.all, "a", false, "")
			fs.BoolVar(&o.all, "all", false, "")
		case 'q':
			fs.BoolVar(&o.quiet, "q", false, "")
			fs.BoolVar(&o.quiet, "quiet", false, "")
		case 'o':
			fs.StringVar(&o.output, "o", "", "")
			fs.StringVar(&o.output, "output", "", "")
		case 'n':
			fs.StringVar(&o.name, "name", "", "")
		case 's':
			fs.StringVar(&o.state, "s", "", "")
			fs.StringVar(&o.state, "state", "", "")
		case 'p':
			fs.StringVar(&o.pod, "p", "", "")
			fs.StringVar(&o.pod, "pod", "", "")
		case 'N':
			fs.StringVar(&o.namespace, "namespace", "", "")
		case 't':
			fs.IntVar(&o.tail, "tail", -1, "")
		case 'f':
			fs.BoolVar(&o.follow, "f", false, "")
			fs.BoolVar(&o.follow, "follow", false, "")
		}
	}
	for len(args) > 0 {
		if err := fs.Parse(args); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if args = fs.Args(); len(args) > 0 {
			o.args, args = append(o.args, args[0]), args[1:]
		}
	}
	switch o.output {
	case "", "table", "json":
	default:
		return nil, fmt.Errorf("%s: output %q is neither table nor json", name, o.output)
	}
	switch many := strings.HasSuffix(c.operands, "…"); {
	case c.operands == "" && len(o.args) > 0:
		return nil, fmt.Errorf("%s: unexpected argument %q", name, o.args[0])
	case c.operands != "" && len(o.args) == 0, c.operands != "" && !many && len(o.args) > 1:
		return nil, fmt.Errorf("%s wants %s", name, c.operands)
	}
	return o, nil
}

// table prints rows in columns.
func (c *client) table(rows [][]string) error {
	w := tabwriter.NewWriter(c.out, 0, 0, 3, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	return w.Flush()
}
