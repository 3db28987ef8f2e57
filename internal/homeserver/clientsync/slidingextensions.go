// SPDX-License-Identifier: Apache-2.0

package clientsync

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/homeserver/ephemeral"
	"github.com/konsil-health/konsil/internal/homeserver/push"
	"github.com/konsil-health/konsil/internal/homeserver/timeline"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// extensions are what a client asks for beside rooms.
type extensions struct {
	ToDevice    toDeviceExtension `json:"to_device"`
	E2EE        extension         `json:"e2ee"`
	AccountData extension         `json:"account_data"`
	Receipts    extension         `json:"receipts"`
	Typing      extension         `json:"typing"`
	Threads     threadsExtension  `json:"io.element.msc4308.thread_subscriptions"`
}

// extension is one of them; lists and rooms narrow the rooms that it is about, "*" or nothing means all.
type extension struct {
	Enabled bool     `json:"enabled"`
	Lists   []string `json:"lists"`
	Rooms   []string `json:"rooms"`
}

type toDeviceExtension struct {
	Enabled bool   `json:"enabled"`
	Limit   *int64 `json:"limit"`
	Since   string `json:"since"`

	after int64
}

// threadsExtension asks for changes of the user's subscriptions to threads (MSC4308).
type threadsExtension struct {
	Enabled bool   `json:"enabled"`
	Limit   *int64 `json:"limit"`
}

func (x *extensions) check() error {
	if l := x.Threads.Limit; l != nil && *l < 1 {
		return mxerror.InvalidParam.With("limit must be positive")
	}
	if l := x.ToDevice.Limit; l != nil && *l < 1 {
		return mxerror.InvalidParam.With("limit must be positive")
	}
	return nil
}

// about says whether an extension is about a room.
func (x *extension) about(p *standing) bool {
	all := func(names []string) bool { return names == nil || slices.Contains(names, "*") }
	if all(x.Lists) && all(x.Rooms) {
		return true
	}
	if slices.Contains(x.Rooms, string(p.Room.ID)) || all(x.Rooms) && p.wanted && len(p.names) == 0 {
		return true
	}
	return all(x.Lists) && len(p.names) > 0 || slices.ContainsFunc(p.names, func(n string) bool { return slices.Contains(x.Lists, n) })
}

// The answers of the extensions.
type (
	toDeviceReply struct {
		NextBatch string `json:"next_batch"`
		Events    []any  `json:"events"`
	}
	e2eeReply struct {
		DeviceLists *deviceLists     `json:"device_lists,omitzero"`
		OneTimeKeys map[string]int64 `json:"device_one_time_keys_count,omitzero"`
		Fallback    []string         `json:"device_unused_fallback_key_types,omitzero"`
	}
	accountDataReply struct {
		Global []any             `json:"global"`
		Rooms  map[id.Room][]any `json:"rooms"`
	}
	roomsReply struct {
		Rooms map[id.Room]typed `json:"rooms"`
	}
	threadsReply struct {
		*push.Subscriptions `json:",inline"`
		Previous            string `json:"prev_batch,omitzero"`
	}
)

// receiveToDevice deletes what the device shows to have received by the extension's since (engine rule 28).
func (s *Service) receiveToDevice(ctx context.Context, q *slide) error {
	x := &q.request.Extensions.ToDevice
	if !x.Enabled || x.Since == "" || q.device == "" {
		return nil
	}
	token, err := s.o.Tokens.OpenStream(q.t.ID, x.Since)
	if err != nil {
		return err
	}
	if token.Epoch != q.t.Epoch || token.Device != timeline.DeviceSum(q.user, q.device) {
		return nil
	}
	x.after = token.ToDevice
	return s.emptyInbox(ctx, q.query, token.ToDevice)
}

// extend fills in the extensions that the client asked for.
func (s *Service) extend(ctx context.Context, q *slide, a *slideAnswer) error {
	a.Extensions = map[string]any{}
	x := &q.request.Extensions
	for _, part := range []struct {
		on   bool
		fill func(context.Context, *slide, *slideAnswer) error
	}{
		{x.ToDevice.Enabled && q.device != "", s.slideToDevice},
		{x.E2EE.Enabled, s.slideDeviceLists},
		{x.AccountData.Enabled, s.slideAccountData},
		{x.Receipts.Enabled, s.slideReceipts},
		{x.Typing.Enabled, s.slideTyping},
		{x.Threads.Enabled, s.slideThreads},
	} {
		if !part.on {
			continue
		}
		if err := part.fill(ctx, q, a); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) slideToDevice(ctx context.Context, q *slide, a *slideAnswer) error {
	x := &q.request.Extensions.ToDevice
	out := toDeviceReply{Events: []any{}}
	next := timeline.StreamToken{Epoch: q.t.Epoch, Position: a.to, ToDevice: a.to, Device: timeline.DeviceSum(q.user, q.device)}
	if !a.changes.known || a.changes.toDevice || x.after < a.from {
		limit := maxToDevice
		if x.Limit != nil {
			limit = int(min(*x.Limit, maxToDevice))
		}
		messages, err := s.o.Encryption.ToDevice(ctx, q.t.ID, q.user, q.device, x.after, a.to, limit)
		if err != nil {
			return err
		}
		for _, m := range messages {
			out.Events = append(out.Events, m.JSON)
		}
		if len(messages) == limit {
			next.ToDevice = messages[limit-1].Position
		}
	}
	a.quiet = a.quiet && len(out.Events) == 0
	out.NextBatch = s.o.Tokens.Stream(q.t.ID, next)
	a.Extensions["to_device"] = out
	return nil
}

// slideDeviceLists fills in whose devices changed; the counts of the device's keys follow when the answer is sent.
func (s *Service) slideDeviceLists(ctx context.Context, q *slide, a *slideAnswer) error {
	if err := s.deviceLists(ctx, q.query, &a.answer, &a.changes); err != nil {
		return err
	}
	a.quiet = a.quiet && a.DeviceLists == nil && !a.changes.keys
	a.Extensions["e2ee"] = &e2eeReply{DeviceLists: a.DeviceLists}
	return nil
}

// countSlide fills in how many keys others can still claim from the device.
func (s *Service) countSlide(ctx context.Context, q *slide, a *slideAnswer) error {
	if out, ok := a.Extensions["e2ee"].(*e2eeReply); ok {
		var counted reply
		if err := s.countKeys(ctx, q.query, &counted, a.to); err != nil {
			return err
		}
		out.OneTimeKeys, out.Fallback = counted.OneTimeKeys, counted.Fallback
	}
	return nil
}

func (s *Service) slideAccountData(ctx context.Context, q *slide, a *slideAnswer) error {
	if a.changes.known && !a.changes.accountData && len(a.first) == 0 {
		return nil
	}
	from := a.from
	if len(a.first) > 0 {
		from = 0
	}
	data, err := s.storedAccountData(ctx, q.query, from, a.to)
	if err != nil {
		return err
	}
	if err := s.pushRules(ctx, q.query, &a.answer, data); err != nil {
		return err
	}
	out := accountDataReply{Global: []any{}, Rooms: map[id.Room][]any{}}
	if a.AccountData != nil {
		out.Global = a.AccountData.Events
	}
	rooms := map[id.Room]*standing{}
	for _, p := range a.shown {
		rooms[p.Room.ID] = p
	}
	for _, d := range data {
		p := rooms[d.Room]
		switch {
		case d.Room == "" && d.Type != pushRules && d.Position > a.from:
			out.Global = append(out.Global, typed{d.Type, d.Content})
		case p != nil && (d.Position > a.from || a.first[p.Room.NID] != nil) && q.request.Extensions.AccountData.about(p):
			out.Rooms[d.Room] = append(out.Rooms[d.Room], typed{d.Type, d.Content})
		}
	}
	if len(out.Global)+len(out.Rooms) > 0 {
		a.quiet = false
		a.Extensions["account_data"] = out
	}
	return nil
}

// slideReceipts fills in the receipts of the rooms that the client has: what changed, and for a room that is new to it those of the events that it
// is sent and the user's own.
func (s *Service) slideReceipts(ctx context.Context, q *slide, a *slideAnswer) error {
	var first, known []int64
	for nid, p := range a.shown {
		switch {
		case p.Membership != "join" || !q.request.Extensions.Receipts.about(p):
		case a.first[nid] != nil:
			first = append(first, nid)
		case !a.changes.known || a.changes.receipts[nid]:
			known = append(known, nid)
		}
	}
	out := roomsReply{map[id.Room]typed{}}
	for _, part := range []struct {
		rooms []int64
		from  int64
	}{{first, 0}, {known, a.from}} {
		if len(part.rooms) == 0 {
			continue
		}
		slices.Sort(part.rooms)
		found, err := s.o.Ephemeral.ReceiptsSince(ctx, q.t.ID, q.user, part.rooms, part.from, a.to)
		if err != nil {
			return err
		}
		for nid, contents := range found {
			p := a.shown[nid]
			content := joinReceipts(contents, func(eid id.Event, u id.User) bool { return part.from > 0 || u == q.user || a.shows(p.Room.ID, eid) })
			if content != nil {
				out.Rooms[p.Room.ID] = typed{ephemeral.EDUReceipt, content}
			}
		}
	}
	if len(out.Rooms) > 0 {
		a.quiet = false
		a.Extensions["receipts"] = out
	}
	return nil
}

// shows says whether an event is in the timeline of a room of the answer.
func (a *slideAnswer) shows(rid id.Room, eid id.Event) bool {
	return slices.ContainsFunc(a.chunks, func(c timeline.Chunk) bool {
		if c.Room.ID != rid {
			return false
		}
		for _, e := range c.Events {
			if e.EventID == eid {
				return true
			}
		}
		return false
	})
}

// joinReceipts makes one content of several; where a user has marked an event in several threads, one of them stands. nil when nothing is kept.
func joinReceipts(contents []jsontext.Value, keep func(id.Event, id.User) bool) jsontext.Value {
	type marks = map[id.Event]map[string]map[id.User]jsontext.Value
	all := marks{}
	for _, raw := range contents {
		var m marks
		if json.Unmarshal(raw, &m) != nil {
			continue
		}
		for eid, kinds := range m {
			for kind, users := range kinds {
				for u, data := range users {
					if !keep(eid, u) {
						continue
					}
					if all[eid] == nil {
						all[eid] = map[string]map[id.User]jsontext.Value{}
					}
					if all[eid][kind] == nil {
						all[eid][kind] = map[id.User]jsontext.Value{}
					}
					all[eid][kind][u] = data
				}
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	raw, err := json.Marshal(all, json.Deterministic(true))
	if err != nil {
		return nil
	}
	return raw
}

func (s *Service) slideTyping(_ context.Context, q *slide, a *slideAnswer) error {
	out := roomsReply{map[id.Room]typed{}}
	add := func(p *standing, users []id.User) error {
		if users == nil {
			users = []id.User{}
		}
		content, err := json.Marshal(map[string][]id.User{"user_ids": users})
		out.Rooms[p.Room.ID] = typed{ephemeral.EDUTyping, content}
		return err
	}
	x := &q.request.Extensions.Typing
	for _, nid := range slices.Sorted(maps.Keys(a.first)) {
		p := a.first[nid]
		if users := s.o.Ephemeral.Typing(q.t.ID, nid); p.Membership == "join" && len(users) > 0 && x.about(p) {
			if err := add(p, users); err != nil {
				return err
			}
		}
	}
	for _, r := range s.o.Ephemeral.TypingSince(q.t.ID, q.user, s.counter(q.query)) {
		if p := a.shown[r.Room]; p != nil && p.Membership == "join" && x.about(p) {
			if err := add(p, r.Users); err != nil {
				return err
			}
		}
	}
	if len(out.Rooms) > 0 {
		a.quiet = false
		a.Extensions["typing"] = out
	}
	return nil
}

// slideThreads fills in the newest changes of the user's subscriptions to threads. A client that begins is told of those that have ended too: it may
// still have what it knew before.
func (s *Service) slideThreads(ctx context.Context, q *slide, a *slideAnswer) error {
	if a.changes.known && !a.changes.accountData {
		return nil
	}
	limit := push.DefaultSubscriptions
	if l := q.request.Extensions.Threads.Limit; l != nil {
		limit = int(min(*l, push.MaxSubscriptions))
	}
	found, err := s.o.Push.Subscriptions(ctx, q.t.ID, q.user, a.from, a.to, limit)
	if err != nil || found.Len() == 0 {
		return err
	}
	a.quiet = false
	a.Extensions["io.element.msc4308.thread_subscriptions"] = threadsReply{found, found.More}
	return nil
}

func compareKeys(x, y event.Key) int {
	return cmp.Or(cmp.Compare(x.Type, y.Type), cmp.Compare(x.StateKey, y.StateKey))
}
