// SPDX-License-Identifier: Apache-2.0

package fedlist_test

import (
	"context"
	"crypto/rand"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/health/brainpool"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/jose"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/fedlist"
)

// pki is a root and a signer of lists.
type pki struct {
	trust  *certificate.Trust
	root   *certificate.Certificate
	key    *brainpool.PrivateKey
	signer *certificate.Certificate
	own    *brainpool.PrivateKey
}

func newPKI(t *testing.T, role string) *pki {
	t.Helper()
	p := &pki{}
	var err error
	if p.key, err = brainpool.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	p.root, err = certificate.Issue(certificate.Template{Serial: big.NewInt(1), Subject: pkix.Name{CommonName: "Test Root"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(9, 0, 0),
		Key: p.key.PublicKey(), CA: true}, nil, p.key)
	if err != nil {
		t.Fatal(err)
	}
	if p.own, err = brainpool.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	p.signer, err = certificate.Issue(certificate.Template{Serial: big.NewInt(2), Subject: pkix.Name{CommonName: "Test Signer"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(5, 0, 0),
		Key: p.own.PublicKey(), Type: certificate.ServiceSIG, Admission: certificate.Admission{Items: []string{"Verzeichnisdienst"}, Professions: []string{role}}}, p.root, p.key)
	if err != nil {
		t.Fatal(err)
	}
	p.trust = certificate.NewTrust([]*certificate.Certificate{p.root}, nil)
	return p
}

// signer is a list signer of this PKI.
type signer struct {
	jose.BrainpoolSigner
	certificate *certificate.Certificate
}

func (s signer) Certificate() *certificate.Certificate { return s.certificate }

func (p *pki) publisher(db *database.DB) *fedlist.Publisher {
	return fedlist.NewPublisher(fedlist.PublisherOptions{DB: db, Signers: []card.Signer{signer{jose.BrainpoolSigner{Key: p.own}, p.signer}},
		Active: func(_ context.Context, tid string) (bool, error) { return tid != "inactive", nil }})
}

// network is a publisher behind HTTP and a consumer of it.
type network struct {
	*fedlist.Publisher
	consumer  *fedlist.Consumer
	url       string
	requests  atomic.Int64
	down      atomic.Bool
	incidents atomic.Value // the latest one's kind
	clock     atomic.Int64 // ms added to the time
}

func newNetwork(t *testing.T, db *database.DB, p *pki) *network {
	t.Helper()
	n := &network{Publisher: p.publisher(db)}
	h := n.Handler("/tim-provider-services", func(token string) (string, bool) { return token, token != "" })
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.requests.Add(1)
		if n.down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	n.url = server.URL + "/tim-provider-services"
	n.consumer = n.consume(t, db, p)
	return n
}

func (n *network) consume(t *testing.T, db *database.DB, p *pki) *fedlist.Consumer {
	t.Helper()
	c, err := fedlist.NewConsumer(context.Background(), fedlist.ConsumerOptions{DB: db, URL: n.url + "/FederationList/federationList.jws", Trust: p.trust, Token: fedlist.StaticToken("a"),
		Log: slog.New(slog.DiscardHandler), Incident: func(kind string) { n.incidents.Store(kind) },
		Now: func() time.Time { return time.Now().Add(time.Duration(n.clock.Load()) * time.Millisecond) }})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Requirements: A_25537.
func TestListEndToEnd(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		ctx := context.Background()
		p := newPKI(t, certificate.RoleDirectory)
		n := newNetwork(t, db, p)
		if err := n.Add(ctx, "a", fedlist.Domain{Domain: "praxis.example", TelematikID: "1-1"}); err != nil {
			t.Fatal(err)
		}
		if err := n.Add(ctx, "b", fedlist.Domain{Domain: "kasse.example", TelematikID: "8-1", IsInsurance: true, IK: []string{"109500969"}}); err != nil {
			t.Fatal(err)
		}
		if listed, insurance, err := n.consumer.Member(ctx, "praxis.example"); err != nil || !listed || insurance {
			t.Fatalf("praxis: %v %v %v", listed, insurance, err)
		}
		if listed, insurance, err := n.consumer.Member(ctx, "KASSE.example"); err != nil || !listed || !insurance {
			t.Fatalf("kasse: %v %v %v", listed, insurance, err)
		}
		if s, ok := n.consumer.FindByIK("109500969"); !ok || s != "kasse.example" {
			t.Fatalf("by IK: %s", s)
		}
		if listed, _, err := n.consumer.Member(ctx, "fremd.example"); err != nil || listed {
			t.Fatalf("stranger: %v %v", listed, err)
		}
		before := n.requests.Load()
		if listed, _, err := n.consumer.Member(ctx, "fremd.example"); err != nil || listed {
			t.Fatalf("stranger: %v %v", listed, err)
		}
		if n.requests.Load() != before {
			t.Fatal("a second miss of the same server within a moment asked the publisher again")
		}
		// A newcomer is found by the refresh on a miss (A_25537).
		if err := n.Add(ctx, "a", fedlist.Domain{Domain: "neu.example", TelematikID: "1-2"}); err != nil {
			t.Fatal(err)
		}
		n.clock.Add(2000)
		if listed, _, err := n.consumer.Member(ctx, "neu.example"); err != nil || !listed {
			t.Fatalf("newcomer: %v %v", listed, err)
		}
		// The verified list survives a restart without the publisher, until it is too old; then nobody is a member (fail closed).
		n.down.Store(true)
		again := n.consume(t, db, p)
		if listed, _, err := again.Member(ctx, "neu.example"); err != nil || !listed {
			t.Fatalf("after a restart: %v %v", listed, err)
		}
		n.clock.Add((fedlist.FreshFor + time.Hour).Milliseconds())
		if _, _, err := again.Member(ctx, "neu.example"); !errors.Is(err, fedlist.ErrStale) {
			t.Fatalf("an old list: %v", err)
		}
		if n.incidents.Load() != fedlist.IncidentStale {
			t.Errorf("incident %v", n.incidents.Load())
		}
		n.down.Store(false)
		n.clock.Add(2000)
		if listed, _, err := again.Member(ctx, "neu.example"); err != nil || !listed {
			t.Fatalf("the list is confirmed: %v %v", listed, err)
		}
	})
}

func TestPublisherRefuses(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	p := newPKI(t, certificate.RoleDirectory).publisher(databasetest.Open(t, databasetest.SQLite(t)))
	ok := fedlist.Domain{Domain: "a.example", TelematikID: "1"}
	if err := p.Add(ctx, "a", ok); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		d    fedlist.Domain
		want error
	}{
		"twice":              {ok, fedlist.ErrExists},
		"no telematikID":     {fedlist.Domain{Domain: "b.example"}, fedlist.ErrInvalid},
		"no domain":          {fedlist.Domain{TelematikID: "1"}, fedlist.ErrInvalid},
		"inactive":           {fedlist.Domain{Domain: "b.example", TelematikID: "inactive"}, fedlist.ErrInactive},
		"insurer without IK": {fedlist.Domain{Domain: "b.example", TelematikID: "1", IsInsurance: true}, fedlist.ErrInvalid},
		"IK without insurer": {fedlist.Domain{Domain: "b.example", TelematikID: "1", IK: []string{"109500969"}}, fedlist.ErrInvalid},
		"wrong check digit":  {fedlist.Domain{Domain: "b.example", TelematikID: "1", IsInsurance: true, IK: []string{"109500968"}}, fedlist.ErrInvalid},
	} {
		if err := p.Add(ctx, "a", c.d); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if err := p.Remove(ctx, "b", "a.example"); !errors.Is(err, fedlist.ErrForeign) {
		t.Errorf("another provider removes: %v", err)
	}
	if err := p.Remove(ctx, "a", "a.example"); err != nil {
		t.Error(err)
	}
	if err := p.Remove(ctx, "a", "a.example"); !errors.Is(err, fedlist.ErrUnknown) {
		t.Errorf("removed twice: %v", err)
	}
}

// TestInterface walks the published operations over HTTP.
func TestInterface(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, databasetest.Open(t, databasetest.SQLite(t)), newPKI(t, certificate.RoleDirectory))
	for _, c := range []struct {
		method, path, token, body string
		status                    int
	}{
		{"GET", "/", "", "", 200},
		{"GET", "/federation", "", "", 401},
		{"POST", "/federation", "a", `{"domain":"x.example","telematikID":"1","isInsurance":false}`, 200},
		{"POST", "/federation", "a", `{"domain":"x.example","telematikID":"1","isInsurance":false}`, 409},
		{"POST", "/federation", "a", `{`, 400},
		{"GET", "/federation?domain=x.example", "a", "", 200},
		{"GET", "/federation?domain=y.example", "a", "", 404},
		{"PUT", "/federation/x.example", "a", `{"domain":"y.example","telematikID":"1","isInsurance":false}`, 400},
		{"PUT", "/federation/x.example", "b", `{"domain":"x.example","telematikID":"2","isInsurance":false}`, 403},
		{"PUT", "/federation/x.example", "a", `{"domain":"x.example","telematikID":"2","isInsurance":false}`, 200},
		{"PUT", "/federation/x.example", "a", `{"domain":"x.example","telematikID":"2","isInsurance":true,"ik":["109500969","109500969"]}`, 400},
		{"PUT", "/federation/x.example", "a", `{"domain":"x.example","telematikID":"2","isInsurance":false,"redirectDomains":["not a host"]}`, 400},
		{"PUT", "/federation/x.example", "a", `{"domain":"x.example","telematikID":"2","isInsurance":false,"redirectDomains":["y.example"]}`, 200},
		{"GET", "/localization?mxid=matrix:u/anna:x.example", "a", "", 200},
		{"GET", "/localization?mxid=anna", "a", "", 400},
		{"GET", "/localization?mxid=matrix:u/anna:x.example", "", "", 401},
		{"GET", "/federationCheck", "a", "", 204},
		{"GET", "/FederationList/federationList.jws", "a", "", 200},
		{"GET", "/FederationList/federationList.jws?version=1000", "a", "", 204},
		{"GET", "/FederationList/federationList.jws?version=x", "a", "", 400},
		{"GET", "/FederationList/federationList.jws?sigAlg=RS256", "a", "", 400},
		{"DELETE", "/federation/x.example", "a", "", 204},
		{"DELETE", "/federation/x.example", "a", "", 404},
	} {
		req, err := http.NewRequest(c.method, n.url+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		if c.token != "" {
			req.Header.Set("Authorization", "Bearer "+c.token)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%s %s as %q: %d, want %d", c.method, c.path, c.token, resp.StatusCode, c.status)
		}
	}
}

// TestVerifyRefuses: wrong root, wrong role, changed bytes, expired signer.
func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	good := newPKI(t, certificate.RoleDirectory)
	token, _, err := good.publisher(databasetest.Open(t, databasetest.SQLite(t))).Token(ctx)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if _, err := fedlist.Verify(token, good.trust, now, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := fedlist.Verify(token, newPKI(t, certificate.RoleDirectory).trust, now, nil); err == nil {
		t.Error("a foreign root was believed")
	}
	if _, err := fedlist.Verify(token, good.trust, now.AddDate(6, 0, 0), nil); err == nil {
		t.Error("an expired signer was believed")
	}
	if _, err := fedlist.Verify(token, good.trust, now, func(*certificate.Certificate) error { return errors.New("revoked") }); err == nil {
		t.Error("a revoked signer was believed")
	}
	parts := strings.Split(token, ".")
	if _, err := fedlist.Verify(parts[0]+"."+parts[1]+"A."+parts[2], good.trust, now, nil); err == nil {
		t.Error("changed bytes were believed")
	}
	wrong := newPKI(t, certificate.RoleTIM)
	token, _, err = wrong.publisher(databasetest.Open(t, databasetest.SQLite(t))).Token(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fedlist.Verify(token, wrong.trust, now, nil); err == nil {
		t.Error("a provider's certificate signed the list and was believed")
	}
}
