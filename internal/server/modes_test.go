// SPDX-License-Identifier: Apache-2.0

package server

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/telematik/permission"
)

// ti is a node under policy ti with a practice and an insurer; it has no federation list yet, so that nobody else is there.
func ti(t *testing.T, change ...func(*config.Config)) *Server {
	t.Helper()
	c := configure(t, "tenants: [{name: praxis.test}, {name: kasse.test, insurance: true}]\nlisteners: {client: [\"127.0.0.1:0\"]}\npresence: true\n")
	c.Policy, c.Telematik.FederationList = config.PolicyTI, "http://127.0.0.1:9"+config.FederationListPath
	for _, f := range change {
		f(c)
	}
	s, err := New(t.Context(), c, Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// caller asks a node without a network.
type caller struct {
	*testing.T
	s     *Server
	user  id.User
	token string
}

// signIn makes somebody with an account.
func signIn(t *testing.T, s *Server, name string, admin bool) caller {
	t.Helper()
	user := id.User(name)
	at, err := s.node.tenants.ByName(t.Context(), user.Server())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.node.accounts.Create(t.Context(), at, account.NewUser{Localpart: user.Localpart(), Admin: admin}); err != nil {
		t.Fatal(err)
	}
	l, err := s.node.accounts.StartSession(t.Context(), at, account.SessionSpec{User: user})
	if err != nil {
		t.Fatal(err)
	}
	return caller{t, s, user, l.AccessToken}
}

func (c caller) ask(method, path, body string) (int, map[string]any) {
	c.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host = string(c.user.Server())
	r.Header.Set("Mxid", string(c.user))
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	w := httptest.NewRecorder()
	c.s.node.router.ServeHTTP(w, r)
	var answer map[string]any
	if w.Body.Len() > 0 && w.Body.Bytes()[0] == '{' {
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			c.Fatalf("%s %s: %v", method, path, err)
		}
	}
	return w.Code, answer
}

// want asks and compares status and errcode.
func (c caller) want(status int, code, method, path, body string) map[string]any {
	c.Helper()
	got, answer := c.ask(method, path, body)
	if text, _ := answer["errcode"].(string); got != status || text != code {
		c.Errorf("%s %s: %d %v, want %d %s", method, path, got, answer, status, code)
	}
	return answer
}

// fill puts something into the variables of a route.
func fill(route httpapi.Route) string {
	segments := strings.Split(route.Path, "/")
	for i, s := range segments {
		if strings.HasPrefix(s, "{") {
			segments[i] = "x"
		}
	}
	return strings.Join(segments, "/")
}

// TestRoutesOfBothModes: the same routes are there in both modes; under policy ti each has a row of the table of features, each row has a route, and what
// the table refuses answers so to everybody, administrators too.
//
// Requirements: A_22810, A_26344.
func TestRoutesOfBothModes(t *testing.T) {
	t.Parallel()
	s := ti(t, olderContacts)
	open := map[string]bool{}
	for _, r := range registered(t) {
		open[r.Method+" "+r.Path] = true
	}
	admin := signIn(t, s, "@admin:praxis.test", true)
	used := map[*permission.Feature]bool{}
	only := 0
	for _, r := range s.Routes() {
		f := permission.FeatureOf(r.Method, r.Path)
		if f == nil {
			t.Errorf("%s %s has no row in the table of features", r.Method, r.Path)
			continue
		}
		used[f] = true
		if !open[r.Method+" "+r.Path] {
			only++
			if !strings.HasPrefix(r.Path, "/tim-information/") && !strings.HasPrefix(r.Path, "/tim-contact-mgmt/") {
				t.Errorf("%s %s is there under policy ti alone", r.Method, r.Path)
			}
		}
		if f.Verdict != permission.Refused || r.Access == httpapi.Server {
			continue
		}
		body := ""
		if r.Method == http.MethodPost || r.Method == http.MethodPut {
			body = "{}"
		}
		status, answer := admin.ask(r.Method, fill(r), body)
		if text, _ := answer["error"].(string); status != 403 && status != 404 && status != 400 || !refusal(f, answer["errcode"], text) {
			t.Errorf("%s %s is refused by the table (%s), and answers %d %v", r.Method, r.Path, f.Name, status, answer)
		}
	}
	if want := len(open) + only; len(s.Routes()) != want {
		t.Errorf("%d routes under policy ti, %d expected", len(s.Routes()), want)
	}
	for _, f := range permission.Features() {
		if !used[f] {
			t.Errorf("the row %q has no route", f.Name)
		}
	}
}

// refusal says whether an answer is that of the rule that a row names.
func refusal(f *permission.Feature, code any, text string) bool {
	return slices.ContainsFunc(permission.Table(), func(r permission.Rule) bool { return r.Name == f.Why && r.Code == code && r.Text == text })
}

// TestModeTI: what a client is told about the server, and whom it shows to whom, under policy ti.
//
// Requirements: A_26203, A_26289, A_26290-01, A_26375, A_25641-01.
func TestModeTI(t *testing.T) {
	t.Parallel()
	s := ti(t)
	const v3 = "/_matrix/client/v3"
	anna, ben := signIn(t, s, "@anna:praxis.test", false), signIn(t, s, "@ben:praxis.test", false)
	max, nora := signIn(t, s, "@max:kasse.test", false), signIn(t, s, "@nora:kasse.test", false)
	nobody := caller{t, s, "@nobody:praxis.test", ""}

	about := nobody.want(200, "", "GET", "/_matrix/client/versions", "")
	versions, _ := about["versions"].([]any)
	if len(versions) == 0 || versions[len(versions)-1] != "v1.11" {
		t.Errorf("versions: %v", versions)
	}
	features, _ := about["unstable_features"].(map[string]any)
	if features["org.matrix.msc4306"] != false || features["org.matrix.msc4308"] != false || features["org.matrix.msc4140"] != true || features["org.matrix.msc3827.stable"] != true {
		t.Errorf("features: %v", features)
	}
	if f, _ := max.want(200, "", "GET", "/_matrix/client/versions", "")["unstable_features"].(map[string]any); f["org.matrix.msc3827.stable"] != false {
		t.Errorf("an insured person's features: %v", f)
	}
	thread := "/_matrix/client/unstable/io.element.msc4306/rooms/!r:praxis.test/thread/$e/subscription"
	anna.want(400, "M_FORBIDDEN", "GET", thread, "")
	anna.want(400, "M_FORBIDDEN", "PUT", thread, `{}`)
	anna.want(400, "M_FORBIDDEN", "GET", "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions?dir=b", "")
	offers, _ := anna.want(200, "", "GET", v3+"/capabilities", "")["capabilities"].(map[string]any)
	rooms, _ := offers["m.room_versions"].(map[string]any)
	available, _ := rooms["available"].(map[string]any)
	if rooms["default"] != "10" || available["10"] != "stable" || available["9"] != "stable" || available["11"] != "unstable" || available["12"] != "unstable" {
		t.Errorf("room versions: %v", rooms)
	}
	if c, _ := offers["m.3pid_changes"].(map[string]any); c["enabled"] != false {
		t.Errorf("third-party identifiers: %v", c)
	}
	for _, name := range []string{"m.set_displayname", "m.set_avatar_url", "m.profile_fields"} {
		if c, _ := offers[name].(map[string]any); c["enabled"] != true {
			t.Errorf("%s: %v", name, c)
		}
	}
	if c, _ := offers["m.forget_forced_upon_leave"].(map[string]any); c["enabled"] != false {
		t.Errorf("leaving forgets: %v", c)
	}
	nobody.want(403, "M_FORBIDDEN", "POST", v3+"/register", `{"username":"x","password":"Langes-Passwort-1"}`)
	nobody.want(403, "M_FORBIDDEN", "POST", v3+"/register?kind=guest", `{}`)

	profile := func(user id.User) string { return v3 + "/profile/" + url.PathEscape(string(user)) }
	nobody.want(401, "M_MISSING_TOKEN", "GET", profile(ben.user), "")
	nobody.want(401, "M_MISSING_TOKEN", "GET", profile(ben.user)+"/displayname", "")
	anna.want(200, "", "GET", profile(ben.user), "")
	max.want(200, "", "GET", profile(max.user), "")
	max.want(403, "M_FORBIDDEN", "GET", profile(nora.user), "")
	max.want(403, "M_FORBIDDEN", "GET", profile(nora.user)+"/displayname", "")

	for _, c := range []struct {
		who   caller
		found int
	}{{anna, 1}, {max, 0}} {
		found, _ := c.who.want(200, "", "POST", v3+"/user_directory/search", `{"search_term":"`+map[bool]string{true: "ben", false: "nora"}[c.found == 1]+`"}`)["results"].([]any)
		if len(found) != c.found {
			t.Errorf("%s found %v", c.who.user, found)
		}
	}
	status := func(n int) string {
		return `{"presence":"online","status_msg":"` + strings.Repeat("ü", n) + `"}`
	}
	anna.want(200, "", "PUT", v3+"/presence/"+url.PathEscape(string(anna.user))+"/status", status(250))
	anna.want(403, "M_TOO_LARGE", "PUT", v3+"/presence/"+url.PathEscape(string(anna.user))+"/status", status(251))
}

// TestSupportContacts: an administrator says whom to turn to, and everybody reads it; it cannot be deleted where it is read.
//
// Requirements: A_26265.
func TestSupportContacts(t *testing.T) {
	t.Parallel()
	s := ti(t)
	const read, write = "/.well-known/matrix/support", "/_konsil/admin/v1/support"
	admin, anna := signIn(t, s, "@admin:praxis.test", true), signIn(t, s, "@anna:praxis.test", false)
	nobody, elsewhere := caller{t, s, "@x:praxis.test", ""}, caller{t, s, "@x:kasse.test", ""}
	document := `{"contacts":[{"role":"m.role.admin","email_address":"admin@praxis.test","matrix_id":"@admin:praxis.test"}],"support_page":"https://praxis.test/hilfe"}`
	nobody.want(404, "M_NOT_FOUND", "GET", read, "")
	anna.want(403, "M_FORBIDDEN", "PUT", write, document)
	for _, wrong := range []string{`{}`, `{"contacts":[{"role":"m.role.admin"}]}`, `{"contacts":[{"role":"boss","email_address":"Anna <a@b.test>"}]}`, `{"support_page":"javascript:alert(1)"}`,
		`{"contacts":[{"role":"m.role.admin","matrix_id":"anna"}]}`, `{"contacts":[{"role":"m.role.king","email_address":"a@b.test"}]}`} {
		if status, answer := admin.ask("PUT", write, wrong); status != 400 {
			t.Errorf("%s: %d %v", wrong, status, answer)
		}
	}
	admin.want(200, "", "PUT", write, document)
	got := nobody.want(200, "", "GET", read, "")
	contacts, _ := got["contacts"].([]any)
	if len(contacts) != 1 || contacts[0].(map[string]any)["email_address"] != "admin@praxis.test" || got["support_page"] != "https://praxis.test/hilfe" {
		t.Errorf("%v", got)
	}
	nobody.want(405, "M_UNRECOGNIZED", "DELETE", read, "")
	elsewhere.want(404, "M_NOT_FOUND", "GET", read, "")
	admin.want(200, "", "DELETE", write, "")
	nobody.want(404, "M_NOT_FOUND", "GET", read, "")
}
