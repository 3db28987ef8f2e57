// SPDX-License-Identifier: Apache-2.0

package sweep

import (
	"context"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// leaveReason is what the room's other members read.
const leaveReason = "Die Person aus dem Gesundheitswesen hat diesen Raum verlassen. / The health professional has left this room."

// insuredOnly says whether insured people have stayed alone in a room: some are in it, nobody else is or is about to be, and somebody else once was.
func (s *Service) insuredOnly(ctx context.Context, members []room.Member) (bool, error) {
	insured := map[id.Server]bool{}
	joined, gone := false, false
	for _, m := range members {
		server := m.User.Server()
		known, ok := insured[server]
		if !ok {
			var err error
			if known, err = s.o.Insured(ctx, server); err != nil {
				return false, err
			}
			insured[server] = known
		}
		present := m.Membership == "join" || m.Membership == "invite" || m.Membership == "knock"
		switch {
		case known:
			joined = joined || m.Membership == "join"
		case present:
			return false, nil
		default:
			gone = true
		}
	}
	return joined && gone, nil
}

// empty makes the tenant's own people leave a room (AF_10233). What was written stays readable for them until they forget the room.
func (s *Service) empty(ctx context.Context, t *tenant.Tenant, r *room.Room, members []room.Member) error {
	for _, m := range members {
		if m.User.Server() != t.Name || m.Membership != "join" && m.Membership != "invite" && m.Membership != "knock" {
			continue
		}
		if err := s.o.Rooms.Leave(ctx, t, m.User, r.ID, leaveReason); err != nil {
			return err
		}
	}
	s.o.Log.Info("insured people were taken out of a room that no professional is in", "tenant", string(t.Name), "room", r.NID)
	return nil
}
