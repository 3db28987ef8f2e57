// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/konsiltest"
)

// TestAdminFederation: a server goes away, an operator sees it and what waits for it, and lets it be tried again when it is back.
func TestAdminFederation(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 2, func(t *testing.T, urls []string) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		operator := l.Addr().String()
		l.Close()
		patient := func(c *config.Config) { // nothing but the operator ends a pause within this test
			c.Listeners.Operator = operator
			c.Federation.Retry.First, c.Federation.Retry.Max = time.Hour, time.Hour
		}
		n := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"hs1"}, Database: urls[0], Configure: patient}, konsiltest.Spec{Tenants: []string{"hs2"}, Database: urls[1]})
		cell, other := n.Cell(0), n.Cell(1)
		alice, bob := cell.SignIn(t, "@alice:hs1"), other.SignIn(t, "@bob:hs2")
		flags := []string{"--tenant=hs1", "--config=" + filepath.Join(cell.Config.Data, "konsil.yaml")}
		list := func() (all []destinationLine) {
			t.Helper()
			out, err := run(t, append([]string{"admin", "federation", "list", "--json"}, flags...)...)
			if err != nil || json.Unmarshal([]byte(out), &all) != nil {
				t.Fatalf("list: %q, %v", out, err)
			}
			return all
		}
		order := func(act, destination string) string {
			t.Helper()
			out, err := run(t, append([]string{"admin", "federation", act, destination, "--operator=" + operator}, flags...)...)
			if err != nil {
				t.Fatalf("%s: %v", act, err)
			}
			return out
		}
		becomes := func(what string, holds func(destinationLine) bool) destinationLine {
			t.Helper()
			for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
				all := list()
				if len(all) == 1 && holds(all[0]) {
					return all[0]
				}
				if time.Now().After(deadline) {
					t.Fatalf("never %s: %+v", what, all)
				}
			}
		}
		received := func(message string) {
			t.Helper()
			bob.Until("", "the message", func(sync map[string]any) bool {
				raw, err := json.Marshal(sync)
				return err == nil && strings.Contains(string(raw), message)
			})
		}
		if all := list(); len(all) != 0 {
			t.Errorf("before anything was sent: %+v", all)
		}
		if _, err := run(t, append([]string{"admin", "federation", "retry", "hs2", "--operator=" + operator}, flags...)...); err == nil || !strings.Contains(err.Error(), "hs2") {
			t.Errorf("retry of a stranger: %v", err)
		}

		room := alice.CreateRoom(map[string]any{"preset": "public_chat"})
		bob.Join(room, "hs1")
		received(alice.Send(room, "first"))
		d := becomes("idle", func(d destinationLine) bool { return d.State == "idle" && d.Delivered != nil })
		if d.Server != "hs2" || d.Failures != 0 || d.RetryAt != nil || d.Events != 0 || time.Since(*d.Delivered) > time.Hour {
			t.Errorf("after a message: %+v", d)
		}

		other.Stop()
		alice.Send(room, "second")
		d = becomes("unreachable", func(d destinationLine) bool { return d.State == "unreachable" })
		last := alice.Send(room, "third")
		d = becomes("behind by two events", func(d destinationLine) bool { return d.Events == 2 })
		if d.Failures != 1 || d.RetryAt == nil || time.Until(*d.RetryAt) < 30*time.Minute {
			t.Errorf("away: %+v", d)
		}
		out, err := run(t, append([]string{"admin", "federation", "list", "--count=1"}, flags...)...)
		if fields := strings.Fields(strings.TrimPrefix(out[strings.IndexByte(out, '\n'):], "\n")); err != nil || len(fields) != 7 || fields[1] != "unreachable" || fields[4] != "1+" {
			t.Errorf("table: %q, %v", out, err)
		}
		if out := order("retry", "hs2"); !strings.Contains(out, "hs2 is tried now") {
			t.Errorf("retry: %q", out)
		}
		becomes("unreachable twice", func(d destinationLine) bool { return d.Failures == 2 && time.Until(*d.RetryAt) > 30*time.Minute })

		other.Start()
		order("reset", "hs2")
		becomes("idle again", func(d destinationLine) bool { return d.State == "idle" && d.Failures == 0 && d.Events == 0 })
		received(last)
	})
}
