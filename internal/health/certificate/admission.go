// SPDX-License-Identifier: Apache-2.0

package certificate

import (
	stdasn1 "encoding/asn1"
	"fmt"
	"slices"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

var oidAdmission = stdasn1.ObjectIdentifier{1, 3, 36, 8, 3, 3}

// Admission is the content of the admission extension (Common PKI, part 1): what profession the holder has and under which number.
type Admission struct {
	Items       []string // the professions' names
	Professions []string // their OIDs, in the certificate's order
	// RegistrationNumber is the Telematik-ID; empty in components' certificates.
	RegistrationNumber string
}

// parseAdmission reads the extension's value. Admission and naming authorities are skipped. Two different registration numbers are refused: one
// certificate speaks for one identity.
func parseAdmission(der []byte) (Admission, error) {
	var a Admission
	bad := func(what string) (Admission, error) {
		return Admission{}, fmt.Errorf("%w: admission: %s", ErrFormat, what)
	}
	input := cryptobyte.String(der)
	var syntax, contents cryptobyte.String
	if !input.ReadASN1(&syntax, asn1.SEQUENCE) || !input.Empty() {
		return bad("no sequence")
	}
	if len(syntax) > 0 && syntax[0]&0xc0 == 0x80 { // admissionAuthority, a GeneralName
		var authority cryptobyte.String
		var tag asn1.Tag
		if !syntax.ReadAnyASN1(&authority, &tag) {
			return bad("authority")
		}
	}
	if !syntax.ReadASN1(&contents, asn1.SEQUENCE) || !syntax.Empty() {
		return bad("contents")
	}
	for !contents.Empty() {
		var admissions, infos cryptobyte.String
		if !contents.ReadASN1(&admissions, asn1.SEQUENCE) || !skipAuthorities(&admissions) || !admissions.ReadASN1(&infos, asn1.SEQUENCE) || !admissions.Empty() {
			return bad("admissions")
		}
		for !infos.Empty() {
			var info cryptobyte.String
			if !infos.ReadASN1(&info, asn1.SEQUENCE) {
				return bad("profession info")
			}
			if what := a.read(info); what != "" {
				return bad(what)
			}
		}
	}
	return a, nil
}

// read adds one ProfessionInfo and says what is wrong with it.
func (a *Admission) read(info cryptobyte.String) string {
	var items, oids cryptobyte.String
	if !skipAuthorities(&info) || !info.ReadASN1(&items, asn1.SEQUENCE) {
		return "profession items"
	}
	for !items.Empty() {
		var text cryptobyte.String
		var tag asn1.Tag
		if !items.ReadAnyASN1(&text, &tag) || !slices.Contains([]asn1.Tag{asn1.UTF8String, asn1.PrintableString, asn1.T61String}, tag) {
			return "profession item"
		}
		item := string(text)
		if !utf8.ValidString(item) { // T61String as card issuers use it: Latin-1
			runes := make([]rune, 0, len(text))
			for _, b := range text {
				runes = append(runes, rune(b))
			}
			item = string(runes)
		}
		a.Items = append(a.Items, item)
	}
	if info.PeekASN1Tag(asn1.SEQUENCE) {
		if !info.ReadASN1(&oids, asn1.SEQUENCE) {
			return "profession OIDs"
		}
		for !oids.Empty() {
			var oid stdasn1.ObjectIdentifier
			if !oids.ReadASN1ObjectIdentifier(&oid) {
				return "profession OID"
			}
			a.Professions = append(a.Professions, oid.String())
		}
	}
	if info.PeekASN1Tag(asn1.PrintableString) {
		var number cryptobyte.String
		if !info.ReadASN1(&number, asn1.PrintableString) || len(number) == 0 || len(number) > 128 || !printable(string(number)) {
			return "registration number"
		}
		if a.RegistrationNumber != "" && a.RegistrationNumber != string(number) {
			return "two registration numbers"
		}
		a.RegistrationNumber = string(number)
	}
	if info.PeekASN1Tag(asn1.OCTET_STRING) && !info.SkipASN1(asn1.OCTET_STRING) {
		return "additional information"
	}
	if !info.Empty() {
		return "unknown fields"
	}
	return ""
}

func skipAuthorities(s *cryptobyte.String) bool {
	return s.SkipOptionalASN1(asn1.Tag(0).Constructed().ContextSpecific()) && s.SkipOptionalASN1(asn1.Tag(1).Constructed().ContextSpecific())
}

// printable says whether a text keeps to ASN.1's PrintableString.
func printable(s string) bool {
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || slices.Contains([]rune(" '()+,-./:=?"), r)) {
			return false
		}
	}
	return true
}

// build writes the extension's value.
func (a Admission) build() ([]byte, error) {
	oids := make([]stdasn1.ObjectIdentifier, 0, len(a.Professions))
	for _, p := range a.Professions {
		oid, err := parseOID(p)
		if err != nil {
			return nil, err
		}
		oids = append(oids, oid)
	}
	if !printable(a.RegistrationNumber) {
		return nil, fmt.Errorf("certificate: registration number %q has letters that cannot stand there", a.RegistrationNumber)
	}
	var b cryptobyte.Builder
	sequence := func(f func(b *cryptobyte.Builder)) func(b *cryptobyte.Builder) {
		return func(b *cryptobyte.Builder) { b.AddASN1(asn1.SEQUENCE, f) }
	}
	info := func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, item := range a.Items {
				b.AddASN1(asn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(item)) })
			}
		})
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, oid := range oids {
				b.AddASN1ObjectIdentifier(oid)
			}
		})
		if a.RegistrationNumber != "" {
			b.AddASN1(asn1.PrintableString, func(b *cryptobyte.Builder) { b.AddBytes([]byte(a.RegistrationNumber)) })
		}
	}
	// AdmissionSyntax, contentsOfAdmissions, Admissions, professionInfos, ProfessionInfo
	sequence(sequence(sequence(sequence(sequence(info)))))(&b)
	return b.Bytes()
}
