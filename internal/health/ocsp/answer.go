// SPDX-License-Identifier: Apache-2.0

package ocsp

import (
	"crypto"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/konsil-health/konsil/internal/health/brainpool"
	"github.com/konsil-health/konsil/internal/health/certificate"
)

// Status is what a responder says of a certificate.
type Status int

// The three answers of RFC 6960, 2.2.
const (
	Good    Status = 0
	Revoked Status = 1
	Unknown Status = 2 // the responder does not know the certificate
)

// Failure is a responder's refusal to answer (OCSPResponseStatus).
type Failure int

// The refusals that a responder of ours gives.
const (
	Malformed     Failure = 1
	InternalError Failure = 2
	TryLater      Failure = 3
	Unauthorized  Failure = 6
)

// Error names the status.
func (f Failure) Error() string {
	return fmt.Sprintf("the OCSP responder refused with status %d", int(f))
}

// Bytes encodes the refusal.
func (f Failure) Bytes() []byte { return []byte{0x30, 3, 0x0a, 1, byte(f)} }

// Single is the answer about one certificate.
type Single struct {
	ID         ID
	Status     Status
	RevokedAt  time.Time // with Revoked
	ThisUpdate time.Time
	NextUpdate time.Time                // zero: the responder names none
	Subject    *certificate.Certificate // whose hash the answer carries; nil: none, where the responder does not have it
}

// Responder signs answers.
type Responder struct {
	Certificate *certificate.Certificate
	Key         crypto.Signer // on the certificate's curve
	// Delegated: the certificate is not the issuer's own and travels with the answer.
	Delegated bool
}

// Build signs an answer to a request.
func Build(answers []Single, nonce []byte, by Responder, at time.Time) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		key := sha1.Sum(brainpool.Point(by.Certificate.PublicKey()))
		b.AddASN1(tag2, func(b *cryptobyte.Builder) { b.AddASN1OctetString(key[:]) })
		b.AddASN1GeneralizedTime(at.UTC())
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, s := range answers {
				b.AddASN1(asn1.SEQUENCE, s.add)
			}
		})
		if len(nonce) > 0 {
			b.AddASN1(tag1, func(b *cryptobyte.Builder) { addNonce(b, nonce) })
		}
	})
	tbs, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("ocsp: answer: %w", err)
	}
	digest := sha256.Sum256(tbs)
	signature, err := by.Key.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("ocsp: signing: %w", err)
	}
	var whole cryptobyte.Builder
	whole.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.ENUM, func(b *cryptobyte.Builder) { b.AddUint8(0) })
		b.AddASN1(tag0, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(oidBasic)
				b.AddASN1(asn1.OCTET_STRING, func(b *cryptobyte.Builder) {
					b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddBytes(tbs)
						b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidECDSA256) })
						b.AddASN1BitString(signature)
						if by.Delegated {
							b.AddASN1(tag0, func(b *cryptobyte.Builder) {
								b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(by.Certificate.DER()) })
							})
						}
					})
				})
			})
		})
	})
	der, err := whole.Bytes()
	if err != nil {
		return nil, fmt.Errorf("ocsp: answer: %w", err)
	}
	return der, nil
}

// add writes a SingleResponse.
func (s Single) add(b *cryptobyte.Builder) {
	s.ID.add(b)
	status := asn1.Tag(s.Status).ContextSpecific()
	if s.Status == Revoked {
		b.AddASN1(status.Constructed(), func(b *cryptobyte.Builder) { b.AddASN1GeneralizedTime(s.RevokedAt.UTC()) })
	} else {
		b.AddASN1(status, func(*cryptobyte.Builder) {})
	}
	b.AddASN1GeneralizedTime(s.ThisUpdate.UTC())
	if !s.NextUpdate.IsZero() {
		b.AddASN1(tag0, func(b *cryptobyte.Builder) { b.AddASN1GeneralizedTime(s.NextUpdate.UTC()) })
	}
	if s.Subject == nil {
		return
	}
	sum := sha256.Sum256(s.Subject.DER())
	b.AddASN1(tag1, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(oidCertHash)
				b.AddASN1(asn1.OCTET_STRING, func(b *cryptobyte.Builder) {
					b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
						addHashAlgorithm(b, oidSHA256)
						b.AddASN1OctetString(sum[:])
					})
				})
			})
		})
	})
}

// isResponder says whether a certificate may sign OCSP answers.
func isResponder(c *certificate.Certificate) bool {
	for _, u := range c.X509.ExtKeyUsage {
		if u == x509.ExtKeyUsageOCSPSigning {
			return true
		}
	}
	return false
}
