// SPDX-License-Identifier: Apache-2.0

package contact_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/httpapi/spectest"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account/accounttest"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/telematik/contact"
)

// office is a node with the lists, at a clock of its own.
type office struct {
	*accounttest.Rig
	lists *contact.Lists
	now   atomic.Int64
	url   string
}

// open starts a node. What is said at base is held against gematik's file, which names no base.
func open(t *testing.T, db *database.DB, base string) *office {
	t.Helper()
	o := &office{}
	o.now.Store(1_700_000_000)
	o.Rig = accounttest.New(t, db, nil, func(g *accounttest.Rig) []httpapi.Route {
		o.lists = contact.New(contact.Options{DB: db, Now: func() time.Time { return time.Unix(o.now.Load(), 0) },
			Prove: func(ctx context.Context, at *tenant.Tenant, token string) (id.User, error) {
				return g.Accounts.OpenIDUser(ctx, at.ID, token)
			}})
		return o.lists.Routes()
	})
	var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path, r.URL.RawPath = base+r.URL.Path, base+r.URL.EscapedPath()
		o.Router.ServeHTTP(w, r)
	})
	if dir, err := spectest.Folder(); err == nil {
		h = spectest.Document(t, filepath.Join(dir, "..", "..", "gematik", "tim-openapi", "TiMessengerContactManagement.yaml"), h)
	}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	o.url = server.URL
	return o
}

// client is an older client of somebody: it holds a Matrix OpenID token.
type client struct {
	*office
	at          *tenant.Tenant
	token, mxid string
}

func (o *office) client(u *accounttest.User) client {
	var token struct {
		Access string `json:"access_token"`
	}
	u.Do("POST", "/_matrix/client/v3/user/"+url.PathEscape(string(u.ID))+"/openid/request_token", "{}").OK(&token)
	return client{o, u.Tenant, token.Access, string(u.ID)}
}

// want asks and compares the status and what the answer contains.
func (c client) want(status int, part, method, path, body string) {
	c.TB.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.TB.Fatal(err)
	}
	r.Host = string(c.at.Name)
	r.Header.Set("Content-Type", "application/json")
	for name, value := range map[string]string{"Authorization": "Bearer " + c.token, "Mxid": c.mxid} {
		if value != "" && value != "Bearer " {
			r.Header.Set(name, value)
		}
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		c.TB.Fatal(err)
	}
	defer res.Body.Close()
	var text strings.Builder
	if err := res.Write(&text); err != nil {
		c.TB.Fatal(err)
	}
	_, answer, _ := strings.Cut(text.String(), "\r\n\r\n")
	if res.StatusCode != status || !strings.Contains(answer, part) {
		c.TB.Errorf("%s %s %s: %d %s, want %d %s", method, path, body, res.StatusCode, answer, status, part)
	}
}

func entry(name, mxid, settings string) string {
	return fmt.Sprintf(`{"displayName":%q,"mxid":%q,"inviteSettings":%s}`, name, mxid, settings)
}

// TestContacts: a user of a client of the line 1.x makes, reads, changes and deletes contacts at each address that clients use, and nobody else does.
func TestContacts(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		o := open(t, db, "/tim-contact-mgmt/v1.0.2")
		anna, eva := o.client(o.User(o.A, "anna")), o.client(o.User(o.A, "eva"))
		ben, clara := "@ben:klinik.test", "@clara:klinik.test"
		one := "/contacts/" + url.PathEscape(ben)
		first := entry("Ben", ben, `{"start":1654159585,"end":1654169585}`)

		anna.want(200, `"version":"1.0.3"`, "GET", "/", "")
		anna.want(200, `{"contacts":[]}`, "GET", "/contacts", "")
		anna.want(404, `"errorCode":"M_NOT_FOUND"`, "GET", one, "")
		anna.want(404, `"errorCode":"M_NOT_FOUND"`, "PUT", "/contacts", first)
		anna.want(404, `"errorCode":"M_NOT_FOUND"`, "DELETE", one, "")
		anna.want(200, first, "POST", "/contacts", first)
		anna.want(409, `"errorCode":"M_CONFLICT"`, "POST", "/contacts", first)
		anna.want(200, first, "GET", one, "")
		second := entry("Dr. Ben", ben, `{"start":1654159586}`)
		anna.want(200, second, "PUT", "/contacts", second)
		third := entry("Clara", clara, `{"start":0}`)
		anna.want(200, third, "POST", "/contacts", third)
		anna.want(200, `{"contacts":[`+second+","+third+`]}`, "GET", "/contacts", "")
		eva.want(200, `{"contacts":[]}`, "GET", "/contacts", "")
		anna.want(204, "", "DELETE", one, "")
		anna.want(200, `{"contacts":[`+third+`]}`, "GET", "/contacts", "")

		for name, c := range map[string]client{
			"no token":            {o, o.A, "", anna.mxid},
			"no such token":       {o, o.A, "stolen", anna.mxid},
			"another tenant's":    {o, o.B, anna.token, anna.mxid},
			"a session's, not an": {o, o.A, o.User(o.A, "nora").Token, anna.mxid},
		} {
			t.Log(name)
			c.want(401, `"errorCode":"M_`, "GET", "/contacts", "")
			c.want(401, `"errorCode":"M_`, "GET", "/", "")
		}
		client{o, o.A, eva.token, anna.mxid}.want(403, `"errorCode":"M_FORBIDDEN"`, "GET", "/contacts", "")
		client{o, o.A, eva.token, anna.mxid}.want(403, `"errorCode":"M_FORBIDDEN"`, "DELETE", "/contacts/"+url.PathEscape(clara), "")
		client{o, o.A, anna.token, ""}.want(400, `"errorCode":"M_MISSING_PARAM"`, "GET", "/contacts", "")

		if err := o.lists.Forget(t.Context(), o.A.ID, id.User(anna.mxid)); err != nil {
			t.Fatal(err)
		}
		anna.want(200, `{"contacts":[]}`, "GET", "/contacts", "")
	})
}

// TestAddresses: the interface is at every address at which clients in the field look for it.
func TestAddresses(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"/tim-contact-mgmt", "/tim-contact-mgmt/v1.0", "/tim-contact-mgmt/v1.0.2"} {
		o := open(t, databasetest.Open(t, databasetest.SQLite(t)), base)
		anna := o.client(o.User(o.A, "anna"))
		anna.want(200, `"title":`, "GET", "/", "")
		anna.want(200, "", "POST", "/contacts", entry("Ben", "@ben:klinik.test", `{"start":1}`))
		anna.want(200, `"displayName":"Ben"`, "GET", "/contacts/@ben:klinik.test", "")
	}
}

// TestNoContact: what is no contact is refused in the interface's form of an error.
func TestNoContact(t *testing.T) {
	t.Parallel()
	o := open(t, databasetest.Open(t, databasetest.SQLite(t)), "/tim-contact-mgmt/v1.0.2")
	user := o.User(o.A, "anna")
	anna := o.client(user)
	ben := "@ben:klinik.test"
	for _, c := range []contact.Contact{{}, {Name: "Ben", User: id.User(ben)}, {Name: "", User: id.User(ben), Settings: settings(1, 0)}, {Name: "Ben", User: "ben", Settings: settings(1, 0)},
		{Name: strings.Repeat("ü", 256), User: id.User(ben), Settings: settings(1, 0)}, {Name: "Ben", User: id.User(ben), Settings: settings(-1, 0)},
		{Name: "Ben", User: id.User(ben), Settings: settings(2, 2)}, {Name: "Ben", User: id.User(ben), Settings: settings(2, 1)}} {
		for what, err := range map[string]error{"create": o.lists.Create(t.Context(), o.A.ID, user.ID, c), "update": o.lists.Update(t.Context(), o.A.ID, user.ID, c)} {
			if err != contact.ErrInvalid {
				t.Errorf("%s %+v: %v", what, c, err)
			}
		}
	}
	anna.want(400, `"errorCode":"M_INVALID_PARAM"`, "POST", "/contacts", entry("Ben", ben, `{"start":2,"end":1}`))
	for i := range 1000 {
		if err := o.lists.Create(t.Context(), o.A.ID, user.ID, contact.Contact{Name: "x", User: id.User(fmt.Sprintf("@u%d:klinik.test", i)), Settings: settings(1, 0)}); err != nil {
			t.Fatal(i, err)
		}
	}
	anna.want(400, `full`, "POST", "/contacts", entry("Ben", ben, `{"start":1}`))
}

func settings(start, end int64) contact.Settings {
	if end == 0 {
		return contact.Settings{Start: &start}
	}
	return contact.Settings{Start: &start, End: &end}
}

// TestAllows: a contact counts from its start until before its end, for its owner alone.
func TestAllows(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		o := open(t, db, "")
		anna, eva, ben, clara := id.User("@anna:a.test"), id.User("@eva:a.test"), id.User("@ben:klinik.test"), id.User("@clara:klinik.test")
		for user, s := range map[id.User]contact.Settings{ben: settings(100, 200), clara: settings(100, 0)} {
			if err := o.lists.Create(t.Context(), o.A.ID, anna, contact.Contact{Name: "x", User: user, Settings: s}); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range []struct {
			at            tenant.ID
			user, inviter id.User
			now           int64
			want          bool
		}{
			{o.A.ID, anna, ben, 99, false}, {o.A.ID, anna, ben, 100, true}, {o.A.ID, anna, ben, 199, true}, {o.A.ID, anna, ben, 200, false},
			{o.A.ID, anna, clara, 99, false}, {o.A.ID, anna, clara, 1 << 40, true},
			{o.A.ID, eva, ben, 150, false}, {o.B.ID, anna, ben, 150, false}, {o.A.ID, ben, anna, 150, false},
		} {
			o.now.Store(c.now)
			if got, err := o.lists.Allows(t.Context(), c.at, c.user, c.inviter); err != nil || got != c.want {
				t.Errorf("%+v: %v, %v", c, got, err)
			}
		}
	})
}
