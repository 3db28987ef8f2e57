// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"
	"fmt"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Figures are what a room consists of, for operators.
type Figures struct {
	Joined      int `json:"joined"`
	JoinedLocal int `json:"joined_local"`
	State       int `json:"state"`
	Timeline    int `json:"timeline"`
	History     int `json:"history"` // reached backwards
	Outliers    int `json:"outliers"`
	Rejected    int `json:"rejected"`
	SoftFailed  int `json:"soft_failed"`
	Gaps        int `json:"gaps"`
	Snapshots   int `json:"snapshots"`
	Unindexed   int `json:"unindexed"` // state events without a place in the index of the auth graph
}

// Figures counts what a room of the tenant consists of. It reads all of the room's rows: it is for a person who waits, not for requests.
func (s *Service) Figures(ctx context.Context, t *tenant.Tenant, r *Room) (Figures, error) {
	var f Figures
	users, err := s.JoinedUsers(ctx, t.ID, r.NID)
	if err != nil {
		return f, err
	}
	f.Joined = len(users)
	for _, u := range users {
		if u.Server() == t.Name {
			f.JoinedLocal++
		}
	}
	state, err := s.CurrentState(ctx, t.ID, r)
	if err != nil && !errors.Is(err, mxerror.NotFound) {
		return f, err
	}
	f.State = len(state)
	err = s.DB.QueryRow(ctx, `SELECT COUNT(CASE WHEN position > 0 THEN 1 END), COUNT(CASE WHEN position = 0 AND NOT outlier AND NOT rejected AND NOT soft_failed THEN 1 END),
		COUNT(CASE WHEN outlier THEN 1 END), COUNT(CASE WHEN rejected THEN 1 END), COUNT(CASE WHEN soft_failed THEN 1 END)
		FROM event WHERE tenant = $1 AND room = $2`, int64(t.ID), r.NID).Scan(&f.Timeline, &f.History, &f.Outliers, &f.Rejected, &f.SoftFailed)
	if err != nil {
		return f, err
	}
	for _, count := range []struct {
		into *int
		text string
	}{{&f.Gaps, "SELECT COUNT(DISTINCT missing_id) FROM event_gap WHERE tenant = $1 AND room = $2"},
		{&f.Snapshots, "SELECT COUNT(*) FROM snapshot WHERE tenant = $1 AND room = $2"},
		{&f.Unindexed, "SELECT COUNT(*) FROM auth_pending WHERE tenant = $1 AND room = $2"}} {
		if err := s.DB.QueryRow(ctx, count.text, int64(t.ID), r.NID).Scan(count.into); err != nil {
			return f, err
		}
	}
	return f, nil
}

// Reason is why an event was rejected or soft-failed; empty for others.
func (s *Service) Reason(ctx context.Context, t tenant.ID, e *Event) (reason string, err error) {
	err = s.DB.QueryRow(ctx, "SELECT reason FROM event WHERE tenant = $1 AND event = $2", int64(t), e.NID).Scan(&reason)
	return reason, err
}

// LastEvents returns the last events of a room's graph in the room's own order, rejected and soft-failed ones included, oldest first.
func (s *Service) LastEvents(ctx context.Context, t tenant.ID, r *Room, limit int) ([]*Event, error) {
	rows, err := s.DB.Query(ctx, selectEvent+"WHERE e.tenant = $1 AND e.room = $2 AND NOT e.outlier ORDER BY e.topological DESC, e.event DESC LIMIT $3", int64(t), r.NID, limit)
	events, err := database.All(rows, err, scanEvent)
	for i, j := 0, len(events)-1; i < j; i, j = i+1, j-1 {
		events[i], events[j] = events[j], events[i]
	}
	return events, err
}

// dummyEvent is the type of the events that do nothing but join branches.
const dummyEvent = "org.matrix.dummy_event"

// maxDummies bounds how many events one clean-up sends.
const maxDummies = 100

// MergeExtremities joins a room's forward extremities by events that say nothing, sent by a local member who may, until one is left. It returns how
// many there were and are.
func (s *Service) MergeExtremities(ctx context.Context, t *tenant.Tenant, r *Room) (before, after int, err error) {
	ends, err := s.Extremities(ctx, t.ID, r)
	if err != nil {
		return 0, 0, err
	}
	before, after = len(ends), len(ends)
	users, err := s.JoinedUsers(ctx, t.ID, r.NID)
	if err != nil {
		return before, after, err
	}
	var local []id.User
	for _, u := range users {
		if u.Server() == t.Name {
			local = append(local, u)
		}
	}
	err = errors.New("none of this server's users is in the room")
	for sent := 0; after > 1 && len(local) > 0 && sent < maxDummies; {
		_, err = s.Send(ctx, t, Draft{Room: r.ID, Sender: local[0], Type: dummyEvent, Content: []byte("{}")})
		if errors.Is(err, mxerror.Forbidden) {
			local = local[1:]
			continue
		}
		if err != nil {
			break
		}
		sent++
		if ends, err = s.Extremities(ctx, t.ID, r); err != nil {
			break
		}
		after = len(ends)
	}
	if after <= 1 {
		return before, after, nil
	}
	if err != nil {
		err = fmt.Errorf("merge the extremities of %s: %w", r.ID, err)
	}
	return before, after, err
}
