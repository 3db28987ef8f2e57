// SPDX-License-Identifier: Apache-2.0

package room_test

import (
	"context"
	"errors"
	"testing"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/homeserver/room"
)

// TestTurnIsTakenAgain: a turn on a head that a failed commit has left, whose state names what was never stored, is taken again; one that fails for
// another reason is not. Damage that stays is told in the end, and the room goes on.
func TestTurnIsTakenAgain(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		h := open(t, db)
		r := h.create(t, "11")
		if n, err := h.Attempts(context.Background(), h.t, r, room.ErrMissingState); n != room.MaxAttempts+1 || !errors.Is(err, room.ErrMissingState) {
			t.Errorf("%d attempts, %v", n, err)
		}
		other := errors.New("other")
		if n, err := h.Attempts(context.Background(), h.t, r, other); n != 1 || !errors.Is(err, other) {
			t.Errorf("%d attempts, %v", n, err)
		}
		if _, err := h.send(r, anna, "goes on", nil); err != nil {
			t.Error(err)
		}
	})
}
