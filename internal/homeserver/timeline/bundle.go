// SPDX-License-Identifier: Apache-2.0

package timeline

import (
	"context"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Chunk is some events of one room on their way to a client.
type Chunk struct {
	Room   *room.Room
	Events []*room.ClientEvent
}

// bundled is unsigned.m.relations (client-server API, "Aggregations of child events").
type bundled struct {
	References *references       `json:"m.reference,omitzero"`
	Replace    *room.ClientEvent `json:"m.replace,omitzero"`
	Thread     *thread           `json:"m.thread,omitzero"`
}

type references struct {
	Chunk []reference `json:"chunk"`
}

type reference struct {
	Event id.Event `json:"event_id"`
}

type thread struct {
	Latest       *room.ClientEvent `json:"latest_event"`
	Count        int               `json:"count"`
	Participated bool              `json:"current_user_participated"`
}

// Bundle adds to events what the server aggregates of their children: the newest edit, references, the summary of a thread. One query serves
// all rooms of an answer.
func (s *Service) Bundle(ctx context.Context, t tenant.ID, viewer *httpapi.Session, chunks []Chunk) error {
	b := bundler{s: s, t: t, viewer: viewer}
	return b.bundle(ctx, chunks, true)
}

type bundler struct {
	*bundlerState
	s      *Service
	t      tenant.ID
	viewer *httpapi.Session
}

// bundlerState is loaded when the first child turns up: most chunks have none.
type bundlerState struct{ ignored map[id.User]bool }

// parent is an event that has children.
type parent struct {
	room     *room.Room
	event    *room.ClientEvent
	edits    []room.Relation
	threaded []room.Relation
	refs     []reference
}

func (b *bundler) bundle(ctx context.Context, chunks []Chunk, nested bool) error {
	parents := map[id.Event]*parent{}
	var ids []id.Event
	for _, c := range chunks {
		for _, e := range c.Events {
			if e.StateKey == nil && e.Unsigned != nil && parents[e.EventID] == nil {
				parents[e.EventID] = &parent{room: c.Room, event: e}
				ids = append(ids, e.EventID)
			}
		}
	}
	if len(ids) == 0 {
		return nil
	}
	children, err := b.s.rooms.Children(ctx, b.t, ids)
	if err != nil || len(children) == 0 {
		return err
	}
	if b.bundlerState == nil {
		b.bundlerState = &bundlerState{}
		if b.ignored, err = b.s.Ignored(ctx, b.t, b.viewer.User); err != nil {
			return err
		}
	}
	for _, c := range children {
		p := parents[c.Parent]
		if p.room.NID != c.Room || b.ignored[c.Sender] {
			continue
		}
		switch c.Type {
		case "m.replace":
			if c.Sender == p.event.Sender && c.EventType == p.event.Type && p.event.Unsigned.RedactedBecause == nil {
				p.edits = append(p.edits, c)
			}
		case "m.thread":
			p.threaded = append(p.threaded, c)
		case "m.reference":
			p.refs = append(p.refs, reference{c.Child})
		}
	}
	return b.fill(ctx, parents, nested)
}

// fill writes the aggregations of all parents into their unsigned data.
func (b *bundler) fill(ctx context.Context, parents map[id.Event]*parent, nested bool) error {
	for _, p := range parents {
		var out bundled
		if len(p.refs) > 0 {
			out.References = &references{p.refs}
		}
		var err error
		if out.Replace, err = b.edit(ctx, p); err != nil {
			return err
		}
		if nested { // the newest event of a thread gets its own aggregations, which hold no thread
			if out.Thread, err = b.thread(ctx, p); err != nil {
				return err
			}
		}
		if out == (bundled{}) {
			continue
		}
		raw, err := json.Marshal(out, json.Deterministic(true), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
		if err != nil {
			return err
		}
		p.event.Unsigned.Relations = raw
	}
	return nil
}

// newest returns the last of some children that the viewer may see, or nil.
func (b *bundler) newest(ctx context.Context, p *parent, children []room.Relation, valid func(*room.Event) bool, later func(a, b *room.Event) bool) (*room.ClientEvent, error) {
	if len(children) == 0 {
		return nil, nil
	}
	const looked = 20 // a child among the last ones that is visible and valid
	children = children[max(0, len(children)-looked):]
	ids := make([]id.Event, len(children))
	for i, c := range children {
		ids[i] = c.Child
	}
	found, err := b.s.rooms.Events(ctx, b.t, ids)
	if err != nil {
		return nil, err
	}
	var list []*room.Event
	for _, eid := range ids {
		if e := found[eid]; e != nil && valid(e) {
			list = append(list, e)
		}
	}
	if list, err = b.s.rooms.Visible(ctx, b.t, b.viewer.User, p.room.NID, list); err != nil || len(list) == 0 {
		return nil, err
	}
	last := list[0]
	for _, e := range list[1:] {
		if later(e, last) {
			last = e
		}
	}
	return b.s.rooms.Client(ctx, b.t, p.room, last, b.viewer)
}

// edit returns the newest valid edit of an event (client-server API, "Event replacements").
func (b *bundler) edit(ctx context.Context, p *parent) (*room.ClientEvent, error) {
	return b.newest(ctx, p, p.edits, func(e *room.Event) bool {
		var c struct {
			New jsontext.Value `json:"m.new_content"`
		}
		return !e.IsState() && (e.Type() == "m.room.encrypted" || json.Unmarshal(e.Content(), &c) == nil && c.New.Kind() == '{')
	}, func(x, y *room.Event) bool {
		return x.Timestamp() > y.Timestamp() || x.Timestamp() == y.Timestamp() && x.ID() > y.ID()
	})
}

func (b *bundler) thread(ctx context.Context, p *parent) (*thread, error) {
	if len(p.threaded) == 0 {
		return nil, nil
	}
	latest, err := b.newest(ctx, p, p.threaded, func(*room.Event) bool { return true }, func(x, y *room.Event) bool { return byPlace(x, y) > 0 })
	if err != nil || latest == nil {
		return nil, err
	}
	if err := b.bundle(ctx, []Chunk{{p.room, []*room.ClientEvent{latest}}}, false); err != nil {
		return nil, err
	}
	t := &thread{Latest: latest, Count: len(p.threaded), Participated: p.event.Sender == b.viewer.User}
	for _, c := range p.threaded {
		t.Participated = t.Participated || c.Sender == b.viewer.User
	}
	return t, nil
}
