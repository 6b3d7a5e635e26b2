// Copyright (c) 2026, nodeforge contributors
// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// A recipe says what an image is made from and where it goes.
type recipe struct {
	platform, ref                string
	bases, files, dirs, links    list
	env, entrypoint, cmd, labels list
	stopSignal, user, workdir    string
	archive, layout              string
}

// build makes the image, stores it and returns its digest.
func (r *recipe) build() (digest string, err error) {
	tag, platform, err := r.check()
	if err != nil {
		return "", err
	}
	// Blobs are made where they stay; without a layout, beside the archive.
	blobs := filepath.Join(r.layout, "blobs", "sha256")
	if r.layout == "" {
		if blobs, err = os.MkdirTemp(filepath.Dir(r.archive), ".nodeforge-image-"); err != nil {
			return "", err
		}
		defer os.RemoveAll(blobs)
	} else if err := os.MkdirAll(blobs, 0o755); err != nil {
		return "", err
	}
	img, err := r.image(platform, blobs)
	if err != nil {
		return "", err
	}
	h, err := img.Digest()
	if err != nil {
		return "", err
	}
	if r.layout != "" {
		if err := store(r.layout, r.ref, img); err != nil {
			return "", err
		}
	}
	if r.archive != "" {
		err := replaceFile(r.archive, func(w io.Writer) error { return tarball.Write(tag, img, w) })
		if err != nil {
			return "", err
		}
	}
	return h.String(), nil
}

func (r *recipe) check() (name.Tag, *v1.Platform, error) {
	tag, err := name.NewTag(r.ref, name.StrictValidation)
	if err != nil {
		return tag, nil, fmt.Errorf("--ref %q is not a full image reference such as docker.io/me/app:1.0", r.ref)
	}
	os, arch, ok := strings.Cut(r.platform, "/")
	if !ok || os == "" || arch == "" {
		return tag, nil, fmt.Errorf("--platform %q is not OS/ARCH, such as linux/amd64", r.platform)
	}
	if (r.archive == "") == (r.layout == "") {
		return tag, nil, errors.New("build wants either --archive or --layout")
	}
	if len(r.bases)+len(r.files)+len(r.dirs)+len(r.links) == 0 {
		return tag, nil, errors.New("build wants at least one of --base, --file, --dir, --link")
	}
	p, err := v1.ParsePlatform(r.platform)
	return tag, p, err
}

// image makes one layer of each base and one of all files of ours. An archive
// has them as they are, as docker save does: whoever imports it packs them,
// and every engine can load it.
func (r *recipe) image(p *v1.Platform, blobs string) (v1.Image, error) {
	var layers []v1.Layer
	packed := r.layout != ""
	seen := map[string]bool{}
	for _, base := range r.bases {
		l, err := writeBlob(blobs, packed, func(w io.Writer) error { return copyRoot(w, base, seen) })
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	own := tree{}
	for _, group := range []struct {
		specs list
		add   func(string) error
	}{{r.dirs, own.addDir}, {r.files, own.addFile}, {r.links, own.addLink}} {
		for _, spec := range group.specs {
			if err := group.add(spec); err != nil {
				return nil, err
			}
		}
	}
	if len(own) > 0 {
		l, err := writeBlob(blobs, packed, func(w io.Writer) error { return own.write(w, seen) })
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	labels := map[string]string{}
	for _, l := range r.labels {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("--label %q is not KEY=VALUE", l)
		}
		labels[k] = v
	}
	env := slices.Clone(r.env)
	if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		env = append(env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.ConfigFile(img, &v1.ConfigFile{
		OS: p.OS, Architecture: p.Architecture, Variant: p.Variant,
		Created: v1.Time{Time: timestamp()},
		RootFS:  v1.RootFS{Type: "layers"},
		Config: v1.Config{
			Env: env, Entrypoint: r.entrypoint, Cmd: r.cmd, Labels: labels,
			StopSignal: r.stopSignal, User: r.user, WorkingDir: r.workdir,
		},
	})
	if err != nil {
		return nil, err
	}
	for _, l := range layers {
		img, err = mutate.Append(img, mutate.Addendum{Layer: l, History: v1.History{
			Created: v1.Time{Time: timestamp()}, CreatedBy: "nodeforge-image"}})
		if err != nil {
			return nil, err
		}
	}
	return img, nil
}

// replaceFile writes a file that appears whole or not at all.
func replaceFile(file string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-")
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
