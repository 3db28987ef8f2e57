// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// check fills what depends on other keys and finds what does not fit together.
func (l *loader) check(c *Config) error {
	l.oneOf("environment", c.Environment, Production, Development, Demo)
	l.oneOf("policy", c.Policy, PolicyTI, PolicyOpen)
	for i, r := range c.Roles {
		l.oneOf(fmt.Sprintf("roles[%d]", i), r, RoleHomeserver, RoleDirectory, RoleFedList, RoleRegistry, RoleProxy)
	}
	l.paths(c)
	l.database(c)
	l.tenants(c)
	l.listeners(c)
	l.masterKey(c)
	l.registration(c)
	l.registry(c)
	l.central(c)
	l.proxy(c)
	l.federation(c)
	l.keyServers(c)
	l.files(c)
	l.outside(c)
	if v := c.Rooms.DefaultVersion; v != "" {
		if _, ok := roomversion.Get(v); !ok {
			l.fail("rooms.default_version", "unknown room version %q, expected one of %s", v, strings.Join(roomversion.Supported(), ", "))
		}
	}
	if r := c.Rooms.Retention; r.Default < 0 || r.Min < 0 || r.Max < 0 || r.Max > 0 && r.Max < r.Min {
		l.fail("rooms.retention.max", "must not be shorter than rooms.retention.min, and none negative")
	}
	if c.Media.MaxUpload < 1 {
		l.fail("media.max_upload", "must be at least 1 byte")
	}
	if c.Telematik.OrphanedRooms < 0 || c.Telematik.InsuredAlone < 0 {
		l.fail("telematik.orphaned_rooms", "neither it nor telematik.insured_alone is negative")
	}
	l.oneOf("telematik.permission_check", c.Telematik.PermissionCheck, PermissionServer, PermissionClient)
	if c.Telematik.ContactManagement && (c.Policy != PolicyTI || !c.HasRole(RoleHomeserver) || c.Telematik.PermissionCheck != PermissionServer) {
		l.fail("telematik.contact_management", "has no effect without role homeserver, policy ti and telematik.permission_check server")
	}
	if v := c.Telematik.MatrixVersion; v != "" && !matrixVersion.MatchString(v) {
		l.fail("telematik.matrix_version", "%q is no version such as v1.11", v)
	}
	if c.Media.S3.Endpoint != "" && c.Media.S3.Bucket == "" {
		l.fail("media.s3.bucket", "is missing, while media.s3.endpoint is set")
	}
	l.webAddress("public_url", c.PublicURL)
	l.oneOf("logging.level", c.Logging.Level, "debug", "info", "warn", "error")
	l.oneOf("logging.format", c.Logging.Format, "text", "json")
	for i, p := range c.TrustedProxies {
		if _, err := netip.ParsePrefix(p); err != nil {
			l.fail(fmt.Sprintf("trusted_proxies[%d]", i), "%q is no network such as 10.0.0.0/8", p)
		}
	}
	return errors.Join(l.errs...)
}

func (l *loader) oneOf(path, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		l.fail(path, "%q is none of %s", value, strings.Join(allowed, ", "))
	}
}

func (l *loader) paths(c *Config) {
	if c.Data == "" {
		l.fail("data", "must name a folder")
		return
	}
	if abs, err := filepath.Abs(c.Data); err == nil {
		c.Data = abs
	}
	if c.Media.Folder == "" {
		c.Media.Folder = filepath.Join(c.Data, "media")
	}
	if c.Database.URL == "" {
		c.Database.URL = "sqlite:" + filepath.Join(c.Data, "konsil.db")
	}
}

func (l *loader) database(c *Config) {
	scheme, rest, _ := strings.Cut(c.Database.URL, ":")
	if !slices.Contains([]string{"sqlite", "postgres", "postgresql"}, scheme) || rest == "" {
		l.fail("database.url", "expected sqlite:/path or postgres://…")
	}
	if c.Database.Readers < 0 || c.Database.Readers > 1000 {
		l.fail("database.readers", "must be between 0 and 1000")
	}
}

func (l *loader) tenants(c *Config) {
	seen := map[id.Server]bool{}
	for i, t := range c.Tenants {
		path := fmt.Sprintf("tenants[%d].name", i)
		name, err := id.ParseServer(string(t.Name))
		switch {
		case err != nil:
			l.fail(path, "%q is no server name", t.Name)
		case seen[name]:
			l.fail(path, "%s is there twice", name)
		}
		seen[name] = true
		l.identityProvider(fmt.Sprintf("tenants[%d].identity_provider", i), &c.Tenants[i].Provider)
		for n, list := range t.PolicyServer.Lists {
			if _, err := id.ParseRoom(list); err != nil {
				l.fail(fmt.Sprintf("tenants[%d].policy_server.lists[%d]", i, n), "%q is no room id", list)
			}
		}
	}
}

// identityProvider checks a tenant's OpenID Connect provider and fills in what follows from the rest.
func (l *loader) identityProvider(path string, p *IdentityProvider) {
	if p.Issuer == "" {
		if p.ClientID != "" || p.ClientSecret != "" {
			l.fail(path+".issuer", "missing, although there is a client_id or client_secret")
		}
		return
	}
	u, err := url.Parse(p.Issuer)
	loopback := err == nil && (u.Hostname() == "localhost" || u.Hostname() == "127.0.0.1" || u.Hostname() == "::1")
	switch {
	case err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && !(u.Scheme == "http" && loopback):
		l.fail(path+".issuer", "%q is no https address without query", p.Issuer)
		return
	case p.ClientID == "":
		l.fail(path+".client_id", "missing")
	}
	if p.Name == "" {
		p.Name = u.Hostname()
	}
	if len(p.Scopes) == 0 {
		p.Scopes = []string{"profile"}
	}
	if p.LocalpartClaim == "" {
		p.LocalpartClaim = "preferred_username"
	}
	if p.DisplayNameClaim == "" {
		p.DisplayNameClaim = "name"
	}
}

func (l *loader) listeners(c *Config) {
	for i, x := range c.Listeners.Client {
		l.listener(fmt.Sprintf("listeners.client[%d]", i), x)
	}
	for i, x := range c.Listeners.Federation {
		path := fmt.Sprintf("listeners.federation[%d]", i)
		l.listener(path, x)
		if x.Certificate == "" && !x.Plain {
			l.fail(path, "needs certificate and key, or plain: true behind a proxy that speaks TLS")
		}
	}
	for i, x := range c.Listeners.Central {
		l.listener(fmt.Sprintf("listeners.central[%d]", i), x)
	}
	if c.Listeners.Operator != "" {
		l.address("listeners.operator", c.Listeners.Operator)
	}
	if c.HasRole(RoleHomeserver) && len(c.Listeners.Client) == 0 && len(c.Listeners.Federation) == 0 {
		l.fail("listeners.client", "a homeserver needs an address to listen on")
	}
}

func (l *loader) listener(path string, x Listener) {
	l.address(path+".address", x.Address)
	if (x.Certificate == "") != (x.Key == "") {
		l.fail(path, "certificate and key belong together")
		return
	}
	if x.Certificate != "" {
		l.readable(path+".certificate", x.Certificate)
		l.readable(path+".key", x.Key)
	}
}

func (l *loader) address(path, address string) {
	if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
		l.fail(path, "%q is no address such as 127.0.0.1:8008 or :8448", address)
	}
}

func (l *loader) readable(path, file string) {
	f, err := os.Open(file)
	if err != nil {
		l.fail(path, "%w", err)
		return
	}
	f.Close()
}

func (l *loader) masterKey(c *Config) {
	m := c.MasterKey
	if m.Value != "" && m.File != "" {
		l.fail("master_key.value", "give either value or file")
	}
	if m.Value != "" {
		if b, err := base64.StdEncoding.DecodeString(m.Value); err != nil || len(b) != 32 {
			l.fail("master_key.value", "must be 32 bytes in base64")
		}
	}
	if m.Value == "" && m.File == "" {
		if c.Environment == Production {
			l.fail("master_key.file", "production needs a master key of its own")
		}
		c.MasterKey.File = filepath.Join(c.Data, "master.key")
	}
}

func (l *loader) registration(c *Config) {
	r := c.Registration
	l.oneOf("registration.mode", r.Mode, RegistrationOpen, RegistrationClosed, RegistrationSharedSecret, RegistrationToken)
	if r.Mode == RegistrationToken && len(r.Tokens) == 0 {
		l.fail("registration.tokens", "mode token needs at least one")
	}
	for i, t := range r.Tokens {
		if !registrationToken.MatchString(t) {
			l.fail(fmt.Sprintf("registration.tokens[%d]", i), "a token has 1 to 64 of A-Z, a-z, 0-9 and ._~-")
		}
	}
	if r.Mode == RegistrationSharedSecret && r.Secret == "" {
		l.fail("registration.secret", "mode shared_secret needs one")
	}
	if c.Policy == PolicyTI && r.Mode != RegistrationClosed {
		l.fail("registration.mode", "under policy ti people come by their organisation, so only closed is possible")
	}
	if c.Policy == PolicyTI && c.Guests {
		l.fail("guests", "not under policy ti")
	}
	l.secondFactor(c)
}

// secondFactor checks that nobody enters by a password, or by a provider's, alone where more is needed.
func (l *loader) secondFactor(c *Config) {
	l.oneOf("second_factor", c.SecondFactor, "", SecondFactorRequired, SecondFactorOff)
	if c.SecondFactor == SecondFactorOff && c.Policy == PolicyTI && c.Environment == Production {
		l.fail("second_factor", "production under policy ti lets nobody in by a password alone")
	}
	if !c.NeedsSecondFactor() {
		return
	}
	for i, t := range c.Tenants {
		if p := t.Provider; p.Issuer != "" && len(p.RequireACR) == 0 && len(p.RequireAMR) == 0 {
			l.fail(fmt.Sprintf("tenants[%d].identity_provider.require_acr", i), "a second factor is required: say by which acr or amr the provider proves it")
		}
	}
}

// matrixVersion is the form of a version of the client-server API.
var matrixVersion = regexp.MustCompile(`^v1\.[0-9]{1,2}$`)

// registrationToken is the grammar of tokens (client-server API, "Token-authenticated registration").
var registrationToken = regexp.MustCompile(`^[A-Za-z0-9._~-]{1,64}$`)

// outside checks what reaches other machines: mail, relays, previews.
func (l *loader) outside(c *Config) {
	l.oneOf("mail.encryption", c.Mail.Encryption, "starttls", "tls", "none")
	if c.Mail.Server != "" {
		l.address("mail.server", c.Mail.Server)
		if _, err := mail.ParseAddress(c.Mail.From); err != nil {
			l.fail("mail.from", "%q is no sender such as Konsil <no-reply@example.org>", c.Mail.From)
		}
	}
	for i, u := range c.TURN.URIs {
		if !strings.HasPrefix(u, "turn:") && !strings.HasPrefix(u, "turns:") {
			l.fail(fmt.Sprintf("turn.uris[%d]", i), "%q is no address such as turn:turn.example.org", u)
		}
	}
	if len(c.TURN.URIs) > 0 && c.TURN.Secret == "" {
		l.fail("turn.secret", "the TURN servers need a secret shared with this one")
	}
	if c.TURN.Lifetime <= 0 {
		l.fail("turn.lifetime", "must be longer than nothing")
	}
	if c.Previews.Timeout <= 0 {
		l.fail("previews.timeout", "must be longer than nothing")
	}
	if c.Previews.MaxPage < 1 {
		l.fail("previews.max_page", "must be at least 1 byte")
	}
	l.webAddress("telematik.idp.issuer", c.Telematik.IDP.Issuer)
	l.webAddress("telematik.idp.agent", c.Telematik.IDP.Agent)
	if c.Telematik.IDP.Issuer != "" {
		switch {
		case c.Policy != PolicyTI:
			l.fail("telematik.idp.issuer", "people sign in by card only under policy ti")
		case c.Telematik.IDP.ClientID == "":
			l.fail("telematik.idp.client_id", "the identity provider knows this messenger by it")
		case c.PublicURL == "":
			l.fail("public_url", "the identity provider sends browsers back to it")
		case c.Environment == Production && len(c.Telematik.CardRoots) == 0:
			l.fail("telematik.card_roots", "production needs the roots of the identity provider's certificate")
		}
	}
	if c.Policy == PolicyTI && c.Previews.Enabled {
		l.fail("previews.enabled", "not under policy ti")
	}
}

// registry checks what the role registration needs.
func (l *loader) registry(c *Config) {
	if c.Telematik.Cards == "" {
		c.Telematik.Cards = filepath.Join(c.Data, "cards")
	}
	if !c.HasRole(RoleRegistry) {
		return
	}
	switch {
	case c.Policy != PolicyTI:
		l.fail("roles", "role registration is only for policy ti")
	case !c.HasRole(RoleHomeserver):
		l.fail("roles", "role registration makes tenants for a homeserver: it needs role homeserver on the same node")
	case c.Environment == Production:
		l.fail("roles", "role registration knows only test cards yet, which production refuses")
	}
	if c.PublicURL == "" {
		l.fail("public_url", "role registration names itself by it")
	}
	if c.Telematik.Provider == "" {
		l.fail("telematik.provider", "role registration needs the name by which the federation list knows the provider")
	}
	if c.Telematik.ProviderToken == "" && c.Telematik.ProviderLogin.TokenURL == "" {
		l.fail("telematik.provider_token", "role registration changes the federation list with it")
	}
	if !strings.HasSuffix(c.Telematik.FederationList, FederationListPath) {
		l.fail("telematik.federation_list", "role registration changes the list beside its address, which must end with %s", FederationListPath)
	}
}

func (l *loader) federation(c *Config) {
	for name, r := range c.Federation.Resolve {
		path := "federation.resolve." + name
		if _, err := id.ParseServer(name); err != nil {
			l.fail(path, "%q is no server name", name)
		}
		l.address(path+".address", r.Address)
		if r.CA != "" {
			l.readable(path+".ca", r.CA)
		}
	}
	if c.Federation.Timeout <= 0 {
		l.fail("federation.timeout", "must be longer than nothing")
	}
	retry := c.Federation.Retry
	if retry.First <= 0 {
		l.fail("federation.retry.first", "must be longer than nothing")
	}
	if retry.Factor < 1 {
		l.fail("federation.retry.factor", "must be at least 1")
	}
	if retry.Max < retry.First {
		l.fail("federation.retry.max", "must be at least federation.retry.first")
	}
}

// keyServers checks the names of notaries and identity servers.
func (l *loader) keyServers(c *Config) {
	for i, s := range c.Federation.KeyServer {
		if _, err := id.ParseServer(s); err != nil {
			l.fail(fmt.Sprintf("federation.key_servers[%d]", i), "%q is no server name", s)
		}
	}
	for i, s := range c.Federation.Identity {
		if _, err := id.ParseServer(s); err != nil && s != "*" {
			l.fail(fmt.Sprintf("federation.identity_servers[%d]", i), "%q is no server name", s)
		}
	}
}

func (l *loader) files(c *Config) {
	for path, files := range map[string][]string{"ca": c.CA, "telematik.card_roots": c.Telematik.CardRoots, "telematik.list_roots": c.Telematik.ListRoots,
		"central.entries": c.Central.Entries} {
		for i, f := range files {
			l.readable(fmt.Sprintf("%s[%d]", path, i), f)
		}
	}
	if c.AppServices != "" {
		if info, err := os.Stat(c.AppServices); err != nil {
			l.fail("app_services", "%w", err)
		} else if !info.IsDir() {
			l.fail("app_services", "%s is no folder", c.AppServices)
		}
	}
}
