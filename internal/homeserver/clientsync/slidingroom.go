// SPDX-License-Identifier: Apache-2.0

package clientsync

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/homeserver/timeline"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// slideAnswer is an answer of sliding sync in the making.
type slideAnswer struct {
	slidingReply
	// answer holds what both kinds of sync have in common.
	answer
	changes changes
	// next is what the client has with this answer.
	next *generation
	// shown are the rooms of the user that the client has been sent, by number; first those of them that are new to it in this answer.
	shown map[int64]*standing
	first map[int64]*standing
	// citing are the events before which history is missing; states are there for all rooms that are looked at.
	citing map[int64]bool
	// quiet: the extensions have nothing to wake the client for.
	quiet bool
}

// slideAnswer puts together what a client is to get up to a position.
func (s *Service) slideAnswer(ctx context.Context, q *slide, to int64, ephemeral uint64) (*slideAnswer, error) {
	a := &slideAnswer{answer: answer{reply: &reply{}, from: q.since.Position, to: to}, next: &generation{rooms: map[int64]sentRoom{}},
		slidingReply: slidingReply{Rooms: map[id.Room]*slidingRoom{}}, shown: map[int64]*standing{}, first: map[int64]*standing{}, quiet: true}
	list, err := s.slideList(ctx, q, a)
	if err != nil {
		return nil, err
	}
	all, counts, err := s.standings(ctx, q, list)
	if err != nil {
		return nil, err
	}
	a.Lists = counts
	if err := s.slideRooms(ctx, q, a, all); err != nil {
		return nil, err
	}
	a.token = timeline.StreamToken{Epoch: q.t.Epoch, Position: a.to, ToDevice: a.to, Node: s.o.Tokens.Node(), Ephemeral: ephemeral,
		Device: timeline.DeviceSum(q.user, q.device), Connection: q.key.sum()}
	return a, s.extend(ctx, q, a)
}

// slideList reads the user's rooms and fixes the answer's upper bound (see places).
func (s *Service) slideList(ctx context.Context, q *slide, a *slideAnswer) ([]room.UserRoom, error) {
	for range maxRetries {
		list, err := s.o.Rooms.Memberships(ctx, q.t.ID, q.user)
		if err != nil {
			return nil, err
		}
		newest := a.to
		for _, u := range list {
			newest = max(newest, u.Position)
		}
		if newest > a.to {
			a.to = newest
			continue
		}
		a.changes = s.look(q.query, a.from, a.to)
		if a.changes.ownReceipts {
			own, err := s.o.Ephemeral.OwnReceiptRooms(ctx, q.t.ID, q.user, a.from, a.to)
			if err != nil {
				return nil, err
			}
			for _, nid := range own {
				a.changes.own[nid], a.changes.receipts[nid] = true, true
			}
		}
		return list, nil
	}
	return nil, fmt.Errorf("memberships of %s change faster than they are read", q.user)
}

// sliding is a room that has to be looked at.
type sliding struct {
	*standing
	was sentRoom
	// sent: the client has it; since is up to where.
	sent    bool
	since   int64
	changes []room.StateChange
	// first: it is sent from the beginning; expand: more of its timeline is wanted than was sent.
	first, expand bool
}

// slideRooms fills in the rooms.
func (s *Service) slideRooms(ctx context.Context, q *slide, a *slideAnswer, all []*standing) error {
	due, err := s.due(ctx, q, a, all)
	if err != nil {
		return err
	}
	if err := s.slideAhead(ctx, q, a, due); err != nil {
		return err
	}
	for _, r := range due {
		if err := s.slideRoom(ctx, q, a, r); err != nil {
			return err
		}
	}
	return s.previous(ctx, q.query, &a.answer)
}

// slideAhead reads what the rooms that are due need, by a few queries for all of them.
func (s *Service) slideAhead(ctx context.Context, q *slide, a *slideAnswer, due []*sliding) (err error) {
	if len(due) == 0 {
		return nil
	}
	var whole, nids, first, others []int64
	var points []room.Point
	limit := 0
	for _, r := range due {
		nids = append(nids, r.Room.NID)
		if r.Membership != "join" {
			continue
		}
		whole = append(whole, r.Room.NID)
		points = append(points, room.Point{Room: r.Room.NID, Position: r.Position})
		limit = max(limit, r.config.limit)
		if r.first || r.expand {
			first = append(first, r.Room.NID)
		} else if r.since == a.from {
			others = append(others, r.Room.NID)
		}
	}
	if a.states, err = s.o.Rooms.StatesAtPosition(ctx, q.t.ID, whole, a.to); err != nil {
		return err
	}
	if a.citing, err = s.o.Rooms.Citing(ctx, q.t.ID, nids); err != nil {
		return err
	}
	facts, err := s.reader(ctx, q.query, a.to)
	if err != nil {
		return err
	}
	a.ignored, a.counter = facts.ignored, facts.counter
	if a.counter, err = a.counter.Prepare(ctx, points, a.to); err != nil {
		return err
	}
	if a.members, err = s.o.Rooms.Counts(ctx, q.t.ID, first); err != nil {
		return err
	}
	if err := s.readAhead(ctx, q.query, &a.answer, first, 0, limit); err != nil {
		return err
	}
	return s.readAhead(ctx, q.query, &a.answer, others, a.from, limit)
}

// due finds the rooms that the client is to be sent something of, and notes of the others what it has of them.
func (s *Service) due(ctx context.Context, q *slide, a *slideAnswer, all []*standing) ([]*sliding, error) {
	var moved []*sliding
	var out []*sliding
	var nids []int64
	oldest := a.to
	for _, p := range all {
		r := &sliding{standing: p, since: a.from}
		if r.was, r.sent = q.has.rooms[p.Room.NID]; r.sent {
			a.shown[p.Room.NID] = p
		}
		switch {
		case !r.sent:
			if p.wanted {
				r.first = true
				out = append(out, r)
			}
			if p.Membership != "join" || !a.changes.moved[p.Room.NID] {
				continue // else its members are looked at for the device lists
			}
		case r.was.at != 0:
			r.since = r.was.at
		}
		if a.changes.known && r.was.at == 0 && !a.changes.moved[p.Room.NID] && p.Position <= a.from {
			out = append(out, s.still(a, r)...)
			continue
		}
		moved = append(moved, r)
		nids = append(nids, p.Room.NID)
		oldest = min(oldest, r.since)
	}
	changed, err := s.o.Rooms.StateChanges(ctx, q.t.ID, nids, oldest, a.to)
	if err != nil {
		return nil, err
	}
	for _, r := range moved {
		r.changes = slices.DeleteFunc(slices.Clone(changed[r.Room.NID]), func(c room.StateChange) bool { return c.Position <= r.since })
		a.moved = a.moved || slices.ContainsFunc(r.changes, func(c room.StateChange) bool { return c.Key.Type == event.TypeMember && c.Position > a.from })
		if !r.sent {
			continue
		}
		if !r.changed() {
			out = append(out, s.still(a, r)...)
			continue
		}
		if !r.wanted {
			r.was.at = r.since // there is something that the client is not sent now
			a.next.rooms[r.Room.NID] = r.was
			continue
		}
		r.first = s.comes(ctx, q, r)
		r.expand = r.expands()
		out = append(out, r)
	}
	return out, nil
}

// changed says whether something happened that the user may see: in a room that it has left nothing does.
func (r *sliding) changed() bool {
	return r.Position > r.since || r.Membership == "join" && (r.LastPosition > r.since || len(r.changes) > 0)
}

// still handles a room in which nothing has happened: the client may want more of it than it has.
func (s *Service) still(a *slideAnswer, r *sliding) []*sliding {
	a.next.rooms[r.Room.NID] = r.was
	if !r.wanted {
		return nil
	}
	r.expand = r.expands()
	if r.expand || r.config.text() != r.was.wishes || r.direct != r.was.direct || a.changes.own[r.Room.NID] {
		return []*sliding{r}
	}
	return nil
}

// expands says whether more of the timeline is wanted than the client has.
func (r *sliding) expands() bool { return r.was.joined && r.config.limit > r.was.limit }

// comes says whether the user came to a room that the client has been sent: then it begins anew with it.
func (s *Service) comes(ctx context.Context, q *slide, r *sliding) bool {
	if r.Membership != "join" {
		return false
	}
	if !r.was.joined {
		return true
	}
	for _, c := range r.changes {
		if c.Key != memberKey(q.user) {
			continue
		}
		found, err := s.o.Rooms.Events(ctx, q.t.ID, []id.Event{c.Old})
		if e := found[c.Old]; err != nil || e == nil || e.Membership() != "join" {
			return true
		}
	}
	return false
}

// slideRoom adds a room, if there is anything to say about it.
func (s *Service) slideRoom(ctx context.Context, q *slide, a *slideAnswer, r *sliding) error {
	out := &slidingRoom{Initial: r.first, Membership: r.Membership, Lists: r.names}
	next := sentRoom{limit: r.config.limit, wishes: r.config.text(), direct: r.direct, joined: r.Membership == "join" || r.sent && r.was.joined}
	if r.first && r.direct || !r.first && r.direct != r.was.direct {
		out.DM = &r.direct
	}
	var err error
	said := r.first || out.DM != nil || a.changes.own[r.Room.NID]
	switch r.Membership {
	case "invite", "knock":
		if said = said || r.Position > r.since; said {
			err = s.slideInvite(ctx, q, out, r)
		}
	default:
		var more bool
		if more, err = s.slideEvents(ctx, q, a, r, out, &next); err == nil {
			said = said || more
		}
	}
	if err != nil {
		return err
	}
	a.next.rooms[r.Room.NID] = next
	a.shown[r.Room.NID] = r.standing
	if !said {
		return nil
	}
	if r.first {
		a.first[r.Room.NID] = r.standing
	}
	a.Rooms[r.Room.ID] = out
	return nil
}

// slideInvite fills in a room that the user is invited to or knocks at.
func (s *Service) slideInvite(ctx context.Context, q *slide, out *slidingRoom, r *sliding) error {
	p := &place{Room: r.Room, UserRoom: r.UserRoom}
	state, err := s.o.Rooms.InviteState(ctx, q.t.ID, q.user, r.Room.NID)
	if err == nil && len(state) == 0 {
		state, err = s.stripped(ctx, q.query, p)
	}
	if state == nil {
		state = []jsontext.Value{}
	}
	out.Bump, out.Initial = r.Position, true
	if q.stable {
		out.Stripped = state
	} else {
		out.InviteState = state
	}
	return err
}

// slideEvents fills in a room that the user is or was in; said tells whether there is anything.
func (s *Service) slideEvents(ctx context.Context, q *slide, a *slideAnswer, r *sliding, out *slidingRoom, next *sentRoom) (said bool, err error) {
	p := &place{Room: r.Room, UserRoom: r.UserRoom, fresh: r.first, changes: r.changes}
	to := a.to
	if r.Membership != "join" {
		to = r.Position
		if err := s.left(ctx, q, a, r, p); err != nil {
			return false, err
		}
		out.Initial = r.first
	}
	from := r.since
	if r.first || r.expand {
		from = 0
	}
	one, filter := *q.query, *q.filter
	filter.Room.Timeline.Limit = &r.config.limit
	one.filter = &filter
	w, err := s.window(ctx, &one, &a.answer, p, from, to, a.citing)
	if err != nil {
		return false, err
	}
	if !r.first && !r.expand && !w.limited {
		next.limit = max(r.was.limit, r.config.limit)
	}
	out.Live = new(int)
	for _, e := range w.events {
		if e.Position > a.from && !q.initial {
			*out.Live++
		}
	}
	if out.Required, err = s.requiredState(ctx, q, a, r, p, &w); err != nil {
		return false, err
	}
	b, err := s.batch(ctx, &one, &a.answer, p, w, to, func(token string) { out.Previous = token })
	if err != nil {
		return false, err
	}
	out.Timeline, out.Limited = b.Events, b.Limited
	if b.Previous != "" {
		out.Previous = b.Previous
	}
	out.Expanded, out.UnstableExpanded = r.expand && !r.first && q.stable, r.expand && !r.first && !q.stable
	if err := s.describe(ctx, q, a, r, p, out); err != nil {
		return false, err
	}
	if out.Bump, err = s.bump(ctx, q, r, w.events, to); err != nil {
		return false, err
	}
	if r.Membership == "join" {
		var j joinedRoom
		if err := s.unread(ctx, &one, &a.answer, p, &j); err != nil {
			return false, err
		}
		out.Notifications, out.Highlights = &j.Unread.Notifications, &j.Unread.Highlights
	}
	return r.expand || r.Membership != "join" && r.Position > r.since || len(w.events) > 0 || w.limited || len(out.Required) > 0 || out.Name != nil || out.Avatar != nil || out.Joined != nil, nil
}

// left narrows a room that the user has left to what it may see of it: the state at the leave, and the changes until then. Who never was in the
// room sees of its state the own membership alone.
func (s *Service) left(ctx context.Context, q *slide, a *slideAnswer, r *sliding, p *place) error {
	gone, err := s.o.Rooms.Departure(ctx, q.t.ID, r.Room.NID, q.user)
	if err != nil {
		return err
	}
	if gone != nil {
		if a.states[r.Room.NID], err = s.o.Rooms.StateAfter(ctx, q.t.ID, gone); err != nil {
			return err
		}
		r.first = r.first || !r.was.joined
	}
	p.fresh = r.first
	p.changes = slices.DeleteFunc(slices.Clone(r.changes), func(c room.StateChange) bool {
		return c.Position > r.Position || gone == nil && c.Key != memberKey(q.user)
	})
	return nil
}

// requiredState returns the wanted part of the state: all of it for a room that is new to the client, what changed otherwise, with what is wanted
// now and was not before, and the members that the timeline needs.
func (s *Service) requiredState(ctx context.Context, q *slide, a *slideAnswer, r *sliding, p *place, w *window) ([]any, error) {
	state := a.states[r.Room.NID]
	picked := map[event.Key]id.Event{}
	if r.first {
		for k, eid := range state {
			if wants(r.config.wishes, k) {
				picked[k] = eid
			}
		}
	} else {
		for _, c := range p.changes {
			if wants(r.config.wishes, c.Key) || lazy(r.config.wishes) && c.Key.Type == event.TypeMember && !w.limited {
				picked[c.Key] = c.New
			}
		}
		if r.config.text() != r.was.wishes {
			before := wishesOf(r.was.wishes)
			for k, eid := range state {
				if wants(r.config.wishes, k) && !wants(before, k) {
					picked[k] = eid
				}
			}
		}
	}
	if lazy(r.config.wishes) {
		for _, e := range w.events {
			keys := []event.Key{memberKey(e.Sender())}
			if e.Type() == event.TypeMember && e.IsState() {
				keys = append(keys, e.Key())
			}
			for _, k := range keys {
				if eid := state[k]; picked[k] == "" && eid != "" && (r.first || !s.members.has(q.query, eid)) {
					picked[k] = eid
				}
			}
		}
	}
	events, err := s.stateEvents(ctx, &delta{q: q.query, place: p}, picked)
	if err != nil {
		return nil, err
	}
	if events == nil {
		events = []any{}
	}
	if q.stable {
		for _, k := range slices.SortedFunc(maps.Keys(picked), compareKeys) {
			if picked[k] == "" {
				events = append(events, stateStub{k.Type, k.StateKey})
			}
		}
	}
	return events, nil
}

// stateStub says that a piece of the state is gone.
type stateStub struct {
	Type string `json:"type"`
	Key  string `json:"state_key"`
}

// describe fills in what a room is called and how many are in it, as far as that changed.
func (s *Service) describe(ctx context.Context, q *slide, a *slideAnswer, r *sliding, p *place, out *slidingRoom) error {
	state := a.states[r.Room.NID]
	if state == nil {
		return nil
	}
	name, avatar := event.Key{Type: "m.room.name"}, event.Key{Type: "m.room.avatar"}
	changed := map[event.Key]bool{}
	for _, c := range p.changes {
		changed[c.Key] = true
	}
	title, err := s.stateText(ctx, q, state, name, "name")
	if err != nil {
		return err
	}
	if title != "" && r.first || changed[name] {
		out.Name = nullable(title)
	}
	if r.first || changed[avatar] {
		url, err := s.stateText(ctx, q, state, avatar, "url")
		if err != nil {
			return err
		}
		if url != "" || !r.first {
			out.Avatar = nullable(url)
		}
	}
	if r.Membership != "join" || !r.first && !renames(p.changes) {
		return nil
	}
	sum, ok := a.members[r.Room.NID]
	if !ok {
		counts, err := s.o.Rooms.Counts(ctx, q.t.ID, []int64{r.Room.NID})
		if err != nil {
			return err
		}
		sum = counts[r.Room.NID]
	}
	out.Joined, out.Invited = &sum.Joined, &sum.Invited
	if title != "" {
		return nil
	}
	heroes, err := s.o.Rooms.Heroes(ctx, q.t.ID, r.Room.NID, q.user)
	if err != nil {
		return err
	}
	for _, u := range heroes {
		h := hero{User: u}
		e, err := s.o.Rooms.StateEvent(ctx, q.t.ID, state, memberKey(u))
		if err != nil {
			return err
		}
		if e != nil {
			h.Name, h.Avatar = textField(e.Content(), "displayname"), textField(e.Content(), "avatar_url")
		}
		out.Heroes = append(out.Heroes, h)
	}
	return nil
}

// stateText reads a text of a state event; "" when there is none.
func (s *Service) stateText(ctx context.Context, q *slide, state room.State, k event.Key, field string) (string, error) {
	e, err := s.o.Rooms.StateEvent(ctx, q.t.ID, state, k)
	if err != nil || e == nil {
		return "", err
	}
	return textField(e.Content(), field), nil
}

// nullable writes a text, null for none.
func nullable(text string) jsontext.Value {
	raw, err := json.Marshal(text)
	if err != nil || text == "" {
		return jsontext.Value("null")
	}
	return raw
}

// bumping are the types of events that count as activity of a room (MSC4186, bump_stamp).
var bumping = []string{event.TypeCreate, "m.room.message", "m.room.encrypted", "m.sticker", "m.call.invite", "m.poll.start", "m.beacon_info",
	"org.matrix.msc3381.poll.start", "org.matrix.msc3672.beacon_info"}

// bump returns the position of the room's last proper activity, 0 when that did not change.
func (s *Service) bump(ctx context.Context, q *slide, r *sliding, events []*room.Event, to int64) (int64, error) {
	if r.Membership != "join" {
		return r.Position, nil
	}
	for _, e := range slices.Backward(events) {
		if slices.Contains(bumping, e.Type()) && e.Position > 0 {
			return e.Position, nil
		}
	}
	if !r.first {
		return 0, nil
	}
	position, err := s.o.Rooms.LastOf(ctx, q.t.ID, r.Room.NID, bumping, to)
	if position == 0 {
		position = r.Position
	}
	return position, err
}
