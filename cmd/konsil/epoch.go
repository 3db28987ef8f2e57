// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/server"
)

type epochRaiseCommand struct {
	configFlags
	orderFlags
	Tenant  id.Server `placeholder:"NAME" help:"Server name of the tenant. Default: all."`
	Offline bool      `help:"Write to the database of a server that is stopped, as after a restore."`
}

// Run raises the epoch.
func (c *epochRaiseCommand) Run(ctx context.Context, out io.Writer) error {
	var reply struct {
		Raised int `json:"raised"`
	}
	var err error
	if c.Offline {
		reply.Raised, err = c.offline(ctx)
	} else {
		err = c.order(ctx, &c.configFlags, "epoch/raise", map[string]any{"tenant": c.Tenant}, &reply)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "a new epoch of %d tenants\n", reply.Raised)
	return err
}

var errNoTenants = errors.New("there are no tenants in this database: name the configuration of the restored server with --config")

func (c *epochRaiseCommand) offline(ctx context.Context) (n int, err error) {
	checked, err := c.load()
	if err != nil {
		return 0, err
	}
	db, err := database.Open(ctx, database.Options{URL: checked.Database.URL, Readers: checked.Database.Readers})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	tenants := tenant.NewStore(db)
	defer tenants.Close()
	if n, err = server.RaiseEpoch(ctx, db, tenants, c.Tenant, nil); err == nil && n == 0 {
		err = errNoTenants // a database of another name is made when it is opened, and has none
	}
	return n, err
}
