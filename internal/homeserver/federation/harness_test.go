// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/httpapi/spectest"
	"github.com/konsil-health/konsil/internal/foundation/keyring"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/homeserver/space"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// authority issues certificates for the test's servers.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test roots"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) issue(t testing.TB, names ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: names, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// front is a cell's TLS listener. It outlives the cell behind it: without one, or while it is cut, connections break off.
type front struct {
	server  *httptest.Server
	handler atomic.Pointer[http.Handler]
	// after, when set, is asked once a request has been answered by the cell; true loses the answer.
	after atomic.Pointer[func(*http.Request) bool]
}

func newFront(t testing.TB, a *authority, names ...string) *front {
	t.Helper()
	f := &front{}
	f.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := f.handler.Load()
		if h == nil {
			panic(http.ErrAbortHandler)
		}
		after := f.after.Load()
		if after == nil {
			(*h).ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		(*h).ServeHTTP(rec, r)
		if (*after)(r) {
			panic(http.ErrAbortHandler)
		}
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		w.Write(rec.Body.Bytes()) //nolint:errcheck // the test sees the missing answer
	}))
	f.server.TLS = &tls.Config{Certificates: []tls.Certificate{a.issue(t, names...)}}
	f.server.EnableHTTP2 = true
	f.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	f.server.StartTLS()
	t.Cleanup(f.server.Close)
	return f
}

func (f *front) address() string { return f.server.Listener.Addr().String() }

// cell is one node with a database of its own.
type cell struct {
	t         testing.TB
	db        *database.DB
	tenants   *tenant.Store
	feed      *stream.Feed
	committer *stream.Committer
	rooms     *room.Service
	spaces    *space.Service
	fed       *Service
	router    *httpapi.Router
	front     *front
	url       string
	source    Source
	rested    chan route
	once      sync.Once

	mu   sync.Mutex
	edus []received
}

type received struct {
	tenant  id.Server
	origin  id.Server
	content string
}

// setting is how a cell is made.
type setting struct {
	url    string
	config Config
	policy policy.Policy
	front  *front
	source Source
	// bodyTime is how long a request's body may take; 0 is the ordinary time.
	bodyTime time.Duration
}

func newCell(t testing.TB, set setting, names ...id.Server) *cell {
	t.Helper()
	ctx := context.Background()
	c := &cell{t: t, front: set.front, url: set.url, source: set.source, rested: make(chan route, 10_000)}
	db, err := database.Open(ctx, database.Options{URL: set.url, Readers: 4})
	if err != nil {
		t.Fatal(err)
	}
	c.db, c.tenants, c.feed = db, tenant.NewStore(db), stream.NewFeed(db)
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	if c.committer, err = stream.NewCommitter(ctx, db, c.feed, log); err != nil {
		t.Fatal(err)
	}
	ring, err := keyring.New(db, make([]byte, keyring.MasterSize))
	if err != nil {
		t.Fatal(err)
	}
	if set.policy == nil {
		set.policy = policy.Open{}
	}
	c.router = httpapi.NewRouter(httpapi.Options{Tenants: c.tenants, Admit: set.policy.Federate, Log: log, BodyTime: set.bodyTime})
	o := Options{DB: db, Tenants: c.tenants, Keyring: ring, Feed: c.feed, Policy: set.policy, Log: log, Config: set.config, Router: c.router,
		EDUs: map[string]func(context.Context, *tenant.Tenant, id.Server, jsontext.Value) error{}}
	for _, kind := range []string{"m.typing", "m.receipt", "m.direct_to_device"} {
		o.EDUs[kind] = func(_ context.Context, t *tenant.Tenant, origin id.Server, content jsontext.Value) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.edus = append(c.edus, received{t.Name, origin, string(content)})
			return nil
		}
	}
	if set.source != nil {
		o.Sources = []Source{set.source}
	}
	c.fed = New(o)
	c.fed.outbox.onRest = func(r route) { c.rested <- r }
	c.rooms = room.New(room.Options{DB: db, Committer: c.committer, Feed: c.feed, Keyring: ring, Tenants: c.tenants, Policy: set.policy, Log: log,
		Remote: c.fed, RemoteByTime: c.fed.ByTimestamp, Identity: c.fed, PolicySign: c.fed.PolicySign, PolicyKey: c.fed.PolicyKey, Stored: c.fed.Relay})
	c.fed.SetRooms(c.rooms)
	c.spaces = space.New(space.Options{Rooms: c.rooms, Remote: c.fed.Hierarchy})
	c.fed.Spaces = c.spaces
	c.feed.SetMembers(c.rooms.WaitingMembers)
	c.router.Authenticate(nil, c.fed)
	c.router.Add(c.fed.Routes()...)
	for _, name := range names {
		if _, err := c.tenants.Create(ctx, tenant.Spec{Name: name}); err != nil && !errors.Is(err, tenant.ErrExists) {
			t.Fatal(err)
		}
	}
	c.fed.Start()
	if err := c.rooms.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	if set.front != nil {
		c.up()
	}
	t.Cleanup(c.close)
	return c
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

// up lets the cell's listener reach it, down cuts it off.
func (c *cell) up() {
	h := spectest.Handler(c.t, c.router)
	c.front.handler.Store(&h)
}

func (c *cell) down() {
	c.front.handler.Store(nil)
	c.front.server.CloseClientConnections()
}

func (c *cell) close() {
	c.once.Do(func() {
		if c.front != nil {
			c.front.handler.Store(nil)
		}
		c.fed.Close()
		c.rooms.Close()
		c.committer.Close()
		if err := c.db.Close(); err != nil {
			c.t.Error(err)
		}
	})
}

// server is one tenant with what the scenarios need of its cell.
type server struct {
	*cell
	me *tenant.Tenant
}

func (c *cell) server(name id.Server) *server {
	c.t.Helper()
	me, err := c.tenants.ByName(context.Background(), name)
	if err != nil {
		c.t.Fatal(err)
	}
	return &server{c, me}
}

func (s *server) user(localpart string) id.User {
	return id.User("@" + localpart + ":" + string(s.me.Name))
}

func (s *server) say(r id.Room, sender id.User, body string) id.Event {
	s.t.Helper()
	eid, err := s.rooms.Send(s.t.Context(), s.me, room.Draft{Room: r, Sender: sender, Type: "m.room.message",
		Content: jsontext.Value(fmt.Sprintf(`{"msgtype":"m.text","body":%q}`, body))})
	if err != nil {
		s.t.Fatal(err)
	}
	return eid
}

// sayAt is say with a time of its own, in ms.
func (s *server) sayAt(r id.Room, sender id.User, ts int64) id.Event {
	s.t.Helper()
	eid, err := s.rooms.Send(s.t.Context(), s.me, room.Draft{Room: r, Sender: sender, Type: "m.room.message", Timestamp: ts + 1,
		Content: jsontext.Value(`{"msgtype":"m.text","body":"then"}`)})
	if err != nil {
		s.t.Fatal(err)
	}
	return eid
}

// gets waits until a user's server has events in the timeline.
func (s *server) gets(user id.User, events ...id.Event) {
	s.t.Helper()
	s.until(user, func() bool {
		return s.count(events...) == len(events)
	})
}

// count says how many of the events stand in a timeline. It asks the database, since memory runs ahead of it.
func (s *server) count(events ...id.Event) (n int) {
	s.t.Helper()
	for _, eid := range events {
		var found int
		err := s.db.QueryRow(s.t.Context(), "SELECT COUNT(*) FROM event WHERE tenant = $1 AND event_id = $2 AND position > 0", int64(s.me.ID), string(eid)).Scan(&found)
		if err != nil {
			s.t.Fatal(err)
		}
		n += found
	}
	return n
}

// until waits for something that the user's feed announces.
func (s *server) until(user id.User, done func() bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	for {
		at, err := s.feed.Position(ctx, s.me.ID)
		if err != nil {
			s.t.Fatal(err)
		}
		if done() {
			return
		}
		if err := s.feed.Wait(ctx, s.me.ID, user, at, s.feed.Ephemeral()); err != nil {
			s.t.Fatalf("waiting for %s: %v", user, err)
		}
	}
}

// idle waits until the sender to a destination has come to rest and nothing is pending.
func (s *server) idle(destination id.Server) {
	s.t.Helper()
	timeout := time.After(time.Minute)
	for {
		if s.pending(destination) == 0 {
			return
		}
		select {
		case <-s.rested:
		case <-timeout:
			s.t.Fatalf("something stays pending for %s", destination)
		}
	}
}

// pending counts outbox rows for a destination, and transactions under way.
func (s *server) pending(destination id.Server) (n int) {
	s.t.Helper()
	for _, table := range []string{"outbox", "federation_outgoing"} {
		var rows int
		err := s.db.QueryRow(s.t.Context(), "SELECT COUNT(*) FROM "+table+" WHERE tenant = $1 AND destination = $2", int64(s.me.ID), string(destination)).Scan(&rows)
		if err != nil {
			s.t.Fatal(err)
		}
		n += rows
	}
	return n
}

// when waits until something holds at the end of a run of some sender.
func (s *server) when(done func() bool) {
	s.t.Helper()
	timeout := time.After(time.Minute)
	for !done() {
		select {
		case <-s.rested:
		case <-timeout:
			s.t.Fatal("it does not come to that")
		}
	}
}

// isAway says whether the destination has been found unreachable.
func (s *server) isAway(destination id.Server) func() bool {
	return func() bool {
		down, err := s.fed.reach.isDown(s.t.Context(), destination)
		if err != nil {
			s.t.Fatal(err)
		}
		return down
	}
}

// waits says whether the sender to a destination waits for its next attempt.
func (s *server) waits(destination id.Server) func() bool {
	return func() bool {
		s.fed.outbox.mu.Lock()
		defer s.fed.outbox.mu.Unlock()
		d := s.fed.outbox.senders[route{s.me.ID, destination}]
		return d != nil && d.timer != nil
	}
}

// meeting makes a room on a with a user of b in it.
func meeting(t testing.TB, a, b *server, version string) id.Room {
	t.Helper()
	ctx := t.Context()
	r, err := a.rooms.Create(ctx, a.me, a.user("anna"), policy.CreateRoom{RoomVersion: version, Name: "Konsil", Preset: "private_chat"})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.rooms.Invite(ctx, a.me, r, a.user("anna"), b.user("ben"), "", false); err != nil {
		t.Fatalf("invite: %v", err)
	}
	if err := b.rooms.Join(ctx, b.me, b.user("ben"), r, []id.Server{a.me.Name}, ""); err != nil {
		t.Fatalf("join: %v", err)
	}
	return r
}

// pair is two servers that can reach each other.
type pair struct{ a, b *server }

const (
	nameA = id.Server("a.example")
	nameB = id.Server("b.example")
	nameC = id.Server("c.example")
)

// overTLS is two cells joined by real HTTPS.
func overTLS(t testing.TB, urlA, urlB string, config Config) pair {
	t.Helper()
	ca := newAuthority(t)
	fa, fb := newFront(t, ca, string(nameA), string(nameC)), newFront(t, ca, string(nameB))
	config.Resolve = map[id.Server]Override{
		nameA: {Address: fa.address(), Roots: ca.pool}, nameB: {Address: fb.address(), Roots: ca.pool}, nameC: {Address: fa.address(), Roots: ca.pool},
	}
	a := newCell(t, setting{url: urlA, config: config, front: fa}, nameA, nameC)
	b := newCell(t, setting{url: urlB, config: config, front: fb}, nameB)
	return pair{a.server(nameA), b.server(nameB)}
}

// inOneCell is two tenants of one cell.
func inOneCell(t testing.TB, url string, config Config) pair {
	t.Helper()
	if config.ForceHTTP {
		ca := newAuthority(t)
		f := newFront(t, ca, string(nameA), string(nameB))
		config.Resolve = map[id.Server]Override{nameA: {Address: f.address(), Roots: ca.pool}, nameB: {Address: f.address(), Roots: ca.pool}}
		c := newCell(t, setting{url: url, config: config, front: f}, nameA, nameB)
		return pair{c.server(nameA), c.server(nameB)}
	}
	c := newCell(t, setting{url: url, config: config}, nameA, nameB)
	return pair{c.server(nameA), c.server(nameB)}
}

// everyWay runs a scenario of two servers over every transport and on both databases: the results must be the same.
func everyWay(t *testing.T, scenario func(t *testing.T, p pair)) {
	t.Parallel()
	fast := Config{RetryMin: 10 * time.Millisecond, RetryMax: 50 * time.Millisecond}
	t.Run("tls", func(t *testing.T) {
		t.Parallel()
		scenario(t, overTLS(t, databasetest.SQLite(t), databasetest.SQLite(t), fast))
	})
	t.Run("tls-postgres", func(t *testing.T) {
		t.Parallel()
		scenario(t, overTLS(t, databasetest.Postgres(t), databasetest.Postgres(t), fast))
	})
	t.Run("in-process", func(t *testing.T) {
		t.Parallel()
		scenario(t, inOneCell(t, databasetest.SQLite(t), fast))
	})
	t.Run("in-process-postgres", func(t *testing.T) {
		t.Parallel()
		scenario(t, inOneCell(t, databasetest.Postgres(t), fast))
	})
	t.Run("one-cell-http", func(t *testing.T) {
		t.Parallel()
		config := fast
		config.ForceHTTP = true
		scenario(t, inOneCell(t, databasetest.SQLite(t), config))
	})
}

// hasCode fails unless an error is the given Matrix error.
func hasCode(t testing.TB, err error, want *mxerror.Error) {
	t.Helper()
	if got := mxerror.From(err); got == nil || got.Code != want.Code {
		t.Errorf("got %v, want %s", err, want.Code)
	}
}
