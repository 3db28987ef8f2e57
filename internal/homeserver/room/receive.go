// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Bounds of what one incoming PDU may make us fetch (engine rule 12).
const (
	missingLimit  = 20  // events a get_missing_events answer may hold
	missingRounds = 5   // such requests for one PDU
	authFetches   = 200 // single auth events fetched for one PDU
)

// Accept takes a live PDU whose signatures and content hash have been checked into its room: it fetches what is missing, authorises, resolves,
// decides on soft failure and commits. It returns when the PDU is durable. An error means that the PDU was not taken; a PDU that the rules
// reject is taken and stored as rejected, without an error.
func (s *Service) Accept(ctx context.Context, t *tenant.Tenant, origin id.Server, e *event.Event) error {
	r, err := s.Lookup(ctx, t.ID, e.Room())
	if err != nil {
		return err
	}
	in, err := s.ServerInRoom(ctx, t.ID, r.NID, t.Name)
	if err != nil {
		return err
	}
	if !in {
		return s.rescinded(ctx, t, r, origin, e)
	}
	if done, err := s.taken(ctx, t.ID, r, e.ID()); err != nil || done {
		return err
	}
	missing, err := s.missingPrev(ctx, t.ID, r, e)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		if err := s.fetchPrev(ctx, t, origin, r, e); err != nil {
			s.Log.InfoContext(ctx, "fetching missing events", "room", r.NID, "origin", origin, "error", err)
		}
	}
	return s.take(ctx, t, origin, r, e)
}

// taken says whether an event is part of the room's graph already. An id that is taken in another room is refused (engine rule 16).
func (s *Service) taken(ctx context.Context, t tenant.ID, r *Room, eid id.Event) (bool, error) {
	found, err := s.Events(ctx, t, []id.Event{eid})
	if err != nil || found[eid] == nil {
		return false, err
	}
	if found[eid].RoomNID != r.NID {
		return false, mxerror.Forbidden.With("The event id belongs to another room.")
	}
	return !found[eid].Outlier, nil
}

// missingPrev returns the prev events that are not part of the room's graph here.
func (s *Service) missingPrev(ctx context.Context, t tenant.ID, r *Room, e *event.Event) ([]id.Event, error) {
	known, err := s.known(ctx, t, r.NID, e.PrevEvents())
	if err != nil {
		return nil, err
	}
	var missing []id.Event
	for _, p := range e.PrevEvents() {
		if known[p] == nil {
			missing = append(missing, p)
		}
	}
	return missing, nil
}

// fetchPrev asks the origin for the events between our extremities and e, and takes them in order.
func (s *Service) fetchPrev(ctx context.Context, t *tenant.Tenant, origin id.Server, r *Room, e *event.Event) error {
	if s.Remote == nil {
		return errors.New("no federation")
	}
	h, err := s.peek(ctx, t.ID, r)
	if err != nil {
		return err
	}
	got := map[id.Event]*event.Event{}
	latest := []id.Event{e.ID()}
	for range missingRounds {
		found, err := s.Remote.GetMissingEvents(ctx, t, origin, r, h.extremities, latest, missingLimit)
		if err != nil {
			return err
		}
		fresh := 0
		for _, f := range found {
			if got[f.ID()] == nil && f.Room() == r.ID && f.ID() != e.ID() {
				got[f.ID()] = f
				fresh++
			}
		}
		if latest, err = s.unknownPrev(ctx, t.ID, r, got, e); err != nil {
			return err
		}
		if fresh == 0 || len(latest) == 0 {
			break
		}
		latest = citing(got, e, latest)
	}
	past, err := s.precedesJoin(ctx, t, r, got)
	if err != nil {
		return err
	}
	if len(past) > 0 {
		if _, err := s.takeHistory(ctx, t, origin, r, past); err != nil {
			return err
		}
	}
	for _, f := range inOrder(got) {
		done, err := s.taken(ctx, t.ID, r, f.ID())
		if err == nil && !done {
			err = s.take(ctx, t, origin, r, f)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// precedesJoin returns those of the fetched events that are older than a join of ours before which there is a gap: history of the time when this
// server was not in the room, not news. Their depth says so; who lies about it only makes his events old.
func (s *Service) precedesJoin(ctx context.Context, t *tenant.Tenant, r *Room, got map[id.Event]*event.Event) ([]*event.Event, error) {
	rows, err := s.DB.Query(ctx, `SELECT DISTINCT e.event_id FROM event_gap g JOIN event e ON e.tenant = g.tenant AND e.event = g.event
		WHERE g.tenant = $1 AND g.room = $2 AND e.type = 'm.room.member' AND NOT e.rejected LIMIT 1000`, int64(t.ID), r.NID)
	ids, err := database.All(rows, err, database.Column[id.Event])
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	joins, err := s.Events(ctx, t.ID, ids)
	if err != nil {
		return nil, err
	}
	depth := int64(0)
	for _, e := range joins {
		if e.Membership() == "join" && e.Sender().Server() == t.Name {
			depth = max(depth, e.Depth())
		}
	}
	var past []*event.Event
	for _, e := range got {
		if e.Depth() < depth {
			past = append(past, e)
		}
	}
	return past, nil
}

// beingCommitted returns those of the events that memory has before the database does, and those whose commit failed since they were found: they are
// about to come again.
func (s *Service) beingCommitted(ctx context.Context, t tenant.ID, r *Room, ids []id.Event) ([]id.Event, error) {
	known, err := s.known(ctx, t, r.NID, ids)
	if err != nil {
		return nil, err
	}
	var out []id.Event
	for _, eid := range ids {
		e := known[eid]
		if e == nil || e.Position == 0 && !e.Rejected && !e.SoftFailed && e.NID > 0 { // history has negative numbers
			out = append(out, eid)
		}
	}
	return out, nil
}

// cited returns the least order number of live events that cite an event which is only now coming, or nil. h is the head in the turn.
func (s *Service) cited(ctx context.Context, t tenant.ID, r *Room, h *head, eid id.Event) (*int64, error) {
	var least *int64
	err := s.DB.QueryRow(ctx, `SELECT MIN(g.topological) FROM event_gap g JOIN event e ON e.tenant = g.tenant AND e.event = g.event
		WHERE g.tenant = $1 AND g.room = $2 AND g.missing_id = $3 AND NOT e.rejected AND NOT e.soft_failed`, int64(t), r.NID, string(eid)).Scan(&least)
	if err == nil && least == nil && slices.Contains(h.gaps, eid) {
		least = &h.topological
	}
	return least, err
}

// unknownPrev returns the prev events of got and e that are neither in got nor stored.
func (s *Service) unknownPrev(ctx context.Context, t tenant.ID, r *Room, got map[id.Event]*event.Event, e *event.Event) ([]id.Event, error) {
	var ask []id.Event
	for _, p := range e.PrevEvents() {
		if got[p] == nil {
			ask = append(ask, p)
		}
	}
	for _, g := range got {
		for _, p := range g.PrevEvents() {
			if got[p] == nil {
				ask = append(ask, p)
			}
		}
	}
	known, err := s.known(ctx, t, r.NID, ask)
	if err != nil {
		return nil, err
	}
	var unknown []id.Event
	for _, a := range ask {
		if known[a] == nil {
			unknown = append(unknown, a)
		}
	}
	return unknown, nil
}

// citing returns the fetched events that cite one of the unknown ones: where the next request begins.
func citing(got map[id.Event]*event.Event, e *event.Event, unknown []id.Event) []id.Event {
	want := map[id.Event]bool{}
	for _, u := range unknown {
		want[u] = true
	}
	var out []id.Event
	for _, g := range got {
		for _, p := range g.PrevEvents() {
			if want[p] {
				out = append(out, g.ID())
				break
			}
		}
	}
	if len(out) == 0 {
		out = append(out, e.ID())
	}
	return out
}

// inOrder sorts events so that each comes after those of its prev events that are in the set.
func inOrder(set map[id.Event]*event.Event) []*event.Event {
	list := make([]*event.Event, 0, len(set))
	for _, e := range set {
		list = append(list, e)
	}
	sort.Slice(list, func(i, j int) bool {
		if list[i].Depth() != list[j].Depth() {
			return list[i].Depth() < list[j].Depth()
		}
		return list[i].ID() < list[j].ID()
	})
	placed := map[id.Event]bool{}
	out := make([]*event.Event, 0, len(list))
	for len(out) < len(list) { // depth lies sometimes: repeat until all are placed
		before := len(out)
		for _, e := range list {
			if placed[e.ID()] {
				continue
			}
			ready := true
			for _, p := range e.PrevEvents() {
				if set[p] != nil && !placed[p] {
					ready = false
				}
			}
			if ready {
				placed[e.ID()] = true
				out = append(out, e)
			}
		}
		if len(out) == before { // a cycle: impossible with hashes, possible with lies about ids in old versions
			break
		}
	}
	return out
}

// take appends one PDU whose prev events have been fetched as far as they could be.
func (s *Service) take(ctx context.Context, t *tenant.Tenant, origin id.Server, r *Room, e *event.Event) error {
	e, err := s.whole(ctx, t.ID, r, e)
	if err != nil {
		return err
	}
	rejected, err := s.checkAuthEvents(ctx, t, origin, r, e)
	if err != nil {
		return err
	}
	before, missing, err := s.stateBefore(ctx, t, origin, r, e)
	if err != nil {
		return err
	}
	if rejected == "" {
		if err := s.allowed(ctx, t.ID, e, before); err != nil {
			if !errors.Is(err, authrule.ErrNotAllowed) {
				return err
			}
			rejected = fmt.Sprintf("state before: %v", err)
		}
	}
	softFail := ""
	if rejected == "" {
		if e, softFail, err = s.judged(ctx, t, r, e); err != nil {
			return err
		}
	}
	_, err = s.appendJudged(ctx, t, r, e, before, judgement{missing: missing, rejected: rejected, softFailed: softFail})
	return err
}

// judgement is what has been found out about an event that somebody else signed, before it is committed.
type judgement struct {
	missing              []id.Event // prev events that are not here
	rejected, softFailed string     // reasons
	send                 bool
	txn                  *Txn
}

// appendJudged commits an event signed by somebody else, or one of ours that was built earlier; its bytes stay as they are.
func (s *Service) appendJudged(ctx context.Context, t *tenant.Tenant, r *Room, e *event.Event, before State, j judgement) (*Event, error) {
	again, fresh := false, isUnseen(ctx, e.ID())
	stored, err := s.commit(ctx, t, r, func(h *head) (addition, error) {
		if again { // the guard may have met this very event, come by another way, or one that cites it
			fresh = false
			if err := s.notStored(ctx, t.ID, e.ID()); err != nil {
				return addition{}, err
			}
		}
		again = true
		current, err := s.loadSnapshot(ctx, t.ID, h.snapshot)
		if err != nil {
			return addition{}, err
		}
		a := addition{event: e, rejected: j.rejected, softFailed: j.softFailed, missing: j.missing, send: j.send, txn: j.txn}
		if a.unseen = fresh && !slices.Contains(h.gaps, e.ID()); !a.unseen {
			if a.cited, err = s.cited(ctx, t.ID, r, h, e.ID()); err != nil {
				return addition{}, err
			}
		}
		// What is an end of the head has been committed when the guard finds that head.
		loose := slices.DeleteFunc(slices.Clone(e.PrevEvents()), func(p id.Event) bool {
			return slices.Contains(h.extremities, p) || slices.Contains(j.missing, p)
		})
		if a.unsure, err = s.beingCommitted(ctx, t.ID, r, loose); err != nil {
			return addition{}, err
		}
		a.before, a.stmts = current.next(t.ID, r.NID, before)
		if j.rejected == "" && j.softFailed == "" && a.before.number != current.number {
			// The current state is that of all ends of the graph that we know, this one included: behind a gap it knows what ours do not.
			now, err := s.resolve(ctx, t.ID, r, []State{current.state, before}, nil)
			if err != nil {
				return addition{}, err
			}
			if err := s.allowed(ctx, t.ID, e, now); err != nil {
				if !errors.Is(err, authrule.ErrNotAllowed) {
					return addition{}, err
				}
				a.softFailed = fmt.Sprintf("current state: %v", err)
			}
		}
		return a, nil
	})
	if errors.Is(err, errStored) {
		s.events.Invalidate(eventKey{t.ID, e.ID()})
		return s.Event(ctx, t.ID, e.ID())
	}
	return stored, err
}

// errStored: the event has become part of the room meanwhile.
var errStored = errors.New("event is stored already")

func (s *Service) notStored(ctx context.Context, t tenant.ID, eid id.Event) error {
	var n int
	err := s.DB.QueryRow(ctx, "SELECT COUNT(*) FROM event_id i JOIN event e ON e.tenant = i.tenant AND e.event = i.event WHERE i.tenant = $1 AND i.event_id = $2 AND NOT e.outlier",
		int64(t), string(eid)).Scan(&n)
	if err == nil && n > 0 {
		err = errStored
	}
	return err
}

// checkAuthEvents authorises an event by its own auth events, fetching those that are missing. It returns why the event is rejected, or "".
func (s *Service) checkAuthEvents(ctx context.Context, t *tenant.Tenant, origin id.Server, r *Room, e *event.Event) (string, error) {
	if reason := unstorable(e); reason != "" {
		return reason, nil
	}
	if err := s.fetchAuth(ctx, t, origin, r, e); err != nil {
		return "", err
	}
	found, err := s.Events(ctx, t.ID, e.AuthEvents())
	if err != nil {
		return "", err
	}
	state := authrule.Map{}
	var auth []*event.Event
	for _, a := range e.AuthEvents() {
		f := found[a]
		if f == nil {
			return "", mxerror.NotFound.With("Auth event %s could not be had.", a)
		}
		auth = append(auth, f.Event)
		if f.IsState() {
			state[f.Key()] = f.Event
		}
	}
	create, err := s.roomCreate(ctx, t.ID, r, state)
	if err != nil {
		return "", err
	}
	rejected := func(eid id.Event) bool { return found[eid] != nil && found[eid].Rejected }
	if err := authrule.CheckAuthEvents(e, auth, create, rejected); err != nil {
		return fmt.Sprintf("auth events: %v", err), nil
	}
	if err := authrule.Allowed(e, state, create); err != nil {
		return fmt.Sprintf("auth events: %v", err), nil
	}
	return "", nil
}

// roomCreate returns the create event that an event rests on: the one among its auth events, or, in version 12, the one that the room id names.
func (s *Service) roomCreate(ctx context.Context, t tenant.ID, r *Room, auth authrule.Map) (*event.Event, error) {
	if c := auth[event.Key{Type: "m.room.create"}]; c != nil {
		return c, nil
	}
	eid, ok := createID(r)
	if !ok {
		return nil, nil
	}
	c, err := s.Event(ctx, t, eid)
	if err != nil {
		return nil, fmt.Errorf("create event of %s: %w", r.ID, err)
	}
	return c.Event, nil
}

// createID returns the create event's id of a version 12 room, whose id is made of it.
func createID(r *Room) (id.Event, bool) {
	if _, named := r.ID.Server(); named {
		return "", false
	}
	return id.Event("$" + string(r.ID)[1:]), true
}

// fetchAuth makes sure that an event's auth events are stored, fetching missing ones with their own auth chains as outliers.
func (s *Service) fetchAuth(ctx context.Context, t *tenant.Tenant, origin id.Server, r *Room, e *event.Event) error {
	missing, err := s.unstored(ctx, t.ID, e.AuthEvents())
	if err != nil || len(missing) == 0 {
		return err
	}
	if s.Remote == nil {
		return mxerror.NotFound.With("Auth events are missing.")
	}
	chain, err := s.Remote.EventAuth(ctx, t, origin, r, e.ID())
	if err == nil {
		if err := s.storeOutliers(ctx, t, r, chain); err != nil {
			return err
		}
	}
	var last id.Event
	for n := 0; n < authFetches; n++ { // one by one what the answer left out
		missing, err := s.unstored(ctx, t.ID, e.AuthEvents())
		if err != nil || len(missing) == 0 {
			return err
		}
		if missing[0] == last { // it was had and could not be stored: what it rests on is nowhere, or itself
			break
		}
		last = missing[0]
		f, err := s.Remote.Event(ctx, t, origin, r, missing[0])
		if err != nil {
			return err
		}
		if f.ID() != missing[0] || f.Room() != r.ID {
			return mxerror.NotFound.With("Auth event %s could not be had.", missing[0])
		}
		if deeper, err := s.unstored(ctx, t.ID, f.AuthEvents()); err != nil {
			return err
		} else if len(deeper) > 0 {
			chain, err := s.Remote.EventAuth(ctx, t, origin, r, f.ID())
			if err != nil {
				return err
			}
			if err := s.storeOutliers(ctx, t, r, chain); err != nil {
				return err
			}
		}
		if err := s.storeOutliers(ctx, t, r, []*event.Event{f}); err != nil {
			return err
		}
	}
	return mxerror.NotFound.With("Auth events are missing and could not be had.")
}

// unstored returns which events are not stored in any form.
func (s *Service) unstored(ctx context.Context, t tenant.ID, ids []id.Event) ([]id.Event, error) {
	found, err := s.Events(ctx, t, ids)
	if err != nil {
		return nil, err
	}
	var out []id.Event
	for _, eid := range ids {
		if found[eid] == nil {
			out = append(out, eid)
		}
	}
	return out, nil
}

// stateBefore computes the state before an event from its prev events; for prev events that we lack it asks the origin for their state.
func (s *Service) stateBefore(ctx context.Context, t *tenant.Tenant, origin id.Server, r *Room, e *event.Event) (State, []id.Event, error) {
	known, err := s.known(ctx, t.ID, r.NID, e.PrevEvents())
	if err != nil {
		return nil, nil, err
	}
	var states []State
	var missing []id.Event
	for _, p := range e.PrevEvents() {
		if k := known[p]; k != nil {
			st, err := s.StateAfter(ctx, t.ID, k)
			if err != nil {
				return nil, nil, err
			}
			states = append(states, st)
		} else {
			missing = append(missing, p)
		}
	}
	if len(missing) > 0 {
		st, err := s.fetchState(ctx, t, origin, r, e)
		if err != nil {
			return nil, nil, err
		}
		states = append(states, st)
	}
	if len(states) == 0 {
		return State{}, nil, nil
	}
	st, err := s.resolve(ctx, t.ID, r, states, nil)
	return st, missing, err
}
