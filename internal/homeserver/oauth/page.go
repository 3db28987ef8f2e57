// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"strings"

	"golang.org/x/text/language"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/webpage"
)

//go:embed pages
var pageFiles embed.FS

// languages are those of the pages, the first one for whoever speaks none of them.
var languages = []string{"de", "en"}

var matcher = language.NewMatcher([]language.Tag{language.German, language.English})

var style = webpage.NewStyle(mustRead("style.css"))

// pages holds each page in each language: language → page → template.
var pages = func() map[string]map[string]*template.Template {
	out := map[string]map[string]*template.Template{}
	for _, lang := range languages {
		out[lang] = map[string]*template.Template{}
		base := template.Must(template.New("base").Funcs(template.FuncMap{
			"t": func(key string) (string, error) {
				text, ok := texts[lang][key]
				if !ok {
					return "", fmt.Errorf("no text %q in %s", key, lang)
				}
				return text, nil
			},
		}).Parse(mustRead("base.html")))
		entries, err := pageFiles.ReadDir("pages")
		if err != nil {
			panic(err)
		}
		for _, e := range entries {
			if name, ok := strings.CutSuffix(e.Name(), ".html"); ok && name != "base" {
				out[lang][name] = template.Must(template.Must(base.Clone()).Parse(mustRead(e.Name())))
			}
		}
	}
	return out
}()

func mustRead(name string) string {
	b, err := pageFiles.ReadFile("pages/" + name)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// pageLanguage is the language of the pages that suits a request: its ui_locales, then what its browser speaks.
func pageLanguage(r *httpapi.Request) string {
	_, i := language.MatchStrings(matcher, strings.ReplaceAll(r.Query("ui_locales"), " ", ","), r.HTTP.Header.Get("Accept-Language"))
	return languages[i]
}

// pageHeader adds to a page's header what keeps it safe. The cross-origin headers of the client API are not for pages.
func pageHeader(h http.Header, formAction string) http.Header {
	style.SetHeader(h, formAction)
	for _, name := range []string{"Access-Control-Allow-Origin", "Access-Control-Allow-Methods", "Access-Control-Allow-Headers", "Access-Control-Expose-Headers"} {
		h[name] = []string{}
	}
	return h
}

// pageData is what every page gets.
type pageData struct {
	Language string
	Style    template.CSS
	Key      string // proves that a form stood on our page
	User     string // who is signed in; empty for nobody
	Account  string // address of the account page
	Problem  string // key of a text
	Fresh    bool   // no password is needed for what cannot be undone
	Provider string // name of the identity provider by which that can be proven too
	Card     bool   // it can be proven by the account's health card
	D        any
}

// page renders one of the pages for the visitor.
func (v *visit) page(name string, data any, status int) *httpapi.Reply {
	d := pageData{Language: v.language, Style: style.CSS, Key: webpage.FormKey(formKind, v.cookie), Account: pathAccount, Problem: v.problem, D: data}
	if v.account != nil {
		d.User, d.Fresh = string(v.account.User), v.fresh()
		if p := v.s.provider(v.r.Tenant); p != nil {
			d.Provider = p.Name
		}
		d.Card = v.s.byCard(v.tenant)
	}
	return render(name, d, status, pageHeader(v.header, v.entry.action))
}

// errorPage tells a person, who is not necessarily known, that something does not work. key names the text, detail is for whoever wrote the client.
func (s *Service) errorPage(r *httpapi.Request, status int, key, detail string) *httpapi.Reply {
	d := pageData{Language: pageLanguage(r), Style: style.CSS, D: struct{ Key, Detail string }{key, detail}}
	return render("error", d, status, pageHeader(http.Header{}, ""))
}

func render(name string, d pageData, status int, header http.Header) *httpapi.Reply {
	var out bytes.Buffer
	if err := pages[d.Language][name].ExecuteTemplate(&out, "base", d); err != nil {
		panic(err) // a text or a field is missing: a programming error, which the edge answers with 500
	}
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Language", d.Language)
	return &httpapi.Reply{Status: status, Header: header, Body: out.Bytes()}
}

// clientData is a client as people see it. The name is what the client calls itself; the host is what it has proven.
type clientData struct {
	Name, Host, Terms, Policy string
}

func (v *visit) clientData(g *registration) clientData {
	c := clientData{Name: g.localized("client_name", g.Name, v.language), Host: g.host(),
		Terms: g.localized("tos_uri", g.Terms, v.language), Policy: g.localized("policy_uri", g.Policy, v.language)}
	if c.Name == "" {
		c.Name = c.Host
	}
	return c
}
