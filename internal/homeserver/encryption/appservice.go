// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"bytes"
	"context"
	"database/sql"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Waiting is a message in the inbox of some device.
type Waiting struct {
	User   id.User
	Device id.Device
	ToDeviceMessage
}

// ToDeviceOfService returns the messages with positions in (from, to] for devices of the users that an application service has registered, oldest
// first; tokenless leaves out devices that can fetch their messages themselves. Beyond about limit it stops, never within a position, and more is
// set. The service shows to have received them by answering; they are deleted with that.
func (s *Service) ToDeviceOfService(ctx context.Context, t tenant.ID, service string, tokenless bool, from, to int64, limit int) (list []Waiting, more bool, err error) {
	condition := ""
	if tokenless {
		condition = "AND NOT EXISTS (SELECT 1 FROM access_token k WHERE k.tenant = d.tenant AND k.user_id = d.user_id AND k.device = d.device)"
	}
	read := func(from, to int64, limit int) ([]Waiting, error) {
		rows, err := s.db.Query(ctx, `SELECT d.user_id, d.device, d.position, d.message FROM to_device d
			JOIN account a ON a.tenant = d.tenant AND a.user_id = d.user_id
			WHERE d.tenant = $1 AND a.appservice = $2 AND d.position > $3 AND d.position <= $4 `+condition+`
			ORDER BY d.position, d.user_id, d.device LIMIT $5`, int64(t), service, from, to, limit)
		return database.All(rows, err, func(rows *sql.Rows) (w Waiting, err error) {
			var text []byte
			err = rows.Scan(&w.User, &w.Device, &w.Position, &text)
			w.JSON = bytes.Clone(text)
			return w, err
		})
	}
	if list, err = read(from, to, limit+1); err != nil || len(list) <= limit {
		return list, false, err
	}
	last := list[limit].Position
	n := limit
	for n > 0 && list[n-1].Position == last {
		n--
	}
	if n > 0 {
		return list[:n], true, nil
	}
	list, err = read(last-1, last, 2*maxToDevice)
	return list, true, err
}

// UpdatedLists returns the users whose devices or keys changed with positions in (from, to].
func (s *Service) UpdatedLists(ctx context.Context, t tenant.ID, from, to int64) ([]id.User, error) {
	return s.updatedLists(ctx, t, from, to)
}
