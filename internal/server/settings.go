// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"net/netip"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/foundation/mail"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/federation"
	"github.com/konsil-health/konsil/internal/homeserver/media"
	"github.com/konsil-health/konsil/internal/homeserver/oauth"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// trustedProxies are the networks whose X-Forwarded-For is believed.
func trustedProxies(c *config.Config) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, p := range c.TrustedProxies {
		prefix, err := netip.ParsePrefix(p)
		if err != nil {
			return nil, err
		}
		all = append(all, prefix)
	}
	return all, nil
}

// The functions below hand each package the part of the configuration that it needs, in its own words.

func accountConfig(c *config.Config) account.Config {
	a := account.Config{Registration: account.RegistrationClosed, SharedSecret: c.Registration.Secret, Guests: c.Guests, SecondFactor: c.NeedsSecondFactor()}
	a.TURN = account.TURNConfig{URIs: c.TURN.URIs, Secret: c.TURN.Secret, Lifetime: c.TURN.Lifetime}
	switch c.Registration.Mode {
	case config.RegistrationOpen:
		a.Registration = account.RegistrationOpen
	case config.RegistrationToken:
		a.Registration, a.RegistrationTokens = account.RegistrationToken, c.Registration.Tokens
	}
	if c.Policy == config.PolicyTI {
		a.MaxVersion = c.Telematik.MatrixVersion
	}
	a.LiveKit = c.Calls.LiveKit
	a.BaseURL = func(*tenant.Tenant) string { return c.PublicURL }
	delegated := map[id.Server]string{}
	for _, t := range c.Tenants {
		if len(t.FederationHosts) > 0 {
			delegated[t.Name] = t.FederationHosts[0]
		}
	}
	a.FederationHost = func(t *tenant.Tenant) string { return delegated[t.Name] }
	return a
}

func oauthConfig(c *config.Config) (oauth.Config, error) {
	pool, err := roots(c.CA)
	if err != nil {
		return oauth.Config{}, err
	}
	providers := map[id.Server]*oauth.Provider{}
	for _, t := range c.Tenants {
		if p := t.Provider; p.Issuer != "" {
			providers[t.Name] = &oauth.Provider{Issuer: p.Issuer, Name: p.Name, ClientID: p.ClientID, ClientSecret: p.ClientSecret, Scopes: p.Scopes,
				Localpart: p.LocalpartClaim, DisplayName: p.DisplayNameClaim, ACR: p.RequireACR, AMR: p.RequireAMR}
		}
	}
	return oauth.Config{PublicURL: c.PublicURL, Registration: c.Registration.Mode == config.RegistrationOpen, Roots: pool, PrivateAddresses: c.PrivateAddresses,
		Provider: func(t *tenant.Tenant) *oauth.Provider { return providers[t.Name] }}, nil
}

// sendMail is how mail is sent, nil where it is not.
func sendMail(c *config.Config) (func(ctx context.Context, to, subject, text string) error, error) {
	if c.Mail.Server == "" {
		return nil, nil
	}
	pool, err := roots(c.CA)
	if err != nil {
		return nil, err
	}
	sender, err := mail.New(mail.Config{Server: c.Mail.Server, User: c.Mail.User, Password: c.Mail.Password, From: c.Mail.From,
		Encryption: c.Mail.Encryption, Roots: pool})
	if err != nil {
		return nil, err
	}
	return sender.Send, nil
}

func federationConfig(c *config.Config) (federation.Config, error) {
	pool, err := roots(c.CA)
	if err != nil {
		return federation.Config{}, err
	}
	f := federation.Config{
		Resolve: map[id.Server]federation.Override{}, Roots: pool,
		AllowPrivate: c.PrivateAddresses, ForceHTTP: !c.Federation.InProcess, MaxMedia: int64(c.Media.MaxUpload) * 2,
		RequestTimeout: c.Federation.Timeout, RetryMin: c.Federation.Retry.First, RetryFactor: c.Federation.Retry.Factor, RetryMax: c.Federation.Retry.Max,
	}
	for _, name := range c.Federation.KeyServer {
		f.KeyServers = append(f.KeyServers, id.Server(name))
	}
	for _, name := range c.Federation.Identity {
		f.IdentityServers = append(f.IdentityServers, id.Server(name))
	}
	for name, r := range c.Federation.Resolve {
		own, err := onlyRoots(r.CA)
		if err != nil {
			return federation.Config{}, err
		}
		f.Resolve[id.Server(name)] = federation.Override{Address: r.Address, Roots: own}
	}
	return f, nil
}

// policyServers says how tenants are policy servers.
func policyServers(c *config.Config) func(*tenant.Tenant) *federation.PolicyServer {
	all := map[id.Server]*federation.PolicyServer{}
	for _, t := range c.Tenants {
		p := t.PolicyServer
		if len(p.Servers) == 0 {
			continue
		}
		all[t.Name] = &federation.PolicyServer{Servers: p.Servers, RefusedTypes: p.RefuseTypes}
		for _, list := range p.Lists {
			all[t.Name].Lists = append(all[t.Name].Lists, id.Room(list))
		}
	}
	return func(t *tenant.Tenant) *federation.PolicyServer { return all[t.Name] }
}

func mediaConfig(c *config.Config) media.Config {
	return media.Config{
		Folder: c.Media.Folder, MaxUpload: int64(c.Media.MaxUpload), TenantQuota: int64(c.Media.TenantQuota),
		UserQuota: int64(c.Media.UserQuota), Clamd: c.Media.Clamd, S3: media.S3Config(c.Media.S3),
		RemoteCache: int64(c.Media.RemoteCache), MaxPixels: int64(c.Media.MaxPixels), Legacy: c.Media.LegacyEnabled,
		Preview: media.PreviewConfig{Enabled: c.Previews.Enabled, MaxPage: int64(c.Previews.MaxPage), Timeout: c.Previews.Timeout,
			Guard: federation.Guard(c.PrivateAddresses)},
	}
}
