// SPDX-License-Identifier: Apache-2.0

package clientsync

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// typeCacheSize is how many rooms' types are remembered; a room's type never changes.
const typeCacheSize = 100_000

type roomRef struct {
	tenant tenant.ID
	room   int64
}

// standing is a room in the list of a user that sliding sync shows parts of.
type standing struct {
	room.UserRoom
	// config is what the client wants of it by the lists in names and its subscription; wanted is false for rooms outside of the request.
	wanted bool
	names  []string
	config roomConfig
	direct bool
}

// activity is the room's place in the list: when something last happened in it.
func (p *standing) activity() int64 {
	if p.Membership == "join" {
		return max(p.LastPosition, p.Position)
	}
	return p.Position
}

// standings returns the user's list of rooms, the one with the newest activity first, with what the request wants of each, and the number of
// rooms in each list.
func (s *Service) standings(ctx context.Context, q *slide, list []room.UserRoom) ([]*standing, map[string]listReply, error) {
	list, err := s.listed(ctx, q, list)
	if err != nil {
		return nil, nil, err
	}
	direct, err := s.directRooms(ctx, q)
	if err != nil {
		return nil, nil, err
	}
	all := make([]*standing, 0, len(list))
	for _, u := range list {
		all = append(all, &standing{UserRoom: u, direct: direct[u.Room.ID]})
	}
	slices.SortFunc(all, func(a, b *standing) int {
		return cmp.Or(-cmp.Compare(a.activity(), b.activity()), cmp.Compare(a.Room.NID, b.Room.NID))
	})
	counts := map[string]listReply{}
	var facts facts
	for _, name := range slices.Sorted(maps.Keys(q.request.Lists)) {
		l := q.request.Lists[name]
		if l.Filters != nil && facts.rooms == nil {
			if facts, err = s.facts(ctx, q, all); err != nil {
				return nil, nil, err
			}
		}
		n := 0
		for _, p := range all {
			if !l.Filters.admit(p, &facts) {
				continue
			}
			if l.shows(n) {
				p.want(l.config)
				p.names = append(p.names, name)
			}
			n++
		}
		counts[name] = listReply{n}
	}
	for _, p := range all {
		if sub := q.request.Subscriptions[p.Room.ID]; sub != nil {
			p.want(sub.config)
		}
	}
	return all, counts, nil
}

func (p *standing) want(c roomConfig) {
	p.config, p.wanted = p.config.join(c), true
}

// shows says whether an index is in a list's ranges; a list without ranges shows all.
func (l *listRequest) shows(n int) bool {
	return l.Ranges == nil || slices.ContainsFunc(l.Ranges, func(r []int64) bool { return r[0] <= int64(n) && int64(n) <= r[1] })
}

// listed leaves out the rooms that the user left by itself, unless the client has been sent them, and those it was banned from without having
// been in them.
func (s *Service) listed(ctx context.Context, q *slide, list []room.UserRoom) ([]room.UserRoom, error) {
	var left []id.Event
	for _, u := range list {
		if _, sent := q.has.rooms[u.Room.NID]; !sent && (u.Membership == "leave" || u.Membership == "ban") {
			left = append(left, u.Event)
		}
	}
	events, err := s.o.Rooms.Events(ctx, q.t.ID, left)
	if err != nil {
		return nil, err
	}
	out := make([]room.UserRoom, 0, len(list))
	for _, u := range list {
		if u.Forgotten || u.Room.Version == nil {
			continue
		}
		if _, sent := q.has.rooms[u.Room.NID]; !sent && (u.Membership == "leave" || u.Membership == "ban") {
			e := events[u.Event]
			if e == nil || u.Membership == "leave" && e.Sender() == q.user {
				continue
			}
			gone, err := s.o.Rooms.Departure(ctx, q.t.ID, u.Room.NID, q.user)
			if err != nil {
				return nil, err
			}
			if gone == nil {
				continue
			}
		}
		out = append(out, u)
	}
	return out, nil
}

// directRooms are the rooms that the user's m.direct names.
func (s *Service) directRooms(ctx context.Context, q *slide) (map[id.Room]bool, error) {
	content, ok, err := s.o.Accounts.AccountDatum(ctx, q.t.ID, q.user, "", "m.direct")
	if err != nil || !ok {
		return nil, err
	}
	var direct map[string]jsontext.Value
	if json.Unmarshal(content, &direct) != nil {
		return nil, nil
	}
	out := map[id.Room]bool{}
	for _, raw := range direct {
		var rooms []id.Room
		if json.Unmarshal(raw, &rooms) == nil {
			for _, r := range rooms {
				out[r] = true
			}
		}
	}
	return out, nil
}

// facts is what filters look at.
type facts struct {
	rooms  map[int64]fact
	tags   map[id.Room][]string
	spaces map[id.Room]map[id.Room]bool
}

type fact struct {
	encrypted bool
	typ       string
}

// admit says whether a room passes; no filters admit all.
func (f *slidingFilters) admit(p *standing, facts *facts) bool {
	if f == nil {
		return true
	}
	is := func(wanted *bool, value bool) bool { return wanted == nil || *wanted == value }
	fact := facts.rooms[p.Room.NID]
	hasType := func(t *string) bool { return t == nil && fact.typ == "" || t != nil && *t == fact.typ && *t != "" }
	tags := facts.tags[p.Room.ID]
	hasTag := func(t string) bool { return slices.Contains(tags, t) }
	return is(f.DM, p.direct) && is(f.Encrypted, fact.encrypted) && is(f.Invite, p.Membership == "invite") && is(f.Invited, p.Membership == "invite") &&
		(f.RoomTypes == nil || slices.ContainsFunc(f.RoomTypes, hasType)) && !slices.ContainsFunc(f.NotRoomTypes, hasType) &&
		(f.Tags == nil || slices.ContainsFunc(f.Tags, hasTag)) && !slices.ContainsFunc(f.NotTags, hasTag) &&
		(f.Spaces == nil || slices.ContainsFunc(f.Spaces, func(space id.Room) bool { return facts.spaces[space][p.Room.ID] }))
}

// facts looks up what the request's filters ask of the rooms.
func (s *Service) facts(ctx context.Context, q *slide, all []*standing) (facts, error) {
	out := facts{rooms: map[int64]fact{}}
	var types, states, tags bool
	spaces := map[id.Room]bool{}
	for _, l := range q.request.Lists {
		if f := l.Filters; f != nil {
			types = types || f.RoomTypes != nil || f.NotRoomTypes != nil
			states = states || f.Encrypted != nil
			tags = tags || f.Tags != nil || f.NotTags != nil
			for _, space := range f.Spaces {
				spaces[space] = true
			}
		}
	}
	var err error
	if tags {
		if out.tags, err = s.tags(ctx, q); err != nil {
			return out, err
		}
	}
	var nids []int64
	for _, p := range all {
		_, known := s.types.Get(roomRef{q.t.ID, p.Room.NID})
		if p.Membership == "invite" || p.Membership == "knock" {
			if types || states {
				if out.rooms[p.Room.NID], err = s.strippedFact(ctx, q, p); err != nil {
					return out, err
				}
			}
		} else if states || types && !known || spaces[p.Room.ID] {
			nids = append(nids, p.Room.NID)
		}
	}
	current, err := s.o.Rooms.StatesAtPosition(ctx, q.t.ID, nids, math.MaxInt64)
	if err != nil {
		return out, err
	}
	if types {
		if err := s.learnTypes(ctx, q, current); err != nil {
			return out, err
		}
	}
	for _, p := range all {
		if _, done := out.rooms[p.Room.NID]; !done {
			typ, _ := s.types.Get(roomRef{q.t.ID, p.Room.NID})
			out.rooms[p.Room.NID] = fact{encrypted: current[p.Room.NID][event.Key{Type: "m.room.encryption"}] != "", typ: typ}
		}
	}
	out.spaces, err = s.spaces(ctx, q, all, spaces, current)
	return out, err
}

// learnTypes reads the types of rooms that are not remembered.
func (s *Service) learnTypes(ctx context.Context, q *slide, states map[int64]room.State) error {
	var ids []id.Event
	for _, state := range states {
		if eid := state[event.Key{Type: event.TypeCreate}]; eid != "" {
			ids = append(ids, eid)
		}
	}
	found, err := s.o.Rooms.Events(ctx, q.t.ID, ids)
	if err != nil {
		return err
	}
	for _, e := range found {
		s.types.Set(roomRef{q.t.ID, e.RoomNID}, textField(e.Content(), "type"))
	}
	return nil
}

// strippedFact is what an invite or knock tells of its room.
func (s *Service) strippedFact(ctx context.Context, q *slide, p *standing) (fact, error) {
	state, err := s.o.Rooms.InviteState(ctx, q.t.ID, q.user, p.Room.NID)
	var f fact
	for _, raw := range state {
		var e struct {
			Type    string         `json:"type"`
			Content jsontext.Value `json:"content"`
		}
		if json.Unmarshal(raw, &e, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) != nil {
			continue
		}
		switch e.Type {
		case event.TypeCreate:
			f.typ = textField(e.Content, "type")
		case "m.room.encryption":
			f.encrypted = true
		}
	}
	return f, err
}

// spaces are the children of the given spaces that the user is in.
func (s *Service) spaces(ctx context.Context, q *slide, all []*standing, wanted map[id.Room]bool, states map[int64]room.State) (map[id.Room]map[id.Room]bool, error) {
	out := map[id.Room]map[id.Room]bool{}
	for _, p := range all {
		if !wanted[p.Room.ID] || p.Membership != "join" {
			continue
		}
		var ids []id.Event
		for k, eid := range states[p.Room.NID] {
			if k.Type == "m.space.child" {
				ids = append(ids, eid)
			}
		}
		found, err := s.o.Rooms.Events(ctx, q.t.ID, ids)
		if err != nil {
			return nil, err
		}
		children := map[id.Room]bool{}
		for _, e := range found {
			var c struct {
				Via []string `json:"via"`
			}
			if json.Unmarshal(e.Content(), &c, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) == nil && len(c.Via) > 0 {
				children[id.Room(*e.StateKey())] = true
			}
		}
		out[p.Room.ID] = children
	}
	return out, nil
}

// tags are the user's tags by room.
func (s *Service) tags(ctx context.Context, q *slide) (map[id.Room][]string, error) {
	data, err := s.o.Accounts.AccountDataOfType(ctx, q.t.ID, q.user, "m.tag")
	out := map[id.Room][]string{}
	for _, d := range data {
		var c struct {
			Tags map[string]jsontext.Value `json:"tags"`
		}
		if json.Unmarshal(d.Content, &c) == nil {
			out[d.Room] = slices.Collect(maps.Keys(c.Tags))
		}
	}
	return out, err
}

// textField reads a text of a JSON object; "" when there is none.
func textField(content jsontext.Value, name string) string {
	var c map[string]jsontext.Value
	if json.Unmarshal(content, &c, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) != nil || c[name].Kind() != '"' {
		return ""
	}
	var text string
	if json.Unmarshal(c[name], &text, jsontext.AllowInvalidUTF8(true)) != nil {
		return ""
	}
	return text
}
