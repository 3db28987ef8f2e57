// SPDX-License-Identifier: Apache-2.0

package media_test

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/homeserver/federation"
	"github.com/konsil-health/konsil/internal/homeserver/media"
)

func previews(guarded bool) func(*media.Options) {
	return func(o *media.Options) {
		o.Config.Preview = media.PreviewConfig{Enabled: true, MaxPage: 4096, Timeout: time.Minute, Guard: federation.Guard(!guarded)}
	}
}

func TestPreview(t *testing.T) {
	var asked atomic.Int64
	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewGray(image.Rect(0, 0, 7, 5))); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/page", func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Type", "text/html; charset=iso-8859-1")
		fmt.Fprint(w, "<html><head><title>Praxis</title><meta property='og:title' content='Gr\xfc\xdfe &amp; mehr'><meta name=description content='Eine  Seite'>",
			"<meta property='og:image' content='/picture.png'><meta property='og:video' content='http://elsewhere.test/film'></head>", strings.Repeat("x", 10_000))
	})
	mux.HandleFunc("/picture.png", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "image/png")
		w.Write(picture.Bytes()) //nolint:errcheck // the test sees what is missing
	})
	mux.HandleFunc("/plain", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "<!doctype html><title>Nur &uuml;ber uns</title>")
	})
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/plain", http.StatusFound) })
	mux.HandleFunc("/round", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/round", http.StatusFound) })
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
	})
	page := httptest.NewServer(mux)
	t.Cleanup(page.Close)
	path := func(u string) string { return client + "/preview_url?url=" + url.QueryEscape(u) }
	each(t, previews(false), func(t *testing.T, g *rig) {
		anna := g.User(g.A, "anna")
		before := asked.Load()
		p := anna.Do("GET", path(page.URL+"/page"), nil).OK(nil)
		if p.Text("og:title") != "Grüße & mehr" || p.Text("og:description") != "Eine Seite" || p.Get("og:image:width") != "7" || p.Get("og:image:height") != "5" ||
			p.Get("matrix:image:size") != fmt.Sprint(picture.Len()) || p.Get("og:video") != "" {
			t.Errorf("%s", p.Body)
		}
		mxc := strings.TrimPrefix(p.Text("og:image"), "mxc://")
		if got := anna.Do("GET", client+"/download/"+mxc, nil); got.Status != 200 || !bytes.Equal(got.Body, picture.Bytes()) {
			t.Errorf("picture %s: %d", mxc, got.Status)
		}
		if again := anna.Do("GET", legacy+"/preview_url?url="+url.QueryEscape(page.URL+"/page#part"), nil).OK(nil); again.Text("og:image") != p.Text("og:image") || asked.Load()-before > 2 {
			t.Errorf("asked again: %s", again.Body)
		}
		if p := anna.Do("GET", path(page.URL+"/away"), nil).OK(nil); p.Text("og:title") != "Nur über uns" || p.Get("og:image") != "" {
			t.Errorf("redirected: %s", p.Body)
		}
		if p := anna.Do("GET", path(page.URL+"/picture.png"), nil).OK(nil); !strings.HasPrefix(p.Text("og:image"), "mxc://a.test/") {
			t.Errorf("picture: %s", p.Body)
		}
		for _, gone := range []string{"/missing", "/round", "/file"} {
			anna.Do("GET", path(page.URL+gone), nil).Fails(502, "M_UNKNOWN")
		}
		anna.Do("GET", client+"/preview_url", nil).Fails(400, "M_MISSING_PARAM")
		for _, bad := range []string{"file:///etc/passwd", "x", "http://user:pw@a.test/", "http://"} {
			anna.Do("GET", path(bad), nil).Fails(400, "M_INVALID_PARAM")
		}
		g.Nobody(g.A).Do("GET", path(page.URL), nil).Fails(401, "M_MISSING_TOKEN")
	})
}

// TestPreviewReachesNoPrivateAddress: neither by number nor by a name that leads there.
func TestPreviewReachesNoPrivateAddress(t *testing.T) {
	var asked atomic.Int64
	page := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(page.Close)
	each(t, previews(true), func(t *testing.T, g *rig) {
		anna := g.User(g.A, "anna")
		for _, u := range []string{page.URL, strings.Replace(page.URL, "127.0.0.1", "localhost", 1), strings.Replace(page.URL, "127.0.0.1", "[::ffff:127.0.0.1]", 1), strings.Replace(page.URL, "127.0.0.1", "0.0.0.0", 1)} {
			anna.Do("GET", client+"/preview_url?url="+url.QueryEscape(u), nil).Fails(502, "M_UNKNOWN")
		}
		if asked.Load() != 0 {
			t.Error("a private address was asked")
		}
	})
}

func TestPreviewsAreOff(t *testing.T) {
	each(t, nil, func(t *testing.T, g *rig) {
		g.User(g.A, "anna").Do("GET", client+"/preview_url?url=http%3A%2F%2Fa.test", nil).Fails(404, "M_UNRECOGNIZED")
	})
}
