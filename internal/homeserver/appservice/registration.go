// SPDX-License-Identifier: Apache-2.0

package appservice

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Registration is one file. Unknown keys are left alone, as bridges add their own.
type Registration struct {
	ID              string   `yaml:"id"`
	URL             string   `yaml:"url"`
	ASToken         string   `yaml:"as_token"`
	HSToken         string   `yaml:"hs_token"`
	SenderLocalpart string   `yaml:"sender_localpart"`
	RateLimited     *bool    `yaml:"rate_limited"`
	Protocols       []string `yaml:"protocols"`
	Namespaces      struct {
		Users   []Namespace `yaml:"users"`
		Aliases []Namespace `yaml:"aliases"`
		Rooms   []Namespace `yaml:"rooms"`
	} `yaml:"namespaces"`
	// Ephemeral asks for typing, receipts and presence; PushEphemeral is its name in MSC2409, which older bridges write.
	Ephemeral     bool `yaml:"receive_ephemeral"`
	PushEphemeral bool `yaml:"de.sorunome.msc2409.push_ephemeral"`
	// Encryption asks for to-device messages, device lists and key counts (MSC3202, MSC2409).
	Encryption bool `yaml:"org.matrix.msc3202"`
	// Server names the tenant it belongs to; a cell with one tenant needs none. It is ours, not of the specification.
	Server string `yaml:"server_name"`
}

// Namespace is a set of user ids, aliases or room ids.
type Namespace struct {
	Exclusive bool   `yaml:"exclusive"`
	Regex     string `yaml:"regex"`

	pattern *regexp.Regexp
}

// holds says whether the expression matches from the beginning on.
func (n *Namespace) holds(name string) bool {
	loc := n.pattern.FindStringIndex(name)
	return loc != nil && loc[0] == 0
}

// service is a registration as the rest of the package uses it. It never changes.
type service struct {
	Registration
	server  id.Server
	account *account.AppService
	url     *url.URL // nil: it wants no traffic
}

func within(list []Namespace, name string, exclusive bool) bool {
	for i := range list {
		if (list[i].Exclusive || !exclusive) && list[i].holds(name) {
			return true
		}
	}
	return false
}

// owns says whether a user of the service's tenant is its own.
func (s *service) owns(user id.User) bool { return s.account.Owns(user) }

func (s *service) reserves(user id.User) bool {
	return user == s.account.Sender || user.Server() == s.server && within(s.Namespaces.Users, string(user), true)
}

// Registry holds the registrations of all tenants of a node. It never changes.
type Registry struct {
	byToken map[key]*service
	byID    map[key]*service
	// seen, when set, is told that a service has called.
	seen func(*service)
}

// key is a registration's id or the hash of its token, within a tenant: another tenant's token finds nothing.
type key struct {
	server id.Server
	value  string
}

// Load reads all files *.yaml and *.yml of a folder; an empty name is an empty registry. Registrations without server_name belong to the sole
// tenant. The error names the file.
func Load(folder string, sole id.Server) (*Registry, error) {
	r := &Registry{byToken: map[key]*service{}, byID: map[key]*service{}}
	if folder == "" {
		return r, nil
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("application services: %w", err)
	}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); e.IsDir() || ext != ".yaml" && ext != ".yml" {
			continue
		}
		name := filepath.Join(folder, e.Name())
		text, err := os.ReadFile(name)
		if err == nil {
			err = r.add(text, sole)
		}
		if err != nil {
			return nil, fmt.Errorf("application service %s: %w", name, err)
		}
	}
	return r, nil
}

func (r *Registry) add(text []byte, sole id.Server) error {
	var reg Registration
	if err := yaml.Unmarshal(text, &reg); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	for _, f := range []struct{ name, value string }{{"id", reg.ID}, {"as_token", reg.ASToken}, {"hs_token", reg.HSToken}, {"sender_localpart", reg.SenderLocalpart}} {
		if f.value == "" {
			return fmt.Errorf("%s is missing", f.name)
		}
	}
	server := sole
	if reg.Server != "" {
		var err error
		if server, err = id.ParseServer(reg.Server); err != nil {
			return fmt.Errorf("server_name: %w", err)
		}
	}
	if server == "" {
		return errors.New("server_name is missing: this node has several servers")
	}
	sender, err := id.ParseUser("@" + reg.SenderLocalpart + ":" + string(server))
	if err != nil {
		return fmt.Errorf("sender_localpart: %w", err)
	}
	as := &account.AppService{ID: reg.ID, Sender: sender, Unlimited: reg.RateLimited != nil && !*reg.RateLimited}
	for name, list := range map[string][]Namespace{"users": reg.Namespaces.Users, "aliases": reg.Namespaces.Aliases, "rooms": reg.Namespaces.Rooms} {
		for i := range list {
			if list[i].pattern, err = regexp.Compile(list[i].Regex); err != nil {
				return fmt.Errorf("namespaces.%s: %w", name, err)
			}
		}
	}
	for _, n := range reg.Namespaces.Users {
		as.Users = append(as.Users, n.pattern)
	}
	target, err := target(reg.URL)
	if err != nil {
		return err
	}
	token, name := tokenKey(server, reg.ASToken), key{server, reg.ID}
	if r.byToken[token] != nil || r.byID[name] != nil {
		return fmt.Errorf("id or as_token of %s is taken by another registration", reg.ID)
	}
	s := &service{Registration: reg, server: server, account: as, url: target}
	r.byToken[token], r.byID[name] = s, s
	return nil
}

// target reads the address of a service; null or nothing stands for one that wants no traffic.
func target(text string) (*url.URL, error) {
	if text == "" {
		return nil, nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("url: an http or https address is needed")
	}
	u.Path, u.RawPath = strings.TrimSuffix(u.Path, "/"), ""
	return u, nil
}

// tokenKey hashes, so that looking a token up takes the same time however much of it is right.
func tokenKey(server id.Server, token string) key {
	h := sha256.Sum256([]byte(token))
	return key{server, string(h[:])}
}

// ByToken finds a tenant's application service by its as_token.
func (r *Registry) ByToken(_ context.Context, t *tenant.Tenant, token string) (*account.AppService, bool) {
	if len(r.byToken) == 0 {
		return nil, false
	}
	s, ok := r.byToken[tokenKey(t.Name, token)]
	if !ok {
		return nil, false
	}
	if r.seen != nil {
		r.seen(s)
	}
	return s.account, true
}

// ByID finds a tenant's application service by its registration's id.
func (r *Registry) ByID(_ context.Context, t *tenant.Tenant, registration string) (*account.AppService, bool) {
	s, ok := r.byID[key{t.Name, registration}]
	if !ok {
		return nil, false
	}
	return s.account, true
}

// of lists a tenant's services, sorted by id.
func (r *Registry) of(server id.Server) []*service {
	var out []*service
	for k, s := range r.byID {
		if k.server == server {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b *service) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// ReservedUser says whether a user id lies in the exclusive namespace of a service other than the one named (empty: of any).
func (r *Registry) ReservedUser(t *tenant.Tenant, user id.User, except string) bool {
	for _, s := range r.of(t.Name) {
		if s.ID != except && s.reserves(user) {
			return true
		}
	}
	return false
}

// MayAlias says whether an alias may be made or removed: by a service (named by its id) within its own namespace, by anybody else where none has
// an exclusive one. Error: M_EXCLUSIVE.
func (r *Registry) MayAlias(t *tenant.Tenant, caller string, alias id.Alias) error {
	if caller != "" {
		if s := r.byID[key{t.Name, caller}]; s != nil && within(s.Namespaces.Aliases, string(alias), false) {
			return nil
		}
		return mxerror.Exclusive.With("The alias is not in the namespace of the application service.")
	}
	for _, s := range r.of(t.Name) {
		if within(s.Namespaces.Aliases, string(alias), true) {
			return mxerror.Exclusive.With("The alias is reserved by an application service.")
		}
	}
	return nil
}
