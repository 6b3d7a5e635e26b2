// Copyright (c) 2026, nodeforge contributors
// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
)

// A blob is a layer that lies in a file under its digest.
type blob struct {
	file           string
	digest, diffID v1.Hash
	size           int64
	packed         bool
}

func (b *blob) Digest() (v1.Hash, error)           { return b.digest, nil }
func (b *blob) DiffID() (v1.Hash, error)           { return b.diffID, nil }
func (b *blob) Size() (int64, error)               { return b.size, nil }
func (b *blob) Compressed() (io.ReadCloser, error) { return os.Open(b.file) }
func (b *blob) MediaType() (types.MediaType, error) {
	if b.packed {
		return types.OCILayerZStd, nil
	}
	return types.OCIUncompressedLayer, nil
}
func (b *blob) Uncompressed() (io.ReadCloser, error) {
	f, err := os.Open(b.file)
	if err != nil || !b.packed {
		return f, err
	}
	z, err := zstd.NewReader(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{z, f}, nil
}

// writeBlob stores what write writes as a blob in dir, in one pass: both
// digests are taken while the bytes go by. What is packed is made once and is
// in every node image, so that it is packed as well as can be.
func writeBlob(dir string, packed bool, write func(io.Writer) error) (_ *blob, err error) {
	f, err := os.CreateTemp(dir, ".blob-")
	if err != nil {
		return nil, err
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	stored := sha256.New()
	plain, out := stored, io.Writer(io.MultiWriter(f, stored))
	finish := func() error { return nil }
	if packed {
		z, err := zstd.NewWriter(out, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
		if err != nil {
			return nil, err
		}
		plain = sha256.New()
		out, finish = io.MultiWriter(z, plain), z.Close
	}
	if err := errors.Join(write(out), finish()); err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := &blob{
		digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(stored.Sum(nil))},
		diffID: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(plain.Sum(nil))},
		size:   st.Size(),
		packed: packed,
	}
	b.file = filepath.Join(dir, b.digest.Hex)
	if err := f.Chmod(0o644); err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	return b, os.Rename(f.Name(), b.file)
}

// copyRoot writes a root filesystem tar as it is and notes the paths it has.
func copyRoot(w io.Writer, file string, seen map[string]bool) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	t := io.TeeReader(f, w)
	entries := 0
	for r := tar.NewReader(t); ; entries++ {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("%s is not a plain tar of a root filesystem: %w", file, err)
		}
		seen[clean(h.Name)] = true
	}
	if entries == 0 {
		return fmt.Errorf("%s holds no files", file)
	}
	_, err = io.Copy(io.Discard, t) // the padding after the end mark
	return err
}

// An entry is one path of a layer.
type entry struct {
	dst, src, link string
	mode           fs.FileMode
	dir            bool
}

// tree collects entries by their path in the image; a later one wins.
type tree map[string]entry

func (t tree) add(e entry) { t[e.dst] = e }

// addFile takes SRC=DST[:MODE]; without MODE an executable is 0755 and the rest 0644.
func (t tree) addFile(spec string) error {
	src, dst, ok := strings.Cut(spec, "=")
	if !ok || src == "" || clean(dst) == "" {
		return fmt.Errorf("--file %q is not SRC=DST[:MODE]", spec)
	}
	st, err := os.Stat(src)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("--file %s is not a regular file", src)
	}
	mode := plainMode(st.Mode())
	if at := strings.LastIndex(dst, ":"); at >= 0 {
		m, err := strconv.ParseUint(dst[at+1:], 8, 12)
		if err != nil {
			return fmt.Errorf("--file %q: mode %q is not octal", spec, dst[at+1:])
		}
		mode, dst = fs.FileMode(m), dst[:at]
	}
	t.add(entry{dst: clean(dst), src: src, mode: mode})
	return nil
}

// addDir takes SRC=DST: a directory's whole content.
func (t tree) addDir(spec string) error {
	src, dst, ok := strings.Cut(spec, "=")
	if !ok || src == "" || dst == "" {
		return fmt.Errorf("--dir %q is not SRC=DST", spec)
	}
	return filepath.WalkDir(src, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, p)
		if err != nil || rel == "." {
			return err
		}
		e := entry{dst: clean(path.Join(dst, filepath.ToSlash(rel))), src: p, mode: 0o755}
		switch {
		case d.IsDir():
			e.dir = true
		case d.Type()&fs.ModeSymlink != 0:
			e.link, err = os.Readlink(p)
		case d.Type().IsRegular():
			var st fs.FileInfo
			if st, err = d.Info(); err == nil {
				e.mode = plainMode(st.Mode())
			}
		default:
			err = fmt.Errorf("%s is neither a file, a link nor a directory", p)
		}
		t.add(e)
		return err
	})
}

// addLink takes DST=TARGET.
func (t tree) addLink(spec string) error {
	dst, target, ok := strings.Cut(spec, "=")
	if !ok || clean(dst) == "" || target == "" {
		return fmt.Errorf("--link %q is not DST=TARGET", spec)
	}
	t.add(entry{dst: clean(dst), link: target})
	return nil
}

// write writes the entries in the order of their paths, owned by root. Parents
// that no lower layer has come first: some engines make them 0600 otherwise;
// those that a lower layer has are left alone, for they may be links (/lib).
func (t tree) write(w io.Writer, seen map[string]bool) error {
	for dst := range t {
		for p := path.Dir(dst); p != "."; p = path.Dir(p) {
			if _, ok := t[p]; !ok && !seen[p] {
				t.add(entry{dst: p, dir: true, mode: 0o755})
			}
		}
	}
	order := make([]string, 0, len(t))
	for dst := range t {
		order = append(order, dst)
	}
	sort.Strings(order)
	tw := tar.NewWriter(w)
	for _, dst := range order {
		if t[dst].dir && seen[dst] {
			continue
		}
		if err := t[dst].write(tw); err != nil {
			return err
		}
	}
	return tw.Close()
}

func (e entry) write(tw *tar.Writer) error {
	h := &tar.Header{Name: e.dst, Mode: int64(e.mode), ModTime: timestamp(), Format: tar.FormatPAX}
	switch {
	case e.dir:
		h.Typeflag, h.Name = tar.TypeDir, e.dst+"/"
	case e.link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.link, 0o777
	default:
		f, err := os.Open(e.src)
		if err != nil {
			return err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return err
		}
		h.Typeflag, h.Size = tar.TypeReg, st.Size()
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(tw, f); err != nil {
			if errors.Is(err, tar.ErrWriteTooLong) {
				err = errors.New("the file grew while it was read")
			}
			return fmt.Errorf("%s: %w", e.src, err)
		}
		return nil
	}
	return tw.WriteHeader(h)
}

func plainMode(m fs.FileMode) fs.FileMode {
	if m&0o100 != 0 {
		return 0o755
	}
	return 0o644
}

// clean makes a path in an image: relative, without . and ..
func clean(p string) string {
	return strings.TrimPrefix(path.Clean("/"+p), "/")
}

// timestamp is that of every file and image: fixed, so that the same input
// gives the same bytes.
func timestamp() time.Time {
	if s, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil {
		return time.Unix(s, 0).UTC()
	}
	return time.Unix(0, 0).UTC()
}
