// Copyright (c) 2026, nodeforge contributors
// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A server offers a layout to container engines of this machine for a while.
type server struct {
	layout, address string
	portFile        string
	untilGone       list
	ttl             time.Duration
}

func (s *server) serve() error {
	if _, err := os.Stat(filepath.Join(s.layout, "index.json")); err != nil {
		return fmt.Errorf("%q is not an OCI layout: build images into it first", s.layout)
	}
	host, _, err := net.SplitHostPort(s.address)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("--address %q is not a loopback address with a port, such as 127.0.0.1:0", s.address)
	}
	l, err := net.Listen("tcp", s.address)
	if err != nil {
		return err
	}
	if s.portFile != "" {
		err := replaceFile(s.portFile, func(w io.Writer) error {
			_, err := fmt.Fprintln(w, l.Addr().(*net.TCPAddr).Port)
			return err
		})
		if err != nil {
			return err
		}
		defer os.Remove(s.portFile)
	}
	log.Printf("serving %s on %s for at most %s", s.layout, l.Addr(), s.ttl)

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, s.ttl)
	defer cancel()
	go func() {
		for range time.Tick(100 * time.Millisecond) {
			for _, path := range s.untilGone {
				if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
					cancel()
					return
				}
			}
		}
	}()
	h := &http.Server{Handler: registry(s.layout), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- h.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	// What is being read may end; an engine that hangs is not waited for.
	ctx, cancel = context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	h.Shutdown(ctx)
	return nil
}

// registry is the reading half of the distribution API over a layout directory.
// The index is read for each request, so images added meanwhile are served.
type registry string

var route = regexp.MustCompile(`^/v2/(.+)/(manifests|blobs)/([^/]+)$`)

func (dir registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry is read-only")
		return
	}
	if r.URL.Path == "/v2" || r.URL.Path == "/v2/" {
		w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
		return
	}
	m := route.FindStringSubmatch(r.URL.Path)
	if m == nil {
		refuse(w, http.StatusNotFound, "NAME_UNKNOWN", "no such path "+r.URL.Path)
		return
	}
	repository, kind, reference := m[1], m[2], m[3]
	if kind == "blobs" {
		dir.send(w, r, reference, "application/octet-stream")
		return
	}
	idx, err := readIndex(string(dir))
	if err != nil {
		refuse(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
		return
	}
	for _, d := range idx.Manifests {
		host, repo, tag := splitRef(d.Annotations[refName])
		// A mirror is asked on behalf of a registry, which containerd names in ns.
		if ns := r.URL.Query().Get("ns"); repo != repository || ns != "" && ns != host {
			continue
		}
		if reference == tag || reference == d.Digest.String() {
			dir.send(w, r, d.Digest.String(), string(d.MediaType))
			return
		}
	}
	refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", fmt.Sprintf("no image %s:%s here", repository, reference))
}

func (dir registry) send(w http.ResponseWriter, r *http.Request, digest, mediaType string) {
	h, err := v1.NewHash(digest) // hexadecimal only: it becomes a file name
	if err != nil {
		refuse(w, http.StatusBadRequest, "DIGEST_INVALID", err.Error())
		return
	}
	f, err := os.Open(filepath.Join(string(dir), "blobs", h.Algorithm, h.Hex))
	if err != nil {
		refuse(w, http.StatusNotFound, "BLOB_UNKNOWN", "no blob "+digest)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("ETag", `"`+digest+`"`)
	http.ServeContent(w, r, "", time.Time{}, f) // ranges and HEAD
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
}

// splitRef takes registry.k8s.io/coredns/coredns:v1 apart.
func splitRef(ref string) (host, repository, tag string) {
	host, rest, _ := strings.Cut(ref, "/")
	at := strings.LastIndex(rest, ":")
	if at < 0 {
		return host, rest, ""
	}
	return host, rest[:at], rest[at+1:]
}
