// SPDX-License-Identifier: Apache-2.0

package delayed

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

const base = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"

// Routes lists what clients ask about their delayed events. Holding one up needs no token but its id, which must go on working for somebody whose
// session has ended.
func (s *Service) Routes() []httpapi.Route {
	public := func(path string, handle httpapi.Handler) httpapi.Route {
		return httpapi.Route{Method: "POST", Path: path, Access: httpapi.Public, Rate: limit.Send, Shared: httpapi.ForProvider, Handle: handle}
	}
	return []httpapi.Route{
		{Method: "GET", Path: base, Access: httpapi.User, Rate: limit.Read, Handle: s.list},
		{Method: "GET", Path: base + "/{delayId}", Access: httpapi.User, Rate: limit.Read, Handle: s.get},
		public(base+"/{delayId}", s.actByBody),
		public(base+"/{delayId}/restart", s.act("restart")),
		public(base+"/{delayId}/cancel", s.act("cancel")),
		public(base+"/{delayId}/send", s.act("send")),
	}
}

// refusal is an error whose own code stands under the proposal's name.
func refusal(code, message string) *mxerror.Error {
	return mxerror.New(400, "M_UNKNOWN", message).WithExtra("org.matrix.msc4140.errcode", code)
}

// Delay keeps an event that a request wants to be sent later and returns its delay id. It returns nothing for a request without a delay. Package
// room calls it for PUT send and PUT state.
func (s *Service) Delay(ctx context.Context, r *httpapi.Request, d room.Draft) (string, error) {
	text := r.Query("org.matrix.msc4140.delay")
	if text == "" {
		return "", nil
	}
	delay, err := strconv.ParseInt(text, 10, 64)
	if err != nil || delay <= 0 {
		return "", mxerror.InvalidParam.With("The delay must be a positive number of milliseconds.")
	}
	if delay > maxDelay.Milliseconds() {
		return "", refusal("M_MAX_DELAY_EXCEEDED", "The requested delay exceeds the allowed maximum.").
			WithExtra("org.matrix.msc4140.max_delay", maxDelay.Milliseconds())
	}
	in, err := s.o.Rooms.Lookup(ctx, r.Tenant.ID, d.Room)
	if errors.Is(err, mxerror.NotFound) {
		return "", mxerror.Forbidden.With("You are not in this room.")
	}
	if err != nil {
		return "", err
	}
	m, err := s.o.Rooms.Membership(ctx, r.Tenant.ID, in.NID, d.Sender)
	if err != nil {
		return "", err
	}
	if m.Membership != "join" {
		return "", mxerror.Forbidden.With("You are not in this room.")
	}
	now := s.o.Now()
	due := now.Add(time.Duration(delay) * time.Millisecond)
	delayID, err := s.keep(ctx, r.Tenant.ID, in, d, delay, now, due)
	if err == nil {
		s.dueAt(due)
	}
	return delayID, err
}

// keep stores a delayed event. A repeated transaction returns the first one's id.
func (s *Service) keep(ctx context.Context, t tenant.ID, in *room.Room, d room.Draft, delay int64, now, due time.Time) (string, error) {
	content := jsontext.Value(bytes.Clone(d.Content))
	if err := content.Compact(); err != nil {
		return "", mxerror.NotJSON.With("The body is not JSON.")
	}
	var scope, txn, stateKey string
	var device id.Device
	if d.Txn != nil {
		device, scope, txn = d.Txn.Device, d.Txn.Scope, d.Txn.ID
	}
	if d.StateKey != nil {
		stateKey = *d.StateKey
	}
	delayID := newID(t)
	err := s.o.DB.Write(ctx, func(tx *database.Tx) error {
		var n int64
		if err := tx.QueryRow(ctx, "SELECT COUNT(*) FROM delayed_event WHERE tenant = $1 AND user_id = $2", int64(t), string(d.Sender)).Scan(&n); err != nil {
			return err
		}
		if n >= maxPending {
			return refusal("M_MAX_DELAYED_EVENTS_EXCEEDED", "Too many events of yours wait already.")
		}
		n, err := tx.Exec(ctx, `INSERT INTO delayed_event (tenant, delay_id, user_id, device, scope, txn_id, room, room_id, type, state, state_key, redacts,
			content, origin_ts, delay, running_since, send_at, claimed_until)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, 0) ON CONFLICT DO NOTHING`,
			int64(t), delayID, string(d.Sender), string(device), scope, txn, in.NID, string(in.ID), d.Type, d.StateKey != nil, stateKey, string(d.Redacts),
			string(content), d.Timestamp, delay, now.UnixMilli(), due.UnixMilli())
		if err != nil || n > 0 {
			return err
		}
		return tx.QueryRow(ctx, "SELECT delay_id FROM delayed_event WHERE tenant = $1 AND user_id = $2 AND device = $3 AND scope = $4 AND txn_id = $5",
			int64(t), string(d.Sender), string(device), scope, txn).Scan(&delayID)
	})
	return delayID, err
}

// shown is a delayed event as its sender sees it.
type shown struct {
	DelayID  string         `json:"delay_id"`
	RoomID   id.Room        `json:"room_id"`
	Type     string         `json:"type"`
	StateKey *string        `json:"state_key,omitzero"`
	Delay    int64          `json:"delay"`
	Since    int64          `json:"running_since"`
	Content  jsontext.Value `json:"content"`
}

func (w waiting) shown() shown {
	e := shown{DelayID: w.id, RoomID: w.room, Type: w.typ, Delay: w.delay, Since: w.since, Content: jsontext.Value(w.content)}
	if w.state {
		e.StateKey = &w.stateKey
	}
	return e
}

// listReply has the list under the names of the proposal's older and newer text.
type listReply struct {
	Events    []shown `json:"delayed_events"`
	Scheduled []shown `json:"scheduled"`
}

func (s *Service) list(ctx context.Context, r *httpapi.Request) (any, error) {
	rows, err := s.o.DB.Query(ctx, selectWaiting+"WHERE tenant = $1 AND user_id = $2 ORDER BY send_at, delay_id", int64(r.Tenant.ID), string(r.Session.User))
	found, err := database.All(rows, err, scanWaiting)
	list := make([]shown, len(found))
	for i, w := range found {
		list[i] = w.shown()
	}
	return listReply{list, list}, err
}

func (s *Service) get(ctx context.Context, r *httpapi.Request) (any, error) {
	rows, err := s.o.DB.Query(ctx, selectWaiting+"WHERE tenant = $1 AND user_id = $2 AND delay_id = $3", int64(r.Tenant.ID), string(r.Session.User), r.Var("delayId"))
	found, err := database.All(rows, err, scanWaiting)
	if err == nil && len(found) == 0 {
		err = unknown()
	}
	if err != nil {
		return nil, err
	}
	return found[0].shown(), nil
}

func unknown() error { return mxerror.NotFound.With("There is no such delayed event.") }

func (s *Service) actByBody(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		Action *string `json:"action"`
	}
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if q.Action == nil {
		return nil, mxerror.MissingParam.With("action is missing.")
	}
	switch *q.Action {
	case "restart", "cancel", "send":
		return s.act(*q.Action)(ctx, r)
	}
	return nil, mxerror.InvalidParam.With("action is restart, cancel or send.")
}

// act makes the handler of an action. On a client host that all tenants share the id names the tenant.
func (s *Service) act(action string) httpapi.Handler {
	return func(ctx context.Context, r *httpapi.Request) (any, error) {
		t, ok := httpapi.TokenTenant(r.Var("delayId"))
		if !ok || r.Tenant != nil && r.Tenant.ID != t {
			return nil, unknown()
		}
		key := []any{int64(t), r.Var("delayId")}
		now := s.o.Now()
		var n int64
		var err error
		switch action {
		case "cancel":
			n, err = s.o.DB.Exec(ctx, "DELETE FROM delayed_event WHERE tenant = $1 AND delay_id = $2 AND claimed_until <= $3", append(key, now.UnixMilli())...)
		case "send":
			n, err = s.o.DB.Exec(ctx, "UPDATE delayed_event SET send_at = $3 WHERE tenant = $1 AND delay_id = $2", append(key, now.UnixMilli())...)
			if err == nil && n > 0 {
				return nil, s.sendNow(ctx, t, r.Var("delayId"))
			}
		case "restart":
			// The timer finds at its time that the event is due later, and is set anew.
			n, err = s.o.DB.Exec(ctx, `UPDATE delayed_event SET running_since = CAST($3 AS BIGINT), send_at = CAST($3 AS BIGINT) + delay
				WHERE tenant = $1 AND delay_id = $2 AND claimed_until <= CAST($3 AS BIGINT)`, append(key, now.UnixMilli())...)
		}
		if err == nil && n == 0 {
			err = unknown()
		}
		return nil, err
	}
}

// sendNow sends an event on its client's wish, before that is answered.
func (s *Service) sendNow(ctx context.Context, t tenant.ID, delayID string) error {
	rows, err := s.o.DB.Query(ctx, selectWaiting+"WHERE tenant = $1 AND delay_id = $2", int64(t), delayID)
	found, err := database.All(rows, err, scanWaiting)
	if err != nil || len(found) == 0 {
		return err // the timer was faster
	}
	return s.deliver(ctx, found[0])
}
