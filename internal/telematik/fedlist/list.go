// SPDX-License-Identifier: Apache-2.0

package fedlist

import (
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/jose"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Domain is one entry (schema FederationList, component Domain of I_VZD_TIM_Provider_Services).
type Domain struct {
	Domain      id.Server `json:"domain"`
	TelematikID string    `json:"telematikID"`
	IsInsurance bool      `json:"isInsurance"`
	// IK are the insurer's numbers, exactly when IsInsurance.
	IK       []string `json:"ik,omitempty"`
	Provider string   `json:"timAnbieter,omitempty"`
	// Redirects are hosts to which the domain's well-known file may redirect; the list itself does not show them.
	Redirects []string `json:"redirectDomains,omitempty"`
}

// List is the federation list.
type List struct {
	Version int64    `json:"version"`
	Domains []Domain `json:"domainList"`
}

// published is the list as it may be written: older publishers say iks instead of ik (dossier, section 3).
type published struct {
	Version int64 `json:"version"`
	Domains []struct {
		Domain
		IKs []string `json:"iks"`
	} `json:"domainList"`
}

// maxList bounds a list's token in bytes: room for about 150,000 domains.
const maxList = 64 << 20

// Verify reads a list and checks who signed it: the token's certificate is of type C.FD.SIG with the role oid_vzd_ti, valid at the given time,
// chained to the trust, and not revoked as far as revoked says (nil skips that). Nothing of a list that fails may be used.
func Verify(token string, trust *certificate.Trust, at time.Time, revoked func(*certificate.Certificate) error) (*List, error) {
	l, _, err := VerifySigner(token, trust, at, revoked)
	return l, err
}

// VerifySigner is [Verify] that returns the signer's certificate too.
func VerifySigner(token string, trust *certificate.Trust, at time.Time, revoked func(*certificate.Certificate) error) (*List, *certificate.Certificate, error) {
	signed, err := jose.ParseLimited(token, maxList)
	if err != nil {
		return nil, nil, fmt.Errorf("federation list: %w", err)
	}
	if len(signed.Header.X5c) == 0 {
		return nil, nil, errors.New("federation list: the signer's certificate (x5c) is missing")
	}
	signer, err := certificate.Parse(signed.Header.X5c[0]) // further ones are intermediates; the trust has its own
	if err != nil {
		return nil, nil, fmt.Errorf("federation list: %w", err)
	}
	err = trust.Check(signer, certificate.Expect{Types: []certificate.Type{certificate.ServiceSIG}, Professions: []string{certificate.RoleDirectory}, At: at, Revoked: revoked})
	if err != nil {
		return nil, nil, fmt.Errorf("federation list: signer: %w", err)
	}
	if err := signed.Verify(signer.PublicKey()); err != nil {
		return nil, nil, fmt.Errorf("federation list: %w", err)
	}
	l, err := parse(signed.Payload)
	return l, signer, err
}

// parse reads a verified payload.
func parse(payload []byte) (*List, error) {
	var p published
	if err := json.Unmarshal(payload, &p); err != nil {
		return nil, fmt.Errorf("federation list: %w", err)
	}
	l := &List{Version: p.Version, Domains: make([]Domain, len(p.Domains))}
	for i, d := range p.Domains {
		if d.Domain.Domain == "" {
			return nil, fmt.Errorf("federation list: entry %d has no domain", i)
		}
		if len(d.IK) == 0 {
			d.IK = d.IKs
		}
		l.Domains[i] = d.Domain
	}
	return l, nil
}

// ValidIK says whether a text is an insurer's number: nine digits that begin with 10, 16 or 95 and end with the check digit, which is the sum of
// the digits 3 to 8, every other doubled from the first and reduced to its cross sum, modulo 10.
func ValidIK(ik string) bool {
	if len(ik) != 9 || (ik[:2] != "10" && ik[:2] != "16" && ik[:2] != "95") {
		return false
	}
	sum := 0
	for i, c := range []byte(ik) {
		if c < '0' || c > '9' {
			return false
		}
		if i < 2 || i == 8 {
			continue
		}
		d := int(c - '0')
		if i%2 == 0 {
			d *= 2
		}
		sum += d/10 + d%10
	}
	return sum%10 == int(ik[8]-'0')
}
