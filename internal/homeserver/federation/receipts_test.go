// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/ephemeral"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// names lets everybody in whose token is a user id.
type names struct{}

func (names) Authenticate(_ context.Context, _ *tenant.Tenant, token string) (*httpapi.Session, error) {
	return &httpapi.Session{User: id.User(token), Device: "D"}, nil
}

// receipts is the ephemeral slice as a source, the way the composition root joins them.
type receipts struct{ *ephemeral.Service }

func (r receipts) Outgoing(ctx context.Context, t *tenant.Tenant, destination id.Server, after, upTo int64, limit int) ([]EDU, int64, error) {
	units, complete, err := r.Service.Outgoing(ctx, t, destination, after, upTo, limit)
	var out []EDU
	for _, u := range units {
		out = append(out, EDU{Type: u.Type, Content: u.Content, Position: u.Position})
	}
	return out, complete, err
}

func (receipts) Delivered(context.Context, *database.Tx, *tenant.Tenant, id.Server, int64) error {
	return nil
}

// reading gives a server receipts and a way to set them.
func (s *server) reading(t *testing.T) func(user id.User, r id.Room, eid id.Event, body string) {
	t.Helper()
	passing := ephemeral.New(ephemeral.Options{DB: s.db, Committer: s.committer, Feed: s.feed, Rooms: s.rooms})
	t.Cleanup(passing.Close)
	s.fed.Sources = append(s.fed.Sources, receipts{passing})
	router := httpapi.NewRouter(httpapi.Options{Tenants: s.tenants})
	router.Authenticate(names{}, s.fed)
	router.Add(passing.Routes()...)
	return func(user id.User, r id.Room, eid id.Event, body string) {
		t.Helper()
		req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/_matrix/client/v3/rooms/"+url.PathEscape(string(r))+"/receipt/m.read/"+url.PathEscape(string(eid)), strings.NewReader(body))
		req.Host = string(s.me.Name)
		req.Header.Set("Authorization", "Bearer "+string(user))
		rec := httptest.NewRecorder()
		router.ServeHTTP(rec, req)
		if rec.Code != http.StatusOK {
			t.Fatalf("receipt: %d %s", rec.Code, rec.Body)
		}
	}
}

// TestReceiptsAreDurable: receipts wait for an absent server through a restart. It gets the last one of each user and thread, and nothing else.
func TestReceiptsAreDurable(t *testing.T) {
	config := Config{RetryMin: time.Millisecond, RetryMax: time.Millisecond}
	eachDatabase(t, config, func(t *testing.T, p pair) {
		read := p.a.reading(t)
		r := meeting(t, p.a, p.b, "11")
		anna, ben := p.a.user("anna"), p.b.user("ben")
		var said []id.Event
		for i := range 30 {
			said = append(said, p.a.say(r, anna, fmt.Sprint(i)))
		}
		p.b.gets(ben, said...)
		alone := p.a.create(anna, policy.CreateRoom{Preset: "private_chat", RoomVersion: "11"})
		mine := p.a.say(alone, anna, "nobody else's business")
		p.a.idle(nameB)
		p.b.down()
		for _, eid := range said {
			read(anna, r, eid, `{}`)
		}
		read(anna, r, said[3], `{"thread_id":"main"}`)
		read(anna, alone, mine, `{}`)
		p.a.when(p.a.isAway(nameB))
		if p.a.pending(nameB) == 0 {
			t.Fatal("no receipt waits")
		}
		config := p.a.fed.config
		a := p.a.again(config)
		a.reading(t)
		p.b.up()
		a.idle(nameB)
		p.b.mu.Lock()
		defer p.b.mu.Unlock()
		var got []string
		for _, u := range p.b.edus {
			if u.origin == nameA {
				got = append(got, u.content)
			}
		}
		// The one that was under way when the server went has been overtaken; it may come as well, since its transaction is sent as it was.
		all := strings.Join(got, "\n")
		if !strings.Contains(all, string(said[29])) || !strings.Contains(all, `"thread_id":"main"`) || strings.Contains(all, string(alone)) || len(got) > 3 {
			t.Errorf("%d receipts:\n%s", len(got), all)
		}
	})
}
