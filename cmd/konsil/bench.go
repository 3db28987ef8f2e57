// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/konsil-health/konsil/bench"
)

// benchCommand is konsil bench.
type benchCommand struct {
	Name     string        `arg:"" enum:"directory,send,deliver,sync-initial,sync-idle,tenants,resolve,federation,join,join-local,members,messages,upload,neighbours,proxy" help:"What to measure: directory (import and search), send (durable messages per second), deliver (a message to nine listeners), sync-initial (first syncs of 200 and 500 rooms), sync-idle (memory of waiting syncs), tenants (what idle tenants cost), resolve (state resolution by conflicted events), federation (PDUs per second from one busy server), join (a big room over federation), join-local (own users join a room of 1,000 and of more), members (their lists), messages (scrolling back), upload (media), neighbours (messages between two tenants), proxy (what konsil proxy adds to a message and a sync)."`
	Database string        `enum:"sqlite,postgres" default:"sqlite" help:"sqlite or postgres."`
	Postgres string        `placeholder:"URL" help:"PostgreSQL server, on which a schema is made and dropped. Default: postgres on 127.0.0.1:5432."`
	Folder   string        `type:"path" placeholder:"DIR" help:"Where data lies meanwhile. Should be a real disk. Default: the system's temporary folder."`
	Duration time.Duration `default:"5s" help:"How long each load lasts, at most 1m."`
	Tenants  int           `default:"10000" help:"For tenants: how many are compared with ten; for sync-idle: how many syncs wait, at most 19000."`
	Entries  int           `default:"1500000" help:"For directory: how many entries are imported."`
	Members  int           `default:"10000" help:"For join and join-local: how many members the room has."`
	JSON     bool          `name:"json" help:"Print one JSON object instead of a table."`
	Profile  string        `type:"path" placeholder:"FILE" help:"For send, federation, neighbours: write a CPU profile of the server under the load."`
	Heap     string        `type:"path" placeholder:"FILE" help:"For send: write a heap profile of the server."`
}

// Run measures and prints what was found.
func (c *benchCommand) Run(ctx context.Context) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	report, err := bench.Run(ctx, c.Name, bench.Options{Program: program, Database: c.Database, Postgres: c.Postgres, Folder: c.Folder,
		Duration: c.Duration, Tenants: c.Tenants, Entries: c.Entries, Members: c.Members, Profile: c.Profile, HeapProfile: c.Heap,
		Progress: func(text string) { fmt.Fprintln(os.Stderr, text) }})
	if err != nil {
		return err
	}
	if c.JSON {
		return report.WriteJSON(os.Stdout)
	}
	return report.WriteTable(os.Stdout)
}
