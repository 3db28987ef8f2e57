// SPDX-License-Identifier: Apache-2.0

package room

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// Draft is an event that a local user wants to send.
type Draft struct {
	Room     id.Room
	Sender   id.User
	Type     string
	StateKey *string
	Content  jsontext.Value
	Redacts  id.Event
	// Timestamp is ms since the epoch, 0 for now; only application services may set it.
	Timestamp int64
	Txn       *Txn
}

// maxPrevEvents is how many forward extremities a local event joins together.
const maxPrevEvents = 10

// Send appends a local user's event and returns its id. A repeated transaction id returns the first event's id (engine rule 5).
func (s *Service) Send(ctx context.Context, t *tenant.Tenant, d Draft) (id.Event, error) {
	if d.Txn == nil {
		return s.send(ctx, t, d)
	}
	key := txnKey{t.ID, d.Sender, *d.Txn}
	if eid, ok := s.txns.Get(key); ok {
		return eid, nil
	}
	eid, err := s.send(ctx, t, d)
	if err != nil {
		// A repeated transaction that memory has forgotten fails above, at the latest by its plan's guard. It is looked up only now: nearly every
		// request is a new one.
		first, sentErr := s.sent(ctx, t.ID, d)
		if sentErr != nil || first == "" {
			return "", err
		}
		eid = first
	}
	s.txns.Set(key, eid)
	return eid, nil
}

func (s *Service) send(ctx context.Context, t *tenant.Tenant, d Draft) (id.Event, error) {
	r, err := s.Lookup(ctx, t.ID, d.Room)
	if err != nil {
		if mxerror.From(err) == mxerror.NotFound || errors.Is(err, mxerror.NotFound) {
			return "", mxerror.Forbidden.With("%s is not in the room.", d.Sender)
		}
		return "", err
	}
	if err := s.askPolicy(ctx, t, r, d); err != nil {
		return "", err
	}
	if err := s.mayRelate(ctx, t.ID, r, d); err != nil {
		return "", err
	}
	e, err := s.append(ctx, t, r, d, nil)
	if err != nil {
		return "", err
	}
	return e.ID(), nil
}

// sent returns the event that the transaction id has made already, or "".
func (s *Service) sent(ctx context.Context, t tenant.ID, d Draft) (id.Event, error) {
	var eid id.Event
	err := s.DB.QueryRow(ctx, "SELECT event_id FROM txn WHERE tenant = $1 AND user_id = $2 AND device = $3 AND scope = $4 AND txn_id = $5",
		int64(t), string(d.Sender), string(d.Txn.Device), d.Txn.Scope, d.Txn.ID).Scan(&eid)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return eid, err
}

func (s *Service) askPolicy(ctx context.Context, t *tenant.Tenant, r *Room, d Draft) error {
	ask := policy.Event{Sender: d.Sender, Room: d.Room, Type: d.Type, StateKey: d.StateKey, Content: d.Content, Redacts: d.Redacts, Federated: true}
	if d.Redacts != "" {
		if e, err := s.Event(ctx, t.ID, d.Redacts); err == nil {
			ask.RedactsAge = s.now().UnixMilli() - e.Timestamp()
		}
	}
	if d.StateKey != nil {
		state, err := s.CurrentState(ctx, t.ID, r)
		if err != nil {
			return err
		}
		create, err := s.create(ctx, t.ID, state)
		if err != nil {
			return err
		}
		ask.Federated = create == nil || !notFederated(create.Content())
	}
	return s.Policy.Event(ctx, t, ask)
}

// append builds, authorises and commits a local event. decide, when given, looks at the state before and may refuse or change the draft; it
// runs within the turn and must not wait for anything.
func (s *Service) append(ctx context.Context, t *tenant.Tenant, r *Room, d Draft, decide func(state State, d *Draft) error) (*Event, error) {
	again := false
	e, err := s.commit(ctx, t, r, func(h *head) (addition, error) {
		if again && d.Txn != nil { // the guard may have met this very transaction
			if eid, err := s.sent(ctx, t.ID, d); err != nil || eid != "" {
				return addition{}, errors.Join(err, errRepeated)
			}
		}
		again = true
		e, before, err := s.draft(ctx, t, r, h, d, decide)
		if err != nil {
			return addition{}, err
		}
		if _, policed := before.state[policyState]; policed {
			return addition{}, errPoliced
		}
		if err := s.allowed(ctx, t.ID, e, before.state); err != nil {
			return addition{}, forbidden(err)
		}
		return addition{event: e, before: before, txn: d.Txn, send: true, own: true}, nil
	})
	if errors.Is(err, errPoliced) {
		return s.appendPoliced(ctx, t, r, d, decide)
	}
	return e, err
}

// errRepeated: the transaction id has made an event already, which Send answers.
var errRepeated = errors.New("repeated transaction")

// draft builds and signs an event on a head.
func (s *Service) draft(ctx context.Context, t *tenant.Tenant, r *Room, h *head, d Draft, decide func(State, *Draft) error) (*event.Event, snapshot, error) {
	if strings.Contains(d.Type, "\x00") || d.StateKey != nil && strings.Contains(*d.StateKey, "\x00") {
		return nil, snapshot{}, mxerror.InvalidParam.With("Types and state keys hold no NUL.")
	}
	before, err := s.loadSnapshot(ctx, t.ID, h.snapshot)
	if err != nil {
		return nil, snapshot{}, err
	}
	if decide != nil {
		if err := decide(before.state, &d); err != nil {
			return nil, snapshot{}, err
		}
	}
	prev, depth, err := s.prevEvents(ctx, t.ID, r, h)
	if err != nil {
		return nil, snapshot{}, err
	}
	auth, err := s.authEvents(r, before.state, d)
	if err != nil {
		return nil, snapshot{}, err
	}
	hashes, err := s.references(ctx, t.ID, r, prev, auth)
	if err != nil {
		return nil, snapshot{}, err
	}
	key, err := s.Keyring.Signing(ctx, t.ID)
	if err != nil {
		return nil, snapshot{}, err
	}
	ts := d.Timestamp
	if ts == 0 {
		ts = s.now().UnixMilli()
	}
	e, err := event.Draft{Version: r.Version, Room: r.ID, Type: d.Type, StateKey: d.StateKey, Sender: d.Sender, Content: d.Content, Redacts: d.Redacts,
		PrevEvents: prev, AuthEvents: auth, Hashes: hashes, Depth: depth, Timestamp: ts}.Build(t.Name, key.ID, key.Private)
	return e, before, err
}

// references are the reference hashes that events of room versions 1 and 2 write beside the ids of those they cite; nil in later versions.
func (s *Service) references(ctx context.Context, t tenant.ID, r *Room, prev, auth []id.Event) (map[id.Event]string, error) {
	if r.Version.EventIDs != roomversion.EventIDInEvent {
		return nil, nil
	}
	ids := slices.Concat(prev, auth)
	found, err := s.Events(ctx, t, ids)
	if err != nil {
		return nil, err
	}
	hashes := make(map[id.Event]string, len(ids))
	for _, eid := range ids {
		e := found[eid]
		if e == nil {
			return nil, fmt.Errorf("cited event %s: %w", eid, errHeadMoved)
		}
		hashes[eid] = e.ReferenceHash()
	}
	return hashes, nil
}

// prevEvents returns what the next event cites, and its depth.
func (s *Service) prevEvents(ctx context.Context, t tenant.ID, r *Room, h *head) ([]id.Event, int64, error) {
	tips, err := s.tips(ctx, t, h)
	if err != nil {
		return nil, 0, err
	}
	place := make([]int, len(tips))
	for i := range place {
		place[i] = i
	}
	slices.SortFunc(place, func(a, b int) int { return cmp.Compare(tips[b].topological, tips[a].topological) }) // the newest ones when there are too many
	place = place[:min(len(place), maxPrevEvents)]
	prev, depth := make([]id.Event, len(place)), int64(0)
	for i, p := range place {
		prev[i], depth = h.extremities[p], max(depth, tips[p].depth)
	}
	return prev, min(depth, r.Version.MaxDepth()-1) + 1, nil
}

// tips looks at a head's forward extremities, which are in memory unless the head has just been read.
func (s *Service) tips(ctx context.Context, t tenant.ID, h *head) ([]tip, error) {
	if len(h.tips) == len(h.extremities) && len(h.tips) > 0 {
		return h.tips, nil
	}
	found, err := s.Events(ctx, t, h.extremities)
	if err != nil {
		return nil, err
	}
	tips := make([]tip, len(h.extremities))
	for i, x := range h.extremities {
		e := found[x]
		if e == nil {
			return nil, fmt.Errorf("forward extremity %s: %w", x, errHeadMoved)
		}
		tips[i] = tip{e.Depth(), e.Topological}
	}
	return tips, nil
}

// authEvents selects the auth events of a local event from the state before it.
func (s *Service) authEvents(r *Room, state State, d Draft) ([]id.Event, error) {
	var out []id.Event
	for _, k := range authrule.Needed(r.Version, d.Type, d.StateKey, d.Sender, d.Content) {
		if eid, ok := state[k]; ok {
			out = append(out, eid)
		}
	}
	return out, nil
}

// forbidden turns a refusal of the auth rules into the client's error.
func forbidden(err error) error {
	if errors.Is(err, authrule.ErrNotAllowed) {
		return mxerror.Forbidden.With("%v", err)
	}
	return err
}
