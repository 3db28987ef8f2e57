// SPDX-License-Identifier: Apache-2.0

package idp_test

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/jose"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/idp"
	"github.com/konsil-health/konsil/internal/telematik/trust"
)

// site is an identity provider behind HTTP with a relying party; their clocks can differ.
type site struct {
	*network
	server *httptest.Server
	party  *idp.Party
	clock  time.Time // the party's
}

const callback = "https://praxis.example/callback"

func newSite(t testing.TB, change func(*idp.Options)) *site {
	t.Helper()
	n := newNetwork(t)
	s := &site{network: n, clock: start}
	mux := http.NewServeMux()
	s.server = httptest.NewServer(mux)
	t.Cleanup(s.server.Close)
	signer, err := n.pki.Component("idp", certificate.RoleIDP)
	if err != nil {
		t.Fatal(err)
	}
	key, err := n.pki.ComponentKey("idp", certificate.RoleIDP)
	if err != nil {
		t.Fatal(err)
	}
	o := idp.Options{URL: s.server.URL + "/idp", Signer: signer, Key: key, Trust: n.pki.Trust(), Revoked: n.pki.Revoked, Now: func() time.Time { return n.now },
		Clients: map[string][]string{"messenger": {callback}, "app": {callback}}, ReturnSSO: []string{"app"}}
	if change != nil {
		change(&o)
	}
	n.issuer = idp.New(o)
	mux.Handle("/idp/", n.issuer.Routes("/idp"))
	s.party = &idp.Party{Discovery: s.server.URL + "/idp/.well-known/openid-configuration", Issuer: o.URL, ClientID: "messenger", RedirectURI: callback,
		Trust: n.pki.Trust(), Now: func() time.Time { return s.clock }}
	return s
}

func (s *site) hba(t testing.TB) card.Signer {
	t.Helper()
	c, err := s.pki.IssueHBA(card.Person{GivenName: "Anna", FamilyName: "Sömmer", TelematikID: "1-1.9", ProfessionOID: certificate.Physician, PIN: "123456"})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := c.Unlock("123456")
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// challenge fetches the challenge of an authorization address.
func (s *site) challenge(t testing.TB, address string) string {
	t.Helper()
	resp, err := s.server.Client().Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body struct {
		Challenge string
		Consent   struct {
			Scopes map[string]string `json:"requested_scopes"`
			Claims map[string]string `json:"requested_claims"`
		} `json:"user_consent"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil || len(body.Consent.Scopes) != 2 || len(body.Consent.Claims) != 5 {
		t.Fatalf("%d %+v %v", resp.StatusCode, body.Consent, err)
	}
	return body.Challenge
}

// post sends a form and returns where the browser is sent, or the refusal's code.
func (s *site) post(t testing.TB, path string, form url.Values) (*url.URL, int) {
	t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.PostForm(s.server.URL+path, form)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusFound {
		to, err := resp.Location()
		if err != nil {
			t.Fatal(err)
		}
		return to, 0
	}
	var refused idp.Published
	if err := json.NewDecoder(resp.Body).Decode(&refused); err != nil || refused.UUID == "" || refused.Time != s.now.Unix() {
		t.Fatalf("%d %+v %v", resp.StatusCode, refused, err)
	}
	return nil, refused.Code
}

// signIn walks from the relying party's request to the code.
func (s *site) signIn(t testing.TB, p *idp.Party, c card.Signer) url.Values {
	t.Helper()
	address, err := p.Begin(t.Context(), "state", "nonce", "verifier")
	if err != nil {
		t.Fatal(err)
	}
	answer, err := idp.Answer(s.challenge(t, address), c, s.issuer.Certificate(), s.issuer.Key())
	if err != nil {
		t.Fatal(err)
	}
	to, code := s.post(t, "/idp/auth", url.Values{"signed_challenge": {answer}})
	if to == nil || !strings.HasPrefix(to.String(), callback) || to.Query().Get("state") != "state" {
		t.Fatalf("%v %d", to, code)
	}
	return to.Query()
}

func TestSignInOverHTTP(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	for name, c := range map[string]struct {
		card card.Signer
		want idp.Holder
	}{
		"eHBA":  {s.hba(t), idp.Holder{Number: "1-1.9", Profession: certificate.Physician, GivenName: "Anna", FamilyName: "Sömmer"}},
		"SMC-B": {s.smcb(t, nil), idp.Holder{Number: "1-2.1", Profession: certificate.Practice, Organization: "Praxis Sonnenallee"}},
	} {
		back := s.signIn(t, s.party, c.card)
		if back.Has("ssotoken") {
			t.Errorf("%s: a web page gets a token that speaks for the card's holder everywhere", name)
		}
		got, err := s.party.Redeem(t.Context(), back.Get("code"), "verifier", "nonce")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		c.want.Subject, c.want.ACR, c.want.AMR, c.want.AuthTime = got.Subject, idp.ACR, idp.AMR, jose.Seconds(start.Unix())
		if !reflect.DeepEqual(*got, c.want) || got.Subject == "" || got.Subject == got.Number {
			t.Errorf("%s: %+v", name, got)
		}
		if _, err := s.party.Redeem(t.Context(), back.Get("code"), "verifier", "nonce"); !errors.Is(err, idp.ErrCode) {
			t.Errorf("%s: the code once more: %v", name, err)
		}
	}
}

func TestPartyRefuses(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	hba := s.hba(t)
	code := func() string { return s.signIn(t, s.party, hba).Get("code") }
	if _, err := s.party.Redeem(t.Context(), code(), "verifier", "another"); !errors.Is(err, idp.ErrNonceReply) {
		t.Errorf("another nonce: %v", err)
	}
	if _, err := s.party.Redeem(t.Context(), code(), "guess", "nonce"); !errors.Is(err, idp.ErrVerifier) {
		t.Errorf("another verifier: %v", err)
	}
	other := &idp.Party{Discovery: s.party.Discovery, Issuer: s.party.Issuer, ClientID: "app", RedirectURI: callback, Trust: s.party.Trust, Now: s.party.Now}
	if _, err := other.Redeem(t.Context(), code(), "verifier", "nonce"); !errors.Is(err, idp.ErrClient) {
		t.Errorf("a code of another client: %v", err)
	}
	for name, off := range map[string]time.Duration{"a clock that is late": -time.Minute, "a clock that is early": 6 * time.Minute} {
		c := code()
		s.clock = start.Add(off)
		if _, err := s.party.Redeem(t.Context(), c, "verifier", "nonce"); !errors.Is(err, idp.ErrClock) {
			t.Errorf("%s: %v", name, err)
		}
		s.clock = start
	}
	imposter := newSite(t, nil)
	imposter.party.Trust = s.pki.Trust()
	if _, err := imposter.party.Begin(t.Context(), "s", "n", "v"); !errors.Is(err, idp.ErrProvider) {
		t.Errorf("a provider of another network: %v", err)
	}
	renamed := newSite(t, func(o *idp.Options) { o.URL += "x" })
	if _, err := renamed.party.Begin(t.Context(), "s", "n", "v"); !errors.Is(err, idp.ErrProvider) {
		t.Errorf("a provider with another name: %v", err)
	}
	nowhere := &idp.Party{Discovery: "http://127.0.0.1:1/", Trust: s.pki.Trust()}
	if _, err := nowhere.Begin(t.Context(), "s", "n", "v"); err == nil {
		t.Error("a provider that nobody answers for")
	}
}

// TestForeignAudience puts a token for one relying party before another that knows its key, as a dishonest party would.
func TestForeignAudience(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	code := s.signIn(t, s.party, s.hba(t)).Get("code")
	victim := &idp.Party{Discovery: s.party.Discovery, Issuer: s.party.Issuer, ClientID: "app", RedirectURI: callback, Trust: s.party.Trust, Now: s.party.Now}
	// The token endpoint of the middleman redeems for messenger whatever app asks for.
	relay := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		r.PostForm.Set("client_id", "messenger")
		tokens, err := s.issuer.Token(r.Context(), r.PostForm)
		if err != nil {
			t.Error(err)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"id_token": tokens.ID, "access_token": tokens.Access})
	}))
	defer relay.Close()
	victim.Client = &http.Client{Transport: redirect{token: s.server.URL + "/idp/token", to: relay.URL}}
	if _, err := victim.Redeem(t.Context(), code, "verifier", "nonce"); !errors.Is(err, idp.ErrAudience) {
		t.Errorf("%v", err)
	}
}

// redirect leads requests of one address elsewhere.
type redirect struct{ token, to string }

func (d redirect) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.String() == d.token {
		u, err := url.Parse(d.to)
		if err != nil {
			return nil, err
		}
		r = r.Clone(r.Context())
		r.URL, r.Host = u, u.Host
	}
	return http.DefaultTransport.RoundTrip(r)
}

func TestTokenEndpointRefusals(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	sealed := func(text string) string {
		out, err := jose.Encrypt(rand.Reader, s.issuer.Key(), jose.Header{Cty: "JSON"}, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	good := url.Values{"grant_type": {"authorization_code"}, "client_id": {"messenger"}, "redirect_uri": {callback}, "code": {"x"}, "key_verifier": {"y"}}
	for name, c := range map[string]struct {
		field, value string
		want         int
	}{
		"no grant": {"grant_type", "", 3006}, "another grant": {"grant_type", "password", 3014}, "no client": {"client_id", "", 1002}, "another client": {"client_id", "z", 3007},
		"no redirect": {"redirect_uri", "", 1004}, "no code": {"code", "", 3005}, "no key": {"key_verifier", "", 3004}, "no encryption": {"key_verifier", "plain", 3004},
		"no JSON": {"key_verifier", sealed("x"), 3004}, "a short key": {"key_verifier", sealed(`{"token_key":"AAAA","code_verifier":"v"}`), 3004},
		"an unknown code": {"key_verifier", sealed(`{"token_key":"` + strings.Repeat("A", 43) + `","code_verifier":"v"}`), 3005},
	} {
		form := url.Values{}
		for k, v := range good {
			form[k] = v
		}
		form.Set(c.field, c.value)
		if _, code := s.post(t, "/idp/token", form); code != c.want {
			t.Errorf("%s: %d, want %d", name, code, c.want)
		}
	}
}

// TestSSO signs in a second time without the card; of a revoked card the token is worth nothing, nor after half a day, nor for a code.
func TestSSO(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	app := &idp.Party{Discovery: s.party.Discovery, Issuer: s.party.Issuer, ClientID: "app", RedirectURI: callback, Trust: s.party.Trust, Now: func() time.Time { return s.now }}
	hba := s.hba(t)
	first := s.signIn(t, app, hba)
	token := first.Get("ssotoken")
	again := func(token string) (*url.URL, int) {
		t.Helper()
		address, err := app.Begin(t.Context(), "state", "nonce", "verifier")
		if err != nil {
			t.Fatal(err)
		}
		return s.post(t, "/idp/auth/sso_response", url.Values{"ssotoken": {token}, "unsigned_challenge": {s.challenge(t, address)}})
	}
	s.now = start.Add(time.Hour)
	to, code := again(token)
	if to == nil {
		t.Fatalf("refused with %d", code)
	}
	if who, err := app.Redeem(t.Context(), to.Query().Get("code"), "verifier", "nonce"); err != nil || who.Number != "1-1.9" || int64(who.AuthTime) != start.Unix() {
		t.Errorf("%+v %v", who, err)
	}
	for name, wrong := range map[string]string{"none": "", "a code": first.Get("code"), "garbage": "a.b.c.d.e"} {
		if _, code := again(wrong); code != 2040 {
			t.Errorf("%s: %d", name, code)
		}
	}
	if err := s.pki.Revoke(hba.Certificate()); err != nil {
		t.Fatal(err)
	}
	if _, code := again(token); code != 2040 {
		t.Errorf("of a revoked card: %d", code)
	}
	s.now = start.Add(13 * time.Hour)
	if _, code := again(token); code != 2040 {
		t.Errorf("after half a day: %d", code)
	}
}

// TestScopesByCard: a scope can be for some kinds of cards and for some professions only.
func TestScopesByCard(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(o *idp.Options) {
		professionals := idp.Scopes["ti-messenger"]
		professionals.Cards = []certificate.Type{certificate.ProfessionalAUT, certificate.InstitutionAUT}
		o.Scopes = map[string]idp.ScopeRule{"ti-messenger": professionals,
			"pharmacy": {Cards: []certificate.Type{certificate.InstitutionAUT}, Professions: []string{certificate.Pharmacy}, Audience: "https://shop.example", Claims: []string{"idNummer", "professionOID"}}}
	})
	egk, err := s.pki.IssueEGK(card.Insured{GivenName: "Ida", FamilyName: "Muster", KVNR: "X110411675", Insurer: "Testkasse", IK: "109500969", PIN: "123456"})
	if err != nil {
		t.Fatal(err)
	}
	insured, err := egk.Unlock("123456")
	if err != nil {
		t.Fatal(err)
	}
	pharmacy := s.smcb(t, func(i *card.Institution) { i.TelematikID, i.ProfessionOID = "3-1", certificate.Pharmacy })
	for name, c := range map[string]struct {
		scope string
		card  card.Signer
		want  error
	}{
		"an insured person":     {idp.Scope, insured, idp.ErrScope},
		"a doctor":              {idp.Scope, s.hba(t), nil},
		"a practice's shop":     {"openid pharmacy", s.smcb(t, nil), idp.ErrScope},
		"a pharmacy's shop":     {"openid pharmacy", pharmacy, nil},
		"a pharmacist's shop":   {"openid pharmacy", s.hba(t), idp.ErrScope},
		"a pharmacy with both":  {"openid ti-messenger pharmacy", pharmacy, nil},
		"a doctor who has none": {"openid ti-messenger pharmacy", s.hba(t), idp.ErrScope},
	} {
		a := request()
		a.ClientID, a.RedirectURI, a.Scope = "messenger", callback, c.scope
		challenge, err := s.issuer.Challenge(a)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := idp.Answer(challenge, c.card, s.issuer.Certificate(), s.issuer.Key())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.issuer.Verify(t.Context(), answer); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// TestPublishedDiscovery compares with the reference provider's document: the same members (but those of biometric pairing and of other forms), values
// of the same kind, and a certificate that says that it is an identity provider's.
func TestPublishedDiscovery(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("KONSIL_REFERENCE")
	if dir == "" {
		dir = "../../../../shared/reference"
	}
	text, err := os.ReadFile(filepath.Join(dir, "gematik/idp/discovery_document_body.json"))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("skipped: no discovery document in the reference data (KONSIL_REFERENCE)")
	}
	if err != nil {
		t.Fatal(err)
	}
	var theirs idp.Discovery
	var members map[string]any
	if err := errors.Join(json.Unmarshal(text, &theirs), json.Unmarshal(text, &members)); err != nil {
		t.Fatal(err)
	}
	if theirs.Issuer == "" || theirs.Authorization == "" || theirs.SSO == "" || theirs.Token == "" || theirs.Keys == "" || theirs.Encryption == "" || theirs.Signature == "" {
		t.Errorf("%+v", theirs)
	}
	own, err := json.Marshal(newSite(t, nil).issuer.Describe())
	if err != nil {
		t.Fatal(err)
	}
	var ours map[string]any
	if err := json.Unmarshal(own, &ours); err != nil {
		t.Fatal(err)
	}
	for name, value := range members {
		if name == "auth_pair_endpoint" || name == "uri_pair" {
			continue
		}
		if reflect.TypeOf(ours[name]) != reflect.TypeOf(value) {
			t.Errorf("%s: ours is %v, theirs %v", name, ours[name], value)
		}
		if list, ok := value.([]any); ok && name != "scopes_supported" && !reflect.DeepEqual(ours[name], list) {
			t.Errorf("%s: ours is %v, theirs %v", name, ours[name], value)
		}
	}
	if text, err = os.ReadFile(filepath.Join(dir, "gematik/idp/discovery_document_header.json")); err != nil {
		t.Fatal(err)
	}
	var header jose.Header
	if err := json.Unmarshal(text, &header); err != nil || header.Alg != jose.BP256R1 || len(header.X5c) != 1 {
		t.Fatalf("%+v %v", header, err)
	}
	c, err := certificate.Parse(header.X5c[0])
	if err != nil {
		t.Fatal(err)
	}
	// Its authority is not among the samples: every check up to the chain passes.
	failed, ok := errors.AsType[*certificate.CheckError](certificate.NewTrust(nil, nil).Check(c, certificate.Expect{Types: []certificate.Type{certificate.ServiceSIG},
		Professions: []string{certificate.RoleIDP}, At: time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)}))
	if !ok || failed.Check != certificate.ChainCheck && failed.Check != certificate.TypeCheck {
		t.Errorf("%v of type %q", failed, c.Type())
	}
}

// TestMessages: every refusal that a person can cause has a text of its own in both languages.
func TestMessages(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for name, err := range map[string]error{
		"revoked": &certificate.CheckError{Check: certificate.RevocationCheck, Err: trust.ErrRevoked}, "unreachable": &certificate.CheckError{Check: certificate.RevocationCheck, Err: trust.ErrUnreachable},
		"revoked on paper": &certificate.CheckError{Check: certificate.RevocationCheck}, "expired": &certificate.CheckError{Check: certificate.ValidityCheck},
		"wrong card": &certificate.CheckError{Check: certificate.TypeCheck}, "no profession": &certificate.CheckError{Check: certificate.AdmissionCheck}, "test card": &certificate.CheckError{Check: certificate.ChainCheck},
		"blocked": card.ErrBlocked, "audience": idp.ErrAudience, "clock": idp.ErrClock, "nonce": idp.ErrNonceReply, "provider": idp.ErrProvider,
		"replay": idp.ErrChallenge, "late": idp.ErrExpired, "signature": idp.ErrSignature, "single sign-on": idp.ErrSSO, "scope": idp.ErrScope, "code": idp.ErrCode, "anything": errors.New("x"),
	} {
		de, en := idp.Message(err, "de"), idp.Message(err, "en")
		if de == "" || en == "" || de == en || seen[de] != "" || seen[en] != "" {
			t.Errorf("%s: %q, %q (as %s)", name, de, en, seen[de])
		}
		seen[de], seen[en] = name, name
	}
}
