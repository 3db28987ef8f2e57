// SPDX-License-Identifier: Apache-2.0

package clientsync

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/homeserver/timeline"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// query is a request of one device.
type query struct {
	t       *tenant.Tenant
	session *httpapi.Session
	user    id.User
	device  id.Device
	filter  *filter
	since   timeline.StreamToken
	// initial: there is no since, or one that says nothing (gap).
	initial, gap, fullState   bool
	stateAfter, unstableAfter bool
	// presence is set_presence.
	presence string
	// sent are the member events that a lazily loading client has; nil when it wants them again each time.
	sent map[uint64]int64
}

// after says whether the client takes the state after the timeline.
func (q *query) after() bool { return q.stateAfter || q.unstableAfter }

// changes is what happened between two positions as far as it may concern one user. Everything in it is only a reason to look.
type changes struct {
	// known is false when memory does not reach back: then the database is asked about everything.
	known bool
	// rooms have a change of timeline, state or receipts.
	rooms map[int64]bool
	// moved are those with a change of timeline, state or the user's membership.
	moved map[int64]bool
	// receipts are rooms with a change of receipts, own those in which the user's own may have changed.
	receipts, own map[int64]bool
	// The rest says that something of the kind concerns the user.
	ownReceipts, membership, accountData, deviceLists, toDevice, keys bool
}

// look asks the feed what happened in (from, to].
func (s *Service) look(q *query, from, to int64) changes {
	c := changes{rooms: map[int64]bool{}, moved: map[int64]bool{}, receipts: map[int64]bool{}, own: map[int64]bool{}}
	if q.initial || q.fullState {
		return c
	}
	recent, ok := s.o.Feed.Recent(q.t.ID, from, to)
	if c.known = ok || from >= to; !c.known {
		return c
	}
	for _, r := range recent {
		mine := slices.Contains(r.Users, q.user)
		if r.Room != 0 {
			c.rooms[r.Room] = true
		}
		switch r.Kind {
		case stream.Timeline, stream.StateDelta, stream.Membership:
			c.moved[r.Room] = true
			c.membership = c.membership || mine
		case stream.Receipt:
			switch {
			case r.Room == 0:
				c.ownReceipts = c.ownReceipts || mine
			case mine:
				c.own[r.Room] = true
				fallthrough
			default:
				c.receipts[r.Room] = true
			}
		case stream.AccountData:
			c.accountData = c.accountData || mine
		case stream.DeviceList:
			c.deviceLists = c.deviceLists || mine || r.Room != 0
		case stream.ToDevice:
			c.toDevice = c.toDevice || mine
		case stream.Keys:
			c.keys = c.keys || mine
		}
	}
	return c
}

// place is a room in the user's list that has to be looked at.
type place struct {
	*room.Room
	room.UserRoom
	// fresh: the user was not joined all the time since the client's position: it gets the room from the beginning.
	fresh bool
	// had: the user was joined at the client's position; was: at some time since then.
	had, was bool
	// read: receipts of the user changed, so that the counts may have.
	read    bool
	changes []room.StateChange
	// span is what happened since the client's position; nil when it was not read for this room alone.
	span *span
}

// maxRetries is how often a user's memberships may change while they are read.
const maxRetries = 10

// places finds the user's rooms that may have changed in (from, to], with their membership at to. When a membership changes while it is read,
// the bound moves to that change, which is committed and has everything before it: the new bound is the second result.
func (s *Service) places(ctx context.Context, q *query, from, to int64, c *changes) ([]place, int64, error) {
	for range maxRetries {
		list, err := s.userRooms(ctx, q, from, to, c)
		if err != nil {
			return nil, to, err
		}
		newest := to
		for _, u := range list {
			newest = max(newest, u.Position)
		}
		if newest > to {
			to = newest
			*c = s.look(q, from, to)
			continue
		}
		var out []place
		for _, u := range list {
			if !u.Forgotten && u.Room.Version != nil && concerned(q, u, from, c) {
				out = append(out, place{Room: u.Room, UserRoom: u, read: c.own[u.Room.NID]})
			}
		}
		slices.SortFunc(out, func(a, b place) int { return int(min(max(a.Position-b.Position, -1), 1)) })
		return out, to, s.stateChanges(ctx, q, out, from, to, c)
	}
	return nil, to, fmt.Errorf("memberships of %s change faster than they are read", q.user)
}

// userRooms reads the rows of the memberships that may have to do with the changes.
func (s *Service) userRooms(ctx context.Context, q *query, from, to int64, c *changes) ([]room.UserRoom, error) {
	if !c.known {
		list, err := s.o.Rooms.Memberships(ctx, q.t.ID, q.user)
		if err != nil || q.initial || q.fullState {
			return list, err
		}
		var joined []int64
		for _, u := range list {
			if u.Membership == "join" {
				joined = append(joined, u.Room.NID)
			}
		}
		c.receipts, err = s.o.Ephemeral.RoomsWithReceipts(ctx, q.t.ID, q.user, joined, from, math.MaxInt64)
		c.own = c.receipts
		return list, err
	}
	if c.ownReceipts {
		own, err := s.o.Ephemeral.OwnReceiptRooms(ctx, q.t.ID, q.user, from, math.MaxInt64)
		if err != nil {
			return nil, err
		}
		for _, nid := range own {
			c.own[nid] = true
			c.rooms[nid], c.receipts[nid] = true, true
		}
	}
	found := map[int64]room.UserRoom{}
	if len(c.rooms) > 0 {
		list, err := s.membershipsIn(ctx, q, slices.Sorted(maps.Keys(c.rooms)), to)
		if err != nil {
			return nil, err
		}
		for _, u := range list {
			found[u.Room.NID] = u
		}
	}
	if c.membership {
		list, err := s.o.Rooms.MembershipsChanged(ctx, q.t.ID, q.user, from)
		if err != nil {
			return nil, err
		}
		for _, u := range list {
			found[u.Room.NID] = u
		}
	}
	return slices.Collect(maps.Values(found)), nil
}

// concerned says whether a room has to be looked at for what happened since from.
func concerned(q *query, u room.UserRoom, from int64, c *changes) bool {
	switch u.Membership {
	case "join":
		return q.initial || q.fullState || c.known || u.Position > from || u.LastPosition > from || c.receipts[u.Room.NID]
	case "invite", "knock":
		return q.initial || u.Position > from
	case "leave", "ban":
		if q.initial || q.fullState {
			return q.filter.Room.IncludeLeave || q.gap || !q.initial && u.Position > from
		}
		return u.Position > from
	}
	return false
}

// stateChanges fills in what changed in the state of the rooms and finds those that the user came to.
func (s *Service) stateChanges(ctx context.Context, q *query, list []place, from, to int64, c *changes) error {
	if q.initial {
		for i := range list {
			list[i].fresh = true
		}
		return nil
	}
	var nids []int64
	for _, p := range list {
		if p.Membership != "invite" && p.Membership != "knock" {
			nids = append(nids, p.NID)
		}
	}
	var changed map[int64][]room.StateChange
	var err error
	if spans := c.known && len(nids) <= maxSpans; spans {
		err = s.spansOf(ctx, q, list, from, to)
	} else {
		changed, err = s.o.Rooms.StateChanges(ctx, q.t.ID, nids, from, to)
	}
	if err != nil {
		return err
	}
	for i := range list {
		p := &list[i]
		if p.changes = changed[p.NID]; p.span != nil {
			p.changes = p.span.changes
		}
		if p.Position <= from {
			continue
		}
		var before []id.Event
		own := false
		for _, c := range p.changes {
			if c.Key == memberKey(q.user) {
				own = true
				before = append(before, c.Old)
			}
		}
		events, err := s.o.Rooms.Events(ctx, q.t.ID, before)
		if err != nil {
			return err
		}
		p.fresh = !own
		for n, eid := range before {
			if e := events[eid]; e != nil && e.Membership() == "join" {
				p.was = true
				p.had = p.had || n == 0
			} else {
				p.fresh = true
			}
		}
	}
	return nil
}

// spansOf reads what happened in some rooms together with whoever waits for the same.
func (s *Service) spansOf(ctx context.Context, q *query, list []place, from, to int64) (err error) {
	for i := range list {
		p := &list[i]
		if p.Membership == "invite" || p.Membership == "knock" {
			continue
		}
		if p.span, err = s.span(ctx, q.t.ID, p.NID, from, to); err != nil {
			return err
		}
	}
	return nil
}
