// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

// policyTimeout bounds a policy server's answer: a sender waits for it.
const policyTimeout = 10 * time.Second

// PolicySign asks a room's policy server to recommend an event and returns its signature; package room asks and verifies it
// (room.Options.PolicySign).
func (s *Service) PolicySign(ctx context.Context, t *tenant.Tenant, server id.Server, e *event.Event) ([]byte, error) {
	if server == t.Name {
		return s.ownRecommendation(ctx, t, e)
	}
	var doc map[string]map[id.KeyID]string
	c := call{method: http.MethodPost, path: "/_matrix/policy/v1/sign", body: e.JSON(), timeout: policyTimeout}
	if err := s.fetch(ctx, t, server, c, always, &doc); err != nil {
		return nil, err
	}
	signature, ok := doc[string(server)][policyKey]
	if !ok {
		return nil, malformed(server, errors.New("its signature is missing"))
	}
	raw, err := signing.Decode(signature)
	if err != nil {
		return nil, malformed(server, err)
	}
	return raw, nil
}

// ownRecommendation is PolicySign where the tenant itself is the room's policy server.
func (s *Service) ownRecommendation(ctx context.Context, t *tenant.Tenant, e *event.Event) ([]byte, error) {
	p := s.policyServerOf(t)
	if p == nil {
		return nil, mxerror.Unrecognized
	}
	rm, err := s.Rooms.Lookup(ctx, t.ID, e.Room())
	if err != nil {
		return nil, err
	}
	signature, err := s.recommend(ctx, t, p, rm, e)
	if err != nil {
		return nil, err
	}
	return signing.Decode(signature)
}
