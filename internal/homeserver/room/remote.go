// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// ErrUnreachable is in the error of a Remote whose server could not be asked now: another time it may answer.
var ErrUnreachable = errors.New("server cannot be reached")

// Remote reaches other servers for a tenant; package federation implements it. Every event that it returns has been parsed and its
// signatures and content hash checked (a wrong hash gives the redacted copy); events that failed are left out. Errors are *mxerror.Error
// where the other server answered one, and ErrUnreachable where it could not be asked.
type Remote interface {
	// MakeJoin asks a resident server for a join template. versions are the room versions that we support.
	MakeJoin(ctx context.Context, t *tenant.Tenant, server id.Server, room id.Room, user id.User, versions []string) (Template, error)
	// SendJoin hands over the signed join and returns the room's state before it.
	SendJoin(ctx context.Context, t *tenant.Tenant, server id.Server, e *event.Event) (Joined, error)
	MakeLeave(ctx context.Context, t *tenant.Tenant, server id.Server, room id.Room, user id.User) (Template, error)
	SendLeave(ctx context.Context, t *tenant.Tenant, server id.Server, e *event.Event) error
	MakeKnock(ctx context.Context, t *tenant.Tenant, server id.Server, room id.Room, user id.User, versions []string) (Template, error)
	// SendKnock returns the stripped state of the room.
	SendKnock(ctx context.Context, t *tenant.Tenant, server id.Server, e *event.Event) ([]jsontext.Value, error)
	// Invite hands an invite to the invitee's server and returns it with that server's signature.
	Invite(ctx context.Context, t *tenant.Tenant, server id.Server, e *event.Event, stripped []jsontext.Value) (*event.Event, error)
	// GetMissingEvents asks for the events between earliest and latest, at most limit.
	GetMissingEvents(ctx context.Context, t *tenant.Tenant, server id.Server, r *Room, earliest, latest []id.Event, limit int) ([]*event.Event, error)
	// Event asks for one event.
	Event(ctx context.Context, t *tenant.Tenant, server id.Server, r *Room, eid id.Event) (*event.Event, error)
	// EventAuth asks for the auth chain of an event.
	EventAuth(ctx context.Context, t *tenant.Tenant, server id.Server, r *Room, eid id.Event) ([]*event.Event, error)
	// StateIDs asks for the state before an event, and its auth chain, as ids.
	StateIDs(ctx context.Context, t *tenant.Tenant, server id.Server, r *Room, eid id.Event) (state, auth []id.Event, err error)
	// State is StateIDs with whole events.
	State(ctx context.Context, t *tenant.Tenant, server id.Server, r *Room, eid id.Event) (state, auth []*event.Event, err error)
	// Backfill asks for up to limit events before the given ones.
	Backfill(ctx context.Context, t *tenant.Tenant, server id.Server, r *Room, from []id.Event, limit int) ([]*event.Event, error)
	// QueryDirectory resolves an alias of another server.
	QueryDirectory(ctx context.Context, t *tenant.Tenant, alias id.Alias) (room id.Room, servers []id.Server, err error)
}

// Template is the answer to make_join, make_leave and make_knock: an event without hashes and signatures.
type Template struct {
	Version *roomversion.Version
	Event   jsontext.Value
}

// Joined is the answer to send_join.
type Joined struct {
	// Event is our join, with the resident server's signature where it was restricted.
	Event *event.Event
	// State is the state before the join, AuthChain all that it rests on.
	State, AuthChain []*event.Event
	// Servers are the servers in the room, when the answer named them.
	Servers []id.Server
}
