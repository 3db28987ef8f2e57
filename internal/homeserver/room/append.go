// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/observe"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// addition is an event about to become part of a room, with what has been decided about it.
type addition struct {
	event *event.Event
	// before is the state before the event; stored says that its statements in stmts still have to be written.
	before snapshot
	stmts  []stream.Statement
	// rejected and softFailed are the reasons, empty when the event is neither (engine rule 11).
	rejected, softFailed string
	txn                  *Txn
	// send marks events that this tenant passes on to the room's servers (engine rule 20).
	send bool
	// own marks an event that was drafted in this very turn on this head: nothing stored can name it yet.
	own bool
	// unseen marks an event that is taken for new, and cited and redacted by nobody, without having looked: the guard does.
	unseen bool
	// missing are prev events that we do not have.
	missing []id.Event
	// unsure are prev events that are being committed: should that fail, they come again and find that they are cited.
	unsure []id.Event
	// cited is the least order number of live events that cite this one and came before it; nil when there is none. Such an event is no end of the
	// graph.
	cited *int64
	// fresh makes the event the room's only extremity beside those kept, whatever else was there: a join from outside, a creation.
	fresh bool
	kept  []id.Event
}

// Txn names a client's transaction (engine rule 5).
type Txn struct {
	Device id.Device
	// Scope is the endpoint with its room and type.
	Scope string
	ID    string
}

// built is a plan ready for the committer and what it leads to.
type built struct {
	plan    *stream.Plan
	head    *head
	event   *Event
	stored  *Event           // event with its position, once it is committed
	members map[id.User]bool // local and remote users whose membership changed → joined
	deltas  State            // the new current state, for the cache
}

// build makes the plan that appends an event to the room's head. The caller holds the turn.
func (s *Service) build(ctx context.Context, t *tenant.Tenant, r *Room, at base, a addition) (*built, error) {
	h := at.head
	after, stmts := a.before, a.stmts
	if a.event.IsState() && a.rejected == "" {
		var more []stream.Statement
		after, more = a.before.with(t.ID, r.NID, a.event.Key(), a.event.ID())
		stmts = append(slices.Clone(stmts), more...)
	}
	order, err := s.order(ctx, t.ID, r, h, a)
	if err != nil {
		return nil, err
	}
	e := &Event{Event: a.event, NID: database.NewID(), RoomNID: r.NID, Topological: order, Snapshot: a.before.number,
		SnapshotAfter: after.number, Rejected: a.rejected != "", SoftFailed: a.softFailed != ""}
	if a.txn != nil {
		e.TxnDevice, e.TxnID = a.txn.Device, a.txn.ID
	}
	b := &built{event: e, members: map[id.User]bool{}}
	live := !e.Rejected && !e.SoftFailed
	current, resolved, next := a.before, after, *h
	next.version = database.NewID()
	if live {
		if h.snapshot != current.number {
			if current, err = s.loadSnapshot(ctx, t.ID, h.snapshot); err != nil {
				return nil, err
			}
		}
		var more []stream.Statement
		next.extremities, resolved, more, err = s.nextState(ctx, t, r, h, current, a, after)
		if err != nil {
			return nil, err
		}
		stmts = append(stmts, more...)
		next.snapshot, next.topological, next.tips = resolved.number, max(h.topological, e.Topological), nil
		if len(a.missing)+len(a.unsure) > 0 {
			next.gaps = slices.Concat(h.gaps[max(0, len(h.gaps)-maxGaps):], a.missing, a.unsure)
		}
		if len(next.extremities) == 1 && a.cited == nil {
			next.tips = []tip{{e.Depth(), e.Topological}}
		}
		b.deltas = resolved.state
	}
	s.keepStates(t.ID, a, after, resolved)
	b.head = &next
	if len(stmts) > bulkStatements {
		if err := s.ahead(ctx, stmts); err != nil {
			return nil, err
		}
		stmts = nil
	}
	b.plan = &stream.Plan{Tenant: t.ID, Room: r.NID, Rows: stmts, Trace: observe.Trace(ctx), More: moreFollows(ctx)}
	s.guard(t, h, &next, a, b.plan)
	if err := s.eventRows(ctx, t, a, e, live, at.roster, b.plan); err != nil {
		return nil, err
	}
	if live && resolved.number != current.number {
		if err := s.stateRows(ctx, t, r, current, resolved, b, a); err != nil {
			return nil, err
		}
	}
	if a.send {
		b.plan.Outbox = destinations(t, at.roster, a.event)
	}
	if s.Stored != nil && live {
		if err := s.Stored(ctx, t.ID, e, b.deltas, b.plan); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// keepStates puts the states that are new into the cache.
func (s *Service) keepStates(t tenant.ID, a addition, after, resolved snapshot) {
	if len(a.stmts) > 0 {
		s.states.Set(snapshotKey{t, a.before.number}, a.before)
	}
	if after.number != a.before.number {
		s.states.Set(snapshotKey{t, after.number}, after)
	}
	if resolved.number != after.number {
		s.states.Set(snapshotKey{t, resolved.number}, resolved)
	}
}

// order is the event's own order number (engine rule 14).
func (s *Service) order(ctx context.Context, t tenant.ID, r *Room, h *head, a addition) (int64, error) {
	if !a.own {
		if a.cited != nil {
			return *a.cited - 1, nil
		}
		prev, err := s.known(ctx, t, r.NID, a.event.PrevEvents())
		return topological(h, prev, len(a.missing) > 0), err
	}
	tips, err := s.tips(ctx, t, h) // what an own event cites
	if err != nil {
		return 0, err
	}
	highest := tips[0].topological
	for _, p := range tips {
		highest = max(highest, p.topological)
	}
	return highest + 1, nil
}

// gapWidth is how many order numbers an event behind a gap leaves free, so that what is later reached backwards from it never gets among what was
// there before the gap: more than a room has events.
const gapWidth = 1 << 32

// topological is one more than the greatest number of the prev events; gap says that some of them are missing here.
func topological(h *head, prev map[id.Event]*Event, gap bool) int64 {
	if gap {
		return h.topological + gapWidth
	}
	if len(prev) == 0 {
		return h.topological + 1
	}
	n, first := int64(0), true
	for _, p := range prev {
		if first || p.Topological > n {
			n, first = p.Topological, false
		}
	}
	return n + 1
}

// nextState returns the forward extremities and the current state once a live event has been added.
func (s *Service) nextState(ctx context.Context, t *tenant.Tenant, r *Room, h *head, current snapshot, a addition, after snapshot) ([]id.Event, snapshot, []stream.Statement, error) {
	cites, err := s.succeeds(ctx, t.ID, r, h, a.event)
	if err != nil {
		return nil, snapshot{}, nil, err
	}
	extremities := slices.DeleteFunc(slices.Clone(h.extremities), func(x id.Event) bool { return slices.Contains(cites, x) })
	if a.fresh {
		extremities = a.kept
	}
	if len(extremities) == 0 && a.cited == nil {
		return []id.Event{a.event.ID()}, after, nil, nil
	}
	if a.cited != nil && len(extremities) == len(h.extremities) {
		return extremities, current, nil, nil // it fills a gap: the ends of the graph stay what they were
	}
	others, err := s.known(ctx, t.ID, r.NID, extremities)
	if err != nil {
		return nil, snapshot{}, nil, err
	}
	var states []State
	if a.cited == nil {
		states = append(states, after.state)
	}
	for _, x := range extremities {
		o, ok := others[x]
		if !ok {
			return nil, snapshot{}, nil, fmt.Errorf("forward extremity %s: %w", x, errHeadMoved)
		}
		st, err := s.StateAfter(ctx, t.ID, o)
		if err != nil {
			return nil, snapshot{}, nil, err
		}
		states = append(states, st)
	}
	st, err := s.resolve(ctx, t.ID, r, states, a.event)
	if err != nil {
		return nil, snapshot{}, nil, err
	}
	resolved, stmts := current.next(t.ID, r.NID, st)
	if maps.Equal(st, after.state) {
		resolved, stmts = after, nil
	}
	if a.cited != nil {
		return extremities, resolved, stmts, nil
	}
	return append(slices.Clone(extremities), a.event.ID()), resolved, stmts, nil
}

// guard compares the head that the plan was built on and the ids that must be new.
func (s *Service) guard(t *tenant.Tenant, h, next *head, a addition, p *stream.Plan) {
	query := moveHead
	args := []any{int64(t.ID), p.Room, h.version, next.version, encodeIDs(next.extremities), next.snapshot, next.topological}
	if !a.own {
		query += newEventID
		args = append(args, string(a.event.ID()))
		p.Unique = append(p.Unique, "event:"+string(a.event.ID()))
	}
	if a.unseen {
		query += notExpected
	}
	if a.txn != nil { // only events of the tenant's own users have one
		if a.own {
			query += newTxn
		} else {
			query += newTxnToo
		}
		args = append(args, string(a.event.Sender()), string(a.txn.Device), a.txn.Scope, a.txn.ID)
		p.Unique = append(p.Unique, "txn:"+string(a.event.Sender())+"\x00"+string(a.txn.Device)+"\x00"+a.txn.Scope+"\x00"+a.txn.ID)
		p.Rows = append(p.Rows, stream.Statement{SQL: "INSERT INTO txn (tenant, user_id, device, scope, txn_id, event_id, created) VALUES ($1, $2, $3, $4, $5, $6, $7)",
			Args: []any{int64(t.ID), string(a.event.Sender()), string(a.txn.Device), a.txn.Scope, a.txn.ID, string(a.event.ID()), s.now().UnixMilli()}})
	}
	p.Guard = &stream.Statement{SQL: query, Args: args}
}

// The guard: the head is still the one that the plan was built on, and the ids are new.
const (
	moveHead   = "UPDATE room_head SET version = $4, extremities = $5, snapshot = $6, topological = $7 WHERE tenant = $1 AND room = $2 AND version = $3"
	newEventID = " AND NOT EXISTS (SELECT 1 FROM event_id WHERE tenant = $1 AND event_id = $8)"
	newTxn     = " AND NOT EXISTS (SELECT 1 FROM txn WHERE tenant = $1 AND user_id = $8 AND device = $9 AND scope = $10 AND txn_id = $11)"
	newTxnToo  = " AND NOT EXISTS (SELECT 1 FROM txn WHERE tenant = $1 AND user_id = $9 AND device = $10 AND scope = $11 AND txn_id = $12)"
	// notExpected: nothing that came before it cites or redacts the event.
	notExpected = " AND NOT EXISTS (SELECT 1 FROM event_gap WHERE tenant = $1 AND room = $2 AND missing_id = $8)" +
		" AND NOT EXISTS (SELECT 1 FROM redaction WHERE tenant = $1 AND redacts = $8)"
)

// insertEvent stores an event row; insertEventID makes its id unique in the tenant.
const (
	insertEvent = `INSERT INTO event (tenant, event, room, event_id, position, topological, type, sender, origin_ts, snapshot, snapshot_after,
		rejected, soft_failed, outlier, reason, rule_class, thread, redacted_by, txn_device, txn_id, json)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)`
	insertEventID = "INSERT INTO event_id (tenant, event_id, room, event) VALUES ($1, $2, $3, $4)"
)

// eventRows adds the event's own rows to the plan: the event, its id, relations, gaps and what it redacts or is redacted by.
func (s *Service) eventRows(ctx context.Context, t *tenant.Tenant, a addition, e *Event, live bool, members *roster, p *stream.Plan) error {
	position := any(int64(0))
	if live {
		position = stream.At(0)
		p.Changes = append(p.Changes, stream.Change{Kind: stream.Timeline, Room: e.RoomNID})
	}
	relType, target := relation(e.Content())
	if relType == "m.thread" {
		e.Thread = target
	}
	if s.Class != nil && live {
		e.Class = s.Class(ctx, t.ID, e.Event, len(members.users))
	}
	if err := s.redactions(ctx, t, e, live, a.own || a.unseen, p); err != nil {
		return err
	}
	var promoted *Event
	if !a.own && !a.unseen {
		var err error
		if promoted, err = s.outlier(ctx, t.ID, e.ID()); err != nil {
			return err
		}
		p.Rows = append(p.Rows, stream.Statement{SQL: "DELETE FROM event_gap WHERE tenant = $1 AND room = $2 AND missing_id = $3", Args: []any{int64(t.ID), e.RoomNID, string(e.ID())}})
	}
	insert := stream.Statement{SQL: insertEvent, Args: []any{int64(t.ID), e.NID, e.RoomNID, string(e.ID()), position, e.Topological, column(e.Type()), string(e.Sender()),
		e.Timestamp(), e.Snapshot, e.SnapshotAfter, e.Rejected, e.SoftFailed, false, a.rejected + a.softFailed, e.Class, string(e.Thread), string(e.RedactedBy),
		string(e.TxnDevice), e.TxnID, e.JSON()}}
	if promoted != nil { // an outlier that arrives in the timeline takes its position now (engine rule 11)
		p.Guard.SQL = noEventIDCheck(p.Guard.SQL)
		e.NID = promoted.NID
		insert.Args[1] = e.NID
		p.Rows = append(p.Rows, stream.Statement{SQL: "DELETE FROM event WHERE tenant = $1 AND event = $2 AND outlier", Args: []any{int64(t.ID), e.NID}})
	} else {
		p.Rows = append(p.Rows, stream.Statement{SQL: insertEventID, Args: []any{int64(t.ID), string(e.ID()), e.RoomNID, e.NID}})
	}
	if live {
		p.Positioned = append(p.Positioned, insert)
	} else {
		p.Rows = append(p.Rows, insert)
	}
	if e.IsState() {
		p.Rows = append(p.Rows, pendingRow(t.ID, e.RoomNID, e.Event))
	}
	if target != "" {
		p.Rows = append(p.Rows, stream.Statement{SQL: "INSERT INTO event_relation (tenant, room, target_id, event, rel_type, type, sender) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant, target_id, event) DO NOTHING",
			Args: []any{int64(t.ID), e.RoomNID, string(target), e.NID, relType, column(e.Type()), string(e.Sender())}})
	}
	for _, u := range a.unsure {
		// Of an event in the same batch only the id is stored yet, since positioned rows come last: an id without an outlier is one that is here.
		p.Rows = append(p.Rows, stream.Statement{SQL: `INSERT INTO event_gap (tenant, room, missing_id, event, topological) SELECT $1, $2, $3, $4, $5
			WHERE NOT EXISTS (SELECT 1 FROM event_id i WHERE i.tenant = $1 AND i.event_id = $3
				AND NOT EXISTS (SELECT 1 FROM event e WHERE e.tenant = $1 AND e.event = i.event AND e.outlier))
			ON CONFLICT (tenant, room, missing_id, event) DO NOTHING`, Args: gapRow(t.ID, e, u).Args})
	}
	for _, m := range a.missing {
		p.Rows = append(p.Rows, gapRow(t.ID, e, m))
	}
	return nil
}

func gapRow(t tenant.ID, e *Event, missing id.Event) stream.Statement {
	return stream.Statement{SQL: "INSERT INTO event_gap (tenant, room, missing_id, event, topological) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant, room, missing_id, event) DO NOTHING",
		Args: []any{int64(t), e.RoomNID, string(missing), e.NID, e.Topological}}
}

// outlier returns the stored event when it is there as an outlier.
func (s *Service) outlier(ctx context.Context, t tenant.ID, eid id.Event) (*Event, error) {
	found, err := s.Events(ctx, t, []id.Event{eid})
	if err != nil {
		return nil, err
	}
	if e := found[eid]; e != nil && e.Outlier {
		return e, nil
	}
	return nil, nil
}

// noEventIDCheck lets a plan replace the outlier whose id is taken already. The parameter stays in use, as PostgreSQL demands.
func noEventIDCheck(guard string) string {
	const outlier = " AND EXISTS (SELECT 1 FROM event_id i JOIN event e ON e.tenant = i.tenant AND e.event = i.event WHERE i.tenant = $1 AND i.event_id = $8 AND e.outlier)"
	return replaceOnce(guard, newEventID, outlier)
}

// stateRows adds what the event changed in the current state: deltas and memberships.
func (s *Service) stateRows(ctx context.Context, t *tenant.Tenant, r *Room, current, resolved snapshot, b *built, a addition) error {
	before, e := current.state, a.event
	keys := resolved.since(current)
	if len(keys) == 0 {
		return nil
	}
	changed, err := s.changedEvents(ctx, t.ID, b.deltas, keys, e)
	if err != nil {
		return err
	}
	if err := s.alarm(ctx, t.ID, r, before, keys, changed, a); err != nil {
		return err
	}
	p := b.plan
	p.Changes[0].State = true
	for _, k := range keys {
		p.Positioned = append(p.Positioned, stream.Statement{SQL: "INSERT INTO state_delta (tenant, room, position, type, state_key, old_id, new_id) VALUES ($1, $2, $3, $4, $5, $6, $7)",
			Args: []any{int64(t.ID), r.NID, stream.At(0), k.Type, k.StateKey, string(before[k]), string(b.deltas[k])}})
		if k.Type != "m.room.member" {
			continue
		}
		membership := "leave"
		if m := changed[k]; m != nil {
			membership = m.Membership()
		}
		user := id.User(k.StateKey)
		b.members[user] = membership == "join"
		if user.Server() == t.Name {
			p.Changes[0].Users = append(p.Changes[0].Users, user)
		}
		var stripped []jsontext.Value
		if membership == "invite" && user.Server() == t.Name {
			if stripped, err = s.Stripped(ctx, t.ID, before, changed[k]); err != nil {
				return err
			}
		}
		p.Positioned = append(p.Positioned, memberRow(t.ID, user, r.NID, membership, b.deltas[k], stream.At(0), stripped))
	}
	return nil
}

// memberRow writes a user's membership; position may be [stream.At].
func memberRow(t tenant.ID, user id.User, room int64, membership string, eid id.Event, position any, stripped []jsontext.Value) stream.Statement {
	raw := []byte("[]")
	if len(stripped) > 0 {
		var err error
		if raw, err = json.Marshal(stripped); err != nil {
			raw = []byte("[]") // jsontext values that were parsed always encode
		}
	}
	return stream.Statement{SQL: `INSERT INTO membership (tenant, user_id, room, membership, event_id, position, forgotten, stripped) VALUES ($1, $2, $3, $4, $5, $6, FALSE, $7)
		ON CONFLICT (tenant, user_id, room) DO UPDATE SET membership = excluded.membership, event_id = excluded.event_id, position = excluded.position, forgotten = FALSE, stripped = excluded.stripped`,
		Args: []any{int64(t), string(user), room, membership, string(eid), position, raw}}
}

// changedEvents returns the events that now hold the changed keys; e itself is not stored yet.
func (s *Service) changedEvents(ctx context.Context, t tenant.ID, state State, keys []event.Key, e *event.Event) (map[event.Key]*event.Event, error) {
	out := map[event.Key]*event.Event{}
	var rest []event.Key
	for _, k := range keys {
		if state[k] == e.ID() {
			out[k] = e
		} else {
			rest = append(rest, k)
		}
	}
	found, err := s.pick(ctx, t, state, rest)
	if err != nil {
		return nil, err
	}
	for k, f := range found {
		out[k] = f.Event
	}
	return out, nil
}

// destinations are the servers in the room before the event, and the target's server for a membership event (engine rule 20).
func destinations(t *tenant.Tenant, members *roster, e *event.Event) []id.Server {
	set := map[id.Server]bool{}
	for server := range members.servers {
		set[server] = true
	}
	if e.Type() == "m.room.member" && e.IsState() && e.Membership() != "invite" { // invites go by their handshake (engine rule 22)
		set[id.User(*e.StateKey()).Server()] = true
	}
	delete(set, t.Name)
	return slices.Sorted(maps.Keys(set))
}

// commit appends an event: it takes the turn, lets prepare decide on the current head, hands the plan over, and waits. A plan that lost its
// guard is prepared again. The answer's event is the stored one.
func (s *Service) commit(ctx context.Context, t *tenant.Tenant, r *Room, prepare func(h *head) (addition, error)) (*Event, error) {
	ctx = context.WithoutCancel(ctx) // half an append helps nobody; every step is bounded
	sl := s.heads.slot(t.ID, r)
	for attempt := 0; ; attempt++ {
		b, lineage, pending, err := s.turn(ctx, t, sl, prepare)
		if err == nil {
			handedOver(ctx)
			_, err = pending.Wait(ctx)
			sl.flying.Add(-1)
			if err == nil {
				s.indexSoon(ctx, t.ID, sl, b.event)
				return b.stored, nil
			}
			key := eventKey{t.ID, b.event.ID()}
			s.events.Invalidate(key)
			s.events.end(key, b.event)
		} else if !errors.Is(err, errHeadMoved) && !errors.Is(err, errMissingState) {
			return nil, err
		}
		sl.drop(lineage)
		s.metrics.rebuilt.Inc()
		again := errors.Is(err, stream.ErrStale) || errors.Is(err, errHeadMoved) || errors.Is(err, errMissingState)
		if !again || attempt == maxAttempts {
			return nil, fmt.Errorf("append to %s: %w", r.ID, err)
		}
	}
}

// kept puts the stored event into the cache, with its position.
func (s *Service) kept(t *tenant.Tenant, b *built, a addition, first int64) {
	stored := *b.event // the one in the cache is shared already
	if len(b.plan.Changes) > 0 {
		stored.Position = first
	}
	key := eventKey{t.ID, stored.ID()}
	s.events.Set(key, &stored)
	s.events.end(key, b.event)
	b.stored = &stored
	s.metrics.committed(&stored, stored.Sender().Server() == t.Name, len(a.missing) > 0)
}

// maxAttempts is how often an event is built anew on a head that somebody else moved.
const maxAttempts = 8

// turn builds one event on the head and hands its plan to the committer; the turn ends before the commit (engine rule 4).
func (s *Service) turn(ctx context.Context, t *tenant.Tenant, sl *slot, prepare func(*head) (addition, error)) (*built, int, *stream.Pending, error) {
	if err := sl.take(ctx); err != nil {
		return nil, 0, nil, err
	}
	defer sl.release()
	at, err := s.loaded(ctx, t, sl)
	if err != nil {
		return nil, 0, nil, err
	}
	a, err := prepare(at.head)
	if err != nil {
		return nil, at.lineage, nil, err
	}
	b, err := s.build(ctx, t, sl.room, at, a)
	if err != nil {
		return nil, at.lineage, nil, err
	}
	// The next turn reads this event before it is committed; in room versions 1 and 2 for its hash. So does what follows a PDU in its transaction. It is
	// put there before the committer has it, who puts the one with its position in its place.
	if b.event.IsState() || !a.own || len(b.head.tips) == 0 || sl.room.Version.EventIDs == roomversion.EventIDInEvent {
		s.events.begin(eventKey{t.ID, b.event.ID()}, b.event)
	}
	b.plan.Committed = func(first int64) { s.kept(t, b, a, first) }
	sl.flying.Add(1)
	pending := s.Committer.Submit(b.plan)
	sl.advance(at, b.head, t.Name, b.members)
	return b, at.lineage, pending, nil
}
