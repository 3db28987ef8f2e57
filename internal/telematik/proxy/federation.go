// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/homeserver/federation"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/telematik/permission"
)

// maxSignatures bounds the Authorization headers of a request: a server may sign with several keys.
const maxSignatures = 4

// isFederation says whether a path is of the server-server API.
func isFederation(path string) bool {
	for _, prefix := range []string{"/_matrix/federation/", "/_matrix/key/", "/_matrix/policy/"} {
		if strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}

// inspectServer asks the rules about another server's request. The homeserver behind verifies that it is the server's.
func (p *Proxy) inspectServer(w http.ResponseWriter, q *request) error {
	ctx := q.Context()
	q.Body = http.MaxBytesReader(w, q.Body, maxTransaction)
	row := permission.FeatureOf(q.Method, q.path)
	if row != nil {
		q.row = row.Name
	}
	if row != nil && row.Verdict == permission.Served { // keys, and the directory's proof of a user
		q.tenant = p.tenantOf(q)
		_, err := p.o.Rules.Path(q.tenant, q.Method, q.path, nil)
		return err
	}
	origin, err := p.between(q)
	if err != nil {
		return err
	}
	if err := p.o.Rules.Federate(ctx, q.tenant, origin); err != nil {
		return err
	}
	if _, err := p.o.Rules.Path(q.tenant, q.Method, q.path, nil); err != nil {
		return err
	}
	p.met(ctx, origin)
	named := func(route string) bool { return permission.Names(route, q.Method, q.path) }
	switch {
	case named("/_matrix/federation/v1/invite/*/*"):
		var e invitation
		if err := q.decode(maxTransaction, &e); err != nil {
			return err
		}
		return p.invited(ctx, q, &e, "", nil)
	case named("/_matrix/federation/v2/invite/*/*"):
		var body struct {
			Event   invitation       `json:"event"`
			Version string           `json:"room_version"`
			State   []jsontext.Value `json:"invite_room_state"`
		}
		if err := q.decode(maxTransaction, &body); err != nil {
			return err
		}
		return p.invited(ctx, q, &body.Event, body.Version, body.State)
	case named("/_matrix/federation/v1/send/*"):
		return p.transaction(ctx, q)
	}
	return nil
}

// between reads who sends to whom. The server asked must be one behind this proxy.
func (p *Proxy) between(q *request) (origin id.Server, err error) {
	headers := q.Header.Values("Authorization")
	if len(headers) == 0 || len(headers) > maxSignatures {
		return "", mxerror.Unauthorized.With("The request is not signed, or too often.")
	}
	var destination id.Server
	for i, h := range headers {
		from, to, err := federation.Parties(h)
		if err != nil {
			return "", mxerror.Unauthorized.With("%s", err.Error())
		}
		if i > 0 && (from != origin || to != destination) {
			return "", mxerror.Unauthorized.With("The request claims to be between several servers.")
		}
		origin, destination = from, to
	}
	if q.tenant = p.tenants[destination]; destination == "" {
		q.tenant = p.tenantOf(q)
	}
	if q.tenant == nil {
		return "", mxerror.Unauthorized.With("The request is meant for %s, not for this server.", destination)
	}
	return origin, nil
}

// met tells of a server that is about to be asked for its keys.
func (p *Proxy) met(ctx context.Context, server id.Server) {
	if p.o.Met != nil && p.tenants[server] == nil {
		p.o.Met(ctx, server)
	}
}

// invitation is the member event of an invite.
type invitation struct {
	Type     string     `json:"type"`
	Sender   string     `json:"sender"`
	StateKey string     `json:"state_key"`
	Room     id.Room    `json:"room_id"`
	Content  membership `json:"content"`
}

// invited asks about an invitation by another server: both domains are members, and the invitee allows it.
func (p *Proxy) invited(ctx context.Context, q *request, e *invitation, version string, state []jsontext.Value) error {
	inviter, err := id.ParseUser(e.Sender)
	if err != nil {
		return mxerror.InvalidParam.With("the sender is not a user id")
	}
	invitee, err := id.ParseUser(e.StateKey)
	if err != nil {
		return mxerror.InvalidParam.With("the state key is not a user id")
	}
	return p.o.Rules.Invite(ctx, q.tenant, policy.Invite{Inviter: inviter, Invitee: invitee, Room: e.Room, RoomVersion: version, Incoming: true, Stripped: state, Direct: e.Content.Direct})
}

// transaction asks for each server that an event of a transaction is of ("bei jedem Event", dossier 2.2). Servers send events of their own
// only, so that a refusal costs nobody else's.
func (p *Proxy) transaction(ctx context.Context, q *request) error {
	text, err := q.body(maxTransaction)
	if err != nil {
		return err
	}
	var body struct {
		PDUs []struct {
			Sender string `json:"sender"`
		} `json:"pdus"`
	}
	// Events of old rooms may hold what strict JSON refuses. Their form is the homeserver's business; a sender that cannot be read is nobody's.
	if err := json.Unmarshal(text, &body, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)); err != nil {
		return mxerror.NotJSON.With("the transaction cannot be read")
	}
	asked := map[id.Server]bool{}
	for _, e := range body.PDUs {
		sender, err := id.ParseUser(e.Sender)
		if err != nil {
			return mxerror.BadJSON.With("an event's sender is not a user id")
		}
		server := sender.Server()
		if asked[server] {
			continue
		}
		asked[server] = true
		if err := p.o.Rules.Federate(ctx, q.tenant, server); err != nil {
			return err
		}
		p.met(ctx, server)
	}
	return nil
}
