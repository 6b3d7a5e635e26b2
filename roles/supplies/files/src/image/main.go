// Copyright (c) 2026, nodeforge contributors
// SPDX-License-Identifier: GPL-3.0-or-later

// nodeforge-image makes container images without a container engine: from files
// and root filesystem tars to an OCI layout or a docker archive, for any
// platform, byte for byte the same from the same input. It also serves such a
// layout as a read-only registry on the loopback address.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

const usage = `usage:
  nodeforge-image build --platform OS/ARCH --ref REF [--base ROOT.tar]... [--file SRC=DST[:MODE]]...
      [--dir SRC=DST]... [--link DST=TARGET]... [--env K=V]... [--entrypoint ARG]... [--cmd ARG]...
      [--label K=V]... [--stop-signal SIG] [--user USER] [--workdir DIR] --archive OUT.tar | --layout DIR
  nodeforge-image extract --from ROOT.tar --output OUT.tar [--libraries] [--link DST=TARGET]... GLOB...
  nodeforge-image list --layout DIR
  nodeforge-image serve --layout DIR --address 127.0.0.1:0 [--port-file F] [--until-gone F]... [--ttl 1h]
`

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(v string) error { *l = append(*l, v); return nil }

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "nodeforge-image:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	if len(args) == 0 {
		return fmt.Errorf("no command given\n%s", usage)
	}
	fs := flag.NewFlagSet(args[0], flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	parse := func(operands bool) error {
		if err := fs.Parse(args[1:]); err != nil {
			return fmt.Errorf("%s: %w\n%s", args[0], err, usage)
		}
		if !operands && fs.NArg() > 0 {
			return fmt.Errorf("%s: unexpected argument %q\n%s", args[0], fs.Arg(0), usage)
		}
		return nil
	}
	switch args[0] {
	case "build":
		var b recipe
		fs.StringVar(&b.platform, "platform", "", "")
		fs.StringVar(&b.ref, "ref", "", "")
		fs.Var(&b.bases, "base", "")
		fs.Var(&b.files, "file", "")
		fs.Var(&b.dirs, "dir", "")
		fs.Var(&b.links, "link", "")
		fs.Var(&b.env, "env", "")
		fs.Var(&b.entrypoint, "entrypoint", "")
		fs.Var(&b.cmd, "cmd", "")
		fs.Var(&b.labels, "label", "")
		fs.StringVar(&b.stopSignal, "stop-signal", "", "")
		fs.StringVar(&b.user, "user", "", "")
		fs.StringVar(&b.workdir, "workdir", "", "")
		fs.StringVar(&b.archive, "archive", "", "")
		fs.StringVar(&b.layout, "layout", "", "")
		if err := parse(false); err != nil {
			return err
		}
		digest, err := b.build()
		if err != nil {
			return err
		}
		fmt.Fprintln(out, digest)
		return nil
	case "extract":
		var x extraction
		fs.StringVar(&x.from, "from", "", "")
		fs.StringVar(&x.output, "output", "", "")
		fs.BoolVar(&x.libraries, "libraries", false, "")
		fs.Var(&x.links, "link", "")
		if err := parse(true); err != nil {
			return err
		}
		x.globs = fs.Args()
		return x.extract()
	case "list":
		dir := fs.String("layout", "", "")
		if err := parse(false); err != nil {
			return err
		}
		refs, err := digests(*dir)
		if err != nil {
			return err
		}
		return json.NewEncoder(out).Encode(refs)
	case "serve":
		var s server
		fs.StringVar(&s.layout, "layout", "", "")
		fs.StringVar(&s.address, "address", "127.0.0.1:0", "")
		fs.StringVar(&s.portFile, "port-file", "", "")
		fs.Var(&s.untilGone, "until-gone", "")
		fs.DurationVar(&s.ttl, "ttl", time.Hour, "")
		if err := parse(false); err != nil {
			return err
		}
		return s.serve()
	case "help", "-h", "--help":
		fmt.Fprint(out, usage)
		return nil
	}
	return fmt.Errorf("unknown command %q\n%s", args[0], usage)
}
