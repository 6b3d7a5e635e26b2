// Copyright (c) 2026, nodeforge contributors
// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// What the kubelet's garbage collector heeds.
const pinLabel = "io.cri-containerd.pinned"

// wanted says which images the store is to have: those that it holds, and
// those of the sources.
type wanted struct {
	Platform string
	Pin      bool
	Held     []string
	Sources  []source
}

// A source is an archive (docker's or OCI's, plain) or an OCI image layout.
// Names are those of its images, each with the one that containerd gets; an
// archive's image without a name has the empty one.
type source struct {
	Archive, Layout string
	SHA256          string
	Names           map[string]string
}

func (s source) String() string {
	if s.Archive != "" {
		return fmt.Sprintf("the image archive %q", s.Archive)
	}
	return fmt.Sprintf("the image layout %q", s.Layout)
}

// key is the annotation that names an image there. What an archive has under
// the layout's is often no more than a tag.
func (s source) key() string {
	if s.Layout != "" {
		return v1.AnnotationRefName
	}
	return images.AnnotationImageName
}

// An image as it is told: digest and configuration, and the size of all of it.
// The latter two are of those that have come, not of those that were there.
type told struct {
	Digest string `json:"digest"`
	Config string `json:"config"`
	Size   int64  `json:"size"`
}

// A record is what containerd knows of an image's name.
type record struct {
	Digest string `json:"digest"`
	Pinned bool   `json:"pinned"`
}

// A store is containerd's content and metadata in the directory that its
// configuration calls root. Metadata of an earlier one may be there without
// the content: what is known already is not written again.
type store struct {
	bolt   *bolt.DB
	files  content.Store
	db     *metadata.DB
	images images.Store
}

func open(root string) (*store, error) {
	cs, err := local.NewStore(filepath.Join(root, "io.containerd.content.v1.content"))
	if err != nil {
		return nil, err
	}
	// as containerd makes them
	if err := os.MkdirAll(filepath.Join(root, "io.containerd.content.v1.content", v1.ImageBlobsDir), 0o755); err != nil {
		return nil, err
	}
	dir := filepath.Join(root, "io.containerd.metadata.v1.bolt")
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	// nobody reads it before it is whole, so it need not be safe at each step
	b, err := bolt.Open(filepath.Join(dir, "meta.db"), 0o644, &bolt.Options{NoSync: true})
	if err != nil {
		return nil, err
	}
	db := metadata.NewDB(b, cs, nil)
	if err := db.Init(context.Background()); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return &store{b, cs, db, metadata.NewImageStore(db)}, nil
}

func (s *store) close() error { return s.bolt.Close() }

// list tells of all images.
func (s *store) list(ctx context.Context) (map[string]record, error) {
	all, err := s.images.List(namespaces.WithNamespace(ctx, "k8s.io"))
	found := map[string]record{}
	for _, img := range all {
		found[img.Name] = record{img.Target.Digest.String(), img.Labels[pinLabel] == "pinned"}
	}
	return found, err
}

// bring has all images that are wanted whole in the store.
func (s *store) bring(ctx context.Context, w wanted) (map[string]told, error) {
	ctx = namespaces.WithNamespace(ctx, "k8s.io")
	p, err := platforms.Parse(w.Platform)
	if err != nil {
		return nil, fmt.Errorf("the platform %q is none, write it like linux/amd64: %w", w.Platform, err)
	}
	only := platforms.OnlyStrict(p)
	below, err := s.known(ctx)
	if err != nil {
		return nil, err
	}
	err = s.files.Walk(ctx, func(i content.Info) error {
		delete(below, i.Digest)
		return nil
	})
	if err != nil {
		return nil, err
	}
	come := map[string]told{}
	for _, name := range w.Held {
		img, err := s.images.Get(ctx, name)
		if err != nil {
			return nil, err
		}
		if come[name], err = s.keep(ctx, img, w.Pin); err != nil {
			return nil, err
		}
	}
	sources, err := s.readAll(ctx, w.Sources)
	if err != nil {
		return nil, err
	}
	for i, from := range w.Sources {
		index, provider := sources[i].index, sources[i].provider
		for _, d := range index {
			name, ok := from.Names[d.Annotations[from.key()]]
			if !ok {
				continue
			}
			if come[name], err = s.add(ctx, name, d, provider, only, w.Pin); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", from, name, err)
			}
		}
		for _, name := range from.Names {
			if _, ok := come[name]; !ok {
				return nil, fmt.Errorf("%s has no image for %s", from, name)
			}
		}
	}
	// the records of what no image needs any more
	if _, err := s.db.GarbageCollect(ctx); err != nil {
		return nil, err
	}
	return come, s.prune(ctx, below)
}

// prune removes the files of what no image needs, such as the list of an
// archive, and of what a lower layer has.
func (s *store) prune(ctx context.Context, below map[digest.Digest]bool) error {
	needed, err := s.known(ctx)
	if err != nil {
		return err
	}
	var spare []digest.Digest
	err = s.files.Walk(ctx, func(i content.Info) error {
		if !needed[i.Digest] || below[i.Digest] {
			spare = append(spare, i.Digest)
		}
		return nil
	})
	for _, d := range spare {
		err = errors.Join(err, s.files.Delete(ctx, d))
	}
	return err
}

// known lists the content that the metadata tells of.
func (s *store) known(ctx context.Context) (map[digest.Digest]bool, error) {
	all := map[digest.Digest]bool{}
	err := s.db.ContentStore().Walk(ctx, func(i content.Info) error {
		all[i.Digest] = true
		return nil
	})
	return all, err
}

// What a source holds, and whoever has its content.
type found struct {
	index    []v1.Descriptor
	provider content.Provider
}

// readAll reads the sources, some at once: most of it is checksums.
func (s *store) readAll(ctx context.Context, sources []source) ([]found, error) {
	all, errs := make([]found, len(sources)), make([]error, len(sources))
	var wg sync.WaitGroup
	turn := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i, from := range sources {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			var err error
			if all[i].index, all[i].provider, err = s.read(ctx, from); err != nil {
				errs[i] = fmt.Errorf("%s: %w", from, err)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// read lists the images of a source, and whoever has their content.
func (s *store) read(ctx context.Context, from source) ([]v1.Descriptor, content.Provider, error) {
	if from.Layout != "" {
		b, err := os.ReadFile(filepath.Join(from.Layout, v1.ImageIndexFile))
		if err != nil {
			return nil, nil, err
		}
		var index v1.Index
		err = json.Unmarshal(b, &index)
		return index.Manifests, layout(from.Layout), err
	}
	f, err := os.Open(from.Archive)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	r, check := io.Reader(f), func(err error) error { return err }
	if from.SHA256 != "" {
		r, check = checked(f, from.SHA256)
	}
	// as files only: add tells the metadata of those that are new
	top, err := archive.ImportIndex(ctx, s.files, r)
	if err := check(err); err != nil {
		return nil, nil, err
	}
	b, err := content.ReadBlob(ctx, s.files, top)
	if err != nil {
		return nil, nil, err
	}
	var index v1.Index
	if err := json.Unmarshal(b, &index); err != nil {
		return nil, nil, err
	}
	for i, d := range index.Manifests {
		if index.Manifests[i], err = s.pack(ctx, d); err != nil {
			return nil, nil, err
		}
	}
	return index.Manifests, s.files, nil
}

// checked reads the same, and afterwards tells whether all of it has that
// checksum, which is computed beside whatever is done with what is read. If
// that has failed, it is what is told.
func checked(r io.Reader, sha string) (io.Reader, func(error) error) {
	theirs, ours := io.Pipe()
	sum := make(chan string)
	go func() {
		h := sha256.New()
		// as much as is read at once, so that neither waits for the other
		_, err := io.CopyBuffer(h, theirs, make([]byte, 1<<20))
		theirs.CloseWithError(err)
		sum <- hex.EncodeToString(h.Sum(nil))
	}()
	r = io.TeeReader(r, ours)
	return r, func(err error) error {
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		ours.Close()
		if sum := <-sum; err == nil && sum != sha {
			err = errors.New("its content is not that of its sha256 any more")
		}
		return err
	}
}

// pack has the layers of an image compressed that a docker archive holds as
// they are: that is less to commit, to ship and to keep. An image that brings
// a manifest of its own is left alone, for it may be known by its digest.
func (s *store) pack(ctx context.Context, d v1.Descriptor) (v1.Descriptor, error) {
	if d.MediaType != images.MediaTypeDockerSchema2Manifest {
		return d, nil
	}
	b, err := content.ReadBlob(ctx, s.files, d)
	if err != nil {
		return d, err
	}
	var m v1.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return d, err
	}
	m.MediaType, m.Config.MediaType = v1.MediaTypeImageManifest, v1.MediaTypeImageConfig
	packed := 0
	for i, l := range m.Layers {
		switch l.MediaType {
		case images.MediaTypeDockerSchema2Layer:
			m.Layers[i].MediaType = v1.MediaTypeImageLayer
			if m.Layers[i], err = s.packed(ctx, m.Layers[i]); err != nil {
				return d, err
			}
			if m.Layers[i].Digest != l.Digest {
				packed++
			}
		case images.MediaTypeDockerSchema2LayerGzip:
			m.Layers[i].MediaType = v1.MediaTypeImageLayerGzip
		default:
			return d, nil
		}
	}
	if packed == 0 {
		return d, nil
	}
	if b, err = json.Marshal(m); err != nil {
		return d, err
	}
	d.MediaType, d.Digest, d.Size = m.MediaType, digest.FromBytes(b), int64(len(b))
	err = content.WriteBlob(ctx, s.files, d.Digest.String(), bytes.NewReader(b), d)
	return d, err
}

// packed writes a layer once more, compressed, and tells of that. One that
// would not get smaller stays as it is.
func (s *store) packed(ctx context.Context, l v1.Descriptor) (_ v1.Descriptor, err error) {
	ra, err := s.files.ReaderAt(ctx, l)
	if err != nil {
		return l, err
	}
	defer ra.Close()
	if small, err := shrinks(ra); err != nil || !small {
		return l, err
	}
	w, err := content.OpenWriter(ctx, s.files, content.WithRef("zstd-"+l.Digest.String()))
	if err != nil {
		return l, err
	}
	defer w.Close()
	size := counter(0)
	z, err := zstd.NewWriter(io.MultiWriter(w, &size), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return l, err
	}
	_, err = io.Copy(z, io.NewSectionReader(ra, 0, ra.Size()))
	if err = errors.Join(err, z.Close()); err != nil {
		return l, err
	}
	l = v1.Descriptor{MediaType: v1.MediaTypeImageLayerZstd, Digest: w.Digest(), Size: int64(size)}
	if err := w.Commit(ctx, l.Size, l.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return l, err
	}
	return l, nil
}

// shrinks tells from samples all over it whether a layer gets smaller by a
// tenth at least: media, archives and noise do not.
func shrinks(ra content.ReaderAt) (bool, error) {
	const samples, size = 8, 32 << 10
	step := ra.Size() / samples
	if step < size {
		return true, nil // packing it is no more work than asking
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return false, err
	}
	plain, small := make([]byte, size), 0
	for i := range int64(samples) {
		if _, err := ra.ReadAt(plain, i*step); err != nil {
			return false, err
		}
		small += len(z.EncodeAll(plain, nil))
	}
	return small < samples*size*9/10, nil
}

// A counter is what went by.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// name has an image of that name.
func (s *store) name(ctx context.Context, name string, target v1.Descriptor, pin bool) error {
	img := images.Image{Name: name, Target: target}
	if pin {
		img.Labels = map[string]string{pinLabel: "pinned"}
	}
	_, err := s.images.Create(ctx, img)
	if errdefs.IsAlreadyExists(err) {
		_, err = s.images.Update(ctx, img)
	}
	return err
}

// keep leaves an image as it is, or pins it.
func (s *store) keep(ctx context.Context, img images.Image, pin bool) (told, error) {
	came := told{Digest: img.Target.Digest.String()}
	if !pin || img.Labels[pinLabel] == "pinned" {
		return came, nil
	}
	return came, s.name(ctx, img.Name, img.Target, true)
}

// add brings what an image consists of, for the platform, and names it.
func (s *store) add(ctx context.Context, name string, d v1.Descriptor, from content.Provider, only platforms.MatchComparer, pin bool) (told, error) {
	// the very same image: nothing of it may lie here
	if img, err := s.images.Get(ctx, name); err == nil && img.Target.Digest == d.Digest {
		return s.keep(ctx, img, pin)
	}
	cs := s.db.ContentStore()
	copyBlob := images.HandlerFunc(func(ctx context.Context, d v1.Descriptor) ([]v1.Descriptor, error) {
		ra, err := from.ReaderAt(ctx, d)
		if err != nil {
			return nil, err
		}
		defer ra.Close()
		err = content.WriteBlob(ctx, cs, d.Digest.String(), io.NewSectionReader(ra, 0, ra.Size()), d)
		if errdefs.IsAlreadyExists(err) {
			err = nil
		}
		return nil, err
	})
	children := images.SetChildrenLabels(cs, images.FilterPlatforms(images.ChildrenHandler(from), only))
	if err := images.WalkNotEmpty(ctx, images.Handlers(copyBlob, children), d); err != nil {
		return told{}, err
	}
	// annotations of a source say nothing of the image
	img := images.Image{Name: name, Target: v1.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}}
	if whole, _, _, missing, err := images.Check(ctx, from, img.Target, only); err != nil {
		return told{}, err
	} else if !whole || len(missing) > 0 {
		return told{}, fmt.Errorf("it is not whole for the platform, %d parts are missing", len(missing))
	}
	if err := s.name(ctx, name, img.Target, pin); err != nil {
		return told{}, err
	}
	config, err := img.Config(ctx, from, only)
	if err != nil {
		return told{}, err
	}
	size, err := img.Size(ctx, from, only)
	return told{Digest: d.Digest.String(), Config: config.Digest.String(), Size: size}, err
}

// A layout is the directory of an OCI image layout.
type layout string

func (l layout) ReaderAt(_ context.Context, d v1.Descriptor) (content.ReaderAt, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(string(l), v1.ImageBlobsDir, d.Digest.Algorithm().String(), d.Digest.Encoded()))
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return blob{f, st.Size()}, nil
}

type blob struct {
	*os.File
	size int64
}

func (b blob) Size() int64 { return b.size }
