// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

// rotates lets a scripted server publish a new key, and its former one as expired.
func (s *scripted) rotates(t *testing.T, expired time.Time) {
	t.Helper()
	old, oldID := s.private.Public().(ed25519.PublicKey), s.keyID
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s.private, s.keyID = private, "ed25519:new"
	raw := fmt.Sprintf(`{"server_name":%q,"valid_until_ts":%d,"verify_keys":{%q:{"key":%q}},"old_verify_keys":{%q:{"key":%q,"expired_ts":%d}}}`, s.name,
		time.Now().Add(time.Hour).UnixMilli(), s.keyID, signing.Encode(private.Public().(ed25519.PublicKey)), oldID, signing.Encode(old), expired.UnixMilli())
	signed, err := signing.SignJSON([]byte(raw), string(s.name), s.keyID, private)
	if err != nil {
		t.Fatal(err)
	}
	s.playsKeys(answers("application/json", string(signed)))
}

// TestKeyRotation: after a rotation the new key counts, and the old one for what was made before it expired; old room versions do not look at the
// time.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	a, evil := hostile(t, Config{})
	now := time.Now()
	old := keyName{nameEvil, evil.keyID}
	find := func(name keyName, at time.Time, enforce bool) error {
		_, err := a.fed.keys.find(t.Context(), name, at.UnixMilli(), enforce)
		return err
	}
	if err := find(old, now, true); err != nil {
		t.Fatal(err)
	}
	if err := find(old, now.Add(2*time.Hour), true); !errors.Is(err, errKeyExpired) {
		t.Errorf("after valid_until_ts: %v", err)
	}
	expired := now.Add(-time.Minute)
	evil.rotates(t, expired)
	a.fed.keys.asked.Invalidate(nameEvil)
	for _, c := range []struct {
		what    string
		name    keyName
		at      time.Time
		enforce bool
		want    error
	}{
		{"the new key", keyName{nameEvil, "ed25519:new"}, now, true, nil},
		{"the old key, before it expired", old, expired.Add(-time.Second), true, nil},
		{"the old key, when it expired", old, expired, true, nil},
		{"the old key, after it expired", old, expired.Add(time.Second), true, errKeyExpired},
		{"the old key, after it expired, in a room of version 4", old, expired.Add(time.Second), false, nil},
		{"the new key, after valid_until_ts", keyName{nameEvil, "ed25519:new"}, now.Add(2 * time.Hour), true, errKeyExpired},
		{"the new key, after valid_until_ts, in a room of version 4", keyName{nameEvil, "ed25519:new"}, now.Add(2 * time.Hour), false, nil},
		{"a key that there never was", keyName{nameEvil, "ed25519:other"}, now, false, errNoKey},
	} {
		if err := find(c.name, c.at, c.enforce); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
	}
}

// TestOneFetchForMany: however many wait for a server's keys, it is asked once; and once more only after a while, whatever keys are made up.
func TestOneFetchForMany(t *testing.T) {
	t.Parallel()
	a, evil := hostile(t, Config{})
	entered, hold := make(chan struct{}, 100), make(chan struct{})
	evil.playsKeys(func(w http.ResponseWriter, _ *http.Request) {
		entered <- struct{}{}
		<-hold
		w.Write(evil.ownKeys(time.Now().Add(time.Hour))) //nolint:errcheck // the waiters see it
	})
	var wait sync.WaitGroup
	for range 50 {
		wait.Go(func() {
			if _, err := a.fed.keys.find(t.Context(), keyName{nameEvil, evil.keyID}, time.Now().UnixMilli(), true); err != nil {
				t.Error(err)
			}
		})
	}
	<-entered
	close(hold)
	wait.Wait()
	for i := range 20 {
		if _, err := a.fed.keys.find(t.Context(), keyName{nameEvil, id.KeyID(fmt.Sprint("ed25519:made", i))}, 0, false); !errors.Is(err, errNoKey) {
			t.Errorf("a made-up key: %v", err)
		}
	}
	if n := evil.requests("/key/v2/server"); n != 1 {
		t.Errorf("it was asked %d times", n)
	}
}

// TestNotaryFreshness: what is stored is given while it is valid for as long as is asked; else the server is asked; and when it is gone, what is
// stored is given all the same. GET and POST answer alike.
func TestNotaryFreshness(t *testing.T) {
	t.Parallel()
	a, evil := hostile(t, Config{})
	ask := func(until time.Time, post bool) int {
		t.Helper()
		method, uri, body := http.MethodGet, fmt.Sprintf("/_matrix/key/v2/query/%s?minimum_valid_until_ts=%d", nameEvil, until.UnixMilli()), ""
		if post {
			method, uri = http.MethodPost, "/_matrix/key/v2/query"
			body = fmt.Sprintf(`{"server_keys":{%q:{%q:{"minimum_valid_until_ts":%d}}}}`, nameEvil, evil.keyID, until.UnixMilli())
		}
		status, _, raw := evil.sends(a, method, uri, []byte(body))
		var doc notaryAnswer
		if err := json.Unmarshal(raw, &doc); err != nil || status != http.StatusOK || len(doc.Keys) != 1 {
			t.Fatalf("%d %s: %v", status, raw, err)
		}
		if canonicaljson.Get(doc.Keys[0], "signatures", string(nameEvil)) == nil || canonicaljson.Get(doc.Keys[0], "signatures", string(nameA)) == nil {
			t.Errorf("not signed by both: %s", raw)
		}
		return evil.requests("/key/v2/server")
	}
	soon, late := time.Now().Add(time.Minute), time.Now().Add(3*time.Hour)
	for i, c := range []struct {
		until time.Time
		post  bool
		want  int
	}{{soon, false, 1}, {soon, true, 1}, {late, true, 2}, {late, false, 3}} {
		a.fed.keys.asked.Invalidate(nameEvil)
		if n := ask(c.until, c.post); n != c.want {
			t.Errorf("question %d: the server has been asked %d times, want %d", i, n, c.want)
		}
	}
	evil.front.CloseClientConnections()
	evil.playsKeys(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	a.fed.keys.asked.Invalidate(nameEvil)
	ask(late, true)
}
