// SPDX-License-Identifier: Apache-2.0

package tenant_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// TestUnknownIsRememberedUntilCreated: a name asked for in vain costs one query, and is there as soon as the tenant has been made.
func TestUnknownIsRememberedUntilCreated(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		ctx := context.Background()
		s := tenant.NewStore(db)
		for range 3 {
			if _, err := s.ByName(ctx, "later.example"); !errors.Is(err, tenant.ErrUnknown) {
				t.Fatal(err)
			}
			if _, err := s.ByHost(ctx, "later.example:8448"); !errors.Is(err, tenant.ErrUnknown) {
				t.Fatal(err)
			}
		}
		if got := db.Counters().Queries; got != 3 {
			t.Errorf("%d queries, want 3: the name, the host with and without port", got)
		}
		made, err := s.Create(ctx, tenant.Spec{Name: "later.example"})
		if err != nil {
			t.Fatal(err)
		}
		for _, find := range []func() (*tenant.Tenant, error){
			func() (*tenant.Tenant, error) { return s.ByName(ctx, "later.example") },
			func() (*tenant.Tenant, error) { return s.ByHost(ctx, "Later.Example:8448") },
			func() (*tenant.Tenant, error) { return s.ByID(ctx, made.ID) },
		} {
			if found, err := find(); err != nil || found.ID != made.ID {
				t.Errorf("found %v, %v", found, err)
			}
		}
	})
}

func TestCreateAll(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		ctx := context.Background()
		s := tenant.NewStore(db)
		specs := make([]tenant.Spec, 2100)
		for i := range specs {
			specs[i] = tenant.Spec{Name: id.Server(fmt.Sprintf("t%d.example", i)), ClientHosts: []string{fmt.Sprintf("client.t%d.example", i)}}
		}
		made, err := s.CreateAll(ctx, specs)
		if err != nil || len(made) != len(specs) {
			t.Fatalf("%d made, %v", len(made), err)
		}
		found, err := s.ByHost(ctx, "client.t2099.example")
		if err != nil || found.Name != "t2099.example" {
			t.Errorf("%v, %v", found, err)
		}
		// A taken name or host refuses its whole transaction.
		for _, taken := range []tenant.Spec{{Name: "t7.example"}, {Name: "new2.example", ClientHosts: []string{"client.t7.example"}}} {
			if _, err := s.CreateAll(ctx, []tenant.Spec{{Name: "new.example"}, taken}); !errors.Is(err, tenant.ErrExists) {
				t.Errorf("taken %v: %v", taken, err)
			}
		}
		if _, err := s.ByName(ctx, "new.example"); !errors.Is(err, tenant.ErrUnknown) {
			t.Errorf("half of a refused transaction is there: %v", err)
		}
	})
}
