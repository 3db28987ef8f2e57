// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/homeserver/space"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// getHierarchy shows a space to another server.
func (s *Service) getHierarchy(ctx context.Context, r *httpapi.Request) (any, error) {
	if s.Spaces == nil {
		return nil, mxerror.Unrecognized
	}
	name, err := r.Room()
	if err != nil {
		return nil, err
	}
	suggested, err := r.QueryBool("suggested_only", false)
	if err != nil {
		return nil, err
	}
	return s.Spaces.ForServer(ctx, r.Tenant, r.Origin, name, suggested, func(ctx context.Context, rm *room.Room) (bool, error) {
		err := s.checkACL(ctx, r.Tenant, rm, r.Origin)
		if mxerror.From(err) != nil {
			return true, nil
		}
		return false, err
	})
}

// hierarchyTimeout bounds a server's answer about a space: somebody waits for several of them.
const hierarchyTimeout = 10 * time.Second

// Hierarchy asks another server for a room and its children; package space asks.
func (s *Service) Hierarchy(ctx context.Context, t *tenant.Tenant, server id.Server, r id.Room, suggestedOnly bool) (*space.Hierarchy, error) {
	c := call{method: http.MethodGet, path: pathOf(v1+"/hierarchy", string(r)), timeout: hierarchyTimeout}
	if suggestedOnly {
		c.query = url.Values{"suggested_only": {"true"}}
	}
	var h space.Hierarchy
	if err := s.fetch(ctx, t, server, c, whenUp, &h); err != nil {
		return nil, err
	}
	return &h, nil
}
