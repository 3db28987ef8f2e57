// SPDX-License-Identifier: Apache-2.0

package certificate

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509/pkix"
	stdasn1 "encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/konsil-health/konsil/internal/health/brainpool"
)

// Template is a certificate of the test PKI before it is signed.
type Template struct {
	Serial              *big.Int
	Subject             pkix.Name
	NotBefore, NotAfter time.Time
	Key                 *ecdsa.PublicKey // on brainpoolP256r1
	// CA makes a certification authority; Type and Admission are then left out.
	CA        bool
	Type      Type
	Admission Admission
	// Responder makes a certificate that signs OCSP answers for its issuer; Type and Admission are then left out.
	Responder bool
	// OCSP is where the issuer tells whether the certificate was revoked; empty leaves it out.
	OCSP string
}

var (
	oidECDSASHA256  = stdasn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidSubjectKeyID = stdasn1.ObjectIdentifier{2, 5, 29, 14}
	oidKeyUsage     = stdasn1.ObjectIdentifier{2, 5, 29, 15}
	oidConstraints  = stdasn1.ObjectIdentifier{2, 5, 29, 19}
	oidPolicies     = stdasn1.ObjectIdentifier{2, 5, 29, 32}
	oidAuthorityKey = stdasn1.ObjectIdentifier{2, 5, 29, 35}
	oidExtKeyUsage  = stdasn1.ObjectIdentifier{2, 5, 29, 37}
	oidClientAuth   = stdasn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}
	oidOCSPSigning  = stdasn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 9}
	oidAuthorityAIA = stdasn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 1}
	oidOCSP         = stdasn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1}
)

// PersonName is the subject of a person's card: given name and surname as attributes of their own.
func PersonName(given, family string, units ...string) pkix.Name {
	return pkix.Name{
		Country: []string{"DE"}, CommonName: given + " " + family, OrganizationalUnit: units,
		ExtraNames: []pkix.AttributeTypeAndValue{
			{Type: stdasn1.ObjectIdentifier{2, 5, 4, 4}, Value: family}, {Type: stdasn1.ObjectIdentifier{2, 5, 4, 42}, Value: given},
		},
	}
}

// Issue signs a certificate. issuer is nil for a self-signed root; signer holds the issuer's key on brainpoolP256r1; the
// template's key may be on P-256 as well, for components that sign ES256.
func Issue(t Template, issuer *Certificate, signer crypto.Signer) (*Certificate, error) {
	if t.Serial == nil || t.Serial.Sign() <= 0 || !knownCurve(t.Key) || !t.NotAfter.After(t.NotBefore) {
		return nil, errors.New("certificate: template without serial number, key or period")
	}
	subject, err := stdasn1.Marshal(t.Subject.ToRDNSequence())
	if err != nil {
		return nil, fmt.Errorf("certificate: subject: %w", err)
	}
	issuerName, issuerKey := subject, t.Key
	if issuer != nil {
		issuerName, issuerKey = issuer.X509.RawSubject, issuer.PublicKey()
	}
	extensions, err := t.extensions(issuerKey)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.Tag(0).Constructed().ContextSpecific(), func(b *cryptobyte.Builder) { b.AddASN1Int64(2) })
		b.AddASN1BigInt(t.Serial)
		addAlgorithm(b)
		b.AddBytes(issuerName)
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { addTime(b, t.NotBefore); addTime(b, t.NotAfter) })
		b.AddBytes(subject)
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(oidECKey)
				b.AddASN1ObjectIdentifier(curveOf(t.Key))
			})
			b.AddASN1BitString(brainpool.Point(t.Key))
		})
		b.AddASN1(asn1.Tag(3).Constructed().ContextSpecific(), func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				for _, e := range extensions {
					b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddASN1ObjectIdentifier(e.Id)
						if e.Critical {
							b.AddASN1Boolean(true)
						}
						b.AddASN1OctetString(e.Value)
					})
				}
			})
		})
	})
	tbs, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("certificate: encoding: %w", err)
	}
	digest := sha256.Sum256(tbs)
	signature, err := signer.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("certificate: signing: %w", err)
	}
	var whole cryptobyte.Builder
	whole.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		addAlgorithm(b)
		b.AddASN1BitString(signature)
	})
	der, err := whole.Bytes()
	if err != nil {
		return nil, fmt.Errorf("certificate: encoding: %w", err)
	}
	return Parse(der)
}

func (t Template) extensions(issuerKey *ecdsa.PublicKey) ([]pkix.Extension, error) {
	build := func(f func(b *cryptobyte.Builder)) []byte {
		var b cryptobyte.Builder
		f(&b)
		return b.BytesOrPanic() // constant structures
	}
	sequence := func(f func(b *cryptobyte.Builder)) []byte {
		return build(func(b *cryptobyte.Builder) { b.AddASN1(asn1.SEQUENCE, f) })
	}
	usage := byte(0x80) // digitalSignature
	if t.CA {
		usage = 0x06 // keyCertSign, cRLSign
	}
	policies := []string{policyTI}
	if !t.CA && !t.Responder {
		oid, ok := policyOf[t.Type]
		if !ok {
			return nil, fmt.Errorf("certificate: unknown type %q", t.Type)
		}
		policies = append(policies, oid)
	}
	all := []pkix.Extension{
		{Id: oidSubjectKeyID, Value: build(func(b *cryptobyte.Builder) { b.AddASN1OctetString(keyID(t.Key)) })},
		{Id: oidAuthorityKey, Value: sequence(func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(keyID(issuerKey)) })
		})},
		{Id: oidKeyUsage, Critical: true, Value: build(func(b *cryptobyte.Builder) { addBits(b, usage) })},
		{Id: oidConstraints, Critical: true, Value: sequence(func(b *cryptobyte.Builder) {
			if t.CA {
				b.AddASN1Boolean(true)
			}
		})},
	}
	var bad error
	all = append(all, pkix.Extension{Id: oidPolicies, Value: sequence(func(b *cryptobyte.Builder) {
		for _, p := range policies {
			oid, err := parseOID(p)
			if err != nil {
				bad = err
				return
			}
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oid) })
		}
	})})
	if bad != nil {
		return nil, bad
	}
	if t.OCSP != "" {
		all = append(all, pkix.Extension{Id: oidAuthorityAIA, Value: sequence(func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(oidOCSP)
				b.AddASN1(asn1.Tag(6).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(t.OCSP)) })
			})
		})})
	}
	if t.CA {
		return all, nil
	}
	if t.Responder {
		return append(all, pkix.Extension{Id: oidExtKeyUsage, Value: sequence(func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidOCSPSigning) })}), nil
	}
	if t.Type == ProfessionalAUT || t.Type == InstitutionAUT || t.Type == CardHolderAUT {
		all = append(all, pkix.Extension{Id: oidExtKeyUsage, Value: sequence(func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidClientAuth) })})
	}
	admission, err := t.Admission.build()
	if err != nil {
		return nil, err
	}
	return append(all, pkix.Extension{Id: oidAdmission, Value: admission}), nil
}

func knownCurve(key *ecdsa.PublicKey) bool {
	return brainpool.IsKey(key) || key != nil && key.Curve == elliptic.P256()
}

// curveOf names a key's curve; Konsil's certificates have one of two.
func curveOf(key *ecdsa.PublicKey) stdasn1.ObjectIdentifier {
	if key.Curve == elliptic.P256() {
		return oidP256
	}
	return oidBrainpool
}

// keyID is a key's identifier: the first 20 bytes of the SHA-256 of its point (RFC 7093, method 1).
func keyID(key *ecdsa.PublicKey) []byte {
	sum := sha256.Sum256(brainpool.Point(key))
	return sum[:20]
}

func addAlgorithm(b *cryptobyte.Builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidECDSASHA256) })
}

// addTime writes UTCTime before 2050 and GeneralizedTime from then on (RFC 5280, 4.1.2.5).
func addTime(b *cryptobyte.Builder, t time.Time) {
	if t = t.UTC(); t.Year() < 2050 {
		b.AddASN1UTCTime(t)
		return
	}
	b.AddASN1GeneralizedTime(t)
}

// addBits writes a named bit list of at most eight bits without trailing zero bits.
func addBits(b *cryptobyte.Builder, bits byte) {
	unused := 0
	for bits != 0 && bits>>unused&1 == 0 {
		unused++
	}
	b.AddASN1(asn1.BIT_STRING, func(b *cryptobyte.Builder) { b.AddBytes([]byte{byte(unused), bits}) })
}

func parseOID(text string) (stdasn1.ObjectIdentifier, error) {
	var oid stdasn1.ObjectIdentifier
	for part := range strings.SplitSeq(text, ".") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("certificate: %q is no object identifier", text)
		}
		oid = append(oid, n)
	}
	if len(oid) < 2 {
		return nil, fmt.Errorf("certificate: %q is no object identifier", text)
	}
	return oid, nil
}
