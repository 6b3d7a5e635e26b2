// Copyright (c) 2026, nodeforge contributors
// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func sum(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

// layer is a tar with one file.
func layer(content string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	w.WriteHeader(&tar.Header{Name: "f", Mode: 0o644, Size: int64(len(content))})
	w.Write([]byte(content))
	w.Close()
	return b.Bytes()
}

func config(layer []byte, arch string) []byte {
	return fmt.Appendf(nil, `{"os":"linux","architecture":%q,"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"config":{}}`, arch, sum(layer))
}

// archived writes an image as docker save does and returns the file's path.
func archived(t *testing.T, name, arch string) string {
	t.Helper()
	return saved(t, name, arch, layer(name))
}

func saved(t *testing.T, name, arch string, l []byte) string {
	t.Helper()
	c := config(l, arch)
	tags := `null`
	if name != "" {
		tags = fmt.Sprintf(`[%q]`, name)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for file, content := range map[string][]byte{
		"c.json": c, "l.tar": l, "manifest.json": fmt.Appendf(nil, `[{"Config":"c.json","RepoTags":%s,"Layers":["l.tar"]}]`, tags),
	} {
		w.WriteHeader(&tar.Header{Name: file, Mode: 0o644, Size: int64(len(content))})
		w.Write(content)
	}
	w.Close()
	path := filepath.Join(t.TempDir(), "a.tar")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// laidOut writes an OCI image layout and returns its directory and the path of the layer.
func laidOut(t *testing.T, name, arch string) (dir, blob string) {
	t.Helper()
	dir = t.TempDir()
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(b []byte) string {
		if err := os.WriteFile(filepath.Join(blobs, sum(b)), b, 0o644); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf(`"digest":"sha256:%s","size":%d`, sum(b), len(b))
	}
	l := layer(name)
	m := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
		"config":{"mediaType":"application/vnd.oci.image.config.v1+json",%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar",%s}]}`,
		put(config(l, arch)), put(l))
	index := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",%s,
		"annotations":{"org.opencontainers.image.ref.name":%q}}]}`, put(m), name)
	if err := os.WriteFile(filepath.Join(dir, "index.json"), []byte(index), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, filepath.Join(blobs, sum(l))
}

func imported(t *testing.T, root string, w wanted) (map[string]told, error) {
	t.Helper()
	in, _ := json.Marshal(w)
	var out bytes.Buffer
	if err := run(context.Background(), []string{"import", root}, bytes.NewReader(in), &out); err != nil {
		return nil, err
	}
	come := map[string]told{}
	if err := json.Unmarshal(out.Bytes(), &come); err != nil {
		t.Fatal(err)
	}
	return come, nil
}

// layerOf reads the layer of an image with one, and whether it was packed.
func layerOf(t *testing.T, s *store, name string) (packed bool, plain []byte) {
	t.Helper()
	ctx := namespaces.WithNamespace(context.Background(), "k8s.io")
	img, err := s.images.Get(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	b, err := content.ReadBlob(ctx, s.files, img.Target)
	if err != nil {
		t.Fatal(err)
	}
	var m v1.Manifest
	if err := json.Unmarshal(b, &m); err != nil || len(m.Layers) != 1 {
		t.Fatalf("got %s, %v", b, err)
	}
	if b, err = content.ReadBlob(ctx, s.files, m.Layers[0]); err != nil {
		t.Fatal(err)
	}
	r, err := compression.DecompressStream(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	plain, err = io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return m.Layers[0].MediaType == v1.MediaTypeImageLayerZstd && r.GetCompression() == compression.Zstd, plain
}

func TestImport(t *testing.T) {
	root := t.TempDir()
	dir, _ := laidOut(t, "docker.io/me/b:1", "arm64")
	file, _ := os.ReadFile(archived(t, "", "arm64"))
	unnamed := filepath.Join(t.TempDir(), "b.tar")
	os.WriteFile(unnamed, file, 0o644)
	w := wanted{Platform: "linux/arm64", Pin: true, Sources: []source{
		{Archive: archived(t, "docker.io/me/a-arm64:1", "arm64"), Names: map[string]string{"docker.io/me/a-arm64:1": "docker.io/me/a:1"}},
		{Archive: unnamed, SHA256: sum(file), Names: map[string]string{"": "docker.io/me/c:1"}},
		{Layout: dir, Names: map[string]string{"docker.io/me/b:1": "docker.io/me/b:1"}},
	}}
	come, err := imported(t, root, w)
	if err != nil {
		t.Fatal(err)
	}
	s, err := open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	found, err := s.images.List(namespaces.WithNamespace(context.Background(), "k8s.io"))
	if err != nil || len(found) != 3 || len(come) != 3 {
		t.Fatalf("got %v, %v, %v", found, come, err)
	}
	for _, img := range found {
		if img.Labels[pinLabel] != "pinned" || come[img.Name].Digest != img.Target.Digest.String() {
			t.Errorf("got %+v, told %+v", img, come[img.Name])
		}
	}
	if l := layer("docker.io/me/b:1"); come["docker.io/me/b:1"].Config != "sha256:"+sum(config(l, "arm64")) {
		t.Errorf("another configuration: %+v", come)
	}
	for name, want := range map[string][]byte{"docker.io/me/a:1": layer("docker.io/me/a-arm64:1"), "docker.io/me/b:1": layer("docker.io/me/b:1")} {
		packed, got := layerOf(t, s, name)
		if packed != (name == "docker.io/me/a:1") || !bytes.Equal(got, want) {
			t.Errorf("%s: the layer has %d bytes, not %d, packed %v", name, len(got), len(want), packed)
		}
	}
	// a manifest, a configuration and a layer each, and nothing else
	blobs, _ := filepath.Glob(filepath.Join(root, "io.containerd.content.v1.content/blobs/sha256/*"))
	left, _ := filepath.Glob(filepath.Join(root, "io.containerd.content.v1.content/ingest/*"))
	if len(blobs) != 9 || len(left) != 0 {
		t.Errorf("%d blobs, and %v", len(blobs), left)
	}
}

// What does not get smaller is left as it is, and so is its image.
func TestImportLeavesNoise(t *testing.T) {
	root, noise := t.TempDir(), make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(noise)
	want := map[string]bool{"docker.io/me/noise:1": false, "docker.io/me/text:1": true}
	layers := map[string][]byte{
		"docker.io/me/noise:1": layer(string(noise)),
		// half of it is text
		"docker.io/me/text:1": layer(string(noise) + strings.Repeat("All of it is said. ", 1<<20/19)),
	}
	w := wanted{Platform: "linux/amd64"}
	for name, l := range layers {
		w.Sources = append(w.Sources, source{Archive: saved(t, name, "amd64", l), Names: map[string]string{name: name}})
	}
	if _, err := imported(t, root, w); err != nil {
		t.Fatal(err)
	}
	s, err := open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	for name, l := range layers {
		if packed, got := layerOf(t, s, name); packed != want[name] || !bytes.Equal(got, l) {
			t.Errorf("%s: the layer has %d bytes, not %d, packed %v", name, len(got), len(l), packed)
		}
	}
}

func TestImportRefuses(t *testing.T) {
	good := archived(t, "docker.io/me/a:1", "amd64")
	dir, blob := laidOut(t, "docker.io/me/b:1", "amd64")
	os.WriteFile(blob, bytes.Repeat([]byte("x"), 2048), 0o644)
	names := map[string]string{"docker.io/me/a:1": "docker.io/me/a:1"}
	cut := filepath.Join(t.TempDir(), "cut.tar")
	b, _ := os.ReadFile(good)
	os.WriteFile(cut, b[:len(b)/2], 0o644)
	for want, w := range map[string]wanted{
		`the platform "/"`:       {Platform: "/"},
		"no such file":           {Platform: "linux/amd64", Sources: []source{{Archive: "/nowhere", Names: names}}},
		"its sha256 any more":    {Platform: "linux/amd64", Sources: []source{{Archive: good, SHA256: "0", Names: names}}},
		"cut.tar":                {Platform: "linux/amd64", Sources: []source{{Archive: cut, Names: names}}},
		"has no image for other": {Platform: "linux/amd64", Sources: []source{{Archive: good, Names: map[string]string{"docker.io/me/other:1": "other"}}}},
		"docker.io/me/b:1: ":     {Platform: "linux/amd64", Sources: []source{{Layout: dir, Names: map[string]string{"docker.io/me/b:1": "docker.io/me/b:1"}}}},
	} {
		if _, err := imported(t, t.TempDir(), w); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// The store of a lower layer: its metadata is here, its content is not.
func TestImportIntoMetadataAlone(t *testing.T) {
	lower, upper := t.TempDir(), t.TempDir()
	a, b := archived(t, "docker.io/me/a:1", "amd64"), archived(t, "docker.io/me/b:1", "amd64")
	names := func(name string) map[string]string { return map[string]string{name: name} }
	first, err := imported(t, lower, wanted{Platform: "linux/amd64", Sources: []source{
		{Archive: a, Names: names("docker.io/me/a:1")}, {Archive: b, Names: names("docker.io/me/b:1")},
	}})
	if err != nil {
		t.Fatal(err)
	}
	db := "io.containerd.metadata.v1.bolt"
	if err := os.CopyFS(filepath.Join(upper, db), os.DirFS(filepath.Join(lower, db))); err != nil {
		t.Fatal(err)
	}
	newer := filepath.Join(t.TempDir(), "newer.tar")
	file, _ := os.ReadFile(archived(t, "docker.io/me/newer:1", "amd64"))
	os.WriteFile(newer, file, 0o644)
	come, err := imported(t, upper, wanted{Platform: "linux/amd64", Pin: true, Held: []string{"docker.io/me/a:1"}, Sources: []source{
		// the same again, and another content under a name that is there
		{Archive: a, Names: names("docker.io/me/a:1")}, {Archive: newer, Names: map[string]string{"docker.io/me/newer:1": "docker.io/me/b:1"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := run(context.Background(), []string{"list", upper}, nil, &out); err != nil {
		t.Fatal(err)
	}
	found := map[string]record{}
	if err := json.Unmarshal(out.Bytes(), &found); err != nil {
		t.Fatal(err)
	}
	if found["docker.io/me/a:1"] != (record{first["docker.io/me/a:1"].Digest, true}) || come["docker.io/me/a:1"].Digest != first["docker.io/me/a:1"].Digest {
		t.Errorf("what is there is not kept and pinned: %v, %v", found, come)
	}
	if b := come["docker.io/me/b:1"].Digest; b == first["docker.io/me/b:1"].Digest || found["docker.io/me/b:1"] != (record{b, true}) || len(found) != 2 {
		t.Errorf("the new one does not replace the old one: %v, %v", found, come)
	}
	// a manifest, a configuration and a layer
	if blobs, _ := filepath.Glob(filepath.Join(upper, "io.containerd.content.v1.content/blobs/sha256/*")); len(blobs) != 3 {
		t.Errorf("%d blobs", len(blobs))
	}
	if _, err := imported(t, upper, wanted{Platform: "linux/amd64", Held: []string{"docker.io/me/c:1"}}); err == nil || !strings.Contains(err.Error(), "me/c:1") {
		t.Errorf("an image that is not there is taken for one: %v", err)
	}
}
