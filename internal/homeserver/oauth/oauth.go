// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"crypto/sha256"
	"crypto/x509"
	"log/slog"
	"net/url"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/keyring"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
)

// Options joins the service with the rest of the house.
type Options struct {
	DB       *database.DB
	Tenants  *tenant.Store
	Accounts *account.Service
	Policy   policy.Policy
	Log      *slog.Logger
	// Limiter bounds the attempts to sign in by address, beside what account counts by user; nil does not.
	Limiter *limit.Limiter
	// Keyring seals what is offered for enrolment of a second factor.
	Keyring *keyring.Ring
	Config  Config

	// Now is the clock; nil is the system's.
	Now func() time.Time
}

// Config is the part of the configuration that this slice reads.
type Config struct {
	// PublicURL is the address of the client API for its host; other hosts are https when it is, unless they are loopback. Empty: the scheme is what
	// the request came by.
	PublicURL string
	// Registration lets people make an account on the sign-in page.
	Registration bool
	// NoPasswords hides the password fields: people come by an identity provider only.
	NoPasswords bool
	// Provider is a tenant's own identity provider, nil for none. The function may be nil.
	Provider func(t *tenant.Tenant) *Provider
	// Card lets people sign in by health card; nil: not here.
	Card *CardConfig
	// Roots are trusted for identity providers' certificates (nil: the system's); PrivateAddresses lets their metadata name hosts in private networks.
	Roots            *x509.CertPool
	PrivateAddresses bool
}

// Service is the OAuth 2.0 slice of a node. It is safe for concurrent use and holds nothing but caches.
type Service struct {
	o      Options
	db     *database.DB
	public *url.URL // nil without PublicURL
	// remotes caches what identity providers say about themselves.
	remotes remotes
}

// New returns the service.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{o: o, db: o.DB}
	if u, err := url.Parse(o.Config.PublicURL); err == nil && u.Host != "" {
		s.public = u
	}
	return s
}

func (s *Service) now() int64 { return s.o.Now().UnixMilli() }

// cell is the tenant of what is made at a client host of all tenants before anybody has said who they are.
const cell tenant.ID = 0

// owner is the tenant whose rows a request on a host means: nil is the cell.
func owner(t *tenant.Tenant) tenant.ID {
	if t == nil {
		return cell
	}
	return t.ID
}

// hash is what is stored of a secret; a plain one is enough for what is random and long.
func hash(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}
