// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"errors"
	"net/netip"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// aclAllows judges a server by the content of an m.room.server_acl event (client-server API, "Server ACLs"). Entries that are not strings
// count as absent; an allow list that is missing or malformed allows nobody.
func aclAllows(content jsontext.Value, server id.Server) bool {
	var acl struct {
		Allow    jsontext.Value `json:"allow"`
		Deny     jsontext.Value `json:"deny"`
		Literals jsontext.Value `json:"allow_ip_literals"`
	}
	if json.Unmarshal(content, &acl, decodeOptions) != nil {
		return false
	}
	host := strings.ToLower(bareHost(server))
	if _, err := netip.ParseAddr(host); err == nil && string(acl.Literals) == "false" {
		return false
	}
	name := strings.ToLower(server.Host())
	return !matchesAny(acl.Deny, name) && matchesAny(acl.Allow, name)
}

// matchesAny says whether one of a JSON list's strings, as a glob, matches a name in lower case.
func matchesAny(list jsontext.Value, name string) bool {
	var globs []jsontext.Value
	if json.Unmarshal(list, &globs, decodeOptions) != nil {
		return false
	}
	for _, raw := range globs {
		var glob string
		if json.Unmarshal(raw, &glob) == nil && globMatches(strings.ToLower(glob), name) {
			return true
		}
	}
	return false
}

// globMatches matches a pattern of * (any run) and ? (any one character) against a whole name, in linear time for one star at a time.
func globMatches(pattern, name string) bool {
	p, n := 0, 0
	star, back := -1, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, back = p, n
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == name[n]):
			p++
			n++
		case star >= 0:
			back++
			p, n = star+1, back
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

var errDenied = mxerror.Forbidden.With("This server is denied access to the room by its access control list.")

// checkACL refuses a server that the room's access control list denies. A room without one denies nobody.
func (s *Service) checkACL(ctx context.Context, t *tenant.Tenant, r *room.Room, server id.Server) error {
	state, err := s.Rooms.CurrentState(ctx, t.ID, r)
	if errors.Is(err, mxerror.NotFound) {
		return nil // a room that we only know from outside has no state here
	}
	if err != nil {
		return err
	}
	acl, err := s.Rooms.StateEvent(ctx, t.ID, state, event.Key{Type: "m.room.server_acl"})
	if err != nil || acl == nil || aclAllows(acl.Content(), server) {
		return err
	}
	return errDenied
}
