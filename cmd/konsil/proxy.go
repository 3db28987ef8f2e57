// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/server"
)

// proxyCommand is konsil proxy.
type proxyCommand struct {
	Serve proxyServeCommand `cmd:"" default:"withargs" help:"Run the proxy that a configuration with role proxy describes (the default)."`
	CA    proxyCACommand    `cmd:"" name:"ca" help:"Print the certificate of the local authority, which the homeserver behind has to trust."`
}

// proxyServeCommand is konsil proxy without a further word.
type proxyServeCommand struct{ configFlags }

// Run serves until the context ends (SIGINT, SIGTERM).
func (c *proxyServeCommand) Run(ctx context.Context) error {
	checked, err := c.proxy()
	if err != nil {
		return err
	}
	return serve(ctx, checked)
}

// proxyCACommand is konsil proxy ca.
type proxyCACommand struct{ configFlags }

// Run prints the certificate in PEM; the authority is made when there is none yet.
func (c *proxyCACommand) Run() error {
	checked, err := c.proxy()
	if err != nil {
		return err
	}
	ca, err := server.ProxyAuthority(checked)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(ca.PEM())
	return err
}

// proxy loads a configuration with role proxy.
func (f configFlags) proxy() (*config.Config, error) {
	checked, err := f.load()
	if err == nil && !checked.HasRole(config.RoleProxy) {
		err = errNoProxy
	}
	return checked, err
}

var errNoProxy = errors.New("the configuration has no roles: [proxy], which konsil proxy runs")
