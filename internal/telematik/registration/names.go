// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// reservedLabels are never given out below the provider's domain: they are or may become addresses of the provider, or would speak in the name of
// somebody who has not ordered them.
var reservedLabels = []string{
	"admin", "administrator", "api", "app", "auth", "autoconfig", "autodiscover", "bundesaerztekammer", "certificate", "console", "dns", "fhir", "ftp", "gematik",
	"help", "hilfe", "hostmaster", "idp", "imap", "info", "kbv", "kim", "konsil", "konsole", "login", "mail", "matrix", "media", "messenger", "mta-sts", "mx",
	"notruf", "ns1", "ns2", "ocsp", "pop", "postmaster", "proxy", "push", "registration", "registrierung", "root", "scim", "security", "sip", "smtp", "sso",
	"status", "support", "test", "tim", "turn", "vpn", "webmail", "well-known", "wpad", "www",
}

// minLabel is the shortest label that is given out.
const minLabel = 3

// alike folds what people read as the same. Names have only a-z, 0-9 and hyphens, so that these are all.
var alike = strings.NewReplacer("0", "o", "1", "l", "i", "l", "5", "s", "8", "b", "rn", "m", "vv", "w", "cl", "d", "ae", "a", "oe", "o", "ue", "u", "-", "")

// skeleton is the same for names that look alike.
func skeleton(label string) string { return alike.Replace(label) }

var reservedSkeletons = func() []string {
	all := make([]string, len(reservedLabels))
	for i, l := range reservedLabels {
		all[i] = skeleton(l)
	}
	return all
}()

// label is a name's part below the provider's domain; ok is false for a domain of somebody's own.
func (s *Service) label(name id.Server) (label string, ok bool) {
	if s.o.Base == "" {
		return "", false
	}
	return strings.CutSuffix(string(name), "."+string(s.o.Base))
}

// Offer is the full name of a label below the provider's domain.
func (s *Service) Offer(label string) id.Server { return id.Server(label + "." + string(s.o.Base)) }

// Base is the provider's domain below which it gives out names; empty: none.
func (s *Service) Base() id.Server { return s.o.Base }

// mayHave refuses names that this organisation does not get: reserved ones, those that look like another's, and domains that it has not proved. What
// it has already it may have again.
func (s *Service) mayHave(ctx context.Context, who Organisation, name id.Server) error {
	t, err := s.o.Tenants.ByName(ctx, name)
	if err == nil && t.TelematikID == who.TelematikID {
		return nil
	}
	if err != nil && !errors.Is(err, tenant.ErrUnknown) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	label, below := s.label(name)
	if !below {
		return s.proved(ctx, who, name)
	}
	switch {
	case strings.Contains(label, "."):
		return fmt.Errorf("%w: one label below %s", ErrDomain, s.o.Base)
	case len(label) < minLabel, strings.HasPrefix(label, "xn--"), len(label) > 3 && label[2:4] == "--", slices.Contains(reservedSkeletons, skeleton(label)):
		return ErrSimilar
	}
	var other id.Server
	err = s.o.DB.QueryRow(ctx, "SELECT domain FROM registration_name WHERE skeleton = $1", skeleton(label)).Scan(&other)
	switch {
	case errors.Is(err, sql.ErrNoRows), err == nil && other == name:
		return nil // whose it is decides provision
	case err != nil:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return ErrSimilar
}

// reserveName keeps names that look alike from being given twice, also at the same moment. It says whether the name was new.
func (s *Service) reserveName(ctx context.Context, who Organisation, name id.Server) (added bool, err error) {
	label, below := s.label(name)
	if !below {
		return false, nil
	}
	err = s.o.DB.Write(ctx, func(tx *database.Tx) error {
		n, err := tx.Exec(ctx, "INSERT INTO registration_name (skeleton, domain) VALUES ($1, $2) ON CONFLICT (skeleton) DO NOTHING", skeleton(label), string(name))
		if added = n > 0; err != nil || added {
			return err
		}
		var holder id.Server
		if err := tx.QueryRow(ctx, "SELECT domain FROM registration_name WHERE skeleton = $1", skeleton(label)).Scan(&holder); err != nil {
			return err
		}
		if holder != name {
			return ErrSimilar
		}
		return nil
	})
	if err != nil && !errors.Is(err, ErrSimilar) {
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return added, err
}

// releaseName takes a reservation back for which no messenger came to be.
func (s *Service) releaseName(ctx context.Context, added bool, name id.Server) {
	if !added {
		return
	}
	if _, err := s.o.Tenants.ByName(ctx, name); err == nil {
		return
	}
	if _, err := s.o.DB.Exec(context.WithoutCancel(ctx), "DELETE FROM registration_name WHERE domain = $1", string(name)); err != nil {
		s.o.Log.Error("registration: a name without messenger stays reserved", "domain", string(name), "error", err)
	}
}
