// SPDX-License-Identifier: Apache-2.0

package trust_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/ocsp"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/trust"
)

var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// world is a test PKI with a responder whose behaviour a test changes.
type world struct {
	pki       *card.PKI
	now       time.Time
	asked     atomic.Int64
	instead   http.HandlerFunc // answers in the responder's place
	incidents []string
	client    *trust.OCSP
	address   string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{now: start}
	clock := func() time.Time { return w.now }
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.asked.Add(1)
		if w.instead != nil {
			w.instead(rw, r)
			return
		}
		w.pki.ServeHTTP(rw, r)
	}))
	t.Cleanup(server.Close)
	w.address = server.URL
	var err error
	if w.pki, err = card.Open(card.Options{Folder: t.TempDir(), Now: clock, OCSP: server.URL}); err != nil {
		t.Fatal(err)
	}
	w.client = trust.NewOCSP(trust.OCSPOptions{Trust: w.pki.Trust(), Now: clock, Incident: func(kind string) { w.incidents = append(w.incidents, kind) }})
	return w
}

func (w *world) card(t *testing.T) *certificate.Certificate {
	t.Helper()
	c, err := w.pki.IssueSMCB(card.Institution{Name: "Praxis Sonnenallee", TelematikID: "1-2.1", ProfessionOID: certificate.Practice, PIN: "123456"})
	if err != nil {
		t.Fatal(err)
	}
	return c.Certificate()
}

// holds asks and compares verdict, number of questions so far and incidents so far.
func (w *world) holds(t *testing.T, what string, c *certificate.Certificate, want error, asked int64, incidents ...string) {
	t.Helper()
	if err := w.client.Revoked(c); !errors.Is(err, want) || w.asked.Load() != asked || !slices.Equal(w.incidents, incidents) {
		t.Errorf("%s: %v, want %v; asked %d times, want %d; incidents %q, want %q", what, err, want, w.asked.Load(), asked, w.incidents, incidents)
	}
}

func unavailable(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusServiceUnavailable)
}

// Requirements: A_25635.
func TestRevokedWithinTheAnswersLife(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.card(t)
	w.holds(t, "first", c, nil, 1)
	w.holds(t, "again", c, nil, 1)
	if err := w.pki.Revoke(c); err != nil {
		t.Fatal(err)
	}
	w.now = start.Add(card.OCSPLife - time.Second)
	w.holds(t, "just before the answer ends", c, nil, 1)
	w.now = start.Add(card.OCSPLife)
	w.holds(t, "when it has ended", c, trust.ErrRevoked, 2, trust.IncidentRevoked)
	w.holds(t, "tried again", c, trust.ErrRevoked, 2, trust.IncidentRevoked, trust.IncidentRevoked)
}

// TestUnreachable: an answer that counts is enough while the responder is silent; without one everything is refused.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.card(t)
	w.holds(t, "first", c, nil, 1)
	w.instead = unavailable
	w.holds(t, "with an answer that counts", c, nil, 1)
	w.now = start.Add(card.OCSPLife)
	w.holds(t, "with one that does not", c, trust.ErrUnreachable, 2, trust.IncidentUnreachable)
	w.holds(t, "refusals are not remembered", c, trust.ErrUnreachable, 3, trust.IncidentUnreachable, trust.IncidentUnreachable)
	w.instead = nil
	w.holds(t, "back again", c, nil, 4, trust.IncidentUnreachable, trust.IncidentUnreachable)
	nobody := trust.NewOCSP(trust.OCSPOptions{Trust: w.pki.Trust(), Responder: "http://127.0.0.1:1/", Now: func() time.Time { return w.now }})
	if err := nobody.Revoked(c); !errors.Is(err, trust.ErrUnreachable) {
		t.Errorf("nobody listens: %v", err)
	}
}

func TestAnswersThatProveNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.card(t)
	for name, instead := range map[string]http.HandlerFunc{
		"no OCSP":   func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte("<html>")) },
		"a refusal": func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(ocsp.TryLater.Bytes()) },
		"endless":   func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(make([]byte, 1<<20)) },
		"old": func(rw http.ResponseWriter, r *http.Request) {
			w.now = start.Add(-2 * time.Hour)
			w.pki.ServeHTTP(rw, r)
			w.now = start
		},
	} {
		w.instead, w.incidents = instead, nil
		if err := w.client.Revoked(c); err == nil || !slices.Equal(w.incidents, []string{trust.IncidentAnswer}) {
			t.Errorf("%s: %v, incidents %q", name, err, w.incidents)
		}
	}
	stranger := newWorld(t)
	if err := w.client.Revoked(stranger.card(t)); !errors.Is(err, trust.ErrUnreachable) {
		t.Errorf("of an unknown issuer: %v", err)
	}
}

// TestUnknownToItsIssuer: a certificate that is well signed but that the issuer has no record of is not accepted.
func TestUnknownToItsIssuer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.pki.Roots()[0]
	if err := w.client.Revoked(root); !errors.Is(err, trust.ErrUnreachable) { // it names no responder
		t.Errorf("root: %v", err)
	}
	asking := trust.NewOCSP(trust.OCSPOptions{Trust: w.pki.Trust(), Responder: w.address, Now: func() time.Time { return w.now }})
	if err := asking.Revoked(root); !errors.Is(err, trust.ErrUnknown) {
		t.Errorf("a certificate without a record: %v", err)
	}
}

func TestFetchRoots(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	old := certificate.NewTrust(w.pki.Roots(), nil)
	if err := w.pki.Rotate(); err != nil {
		t.Fatal(err)
	}
	answer := http.StatusInternalServerError
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		text, err := w.pki.RootsList()
		if err != nil {
			t.Error(err)
		}
		rw.WriteHeader(answer)
		_, _ = rw.Write(text)
	}))
	defer server.Close()
	if _, err := trust.Fetch(t.Context(), server.Client(), server.URL, old, start); err == nil || len(old.Roots()) != 1 {
		t.Errorf("a server that fails: %v, %d roots", err, len(old.Roots()))
	}
	answer = http.StatusOK
	if learned, err := trust.Fetch(t.Context(), server.Client(), server.URL, old, start); err != nil || len(learned) != 1 || len(old.Roots()) != 2 {
		t.Errorf("%d learned, %v, %d roots", len(learned), err, len(old.Roots()))
	}
}
