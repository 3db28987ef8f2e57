// SPDX-License-Identifier: Apache-2.0

package clientsync

import (
	"context"
	"maps"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/push"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/homeserver/timeline"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// answer is an answer in the making.
type answer struct {
	*reply
	// token is where the next sync goes on.
	token timeline.StreamToken
	// urgent: the client has to know something that no section shows (the counts of its keys).
	urgent bool
	// chunks are the timelines in it, for what the server aggregates of children.
	chunks []timeline.Chunk
	// ignored are the users whose messages and invites the reader does not want.
	ignored map[id.User]bool
	// from is the client's position, to the upper bound.
	from, to int64
	// The rest is read ahead for the rooms that are sent whole, when there are many: states, numbers of members, newest events.
	states  map[int64]room.State
	members map[int64]room.Summary
	newest  map[int64]ahead
	// firsts are the timelines whose tokens for paging backwards are still to be made.
	firsts []firstShown
	// counter counts unread events.
	counter *push.Reader
	// receipts are the contents of the receipts to be shown, by room.
	receipts map[int64][]jsontext.Value
	// moved says that members of a room changed, fresh that the user came to a room.
	moved, fresh bool
	// newcomers are users who came into sight by a join, of them or of the reader.
	newcomers map[id.User]bool
}

// ahead is what was read ahead of a room's timeline from a position on.
type ahead struct {
	from   int64
	events []*room.Event
}

// firstShown is the first event of a timeline in the answer; set takes the token of the place before it.
type firstShown struct {
	event *room.Event
	set   func(token string)
}

// maxToDevice is how many to-device messages an answer holds.
const maxToDevice = 100

// answer puts together what happened for the user since its token up to a position.
func (s *Service) answer(ctx context.Context, q *query, to int64, ephemeral uint64) (*answer, error) {
	a := &answer{reply: &reply{}, from: q.since.Position, to: to}
	c := s.look(q, a.from, to)
	a.urgent = c.keys
	if err := s.rooms(ctx, q, a, &c); err != nil {
		return nil, err
	}
	if err := s.accountData(ctx, q, a, &c); err != nil {
		return nil, err
	}
	a.token = timeline.StreamToken{Epoch: q.t.Epoch, Position: a.to, ToDevice: a.to, Node: s.o.Tokens.Node(), Ephemeral: ephemeral,
		Device: timeline.DeviceSum(q.user, q.device)}
	if err := s.typing(ctx, q, a); err != nil {
		return nil, err
	}
	if err := s.presence(ctx, q, a); err != nil {
		return nil, err
	}
	if err := s.toDevice(ctx, q, a, &c); err != nil {
		return nil, err
	}
	if err := s.deviceLists(ctx, q, a, &c); err != nil {
		return nil, err
	}
	if len(a.chunks) > 0 {
		if err := s.o.Timeline.Bundle(ctx, q.t.ID, q.session, a.chunks); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// rooms fills in the rooms. It fixes the answer's upper bound for good: what is read later is read up to there.
func (s *Service) rooms(ctx context.Context, q *query, a *answer, c *changes) error {
	list, to, err := s.places(ctx, q, a.from, a.to, c)
	if err != nil {
		return err
	}
	a.to = to
	// Who comes and goes in rooms that the filter hides counts for the device lists all the same.
	for _, p := range list {
		a.moved = a.moved || p.Position > a.from || slices.ContainsFunc(p.changes, func(c room.StateChange) bool { return c.Key.Type == event.TypeMember })
	}
	if list = slices.DeleteFunc(list, func(p place) bool { return !q.filter.room(p.Room.ID) }); len(list) == 0 {
		return nil
	}
	facts, err := s.reader(ctx, q, a.to)
	if err != nil {
		return err
	}
	a.ignored, a.counter = facts.ignored, facts.counter
	citing, err := s.citing(ctx, q, list)
	if err != nil {
		return err
	}
	if err := s.receipts(ctx, q, a, list, c); err != nil {
		return err
	}
	if err := s.ahead(ctx, q, a, list); err != nil {
		return err
	}
	for i := range list {
		p := &list[i]
		switch p.Membership {
		case "join":
			err = s.join(ctx, q, a, p, citing)
		case "invite", "knock":
			err = s.invite(ctx, q, a, p)
		default:
			err = s.leave(ctx, q, a, p, citing)
		}
		if err != nil {
			return err
		}
	}
	return s.previous(ctx, q, a)
}

// previous makes the tokens for paging backwards, which the rooms of the answer wait for.
func (s *Service) previous(ctx context.Context, q *query, a *answer) error {
	events := make([]*room.Event, len(a.firsts))
	for i, f := range a.firsts {
		events[i] = f.event
	}
	places, err := s.o.Timeline.BeforeAll(ctx, q.t.ID, events)
	if err != nil {
		return err
	}
	for i, f := range a.firsts {
		f.set(s.o.Tokens.Place(q.t.ID, places[i]))
	}
	a.firsts = nil
	return nil
}

// citing says before which events of some rooms history is missing.
func (s *Service) citing(ctx context.Context, q *query, list []place) (map[int64]bool, error) {
	var nids []int64
	out := map[int64]bool{}
	for i := range list {
		if sp := list[i].span; sp == nil {
			nids = append(nids, list[i].NID)
		} else {
			maps.Copy(out, sp.citing)
		}
	}
	found, err := s.o.Rooms.Citing(ctx, q.t.ID, nids)
	maps.Copy(out, found)
	return out, err
}

// ahead reads for the rooms that have no span, by a few queries for all of them, what would be some queries for each.
func (s *Service) ahead(ctx context.Context, q *query, a *answer, list []place) (err error) {
	var whole, fresh, others []int64
	var points []room.Point
	for i := range list {
		p := &list[i]
		if p.Membership != "join" || p.span != nil && !p.fresh {
			continue
		}
		points = append(points, room.Point{Room: p.NID, Position: p.Position})
		if p.fresh || q.fullState {
			whole = append(whole, p.NID)
		}
		if p.fresh && !p.had {
			fresh = append(fresh, p.NID)
		} else {
			others = append(others, p.NID)
		}
	}
	if len(points) < 2 {
		return nil
	}
	if a.states, err = s.o.Rooms.StatesAtPosition(ctx, q.t.ID, whole, a.to); err != nil {
		return err
	}
	if a.members, err = s.o.Rooms.Counts(ctx, q.t.ID, whole); err != nil {
		return err
	}
	if a.counter, err = a.counter.Prepare(ctx, points, a.to); err != nil {
		return err
	}
	limit := q.filter.Room.Timeline.LimitOr(defaultLimit, maxLimit)
	if err := s.readAhead(ctx, q, a, fresh, 0, limit); err != nil {
		return err
	}
	return s.readAhead(ctx, q, a, others, a.from, limit)
}

// readAhead reads the newest events of some rooms, one more than the answer shows.
func (s *Service) readAhead(ctx context.Context, q *query, a *answer, rooms []int64, from int64, limit int) error {
	if limit > maxAhead {
		return nil
	}
	found, err := s.o.Rooms.NewestOf(ctx, q.t.ID, rooms, from, a.to, max(limit, 1)+1)
	if err != nil {
		return err
	}
	if a.newest == nil {
		a.newest = map[int64]ahead{}
	}
	for _, nid := range rooms {
		a.newest[nid] = ahead{from, found[nid]}
	}
	return nil
}

// invite adds a room that the user is invited to or knocks at.
func (s *Service) invite(ctx context.Context, q *query, a *answer, p *place) error {
	state, err := s.o.Rooms.InviteState(ctx, q.t.ID, q.user, p.NID)
	if err != nil {
		return err
	}
	if len(state) == 0 {
		if state, err = s.stripped(ctx, q, p); err != nil {
			return err
		}
	}
	if p.Membership == "knock" {
		a.room().Knock[p.Room.ID] = &knockedRoom{stripped{state}}
		return nil
	}
	for _, raw := range state {
		if sender, key := memberOf(raw); key == q.user && a.ignored[sender] {
			return nil
		}
	}
	a.room().Invite[p.Room.ID] = &invitedRoom{stripped{state}}
	return nil
}

// stripped makes the stripped state of a room that this server is in: nothing is stored with a knock at such a room.
func (s *Service) stripped(ctx context.Context, q *query, p *place) ([]jsontext.Value, error) {
	found, err := s.o.Rooms.Events(ctx, q.t.ID, []id.Event{p.Event})
	if err != nil {
		return nil, err
	}
	e := found[p.Event]
	if e == nil || e.Outlier {
		return []jsontext.Value{}, nil
	}
	state, err := s.o.Rooms.StateAfter(ctx, q.t.ID, e)
	if err != nil {
		return nil, err
	}
	return s.o.Rooms.Stripped(ctx, q.t.ID, state, e.Event)
}

func (s *Service) accountData(ctx context.Context, q *query, a *answer, c *changes) error {
	if c.known && !c.accountData && !a.fresh {
		return nil
	}
	from := a.from
	if a.fresh { // a room that is new to the client comes with all that was stored for it
		from = 0
	}
	data, err := s.storedAccountData(ctx, q, from, a.to)
	if err != nil {
		return err
	}
	if err := s.pushRules(ctx, q, a, data); err != nil {
		return err
	}
	for _, d := range data {
		event := typed{d.Type, d.Content}
		if d.Type == pushRules && d.Room == "" {
			continue
		}
		if d.Room == "" {
			if d.Position > a.from && q.filter.AccountData.Type(d.Type) {
				a.AccountData = a.AccountData.add(event)
			}
			continue
		}
		if !q.filter.room(d.Room) || !q.filter.Room.AccountData.Room(d.Room) || !q.filter.Room.AccountData.Type(d.Type) {
			continue
		}
		if err := s.roomData(ctx, q, a, d.Room, d.Position > a.from, event); err != nil {
			return err
		}
	}
	return nil
}

// storedAccountData reads what changed, and for a client that begins what holds where its user has set nothing.
func (s *Service) storedAccountData(ctx context.Context, q *query, from, to int64) ([]account.AccountDatum, error) {
	if q.initial {
		return s.o.Accounts.AllAccountData(ctx, q.t, q.user, to)
	}
	return s.o.Accounts.AccountDataSince(ctx, q.t.ID, q.user, from, to)
}

// roomData adds account data of a room to the room's section; changed says that it is new to the client.
func (s *Service) roomData(ctx context.Context, q *query, a *answer, rid id.Room, changed bool, event typed) error {
	if a.Rooms != nil {
		if j := a.Rooms.Join[rid]; j != nil && (changed || j.fresh) {
			j.AccountData = j.AccountData.add(event)
			return nil
		}
		if l := a.Rooms.Leave[rid]; l != nil {
			if changed {
				l.AccountData = l.AccountData.add(event)
			}
			return nil
		}
	}
	if !changed {
		return nil
	}
	found, err := s.o.Rooms.Lookup(ctx, q.t.ID, rid)
	if err != nil {
		return nil //nolint:nilerr // data of a room that is not known here waits until it is
	}
	m, err := s.o.Rooms.Membership(ctx, q.t.ID, found.NID, q.user)
	if err != nil || m.Membership != "join" {
		return err
	}
	j := a.section(q, rid)
	j.AccountData = j.AccountData.add(event)
	return nil
}

// section returns the section of a joined room; a new one says nothing about timeline and state.
func (a *answer) section(q *query, rid id.Room) *joinedRoom {
	j := a.room().Join[rid]
	if j == nil {
		j = &joinedRoom{roomState: q.state(nil), Timeline: batch{Events: []any{}}}
		a.room().Join[rid] = j
	}
	return j
}

func (s *Service) toDevice(ctx context.Context, q *query, a *answer, c *changes) error {
	if q.device == "" || c.known && !c.toDevice && q.since.ToDevice == a.from {
		return nil
	}
	messages, err := s.o.Encryption.ToDevice(ctx, q.t.ID, q.user, q.device, q.since.ToDevice, a.to, maxToDevice)
	if err != nil {
		return err
	}
	for _, m := range messages {
		a.ToDevice = a.ToDevice.add(m.JSON)
	}
	if len(messages) == maxToDevice {
		a.token.ToDevice = messages[len(messages)-1].Position
	}
	return nil
}

func (s *Service) deviceLists(ctx context.Context, q *query, a *answer, c *changes) error {
	if q.gap {
		shared, err := s.o.Rooms.SharedUsers(ctx, q.t.ID, q.user)
		if err != nil {
			return err
		}
		a.DeviceLists = &deviceLists{Changed: []id.User{}, Left: []id.User{}}
		for u := range shared {
			a.DeviceLists.Changed = append(a.DeviceLists.Changed, u)
		}
		slices.Sort(a.DeviceLists.Changed)
		return nil
	}
	if q.initial || c.known && !c.deviceLists && !a.moved {
		return nil
	}
	changed, left, err := s.o.Encryption.DeviceListChanges(ctx, q.t.ID, q.user, a.from, a.to)
	if err != nil || len(changed)+len(left) == 0 {
		return err
	}
	a.DeviceLists = &deviceLists{Changed: changed, Left: left}
	return nil
}
