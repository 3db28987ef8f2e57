// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// maxAuthChain bounds the auth chains that are handed out, by what an answer may hold in memory: about half a GiB of events. A room of 100,000 members
// of whom each came, renamed himself and left has 300,000.
const maxAuthChain = 500_000

// AuthChain returns the events and all that their auth events lead to, each once; what is not stored is left out.
func (s *Service) AuthChain(ctx context.Context, t tenant.ID, r *Room, ids []id.Event) ([]*Event, error) {
	ids, err := s.AuthChainIDs(ctx, t, r, ids)
	if err != nil {
		return nil, err
	}
	found, err := s.Events(ctx, t, ids)
	if err != nil {
		return nil, err
	}
	return slices.Collect(maps.Values(found)), nil
}

// AuthChainIDs is AuthChain without reading the events. The queries that it takes depend on how many chains the room's index has, not on how long they
// are; only what has no place in the index is walked.
func (s *Service) AuthChainIDs(ctx context.Context, t tenant.ID, r *Room, ids []id.Event) ([]id.Event, error) {
	if err := s.settled(ctx, t, r); err != nil {
		return nil, err
	}
	if _, err := s.indexAuth(ctx, t, r.NID, math.MaxInt); err != nil {
		return nil, err
	}
	c := newConflict(s, t, nil, nil)
	below, out := reach{}, map[id.Event]struct{}{}
	for len(ids) > 0 {
		unplaced, err := c.reachTo(ctx, below, ids)
		if err != nil {
			return nil, err
		}
		found, err := s.Events(ctx, t, unplaced)
		if err != nil {
			return nil, err
		}
		ids = nil
		for eid := range found {
			out[eid] = struct{}{}
		}
		for _, e := range found {
			ids = append(ids, slices.DeleteFunc(slices.Clone(e.AuthEvents()), func(a id.Event) bool { _, have := out[a]; return have })...)
		}
	}
	chains, sum := slices.Collect(maps.Keys(below)), int64(len(out))
	for _, up := range below {
		sum += up
	}
	if sum > maxAuthChain {
		return nil, fmt.Errorf("auth chain of %d events in room %d, more than %d", sum, r.NID, maxAuthChain)
	}
	for part := range slices.Chunk(chains, database.MaxMarks) {
		ids, err := c.upTo(ctx, part, below)
		if err != nil {
			return nil, err
		}
		for _, eid := range ids {
			out[eid] = struct{}{}
		}
	}
	return slices.Collect(maps.Keys(out)), nil
}

// upTo returns the events of chains that are in a reach. Whole chains are read: from above, most are in it wholly.
func (c *conflict) upTo(ctx context.Context, chains []int64, r reach) ([]id.Event, error) {
	args := []any{int64(c.tenant)}
	for _, chain := range chains {
		args = append(args, chain)
	}
	rows, err := c.s.DB.Query(ctx, "SELECT event_id, chain, seq FROM auth_chain WHERE tenant = $1 AND chain IN ("+database.Marks(2, len(chains))+")", args...)
	list, err := database.All(rows, err, func(rows *sql.Rows) (eid id.Event, err error) {
		var at place
		if err := rows.Scan(&eid, &at.chain, &at.seq); err != nil || at.seq > r[at.chain] {
			return "", err
		}
		return eid, nil
	})
	return slices.DeleteFunc(list, func(eid id.Event) bool { return eid == "" }), err
}

// reachTo raises a reach to events and all below them, and returns those events that have no place in the index.
func (c *conflict) reachTo(ctx context.Context, r reach, ids []id.Event) (unplaced []id.Event, err error) {
	if err := c.s.spots(ctx, c.tenant, ids, c.places); err != nil {
		return nil, err
	}
	raised := map[int64]bool{}
	for _, eid := range ids {
		at, ok := c.places[eid]
		if !ok {
			unplaced = append(unplaced, eid)
			continue
		}
		if at.seq > r[at.chain] {
			r[at.chain] = at.seq
			raised[at.chain] = true
		}
	}
	return unplaced, c.spread(ctx, r, raised)
}
