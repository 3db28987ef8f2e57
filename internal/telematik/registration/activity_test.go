// SPDX-License-Identifier: Apache-2.0

package registration_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/telematik/directory"
	"github.com/konsil-health/konsil/internal/telematik/fedlist"
	"github.com/konsil-health/konsil/internal/telematik/registration"
)

// TestActivity: an organisation that leaves the directory is told, is off the federation list after 30 days, and comes back by a new proof alone.
//
// Requirements: A_23092, A_23093, A_23094, AF_10103.
func TestActivity(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		n := newNetwork(t, db)
		var told []time.Time
		service := n.provider(func(o *registration.Options) {
			o.Inactive = func(_ context.Context, at *tenant.Tenant, until time.Time) {
				if at.Name != "praxis.example" {
					t.Errorf("told of %s", at.Name)
				}
				told = append(told, until)
			}
		})
		client, smcb := n.client(service), n.unlock(n.smcb("1-2.1", certificate.Practice, "Praxis Sonnenallee"))
		made, err := client.RegisterWith(t.Context(), smcb, registration.Order{ServerName: "praxis.example"})
		if err != nil {
			t.Fatal(err)
		}
		praxis, err := n.tenants.ByName(t.Context(), made.ServerName)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.list().Add(t.Context(), fedlist.Domain{Domain: "another-cell.example", TelematikID: "1-2.1"}); err != nil {
			t.Fatal(err)
		}
		state := func(step string, away, listed bool) registration.Inactivity {
			t.Helper()
			if err := service.CheckActivity(t.Context()); err != nil {
				t.Fatalf("%s: %v", step, err)
			}
			i, err := service.Inactivity(t.Context(), praxis.ID)
			if err != nil {
				t.Fatal(err)
			}
			if _, there := n.listed()["praxis.example"]; there != listed || away != (i.Since > 0) || listed != (i.Removed == 0) {
				t.Errorf("%s: on the list %v, %+v", step, there, i)
			}
			return i
		}
		present := func(active bool) {
			n.enter(directory.Institution{TelematikID: "1-2.1", Name: "Praxis Sonnenallee", ProfessionOID: certificate.Practice, Inactive: !active})
		}
		const day = 24 * time.Hour
		state("active", false, true)
		present(false)
		state("away", true, true)
		n.now = n.now.Add(29 * day)
		state("29 days", true, true)
		if len(told) != 1 || !told[0].Equal(start.Add(30*day)) {
			t.Errorf("told %v", told)
		}
		present(true)
		state("back in time", false, true)
		present(false)
		since := state("away again", true, true)
		n.now = n.now.Add(30*day - time.Millisecond)
		state("a moment before", true, true)
		n.now = n.now.Add(time.Millisecond)
		if gone := state("30 days", true, false); gone.Since != since.Since || gone.Removed != n.now.UnixMilli() {
			t.Errorf("%+v", gone)
		}
		if len(told) != 2 {
			t.Errorf("told %d times", len(told))
		}
		if _, err := client.RegisterWith(t.Context(), smcb, registration.Order{ServerName: "praxis.example"}); !errors.Is(err, registration.ErrInactive) {
			t.Errorf("a proof while away: %v", err)
		}
		present(true)
		state("active without a proof", true, false)
		if r, err := client.RegisterWith(t.Context(), smcb, registration.Order{ServerName: "praxis.example"}); err != nil || !r.Again || r.Tenant != nil && r.Tenant.ID != praxis.ID {
			t.Errorf("%+v %v", r, err)
		}
		state("proved again", false, true)
	})
}

// TestActivityUnknown: while the directory or the list is away nobody is taken for inactive.
func TestActivityUnknown(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, databasetest.Open(t, databasetest.SQLite(t)))
	blind := n.provider(func(o *registration.Options) { o.List = &registration.ListClient{URL: "http://127.0.0.1:1/x"} })
	if err := blind.CheckActivity(t.Context()); !errors.Is(err, registration.ErrUnavailable) {
		t.Error(err)
	}
}
