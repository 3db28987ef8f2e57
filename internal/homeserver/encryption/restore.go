// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"context"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// restoreJump is how far device stream ids jump when commits may have been lost: further than anybody changed devices since a backup.
const restoreJump = 1_000_000

// AfterRestore makes a tenant's keys safe to go on with when commits may have been lost (engine rule 7): one-time keys that may have been given
// out are dropped, so that clients upload new ones; its users' device stream ids jump, so that peers see a gap and fetch the lists; copies
// of other servers' lists are stale.
func AfterRestore(ctx context.Context, db *database.DB, t tenant.ID, name id.Server) error {
	return db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM one_time_key WHERE tenant = $1", int64(t)); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, "SELECT user_id FROM device_list WHERE tenant = $1", int64(t))
		users, err := database.All(rows, err, database.Column[id.User])
		if err != nil {
			return err
		}
		for _, user := range users {
			change := "UPDATE device_list SET stream_id = stream_id + $3 WHERE tenant = $1 AND user_id = $2"
			args := []any{int64(t), string(user), int64(restoreJump)}
			if user.Server() != name {
				change, args = "UPDATE device_list SET stale = TRUE, dirty = dirty + 1 WHERE tenant = $1 AND user_id = $2", args[:2]
			}
			if _, err := tx.Exec(ctx, change, args...); err != nil {
				return err
			}
		}
		return nil
	})
}
