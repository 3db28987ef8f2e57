// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"github.com/konsil-health/konsil/internal/foundation/cache"
	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

const (
	// incomingTime bounds the work on one transaction, whether or not its sender waits.
	incomingTime = 5 * time.Minute
	// incomingKept is how long the result of a transaction is remembered (engine rule 12).
	incomingKept = 24 * time.Hour
	// roomsAtOnce is how many rooms of one transaction are worked on side by side; within a room the order is kept.
	roomsAtOnce = 4
)

// incoming joins a transaction that arrives again while it is being worked on.
type incoming struct {
	flight singleflight.Group
	count  atomic.Int64 // of stored results, for the occasional clean-up
	// failures counts how often an event has failed us, so that one that always does is given up at last.
	failures cache.Cache[failedEvent, int]

	mu       sync.Mutex
	underWay map[route]int // transactions of a server to a tenant
}

// incomingRetry is how long a server with too many transactions under way is asked to wait.
const incomingRetry = time.Second

// begin counts a transaction of a server; false when it has as many under way as it may.
func (in *incoming) begin(r route, most int) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.underWay[r] >= most {
		return false
	}
	in.underWay[r]++
	return true
}

func (in *incoming) end(r route) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.underWay[r]--; in.underWay[r] == 0 {
		delete(in.underWay, r)
	}
}

type failedEvent struct {
	tenant tenant.ID
	event  id.Event
}

// maxFailures is how often a transaction is refused because of one event that this server cannot work on.
const maxFailures = 5

func newIncoming() *incoming {
	return &incoming{underWay: make(map[route]int), failures: cache.New(cache.Options[failedEvent, int]{Entries: 10_000})}
}

// failed counts a failure and says whether the event is to be given up.
func (in *incoming) failed(t tenant.ID, eid id.Event) bool {
	n, _ := in.failures.Get(failedEvent{t, eid})
	in.failures.Set(failedEvent{t, eid}, n+1)
	return n+1 >= maxFailures
}

// inbound is a transaction as it came.
type inbound struct {
	Origin id.Server        `json:"origin"`
	PDUs   []jsontext.Value `json:"pdus"`
	EDUs   []struct {
		Type    string         `json:"edu_type"`
		Content jsontext.Value `json:"content"`
	} `json:"edus"`
}

// parseTransaction reads the body of PUT /send.
func parseTransaction(origin id.Server, body []byte) (*inbound, error) {
	if !jsontext.Value(body).IsValid(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) {
		return nil, mxerror.NotJSON
	}
	var in inbound
	if err := json.Unmarshal(body, &in, decodeOptions); err != nil {
		return nil, mxerror.BadJSON.With("The transaction does not have the expected form.")
	}
	switch {
	case in.Origin != "" && in.Origin != origin:
		return nil, mxerror.Forbidden.With("The transaction says that it comes from another server.")
	case len(in.PDUs) > maxPDUs:
		return nil, mxerror.BadJSON.With("A transaction holds at most %d PDUs.", maxPDUs)
	case len(in.EDUs) > maxEDUs:
		return nil, mxerror.BadJSON.With("A transaction holds at most %d EDUs.", maxEDUs)
	}
	return &in, nil
}

// pduResult says what became of one PDU; empty when all is well.
type pduResult struct {
	Error string `json:"error,omitempty"`
}

type transactionResult struct {
	PDUs map[id.Event]pduResult `json:"pdus"`
}

// receiveTransaction takes in a transaction. It answers when everything durable in it is (engine rule 12), and the same again when the
// transaction comes again.
func (s *Service) receiveTransaction(ctx context.Context, r *httpapi.Request) (any, error) {
	if s.Rooms == nil {
		return nil, mxerror.Unrecognized
	}
	in, err := parseTransaction(r.Origin, r.Body)
	if err != nil {
		return nil, err
	}
	t, origin, txn := r.Tenant, r.Origin, r.Var("txnId")
	if len(txn) > 255 {
		return nil, mxerror.InvalidParam.With("The transaction id is too long.")
	}
	result := s.incoming.flight.DoChan(fmt.Sprintf("%d %s %s", t.ID, origin, txn), func() (any, error) {
		if !s.incoming.begin(route{t.ID, origin}, s.config.OriginTransactions) {
			return nil, mxerror.LimitExceeded.With("Too many transactions at once.").WithExtra("retry_after_ms", incomingRetry.Milliseconds())
		}
		defer s.incoming.end(route{t.ID, origin})
		// The sender may go away; what it sent is taken in all the same, so that its next attempt finds the result.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), incomingTime)
		defer cancel()
		return s.takeIn(ctx, t, origin, txn, in)
	})
	select {
	case r := <-result:
		return r.Val, r.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *Service) takeIn(ctx context.Context, t *tenant.Tenant, origin id.Server, txn string, in *inbound) (any, error) {
	var stored string
	err := s.DB.QueryRow(ctx, "SELECT result FROM federation_incoming WHERE tenant = $1 AND origin = $2 AND txn_id = $3",
		int64(t.ID), string(origin), txn).Scan(&stored)
	if err == nil {
		return jsontext.Value(stored), nil
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return nil, err
	}
	result, err := s.receivePDUs(ctx, t, origin, in.PDUs)
	if err != nil {
		return nil, err
	}
	if err := s.receiveEDUs(ctx, t, origin, in); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(result)
	if err != nil {
		return nil, err
	}
	return jsontext.Value(raw), s.storeResult(ctx, t, origin, txn, raw)
}

func (s *Service) storeResult(ctx context.Context, t *tenant.Tenant, origin id.Server, txn string, raw []byte) error {
	now := s.now()
	tidy := s.incoming.count.Add(1)%64 == 0
	return s.DB.Write(ctx, func(tx *database.Tx) error {
		if tidy {
			if _, err := tx.Exec(ctx, "DELETE FROM federation_incoming WHERE tenant = $1 AND origin = $2 AND received < $3",
				int64(t.ID), string(origin), now.Add(-incomingKept).UnixMilli()); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `INSERT INTO federation_incoming (tenant, origin, txn_id, result, received) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (tenant, origin, txn_id) DO NOTHING`, int64(t.ID), string(origin), txn, string(raw), now.UnixMilli())
		return err
	})
}

// receivePDUs takes in the PDUs of a transaction, rooms side by side. A PDU that is refused has its reason in the result; an error means that
// this server could not do its work, and the whole transaction has to come again.
func (s *Service) receivePDUs(ctx context.Context, t *tenant.Tenant, origin id.Server, raw []jsontext.Value) (*transactionResult, error) {
	result := &transactionResult{PDUs: make(map[id.Event]pduResult, len(raw))}
	byRoom := make(map[id.Room][]jsontext.Value)
	var order []id.Room
	for _, p := range raw {
		r, err := id.ParseRoom(canonicaljson.GetString(p, "room_id"))
		if err != nil {
			s.Log.InfoContext(ctx, "PDU without room dropped", "tenant", string(t.Name), "origin", string(origin))
			continue // its version is unknown, so it has no event id to answer under
		}
		if byRoom[r] == nil {
			order = append(order, r)
		}
		byRoom[r] = append(byRoom[r], p)
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(roomsAtOnce)
	for _, name := range order {
		g.Go(func() error {
			return s.receiveRoom(ctx, t, origin, name, byRoom[name], func(eid id.Event, reason string) {
				mu.Lock()
				defer mu.Unlock()
				result.PDUs[eid] = pduResult{reason}
			})
		})
	}
	return result, g.Wait()
}

// receiveRoom takes in the PDUs of one room in their order.
func (s *Service) receiveRoom(ctx context.Context, t *tenant.Tenant, origin id.Server, name id.Room, raw []jsontext.Value, report func(id.Event, string)) error {
	if err := s.awaitJoin(ctx, t, name); err != nil {
		return err
	}
	r, err := s.Rooms.Lookup(ctx, t.ID, name)
	if err != nil {
		if mxerror.From(err) == nil {
			return err
		}
		s.Log.InfoContext(ctx, "PDUs of an unknown room dropped", "tenant", string(t.Name), "origin", string(origin))
		return nil // as above
	}
	denied := s.checkACL(ctx, t, r, origin)
	if denied != nil && mxerror.From(denied) == nil {
		return denied
	}
	events := make([]*event.Event, 0, len(raw))
	for _, p := range raw {
		e, err := event.Parse(r.Version, p)
		if err != nil {
			s.Log.InfoContext(ctx, "malformed PDU dropped", "tenant", string(t.Name), "origin", string(origin), "error", err)
			continue
		}
		events = append(events, e)
	}
	if denied != nil {
		for _, e := range events {
			report(e.ID(), mxerror.From(denied).Message)
		}
		return nil
	}
	valid, reasons, err := s.VerifyEvents(ctx, events)
	if err != nil {
		return err
	}
	good := make([]*event.Event, 0, len(events))
	for _, e := range valid {
		if e != nil {
			good = append(good, e)
		}
	}
	received := s.Rooms.ReceiveAll(ctx, t, origin, good)
	for i, e := range events {
		reason := reasons[i]
		if reason == nil {
			reason, received = received[0], received[1:]
		}
		if reason == nil {
			report(e.ID(), "")
			continue
		}
		refused := mxerror.From(reason)
		if refused == nil || refused.Status >= 500 {
			if ctx.Err() != nil || !s.incoming.failed(t.ID, e.ID()) {
				return fmt.Errorf("PDU %s: %w", e.ID(), reason)
			}
			s.Log.ErrorContext(ctx, "a PDU that cannot be worked on is given up", "tenant", string(t.Name), "origin", string(origin),
				"event", string(e.ID()), "error", reason)
			report(e.ID(), "Internal error")
			continue
		}
		s.Log.InfoContext(ctx, "PDU refused", "tenant", string(t.Name), "origin", string(origin), "event", string(e.ID()), "error", reason)
		report(e.ID(), refused.Message)
	}
	return nil
}

// receiveEDUs hands the ephemeral units of a transaction to the slices they belong to.
func (s *Service) receiveEDUs(ctx context.Context, t *tenant.Tenant, origin id.Server, in *inbound) error {
	for _, u := range in.EDUs {
		handle := s.EDUs[u.Type]
		if handle == nil || u.Content.Kind() != '{' {
			continue
		}
		content, err := s.filterByACL(ctx, t, origin, u.Type, u.Content)
		if err != nil {
			return err
		}
		if content == nil {
			continue
		}
		err = handle(ctx, t, origin, content)
		if refused := mxerror.From(err); refused != nil && refused.Status < 500 {
			s.Log.InfoContext(ctx, "EDU dropped", "tenant", string(t.Name), "origin", string(origin), "type", u.Type, "error", err)
			err = nil
		}
		if err != nil {
			return fmt.Errorf("EDU %s: %w", u.Type, err)
		}
	}
	return nil
}

// filterByACL drops from a unit what concerns rooms that deny the origin: a typing notice as a whole, receipts room by room (server-server
// API, "Server Access Control Lists"). nil when nothing is left.
func (s *Service) filterByACL(ctx context.Context, t *tenant.Tenant, origin id.Server, kind string, content jsontext.Value) (jsontext.Value, error) {
	switch kind {
	case "m.typing":
		ok, err := s.ephemeralRoom(ctx, t, origin, canonicaljson.GetString(content, "room_id"))
		if err != nil || !ok {
			return nil, err
		}
		return content, nil
	case "m.receipt":
		var rooms map[string]jsontext.Value
		if json.Unmarshal(content, &rooms, decodeOptions) != nil {
			return nil, nil
		}
		for name := range rooms {
			ok, err := s.ephemeralRoom(ctx, t, origin, name)
			if err != nil {
				return nil, err
			}
			if !ok {
				delete(rooms, name)
			}
		}
		if len(rooms) == 0 {
			return nil, nil
		}
		return json.Marshal(rooms, encodeOptions)
	}
	return content, nil
}

// ephemeralRoom says whether a server may tell us about what goes on in a room.
func (s *Service) ephemeralRoom(ctx context.Context, t *tenant.Tenant, origin id.Server, name string) (bool, error) {
	parsed, err := id.ParseRoom(name)
	if err != nil {
		return false, nil
	}
	var r *room.Room
	if r, err = s.Rooms.Lookup(ctx, t.ID, parsed); err == nil {
		err = s.checkACL(ctx, t, r, origin)
	}
	if mxerror.From(err) != nil {
		return false, nil
	}
	return err == nil, err
}
