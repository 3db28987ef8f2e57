// SPDX-License-Identifier: Apache-2.0

package timeline

import (
	"cmp"
	"context"
	"slices"

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

// looked is how many of an event's children, from the last one back, are read for what is shown of them.
const looked = 20

// visible returns those of the last children that the viewer may see.
func (b *bundler) visible(ctx context.Context, p *parent, children []room.Relation, valid func(*room.Event) bool) ([]*room.Event, error) {
	if len(children) == 0 {
		return nil, nil
	}
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
	return b.s.rooms.Visible(ctx, b.t, b.viewer.User, p.room.NID, list)
}

// edit returns the newest valid edit of an event (client-server API, "Event replacements").
func (b *bundler) edit(ctx context.Context, p *parent) (*room.ClientEvent, error) {
	list, err := b.visible(ctx, p, p.edits, func(e *room.Event) bool {
		var c struct {
			New jsontext.Value `json:"m.new_content"`
		}
		return !e.IsState() && (e.Type() == "m.room.encrypted" || json.Unmarshal(e.Content(), &c) == nil && c.New.Kind() == '{')
	})
	if err != nil || len(list) == 0 {
		return nil, err
	}
	last := slices.MaxFunc(list, func(x, y *room.Event) int {
		return cmp.Or(cmp.Compare(x.Timestamp(), y.Timestamp()), cmp.Compare(x.ID(), y.ID()))
	})
	return b.s.rooms.Client(ctx, b.t, p.room, last, b.viewer)
}

// thread returns the summary of a thread, nil when the viewer sees nothing of it. Its count leaves out what the viewer may not see as far as that was
// looked at.
func (b *bundler) thread(ctx context.Context, p *parent) (*thread, error) {
	list, err := b.visible(ctx, p, p.threaded, func(*room.Event) bool { return true })
	if err != nil || len(list) == 0 {
		return nil, err
	}
	latest, err := b.s.rooms.Client(ctx, b.t, p.room, slices.MaxFunc(list, byPlace), b.viewer)
	if err != nil {
		return nil, err
	}
	if err := b.bundle(ctx, []Chunk{{p.room, []*room.ClientEvent{latest}}}, false); err != nil {
		return nil, err
	}
	hidden := min(len(p.threaded), looked) - len(list)
	t := &thread{Latest: latest, Count: len(p.threaded) - hidden, Participated: p.event.Sender == b.viewer.User}
	for _, c := range p.threaded {
		t.Participated = t.Participated || c.Sender == b.viewer.User
	}
	return t, nil
}
