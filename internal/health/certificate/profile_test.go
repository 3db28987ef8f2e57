// SPDX-License-Identifier: Apache-2.0

package certificate_test

import (
	"crypto/x509"
	"errors"
	"testing"

	"github.com/konsil-health/konsil/internal/health/certificate"
)

// TestProfiles turns one property of each profile at a time and looks which check refuses it.
func TestProfiles(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	for _, kind := range []certificate.Type{certificate.CardHolderAUT, certificate.ProfessionalAUT, certificate.InstitutionAUT, certificate.ServiceSIG} {
		c := p.issue(t, func(t *certificate.Template) { t.Type = kind })
		expect := certificate.Expect{Types: []certificate.Type{kind}, At: now}
		if err := p.trust().Check(c, expect); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		for name, change := range map[string]struct {
			f    func(*x509.Certificate)
			want certificate.Check
		}{
			"an authority":          {func(c *x509.Certificate) { c.IsCA = true }, certificate.KeyUsageCheck},
			"for encryption":        {func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }, certificate.KeyUsageCheck},
			"no policy":             {func(c *x509.Certificate) { c.PolicyIdentifiers = nil }, certificate.TypeCheck},
			"an unknown key":        {func(c *x509.Certificate) { c.PublicKey = nil }, certificate.KeyCheck},
			"signed by another key": {func(c *x509.Certificate) { c.Signature = append([]byte{}, c.Signature[:len(c.Signature)-1]...) }, certificate.ChainCheck},
			"a critical extension": {func(c *x509.Certificate) {
				c.UnhandledCriticalExtensions = append(c.UnhandledCriticalExtensions, []int{1, 2})
			}, certificate.ChainCheck},
		} {
			altered, err := certificate.Parse(c.DER())
			if err != nil {
				t.Fatal(err)
			}
			change.f(altered.X509)
			failed, ok := errors.AsType[*certificate.CheckError](p.trust().Check(altered, expect))
			if !ok || failed.Check != change.want {
				t.Errorf("%s, %s: %v, want a failed check of %s", kind, name, failed, change.want)
			}
		}
		mail, err := certificate.Parse(c.DER())
		if err != nil {
			t.Fatal(err)
		}
		mail.X509.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}
		failed, _ := errors.AsType[*certificate.CheckError](p.trust().Check(mail, expect))
		if refused := failed != nil && failed.Check == certificate.KeyUsageCheck; refused != (kind != certificate.ServiceSIG) {
			t.Errorf("%s for mail only: %v", kind, failed)
		}
	}
}
