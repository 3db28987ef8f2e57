// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/server"
)

// proxyCommand is konsil proxy.
type proxyCommand struct {
	Serve proxyServeCommand `cmd:"" default:"withargs" help:"Run the proxy that a configuration with role proxy describes (the default)."`
}

// proxyServeCommand is konsil proxy without a further word.
type proxyServeCommand struct{ configFlags }

// Run serves until the context ends (SIGINT, SIGTERM).
func (c *proxyServeCommand) Run(ctx context.Context) error {
	checked, err := c.load()
	if err != nil {
		return err
	}
	if !checked.HasRole(config.RoleProxy) {
		return errNoProxy
	}
	s, err := server.New(ctx, checked, server.Options{})
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

var errNoProxy = errors.New("the configuration has no roles: [proxy], which konsil proxy runs")
