// SPDX-License-Identifier: Apache-2.0

package timeline

import (
	"context"
	"encoding/base64"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

const (
	searchDefault = 10
	searchMax     = 50
	maxContext    = 50
)

// searchRequest is the body of POST /search (client-server API, "Server Side Search").
type searchRequest struct {
	Categories *struct {
		RoomEvents *searchCriteria `json:"room_events"`
	} `json:"search_categories"`
}

type searchCriteria struct {
	Term         *string      `json:"search_term"`
	Keys         []string     `json:"keys"`
	Filter       *EventFilter `json:"filter"`
	OrderBy      string       `json:"order_by"`
	Context      *contextWish `json:"event_context"`
	IncludeState bool         `json:"include_state"`
	Groupings    struct {
		By []struct {
			Key string `json:"key"`
		} `json:"group_by"`
	} `json:"groupings"`
}

type contextWish struct {
	Before         *int `json:"before_limit"`
	After          *int `json:"after_limit"`
	IncludeProfile bool `json:"include_profile"`
}

type searchReply struct {
	Categories searchCategories `json:"search_categories"`
}

type searchCategories struct {
	RoomEvents *searchResults `json:"room_events,omitempty"`
}

type searchResults struct {
	Count      int                               `json:"count"`
	Highlights []string                          `json:"highlights"`
	Results    []searchResult                    `json:"results"`
	State      map[id.Room][]*room.ClientEvent   `json:"state,omitempty"`
	Groups     map[string]map[string]searchGroup `json:"groups,omitempty"`
	Next       string                            `json:"next_batch,omitempty"`
}

type searchResult struct {
	Rank    float64           `json:"rank"`
	Result  *room.ClientEvent `json:"result"`
	Context *searchContext    `json:"context,omitempty"`
}

type searchContext struct {
	Start    string                    `json:"start"`
	End      string                    `json:"end"`
	Profiles map[id.User]searchProfile `json:"profile_info,omitempty"`
	Before   []*room.ClientEvent       `json:"events_before"`
	After    []*room.ClientEvent       `json:"events_after"`
}

type searchProfile struct {
	DisplayName *string `json:"displayname,omitempty"`
	AvatarURL   *string `json:"avatar_url,omitempty"`
}

type searchGroup struct {
	Next    string     `json:"next_batch,omitempty"`
	Order   int        `json:"order"`
	Results []id.Event `json:"results"`
}

// searchToken is where a search goes on: after the first Skip of what was found up to the position UpTo, within a group if one is named.
type searchToken struct {
	Skip  int    `json:"s"`
	UpTo  int64  `json:"u"`
	Group string `json:"g,omitempty"`
	Value string `json:"v,omitempty"`
}

func (t searchToken) String() string {
	b, err := json.Marshal(t)
	if err != nil {
		return "" // numbers and texts always encode
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseSearchToken(text string) (searchToken, error) {
	t := searchToken{}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || json.Unmarshal(b, &t) != nil || t.Skip < 0 || t.Group != "" && t.Group != "room_id" && t.Group != "sender" {
		return t, mxerror.InvalidParam.With("next_batch is no token of this endpoint")
	}
	return t, nil
}

// check refuses criteria that are none.
func (c *searchCriteria) check() error {
	if c.Term == nil {
		return mxerror.MissingParam.With("search_term is missing")
	}
	for _, k := range c.Keys {
		if k != "content.body" && k != "content.name" && k != "content.topic" {
			return mxerror.InvalidParam.With("%q is no key to search", k)
		}
	}
	if c.OrderBy != "" && c.OrderBy != "recent" && c.OrderBy != "rank" {
		return mxerror.InvalidParam.With("order_by must be recent or rank")
	}
	for _, g := range c.Groupings.By {
		if g.Key != "room_id" && g.Key != "sender" {
			return mxerror.InvalidParam.With("results can be grouped by room_id and sender")
		}
	}
	if c.Filter != nil && c.Filter.Limit != nil && *c.Filter.Limit < 0 {
		return mxerror.InvalidParam.With("a filter's limit must not be negative")
	}
	return nil
}

// match is a result with its room.
type match struct {
	*room.Event
	in     *room.Room
	weight int64
}

func (s *Service) search(ctx context.Context, r *httpapi.Request) (any, error) {
	var q searchRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if q.Categories == nil {
		return nil, mxerror.MissingParam.With("search_categories is missing")
	}
	c := q.Categories.RoomEvents
	if c == nil {
		return searchReply{}, nil
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	if c.Filter == nil {
		c.Filter = &EventFilter{}
	}
	var at searchToken
	if text := r.Query("next_batch"); text != "" {
		var err error
		if at, err = parseSearchToken(text); err != nil {
			return nil, err
		}
	}
	terms := slices.Compact(slices.Sorted(slices.Values(words(*c.Term))))
	terms = terms[:min(len(terms), maxTerms)]
	results := &searchResults{Highlights: terms, Results: []searchResult{}}
	if len(terms) == 0 {
		results.Highlights = []string{}
		return searchReply{searchCategories{results}}, nil
	}
	position, err := s.index(ctx, r.Tenant.ID)
	if err != nil {
		return nil, err
	}
	if at.UpTo == 0 {
		at.UpTo = position
	}
	found, err := s.matches(ctx, r, c, terms, &at, results)
	if err != nil {
		return nil, err
	}
	return searchReply{searchCategories{results}}, s.present(ctx, r, c, found, at, results)
}

// searchRooms are the rooms in which a user may search: those joined and those left but not forgotten.
func (s *Service) searchRooms(ctx context.Context, r *httpapi.Request, f *EventFilter, at *searchToken) (map[int64]*room.Room, error) {
	all, err := s.rooms.Memberships(ctx, r.Tenant.ID, r.Session.User)
	if err != nil {
		return nil, err
	}
	out := map[int64]*room.Room{}
	for _, m := range all {
		if m.Membership != "join" && m.Membership != "leave" && m.Membership != "ban" || !f.Room(m.Room.ID) {
			continue
		}
		if at.Group == "room_id" && at.Value != string(m.Room.ID) {
			continue
		}
		out[m.Room.NID] = m.Room
	}
	return out, nil
}

// matches reads a page of what was found, as far as the user may see it. at is moved to where the next page begins, and emptied at the end.
func (s *Service) matches(ctx context.Context, r *httpapi.Request, c *searchCriteria, terms []string, at *searchToken, results *searchResults) ([]match, error) {
	rooms, err := s.searchRooms(ctx, r, c.Filter, at)
	if err != nil || len(rooms) == 0 {
		*at = searchToken{}
		return nil, err
	}
	nids := make([]int64, 0, len(rooms))
	for nid := range rooms {
		nids = append(nids, nid)
	}
	slices.Sort(nids)
	hits, err := s.find(ctx, r.Tenant.ID, terms, nids, at.UpTo, c.OrderBy != "recent")
	if err != nil {
		return nil, err
	}
	results.Count = len(hits)
	limit := c.Filter.LimitOr(searchDefault, searchMax)
	var out []match
	for at.Skip < len(hits) && len(out) < limit {
		batch := hits[at.Skip:min(at.Skip+scanStep, len(hits))]
		events, err := s.mayFind(ctx, r, c, terms, at, batch)
		if err != nil {
			return nil, err
		}
		for _, h := range batch {
			if len(out) == limit {
				break
			}
			at.Skip++
			if e := events[h.event]; e != nil {
				out = append(out, match{e, rooms[h.room], h.weight})
			}
		}
	}
	if at.Skip >= len(hits) {
		*at = searchToken{}
	}
	return out, nil
}

// mayFind loads events and drops those that the user may not see, that the filter does not want, or that have been redacted since.
func (s *Service) mayFind(ctx context.Context, r *httpapi.Request, c *searchCriteria, terms []string, at *searchToken, batch []hit) (map[id.Event]*room.Event, error) {
	ids := make([]id.Event, len(batch))
	for i, h := range batch {
		ids[i] = h.event
	}
	events, err := s.rooms.Events(ctx, r.Tenant.ID, ids)
	if err != nil {
		return nil, err
	}
	byRoom := map[int64][]*room.Event{}
	for _, e := range events {
		if s.wanted(c, terms, at, e) {
			byRoom[e.RoomNID] = append(byRoom[e.RoomNID], e)
		}
	}
	out := map[id.Event]*room.Event{}
	for nid, list := range byRoom {
		visible, err := s.rooms.Visible(ctx, r.Tenant.ID, r.Session.User, nid, list)
		if err != nil {
			return nil, err
		}
		for _, e := range visible {
			out[e.ID()] = e
		}
	}
	return out, nil
}

func (s *Service) wanted(c *searchCriteria, terms []string, at *searchToken, e *room.Event) bool {
	if at.Group == "sender" && at.Value != string(e.Sender()) || !c.Filter.Event(e.Type(), e.Sender(), e.Content()) {
		return false
	}
	key, text := searchText(e)
	if len(c.Keys) > 0 && !slices.Contains(c.Keys, key) {
		return false
	}
	have := words(text)
	return !slices.ContainsFunc(terms, func(w string) bool { return !slices.Contains(have, w) })
}

// present converts what was found for the client, with context, groups and state as asked for.
func (s *Service) present(ctx context.Context, r *httpapi.Request, c *searchCriteria, found []match, next searchToken, results *searchResults) error {
	if next.Skip > 0 {
		results.Next = next.String()
	}
	if len(c.Groupings.By) > 0 {
		results.Groups = map[string]map[string]searchGroup{}
	}
	for i, m := range found {
		v := &view{Room: m.in, t: r.Tenant, user: r.Session}
		list, err := s.client(ctx, v, []*room.Event{m.Event})
		if err != nil {
			return err
		}
		result := searchResult{Rank: float64(m.weight) / 1000, Result: list[0]}
		if c.Context != nil {
			if result.Context, err = s.searchContext(ctx, v, m.Event, c.Context); err != nil {
				return err
			}
		}
		results.Results = append(results.Results, result)
		for _, g := range c.Groupings.By {
			value := string(m.in.ID)
			if g.Key == "sender" {
				value = string(m.Sender())
			}
			group(results.Groups, g.Key, value, m.ID(), i, next)
		}
	}
	if !c.IncludeState {
		return nil
	}
	results.State = map[id.Room][]*room.ClientEvent{}
	for _, m := range found {
		if results.State[m.in.ID] != nil {
			continue
		}
		v := &view{Room: m.in, t: r.Tenant, user: r.Session}
		var err error
		if v.left, err = s.rooms.Departure(ctx, r.Tenant.ID, m.in.NID, r.Session.User); err != nil {
			return err
		}
		state, err := s.state(ctx, v)
		if err != nil {
			return err
		}
		if results.State[m.in.ID], err = s.stateList(ctx, v, state); err != nil {
			return err
		}
	}
	return nil
}

// group adds a result to its group. While the search goes on, so does each of its groups.
func group(groups map[string]map[string]searchGroup, key, value string, e id.Event, order int, next searchToken) {
	if groups[key] == nil {
		groups[key] = map[string]searchGroup{}
	}
	g, known := groups[key][value]
	if !known {
		g.Order = order + 1
		if next.Skip > 0 {
			next.Group, next.Value = key, value
			if key == "room_id" { // a search within one room counts only that room's
				next.Skip = 0
			}
			g.Next = next.String()
		}
	}
	if key == "room_id" && g.Next != "" {
		if t, err := parseSearchToken(g.Next); err == nil {
			t.Skip++
			g.Next = t.String()
		}
	}
	g.Results = append(g.Results, e)
	groups[key][value] = g
}

// searchContext is what stands around a result.
func (s *Service) searchContext(ctx context.Context, v *view, e *room.Event, wish *contextWish) (*searchContext, error) {
	limits := [2]int{5, 5}
	for i, n := range []*int{wish.Before, wish.After} {
		if n != nil {
			limits[i] = min(max(*n, 0), maxContext)
		}
	}
	ignored, err := s.Ignored(ctx, v.t.ID, v.user.User)
	if err != nil {
		return nil, err
	}
	before, start, _, err := s.history(ctx, v, query{from: Anywhere(e.At()), backwards: true, limit: limits[0], ignored: ignored})
	if err != nil {
		return nil, err
	}
	after, end, _, err := s.history(ctx, v, query{from: Anywhere(e.At()), limit: limits[1], ignored: ignored})
	if err != nil {
		return nil, err
	}
	all, err := s.client(ctx, v, slices.Concat(before, after))
	if err != nil {
		return nil, err
	}
	out := &searchContext{Start: s.tokens.Place(v.t.ID, start), End: s.tokens.Place(v.t.ID, end), Before: all[:len(before):len(before)], After: all[len(before):]}
	if wish.IncludeProfile {
		out.Profiles, err = s.profilesAt(ctx, v, e, slices.Concat([]*room.Event{e}, before, after))
	}
	return out, err
}

// profilesAt are the names and avatars that the senders of some events had at one of them.
func (s *Service) profilesAt(ctx context.Context, v *view, at *room.Event, events []*room.Event) (map[id.User]searchProfile, error) {
	state, err := s.rooms.StateAfter(ctx, v.t.ID, at)
	if err != nil {
		return nil, err
	}
	out := map[id.User]searchProfile{}
	for _, e := range events {
		if _, done := out[e.Sender()]; done {
			continue
		}
		member, err := s.rooms.StateEvent(ctx, v.t.ID, state, event.Key{Type: "m.room.member", StateKey: string(e.Sender())})
		if err != nil {
			return nil, err
		}
		p := readProfile(member)
		if p.AvatarURL != nil && !strings.HasPrefix(*p.AvatarURL, "mxc://") {
			p.AvatarURL = nil
		}
		out[e.Sender()] = searchProfile(p)
	}
	return out, nil
}
