// SPDX-License-Identifier: Apache-2.0

package ephemeral

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// The types of EDUs that the package sends and receives.
const (
	EDUReceipt  = "m.receipt"
	EDUTyping   = "m.typing"
	EDUPresence = "m.presence"
)

// Options are what the service stands on; DB, Committer, Feed and Rooms are required.
type Options struct {
	DB        *database.DB
	Committer *stream.Committer
	Feed      *stream.Feed
	Rooms     *room.Service
	// Policy may bound status messages; nil does not.
	Policy policy.Policy
	Log    *slog.Logger
	// Send hands an EDU to other servers; a newer one with the same key replaces one that has not been sent. Nil sends nothing.
	Send func(ctx context.Context, t *tenant.Tenant, destinations []id.Server, kind, key string, content jsontext.Value)
	// Typed and PresenceChanged, when set, are told that who types in a room or a user's presence has changed. They must not block.
	Typed           func(t tenant.ID, roomNID int64)
	PresenceChanged func(t tenant.ID, user id.User)
	// Presence turns presence on.
	Presence bool
	// Now is the clock; nil is the system's. After runs f once after d and returns what stops it; nil is time.AfterFunc.
	Now   func() time.Time
	After func(d time.Duration, f func()) (stop func() bool)
}

// Service holds the typing and presence of a node and stores receipts. It is safe for concurrent use.
type Service struct {
	o        Options
	typing   *typing
	presence *presence
}

// New returns the service.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.After == nil {
		o.After = func(d time.Duration, f func()) func() bool { return time.AfterFunc(d, f).Stop }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{o: o, typing: newTyping(), presence: newPresence()}
}

// Close stops the timers of typing and presence.
func (s *Service) Close() {
	s.typing.stop()
	s.presence.stop()
}

// joined finds the room of a request and checks that the caller is in it.
func (s *Service) joined(ctx context.Context, r *httpapi.Request) (*room.Room, error) {
	rid, err := r.Room()
	if err != nil {
		return nil, err
	}
	refused := mxerror.Forbidden.With("You are not in this room.")
	found, err := s.o.Rooms.Lookup(ctx, r.Tenant.ID, rid)
	if err != nil {
		if errors.Is(err, mxerror.NotFound) {
			err = refused
		}
		return nil, err
	}
	m, err := s.o.Rooms.Membership(ctx, r.Tenant.ID, found.NID, r.Session.User)
	if err == nil && m.Membership != "join" {
		err = refused
	}
	return found, err
}

// send hands an EDU about a room to the other servers in it.
func (s *Service) send(ctx context.Context, t *tenant.Tenant, roomNID int64, kind, key string, content jsontext.Value) error {
	if s.o.Send == nil {
		return nil
	}
	others, err := s.others(ctx, t, roomNID)
	if err == nil && len(others) > 0 {
		s.o.Send(ctx, t, others, kind, key, content)
	}
	return err
}

// others lists the other servers in a room.
func (s *Service) others(ctx context.Context, t *tenant.Tenant, roomNID int64) ([]id.Server, error) {
	servers, err := s.o.Rooms.JoinedServers(ctx, t.ID, roomNID)
	return slices.DeleteFunc(servers, func(server id.Server) bool { return server == t.Name }), err
}

// local returns the tenant's own users joined to a room.
func (s *Service) local(ctx context.Context, t *tenant.Tenant, roomNID int64) ([]id.User, error) {
	users, err := s.o.Rooms.JoinedUsers(ctx, t.ID, roomNID)
	if err != nil {
		return nil, err
	}
	out := users[:0]
	for _, u := range users {
		if u.Server() == t.Name {
			out = append(out, u)
		}
	}
	return out, nil
}
