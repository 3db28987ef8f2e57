// SPDX-License-Identifier: Apache-2.0

package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"

	"golang.org/x/text/language"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/webpage"
)

//go:embed pages
var pageFiles embed.FS

// maxForm bounds what a form sends, imported files included.
const maxForm = 1 << 20

// languages are those of the pages, the first one for whoever speaks none of them.
var languages = []string{"de", "en"}

var matcher = language.NewMatcher([]language.Tag{language.German, language.English})

var style = webpage.NewStyle(mustRead("style.css"))

func mustRead(name string) string {
	b, err := pageFiles.ReadFile("pages/" + name)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// text is a text in a language; a missing one is a programming error.
func text(lang, key string) (string, error) {
	found, ok := texts[key]
	if !ok {
		return "", fmt.Errorf("no text %q", key)
	}
	if lang == "de" {
		return found[0], nil
	}
	return found[1], nil
}

// pages holds each page in each language.
var pages = func() map[string]map[string]*template.Template {
	out := map[string]map[string]*template.Template{}
	entries, err := pageFiles.ReadDir("pages")
	if err != nil {
		panic(err)
	}
	for _, lang := range languages {
		out[lang] = map[string]*template.Template{}
		base := template.Must(template.New("base").Funcs(template.FuncMap{
			"t":     func(key string) (string, error) { return text(lang, key) },
			"day":   func(ms int64) template.HTML { return day(lang, ms) },
			"place": func(d pageData, path, key string) place { return place{path, key, d.Here == path} },
		}).Parse(mustRead("base.html")))
		for _, e := range entries {
			if name, ok := strings.CutSuffix(e.Name(), ".html"); ok && name != "base" {
				out[lang][name] = template.Must(template.Must(base.Clone()).Parse(mustRead(e.Name())))
			}
		}
	}
	return out
}()

// day is a time as people read it; – for none.
func day(lang string, ms int64) template.HTML {
	if ms == 0 {
		return "–"
	}
	form := "2 Jan 2006, 15:04"
	if lang == "de" {
		form = "02.01.2006, 15:04"
	}
	at := time.UnixMilli(ms).UTC()
	return template.HTML(`<time datetime="` + at.Format(time.RFC3339) + `">` + at.Format(form) + ` UTC</time>`)
}

// place is one of the places of the console in its navigation.
type place struct {
	Path, Key string
	Current   bool
}

// view is one request of a browser.
type view struct {
	s        *Service
	w        http.ResponseWriter
	r        *http.Request
	language string
	session  *session
	problem  string // key of a text
	detail   string // what the problem is about
	done     string // key of a text: what has just been done
	status   int    // 0: 200
	broken   bool   // the form cannot be read
}

func (s *Service) view(w http.ResponseWriter, r *http.Request) *view {
	_, i := language.MatchStrings(matcher, r.URL.Query().Get("lang"), r.Header.Get("Accept-Language"))
	v := &view{s: s, w: w, r: r, language: languages[i]}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	var err error
	if strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/") {
		err = r.ParseMultipartForm(maxForm)
	} else {
		err = r.ParseForm()
	}
	v.broken = err != nil
	for _, values := range r.PostForm {
		for _, value := range values {
			v.broken = v.broken || !httpapi.IsText(value)
		}
	}
	return v
}

// form is a field of the form, without blanks around it.
func (v *view) form(name string) string { return strings.TrimSpace(v.r.PostForm.Get(name)) }

// pageData is what every page gets.
type pageData struct {
	Language, Key, Here      string
	Style                    template.CSS
	Organisation, User       string // empty where nobody is signed in
	Server                   string
	Problem, Detail, Success string
	D                        any
}

// show renders a page. cookie is what the key of its forms belongs to.
func (v *view) show(name, cookie string, data any) error {
	d := pageData{Language: v.language, Style: style.CSS, Key: webpage.FormKey(formKind, cookie), Here: v.r.URL.Path, Problem: v.problem, Detail: v.detail, Success: v.done, D: data}
	if v.session != nil && v.session.second {
		d.User, d.Organisation, d.Server = v.session.login, v.session.tenant.DisplayName, string(v.session.tenant.Name)
	}
	var out bytes.Buffer
	if err := pages[v.language][name].ExecuteTemplate(&out, "base", d); err != nil {
		return err
	}
	v.header()
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	v.w.Header().Set("Content-Language", v.language)
	if v.status == 0 {
		v.status = http.StatusOK
	}
	v.w.WriteHeader(v.status)
	_, _ = v.w.Write(out.Bytes()) // the reader is gone if this fails
	return nil
}

func (v *view) header() { style.SetHeader(v.w.Header(), "") }

func (v *view) errorPage(status int, key string) {
	v.status, v.problem, v.session = status, "", nil
	if err := v.show("error", "", key); err != nil {
		v.s.o.Log.Error("console", "error", err)
	}
}

// again says what is wrong; the page with the form is shown once more.
func (v *view) again(status int, problem string) {
	v.status, v.problem = status, problem
}

func (v *view) redirect(to string) error {
	v.header()
	http.Redirect(v.w, v.r, to, http.StatusSeeOther)
	return nil
}

// cookie reads one of ours.
func (v *view) cookie(name string) string {
	c, err := v.r.Cookie(v.s.cookieName(name))
	if err != nil || len(c.Value) > 128 {
		return ""
	}
	return c.Value
}

func (s *Service) cookieName(name string) string {
	if strings.HasPrefix(s.o.URL, "https:") {
		return "__Secure-" + name
	}
	return name
}

func (v *view) setCookie(name, value string) {
	c := &http.Cookie{Name: v.s.cookieName(name), Value: value, Path: Prefix, HttpOnly: true, Secure: strings.HasPrefix(v.s.o.URL, "https:"), SameSite: http.SameSiteLaxMode}
	if value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(v.w, c)
}

// formKind keeps the forms of the console apart from others.
const formKind = "console form"

// own says whether the form stood on our page in this browser.
func (v *view) own(cookie string) bool {
	return webpage.FormKeyFits(formKind, cookie, v.r.PostForm.Get("key"))
}

func hash(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// slow says whether somebody tries too often from an address.
func (v *view) slow() bool {
	if v.s.o.Limiter == nil {
		return false
	}
	ok, _ := v.s.o.Limiter.Allow(limit.Login, "", v.s.o.Address(v.r))
	return !ok
}
