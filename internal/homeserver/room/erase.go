// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// How long another node's erasure may stay unseen, and how many tenants' sets are remembered.
const (
	erasedFor     = time.Minute
	erasedTenants = 10_000
)

// Erase makes what a user has sent come without its content to everybody, people and servers, who was not in the room when it was sent (client-server
// API, "Account deactivation", erase). Who was there keeps it.
func (s *Service) Erase(ctx context.Context, t tenant.ID, user id.User) error {
	_, err := s.DB.Exec(ctx, "INSERT INTO erased_user (tenant, user_id) VALUES ($1, $2) ON CONFLICT (tenant, user_id) DO NOTHING", int64(t), string(user))
	s.erased.Invalidate(t)
	return err
}

// Erased are the tenant's users who asked to be erased.
func (s *Service) Erased(ctx context.Context, t tenant.ID) (map[id.User]bool, error) {
	if set, ok := s.erased.Get(t); ok {
		return set, nil
	}
	rows, err := s.DB.Query(ctx, "SELECT user_id FROM erased_user WHERE tenant = $1", int64(t))
	list, err := database.All(rows, err, database.Column[id.User])
	if err != nil {
		return nil, err
	}
	set := make(map[id.User]bool, len(list))
	for _, u := range list {
		set[u] = true
	}
	s.erased.Set(t, set)
	return set, nil
}

// withoutContent is an event as those get it who may not know what it said.
func withoutContent(e *Event) (*Event, error) {
	redacted, err := e.Redact()
	if err != nil {
		return nil, err
	}
	hidden := *e
	hidden.Event = redacted
	return &hidden, nil
}
