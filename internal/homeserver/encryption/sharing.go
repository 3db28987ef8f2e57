// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"context"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// roomSharing answers from the rooms of a node.
type roomSharing struct{ *room.Service }

// OfRooms makes [Rooms] of package room.
func OfRooms(r *room.Service) Rooms { return roomSharing{r} }

// SharingSince reads the changes of members in the user's rooms, those that the user left included.
func (s roomSharing) SharingSince(ctx context.Context, t tenant.ID, user id.User, from, to int64) (joined, left map[id.User]struct{}, err error) {
	mine, err := s.Memberships(ctx, t, user)
	if err != nil {
		return nil, nil, err
	}
	joined, left = map[id.User]struct{}{}, map[id.User]struct{}{}
	var rooms []int64
	for _, m := range mine {
		recent := m.Position > from && m.Position <= to
		switch {
		case m.Membership == "join" && m.LastPosition > from:
			rooms = append(rooms, m.Room.NID)
		case (m.Membership == "leave" || m.Membership == "ban") && recent:
			if err := s.everybody(ctx, t, m.Room.NID, left); err != nil {
				return nil, nil, err
			}
		}
	}
	changes, err := s.MemberChanges(ctx, t, rooms, from, to)
	if err != nil || len(changes) == 0 {
		return joined, left, err
	}
	memberships, err := s.membershipsOf(ctx, t, changes)
	if err != nil {
		return nil, nil, err
	}
	for _, c := range changes {
		was, is := memberships[c.Old], memberships[c.New]
		switch {
		case is == "join" && was != "join" && c.User == user:
			if err := s.everybody(ctx, t, c.Room, joined); err != nil {
				return nil, nil, err
			}
		case is == "join" && was != "join":
			joined[c.User] = struct{}{}
		case was == "join" && is != "join":
			left[c.User] = struct{}{}
		}
	}
	return joined, left, nil
}

func (s roomSharing) everybody(ctx context.Context, t tenant.ID, roomNID int64, out map[id.User]struct{}) error {
	users, err := s.JoinedUsers(ctx, t, roomNID)
	for _, u := range users {
		out[u] = struct{}{}
	}
	return err
}

// membershipsOf reads what the member events of changes say.
func (s roomSharing) membershipsOf(ctx context.Context, t tenant.ID, changes []room.MemberChange) (map[id.Event]string, error) {
	var ids []id.Event
	for _, c := range changes {
		for _, e := range []id.Event{c.Old, c.New} {
			if e != "" {
				ids = append(ids, e)
			}
		}
	}
	events, err := s.Events(ctx, t, ids)
	if err != nil {
		return nil, err
	}
	out := make(map[id.Event]string, len(events))
	for eid, e := range events {
		out[eid] = e.Membership()
	}
	return out, nil
}
