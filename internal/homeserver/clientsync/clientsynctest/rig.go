// SPDX-License-Identifier: Apache-2.0

// Package clientsynctest gives tests a node with everything that /sync shows: accounts, rooms, timelines, receipts, typing, push rules, keys. Only
// tests import it.
package clientsynctest

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/keyring"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/account/accounttest"
	"github.com/konsil-health/konsil/internal/homeserver/clientsync"
	"github.com/konsil-health/konsil/internal/homeserver/encryption"
	"github.com/konsil-health/konsil/internal/homeserver/ephemeral"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/homeserver/push"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/homeserver/timeline"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// V3 and V1 are the prefixes of the client API.
const (
	V3 = "/_matrix/client/v3"
	V1 = "/_matrix/client/v1"
)

// M is a JSON object.
type M = map[string]any

// Rig is a node with the tenants a.test and b.test.
type Rig struct {
	*accounttest.Rig
	Keys      *encryption.Service
	Rooms     *room.Service
	Timeline  *timeline.Service
	Tokens    *timeline.Tokens
	Ephemeral *ephemeral.Service
	Push      *push.Service
	Sync      *clientsync.Service
	Clock     *Clock

	mu   sync.Mutex
	sent []EDU
}

// EDU is what the ephemeral slice gave to federation.
type EDU struct {
	Tenant       id.Server
	Destinations []id.Server
	Kind, Key    string
	Content      string
}

// Clock is a clock that stands still until it is moved; its timers run then.
type Clock struct {
	mu     sync.Mutex
	now    time.Time
	timers map[*timer]struct{}
}

type timer struct {
	at time.Time
	f  func()
}

// Now implements the clock.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// After runs f when the clock has been moved far enough.
func (c *Clock) After(d time.Duration, f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &timer{c.now.Add(d), f}
	c.timers[t] = struct{}{}
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, there := c.timers[t]
		delete(c.timers, t)
		return there
	}
}

// Move moves the clock and runs what is due, outside of the clock's lock.
func (c *Clock) Move(d time.Duration) {
	c.mu.Lock()
	c.now = c.now.Add(d)
	var due []*timer
	for t := range c.timers {
		if !t.at.After(c.now) {
			due = append(due, t)
			delete(c.timers, t)
		}
	}
	c.mu.Unlock()
	for _, t := range due {
		t.f()
	}
}

// Timers counts the timers that wait.
func (c *Clock) Timers() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.timers)
}

// Each runs f on a new node, once per database.
func Each(t *testing.T, f func(t *testing.T, g *Rig)) {
	t.Helper()
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) { f(t, New(t, db)) })
}

// New starts a node.
func New(t testing.TB, db *database.DB) *Rig {
	t.Helper()
	ring, err := keyring.New(db, make([]byte, keyring.MasterSize))
	if err != nil {
		t.Fatal(err)
	}
	g := &Rig{Clock: &Clock{now: time.UnixMilli(1_800_000_000_000), timers: map[*timer]struct{}{}}}
	g.Rig = accounttest.New(t, db, func(_ *accounttest.Rig, o *account.Options) {
		o.DevicesRemoved = func(ctx context.Context, t *tenant.Tenant, user id.User, devices []id.Device, plan *stream.Plan) error {
			g.Sync.DevicesRemoved(t, user, devices, plan)
			return g.Keys.DevicesRemoved(ctx, t, user, devices, plan)
		}
		o.ProfileChanged = func(ctx context.Context, t *tenant.Tenant, user id.User) error {
			return g.Rooms.ProfileChanged(ctx, t, user)
		}
	}, func(r *accounttest.Rig) []httpapi.Route { return g.wire(t, r, ring) })
	t.Cleanup(g.Rooms.Close)
	t.Cleanup(g.Keys.Close)
	t.Cleanup(g.Ephemeral.Close)
	t.Cleanup(g.Sync.Close)
	return g
}

func (g *Rig) wire(t testing.TB, r *accounttest.Rig, ring *keyring.Ring) []httpapi.Route {
	g.Rooms = room.New(room.Options{DB: r.DB, Committer: r.Committer, Feed: r.Feed, Keyring: ring, Tenants: r.Tenants, Policy: policy.Open{},
		Log: slog.New(slog.DiscardHandler), Exists: r.Accounts.Exists, MayInvite: r.Accounts.MayInvite, Class: push.Class,
		Replaced: func(ctx context.Context, t *tenant.Tenant, user id.User, old, replacement id.Room) error {
			return g.Push.Follow(ctx, t.ID, user, old, replacement)
		},
		Stored: func(ctx context.Context, t tenant.ID, e *room.Event, state room.State, plan *stream.Plan) error {
			return g.Push.Highlights(ctx, t, e, state, plan)
		}})
	r.Feed.SetMembers(g.Rooms.WaitingMembers)
	g.Tokens = timeline.NewTokens(ring)
	g.Timeline = timeline.New(timeline.Options{Rooms: g.Rooms, Accounts: r.Accounts, Tokens: g.Tokens})
	g.Keys = encryption.New(encryption.Options{DB: r.DB, Committer: r.Committer, Feed: r.Feed, Policy: policy.Open{}, Accounts: r.Accounts,
		Rooms: encryption.OfRooms(g.Rooms), Position: g.Tokens.Position})
	g.Ephemeral = ephemeral.New(ephemeral.Options{DB: r.DB, Committer: r.Committer, Feed: r.Feed, Rooms: g.Rooms, Presence: true,
		Now: g.Clock.Now, After: g.Clock.After,
		Send: func(_ context.Context, t *tenant.Tenant, destinations []id.Server, kind, key string, content jsontext.Value) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.sent = append(g.sent, EDU{t.Name, destinations, kind, key, string(content)})
		}})
	g.Push = push.New(push.Options{DB: r.DB, Committer: r.Committer, Feed: r.Feed, Rooms: g.Rooms, Accounts: r.Accounts, Ephemeral: g.Ephemeral, Tokens: g.Tokens})
	g.Sync = clientsync.New(clientsync.Options{DB: r.DB, Committer: r.Committer, Feed: r.Feed, Accounts: r.Accounts, Rooms: g.Rooms, Timeline: g.Timeline, Tokens: g.Tokens,
		Encryption: g.Keys, Ephemeral: g.Ephemeral, Push: g.Push})
	var routes []httpapi.Route
	for _, slice := range []interface{ Routes() []httpapi.Route }{g.Rooms, g.Timeline, g.Keys, g.Ephemeral, g.Push, g.Sync} {
		routes = append(routes, slice.Routes()...)
	}
	return routes
}

// EDUs returns what was sent to other servers so far.
func (g *Rig) EDUs() []EDU {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]EDU(nil), g.sent...)
}

// Person is somebody signed in on one device.
type Person struct {
	*accounttest.User
	Since string
	// Pos is where the person's connection of sliding sync is.
	Pos string
	txn int
}

// Person makes an account of tenant a.test and signs in.
func (g *Rig) Person(name string) *Person { return &Person{User: g.User(g.A, name)} }

// On signs the same person in on another device.
func (p *Person) On(device id.Device) *Person { return &Person{User: p.User.On(device)} }

// Room is the path of a room.
func Room(room string) string { return V3 + "/rooms/" + url.PathEscape(room) }

// Create makes a room.
func (p *Person) Create(request M) string {
	p.TB.Helper()
	return p.Do("POST", V3+"/createRoom", request).OK(nil).Text("room_id")
}

// Invite invites others, Join joins, Leave leaves.
func (p *Person) Invite(room string, others ...*Person) {
	p.TB.Helper()
	for _, o := range others {
		p.Do("POST", Room(room)+"/invite", M{"user_id": o.ID}).OK(nil)
	}
}

// Join joins a room.
func (p *Person) Join(room string) {
	p.TB.Helper()
	p.Do("POST", Room(room)+"/join", M{}).OK(nil)
}

// Leave leaves a room.
func (p *Person) Leave(room string) {
	p.TB.Helper()
	p.Do("POST", Room(room)+"/leave", M{}).OK(nil)
}

// Say sends a text message and returns its event id.
func (p *Person) Say(room, text string) string {
	p.TB.Helper()
	return p.Message(room, M{"msgtype": "m.text", "body": text})
}

// Message sends an m.room.message.
func (p *Person) Message(room string, content M) string {
	p.TB.Helper()
	return p.Event(room, "m.room.message", content)
}

// Event sends a message event of any type.
func (p *Person) Event(room, typ string, content M) string {
	p.TB.Helper()
	p.txn++
	return p.Do("PUT", fmt.Sprintf("%s/send/%s/t%d", Room(room), url.PathEscape(typ), p.txn), content).OK(nil).Text("event_id")
}

// SetState sends a state event with an empty state key.
func (p *Person) SetState(room, typ string, content M) string {
	p.TB.Helper()
	return p.Do("PUT", Room(room)+"/state/"+url.PathEscape(typ), content).OK(nil).Text("event_id")
}

// Sync asks from where the last answer ended and remembers where this one does. query is appended to the parameters.
func (p *Person) Sync(query string) *Answer {
	p.TB.Helper()
	path := V3 + "/sync?" + query
	if p.Since != "" {
		path += "&since=" + url.QueryEscape(p.Since)
	}
	a := &Answer{t: p.TB}
	p.Do("GET", path, nil).OK(&a.Body)
	p.Since = a.Body["next_batch"].(string)
	return a
}

// Sliding is the path of simplified sliding sync that today's clients call.
const Sliding = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"

// Slide sends a request of sliding sync from where the last answer ended and remembers where this one does.
func (p *Person) Slide(request M) *Answer {
	p.TB.Helper()
	a := &Answer{t: p.TB}
	path := Sliding
	if p.Pos != "" {
		path += "?pos=" + url.QueryEscape(p.Pos)
	}
	p.Do("POST", path, request).OK(&a.Body)
	p.Pos = a.Body["pos"].(string)
	return a
}

// Answer is an answer of /sync.
type Answer struct {
	t    testing.TB
	Body M
}

// At walks down by keys and indexes; nil where there is nothing.
func (a *Answer) At(path ...any) any { return At(a.Body, path...) }

// At walks down a JSON value by keys (string) and indexes (int); nil where there is nothing.
func At(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(M)
			v = m[p]
		case int:
			l, _ := v.([]any)
			if p < 0 || p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}

// Events returns a list of events found by its path.
func (a *Answer) Events(path ...any) []M {
	l, _ := a.At(path...).([]any)
	out := make([]M, len(l))
	for i, e := range l {
		out[i] = e.(M)
	}
	return out
}

// Timeline returns the timeline of a joined room, State its state, Ephemeral what passes in it.
func (a *Answer) Timeline(room string) []M {
	return a.Events("rooms", "join", room, "timeline", "events")
}

// State returns the state section of a joined room.
func (a *Answer) State(room string) []M { return a.Events("rooms", "join", room, "state", "events") }

// Ephemeral returns the ephemeral events of one type in a joined room.
func (a *Answer) Ephemeral(room, typ string) []M {
	var out []M
	for _, e := range a.Events("rooms", "join", room, "ephemeral", "events") {
		if e["type"] == typ {
			out = append(out, e)
		}
	}
	return out
}

// IDs lists the ids of events.
func IDs(events []M) []string {
	out := make([]string, len(events))
	for i, e := range events {
		out[i], _ = e["event_id"].(string)
	}
	return out
}

// Find returns the first event of a type and state key, or nil.
func Find(events []M, typ, key string) M {
	for _, e := range events {
		if e["type"] == typ && e["state_key"] == key {
			return e
		}
	}
	return nil
}
