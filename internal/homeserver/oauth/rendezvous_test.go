// SPDX-License-Identifier: Apache-2.0

package oauth_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

const rendezvous = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous"

// meet sends a message with headers.
func (b *tab) meet(method, path, body string, headers ...string) *page {
	b.g.t.Helper()
	b.headers = map[string]string{}
	for i := 0; i+1 < len(headers); i += 2 {
		b.headers[headers[i]] = headers[i+1]
	}
	return b.do(method, path, "", body)
}

func code(p *page) string { return p.field("errcode") }

func TestRendezvous(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		for _, host := range []string{"a.test", shared} {
			b := g.tab(host)
			if v := b.get("/_matrix/client/versions").body; !strings.Contains(v, `"org.matrix.msc4108":true`) {
				t.Errorf("versions: %s", v)
			}
			p := b.meet("POST", rendezvous, "hello from A", "Content-Type", "text/plain").is(201)
			at := strings.TrimPrefix(p.field("url"), "http://"+host)
			if !strings.HasPrefix(at, rendezvous+"/") || p.header.Get("Content-Type") != "application/json" {
				t.Fatalf("opened: %s", p.body)
			}
			for _, name := range []string{"ETag", "Expires", "Last-Modified"} {
				if p.header.Get(name) == "" {
					t.Errorf("no %s", name)
				}
			}
			if p.header.Get("Cache-Control") != "no-store" || p.header.Get("Pragma") != "no-cache" || !strings.Contains(p.header.Get("Access-Control-Expose-Headers"), "ETag") {
				t.Errorf("header: %v", p.header)
			}
			first := p.header.Get("ETag")
			read := b.meet("GET", at, "").is(200)
			if read.body != "hello from A" || read.header.Get("Content-Type") != "text/plain" || read.header.Get("ETag") != first {
				t.Errorf("read: %v %s", read.header, read.body)
			}
			same := b.meet("GET", at, "", "If-None-Match", first).is(304)
			if same.body != "" || same.header.Get("ETag") != first || same.header.Get("Expires") == "" {
				t.Errorf("unchanged: %v", same.header)
			}
			g.pass(40 * time.Second)
			put := b.meet("PUT", at, "hello from A", "Content-Type", "text/plain", "If-Match", first).is(202)
			second := put.header.Get("ETag")
			if second == first || put.header.Get("Last-Modified") == "" {
				t.Errorf("equal payloads have one tag")
			}
			b.meet("GET", at, "", "If-None-Match", first).is(200)
			late := b.meet("PUT", at, "too late", "Content-Type", "text/plain", "If-Match", first).is(412)
			if code(late) != "M_UNKNOWN" || late.field("org.matrix.msc4108.errcode") != "M_CONCURRENT_WRITE" || late.header.Get("ETag") != second {
				t.Errorf("concurrent: %v %s", late.header, late.body)
			}
			g.pass(40 * time.Second) // a message renews the minute
			b.meet("GET", at, "").is(200)
			g.pass(21 * time.Second)
			for method, p := range map[string]*page{"GET": b.meet("GET", at, ""), "DELETE": b.meet("DELETE", at, ""),
				"PUT": b.meet("PUT", at, "x", "Content-Type", "text/plain", "If-Match", second)} {
				if p.status != 404 || code(p) != "M_NOT_FOUND" {
					t.Errorf("%s after the minute: %d %s", method, p.status, p.body)
				}
			}
		}
	})
}

func TestRendezvousRefusals(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		b := g.tab("a.test")
		p := b.meet("POST", rendezvous, "x", "Content-Type", "text/plain; charset=utf-8").is(201)
		at, tag := strings.TrimPrefix(p.field("url"), "http://a.test"), p.header.Get("ETag")
		for name, c := range map[string]struct {
			method, path, body string
			headers            []string
			status             int
			code               string
		}{
			"no type":         {"POST", rendezvous, "x", nil, 400, "M_MISSING_PARAM"},
			"other type":      {"POST", rendezvous, "x", []string{"Content-Type", "application/json"}, 400, "M_INVALID_PARAM"},
			"too large":       {"POST", rendezvous, strings.Repeat("x", 4097), []string{"Content-Type", "text/plain"}, 413, "M_TOO_LARGE"},
			"put no type":     {"PUT", at, "x", []string{"If-Match", tag}, 400, "M_MISSING_PARAM"},
			"put no tag":      {"PUT", at, "x", []string{"Content-Type", "text/plain"}, 400, "M_MISSING_PARAM"},
			"put weak tag":    {"PUT", at, "x", []string{"Content-Type", "text/plain", "If-Match", "W/" + tag}, 400, "M_INVALID_PARAM"},
			"put any tag":     {"PUT", at, "x", []string{"Content-Type", "text/plain", "If-Match", "*"}, 400, "M_INVALID_PARAM"},
			"put tags":        {"PUT", at, "x", []string{"Content-Type", "text/plain", "If-Match", tag + ", " + tag}, 400, "M_INVALID_PARAM"},
			"put other type":  {"PUT", at, "x", []string{"Content-Type", "text/html", "If-Match", tag}, 400, "M_INVALID_PARAM"},
			"put too large":   {"PUT", at, strings.Repeat("x", 4097), []string{"Content-Type", "text/plain", "If-Match", tag}, 413, "M_TOO_LARGE"},
			"unknown mailbox": {"GET", rendezvous + "/unknown", "", nil, 404, "M_NOT_FOUND"},
		} {
			if p := b.meet(c.method, c.path, c.body, c.headers...); p.status != c.status || code(p) != c.code {
				t.Errorf("%s: %d %s", name, p.status, p.body)
			}
		}
		b.meet("POST", rendezvous, strings.Repeat("x", 4096), "Content-Type", "text/plain").is(201)
		r, err := http.NewRequest("POST", g.URL()+rendezvous, struct{ *strings.Reader }{strings.NewReader("x")}) // without a length
		if err != nil {
			t.Fatal(err)
		}
		r.Host, r.ContentLength = "a.test", -1
		r.Header.Set("Content-Type", "text/plain")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 400 {
			t.Errorf("without a length: %d", resp.StatusCode)
		}
		if p := g.tab("b.test").meet("GET", at, ""); p.status != 404 {
			t.Errorf("the neighbour reads it: %d", p.status)
		}
		b.meet("DELETE", at, "").is(204)
		b.meet("DELETE", at, "").is(404)
	})
}

// TestRendezvousHasOneWriter: of many who have seen the same message one writes.
func TestRendezvousHasOneWriter(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		p := g.tab("a.test").meet("POST", rendezvous, "x", "Content-Type", "text/plain").is(201)
		at := strings.TrimPrefix(p.field("url"), "http://a.test")
		var wg sync.WaitGroup
		var mu sync.Mutex
		written := 0
		for range 6 {
			wg.Go(func() {
				if g.tab("a.test").meet("PUT", at, "y", "Content-Type", "text/plain", "If-Match", p.header.Get("ETag")).status == 202 {
					mu.Lock()
					written++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if written != 1 {
			t.Errorf("%d have written", written)
		}
	})
}
