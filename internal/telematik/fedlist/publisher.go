// SPDX-License-Identifier: Apache-2.0

package fedlist

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/health/jose"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/telematik/card"
)

// The refusals of the publisher.
var (
	ErrExists   = errors.New("the domain or one of its IK is on the list already")
	ErrUnknown  = errors.New("the domain is not on the list")
	ErrForeign  = errors.New("the domain belongs to another provider")
	ErrInactive = errors.New("the organisation of this Telematik-ID is not active in the directory")
	ErrInvalid  = errors.New("invalid domain entry")
	// ErrAlgorithm names the signature algorithm that this publisher has no key for.
	ErrAlgorithm = errors.New("the list is not signed with this algorithm")
)

// EntryError says which attribute of an entry is wrong. It is an [ErrInvalid].
type EntryError struct{ Attribute, Reason string }

// Error names the attribute.
func (e *EntryError) Error() string { return "invalid domain entry: " + e.Attribute + " " + e.Reason }

// Is makes every one an ErrInvalid.
func (e *EntryError) Is(target error) bool { return target == ErrInvalid }

// PublisherOptions are what the publisher stands on.
type PublisherOptions struct {
	DB *database.DB
	// Signers sign the list: C.FD.SIG with the role oid_vzd_ti. The first one's algorithm is the default, further ones serve sigAlg.
	Signers []card.Signer
	// Active says whether the organisation of a Telematik-ID is active in the directory; nil says so of all.
	Active func(ctx context.Context, telematikID string) (bool, error)
	// WhereIs says in which part of the directory a Matrix user stands: org, pract, orgPract or none; nil: nowhere.
	WhereIs func(ctx context.Context, user id.User) (string, error)
}

// Publisher is the central federation list.
type Publisher struct {
	o PublisherOptions

	mu     sync.Mutex
	signed map[string]string // the newest version's token by algorithm
	at     int64             // its version
}

// NewPublisher returns the publisher of the central services.
func NewPublisher(o PublisherOptions) *Publisher { return &Publisher{o: o} }

// check validates an entry (dossier, section 3).
func check(d Domain) error {
	if _, err := id.ParseServer(string(d.Domain)); err != nil {
		return &EntryError{"domain", err.Error()}
	}
	if d.TelematikID == "" || len(d.TelematikID) > 128 {
		return &EntryError{"telematikID", "is missing or has more than 128 characters"}
	}
	if d.IsInsurance != (len(d.IK) > 0) {
		return &EntryError{"ik", "is there exactly when isInsurance is true"}
	}
	for i, ik := range d.IK {
		if !ValidIK(ik) {
			return &EntryError{"ik", strconv.QuoteToASCII(ik) + " is no IK of an insurer"}
		}
		if slices.Contains(d.IK[:i], ik) {
			return &EntryError{"ik", ik + " is there twice"}
		}
	}
	for _, host := range d.Redirects {
		if _, err := id.ParseServer(host); err != nil {
			return &EntryError{"redirectDomains", err.Error()}
		}
	}
	return nil
}

// Add puts a provider's domain on the list.
func (p *Publisher) Add(ctx context.Context, provider string, d Domain) error {
	if err := p.acceptable(ctx, d); err != nil {
		return err
	}
	return p.change(ctx, func(tx *database.Tx) error {
		if err := freeIK(ctx, tx, d); err != nil {
			return err
		}
		n, err := tx.Exec(ctx, `INSERT INTO federation_domain (domain, telematik_id, insurance, ik, provider, redirect) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (domain) DO NOTHING`, strings.ToLower(string(d.Domain)), d.TelematikID, d.IsInsurance, strings.Join(d.IK, ","), provider, strings.Join(d.Redirects, ","))
		if err == nil && n == 0 {
			return ErrExists
		}
		return err
	})
}

func (p *Publisher) acceptable(ctx context.Context, d Domain) error {
	if err := check(d); err != nil {
		return err
	}
	if p.o.Active == nil {
		return nil
	}
	active, err := p.o.Active(ctx, d.TelematikID)
	if err == nil && !active {
		return ErrInactive
	}
	return err
}

// freeIK refuses an IK that another domain has.
func freeIK(ctx context.Context, tx *database.Tx, d Domain) error {
	rows, err := tx.Query(ctx, "SELECT ik FROM federation_domain WHERE ik <> '' AND domain <> $1", strings.ToLower(string(d.Domain)))
	taken, err := database.All(rows, err, database.Column[string])
	if err != nil {
		return err
	}
	for _, list := range taken {
		for _, ik := range strings.Split(list, ",") {
			for _, own := range d.IK {
				if ik == own {
					return ErrExists
				}
			}
		}
	}
	return nil
}

// Update changes a provider's own domain.
func (p *Publisher) Update(ctx context.Context, provider string, d Domain) error {
	if err := p.acceptable(ctx, d); err != nil {
		return err
	}
	if err := p.owned(ctx, provider, d.Domain); err != nil {
		return err
	}
	return p.change(ctx, func(tx *database.Tx) error {
		if err := freeIK(ctx, tx, d); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "UPDATE federation_domain SET telematik_id = $2, insurance = $3, ik = $4, redirect = $5 WHERE domain = $1",
			strings.ToLower(string(d.Domain)), d.TelematikID, d.IsInsurance, strings.Join(d.IK, ","), strings.Join(d.Redirects, ","))
		return err
	})
}

// Remove takes a provider's own domain off the list.
func (p *Publisher) Remove(ctx context.Context, provider string, domain id.Server) error {
	if err := p.owned(ctx, provider, domain); err != nil {
		return err
	}
	return p.change(ctx, func(tx *database.Tx) error {
		_, err := tx.Exec(ctx, "DELETE FROM federation_domain WHERE domain = $1", strings.ToLower(string(domain)))
		return err
	})
}

func (p *Publisher) owned(ctx context.Context, provider string, domain id.Server) error {
	var owner string
	err := p.o.DB.QueryRow(ctx, "SELECT provider FROM federation_domain WHERE domain = $1", strings.ToLower(string(domain))).Scan(&owner)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrUnknown
	}
	if err == nil && owner != provider {
		return ErrForeign
	}
	return err
}

// change runs a change of the domains and raises the list's version with it.
func (p *Publisher) change(ctx context.Context, f func(tx *database.Tx) error) error {
	return p.o.DB.Write(ctx, func(tx *database.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO federation_version (list, version) VALUES (1, 1)
			ON CONFLICT (list) DO UPDATE SET version = federation_version.version + 1`)
		if err != nil {
			return err
		}
		return f(tx)
	})
}

// Domains lists the domains of a provider, or of all when provider is empty.
func (p *Publisher) Domains(ctx context.Context, provider string) ([]Domain, error) {
	rows, err := p.o.DB.Query(ctx, "SELECT domain, telematik_id, insurance, ik, provider, redirect FROM federation_domain WHERE provider = $1 OR $1 = '' ORDER BY domain", provider)
	return database.All(rows, err, func(rows *sql.Rows) (d Domain, err error) {
		var ik, redirect string
		err = rows.Scan(&d.Domain, &d.TelematikID, &d.IsInsurance, &ik, &d.Provider, &redirect)
		if redirect != "" {
			d.Redirects = strings.Split(redirect, ",")
		}
		if ik != "" {
			d.IK = strings.Split(ik, ",")
		}
		return d, err
	})
}

// Member says whether a server is on the list and serves insured people, for a neighbour of the publisher that needs no copy.
func (p *Publisher) Member(ctx context.Context, server id.Server) (listed, insurance bool, err error) {
	err = p.o.DB.QueryRow(ctx, "SELECT insurance FROM federation_domain WHERE domain = $1", strings.ToLower(string(server))).Scan(&insurance)
	if errors.Is(err, sql.ErrNoRows) {
		return false, false, nil
	}
	return err == nil, insurance, err
}

// Inactive lists a provider's domains whose organisation is no longer active in the directory (operation federationCheck).
func (p *Publisher) Inactive(ctx context.Context, provider string) ([]Domain, error) {
	domains, err := p.Domains(ctx, provider)
	if err != nil || p.o.Active == nil {
		return nil, err
	}
	var out []Domain
	for _, d := range domains {
		active, err := p.o.Active(ctx, d.TelematikID)
		if err != nil {
			return nil, err
		}
		if !active {
			out = append(out, d)
		}
	}
	return out, nil
}

// Version is the list's version; it grows with every change.
func (p *Publisher) Version(ctx context.Context) (int64, error) {
	var v int64
	err := p.o.DB.QueryRow(ctx, "SELECT version FROM federation_version WHERE list = 1").Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return v, err
}

// signer finds the one for an algorithm; "" is the first one's.
func (p *Publisher) signer(algorithm string) (card.Signer, bool) {
	for _, s := range p.o.Signers {
		if algorithm == "" || s.Algorithm() == algorithm {
			return s, true
		}
	}
	return nil, false
}

// Token returns the list signed with the default algorithm, and its version.
func (p *Publisher) Token(ctx context.Context) (string, int64, error) { return p.TokenFor(ctx, "") }

// TokenFor returns the list signed with an algorithm, BP256R1 or ES256, and its version. It is signed once a version. The version is read before
// the domains, so that a change in between is at worst signed under the version before it, and again under its own.
func (p *Publisher) TokenFor(ctx context.Context, algorithm string) (string, int64, error) {
	signer, ok := p.signer(algorithm)
	if !ok {
		return "", 0, fmt.Errorf("%w: %.20q", ErrAlgorithm, algorithm)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	version, err := p.Version(ctx)
	if err != nil {
		return "", 0, err
	}
	if p.at != version || p.signed == nil {
		p.signed, p.at = map[string]string{}, version
	}
	if token, ok := p.signed[signer.Algorithm()]; ok {
		return token, version, nil
	}
	domains, err := p.Domains(ctx, "")
	if err != nil {
		return "", 0, err
	}
	for i := range domains {
		domains[i].Redirects = nil
	}
	payload, err := json.Marshal(List{Version: version, Domains: domains})
	if err != nil {
		return "", 0, err
	}
	token, err := jose.Sign(jose.Header{Typ: "JWT", X5c: [][]byte{signer.Certificate().DER()}}, payload, signer)
	if err == nil {
		p.signed[signer.Algorithm()] = token
	}
	return token, version, err
}
