// SPDX-License-Identifier: Apache-2.0

package stream_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
)

// The moments at which a wire breaks, once.
const (
	holds         = iota
	beforeCommit  // when the last statements are on their way to the database: they never arrive
	afterCommit   // when the database answers that it has committed: nobody hears it
	duringCommit  // when the last statements have arrived: the database works on, and nobody is there
	positionTaken = "UPDATE 1\x00"
	committed     = "COMMIT\x00"
)

// wire stands between a program and its PostgreSQL server.
type wire struct {
	server string
	breaks atomic.Int32
	broken atomic.Int32
}

// throughWire returns the URL of a new empty schema behind a wire.
func throughWire(t *testing.T) (*wire, string) {
	t.Helper()
	u, err := url.Parse(databasetest.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	w := &wire{server: u.Host}
	u.Host = l.Addr().String()
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go w.carry(client)
		}
	}()
	return w, u.String()
}

// carry passes on what both sides say until the wire breaks on this connection, which must be the committer's: no other takes positions.
func (w *wire) carry(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", w.server)
	if err != nil {
		return
	}
	defer server.Close()
	var last atomic.Bool // what the client says next are the last statements
	var once sync.Once
	ended := make(chan struct{})
	end := func() { once.Do(func() { close(ended) }) }
	snap := func(at int32) bool {
		if w.breaks.CompareAndSwap(at, holds) {
			w.broken.Add(1)
			return true
		}
		return false
	}
	go func() {
		defer end()
		for buffer := make([]byte, 64<<10); ; {
			n, err := server.Read(buffer)
			if err != nil {
				return
			}
			if bytes.Contains(buffer[:n], []byte(committed)) && last.Load() && snap(afterCommit) {
				return
			}
			if bytes.Contains(buffer[:n], []byte(committed)) {
				last.Store(false)
			} else if bytes.Contains(buffer[:n], []byte(positionTaken)) {
				last.Store(true)
			}
			if _, err := client.Write(buffer[:n]); err != nil {
				return
			}
		}
	}()
	go func() {
		defer end()
		for buffer := make([]byte, 64<<10); ; {
			n, err := client.Read(buffer)
			if err != nil || last.Load() && snap(beforeCommit) {
				return
			}
			if _, err := server.Write(buffer[:n]); err != nil || last.Load() && snap(duringCommit) {
				return
			}
		}
	}()
	<-ended
}

// TestConnectionLostDuringCommit: engine rule 3. Whether the last word reached the database, its answer got lost, or it was still at work when nobody listened
// any more: the plan is committed once, and its sender is told so.
func TestConnectionLostDuringCommit(t *testing.T) {
	t.Parallel()
	w, server := throughWire(t)
	f := start(t, databasetest.Open(t, server))
	ctx := context.Background()
	commit := func(name string) {
		t.Helper()
		if _, err := f.committer.Commit(ctx, insert(f.a, name)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"1", "2", "3"} { // the statements are prepared
		commit(name)
	}
	w.breaks.Store(beforeCommit)
	commit("never arrived")
	commit("4")
	w.breaks.Store(afterCommit)
	commit("answer lost")
	commit("5")

	// The row is held up by another transaction, which then goes back.
	held := make(chan struct{})
	release := make(chan struct{})
	other := make(chan error, 1)
	go func() {
		other <- f.hold(ctx, "at work", held, release)
	}()
	<-held
	w.breaks.Store(duringCommit)
	done := make(chan error, 1)
	go func() {
		_, err := f.committer.Commit(ctx, insert(f.a, "at work"))
		done <- err
	}()
	for end := time.Now().Add(30 * time.Second); w.broken.Load() < 3; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the wire did not break")
		}
	}
	close(release)
	if err := <-other; err != errGoBack { //nolint:errorlint // the very one
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatalf("it was committed, but its sender hears %v", err)
	}
	if got := f.positions(t, f.a); !slices.Equal(got, []int64{1, 2, 3, 4, 5, 6, 7, 8}) {
		t.Errorf("positions %v", got)
	}
}

var errGoBack = errors.New("go back")

// hold writes a row of tenant a in a transaction that stays open until release is closed, and takes it back then.
func (f *fixture) hold(ctx context.Context, name string, held, release chan struct{}) error {
	return f.db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO thing (tenant, position, name) VALUES ($1, 0, $2)", int64(f.a), name); err != nil {
			return err
		}
		close(held)
		<-release
		return errGoBack
	})
}
