// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"
	"math"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// probe is how many events and links above what differs are read before all of them are: when much stands above, an agreed event is soon found.
const probe = 64

// above returns agreed events, not looked at yet, that have something of the spans in their auth chains; none when there are none.
func (c *conflict) above(ctx context.Context, spans []span) ([]id.Event, error) {
	if c.base == nil {
		c.base = make(map[id.Event]bool, len(c.agreed))
		for _, eid := range c.agreed {
			c.base[eid] = true
		}
	}
	lowest := map[int64]int64{} // of each chain, from where on everything is above
	var level []span
	for _, sp := range spans {
		lowest[sp.chain] = sp.from
		level = append(level, span{sp.chain, sp.from, math.MaxInt64})
	}
	for len(level) > 0 {
		n := min(len(level), fewSpans)
		use, err := c.agreedIn(ctx, level[:n])
		if err != nil || len(use) > 0 {
			return use, err
		}
		higher, err := c.leadTo(ctx, level[:n])
		if err != nil {
			return nil, err
		}
		level = level[n:]
		for _, h := range higher {
			if low, ok := lowest[h.chain]; !ok || h.from < low {
				lowest[h.chain] = h.from
				level = append(level, h)
			}
		}
	}
	return nil, nil
}

// agreedIn returns agreed events in parts of chains that have not been looked at.
func (c *conflict) agreedIn(ctx context.Context, spans []span) ([]id.Event, error) {
	where, args := c.where(spans, "chain", "seq")
	for _, limit := range []int{probe, math.MaxInt32} {
		rows, err := c.s.DB.Query(ctx, "SELECT event_id FROM auth_chain WHERE tenant = $1 AND "+where+" LIMIT "+database.Marks(len(args)+1, 1), append(args, limit)...)
		ids, err := database.All(rows, err, database.Column[id.Event])
		if err != nil {
			return nil, err
		}
		var use []id.Event
		for _, eid := range ids {
			if c.base[eid] && !c.seen[eid] {
				c.seen[eid] = true
				use = append(use, eid)
			}
		}
		if len(use) > 0 || len(ids) < probe {
			return use, nil
		}
	}
	return nil, nil
}

// leadTo returns the parts of other chains that have something of the spans among their auth events.
func (c *conflict) leadTo(ctx context.Context, spans []span) ([]span, error) {
	where, args := c.where(spans, "to_chain", "to_seq")
	rows, err := c.s.DB.Query(ctx, "SELECT chain, MIN(seq) FROM auth_link WHERE tenant = $1 AND "+where+" GROUP BY chain", args...)
	return database.All(rows, err, func(rows *sql.Rows) (span, error) {
		sp := span{to: math.MaxInt64}
		return sp, rows.Scan(&sp.chain, &sp.from)
	})
}

// subgraph returns what is on a path of auth events from one conflicted event to another.
func (c *conflict) subgraph(ctx context.Context, conflicted map[id.Event]struct{}) ([]span, error) {
	var ids []id.Event
	for eid := range conflicted {
		if _, ok := c.places[eid]; !ok {
			ids = append(ids, eid)
		}
	}
	if err := c.s.spots(ctx, c.tenant, ids, c.places); err != nil {
		return nil, err
	}
	reached := reach{}
	for _, side := range c.sides {
		for chain, seq := range side {
			reached[chain] = max(reached[chain], seq)
		}
	}
	leads := map[int64]int64{} // of each chain the first that is conflicted or has a conflicted event in its auth chain
	for eid := range conflicted {
		if at, ok := c.places[eid]; ok {
			lower(leads, at.place)
		}
	}
	for changed := true; changed; {
		changed = false
		for chain, up := range reached {
			for _, l := range c.links[chain] {
				if first, ok := leads[l.to.chain]; ok && l.seq <= up && l.to.seq >= first {
					changed = lower(leads, place{chain, l.seq}) || changed
				}
			}
		}
	}
	var out []span
	for chain, up := range reached {
		if first, ok := leads[chain]; ok && first <= up {
			out = append(out, span{chain, first, up})
		}
	}
	return out, nil
}

// lower notes a place that is lower in its chain than what is known, and says whether it is.
func lower(leads map[int64]int64, at place) bool {
	if first, ok := leads[at.chain]; ok && first <= at.seq {
		return false
	}
	leads[at.chain] = at.seq
	return true
}

// mainline returns how many steps behind the power levels event top the mainline has each of some others or what is before it. A chain of power levels
// events is a part of a line of them, since it goes on with the same state key only.
func (c *conflict) mainline(ctx context.Context, top id.Event, of []id.Event) (map[id.Event]int, error) {
	type part struct {
		place
		behind int // steps from top to the part's last event
	}
	parts := map[int64]part{}
	behind := 0
	for eid := top; eid != ""; {
		at, before, err := c.line(ctx, eid)
		if err != nil {
			return nil, err
		}
		if _, again := parts[at.chain]; again {
			break
		}
		parts[at.chain] = part{at, behind}
		behind += int(at.seq)
		eid = before
	}
	steps := map[id.Event]int{}
	for _, eid := range of {
		for pl := eid; pl != ""; {
			at, before, err := c.line(ctx, pl)
			if err != nil {
				return nil, err
			}
			if on, ok := parts[at.chain]; ok {
				steps[eid] = on.behind + int(on.seq-min(at.seq, on.seq))
				break
			}
			pl = before
		}
	}
	return steps, nil
}

// line returns the place of a power levels event and the power levels event before the first one of its chain.
func (c *conflict) line(ctx context.Context, eid id.Event) (place, id.Event, error) {
	if _, ok := c.places[eid]; !ok {
		if err := c.s.spots(ctx, c.tenant, []id.Event{eid}, c.places); err != nil {
			return place{}, "", err
		}
	}
	at, ok := c.places[eid]
	if !ok { // it is only now coming: a line of one
		return c.alone(ctx, eid)
	}
	first, ok := c.firsts[at.chain]
	if !ok {
		ids, err := c.within(ctx, []span{{at.chain, 1, 1}})
		if err != nil || len(ids) == 0 {
			return place{}, "", err
		}
		if first, err = c.powerLevelsOf(ctx, ids[0]); err != nil {
			return place{}, "", err
		}
		c.firsts[at.chain] = first
	}
	return at.place, first, nil
}

// alone is line for an event that is not stored yet.
func (c *conflict) alone(ctx context.Context, eid id.Event) (place, id.Event, error) {
	c.fresh--
	c.places[eid] = spot{place{c.fresh, 1}, true}
	before, err := c.powerLevelsOf(ctx, eid)
	c.firsts[c.fresh] = before
	return c.places[eid].place, before, err
}

// powerLevelsOf returns the power levels event among an event's auth events, or "".
func (c *conflict) powerLevelsOf(ctx context.Context, eid id.Event) (id.Event, error) {
	if err := c.s.loadEvents(ctx, c.tenant, c.src, []id.Event{eid}); err != nil {
		return "", err
	}
	auth := c.src.events[eid].AuthEvents()
	if err := c.s.loadEvents(ctx, c.tenant, c.src, auth); err != nil {
		return "", err
	}
	for _, a := range auth {
		if e := c.src.events[a]; e.Type() == "m.room.power_levels" && e.StateKeyIs("") {
			return a, nil
		}
	}
	return "", nil
}
