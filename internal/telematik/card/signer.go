// SPDX-License-Identifier: Apache-2.0

package card

import (
	"errors"
	"fmt"
	"strings"

	"github.com/konsil-health/konsil/internal/health/brainpool"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/jose"
)

// Signer signs with the authentication key of an unlocked card, or with a component's key.
type Signer interface {
	jose.Signer
	// Certificate is the one that belongs to the key.
	Certificate() *certificate.Certificate
}

// ErrProduction is answered where test certificates meet a production environment.
var ErrProduction = errors.New("test certificates and software cards are refused in production")

// CheckEnvironment refuses test certificates in production, by the marks that test PKIs carry by convention.
func CheckEnvironment(production bool, certificates ...*certificate.Certificate) error {
	if !production {
		return nil
	}
	for _, c := range certificates {
		for _, name := range []string{c.X509.Subject.String(), c.X509.Issuer.String()} {
			if strings.Contains(name, "TEST-ONLY") || strings.Contains(name, "NOT-VALID") {
				return fmt.Errorf("%w: %s", ErrProduction, c.X509.Subject.CommonName)
			}
		}
	}
	return nil
}

// keySigner is a signer whose key lies in memory.
type keySigner struct {
	jose.BrainpoolSigner
	certificate *certificate.Certificate
}

// Certificate implements Signer.
func (s keySigner) Certificate() *certificate.Certificate { return s.certificate }

func newSigner(key *brainpool.PrivateKey, c *certificate.Certificate) Signer {
	return keySigner{jose.BrainpoolSigner{Key: key}, c}
}
