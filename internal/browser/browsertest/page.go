// SPDX-License-Identifier: Apache-2.0

package browsertest

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// Look is how a page is looked at. The zero value is a desk's screen in German, light.
type Look struct {
	// Width and Height are of the window, in CSS pixels; 0 is 1280 by 800.
	Width, Height int
	Dark          bool
	// Language is what pages are asked for; empty is "de".
	Language string
}

// Page is one window of a person of its own: it shares no cookies and no storage with other pages.
type Page struct {
	t       testing.TB
	pipe    *pipe
	session string

	mu     sync.Mutex
	loads  int             // how often a document was loaded to its end
	loaded chan struct{}   // closed at the next one
	said   []string        // to the listener
	news   chan struct{}   // something was said
	log    strings.Builder // errors of the page's scripts and its console
}

// Page opens an empty page, which is closed with the test.
func (c *Chromium) Page(t testing.TB, look Look) *Page {
	t.Helper()
	p := &Page{t: t, pipe: c.pipe, loaded: make(chan struct{}), news: make(chan struct{}, 1)}
	var context struct{ BrowserContextID string }
	p.must(c.pipe.call("", "Target.createBrowserContext", nil, &context))
	var target struct{ TargetID string }
	p.must(c.pipe.call("", "Target.createTarget", map[string]any{"url": "about:blank", "browserContextId": context.BrowserContextID}, &target))
	var attached struct{ SessionID string }
	p.must(c.pipe.call("", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached))
	p.session = attached.SessionID
	c.pipe.hear(p.session, p.hear)
	t.Cleanup(func() {
		c.pipe.call("", "Target.disposeBrowserContext", map[string]any{"browserContextId": context.BrowserContextID}, nil)
		c.pipe.hear(p.session, nil)
		if p.mu.Lock(); t.Failed() && p.log.Len() > 0 {
			said := p.log.String()
			t.Logf("Chromium said:\n%s", said[max(0, len(said)-20_000):])
		}
		p.mu.Unlock()
	})
	p.call("Page.enable", nil, nil)
	p.call("Runtime.enable", nil, nil)
	p.call("Log.enable", nil, nil)
	p.Look(look)
	return p
}

// Look changes how the page is looked at; what was asked of the server already keeps its language.
func (p *Page) Look(look Look) {
	p.t.Helper()
	if look.Width == 0 {
		look.Width, look.Height = 1280, 800
	}
	if look.Language == "" {
		look.Language = "de"
	}
	scheme := "light"
	if look.Dark {
		scheme = "dark"
	}
	p.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": look.Width, "height": look.Height, "deviceScaleFactor": 1, "mobile": look.Width < 600}, nil)
	p.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
	p.call("Emulation.setUserAgentOverride", map[string]any{"userAgent": "Konsil test (Chromium)", "acceptLanguage": look.Language}, nil)
}

func (p *Page) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatalf("Chromium: %v", err)
	}
}

func (p *Page) call(method string, params map[string]any, into any) {
	p.t.Helper()
	p.must(p.pipe.call(p.session, method, params, into))
}

// hear notes an event of the page.
func (p *Page) hear(m message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch m.Method {
	case "Page.loadEventFired":
		p.loads++
		close(p.loaded)
		p.loaded = make(chan struct{})
	case "Runtime.bindingCalled":
		var call struct{ Payload string }
		if json.Unmarshal(m.Params, &call) == nil {
			p.said = append(p.said, call.Payload)
			select {
			case p.news <- struct{}{}:
			default:
			}
		}
	case "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded":
		if p.log.Len() < 1<<20 {
			fmt.Fprintf(&p.log, "%.1000s\n", m.Params)
		}
	}
}

// load runs what leads to a new document and waits until that is there with all that it asks for.
func (p *Page) load(f func()) {
	p.t.Helper()
	p.mu.Lock()
	loaded := p.loaded
	p.mu.Unlock()
	f()
	select {
	case <-loaded:
	case <-p.pipe.ended:
		p.must(errEnded)
	case <-time.After(within):
		p.t.Fatalf("no new page; still at %s: %s", p.URL(), p.Text())
	}
}

// Open opens an address.
func (p *Page) Open(address string) {
	p.t.Helper()
	p.load(func() {
		var answer struct{ ErrorText string }
		p.call("Page.navigate", map[string]any{"url": address}, &answer)
		if answer.ErrorText != "" {
			p.t.Fatalf("%s: %s", address, answer.ErrorText)
		}
	})
}

// Eval evaluates an expression of JavaScript, waits for it where it is a promise, and decodes its value into into (nil: not wanted).
func (p *Page) Eval(expression string, into any) {
	p.t.Helper()
	var answer struct {
		Result struct {
			Value json.RawMessage `json:"value"`
		} `json:"result"`
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	p.call("Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true}, &answer)
	if e := answer.ExceptionDetails; e != nil {
		p.t.Fatalf("%.200s: %s %s", expression, e.Text, e.Exception.Description)
	}
	if into == nil || answer.Result.Value == nil {
		return
	}
	p.must(json.Unmarshal(answer.Result.Value, into))
}

// URL is the address that is shown.
func (p *Page) URL() *url.URL {
	p.t.Helper()
	var address string
	p.Eval("location.href", &address)
	u, err := url.Parse(address)
	p.must(err)
	return u
}

// Text is what can be read on the page, words separated by single spaces.
func (p *Page) Text() string {
	p.t.Helper()
	var text string
	p.Eval("document.body?.innerText ?? ''", &text)
	return strings.Join(strings.Fields(text), " ")
}

// Screenshot is a PNG of the whole page, however long it is.
func (p *Page) Screenshot() []byte {
	p.t.Helper()
	var picture struct{ Data []byte }
	p.call("Page.captureScreenshot", map[string]any{"captureBeyondViewport": true}, &picture)
	return picture.Data
}

// Listen gives the page's scripts a function with that name; what they call it with, a text, comes from [Page.Heard].
func (p *Page) Listen(name string) {
	p.t.Helper()
	p.call("Runtime.addBinding", map[string]any{"name": name}, nil)
}

// Heard is the next text that the page's scripts said; false when the browser ended or said nothing for long.
func (p *Page) Heard() (string, bool) {
	timeout := time.NewTimer(within)
	defer timeout.Stop()
	for {
		p.mu.Lock()
		if len(p.said) > 0 {
			text := p.said[0]
			p.said = p.said[1:]
			p.mu.Unlock()
			return text, true
		}
		p.mu.Unlock()
		select {
		case <-p.news:
		case <-p.pipe.ended:
			return "", false
		case <-timeout.C:
			return "", false
		}
	}
}
