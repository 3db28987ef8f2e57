// SPDX-License-Identifier: Apache-2.0

package browsertest_test

import (
	"bytes"
	"fmt"
	"html"
	"image/png"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/browser/browsertest"
)

// TestPage: what tests do with a page reaches the server as a person's doing does, and two pages share nothing.
func TestPage(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "seen", Value: "yes"})
		_, err := r.Cookie("seen")
		fmt.Fprintf(w, `<!DOCTYPE html><meta name="viewport" content="width=device-width"><title>t</title><style>:root{color-scheme:light dark}</style><p>%s, %v</p>
			<form method="post" action="/send"><input type="hidden" name="key" value="k"><input name="name" value="before">
			<label><input type="radio" name="card" value="1">First</label><label><input type="radio" name="card" value="2">Second</label>
			<button name="do" value="go">Go on</button></form><p style="height:3000px"></p><a href="/other?x=1">Elsewhere</a>
			<script>globalThis.konsil?.("hello")</script>`, html.EscapeString(r.Header.Get("Accept-Language")), err == nil)
	})
	mux.HandleFunc("POST /send", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s|%s|%s|%s", r.FormValue("key"), r.FormValue("name"), r.FormValue("card"), r.FormValue("do"))
	})
	site := httptest.NewServer(mux)
	t.Cleanup(site.Close)
	chromium := browsertest.Start(t)

	one := chromium.Page(t, browsertest.Look{})
	one.Listen("konsil")
	one.Open(site.URL)
	if text, ok := one.Heard(); !ok || text != "hello" {
		t.Errorf("heard %q, %v", text, ok)
	}
	one.Press("/other")
	if text := one.Text(); !strings.HasPrefix(text, "de, true") {
		t.Errorf("the second visit reads %q", text)
	}
	one.Fill("name", "Jörg & Söhne")
	one.Choose("Second")
	one.Press("Go on")
	if text := one.Text(); text != "k|Jörg & Söhne|2|go" {
		t.Errorf("the form sent %q", text)
	}

	two := chromium.Page(t, browsertest.Look{Width: 390, Height: 844, Dark: true, Language: "en"})
	two.Open(site.URL + "/")
	if text := two.Text(); !strings.HasPrefix(text, "en, false") {
		t.Errorf("a stranger's first visit reads %q", text)
	}
	picture, err := png.Decode(bytes.NewReader(two.Screenshot()))
	if err != nil {
		t.Fatal(err)
	}
	if size := picture.Bounds().Size(); size.X != 390 || size.Y < 3000 {
		t.Errorf("the picture has %v pixels", size)
	}
	if r, g, b, _ := picture.At(5, 5).RGBA(); r+g+b > 3*0x8000 {
		t.Error("a dark page is light")
	}
	var sum int
	if two.Eval("Promise.resolve(20 + 22)", &sum); sum != 42 {
		t.Errorf("the script answers %d", sum)
	}
}
