// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/konsil-health/konsil/internal/admin/console"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/oauth"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Front is one client address for several cells: it hands each request to the cell whose host table knows the Host, else whose tenant the token's
// prefix or the full user id names (engine rule 19). What names nobody (versions, login flows) goes to the first cell, which answers for the provider.
type Front struct {
	// Cells are the nodes behind the address, one per cell.
	Cells []*Server
	// Registrar is the cell at which institutions register on hosts that are no tenant's, and administer what they have there; nil: none.
	Registrar *Server
	// Home answers what is not Matrix on hosts that are no tenant's: the demo's page.
	Home http.Handler
}

// maxPeek is how much of a body the front reads to find a user id in it: login and registration bodies are small.
const maxPeek = 64 << 10

// ServeHTTP hands the request on.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if cell := f.byHost(r.Context(), r.Host); cell != nil {
		if r.URL.Path == "/" && f.Home != nil {
			f.Home.ServeHTTP(w, r)
			return
		}
		cell.Handler().ServeHTTP(w, r)
		return
	}
	if f.Registrar != nil && (r.URL.Path == console.Prefix || strings.HasPrefix(r.URL.Path, console.Prefix+"/")) {
		f.Registrar.Handler().ServeHTTP(w, r)
		return
	}
	if f.Home != nil && !matrixPath(r.URL.Path) {
		f.Home.ServeHTTP(w, r)
		return
	}
	if r.Method == http.MethodPost && r.URL.Path == oauth.RegistrationPath {
		f.registerEverywhere(w, r)
		return
	}
	if cell := f.bySubject(r); cell != nil {
		cell.Handler().ServeHTTP(w, r)
		return
	}
	unavailable(w)
}

// matrixPath says whether a path belongs to a Matrix server rather than to a page.
func matrixPath(path string) bool {
	for _, prefix := range []string{"/_matrix/", "/_synapse/", "/.well-known/"} {
		if strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}

// byHost returns the cell that knows the host, or nil.
func (f *Front) byHost(ctx context.Context, host string) *Server {
	for _, cell := range f.Cells {
		if _, err := cell.knows(func(s *tenant.Store) (*tenant.Tenant, error) { return s.ByHost(ctx, host) }); err == nil {
			return cell
		}
	}
	return nil
}

// bySubject returns the cell of the tenant that the request's token or user id names, else the first. It returns nil where a cell that is
// stopping may be the one: answering for it would tell clients that their token is unknown.
func (f *Front) bySubject(r *http.Request) *Server {
	body := peek(r)
	t, name, found := httpapi.TenantOf(r, userInPath(r.URL.Path), body)
	if !found {
		t, name, found = httpapi.TenantOfPage(r, body)
	}
	if !found {
		return f.Cells[0]
	}
	for _, cell := range f.Cells {
		_, err := cell.knows(func(s *tenant.Store) (*tenant.Tenant, error) {
			if name != "" {
				return s.ByName(r.Context(), name)
			}
			return s.ByID(r.Context(), t)
		})
		if err == nil || !errors.Is(err, tenant.ErrUnknown) && !errors.Is(err, errStopping) {
			return cell
		}
	}
	for _, cell := range f.Cells {
		if n, leave := cell.enter(); n == nil {
			return nil
		} else {
			leave()
		}
	}
	return f.Cells[0]
}

// registerEverywhere hands the registration of an OAuth 2.0 client to every cell, because nobody knows yet whose user will sign in with it. All give
// it the same id, which follows from its metadata.
func (f *Front) registerEverywhere(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxPeek))
	if err != nil {
		return // the client went away
	}
	for i, cell := range f.Cells {
		again := r.Clone(r.Context())
		again.Body = io.NopCloser(bytes.NewReader(body))
		if i == 0 {
			cell.Handler().ServeHTTP(w, again)
		} else {
			cell.Handler().ServeHTTP(nowhere{http.Header{}}, again)
		}
	}
}

// nowhere takes an answer that nobody reads.
type nowhere struct{ header http.Header }

func (n nowhere) Header() http.Header       { return n.header }
func (nowhere) WriteHeader(int)             {}
func (nowhere) Write(b []byte) (int, error) { return len(b), nil }

// knows asks a cell for a tenant; errStopping when it is stopping.
func (s *Server) knows(ask func(*tenant.Store) (*tenant.Tenant, error)) (*tenant.Tenant, error) {
	n, leave := s.enter()
	if n == nil {
		return nil, errStopping
	}
	defer leave()
	return ask(n.tenants)
}

// peek reads the beginning of a small JSON body and puts it back.
func peek(r *http.Request) []byte {
	if r.Body == nil || r.Method != http.MethodPost || r.Header.Get("Authorization") != "" || r.ContentLength > maxPeek {
		return nil
	}
	head, err := io.ReadAll(io.LimitReader(r.Body, maxPeek))
	rest := r.Body
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), rest), rest}
	if err != nil {
		return nil
	}
	return head
}

// userInPath finds a full user id among a path's segments, for routes such as /profile/{userId}.
func userInPath(path string) string {
	for segment := range strings.SplitSeq(path, "/") {
		if strings.HasPrefix(segment, "@") {
			if u, err := id.ParseUser(segment); err == nil {
				return string(u)
			}
		}
	}
	return ""
}
