// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/server"
)

// serveCommand is konsil serve.
type serveCommand struct{ configFlags }

// Run serves until the context ends (SIGINT, SIGTERM).
func (c *serveCommand) Run(ctx context.Context) error {
	checked, err := c.load()
	if err != nil {
		return err
	}
	return serve(ctx, checked)
}

// serve runs a node until the context ends.
func serve(ctx context.Context, c *config.Config) error {
	s, err := server.New(ctx, c, server.Options{})
	if err != nil {
		return err
	}
	return s.Run(ctx)
}
