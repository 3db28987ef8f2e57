// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"context"
	"database/sql"
	"errors"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// userKeys is everything public of one user, with the signatures that the viewer may see.
type userKeys struct {
	devices map[id.Device]storedDevice
	cross   map[string]jsontext.Value // by usage
	public  map[string]string         // by usage
}

type storedDevice struct {
	keys []byte
	name string // of other servers' users only; account knows the others'
}

// signature is a signature that was uploaded apart from the key.
type signature struct {
	target    string
	signer    id.User
	key       id.KeyID
	signature string
}

// keysOf reads a user's keys. The user's own signatures are seen by everybody, those of others only by whoever made them.
func (s *Service) keysOf(ctx context.Context, t tenant.ID, user, viewer id.User) (*userKeys, error) {
	k := &userKeys{devices: map[id.Device]storedDevice{}, cross: map[string]jsontext.Value{}, public: map[string]string{}}
	rows, err := s.db.Query(ctx, "SELECT device, keys, display_name FROM device_key WHERE tenant = $1 AND user_id = $2", int64(t), string(user))
	if _, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
		var device id.Device
		var d storedDevice
		err := rows.Scan(&device, &d.keys, &d.name)
		k.devices[device] = d
		return struct{}{}, err
	}); err != nil {
		return nil, err
	}
	rows, err = s.db.Query(ctx, "SELECT usage, public, keys FROM cross_signing_key WHERE tenant = $1 AND user_id = $2", int64(t), string(user))
	if _, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
		var usage, public string
		var keys []byte
		err := rows.Scan(&usage, &public, &keys)
		k.cross[usage], k.public[usage] = keys, public
		return struct{}{}, err
	}); err != nil {
		return nil, err
	}
	if len(k.devices)+len(k.cross) == 0 {
		return k, nil
	}
	sigs, err := s.signaturesOn(ctx, t, user, viewer)
	if err != nil {
		return nil, err
	}
	for _, sig := range sigs {
		if d, ok := k.devices[id.Device(sig.target)]; ok {
			d.keys = addSignature(d.keys, sig.signer, sig.key, sig.signature)
			k.devices[id.Device(sig.target)] = d
		} else if sig.target == k.public[usageMaster] {
			k.cross[usageMaster] = addSignature(k.cross[usageMaster], sig.signer, sig.key, sig.signature)
		}
	}
	return k, nil
}

func (s *Service) signaturesOn(ctx context.Context, t tenant.ID, user, viewer id.User) ([]signature, error) {
	rows, err := s.db.Query(ctx, "SELECT target, signer, signer_key, signature FROM key_signature WHERE tenant = $1 AND user_id = $2 AND (signer = $2 OR signer = $3)",
		int64(t), string(user), string(viewer))
	return database.All(rows, err, func(rows *sql.Rows) (v signature, err error) {
		return v, rows.Scan(&v.target, &v.signer, &v.key, &v.signature)
	})
}

// mergeSignatures adds the viewer's signatures to a key that came from another server.
func (s *Service) mergeSignatures(ctx context.Context, t tenant.ID, user, viewer id.User, target string, object []byte) ([]byte, error) {
	sigs, err := s.signaturesOn(ctx, t, user, viewer)
	if err != nil {
		return nil, err
	}
	for _, sig := range sigs {
		if sig.target == target {
			object = addSignature(object, sig.signer, sig.key, sig.signature)
		}
	}
	return object, nil
}

// deviceList is a user's row in device_list.
type deviceList struct {
	streamID, dirty int64
	stale           bool
	exists          bool
}

func (s *Service) list(ctx context.Context, t tenant.ID, user id.User) (deviceList, error) {
	var l deviceList
	err := s.db.QueryRow(ctx, "SELECT stream_id, stale, dirty FROM device_list WHERE tenant = $1 AND user_id = $2", int64(t), string(user)).
		Scan(&l.streamID, &l.stale, &l.dirty)
	if errors.Is(err, sql.ErrNoRows) {
		return deviceList{}, nil
	}
	l.exists = err == nil
	return l, err
}
