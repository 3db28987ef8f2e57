// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

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
	ErrInactive    = errors.New("the organisation is not active in the directory")
	ErrDomain      = errors.New("this domain cannot be ordered here")
	ErrTaken       = errors.New("the domain belongs to somebody else")
	ErrInsurance   = errors.New("only insurers order a service for insured people")
	ErrIK          = errors.New("a service for insured people needs the insurer's Institutionskennzeichen, and no other has one")
	ErrUnavailable = errors.New("the registration cannot be finished now")
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
	// Add answers [ErrTaken] when domain or IK are on the list already.
	Add(ctx context.Context, d fedlist.Domain) error
	// Own finds one of the provider's own domains.
	Own(ctx context.Context, domain id.Server) (d fedlist.Domain, found bool, err error)
	Remove(ctx context.Context, domain id.Server) error
}

// Options is what the service stands on.
type Options struct {
	IDP                   IdentityProvider
	ClientID, RedirectURI string // as the identity provider knows this service
	Tenants               Tenants
	List                  List
	// Active says whether the organisation of a Telematik-ID is active in the directory.
	Active func(ctx context.Context, telematikID string) (bool, error)
	// Domain may refuse a name that this provider does not give out; nil allows every valid one.
	Domain func(id.Server) error
	// Hosts names further hosts of a new tenant; nil: none.
	Hosts func(id.Server) (client, federation []string)
	// Created is told of the tenant of every successful order before it is answered, of a repeated one again; nil: nobody.
	Created func(ctx context.Context, t *tenant.Tenant) error
	// URL is this service's name in the tokens that it signs, and Signer its certificate (C.FD.SIG with oid_tim); nil: no tokens.
	URL    string
	Signer card.Signer
	Now    func() time.Time // nil: time.Now
	Log    *slog.Logger
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
	return &Service{o}
}

// Order is what an organisation wants.
type Order struct {
	Domain id.Server `json:"domain"`
	// Insurance orders a service for insured people, with the insurer's numbers.
	Insurance bool     `json:"isInsurance"`
	IK        []string `json:"ik,omitempty"`
}

// Result is what an organisation got.
type Result struct {
	Tenant      *tenant.Tenant
	TelematikID string
	Profession  string // OID
	// Again: the organisation had this messenger already.
	Again bool
}

// Begin makes the challenge that the SMC-B answers (AF_10103).
func (s *Service) Begin() (string, error) {
	return s.o.IDP.Challenge(idp.Authorization{
		ClientID: s.o.ClientID, ResponseType: "code", RedirectURI: s.o.RedirectURI, State: rand.Text(), Nonce: rand.Text(), Scope: idp.Scope,
		CodeChallenge: idp.PKCE(rand.Text()), CodeChallengeMethod: "S256",
	})
}

// Complete checks the card's answer and carries out the order (AF_10103, AF_10060): the domain goes on the federation list and the tenant is created. An
// order repeated by the same organisation, after a crash or a lost answer, ends in the same messenger.
func (s *Service) Complete(ctx context.Context, answer string, order Order) (*Result, error) {
	proof, err := s.o.IDP.Verify(ctx, answer)
	if err != nil {
		return nil, err
	}
	if proof.ClientID != s.o.ClientID || proof.RedirectURI != s.o.RedirectURI {
		return nil, idp.ErrClient
	}
	if err := s.entitled(ctx, proof.Identity); err != nil {
		return nil, err
	}
	if err := s.orderable(proof.Identity, order); err != nil {
		return nil, err
	}
	return s.carryOut(ctx, proof.Identity, order)
}

// entitled checks who orders.
func (s *Service) entitled(ctx context.Context, who certificate.Identity) error {
	if who.Type != certificate.InstitutionAUT {
		return ErrCard
	}
	if !certificate.IsInstitution(who.ProfessionOID) {
		return ErrProfession
	}
	active, err := s.o.Active(ctx, who.Number)
	if err != nil {
		return fmt.Errorf("%w: directory: %w", ErrUnavailable, err)
	}
	if !active {
		return ErrInactive
	}
	return nil
}

// orderable checks what is ordered.
func (s *Service) orderable(who certificate.Identity, order Order) error {
	if _, err := id.ParseServer(string(order.Domain)); err != nil || string(order.Domain) != strings.ToLower(string(order.Domain)) {
		return fmt.Errorf("%w: not a server name in lower case", ErrDomain)
	}
	if s.o.Domain != nil {
		if err := s.o.Domain(order.Domain); err != nil {
			return fmt.Errorf("%w: %w", ErrDomain, err)
		}
	}
	if order.Insurance && who.ProfessionOID != certificate.Insurer {
		return ErrInsurance
	}
	if order.Insurance != (len(order.IK) > 0) || slices.ContainsFunc(order.IK, func(ik string) bool { return !fedlist.ValidIK(ik) }) {
		return ErrIK
	}
	return nil
}

// carryOut puts the domain on the list and creates the tenant. The list comes first: a server name is never given twice (engine rule 25), so a
// tenant must not be made for a name that the list then refuses.
func (s *Service) carryOut(ctx context.Context, who certificate.Identity, order Order) (*Result, error) {
	result := &Result{TelematikID: who.Number, Profession: who.ProfessionOID}
	existing, err := s.o.Tenants.ByName(ctx, order.Domain)
	switch {
	case err == nil && (existing.TelematikID != who.Number || existing.Insurance != order.Insurance || existing.State != tenant.Active):
		return nil, ErrTaken
	case err == nil:
		result.Tenant, result.Again = existing, true
	case !errors.Is(err, tenant.ErrUnknown):
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	added, err := s.enlist(ctx, fedlist.Domain{Domain: order.Domain, TelematikID: who.Number, IsInsurance: order.Insurance, IK: order.IK})
	if err != nil {
		return nil, err
	}
	if result.Again {
		return result, s.created(ctx, result.Tenant)
	}
	spec := tenant.Spec{Name: order.Domain, DisplayName: who.Organization, TelematikID: who.Number, Insurance: order.Insurance}
	if s.o.Hosts != nil {
		spec.ClientHosts, spec.FederationHosts = s.o.Hosts(order.Domain)
	}
	result.Tenant, err = s.o.Tenants.Create(ctx, spec)
	if err == nil {
		return result, s.created(ctx, result.Tenant)
	}
	if added { // nothing stands behind the new entry
		if err := s.o.List.Remove(context.WithoutCancel(ctx), order.Domain); err != nil {
			s.o.Log.Error("registration: a domain without tenant stays on the federation list", "domain", string(order.Domain), "error", err)
		}
	}
	if errors.Is(err, tenant.ErrExists) {
		return nil, ErrTaken
	}
	return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
}

func (s *Service) created(ctx context.Context, t *tenant.Tenant) error {
	if s.o.Created == nil {
		return nil
	}
	if err := s.o.Created(ctx, t); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

// enlist adds a domain, or finds that it is there for the same organisation already.
func (s *Service) enlist(ctx context.Context, d fedlist.Domain) (added bool, err error) {
	err = s.o.List.Add(ctx, d)
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, ErrTaken) {
		return false, fmt.Errorf("%w: federation list: %w", ErrUnavailable, err)
	}
	own, found, err := s.o.List.Own(ctx, d.Domain)
	if err != nil {
		return false, fmt.Errorf("%w: federation list: %w", ErrUnavailable, err)
	}
	if !found || own.TelematikID != d.TelematikID || own.IsInsurance != d.IsInsurance {
		return false, ErrTaken
	}
	return false, nil
}

// tokenLife is how long a RegService-OpenID-Token is valid: it is exchanged at once.
const tokenLife = 5 * time.Minute

// OwnerToken vouches for an organisation's administrator towards the directory (I_requestToken): a RegService-OpenID-Token for the directory at an
// address. The caller has made sure that the administrator is signed in.
func (s *Service) OwnerToken(t *tenant.Tenant, professionOID, directory string) (string, error) {
	if s.o.Signer == nil || t.TelematikID == "" {
		return "", fmt.Errorf("%w: no signer, or no Telematik-ID", ErrUnavailable)
	}
	now := s.o.Now()
	return jose.SignClaims(jose.Header{Typ: "JWT", X5c: [][]byte{s.o.Signer.Certificate().DER()}}, map[string]any{
		"iss": s.o.URL, "sub": t.TelematikID, "aud": directory + "/owner-authenticate", "professionOID": professionOID, "idNummer": t.TelematikID,
		"iat": now.Unix(), "exp": now.Add(tokenLife).Unix(),
	}, s.o.Signer)
}

// Answer is what an organisation's authenticator does with an unlocked SMC-B and a challenge of [Service.Begin].
func (s *Service) Answer(challenge string, smcb card.Signer) (string, error) {
	return idp.Answer(challenge, smcb, s.o.IDP.Certificate(), s.o.IDP.Key())
}
