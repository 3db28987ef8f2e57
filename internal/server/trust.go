// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/konsil-health/konsil/internal/foundation/config"
	certs "github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/trust"
)

// The paths of the test PKI's services below central.url.
const (
	ocspPath  = "/ocsp"
	rootsPath = "/roots.json"
)

// revocation asks by OCSP about certificates that a trust judges.
func (n *node) revocation(c *config.Config, client *http.Client, t *certs.Trust, log *slog.Logger) func(*certs.Certificate) error {
	return trust.NewOCSP(trust.OCSPOptions{Trust: t, Responder: c.Telematik.OCSP, Client: client, Incident: n.certificateIncident, Log: log}).Revoked
}

// cardRevocation is revocation for the cards of the test PKI, whose files are asked where no responder is configured.
func (n *node) cardRevocation(c *config.Config, client *http.Client, pki *card.PKI, t *certs.Trust, log *slog.Logger) func(*certs.Certificate) error {
	if c.Telematik.OCSP == "" {
		return pki.Revoked
	}
	return n.revocation(c, client, t, log)
}

// certificateIncident counts what goes wrong with the check of certificates.
func (n *node) certificateIncident(kind string) {
	n.incidentsOnce.Do(func() {
		n.incidents = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "konsil_certificate_incidents_total",
			Help: "Events around the check of certificates that need an operator, by kind: revoked, unreachable, answer."}, []string{"kind"})
		n.metrics.Registerer().MustRegister(n.incidents)
	})
	n.incidents.WithLabelValues(kind).Inc()
}

// learnRoots keeps a trust up with the published roots, where the configuration says where they are.
func (n *node) learnRoots(ctx context.Context, c *config.Config, client *http.Client, t *certs.Trust, log *slog.Logger) {
	if c.Telematik.Roots == "" {
		return
	}
	n.background(ctx, func(ctx context.Context) { trust.Follow(ctx, client, c.Telematik.Roots, t, log) })
}

// servePKI mounts the test PKI's responder and list of roots.
func servePKI(mux *http.ServeMux, pki *card.PKI) {
	mux.Handle("POST "+ocspPath, pki)
	mux.HandleFunc("GET "+rootsPath, func(w http.ResponseWriter, _ *http.Request) {
		text, err := pki.RootsList()
		if err != nil {
			http.Error(w, "the list cannot be read", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(text) // the caller is gone if this fails
	})
}
