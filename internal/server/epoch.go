// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/encryption"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// epochPage is how many tenants are read at once when all of them get a new epoch.
const epochPage = 200

// RaiseEpoch begins a new epoch of one tenant, or with an empty name of all of them, because commits may have been lost (engine rule 7). raised, when
// set, is told of each. It returns how many there were.
func RaiseEpoch(ctx context.Context, db *database.DB, tenants *tenant.Store, name id.Server, raised func(*tenant.Tenant)) (int, error) {
	raise := func(t *tenant.Tenant) error {
		// The keys first: a tenant that has its new epoch has all of it.
		if err := encryption.AfterRestore(ctx, db, t.ID, t.Name); err != nil {
			return fmt.Errorf("keys of %s: %w", t.Name, err)
		}
		if _, err := stream.RaiseEpoch(ctx, db, t.ID); err != nil {
			return fmt.Errorf("epoch of %s: %w", t.Name, err)
		}
		if raised != nil {
			raised(t)
		}
		return nil
	}
	if name != "" {
		t, err := tenants.ByName(ctx, name)
		if errors.Is(err, tenant.ErrUnknown) {
			return 0, fmt.Errorf("there is no tenant %s here", name)
		}
		if err != nil {
			return 0, err
		}
		return 1, raise(t)
	}
	for n, last := 0, id.Server(""); ; {
		page, err := tenants.All(ctx, last, epochPage)
		if err != nil {
			return n, err
		}
		for _, t := range page {
			if err := raise(t); err != nil {
				return n, err
			}
			n, last = n+1, t.Name
		}
		if len(page) < epochPage {
			return n, nil
		}
	}
}

// raiseEpoch is RaiseEpoch where tenants are being served: what the node remembers of them ends with their epoch.
func (n *node) raiseEpoch(ctx context.Context, name id.Server) (int, error) {
	return RaiseEpoch(ctx, n.db, n.tenants, name, func(t *tenant.Tenant) {
		n.tenants.Changed(t)
		n.feed.Forget(t.ID)
	})
}
