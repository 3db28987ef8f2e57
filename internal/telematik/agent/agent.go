// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"golang.org/x/text/language"

	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/idp"
)

// Card is what can sign once it is unlocked: a software card, or a real one behind a reader or a connector.
type Card interface {
	Certificate() *certificate.Certificate
	// Unlock answers *card.PINError for a wrong PIN and card.ErrBlocked when there are no attempts left.
	Unlock(pin string) (card.Signer, error)
	// RetriesLeft says how many wrong PINs the card still takes; 0 is blocked.
	RetriesLeft() int
}

// Options are what an agent stands on.
type Options struct {
	// Cards lists what is inserted at the moment.
	Cards func() ([]Card, error)
	// Provider is the identity provider that the agent signs for; client and redirect address of the party are not used.
	Provider *idp.Party
	Log      *slog.Logger // nil: silent
}

// Agent answers a browser on the same machine. It is safe for concurrent use.
type Agent struct {
	o   Options
	key string // in every form, so that only our own pages can send one
}

const (
	maxForm     = 32 << 10
	signingTime = 30 * time.Second
)

// New returns an agent.
func New(o Options) *Agent {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Agent{o: o, key: rand.Text()}
}

// ServeHTTP shows the page (GET /, with challenge_path and cardType as gematik's authenticator takes them) and takes the PIN (POST /).
func (a *Agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	style.SetHeader(w.Header(), "http: https:") // the form leads on to the messenger, which may lead to another of its hosts
	v := &view{a: a, w: w, language: pageLanguage(r)}
	switch {
	case !loopback(r.Host):
		v.refuse(http.StatusForbidden, "foreign_host") // a name that somebody else has pointed at this machine
	case r.URL.Path != "/":
		v.refuse(http.StatusNotFound, "not_found")
	case r.Method == http.MethodGet:
		v.ask(r.Context(), r.URL.Query())
	case r.Method == http.MethodPost:
		a.sign(v, r)
	default:
		v.refuse(http.StatusMethodNotAllowed, "not_found")
	}
}

// loopback says whether a request's host is this machine by number or as localhost.
func loopback(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	if name == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return err == nil && address.IsLoopback()
}

// sign takes the form with the PIN.
func (a *Agent) sign(v *view, r *http.Request) {
	r.Body = http.MaxBytesReader(v.w, r.Body, maxForm)
	origin := r.Header.Get("Origin")
	if origin != "http://"+r.Host || r.ParseForm() != nil || subtle.ConstantTimeCompare([]byte(r.PostForm.Get("key")), []byte(a.key)) != 1 {
		a.o.Log.Warn("a form of another page was refused", "origin", origin)
		v.refuse(http.StatusForbidden, "foreign_form")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), signingTime)
	defer cancel()
	chosen, err := a.find(r.PostForm.Get("card"))
	if err != nil {
		v.askAgain(ctx, r.PostForm, err)
		return
	}
	asked, err := a.o.Provider.Ask(ctx, r.PostForm.Get("challenge_path"))
	if err != nil {
		v.fail(err)
		return
	}
	signer, err := chosen.Unlock(r.PostForm.Get("pin"))
	if err != nil {
		v.askAgain(ctx, r.PostForm, err)
		return
	}
	to, err := a.o.Provider.Sign(ctx, asked, signer)
	if err != nil {
		v.fail(err)
		return
	}
	if r.PostForm.Get("callback") == "DIRECT" {
		v.deliver(ctx, to)
		return
	}
	http.Redirect(v.w, r, to.String(), http.StatusSeeOther)
}

// errNoCard is answered where the chosen card is not there any more.
var errNoCard = errors.New("the card is not there")

// find returns an inserted card by its certificate's number.
func (a *Agent) find(serial string) (Card, error) {
	all, err := a.o.Cards()
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if c.Certificate().X509.SerialNumber.Text(16) == serial {
			return c, nil
		}
	}
	return nil, errNoCard
}

// deliver calls the relying party itself, for clients that wait elsewhere than in this browser.
func (v *view) deliver(ctx context.Context, to *url.URL) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
	if err != nil {
		v.fail(err)
		return
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if c := v.a.o.Provider.Client; c != nil {
		client.Transport = c.Transport
	}
	resp, err := client.Do(r)
	if err != nil {
		v.fail(err)
		return
	}
	resp.Body.Close()
	if resp.StatusCode >= http.StatusBadRequest {
		v.fail(fmt.Errorf("the relying party answered status %d", resp.StatusCode))
		return
	}
	v.show(http.StatusOK, page{Title: "done_title", Text: v.text("done")})
}

var matcher = language.NewMatcher([]language.Tag{language.German, language.English})

func pageLanguage(r *http.Request) string {
	_, i := language.MatchStrings(matcher, r.Header.Get("Accept-Language"))
	return []string{"de", "en"}[i]
}
