// SPDX-License-Identifier: Apache-2.0

package certificate

import (
	"bytes"
	"crypto/ecdsa"
	stdx509 "crypto/x509"
	stdasn1 "encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/konsil-health/konsil/internal/health/brainpool"
)

// maxSize bounds a certificate in bytes; those of the infrastructure have about 1,000.
const maxSize = 32 << 10

// ErrFormat is wrapped by every error about a certificate's encoding.
var ErrFormat = errors.New("malformed certificate")

var (
	oidECKey     = stdasn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	oidP256      = stdasn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}
	oidBrainpool = stdasn1.ObjectIdentifier{1, 3, 36, 3, 3, 2, 8, 1, 1, 7}
)

// Certificate is a parsed certificate. It is immutable; nothing in it is trusted before [Trust.Check].
type Certificate struct {
	X509 *stdx509.Certificate
	// Admission is what the holder is admitted as; the zero value where the extension is absent.
	Admission Admission
}

// Parse reads one DER certificate with a brainpoolP256r1 key or with any key that the standard library knows.
func Parse(der []byte) (*Certificate, error) {
	if len(der) > maxSize {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrFormat, maxSize)
	}
	der = bytes.Clone(der)
	x, err := parseX509(der)
	if err != nil {
		return nil, err
	}
	c := &Certificate{X509: x}
	for _, e := range x.Extensions {
		if !e.Id.Equal(oidAdmission) {
			continue
		}
		if c.Admission, err = parseAdmission(e.Value); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// ParsePEM reads all certificates of a PEM text.
func ParsePEM(text []byte) ([]*Certificate, error) {
	var all []*Certificate
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		text = rest
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := Parse(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: no certificate in PEM text", ErrFormat)
	}
	return all, nil
}

// PEM returns the certificate as PEM text.
func (c *Certificate) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.X509.Raw})
}

// DER returns the certificate's bytes, which must not be changed.
func (c *Certificate) DER() []byte { return c.X509.Raw }

// PublicKey returns the elliptic-curve key, or nil where the certificate has another one.
func (c *Certificate) PublicKey() *ecdsa.PublicKey {
	key, ok := c.X509.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil
	}
	return key
}

// Type is what the certificate is for, empty where its policies name no type or more than one.
func (c *Certificate) Type() Type {
	var found Type
	for _, p := range c.X509.PolicyIdentifiers {
		t := typeOf[p.String()]
		if t == "" {
			continue
		}
		if found != "" && found != t {
			return ""
		}
		found = t
	}
	return found
}

// parseX509 lets the standard library parse everything but a brainpool key, which it refuses: in a copy the key's algorithm is made unknown, so
// that the library skips the key, and afterwards the real bytes and the key are put in. Certificate.Verify then works as for any other key.
func parseX509(der []byte) (*stdx509.Certificate, error) {
	altered := bytes.Clone(der)
	spki, algorithm, err := locateKey(altered)
	if err != nil {
		return nil, err
	}
	var curve, kind stdasn1.ObjectIdentifier
	parameters := algorithm
	if !parameters.ReadASN1ObjectIdentifier(&kind) || !kind.Equal(oidECKey) || !parameters.ReadASN1ObjectIdentifier(&curve) || !curve.Equal(oidBrainpool) {
		x, err := stdx509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		return x, nil
	}
	var bits []byte
	key := spki
	if !key.ReadASN1(&key, asn1.SEQUENCE) || !key.SkipASN1(asn1.SEQUENCE) || !key.ReadASN1BitStringAsBytes(&bits) || !key.Empty() {
		return nil, fmt.Errorf("%w: public key", ErrFormat)
	}
	public, err := brainpool.ParsePublicKey(bits)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	rawKey := bytes.Clone(spki)
	algorithm[8] = 0x7f // last byte of id-ecPublicKey, behind tag and length
	x, err := stdx509.ParseCertificate(altered)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	tbs := bytes.Index(altered, x.RawTBSCertificate)
	if tbs < 0 {
		return nil, fmt.Errorf("%w: key not found", ErrFormat)
	}
	x.Raw, x.RawTBSCertificate, x.RawSubjectPublicKeyInfo = der, der[tbs:tbs+len(x.RawTBSCertificate)], rawKey
	x.PublicKeyAlgorithm, x.PublicKey = stdx509.ECDSA, public
	return x, nil
}

// locateKey finds the SubjectPublicKeyInfo element and the content of its algorithm in the bytes of a certificate; both share its memory.
func locateKey(der []byte) (spki, algorithm cryptobyte.String, err error) {
	input := cryptobyte.String(der)
	var certificate, tbs, inner cryptobyte.String
	ok := input.ReadASN1(&certificate, asn1.SEQUENCE) && input.Empty() && certificate.ReadASN1(&tbs, asn1.SEQUENCE) &&
		tbs.SkipOptionalASN1(asn1.Tag(0).Constructed().ContextSpecific()) && tbs.SkipASN1(asn1.INTEGER)
	for range 4 { // signature algorithm, issuer, validity, subject
		ok = ok && tbs.SkipASN1(asn1.SEQUENCE)
	}
	ok = ok && tbs.ReadASN1Element(&spki, asn1.SEQUENCE)
	outer := spki
	if !ok || !outer.ReadASN1(&inner, asn1.SEQUENCE) || !inner.ReadASN1(&algorithm, asn1.SEQUENCE) {
		return nil, nil, ErrFormat
	}
	return spki, algorithm, nil
}
