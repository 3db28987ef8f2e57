// SPDX-License-Identifier: Apache-2.0

package appservice

import (
	"context"

	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// interests says which rooms concern a service at which position (application-service API, "Registration": a room by its id or an alias, a user of the
// service's who is joined, an event by or about one).
type interests struct {
	s     *Service
	d     *sender
	from  int64
	rooms map[int64]*interest
}

// interest is one room: always, or while one of the service's users is in it. present are those users at the walk's position, changes what
// is still to come, oldest first.
type interest struct {
	always  bool
	present map[id.User]bool
	changes []memberStep
}

type memberStep struct {
	position int64
	user     id.User
	joined   bool
}

// prepare reads who of the service's users is in the rooms of some events, at the batch's first position, and what changes after it.
func (n *interests) prepare(ctx context.Context, events []*room.Event) error {
	var nids []int64
	for _, e := range events {
		if n.rooms[e.RoomNID] == nil {
			n.rooms[e.RoomNID] = &interest{}
			nids = append(nids, e.RoomNID)
		}
	}
	return n.read(ctx, nids)
}

func (n *interests) read(ctx context.Context, nids []int64) error {
	t := n.d.t.ID
	now, err := n.s.o.Feed.Position(ctx, t)
	if err != nil {
		return err
	}
	for _, nid := range nids {
		i := n.rooms[nid]
		if i.always, err = n.named(ctx, nid); err != nil {
			return err
		}
		users, err := n.s.o.Rooms.JoinedUsers(ctx, t, nid)
		if err != nil {
			return err
		}
		i.present = map[id.User]bool{}
		for _, u := range users {
			if n.d.owns(u) {
				i.present[u] = true
			}
		}
	}
	// Members as they are now, made what they were: a member's first later change says what it was before.
	changes, err := n.s.o.Rooms.MemberChanges(ctx, t, nids, n.from, now)
	if err != nil {
		return err
	}
	var ids []id.Event
	for _, c := range changes {
		if n.d.owns(c.User) {
			ids = append(ids, c.Old, c.New)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	found, err := n.s.o.Rooms.Events(ctx, t, ids)
	if err != nil {
		return err
	}
	joined := func(eid id.Event) bool { e := found[eid]; return e != nil && e.Membership() == "join" }
	for k := len(changes) - 1; k >= 0; k-- {
		if c := changes[k]; n.d.owns(c.User) {
			n.rooms[c.Room].present[c.User] = joined(c.Old)
		}
	}
	for _, c := range changes {
		if n.d.owns(c.User) {
			i := n.rooms[c.Room]
			i.changes = append(i.changes, memberStep{c.Position, c.User, joined(c.New)})
		}
	}
	return nil
}

// named says whether the service has a room by its id or one of its aliases here.
func (n *interests) named(ctx context.Context, nid int64) (bool, error) {
	spaces := n.d.Namespaces
	if len(spaces.Rooms)+len(spaces.Aliases) == 0 {
		return false, nil
	}
	in, err := n.s.o.Rooms.ByNID(ctx, n.d.t.ID, nid)
	if err != nil {
		return false, err
	}
	if within(spaces.Rooms, string(in.ID), false) {
		return true, nil
	}
	if len(spaces.Aliases) == 0 {
		return false, nil
	}
	aliases, err := n.s.o.Rooms.Aliases(ctx, n.d.t.ID, in.ID)
	for _, a := range aliases {
		if within(spaces.Aliases, string(a), false) {
			return true, err
		}
	}
	return false, err
}

// concerns says whether an event concerns the service. Events come in the order of their positions.
func (n *interests) concerns(_ context.Context, e *room.Event) (bool, error) {
	i := n.rooms[e.RoomNID]
	before := i.any()
	for len(i.changes) > 0 && i.changes[0].position <= e.Position {
		i.present[i.changes[0].user] = i.changes[0].joined
		i.changes = i.changes[1:]
	}
	if before || i.any() || n.d.owns(e.Sender()) {
		return true, nil
	}
	return e.Type() == event.TypeMember && e.StateKey() != nil && n.d.owns(id.User(*e.StateKey())), nil
}

func (i *interest) any() bool {
	if i.always {
		return true
	}
	for _, there := range i.present {
		if there {
			return true
		}
	}
	return false
}

// room says whether a room concerns the service as it is now.
func (n *interests) room(ctx context.Context, nid int64) (bool, error) {
	if always, err := n.named(ctx, nid); err != nil || always {
		return always, err
	}
	users, err := n.s.o.Rooms.JoinedUsers(ctx, n.d.t.ID, nid)
	for _, u := range users {
		if n.d.owns(u) {
			return true, err
		}
	}
	return false, err
}

// shares says whether a user is one of the service's or in a room that concerns it.
func (n *interests) shares(ctx context.Context, user id.User) (bool, error) {
	if n.d.owns(user) {
		return true, nil
	}
	joined, err := n.s.o.Rooms.JoinedRooms(ctx, n.d.t.ID, user)
	if err != nil {
		return false, err
	}
	for _, in := range joined {
		concerned, err := n.room(ctx, in.NID)
		if err != nil || concerned {
			return concerned, err
		}
	}
	return false, nil
}
