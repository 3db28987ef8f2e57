// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
)

// Bounds of a registration, which anybody may send.
const (
	maxRegistration = 32 << 10 // bytes
	maxRedirects    = 20
	maxAddress      = 2048 // bytes
	maxClientName   = 200  // characters
	maxLocalized    = 40
)

// The codes of RFC 7591, section 3.2.2.
const (
	invalidMetadata = "invalid_client_metadata"
	invalidRedirect = "invalid_redirect_uri"
)

type registrationReply struct {
	ID     string `json:"client_id"`
	Issued int64  `json:"client_id_issued_at"` // seconds since the epoch
	registration
}

// register is dynamic client registration (RFC 7591).
func (s *Service) register(ctx context.Context, r *httpapi.Request) (any, error) {
	g, refused := parseRegistration(r.Body)
	if refused != nil {
		return refused.reply(), nil
	}
	t := owner(r.Tenant)
	clientID, issued, err := s.putClient(ctx, t, g)
	if err != nil {
		return nil, err
	}
	if err := s.expireClients(ctx, t); err != nil {
		s.o.Log.Warn("unused clients were not removed", "error", err) // the registration stands all the same
	}
	return &httpapi.Reply{Status: http.StatusCreated, Header: unstored, Body: registrationReply{clientID, issued / 1000, *g}}, nil
}

// parseRegistration reads and checks client metadata. Members that mean nothing here are left out, and so are values that are not understood where
// the specification wants them ignored.
func parseRegistration(body []byte) (*registration, *failure) {
	var members map[string]jsontext.Value
	if err := json.Unmarshal(body, &members); err != nil || members == nil {
		return nil, fail(invalidMetadata, "the body must be a JSON object")
	}
	var g registration
	g.Localized = map[string]string{}
	texts := map[string]*string{"client_uri": &g.ClientURI, "client_name": &g.Name, "logo_uri": &g.Logo, "tos_uri": &g.Terms, "policy_uri": &g.Policy,
		"token_endpoint_auth_method": &g.AuthMethod, "application_type": &g.ApplicationType}
	lists := map[string]*[]string{"redirect_uris": &g.Redirects, "response_types": &g.ResponseTypes, "grant_types": &g.GrantTypes}
	for name, value := range members {
		if value.Kind() == 'n' {
			delete(members, name)
			continue
		}
		var target any
		field, _, localized := strings.Cut(name, "#")
		var text string
		switch {
		case localized && slices.Contains(localizable, field):
			target = &text
		case texts[name] != nil:
			target = texts[name]
		case lists[name] != nil:
			target = lists[name]
		default:
			continue
		}
		if err := json.Unmarshal(value, target); err != nil {
			return nil, fail(invalidMetadata, "%s has the wrong type", name)
		}
		if localized {
			g.Localized[name] = text
		}
	}
	_, named := members["grant_types"]
	_, typed := members["response_types"]
	if refused := g.complete(named, typed); refused != nil {
		return nil, refused
	}
	if refused := g.checkAddresses(); refused != nil {
		return nil, refused
	}
	return &g, g.checkRedirects()
}

// localizable are the members that may come in several languages (RFC 7591, section 2.2).
var localizable = []string{"client_name", "logo_uri", "tos_uri", "policy_uri"}

// complete fills in defaults and checks what is no address. granted and typed say whether the lists were given.
func (g *registration) complete(granted, typed bool) *failure {
	switch g.AuthMethod {
	case "":
		g.AuthMethod = "none"
	case "none":
	default:
		return fail(invalidMetadata, "token_endpoint_auth_method: only public clients (none) are supported")
	}
	switch g.ApplicationType {
	case "":
		g.ApplicationType = webApplication
	case webApplication, nativeApplication:
	default:
		return fail(invalidMetadata, "application_type must be web or native")
	}
	if !granted {
		g.GrantTypes = []string{grantCode}
	}
	g.GrantTypes = understood(g.GrantTypes, grantCode, grantRefresh, grantDevice)
	if !g.may(grantCode) && !g.may(grantDevice) {
		return fail(invalidMetadata, "grant_types holds none by which somebody could sign in")
	}
	if !typed && g.may(grantCode) {
		g.ResponseTypes = []string{"code"}
	}
	g.ResponseTypes = understood(g.ResponseTypes, "code")
	if g.may(grantCode) && len(g.ResponseTypes) == 0 {
		return fail(invalidMetadata, "response_types must hold code for the grant type authorization_code")
	}
	if len([]rune(g.Name)) > maxClientName {
		return fail(invalidMetadata, "client_name is longer than %d characters", maxClientName)
	}
	if len(g.Localized) > maxLocalized {
		return fail(invalidMetadata, "too many languages")
	}
	return nil
}

// understood keeps the known values in the order in which the standard names them, each once.
func understood(given []string, known ...string) []string {
	out := []string{}
	for _, k := range known {
		if slices.Contains(given, k) {
			out = append(out, k)
		}
	}
	return out
}

// checkAddresses checks every address that is shown to people: all lie on the domain of client_uri.
func (g *registration) checkAddresses() *failure {
	if g.ClientURI == "" {
		return fail(invalidMetadata, "client_uri is missing")
	}
	home, problem := secureAddress(g.ClientURI)
	if problem != "" {
		return fail(invalidMetadata, "client_uri %s", problem)
	}
	all := map[string]string{"logo_uri": g.Logo, "tos_uri": g.Terms, "policy_uri": g.Policy}
	for name, text := range g.Localized {
		if strings.HasPrefix(name, "client_name#") {
			if len([]rune(text)) > maxClientName {
				return fail(invalidMetadata, "%s is longer than %d characters", name, maxClientName)
			}
			continue
		}
		all[name] = text
	}
	for name, address := range all {
		if address == "" {
			continue
		}
		u, problem := secureAddress(address)
		if problem == "" && !within(u.Hostname(), home.Hostname()) {
			problem = "is not on the host of client_uri or below it"
		}
		if problem != "" {
			return fail(invalidMetadata, "%s %s", name, problem)
		}
	}
	return nil
}

// secureAddress parses an https address without user and password; problem says what is wrong with it.
func secureAddress(address string) (u *url.URL, problem string) {
	if len(address) > maxAddress {
		return nil, "is too long"
	}
	u, err := url.Parse(address)
	switch {
	case err != nil || strings.ContainsAny(address, " \\\"<>"):
		return nil, "is not an address"
	case u.Scheme != "https":
		return nil, "must be an https address"
	case u.User != nil:
		return nil, "must not hold a user or password"
	case !hostName(u.Hostname()):
		return nil, "names no host"
	}
	return u, ""
}

// hostName says whether a text is a plain host name or address: nothing that could mean something else in a header or a page.
func hostName(host string) bool {
	if host == "" || len(host) > 253 {
		return false
	}
	for _, c := range host {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == ':' || c == '_') {
			return false
		}
	}
	return true
}

// within says whether a host is the domain or lies below it.
func within(host, domain string) bool {
	host, domain = strings.ToLower(host), strings.ToLower(domain)
	return host == domain || strings.HasSuffix(host, "."+domain)
}
