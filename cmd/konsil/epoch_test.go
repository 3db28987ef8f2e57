// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/konsiltest"
)

// TestAdminEpoch: an operator who has restored a backup raises the epoch, beside the running server and without it. A client's token of before is answered
// as a gap in which all devices have changed, its one-time keys are gone, and the conversation with another server goes on (engine rule 7).
func TestAdminEpoch(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 2, func(t *testing.T, urls []string) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		operator := l.Addr().String()
		l.Close()
		n := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"hs1"}, Database: urls[0], Configure: func(c *config.Config) { c.Listeners.Operator = operator }},
			konsiltest.Spec{Tenants: []string{"hs2"}, Database: urls[1]})
		cell := n.Cell(0)
		alice, bob := cell.SignIn(t, "@alice:hs1"), n.Cell(1).SignIn(t, "@bob:hs2")
		room := alice.CreateRoom(map[string]any{"preset": "public_chat"})
		bob.Join(room, "hs1")
		says := func(from, to *konsiltest.Session, since, text string) string {
			t.Helper()
			eid := from.Send(room, text)
			return to.Until(since, text, func(sync map[string]any) bool { return slices.Contains(timelineIDs(sync, room), eid) })
		}
		since := says(bob, alice, "", "before")
		alice.Do("POST", "/_matrix/client/v3/keys/upload", map[string]any{"one_time_keys": map[string]any{"curve25519:AAAA": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}})
		since = alice.Until(since, "a one-time key", func(sync map[string]any) bool { return keyCount(sync) == 1 })
		woken := make(chan map[string]any, 1)
		go func() { woken <- alice.Sync(since, time.Minute) }()

		raise := func(want string, more ...string) {
			t.Helper()
			out, err := run(t, append([]string{"admin", "epoch", "raise", "--config=" + filepath.Join(cell.Config.Data, "konsil.yaml")}, more...)...)
			if err != nil || strings.TrimSpace(out) != want {
				t.Fatalf("%q, %v", out, err)
			}
		}
		if _, err := run(t, "admin", "epoch", "raise", "--tenant=hs9", "--operator="+operator, "--config="+filepath.Join(cell.Config.Data, "konsil.yaml")); err == nil {
			t.Error("a tenant that is not there got a new epoch")
		}
		gap := func(old string) string {
			t.Helper()
			sync := alice.Sync(old, 0)
			joined := at(sync, "rooms", "join", room)
			if at(joined, "timeline")["limited"] != true || !slices.ContainsFunc(timeline(sync, room), func(e map[string]any) bool { return e["type"] == "m.room.message" }) {
				t.Errorf("a token of the old epoch gets %v", joined)
			}
			changed, _ := at(sync, "device_lists")["changed"].([]any)
			if !slices.Contains(changed, any("@bob:hs2")) || !slices.Contains(changed, any("@alice:hs1")) {
				t.Errorf("devices changed: %v", changed)
			}
			if keyCount(sync) != 0 {
				t.Error("a one-time key that may have been given out is still there")
			}
			return sync["next_batch"].(string)
		}
		raise("a new epoch of 1 tenants", "--tenant=hs1", "--operator="+operator)
		select {
		case <-woken:
		case <-time.After(30 * time.Second):
			t.Fatal("who waited was not woken")
		}
		next := says(bob, alice, gap(since), "after")
		says(alice, bob, "", "answer")

		cell.Stop()
		raise("a new epoch of 1 tenants", "--offline")
		cell.Start()
		says(bob, alice, gap(next), "later")
		says(alice, bob, "", "last answer")
	})
}

// at is what lies below some keys of an answer.
func at(v map[string]any, keys ...string) map[string]any {
	for _, k := range keys {
		v, _ = v[k].(map[string]any)
	}
	return v
}

func timeline(sync map[string]any, room string) (events []map[string]any) {
	all, _ := at(sync, "rooms", "join", room, "timeline")["events"].([]any)
	for _, e := range all {
		events = append(events, e.(map[string]any))
	}
	return events
}

func timelineIDs(sync map[string]any, room string) (ids []string) {
	for _, e := range timeline(sync, room) {
		ids = append(ids, e["event_id"].(string))
	}
	return ids
}

func keyCount(sync map[string]any) float64 {
	n, _ := at(sync, "device_one_time_keys_count")["curve25519"].(float64)
	return n
}

// TestEpochOfNothing: who names the wrong database is told so.
func TestEpochOfNothing(t *testing.T) {
	t.Parallel()
	out, err := run(t, "admin", "epoch", "raise", "--offline", "--set=data="+t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "--config") {
		t.Errorf("%q, %v", out, err)
	}
}
