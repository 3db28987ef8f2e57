// SPDX-License-Identifier: Apache-2.0

package registration_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/homeserver/federation"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/telematik/registration"
)

// site is the web server and the TXT records of every domain.
type site struct {
	*httptest.Server
	answer  http.HandlerFunc
	asked   atomic.Int32
	records map[string][]string
}

func newSite(t *testing.T) *site {
	t.Helper()
	w := &site{records: map[string][]string{}, answer: http.NotFound}
	w.Server = httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.asked.Add(1)
		w.answer(rw, r)
	}))
	t.Cleanup(w.Close)
	return w
}

// proofs sends every connection to the site, through the dialer of the client, which sees the site's true address.
func (w *site) proofs(guard func(network, address string, c syscall.RawConn) error) registration.Proofs {
	pool := w.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	client := registration.ProofClient(guard, pool)
	transport := client.Transport.(*http.Transport)
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dial(ctx, network, w.Listener.Addr().String())
	}
	transport.TLSClientConfig.ServerName = "example.com" // whom the site's certificate names
	return registration.Proofs{Client: client, TXT: func(_ context.Context, name string) ([]string, error) {
		if found, ok := w.records[name]; ok {
			return found, nil
		}
		return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}}
}

// TestOwnDomain: without a domain below which the provider gives out names, and for every domain elsewhere, an order needs the proof of an own domain.
func TestOwnDomain(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		n, web := newNetwork(t, db), newSite(t)
		for name, base := range map[string]id.Server{"none": "", "other": "messenger.example"} {
			client := n.client(n.provider(func(o *registration.Options) { o.Base, o.Proves = base, web.proofs(nil).Shows }))
			web.answer = http.NotFound
			practice, other := n.unlock(n.smcb("1-2.1", certificate.Practice, "x")), n.unlock(n.smcb("1-2.2", certificate.Practice, "y"))
			byRecord, byFile := id.Server("dns-"+name+".example"), id.Server("datei-"+name+".example")
			proof := func(domain id.Server) registration.Proof {
				t.Helper()
				_, err := client.RegisterWith(t.Context(), practice, registration.Order{ServerName: domain})
				refusal, ok := errors.AsType[*registration.Refusal](err)
				if !ok || !errors.Is(err, registration.ErrProof) || refusal.Status != http.StatusForbidden || refusal.Proof == nil || len(refusal.Proof.Token) < 30 {
					t.Fatalf("%s unproved: %v", domain, err)
				}
				return *refusal.Proof
			}
			shown := proof(byRecord)
			if shown.Record != "_konsil-domain."+string(byRecord) || shown.URL != "https://"+string(byRecord)+"/.well-known/konsil-domain" {
				t.Errorf("%+v", shown)
			}
			// a wrong token, the token at another name, another organisation's token: no proof
			web.records[shown.Record] = []string{"v=spf1 -all", "konsil-domain=wrong"}
			web.records[string(byRecord)] = []string{shown.Token}
			if again := proof(byRecord); again != shown {
				t.Errorf("another token: %+v %+v", shown, again)
			}
			web.records[shown.Record] = append(web.records[shown.Record], shown.Token)
			if _, err := client.RegisterWith(t.Context(), other, registration.Order{ServerName: byRecord}); !errors.Is(err, registration.ErrProof) {
				t.Errorf("by another's token: %v", err)
			}
			if r, err := client.RegisterWith(t.Context(), practice, registration.Order{ServerName: byRecord}); err != nil || r.Again {
				t.Errorf("by record: %+v %v", r, err)
			}
			// the proof is needed once, and nobody else gets the domain by one of theirs
			delete(web.records, shown.Record)
			if r, err := client.RegisterWith(t.Context(), practice, registration.Order{ServerName: byRecord}); err != nil || !r.Again {
				t.Errorf("again: %+v %v", r, err)
			}
			_, err := client.RegisterWith(t.Context(), other, registration.Order{ServerName: byRecord})
			refusal, ok := errors.AsType[*registration.Refusal](err)
			if !ok || refusal.Proof == nil {
				t.Fatal(err)
			}
			web.records[shown.Record] = []string{refusal.Proof.Token}
			_, err = client.RegisterWith(t.Context(), other, registration.Order{ServerName: byRecord})
			if refusal, ok := errors.AsType[*registration.Refusal](err); !ok || refusal.Status != http.StatusConflict || !errors.Is(err, registration.ErrTaken) {
				t.Errorf("taken: %v", err)
			}
			web.serve(t, byFile, proof(byFile).Token, func() { proof(byFile) })
			if r, err := client.RegisterWith(t.Context(), practice, registration.Order{ServerName: byFile}); err != nil || r.Again {
				t.Errorf("by file: %+v %v", r, err)
			}
		}
		if d := n.listed(); len(d) != 4 {
			t.Errorf("%+v", d)
		}
	})
}

// TestOldProof: a proof for which no order came is none after a day.
func TestOldProof(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		n, web := newNetwork(t, db), newSite(t)
		client := n.client(n.provider(func(o *registration.Options) { o.Base, o.Proves = "", web.proofs(nil).Shows }))
		practice := n.unlock(n.smcb("1-2.1", certificate.Practice, "x"))
		order := func(login string, want error) registration.Refusal {
			t.Helper()
			_, err := client.RegisterWith(t.Context(), practice, registration.Order{ServerName: "alt.example", Admin: login})
			refusal, ok := errors.AsType[*registration.Refusal](err)
			if !ok || !errors.Is(err, want) {
				t.Fatal(err)
			}
			return *refusal
		}
		shown := order("anna", registration.ErrProof).Proof
		web.records[shown.Record] = []string{shown.Token}
		order("no:login", registration.ErrOrder) // proved, not ordered
		delete(web.records, shown.Record)
		order("no:login", registration.ErrOrder)
		n.now = n.now.Add(24 * time.Hour)
		order("anna", registration.ErrProof)
	})
}

// serve lets the site answer in ways that prove nothing, and then in the right one.
func (w *site) serve(t *testing.T, domain id.Server, token string, refused func()) {
	t.Helper()
	text := func(status int, body string) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) {
			if r.Host != string(domain) || r.URL.Path != registration.ProofPath {
				t.Errorf("asked for %s%s", r.Host, r.URL)
			}
			rw.WriteHeader(status)
			_, _ = rw.Write([]byte(body))
		}
	}
	for _, wrong := range []http.HandlerFunc{
		text(http.StatusOK, "konsil-domain=wrong"), text(http.StatusOK, ""), text(http.StatusNotFound, token), text(http.StatusOK, token+token),
		func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/elsewhere" {
				t.Error("a redirect was followed")
			}
			rw.Header().Set("Location", "/elsewhere")
			text(http.StatusFound, token)(rw, r)
		},
	} {
		w.answer = wrong
		refused()
	}
	w.answer = text(http.StatusOK, token+"\n")
}

// TestProofStaysOutside: whoever names a domain cannot make the provider ask its own network.
func TestProofStaysOutside(t *testing.T) {
	t.Parallel()
	web := newSite(t)
	web.answer = func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte("token")) }
	if shown, err := web.proofs(nil).Shows(t.Context(), "praxis.example", "token"); err != nil || !shown || web.asked.Load() != 1 {
		t.Fatalf("without guard: %v %v", shown, err)
	}
	if shown, err := web.proofs(federation.Guard(false)).Shows(t.Context(), "praxis.example", "token"); err != nil || shown || web.asked.Load() != 1 {
		t.Errorf("a private address was asked: %v %v", shown, err)
	}
}

// TestNames: what is given out below the provider's domain.
func TestNames(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		n := newNetwork(t, db)
		client := n.client(n.provider(func(o *registration.Options) { o.Base = "messenger.example" }))
		practice, other := n.unlock(n.smcb("1-2.1", certificate.Practice, "x")), n.unlock(n.smcb("1-2.2", certificate.Practice, "y"))
		if _, err := client.RegisterWith(t.Context(), practice, registration.Order{ServerName: "ahorn-1.messenger.example"}); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[id.Server]error{
			"support.messenger.example":      registration.ErrSimilar,
			"supp0rt.messenger.example":      registration.ErrSimilar,
			"ab.messenger.example":           registration.ErrSimilar,
			"xn--ahrn-5qa.messenger.example": registration.ErrSimilar,
			"ahorn-i.messenger.example":      registration.ErrSimilar,
			"ah0rnl.messenger.example":       registration.ErrSimilar,
			"ahom1.messenger.example":        registration.ErrSimilar,
			"a.b.messenger.example":          registration.ErrDomain,
			"messenger.example":              registration.ErrDomain,
			"ahorn-1.messenger.example":      registration.ErrTaken,
			"ahorn-1.messenger-example.org":  registration.ErrProof,
			"example.org":                    registration.ErrProof,
		} {
			if r, err := client.RegisterWith(t.Context(), other, registration.Order{ServerName: name}); !errors.Is(err, want) {
				t.Errorf("%s: %+v %v", name, r, err)
			}
		}
		if d := n.listed(); len(d) != 1 {
			t.Errorf("%+v", d)
		}
	})
}
