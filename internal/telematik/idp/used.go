// SPDX-License-Identifier: Apache-2.0

package idp

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
)

// Used remembers a token's jti until the token expires and says whether it is the first time that it is seen. A token is refused when the
// question fails: what cannot be remembered might be a replay.
type Used func(ctx context.Context, token string, until, now time.Time) (first bool, err error)

// UsedIn remembers in a database, for all nodes of a cell and over restarts.
func UsedIn(db *database.DB) Used {
	return func(ctx context.Context, token string, until, now time.Time) (first bool, err error) {
		err = db.Write(ctx, func(tx *database.Tx) error {
			if _, err := tx.Exec(ctx, "DELETE FROM idp_used WHERE expires < $1", now.UnixMilli()); err != nil {
				return err
			}
			n, err := tx.Exec(ctx, "INSERT INTO idp_used (token, expires) VALUES ($1, $2) ON CONFLICT (token) DO NOTHING", token, until.UnixMilli())
			first = n == 1
			return err
		})
		if err != nil {
			return false, fmt.Errorf("identity provider: %w", err)
		}
		return first, nil
	}
}

// usedHere remembers in the memory of this process.
func usedHere() Used {
	var mu sync.Mutex
	seen := map[string]time.Time{}
	return func(_ context.Context, token string, until, now time.Time) (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		for other, end := range seen {
			if end.Before(now) {
				delete(seen, other)
			}
		}
		if _, again := seen[token]; again {
			return false, nil
		}
		seen[token] = until
		return true, nil
	}
}
