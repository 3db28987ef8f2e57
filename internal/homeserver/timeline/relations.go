// SPDX-License-Identifier: Apache-2.0

package timeline

import (
	"context"
	"slices"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// recursionDepth is how far recurse follows relations of relations.
const recursionDepth = 3

type relationsReply struct {
	Chunk     []*room.ClientEvent `json:"chunk"`
	Next      string              `json:"next_batch,omitzero"`
	Previous  string              `json:"prev_batch,omitzero"`
	Recursion *int                `json:"recursion_depth,omitzero"` // there when the client said recurse, whatever it said
}

func (s *Service) relations(ctx context.Context, r *httpapi.Request) (any, error) {
	backwards := true
	if r.Query("dir") != "" {
		var err error
		if backwards, err = direction(r); err != nil {
			return nil, err
		}
	}
	limit, err := r.QueryInt("limit", 5, maxPage)
	if err != nil {
		return nil, err
	}
	if limit == 0 {
		return nil, mxerror.InvalidParam.With("limit must be greater than zero")
	}
	recurse, err := r.QueryBool("recurse", false)
	if err != nil {
		return nil, err
	}
	v, err := s.enter(ctx, r)
	if err != nil {
		return nil, err
	}
	parent, err := s.seen(ctx, v.t.ID, v.user.User, v.Room, id.Event(r.Var("eventId")))
	if err != nil {
		return nil, err
	}
	from, err := s.place(ctx, v, r.Query("from"), backwards)
	if err != nil {
		return nil, err
	}
	to, err := s.place(ctx, v, r.Query("to"), true)
	if err != nil {
		return nil, err
	}
	q := query{backwards: backwards, limit: limit}
	if err := s.endAt(ctx, v, &q, to); err != nil {
		return nil, err
	}
	if q.from, err = s.begin(ctx, v, from, backwards); err != nil {
		return nil, err
	}
	if q.ignored, err = s.Ignored(ctx, v.t.ID, v.user.User); err != nil {
		return nil, err
	}
	which := room.RelationQuery{Parents: []id.Event{parent.ID()}, Type: r.Var("relType"), EventType: r.Var("eventType"), Backwards: backwards}
	reply := relationsReply{Previous: r.Query("from")}
	if r.Query("recurse") != "" {
		reply.Recursion = new(int)
	}
	if recurse {
		*reply.Recursion = recursionDepth
		if which.Parents, err = s.descendants(ctx, v, parent.ID()); err != nil {
			return nil, err
		}
	}
	events, next, more, err := s.pageChildren(ctx, v, q, which)
	if err != nil {
		return nil, err
	}
	if more {
		reply.Next = s.tokens.Place(v.t.ID, next)
	}
	reply.Chunk, err = s.client(ctx, v, events)
	return reply, err
}

// descendants returns an event and those that relate to it, directly or through others, as parents to look for: relations of the last level are
// found through them.
func (s *Service) descendants(ctx context.Context, v *view, root id.Event) ([]id.Event, error) {
	all, level := []id.Event{root}, []id.Event{root}
	for range recursionDepth - 1 {
		children, err := s.rooms.Children(ctx, v.t.ID, level)
		if err != nil {
			return nil, err
		}
		level = nil
		for _, c := range children {
			if c.Room == v.NID && len(all) < database.MaxMarks && !slices.Contains(all, c.Child) {
				all, level = append(all, c.Child), append(level, c.Child)
			}
		}
		if len(level) == 0 {
			break
		}
	}
	return all, nil
}

// pageChildren is page for the children of some parents.
func (s *Service) pageChildren(ctx context.Context, v *view, q query, which room.RelationQuery) (events []*room.Event, next Place, more bool, err error) {
	next = q.from
	for scanned := 0; scanned < maxScan && len(events) < q.limit; {
		batch, _, further, err := s.rooms.PageChildren(ctx, v.t.ID, v.NID, which, next.Cursor, max(q.limit-len(events), scanStep))
		if err != nil {
			return nil, next, false, err
		}
		scanned += len(batch)
		visible, err := s.rooms.Visible(ctx, v.t.ID, v.user.User, v.NID, batch)
		if err != nil {
			return nil, next, false, err
		}
		more = further
		for i, e := range batch {
			ok, end := q.wants(e)
			if end {
				return events, next, false, nil
			}
			next.Cursor = e.At()
			if ok && slices.Contains(visible, e) {
				events = append(events, e)
			}
			if len(events) == q.limit {
				more = further || i+1 < len(batch)
				break
			}
		}
		if !further {
			break
		}
	}
	return events, next, more, nil
}

type threadsReply struct {
	Chunk []*room.ClientEvent `json:"chunk"`
	Next  string              `json:"next_batch,omitzero"`
}

func (s *Service) threads(ctx context.Context, r *httpapi.Request) (any, error) {
	limit, err := r.QueryInt("limit", 20, 100)
	if err != nil {
		return nil, err
	}
	if limit == 0 {
		return nil, mxerror.InvalidParam.With("limit must be greater than zero")
	}
	participant := id.User("")
	switch r.Query("include") {
	case "", "all":
	case "participated":
		participant = r.Session.User
	default:
		return nil, mxerror.InvalidParam.With("include must be all or participated")
	}
	v, err := s.enter(ctx, r)
	if err != nil {
		return nil, err
	}
	before := room.End.Arrival
	if token := r.Query("from"); token != "" {
		kind, b, ok := s.tokens.open(v.t.ID, token)
		p, valid := s.tokens.openPlace(b)
		if !ok || kind != placeToken || !valid {
			return nil, mxerror.InvalidParam.With("from is no token of this endpoint")
		}
		before = p.Arrival
	}
	found, err := s.rooms.Threads(ctx, v.t.ID, v.NID, participant, before, limit+1)
	if err != nil {
		return nil, err
	}
	reply := threadsReply{}
	if len(found) > limit {
		found = found[:limit]
		reply.Next = s.tokens.Place(v.t.ID, Anywhere(room.Cursor{Arrival: found[limit-1].Newest}))
	}
	var roots []*room.Event
	for _, th := range found {
		e, err := s.seen(ctx, v.t.ID, v.user.User, v.Room, th.Root)
		if mxerror.From(err) != nil { // not here, or not for this reader
			continue
		}
		if err != nil {
			return nil, err
		}
		roots = append(roots, e)
	}
	reply.Chunk, err = s.threadRoots(ctx, v, roots)
	return reply, err
}

// threadRoots converts roots of threads for the reader. Roots of threads of which the reader sees nothing are left out, those of ignored people are
// redacted (client-server API, GET threads).
func (s *Service) threadRoots(ctx context.Context, v *view, roots []*room.Event) ([]*room.ClientEvent, error) {
	ignored, err := s.Ignored(ctx, v.t.ID, v.user.User)
	if err != nil {
		return nil, err
	}
	list, err := s.client(ctx, v, roots)
	if err != nil {
		return nil, err
	}
	out := make([]*room.ClientEvent, 0, len(list))
	for i, c := range list {
		if c.StateKey == nil && len(canonicaljson.Get(c.Unsigned.Relations, "m.thread")) == 0 {
			continue
		}
		if ignored[c.Sender] {
			redacted, err := roots[i].Redact()
			if err != nil {
				return nil, err
			}
			c.Content = redacted.Content()
		}
		out = append(out, c)
	}
	return out, nil
}
