// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/konsiltest"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/server/authority"
	"github.com/konsil-health/konsil/internal/telematik/permission"
	"github.com/konsil-health/konsil/internal/telematik/proxy"
)

// list is a federation list: listed servers → isInsurance. stale makes it too old to be used.
type list struct {
	servers map[id.Server]bool
	stale   atomic.Bool
}

func (l *list) Member(_ context.Context, s id.Server) (listed, insurance bool, err error) {
	if l.stale.Load() {
		return false, false, errors.New("the list is too old")
	}
	insurance, listed = l.servers[s]
	return listed, insurance, nil
}

func members() *list {
	return &list{servers: map[id.Server]bool{"praxis.test": false, "klinik.test": false, "kasse.test": true}}
}

var serversBehind = []*tenant.Tenant{{ID: 1, Name: "praxis.test"}, {ID: 2, Name: "klinik.test"}, {ID: 3, Name: "kasse.test", Insurance: true}}

// scene is plain Konsil with policy open, behind proxies that know the rules, and one server more which is on no list and behind no proxy.
type scene struct {
	*testing.T
	list *list
	// behind are the cells, through[i] the same ones by the proxy's address.
	behind, through map[id.Server]*konsiltest.Cell
	stranger        *konsiltest.Cell
	// later is what the proxies' clock is ahead of the homeservers'.
	later atomic.Int64
	// own says that there is no proxy: Konsil itself holds the rules.
	own bool

	anna, clara, ben, max, nora, eve *konsiltest.Session
}

// newScene boots the cells and proxies: each server in a cell of its own behind a proxy of its own, or all of them together in one cell.
func newScene(t *testing.T, together bool) *scene {
	t.Helper()
	s := &scene{T: t, list: members(), behind: map[id.Server]*konsiltest.Cell{}, through: map[id.Server]*konsiltest.Cell{}}
	ca, err := authority.New()
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	caFile := filepath.Join(folder, "proxies.pem")
	if err := os.WriteFile(caFile, ca.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	certFile, keyFile, err := ca.IssueFiles(folder, "proxies", "praxis.test", "klinik.test", "kasse.test")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	groups := groupsOf(together)
	front := make([]*httptest.Server, len(groups)) // the federation's side, known to all before anything runs
	resolve := map[string]config.Resolve{}
	var specs []konsiltest.Spec
	for i, group := range groups {
		front[i] = httptest.NewUnstartedServer(nil)
		front[i].TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
		var names []string
		for _, tn := range group {
			names = append(names, string(tn.Name))
			resolve[string(tn.Name)] = config.Resolve{Address: front[i].Listener.Addr().String(), CA: caFile}
		}
		specs = append(specs, konsiltest.Spec{Tenants: names})
	}
	specs = append(specs, konsiltest.Spec{Tenants: []string{"fremd.test"}})
	for i := range specs {
		specs[i].Configure = func(c *config.Config) {
			for name, r := range resolve {
				c.Federation.Resolve[name] = r
			}
		}
	}
	n := konsiltest.New(t, specs...)
	for i, group := range groups {
		s.place(n.Cell(i), group, front[i])
	}
	s.stranger = n.Cell(len(groups))
	s.people()
	return s
}

// place puts a proxy in front of a cell.
func (s *scene) place(cell *konsiltest.Cell, group []*tenant.Tenant, federation *httptest.Server) {
	s.Helper()
	p := newProxy(s, s.list, cell, group, func() time.Time { return time.Now().Add(time.Duration(s.later.Load())) })
	client := httptest.NewServer(p)
	s.Cleanup(client.Close)
	federation.Config.Handler = p
	federation.StartTLS()
	s.Cleanup(federation.Close)
	through := *cell
	through.URL = client.URL
	for _, tn := range group {
		s.behind[tn.Name], s.through[tn.Name] = cell, &through
	}
}

func newProxy(t testing.TB, members permission.Members, cell *konsiltest.Cell, group []*tenant.Tenant, now func() time.Time) *proxy.Proxy {
	t.Helper()
	settings := proxy.NewSettings(databasetest.Open(t, databasetest.SQLite(t)))
	log := slog.New(slog.DiscardHandler)
	rules := permission.New(permission.Options{Members: members, AccountData: settings.AccountData, Log: log})
	to, err := url.Parse(cell.URL)
	if err != nil {
		t.Fatal(err)
	}
	p := proxy.New(proxy.Options{Rules: rules, Settings: settings, Tenants: group, Client: to, Federation: to, MatrixVersion: "v1.11", MaxUpload: 1 << 20, Log: log, Now: now})
	t.Cleanup(p.Close)
	return p
}

// people make their accounts behind the proxy, as a provider's administration does, and sign in through it.
func (s *scene) people() {
	s.Helper()
	s.anna, s.clara, s.ben = s.account("@anna:praxis.test"), s.account("@clara:praxis.test"), s.account("@ben:klinik.test")
	s.max, s.nora = s.account("@max:kasse.test"), s.account("@nora:kasse.test")
	s.eve = s.stranger.SignIn(s, "@eve:fremd.test")
}

// attempt is a request with what it is answered.
type attempt func(s *scene) (status int, answer map[string]any)

func asking(who func(*scene) *konsiltest.Session, method, path string, body any) attempt {
	return func(s *scene) (int, map[string]any) { return who(s).Try(method, path, body) }
}

func anna(s *scene) *konsiltest.Session  { return s.anna }
func ben(s *scene) *konsiltest.Session   { return s.ben }
func max(s *scene) *konsiltest.Session   { return s.max }
func eve(s *scene) *konsiltest.Session   { return s.eve }
func clara(s *scene) *konsiltest.Session { return s.clara }

func nobody(server id.Server) func(*scene) *konsiltest.Session {
	return func(s *scene) *konsiltest.Session { return s.through[server].Anonymous(s, string(server)) }
}

const v3 = "/_matrix/client/v3"

// inRoom sends a request about a new room of somebody's; ROOM in the path stands for it.
func inRoom(who func(*scene) *konsiltest.Session, room map[string]any, method, path string, body any) attempt {
	return func(s *scene) (int, map[string]any) {
		if room == nil {
			room = map[string]any{"preset": "private_chat"}
		}
		return who(s).Try(method, strings.ReplaceAll(path, "ROOM", url.PathEscape(who(s).CreateRoom(room))), body)
	}
}

// inviting invites somebody into a new room; a configuration, if any, is the invitee's own beforehand.
func inviting(who, whom func(*scene) *konsiltest.Session, own map[string]any) attempt {
	return func(s *scene) (int, map[string]any) {
		invitee := whom(s)
		if own != nil {
			s.configure(invitee, own)
			defer s.configure(invitee, map[string]any{"defaultSetting": "allow all"})
		}
		return inRoom(who, nil, "POST", v3+"/rooms/ROOM/invite", map[string]any{"user_id": invitee.User})(s)
	}
}

func (s *scene) configure(who *konsiltest.Session, own map[string]any) {
	s.Helper()
	typ := permission.ConfigTypePro
	if strings.HasSuffix(who.User, ":kasse.test") {
		typ = permission.ConfigTypeEPA
	}
	who.Do("PUT", v3+"/user/"+url.PathEscape(who.User)+"/account_data/"+typ, own)
}

// acquainted is a room of two people of different servers.
func (s *scene) acquainted(a, b *konsiltest.Session) string {
	s.Helper()
	room := a.CreateRoom(map[string]any{"preset": "private_chat", "invite": []string{b.User}})
	_, server, _ := strings.Cut(a.User, ":")
	b.Join(room, server)
	return room
}

// plainHTTP is a client for what sessions do not do.
func plainHTTP(t testing.TB) *http.Client {
	t.Helper()
	transport := &http.Transport{DialContext: (&net.Dialer{}).DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}
