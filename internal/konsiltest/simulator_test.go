// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// TestServersConverge runs seeded histories of three servers: invites, bans, power fights, joins and leaves under partitions, lost answers, reordering
// and crashes that lose what was not acknowledged. In the end all have the same state, nothing acknowledged is lost, nothing is there twice and
// nobody was invited who did not want it. A seed is a history: clock, keys and crashes are drawn from it.
//
// KONSIL_SEEDS runs that many histories instead (make soak), KONSIL_SEED one. With KONSIL_SIMULATE=postgres the servers keep their data in PostgreSQL;
// crashes then lose nothing and a seed does not repeat exactly.
func TestServersConverge(t *testing.T) { // not parallel: the source of keys belongs to the process
	first, last := uint64(0), number(t, "KONSIL_SEEDS", 300)
	if os.Getenv("KONSIL_SEED") != "" {
		first = number(t, "KONSIL_SEED", 0)
		last = first + 1
	}
	template := ""
	if os.Getenv("KONSIL_SIMULATE") != "postgres" {
		template = migrated(t)
	}
	for seed := first; seed < last; seed++ {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			history(t, seed, template)
		})
	}
}

// TestSeedRepeats: the same seed gives the same state, to the last event id.
func TestSeedRepeats(t *testing.T) {
	template := migrated(t)
	for _, seed := range []uint64{1, 3, 5} {
		one, two := history(t, seed, template), history(t, seed, template)
		if len(one) == 0 || len(one) != len(two) {
			t.Fatalf("seed %d: %d and %d entries of state", seed, len(one), len(two))
		}
		for key, eid := range one {
			if two[key] != eid {
				t.Errorf("seed %d: %s %q is %s and %s", seed, key.Type, key.StateKey, eid, two[key])
			}
		}
	}
}

// TestJoinMergesWhatOthersDoNotKnow: a server changes the room while nobody hears it, leaves, and joins again through one that knows of none of it.
// What it did then is merged by all, the server itself included.
func TestJoinMergesWhatOthersDoNotKnow(t *testing.T) {
	template := migrated(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4, 3, template)
		away, empty := w.nodes[1], ""
		w.send(away, away.users[0], "m.room.topic", &empty, `{"topic":"unheard"}`)
		topic := w.acknowledged[len(w.acknowledged)-1]
		time.Sleep(time.Second) // so that resolution takes the topic before the departure
		if err := away.rooms.Leave(w.ctx, away.me, away.users[0], w.room, ""); err != nil {
			t.Fatal(err)
		}
		if err := away.rooms.Join(w.ctx, away.me, away.users[1], w.room, []id.Server{w.nodes[2].name}, ""); err != nil {
			t.Fatal(err)
		}
		if got := away.state()[event.Key{Type: "m.room.topic"}]; got != topic {
			t.Errorf("the topic is %q for the server that set it, not %q", got, topic)
		}
		if got := w.converge(4)[event.Key{Type: "m.room.topic"}]; got != topic {
			t.Errorf("the topic is %q in the room, not %q", got, topic)
		}
		if away.state()[event.Key{Type: "m.room.member", StateKey: string(away.users[1])}] == "" {
			t.Error("the joining user is not in the room")
		}
	})
}

// history lives through a seed's history and returns the room's state in the end.
func history(t *testing.T, seed uint64, template string) (state map[event.Key]id.Event) {
	cryptotest.SetGlobalRandom(t, seed)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, seed, 3, template)
		for range 120 {
			w.step()
		}
		state = w.converge(seed)
		if t.Failed() {
			t.Logf("again: KONSIL_SEED=%d go test -tags goolm -run TestServersConverge ./internal/konsiltest", seed)
		}
	})
	return state
}

func number(t *testing.T, name string, missing uint64) uint64 {
	n, err := strconv.ParseUint(cmp.Or(os.Getenv(name), strconv.FormatUint(missing, 10)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// migrated makes an SQLite database with the schema, which the nodes copy.
func migrated(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "template.db")
	db, err := database.Open(context.Background(), database.Options{URL: "sqlite:" + path})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}
