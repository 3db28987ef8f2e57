// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"net/http"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
)

// The grant types (client-server API, "Grant types").
const (
	grantCode    = "authorization_code"
	grantRefresh = "refresh_token"
	grantDevice  = "urn:ietf:params:oauth:grant-type:device_code"
)

// metadata is the document of RFC 8414 with the fields that Matrix gives a meaning to and those that general OAuth libraries insist on.
type metadata struct {
	Issuer                string   `json:"issuer"`
	Authorization         string   `json:"authorization_endpoint"`
	Token                 string   `json:"token_endpoint"`
	Revocation            string   `json:"revocation_endpoint"`
	Registration          string   `json:"registration_endpoint"`
	DeviceAuthorization   string   `json:"device_authorization_endpoint"`
	ResponseTypes         []string `json:"response_types_supported"`
	GrantTypes            []string `json:"grant_types_supported"`
	ResponseModes         []string `json:"response_modes_supported"`
	ChallengeMethods      []string `json:"code_challenge_methods_supported"`
	PromptValues          []string `json:"prompt_values_supported,omitempty"`
	Scopes                []string `json:"scopes_supported"`
	TokenAuthMethods      []string `json:"token_endpoint_auth_methods_supported"`
	RevocationAuthMethods []string `json:"revocation_endpoint_auth_methods_supported"`
	IssuerInAnswers       bool     `json:"authorization_response_iss_parameter_supported"`
	Languages             []string `json:"ui_locales_supported"`
	AccountPage           string   `json:"account_management_uri"`
	AccountActions        []string `json:"account_management_actions_supported"`
	AccountPageOld        string   `json:"org.matrix.msc4191.account_management_uri"`
	AccountActionsOld     []string `json:"org.matrix.msc4191.account_management_actions_supported"`
}

func (s *Service) metadata(r *httpapi.Request) metadata {
	base := s.base(r)
	m := metadata{
		Issuer: s.issuer(r), Authorization: base + pathAuthorize, Token: base + pathToken, Revocation: base + pathRevoke,
		Registration: base + pathRegister, DeviceAuthorization: base + pathDevice,
		ResponseTypes: []string{"code"}, GrantTypes: []string{grantCode, grantRefresh, grantDevice}, ResponseModes: []string{"query", "fragment"},
		ChallengeMethods: []string{"S256"}, Scopes: []string{scopeAPI, scopeAPIOld}, TokenAuthMethods: []string{"none"}, RevocationAuthMethods: []string{"none"},
		IssuerInAnswers: true, Languages: []string{"de", "en"},
		AccountPage: base + pathAccount, AccountActions: actionNames, AccountPageOld: base + pathAccount, AccountActionsOld: allActionNames(),
	}
	if s.o.Config.Registration {
		m.PromptValues = []string{"create"}
	}
	return m
}

// cached lets clients keep the metadata for a while, as the specification suggests; it differs by host, which caches key by.
var cached = http.Header{"Cache-Control": {"public, max-age=300"}}

func (s *Service) authMetadata(_ context.Context, r *httpapi.Request) (any, error) {
	return &httpapi.Reply{Header: cached, Body: s.metadata(r)}, nil
}

type issuerReply struct {
	Issuer string `json:"issuer"`
}

// authIssuer is how clients discovered the issuer before there was auth_metadata.
func (s *Service) authIssuer(_ context.Context, r *httpapi.Request) (any, error) {
	return issuerReply{s.issuer(r)}, nil
}
