// SPDX-License-Identifier: Apache-2.0

package ocsp

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	stdasn1 "encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/konsil-health/konsil/internal/health/brainpool"
	"github.com/konsil-health/konsil/internal/health/certificate"
)

// MaxMessage bounds a request or an answer in bytes.
const MaxMessage = 64 << 10

// ErrFormat is wrapped by every error about a message's encoding.
var ErrFormat = errors.New("malformed OCSP message")

var (
	oidSHA1     = stdasn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}
	oidSHA256   = stdasn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidBasic    = stdasn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 1}
	oidNonce    = stdasn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}
	oidCertHash = stdasn1.ObjectIdentifier{1, 3, 36, 8, 3, 13}
	oidECDSA256 = stdasn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}

	tag0 = asn1.Tag(0).Constructed().ContextSpecific()
	tag1 = asn1.Tag(1).Constructed().ContextSpecific()
	tag2 = asn1.Tag(2).Constructed().ContextSpecific()
)

// ID names a certificate by its issuer and serial number.
type ID struct {
	hash                  stdasn1.ObjectIdentifier
	issuerName, issuerKey []byte
	Serial                *big.Int
}

// Of names a certificate as the infrastructure's responders expect it, with SHA-1.
func Of(c, issuer *certificate.Certificate) ID {
	return idWith(oidSHA1, c.X509.SerialNumber, issuer)
}

func idWith(hash stdasn1.ObjectIdentifier, serial *big.Int, issuer *certificate.Certificate) ID {
	sum := func(b []byte) []byte {
		if hash.Equal(oidSHA256) {
			s := sha256.Sum256(b)
			return s[:]
		}
		s := sha1.Sum(b)
		return s[:]
	}
	return ID{hash: hash, issuerName: sum(issuer.X509.RawSubject), issuerKey: sum(brainpool.Point(issuer.PublicKey())), Serial: serial}
}

// IssuedBy says whether an authority gave the certificate out.
func (i ID) IssuedBy(issuer *certificate.Certificate) bool {
	if issuer.PublicKey() == nil || !i.hash.Equal(oidSHA1) && !i.hash.Equal(oidSHA256) {
		return false
	}
	return i.equal(idWith(i.hash, i.Serial, issuer))
}

func (i ID) equal(other ID) bool {
	return i.hash.Equal(other.hash) && bytes.Equal(i.issuerName, other.issuerName) && bytes.Equal(i.issuerKey, other.issuerKey) && i.Serial.Cmp(other.Serial) == 0
}

// Request is what a relying party asks.
type Request struct {
	IDs   []ID
	Nonce []byte // comes back in the answer of a responder that supports it; may be empty
}

// Bytes encodes the request.
func (r Request) Bytes() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				for _, id := range r.IDs {
					b.AddASN1(asn1.SEQUENCE, id.add)
				}
			})
			if len(r.Nonce) > 0 {
				b.AddASN1(tag2, func(b *cryptobyte.Builder) { addNonce(b, r.Nonce) })
			}
		})
	})
	der, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("ocsp: request: %w", err)
	}
	return der, nil
}

// ParseRequest reads a request; signatures of requestors are not looked at.
func ParseRequest(der []byte) (Request, error) {
	var r Request
	input := cryptobyte.String(der)
	var outer, tbs, list cryptobyte.String
	if len(der) > MaxMessage || !input.ReadASN1(&outer, asn1.SEQUENCE) || !input.Empty() || !outer.ReadASN1(&tbs, asn1.SEQUENCE) ||
		!tbs.SkipOptionalASN1(tag0) || !tbs.SkipOptionalASN1(tag1) || !tbs.ReadASN1(&list, asn1.SEQUENCE) {
		return Request{}, fmt.Errorf("%w: request", ErrFormat)
	}
	for !list.Empty() {
		var one cryptobyte.String
		if !list.ReadASN1(&one, asn1.SEQUENCE) {
			return Request{}, fmt.Errorf("%w: request", ErrFormat)
		}
		id, ok := readID(&one)
		if !ok {
			return Request{}, fmt.Errorf("%w: certificate id", ErrFormat)
		}
		r.IDs = append(r.IDs, id)
	}
	found, err := extensions(&tbs, tag2)
	r.Nonce = found[oidNonce.String()]
	return r, err
}

// add writes a CertID.
func (i ID) add(b *cryptobyte.Builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addHashAlgorithm(b, i.hash)
		b.AddASN1OctetString(i.issuerName)
		b.AddASN1OctetString(i.issuerKey)
		b.AddASN1BigInt(i.Serial)
	})
}

func readID(s *cryptobyte.String) (ID, bool) {
	var seq, algorithm, name, key cryptobyte.String
	id := ID{Serial: new(big.Int)}
	ok := s.ReadASN1(&seq, asn1.SEQUENCE) && seq.ReadASN1(&algorithm, asn1.SEQUENCE) && algorithm.ReadASN1ObjectIdentifier(&id.hash) &&
		seq.ReadASN1(&name, asn1.OCTET_STRING) && seq.ReadASN1(&key, asn1.OCTET_STRING) && seq.ReadASN1Integer(id.Serial) && seq.Empty()
	id.issuerName, id.issuerKey = name, key
	return id, ok
}

func addHashAlgorithm(b *cryptobyte.Builder, oid stdasn1.ObjectIdentifier) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oid)
		b.AddASN1NULL()
	})
}

// addNonce writes Extensions that hold a nonce (RFC 9654: an octet string within the extension's).
func addNonce(b *cryptobyte.Builder, nonce []byte) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidNonce)
			b.AddASN1(asn1.OCTET_STRING, func(b *cryptobyte.Builder) { b.AddASN1OctetString(nonce) })
		})
	})
}

// extensions reads optional Extensions under an explicit tag: object identifier → value, the nonce unwrapped. A critical one that is not
// understood is refused.
func extensions(s *cryptobyte.String, tag asn1.Tag) (map[string][]byte, error) {
	var wrapped, list cryptobyte.String
	var present bool
	if !s.ReadOptionalASN1(&wrapped, &present, tag) {
		return nil, fmt.Errorf("%w: extensions", ErrFormat)
	}
	if !present {
		return nil, nil
	}
	if !wrapped.ReadASN1(&list, asn1.SEQUENCE) || !wrapped.Empty() {
		return nil, fmt.Errorf("%w: extensions", ErrFormat)
	}
	found := map[string][]byte{}
	for !list.Empty() {
		var one, value cryptobyte.String
		var oid stdasn1.ObjectIdentifier
		var critical bool
		if !list.ReadASN1(&one, asn1.SEQUENCE) || !one.ReadASN1ObjectIdentifier(&oid) || !one.ReadOptionalASN1Boolean(&critical, asn1.BOOLEAN, false) ||
			!one.ReadASN1(&value, asn1.OCTET_STRING) || !one.Empty() {
			return nil, fmt.Errorf("%w: extension", ErrFormat)
		}
		switch {
		case oid.Equal(oidNonce):
			var nonce cryptobyte.String
			if inner := value; inner.ReadASN1(&nonce, asn1.OCTET_STRING) && inner.Empty() {
				value = nonce // older programs leave the inner octet string out
			}
		case critical && !oid.Equal(oidCertHash):
			return nil, fmt.Errorf("%w: critical extension %s is not understood", ErrFormat, oid)
		}
		found[oid.String()] = value
	}
	return found, nil
}
