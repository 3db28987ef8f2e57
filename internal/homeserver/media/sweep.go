// SPDX-License-Identifier: Apache-2.0

package media

import (
	"context"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
)

const (
	// sweepAfter is how old content must be before it can count as left over: younger may belong to an upload whose row is being written.
	sweepAfter = 24 * time.Hour
	// sweepEvery is the pause between two rounds through all tenants.
	sweepEvery = 24 * time.Hour
)

// Sweep deletes content of a tenant that no row knows: what an interrupted upload or a crash between content and row left behind. It returns how
// much there was. The opposite, a row without content, is found when somebody asks for it.
func (s *Service) Sweep(ctx context.Context, t tenant.ID) (removed int, err error) {
	before := s.o.Now().Add(-sweepAfter)
	err = s.blobs.walk(ctx, t, func(name string, stored time.Time) error {
		if stored.After(before) {
			return nil
		}
		known, err := s.known(ctx, t, name)
		if err != nil || known {
			return err
		}
		removed++
		return s.blobs.remove(ctx, t, name)
	})
	return removed, err
}

// sweepRound sweeps every tenant that has media.
func (s *Service) sweepRound(ctx context.Context) error {
	for after := int64(-1 << 63); ; {
		rows, err := s.db.Query(ctx, "SELECT DISTINCT tenant FROM media WHERE tenant > $1 ORDER BY tenant LIMIT 100", after)
		tenants, err := database.All(rows, err, database.Column[int64])
		if err != nil || len(tenants) == 0 {
			return err
		}
		for _, t := range tenants {
			n, err := s.Sweep(ctx, tenant.ID(t))
			if err != nil {
				return err
			}
			if n > 0 {
				s.o.Log.InfoContext(ctx, "left-over media deleted", "tenant", t, "files", n)
			}
			after = t
		}
	}
}

func (s *Service) known(ctx context.Context, t tenant.ID, name string) (bool, error) {
	var n int64
	err := s.db.QueryRow(ctx, `SELECT (SELECT COUNT(*) FROM media WHERE tenant = $1 AND hash = $2) + (SELECT COUNT(*) FROM media_thumbnail WHERE tenant = $1 AND hash = $2)`,
		int64(t), name).Scan(&n)
	return n > 0, err
}
