// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"net/url"
	"regexp"
	"strings"
	"testing"
)

// TestTexts: every text is there in each language, and every page uses only such.
func TestTexts(t *testing.T) {
	t.Parallel()
	for key := range texts["de"] {
		if texts["en"][key] == "" {
			t.Errorf("no English text %q", key)
		}
	}
	for key, text := range texts["en"] {
		if texts["de"][key] == "" || strings.HasSuffix(text, "!") {
			t.Errorf("no German text %q, or one that shouts", key)
		}
	}
	entries, err := pageFiles.ReadDir("pages")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		for _, used := range regexp.MustCompile(`\{\{t "([a-z_]+)"`).FindAllStringSubmatch(mustRead(e.Name()), -1) {
			if texts["de"][used[1]] == "" {
				t.Errorf("%s: no text %q", e.Name(), used[1])
			}
		}
	}
}

// FuzzRegistration: whatever is registered, its redirect URIs lead below the client's own domain, to its own scheme or to the device itself, and make
// one well-formed source expression of the pages' policy.
func FuzzRegistration(f *testing.F) {
	for _, uri := range []string{"https://app.example.com/cb", "com.example.app:/cb", "http://[::1]/", "http://localhost/", "https://example.com;x/", "https://example.com@evil.test/"} {
		f.Add("https://example.com/", uri, "native")
		f.Add("https://example.com/", uri, "web")
	}
	f.Fuzz(func(t *testing.T, home, uri, kind string) {
		if redirectProblem(uri, kind, hostOf(home)) != "" {
			return
		}
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		private := u.Scheme != "https" && u.Scheme != "http"
		if !private && !within(u.Hostname(), hostOf(home)) && !loopback(u.Host) {
			t.Errorf("%q leads away from %q", uri, home)
		}
		if source := cspSource(uri); source == "" || strings.ContainsAny(source, " ;,'\"\n\r") {
			t.Errorf("%q makes the source %q", uri, source)
		}
	})
}

func hostOf(address string) string {
	u, problem := secureAddress(address)
	if problem != "" {
		return "example.com"
	}
	return u.Hostname()
}

// FuzzScope: what is granted names one device, which it would be granted again.
func FuzzScope(f *testing.F) {
	f.Add("urn:matrix:client:api:* urn:matrix:client:device:ABC openid")
	f.Fuzz(func(t *testing.T, requested string) {
		granted, device, refused := parseScope(requested)
		if refused != nil {
			return
		}
		if again, same, refused := parseScope(granted); refused != nil || again != granted || same != device || device == "" {
			t.Errorf("%q is granted as %q, which is granted as %q", requested, granted, again)
		}
	})
}

// FuzzLoginTokenAddress: the token arrives once, where the client wants it.
func FuzzLoginTokenAddress(f *testing.F) {
	f.Add("https://example.com/?loginToken=x&login%54oken=y#z")
	f.Add("element:connect?a")
	f.Fuzz(func(t *testing.T, address string) {
		u, ok := ssoTarget(address)
		if !ok {
			return
		}
		to, err := url.Parse(withLoginToken(u, "secret"))
		if err != nil {
			t.Fatalf("%q becomes no address: %v", address, err)
		}
		if tokens := to.Query()["loginToken"]; len(tokens) != 1 || tokens[0] != "secret" || to.Host != u.Host || to.Scheme != u.Scheme {
			t.Errorf("%q becomes %q", address, to)
		}
	})
}
