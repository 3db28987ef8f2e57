// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

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
	s, err := server.New(ctx, checked, server.Options{})
	if err != nil {
		return err
	}
	return s.Run(ctx)
}
