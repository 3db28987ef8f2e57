// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/keyring"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// node is one server of a simulation: a real room service over a database of its own. It is reached by method calls.
type node struct {
	w       *world
	name    id.Server
	url     string
	db      *database.DB
	stream  *stream.Committer
	feed    *stream.Feed
	rooms   *room.Service
	tenants *tenant.Store
	me      *tenant.Tenant
	users   []id.User
	outbox
	// doomed, when set, is asked at every point at which the node might crash; see [world.crashDuring].
	doomed func()
	copies int
}

// outbox stands for the stored cursors of the federation's outbox, which the room service does not own.
type outbox struct {
	// sent is how far each destination has been sent to, by position; relayed are positions of others' events accepted as resident server.
	sent    map[id.Server]int64
	relayed []int64
}

// remains is what a crash leaves of a node: its database and its outbox at one instant.
type remains struct {
	url string
	outbox
}

// start opens the node's database; after a crash it goes on from what was committed.
func (n *node) start() {
	t, ctx := n.w.t, n.w.ctx
	t.Helper()
	var err error
	check := func() {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	n.db, err = database.Open(ctx, database.Options{URL: n.url, Readers: 2})
	check()
	log := slog.New(slog.DiscardHandler)
	n.feed = stream.NewFeed(n.db)
	n.stream, err = stream.NewCommitter(ctx, n.db, n.feed, log)
	check()
	ring, err := keyring.New(n.db, make([]byte, keyring.MasterSize))
	check()
	tenants := tenant.NewStore(n.db)
	n.tenants = tenants
	n.me, err = tenants.ByName(ctx, n.name)
	if errors.Is(err, tenant.ErrUnknown) {
		n.me, err = tenants.Create(ctx, tenant.Spec{Name: n.name})
	}
	check()
	n.rooms = room.New(room.Options{DB: n.db, Committer: n.stream, Feed: n.feed, Keyring: ring, Tenants: tenants, Policy: guard{w: n.w}, Log: log, Remote: wire{n}})
	n.feed.SetMembers(n.rooms.WaitingMembers)
	err = n.rooms.Resume(ctx)
	check()
}

func (n *node) stop() {
	n.rooms.Close()
	n.stream.Close()
	n.tenants.Close()
	if err := n.db.Close(); err != nil {
		n.w.t.Error(err)
	}
}

// remains copies the node's database file and write-ahead log as they are now, committed transactions and all, without a checkpoint. PostgreSQL is not
// copied: there a crash loses nothing that was committed.
func (n *node) remains() remains {
	left := remains{n.url, outbox{maps.Clone(n.sent), slices.Clone(n.relayed)}}
	path, ok := strings.CutPrefix(n.url, "sqlite:")
	if !ok {
		return left
	}
	n.copies++
	target := filepath.Join(filepath.Dir(path), fmt.Sprintf("%s-%d.db", n.name, n.copies))
	left.url = "sqlite:" + target
	if err := copyDatabase(n.w.ctx, path, target); err != nil {
		n.w.t.Fatal(err)
	}
	return left
}

// reopen replaces the node by what a crash left of it.
func (n *node) reopen(left remains) {
	n.stop()
	n.url, n.outbox = left.url, left.outbox
	n.start()
}

// copyDatabase copies an SQLite file and its log while holding the write lock, so that the log is not reset under the copy. A checkpoint may run
// meanwhile; the log still holds all of its pages.
func copyDatabase(ctx context.Context, path, target string) error {
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(10000)")
	if err != nil {
		return err
	}
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	defer conn.ExecContext(ctx, "ROLLBACK") //nolint:errcheck // nothing was written
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(path + suffix)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(target+suffix, b, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// guard is the policy of all nodes: everything is allowed but inviting those who do not want to be invited by somebody.
type guard struct {
	policy.Open
	w *world
}

func (g guard) Invite(_ context.Context, t *tenant.Tenant, i policy.Invite) error {
	if i.Invitee.Server() == t.Name && g.w.unwanted[[2]id.User{i.Inviter, i.Invitee}] {
		return mxerror.Forbidden.With("%s does not want to be invited by %s.", i.Invitee, i.Inviter)
	}
	return nil
}
