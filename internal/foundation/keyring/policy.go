// SPDX-License-Identifier: Apache-2.0

package keyring

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// PolicyKeyID is the id of the key with which every policy server signs (server-server API, "Policy Servers").
const PolicyKeyID = id.KeyID("ed25519:policy_server")

// Policy returns the key with which the tenant signs as policy server; the first call makes it. Rooms name its public half, so it stays for ever.
func (r *Ring) Policy(ctx context.Context, t tenant.ID) (Key, error) {
	if k, ok := r.policy.Get(t); ok {
		return k, nil
	}
	k, err := r.loadPolicy(ctx, t)
	if errors.Is(err, sql.ErrNoRows) {
		if err = r.createPolicy(ctx, t); err == nil {
			k, err = r.loadPolicy(ctx, t)
		}
	}
	if err != nil {
		return Key{}, fmt.Errorf("policy key: %w", err)
	}
	r.policy.Set(t, k)
	return k, nil
}

func (r *Ring) loadPolicy(ctx context.Context, t tenant.ID) (Key, error) {
	var sealed []byte
	if err := r.db.QueryRow(ctx, "SELECT sealed FROM policy_key WHERE tenant = $1", int64(t)).Scan(&sealed); err != nil {
		return Key{}, err
	}
	seed, err := r.Unseal(policyPurpose(t), sealed)
	if err != nil {
		return Key{}, err
	}
	private := ed25519.NewKeyFromSeed(seed)
	return Key{ID: PolicyKeyID, Private: private, Public: private.Public().(ed25519.PublicKey)}, nil
}

// createPolicy makes the key unless another node has been faster.
func (r *Ring) createPolicy(ctx context.Context, t tenant.ID) error {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	_, err = r.db.Exec(ctx, "INSERT INTO policy_key (tenant, sealed, created) VALUES ($1, $2, $3) ON CONFLICT (tenant) DO NOTHING",
		int64(t), r.Seal(policyPurpose(t), private.Seed()), time.Now().UnixMilli())
	return err
}

func policyPurpose(t tenant.ID) string { return fmt.Sprintf("policy-key:%d", t) }
