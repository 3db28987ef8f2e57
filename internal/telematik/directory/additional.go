// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"net/http"
	"slices"

	"github.com/konsil-health/konsil/internal/health/fhir"
)

// originOwner marks what owners have entered themselves; what comes from the card issuers is "ldap".
const originOwner = "owner"

// added says whether a resource is a HealthcareService that an organisation has added to the one from the card issuers.
func added(r *fhir.Resource) bool {
	return r.Type() == fhir.HealthcareService && slices.ContainsFunc(r.Codings("meta", "tag"), func(c fhir.Coding) bool {
		return c.System == fhir.SystemOrigin && c.Code == originOwner
	})
}

// storeService checks a HealthcareService that an organisation adds (AF_10059-02): it is the organisation's own, carries nobody's Telematik-ID but the
// organisation's and links no endpoint of somebody else.
func (s *Service) storeService(r *http.Request, resource *fhir.Resource, id, owner string) (*fhir.Resource, error) {
	organization, err := s.o.Store.Organization(r.Context(), owner)
	if err != nil {
		return nil, err
	}
	if organization == nil || !slices.Equal(resource.References("providedBy"), []string{organization.Reference()}) {
		return nil, fhir.Refuse(http.StatusUnprocessableEntity, fhir.CodeBusinessRule, "providedBy is the own Organization")
	}
	if number := resource.Identifier(fhir.SystemTelematikID); number != "" && number != owner {
		return nil, fhir.Refuse(http.StatusUnprocessableEntity, fhir.CodeBusinessRule, "the Telematik-ID is somebody else's")
	}
	if err := s.ownEndpoints(r, resource, owner); err != nil {
		return nil, err
	}
	stamped, err := signed(resource, id, owner)
	if err != nil {
		return nil, err
	}
	return s.keep(r, stamped, owner, fhir.Validate(stamped))
}
