// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
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
	// proofLife is how long a proof counts for an order that has not come: the domain may get another owner.
	proofLife = 24 * time.Hour
)

// Proof is what an organisation must show at a domain of its own: Token in a TXT record named Record, or in a file at URL.
type Proof struct {
	Record string `json:"txt_record"`
	URL    string `json:"url"`
	Token  string `json:"token"`
}

// ProofError refuses a domain that is not proved yet, and says how to prove it. It wraps [ErrProof].
type ProofError struct{ Proof Proof }

// Error implements error.
func (e *ProofError) Error() string {
	return fmt.Sprintf("%v: show %q in a TXT record %s or at %s", ErrProof, e.Proof.Token, e.Proof.Record, e.Proof.URL)
}

// Unwrap answers [ErrProof].
func (e *ProofError) Unwrap() error { return ErrProof }

// Proofs looks for tokens at domains.
type Proofs struct {
	TXT    func(ctx context.Context, name string) ([]string, error) // nil: the standard resolver
	Client *http.Client                                             // such as [ProofClient]; nil: only TXT records count
}

// ProofClient is a client for domains that strangers name: it takes no redirects and no proxy, and connects only to addresses that guard lets pass (nil:
// to all). Without roots it trusts those of the system.
func ProofClient(guard func(network, address string, c syscall.RawConn) error, roots *x509.CertPool) *http.Client {
	dialer := &net.Dialer{Timeout: proofTime, Control: guard}
	return &http.Client{
		Timeout:       proofTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			DisableKeepAlives: true, MaxResponseHeaderBytes: maxProof},
	}
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
	if p.Client == nil {
		return false, nil
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+string(domain)+ProofPath, nil)
	if err != nil {
		return false, err
	}
	resp, err := p.Client.Do(r)
	if err != nil {
		return false, nil //nolint:nilerr // whatever is wrong with the domain, it shows nothing
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxProof))
	return err == nil && resp.StatusCode == http.StatusOK && strings.TrimSpace(string(body)) == token, nil
}

// Proof is what an organisation must show at a domain; the same until it has. Errors: [ErrDomain] for what is no host name or is the provider's,
// [ErrUnavailable].
func (s *Service) Proof(ctx context.Context, who Organisation, domain id.Server) (Proof, error) {
	if err := s.orderable(ctx, domain); err != nil {
		return Proof{}, err
	}
	if _, below := s.label(domain); below || domain == s.o.Base {
		return Proof{}, fmt.Errorf("%w: it is a name of the provider", ErrDomain)
	}
	return s.proof(ctx, who, domain)
}

func (s *Service) proof(ctx context.Context, who Organisation, domain id.Server) (Proof, error) {
	p := Proof{Record: ProofRecord + "." + string(domain), URL: "https://" + string(domain) + ProofPath}
	_, err := s.o.DB.Exec(ctx, "INSERT INTO registration_domain (telematik_id, domain, token, proved) VALUES ($1, $2, $3, 0) ON CONFLICT (telematik_id, domain) DO NOTHING",
		who.TelematikID, string(domain), "konsil-domain="+strings.ToLower(rand.Text()))
	if err == nil {
		err = s.o.DB.QueryRow(ctx, "SELECT token FROM registration_domain WHERE telematik_id = $1 AND domain = $2", who.TelematikID, string(domain)).Scan(&p.Token)
	}
	if err != nil {
		return Proof{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return p, nil
}

// proved looks for the token of a domain of one's own, and remembers that it was seen. Without it the answer is a [*ProofError]: also with the first
// order, which learns by that what to show.
func (s *Service) proved(ctx context.Context, who Organisation, domain id.Server) error {
	p, err := s.Proof(ctx, who, domain)
	if err != nil {
		return err
	}
	var proved int64
	err = s.o.DB.QueryRow(ctx, "SELECT proved FROM registration_domain WHERE telematik_id = $1 AND domain = $2", who.TelematikID, string(domain)).Scan(&proved)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if now := s.o.Now().UnixMilli(); proved > 0 && now-proved < proofLife.Milliseconds() {
		return nil
	}
	shown, err := s.o.Proves(ctx, domain, p.Token)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if !shown {
		return &ProofError{p}
	}
	_, err = s.o.DB.Exec(ctx, "UPDATE registration_domain SET proved = $3 WHERE telematik_id = $1 AND domain = $2", who.TelematikID, string(domain), s.o.Now().UnixMilli())
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}
