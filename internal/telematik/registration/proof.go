// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/konsil-health/konsil/internal/matrix/id"
)

// How an organisation shows that a domain is its own: a TXT record of this name below it, or a file at this path, with the token.
const (
	ProofRecord = "_konsil-domain"
	ProofPath   = "/.well-known/konsil-domain"
)

const (
	proofTime = 10 * time.Second
	maxProof  = 4 << 10
)

// Proofs looks for tokens at domains. The zero value works.
type Proofs struct {
	TXT    func(ctx context.Context, name string) ([]string, error) // nil: the standard resolver
	Client *http.Client                                             // nil: one that takes no redirects
}

// Shows says whether a domain shows a token. That it cannot be asked is no proof, and no error either: the person tries again.
func (p Proofs) Shows(ctx context.Context, domain id.Server, token string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, proofTime)
	defer cancel()
	lookup := p.TXT
	if lookup == nil {
		lookup = net.DefaultResolver.LookupTXT
	}
	records, err := lookup(ctx, ProofRecord+"."+string(domain))
	if err == nil && slices.Contains(records, token) {
		return true, nil
	}
	client := p.Client
	if client == nil {
		client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+string(domain)+ProofPath, nil)
	if err != nil {
		return false, err
	}
	resp, err := client.Do(r)
	if err != nil {
		return false, ctx.Err() //nolint:nilerr // whatever is wrong with the domain, it shows nothing
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxProof))
	return err == nil && resp.StatusCode == http.StatusOK && strings.TrimSpace(string(body)) == token, nil
}

// DomainToken is what an organisation must show at a domain; the same until it has.
func (s *Service) DomainToken(ctx context.Context, who Organisation, domain id.Server) (string, error) {
	_, err := s.o.DB.Exec(ctx, "INSERT INTO registration_domain (telematik_id, domain, token, proved) VALUES ($1, $2, $3, 0) ON CONFLICT (telematik_id, domain) DO NOTHING",
		who.TelematikID, string(domain), "konsil-domain="+strings.ToLower(rand.Text()))
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	var token string
	err = s.o.DB.QueryRow(ctx, "SELECT token FROM registration_domain WHERE telematik_id = $1 AND domain = $2", who.TelematikID, string(domain)).Scan(&token)
	return token, err
}

// proved looks for the token of a domain of one's own, and remembers that it was seen. Without it the answer wraps [ErrProof].
func (s *Service) proved(ctx context.Context, who Organisation, domain id.Server) error {
	var token string
	var proved int64
	err := s.o.DB.QueryRow(ctx, "SELECT token, proved FROM registration_domain WHERE telematik_id = $1 AND domain = $2", who.TelematikID, string(domain)).Scan(&token, &proved)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrProof
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if proved > 0 {
		return nil
	}
	shown, err := s.o.Proves(ctx, domain, token)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if !shown {
		return ErrProof
	}
	_, err = s.o.DB.Exec(ctx, "UPDATE registration_domain SET proved = $3 WHERE telematik_id = $1 AND domain = $2", who.TelematikID, string(domain), s.o.Now().UnixMilli())
	return err
}
