// Copyright (c) 2026, nodeforge contributors
// SPDX-License-Identifier: GPL-3.0-or-later

// kubelet as Kubernetes ships it; its code is in vendor/k8s.io/kubernetes.
package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // metrics of client-go
	_ "k8s.io/component-base/metrics/prometheus/version"  // metric kubernetes_build_info
	"k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	os.Exit(cli.Run(command()))
}

// command makes the kubelet's command. Its constructor takes a context in newer versions and took nothing before;
// this tree compiles with both.
func command() *cobra.Command {
	switch construct := any(app.NewKubeletCommand).(type) {
	case func(context.Context) *cobra.Command:
		return construct(context.Background())
	case func() *cobra.Command:
		return construct()
	default:
		panic("NewKubeletCommand of this Kubernetes version has a signature that cmd/kubelet/main.go does not know")
	}
}
