// SPDX-License-Identifier: Apache-2.0

package certificate

import (
	stdx509 "crypto/x509"
	"fmt"
	"slices"
	"time"
)

// Check names a step of the check, so that a refusal says what was wrong.
type Check string

// The steps, in the order in which they are taken.
const (
	ValidityCheck   Check = "validity"
	TypeCheck       Check = "type"
	KeyUsageCheck   Check = "key usage"
	AdmissionCheck  Check = "admission"
	ChainCheck      Check = "chain"
	RevocationCheck Check = "revocation"
)

// CheckError says which check a certificate failed.
type CheckError struct {
	Check  Check
	Reason string
	Err    error
}

// Error names the check and the reason.
func (e *CheckError) Error() string {
	text := fmt.Sprintf("certificate refused: %s", e.Check)
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns the cause.
func (e *CheckError) Unwrap() error { return e.Err }

// Trust is the set of roots and intermediate certificates of one environment. It is immutable and safe for concurrent use.
type Trust struct {
	roots, intermediates *stdx509.CertPool
}

// NewTrust takes the trust anchors and the certification authorities below them.
func NewTrust(roots, intermediates []*Certificate) *Trust {
	t := &Trust{roots: stdx509.NewCertPool(), intermediates: stdx509.NewCertPool()}
	for _, c := range roots {
		t.roots.AddCert(c.X509)
	}
	for _, c := range intermediates {
		t.intermediates.AddCert(c.X509)
	}
	return t
}

// Expect is what a certificate must be.
type Expect struct {
	Types []Type // any of them; none: any type
	// Professions must hold one of the certificate's profession OIDs; none: any, but an admission there must be.
	Professions []string
	// At is the time of the check.
	At time.Time
	// Revoked asks the issuer (OCSP); nil skips it. An error refuses the certificate.
	Revoked func(*Certificate) error
}

// Check walks validity, type, key usage, admission, chain and revocation, and answers a *CheckError for the first that fails.
func (t *Trust) Check(c *Certificate, e Expect) error {
	if e.At.Before(c.X509.NotBefore) {
		return &CheckError{Check: ValidityCheck, Reason: "not valid before " + c.X509.NotBefore.UTC().Format(time.DateOnly)}
	}
	if e.At.After(c.X509.NotAfter) {
		return &CheckError{Check: ValidityCheck, Reason: "expired on " + c.X509.NotAfter.UTC().Format(time.DateOnly)}
	}
	kind := c.Type()
	if kind == "" || len(e.Types) > 0 && !slices.Contains(e.Types, kind) {
		return &CheckError{Check: TypeCheck, Reason: fmt.Sprintf("is %q, expected %q", kind, e.Types)}
	}
	if c.X509.IsCA || c.X509.KeyUsage&stdx509.KeyUsageDigitalSignature == 0 {
		return &CheckError{Check: KeyUsageCheck, Reason: "not for signatures of its holder"}
	}
	if len(c.Admission.Professions) == 0 {
		return &CheckError{Check: AdmissionCheck, Reason: "no profession"}
	}
	if len(e.Professions) > 0 && !slices.ContainsFunc(c.Admission.Professions, func(p string) bool { return slices.Contains(e.Professions, p) }) {
		return &CheckError{Check: AdmissionCheck, Reason: fmt.Sprintf("profession %q is none of %q", c.Admission.Professions, e.Professions)}
	}
	if _, err := c.X509.Verify(stdx509.VerifyOptions{
		Roots: t.roots, Intermediates: t.intermediates, CurrentTime: e.At, KeyUsages: []stdx509.ExtKeyUsage{stdx509.ExtKeyUsageAny},
	}); err != nil {
		return &CheckError{Check: ChainCheck, Err: err}
	}
	if e.Revoked != nil {
		if err := e.Revoked(c); err != nil {
			return &CheckError{Check: RevocationCheck, Err: err}
		}
	}
	return nil
}
