// Copyright (c) 2026, nodeforge contributors
// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// refName is the annotation that holds an image's full reference.
const refName = "org.opencontainers.image.ref.name"

// readIndex reads a layout's index; an absent layout is an empty one.
func readIndex(dir string) (*v1.IndexManifest, error) {
	idx := &v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	b, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return idx, nil
	}
	if err == nil {
		err = json.Unmarshal(b, idx)
	}
	if err != nil {
		return nil, fmt.Errorf("layout %s has no readable index.json: %w", dir, err)
	}
	return idx, nil
}

// store puts an image into a layout under a reference. Its own file lock and a
// rename let several builds and servers share one layout.
func store(dir, ref string, img v1.Image) error {
	if err := layout.Path(dir).WriteImage(img); err != nil {
		return err
	}
	desc, err := partial.Descriptor(img)
	if err != nil {
		return err
	}
	desc.Annotations = map[string]string{refName: ref}
	cfg, err := img.ConfigFile()
	if err != nil {
		return err
	}
	desc.Platform = cfg.Platform()

	lock, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	idx, err := readIndex(dir)
	if err != nil {
		return err
	}
	idx.Manifests = slices.DeleteFunc(idx.Manifests, func(d v1.Descriptor) bool {
		return d.Annotations[refName] == ref
	})
	idx.Manifests = append(idx.Manifests, *desc)
	slices.SortFunc(idx.Manifests, func(a, b v1.Descriptor) int {
		return strings.Compare(a.Annotations[refName], b.Annotations[refName])
	})
	for file, content := range map[string]any{
		"oci-layout": map[string]string{"imageLayoutVersion": "1.0.0"},
		"index.json": idx,
	} {
		err := replaceFile(filepath.Join(dir, file), func(w io.Writer) error {
			e := json.NewEncoder(w)
			e.SetIndent("", "  ")
			return e.Encode(content)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// digests tells the digest of every reference in a layout.
func digests(dir string) (map[string]string, error) {
	if dir == "" {
		return nil, errors.New("list wants --layout")
	}
	idx, err := readIndex(dir)
	if err != nil {
		return nil, err
	}
	refs := map[string]string{}
	for _, d := range idx.Manifests {
		refs[d.Annotations[refName]] = d.Digest.String()
	}
	return refs, nil
}
