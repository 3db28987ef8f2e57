// SPDX-License-Identifier: Apache-2.0

package fedlist_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/telematik/fedlist"
	"github.com/konsil-health/konsil/internal/telematik/trust"
)

// TestSignerCannotBeChecked: a list whose signer was revoked, is unknown or cannot be asked about is refused, the old one stays and an incident is
// raised (UC_Update_Federationlist_SignCheck); who has no list yet has none then.
//
// Requirements: A_25632.
func TestSignerCannotBeChecked(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		ctx := context.Background()
		p := newPKI(t, certificate.RoleDirectory)
		n := newNetwork(t, db, p)
		var verdict error
		var incidents []string
		consumer, err := fedlist.NewConsumer(ctx, fedlist.ConsumerOptions{DB: db, URL: n.url + "/FederationList/federationList.jws", Trust: p.trust, Token: fedlist.StaticToken("a"),
			Log: slog.New(slog.DiscardHandler), Incident: func(kind string) { incidents = append(incidents, kind) }, Revoked: func(*certificate.Certificate) error { return verdict }})
		if err != nil {
			t.Fatal(err)
		}
		for _, verdict = range []error{trust.ErrRevoked, trust.ErrUnknown, trust.ErrUnreachable} {
			if err := consumer.Refresh(ctx); !errors.Is(err, verdict) {
				t.Errorf("first list, %v: %v", verdict, err)
			}
		}
		if _, _, err := consumer.Member(ctx, "praxis.example"); !errors.Is(err, fedlist.ErrStale) {
			t.Errorf("without a list: %v", err)
		}
		verdict = nil
		if err := n.Add(ctx, "a", fedlist.Domain{Domain: "praxis.example", TelematikID: "1-1"}); err != nil {
			t.Fatal(err)
		}
		if err := consumer.Refresh(ctx); err != nil {
			t.Fatal(err)
		}
		version, _ := consumer.Version()
		if err := n.Add(ctx, "a", fedlist.Domain{Domain: "neu.example", TelematikID: "1-2"}); err != nil {
			t.Fatal(err)
		}
		incidents = nil
		for _, verdict = range []error{trust.ErrRevoked, trust.ErrUnknown, trust.ErrUnreachable} {
			if err := consumer.Refresh(ctx); !errors.Is(err, verdict) {
				t.Errorf("newer list, %v: %v", verdict, err)
			}
		}
		kept, domains := consumer.Version()
		listed, _, err := consumer.Member(ctx, "praxis.example")
		if kept != version || domains != 1 || !listed || err != nil || len(incidents) != 3 || incidents[0] != fedlist.IncidentRefused {
			t.Errorf("version %d of %d domains, %v, %v, incidents %q", kept, domains, listed, err, incidents)
		}
		verdict = nil
		if listed, _, err := consumer.Member(ctx, "neu.example"); err != nil || !listed {
			t.Errorf("when the signer can be checked again: %v %v", listed, err)
		}
	})
}
