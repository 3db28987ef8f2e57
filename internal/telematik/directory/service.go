// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"log/slog"
	"net/http"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/jose"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// tokenLife is how long search and owner tokens are valid (dossier §4.1).
const tokenLife = 24 * time.Hour

// Options is what the directory's interfaces stand on.
type Options struct {
	Store *Store
	// Base is the address of the directory as its users know it, without trailing slash.
	Base string
	// TokenKey signs the tokens that the directory hands out (ES256).
	TokenKey *ecdsa.PrivateKey
	// StateKey seals the state of sign-ins, 32 bytes that all nodes share; nil: drawn for this process.
	StateKey []byte
	// UserInfo asks a homeserver whose OpenID token it is (server-server API, openid/userinfo). It answers a *mxerror.Error for a wrong token and
	// any other error when the server cannot be asked.
	UserInfo func(ctx context.Context, server id.Server, token string) (id.User, error)
	// Member says whether a server is on the federation list and serves insured people.
	Member func(ctx context.Context, server id.Server) (listed, insurance bool, err error)
	// Trust checks the certificates of registration services (C.FD.SIG with oid_tim).
	Trust   *certificate.Trust
	Revoked func(*certificate.Certificate) error // nil skips it
	// Limiter bounds how often and how much somebody may search; nil: no bound.
	Limiter *limit.Limiter
	// Address names the peer of a request, for the limits; nil: its connection's.
	Address func(*http.Request) string
	// Clients checks client credentials, of a provider or else of a service for insured people; nil: there are none.
	Clients func(provider bool, id, secret string) bool
	// IDP lets card holders prove themselves; nil: only registration services bring owners.
	IDP *IDP
	Now func() time.Time // nil: time.Now
	Log *slog.Logger
}

// IDP is the identity provider as the directory, a relying party, knows it.
type IDP struct {
	ClientID string
	AuthURL  string // its authorization endpoint
	// Redeem turns a code into whom the card speaks for.
	Redeem func(ctx context.Context, redirectURI, code, verifier string) (certificate.Identity, error)
}

// Service is the directory's HTTP side. It is safe for concurrent use.
type Service struct {
	o       Options
	harvest harvest
}

// New returns the directory's interfaces.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.StateKey == nil {
		o.StateKey = make([]byte, 32)
		rand.Read(o.StateKey)
	}
	return &Service{o: o, harvest: harvest{meters: map[string]*meter{}}}
}

// Store returns what the service serves.
func (s *Service) Store() *Store { return s.o.Store }

// The interfaces that tokens are for.
const (
	searchPath    = "/search"
	fdvSearchPath = "/fdv/search"
	ownerPath     = "/owner"
)

// SearchToken makes the token of a Matrix user (I_VZD_TIM_Authenticate).
func (s *Service) SearchToken(user id.User, insured bool) (string, error) {
	audience := s.o.Base + searchPath
	if insured {
		audience = s.o.Base + fdvSearchPath
	}
	return jose.IssueAccess(jose.P256Signer{Key: s.o.TokenKey}, jose.Access{Issuer: s.o.Base + "/tim-authenticate", Subject: string(user), Audience: audience, Insured: insured}, s.o.Now(), tokenLife)
}

// OwnerToken makes the token of the owner with a Telematik-ID (I_VZD_Owner).
func (s *Service) OwnerToken(telematikID, professionOID string) (string, error) {
	return jose.IssueAccess(jose.P256Signer{Key: s.o.TokenKey},
		jose.Access{Issuer: s.o.Base + "/owner-authenticate", Subject: telematikID, Audience: s.o.Base + ownerPath, Profession: professionOID}, s.o.Now(), tokenLife)
}

// allowed checks a token for any of some interfaces.
func (s *Service) allowed(token string, paths ...string) (jose.Access, error) {
	var last error
	for _, path := range paths {
		a, err := jose.CheckAccess(token, &s.o.TokenKey.PublicKey, s.o.Base+path, s.o.Now())
		if err == nil {
			return a, nil
		}
		last = err
	}
	return jose.Access{}, last
}
