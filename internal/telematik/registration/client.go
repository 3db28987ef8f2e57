// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/idp"
)

// clientTimeout bounds one request: behind an order stand the directory, the list and the database.
const clientTimeout = 30 * time.Second

// Client is an organisation's side: it answers the challenge with a card and sends the order. The zero value with a URL works.
type Client struct {
	// URL is the service's address with its prefix, such as "https://provider.example/registration", without trailing slash.
	URL  string
	HTTP *http.Client // nil: http.DefaultClient
	// Trust checks that the challenge comes from an identity provider (C.FD.SIG with oid_idpd) before the card signs it. nil leaves that to TLS.
	Trust *certificate.Trust
	Now   func() time.Time // nil: time.Now
}

// Register opens a card with its PIN, proves the organisation and orders. Errors are those of [Service.Complete] (compare with errors.Is), of the
// card (*card.PINError, card.ErrBlocked), or of the connection.
func (c Client) Register(ctx context.Context, smcb *card.Card, pin string, o Order) (Result, error) {
	signer, err := smcb.Unlock(pin)
	if err != nil {
		return Result{}, err
	}
	return c.RegisterWith(ctx, signer, o)
}

// RegisterWith is Register for a card that is open.
func (c Client) RegisterWith(ctx context.Context, smcb card.Signer, o Order) (Result, error) {
	answer, err := c.Prove(ctx, smcb)
	if err != nil {
		return Result{}, err
	}
	var r Result
	err = c.call(ctx, http.MethodPost, "/order", "", request{Answer: answer, Order: o}, &r)
	return r, err
}

// Order sends an order of an administrator, who needs no card.
func (c Client) Order(ctx context.Context, accessToken string, o Order) (Result, error) {
	var r Result
	err := c.call(ctx, http.MethodPost, "/order", accessToken, request{Order: o}, &r)
	return r, err
}

// OwnerToken fetches an administrator's RegService-OpenID-Token for the directory (I_requestToken).
func (c Client) OwnerToken(ctx context.Context, accessToken string) (string, error) {
	var out struct {
		Token string `json:"token"`
	}
	err := c.call(ctx, http.MethodPost, "/owner-token", accessToken, nil, &out)
	return out.Token, err
}

// Prove fetches a challenge and lets the card answer it.
func (c Client) Prove(ctx context.Context, smcb card.Signer) (answer string, err error) {
	var b begun
	if err := c.call(ctx, http.MethodGet, "/challenge", "", nil, &b); err != nil {
		return "", err
	}
	if len(b.X5c) == 0 || b.Key == nil {
		return "", errors.New("registration: the challenge comes without certificate or key")
	}
	provider, err := certificate.Parse(b.X5c[0])
	if err != nil {
		return "", fmt.Errorf("registration: identity provider: %w", err)
	}
	if c.Trust != nil {
		now := time.Now
		if c.Now != nil {
			now = c.Now
		}
		expect := certificate.Expect{Types: []certificate.Type{certificate.ServiceSIG}, Professions: []string{certificate.RoleIDP}, At: now()}
		if err := c.Trust.Check(provider, expect); err != nil {
			return "", fmt.Errorf("registration: identity provider: %w", err)
		}
	}
	key, err := b.Key.Public()
	if err != nil {
		return "", fmt.Errorf("registration: identity provider: %w", err)
	}
	return idp.Answer(b.Challenge, smcb, provider, key)
}

// Refusal is an error that the service answered. errors.Is compares it with the errors of this package and, by code, with those of package idp.
type Refusal struct {
	Status  int
	Name    string
	Message string
	Code    int    // gematik_code, 0 for none
	Proof   *Proof // with [ErrProof]: how to prove the domain
}

// Error names the refusal.
func (r *Refusal) Error() string {
	if r.Code != 0 {
		return fmt.Sprintf("registration: %s %d: %s", r.Name, r.Code, r.Message)
	}
	return fmt.Sprintf("registration: %s: %s", r.Name, r.Message)
}

// Is compares by name and code.
func (r *Refusal) Is(target error) bool {
	if e, ok := target.(*idp.Error); ok {
		return e.Code == r.Code
	}
	for _, known := range refusals {
		if known.err == target {
			return known.name == r.Name && r.Code == 0
		}
	}
	return false
}

func (c Client) call(ctx context.Context, method, path, accessToken string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, clientTimeout)
	defer cancel()
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("registration: %w", err)
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.URL+path, body)
	if err != nil {
		return fmt.Errorf("registration: %w", err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if accessToken != "" {
		req.Header.Set("Authorization", "Bearer "+accessToken)
	}
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("registration: %w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("registration: %w", err)
	}
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusCreated {
		if err := json.Unmarshal(raw, out); err != nil {
			return fmt.Errorf("registration: %w", err)
		}
		return nil
	}
	var f failure
	if err := json.Unmarshal(raw, &f); err != nil || f.Error == "" {
		return fmt.Errorf("registration: status %d", resp.StatusCode)
	}
	return &Refusal{Status: resp.StatusCode, Name: f.Error, Message: f.Message, Code: f.Code, Proof: f.Proof}
}
