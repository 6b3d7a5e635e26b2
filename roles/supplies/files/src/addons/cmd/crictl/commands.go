// Copyright (c) 2026, nodeforge contributors
// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func listImages(c *client, o *options) error {
	r, err := c.images.ListImages(c.ctx, &cri.ListImagesRequest{})
	if err != nil {
		return err
	}
	if o.output == "json" {
		return c.json(r)
	}
	rows := [][]string{{"IMAGE", "TAG", "IMAGE ID", "SIZE"}}
	for _, i := range r.Images {
		if o.quiet {
			fmt.Fprintln(c.out, i.Id)
			continue
		}
		tags := i.RepoTags
		if len(tags) == 0 {
			tags = []string{"<none>:<none>"}
		}
		for _, t := range tags {
			at := strings.LastIndex(t, ":")
			rows = append(rows, []string{t[:at], t[at+1:], short(i.Id), size(i.Size)})
		}
	}
	if o.quiet {
		return nil
	}
	return c.table(rows)
}

func inspectImage(c *client, o *options) error {
	r, err := c.images.ImageStatus(c.ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: o.args[0]}, Verbose: true})
	if err != nil {
		return err
	}
	if r.Image == nil {
		return fmt.Errorf("no such image %q", o.args[0])
	}
	return c.inspection(r.Image, r.Info)
}

func pullImage(c *client, o *options) error {
	r, err := c.images.PullImage(c.ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: o.args[0]}})
	if err != nil {
		return err
	}
	fmt.Fprintln(c.out, "Image is up to date for", r.ImageRef)
	return nil
}

func removeImages(c *client, o *options) error {
	for _, name := range o.args {
		spec := &cri.ImageSpec{Image: name}
		// The API removes what is not there without a word.
		r, err := c.images.ImageStatus(c.ctx, &cri.ImageStatusRequest{Image: spec})
		if err != nil {
			return err
		}
		if r.Image == nil {
			return fmt.Errorf("no such image %q", name)
		}
		if _, err := c.images.RemoveImage(c.ctx, &cri.RemoveImageRequest{Image: spec}); err != nil {
			return err
		}
		fmt.Fprintln(c.out, "Deleted:", name)
	}
	return nil
}

func listContainers(c *client, o *options) error {
	filter := &cri.ContainerFilter{PodSandboxId: o.pod}
	if o.state != "" || !o.all {
		state := "CONTAINER_RUNNING"
		if o.state != "" {
			state = "CONTAINER_" + strings.ToUpper(o.state)
		}
		v, ok := cri.ContainerState_value[state]
		if !ok {
			return fmt.Errorf("ps: state %q is none of created, running, exited, unknown", o.state)
		}
		filter.State = &cri.ContainerStateValue{State: cri.ContainerState(v)}
	}
	r, err := c.runtime.ListContainers(c.ctx, &cri.ListContainersRequest{Filter: filter})
	if err != nil {
		return err
	}
	kept := r.Containers[:0]
	for _, x := range r.Containers {
		if strings.Contains(x.Metadata.Name, o.name) &&
			(o.namespace == "" || o.namespace == x.Labels["io.kubernetes.pod.namespace"]) {
			kept = append(kept, x)
		}
	}
	r.Containers = kept
	if o.output == "json" {
		return c.json(r)
	}
	rows := [][]string{{"CONTAINER", "IMAGE", "CREATED", "STATE", "NAME", "ATTEMPT", "POD ID", "POD", "NAMESPACE"}}
	for _, x := range r.Containers {
		if o.quiet {
			fmt.Fprintln(c.out, x.Id)
			continue
		}
		rows = append(rows, []string{short(x.Id), short(x.Image.GetImage()), age(x.CreatedAt),
			word(x.State.String()), x.Metadata.Name, fmt.Sprint(x.Metadata.Attempt), short(x.PodSandboxId),
			x.Labels["io.kubernetes.pod.name"], x.Labels["io.kubernetes.pod.namespace"]})
	}
	if o.quiet {
		return nil
	}
	return c.table(rows)
}

func inspectContainer(c *client, o *options) error {
	id, err := c.containerID(o.args[0])
	if err != nil {
		return err
	}
	r, err := c.runtime.ContainerStatus(c.ctx, &cri.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		return err
	}
	return c.inspection(r.Status, r.Info)
}

func listPods(c *client, o *options) error {
	filter := &cri.PodSandboxFilter{}
	if o.state != "" {
		v, ok := cri.PodSandboxState_value["SANDBOX_"+strings.ToUpper(o.state)]
		if !ok {
			return fmt.Errorf("pods: state %q is neither ready nor notready", o.state)
		}
		filter.State = &cri.PodSandboxStateValue{State: cri.PodSandboxState(v)}
	}
	r, err := c.runtime.ListPodSandbox(c.ctx, &cri.ListPodSandboxRequest{Filter: filter})
	if err != nil {
		return err
	}
	kept := r.Items[:0]
	for _, p := range r.Items {
		if strings.Contains(p.Metadata.Name, o.name) && (o.namespace == "" || o.namespace == p.Metadata.Namespace) {
			kept = append(kept, p)
		}
	}
	r.Items = kept
	if o.output == "json" {
		return c.json(r)
	}
	rows := [][]string{{"POD ID", "CREATED", "STATE", "NAME", "NAMESPACE", "ATTEMPT"}}
	for _, p := range r.Items {
		if o.quiet {
			fmt.Fprintln(c.out, p.Id)
			continue
		}
		rows = append(rows, []string{short(p.Id), age(p.CreatedAt), word(p.State.String()),
			p.Metadata.Name, p.Metadata.Namespace, fmt.Sprint(p.Metadata.Attempt)})
	}
	if o.quiet {
		return nil
	}
	return c.table(rows)
}

func inspectPod(c *client, o *options) error {
	pods, err := c.runtime.ListPodSandbox(c.ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{Id: o.args[0]}})
	if err != nil {
		return err
	}
	if len(pods.Items) != 1 {
		return fmt.Errorf("%d pods have the id %q", len(pods.Items), o.args[0])
	}
	r, err := c.runtime.PodSandboxStatus(c.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: pods.Items[0].Id, Verbose: true})
	if err != nil {
		return err
	}
	return c.inspection(r.Status, r.Info)
}

func info(c *client, _ *options) error {
	r, err := c.runtime.Status(c.ctx, &cri.StatusRequest{Verbose: true})
	if err != nil {
		return err
	}
	return c.inspection(r.Status, r.Info)
}

func version(c *client, _ *options) error {
	r, err := c.runtime.Version(c.ctx, &cri.VersionRequest{})
	if err != nil {
		return err
	}
	fmt.Fprintf(c.out, "Version:  %s\nRuntimeName:  %s\nRuntimeVersion:  %s\nRuntimeApiVersion:  %s\n",
		r.Version, r.RuntimeName, r.RuntimeVersion, r.RuntimeApiVersion)
	return nil
}

// logs prints a container's log without the runtime's own marks.
func logs(c *client, o *options) error {
	id, err := c.containerID(o.args[0])
	if err != nil {
		return err
	}
	r, err := c.runtime.ContainerStatus(c.ctx, &cri.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return err
	}
	if r.Status.LogPath == "" {
		return fmt.Errorf("container %q has no log", o.args[0])
	}
	f, err := os.Open(r.Status.LogPath)
	if err != nil {
		return err
	}
	defer f.Close()
	skip := 0
	if o.tail >= 0 {
		total := 0
		for s := bufio.NewReader(f); ; total++ {
			if _, err := s.ReadString('\n'); err != nil {
				break
			}
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		skip = max(0, total-o.tail)
	}
	for s, rest := bufio.NewReader(f), ""; ; {
		line, err := s.ReadString('\n')
		if rest += line; errors.Is(err, io.EOF) {
			if !o.follow {
				return nil
			}
			time.Sleep(200 * time.Millisecond)
			continue
		}
		if err != nil {
			return err
		}
		if skip--; skip < 0 {
			fmt.Fprint(c.out, logText(rest))
		}
		rest = ""
	}
}

// logText takes a line's text from "TIME STREAM TAG TEXT"; a partial line (tag
// P) is continued by the next.
func logText(line string) string {
	parts := strings.SplitN(line, " ", 4)
	if len(parts) < 4 {
		return line
	}
	if parts[2] == "P" {
		return strings.TrimSuffix(parts[3], "\n")
	}
	return parts[3]
}

// containerID finds the one container that a shortened id means.
func (c *client) containerID(prefix string) (string, error) {
	r, err := c.runtime.ListContainers(c.ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{Id: prefix}})
	if err != nil {
		return "", err
	}
	if len(r.Containers) != 1 {
		return "", fmt.Errorf("%d containers have the id %q", len(r.Containers), prefix)
	}
	return r.Containers[0].Id, nil
}

func (c *client) json(m proto.Message) error {
	b, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return err
	}
	return c.indent(json.RawMessage(b))
}

// inspection prints crictl's {"status": …, "info": …}; the runtime's
// information values are JSON themselves.
func (c *client) inspection(status proto.Message, info map[string]string) error {
	b, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(status)
	if err != nil {
		return err
	}
	details := map[string]any{}
	for k, v := range info {
		if json.Valid([]byte(v)) {
			details[k] = json.RawMessage(v)
		} else {
			details[k] = v
		}
	}
	return c.indent(map[string]any{"status": json.RawMessage(b), "info": details})
}

func (c *client) indent(v any) error {
	e := json.NewEncoder(c.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func short(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(13, len(id))]
}

// word makes Running of CONTAINER_RUNNING.
func word(state string) string {
	_, w, _ := strings.Cut(state, "_")
	return w[:1] + strings.ToLower(w[1:])
}

func size(n uint64) string { return fmt.Sprintf("%.1fMB", float64(n)/1e6) }

func age(created int64) string {
	return time.Since(time.Unix(0, created)).Round(time.Second).String() + " ago"
}
