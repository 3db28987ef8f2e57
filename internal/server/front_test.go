// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/konsiltest"
	"github.com/konsil-health/konsil/internal/server"
)

// frontBrowser is a browser at the one address of several cells.
type frontBrowser struct {
	t    *testing.T
	url  string
	http *http.Client
}

func (b *frontBrowser) post(path, kind, body string) (*http.Response, string) {
	b.t.Helper()
	return b.read(b.http.Post(b.url+path, kind, strings.NewReader(body)))
}

func (b *frontBrowser) form(path string, form url.Values) (*http.Response, string) {
	b.t.Helper()
	return b.post(path, "application/x-www-form-urlencoded", form.Encode())
}

func (b *frontBrowser) get(path string) (*http.Response, string) {
	b.t.Helper()
	return b.read(b.http.Get(b.url + path))
}

func (b *frontBrowser) read(resp *http.Response, err error) (*http.Response, string) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp, string(text)
}

// field is a member of a JSON answer.
func field(t *testing.T, body, name string) string {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	text, _ := v[name].(string)
	return text
}

// TestOAuthAtTheFront: people of every cell sign in by OAuth 2.0 at the address that the cells share.
func TestOAuthAtTheFront(t *testing.T) {
	t.Parallel()
	network := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"first.test", "other.test"}}, konsiltest.Spec{Tenants: []string{"second.test", "more.test"}})
	front := httptest.NewServer(&server.Front{Cells: []*server.Server{network.Cell(0).Server, network.Cell(1).Server}})
	t.Cleanup(front.Close)
	for _, user := range []string{"@anna:first.test", "@berta:second.test"} {
		jar, err := cookiejar.New(nil)
		if err != nil {
			t.Fatal(err)
		}
		b := &frontBrowser{t, front.URL, &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
		if resp, body := b.post("/_matrix/client/v3/register", "application/json", `{"username":"`+user+`","password":"geheim","auth":{"type":"m.login.dummy"}}`); resp.StatusCode != 200 {
			t.Fatalf("registered: %d %s", resp.StatusCode, body)
		}
		resp, body := b.post("/_matrix/oauth2/register", "application/json", `{"client_uri":"https://app.example.com/","redirect_uris":["https://app.example.com/cb"],
			"grant_types":["authorization_code","refresh_token"]}`)
		if resp.StatusCode != 201 {
			t.Fatalf("client: %d %s", resp.StatusCode, body)
		}
		client, verifier := field(t, body, "client_id"), strings.Repeat("v", 43)
		sum := sha256.Sum256([]byte(verifier))
		page := "/_matrix/oauth2/authorize?" + url.Values{"response_type": {"code"}, "client_id": {client}, "redirect_uri": {"https://app.example.com/cb"}, "state": {"s"},
			"scope":          {"urn:matrix:client:api:* urn:matrix:client:device:FRONT12345"},
			"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"}}.Encode()
		key := regexp.MustCompile(`name="key" value="([0-9a-f]+)"`)
		shown := func() string {
			t.Helper()
			resp, body := b.get(page)
			found := key.FindStringSubmatch(body)
			if resp.StatusCode != 200 || found == nil {
				t.Fatalf("page: %d %s", resp.StatusCode, body)
			}
			return found[1]
		}
		if resp, body := b.form(page, url.Values{"key": {shown()}, "do": {"sign-in"}, "username": {user}, "password": {"geheim"}}); resp.StatusCode != 303 {
			t.Fatalf("%s signs in: %d %s", user, resp.StatusCode, body)
		}
		resp, body = b.form(page, url.Values{"key": {shown()}, "do": {"approve"}})
		to, err := url.Parse(resp.Header.Get("Location"))
		if err != nil || to.Host != "app.example.com" {
			t.Fatalf("%s agrees: %d %s %s", user, resp.StatusCode, to, body)
		}
		resp, body = b.form("/_matrix/oauth2/token", url.Values{"grant_type": {"authorization_code"}, "client_id": {client}, "code": {to.Query().Get("code")},
			"redirect_uri": {"https://app.example.com/cb"}, "code_verifier": {verifier}})
		if resp.StatusCode != 200 {
			t.Fatalf("token: %d %s", resp.StatusCode, body)
		}
		resp, body = b.form("/_matrix/oauth2/token", url.Values{"grant_type": {"refresh_token"}, "client_id": {client}, "refresh_token": {field(t, body, "refresh_token")}})
		if resp.StatusCode != 200 {
			t.Fatalf("refresh: %d %s", resp.StatusCode, body)
		}
		req, err := http.NewRequest("GET", front.URL+"/_matrix/client/v3/account/whoami", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+field(t, body, "access_token"))
		if _, who := b.read(http.DefaultClient.Do(req)); field(t, who, "user_id") != user {
			t.Errorf("whoami: %s", who)
		}
	}
}
