// SPDX-License-Identifier: Apache-2.0

package clientsync

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/push"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/homeserver/timeline"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

const (
	// spanCacheSize is how many spans stay in memory, spanLife for how long: those who wait for a room ask for the same one at the same moment.
	spanCacheSize = 512
	spanLife      = 5 * time.Second
	// maxSpans is how many rooms of one answer are read by spans; more are read together, by a few queries for all of them.
	maxSpans = 4
)

type spanKey struct {
	tenant   tenant.ID
	room     int64
	from, to int64
}

// span is what everybody who was in a room gets of its changes in (from, to]. The first who needs it reads it for all others. What is committed at
// these positions does not change; what a later redaction takes away has a later position, and so belongs to another span.
type span struct {
	spanKey
	mu     sync.Mutex
	loaded bool
	// changes are those of the state, events the newest of the timeline, oldest first; more says that there are others before them.
	changes []room.StateChange
	events  []*room.Event
	more    bool
	// citing are the events before which history is missing, parents those that have children.
	citing  map[int64]bool
	parents map[id.Event]bool
	// counts is what may count as unread; nil when there is more.
	counts *push.Recent
	// before are the places before events, as far as somebody asked.
	before map[int64]timeline.Place
	// receipts are the contents of the public receipts, once receipted.
	receipts  []jsontext.Value
	receipted bool
}

// span returns a room's changes in (from, to].
func (s *Service) span(ctx context.Context, t tenant.ID, roomNID, from, to int64) (*span, error) {
	key := spanKey{t, roomNID, from, to}
	sp, ok := s.spans.Get(key)
	if !ok {
		sp, _ = s.spans.SetIfAbsent(key, &span{spanKey: key, before: map[int64]timeline.Place{}})
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.loaded {
		return sp, nil
	}
	if err := s.loadSpan(context.WithoutCancel(ctx), sp); err != nil { // others wait for it too
		s.spans.Invalidate(key)
		return nil, err
	}
	sp.loaded = true
	return sp, nil
}

func (s *Service) loadSpan(ctx context.Context, sp *span) error {
	if s.unchanged(sp, func(c *stream.Change) bool { return c.Kind == stream.Timeline || c.Kind == stream.StateDelta }) {
		sp.counts = &push.Recent{}
		return nil
	}
	if !s.unchanged(sp, func(c *stream.Change) bool { return c.State || c.Kind == stream.StateDelta }) {
		changed, err := s.o.Rooms.StateChanges(ctx, sp.tenant, []int64{sp.room}, sp.from, sp.to)
		if err != nil {
			return err
		}
		sp.changes = changed[sp.room]
	}
	var err error
	if sp.events, sp.more, err = s.o.Rooms.Timeline(ctx, sp.tenant, sp.room, sp.from, sp.to, maxAhead); err != nil {
		return err
	}
	if sp.citing, err = s.o.Rooms.Citing(ctx, sp.tenant, []int64{sp.room}); err != nil {
		return err
	}
	ids := make([]id.Event, len(sp.events))
	for i, e := range sp.events {
		ids[i] = e.ID()
	}
	children, err := s.o.Rooms.Children(ctx, sp.tenant, ids)
	if err != nil {
		return err
	}
	sp.parents = map[id.Event]bool{}
	for _, c := range children {
		sp.parents[c.Parent] = true
	}
	if !sp.more {
		sp.counts, err = s.o.Push.Recent(ctx, sp.tenant, sp.room, sp.from, sp.to, sp.events)
	}
	return err
}

// newest returns the newest events of the span, at most limit; ok is false when it does not hold so many.
func (sp *span) newest(limit int) (events []*room.Event, more, ok bool) {
	switch {
	case len(sp.events) > limit:
		return sp.events[len(sp.events)-limit:], true, true
	case sp.more && len(sp.events) < limit:
		return nil, false, false
	}
	return sp.events, sp.more, true
}

// placeBefore is the place before the first event of a timeline.
func (s *Service) placeBefore(ctx context.Context, t tenant.ID, p *place, first *room.Event) (timeline.Place, error) {
	p.span.mu.Lock()
	defer p.span.mu.Unlock()
	if found, ok := p.span.before[first.NID]; ok {
		return found, nil
	}
	found, err := s.o.Timeline.Before(ctx, p.Room, t, first)
	if err == nil {
		p.span.before[first.NID] = found
	}
	return found, err
}

// childless says that an event had no children when the span was read.
func (sp *span) childless(e *room.Event) bool {
	return sp != nil && slices.Contains(sp.events, e) && !sp.parents[e.ID()]
}

// unchanged says whether the feed knows that nothing of a kind happened in the room.
func (s *Service) unchanged(sp *span, kind func(*stream.Change) bool) bool {
	return s.o.Feed.Quiet(sp.tenant, sp.from, sp.to, func(c *stream.Change) bool { return c.Room == sp.room && kind(c) })
}

// publicReceipts are the contents of the public receipts of the span.
func (s *Service) publicReceipts(ctx context.Context, sp *span) ([]jsontext.Value, error) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.receipted {
		return sp.receipts, nil
	}
	found, err := s.o.Ephemeral.ReceiptsOf(context.WithoutCancel(ctx), sp.tenant, []int64{sp.room}, sp.from, sp.to, func(id.User) bool { return false })
	if err == nil {
		sp.receipts, sp.receipted = found[sp.room], true
	}
	return sp.receipts, err
}
