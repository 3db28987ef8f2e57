// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/telematik/fedlist"
)

const (
	listTimeout = 10 * time.Second // an answer that takes longer counts as failed (dossier §3)
	maxAnswer   = 8 << 20
)

// ListClient changes the federation list over its published interface (I_VZD_TIM_Provider_Services). It is safe for concurrent use.
type ListClient struct {
	// URL is the interface's address, such as "https://fhir-directory.example/tim-provider-services", without trailing slash.
	URL string
	// Token gives the provider-accesstoken; nil sends none.
	Token  fedlist.Token
	Client *http.Client // nil: http.DefaultClient
}

var _ List = (*ListClient)(nil)

// Add implements List. The list answers 400 for an organisation that is not active in the directory; a malformed entry would be the other reason, but
// orders are checked before.
func (c *ListClient) Add(ctx context.Context, d fedlist.Domain) error {
	d.Provider = "" // read-only: the list knows us by the token
	_, err := c.call(ctx, http.MethodPost, "/federation", d, nil, http.StatusOK)
	return err
}

// Own implements List.
func (c *ListClient) Own(ctx context.Context, domain id.Server) (fedlist.Domain, bool, error) {
	var all []fedlist.Domain
	status, err := c.call(ctx, http.MethodGet, "/federation?domain="+url.QueryEscape(string(domain)), nil, &all, http.StatusOK, http.StatusNotFound, http.StatusForbidden)
	if err != nil || status != http.StatusOK {
		return fedlist.Domain{}, false, err
	}
	for _, d := range all {
		if d.Domain == domain {
			return d, true, nil
		}
	}
	return fedlist.Domain{}, false, nil
}

// Remove implements List. A domain that is not there is no error.
func (c *ListClient) Remove(ctx context.Context, domain id.Server) error {
	_, err := c.call(ctx, http.MethodDelete, "/federation/"+url.PathEscape(string(domain)), nil, nil, http.StatusNoContent, http.StatusOK, http.StatusNotFound)
	return err
}

// Inactive lists the provider's domains whose organisation has left the directory (federationCheck, A_23092).
func (c *ListClient) Inactive(ctx context.Context) ([]fedlist.Domain, error) {
	var answer struct {
		Domains []fedlist.Domain `json:"inactiveOrganizationDomains"`
	}
	status, err := c.call(ctx, http.MethodGet, "/federationCheck", nil, &answer, http.StatusOK, http.StatusNoContent)
	if err != nil || status == http.StatusNoContent {
		return nil, err
	}
	return answer.Domains, nil
}

// call sends a request and decodes a 200 into out. A status that is not expected is an error with the list's message.
func (c *ListClient) call(ctx context.Context, method, path string, in, out any, expected ...int) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return 0, fmt.Errorf("federation list: %w", err)
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.URL+path, body)
	if err != nil {
		return 0, fmt.Errorf("federation list: %w", err)
	}
	if c.Token != nil {
		token, err := c.Token(ctx)
		if err != nil {
			return 0, fmt.Errorf("federation list: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	client := c.Client
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("federation list: %w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return 0, fmt.Errorf("federation list: %w", err)
	}
	for _, status := range expected {
		if resp.StatusCode != status {
			continue
		}
		if out != nil && status == http.StatusOK {
			if err := json.Unmarshal(raw, out); err != nil {
				return 0, fmt.Errorf("federation list: %w", err)
			}
		}
		return status, nil
	}
	if resp.StatusCode == http.StatusConflict {
		return 0, ErrTaken
	}
	var refused struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(raw, &refused) != nil {
		refused.Message = strings.ToValidUTF8(string(raw[:min(len(raw), 200)]), "")
	}
	if resp.StatusCode == http.StatusBadRequest && method == http.MethodPost {
		return 0, fmt.Errorf("%w: federation list: %s", ErrInactive, refused.Message)
	}
	return 0, fmt.Errorf("federation list: status %d: %s", resp.StatusCode, refused.Message)
}
