// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/konsiltest"
)

// run runs the program's command line.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	parser, err := kong.New(&cli{}, kong.BindTo(t.Context(), (*context.Context)(nil)), kong.BindTo(&out, (*io.Writer)(nil)))
	if err != nil {
		t.Fatal(err)
	}
	command, err := parser.Parse(args)
	if err != nil {
		t.Fatal(err)
	}
	err = command.Run()
	return out.String(), err
}

// TestAdminRoom: an operator finds a room, looks at it in every way and removes it, beside the running server.
func TestAdminRoom(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, urls []string) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		operator := l.Addr().String()
		l.Close()
		cell := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"hs1"}, Database: urls[0], Configure: func(c *config.Config) { c.Listeners.Operator = operator }}).Cell(0)
		alice := cell.SignIn(t, "@alice:hs1")
		name := alice.CreateRoom(map[string]any{"name": "Befunde\x1b[31m"})
		message := alice.Send(name, "hello")
		flags := []string{"--tenant=hs1", "--config=" + filepath.Join(cell.Config.Data, "konsil.yaml")}
		admin := func(args ...string) string {
			t.Helper()
			out, err := run(t, append(append([]string{"admin", "room"}, args...), flags...)...)
			if err != nil {
				t.Fatalf("%v: %v", args, err)
			}
			return out
		}
		if out := admin("list"); !strings.Contains(out, name) || !strings.Contains(out, "Befunde?[31m") {
			t.Errorf("list: %q", out)
		}
		if out := admin("show", name); !strings.Contains(out, "forward extremities") || !strings.Contains(out, "of this server 1") {
			t.Errorf("show: %q", out)
		}
		var shown struct {
			Figures struct {
				Timeline int `json:"timeline"`
			} `json:"figures"`
		}
		if err := json.Unmarshal([]byte(admin("show", name, "--json")), &shown); err != nil || shown.Figures.Timeline < 6 {
			t.Errorf("show --json: %+v, %v", shown, err)
		}
		if out := admin("state", name); !strings.Contains(out, "m.room.power_levels") {
			t.Errorf("state: %q", out)
		}
		var create string
		for _, l := range strings.Split(admin("state", name), "\n") {
			if f := strings.Fields(l); len(f) > 1 && f[0] == "m.room.create" {
				create = f[1]
			}
		}
		if out := admin("state", name, "--at="+create, "--after"); !strings.Contains(out, "m.room.create") || strings.Contains(out, "m.room.member") {
			t.Errorf("state after the first event: %q", out)
		}
		if out := admin("extremities", name); !strings.Contains(out, message) {
			t.Errorf("extremities: %q", out)
		}
		if out := admin("graph", name); !strings.HasPrefix(out, "digraph room {") || !strings.Contains(out, `"`+message+`" -> `) {
			t.Errorf("graph: %q", out)
		}
		if out := admin("merge-extremities", name, "--operator="+operator); !strings.HasPrefix(out, "1 forward") {
			t.Errorf("merge: %q", out)
		}
		if _, err := run(t, append([]string{"admin", "room", "purge", name, "--yes", "--operator=" + operator}, flags...)...); err == nil || !strings.Contains(err.Error(), "still in the room") {
			t.Errorf("purged over somebody's head: %v", err)
		}
		if _, err := run(t, append([]string{"admin", "room", "purge", name, "--operator=" + operator}, flags...)...); err == nil {
			t.Error("purged without a question")
		}
		alice.Do("POST", "/_matrix/client/v3/rooms/"+name+"/leave", map[string]any{})
		if out := admin("purge", name, "--yes", "--operator="+operator); !strings.Contains(out, "is removed") {
			t.Errorf("purge: %q", out)
		}
		if _, err := run(t, append([]string{"admin", "room", "show", name}, flags...)...); err == nil {
			t.Error("a purged room is still shown")
		}
	})
}
