// SPDX-License-Identifier: Apache-2.0

package appservice

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

const (
	// maxEvents and maxBytes bound the events of a transaction, scan how many events of the tenant are looked at for one.
	maxEvents = 100
	maxBytes  = 1 << 20
	scan      = 500
)

// body is the body of a transaction. What is not in the specification has the names under which shipping bridges read it.
type body struct {
	Events       []jsontext.Value `json:"events"`
	Ephemeral    []jsontext.Value `json:"ephemeral,omitempty"`
	OldEphemeral []jsontext.Value `json:"de.sorunome.msc2409.ephemeral,omitempty"`
	ToDevice     []jsontext.Value `json:"de.sorunome.msc2409.to_device,omitempty"`
	Lists        *deviceLists     `json:"org.matrix.msc3202.device_lists,omitempty"`
	Counts       keyCounts        `json:"org.matrix.msc3202.device_one_time_keys_count,omitempty"`
	OldCounts    keyCounts        `json:"org.matrix.msc3202.device_one_time_key_counts,omitempty"`
	Fallback     fallbackTypes    `json:"org.matrix.msc3202.device_unused_fallback_key_types,omitempty"`
}

type (
	keyCounts     map[id.User]map[id.Device]map[string]int64
	fallbackTypes map[id.User]map[id.Device][]string
)

type deviceLists struct {
	Changed []id.User `json:"changed"`
	Left    []id.User `json:"left"`
}

func (b *body) empty() bool {
	return len(b.Events)+len(b.Ephemeral)+len(b.OldEphemeral)+len(b.ToDevice) == 0 && b.Lists == nil
}

// batch is a transaction in the making: what concerns one service in the positions (from, upTo].
type batch struct {
	s          *Service
	d          *sender
	t          tenant.ID
	from, upTo int64
	// changes are those positions' changes, where memory still has them.
	changes []stream.Positioned
	known   bool
	interests
	body
	taken      []inbox
	recipients map[id.User]bool
	// joins and leaves are members of the service's rooms that the events brought and took.
	joined, gone map[id.User]bool
	size         int
}

// build makes the next transaction, nil when nothing is left. What concerns the service in no way is passed over.
func (s *Service) build(ctx context.Context, d *sender) (*transaction, error) {
	for ctx.Err() == nil {
		end, err := s.o.Feed.Position(ctx, d.t.ID)
		if err != nil {
			return nil, err
		}
		typing, presence := s.takeVolatile(d)
		if end <= d.position && len(typing)+len(presence) == 0 {
			return nil, nil
		}
		b := &batch{s: s, d: d, t: d.t.ID, from: d.position, upTo: end, recipients: map[id.User]bool{}, joined: map[id.User]bool{}, gone: map[id.User]bool{}}
		b.interests = interests{s: s, d: d, from: d.position, rooms: map[int64]*interest{}}
		if err := b.durable(ctx); err != nil {
			return nil, err
		}
		lasting := !b.empty()
		if err := b.volatile(ctx, typing, presence); err != nil {
			return nil, err
		}
		d.position = b.upTo
		if b.empty() {
			continue
		}
		if err := b.keyCounts(ctx); err != nil {
			return nil, err
		}
		tx := &transaction{id: strconv.FormatInt(database.NewID(), 36), upTo: b.upTo, taken: b.taken}
		if !lasting {
			tx.upTo = 0
		}
		tx.body, err = json.Marshal(&b.body, json.Deterministic(true), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
		return tx, err
	}
	return nil, ctx.Err()
}

// touched says whether the batch's positions may hold a change of one of the kinds.
func (b *batch) touched(kinds ...stream.Kind) bool {
	return !b.known || slices.ContainsFunc(b.changes, func(c stream.Positioned) bool { return slices.Contains(kinds, c.Kind) })
}

// durable collects all that has a position.
func (b *batch) durable(ctx context.Context) error {
	if b.from >= b.upTo {
		return nil
	}
	b.changes, b.known = b.s.o.Feed.Recent(b.t, b.from, b.upTo)
	messages, err := b.toDevice(ctx) // first: it may shorten the batch
	if err != nil {
		return err
	}
	if b.touched(stream.Timeline) {
		if err := b.events(ctx); err != nil {
			return err
		}
	}
	if err := b.addToDevice(messages); err != nil {
		return err
	}
	if b.touched(stream.Membership) {
		if err := b.invites(ctx); err != nil {
			return err
		}
	}
	if b.d.Registration.Ephemeral || b.d.PushEphemeral {
		if err := b.receipts(ctx); err != nil {
			return err
		}
	}
	if b.d.Encryption {
		return b.deviceLists(ctx)
	}
	return nil
}

// events adds the events of timelines that concern the service. When there are many the batch ends with the last that fits.
func (b *batch) events(ctx context.Context) error {
	events, more, err := b.s.o.Rooms.Stream(ctx, b.t, b.from, b.upTo, scan)
	if err != nil {
		return err
	}
	if more {
		b.upTo = events[len(events)-1].Position
	}
	if err := b.prepare(ctx, events); err != nil {
		return err
	}
	for i, e := range events {
		if len(b.Events) == maxEvents || b.size > maxBytes {
			b.upTo = events[i-1].Position
			break
		}
		if concerns, err := b.concerns(ctx, e); err != nil || !concerns {
			if err != nil {
				return err
			}
			continue
		}
		if err := b.add(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

func (b *batch) add(ctx context.Context, e *room.Event) error {
	in, err := b.s.o.Rooms.ByNID(ctx, b.t, e.RoomNID)
	if err != nil {
		return err
	}
	c, err := b.s.o.Rooms.Client(ctx, b.t, in, e, nil)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(c, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		return err
	}
	if e.Type() == event.TypeMember && e.StateKey() != nil {
		user := id.User(*e.StateKey())
		switch {
		case e.Membership() == "invite" && b.d.owns(user):
			state, err := b.s.o.Rooms.StateAt(ctx, b.t, e.SnapshotAfter)
			if err != nil {
				return err
			}
			stripped, err := b.s.o.Rooms.Stripped(ctx, b.t, state, e.Event)
			if err != nil {
				return err
			}
			if raw, err = withInviteState(raw, stripped); err != nil {
				return err
			}
		case e.Membership() == "join":
			b.joined[user] = true
		case e.Membership() == "leave" || e.Membership() == "ban":
			b.gone[user] = true
		}
	}
	b.Events = append(b.Events, raw)
	b.size += len(raw)
	return nil
}

// withInviteState puts the stripped state of a room where bridges look for it: into unsigned, as between servers.
func withInviteState(raw jsontext.Value, stripped []jsontext.Value) (jsontext.Value, error) {
	var e, unsigned map[string]jsontext.Value
	if err := json.Unmarshal(raw, &e, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)); err != nil {
		return nil, err
	}
	if u, ok := e["unsigned"]; ok {
		if err := json.Unmarshal(u, &unsigned, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)); err != nil {
			return nil, err
		}
	}
	if unsigned == nil {
		unsigned = map[string]jsontext.Value{}
	}
	var err error
	if unsigned["invite_room_state"], err = json.Marshal(stripped, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)); err != nil {
		return nil, err
	}
	if e["unsigned"], err = json.Marshal(unsigned, json.Deterministic(true), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)); err != nil {
		return nil, err
	}
	return json.Marshal(e, json.Deterministic(true), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
}

// invites adds the invitations of the service's users to rooms that the server is not in: they stand in no timeline.
func (b *batch) invites(ctx context.Context) error {
	list, err := b.s.o.Rooms.OutsideInvites(ctx, b.t, b.from, b.upTo)
	if err != nil {
		return err
	}
	for _, i := range list {
		if !b.d.owns(i.User) || len(i.Stripped) == 0 {
			continue
		}
		member := i.Stripped[len(i.Stripped)-1] // the invitation itself is the last
		var e map[string]jsontext.Value
		if err := json.Unmarshal(member, &e, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)); err != nil {
			return err
		}
		if e["room_id"], err = json.Marshal(i.Room); err != nil {
			return err
		}
		raw, err := json.Marshal(e, json.Deterministic(true), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
		if err != nil {
			return err
		}
		if raw, err = withInviteState(raw, i.Stripped); err != nil {
			return err
		}
		b.Events = append(b.Events, raw)
	}
	return nil
}

// deviceLists adds whose devices the service's users should fetch anew, and whom they share no room with any more.
func (b *batch) deviceLists(ctx context.Context) error {
	changed := maps.Clone(b.joined)
	if b.touched(stream.DeviceList) {
		updated, err := b.s.o.Keys.UpdatedLists(ctx, b.t, b.from, b.upTo)
		if err != nil {
			return err
		}
		for _, u := range updated {
			concerned, err := b.shares(ctx, u)
			if err != nil {
				return err
			}
			if concerned {
				changed[u] = true
			}
		}
	}
	left := []id.User{}
	for _, u := range slices.Sorted(maps.Keys(b.gone)) {
		concerned, err := b.shares(ctx, u)
		if err != nil {
			return err
		}
		if !concerned {
			left = append(left, u)
			delete(changed, u)
		}
	}
	if len(changed)+len(left) > 0 {
		list := slices.Sorted(maps.Keys(changed))
		if list == nil {
			list = []id.User{}
		}
		b.Lists = &deviceLists{list, left}
	}
	return nil
}
