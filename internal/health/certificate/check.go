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
	KeyCheck        Check = "key"
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

// Expect is what a certificate must be.
type Expect struct {
	Types []Type // any of them; none: any type
	// Professions must hold one of the certificate's profession OIDs; none: any, but an admission there must be.
	Professions []string
	// At is the time of the check.
	At time.Time
	// Between are further authorities that came with the certificate; they help to build the chain and are trusted only by it.
	Between []*Certificate
	// Revoked asks the issuer (OCSP); nil skips it. An error refuses the certificate.
	Revoked func(*Certificate) error
}

// authentication are the profiles of cards that prove who their holder is (gemSpec_PKI).
var authentication = []Type{CardHolderAUT, ProfessionalAUT, InstitutionAUT}

// Check walks validity, type, key usage, key, admission, chain and revocation, and answers a *CheckError for the first that fails.
func (t *Trust) Check(c *Certificate, e Expect) error {
	for _, failed := range []*CheckError{c.checkValidity(e.At), c.checkType(e.Types), c.checkUsage(), c.checkKey(), c.checkAdmission(e.Professions)} {
		if failed != nil {
			return failed
		}
	}
	if err := t.chain(c, e); err != nil {
		return &CheckError{Check: ChainCheck, Err: err}
	}
	if e.Revoked != nil {
		if err := e.Revoked(c); err != nil {
			return &CheckError{Check: RevocationCheck, Err: err}
		}
	}
	return nil
}

func (c *Certificate) checkValidity(at time.Time) *CheckError {
	if at.Before(c.X509.NotBefore) {
		return &CheckError{Check: ValidityCheck, Reason: "not valid before " + c.X509.NotBefore.UTC().Format(time.DateOnly)}
	}
	if at.After(c.X509.NotAfter) {
		return &CheckError{Check: ValidityCheck, Reason: "expired on " + c.X509.NotAfter.UTC().Format(time.DateOnly)}
	}
	return nil
}

func (c *Certificate) checkType(types []Type) *CheckError {
	kind := c.Type()
	if kind == "" || len(types) > 0 && !slices.Contains(types, kind) {
		return &CheckError{Check: TypeCheck, Reason: fmt.Sprintf("is %q, expected %q", kind, types)}
	}
	return nil
}

// checkUsage wants a holder's signature key, and of a card's authentication certificate that it names no purpose but with client authentication.
func (c *Certificate) checkUsage() *CheckError {
	if c.X509.IsCA || c.X509.KeyUsage&stdx509.KeyUsageDigitalSignature == 0 {
		return &CheckError{Check: KeyUsageCheck, Reason: "not for signatures of its holder"}
	}
	purposes := len(c.X509.ExtKeyUsage) + len(c.X509.UnknownExtKeyUsage)
	if slices.Contains(authentication, c.Type()) && purposes > 0 && !slices.Contains(c.X509.ExtKeyUsage, stdx509.ExtKeyUsageClientAuth) {
		return &CheckError{Check: KeyUsageCheck, Reason: "not for authentication"}
	}
	return nil
}

// checkKey allows the infrastructure's two curves.
func (c *Certificate) checkKey() *CheckError {
	if !knownCurve(c.PublicKey()) {
		return &CheckError{Check: KeyCheck, Reason: "neither on brainpoolP256r1 nor on P-256"}
	}
	return nil
}

func (c *Certificate) checkAdmission(professions []string) *CheckError {
	if len(c.Admission.Professions) == 0 {
		return &CheckError{Check: AdmissionCheck, Reason: "no profession"}
	}
	if len(professions) > 0 && !slices.ContainsFunc(c.Admission.Professions, func(p string) bool { return slices.Contains(professions, p) }) {
		return &CheckError{Check: AdmissionCheck, Reason: fmt.Sprintf("profession %q is none of %q", c.Admission.Professions, professions)}
	}
	return nil
}
