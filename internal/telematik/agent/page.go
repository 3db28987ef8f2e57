// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"slices"

	"github.com/konsil-health/konsil/internal/foundation/webpage"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/idp"
)

//go:embed page.html
var pageText string

// style is the common look; many cards, as in a hospital's connector, scroll within their frame, so that the PIN stays in sight.
var style = webpage.NewStyle(`fieldset{max-height:40vh;overflow:auto;border:1px solid var(--line);border-radius:8px;margin:16px 0;padding:4px 12px}
legend{font-weight:600;padding:0 4px}
.choice{padding:6px 0}
`)

// pages is the page in each language.
var pages = func() map[string]*template.Template {
	all := map[string]*template.Template{}
	for language := range texts {
		all[language] = template.Must(template.New("page").Funcs(template.FuncMap{"t": func(key string) (string, error) {
			text, ok := texts[language][key]
			if !ok {
				return "", fmt.Errorf("no text %q in %s", key, language)
			}
			return text, nil
		}}).Parse(pageText))
	}
	return all
}()

// page is what is shown: a message, or the form when there are cards.
type page struct {
	Language, Title, Text string
	Style                 template.CSS
	Alert                 bool
	// Of the form.
	For     string   // who wants to know
	Claims  []string // what they get to know
	Cards   []shownCard
	Request map[string]string
	Key     string
}

// shownCard is a card to choose.
type shownCard struct {
	Serial, Holder, Profession string
	Left                       int
	Chosen                     bool
}

// view is one request.
type view struct {
	a        *Agent
	w        http.ResponseWriter
	language string
}

func (v *view) text(key string) string { return texts[v.language][key] }

func (v *view) show(status int, p page) {
	p.Language, p.Style = v.language, style.CSS
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	v.w.WriteHeader(status)
	if err := pages[v.language].Execute(v.w, p); err != nil {
		v.a.o.Log.Error("page", "error", err)
	}
}

func (v *view) refuse(status int, key string) {
	v.show(status, page{Title: "failed_title", Text: v.text(key), Alert: true})
}

// fail tells what went wrong with a sign-in, which is over then.
func (v *view) fail(err error) {
	v.a.o.Log.Warn("sign-in by card", "error", err)
	v.show(http.StatusForbidden, page{Title: "failed_title", Text: idp.Message(err, v.language), Alert: true})
}

// ask shows the form.
func (v *view) ask(ctx context.Context, q url.Values) { v.form(ctx, q, "", http.StatusOK) }

// askAgain shows the form with what was wrong; a blocked card ends the matter.
func (v *view) askAgain(ctx context.Context, q url.Values, err error) {
	wrong, isPIN := errors.AsType[*card.PINError](err)
	switch {
	case errors.Is(err, card.ErrBlocked):
		v.fail(err)
	case isPIN:
		v.form(ctx, q, fmt.Sprintf(v.text("wrong_pin"), wrong.Left), http.StatusForbidden)
	case errors.Is(err, errNoCard):
		v.form(ctx, q, v.text("no_card"), http.StatusForbidden)
	default:
		v.fail(err)
	}
}

func (v *view) form(ctx context.Context, q url.Values, alert string, status int) {
	if q.Get("challenge_path") == "" {
		v.show(http.StatusOK, page{Title: "idle_title", Text: v.text("idle")})
		return
	}
	asked, err := v.a.o.Provider.Ask(ctx, q.Get("challenge_path"))
	if err != nil {
		v.fail(err)
		return
	}
	cards, err := v.cards(q)
	if err != nil {
		v.fail(err)
		return
	}
	if len(cards) == 0 {
		v.refuse(http.StatusOK, "no_card")
		return
	}
	p := page{Title: "title", Text: alert, Alert: alert != "", Cards: cards, Key: v.a.key, For: asked.Authorization.ClientID,
		Request: map[string]string{"challenge_path": q.Get("challenge_path"), "cardType": q.Get("cardType"), "callback": q.Get("callback")}}
	if u, err := url.Parse(asked.Authorization.RedirectURI); err == nil {
		p.For = u.Host
	}
	for _, claim := range slices.Sorted(maps.Keys(asked.Consent.Claims)) {
		if texts[v.language]["claim_"+claim] != "" {
			p.Claims = append(p.Claims, "claim_"+claim)
		}
	}
	v.show(status, p)
}

// cards are those of the kind that is asked for.
func (v *view) cards(q url.Values) ([]shownCard, error) {
	all, err := v.a.o.Cards()
	if err != nil {
		return nil, err
	}
	kinds := map[string]certificate.Type{"HBA": certificate.ProfessionalAUT, "SMC-B": certificate.InstitutionAUT}
	var shown []shownCard
	for _, c := range all {
		who, err := c.Certificate().Identity()
		if want := kinds[q.Get("cardType")]; err != nil || want != "" && who.Type != want {
			continue
		}
		s := shownCard{Serial: c.Certificate().X509.SerialNumber.Text(16), Holder: who.Organization, Profession: certificate.ProfessionName(who.ProfessionOID), Left: c.RetriesLeft()}
		if who.FamilyName != "" {
			s.Holder = who.GivenName + " " + who.FamilyName
		}
		s.Chosen = s.Serial == q.Get("card") || len(shown) == 0 && q.Get("card") == ""
		shown = append(shown, s)
	}
	slices.SortStableFunc(shown, func(a, b shownCard) int { return rank(a) - rank(b) })
	return shown, nil
}

// rank puts the card that was chosen before first, where it is seen among many.
func rank(c shownCard) int {
	if c.Chosen {
		return 0
	}
	return 1
}
