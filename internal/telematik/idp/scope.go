// SPDX-License-Identifier: Apache-2.0

package idp

import (
	"fmt"
	"slices"
	"strings"

	"github.com/konsil-health/konsil/internal/health/certificate"
)

// ScopeRule is what a scope gives to whom.
type ScopeRule struct {
	// Text is what the holder agrees to.
	Text string
	// Audience is whom access tokens are for; empty: the client.
	Audience string
	// Cards may ask for it; Professions, where not empty, narrows them to these OIDs.
	Cards       []certificate.Type
	Professions []string
	// Claims stand in the tokens beside those that always do.
	Claims []string
}

// The claims about a card's holder (dossier §5.5), with what the holder agrees to.
var claimTexts = map[string]string{
	"idNummer":         "Zustimmung zur Verarbeitung der Id (z.B. Krankenversichertennummer, Telematik-Id)",
	"professionOID":    "Zustimmung zur Verarbeitung der Rolle",
	"organizationName": "Zustimmung zur Verarbeitung der Organisationszugehörigkeit",
	"given_name":       "Zustimmung zur Verarbeitung des Vornamens",
	"family_name":      "Zustimmung zur Verarbeitung des Nachnamens",
}

// Scopes are those of the messenger. Every card may ask; relying parties decide whom they want, as registration wants institutions only.
var Scopes = map[string]ScopeRule{"ti-messenger": {
	Text: "Zugriff auf den TI-Messenger", Cards: []certificate.Type{certificate.ProfessionalAUT, certificate.InstitutionAUT, certificate.CardHolderAUT},
	Claims: []string{"idNummer", "professionOID", "organizationName", "given_name", "family_name"},
}}

// knownScopes wants openid and at least one further scope, each of them known.
func (i *Issuer) knownScopes(text string) bool {
	all := strings.Fields(text)
	return slices.Contains(all, "openid") && len(all) > 1 && !slices.ContainsFunc(all, func(s string) bool {
		_, ok := i.o.Scopes[s]
		return s != "openid" && !ok
	})
}

// rules are those of a request's scopes.
func (i *Issuer) rules(text string) []ScopeRule {
	var all []ScopeRule
	for _, s := range strings.Fields(text) {
		if r, ok := i.o.Scopes[s]; ok {
			all = append(all, r)
		}
	}
	return all
}

// permits says whether a card's holder may have what a request asks for.
func (i *Issuer) permits(scope string, who certificate.Identity) error {
	for _, r := range i.rules(scope) {
		if !slices.Contains(r.Cards, who.Type) {
			return ErrScope.because(fmt.Errorf("not by a card of type %s", who.Type))
		}
		if len(r.Professions) > 0 && !slices.Contains(r.Professions, who.ProfessionOID) {
			return ErrScope.because(fmt.Errorf("not for the profession %s", who.ProfessionOID))
		}
	}
	return nil
}

// about are the claims about a holder that a request's scopes give; what a card does not say is null, as the provider writes it.
func (i *Issuer) about(scope string, who certificate.Identity) map[string]any {
	values := map[string]string{"idNummer": who.Number, "professionOID": who.ProfessionOID, "organizationName": who.Organization, "given_name": who.GivenName, "family_name": who.FamilyName}
	claims := map[string]any{}
	for _, r := range i.rules(scope) {
		for _, name := range r.Claims {
			claims[name] = nil
			if values[name] != "" {
				claims[name] = values[name]
			}
		}
	}
	return claims
}

// consent is what the holder is asked to agree to.
func (i *Issuer) consent(scope string) map[string]any {
	scopes, claims := map[string]string{"openid": "Zugriff auf den ID-Token."}, map[string]string{}
	for _, s := range strings.Fields(scope) {
		r, ok := i.o.Scopes[s]
		if !ok {
			continue
		}
		scopes[s] = r.Text
		for _, name := range r.Claims {
			claims[name] = claimTexts[name]
		}
	}
	return map[string]any{"requested_scopes": scopes, "requested_claims": claims}
}
