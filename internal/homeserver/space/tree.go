// SPDX-License-Identifier: Apache-2.0

package space

import (
	"cmp"
	"context"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Room is a room of a hierarchy.
type Room struct {
	room.PublicRoom
	// Children are the m.space.child events of a space in the order in which its rooms are shown; empty for other rooms.
	Children []Child `json:"children_state"`
}

// Child is an m.space.child event in stripped form.
type Child struct {
	Type      string         `json:"type"`
	StateKey  string         `json:"state_key"`
	Sender    id.User        `json:"sender"`
	Content   jsontext.Value `json:"content"`
	Timestamp int64          `json:"origin_server_ts"`
}

// Hierarchy is what one server tells another about a room and its children (server-server API, GET /hierarchy/{roomId}).
type Hierarchy struct {
	Room         Room      `json:"room"`
	Children     []Room    `json:"children"`
	Inaccessible []id.Room `json:"inaccessible_children"`
}

const (
	childType = "m.space.child"
	// spaceType is the type of the create event of a space.
	spaceType = "m.space"
	// maxChildren bounds how many rooms of one space are looked at.
	maxChildren = 1000
	// maxVia bounds how many servers are asked for one room.
	maxVia = 5
	// maxOrder is the greatest length of a valid order.
	maxOrder = 50
)

// childContent is the content of m.space.child, as far as it is valid.
type childContent struct {
	via       []id.Server
	order     string
	ordered   bool
	suggested bool
}

// readChild reads the content of m.space.child. A room without a valid via is no child: that is also how one is taken out.
func readChild(content jsontext.Value) (c childContent, ok bool) {
	var fields map[string]jsontext.Value
	var via []string
	if json.Unmarshal(content, &fields) != nil || json.Unmarshal(fields["via"], &via) != nil {
		return c, false
	}
	for _, name := range via {
		if server, err := id.ParseServer(name); err == nil && !slices.Contains(c.via, server) {
			c.via = append(c.via, server)
		}
	}
	if raw, found := fields["order"]; found && json.Unmarshal(raw, &c.order) == nil {
		c.ordered = validOrder(c.order)
	}
	if raw, found := fields["suggested"]; found {
		_ = json.Unmarshal(raw, &c.suggested) // another type counts as false
	}
	return c, len(c.via) > 0
}

// validOrder says whether an order counts: at most 50 characters between space and tilde.
func validOrder(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return len(s) <= maxOrder
}

// sorted filters the valid children and puts them in the specification's order: those with an order first, by it; then by the age of the
// child event; then by room id.
func sorted(children []Child, suggestedOnly bool) []Child {
	type entry struct {
		Child
		childContent
	}
	var list []entry
	for _, c := range children {
		content, ok := readChild(c.Content)
		if _, err := id.ParseRoom(c.StateKey); err != nil || !ok || c.Type != childType || suggestedOnly && !content.suggested {
			continue
		}
		list = append(list, entry{c, content})
	}
	slices.SortFunc(list, func(a, b entry) int {
		if a.ordered != b.ordered {
			if a.ordered {
				return -1
			}
			return 1
		}
		byOrder := 0
		if a.ordered {
			byOrder = cmp.Compare(a.order, b.order)
		}
		return cmp.Or(byOrder, cmp.Compare(a.Timestamp, b.Timestamp), cmp.Compare(a.StateKey, b.StateKey))
	})
	out := make([]Child, 0, min(len(list), maxChildren))
	for _, e := range list[:min(len(list), maxChildren)] {
		out = append(out, e.Child)
	}
	return out
}

// describe summarises a room of which the tenant holds the state, with its children.
func (s *Service) describe(ctx context.Context, t tenant.ID, r *room.Room, suggestedOnly bool) (Room, error) {
	summary, err := s.Rooms.Describe(ctx, t, r)
	found := Room{PublicRoom: summary, Children: []Child{}}
	if err != nil || summary.RoomType != spaceType {
		return found, err
	}
	state, err := s.Rooms.CurrentState(ctx, t, r)
	if err != nil {
		return found, err
	}
	kept := room.State{}
	for k, eid := range state {
		if k.Type == childType {
			kept[k] = eid
		}
	}
	events, err := s.Rooms.StateEvents(ctx, t, kept)
	if err != nil {
		return found, err
	}
	children := make([]Child, 0, len(events))
	for _, e := range events {
		children = append(children, childOf(e.Event))
	}
	found.Children = sorted(children, suggestedOnly)
	return found, nil
}

func childOf(e *event.Event) Child {
	return Child{e.Type(), *e.StateKey(), e.Sender(), e.Content(), e.Timestamp()}
}
