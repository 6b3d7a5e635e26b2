// Copyright (c) 2026, nodeforge contributors
// SPDX-License-Identifier: GPL-3.0-or-later

// netd is the pod network of a cluster whose nodes share one network segment,
// as kind's do. On each node it writes the CNI configuration from the node's pod
// CIDRs, keeps one route to the pods of every other node, and masquerades what
// leaves the pod network.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"reflect"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

func main() {
	log.SetFlags(log.LUTC | log.Ltime | log.Lmsgprefix)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal("netd: ", err)
	}
}

func run(ctx context.Context) error {
	self := os.Getenv("NODE_NAME")
	if self == "" {
		return errors.New("NODE_NAME must hold this node's name")
	}
	subnets, err := parseCIDRs(strings.Split(os.Getenv("POD_SUBNET"), ","))
	if err != nil || len(subnets) == 0 {
		return fmt.Errorf("POD_SUBNET must hold the cluster's pod subnets, not %q", os.Getenv("POD_SUBNET"))
	}
	if err := masquerade(subnets); err != nil {
		return fmt.Errorf("masquerading: %w", err)
	}
	nodes, err := nodeClient(os.Getenv("CONTROL_PLANE_ENDPOINT"))
	if err != nil {
		return err
	}

	// Any change of what matters on a node asks for one round over all nodes.
	changed := make(chan struct{}, 1)
	notify := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	watch := cache.NewListWatchFromClient(nodes, "nodes", corev1.NamespaceAll, fields.Everything())
	store, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: watch,
		ObjectType:    &corev1.Node{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { notify() },
			UpdateFunc: func(before, after any) {
				// The kubelet touches its node every few seconds.
				if !reflect.DeepEqual(describe(before.(*corev1.Node)), describe(after.(*corev1.Node))) {
					notify()
				}
			},
			DeleteFunc: func(any) { notify() },
		},
	})
	go informer.RunWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return nil
	}
	for {
		var peers []peer
		for _, n := range store.List() {
			peers = append(peers, describe(n.(*corev1.Node)))
		}
		// Routes may be lost without a change of any node (a link that flaps).
		again := time.After(30 * time.Second)
		if err := reconcile(self, peers); err != nil {
			log.Print("netd: ", err, "; trying again")
			again = time.After(time.Second)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-again:
		}
	}
}

// nodeClient speaks to the API server about nodes only, which keeps all the
// other kinds out of the binary. The control plane's own endpoint, where kind
// names it, spares waiting for kube-proxy.
func nodeClient(endpoint string) (*rest.RESTClient, error) {
	cfg, err := rest.InClusterConfig()
	if err != nil {
		return nil, err
	}
	if endpoint != "" {
		cfg.Host = "https://" + endpoint
	}
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	cfg.APIPath, cfg.GroupVersion = "/api", &corev1.SchemeGroupVersion
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	return rest.RESTClientFor(cfg)
}

// describe takes from a node what the network needs to know of it.
func describe(n *corev1.Node) peer {
	p := peer{name: n.Name, cidrs: n.Spec.PodCIDRs}
	if len(p.cidrs) == 0 && n.Spec.PodCIDR != "" {
		p.cidrs = []string{n.Spec.PodCIDR}
	}
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			p.addresses = append(p.addresses, a.Address)
		}
	}
	return p
}
