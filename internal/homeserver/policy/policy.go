// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Policy decides. A refusal is an *mxerror.Error, which reaches the caller as it is; any other error is a failure of the policy and refuses too.
type Policy interface {
	// Federate says whether the tenant may talk with another server at all, in either direction. Neighbour tenants of the same cell are
	// other servers (engine rule 24).
	Federate(ctx context.Context, t *tenant.Tenant, peer id.Server) error
	// Invite is asked before an invite of a local user is built (outgoing or within the tenant) and before one from another server is
	// accepted (Incoming).
	Invite(ctx context.Context, t *tenant.Tenant, i Invite) error
	// CreateRoom may refuse or rewrite what a local user asks for.
	CreateRoom(ctx context.Context, t *tenant.Tenant, creator id.User, r *CreateRoom) error
	// Event is asked before an event of a local user is built.
	Event(ctx context.Context, t *tenant.Tenant, e Event) error
	// Localpart chooses the localpart of a new user who wished for one; wished may be empty.
	Localpart(ctx context.Context, t *tenant.Tenant, wished string) (string, error)
	// Route is asked before a client route's handler; s is nil without a session.
	Route(ctx context.Context, t *tenant.Tenant, method, pattern string, s *httpapi.Session) error
	// Profile is asked before a local user sees somebody else's profile; share says whether both are in a common room.
	Profile(ctx context.Context, t *tenant.Tenant, viewer, user id.User, share func(context.Context) (bool, error)) error
	// UserDirectory says whether the tenant's people find others by a search; where not, searches find nobody.
	UserDirectory(t *tenant.Tenant) bool
	// Presence is asked before a local user's status message is set.
	Presence(t *tenant.Tenant, status string) error
	// AccountDefaults are the global account data, by type, that users read before they have set any of the type.
	AccountDefaults(ctx context.Context, t *tenant.Tenant) (map[string]jsontext.Value, error)
	// DefaultRoomVersion is what createRoom makes when the client names no version.
	DefaultRoomVersion() string
	// RoomVersions are the versions that may be created; nil: all that the server knows.
	RoomVersions() []string
}

// Invite is an invitation of one user by another.
type Invite struct {
	Inviter, Invitee id.User
	Room             id.Room
	RoomVersion      string
	// Incoming: the inviter's server sent it to us. Otherwise a local user asks for it; the invitee may be local or remote.
	Incoming bool
	// Stripped is the stripped state that came with an incoming invite.
	Stripped []jsontext.Value
	// Direct is the is_direct flag of the member event.
	Direct bool
}

// CreateRoom is the body of POST /createRoom, as the client sent it and as a policy may rewrite it.
type CreateRoom struct {
	Visibility      string                    `json:"visibility"`
	Alias           string                    `json:"room_alias_name"`
	Name            string                    `json:"name"`
	Topic           string                    `json:"topic"`
	Invite          []id.User                 `json:"invite"`
	RoomVersion     string                    `json:"room_version"`
	CreationContent map[string]jsontext.Value `json:"creation_content"`
	InitialState    []StateEvent              `json:"initial_state"`
	Preset          string                    `json:"preset"`
	IsDirect        bool                      `json:"is_direct"`
	PowerLevels     jsontext.Value            `json:"power_level_content_override"`
	Invite3PID      []jsontext.Value          `json:"invite_3pid"`
}

// Invitees are all whom a new room invites: those of invite, and those whom initial_state makes invited, which is an invitation all the same.
func (r *CreateRoom) Invitees() []id.User {
	all := slices.Clip(r.Invite)
	for _, e := range r.InitialState {
		var member struct {
			Membership string `json:"membership"`
		}
		if e.Type == "m.room.member" && (json.Unmarshal(e.Content, &member) != nil || member.Membership == "invite") {
			all = append(all, id.User(e.StateKey))
		}
	}
	return all
}

// StateEvent is an entry of initial_state.
type StateEvent struct {
	Type     string         `json:"type"`
	StateKey string         `json:"state_key"`
	Content  jsontext.Value `json:"content"`
}

// Event is what a local user wants to send.
type Event struct {
	Sender   id.User
	Room     id.Room
	Type     string
	StateKey *string
	Content  jsontext.Value
	// Redacts is the event that a redaction names, with its age in ms; empty otherwise.
	Redacts    id.Event
	RedactsAge int64
	// Federated says whether other servers can join the room (m.federate).
	Federated bool
}

// Open is an ordinary homeserver: everything that the Matrix specification allows (configuration policy: open).
type Open struct {
	// RoomVersion is the default of createRoom; empty means 12, the specification's default since v1.16.
	RoomVersion string
}

// Federate allows every server.
func (Open) Federate(context.Context, *tenant.Tenant, id.Server) error { return nil }

// Invite allows every invite.
func (Open) Invite(context.Context, *tenant.Tenant, Invite) error { return nil }

// CreateRoom leaves the request as it is.
func (Open) CreateRoom(context.Context, *tenant.Tenant, id.User, *CreateRoom) error { return nil }

// Event allows every event.
func (Open) Event(context.Context, *tenant.Tenant, Event) error { return nil }

// Localpart gives the localpart wished for.
func (Open) Localpart(_ context.Context, _ *tenant.Tenant, wished string) (string, error) {
	return wished, nil
}

// Route allows every route.
func (Open) Route(context.Context, *tenant.Tenant, string, string, *httpapi.Session) error {
	return nil
}

// AccountDefaults has none.
func (Open) AccountDefaults(context.Context, *tenant.Tenant) (map[string]jsontext.Value, error) {
	return nil, nil
}

// Profile shows everybody to everybody.
func (Open) Profile(context.Context, *tenant.Tenant, id.User, id.User, func(context.Context) (bool, error)) error {
	return nil
}

// UserDirectory lets people find each other.
func (Open) UserDirectory(*tenant.Tenant) bool { return true }

// Presence allows every status.
func (Open) Presence(*tenant.Tenant, string) error { return nil }

// RoomVersions are all that the server knows.
func (Open) RoomVersions() []string { return nil }

// DefaultRoomVersion is the configured version or the specification's default.
func (o Open) DefaultRoomVersion() string {
	if o.RoomVersion == "" {
		return "12"
	}
	return o.RoomVersion
}

var _ Policy = Open{}
