// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/singleflight"

	"github.com/konsil-health/konsil/internal/foundation/cache"
	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/keyring"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

// Validity of keys, server-server API, "Publishing Keys".
const (
	// keyMost is how long a fetched key is believed at most, whatever its server says.
	keyMost = 7 * 24 * time.Hour
	// keyLife is how long our own answers are valid.
	keyLife = 24 * time.Hour
	// keyPause is how long a server is left alone after its keys were asked for, so that made-up key ids do not become requests.
	keyPause = 30 * time.Second
	// maxKeys bounds the keys of one answer.
	maxKeys = 100
)

// forEver is the validity of a tenant's current key within its own cell.
const forEver = int64(1) << 62

// verifyKey is one signing key of a server.
type verifyKey struct {
	public     ed25519.PublicKey
	validUntil int64 // ms; meaningful while expired is 0
	expired    int64 // ms since when the key is no longer used; 0 for a current one
}

// signsAt says whether something made at ts (ms) may be signed with the key. Old room versions do not look at the time (enforce false).
func (k verifyKey) signsAt(ts int64, enforce bool) bool {
	switch {
	case !enforce:
		return true
	case k.expired > 0:
		return ts <= k.expired
	}
	return ts <= k.validUntil
}

type keyName struct {
	server id.Server
	key    id.KeyID
}

// storageError is a failure of our own storage: it says nothing about the key or the event, which have to come again.
type storageError struct{ error }

// Unwrap gives the cause.
func (e *storageError) Unwrap() error { return e.error }

// ours marks an error as one of our own storage.
func ours(err error) error {
	if err == nil || errors.Is(err, errNoKey) || errors.Is(err, tenant.ErrUnknown) {
		return err
	}
	return &storageError{err}
}

var (
	errNoKey      = errors.New("the server does not publish this key")
	errKeyExpired = errors.New("the key is not valid at that time")
	// errNoAnswer: whether the key is good is not known, since nobody could be asked. It may be known later.
	errNoAnswer = errors.New("its server did not answer")
)

// keys knows the signing keys of all servers: of this cell's tenants from the keyring, of others from their key endpoint, kept in a shared
// table, since they are public facts. It is safe for concurrent use.
type keys struct {
	db      *database.DB
	ring    *keyring.Ring
	tenants *tenant.Store
	local   bool // tenants' keys come from the keyring, not over HTTP
	now     func() time.Time
	// ask fetches a server's own answer, askNotary what a notary says about a server.
	ask       func(ctx context.Context, server id.Server) ([]byte, error)
	askNotary func(ctx context.Context, notary, server id.Server) ([]byte, error)
	notaries  []id.Server

	cache cache.Cache[keyName, verifyKey]
	asked cache.Cache[id.Server, int64] // ms of the last attempt
	// answered are servers whose last attempt brought an answer: a key that is not in it does not exist.
	answered cache.Cache[id.Server, struct{}]
	flight   singleflight.Group
}

func newKeys(s *Service, now func() time.Time) *keys {
	return &keys{db: s.DB, ring: s.Keyring, tenants: s.Tenants, local: !s.config.ForceHTTP, now: now,
		ask: s.askKeys, askNotary: s.askNotary, notaries: s.config.KeyServers,
		cache:    cache.New(cache.Options[keyName, verifyKey]{Entries: 50_000}),
		asked:    cache.New(cache.Options[id.Server, int64]{Entries: 10_000}),
		answered: cache.New(cache.Options[id.Server, struct{}]{Entries: 10_000}),
	}
}

// find returns a server's key that may sign something made at ts. A key that is unknown or not valid then is asked for at its server, at
// most once in a while.
func (k *keys) find(ctx context.Context, name keyName, ts int64, enforce bool) (ed25519.PublicKey, error) {
	if k.local {
		key, err := k.neighbour(ctx, name)
		if err == nil && !key.signsAt(ts, enforce) {
			err = errKeyExpired
		}
		if !errors.Is(err, tenant.ErrUnknown) {
			return key.public, err
		}
	}
	key, err := k.stored(ctx, name)
	if err == nil && key.signsAt(ts, enforce) {
		return key.public, nil
	}
	if err != nil && !errors.Is(err, errNoKey) {
		return nil, err
	}
	fetchErr := k.refresh(ctx, name.server)
	if fetchErr == nil || errors.Is(fetchErr, errAskedLately) { // the answer to another one may have come since the look above
		if key, err = k.stored(ctx, name); err != nil && !errors.Is(err, errNoKey) {
			return nil, err
		}
	}
	if err == nil && key.signsAt(ts, enforce) {
		return key.public, nil
	}
	if err == nil {
		err = errKeyExpired
	}
	if fetchErr == nil {
		return nil, fmt.Errorf("%s of %s: %w", name.key, name.server, err)
	}
	if _, answered := k.answered.Get(name.server); !answered {
		err = fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	return nil, fmt.Errorf("%s of %s: %w; asking its server: %w", name.key, name.server, err, fetchErr)
}

// neighbour answers for a tenant of this cell; tenant.ErrUnknown when the server is none.
func (k *keys) neighbour(ctx context.Context, name keyName) (verifyKey, error) {
	t, err := k.tenants.ByName(ctx, name.server)
	if err != nil {
		return verifyKey{}, ours(err)
	}
	current, err := k.ring.Signing(ctx, t.ID)
	if err != nil {
		return verifyKey{}, ours(err)
	}
	if current.ID == name.key {
		return verifyKey{public: current.Public, validUntil: forEver}, nil
	}
	old, err := k.ring.Old(ctx, t.ID)
	if err != nil {
		return verifyKey{}, ours(err)
	}
	for _, o := range old {
		if o.ID == name.key {
			return verifyKey{public: o.Public, expired: o.ExpiredTS}, nil
		}
	}
	return verifyKey{}, fmt.Errorf("%s of %s: %w", name.key, name.server, errNoKey)
}

// stored reads a key from memory or the table.
func (k *keys) stored(ctx context.Context, name keyName) (verifyKey, error) {
	if key, ok := k.cache.Get(name); ok {
		return key, nil
	}
	var key verifyKey
	var public []byte
	err := k.db.QueryRow(ctx, "SELECT public, valid_until, expired FROM server_key WHERE server = $1 AND key_id = $2",
		string(name.server), string(name.key)).Scan(&public, &key.validUntil, &key.expired)
	if errors.Is(err, sql.ErrNoRows) {
		return verifyKey{}, errNoKey
	}
	if err != nil {
		return verifyKey{}, ours(err)
	}
	if len(public) != ed25519.PublicKeySize {
		return verifyKey{}, errNoKey
	}
	key.public = public
	k.cache.Set(name, key)
	return key, nil
}

// errAskedLately is answered instead of asking a server for its keys again at once.
var errAskedLately = errors.New("it was asked a moment ago")

// refresh asks a server for its keys, and the configured notaries when it does not answer, and stores them.
func (k *keys) refresh(ctx context.Context, server id.Server) error {
	err := k.refreshDirectly(ctx, server)
	if err == nil || len(k.notaries) == 0 || errors.Is(err, errAskedLately) {
		return err
	}
	for _, notary := range k.notaries {
		if notary != server && k.fromNotary(ctx, notary, server) == nil {
			return nil
		}
	}
	return err
}

// refreshDirectly asks a server itself. Concurrent callers share one request. A notary asks only like this: two that ask each other would wait
// for ever.
func (k *keys) refreshDirectly(ctx context.Context, server id.Server) error {
	result := k.flight.DoChan(string(server), func() (any, error) {
		now := k.now().UnixMilli()
		if at, ok := k.asked.Get(server); ok && now-at < keyPause.Milliseconds() {
			return nil, errAskedLately
		}
		k.asked.Set(server, now)
		k.answered.Invalidate(server)
		ctx := context.WithoutCancel(ctx) // others may wait for the same answer; the request has a timeout of its own
		body, err := k.ask(ctx, server)
		if err != nil {
			return nil, err
		}
		if err := k.accept(ctx, server, body); err != nil {
			return nil, err
		}
		k.answered.Set(server, struct{}{})
		return nil, nil
	})
	select {
	case r := <-result:
		return r.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// askAgain lets a server be asked at once that has not answered the last time.
func (k *keys) askAgain(server id.Server) {
	if _, answered := k.answered.Get(server); !answered {
		k.asked.Invalidate(server)
	}
}

// accept checks a server's answer about its own keys and stores it.
func (k *keys) accept(ctx context.Context, server id.Server, body []byte) error {
	a, err := parseServerKeys(server, body)
	if err != nil {
		return err
	}
	return k.store(ctx, a, body)
}

// fromNotary takes a server's keys from a configured notary, which must have signed them beside the server itself.
func (k *keys) fromNotary(ctx context.Context, notary, server id.Server) error {
	body, err := k.askNotary(ctx, notary, server)
	if err != nil {
		return err
	}
	var doc notaryAnswer
	if err := json.Unmarshal(body, &doc); err != nil {
		return err
	}
	last := errNoKey
	for _, raw := range doc.Keys {
		if canonicaljson.GetString(raw, "server_name") != string(server) {
			continue
		}
		if last = k.witnessedBy(ctx, notary, raw); last == nil {
			if last = k.accept(ctx, server, raw); last == nil {
				return nil
			}
		}
	}
	return last
}

// witnessedBy checks a notary's signature.
func (k *keys) witnessedBy(ctx context.Context, notary id.Server, raw jsontext.Value) error {
	last := errNoKey
	for keyID := range canonicaljson.Members(canonicaljson.Get(raw, "signatures", string(notary))) {
		name := keyName{notary, id.KeyID(keyID)}
		if !validKeyID(name.key) {
			continue
		}
		public, err := k.find(ctx, name, k.now().UnixMilli(), true)
		if err == nil {
			err = signing.VerifyJSON(raw, string(notary), name.key, public)
		}
		if last = err; last == nil {
			return nil
		}
	}
	return last
}

func (k *keys) store(ctx context.Context, a *serverKeys, body []byte) error {
	now := k.now()
	until := min(a.validUntil, now.Add(keyMost).UnixMilli())
	err := k.db.Write(ctx, func(tx *database.Tx) error {
		for keyID, key := range a.keys {
			if _, err := tx.Exec(ctx, `INSERT INTO server_key (server, key_id, public, valid_until, expired) VALUES ($1, $2, $3, $4, $5)
				ON CONFLICT (server, key_id) DO UPDATE SET public = excluded.public, valid_until = excluded.valid_until, expired = excluded.expired`,
				string(a.server), string(keyID), []byte(key.public), until, key.expired); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `INSERT INTO server_key_answer (server, answer, valid_until, fetched) VALUES ($1, $2, $3, $4)
			ON CONFLICT (server) DO UPDATE SET answer = excluded.answer, valid_until = excluded.valid_until, fetched = excluded.fetched`,
			string(a.server), string(body), a.validUntil, now.UnixMilli())
		return err
	})
	if err != nil {
		return ours(err)
	}
	for keyID := range a.keys {
		k.cache.Invalidate(keyName{a.server, keyID})
	}
	return nil
}

// serverKeys is a verified answer of GET /_matrix/key/v2/server.
type serverKeys struct {
	server     id.Server
	validUntil int64
	keys       map[id.KeyID]verifyKey
}

// parseServerKeys reads an answer of a server about its own keys. A current key counts only when the answer is signed with it, so that nobody
// can claim somebody else's; keys of other algorithms are skipped.
func parseServerKeys(server id.Server, body []byte) (*serverKeys, error) {
	var doc struct {
		Server     id.Server `json:"server_name"`
		ValidUntil int64     `json:"valid_until_ts"`
		Current    map[id.KeyID]struct {
			Key string `json:"key"`
		} `json:"verify_keys"`
		Old map[id.KeyID]struct {
			Key     string `json:"key"`
			Expired int64  `json:"expired_ts"`
		} `json:"old_verify_keys"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, fmt.Errorf("keys of %s: %w", server, err)
	}
	if doc.Server != server {
		return nil, fmt.Errorf("keys of %s: the answer is about %q", server, doc.Server)
	}
	if len(doc.Current)+len(doc.Old) > maxKeys {
		return nil, fmt.Errorf("keys of %s: more than %d", server, maxKeys)
	}
	a := &serverKeys{server: server, validUntil: doc.ValidUntil, keys: make(map[id.KeyID]verifyKey)}
	for keyID, k := range doc.Old {
		if public, ok := publicKey(keyID, k.Key); ok && k.Expired > 0 {
			a.keys[keyID] = verifyKey{public: public, expired: k.Expired}
		}
	}
	signed := 0
	for keyID, k := range doc.Current {
		public, ok := publicKey(keyID, k.Key)
		if !ok || signing.VerifyJSON(body, string(server), keyID, public) != nil {
			continue
		}
		a.keys[keyID] = verifyKey{public: public, validUntil: doc.ValidUntil}
		signed++
	}
	if signed == 0 {
		return nil, fmt.Errorf("keys of %s: the answer is signed with none of its keys", server)
	}
	return a, nil
}

func publicKey(keyID id.KeyID, encoded string) (ed25519.PublicKey, bool) {
	if !validKeyID(keyID) {
		return nil, false
	}
	raw, err := signing.Decode(encoded)
	return raw, err == nil && len(raw) == ed25519.PublicKeySize
}
