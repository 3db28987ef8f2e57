// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// reach is how far up in each chain a set of events has what is in their auth chains.
type reach map[int64]int64

// conflict finds the full conflicted set of some states by the index of the auth graph: what is read depends on how the states differ and on how
// many chains authorise others, not on how long the chains are.
type conflict struct {
	s      *Service
	tenant tenant.ID
	src    *source
	agreed map[event.Key]id.Event
	places map[id.Event]spot
	links  map[int64][]link // of chains that have been read, by the chain they begin in
	sides  []reach          // of the conflicted events of each state
	common reach            // of those agreed events that have been looked at
	seen   map[id.Event]bool
	base   map[id.Event]bool  // the agreed events; nil until they are asked for
	firsts map[int64]id.Event // the power levels event before the first one of a chain of them
	fresh  int64              // numbers, downwards, chains of events that are not stored
}

// link leads from an event of one chain to an auth event of it in another.
type link struct {
	seq int64
	to  place
}

func newConflict(s *Service, t tenant.ID, src *source, agreed map[event.Key]id.Event) *conflict {
	return &conflict{s: s, tenant: t, src: src, agreed: agreed, places: map[id.Event]spot{}, links: map[int64][]link{}, common: reach{},
		seen: map[id.Event]bool{}, firsts: map[int64]id.Event{}}
}

// full returns the conflicted events, the auth difference and, if wanted, the conflicted state subgraph.
func (c *conflict) full(ctx context.Context, states []map[event.Key]id.Event, conflicted map[id.Event]struct{}, subgraph bool) ([]id.Event, error) {
	set := map[id.Event]bool{}
	for eid := range conflicted {
		set[eid] = true
	}
	for _, st := range states {
		var own []id.Event
		for k, eid := range st {
			if _, ok := c.agreed[k]; !ok {
				own = append(own, eid)
			}
		}
		side := reach{}
		if err := c.follow(ctx, side, own); err != nil {
			return nil, err
		}
		c.sides = append(c.sides, side)
	}
	for _, typ := range []string{event.TypePowerLevels, event.TypeJoinRules} { // most of what is common is behind these
		if eid, ok := c.agreed[event.Key{Type: typ}]; ok {
			if err := c.follow(ctx, c.common, []id.Event{eid}); err != nil {
				return nil, err
			}
		}
	}
	spans, err := c.difference(ctx)
	if err != nil {
		return nil, err
	}
	if subgraph {
		more, err := c.subgraph(ctx, conflicted)
		if err != nil {
			return nil, err
		}
		spans = append(spans, more...)
	}
	for len(spans) > 0 {
		n := min(len(spans), fewSpans)
		ids, err := c.within(ctx, spans[:n])
		if err != nil {
			return nil, err
		}
		for _, eid := range ids {
			set[eid] = true
		}
		spans = spans[n:]
	}
	full := make([]id.Event, 0, len(set))
	for eid := range set {
		full = append(full, eid)
	}
	return full, nil
}

// follow adds to a reach what is in the auth chains of some events.
func (c *conflict) follow(ctx context.Context, r reach, ids []id.Event) error {
	if err := c.s.loadEvents(ctx, c.tenant, c.src, ids); err != nil {
		return err
	}
	var auth, unknown []id.Event
	for _, eid := range ids {
		c.seen[eid] = true
		for _, a := range c.src.events[eid].AuthEvents() {
			auth = append(auth, a)
			if _, ok := c.places[a]; !ok {
				unknown = append(unknown, a)
			}
		}
	}
	if err := c.s.spots(ctx, c.tenant, unknown, c.places); err != nil {
		return err
	}
	raised := map[int64]bool{}
	for _, a := range auth {
		at, ok := c.places[a]
		if !ok {
			return fmt.Errorf("auth event %s is not in the index", a)
		}
		if at.seq > r[at.chain] {
			r[at.chain] = at.seq
			raised[at.chain] = true
		}
	}
	return c.spread(ctx, r, raised)
}

// spread follows the links from chains whose reach was raised.
func (c *conflict) spread(ctx context.Context, r reach, raised map[int64]bool) error {
	for len(raised) > 0 {
		if err := c.loadLinks(ctx, raised); err != nil {
			return err
		}
		next := map[int64]bool{}
		for chain := range raised {
			for _, l := range c.links[chain] {
				if l.seq <= r[chain] && l.to.seq > r[l.to.chain] {
					r[l.to.chain] = l.to.seq
					next[l.to.chain] = true
				}
			}
		}
		raised = next
	}
	return nil
}

// loadLinks reads the links of chains that have not been read yet.
func (c *conflict) loadLinks(ctx context.Context, chains map[int64]bool) error {
	var ids []any
	for chain := range chains {
		if _, ok := c.links[chain]; !ok {
			ids = append(ids, chain)
			c.links[chain] = nil
		}
	}
	for len(ids) > 0 {
		n := min(len(ids), database.MaxMarks)
		rows, err := c.s.DB.Query(ctx, "SELECT chain, seq, to_chain, to_seq FROM auth_link WHERE tenant = $1 AND chain IN ("+database.Marks(2, n)+")",
			append([]any{int64(c.tenant)}, ids[:n]...)...)
		_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
			var chain int64
			var l link
			err := rows.Scan(&chain, &l.seq, &l.to.chain, &l.to.seq)
			c.links[chain] = append(c.links[chain], l)
			return struct{}{}, err
		})
		if err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}

// span is a part of a chain, both ends included.
type span struct{ chain, from, to int64 }

// spans is what some states' auth chains have and others' do not, as far as the agreed events are known.
func (c *conflict) spans() []span {
	var out []span
	done := map[int64]bool{}
	for _, side := range c.sides {
		for chain := range side {
			if done[chain] {
				continue
			}
			done[chain] = true
			low, high := int64(-1), int64(0)
			for _, other := range c.sides {
				up := max(other[chain], c.common[chain])
				high = max(high, up)
				if low < 0 || up < low {
					low = up
				}
			}
			if high > low {
				out = append(out, span{chain, low + 1, high})
			}
		}
	}
	return out
}

// difference returns the auth difference. What is in the auth chain of an agreed event is in that of every state; but the agreed events may be many.
// So those are looked at that have the same state key as what differs, and then those that the index finds above what still differs.
func (c *conflict) difference(ctx context.Context) ([]span, error) {
	for {
		spans := c.spans()
		if len(spans) == 0 {
			return nil, nil
		}
		use, err := c.sameKeys(ctx, spans)
		if err == nil && len(use) == 0 {
			use, err = c.above(ctx, spans)
		}
		if err != nil || len(use) == 0 {
			return spans, err
		}
		if err := c.follow(ctx, c.common, use); err != nil {
			return nil, err
		}
	}
}

// sameKeys returns the agreed events, not looked at yet, of the state keys of the spans' last events.
func (c *conflict) sameKeys(ctx context.Context, spans []span) ([]id.Event, error) {
	var use []id.Event
	for len(spans) > 0 {
		n := min(len(spans), fewSpans)
		lasts := make([]span, n)
		for i, sp := range spans[:n] {
			lasts[i] = span{sp.chain, sp.to, sp.to}
		}
		ids, err := c.within(ctx, lasts)
		if err != nil {
			return nil, err
		}
		if err := c.s.loadEvents(ctx, c.tenant, c.src, ids); err != nil {
			return nil, err
		}
		for _, eid := range ids {
			if agreed, ok := c.agreed[c.src.events[eid].Key()]; ok && !c.seen[agreed] {
				c.seen[agreed] = true
				use = append(use, agreed)
			}
		}
		spans = spans[n:]
	}
	return use, nil
}

// fewSpans is how many parts of chains one query reads.
const fewSpans = 100

// within returns the events of parts of chains.
func (c *conflict) within(ctx context.Context, spans []span) ([]id.Event, error) {
	where, args := c.where(spans, "chain", "seq")
	rows, err := c.s.DB.Query(ctx, "SELECT event_id FROM auth_chain WHERE tenant = $1 AND "+where, args...)
	return database.All(rows, err, database.Column[id.Event])
}

// where is the condition of being in one of the spans.
func (c *conflict) where(spans []span, chain, seq string) (string, []any) {
	args := []any{int64(c.tenant)}
	parts := make([]string, len(spans))
	for i, sp := range spans {
		m := len(args) + 1
		parts[i] = fmt.Sprintf("(%s = $%d AND %s >= $%d AND %s <= $%d)", chain, m, seq, m+1, seq, m+2)
		args = append(args, sp.chain, sp.from, sp.to)
	}
	return "(" + strings.Join(parts, " OR ") + ")", args
}
