// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"context"
	"database/sql"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// The types of EDUs that this slice sends and receives.
const (
	EDUToDevice         = "m.direct_to_device"
	EDUDeviceListUpdate = "m.device_list_update"
	EDUSigningKeyUpdate = "m.signing_key_update"
)

// EDU is a durable unit for another server.
type EDU struct {
	Type     string
	Content  jsontext.Value
	Position int64
}

// Outgoing returns at most limit units for a destination with positions in (after, upTo], oldest first, and the position up to which nothing is
// missing from them. Messages to devices come first come first served; of a device's changes only the newest is kept, and only those of users
// who share a room with the destination now are told.
func (s *Service) Outgoing(ctx context.Context, t *tenant.Tenant, destination id.Server, after, upTo int64, limit int) ([]EDU, int64, error) {
	inbox, err := s.outgoingToDevice(ctx, t.ID, destination, after, upTo, limit)
	if err != nil {
		return nil, 0, err
	}
	complete := upTo
	if len(inbox) == limit {
		complete = inbox[limit-1].Position
	}
	lists, listed, err := s.outgoingLists(ctx, t, destination, after, complete, limit)
	if err != nil {
		return nil, 0, err
	}
	complete = min(complete, listed)
	units := slices.DeleteFunc(append(inbox, lists...), func(e EDU) bool { return e.Position > complete })
	slices.SortStableFunc(units, func(a, b EDU) int { return int(a.Position - b.Position) })
	if len(units) > limit {
		complete = units[limit-1].Position
		for limit > 1 && units[limit].Position == complete { // never part of a position
			limit--
			complete = units[limit-1].Position
		}
		units = units[:limit]
	}
	return units, complete, nil
}

// Delivered deletes what a destination has acknowledged. It runs in the sender's transaction. Changes of device lists stay: others need them.
func (s *Service) Delivered(ctx context.Context, tx *database.Tx, t *tenant.Tenant, destination id.Server, upTo int64) error {
	_, err := tx.Exec(ctx, "DELETE FROM to_device_outgoing WHERE tenant = $1 AND destination = $2 AND position <= $3", int64(t.ID), string(destination), upTo)
	return err
}

func (s *Service) outgoingToDevice(ctx context.Context, t tenant.ID, destination id.Server, after, upTo int64, limit int) ([]EDU, error) {
	rows, err := s.db.Query(ctx, `SELECT position, content FROM to_device_outgoing WHERE tenant = $1 AND destination = $2 AND position > $3 AND position <= $4
		ORDER BY position LIMIT $5`, int64(t), string(destination), after, upTo, limit)
	return database.All(rows, err, func(rows *sql.Rows) (EDU, error) {
		e := EDU{Type: EDUToDevice}
		var content string
		err := rows.Scan(&e.Position, &content)
		e.Content = jsontext.Value(content)
		return e, err
	})
}

// listChange is a row of device_list_change.
type listChange struct {
	user     id.User
	device   id.Device
	streamID int64
	position int64
	deleted  bool
}

func (s *Service) outgoingLists(ctx context.Context, t *tenant.Tenant, destination id.Server, after, upTo int64, limit int) ([]EDU, int64, error) {
	var units []EDU
	sharing := map[id.User]bool{}
	names := map[id.User]map[id.Device]string{}
	for {
		rows, err := s.db.Query(ctx, `SELECT user_id, device, stream_id, position, deleted FROM device_list_change WHERE tenant = $1 AND position > $2 AND position <= $3
			ORDER BY position LIMIT $4`, int64(t.ID), after, upTo, limit)
		page, err := database.All(rows, err, func(rows *sql.Rows) (c listChange, err error) {
			return c, rows.Scan(&c.user, &c.device, &c.streamID, &c.position, &c.deleted)
		})
		if err != nil {
			return nil, 0, err
		}
		for _, c := range page {
			after = c.position
			told, known := sharing[c.user]
			if !known {
				_, servers, err := s.localAndServers(ctx, t, c.user)
				if err != nil {
					return nil, 0, err
				}
				told = slices.Contains(servers, destination)
				sharing[c.user] = told
			}
			if !told {
				continue
			}
			unit, err := s.listUnit(ctx, t, c, names)
			if err != nil {
				return nil, 0, err
			}
			if units = append(units, unit); len(units) == limit {
				return units, after, nil
			}
		}
		if len(page) < limit {
			return units, upTo, nil
		}
	}
}

// signingKeyUpdate is the content of an m.signing_key_update EDU.
type signingKeyUpdate struct {
	User        id.User        `json:"user_id"`
	Master      jsontext.Value `json:"master_key,omitzero"`
	SelfSigning jsontext.Value `json:"self_signing_key,omitzero"`
}

// listUnit makes the EDU of a change from the keys as they are now.
func (s *Service) listUnit(ctx context.Context, t *tenant.Tenant, c listChange, names map[id.User]map[id.Device]string) (EDU, error) {
	k, err := s.keysOf(ctx, t.ID, c.user, "")
	if err != nil {
		return EDU{}, err
	}
	e := EDU{Type: EDUDeviceListUpdate, Position: c.position}
	var content any
	if c.device == "" {
		e.Type = EDUSigningKeyUpdate
		content = signingKeyUpdate{c.user, k.cross[usageMaster], k.cross[usageSelfSigning]}
	} else {
		u := deviceUpdate{User: c.user, Device: c.device, StreamID: c.streamID, Deleted: c.deleted}
		if c.streamID > 1 {
			u.Previous = []int64{c.streamID - 1}
		}
		if d, ok := k.devices[c.device]; ok && !c.deleted {
			if names[c.user] == nil {
				if names[c.user], err = s.deviceNames(ctx, t.ID, c.user); err != nil {
					return EDU{}, err
				}
			}
			u.Keys, u.Name = d.keys, names[c.user][c.device]
		} else {
			u.Deleted = true
		}
		content = u
	}
	if e.Content, err = canonicaljson.Marshal(content); err != nil {
		e.Content, err = json.Marshal(content, json.Deterministic(true))
	}
	return e, err
}

// WaitingMessages counts what waits in to-device messages for other servers. It needs nothing but the database (konsil admin federation).
func WaitingMessages(ctx context.Context, db *database.DB, t tenant.ID) (map[id.Server]int, error) {
	type waiting struct {
		destination id.Server
		n           int
	}
	rows, err := db.Query(ctx, "SELECT destination, COUNT(*) FROM to_device_outgoing WHERE tenant = $1 GROUP BY destination", int64(t))
	list, err := database.All(rows, err, func(rows *sql.Rows) (w waiting, err error) { return w, rows.Scan(&w.destination, &w.n) })
	found := make(map[id.Server]int, len(list))
	for _, w := range list {
		found[w.destination] = w.n
	}
	return found, err
}
