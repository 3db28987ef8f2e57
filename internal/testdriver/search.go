// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package testdriver

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

var searchOperations = map[string]operation{
	"GET /homeserver/search":                      {status: http.StatusOK, signedIn: true, do: searchHomeserver},
	"GET /fhir/searchOrganizationInFhirDirectory": {status: http.StatusOK, signedIn: true, do: searchOrganization},
	"GET /fhir/searchPractitionerInFhirDirectory": {status: http.StatusOK, signedIn: true, do: searchPractitioner},
}

// searchLimit is how many people a search on the homeserver answers at most.
const searchLimit = 50

func searchHomeserver(ctx context.Context, v *device, r *http.Request) (any, error) {
	q := r.URL.Query()
	term := q.Get("displayName")
	if term == "" {
		term = q.Get("mxId")
	}
	found, err := v.client.Client.SearchUserDirectory(ctx, term, searchLimit)
	if err != nil {
		return nil, err
	}
	all := []any{}
	for _, u := range found.Results {
		all = append(all, map[string]any{"mxId": u.UserID.String(), "displayName": u.DisplayName})
	}
	return map[string]any{"totalSearchResults": len(all), "searchResults": all}, nil
}

// bundle is a search result of the directory; resources are handed on as they are.
type bundle struct {
	Type  string `json:"resourceType"`
	Kind  string `json:"type,omitempty"`
	Total int    `json:"total"`
	Entry []struct {
		URL      string         `json:"fullUrl,omitempty"`
		Resource jsontext.Value `json:"resource"`
		Search   jsontext.Value `json:"search,omitempty"`
	} `json:"entry,omitempty"`
}

// find searches the directory with the user's search token; insured people have an interface of their own (A_25681-01).
func (v *device) find(ctx context.Context, kind string, query url.Values) (any, error) {
	token, err := v.searchToken(ctx)
	if err != nil {
		return nil, err
	}
	path := "/search/"
	if v.driver.o.Insurance {
		path = "/fdv/search/"
	}
	var b bundle
	err = v.driver.fetch(ctx, http.MethodGet, v.driver.o.Directory+path+kind+"?"+query.Encode(), map[string]string{"Authorization": "Bearer " + token}, nil, &b)
	return b, err
}

// searchToken exchanges an OpenID token for a search token (A_25479).
func (v *device) searchToken(ctx context.Context) (string, error) {
	if v.search != "" {
		return v.search, nil
	}
	openID, err := v.client.Client.RequestOpenIDToken(ctx)
	if err != nil {
		return "", err
	}
	var access struct {
		Token string `json:"access_token"`
	}
	err = v.driver.fetch(ctx, http.MethodGet, v.driver.o.Directory+"/tim-authenticate?mxId="+url.QueryEscape(v.client.User().Homeserver()),
		map[string]string{"X-Matrix-OpenID-Token": openID.AccessToken}, nil, &access)
	v.search = access.Token
	return v.search, err
}

func searchOrganization(ctx context.Context, v *device, r *http.Request) (any, error) {
	return v.find(ctx, "HealthcareService", url.Values{"organization.active": {"true"}, "name": {r.URL.Query().Get("healthcareServiceName")},
		"_include": {"HealthcareService:endpoint", "HealthcareService:organization"}})
}

func searchPractitioner(ctx context.Context, v *device, r *http.Request) (any, error) {
	query := url.Values{"practitioner.active": {"true"}, "_include": {"PractitionerRole:practitioner", "PractitionerRole:endpoint", "PractitionerRole:location"}}
	if name := r.URL.Query().Get("name"); name != "" {
		query.Set("practitioner.name", name)
	}
	if address := r.URL.Query().Get("mxid"); address != "" {
		query.Set("endpoint.address", address)
	}
	return v.find(ctx, "PractitionerRole", query)
}

// matrixURI writes a Matrix ID as the directory has it.
func matrixURI(user string) string { return "matrix:u/" + strings.TrimPrefix(user, "@") }
