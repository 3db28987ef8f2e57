// SPDX-License-Identifier: Apache-2.0

package fedlist

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
)

// Token gives a provider's bearer token for I_VZD_TIM_Provider_Services.
type Token func(ctx context.Context) (string, error)

// StaticToken is one that never changes; empty sends none.
func StaticToken(token string) Token {
	return func(context.Context) (string, error) { return token, nil }
}

// Credentials get tokens in two steps (FHIR_VZD_HOWTO_Authenticate, 2.2): client credentials for a ti-provider-accesstoken, and that for a
// provider-accesstoken, which is kept until shortly before it expires. They are safe for concurrent use.
type Credentials struct {
	TokenURL, AuthenticateURL string
	ClientID, ClientSecret    string
	Client                    *http.Client
	Now                       func() time.Time // nil: time.Now

	mu    sync.Mutex
	token string
	until time.Time
}

// tokenMargin is how long before its end a token is not used any more, tokenReuse how long it is used at most: one that the publisher has forgotten
// heals by itself then.
const (
	tokenMargin = time.Minute
	tokenReuse  = time.Hour
)

// Token implements [Token].
func (c *Credentials) Token(ctx context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now
	if c.Now != nil {
		now = c.Now
	}
	if c.token != "" && now().Before(c.until) {
		return c.token, nil
	}
	form := strings.NewReader(url.Values{"grant_type": {"client_credentials"}}.Encode())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.TokenURL, form)
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(c.ClientID, c.ClientSecret)
	first, err := c.ask(req)
	if err != nil {
		return "", fmt.Errorf("ti-provider-accesstoken: %w", err)
	}
	if req, err = http.NewRequestWithContext(ctx, http.MethodGet, c.AuthenticateURL, nil); err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+first.Token)
	second, err := c.ask(req)
	if err != nil {
		return "", fmt.Errorf("provider-accesstoken: %w", err)
	}
	c.token, c.until = second.Token, now().Add(min(tokenReuse, time.Duration(second.Expires)*time.Second-tokenMargin))
	return c.token, nil
}

type tokenAnswer struct {
	Token   string `json:"access_token"`
	Expires int64  `json:"expires_in"` // seconds
}

func (c *Credentials) ask(req *http.Request) (a tokenAnswer, err error) {
	client := c.Client
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return a, err
	}
	if resp.StatusCode != http.StatusOK {
		return a, fmt.Errorf("status %s", resp.Status)
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return a, err
	}
	if a.Token == "" {
		return a, errors.New("the answer holds no token")
	}
	return a, nil
}
