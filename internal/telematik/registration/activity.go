// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/telematik/fedlist"
)

// How often the provider's organisations are checked against the directory, and how long one may be away before its domain goes off the federation
// list (A_23092, A_23093, A_23094).
const (
	activityEvery = 24 * time.Hour
	inactiveFor   = 30 * 24 * time.Hour
	activityRetry = 15 * time.Minute
)

// Inactivity is since when an organisation is not active in the directory, and when its domain went off the federation list; 0: it did not.
type Inactivity struct {
	Since, Removed int64 // ms since the epoch
}

// Inactivity answers for one messenger; the zero value for one whose organisation is active.
func (s *Service) Inactivity(ctx context.Context, t tenant.ID) (i Inactivity, err error) {
	err = s.o.DB.QueryRow(ctx, "SELECT since, removed FROM registration_inactive WHERE tenant = $1", int64(t)).Scan(&i.Since, &i.Removed)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return i, err
}

// Watch checks the organisations once a day until the context ends.
func (s *Service) Watch(ctx context.Context) {
	for {
		wait := activityEvery
		if err := s.CheckActivity(ctx); err != nil {
			if ctx.Err() != nil {
				return
			}
			s.o.Log.Error("registration: the daily check of the organisations failed", "error", err)
			wait = activityRetry
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// CheckActivity asks the directory which of the provider's organisations are not active any more. Since when is remembered and told
// (Options.Inactive); after 30 days the domain goes off the federation list, and only a new proof by card or KIM brings it back (AF_10103).
func (s *Service) CheckActivity(ctx context.Context) error {
	inactive, err := s.o.List.Inactive(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	away := map[tenant.ID]bool{}
	var errs []error
	for _, d := range inactive {
		t, err := s.o.Tenants.ByName(ctx, d.Domain)
		if errors.Is(err, tenant.ErrUnknown) {
			continue // of another cell of this provider
		}
		if err == nil {
			away[t.ID] = true
			err = s.inactive(ctx, t, d)
		}
		errs = append(errs, err)
	}
	rows, err := s.o.DB.Query(ctx, "SELECT tenant FROM registration_inactive WHERE removed = 0 AND tenant <> 0")
	known, err := database.All(rows, err, database.Column[int64])
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, t := range known {
		if !away[tenant.ID(t)] {
			_, err := s.o.DB.Exec(ctx, "DELETE FROM registration_inactive WHERE tenant = $1 AND removed = 0", t)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// inactive remembers one, and takes it off the list when it is away for too long.
func (s *Service) inactive(ctx context.Context, t *tenant.Tenant, d fedlist.Domain) error {
	now := s.o.Now().UnixMilli()
	n, err := s.o.DB.Exec(ctx, "INSERT INTO registration_inactive (tenant, since, removed) VALUES ($1, $2, 0) ON CONFLICT (tenant) DO NOTHING", int64(t.ID), now)
	if err != nil {
		return err
	}
	i, err := s.Inactivity(ctx, t.ID)
	if err != nil {
		return err
	}
	if n > 0 {
		s.o.Log.Warn("registration: an organisation is not active in the directory any more", "tenant", string(t.Name))
		if s.o.Inactive != nil {
			s.o.Inactive(ctx, t, time.UnixMilli(i.Since).Add(inactiveFor))
		}
	}
	if i.Removed > 0 || now-i.Since < inactiveFor.Milliseconds() {
		return nil
	}
	if err := s.o.List.Remove(ctx, d.Domain); err != nil {
		return err
	}
	s.o.Log.Warn("registration: a messenger was taken off the federation list, its organisation has left the directory", "tenant", string(t.Name))
	_, err = s.o.DB.Exec(ctx, "UPDATE registration_inactive SET removed = $2 WHERE tenant = $1", int64(t.ID), now)
	return err
}

// renewed forgets that an organisation was away: it has proved itself again and is active.
func (s *Service) renewed(ctx context.Context, t tenant.ID) error {
	_, err := s.o.DB.Exec(ctx, "DELETE FROM registration_inactive WHERE tenant = $1", int64(t))
	return err
}

// End takes a messenger off the federation list: its contract is over.
func (s *Service) End(ctx context.Context, domain id.Server) error {
	if err := s.o.List.Remove(ctx, domain); err != nil {
		return fmt.Errorf("%w: federation list: %w", ErrUnavailable, err)
	}
	return nil
}
