// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/config"
	certs "github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/fedlist"
	"github.com/konsil-health/konsil/internal/telematik/idp"
	"github.com/konsil-health/konsil/internal/telematik/trust"
)

// Verdict is how a part of the network was found.
type Verdict string

// The verdicts.
const (
	Good    Verdict = "ok"
	Warning Verdict = "warning" // works today
	Problem Verdict = "problem" // does not work
	Skipped Verdict = "skipped" // the configuration does not name it
)

// Finding is one thing that was looked at.
type Finding struct {
	Subject string // a key of the configuration
	Verdict Verdict
	Text    string // what was found; no secrets
	Advice  string // what to do about it; empty where nothing is to be done
}

const (
	doctorTime    = 15 * time.Second
	soonEnds      = 90 * 24 * time.Hour // certificates that end within it are told of
	clockMayDrift = 10 * time.Second    // tokens with a clock that is off by 30 s are refused
	maxDoctorBody = 4 << 20
)

// doctor walks the services of the network that a configuration names.
type doctor struct {
	c      *config.Config
	client *http.Client
	now    time.Time

	mu       sync.Mutex
	clock    time.Duration // the greatest difference of a service's clock from ours, and whose
	whose    string
	findings []Finding
}

// Examine looks at the network's services as a provider with this configuration meets them: federation list, certificates, OCSP, directory, identity
// provider, its own public address. It only reads; nothing is stored, here or there.
func Examine(ctx context.Context, c *config.Config) ([]Finding, error) {
	if c.Policy == config.PolicyOpen {
		return nil, errors.New("policy: open takes no part in the TI; there is nothing to look at")
	}
	pool, err := roots(c.CA)
	if err != nil {
		return nil, err
	}
	d := &doctor{c: c, now: time.Now()}
	d.client = &http.Client{Timeout: doctorTime, Transport: clockWatch{d, &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, look := range []func(context.Context){d.list, d.roots, d.directory, d.identityProvider, d.publicAddress} {
		if ctx.Err() != nil {
			return d.findings, ctx.Err()
		}
		look(ctx)
	}
	d.compareClocks()
	return d.findings, nil
}

func (d *doctor) say(subject string, v Verdict, text, advice string) {
	d.findings = append(d.findings, Finding{subject, v, text, advice})
}

// list looks at the federation list: the proof of who the provider is, the list's signature and signer, and what is on it.
func (d *doctor) list(ctx context.Context) {
	t := d.c.Telematik
	if t.FederationList == "" {
		d.say("telematik.federation_list", Skipped, "no address is configured", "under policy ti nobody can be reached without it")
		return
	}
	anchored, err := anchors(d.c, "telematik.list_roots", t.ListRoots)
	if err != nil {
		d.say("telematik.list_roots", Problem, err.Error(), "name the PEM files of the roots and of the CA below them")
		return
	}
	for _, root := range anchored.Roots() {
		d.ends("telematik.list_roots", "the root "+root.X509.Subject.CommonName, root)
	}
	token, err := fedlist.Fetch(ctx, d.client, t.FederationList, providerToken(d.c, d.client))
	if err != nil {
		d.say("telematik.federation_list", Problem, err.Error(), "check the address and the network's firewall; 401 and 403 speak of telematik.provider_token or telematik.provider_login")
		return
	}
	l, signer, err := fedlist.VerifySigner(token, anchored, d.now, nil)
	if err != nil {
		d.say("telematik.federation_list", Problem, err.Error(), "the list is refused and federation stops after 72 hours; look whether telematik.list_roots are those of this environment")
		return
	}
	d.say("telematik.federation_list", Good, fmt.Sprintf("version %d with %d domains, %s", l.Version, len(l.Domains), d.ours(l)), "")
	d.ends("telematik.federation_list", "its signer "+signer.X509.Subject.CommonName, signer)
	if t.OCSP == "" && len(signer.X509.OCSPServer) == 0 && d.c.Environment != config.Production {
		d.say("telematik.ocsp", Skipped, "no responder is configured and the list's signer names none", "")
		return
	}
	if err := trust.NewOCSP(trust.OCSPOptions{Trust: anchored, Responder: t.OCSP, Client: d.client}).Revoked(signer); err != nil {
		d.say("telematik.ocsp", Problem, "the list's signer: "+err.Error(), "a list whose signer cannot be checked is refused; check the responder's address")
		return
	}
	d.say("telematik.ocsp", Good, "the responder vouches for the list's signer", "")
}

// ours says which of the configuration's own domains are on the list.
func (d *doctor) ours(l *fedlist.List) string {
	listed := make(map[string]bool, len(l.Domains))
	below := 0
	for _, domain := range l.Domains {
		name := strings.ToLower(string(domain.Domain))
		listed[name] = true
		if m := string(d.c.Telematik.MessengerDomain); m != "" && strings.HasSuffix(name, "."+m) {
			below++
		}
	}
	text := ""
	if m := d.c.Telematik.MessengerDomain; m != "" {
		text = fmt.Sprintf("%d of them below %s", below, m)
	}
	var missing []string
	for _, tenant := range d.c.Tenants {
		if !listed[strings.ToLower(string(tenant.Name))] {
			missing = append(missing, string(tenant.Name))
		}
	}
	switch {
	case len(missing) > 0:
		d.say("tenants", Warning, "not on the federation list: "+strings.Join(missing, ", "), "nobody outside this cell reaches them until the provider has entered them")
	case len(d.c.Tenants) > 0:
		d.say("tenants", Good, "all configured tenants are on the federation list", "")
	}
	if text == "" {
		text = "none is ours to name"
	}
	return text
}

// ends tells of a certificate that ends soon or has ended.
func (d *doctor) ends(subject, what string, c *certs.Certificate) {
	left := c.X509.NotAfter.Sub(d.now)
	switch {
	case left <= 0:
		d.say(subject, Problem, what+" ended on "+c.X509.NotAfter.Format(time.DateOnly), "what it signs is refused; configure its successor")
	case left < soonEnds:
		d.say(subject, Warning, fmt.Sprintf("%s ends on %s, in %d days", what, c.X509.NotAfter.Format(time.DateOnly), int(left.Hours()/24)), "have its successor ready")
	}
}

// roots looks at the published list of roots.
func (d *doctor) roots(ctx context.Context) {
	t := d.c.Telematik
	if t.Roots == "" {
		d.say("telematik.roots", Skipped, "no roots.json is configured: new roots are learned from files alone", "")
		return
	}
	anchored, err := anchors(d.c, "telematik.list_roots", t.ListRoots)
	if err != nil {
		return // told already
	}
	learned, err := trust.Fetch(ctx, d.client, t.Roots, anchored, d.now)
	if err != nil {
		d.say("telematik.roots", Problem, err.Error(), "the known roots stay in use; a change of root would be missed")
		return
	}
	text := "readable; no root in it is new"
	if len(learned) > 0 {
		text = fmt.Sprintf("readable; %d new roots are joined to ours by a cross certificate", len(learned))
	}
	d.say("telematik.roots", Good, text, "")
}

// directory looks whether the directory is there, what it says it is, and whether it refuses strangers.
func (d *doctor) directory(ctx context.Context) {
	base := strings.TrimRight(d.c.Telematik.Directory, "/")
	if base == "" {
		d.say("telematik.directory", Skipped, "no address is configured", "people cannot be looked up, and holders of cards cannot show themselves")
		return
	}
	status, _, err := d.get(ctx, base+"/search/HealthcareService?organization.active=true&_count=1")
	switch {
	case err != nil:
		d.say("telematik.directory", Problem, err.Error(), "check the address and the network's firewall")
		return
	case status == http.StatusOK:
		d.say("telematik.directory", Warning, "it answers a search without any token", "whoever runs it should close that")
	case status != http.StatusUnauthorized && status != http.StatusForbidden:
		d.say("telematik.directory", Problem, fmt.Sprintf("a search without token is answered with status %d, not 401", status), "this is not the directory's address: it ends before /search")
		return
	default:
		d.say("telematik.directory", Good, "it is there and refuses who shows no token", "")
	}
	var says struct {
		Type     string `json:"resourceType"`
		Version  string `json:"fhirVersion"`
		Software struct {
			Name    string `json:"name"`
			Version string `json:"version"`
		} `json:"software"`
	}
	status, body, err := d.get(ctx, base+"/search/metadata")
	if err == nil && status == http.StatusOK && json.Unmarshal(body, &says) == nil && says.Type == "CapabilityStatement" {
		d.say("telematik.directory", Good, strings.TrimSpace(fmt.Sprintf("FHIR %s, %s %s", says.Version, says.Software.Name, says.Software.Version)), "")
	}
}

// identityProvider looks at the provider by which people sign in with their cards.
func (d *doctor) identityProvider(ctx context.Context) {
	issuer := strings.TrimRight(d.c.Telematik.IDP.Issuer, "/")
	if issuer == "" {
		d.say("telematik.idp", Skipped, "no identity provider is configured", "nobody signs in by card")
		return
	}
	anchored, err := d.cardTrust()
	if err != nil {
		d.say("telematik.card_roots", Problem, err.Error(), "name the PEM files of the roots and of the CA below them")
		return
	}
	signer, err := (&idp.Party{Discovery: issuer + "/.well-known/openid-configuration", Issuer: issuer, Trust: anchored, Client: d.client}).Check(ctx)
	if err != nil {
		d.say("telematik.idp", Problem, err.Error(), "check the address, and whether telematik.card_roots are those of this environment")
		return
	}
	d.say("telematik.idp", Good, "its discovery document and its keys verify", "")
	d.ends("telematik.idp", "the certificate of its key", signer)
}

// cardTrust is what the identity provider's certificate is checked against: the configured roots, otherwise the test PKI.
func (d *doctor) cardTrust() (*certs.Trust, error) {
	if len(d.c.Telematik.CardRoots) > 0 {
		return anchors(d.c, "telematik.card_roots", d.c.Telematik.CardRoots)
	}
	pki, err := card.Open(card.Options{Folder: d.c.Telematik.Cards, Production: d.c.Environment == config.Production})
	if err != nil {
		return nil, err
	}
	return pki.Trust(), nil
}

// publicAddress looks whether the node's own address answers from here.
func (d *doctor) publicAddress(ctx context.Context) {
	base := strings.TrimRight(d.c.PublicURL, "/")
	if base == "" {
		d.say("public_url", Skipped, "no address is configured", "")
		return
	}
	status, _, err := d.get(ctx, base+"/_matrix/client/versions")
	switch {
	case err != nil:
		d.say("public_url", Problem, err.Error(), "is the node running, and does the name lead to it?")
	case status != http.StatusOK:
		d.say("public_url", Problem, fmt.Sprintf("/_matrix/client/versions is answered with status %d", status), "the name leads to something else than this node's client listener")
	default:
		d.say("public_url", Good, "it leads to a homeserver", "")
	}
}

// get asks for a document; its status and the beginning of its body.
func (d *doctor) get(ctx context.Context, address string) (int, []byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := d.client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDoctorBody))
	return resp.StatusCode, body, err
}

// clockWatch notes how far the clocks of the services that answer are from ours.
type clockWatch struct {
	d    *doctor
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (w clockWatch) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := w.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if theirs, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		off := theirs.Sub(time.Now().Truncate(time.Second))
		w.d.mu.Lock()
		if off.Abs() > w.d.clock.Abs() || w.d.whose == "" {
			w.d.clock, w.d.whose = off, r.URL.Host
		}
		w.d.mu.Unlock()
	}
	return resp, nil
}

func (d *doctor) compareClocks() {
	switch {
	case d.whose == "":
	case d.clock.Abs() > clockMayDrift:
		d.say("clock", Problem, fmt.Sprintf("%s is %s away from this machine's clock", d.whose, d.clock.Abs()), "set the clock by NTP: tokens of another time are refused")
	default:
		d.say("clock", Good, "it agrees with those of the services that answered", "")
	}
}
