// SPDX-License-Identifier: Apache-2.0

package appservice

import (
	"context"
	"maps"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/ephemeral"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// roomEphemeral is typing or receipts of a room, as /sync shows them with the room named (application-service API, "Pushing ephemeral data").
type roomEphemeral struct {
	Type    string         `json:"type"`
	Room    id.Room        `json:"room_id"`
	Content jsontext.Value `json:"content"`
}

type typingContent struct {
	Users []id.User `json:"user_ids"`
}

// Typed is told that who types in a room has changed. It must not block.
func (s *Service) Typed(t tenant.ID, roomNID int64) {
	s.whisper(t, func(d *sender) bool {
		if d.typing == nil {
			d.typing = map[int64]bool{}
		}
		if len(d.typing) < maxVolatile {
			d.typing[roomNID] = true
		}
		return true
	})
}

// PresenceChanged is told that a user's presence has changed. It must not block.
func (s *Service) PresenceChanged(t tenant.ID, user id.User) {
	s.whisper(t, func(d *sender) bool {
		if d.presence == nil {
			d.presence = map[id.User]bool{}
		}
		if len(d.presence) < maxVolatile {
			d.presence[user] = true
		}
		return true
	})
}

func (s *Service) whisper(t tenant.ID, note func(*sender) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.senders[t] {
		if (d.Registration.Ephemeral || d.PushEphemeral) && note(d) && d.timer == nil {
			s.run(d)
		}
	}
}

// takeVolatile returns and forgets what was whispered.
func (s *Service) takeVolatile(d *sender) (rooms []int64, users []id.User) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rooms, users = slices.Sorted(maps.Keys(d.typing)), slices.Sorted(maps.Keys(d.presence))
	d.typing, d.presence = nil, nil
	return rooms, users
}

// volatile adds typing and presence, as they are now.
func (b *batch) volatile(ctx context.Context, rooms []int64, users []id.User) error {
	for _, nid := range rooms {
		concerned, err := b.room(ctx, nid)
		if err != nil {
			return err
		}
		if !concerned {
			continue
		}
		typing := b.s.o.Ephemeral.Typing(b.t, nid)
		if typing == nil {
			typing = []id.User{}
		}
		content, err := json.Marshal(typingContent{typing})
		if err != nil {
			return err
		}
		if err := b.addRoom(ctx, nid, ephemeral.EDUTyping, content); err != nil {
			return err
		}
	}
	for _, u := range users {
		concerned, err := b.shares(ctx, u)
		if err != nil {
			return err
		}
		if !concerned {
			continue
		}
		for _, state := range b.s.o.Ephemeral.PresenceOf(b.t, map[id.User]bool{u: true}) {
			raw, err := json.Marshal(state)
			if err != nil {
				return err
			}
			b.addEphemeral(raw)
		}
	}
	return nil
}

// receipts adds the receipts in rooms that concern the service: private ones of its own users, public ones of everybody.
func (b *batch) receipts(ctx context.Context) error {
	if !b.touched(stream.Receipt) {
		return nil
	}
	nids, err := b.receiptRooms(ctx)
	if err != nil {
		return err
	}
	var concerned []int64
	for _, nid := range nids {
		yes, err := b.room(ctx, nid)
		if err != nil {
			return err
		}
		if yes {
			concerned = append(concerned, nid)
		}
	}
	found, err := b.s.o.Ephemeral.ReceiptsOf(ctx, b.t, concerned, b.from, b.upTo, b.d.owns)
	if err != nil {
		return err
	}
	for _, nid := range slices.Sorted(maps.Keys(found)) {
		for _, content := range found[nid] {
			if err := b.addRoom(ctx, nid, ephemeral.EDUReceipt, content); err != nil {
				return err
			}
		}
	}
	return nil
}

// receiptRooms lists the rooms with new receipts: from memory, or else from the database.
func (b *batch) receiptRooms(ctx context.Context) ([]int64, error) {
	if !b.known {
		return b.s.o.Ephemeral.ReceiptRooms(ctx, b.t, b.from, b.upTo)
	}
	rooms := map[int64]bool{}
	for _, c := range b.changes {
		if c.Kind != stream.Receipt {
			continue
		}
		if c.Room != 0 {
			rooms[c.Room] = true
			continue
		}
		for _, u := range c.Users {
			if !b.d.owns(u) {
				continue
			}
			own, err := b.s.o.Ephemeral.OwnReceiptRooms(ctx, b.t, u, b.from, b.upTo)
			if err != nil {
				return nil, err
			}
			for _, nid := range own {
				rooms[nid] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(rooms)), nil
}

func (b *batch) addRoom(ctx context.Context, nid int64, typ string, content jsontext.Value) error {
	in, err := b.s.o.Rooms.ByNID(ctx, b.t, nid)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(roomEphemeral{typ, in.ID, content}, jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true))
	if err == nil {
		b.addEphemeral(raw)
	}
	return err
}

// addEphemeral adds an event under the names that the service asked for.
func (b *batch) addEphemeral(raw jsontext.Value) {
	if b.d.Registration.Ephemeral {
		b.Ephemeral = append(b.Ephemeral, raw)
	}
	if b.d.PushEphemeral {
		b.OldEphemeral = append(b.OldEphemeral, raw)
	}
}
