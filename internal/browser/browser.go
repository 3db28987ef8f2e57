// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/html"
)

const (
	maxRedirects = 10
	maxPage      = 1 << 20
	patience     = 30 * time.Second
)

// Browser keeps the cookies of one person. It is not safe for concurrent use.
type Browser struct {
	// Language is what it asks pages for.
	Language string
	// Stop is the beginning of addresses that are not opened: an application that waits for its answer. Empty: none.
	Stop   string
	client *http.Client
}

// New returns a browser without cookies.
func New(language string) *Browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		panic(err) // only for wrong options
	}
	return &Browser{Language: language, client: &http.Client{Jar: jar, Timeout: patience, Transport: &http.Transport{},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// Close closes its connections.
func (b *Browser) Close() { b.client.CloseIdleConnections() }

// Page is what is shown.
type Page struct {
	// URL is the address of the page, or the one that was not opened.
	URL    *url.URL
	Status int
	// Text is what can be read on the page, words separated by single spaces.
	Text string

	b    *Browser
	root *html.Node
}

// Open opens an address and follows where it leads.
func (b *Browser) Open(ctx context.Context, address string) (*Page, error) {
	return b.do(ctx, http.MethodGet, address, nil, "")
}

func (b *Browser) do(ctx context.Context, method, address string, form url.Values, origin string) (*Page, error) {
	for range maxRedirects {
		u, err := url.Parse(address)
		if err != nil {
			return nil, err
		}
		if b.Stop != "" && strings.HasPrefix(address, b.Stop) {
			return &Page{URL: u, b: b}, nil
		}
		r, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(form.Encode()))
		if err != nil {
			return nil, err
		}
		r.Header.Set("Accept-Language", b.Language)
		if method == http.MethodPost {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.Header.Set("Origin", origin)
		}
		resp, err := b.client.Do(r)
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxPage))
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		if resp.StatusCode/100 != 3 {
			return b.page(u, resp.StatusCode, string(body))
		}
		to, err := resp.Location()
		if err != nil {
			return nil, err
		}
		method, address, form = http.MethodGet, to.String(), nil
	}
	return nil, errors.New("browser: it leads in a circle")
}

func (b *Browser) page(u *url.URL, status int, body string) (*Page, error) {
	root, err := html.Parse(strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	return &Page{URL: u, Status: status, Text: text(root), b: b, root: root}, nil
}

// text is what a node shows.
func text(n *html.Node) string {
	var words []string
	for d := range n.Descendants() {
		if d.Type == html.TextNode && d.Parent.Data != "style" && d.Parent.Data != "script" {
			words = append(words, strings.Fields(d.Data)...)
		}
	}
	return strings.Join(words, " ")
}

func attribute(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func has(n *html.Node, name string) bool {
	for _, a := range n.Attr {
		if a.Key == name {
			return true
		}
	}
	return false
}

// find returns the first element of a kind below a node for which fits holds; nil for none.
func find(n *html.Node, kind string, fits func(*html.Node) bool) *html.Node {
	if n == nil {
		return nil
	}
	for d := range n.Descendants() {
		if d.Type == html.ElementNode && d.Data == kind && fits(d) {
			return d
		}
	}
	return nil
}

// Link is the address of the link that begins with a text or has it in its address; empty for none.
func (p *Page) Link(what string) string {
	a := find(p.root, "a", func(n *html.Node) bool {
		return strings.HasPrefix(text(n), what) || strings.HasPrefix(attribute(n, "href"), what)
	})
	if a == nil {
		return ""
	}
	u, err := p.URL.Parse(attribute(a, "href"))
	if err != nil {
		return ""
	}
	return u.String()
}

// Follow opens the link that begins with a text, or whose address does.
func (p *Page) Follow(ctx context.Context, what string) (*Page, error) {
	to := p.Link(what)
	if to == "" {
		return nil, fmt.Errorf("browser: no link %q on %s: %s", what, p.URL.Path, p.Text)
	}
	return p.b.Open(ctx, to)
}

// Has says whether the page has a button that does what.
func (p *Page) Has(what string) bool { return p.button(what) != nil }

func (p *Page) button(what string) *html.Node {
	return find(p.root, "button", func(n *html.Node) bool {
		return what == attribute(n, "value") || what != "" && strings.HasPrefix(text(n), what)
	})
}

// Choice is the value of the radio button whose label holds a text; empty for none, and where it cannot be chosen.
func (p *Page) Choice(label string) string {
	found := find(p.root, "label", func(n *html.Node) bool {
		return strings.Contains(text(n), label) && find(n, "input", func(i *html.Node) bool { return !has(i, "disabled") }) != nil
	})
	if found == nil {
		return ""
	}
	return attribute(find(found, "input", func(*html.Node) bool { return true }), "value")
}

// Option is the value of the option whose text holds a text; empty for none.
func (p *Page) Option(label string) string {
	found := find(p.root, "option", func(n *html.Node) bool { return strings.Contains(text(n), label) })
	if found == nil {
		return ""
	}
	return attribute(found, "value")
}

// Press presses the button that has a value, or begins with a text, after filling in the fields (name, value, …) of its form.
func (p *Page) Press(ctx context.Context, what string, fields ...string) (*Page, error) {
	button := p.button(what)
	if button == nil {
		return nil, fmt.Errorf("browser: no button %q on %s: %s", what, p.URL.Path, p.Text)
	}
	form := button
	for form != nil && form.Data != "form" {
		form = form.Parent
	}
	if form == nil {
		return nil, fmt.Errorf("browser: the button %q belongs to no form", what)
	}
	values := filled(form)
	if name := attribute(button, "name"); name != "" {
		values.Set(name, attribute(button, "value"))
	}
	for i := 0; i+1 < len(fields); i += 2 {
		named := func(n *html.Node) bool { return attribute(n, "name") == fields[i] }
		if find(form, "input", named) == nil && find(form, "select", named) == nil {
			return nil, fmt.Errorf("browser: no field %q beside %q on %s", fields[i], what, p.URL.Path)
		}
		values.Set(fields[i], fields[i+1])
	}
	to, err := p.URL.Parse(attribute(form, "action"))
	if err != nil {
		return nil, err
	}
	return p.b.do(ctx, http.MethodPost, to.String(), values, p.URL.Scheme+"://"+p.URL.Host)
}

// filled is what a form holds as it came.
func filled(form *html.Node) url.Values {
	values := url.Values{}
	for n := range form.Descendants() {
		name := attribute(n, "name")
		if n.Type == html.ElementNode && n.Data == "select" && name != "" {
			values.Set(name, chosen(n))
		}
		if n.Type != html.ElementNode || n.Data != "input" || name == "" {
			continue
		}
		if kind := attribute(n, "type"); (kind == "radio" || kind == "checkbox") && !has(n, "checked") {
			continue
		}
		values.Set(name, attribute(n, "value"))
	}
	return values
}

// chosen is the value of a select's option that is chosen on arrival: the one that says so, else the first.
func chosen(list *html.Node) string {
	option := find(list, "option", func(n *html.Node) bool { return has(n, "selected") })
	if option == nil {
		option = find(list, "option", func(*html.Node) bool { return true })
	}
	if option == nil {
		return ""
	}
	return attribute(option, "value")
}
