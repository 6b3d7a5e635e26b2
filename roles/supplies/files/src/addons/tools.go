// Copyright (c) 2026, nodeforge contributors
// SPDX-License-Identifier: GPL-3.0-or-later

//go:build tools

// Package addons holds programs of our own and one that is built as it is.
package addons

import _ "github.com/rancher/local-path-provisioner"
