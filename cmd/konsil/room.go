// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// tenantFlags name the tenant and the form of the answer.
type tenantFlags struct {
	configFlags
	Tenant id.Server `required:"" placeholder:"NAME" help:"Server name of the tenant."`
	JSON   bool      `help:"Answer in JSON."`
}

// tenantRooms are the rooms of one tenant, read from its database.
type tenantRooms struct {
	*room.Service
	t *tenant.Tenant
}

// rooms opens the database and looks for the tenant.
func (c *tenantFlags) rooms(ctx context.Context, f func(tenantRooms) error) (err error) {
	checked, err := c.load()
	if err != nil {
		return err
	}
	db, err := database.Open(ctx, database.Options{URL: checked.Database.URL, Readers: checked.Database.Readers})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	tenants := tenant.NewStore(db)
	t, err := tenants.ByName(ctx, c.Tenant)
	if err != nil {
		return fmt.Errorf("tenant %s: %w", c.Tenant, err)
	}
	rooms := room.New(room.Options{DB: db, Tenants: tenants, Log: slog.New(slog.DiscardHandler)})
	defer rooms.Close()
	return f(tenantRooms{rooms, t})
}

// print writes a value as JSON, or what text writes as a table.
func (c *tenantFlags) print(out io.Writer, value any, text func(w io.Writer)) error {
	if c.JSON {
		return errors.Join(json.MarshalWrite(out, value, jsontext.WithIndent("  ")), line(out))
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	text(w)
	return w.Flush()
}

func line(out io.Writer) error {
	_, err := io.WriteString(out, "\n")
	return err
}

// roomFlags name a room of a tenant.
type roomFlags struct {
	tenantFlags
	Room id.Room `arg:"" help:"Room id."`
}

func (c *roomFlags) room(ctx context.Context, f func(tenantRooms, *room.Room) error) error {
	return c.rooms(ctx, func(s tenantRooms) error {
		r, err := s.Lookup(ctx, s.t.ID, c.Room)
		if err != nil {
			return err
		}
		return f(s, r)
	})
}

type roomListCommand struct{ tenantFlags }

// roomLine is a room in a list.
type roomLine struct {
	Room    id.Room `json:"room_id"`
	Version string  `json:"version"`
	Name    string  `json:"name"`
	Joined  int     `json:"joined"`
	Ends    int     `json:"extremities"`
}

// Run lists the rooms.
func (c *roomListCommand) Run(ctx context.Context, out io.Writer) error {
	return c.rooms(ctx, func(s tenantRooms) error {
		list, err := s.All(ctx, s.t.ID)
		if err != nil {
			return err
		}
		lines := []roomLine{}
		for _, r := range list {
			l, err := s.line(ctx, r)
			if err != nil {
				return err
			}
			lines = append(lines, l)
		}
		return c.print(out, lines, func(w io.Writer) {
			fmt.Fprintln(w, "ROOM\tVERSION\tJOINED\tENDS\tNAME")
			for _, l := range lines {
				fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\n", l.Room, l.Version, l.Joined, l.Ends, plain(l.Name))
			}
		})
	})
}

func (s tenantRooms) line(ctx context.Context, r *room.Room) (roomLine, error) {
	l := roomLine{Room: r.ID, Version: r.Version.ID}
	users, err := s.JoinedUsers(ctx, s.t.ID, r.NID)
	if err != nil {
		return l, err
	}
	ends, err := s.Service.Extremities(ctx, s.t.ID, r)
	if err != nil {
		return l, err
	}
	state, err := s.CurrentState(ctx, s.t.ID, r)
	if err != nil {
		return l, err
	}
	e, err := s.StateEvent(ctx, s.t.ID, state, event.Key{Type: "m.room.name"})
	if err != nil {
		return l, err
	}
	l.Joined, l.Ends = len(users), len(ends)
	if e != nil {
		var content struct {
			Name jsontext.Value `json:"name"`
		}
		if json.Unmarshal(e.Content(), &content, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) == nil {
			_ = json.Unmarshal(content.Name, &l.Name, jsontext.AllowInvalidUTF8(true)) // a name that is no text is none
		}
	}
	return l, nil
}

// plain makes text of other people safe for a terminal.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

type roomShowCommand struct{ roomFlags }

// Run shows a room's figures.
func (c *roomShowCommand) Run(ctx context.Context, out io.Writer) error {
	return c.room(ctx, func(s tenantRooms, r *room.Room) error {
		l, err := s.line(ctx, r)
		if err != nil {
			return err
		}
		f, err := s.Figures(ctx, s.t, r)
		if err != nil {
			return err
		}
		return c.print(out, map[string]any{"room": l, "figures": f}, func(w io.Writer) {
			fmt.Fprintf(w, "room\t%s\nversion\t%s\nname\t%s\n", l.Room, l.Version, plain(l.Name))
			fmt.Fprintf(w, "joined\t%d, of this server %d\nstate events\t%d\nforward extremities\t%d\n", f.Joined, f.JoinedLocal, f.State, l.Ends)
			fmt.Fprintf(w, "timeline\t%d events, %d more reached backwards\noutliers\t%d\nrejected\t%d\nsoft-failed\t%d\n", f.Timeline, f.History, f.Outliers, f.Rejected, f.SoftFailed)
			fmt.Fprintf(w, "missing prev events\t%d\nstate snapshots\t%d\nstate events not yet indexed\t%d\n", f.Gaps, f.Snapshots, f.Unindexed)
		})
	})
}

type roomStateCommand struct {
	roomFlags
	At    id.Event `placeholder:"EVENT" help:"The state before this event instead of the present one."`
	After bool     `help:"With --at: the state after it."`
}

// stateLine is a state event.
type stateLine struct {
	Type   string   `json:"type"`
	Key    string   `json:"state_key"`
	Event  id.Event `json:"event_id"`
	Sender id.User  `json:"sender"`
}

// Run lists a state.
func (c *roomStateCommand) Run(ctx context.Context, out io.Writer) error {
	return c.room(ctx, func(s tenantRooms, r *room.Room) error {
		state, err := c.state(ctx, s, r)
		if err != nil {
			return err
		}
		events, err := s.StateEvents(ctx, s.t.ID, state)
		if err != nil {
			return err
		}
		lines := []stateLine{}
		for _, e := range events {
			lines = append(lines, stateLine{e.Type(), *e.StateKey(), e.ID(), e.Sender()})
		}
		slices.SortFunc(lines, func(a, b stateLine) int {
			return cmp.Or(strings.Compare(a.Type, b.Type), strings.Compare(a.Key, b.Key))
		})
		return c.print(out, lines, func(w io.Writer) {
			fmt.Fprintln(w, "TYPE\tSTATE KEY\tEVENT\tSENDER")
			for _, l := range lines {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", plain(l.Type), plain(l.Key), l.Event, l.Sender)
			}
		})
	})
}

func (c *roomStateCommand) state(ctx context.Context, s tenantRooms, r *room.Room) (room.State, error) {
	if c.At == "" {
		return s.CurrentState(ctx, s.t.ID, r)
	}
	e, err := s.EventOf(ctx, s.t.ID, r.NID, c.At)
	if err != nil {
		return nil, err
	}
	if e.Outlier {
		return nil, fmt.Errorf("%s is an outlier: the state at it is not known", c.At)
	}
	if c.After {
		return s.StateAfter(ctx, s.t.ID, e)
	}
	return s.StateBefore(ctx, s.t.ID, e)
}

type roomExtremitiesCommand struct{ roomFlags }

// endLine is a forward extremity.
type endLine struct {
	Event  id.Event  `json:"event_id"`
	Type   string    `json:"type"`
	Sender id.User   `json:"sender"`
	Depth  int64     `json:"depth"`
	Time   time.Time `json:"origin_server_ts"`
}

// Run lists the ends of the graph.
func (c *roomExtremitiesCommand) Run(ctx context.Context, out io.Writer) error {
	return c.room(ctx, func(s tenantRooms, r *room.Room) error {
		ends, err := s.Service.Extremities(ctx, s.t.ID, r)
		if err != nil {
			return err
		}
		found, err := s.Events(ctx, s.t.ID, ends)
		if err != nil {
			return err
		}
		lines := []endLine{}
		for _, eid := range ends {
			l := endLine{Event: eid}
			if e := found[eid]; e != nil {
				l.Type, l.Sender, l.Depth, l.Time = e.Type(), e.Sender(), e.Depth(), time.UnixMilli(e.Timestamp()).UTC()
			}
			lines = append(lines, l)
		}
		return c.print(out, lines, func(w io.Writer) {
			fmt.Fprintln(w, "EVENT\tTYPE\tSENDER\tDEPTH\tTIME")
			for _, l := range lines {
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", l.Event, plain(l.Type), l.Sender, l.Depth, l.Time.Format(time.RFC3339))
			}
		})
	})
}

type roomGraphCommand struct {
	roomFlags
	Limit int `default:"100" help:"How many events."`
}

// Run writes the graph, for example to dot -Tsvg.
func (c *roomGraphCommand) Run(ctx context.Context, out io.Writer) error {
	return c.room(ctx, func(s tenantRooms, r *room.Room) error {
		events, err := s.LastEvents(ctx, s.t.ID, r, c.Limit)
		if err != nil {
			return err
		}
		ends, err := s.Service.Extremities(ctx, s.t.ID, r)
		if err != nil {
			return err
		}
		in := map[id.Event]bool{}
		for _, e := range events {
			in[e.ID()] = true
		}
		fmt.Fprintf(out, "digraph room {\n  rankdir=BT;\n  node [shape=box, fontsize=10];\n")
		for _, e := range events {
			color, reason := "black", ""
			switch {
			case e.Rejected:
				color = "red"
			case e.SoftFailed:
				color = "orange"
			}
			if color != "black" {
				if reason, err = s.Reason(ctx, s.t.ID, e); err != nil {
					return err
				}
			}
			style := "solid"
			if slices.Contains(ends, e.ID()) {
				style = "bold"
			}
			label := fmt.Sprintf("%.12s…\n%s\n%s\n%s", e.ID(), plain(e.Type()), e.Sender(), plain(reason))
			fmt.Fprintf(out, "  %s [label=%s, color=%s, style=%s];\n", dot(string(e.ID())), dot(strings.TrimSpace(label)), color, style)
			for _, p := range e.PrevEvents() {
				if !in[p] {
					in[p] = true
					fmt.Fprintf(out, "  %s [label=%s, style=dashed];\n", dot(string(p)), dot(fmt.Sprintf("%.12s…", p)))
				}
				fmt.Fprintf(out, "  %s -> %s;\n", dot(string(e.ID())), dot(string(p)))
			}
		}
		_, err = io.WriteString(out, "}\n")
		return err
	})
}

// dot quotes a text for Graphviz.
func dot(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}
