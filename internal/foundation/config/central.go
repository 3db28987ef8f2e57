// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/url"
)

// The shortest tokens of providers: enough that nobody guesses one, and in production what a generator makes.
const (
	minToken           = 16
	minProductionToken = 32
)

// central checks what the roles directory and federation_list need.
func (l *loader) central(c *Config) {
	for i, s := range c.Central.Signers {
		l.readable(fmt.Sprintf("central.signers[%d].certificate", i), s.Certificate)
		l.readable(fmt.Sprintf("central.signers[%d].key", i), s.Key)
	}
	l.webAddress("central.url", c.Central.URL)
	l.providers(c, "central.providers", c.Central.Providers)
	l.providers(c, "central.services", c.Central.Services)
	for i, p := range c.Central.Parties {
		path := fmt.Sprintf("central.parties[%d]", i)
		if p.ClientID == "" || len(p.RedirectURIs) == 0 {
			l.fail(path, "client_id and redirect_uris belong together")
		}
		for j, address := range p.RedirectURIs {
			l.webAddress(fmt.Sprintf("%s.redirect_uris[%d]", path, j), address)
		}
	}
	login := c.Telematik.ProviderLogin
	l.webAddress("telematik.provider_login.token_url", login.TokenURL)
	l.webAddress("telematik.provider_login.authenticate_url", login.AuthenticateURL)
	if login != (Login{}) && (login.TokenURL == "" || login.AuthenticateURL == "" || login.ClientID == "" || login.ClientSecret == "") {
		l.fail("telematik.provider_login", "token_url, authenticate_url, client_id and client_secret belong together")
	}
	if !c.IsCentral() {
		return
	}
	if c.Policy != PolicyTI {
		l.fail("roles", "the central services are only for policy ti")
	}
	if c.Central.URL == "" {
		l.fail("central.url", "the central services name themselves by it")
	}
	if len(c.Listeners.Central) == 0 {
		l.fail("listeners.central", "the central services need an address to listen on")
	}
	if c.HasRole(RoleFedList) && len(c.Central.Providers) == 0 {
		l.fail("central.providers", "role federation_list needs the providers that may change the list")
	}
	if !c.HasRole(RoleFedList) && c.Telematik.FederationList == "" {
		l.fail("telematik.federation_list", "role directory asks the federation list who is a member: run role federation_list beside it or name its address")
	}
	if c.Environment != Production {
		return
	}
	if c.HasRole(RoleFedList) && len(c.Central.Signers) == 0 {
		l.fail("central.signers", "production signs the federation list with a certificate of its own")
	}
	if c.HasRole(RoleDirectory) && len(c.Telematik.CardRoots) == 0 {
		l.fail("telematik.card_roots", "production needs the roots of the certificates that prove owners")
	}
}

func (l *loader) providers(c *Config, key string, clients []CentralProvider) {
	least := minToken
	if c.Environment == Production {
		least = minProductionToken
	}
	names, tokens := map[string]bool{}, map[string]bool{}
	for i, p := range clients {
		path := fmt.Sprintf("%s[%d]", key, i)
		switch {
		case p.Name == "":
			l.fail(path+".name", "is missing")
		case names[p.Name]:
			l.fail(path+".name", "%s is there twice", p.Name)
		}
		switch {
		case len(p.Token) < least:
			l.fail(path+".token", "must have at least %d characters", least)
		case tokens[p.Token]:
			l.fail(path+".token", "another one has the same")
		}
		names[p.Name], tokens[p.Token] = true, true
	}
}

// webAddress checks an address that may be absent.
func (l *loader) webAddress(path, address string) {
	if address == "" {
		return
	}
	if u, err := url.Parse(address); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		l.fail(path, "%q is no http or https address", address)
	}
}
