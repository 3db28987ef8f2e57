// SPDX-License-Identifier: Apache-2.0

package keyring

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/cache"
	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// MasterSize is the least length of a master key in bytes.
const MasterSize = 32

// Ring holds the master key of one cell. It is safe for concurrent use.
type Ring struct {
	db     *database.DB
	master []byte
	keys   cache.Cache[tenant.ID, Key]
	policy cache.Cache[tenant.ID, Key]
}

// Key is a tenant's current signing key.
type Key struct {
	ID      id.KeyID
	Private ed25519.PrivateKey
	Public  ed25519.PublicKey
}

// OldKey is a signing key that a tenant no longer uses; events signed with it stay verifiable for ever.
type OldKey struct {
	ID        id.KeyID
	Public    ed25519.PublicKey
	ExpiredTS int64 // ms since the epoch
}

// New returns the ring of a cell; the master key has at least [MasterSize] bytes.
func New(db *database.DB, master []byte) (*Ring, error) {
	if len(master) < MasterSize {
		return nil, fmt.Errorf("master key has %d bytes, needs at least %d", len(master), MasterSize)
	}
	keys := cache.Options[tenant.ID, Key]{Entries: 4096}
	return &Ring{db: db, master: master, keys: cache.New(keys), policy: cache.New(keys)}, nil
}

// Derive returns n bytes that only this cell knows and that differ for each purpose.
func (r *Ring) Derive(purpose string, n int) []byte {
	key, err := hkdf.Key(sha256.New, r.master, nil, "konsil:"+purpose, n)
	if err != nil {
		panic(err) // only for n > 8160: a programming error
	}
	return key
}

func (r *Ring) aead(purpose string) cipher.AEAD {
	block, err := aes.NewCipher(r.Derive(purpose, 32))
	if err != nil {
		panic(err) // 32 bytes are a valid AES key
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return aead
}

// Seal encrypts and authenticates plain for one purpose.
func (r *Ring) Seal(purpose string, plain []byte) []byte {
	return r.aead(purpose).Seal(nil, nil, plain, nil)
}

// Unseal opens what Seal made for the same purpose under the same master key.
func (r *Ring) Unseal(purpose string, sealed []byte) ([]byte, error) {
	plain, err := r.aead(purpose).Open(nil, nil, sealed, nil)
	if err != nil {
		return nil, fmt.Errorf("unseal %s: wrong master key or damaged data", purpose)
	}
	return plain, nil
}

// Signing returns the tenant's current signing key; the first call makes it.
func (r *Ring) Signing(ctx context.Context, t tenant.ID) (Key, error) {
	if k, ok := r.keys.Get(t); ok {
		return k, nil
	}
	k, err := r.load(ctx, t)
	if errors.Is(err, sql.ErrNoRows) {
		k, err = r.create(ctx, t)
	}
	if err != nil {
		return Key{}, fmt.Errorf("signing key: %w", err)
	}
	r.keys.Set(t, k)
	return k, nil
}

func (r *Ring) load(ctx context.Context, t tenant.ID) (Key, error) {
	var k Key
	var sealed []byte
	err := r.db.QueryRow(ctx, "SELECT key_id, sealed FROM signing_key WHERE tenant = $1 AND expired = 0 ORDER BY created LIMIT 1", int64(t)).Scan(&k.ID, &sealed)
	if err != nil {
		return Key{}, err
	}
	seed, err := r.Unseal(sealPurpose(t), sealed)
	if err != nil {
		return Key{}, err
	}
	k.Private = ed25519.NewKeyFromSeed(seed)
	k.Public = k.Private.Public().(ed25519.PublicKey)
	return k, nil
}

// create makes the first key. Two nodes may do so at once; the tenant's row decides, and both read what is there afterwards.
func (r *Ring) create(ctx context.Context, t tenant.ID) (Key, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Key{}, err
	}
	err = r.db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE tenant SET state = state WHERE tenant = $1", int64(t)); err != nil { // lock
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO signing_key (tenant, key_id, public, sealed, created, expired)
			SELECT $1, $2, $3, $4, $5, 0 WHERE NOT EXISTS (SELECT 1 FROM signing_key WHERE tenant = $1 AND expired = 0)`,
			int64(t), string(newKeyID()), []byte(public), r.Seal(sealPurpose(t), private.Seed()), time.Now().UnixMilli())
		return err
	})
	if err != nil {
		return Key{}, err
	}
	return r.load(ctx, t)
}

// Old returns the keys that the tenant no longer signs with, for old_verify_keys.
func (r *Ring) Old(ctx context.Context, t tenant.ID) ([]OldKey, error) {
	rows, err := r.db.Query(ctx, "SELECT key_id, public, expired FROM signing_key WHERE tenant = $1 AND expired > 0 ORDER BY expired", int64(t))
	return database.All(rows, err, func(rows *sql.Rows) (OldKey, error) {
		var k OldKey
		var public []byte
		err := rows.Scan(&k.ID, &public, &k.ExpiredTS)
		k.Public = public
		return k, err
	})
}

// Rotate retires the current key and makes a new one, which it returns.
func (r *Ring) Rotate(ctx context.Context, t tenant.ID) (Key, error) {
	_, err := r.db.Exec(ctx, "UPDATE signing_key SET expired = $2 WHERE tenant = $1 AND expired = 0", int64(t), time.Now().UnixMilli())
	if err != nil {
		return Key{}, err
	}
	r.keys.Invalidate(t)
	return r.Signing(ctx, t)
}

// sealPurpose binds a sealed key to its tenant, so that rows cannot be swapped.
func sealPurpose(t tenant.ID) string { return fmt.Sprintf("signing-key:%d", t) }

func newKeyID() id.KeyID {
	const alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	var b strings.Builder
	b.WriteString("ed25519:k_")
	for range 6 {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(alphabet))))
		if err != nil {
			panic(err)
		}
		b.WriteByte(alphabet[n.Int64()])
	}
	return id.KeyID(b.String())
}
