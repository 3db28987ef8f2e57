// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

const (
	// nearest is how many events around a time are looked at for one that the asker may see.
	nearest = 200
	// timeServers is how many servers are asked for an event closer to a time, timeBackfills how often history up to it is fetched.
	timeServers, timeBackfills = 3, 3
)

var errNoEventThen = mxerror.NotFound.With("There is no event at that time.")

// ByTimestamp finds the event of a room's history that is closest to a time (ms), at or after it, or at or before it. M_NOT_FOUND when there
// is none. Whether the asker may see it is another question.
func (s *Service) ByTimestamp(ctx context.Context, t tenant.ID, roomNID, ts int64, backwards bool) (*Event, error) {
	found, err := s.around(ctx, t, roomNID, ts, backwards, 1)
	if err == nil && len(found) == 0 {
		err = errNoEventThen
	}
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

// around lists events from a time on, in either direction, closest first.
func (s *Service) around(ctx context.Context, t tenant.ID, roomNID, ts int64, backwards bool, limit int) ([]*Event, error) {
	query := "e.origin_ts >= $3 ORDER BY e.origin_ts, e.topological, e.event LIMIT $4"
	if backwards {
		query = "e.origin_ts <= $3 ORDER BY e.origin_ts DESC, e.topological DESC, e.event DESC LIMIT $4"
	}
	rows, err := s.DB.Query(ctx, selectEvent+`WHERE e.tenant = $1 AND e.room = $2 AND NOT e.outlier AND NOT e.rejected AND NOT e.soft_failed AND `+query,
		int64(t), roomNID, ts, limit)
	return database.All(rows, err, scanEvent)
}

// visibleAround is the event closest to a time that a local user may see; nil when there is none here.
func (s *Service) visibleAround(ctx context.Context, t tenant.ID, user id.User, roomNID, ts int64, backwards bool) (*Event, error) {
	found, err := s.around(ctx, t, roomNID, ts, backwards, nearest)
	if err != nil {
		return nil, err
	}
	for chunk := range slices.Chunk(found, 10) { // nearly always the first one is visible
		visible, err := s.Visible(ctx, t, user, roomNID, chunk)
		if err != nil {
			return nil, err
		}
		if len(visible) > 0 {
			return visible[0], nil
		}
	}
	return nil, nil
}

// Closest finds the event closest to a time that a local user may see. Where history has a gap beside it, the room's other servers are asked
// for a closer one, which is then fetched. M_NOT_FOUND when there is none.
func (s *Service) Closest(ctx context.Context, t *tenant.Tenant, r *Room, user id.User, ts int64, backwards bool) (*Event, error) {
	here, err := s.visibleAround(ctx, t.ID, user, r.NID, ts, backwards)
	if err != nil {
		return nil, err
	}
	gap, err := s.gapBeside(ctx, t.ID, r.NID, here, backwards)
	if err != nil {
		return nil, err
	}
	if gap != "" && s.RemoteByTime != nil {
		if err := s.fetchCloser(ctx, t, r, here, gap, ts, backwards); err != nil {
			return nil, err
		}
		if here, err = s.visibleAround(ctx, t.ID, user, r.NID, ts, backwards); err != nil {
			return nil, err
		}
	}
	if here == nil {
		return nil, errNoEventThen
	}
	return here, nil
}

// gapBeside returns the event before which history is missing that may hold something closer to the time asked for; "" when there is none.
// Going forwards the gap lies before the event found, going backwards after it; without one any gap counts.
func (s *Service) gapBeside(ctx context.Context, t tenant.ID, roomNID int64, found *Event, backwards bool) (id.Event, error) {
	query, args := `SELECT e.event_id FROM event_gap g JOIN event e ON e.tenant = g.tenant AND e.event = g.event
		WHERE g.tenant = $1 AND g.room = $2 ORDER BY e.topological, e.event LIMIT 1`, []any{int64(t), roomNID}
	switch {
	case found == nil:
	case backwards:
		query = `SELECT e.event_id FROM event e WHERE e.tenant = $1 AND e.room = $2 AND NOT e.outlier
			AND (e.topological > $3 OR (e.topological = $3 AND e.event > $4))
			AND EXISTS (SELECT 1 FROM event_gap g WHERE g.tenant = $1 AND g.event = e.event) ORDER BY e.topological, e.event LIMIT 1`
		args = append(args, found.Topological, found.NID)
	default:
		query = `SELECT e.event_id FROM event e WHERE e.tenant = $1 AND e.room = $2 AND NOT e.outlier
			AND (e.topological < $3 OR (e.topological = $3 AND e.event <= $4))
			AND EXISTS (SELECT 1 FROM event_gap g WHERE g.tenant = $1 AND g.event = e.event) ORDER BY e.topological DESC, e.event DESC LIMIT 1`
		args = append(args, found.Topological, found.NID)
	}
	var eid id.Event
	err := s.DB.QueryRow(ctx, query, args...).Scan(&eid)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return eid, err
}

// fetchCloser asks other servers for an event closer to a time than the one here and takes it, with the history between when it is near.
func (s *Service) fetchCloser(ctx context.Context, t *tenant.Tenant, r *Room, here *Event, gap id.Event, ts int64, backwards bool) error {
	servers, err := s.elsewhere(ctx, t, r)
	if err != nil {
		return err
	}
	for _, server := range servers[:min(len(servers), timeServers)] {
		eid, at, err := s.RemoteByTime(ctx, t, server, r.ID, ts, backwards)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			s.Log.InfoContext(ctx, "another server's event at a time", "room", r.NID, "server", server, "error", err)
			continue
		}
		if backwards && at > ts || !backwards && at < ts {
			continue
		}
		if here != nil && (backwards && at <= here.Timestamp() || !backwards && at >= here.Timestamp()) {
			return nil // what is here is as close
		}
		if err := s.reach(ctx, t, server, r, gap, eid); err != nil {
			s.Log.InfoContext(ctx, "an event at a time could not be fetched", "room", r.NID, "server", server, "error", err)
			continue
		}
		return nil
	}
	return nil
}

// reach brings an event of the past here: by fetching history from the gap backwards, and by itself when it is further away.
func (s *Service) reach(ctx context.Context, t *tenant.Tenant, server id.Server, r *Room, gap, wanted id.Event) error {
	for range timeBackfills {
		known, err := s.known(ctx, t.ID, r.NID, []id.Event{wanted})
		if err != nil || len(known) > 0 {
			return err
		}
		citing, err := s.Events(ctx, t.ID, []id.Event{gap})
		if err != nil || citing[gap] == nil {
			return err
		}
		events, err := s.Remote.Backfill(ctx, t, server, r, citing[gap].PrevEvents(), backfillLimit)
		if err != nil {
			return err
		}
		if n, err := s.takeHistory(ctx, t, server, r, events); err != nil || n == 0 {
			break
		}
		oldest := inOrder(byID(events))
		if len(oldest) == 0 {
			break
		}
		gap = oldest[0].ID()
	}
	known, err := s.known(ctx, t.ID, r.NID, []id.Event{wanted})
	if err != nil || len(known) > 0 {
		return err
	}
	e, err := s.Remote.Event(ctx, t, server, r, wanted)
	if err != nil {
		return err
	}
	if n, err := s.takeHistory(ctx, t, server, r, []*event.Event{e}); err != nil || n == 0 {
		return fmt.Errorf("event %s was not taken: %w", wanted, err)
	}
	return nil
}

func byID(events []*event.Event) map[id.Event]*event.Event {
	out := make(map[id.Event]*event.Event, len(events))
	for _, e := range events {
		out[e.ID()] = e
	}
	return out
}

// elsewhere lists the other servers in a room, the one that its id names first: it most likely has everything.
func (s *Service) elsewhere(ctx context.Context, t *tenant.Tenant, r *Room) ([]id.Server, error) {
	servers, err := s.JoinedServers(ctx, t.ID, r.NID)
	if err != nil {
		return nil, err
	}
	servers = slices.DeleteFunc(servers, func(server id.Server) bool { return server == t.Name })
	if named, ok := r.ID.Server(); ok && slices.Contains(servers, named) {
		servers = append([]id.Server{named}, slices.DeleteFunc(servers, func(server id.Server) bool { return server == named })...)
	}
	return servers, nil
}
