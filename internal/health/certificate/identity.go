// SPDX-License-Identifier: Apache-2.0

package certificate

import (
	"fmt"
	"regexp"
)

// Identity is whom a card speaks for, in the terms of the identity provider's claims.
type Identity struct {
	Type Type
	// Number is the Telematik-ID of an eHBA or SMC-B, the KVNR of an eGK (claim idNummer).
	Number        string
	ProfessionOID string
	GivenName     string
	FamilyName    string
	Organization  string // the SMC-B's institution, the eGK's insurer
	IK            string // the eGK's insurer by number
}

var (
	kvnr = regexp.MustCompile(`^[A-Z]\d{9}$`)
	ik   = regexp.MustCompile(`^\d{9}$`)

	oidSurname   = "2.5.4.4"
	oidGivenName = "2.5.4.42"
)

// maxClaim is the longest value of a claim in characters (identity provider, rule on claims).
const maxClaim = 64

// Identity reads the claims out of a card's certificate (dossier §5.6).
func (c *Certificate) Identity() (Identity, error) {
	who := Identity{Type: c.Type()}
	attribute := func(oid string) string {
		for _, a := range c.X509.Subject.Names {
			if s, ok := a.Value.(string); ok && a.Type.String() == oid {
				return s
			}
		}
		return ""
	}
	switch who.Type {
	case ProfessionalAUT:
		who.GivenName, who.FamilyName = attribute(oidGivenName), attribute(oidSurname)
		who.Number = c.Admission.RegistrationNumber
	case InstitutionAUT:
		who.Organization = c.X509.Subject.CommonName
		who.Number = c.Admission.RegistrationNumber
	case CardHolderAUT:
		who.GivenName, who.FamilyName = attribute(oidGivenName), attribute(oidSurname)
		for _, unit := range c.X509.Subject.OrganizationalUnit {
			switch {
			case kvnr.MatchString(unit):
				who.Number = unit
			case ik.MatchString(unit):
				who.IK = unit
			}
		}
		if o := c.X509.Subject.Organization; len(o) > 0 {
			who.Organization = o[0]
		}
	default:
		return Identity{}, &CheckError{Check: TypeCheck, Reason: "not a card's authentication certificate"}
	}
	if len(c.Admission.Professions) > 0 {
		who.ProfessionOID = c.Admission.Professions[0]
	}
	if who.Number == "" || who.ProfessionOID == "" {
		return Identity{}, &CheckError{Check: AdmissionCheck, Reason: "no identity number or profession"}
	}
	for name, value := range map[string]string{"idNummer": who.Number, "given_name": who.GivenName, "family_name": who.FamilyName, "organizationName": who.Organization} {
		if len([]rune(value)) > maxClaim {
			return Identity{}, &CheckError{Check: AdmissionCheck, Reason: fmt.Sprintf("%s has more than %d characters", name, maxClaim)}
		}
	}
	return who, nil
}
