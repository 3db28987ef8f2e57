// SPDX-License-Identifier: Apache-2.0

package ocsp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	stdasn1 "encoding/asn1"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/konsil-health/konsil/internal/health/certificate"
)

// Skew is how far a responder's clock may be from ours.
const Skew = 40 * time.Second

// ErrAnswer is wrapped by every error about an answer that proves nothing: forged, about another certificate, out of date.
var ErrAnswer = errors.New("the OCSP answer proves nothing")

// Question is what an answer has to answer.
type Question struct {
	Certificate, Issuer *certificate.Certificate
	Nonce               []byte // of the request
	At                  time.Time
	// Trust decides about responders that are neither the issuer nor appointed by it directly: the infrastructure has authorities of their own for
	// them. nil refuses these.
	Trust *certificate.Trust
}

// Check reads an answer and says what it proves about the certificate. It answers a [Failure], an error that wraps [ErrFormat] or one that wraps
// [ErrAnswer].
func Check(der []byte, q Question) (Single, error) {
	basic, err := readBasic(der)
	if err != nil {
		return Single{}, err
	}
	if err := basic.verify(q); err != nil {
		return Single{}, err
	}
	return basic.find(q)
}

// basic is a BasicOCSPResponse in parts.
type basic struct {
	tbs          []byte
	data         cryptobyte.String // the content of tbs
	signature    []byte
	certificates cryptobyte.String
}

func readBasic(der []byte) (*basic, error) {
	input := cryptobyte.String(der)
	var outer, wrapped, inner, octets, whole, algorithm, tbs cryptobyte.String
	var status int
	if len(der) > MaxMessage || !input.ReadASN1(&outer, asn1.SEQUENCE) || !input.Empty() || !outer.ReadASN1Enum(&status) {
		return nil, ErrFormat
	}
	if status != 0 {
		return nil, Failure(status)
	}
	var kind, signed stdasn1.ObjectIdentifier
	if !outer.ReadASN1(&wrapped, tag0) || !wrapped.ReadASN1(&inner, asn1.SEQUENCE) || !inner.ReadASN1ObjectIdentifier(&kind) || !kind.Equal(oidBasic) ||
		!inner.ReadASN1(&octets, asn1.OCTET_STRING) || !octets.ReadASN1(&whole, asn1.SEQUENCE) || !octets.Empty() {
		return nil, fmt.Errorf("%w: no basic answer", ErrFormat)
	}
	b := &basic{}
	if !whole.ReadASN1Element(&tbs, asn1.SEQUENCE) || !whole.ReadASN1(&algorithm, asn1.SEQUENCE) || !algorithm.ReadASN1ObjectIdentifier(&signed) ||
		!whole.ReadASN1BitStringAsBytes(&b.signature) {
		return nil, fmt.Errorf("%w: signature", ErrFormat)
	}
	if !signed.Equal(oidECDSA256) {
		return nil, fmt.Errorf("%w: signature algorithm %s", ErrAnswer, signed)
	}
	b.tbs = tbs
	if !tbs.ReadASN1(&b.data, asn1.SEQUENCE) {
		return nil, fmt.Errorf("%w: data", ErrFormat)
	}
	var certificates cryptobyte.String
	var present bool
	if !whole.ReadOptionalASN1(&certificates, &present, tag0) || present && !certificates.ReadASN1(&b.certificates, asn1.SEQUENCE) {
		return nil, fmt.Errorf("%w: certificates", ErrFormat)
	}
	return b, nil
}

// verify finds the signer: the issuer itself, or one that may sign answers for it (RFC 6960, 4.2.2.2).
func (b *basic) verify(q Question) error {
	if b.signedBy(q.Issuer) {
		return nil
	}
	rest := b.certificates
	for !rest.Empty() {
		var der cryptobyte.String
		if !rest.ReadASN1Element(&der, asn1.SEQUENCE) {
			return fmt.Errorf("%w: certificates", ErrFormat)
		}
		c, err := certificate.Parse(der)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrAnswer, err)
		}
		if b.signedBy(c) {
			return appointed(c, q)
		}
	}
	return fmt.Errorf("%w: nobody that we know signed it", ErrAnswer)
}

// appointed says whether a responder may speak for the issuer.
func appointed(c *certificate.Certificate, q Question) error {
	if !isResponder(c) {
		return fmt.Errorf("%w: its signer is no OCSP responder", ErrAnswer)
	}
	trust := certificate.NewTrust([]*certificate.Certificate{q.Issuer}, nil)
	err := trust.Authority(c, q.At)
	if err != nil && q.Trust != nil {
		err = q.Trust.Authority(c, q.At)
	}
	if err != nil {
		return fmt.Errorf("%w: its responder: %w", ErrAnswer, err)
	}
	return nil
}

func (b *basic) signedBy(c *certificate.Certificate) bool {
	digest := sha256.Sum256(b.tbs)
	key := c.PublicKey()
	return key != nil && ecdsa.VerifyASN1(key, digest[:], b.signature)
}

// find looks for the certificate among the answers.
func (b *basic) find(q Question) (Single, error) {
	data := b.data
	var responder, list cryptobyte.String
	var tag asn1.Tag
	var produced time.Time
	if !data.SkipOptionalASN1(tag0) || !data.ReadAnyASN1(&responder, &tag) || !data.ReadASN1GeneralizedTime(&produced) || !data.ReadASN1(&list, asn1.SEQUENCE) {
		return Single{}, fmt.Errorf("%w: data", ErrFormat)
	}
	found, err := extensions(&data, tag1)
	if err != nil {
		return Single{}, err
	}
	if nonce := found[oidNonce.String()]; nonce != nil && !bytes.Equal(nonce, q.Nonce) {
		return Single{}, fmt.Errorf("%w: it answers another request", ErrAnswer)
	}
	if produced.After(q.At.Add(Skew)) {
		return Single{}, fmt.Errorf("%w: it comes from the future (%s)", ErrAnswer, produced.UTC().Format(time.RFC3339))
	}
	want := Of(q.Certificate, q.Issuer)
	for !list.Empty() {
		var one cryptobyte.String
		if !list.ReadASN1(&one, asn1.SEQUENCE) {
			return Single{}, fmt.Errorf("%w: single answer", ErrFormat)
		}
		id, ok := readID(&one)
		if !ok {
			return Single{}, fmt.Errorf("%w: certificate id", ErrFormat)
		}
		if id.equal(want) {
			return readSingle(id, one, q)
		}
	}
	return Single{}, fmt.Errorf("%w: it is about another certificate", ErrAnswer)
}

// readSingle reads what stands behind the certificate's id and checks times and hash.
func readSingle(id ID, one cryptobyte.String, q Question) (Single, error) {
	s := Single{ID: id, Subject: q.Certificate}
	var status, next cryptobyte.String
	var tag asn1.Tag
	var present bool
	if !one.ReadAnyASN1(&status, &tag) {
		return Single{}, fmt.Errorf("%w: status", ErrFormat)
	}
	switch tag {
	case asn1.Tag(Good).ContextSpecific():
		s.Status = Good
	case asn1.Tag(Revoked).ContextSpecific().Constructed():
		if s.Status = Revoked; !status.ReadASN1GeneralizedTime(&s.RevokedAt) {
			return Single{}, fmt.Errorf("%w: time of revocation", ErrFormat)
		}
	case asn1.Tag(Unknown).ContextSpecific():
		s.Status = Unknown
	default:
		return Single{}, fmt.Errorf("%w: status", ErrFormat)
	}
	if !one.ReadASN1GeneralizedTime(&s.ThisUpdate) || !one.ReadOptionalASN1(&next, &present, tag0) || present && !next.ReadASN1GeneralizedTime(&s.NextUpdate) {
		return Single{}, fmt.Errorf("%w: times", ErrFormat)
	}
	found, err := extensions(&one, tag1)
	if err != nil {
		return Single{}, err
	}
	switch {
	case s.ThisUpdate.After(q.At.Add(Skew)):
		return Single{}, fmt.Errorf("%w: it comes from the future (%s)", ErrAnswer, s.ThisUpdate.UTC().Format(time.RFC3339))
	case !s.NextUpdate.IsZero() && s.NextUpdate.Before(q.At.Add(-Skew)):
		return Single{}, fmt.Errorf("%w: it is out of date since %s", ErrAnswer, s.NextUpdate.UTC().Format(time.RFC3339))
	case s.Status == Unknown:
		return s, nil // a responder cannot know the hash of what it does not know
	}
	return s, checkHash(found[oidCertHash.String()], q.Certificate)
}

// checkHash compares the CertHash extension, without which a responder may merely not have heard of a revocation.
func checkHash(value []byte, c *certificate.Certificate) error {
	if value == nil {
		return fmt.Errorf("%w: CertHash is missing", ErrAnswer)
	}
	input := cryptobyte.String(value)
	var seq, algorithm, hash cryptobyte.String
	var oid stdasn1.ObjectIdentifier
	if !input.ReadASN1(&seq, asn1.SEQUENCE) || !seq.ReadASN1(&algorithm, asn1.SEQUENCE) || !algorithm.ReadASN1ObjectIdentifier(&oid) || !seq.ReadASN1(&hash, asn1.OCTET_STRING) {
		return fmt.Errorf("%w: CertHash", ErrFormat)
	}
	if sum := sha256.Sum256(c.DER()); !oid.Equal(oidSHA256) || !bytes.Equal(hash, sum[:]) {
		return fmt.Errorf("%w: CertHash is of another certificate", ErrAnswer)
	}
	return nil
}
