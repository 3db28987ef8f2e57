// SPDX-License-Identifier: Apache-2.0

package permission

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"regexp"
	"strings"
)

// kvnr is the unchangeable part of a health insurance number: a letter and nine digits.
var kvnr = regexp.MustCompile(`^[A-Z][0-9]{9}$`)

var lowerBase32 = base32.StdEncoding.WithPadding(base32.NoPadding)

// InsuredLocalpart is the localpart of an insured person: Base32 of the KVNR's SHA-256 in lower case (dossier, section 7.4), so that a physician who
// knows KVNR and insurer can build the address.
func InsuredLocalpart(kvnr string) string {
	sum := sha256.Sum256([]byte(kvnr))
	return strings.ToLower(lowerBase32.EncodeToString(sum[:]))
}

// randomLocalpart is 16 letters and digits with 80 random bits.
func randomLocalpart() string {
	var b [10]byte
	rand.Read(b[:])
	return strings.ToLower(lowerBase32.EncodeToString(b[:]))
}
