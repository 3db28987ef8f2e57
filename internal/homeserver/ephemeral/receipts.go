// SPDX-License-Identifier: Apache-2.0

package ephemeral

import (
	"context"
	"database/sql"
	"errors"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// The kinds of receipts, and the read marker that is account data.
const (
	Read        = "m.read"
	ReadPrivate = "m.read.private"
	fullyRead   = "m.fully_read"
	// MainThread names the room's timeline outside of threads.
	MainThread = "main"
)

// receipt is one receipt on its way into the store.
type receipt struct {
	room                           int64
	user                           id.User
	kind, thread                   string
	event                          id.Event
	position, topological, arrival int64
	ts                             int64
}

func (s *Service) postReceipt(ctx context.Context, r *httpapi.Request) (any, error) {
	var body struct {
		Thread jsontext.Value `json:"thread_id"`
	}
	if err := r.DecodeOptional(&body); err != nil {
		return nil, err
	}
	thread, err := readThread(body.Thread)
	if err != nil {
		return nil, err
	}
	kind, eid := r.Var("receiptType"), id.Event(r.Var("eventId"))
	if kind == fullyRead && thread != "" {
		return nil, mxerror.InvalidParam.With("m.fully_read knows no threads")
	}
	found, err := s.joined(ctx, r)
	if err != nil {
		return nil, err
	}
	return nil, s.mark(ctx, r, found, thread, map[string]id.Event{kind: eid})
}

// readThread reads thread_id of a body: absent, or a non-empty string.
func readThread(raw jsontext.Value) (string, error) {
	if raw == nil {
		return "", nil
	}
	var thread string
	if json.Unmarshal(raw, &thread) != nil || raw.Kind() != '"' || thread == "" {
		return "", mxerror.InvalidParam.With("thread_id must be a non-empty string")
	}
	return thread, nil
}

func (s *Service) postMarkers(ctx context.Context, r *httpapi.Request) (any, error) {
	var body struct {
		FullyRead   id.Event `json:"m.fully_read"`
		Read        id.Event `json:"m.read"`
		ReadPrivate id.Event `json:"m.read.private"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	found, err := s.joined(ctx, r)
	if err != nil {
		return nil, err
	}
	marks := map[string]id.Event{}
	for kind, eid := range map[string]id.Event{fullyRead: body.FullyRead, Read: body.Read, ReadPrivate: body.ReadPrivate} {
		if eid != "" {
			marks[kind] = eid
		}
	}
	return nil, s.mark(ctx, r, found, "", marks)
}

// mark stores what the caller has read, in one plan. Receipts that do not move forward change nothing.
func (s *Service) mark(ctx context.Context, r *httpapi.Request, in *room.Room, thread string, marks map[string]id.Event) error {
	plan := &stream.Plan{Tenant: r.Tenant.ID}
	public := false
	for _, kind := range []string{fullyRead, Read, ReadPrivate} {
		eid, ok := marks[kind]
		if !ok {
			continue
		}
		delete(marks, kind)
		if !strings.HasPrefix(string(eid), "$") {
			return mxerror.InvalidParam.With("%q is no event id", eid)
		}
		if kind == fullyRead {
			if err := s.markFullyRead(ctx, r, in, eid, plan); err != nil {
				return err
			}
			continue
		}
		c := receipt{room: in.NID, user: r.Session.User, kind: kind, thread: thread, event: eid, ts: s.o.Now().UnixMilli()}
		if err := s.locate(ctx, r.Tenant.ID, &c, true); err != nil {
			return err
		}
		forward, err := s.forward(ctx, r.Tenant.ID, &c)
		if err != nil {
			return err
		}
		if !forward {
			continue
		}
		c.add(plan)
		public = public || kind == Read
	}
	if len(marks) > 0 {
		return mxerror.InvalidParam.With("the receipt type must be m.read, m.read.private or m.fully_read")
	}
	if len(plan.Changes) == 0 {
		return nil
	}
	if public {
		var err error
		if plan.Outbox, err = s.others(ctx, r.Tenant, in.NID); err != nil {
			return err
		}
	}
	_, err := s.o.Committer.Commit(ctx, plan)
	return err
}

// markFullyRead adds the read marker, which is room account data.
func (s *Service) markFullyRead(ctx context.Context, r *httpapi.Request, in *room.Room, eid id.Event, plan *stream.Plan) error {
	if _, err := s.o.Rooms.EventOf(ctx, r.Tenant.ID, in.NID, eid); err != nil {
		if errors.Is(err, mxerror.NotFound) {
			return mxerror.InvalidParam.With("the event is not in this room")
		}
		return err
	}
	content, err := json.Marshal(map[string]id.Event{"event_id": eid})
	if err != nil {
		return err
	}
	account.AddAccountData(plan, r.Session.User, in.ID, fullyRead, content)
	return nil
}

// locate fills in the event's place. An unknown event keeps none; one of another room or, when threads are checked, of another thread is
// refused.
func (s *Service) locate(ctx context.Context, t tenant.ID, c *receipt, checkThread bool) error {
	e, err := s.o.Rooms.EventOf(ctx, t, c.room, c.event)
	if errors.Is(err, mxerror.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	c.position, c.topological, c.arrival = e.Position, e.Topological, e.NID
	if !checkThread || c.thread == "" {
		return nil
	}
	thread, err := s.threadOf(ctx, t, e)
	if err != nil {
		return err
	}
	if c.thread != thread && !(c.thread == string(e.ID()) && thread == MainThread) {
		return mxerror.InvalidParam.With("the event is not part of this thread")
	}
	return nil
}

// maxHops is how far relations are followed to find an event's thread.
const maxHops = 3

// threadOf returns the root of the thread that an event is part of, or [MainThread].
func (s *Service) threadOf(ctx context.Context, t tenant.ID, e *room.Event) (string, error) {
	for range maxHops + 1 {
		var c struct {
			RelatesTo struct {
				Type  string   `json:"rel_type"`
				Event id.Event `json:"event_id"`
			} `json:"m.relates_to"`
		}
		if json.Unmarshal(e.Content(), &c, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) != nil || c.RelatesTo.Event == "" || c.RelatesTo.Type == "" {
			return MainThread, nil
		}
		if c.RelatesTo.Type == "m.thread" {
			return string(c.RelatesTo.Event), nil
		}
		parent, err := s.o.Rooms.EventOf(ctx, t, e.RoomNID, c.RelatesTo.Event)
		if errors.Is(err, mxerror.NotFound) {
			return MainThread, nil
		}
		if err != nil {
			return "", err
		}
		e = parent
	}
	return MainThread, nil
}

// forward says whether a receipt is new: not on the event that is marked, nor before it.
func (s *Service) forward(ctx context.Context, t tenant.ID, c *receipt) (bool, error) {
	var eid id.Event
	var topological, nid int64
	err := s.o.DB.QueryRow(ctx, "SELECT event_id, topological, arrival FROM receipt WHERE tenant = $1 AND room = $2 AND user_id = $3 AND kind = $4 AND thread = $5",
		int64(t), c.room, string(c.user), c.kind, c.thread).Scan(&eid, &topological, &nid)
	if errors.Is(err, sql.ErrNoRows) {
		return true, nil
	}
	if err != nil || eid == c.event {
		return false, err
	}
	if nid == 0 || c.arrival == 0 { // one of the two events is not known here
		return true, nil
	}
	return c.topological > topological || c.topological == topological && c.arrival > nid, nil
}

// add adds the receipt to a plan. A private one concerns nobody but its owner.
func (c *receipt) add(plan *stream.Plan) {
	change := stream.Change{Kind: stream.Receipt, Room: c.room, Users: []id.User{c.user}}
	if c.kind == ReadPrivate {
		change.Room = 0
	}
	plan.Positioned = append(plan.Positioned, stream.Statement{
		SQL: `INSERT INTO receipt (tenant, room, user_id, kind, thread, event_id, event_position, topological, arrival, ts, position)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
			ON CONFLICT (tenant, room, user_id, kind, thread) DO UPDATE SET event_id = excluded.event_id, event_position = excluded.event_position,
			topological = excluded.topological, arrival = excluded.arrival, ts = excluded.ts, position = excluded.position`,
		Args: []any{int64(plan.Tenant), c.room, string(c.user), c.kind, c.thread, string(c.event), c.position, c.topological, c.arrival, c.ts, stream.At(len(plan.Changes))},
	})
	plan.Changes = append(plan.Changes, change)
}

// receiptData is the data of one receipt, in events and EDUs.
type receiptData struct {
	TS     int64  `json:"ts"`
	Thread string `json:"thread_id,omitzero"`
}

// receiptEDU is the content of an m.receipt EDU: room → kind → user.
type receiptEDU map[id.Room]map[string]map[id.User]struct {
	Events []id.Event  `json:"event_ids"`
	Data   receiptData `json:"data"`
}

func (c *receipt) edu(rid id.Room) jsontext.Value {
	content := receiptEDU{rid: {c.kind: {c.user: {Events: []id.Event{c.event}, Data: receiptData{c.ts, c.thread}}}}}
	raw, err := json.Marshal(content, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		panic(err) // strings and numbers always encode
	}
	return raw
}

// maxReceipts bounds the receipts taken from one EDU.
const maxReceipts = 1000

// ReceiveReceipts takes an m.receipt EDU. What does not fit (unknown rooms, users of other servers, private receipts) is passed over.
func (s *Service) ReceiveReceipts(ctx context.Context, t *tenant.Tenant, origin id.Server, content jsontext.Value) error {
	var edu receiptEDU
	if json.Unmarshal(content, &edu, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) != nil {
		return nil
	}
	plan := &stream.Plan{Tenant: t.ID}
	for rid, kinds := range edu {
		found, err := s.o.Rooms.Lookup(ctx, t.ID, rid)
		if errors.Is(err, mxerror.NotFound) {
			continue
		}
		if err != nil {
			return err
		}
		for user, given := range kinds[Read] {
			if user.Server() != origin || len(given.Events) == 0 || len(plan.Changes) >= maxReceipts {
				continue
			}
			m, err := s.o.Rooms.Membership(ctx, t.ID, found.NID, user)
			if err != nil {
				return err
			}
			if m.Membership != "join" {
				continue
			}
			c := receipt{room: found.NID, user: user, kind: Read, thread: given.Data.Thread, event: given.Events[0], ts: given.Data.TS}
			if len(c.thread) > 255 || len(c.event) > 255 {
				continue
			}
			if err := s.locate(ctx, t.ID, &c, false); err != nil {
				return err
			}
			forward, err := s.forward(ctx, t.ID, &c)
			if err != nil {
				return err
			}
			if forward {
				c.add(plan)
			}
		}
	}
	if len(plan.Changes) == 0 {
		return nil
	}
	_, err := s.o.Committer.Commit(ctx, plan)
	return err
}

// RoomsWithReceipts returns in which of the rooms there are receipts that the user may see with positions in (from, to].
func (s *Service) RoomsWithReceipts(ctx context.Context, t tenant.ID, user id.User, rooms []int64, from, to int64) (map[int64]bool, error) {
	out := map[int64]bool{}
	for len(rooms) > 0 {
		n := min(len(rooms), database.MaxMarks)
		args := []any{int64(t), string(user), from, to}
		for _, r := range rooms[:n] {
			args = append(args, r)
		}
		rows, err := s.o.DB.Query(ctx, `SELECT DISTINCT room FROM receipt WHERE tenant = $1 AND position > $3 AND position <= $4
			AND (kind = 'm.read' OR user_id = $2) AND room IN (`+database.Marks(5, n)+")", args...)
		list, err := database.All(rows, err, database.Column[int64])
		if err != nil {
			return nil, err
		}
		for _, r := range list {
			out[r] = true
		}
		rooms = rooms[n:]
	}
	return out, nil
}

// OwnReceiptRooms returns the rooms in which a user's own receipts changed with positions in (from, to].
func (s *Service) OwnReceiptRooms(ctx context.Context, t tenant.ID, user id.User, from, to int64) ([]int64, error) {
	rows, err := s.o.DB.Query(ctx, "SELECT DISTINCT room FROM receipt WHERE tenant = $1 AND user_id = $2 AND position > $3 AND position <= $4",
		int64(t), string(user), from, to)
	return database.All(rows, err, database.Column[int64])
}

// ReceiptRooms returns the rooms in which anybody's receipts changed with positions in (from, to]. It looks at all of the tenant's receipts.
func (s *Service) ReceiptRooms(ctx context.Context, t tenant.ID, from, to int64) ([]int64, error) {
	rows, err := s.o.DB.Query(ctx, "SELECT DISTINCT room FROM receipt WHERE tenant = $1 AND position > $2 AND position <= $3", int64(t), from, to)
	return database.All(rows, err, database.Column[int64])
}

// receiptEvent is the content of an m.receipt event: event → kind → user.
type receiptEvent map[id.Event]map[string]map[id.User]receiptData

// ReceiptsSince returns for each of the rooms the contents of m.receipt events with what changed in (from, to]; rooms without are absent. There
// is more than one where a user marked the same event in several threads. Private receipts are shown to their owner alone.
func (s *Service) ReceiptsSince(ctx context.Context, t tenant.ID, user id.User, rooms []int64, from, to int64) (map[int64][]jsontext.Value, error) {
	return s.ReceiptsOf(ctx, t, rooms, from, to, func(u id.User) bool { return u == user })
}

// ReceiptsOf is [Service.ReceiptsSince] for a reader who is several users: private receipts are shown of those that own answers true for.
func (s *Service) ReceiptsOf(ctx context.Context, t tenant.ID, rooms []int64, from, to int64, own func(id.User) bool) (map[int64][]jsontext.Value, error) {
	contents := map[int64][]receiptEvent{}
	for len(rooms) > 0 {
		n := min(len(rooms), database.MaxMarks)
		args := []any{int64(t), from, to}
		for _, r := range rooms[:n] {
			args = append(args, r)
		}
		rows, err := s.o.DB.Query(ctx, `SELECT room, user_id, kind, thread, event_id, ts FROM receipt WHERE tenant = $1 AND position > $2 AND position <= $3
			AND room IN (`+database.Marks(4, n)+") ORDER BY position", args...)
		_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
			var c receipt
			if err := rows.Scan(&c.room, &c.user, &c.kind, &c.thread, &c.event, &c.ts); err != nil {
				return struct{}{}, err
			}
			if c.kind == Read || own(c.user) {
				contents[c.room] = c.put(contents[c.room])
			}
			return struct{}{}, nil
		})
		if err != nil {
			return nil, err
		}
		rooms = rooms[n:]
	}
	out := make(map[int64][]jsontext.Value, len(contents))
	for r, list := range contents {
		for _, content := range list {
			raw, err := json.Marshal(content, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
			if err != nil {
				return nil, err
			}
			out[r] = append(out[r], raw)
		}
	}
	return out, nil
}

// put adds the receipt to the first event whose place for it is free.
func (c *receipt) put(list []receiptEvent) []receiptEvent {
	for _, events := range list {
		if _, taken := events[c.event][c.kind][c.user]; !taken {
			events.put(c)
			return list
		}
	}
	events := receiptEvent{}
	events.put(c)
	return append(list, events)
}

func (events receiptEvent) put(c *receipt) {
	if events[c.event] == nil {
		events[c.event] = map[string]map[id.User]receiptData{}
	}
	if events[c.event][c.kind] == nil {
		events[c.event][c.kind] = map[id.User]receiptData{}
	}
	events[c.event][c.kind][c.user] = receiptData{c.ts, c.thread}
}

// MarkersIn is Markers for several rooms at once; rooms without any are absent.
func (s *Service) MarkersIn(ctx context.Context, t tenant.ID, user id.User, rooms []int64) (map[int64]map[string]int64, error) {
	out := map[int64]map[string]int64{}
	for len(rooms) > 0 {
		n := min(len(rooms), database.MaxMarks)
		args := []any{int64(t), string(user)}
		for _, r := range rooms[:n] {
			args = append(args, r)
		}
		rows, err := s.o.DB.Query(ctx, "SELECT room, thread, event_position FROM receipt WHERE tenant = $1 AND user_id = $2 AND room IN ("+database.Marks(3, n)+")", args...)
		_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
			var room, position int64
			var thread string
			err := rows.Scan(&room, &thread, &position)
			if out[room] == nil {
				out[room] = map[string]int64{}
			}
			out[room][thread] = max(out[room][thread], position)
			return struct{}{}, err
		})
		if err != nil {
			return nil, err
		}
		rooms = rooms[n:]
	}
	return out, nil
}

// Markers are the positions of the room's timeline up to which a user has read: the farther of public and private receipts. Key "" is the whole
// room, [MainThread] what is outside of threads, others are the roots of threads.
func (s *Service) Markers(ctx context.Context, t tenant.ID, user id.User, roomNID int64) (map[string]int64, error) {
	rows, err := s.o.DB.Query(ctx, "SELECT thread, event_position FROM receipt WHERE tenant = $1 AND room = $2 AND user_id = $3", int64(t), roomNID, string(user))
	out := map[string]int64{}
	_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
		var thread string
		var position int64
		err := rows.Scan(&thread, &position)
		out[thread] = max(out[thread], position)
		return struct{}{}, err
	})
	return out, err
}
