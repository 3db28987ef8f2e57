// SPDX-License-Identifier: Apache-2.0

package card

import (
	"strings"

	"github.com/konsil-health/konsil/internal/health/certificate"
)

// Sandbox issues a card for every profession: an eHBA for each of people's, an SMC-B for each of institutions', and one eGK. Their numbers are
// those that nobody real has: 1-SANDBOX- and the last part of the OID.
func (p *PKI) Sandbox(pin string) ([]*Card, error) {
	var all []*Card
	for _, oid := range certificate.Professions() {
		c, err := p.IssueHBA(Person{GivenName: "Sandra", FamilyName: short("Probe "+certificate.ProfessionName(oid), 40), TelematikID: sandboxNumber(oid), ProfessionOID: oid, PIN: pin})
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	for _, oid := range certificate.Institutions() {
		c, err := p.IssueSMCB(Institution{Name: short("Probe "+certificate.ProfessionName(oid), 64), TelematikID: sandboxNumber(oid), ProfessionOID: oid, PIN: pin})
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	c, err := p.IssueEGK(Insured{GivenName: "Ida", FamilyName: "Probe", KVNR: "X110000001", Insurer: "Probekasse", IK: "109500969", PIN: pin})
	if err != nil {
		return nil, err
	}
	return append(all, c), nil
}

func sandboxNumber(oid string) string {
	return "1-SANDBOX-" + oid[strings.LastIndexByte(oid, '.')+1:]
}

// short cuts a name to n characters, which claims may not exceed.
func short(name string, n int) string {
	if r := []rune(name); len(r) > n {
		return string(r[:n])
	}
	return name
}
