// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/health/fhir"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Owner changes an institution's own entries through the directory's owner interface (AF_10059, AF_10438). It lives for one request: the
// token that it gets is kept nowhere.
type Owner struct {
	// Directory is the directory's address, Vouched the RegService-OpenID-Token of [Service.OwnerToken].
	Directory, Vouched string
	Client             *http.Client // nil: the standard client

	token string
}

// ErrDirectory is wrapped where the directory refuses or cannot be reached.
var ErrDirectory = errors.New("the directory does not do this now")

// Address is a Matrix address as it stands in the directory.
type Address struct {
	ID      string // of the Endpoint
	User    id.User
	Name    string
	Kind    string // tim, tim-fa or tim-bot
	Service string // the HealthcareService that links it; empty: none does
}

// DirectoryService is an entry of the institution (HealthcareService) with its name.
type DirectoryService struct{ ID, Name string }

// Services lists the institution's entries (HealthcareService).
func (o *Owner) Services(ctx context.Context) ([]DirectoryService, error) {
	all, err := o.list(ctx, fhir.HealthcareService)
	if err != nil {
		return nil, err
	}
	list := make([]DirectoryService, len(all))
	for i, r := range all {
		list[i] = DirectoryService{ID: r.ID(), Name: strings.Join(r.Strings("name"), " ")}
	}
	return list, nil
}

// Addresses lists the institution's messengers in the directory.
func (o *Owner) Addresses(ctx context.Context) ([]Address, error) {
	endpoints, err := o.list(ctx, fhir.Endpoint)
	if err != nil {
		return nil, err
	}
	services, err := o.list(ctx, fhir.HealthcareService)
	if err != nil {
		return nil, err
	}
	var list []Address
	for _, e := range endpoints {
		user, ok := fhir.MatrixUser(strings.Join(e.Strings("address"), ""))
		if !ok {
			continue
		}
		a := Address{ID: e.ID(), User: id.User(user), Name: strings.Join(e.Strings("name"), " ")}
		if kinds := e.Codings("connectionType"); len(kinds) > 0 {
			a.Kind = kinds[0].Code
		}
		for _, s := range services {
			if slices.Contains(s.References("endpoint"), e.Reference()) {
				a.Service = s.ID()
			}
		}
		list = append(list, a)
	}
	return list, nil
}

// Enter puts an address into the directory below one of the institution's entries (AF_10438).
func (o *Owner) Enter(ctx context.Context, a Address) error {
	var made struct {
		ID string `json:"id"`
	}
	err := o.call(ctx, http.MethodPost, "/owner/"+fhir.Endpoint, map[string]any{
		"resourceType": fhir.Endpoint, "status": "active", "name": a.Name, "address": fhir.MatrixURI(string(a.User)),
		"connectionType": map[string]any{"system": fhir.SystemConnectionType, "code": a.Kind},
		"payloadType":    []any{map[string]any{"coding": []any{map[string]any{"system": fhir.SystemPayloadType, "code": "tim-chat"}}}},
	}, &made)
	if err != nil {
		return err
	}
	return o.link(ctx, a.Service, func(refs []string) []string { return append(refs, fhir.Endpoint+"/"+made.ID) })
}

// Remove takes every entry of an address off: it is unlinked first, as the directory wants it.
func (o *Owner) Remove(ctx context.Context, user id.User) (removed int, err error) {
	all, err := o.Addresses(ctx)
	if err != nil {
		return 0, err
	}
	for _, a := range all {
		if a.User != user {
			continue
		}
		ref := fhir.Endpoint + "/" + a.ID
		if a.Service != "" {
			if err := o.link(ctx, a.Service, func(refs []string) []string {
				return slices.DeleteFunc(refs, func(r string) bool { return r == ref })
			}); err != nil {
				return removed, err
			}
		}
		if err := o.call(ctx, http.MethodDelete, "/owner/"+ref, nil, nil); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, nil
}

// link changes which endpoints an entry links.
func (o *Owner) link(ctx context.Context, service string, change func([]string) []string) error {
	path := "/owner/" + fhir.HealthcareService + "/" + service
	entry, err := o.read(ctx, path)
	if err != nil {
		return err
	}
	refs := change(entry.References("endpoint"))
	var list any
	if len(refs) > 0 {
		linked := make([]any, len(refs))
		for i, ref := range refs {
			linked[i] = map[string]any{"reference": ref}
		}
		list = linked
	}
	changed, err := entry.With(map[string]any{"endpoint": list})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDirectory, err)
	}
	return o.call(ctx, http.MethodPut, path, changed.JSON(), nil)
}

func (o *Owner) read(ctx context.Context, path string) (*fhir.Resource, error) {
	raw, err := o.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	r, err := fhir.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDirectory, err)
	}
	return r, nil
}

func (o *Owner) list(ctx context.Context, kind string) ([]*fhir.Resource, error) {
	raw, err := o.send(ctx, http.MethodGet, "/owner/"+kind, nil)
	if err != nil {
		return nil, err
	}
	return resources(raw)
}

// call sends a request with a body and decodes the answer into out, if that is not nil.
func (o *Owner) call(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("%w: %w", ErrDirectory, err)
		}
	}
	raw, err := o.send(ctx, method, path, body)
	if err == nil && out != nil {
		if err = json.Unmarshal(raw, out); err != nil {
			err = fmt.Errorf("%w: %w", ErrDirectory, err)
		}
	}
	return err
}

func (o *Owner) send(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	if o.token == "" {
		var access struct {
			Token string `json:"access_token"`
		}
		raw, err := o.exchange(ctx, http.MethodGet, "/owner-authenticate", o.Vouched, nil)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(raw, &access); err != nil || access.Token == "" {
			return nil, fmt.Errorf("%w: no token", ErrDirectory)
		}
		o.token = access.Token
	}
	return o.exchange(ctx, method, path, o.token, body)
}

func (o *Owner) exchange(ctx context.Context, method, path, token string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, o.Directory+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDirectory, err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	if len(body) > 0 {
		r.Header.Set("Content-Type", "application/fhir+json")
	}
	client := o.Client
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDirectory, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDirectory, err)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return nil, fmt.Errorf("%w: status %d: %.300s", ErrDirectory, resp.StatusCode, raw)
	}
	return raw, nil
}

// resources are those of a searchset.
func resources(raw []byte) ([]*fhir.Resource, error) {
	var bundle struct {
		Entry []struct {
			Resource jsontext.Value `json:"resource"`
		} `json:"entry"`
	}
	if err := json.Unmarshal(raw, &bundle); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDirectory, err)
	}
	all := make([]*fhir.Resource, len(bundle.Entry))
	for i, e := range bundle.Entry {
		r, err := fhir.Parse(e.Resource)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDirectory, err)
		}
		all[i] = r
	}
	return all, nil
}
