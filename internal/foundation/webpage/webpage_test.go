// SPDX-License-Identifier: Apache-2.0

package webpage

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"rsc.io/qr"
)

// modules reads the black ones back out of a picture.
func modules(t *testing.T, svg string) (size int, black map[[2]int]bool) {
	t.Helper()
	if _, err := fmt.Sscanf(svg, `<svg class="qr" viewBox="0 0 %d`, &size); err != nil {
		t.Fatalf("%v: %.80s", err, svg)
	}
	black = map[[2]int]bool{}
	for _, m := range regexp.MustCompile(`M(\d+) (\d+)h(\d+)v1h-(\d+)z`).FindAllStringSubmatch(svg, -1) {
		var x, y, width int
		if _, err := fmt.Sscan(strings.Join(m[1:4], " "), &x, &y, &width); m[3] != m[4] || err != nil {
			t.Fatal(m, err)
		}
		for i := range width {
			black[[2]int{x + i, y}] = true
		}
	}
	return size, black
}

// TestApp: the three ways into an app say the same. That the picture is a QR code of the link is checked by a reader of another maker, by hand.
func TestApp(t *testing.T) {
	t.Parallel()
	a, err := NewApp("Hausarztpraxis Ahorn & Söhne", "@anna:ahorn.example", "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
	if err != nil {
		t.Fatal(err)
	}
	if a.Secret != "ABCD EFGH IJKL MNOP QRST UVWX YZ23 4567" {
		t.Error(a.Secret)
	}
	u, err := url.Parse(string(a.Link))
	if err != nil || u.Scheme != "otpauth" || u.Host != "totp" || u.Path != "/Hausarztpraxis Ahorn & Söhne:@anna:ahorn.example" || strings.Contains(u.RawQuery, "+") ||
		u.Query().Get("secret") != "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567" || u.Query().Get("issuer") != "Hausarztpraxis Ahorn & Söhne" {
		t.Errorf("%s %v", a.Link, err)
	}
	code, err := qr.Encode(string(a.Link), qr.M)
	if err != nil {
		t.Fatal(err)
	}
	size, black := modules(t, string(a.Picture))
	if size != code.Size+8 {
		t.Errorf("%d modules for %d", size, code.Size)
	}
	for x := range size {
		for y := range size {
			if got := black[[2]int{x, y}]; got != code.Black(x-4, y-4) {
				t.Fatalf("module %d, %d: %v", x, y, got)
			}
		}
	}
	if strings.Contains(string(a.Picture), "style=") {
		t.Error("the policy of the pages forbids styles of elements")
	}
	if long, err := NewApp(strings.Repeat("ü", 255), "@"+strings.Repeat("x", 254), "A"); err != nil || long.Picture == "" {
		t.Errorf("a long name: %v", err)
	}
}

func TestFormKey(t *testing.T) {
	t.Parallel()
	key := FormKey("a", "cookie")
	for name, c := range map[string]struct {
		kind, cookie, given string
		want                bool
	}{
		"its own":        {"a", "cookie", key, true},
		"other pages":    {"b", "cookie", key, false},
		"another cookie": {"a", "biscuit", key, false},
		"no cookie":      {"a", "", FormKey("a", ""), false},
		"none":           {"a", "cookie", "", false},
	} {
		if got := FormKeyFits(c.kind, c.cookie, c.given); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestHeader(t *testing.T) {
	t.Parallel()
	a, b, h := NewStyle(""), NewStyle("p{}"), http.Header{}
	a.SetHeader(h, "https://app.example")
	policy := h.Get("Content-Security-Policy")
	if a.hash == b.hash || !strings.Contains(policy, "'"+a.hash+"'") || !strings.Contains(policy, "form-action 'self' https://app.example;") || strings.Contains(policy, "unsafe") {
		t.Error(policy)
	}
}
