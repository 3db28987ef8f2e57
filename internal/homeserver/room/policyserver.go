// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

// This file asks a room's policy server (server-server API, "Policy Servers"): events of the tenant's users carry its signature before anybody
// gets them, and events of others that it does not recommend are soft-failed.

// policyKey is the id of the key with which every policy server signs.
const policyKey = id.KeyID("ed25519:policy_server")

var policyState = event.Key{Type: "m.room.policy"}

// policyServer is the one that a room has chosen.
type policyServer struct {
	server id.Server
	key    ed25519.PublicKey
}

// policyServerFor returns the policy server that must recommend an event, by the room's current state; nil when there is none, because the
// room names none validly, none of its users is joined, the event is the choice itself, or the choice is this tenant, which is none or has
// another key: its users must still be able to leave.
func (s *Service) policyServerFor(ctx context.Context, t *tenant.Tenant, r *Room, state State, typ string, stateKey *string) (*policyServer, error) {
	if _, chosen := state[policyState]; !chosen || typ == policyState.Type && stateKey != nil && *stateKey == "" {
		return nil, nil
	}
	e, err := s.StateEvent(ctx, t.ID, state, policyState)
	if err != nil || e == nil {
		return nil, err
	}
	server, err := id.ParseServer(stringField(e.Content(), "via"))
	if err != nil {
		return nil, nil //nolint:nilerr // an invalid choice is none
	}
	key, err := signing.DecodePublicKey(canonicaljson.GetString(e.Content(), "public_keys", "ed25519"))
	if err != nil {
		return nil, nil //nolint:nilerr // as above
	}
	if server == t.Name {
		if s.PolicyKey == nil {
			return nil, nil
		}
		if own, err := s.PolicyKey(ctx, t); err != nil || !key.Equal(own) {
			return nil, err
		}
	}
	in, err := s.ServerInRoom(ctx, t.ID, r.NID, server)
	if err != nil || !in {
		return nil, err
	}
	return &policyServer{server, key}, nil
}

// recommends says whether an event carries the policy server's valid signature.
func (p *policyServer) recommends(e *event.Event) bool {
	return e.Verify(p.server, policyKey, p.key) == nil
}

// recommended returns the event with the policy server's signature, asking for it where it is missing. Without a policy server the event comes
// back as it is. What the policy server answers to a refused event is the error.
func (s *Service) recommended(ctx context.Context, t *tenant.Tenant, p *policyServer, e *event.Event) (*event.Event, error) {
	if p == nil || p.recommends(e) {
		return e, nil
	}
	if s.PolicySign == nil {
		return nil, mxerror.Forbidden.With("The room's policy server %s cannot be asked.", p.server)
	}
	signature, err := s.PolicySign(ctx, t, p.server, e)
	if err != nil {
		return nil, err
	}
	signed, err := e.WithForeignSignature(p.server, policyKey, signature)
	if err != nil {
		return nil, err
	}
	if !p.recommends(signed) {
		return nil, mxerror.Forbidden.With("The signature of the room's policy server %s is not valid.", p.server)
	}
	return signed, nil
}

// judged is recommended for an event that came from elsewhere: softFail is why the policy server does not recommend it.
func (s *Service) judged(ctx context.Context, t *tenant.Tenant, r *Room, e *event.Event) (judged *event.Event, softFail string, err error) {
	h, err := s.newest(ctx, t.ID, r)
	if err != nil {
		return nil, "", err
	}
	state, err := s.StateAt(ctx, t.ID, h.snapshot)
	if err != nil {
		return nil, "", err
	}
	p, err := s.policyServerFor(ctx, t, r, state, e.Type(), e.StateKey())
	if err != nil || p == nil {
		return e, "", err
	}
	signed, err := s.recommended(ctx, t, p, e)
	if err == nil {
		return signed, "", nil
	}
	if ctx.Err() != nil {
		return nil, "", ctx.Err()
	}
	return e, fmt.Sprintf("policy server %s: %v", p.server, err), nil
}

// errPoliced: the room has named a policy server, which is asked outside of the turn.
var errPoliced = errors.New("the room has a policy server")

// appendPoliced is append for rooms with a policy server: the event is built on the committed head, signed by the policy server without holding
// the turn, and committed as it is.
func (s *Service) appendPoliced(ctx context.Context, t *tenant.Tenant, r *Room, d Draft, decide func(State, *Draft) error) (*Event, error) {
	h, err := s.peek(ctx, t.ID, r)
	if err != nil {
		return nil, err
	}
	e, before, err := s.draft(ctx, t, r, h, d, decide)
	if err != nil {
		return nil, err
	}
	if err := s.allowed(ctx, t.ID, e, before.state); err != nil {
		return nil, forbidden(err)
	}
	p, err := s.policyServerFor(ctx, t, r, before.state, d.Type, d.StateKey)
	if err != nil {
		return nil, err
	}
	if e, err = s.recommended(ctx, t, p, e); err != nil {
		return nil, err
	}
	stored, err := s.appendJudged(ctx, t, r, e, before.state, judgement{send: true, txn: d.Txn})
	if err != nil {
		return nil, err
	}
	if stored.SoftFailed {
		return nil, mxerror.Forbidden.With("The room changed while its policy server was asked.")
	}
	return stored, nil
}
