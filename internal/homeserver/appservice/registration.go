// SPDX-License-Identifier: Apache-2.0

package appservice

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Registration is one file. Unknown keys are left alone, as bridges add their own.
type Registration struct {
	ID              string `yaml:"id"`
	URL             string `yaml:"url"`
	ASToken         string `yaml:"as_token"`
	HSToken         string `yaml:"hs_token"`
	SenderLocalpart string `yaml:"sender_localpart"`
	RateLimited     *bool  `yaml:"rate_limited"`
	Namespaces      struct {
		Users []Namespace `yaml:"users"`
	} `yaml:"namespaces"`
	// Server names the tenant it belongs to; a cell with one tenant needs none. It is ours, not of the specification.
	Server string `yaml:"server_name"`
}

// Namespace is a set of user ids.
type Namespace struct {
	Exclusive bool   `yaml:"exclusive"`
	Regex     string `yaml:"regex"`
}

// Registry holds the registrations of all tenants of a node. It never changes.
type Registry struct {
	byToken map[key]*account.AppService
	byID    map[key]*account.AppService
}

// key is a registration's id or the hash of its token, within a tenant: another tenant's token finds nothing.
type key struct {
	server id.Server
	value  string
}

// Load reads all files *.yaml and *.yml of a folder; an empty name is an empty registry. Registrations without server_name belong to the sole
// tenant. The error names the file.
func Load(folder string, sole id.Server) (*Registry, error) {
	r := &Registry{byToken: map[key]*account.AppService{}, byID: map[key]*account.AppService{}}
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
	for _, n := range reg.Namespaces.Users {
		re, err := regexp.Compile(n.Regex)
		if err != nil {
			return fmt.Errorf("namespaces.users: %w", err)
		}
		as.Users = append(as.Users, re)
	}
	token, name := tokenKey(server, reg.ASToken), key{server, reg.ID}
	if r.byToken[token] != nil || r.byID[name] != nil {
		return fmt.Errorf("id or as_token of %s is taken by another registration", reg.ID)
	}
	r.byToken[token], r.byID[name] = as, as
	return nil
}

// tokenKey hashes, so that looking a token up takes the same time however much of it is right.
func tokenKey(server id.Server, token string) key {
	h := sha256.Sum256([]byte(token))
	return key{server, string(h[:])}
}

// ByToken finds a tenant's application service by its as_token.
func (r *Registry) ByToken(_ context.Context, t *tenant.Tenant, token string) (*account.AppService, bool) {
	as, ok := r.byToken[tokenKey(t.Name, token)]
	return as, ok
}

// ByID finds a tenant's application service by its registration's id.
func (r *Registry) ByID(_ context.Context, t *tenant.Tenant, registration string) (*account.AppService, bool) {
	as, ok := r.byID[key{t.Name, registration}]
	return as, ok
}

// IDs lists the registrations of a tenant, sorted.
func (r *Registry) IDs(server id.Server) []string {
	var ids []string
	for k := range r.byID {
		if k.server == server {
			ids = append(ids, k.value)
		}
	}
	slices.Sort(ids)
	return ids
}
