// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/jose"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/fedlist"
	"github.com/konsil-health/konsil/internal/telematik/idp"
)

// The refusals. A refused card is an *idp.Error.
var (
	ErrCard        = errors.New("an organisation proves itself with its SMC-B")
	ErrProfession  = errors.New("the card's profession is not one of an institution")
	ErrSession     = errors.New("this is no session of an organisation's administrator: prove the organisation with its SMC-B")
	ErrInactive    = errors.New("the organisation is not active in the directory")
	ErrDomain      = errors.New("this domain cannot be ordered here")
	ErrProof       = errors.New("a domain of one's own needs a proof that it is one's own")
	ErrSimilar     = errors.New("this name is reserved, or looks like another one")
	ErrTaken       = errors.New("the domain belongs to somebody else, or did once")
	ErrInsurance   = errors.New("only insurers order a service for insured people")
	ErrIK          = errors.New("a service for insured people needs the insurer's Institutionskennzeichen, and no other has one")
	ErrOrder       = errors.New("display name or administrator's login name are not possible")
	ErrLogin       = errors.New("this login name is taken")
	ErrUnavailable = errors.New("the registration cannot be finished now; repeat the order later")
)

// IdentityProvider proves whom a card speaks for. *idp.Issuer implements it in one process with this service.
type IdentityProvider interface {
	Challenge(idp.Authorization) (string, error)
	Verify(ctx context.Context, answer string) (*idp.Proof, error)
	Key() *ecdsa.PublicKey
	Certificate() *certificate.Certificate
}

// Tenants are the organisations of this cell. *tenant.Store implements it.
type Tenants interface {
	ByName(ctx context.Context, name id.Server) (*tenant.Tenant, error)
	Create(ctx context.Context, spec tenant.Spec) (*tenant.Tenant, error)
}

// List is the federation list as a provider changes it. [*ListClient] implements it over HTTP.
type List interface {
	// Add answers [ErrTaken] when domain or IK are on the list already, [ErrInactive] when the directory does not have the organisation as active.
	Add(ctx context.Context, d fedlist.Domain) error
	// Own finds one of the provider's own domains.
	Own(ctx context.Context, domain id.Server) (d fedlist.Domain, found bool, err error)
	Remove(ctx context.Context, domain id.Server) error
	// Inactive lists the provider's domains whose organisation has left the directory (federationCheck).
	Inactive(ctx context.Context) ([]fedlist.Domain, error)
}

// Options is what the service stands on.
type Options struct {
	DB                    *database.DB
	IDP                   IdentityProvider
	ClientID, RedirectURI string // as the identity provider knows this service
	Tenants               Tenants
	List                  List
	// Active says whether the organisation of a Telematik-ID is active in the directory; nil leaves the question to the list, which asks it too.
	Active func(ctx context.Context, telematikID string) (bool, error)
	// Domain may refuse a name that this provider does not give out; nil allows every host name with a dot.
	Domain func(context.Context, id.Server) error
	// Base is the provider's domain below which it gives out names; empty: it gives out none, and every domain needs the proof that it is one's own.
	Base id.Server
	// Proves says whether a domain shows a token (DNS TXT or below /.well-known/), such as [Proofs.Shows]; nil: none does.
	Proves func(ctx context.Context, domain id.Server, token string) (bool, error)
	// Hosts names further hosts of a new tenant; nil: none.
	Hosts func(id.Server) (client, federation []string)
	// Created is told of the tenant of every successful order before it is answered, of a repeated one again; nil: nobody.
	Created func(ctx context.Context, t *tenant.Tenant) error
	// MakeAdmin makes an administrator's account. Where it is there already and nobody has signed in to it yet, it gets the new password; fresh is
	// false when it is in use, and then nothing has changed. It answers ErrLogin when another account has the login name. nil: none are made here.
	MakeAdmin func(ctx context.Context, t *tenant.Tenant, a Admin) (fresh bool, err error)
	// Session finds the tenant whose administrator an access token belongs to, and answers ErrSession for any other; nil: every order needs the card.
	Session func(ctx context.Context, token string) (*tenant.Tenant, error)
	// URL is this service's name in the tokens that it signs, and Signer its certificate (C.FD.SIG with oid_tim); nil: no tokens.
	URL    string
	Signer card.Signer
	// Directory is the address of the directory that administrators get tokens for; empty: none.
	Directory string
	// Contact finds an organisation's KIM address; nil looks into Directory, over HTTP (nil: the standard client). SendMail hands a message to the KIM client module; nil: nobody proves itself by KIM.
	Contact  func(ctx context.Context, telematikID string) (c Contact, found bool, err error)
	HTTP     *http.Client
	SendMail func(ctx context.Context, to, subject, text string) error
	// Inactive is told once when an organisation has left the directory, with the time at which its domain will go off the list; nil: nobody.
	Inactive func(ctx context.Context, t *tenant.Tenant, until time.Time)
	// Allow limits how often somebody may ask; nil: no limit.
	Allow func(*http.Request) (ok bool, retryAfter time.Duration)
	Now   func() time.Time // nil: time.Now
	Log   *slog.Logger
}

// Service is a provider's registration service. It is safe for concurrent use.
type Service struct{ o Options }

// New returns the service.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Proves == nil {
		o.Proves = func(context.Context, id.Server, string) (bool, error) { return false, nil }
	}
	s := &Service{o}
	if s.o.Contact == nil && o.Directory != "" && o.Signer != nil {
		s.o.Contact = s.contactIn(o.HTTP)
	}
	return s
}

// Begin makes the challenge that the SMC-B answers (AF_10103).
func (s *Service) Begin() (string, error) {
	return s.o.IDP.Challenge(idp.Authorization{
		ClientID: s.o.ClientID, ResponseType: "code", RedirectURI: s.o.RedirectURI, State: rand.Text(), Nonce: rand.Text(), Scope: idp.Scope,
		CodeChallenge: idp.PKCE(rand.Text()), CodeChallengeMethod: "S256",
	})
}

// Answer is what an organisation's authenticator does with an unlocked SMC-B and a challenge of [Service.Begin].
func (s *Service) Answer(challenge string, smcb card.Signer) (string, error) {
	return idp.Answer(challenge, smcb, s.o.IDP.Certificate(), s.o.IDP.Key())
}

// Complete checks the card's answer and carries out the order (AF_10103, AF_10060): the domain goes on the federation list, the tenant is created,
// the administrator gets an account. An order repeated by the same organisation, after a crash or a lost answer, ends in the same messenger.
func (s *Service) Complete(ctx context.Context, answer string, order Order) (*Result, error) {
	proof, err := s.o.IDP.Verify(ctx, answer)
	if err != nil {
		if _, refused := errors.AsType[*idp.Error](err); !refused {
			err = fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return nil, err
	}
	if proof.ClientID != s.o.ClientID || proof.RedirectURI != s.o.RedirectURI {
		return nil, idp.ErrClient
	}
	if proof.Identity.Type != certificate.InstitutionAUT {
		return nil, ErrCard
	}
	if !certificate.IsInstitution(proof.Identity.ProfessionOID) {
		return nil, ErrProfession
	}
	return s.carryOut(ctx, Organisation{
		TelematikID: proof.Identity.Number, Profession: proof.Identity.ProfessionOID, Name: proof.Identity.Organization, Proved: proof.AuthTime.UnixMilli(),
	}, order)
}

// CompleteFor carries out an order of an organisation that the caller has seen proved: by the card in a browser, or by KIM.
func (s *Service) CompleteFor(ctx context.Context, who Organisation, order Order) (*Result, error) {
	if !certificate.IsInstitution(who.Profession) {
		return nil, ErrProfession
	}
	return s.carryOut(ctx, who, order)
}

// Active refuses an organisation that is not active in the directory with [ErrInactive] (A_23092).
func (s *Service) Active(ctx context.Context, telematikID string) error {
	return s.active(ctx, telematikID)
}

// CompleteAs carries out an order of an administrator, without the card: an organisation that has an administrator's account has proved itself
// (AF_10103).
func (s *Service) CompleteAs(ctx context.Context, accessToken string, order Order) (*Result, error) {
	_, who, err := s.administrator(ctx, accessToken)
	if err != nil {
		return nil, err
	}
	return s.carryOut(ctx, who, order)
}

// tokenLife is how long a RegService-OpenID-Token is valid: it is exchanged at once.
const tokenLife = 5 * time.Minute

// OwnerToken vouches for an organisation's administrator towards the directory (I_requestToken): a RegService-OpenID-Token for the directory at an
// address. The caller has made sure that the administrator is signed in.
func (s *Service) OwnerToken(t *tenant.Tenant, professionOID, directory string) (string, error) {
	if s.o.Signer == nil || t.TelematikID == "" || directory == "" {
		return "", fmt.Errorf("%w: no signer, no Telematik-ID or no directory", ErrUnavailable)
	}
	now := s.o.Now()
	return jose.SignClaims(jose.Header{Typ: "JWT", X5c: [][]byte{s.o.Signer.Certificate().DER()}}, map[string]any{
		"iss": s.o.URL, "sub": t.TelematikID, "aud": directory + "/owner-authenticate", "professionOID": professionOID, "idNummer": t.TelematikID,
		"iat": now.Unix(), "exp": now.Add(tokenLife).Unix(),
	}, s.o.Signer)
}
