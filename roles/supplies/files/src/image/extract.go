// Copyright (c) 2026, nodeforge contributors
// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"sort"
	"strings"
)

// An extraction takes a few programs out of a root filesystem tar. With
// libraries it adds what the dynamic loader would load for them: it reads the
// ELF headers itself, so the programs may be of any architecture.
type extraction struct {
	from, output string
	libraries    bool
	links, globs list
}

// member is where an entry of the tar lies.
type member struct {
	header *tar.Header
	offset int64
}

func (x *extraction) extract() error {
	if x.from == "" || x.output == "" || len(x.globs) == 0 {
		return errors.New("extract wants --from, --output and at least one path")
	}
	f, err := os.Open(x.from)
	if err != nil {
		return err
	}
	defer f.Close()
	root, err := index(f)
	if err != nil {
		return fmt.Errorf("%s is not a plain tar of a root filesystem: %w", x.from, err)
	}
	wanted, err := x.closure(f, root)
	if err != nil {
		return err
	}
	own := tree{}
	for _, l := range x.links {
		if err := own.addLink(l); err != nil {
			return err
		}
	}
	return replaceFile(x.output, func(w io.Writer) error {
		tw := tar.NewWriter(w)
		for _, p := range wanted {
			if _, ok := own[p]; ok {
				continue
			}
			m := root[p]
			h := &tar.Header{
				Typeflag: m.header.Typeflag, Name: p, Linkname: m.header.Linkname,
				Mode: m.header.Mode, Size: m.header.Size, ModTime: timestamp(), Format: tar.FormatPAX,
			}
			if h.Typeflag == tar.TypeDir {
				h.Name += "/"
			}
			if err := tw.WriteHeader(h); err != nil {
				return err
			}
			if _, err := io.Copy(tw, io.NewSectionReader(f, m.offset, h.Size)); err != nil {
				return err
			}
		}
		if err := tw.Flush(); err != nil {
			return err
		}
		seen := map[string]bool{}
		for _, p := range wanted {
			seen[p] = true
		}
		return own.write(w, seen) // ends the tar
	})
}

// index notes where every file of the tar begins; hard links become the file
// that they name.
func index(f *os.File) (map[string]member, error) {
	root := map[string]member{}
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return root, nil
		}
		if err != nil {
			return nil, err
		}
		at, err := f.Seek(0, io.SeekCurrent) // the reader takes no more than the header
		if err != nil {
			return nil, err
		}
		p := clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg, tar.TypeDir, tar.TypeSymlink:
			root[p] = member{h, at}
		case tar.TypeLink:
			if m, ok := root[clean(h.Linkname)]; ok {
				root[p] = m
			}
		}
	}
}

// resolve follows links inside the root, of directories too (/lib), and
// returns the real path with every link and directory met on the way.
func resolve(root map[string]member, p string) (real string, via []string, err error) {
	todo := strings.Split(clean(p), "/")
	for links := 0; len(todo) > 0; {
		next := path.Join(real, todo[0])
		m, ok := root[next]
		if !ok {
			return "", nil, fmt.Errorf("%s is not in the root filesystem", p)
		}
		todo = todo[1:]
		if m.header.Typeflag != tar.TypeSymlink {
			if real = next; len(todo) > 0 {
				via = append(via, next)
			}
			continue
		}
		if links++; links > 40 {
			return "", nil, fmt.Errorf("%s: too many links", p)
		}
		via = append(via, next)
		target := m.header.Linkname
		if !path.IsAbs(target) {
			target = path.Join(real, target)
		}
		todo, real = append(strings.Split(clean(target), "/"), todo...), ""
	}
	return real, via, nil
}

// closure is every path that the globs and their libraries need.
func (x *extraction) closure(f io.ReaderAt, root map[string]member) ([]string, error) {
	paths := make([]string, 0, len(root))
	for p := range root {
		paths = append(paths, p)
	}
	sort.Strings(paths)
	var queue []string
	for _, g := range x.globs {
		before := len(queue)
		for _, p := range paths {
			if ok, err := path.Match(clean(g), p); err != nil {
				return nil, fmt.Errorf("%q is not a glob", g)
			} else if ok {
				queue = append(queue, p)
			}
		}
		if len(queue) == before {
			return nil, fmt.Errorf("%s has no %s", x.from, g)
		}
	}
	wanted := map[string]bool{}
	for len(queue) > 0 {
		p := queue[0]
		queue = queue[1:]
		if wanted[p] {
			continue
		}
		real, via, err := resolve(root, p)
		if err != nil {
			return nil, err
		}
		for _, v := range append(via, real) {
			wanted[v] = true
		}
		m := root[real]
		if !x.libraries || m.header.Typeflag != tar.TypeReg {
			continue
		}
		needs, err := needed(io.NewSectionReader(f, m.offset, m.header.Size))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", real, err)
		}
		for _, n := range needs {
			at, err := find(paths, n)
			if err != nil {
				return nil, fmt.Errorf("%s needs %s, %w of %s", real, n, err, x.from)
			}
			queue = append(queue, at)
		}
	}
	all := make([]string, 0, len(wanted))
	for p := range wanted {
		all = append(all, p)
	}
	sort.Strings(all)
	return all, nil
}

// needed lists a program's loader and libraries; what is not ELF needs none.
func needed(r *io.SectionReader) ([]string, error) {
	magic := make([]byte, len(elf.ELFMAG))
	if _, err := r.ReadAt(magic, 0); err != nil || !bytes.Equal(magic, []byte(elf.ELFMAG)) {
		return nil, nil
	}
	e, err := elf.NewFile(r)
	if err != nil {
		return nil, err
	}
	needs, err := e.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	for _, p := range e.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		loader, err := io.ReadAll(p.Open())
		if err != nil {
			return nil, err
		}
		needs = append(needs, string(bytes.TrimRight(loader, "\x00")))
	}
	return needs, nil
}

// find looks for a library where Debian's loader does.
func find(paths []string, library string) (string, error) {
	if path.IsAbs(library) { // the loader's own path
		return clean(library), nil
	}
	for _, g := range []string{"usr/lib/*-linux-gnu*/", "lib/*-linux-gnu*/", "usr/lib/", "lib/", "usr/lib64/"} {
		i := slices.IndexFunc(paths, func(p string) bool {
			ok, _ := path.Match(g+library, p)
			return ok
		})
		if i >= 0 {
			return paths[i], nil
		}
	}
	return "", errors.New("which is in no library directory")
}
