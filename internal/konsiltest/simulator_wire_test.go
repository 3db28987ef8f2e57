// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"context"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// wire is how a node reaches the others: method calls, which fail while the connection is cut.
type wire struct{ n *node }

func (w wire) to(server id.Server) (*node, error) {
	if w.n.doomed != nil {
		w.n.doomed()
	}
	other := w.n.w.node(server)
	if other == nil || w.n.w.cut[pairOf(w.n.name, server)] {
		return nil, mxerror.ConnectionFailed.With("%s cannot be reached", server)
	}
	return other, nil
}

// copied reads an event as if it had come over the wire.
func copied(e *event.Event) (*event.Event, error) {
	return event.Parse(e.Version(), slices.Clone(e.JSON()))
}

func copies(events []*room.Event) ([]*event.Event, error) {
	var out []*event.Event
	for _, e := range events {
		c, err := copied(e.Event)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func (w wire) MakeJoin(ctx context.Context, _ *tenant.Tenant, server id.Server, r id.Room, user id.User, versions []string) (room.Template, error) {
	o, err := w.to(server)
	if err != nil {
		return room.Template{}, err
	}
	return o.rooms.PrepareMember(ctx, o.me, w.n.name, r, user, "join", versions)
}

func (w wire) accept(ctx context.Context, server id.Server, e *event.Event, membership string) (*room.Admission, error) {
	o, err := w.to(server)
	if err != nil {
		return nil, err
	}
	if e, err = copied(e); err != nil {
		return nil, err
	}
	a, err := o.rooms.AcceptMember(ctx, o.me, w.n.name, e, membership)
	if err != nil {
		return nil, err
	}
	stored, err := o.rooms.Event(ctx, o.me.ID, e.ID())
	if err == nil && stored.Position > 0 {
		o.relayed = append(o.relayed, stored.Position)
	}
	return a, err
}

func (w wire) SendJoin(ctx context.Context, _ *tenant.Tenant, server id.Server, e *event.Event) (room.Joined, error) {
	a, err := w.accept(ctx, server, e, "join")
	if err != nil {
		return room.Joined{}, err
	}
	o, err := w.to(server)
	if err != nil {
		return room.Joined{}, err
	}
	chain, err := o.rooms.AuthChain(ctx, o.me.ID, a.Room, append(authOf(a.State), a.Event.AuthEvents()...))
	if err != nil {
		return room.Joined{}, err
	}
	j := room.Joined{Event: a.Event, Servers: a.Servers}
	if j.State, err = copies(a.State); err == nil {
		j.AuthChain, err = copies(chain)
	}
	return j, err
}

func (w wire) MakeLeave(ctx context.Context, _ *tenant.Tenant, server id.Server, r id.Room, user id.User) (room.Template, error) {
	o, err := w.to(server)
	if err != nil {
		return room.Template{}, err
	}
	return o.rooms.PrepareMember(ctx, o.me, w.n.name, r, user, "leave", nil)
}

func (w wire) SendLeave(ctx context.Context, _ *tenant.Tenant, server id.Server, e *event.Event) error {
	_, err := w.accept(ctx, server, e, "leave")
	return err
}

func (w wire) MakeKnock(ctx context.Context, _ *tenant.Tenant, server id.Server, r id.Room, user id.User, versions []string) (room.Template, error) {
	o, err := w.to(server)
	if err != nil {
		return room.Template{}, err
	}
	return o.rooms.PrepareMember(ctx, o.me, w.n.name, r, user, "knock", versions)
}

func (w wire) SendKnock(ctx context.Context, _ *tenant.Tenant, server id.Server, e *event.Event) ([]jsontext.Value, error) {
	if _, err := w.accept(ctx, server, e, "knock"); err != nil {
		return nil, err
	}
	o, err := w.to(server)
	if err != nil {
		return nil, err
	}
	return o.rooms.KnockState(ctx, o.me, e)
}

func (w wire) Invite(ctx context.Context, _ *tenant.Tenant, server id.Server, e *event.Event, stripped []jsontext.Value) (*event.Event, error) {
	o, err := w.to(server)
	if err != nil {
		return nil, err
	}
	if e, err = copied(e); err != nil {
		return nil, err
	}
	return o.rooms.AcceptInvite(ctx, o.me, w.n.name, e, stripped)
}

func (w wire) QueryDirectory(context.Context, *tenant.Tenant, id.Alias) (id.Room, []id.Server, error) {
	return "", nil, mxerror.NotFound
}

// walk goes back in the other's graph from events, newest first.
func (w wire) walk(ctx context.Context, server id.Server, from, stop []id.Event, limit int, themselves bool) ([]*event.Event, error) {
	o, err := w.to(server)
	if err != nil {
		return nil, err
	}
	seen := map[id.Event]bool{}
	for _, s := range stop {
		seen[s] = true
	}
	var out []*room.Event
	front := slices.Clone(from)
	for len(front) > 0 && len(out) < limit {
		eid := front[0]
		front = front[1:]
		if seen[eid] {
			continue
		}
		seen[eid] = true
		found, err := o.rooms.Events(ctx, o.me.ID, []id.Event{eid})
		if err != nil {
			return nil, err
		}
		if e := found[eid]; e != nil && !e.Outlier {
			if themselves || !slices.Contains(from, eid) {
				out = append(out, e)
			}
			front = append(front, e.PrevEvents()...)
		}
	}
	return copies(out)
}

func (w wire) GetMissingEvents(ctx context.Context, _ *tenant.Tenant, server id.Server, _ *room.Room, earliest, latest []id.Event, limit int) ([]*event.Event, error) {
	return w.walk(ctx, server, latest, earliest, limit, false)
}

func (w wire) Backfill(ctx context.Context, _ *tenant.Tenant, server id.Server, _ *room.Room, from []id.Event, limit int) ([]*event.Event, error) {
	return w.walk(ctx, server, from, nil, limit, true)
}

func (w wire) Event(ctx context.Context, _ *tenant.Tenant, server id.Server, _ *room.Room, eid id.Event) (*event.Event, error) {
	o, err := w.to(server)
	if err != nil {
		return nil, err
	}
	e, err := o.rooms.Event(ctx, o.me.ID, eid)
	if err != nil {
		return nil, err
	}
	return copied(e.Event)
}

// authOf returns the auth events of events.
func authOf(events []*room.Event) (auth []id.Event) {
	for _, e := range events {
		auth = append(auth, e.AuthEvents()...)
	}
	return auth
}

func (w wire) EventAuth(ctx context.Context, _ *tenant.Tenant, server id.Server, _ *room.Room, eid id.Event) ([]*event.Event, error) {
	o, err := w.to(server)
	if err != nil {
		return nil, err
	}
	e, err := o.rooms.Event(ctx, o.me.ID, eid)
	if err != nil {
		return nil, err
	}
	r, err := o.rooms.Lookup(ctx, o.me.ID, e.Room())
	if err != nil {
		return nil, err
	}
	chain, err := o.rooms.AuthChain(ctx, o.me.ID, r, e.AuthEvents())
	if err != nil {
		return nil, err
	}
	return copies(chain)
}

func (w wire) State(ctx context.Context, _ *tenant.Tenant, server id.Server, _ *room.Room, eid id.Event) (state, auth []*event.Event, err error) {
	o, err := w.to(server)
	if err != nil {
		return nil, nil, err
	}
	e, err := o.rooms.Event(ctx, o.me.ID, eid)
	if err != nil {
		return nil, nil, err
	}
	if e.Outlier {
		return nil, nil, mxerror.NotFound
	}
	before, err := o.rooms.StateBefore(ctx, o.me.ID, e)
	if err != nil {
		return nil, nil, err
	}
	events, err := o.rooms.StateEvents(ctx, o.me.ID, before)
	if err != nil {
		return nil, nil, err
	}
	r, err := o.rooms.Lookup(ctx, o.me.ID, e.Room())
	if err != nil {
		return nil, nil, err
	}
	chain, err := o.rooms.AuthChain(ctx, o.me.ID, r, authOf(events))
	if err != nil {
		return nil, nil, err
	}
	if state, err = copies(events); err == nil {
		auth, err = copies(chain)
	}
	return state, auth, err
}

func (w wire) StateIDs(ctx context.Context, t *tenant.Tenant, server id.Server, r *room.Room, eid id.Event) (state, auth []id.Event, err error) {
	events, chain, err := w.State(ctx, t, server, r, eid)
	for _, e := range events {
		state = append(state, e.ID())
	}
	for _, e := range chain {
		auth = append(auth, e.ID())
	}
	return state, auth, err
}
