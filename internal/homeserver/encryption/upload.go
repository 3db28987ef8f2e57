// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"context"
	"database/sql"
	"errors"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// maxOneTimeKeys bounds the unclaimed keys that one device may keep on the server.
const maxOneTimeKeys = 1000

// curve is the algorithm that clients expect to be counted even at zero.
const curve = "signed_curve25519"

type uploadRequest struct {
	DeviceKeys jsontext.Value            `json:"device_keys"`
	OneTime    map[string]jsontext.Value `json:"one_time_keys"`
	Fallback   map[string]jsontext.Value `json:"fallback_keys"`
}

type countsReply struct {
	Counts map[string]int64 `json:"one_time_key_counts"`
}

// newKey is an uploaded one-time or fallback key.
type newKey struct{ algorithm, id, json string }

func readKeys(m map[string]jsontext.Value) ([]newKey, error) {
	var keys []newKey
	for name, value := range m {
		algorithm, keyID, canonical, err := oneTimeKey(name, value)
		if err != nil {
			return nil, err
		}
		keys = append(keys, newKey{algorithm, keyID, canonical})
	}
	return keys, nil
}

func (s *Service) upload(ctx context.Context, r *httpapi.Request) (any, error) {
	var q uploadRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	t, user, device := r.Tenant, r.Session.User, r.Session.Device
	if device == "" {
		return nil, mxerror.InvalidParam.With("this session has no device that keys could belong to")
	}
	oneTime, err := readKeys(q.OneTime)
	if err != nil {
		return nil, err
	}
	fallback, err := readKeys(q.Fallback)
	if err != nil {
		return nil, err
	}
	if len(q.DeviceKeys) > 0 && q.DeviceKeys.Kind() != 'n' {
		if err := s.uploadDeviceKeys(ctx, t, user, device, q.DeviceKeys); err != nil {
			return nil, err
		}
	}
	if len(oneTime)+len(fallback) > 0 {
		if err := s.uploadOneTime(ctx, t.ID, user, device, oneTime, fallback); err != nil {
			return nil, err
		}
	}
	counts, _, err := s.KeyCounts(ctx, t.ID, user, device)
	return countsReply{counts}, err
}

// uploadDeviceKeys stores the identity keys; what is the same as before changes nothing and is told to nobody.
func (s *Service) uploadDeviceKeys(ctx context.Context, t *tenant.Tenant, user id.User, device id.Device, raw jsontext.Value) error {
	keys, _, err := readDeviceKeys(raw, user, device)
	if err != nil {
		return err
	}
	var stored string
	err = s.db.QueryRow(ctx, "SELECT keys FROM device_key WHERE tenant = $1 AND user_id = $2 AND device = $3", int64(t.ID), string(user), string(device)).Scan(&stored)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if stored == string(keys) {
		return nil
	}
	plan := &stream.Plan{Tenant: t.ID, Rows: []stream.Statement{{
		SQL: `INSERT INTO device_key (tenant, user_id, device, keys, display_name) VALUES ($1, $2, $3, $4, '')
			ON CONFLICT (tenant, user_id, device) DO UPDATE SET keys = excluded.keys`,
		Args: []any{int64(t.ID), string(user), string(device), string(keys)},
	}}}
	if err := s.announce(ctx, t, user, plan, change{device: device}); err != nil {
		return err
	}
	_, err = s.o.Committer.Commit(ctx, plan)
	return err
}

// uploadOneTime inserts keys. An id that exists with other content is refused and nothing of the request is stored (engine rule 26): otherwise
// a device could be answered with a key whose private part it no longer has.
func (s *Service) uploadOneTime(ctx context.Context, t tenant.ID, user id.User, device id.Device, oneTime, fallback []newKey) error {
	serial := database.NewID()
	err := s.db.Write(ctx, func(tx *database.Tx) error {
		for _, k := range oneTime {
			if err := insertOneTime(ctx, tx, t, user, device, k, serial); err != nil {
				return err
			}
		}
		var n int64
		if err := tx.QueryRow(ctx, "SELECT COUNT(*) FROM one_time_key WHERE tenant = $1 AND user_id = $2 AND device = $3", int64(t), string(user), string(device)).
			Scan(&n); err != nil {
			return err
		}
		if n > maxOneTimeKeys {
			return mxerror.InvalidParam.With("a device may keep at most %d one-time keys here", maxOneTimeKeys)
		}
		for _, k := range fallback { // the same key again stays used
			if _, err := tx.Exec(ctx, `INSERT INTO fallback_key (tenant, user_id, device, algorithm, key_id, key, used) VALUES ($1, $2, $3, $4, $5, $6, FALSE)
				ON CONFLICT (tenant, user_id, device, algorithm) DO UPDATE SET
				used = fallback_key.used AND fallback_key.key_id = excluded.key_id AND fallback_key.key = excluded.key,
				key_id = excluded.key_id, key = excluded.key`,
				int64(t), string(user), string(device), k.algorithm, k.id, k.json); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.keysChanged(ctx, t, user)
}

func insertOneTime(ctx context.Context, tx *database.Tx, t tenant.ID, user id.User, device id.Device, k newKey, serial int64) error {
	n, err := tx.Exec(ctx, `INSERT INTO one_time_key (tenant, user_id, device, algorithm, key_id, serial, key) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT DO NOTHING`, int64(t), string(user), string(device), k.algorithm, k.id, serial, k.json)
	if err != nil || n == 1 {
		return err
	}
	var stored string
	err = tx.QueryRow(ctx, "SELECT key FROM one_time_key WHERE tenant = $1 AND user_id = $2 AND device = $3 AND algorithm = $4 AND key_id = $5",
		int64(t), string(user), string(device), k.algorithm, k.id).Scan(&stored)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if stored != k.json {
		return mxerror.New(400, "M_UNKNOWN", "One time key "+k.algorithm+":"+k.id+" already exists with other content")
	}
	return nil
}

// KeyCounts returns how many unclaimed one-time keys a device has per algorithm, and the algorithms whose fallback key has not been used.
func (s *Service) KeyCounts(ctx context.Context, t tenant.ID, user id.User, device id.Device) (counts map[string]int64, unusedFallback []string, err error) {
	counts = map[string]int64{curve: 0}
	rows, err := s.db.Query(ctx, "SELECT algorithm, COUNT(*) FROM one_time_key WHERE tenant = $1 AND user_id = $2 AND device = $3 GROUP BY algorithm",
		int64(t), string(user), string(device))
	if _, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
		var algorithm string
		var n int64
		err := rows.Scan(&algorithm, &n)
		counts[algorithm] = n
		return struct{}{}, err
	}); err != nil {
		return nil, nil, err
	}
	rows, err = s.db.Query(ctx, "SELECT algorithm FROM fallback_key WHERE tenant = $1 AND user_id = $2 AND device = $3 AND NOT used ORDER BY algorithm",
		int64(t), string(user), string(device))
	unusedFallback, err = database.All(rows, err, database.Column[string])
	return counts, unusedFallback, err
}
