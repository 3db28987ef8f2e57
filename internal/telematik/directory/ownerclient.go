// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/health/fhir"
)

const (
	ownerClientTime = 20 * time.Second
	maxOwnerAnswer  = 1 << 20
)

var (
	// ErrPending is answered as long as no card was shown.
	ErrPending = errors.New("directory: the card has not been presented yet")
	// ErrOtherOwner is answered where another card was shown than the one that was meant.
	ErrOtherOwner = errors.New("directory: the card is another owner's")
)

// OwnerClient is a client of a directory's interface for owners, ours or the network's: it signs in by the decoupled way, in which somebody else presents
// the card, and puts the owner's own messenger address in or takes it out (AF_10058). It is safe for concurrent use.
type OwnerClient struct {
	URL  string       // of the directory, without trailing slash
	HTTP *http.Client // nil: http.DefaultClient
}

// Begin starts a sign-in: challenge is the address that the owner's authenticator is given, request asks for the outcome.
func (c *OwnerClient) Begin(ctx context.Context) (request, challenge string, err error) {
	var answer struct {
		Request  string `json:"auth_req_id"`
		Redirect string `json:"redirect_uri"`
	}
	if err := c.form(ctx, "/owner-authenticate-decoupled", url.Values{"grant_type": {decoupledGrant}}, &answer); err != nil {
		return "", "", err
	}
	if answer.Request == "" || answer.Redirect == "" {
		return "", "", errors.New("directory: the answer begins no sign-in")
	}
	return answer.Request, answer.Redirect, nil
}

// Token asks for the owner's token, which is given once. ErrPending as long as there is none.
func (c *OwnerClient) Token(ctx context.Context, request string) (string, error) {
	var answer accessToken
	err := c.form(ctx, pollPath, url.Values{"grant_type": {decoupledGrant}, "auth_req_id": {request}}, &answer)
	if err == nil && answer.Token == "" {
		err = errors.New("directory: the answer holds no token")
	}
	return answer.Token, err
}

// SetMessenger makes the address of an owner visible or takes it out, with the owner's token. number must be the owner's Telematik-ID: ErrOtherOwner.
func (c *OwnerClient) SetMessenger(ctx context.Context, token, number string, m Messenger, visible bool) error {
	if err := c.isOwner(ctx, token, number); err != nil {
		return err
	}
	roles, err := c.owned(ctx, token, fhir.PractitionerRole)
	if err != nil {
		return err
	}
	if len(roles) == 0 {
		return fmt.Errorf("directory: %s has no entry", number)
	}
	endpoints, err := c.owned(ctx, token, fhir.Endpoint)
	if err != nil {
		return err
	}
	own := slices.DeleteFunc(endpoints, func(e *fhir.Resource) bool {
		user, ok := fhir.MatrixUser(strings.Join(e.Strings("address"), ""))
		return !ok || user != string(m.User)
	})
	if visible {
		return c.publish(ctx, token, number, m, roles[0], own)
	}
	return c.withdraw(ctx, token, roles, own)
}

// isOwner checks that a token is the owner's of a Telematik-ID.
func (c *OwnerClient) isOwner(ctx context.Context, token, number string) error {
	people, err := c.owned(ctx, token, fhir.Practitioner)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(people, func(p *fhir.Resource) bool { return p.Identifier(fhir.SystemTelematikID) == number }) {
		return ErrOtherOwner
	}
	return nil
}

func (c *OwnerClient) publish(ctx context.Context, token, number string, m Messenger, role *fhir.Resource, own []*fhir.Resource) error {
	if len(own) == 0 {
		e, err := m.endpoint(number, "new")
		if err != nil {
			return err
		}
		if e, err = e.With(map[string]any{"id": nil}); err != nil {
			return err
		}
		stored, err := c.send(ctx, http.MethodPost, token, "/"+fhir.Endpoint, e)
		if err != nil {
			return err
		}
		own = []*fhir.Resource{stored}
	}
	linked := role.References("endpoint")
	if slices.Contains(linked, own[0].Reference()) {
		return nil
	}
	return c.link(ctx, token, role, append(linked, own[0].Reference()))
}

func (c *OwnerClient) withdraw(ctx context.Context, token string, roles, own []*fhir.Resource) error {
	gone := func(ref string) bool {
		return slices.ContainsFunc(own, func(e *fhir.Resource) bool { return e.Reference() == ref })
	}
	for _, role := range roles {
		linked := role.References("endpoint")
		if !slices.ContainsFunc(linked, gone) {
			continue
		}
		if err := c.link(ctx, token, role, slices.DeleteFunc(linked, gone)); err != nil {
			return err
		}
	}
	for _, e := range own {
		if _, err := c.send(ctx, http.MethodDelete, token, "/"+e.Reference(), nil); err != nil {
			return err
		}
	}
	return nil
}

func (c *OwnerClient) link(ctx context.Context, token string, role *fhir.Resource, references []string) error {
	changed, err := relink(role, references)
	if err != nil {
		return err
	}
	_, err = c.send(ctx, http.MethodPut, token, "/"+role.Reference(), changed)
	return err
}

// owned lists the owner's resources of a type.
func (c *OwnerClient) owned(ctx context.Context, token, kind string) ([]*fhir.Resource, error) {
	status, body, err := c.call(ctx, http.MethodGet, ownerPath+"/"+kind, token, "", nil)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("directory: own %s: status %d", kind, status)
	}
	var bundle struct {
		Entry []struct {
			Resource jsontext.Value `json:"resource"`
		} `json:"entry"`
	}
	if err := json.Unmarshal(body, &bundle); err != nil {
		return nil, fmt.Errorf("directory: own %s: %w", kind, err)
	}
	var all []*fhir.Resource
	for _, e := range bundle.Entry {
		r, err := fhir.Parse(e.Resource)
		if err != nil {
			return nil, fmt.Errorf("directory: own %s: %w", kind, err)
		}
		if r.Type() == kind { // a directory may add what the entries refer to
			all = append(all, r)
		}
	}
	return all, nil
}

// send changes a resource of the owner and returns it as it is then; nil when it was removed.
func (c *OwnerClient) send(ctx context.Context, method, token, path string, r *fhir.Resource) (*fhir.Resource, error) {
	var content []byte
	if r != nil {
		content = r.JSON()
	}
	status, body, err := c.call(ctx, method, ownerPath+path, token, "application/fhir+json", content)
	switch {
	case err != nil:
		return nil, err
	case status >= http.StatusMultipleChoices:
		return nil, fmt.Errorf("directory: %s %s: status %d: %.200s", method, path, status, body)
	case status == http.StatusNoContent || len(body) == 0:
		return nil, nil
	}
	return fhir.Parse(body)
}

// form posts a form to one of the ways to a token.
func (c *OwnerClient) form(ctx context.Context, path string, form url.Values, into any) error {
	status, body, err := c.call(ctx, http.MethodPost, path, "", "application/x-www-form-urlencoded", []byte(form.Encode()))
	if err != nil {
		return err
	}
	if status == http.StatusOK {
		return json.Unmarshal(body, into)
	}
	var refused struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(body, &refused) == nil && (refused.Error == "authorization_pending" || refused.Error == "slow_down") {
		return ErrPending
	}
	return fmt.Errorf("directory: %s: status %d: %.200s", path, status, body)
}

func (c *OwnerClient) call(ctx context.Context, method, path, token, kind string, content []byte) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, ownerClientTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, c.URL+path, bytes.NewReader(content))
	if err != nil {
		return 0, nil, err
	}
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(r)
	if err != nil {
		return 0, nil, fmt.Errorf("directory: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxOwnerAnswer))
	return resp.StatusCode, body, err
}
