// SPDX-License-Identifier: Apache-2.0

package appservice

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// protocol is what a service says of a network that it bridges (application-service API, "Third-party networks").
type protocol struct {
	UserFields     []string                    `json:"user_fields"`
	LocationFields []string                    `json:"location_fields"`
	Icon           string                      `json:"icon"`
	FieldTypes     map[string]jsontext.Value   `json:"field_types"`
	Instances      []map[string]jsontext.Value `json:"instances"`
}

// errAbsent: the service answered that it has no such thing.
var errAbsent = errors.New("not there")

// lookup asks a service about its networks.
func (s *Service) lookup(ctx context.Context, svc *service, path string, query url.Values, out any) error {
	ctx, cancel := context.WithTimeout(ctx, s.o.Patience)
	defer cancel()
	status, answer, err := s.call(ctx, svc, request{method: http.MethodGet, path: prefix + path, query: query})
	if err == nil && unknownPath(status, answer) {
		status, answer, err = s.call(ctx, svc, request{method: http.MethodGet, path: oldPrefix + path, query: query, old: true})
	}
	if err == nil && status == http.StatusNotFound {
		return errAbsent
	}
	if err := success(status, err); err != nil {
		return err
	}
	return json.Unmarshal(answer, out, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
}

// each runs f for some services at once. One that fails is left out, and logged.
func (s *Service) each(list []*service, f func(i int, svc *service) error) {
	var work sync.WaitGroup
	for i, svc := range list {
		work.Go(func() {
			if err := f(i, svc); err != nil && !errors.Is(err, errAbsent) {
				s.o.Log.Warn("application service did not answer about its networks", "server", string(svc.server), "service", svc.ID, "error", err)
			}
		})
	}
	work.Wait()
}

// bridging lists the tenant's services of a network, or of any ("").
func (s *Service) bridging(r *httpapi.Request, network string) []*service {
	return slices.DeleteFunc(s.o.Registry.of(r.Tenant.Name), func(svc *service) bool {
		return svc.url == nil || len(svc.Protocols) == 0 || network != "" && !slices.Contains(svc.Protocols, network)
	})
}

// protocolOf asks all services of a network for what they know of it and merges the answers; nil when none knows it.
func (s *Service) protocolOf(ctx context.Context, r *httpapi.Request, network string) *protocol {
	list := s.bridging(r, network)
	answers := make([]*protocol, len(list))
	s.each(list, func(i int, svc *service) error {
		var p protocol
		if err := s.lookup(ctx, svc, "/thirdparty/protocol/"+url.PathEscape(network), nil, &p); err != nil {
			return err
		}
		for _, instance := range p.Instances {
			var name string
			if json.Unmarshal(instance["network_id"], &name) == nil {
				id, err := json.Marshal(instanceID(svc.ID, name))
				if err != nil {
					return err
				}
				instance["instance_id"] = id
			}
		}
		answers[i] = &p
		return nil
	})
	var out *protocol
	for _, p := range answers {
		switch {
		case p == nil:
		case out == nil:
			out = p
		default:
			out.Instances = append(out.Instances, p.Instances...)
		}
	}
	if out != nil && out.Instances == nil {
		out.Instances = []map[string]jsontext.Value{}
	}
	if out != nil && out.FieldTypes == nil {
		out.FieldTypes = map[string]jsontext.Value{}
	}
	return out
}

func (s *Service) getProtocols(ctx context.Context, r *httpapi.Request) (any, error) {
	names := map[string]bool{}
	for _, svc := range s.bridging(r, "") {
		for _, name := range svc.Protocols {
			names[name] = true
		}
	}
	var mu sync.Mutex
	var work sync.WaitGroup
	out := map[string]*protocol{}
	for name := range names {
		work.Go(func() {
			if p := s.protocolOf(ctx, r, name); p != nil {
				mu.Lock()
				defer mu.Unlock()
				out[name] = p
			}
		})
	}
	work.Wait()
	return out, ctx.Err()
}

func (s *Service) getProtocol(ctx context.Context, r *httpapi.Request) (any, error) {
	if p := s.protocolOf(ctx, r, r.Var("protocol")); p != nil {
		return p, ctx.Err()
	}
	return nil, mxerror.NotFound.With("This network is not bridged here.")
}

// find makes the handler of a search: in one network by its fields, or in all of them by a Matrix name, which then is the parameter called byName.
// what is "user" or "location", name the field of an answer's entries that holds the Matrix name.
func (s *Service) find(what, name, byName string) httpapi.Handler {
	return func(ctx context.Context, r *httpapi.Request) (any, error) {
		network := r.Var("protocol")
		path, query := "/thirdparty/"+what, url.Values{}
		if network != "" {
			path += "/" + url.PathEscape(network)
			for field, values := range r.Values() {
				if field != "access_token" && field != "user_id" && field != "device_id" {
					query[field] = values
				}
			}
		} else {
			if r.Query(byName) == "" {
				return nil, mxerror.MissingParam.With("%s is missing.", byName)
			}
			query.Set(byName, r.Query(byName))
		}
		list := s.bridging(r, network)
		if network != "" && len(list) == 0 {
			return nil, mxerror.NotFound.With("This network is not bridged here.")
		}
		answers := make([][]map[string]jsontext.Value, len(list))
		s.each(list, func(i int, svc *service) error { return s.lookup(ctx, svc, path, query, &answers[i]) })
		out := []map[string]jsontext.Value{}
		for _, entries := range answers {
			for _, e := range entries {
				if e[name].Kind() == '"' && e["protocol"].Kind() == '"' && e["fields"].Kind() == '{' {
					out = append(out, e)
				}
			}
		}
		if len(out) == 0 && ctx.Err() == nil {
			return nil, mxerror.NotFound.With("Nothing was found.")
		}
		return out, ctx.Err()
	}
}
