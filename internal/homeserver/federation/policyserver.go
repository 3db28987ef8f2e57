// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

// PolicyServer is what a tenant recommends in rooms that have chosen it (server-server API, "Policy Servers";
// docs/decisions/0062-policy-server.md).
type PolicyServer struct {
	// Servers are globs of the server names that may ask for a signature.
	Servers []string
	// Lists are rooms whose m.policy.rule.* events hold in every room, beside the room's own.
	Lists []id.Room
	// RefusedTypes are globs of event types that are not recommended.
	RefusedTypes []string
}

// policyServerOf returns how a tenant is a policy server; nil when it is none.
func (s *Service) policyServerOf(t *tenant.Tenant) *PolicyServer {
	if s.PolicyServer == nil {
		return nil
	}
	return s.PolicyServer(t)
}

// PolicyKey returns the key that rooms name to be ruled by a tenant; nil when it is no policy server (room.Options.PolicyKey).
func (s *Service) PolicyKey(ctx context.Context, t *tenant.Tenant) (ed25519.PublicKey, error) {
	if s.policyServerOf(t) == nil {
		return nil, nil
	}
	key, err := s.Keyring.Policy(ctx, t.ID)
	return key.Public, err
}

// policyServerKeys answers /.well-known/matrix/policy_server (client-server API, "Policy Servers").
func (s *Service) policyServerKeys(ctx context.Context, r *httpapi.Request) (any, error) {
	key, err := s.PolicyKey(ctx, r.Tenant)
	if err != nil {
		return nil, err
	}
	if key == nil {
		return nil, mxerror.NotFound.With("This server is not a policy server.")
	}
	return map[string]any{"public_keys": map[string]string{"ed25519": signing.Encode(key)}}, nil
}

// notRecommended is the answer to an event that the policy refuses.
func notRecommended(format string, args ...any) error {
	return mxerror.New(http.StatusBadRequest, mxerror.Forbidden.Code, fmt.Sprintf(format, args...))
}

// policySign answers POST /_matrix/policy/v1/sign: the tenant's signature of an event that its policy recommends.
func (s *Service) policySign(ctx context.Context, r *httpapi.Request) (any, error) {
	p := s.policyServerOf(r.Tenant)
	if p == nil || s.Rooms == nil {
		return nil, mxerror.Unrecognized
	}
	if !anyGlob(p.Servers, strings.ToLower(string(r.Origin))) {
		return nil, mxerror.Forbidden.With("Your server is not allowed to request a signature.")
	}
	if !jsontext.Value(r.Body).IsValid(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) {
		return nil, mxerror.NotJSON
	}
	name, err := id.ParseRoom(canonicaljson.GetString(r.Body, "room_id"))
	if err != nil {
		return nil, mxerror.BadJSON.With("The event names no room.")
	}
	rm, err := s.ruled(ctx, r.Tenant, name)
	if err != nil {
		return nil, err
	}
	if err := s.checkACL(ctx, r.Tenant, rm, r.Origin); err != nil {
		return nil, err
	}
	e, err := event.Parse(rm.Version, r.Body)
	if err != nil {
		return nil, mxerror.BadJSON.With("The event is not one of room version %s: %v", rm.Version.ID, err)
	}
	signature, err := s.recommend(ctx, r.Tenant, p, rm, e)
	if err != nil {
		return nil, err
	}
	return map[id.Server]map[id.KeyID]string{r.Tenant.Name: {policyKey: signature}}, nil
}

// ruled finds a room that the tenant is in and that has chosen it, with its key, as policy server.
func (s *Service) ruled(ctx context.Context, t *tenant.Tenant, name id.Room) (*room.Room, error) {
	unknown := mxerror.NotFound.With("The room is not known or not protected by this policy server.")
	rm, err := s.Rooms.Lookup(ctx, t.ID, name)
	if errors.Is(err, mxerror.NotFound) {
		return nil, unknown
	}
	if err != nil {
		return nil, err
	}
	in, err := s.Rooms.ServerInRoom(ctx, t.ID, rm.NID, t.Name)
	if err != nil || !in {
		return nil, errors.Join(err, unknown)
	}
	state, err := s.Rooms.CurrentState(ctx, t.ID, rm)
	if err != nil {
		return nil, err
	}
	choice, err := s.Rooms.StateEvent(ctx, t.ID, state, event.Key{Type: "m.room.policy"})
	if err != nil {
		return nil, err
	}
	key, err := s.PolicyKey(ctx, t)
	if err != nil {
		return nil, err
	}
	if choice == nil || canonicaljson.GetString(choice.Content(), "via") != string(t.Name) {
		return nil, unknown
	}
	named, err := signing.DecodePublicKey(canonicaljson.GetString(choice.Content(), "public_keys", "ed25519"))
	if err != nil || !key.Equal(named) {
		return nil, unknown
	}
	return rm, nil
}

// recommend returns the tenant's signature of an event in base64, or 400 M_FORBIDDEN with the reason why it has none.
func (s *Service) recommend(ctx context.Context, t *tenant.Tenant, p *PolicyServer, rm *room.Room, e *event.Event) (string, error) {
	if e.Type() == "m.room.policy" && e.StateKeyIs("") {
		return "", notRecommended("The choice of a policy server needs none.")
	}
	if !e.CheckHash() { // the signature would cover another content than the one that was judged
		return "", notRecommended("The event's content does not match its hash.")
	}
	if err := s.judge(ctx, t, p, rm, e); err != nil {
		return "", err
	}
	key, err := s.Keyring.Policy(ctx, t.ID)
	if err != nil {
		return "", err
	}
	signed, err := e.WithSignature(t.Name, key.ID, key.Private)
	if err != nil {
		return "", err
	}
	return canonicaljson.GetString(signed.JSON(), "signatures", string(t.Name), string(key.ID)), nil
}

// judge refuses what the policy does not recommend: event types, and what senders, whom they invite, and their servers are banned for by the room's
// own policy rules or those of the lists. Everybody may leave.
func (s *Service) judge(ctx context.Context, t *tenant.Tenant, p *PolicyServer, rm *room.Room, e *event.Event) error {
	if e.Membership() == "leave" && e.StateKeyIs(string(e.Sender())) {
		return nil
	}
	if anyGlob(p.RefusedTypes, e.Type()) {
		return notRecommended("Events of type %s are not recommended here.", e.Type())
	}
	about := []id.User{e.Sender()}
	if e.Membership() == "invite" && e.StateKey() != nil {
		about = append(about, id.User(*e.StateKey()))
	}
	if err := s.judgeBy(ctx, t, rm, rm.ID, about); err != nil {
		return err
	}
	for _, name := range p.Lists {
		list, err := s.Rooms.Lookup(ctx, t.ID, name)
		if errors.Is(err, mxerror.NotFound) {
			s.Log.WarnContext(ctx, "policy list is not known: somebody of the tenant has to join it", "tenant", string(t.Name), "room", string(name))
			continue
		}
		if err != nil {
			return err
		}
		if err := s.judgeBy(ctx, t, list, rm.ID, about); err != nil {
			return err
		}
	}
	return nil
}

// judgeBy refuses what one room's policy rules ban (client-server API, "Moderation policy lists").
func (s *Service) judgeBy(ctx context.Context, t *tenant.Tenant, list *room.Room, in id.Room, about []id.User) error {
	state, err := s.Rooms.CurrentState(ctx, t.ID, list)
	if err != nil {
		return err
	}
	rules := room.State{}
	for key, eid := range state {
		if strings.HasPrefix(key.Type, "m.policy.rule.") {
			rules[key] = eid
		}
	}
	if len(rules) == 0 {
		return nil
	}
	events, err := s.Rooms.StateEvents(ctx, t.ID, rules)
	if err != nil {
		return err
	}
	for _, rule := range events {
		if canonicaljson.GetString(rule.Content(), "recommendation") != "m.ban" {
			continue
		}
		entity := canonicaljson.GetString(rule.Content(), "entity")
		if entity == "" {
			continue
		}
		if subject := banned(rule.Type(), entity, in, about); subject != "" {
			return notRecommended("A policy rule bans %s.", subject)
		}
	}
	return nil
}

// banned names the subject that a rule is about; empty when it is about none of them.
func banned(kind, entity string, in id.Room, about []id.User) string {
	switch kind {
	case "m.policy.rule.room":
		if globMatches(entity, string(in)) {
			return string(in)
		}
	case "m.policy.rule.user":
		for _, u := range about {
			if globMatches(entity, string(u)) {
				return string(u)
			}
		}
	case "m.policy.rule.server":
		for _, u := range about {
			if globMatches(strings.ToLower(entity), strings.ToLower(string(u.Server()))) {
				return string(u.Server())
			}
		}
	}
	return ""
}

func anyGlob(globs []string, name string) bool {
	for _, g := range globs {
		if globMatches(g, name) {
			return true
		}
	}
	return false
}
