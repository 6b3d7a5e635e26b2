// Copyright (c) 2026, nodeforge contributors
// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"archive/tar"
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// rootTar writes a root filesystem; a value that begins with -> is a link.
func rootTar(t *testing.T, files map[string]string) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	own := tree{}
	dir := t.TempDir()
	for name, content := range files {
		if target, ok := strings.CutPrefix(content, "->"); ok {
			own.add(entry{dst: name, link: target})
			continue
		}
		src := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		if err := os.WriteFile(src, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
		own.add(entry{dst: name, src: src, mode: 0o755})
	}
	w.Flush()
	if err := own.write(&b, map[string]bool{}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "root.tar")
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func names(t *testing.T, r io.Reader) map[string]*tar.Header {
	t.Helper()
	found := map[string]*tar.Header{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		found[h.Name] = h
	}
}

func TestBuild(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	base := rootTar(t, map[string]string{"usr/lib/a": "a", "lib": "->usr/lib"})
	var archives [][]byte
	var made []string
	for _, run := range []string{"1", "2"} {
		os.Chtimes(program, time.Now(), time.Now().Add(-time.Hour)) // must not matter
		r := recipe{
			platform: "linux/arm64", ref: "docker.io/me/app:1.0", bases: list{base},
			files: list{program + "=lib/program", program + "=/opt/x/y:600"}, links: list{"bin/app=/lib/program"},
			env: list{"A=b"}, entrypoint: list{"/lib/program"}, cmd: list{"serve"}, labels: list{"l=1=2"}, stopSignal: "SIGINT",
			archive: filepath.Join(dir, run+".tar"),
		}
		if _, err := r.build(); err != nil {
			t.Fatal(err)
		}
		laidOut := r
		laidOut.archive, laidOut.layout = "", filepath.Join(dir, run)
		d, err := laidOut.build()
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(r.archive)
		if err != nil {
			t.Fatal(err)
		}
		archives, made = append(archives, b), append(made, d)
	}
	if made[0] != made[1] || !bytes.Equal(archives[0], archives[1]) {
		t.Error("the same input must give the same bytes")
	}

	img, err := tarball.ImageFromPath(filepath.Join(dir, "1.tar"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Errorf("archive: %v", err)
	}
	cfg, _ := img.ConfigFile()
	if cfg.Architecture != "arm64" || cfg.Config.Labels["l"] != "1=2" || cfg.Config.StopSignal != "SIGINT" || cfg.Config.Cmd[0] != "serve" {
		t.Errorf("unexpected configuration %+v", cfg)
	}
	layers, _ := img.Layers()
	if len(layers) != 2 {
		t.Fatalf("a base and files are two layers, not %d", len(layers))
	}
	r, _ := layers[1].Uncompressed()
	found := names(t, r)
	if h := found["lib/program"]; h == nil || h.Mode != 0o755 || h.Uid != 0 {
		t.Errorf("lib/program: %+v", h)
	}
	if h := found["opt/x/y"]; h == nil || h.Mode != 0o600 {
		t.Errorf("opt/x/y: %+v", h)
	}
	if found["opt/x/"] == nil || found["opt/"] == nil {
		t.Error("parents that the base lacks must be there")
	}
	if found["lib/"] != nil || found["lib"] != nil {
		t.Error("a directory would hide the base's link lib")
	}

	// the layout is one, too, and knows the image by its reference
	h, _ := v1.NewHash(made[0])
	stored, err := layout.Path(filepath.Join(dir, "1")).Image(h)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := stored.Layers()
	if err != nil || len(packed) != len(layers) {
		t.Fatalf("got %v, %v", packed, err)
	}
	for i, l := range packed {
		kind, _ := l.MediaType()
		plain, _ := layers[i].DiffID()
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		if sum, _, err := v1.SHA256(r); err != nil || sum != plain || kind != types.OCILayerZStd {
			t.Errorf("layer %d is %s of %s, not of %s: %v", i, kind, sum, plain, err)
		}
	}
	refs, err := digests(filepath.Join(dir, "1"))
	if err != nil || refs["docker.io/me/app:1.0"] != made[0] {
		t.Errorf("got %v, %v", refs, err)
	}
}

func TestBuildRefuses(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("no tar at all, though it is long enough to be read as the head of one"), 0o644); err != nil {
		t.Fatal(err)
	}
	good := recipe{platform: "linux/amd64", ref: "docker.io/me/app:1", files: list{text + "=a"}, archive: filepath.Join(dir, "a.tar")}
	for want, change := range map[string]func(*recipe){
		`--ref "app"`:           func(r *recipe) { r.ref = "app" },
		`--platform "amd64"`:    func(r *recipe) { r.platform = "amd64" },
		"--archive or --layout": func(r *recipe) { r.archive = "" },
		"no such file":          func(r *recipe) { r.files = list{dir + "/absent=a"} },
		"is not a regular file": func(r *recipe) { r.files = list{dir + "=a"} },
		`mode "9"`:              func(r *recipe) { r.files = list{text + "=a:9"} },
		"is not a plain tar":    func(r *recipe) { r.bases = list{text} },
		`--link "x" is not`:     func(r *recipe) { r.links = list{"x"} },
		`--label "x" is not`:    func(r *recipe) { r.labels = list{"x"} },
		"build wants at least":  func(r *recipe) { r.files = nil },
	} {
		r := good
		change(&r)
		_, err := r.build()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("want one sentence with %q, got %v", want, err)
		}
	}
	left, _ := filepath.Glob(filepath.Join(dir, "*"))
	hidden, _ := filepath.Glob(filepath.Join(dir, ".*"))
	if len(left) != 1 || len(hidden) != 0 {
		t.Errorf("left behind: %v %v", left, hidden)
	}
}

func TestExtract(t *testing.T) {
	shell, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Skip(err)
	}
	b, err := os.ReadFile(shell)
	if err != nil {
		t.Skip(err)
	}
	f, _ := os.Open(shell)
	st, _ := f.Stat()
	needs, err := needed(io.NewSectionReader(f, 0, st.Size()))
	if err != nil || len(needs) < 2 {
		t.Skipf("the shell of this host is no dynamic program: %v, %v", needs, err)
	}
	files := map[string]string{"bin": "->usr/bin", "usr/bin/real-sh": string(b), "usr/bin/sh": "->real-sh", "usr/bin/other": "x"}
	x := extraction{from: rootTar(t, files), output: filepath.Join(t.TempDir(), "out.tar"), libraries: true, globs: list{"usr/bin/s*"}}
	if err := x.extract(); err == nil || !strings.Contains(err.Error(), "usr/bin/real-sh needs ") {
		t.Errorf("a library that lacks must be named, got %v", err)
	}
	for _, n := range needs {
		if filepath.IsAbs(n) {
			files[clean(n)] = "loader"
		} else {
			files["usr/lib/test-linux-gnu/"+n] = "->" + n + ".1"
			files["usr/lib/test-linux-gnu/"+n+".1"] = "library"
		}
	}
	x.from, x.links = rootTar(t, files), list{"usr/bin/more=sh"}
	if err := x.extract(); err != nil {
		t.Fatal(err)
	}
	out, _ := os.Open(x.output)
	defer out.Close()
	found := names(t, out)
	for _, want := range []string{"usr/bin/real-sh", "usr/bin/sh", "usr/bin/more", "usr/lib/test-linux-gnu/libc.so.6", "usr/lib/test-linux-gnu/libc.so.6.1"} {
		if found[want] == nil {
			t.Errorf("%s is missing", want)
		}
	}
	if found["usr/bin/other"] != nil {
		t.Error("other was not asked for")
	}
	x.globs = list{"usr/bin/absent"}
	if err := x.extract(); err == nil || !strings.Contains(err.Error(), "has no usr/bin/absent") {
		t.Error(err)
	}
}

func TestRegistry(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	os.WriteFile(file, []byte("content"), 0o644)
	l := filepath.Join(dir, "layout")
	r := recipe{platform: "linux/amd64", ref: "registry.k8s.io/coredns/coredns:v1", files: list{file + "=f"}, layout: l}
	digest, err := r.build()
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(registry(l))
	defer s.Close()
	get := func(method, path, ranges string) (int, string, http.Header) {
		req, _ := http.NewRequest(method, s.URL+path, nil)
		if ranges != "" {
			req.Header.Set("Range", ranges)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b), resp.Header
	}
	for path, want := range map[string]int{
		"/v2/":                             200,
		"/v2/coredns/coredns/manifests/v1": 200,
		"/v2/coredns/coredns/manifests/v1?ns=registry.k8s.io":         200,
		"/v2/coredns/coredns/manifests/v1?ns=docker.io":               404,
		"/v2/coredns/coredns/manifests/v2":                            404,
		"/v2/coredns/manifests/v1":                                    404,
		"/v2/coredns/coredns/manifests/" + digest:                     200,
		"/v2/coredns/coredns/blobs/" + digest:                         200,
		"/v2/coredns/coredns/blobs/sha256:" + strings.Repeat("0", 64): 404,
		"/v2/x/blobs/..%2f..%2findex.json":                            404,
		"/v2/x/blobs/sha256:..":                                       400,
		"/other":                                                      404,
	} {
		if got, _, _ := get("GET", path, ""); got != want {
			t.Errorf("%s: got %d, want %d", path, got, want)
		}
	}
	if _, _, h := get("HEAD", "/v2/coredns/coredns/manifests/v1", ""); h.Get("Docker-Content-Digest") != digest ||
		h.Get("Content-Type") != "application/vnd.oci.image.manifest.v1+json" {
		t.Errorf("unexpected headers %v", h)
	}
	_, whole, _ := get("GET", "/v2/coredns/coredns/blobs/"+digest, "")
	if status, part, _ := get("GET", "/v2/coredns/coredns/blobs/"+digest, "bytes=5-"); status != 206 || part != whole[5:] {
		t.Errorf("a broken download must be able to go on: %d", status)
	}
	if status, body, _ := get("PUT", "/v2/coredns/coredns/manifests/v1", ""); status != 405 || !strings.Contains(body, "read-only") {
		t.Errorf("got %d %s", status, body)
	}
}

func TestServeEnds(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "index.json"), []byte("{}"), 0o644)
	alive, port := filepath.Join(dir, "alive"), filepath.Join(dir, "port")
	start := func(ttl time.Duration) chan error {
		os.WriteFile(alive, nil, 0o644)
		done := make(chan error, 1)
		s := server{layout: dir, address: "127.0.0.1:0", portFile: port, untilGone: list{dir, alive}, ttl: ttl}
		go func() { done <- s.serve() }()
		for i := 0; i < 500; i++ {
			if b, _ := os.ReadFile(port); len(b) > 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		return done
	}
	wait := func(why string, done chan error) {
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("%s: %v", why, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("still serving, though %s", why)
		}
		if _, err := os.Stat(port); err == nil {
			t.Errorf("%s: the port file is still there", why)
		}
	}
	wait("its time is up", start(300*time.Millisecond))
	done := start(time.Hour)
	os.Remove(alive)
	wait("its file is gone", done)

	for address, s := range map[string]server{
		"0.0.0.0:0":  {layout: dir, address: "0.0.0.0:0"},
		"OCI layout": {layout: t.TempDir(), address: "127.0.0.1:0"},
		"example:80": {layout: dir, address: "example:80"},
	} {
		if err := s.serve(); err == nil || !strings.Contains(err.Error(), address) {
			t.Errorf("%s: got %v", address, err)
		}
	}
}
